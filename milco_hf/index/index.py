"""`Index`: build, add, search, save, load."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from scipy import sparse

from milco_hf.index import building
from milco_hf.index.documents import Document
from milco_hf.index.filters import Filter
from milco_hf.index.hits import Hit
from milco_hf.index.manifest import COPYING, check_folder, flush, locked, new_segment, write_manifest
from milco_hf.index.queries import check_fingerprint, check_made_by, encode_queries, open_again
from milco_hf.index.snapshot import Snapshot
from milco_hf.pruning import Prune

if TYPE_CHECKING:
    from sentence_transformers import SparseEncoder

    from milco_hf.debias import LanguageShift


class Index:
    """Documents that can be searched; `Index.build` makes one and `Index.load` opens it.

    An index is a folder. What is big in it stays there: vectors are memory-mapped, texts and metadata lie in SQLite.
    Several threads may search one index.
    """

    def __init__(
        self,
        path: str | Path,
        model: Any = None,
        *,
        device: str | None = None,
        engine: str | None = None,
        check_fingerprint: bool = True,
    ) -> None:
        """See `load`."""
        self.path = Path(path).expanduser()
        self._given = model
        self._device = device
        self._check = check_fingerprint
        if engine not in (None, "exact", "seismic"):
            raise ValueError(f"engine has to be exact or seismic (or None for what the index has), got {engine!r}.")
        self._engine = engine
        self._model: SparseEncoder | None = None
        self._lock = threading.Lock()
        self._now = Snapshot(self.path, engine)

    @classmethod
    def build(
        cls,
        model: Any,
        documents: Any,
        path: str | Path,
        *,
        engine: str = "auto",
        views: str = "both",
        prune: Prune = None,
        prune_queries: Prune = None,
        max_length: int | None = None,
        query_length: int | None = None,
        passage_length: int | None = None,
        language_shift: LanguageShift | str | Path | None = None,
        detect: Callable[[str], str | None] | None = None,
        fields: Mapping[str, str] | None = None,
        language: str | None = None,
        subset: str | None = None,
        split: str | None = None,
        data_revision: str | None = None,
        revision: str | None = None,
        devices: str | Sequence[str] | None = None,
        dtype: str | None = None,
        batch_tokens: int | None = None,
        shard_size: int = 16384,
        recall: float = 0.95,
        recall_queries: Sequence[str] | None = None,
        overwrite: bool = False,
        resume: bool = True,
        progress: bool = True,
    ) -> Index:
        """Builds an index.

        The folder `path` changes for readers only when everything is done: a build that dies leaves the index that was
        there, and the same call continues after the last shard of vectors that was whole.

        Args:
            model: A bundled checkpoint's name, a folder, a Hub id, or a model that is loaded.
            documents: Texts, dictionaries (`text`, maybe `id`, `title`, `language`, all else is metadata) or
                `Document`s; or where they lie: files, folders, or a data set of the Hub (see `read_documents`).
            path: Folder of the index.
            engine: "exact" scores every document; "seismic" is approximate and fast; "auto" is exact up to 50,000
                documents (or passages), and Seismic above where it is installed.
            views: "both", or the "english" or "source" dimensions alone.
            prune: Of documents: "mass:0.9", "top_k:64", "max_ratio:0.1", "threshold:0.2", or by view
                {"english": "mass:0.9", "source": "top_k:16"}; "none" for none. By default what the checkpoint's
                `document_pruning` says.
            prune_queries: Of queries, likewise; by default what `query_pruning` says. Searches may ask for another.
            max_length: Documents (passages) are cut to so many tokens; by default what the model says.
            query_length: Queries likewise.
            passage_length: Split documents into passages of so many words (letters, in scripts without spaces), each
                encoded under the title; a document is as good as its best passage. None keeps documents whole.
            language_shift: A `milco_hf.debias.LanguageShift`, or its folder: subtracted from the documents' vectors by
                their `language`, after pruning. The index keeps it for what is added later.
            detect: For `language_shift`: called with the text of each document without a language, returns a code such
                as "de" or None.
            fields: Where a key or column has another name: {"text": "body", "id": "url"}.
            language: Of documents that do not say.
            subset: Of a data set on the Hub: its configuration.
            split: Of a data set on the Hub.
            data_revision: Of a data set on the Hub.
            revision: Of a model that is given by its Hub id.
            devices: See `encode_corpus`.
            dtype: See `encode_corpus`.
            batch_tokens: See `encode_corpus`.
            shard_size: Texts in a shard of vectors, the step in which a build continues.
            recall: The share of the exact top 10 that Seismic has to find on a sample; it is set to the least effort
                that does, and `info["recall"]` says how much it finds.
            recall_queries: Sample queries; by default the first words of 100 documents.
            overwrite: Whether an index that is there may be replaced.
            resume: Whether a build that was cut short is continued; False begins anew.
            progress: Whether to show bars.

        Returns:
            The index, opened.

        Raises:
            FileExistsError: `path` holds an index (and `overwrite` is false), or something else.
            FileNotFoundError: There is no such model, file or data set.
            ValueError: A document or an option cannot be; or the build before had other settings, another model or
                other documents. The message says what to do.
            TypeError: A document is none.
            ImportError: An optional library is missing.
            BlockingIOError: Another process builds in `path`.
        """
        path = Path(path).expanduser()
        check_folder(path, overwrite)
        settings = building.Settings(
            engine=engine,
            views=views,
            prune=prune,
            prune_queries=prune_queries,
            max_length=max_length,
            query_length=query_length,
            passage_length=passage_length,
            recall=recall,
            language_shift=language_shift,
            detect=detect,
        )
        reading = {
            "fields": fields,
            "language": language,
            "subset": subset,
            "split": split,
            "revision": data_revision,
        }
        how = {"devices": devices, "dtype": dtype, "batch_tokens": batch_tokens, "shard_size": shard_size}
        opened = building.build(
            path, model, documents, settings, revision, reading, how, recall_queries, resume, progress
        )
        index = cls(path, opened)
        index._model = opened  # its fingerprint was taken when it encoded the documents
        return index

    @classmethod
    def load(
        cls,
        path: str | Path,
        model: Any = None,
        *,
        device: str | None = None,
        engine: str | None = None,
        check_fingerprint: bool = True,
    ) -> Index:
        """Opens an index.

        Args:
            path: Its folder.
            model: The model that queries are encoded with; by default the one that the index was built with, by its
                name and revision. It is opened when it is first needed.
            device: Where a model that is given by name goes; by default the best there is.
            engine: "exact" searches exactly whatever the index was built for.
            check_fingerprint: Whether to refuse a model whose fingerprint is another than the index's.

        Raises:
            FileNotFoundError: There is no index.
            ValueError: It is of a later version, or the engine is not there.
            ImportError: It needs Seismic, which is not installed.
        """
        return cls(path, model, device=device, engine=engine, check_fingerprint=check_fingerprint)

    @property
    def info(self) -> dict[str, Any]:
        """What the index is: model and fingerprints, documents by language, views, pruning, lengths, engine, recall."""
        now, manifest, settings = self._now, self._now.manifest, self._now.manifest["settings"]
        return {
            "fingerprint": manifest["fingerprint"],
            "model": manifest["model"],
            "revision": manifest["revision"],
            "model_fingerprint": manifest["model_fingerprint"],
            "documents": now.rows.documents,
            "passages": len(now.rows),
            "dimensions": dict(manifest["dimensions"]),
            "dimensions_a_passage": now.rows.entries / max(1, len(now.rows)),
            "languages": now.languages(),
            "views": settings["views"],
            "language_shift": settings.get("language_shift"),
            "pruning": {"documents": settings["document_pruning"], "queries": settings["query_pruning"]},
            "lengths": {name: settings[name] for name in ("max_length", "query_length", "passage_length")},
            "cut": dict(manifest["cut"]),
            "engine": "exact" if now.seismic is None else "seismic",
            "recall": None if now.seismic is None else manifest["seismic"]["recall"],
        }

    @property
    def model(self) -> SparseEncoder:
        """The model that encodes queries, opened now if it was not.

        Raises:
            ValueError: Its fingerprint is not the index's; the message has both.
            FileNotFoundError: It is not where it was.
        """
        with self._lock:
            if self._model is None:
                model = open_again(self._now.manifest, self._given, self._device, self.path)
                if self._check:
                    check_fingerprint(self._now.manifest, model, self.path)
                self._model = model
            return self._model

    def __len__(self) -> int:
        return self._now.rows.documents

    def __repr__(self) -> str:
        info = self.info
        return f"Index({str(self.path)!r}, {len(self)} documents, {info['engine']}, {info['model']})"

    @overload
    def search(self, queries: str, k: int = ..., **options: Any) -> list[Hit]: ...
    @overload
    def search(self, queries: Sequence[str], k: int = ..., **options: Any) -> list[list[Hit]]: ...
    def search(
        self,
        queries: str | Sequence[str],
        k: int = 10,
        *,
        language: str | Iterable[str] | None = None,
        filter: Filter | None = None,
        prune: Prune = None,
        query_language: str | Sequence[str | None] | None = None,
    ) -> list[Hit] | list[list[Hit]]:
        """Finds documents.

        Args:
            queries: One query or several.
            k: How many documents of each.
            language: Only documents in this language, or in one of these.
            filter: Only documents with this metadata, by key: a value, a list of values of which any will do, or bounds
                such as {"year": {"gte": 2000, "lt": 2010}}.
            prune: Prune the queries otherwise than the index says; "none" for not at all.
            query_language: What the queries are in, for encoders with language adapters (X-MOD): one name for all, such
                as "de", or one for each, where None is the model's default. Other encoders read all languages alike:
                they refuse the one name and pass over one for each. (`language` is what the documents are in.)

        Returns:
            The hits, best first; for several queries, of each. Only documents that share a dimension with the query
            are found; of equal scores the document that was indexed first comes first.

        Raises:
            TypeError: A query is no string.
            ValueError: k is below 1, a filter cannot be, the model does not belong to the index, or it has no adapter
                for a query's language.
        """
        single = isinstance(queries, str)
        texts = [queries] if single else list(queries)
        for text in texts:
            if not isinstance(text, str):
                raise TypeError(f"queries have to be strings, got {text!r} ({type(text).__name__}).")
        vectors = encode_queries(self._now.manifest, self.model, texts, prune, query_language)
        found = self.search_vectors(vectors, k, language=language, filter=filter)
        return found[0] if single else found

    def search_vectors(
        self,
        vectors: sparse.csr_array,
        k: int = 10,
        *,
        language: str | Iterable[str] | None = None,
        filter: Filter | None = None,
        made_by: Mapping[str, Any] | None = None,
    ) -> list[list[Hit]]:
        """Finds documents for queries that are encoded already.

        Args:
            vectors: [Q, V_e + V_s].
            k: How many documents of each.
            language: As in `search`.
            filter: As in `search`.
            made_by: The manifest that `load_vectors` gave with the vectors: another model, documents in place of
                queries, and other views are then refused.

        Raises:
            ValueError: k is below 1, the width is not the model's, a filter cannot be, or `made_by` does not fit.
        """
        if k < 1:
            raise ValueError(f"k has to be at least 1, got {k}.")
        queries, width = sparse.csr_array(vectors, dtype=np.float32), self._now.rows.width
        if queries.ndim != 2 or queries.shape[1] != width:
            raise ValueError(f"vectors has to be [queries, {width}] for this index, got {tuple(queries.shape)}.")
        if made_by is not None:
            check_made_by(self._now.manifest, made_by, self.path)
        return self._now.search(queries, k, language, filter)

    def documents(self, ids: Sequence[str]) -> list[Document]:
        """Documents by id, in that order.

        Raises:
            KeyError: There is no such document.
        """
        if isinstance(ids, str):
            raise TypeError("ids has to be several ids, such as a list; got one string.")
        ids = [str(name) for name in ids]
        found = self._now.documents(ids)
        if missing := [name for name in ids if name not in found]:
            raise KeyError(f"The index has no document {missing[0]!r} (and {len(missing) - 1} more).")
        return [found[name] for name in ids]

    def texts(self, ids: Sequence[str]) -> list[str]:
        """Texts by id, as the model reads whole documents: the title, a space and the text.

        Raises:
            KeyError: There is no such document.
        """
        return [document.encoded_text() for document in self.documents(ids)]

    def add(
        self,
        documents: Any,
        *,
        fields: Mapping[str, str] | None = None,
        language: str | None = None,
        subset: str | None = None,
        split: str | None = None,
        data_revision: str | None = None,
        detect: Callable[[str], str | None] | None = None,
        batch_tokens: int | None = None,
        progress: bool = True,
    ) -> int:
        """Adds documents, encoded as the others are.

        What was there stays as it is until the new documents are whole, and they are found from then on, by this object
        and by whoever opens the index. Seismic's lists are made again when what was added since is more than a tenth of
        them (and more than 50,000); until then it is searched exactly.

        Args:
            documents: As in `build`.
            fields: As in `build`.
            language: As in `build`.
            subset: As in `build`.
            split: As in `build`.
            data_revision: As in `build`.
            detect: As in `build`, where the index has a language shift.
            batch_tokens: As in `build`.
            progress: Whether to show a bar.

        Returns:
            How many were added.

        Raises:
            ValueError: A document cannot be, an id is in the index already, or the index was built anew by another
                model or with other settings since it was opened.
            BlockingIOError: Another process builds or adds.
        """
        before = len(self)
        reading = {
            "fields": fields,
            "language": language,
            "subset": subset,
            "split": split,
            "revision": data_revision,
        }
        model = self.model
        fingerprint = self._now.manifest["fingerprint"]
        how: dict[str, Any] = {"batch_tokens": batch_tokens}
        if detect is not None:
            how["detect"] = detect
        building.add(self.path, model, fingerprint, documents, reading, how, progress)
        self._now = Snapshot(self.path, self._engine)
        return len(self) - before

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Copies the index; the index itself is on disk at any time and needs no saving.

        Args:
            path: Another folder.
            overwrite: Whether an index that is there may be replaced.

        Returns:
            The folder.

        Raises:
            FileExistsError: It holds an index (and `overwrite` is false), or something else.
        """
        target = Path(path).expanduser()
        if target.exists() and target.resolve() == self.path.resolve():
            return target
        check_folder(target, overwrite)
        with locked(target):
            manifest = json.loads(json.dumps(self._now.manifest))
            names = {}
            for segment in manifest["segments"]:
                names[segment["folder"]] = new_segment()
                partial = target / COPYING
                shutil.rmtree(partial, ignore_errors=True)
                shutil.copytree(self.path / segment["folder"], partial)
                flush(partial)
                os.rename(partial, target / names[segment["folder"]])
                segment["folder"] = names[segment["folder"]]
            if manifest["seismic"]:
                owner, rest = manifest["seismic"]["folder"].split("/", 1)
                manifest["seismic"]["folder"] = f"{names[owner]}/{rest}"
            write_manifest(target, manifest)
        return target

    def close(self) -> None:
        """Lets go of the files."""
        self._now.close()

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


__all__ = ["Index"]
