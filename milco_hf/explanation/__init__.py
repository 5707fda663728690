"""Why a document matched a query: every shared dimension, what it adds, and which source tokens raised it."""

from milco_hf.explanation.explaining import explain
from milco_hf.explanation.result import Contribution, Entry, Explanation, Side, Token

__all__ = ["Contribution", "Entry", "Explanation", "Side", "Token", "explain"]
