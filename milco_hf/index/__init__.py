"""`Index`: documents with their vectors, texts and metadata on disk, searched exactly or with Seismic."""

from milco_hf.index.documents import Document, read_documents
from milco_hf.index.hits import Hit
from milco_hf.index.index import Index

__all__ = ["Document", "Hit", "Index", "read_documents"]
