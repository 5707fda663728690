"""Search engines of others: upload vectors to them in bulk, and search there; or write files that their tools read."""

from milco_hf.engines.base import Engine
from milco_hf.engines.comparison import Agreement, agreement
from milco_hf.engines.exporting import export
from milco_hf.engines.files import write_pyserini, write_seismic
from milco_hf.engines.registry import ENGINES, connect
from milco_hf.engines.retry import Backoff, BusyError, EngineError, TooLargeError
from milco_hf.engines.vespa_app import write_application

__all__ = [
    "ENGINES",
    "Agreement",
    "Backoff",
    "BusyError",
    "Engine",
    "EngineError",
    "TooLargeError",
    "agreement",
    "connect",
    "export",
    "write_application",
    "write_pyserini",
    "write_seismic",
]
