"""The demo: its bundled texts, its search, and its output for terminals of any width."""

from __future__ import annotations

import io
import re

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console

from milco_hf import load
from milco_hf.demo import QUERIES, TRANSLATIONS, first_hits, load_texts, run_demo, search, top_terms


@pytest.fixture(scope="module")
def model(checkpoint):
    return load(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def texts():
    return load_texts()


@pytest.fixture(scope="module")
def embeddings(model, texts):
    return model.encode_document([text.text for text in texts])


def test_texts_are_a_few_hundred_in_many_languages_with_open_licences(texts):
    assert 300 <= len(texts) <= 500
    assert len({text.language for text in texts}) == 26
    assert len({(text.language, text.text) for text in texts}) == len(texts)
    assert {text.license for text in texts} <= {"CC-BY-SA-4.0", "CC-BY-SA-3.0", "CC-BY-2.0-FR", "CC0-1.0"}
    assert all(text.text != text.english for text in texts)


def test_no_query_is_a_text(texts):
    assert not {query for _, query, _ in QUERIES} & {text.text for text in texts}


@pytest.mark.parametrize(("language", "query"), [(language, query) for language, query, _ in QUERIES])
def test_hits_are_the_best_in_other_languages(model, texts, embeddings, language, query):
    hits = search(model, query, language, texts, embeddings)
    assert len(hits) == 3
    assert language not in {hit.text.language for hit in hits}
    scores = model.similarity(model.encode_query([query]), embeddings).to_dense()[0].tolist()
    allowed = sorted((s for s, text in zip(scores, texts) if text.language != language), reverse=True)
    assert [hit.score for hit in hits] == pytest.approx(allowed[:3], rel=1e-4)
    for hit in hits:
        assert sum(weight for _, weight in hit.matches) <= hit.score * (1 + 1e-4)


def test_first_hits_counts_translations(texts):
    class OneTermForEachSentence:
        """Gives each English sentence a dimension of its own."""

        def encode_query(self, queries, show_progress_bar):
            return torch.eye(len(queries)).to_sparse()

        def similarity(self, a, b):
            return a.to_dense() @ b.to_dense().T

    english = list(dict.fromkeys(text.english for text in texts))
    rows = torch.eye(len(english))[[english.index(text.english) for text in texts]]
    assert first_hits(OneTermForEachSentence(), texts, rows) == (len(english), len(english))
    rows = rows.roll(1, dims=1)  # each text now looks like a translation of the next sentence
    assert first_hits(OneTermForEachSentence(), texts, rows) == (0, len(english))


def test_top_terms_are_english_and_sorted(model):
    for terms in top_terms(model, list(TRANSLATIONS.values()), count=5):
        assert len(terms) == 5
        assert not any(name.startswith("en: ") for name, _ in terms)
        assert [weight for _, weight in terms] == sorted((weight for _, weight in terms), reverse=True)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_output_fits_the_terminal(model, width):
    out = io.StringIO()
    run_demo(model, "tiny", Console(file=out, width=width))
    text = out.getvalue()
    assert max(cell_len(line.rstrip()) for line in text.splitlines()) <= width
    for _, query, _ in QUERIES:
        assert query in text
    for expected in ("Where to go next", "CC BY-SA 4.0", "Japanese"):
        assert expected in text
    assert re.search(r"translation of it\s+\d+\s+times", text)
