"""What can be evaluated: models of sentence-transformers, MILCO checkpoints, BM25."""

from milco_hf.evaluation.systems.base import Encoder, Index, Prepared, System, VectorSystem
from milco_hf.evaluation.systems.opening import open_system, open_systems

__all__ = ["Encoder", "Index", "Prepared", "System", "VectorSystem", "open_system", "open_systems"]
