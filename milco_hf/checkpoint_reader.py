"""Reads other people's checkpoints one tensor at a time, from a folder or the Hub, safetensors or pickles."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, RepositoryNotFoundError
from safetensors import safe_open

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Where transformers keeps a model's weights, in the order in which they are looked for."""

_OLD_NAMES = {".gamma": ".weight", ".beta": ".bias"}
"""How TensorFlow's names for LayerNorm parameters, in checkpoints as old as BERT's own, are called today."""


class CheckpointFiles:
    """Files of a checkpoint, in a local folder or a Hub repository.

    Args:
        source: Path of the folder, or id of the repository.
        subfolder: Folder inside it.
        revision: Branch, tag or commit of the repository.
        token: Access token for the repository.
    """

    def __init__(
        self,
        source: str | Path,
        subfolder: str = "",
        revision: str | None = None,
        token: str | bool | None = None,
    ) -> None:
        self.source = str(source)
        self.subfolder = subfolder
        self.revision = revision
        self.token = token
        self.folder = Path(source).expanduser()
        self.is_local = self.folder.is_dir()

    def __str__(self) -> str:
        return f"{self.source}/{self.subfolder}" if self.subfolder else self.source

    @property
    def public_name(self) -> str:
        """How a model card may call it: a repository's id, or a folder's own name without where it lies."""
        return self.folder.resolve().name if self.is_local else self.source

    @property
    def location(self) -> dict[str, Any]:
        """Arguments with which transformers' `from_pretrained` finds the same place."""
        name = str(self.folder) if self.is_local else self.source
        place: dict[str, Any] = {"pretrained_model_name_or_path": name, "subfolder": self.subfolder}
        if not self.is_local and self.revision is not None:
            place["revision"] = self.revision
        if not self.is_local and self.token is not None:
            place["token"] = self.token
        return place

    @property
    def reach(self) -> str:
        """What else may be the matter where a file is not found, to end an error's sentence."""
        return "" if self.is_local else " (or the Hub could not be reached, and its cache here does not hold it)"

    def find(self, name: str) -> Path | None:
        """Path of a file, downloaded where need be; None where the checkpoint has no such file.

        Raises:
            FileNotFoundError: The checkpoint is neither a folder nor a repository that can be reached.
        """
        if self.is_local:
            path = self.folder / self.subfolder / name
            return path if path.is_file() else None
        try:
            path = hf_hub_download(
                self.source, name, subfolder=self.subfolder or None, revision=self.revision, token=self.token
            )
        except EntryNotFoundError:
            return None
        except (HFValidationError, RepositoryNotFoundError) as error:
            raise FileNotFoundError(
                f"{self.source!r} is neither a folder here nor a repository on the Hub that this account can read."
            ) from error
        return Path(path)

    def json(self, name: str) -> Any | None:
        """Content of a JSON file, None where there is none."""
        path = self.find(name)
        return None if path is None else json.loads(path.read_text(encoding="utf-8"))

    @cached_property
    def tensors(self) -> TensorReader:
        """The checkpoint's weights.

        Raises:
            FileNotFoundError: The checkpoint has no weights in any of the known files.
        """
        for name in WEIGHT_FILES:
            path = self.find(name)
            if path is None:
                continue
            if not name.endswith(".index.json"):
                return TensorReader([path])
            shards = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
            paths = [self.find(shard) for shard in shards]
            missing = [shard for shard, found in zip(shards, paths, strict=True) if found is None]
            if missing:
                raise FileNotFoundError(f"{self} lacks {missing}, which its {name} names: copy it again, whole.")
            return TensorReader([path for path in paths if path is not None])
        raise FileNotFoundError(f"{self} has no weights: none of {', '.join(WEIGHT_FILES)} is there{self.reach}.")


class TensorReader(Mapping[str, torch.Tensor]):
    """Tensors of a checkpoint's files by name (LayerNorm's in today's spelling), each read when asked for.

    Args:
        paths: The files, `.safetensors` or pickles. Pickles are read with `weights_only=True`, and mapped into memory
            rather than copied where their format allows it.

    Raises:
        ValueError: A pickle holds something else than tensors.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._readers: dict[str, tuple[Any, str]] = {}
        for path in paths:
            reader = _SafetensorsFile(path) if path.suffix == ".safetensors" else _PickleFile(path)
            for stored in reader.names:
                self._readers[_new_name(stored)] = (reader, stored)

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    def __contains__(self, name: object) -> bool:
        return name in self._readers  # Mapping's own would read the tensor

    def __getitem__(self, name: str) -> torch.Tensor:
        reader, stored = self._readers[name]
        return reader.read(stored)


class _SafetensorsFile:
    def __init__(self, path: Path) -> None:
        self._file = safe_open(path, framework="pt", device="cpu")
        self.names = list(self._file.keys())

    def read(self, name: str) -> torch.Tensor:
        return self._file.get_tensor(name)


class _PickleFile:
    def __init__(self, path: Path) -> None:
        try:
            # only the zip format of torch 1.6 and later can be mapped
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"{path} holds more than tensors, and loading that could run code, so it is not loaded. Save its "
                "state dict alone, best as safetensors."
            ) from error
        if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
            raise ValueError(f"{path} is not a state dict: it should map names to tensors and nothing else.")
        self._content = content
        self.names = list(content)

    def read(self, name: str) -> torch.Tensor:
        return self._content[name]


def _new_name(name: str) -> str:
    for old, new in _OLD_NAMES.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name
