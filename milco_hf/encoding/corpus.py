"""`encode_corpus`: many texts into one CSR matrix, or into a folder of shards."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from scipy import sparse
from tqdm.auto import tqdm

from milco_hf.encoding.folder import VectorFolder, stacked
from milco_hf.encoding.opening import KINDS, Opened, autocast_dtype, default_batch_tokens, open_model
from milco_hf.encoding.routes import Routes
from milco_hf.encoding.rows import Batch, Job, Rows
from milco_hf.encoding.run import Run
from milco_hf.encoding.shards import Pending, encode_shards, read_shards
from milco_hf.encoding.tokens import Cut, Reader
from milco_hf.encoding.workers import encode_here, encode_on
from milco_hf.fingerprint import model_fingerprint
from milco_hf.pruning import VIEWS, Prune, default_pruning, parse

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SparseEncoder

    from milco_hf.debias import LanguageShift
    from milco_hf.debias.shifting import RowShifter
    from milco_hf.modeling import MilcoForSparseEncoding

logger = logging.getLogger(__name__)


@overload
def encode_corpus(
    model: Any, texts: Iterable[str], *, ids: None = ..., output: None = ..., **options: Any
) -> sparse.csr_array: ...
@overload
def encode_corpus(
    model: Any, texts: Iterable[str], *, ids: Iterable[Any], output: None = ..., **options: Any
) -> tuple[sparse.csr_array, list[str]]: ...
@overload
def encode_corpus(model: Any, texts: Iterable[str], *, output: str | Path, **options: Any) -> VectorFolder: ...
def encode_corpus(
    model: str | Path | SparseEncoder | MilcoForSparseEncoding,
    texts: Iterable[str],
    *,
    ids: Iterable[Any] | None = None,
    kind: str = "document",
    language: str | Iterable[str | None] | None = None,
    language_shift: LanguageShift | str | Path | None = None,
    detect: Callable[[str], str | None] | None = None,
    output: str | Path | None = None,
    batch_tokens: int | None = None,
    max_length: int | None = None,
    views: str = "both",
    prune: Prune = None,
    dtype: str | torch.dtype | None = None,
    devices: str | Sequence[str] | None = None,
    shard_size: int = 16384,
    resume: bool = True,
    progress: bool = True,
) -> sparse.csr_array | tuple[sparse.csr_array, list[str]] | VectorFolder:
    """Encodes many texts.

    The vectors are those of `SparseEncoder.encode_document` (or `encode_query`), within rounding. Texts are read once
    and a shard at a time, so a generator of any length needs the memory of a shard or two (with `output`), besides the
    result (without).

    Args:
        model: A bundled checkpoint's name, a folder, a Hub id, or a model that is loaded.
        texts: The texts, such as a list or a generator.
        ids: Their ids, as many; they become strings.
        kind: "document" or "query": whose prompt and longest length are taken.
        language: For encoders with language adapters (X-MOD): the language of all texts, such as "de" or "de_DE", or
            one for each, as many, where None is the model's default. Other encoders read all languages alike: they
            refuse the one name, which was asked for in vain, and pass over one for each, which is data.
        language_shift: A `milco_hf.debias.LanguageShift`, or its folder: subtracted from the vectors of documents after
            pruning, by `language`.
        detect: For `language_shift`: called with each text whose language is not given, returns a code such as "de".
        output: Folder for shards and a manifest; without, the matrix is returned.
        batch_tokens: Tokens in a forward pass, padding included; by default 4,096 on a CPU and 32,768 elsewhere.
        max_length: Longest text in tokens, special tokens included; by default what the model says for the kind. One
            log line says how much was cut off.
        views: "both", or "english" or "source" alone; the matrix keeps all V_e + V_s columns.
        prune: Such as "mass:0.9" or "top_k:64" (`milco_hf.pruning`), of the whole vector, or of each view by itself:
            {"english": "mass:0.9", "source": "top_k:16"}; "none" for no pruning. By default what the model says: its
            configuration, or a SparseEncoder's `max_active_dims`.
        dtype: None computes in the dtype of the weights, "bfloat16" and "float16" under autocast; "auto" is bf16 on
            devices that are fast at it. Weights are returned in fp32.
        devices: One device, or several such as ["cuda:0", "cuda:1"] or ["cpu", "cpu"], with a process for each (a
            script then needs `if __name__ == "__main__":`). By default where the model is; a model that is given by
            name goes to the best device there is.
        shard_size: Texts in a shard.
        resume: Whether a run that `output` holds is continued after its last whole shard; False replaces it.
        progress: Whether to show a bar, in texts/s.

    Returns:
        Without `output` the matrix [N, V_e + V_s], fp32, English terms first; with `ids` the matrix and the ids. With
        `output` the folder, opened: `load()` gives matrix and ids, `shards()` one shard after the other.

    Raises:
        TypeError: A text is no string, or `texts` is one string.
        ValueError: A number or name cannot work; there are more texts than ids or languages, or fewer; a language has
            no adapter; or `output` was begun by another model, with other settings or with other texts. The message
            says what to do.
        FileExistsError: `output` holds something else.
    """
    if isinstance(texts, str):
        raise TypeError("texts has to be several texts, such as a list; got one string.")
    for name, value, allowed in (("kind", kind, KINDS), ("views", views, VIEWS)):
        if value not in allowed:
            raise ValueError(f"{name} has to be one of {', '.join(allowed)}, got {value!r}.")
    for name, number in (("shard_size", shard_size), ("batch_tokens", batch_tokens)):
        if number is not None and number < 1:
            raise ValueError(f"{name} has to be at least 1, got {number}.")
    asked = None if prune is None else parse(prune)
    opened = open_model(model, devices)
    shifter = _shifter(opened, kind, language_shift, language, detect)
    routes = Routes(
        opened.milco.config, shifter.passed_on(bool(opened.milco.config.languages)) if shifter else language
    )
    forms = default_pruning(opened.whole, kind) if asked is None else asked
    job = Job(views, forms, autocast_dtype(dtype, opened.devices))
    reader = Reader(
        opened.whole.tokenizer,
        opened.prompt(kind),
        opened.max_length(kind, max_length),
        batch_tokens or default_batch_tokens(opened.devices),
    )
    about = {
        "model": opened.name,
        "settings": {
            "kind": kind,
            "prompt": reader.prompt,
            "max_length": reader.max_length,
            "views": views,
            "prune": {view: str(form) for view, form in sorted(forms.items())},
            "autocast": None if job.dtype is None else str(job.dtype).removeprefix("torch."),
            "shard_size": shard_size,
            **({} if routes.name is None else {"language": routes.name}),
            **({} if shifter is None else {"language_shift": shifter.digest}),
        },
        "ids": ids is not None,
    }
    run = None if output is None else _run(output, opened, about, resume)
    width = opened.milco.config.projection_dim
    matrices: list[sparse.csr_array] = []
    names: list[str] = []
    read = encoded = 0
    cut = Cut()
    known = len(texts) if isinstance(texts, Sized) else None
    with tqdm(total=known, desc="Encoding", unit=" texts", disable=not progress) as bar:

        def missing() -> Iterator[Pending]:
            nonlocal read
            for shard in read_shards(texts, ids, shard_size, routes):
                read += 1
                if shifter is not None:
                    shard.languages = shifter.read(shard.number, shard.texts)
                if run is None or not run.has(shard):
                    yield shard
                    continue
                bar.update(len(shard.texts))
                if shifter is not None:
                    shifter.skip(shard.number)

        def encode(batches: Iterable[Batch]) -> Iterator[tuple[Batch, Rows]]:
            if len(opened.devices) > 1:
                return encode_on(opened.devices, opened.milco, batches, job)
            return encode_here(opened.milco, batches, job)

        for shard in encode_shards(missing(), reader, encode, bar.update):
            cut += shard.cut
            encoded += len(shard.texts)
            matrix = shard.matrix(width) if shifter is None else shifter.finish(shard.number, shard.matrix(width))
            if run is not None:
                run.add(shard, matrix)
            else:
                matrices.append(matrix)
                names += shard.ids or []
    if cut.texts:
        logger.warning(
            "%d of %d texts are longer than max_length=%d: %d of %d tokens were cut off (%.1f %%).",
            *(cut.texts, encoded, reader.max_length, cut.tokens, cut.of_tokens, 100 * cut.tokens / cut.of_tokens),
        )
    if shifter is not None:
        shifter.close()
    if run is not None:
        run.finish(read)
        return VectorFolder(run.folder)
    matrix = stacked(matrices, width)
    return matrix if ids is None else (matrix, names)


def _shifter(
    opened: Opened,
    kind: str,
    shift: LanguageShift | str | Path | None,
    language: str | Iterable[str | None] | None,
    detect: Callable[[str], str | None] | None,
) -> RowShifter | None:
    """What takes language bias out of the rows, where that is asked for."""
    if shift is None:
        if detect is not None:
            raise ValueError("detect finds languages for language_shift; give that too.")
        return None
    if kind != "document":
        raise ValueError(f"language_shift is for documents, and kind is {kind!r}: queries stay as they are.")
    from milco_hf.debias.shifting import RowShifter

    shifter = RowShifter(shift, language, detect)
    shifter.check(opened.milco.config.projection_dim, model_fingerprint(opened.whole))
    return shifter


def _run(output: str | Path, opened: Opened, about: dict[str, Any], resume: bool) -> Run:
    """The folder, checked; reading all weights for the fingerprint is worth it only for what stays."""
    config = opened.milco.config
    dimensions = {"english": config.pivot_vocab_size, "source": config.source_vocab_size}
    fingerprint = model_fingerprint(opened.whole)
    return Run(output, {**about, "fingerprint": fingerprint, "dimensions": dimensions}, resume)


__all__ = ["encode_corpus"]
