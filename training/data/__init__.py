"""Parallel text: reading it, mixing it, and cutting it into batches."""
