"""Bulk encoding: many texts into one CSR matrix, or into shards on disk that are read back one by one."""

from milco_hf.encoding.corpus import encode_corpus
from milco_hf.encoding.folder import Shard, VectorFolder, load_vectors

__all__ = ["Shard", "VectorFolder", "encode_corpus", "load_vectors"]
