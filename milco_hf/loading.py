"""`load`: a MILCO checkpoint, bundled, on disk or on the Hub, as a `SparseEncoder`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sentence_transformers import SparseEncoder

from milco_hf.modeling import MilcoConfig

_BUNDLED = Path(__file__).parent / "bundled"


def bundled_checkpoints() -> list[str]:
    """Names of the checkpoints that come with the package."""
    return sorted(config.parent.name for config in _BUNDLED.glob("*/config.json"))


def load(name_or_path: str | Path = "milco-mini", **kwargs: Any) -> SparseEncoder:
    """Loads a MILCO checkpoint.

    Args:
        name_or_path: The name of a bundled checkpoint ("milco-mini"), a checkpoint's folder, or a Hub id. A folder
            wins over a bundled name.
        **kwargs: Passed to `SparseEncoder` (`device`, `revision`, `model_kwargs={"dtype": "bfloat16"}`, …).

    Returns:
        The model; its vectors have V_e + V_s dimensions, English terms first.

    Raises:
        FileNotFoundError: There is no such checkpoint; the message says what can be done.
        ValueError: The folder holds another kind of model.
    """
    name = str(name_or_path)
    folder = Path(name).expanduser()
    if folder.is_dir():
        _check_folder(folder)
        return SparseEncoder(str(folder), **kwargs)
    if name in bundled_checkpoints():
        return SparseEncoder(str(_BUNDLED / name), **kwargs)
    if not _may_be_hub_id(name):
        raise FileNotFoundError(_not_found(name, "it is no folder and no bundled checkpoint"))
    try:
        return SparseEncoder(name, **kwargs)
    except OSError as error:  # huggingface_hub's and transformers' errors of missing and unreachable repositories
        raise FileNotFoundError(_not_found(name, f"the Hub gave: {str(error).splitlines()[0]}")) from error


def _check_folder(folder: Path) -> None:
    """Refuses folders that hold something else, and says what to do with it."""
    path = folder / "config.json"
    if not path.is_file():
        if (folder / "adapter_config.json").is_file() or (folder / "modules.json").is_file():
            return  # an adapter, or a SparseEncoder whose first module lies in a subfolder
        raise FileNotFoundError(f"{folder} holds no config.json, so it is no checkpoint. {_ways_out()}")
    model_type = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    if model_type == MilcoConfig.model_type:
        return
    if model_type == "milco":
        raise ValueError(
            f"{folder} is a checkpoint of the research release. Convert it once with "
            f"`milco convert {folder} --output NEW_FOLDER`, then load NEW_FOLDER."
        )
    raise ValueError(
        f"{folder} holds a model of type {model_type!r}, not a MILCO checkpoint. To make one from a multilingual "
        "encoder and an English MLM: `milco build --encoder … --pivot … --output NEW_FOLDER`."
    )


def _may_be_hub_id(name: str) -> bool:
    """Whether a name reads like organisation/model."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not name.endswith("/")


def _ways_out() -> str:
    bundled = ", ".join(bundled_checkpoints()) or "none in this installation"
    return (
        f"Give a bundled checkpoint ({bundled}), a folder that `milco build`, `milco convert` or training wrote, or a "
        "Hub id such as organisation/model."
    )


def _not_found(name: str, reason: str) -> str:
    return f"There is no MILCO checkpoint {name!r}: {reason}. {_ways_out()}"


__all__ = ["bundled_checkpoints", "load"]
