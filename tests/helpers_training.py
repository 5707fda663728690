"""A tiny SAP run: pairs made of a few words, a static teacher over the tiny model's terms, and its settings."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

import tiny
from milco_hf.training.alignment import run_sap
from milco_hf.training.arguments import DataArguments, ModelArguments, SapArguments, TeacherArguments
from milco_hf.training.config_file import parse_recipe
from milco_hf.training.teachers.static import StaticTeacher

PARALLEL = Path(__file__).parent / "data" / "parallel"
CLASSES = (ModelArguments, DataArguments, TeacherArguments, SapArguments)


def english_tokenizer() -> PreTrainedTokenizerFast:
    """Cuts English texts into the tiny model's terms; words it does not know become `the`, id 0."""
    tokenizer = Tokenizer(models.WordPiece({term: i for i, term in enumerate(tiny.TERMS)}, unk_token="the"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="the", model_max_length=32)


def static_weights() -> torch.Tensor:
    """A weight per term; `the` has none."""
    return torch.linspace(0, 2.6, len(tiny.TERMS))


def static_teacher(**options) -> StaticTeacher:
    return StaticTeacher(english_tokenizer(), static_weights(), **options)


def static_folder(folder: Path) -> Path:
    """The static teacher as a `SparseEncoder`."""
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding

    module = SparseStaticEmbedding(english_tokenizer(), static_weights(), frozen=True)
    SparseEncoder(modules=[module]).save_pretrained(str(folder))
    return folder


def mlm_model(seed: int = 0) -> BertForMaskedLM:
    """A tiny random masked language model over the tiny model's terms."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tiny.TERMS),
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.5,
    )
    return BertForMaskedLM(config).eval()


def mlm_folder(folder: Path, seed: int = 0) -> Path:
    mlm_model(seed).save_pretrained(folder)
    english_tokenizer().save_pretrained(folder)
    return folder


def arguments(model: Path, teacher: Path, output: Path, *flags: str) -> tuple:
    """Arguments of a tiny run on the CPU; flags come last and so win."""
    defaults = {
        "model": model,
        "teacher": teacher,
        "output_dir": output,
        "train_data": PARALLEL / "train",
        "max_length": 32,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 8,
        "max_steps": 6,
        "learning_rate": 0.01,
        "warmup_steps": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": "true",
        "disable_tqdm": "true",
        "max_threads": 1,
    }
    line = [part for name, value in defaults.items() for part in (f"--{name}", str(value))]
    return parse_recipe(CLASSES, [*line, *flags])


def train(model: Path, teacher: Path, output: Path, *flags: str):
    """Run SAP; returns the trainer."""
    return run_sap(*arguments(model, teacher, output, *flags))


def losses(trainer) -> list[float]:
    """The logged losses, step by step."""
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
