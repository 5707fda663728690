"""An index that needs no files, and what a blocked model is."""

from __future__ import annotations

import threading

import numpy as np

import milco_hf
from milco_hf.index import Document, Hit

DOCUMENTS = [
    Document("Die Musik der alten Stadt ist ruhig.", "de-1", language="de", metadata={"year": 2001}),
    Document("The old shop sells music books.", "en-1", title="Shop", language="en", metadata={"year": 2002}),
    Document("الموسيقى في المدينة القديمة", "ar-1", language="ar"),
    Document('<img src=x onerror="document.title=1"><script>document.title=2</script> music', "<b>xss</b>"),
]


class StandInIndex:
    """Searches `DOCUMENTS` exactly, with what the server asks of an index."""

    def __init__(self, model, **info):
        self.model = model
        self.vectors = milco_hf.encode_corpus(model, [d.encoded_text() for d in DOCUMENTS], progress=False)
        self.info = {
            "fingerprint": "f" * 64,
            "model": "stand-in",
            "revision": None,
            "documents": len(DOCUMENTS),
            "languages": {"ar": 1, "de": 1, "en": 1, "und": 1},
            "views": "both",
            "pruning": {"documents": None, "queries": None},
            "lengths": {"max_length": None, "query_length": None, "passage_length": None},
            "engine": "exact",
            **info,
        }

    def __len__(self):
        return len(DOCUMENTS)

    def search_vectors(self, vectors, k=10, *, language=None, filter=None):
        if filter is not None and set(filter) - {"year"}:
            raise ValueError(f"no document has {sorted(filter)}")
        scores = (vectors @ self.vectors.T).toarray()[0]
        fits = [d for d in DOCUMENTS if language in (None, d.language) and (filter or {}).items() <= d.metadata.items()]
        order = [n for n in np.argsort(-scores, kind="stable") if scores[n] > 0 and DOCUMENTS[n] in fits]
        found = [(DOCUMENTS[n], float(scores[n])) for n in order[:k]]
        return [[Hit(d.id, score, d.text, d.title, d.language, dict(d.metadata)) for d, score in found]]

    def documents(self, ids):
        return [{d.id: d for d in DOCUMENTS}[name] for name in ids]


class Gate:
    """A worker that waits until it is let go; `batches` are the sizes of what it was given."""

    def __init__(self, worker):
        self.worker = worker
        self.free = threading.Event()
        self.entered = threading.Event()
        self.batches = []

    def __call__(self, *arguments):
        self.batches.append(arguments[-2])  # a batch and its job, maybe after a model
        self.entered.set()
        assert self.free.wait(120)
        return self.worker(*arguments)
