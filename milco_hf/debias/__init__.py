"""Language bias taken out of document vectors when they are indexed, without training."""

from milco_hf.debias.language_shift import LanguageShift

__all__ = ["LanguageShift"]
