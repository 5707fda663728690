"""Random sparse vectors as `encode_corpus` writes them, and what an exact search over them finds."""

from __future__ import annotations

import json

import numpy as np
from scipy import sparse

from milco_hf.encoding.folder import VectorFolder, write_manifest, write_shard
from milco_hf.engines import Backoff

SIZES = {"english": 300, "source": 200}
WIDTH = sum(SIZES.values())
DOCUMENTS = 1000
EMPTY = 7  # a row without any dimension
SHARD = 400
IDS = [f"d{i}" for i in range(DOCUMENTS)]
IDS[3] = "https://example.org/a?b=c&d=é 'quoted' \"twice\" #4 %2F\\"
IDS[11] = "…".join("日本語" for _ in range(20))
QUICK = Backoff(attempts=4, first=0.001, longest=0.01)


def matrix(rows: int = DOCUMENTS, seed: int = 0, entries: tuple[int, int] = (10, 40)) -> sparse.csr_array:
    """[rows, WIDTH] with that many entries a row; weights as a model's: most below 1, some near 3, all fp32."""
    random = np.random.default_rng(seed)
    counts = random.integers(*entries, rows)
    if rows > EMPTY:
        counts[EMPTY] = 0
    columns = np.concatenate([np.sort(random.choice(WIDTH, count, replace=False)) for count in counts])
    weights = random.gamma(2.0, 0.4, len(columns)).astype(np.float32) + np.float32(1e-3)
    return sparse.csr_array((weights, columns, np.concatenate([[0], counts.cumsum()])), shape=(rows, WIDTH))


def write_folder(path, vectors=None, ids=IDS, *, kind="document", fingerprint="f" * 64, complete=True) -> VectorFolder:
    """A folder as `encode_corpus` leaves it, in shards of 400 rows."""
    vectors = matrix() if vectors is None else vectors
    path.mkdir(parents=True)
    records = []
    for number, first in enumerate(range(0, vectors.shape[0], SHARD)):
        part = sparse.csr_array(vectors[first : first + SHARD])
        name = f"shard-{number:05d}.safetensors"
        write_shard(path / name, part, None if ids is None else ids[first : first + SHARD])
        records.append({"file": name, "rows": part.shape[0], "entries": part.nnz, "texts": f"digest {number}"})
    manifest = {
        "model": "tiny",
        "fingerprint": fingerprint,
        "settings": {"kind": kind, "views": "both", "prune": {}, "shard_size": SHARD},
        "dimensions": SIZES,
        "ids": ids is not None,
        "rows": vectors.shape[0],
        "entries": int(vectors.nnz),
        "complete": complete,
        "shards": records,
    }
    write_manifest(path, manifest)
    return VectorFolder(path)


def write_texts(path, ids=IDS) -> None:
    """The texts of the documents, as a file that `milco encode --file` takes."""
    lines = [json.dumps({"_id": name, "text": f"Text {i}: Straße, 図書館, كتاب"}) for i, name in enumerate(ids)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def queries() -> sparse.csr_array:
    """20 queries; number 7 is empty."""
    return matrix(20, seed=1, entries=(5, 15))


def exact(documents, asked, k=10, ids=IDS) -> list[list[tuple[str, float]]]:
    """(id, score) of each query's best k by CSR products, in double precision."""
    scores = (asked.astype(np.float64) @ documents.astype(np.float64).T).toarray()
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return [[(ids[j], row[j]) for j in order if row[j] > 0] for row, order in zip(scores, best)]


def assert_rankings(found, expected, tolerance=1e-5) -> None:
    """The same documents in the same order, with the same scores."""
    assert len(found) == len(expected)
    for ranking, wanted in zip(found, expected):
        assert [name for name, _ in ranking] == [name for name, _ in wanted]
        np.testing.assert_allclose([s for _, s in ranking], [s for _, s in wanted], rtol=tolerance)
