"""Evaluation: sparse, dense and multi-vector models and BM25, on one language, across languages, in a mixed pool."""

from milco_hf.evaluation.beir import load_path, read_beir, read_questions
from milco_hf.evaluation.collections import Collection, Document
from milco_hf.evaluation.mteb_tasks import evaluate_mteb
from milco_hf.evaluation.registry import NAMES, load_name
from milco_hf.evaluation.report import Report, Result
from milco_hf.evaluation.runner import EvaluationError, evaluate
from milco_hf.evaluation.systems import System, open_system

__all__ = [
    "NAMES",
    "Collection",
    "Document",
    "EvaluationError",
    "Report",
    "Result",
    "System",
    "evaluate",
    "evaluate_mteb",
    "load_name",
    "load_path",
    "open_system",
    "read_beir",
    "read_questions",
]
