"""milco-hf: MILCO, one learned sparse retriever for many languages, for transformers and sentence-transformers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from transformers import AutoConfig, AutoModel

from milco_hf.modeling import MilcoConfig, MilcoForSparseEncoding, MilcoOutput

if TYPE_CHECKING:
    from milco_hf.building import build
    from milco_hf.conversion import convert
    from milco_hf.debias import LanguageShift
    from milco_hf.encoding import encode_corpus, load_vectors
    from milco_hf.explanation import explain
    from milco_hf.head_scale import head_norms
    from milco_hf.index import Hit, Index
    from milco_hf.loading import load
    from milco_hf.publish import push

__version__ = "0.1.0"

# With these, AutoModel and SparseEncoder open MILCO checkpoints without trust_remote_code.
AutoConfig.register(MilcoConfig.model_type, MilcoConfig, exist_ok=True)
AutoModel.register(MilcoConfig, MilcoForSparseEncoding, exist_ok=True)

# Imported when first used: sentence_transformers alone takes seconds.
_LAZY = {
    "Hit": "milco_hf.index",
    "Index": "milco_hf.index",
    "LanguageShift": "milco_hf.debias",
    "build": "milco_hf.building",
    "convert": "milco_hf.conversion",
    "encode_corpus": "milco_hf.encoding",
    "explain": "milco_hf.explanation",
    "head_norms": "milco_hf.head_scale",
    "load": "milco_hf.loading",
    "load_vectors": "milco_hf.encoding",
    "push": "milco_hf.publish",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_LAZY[name]), name)
    return value


__all__ = [
    "Hit",
    "Index",
    "LanguageShift",
    "MilcoConfig",
    "MilcoForSparseEncoding",
    "MilcoOutput",
    "build",
    "convert",
    "encode_corpus",
    "explain",
    "head_norms",
    "load",
    "load_vectors",
    "push",
]
