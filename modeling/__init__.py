"""What travels with every checkpoint: configuration, model and their siblings. Installed as milco_hf.modeling."""

from .configuration_milco import MilcoConfig
from .modeling_milco import MilcoForSparseEncoding, MilcoOutput

__all__ = ["MilcoConfig", "MilcoForSparseEncoding", "MilcoOutput"]
