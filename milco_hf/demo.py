"""`milco demo`: one sentence in six languages, and a search whose queries and documents differ in language."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from milco_hf.terms import split_views

if TYPE_CHECKING:
    from sentence_transformers import SparseEncoder
    from torch import Tensor

TEXTS = Path(__file__).parent / "bundled" / "demo_texts.jsonl"

SENTENCE = "The music of this city is very beautiful."
TRANSLATIONS = {
    "Spanish": "La música de esta ciudad es muy hermosa.",
    "Russian": "Музыка этого города очень красива.",
    "Arabic": "موسيقى هذه المدينة جميلة جدا.",
    "Hindi": "इस शहर का संगीत बहुत सुंदर है।",
    "Chinese": "这座城市的音乐很美。",
    "Japanese": "この町の音楽はとても美しい。",
}
# (language, query, what it says): written for this demo, so that no query is a translation of a text it searches
QUERIES = (
    ("ja", "子どもたちが海辺で遊ぶ", "children play at the seaside"),
    ("de", "Krankheit durch ein Virus", "illness from a virus"),
    ("es", "virus que vienen de los murciélagos", "viruses that come from bats"),
    ("sw", "daktari wa hospitali", "doctor of the hospital"),
    ("ru", "врачи лечат пациентов в больнице", "doctors treat patients in the hospital"),
    ("en", "solar power is expensive", "solar power is expensive"),
)


@dataclass(frozen=True)
class DemoText:
    """A bundled text: what is searched, its language, its English side for the reader, where it comes from."""

    language: str
    text: str
    english: str
    source: str
    license: str


@dataclass(frozen=True)
class Hit:
    """A text found, its score, and the dimensions that gave most of it."""

    text: DemoText
    score: float
    matches: list[tuple[str, float]]


def load_texts() -> list[DemoText]:
    """The bundled texts, by language."""
    with TEXTS.open(encoding="utf-8") as lines:
        return [DemoText(**json.loads(line)) for line in lines]


def top_terms(model: SparseEncoder, texts: Sequence[str], count: int = 8) -> list[list[tuple[str, float]]]:
    """The heaviest English terms of each text.

    Args:
        model: A MILCO checkpoint.
        texts: Texts in any language.
        count: How many terms of each.

    Returns:
        For each text its (term, weight) pairs, heaviest first.
    """
    embeddings = model.encode_document(list(texts), show_progress_bar=False)
    return [split_views(pairs)[0][:count] for pairs in model.decode(embeddings)]


def search(
    model: SparseEncoder,
    query: str,
    language: str,
    texts: Sequence[DemoText],
    embeddings: Tensor,
    count: int = 3,
) -> list[Hit]:
    """Search the texts that are in other languages than the query.

    Args:
        model: A MILCO checkpoint.
        query: The query.
        language: Its language; texts in that language are left out.
        texts: What is searched.
        embeddings: Their sparse vectors (shape: number of texts, V_e + V_s).
        count: How many hits.

    Returns:
        The best hits with a score over 0, best first.
    """
    embedding = model.encode_query([query], show_progress_bar=False)
    scores = _dense(model.similarity(embedding, embeddings))[0]
    allowed = torch.tensor([text.language != language for text in texts])
    best = scores.masked_fill(~allowed, 0).topk(min(count, len(texts)))
    query_vector = _dense(embedding)[0]
    hits = []
    for score, i in zip(best.values.tolist(), best.indices.tolist()):
        if score > 0:
            products = query_vector * _dense(embeddings[i])
            hits.append(Hit(texts[i], score, model.decode(products, top_k=4)))
    return hits


def first_hits(model: SparseEncoder, texts: Sequence[DemoText], embeddings: Tensor) -> tuple[int, int]:
    """Count for how many English sides the text found first is a translation of them.

    Args:
        model: A MILCO checkpoint.
        texts: Texts with their English sides.
        embeddings: Their sparse vectors (shape: number of texts, V_e + V_s).

    Returns:
        How many queries found a translation first, and how many queries there were.
    """
    queries = list(dict.fromkeys(text.english for text in texts))
    scores = _dense(model.similarity(model.encode_query(queries, show_progress_bar=False), embeddings))
    found = sum(texts[i].english == query for query, i in zip(queries, scores.argmax(dim=1).tolist()))
    return found, len(queries)


def run_demo(model: SparseEncoder, name: str, console: Console) -> None:
    """Show all of it.

    Args:
        model: A MILCO checkpoint.
        name: What to call it.
        console: Where to write.
    """
    size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    console.print(f"[bold]{escape(name)}[/bold]: {size:.1f} million parameters, on {model.device}")
    _show_sentence(model, console)
    texts = load_texts()
    start = time.perf_counter()
    embeddings = model.encode_document([text.text for text in texts], show_progress_bar=False).cpu()
    seconds = time.perf_counter() - start
    languages = len({text.language for text in texts})
    console.rule("[bold]Searching across languages", align="left")
    console.print(
        f"{len(texts)} real sentences in {languages} languages, encoded in {seconds:.1f} s. Each query finds texts in "
        "other languages than its own; the English in grey is for the reader and is not searched.\n",
        highlight=False,
    )
    for language, query, gloss in QUERIES:
        _show_hits(console, language, query, gloss, search(model, query, language, texts, embeddings))
    found, queries = first_hits(model, texts, embeddings)
    console.print(
        f"With each of the {queries} English sides as the query, the first text found is a translation of it "
        f"{found} times ({found / queries:.0%}); the text itself is never in English.\n",
        highlight=False,
    )
    console.print(
        "Texts: NTREX-128 (CC BY-SA 4.0), Universal Dependencies PUD (CC BY-SA 3.0), Tatoeba (CC BY 2.0 FR), TICO-19 "
        "(CC0), Korean parallel corpora (CC BY-SA 3.0); see NOTICE.\n",
        style="dim",
        highlight=False,
    )
    _show_next_steps(console)


def _show_sentence(model: SparseEncoder, console: Console) -> None:
    """The same sentence in six languages, the English terms of each side by side."""
    console.rule("[bold]One sentence, six languages, one vocabulary", align="left")
    console.print(f"“{SENTENCE}” in each language, and the English terms that the model gives it:\n", highlight=False)
    for language, sentence in TRANSLATIONS.items():
        console.print(f"  {language:<9} {sentence}", highlight=False)
    columns = top_terms(model, list(TRANSLATIONS.values()))
    in_all = set.intersection(*({term for term, _ in column} for column in columns))
    with_weights = console.width >= 16 * len(columns)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for language in TRANSLATIONS:
        table.add_column(language, no_wrap=True)
    for row in range(max(map(len, columns), default=0)):
        cells = []
        for column in columns:
            term, weight = column[row] if row < len(column) else ("", 0.0)
            cell = escape(term) + (f" [dim]{weight:.2f}[/dim]" if with_weights and term else "")
            cells.append(f"[bold green]{cell}[/bold green]" if term in in_all else cell)
        table.add_row(*cells)
    console.print()
    console.print(table)
    if in_all:
        console.print(f"\nAmong the first eight of all six: {', '.join(sorted(in_all))}", highlight=False)
    console.print()


def _show_hits(console: Console, language: str, query: str, gloss: str, hits: list[Hit]) -> None:
    """One query and what it found."""
    meaning = "" if gloss == query else f"  [dim]{escape(gloss)}[/dim]"
    console.print(f"[bold cyan]{language}[/bold cyan]  [bold]{escape(query)}[/bold]{meaning}", highlight=False)
    if not hits:
        console.print("    nothing found\n", highlight=False)
        return
    for hit in hits:
        matches = ", ".join(f"{name.removeprefix('en: ')} {weight:.2f}" for name, weight in hit.matches)
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(width=5, justify="right")
        table.add_column(width=2)
        table.add_column(overflow="fold")
        table.add_row(f"{hit.score:.2f}", f"[cyan]{hit.text.language}[/cyan]", escape(hit.text.text))
        table.add_row("", "", f"[dim]{escape(hit.text.english)}[/dim]")
        table.add_row("", "", f"[dim italic]matched: {escape(matches)}[/dim italic]")
        console.print(table, highlight=False)
    console.print()


def _show_next_steps(console: Console) -> None:
    """Where to go from here."""
    console.rule("[bold]Where to go next", align="left")
    steps = Table.grid(padding=(0, 3, 0, 0))
    steps.add_column(no_wrap=True)
    steps.add_column()
    for command, purpose in (
        ('.venv/bin/milco encode "…"', "the weighted terms of a text of yours, as JSON"),
        ("examples/encode_and_decode.py", "the same from Python, with SparseEncoder"),
        ("examples/cross_lingual_search.py", "search a file of your own in any language"),
        (".venv/bin/milco build --help", "a MILCO of your own from any multilingual encoder, then training/sap.py"),
        ("README.md", "installing it in your project, training, converting the research release, publishing"),
    ):
        steps.add_row(escape(command), purpose)
    console.print(steps, highlight=False)


def _dense(tensor: Tensor) -> Tensor:
    return tensor.to_dense() if tensor.is_sparse else tensor
