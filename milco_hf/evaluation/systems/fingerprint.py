"""What a model's vectors depend on, as one digest: `milco_hf.fingerprint`, under the name that evaluation knows."""

from milco_hf.fingerprint import model_fingerprint

__all__ = ["model_fingerprint"]
