"""`load`: a MILCO checkpoint, bundled, on disk or on the Hub, as a `SparseEncoder`."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from sentence_transformers import SparseEncoder

from milco_hf.modeling import MilcoConfig
from milco_hf.modeling.checkpoint_files import FORWARD_KWARGS

logger = logging.getLogger(__name__)

_BUNDLED = Path(__file__).parent / "bundled"
# Seconds that the Hub may take to say whether it has a model.
_PATIENCE = 10.0


def bundled_checkpoints() -> list[str]:
    """Names of the checkpoints that come with the package."""
    return sorted(config.parent.name for config in _BUNDLED.glob("*/config.json"))


def checkpoint_place(name_or_path: str | Path) -> str:
    """The folder of a checkpoint, a bundled one's as well, or the Hub id that it is.

    Raises:
        FileNotFoundError: It is none of these.
        ValueError: The folder holds another kind of model.
    """
    name = str(name_or_path)
    folder = Path(name).expanduser()
    if folder.is_dir():
        _check_folder(folder)
        return str(folder)
    if name in bundled_checkpoints():
        return str(_BUNDLED / name)
    if not _may_be_hub_id(name):
        raise FileNotFoundError(_not_found(name, "it is no folder and no bundled checkpoint"))
    return name


def load(name_or_path: str | Path = "milco-mini", **kwargs: Any) -> SparseEncoder:
    """Loads a MILCO checkpoint.

    Args:
        name_or_path: The name of a bundled checkpoint ("milco-mini"), a checkpoint's folder, or a Hub id. A folder
            wins over a bundled name.
        **kwargs: Passed to `SparseEncoder` (`device`, `revision`, `model_kwargs={"dtype": "bfloat16"}`, …). Without a
            connection, what was downloaded before is taken.

    Returns:
        The model; its vectors have V_e + V_s dimensions, English terms first.

    Raises:
        FileNotFoundError: There is no such checkpoint; the message says what can be done.
        ValueError: The folder holds another kind of model, or a revision is asked of what does not lie on the Hub.
    """
    name = str(name_or_path)
    folder = Path(checkpoint_place(name))
    if folder.is_dir():
        if (revision := kwargs.get("revision")) is not None:
            raise ValueError(f"Only Hub ids have revisions, and {name} is none: leave revision={revision!r} away.")
        return _handing_on(SparseEncoder(str(folder), **kwargs))
    try:
        if not kwargs.get("local_files_only"):
            place = {key: kwargs[key] for key in ("revision", "token", "cache_folder") if key in kwargs}
            kwargs["local_files_only"] = not on_hub(name, **place)
        return _handing_on(SparseEncoder(name, **kwargs))
    except NotOnHub as error:
        raise FileNotFoundError(_not_found(name, str(error))) from error
    except OSError as error:  # huggingface_hub's and transformers' errors of missing and unreachable repositories
        raise FileNotFoundError(_not_found(name, f"the Hub gave: {_first_line(error)}")) from error


def _handing_on(model: SparseEncoder) -> SparseEncoder:
    """Lets `encode` hand on what `forward` takes: the modules.json of older checkpoints names less, or nothing."""
    config = getattr(model.transformers_model, "config", None)
    if getattr(config, "model_type", None) == MilcoConfig.model_type:
        wanted = [*FORWARD_KWARGS, *(["language"] if config.languages else [])]
        name = next(iter(dict(model.named_children())))
        given = (model.module_kwargs or {}).get(name) or []
        model.module_kwargs = {**(model.module_kwargs or {}), name: list(dict.fromkeys([*given, *wanted]))}
    return model


class NotOnHub(FileNotFoundError):
    """Neither the Hub nor its cache has a model; the message says why."""


def on_hub(
    name: str, revision: str | None = None, token: str | bool | None = None, cache_folder: str | None = None
) -> bool:
    """Asks the Hub once whether it has a model: the libraries that download would try each file for a minute.

    Args:
        name: The Hub id.
        revision: Branch, tag or commit.
        token: As `SparseEncoder` takes it.
        cache_folder: Where downloads lie, as `SparseEncoder` takes it.

    Returns:
        True where it can be downloaded; False where the Hub did not say so, but an earlier download can be used.

    Raises:
        NotOnHub: The Hub has no such model or revision, or does not answer, and none was downloaded before.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    logger.info("Looking for %s on the Hub.", name)
    try:
        HfApi().model_info(name, revision=revision, token=token, timeout=_PATIENCE)
        return True
    except RevisionNotFoundError as error:
        reason, cause = f"the Hub has no revision {revision or 'main'!r} of it", error
    except RepositoryNotFoundError as error:
        reason, cause = "the Hub has no such model, or shows it only with a token (HF_TOKEN)", error
    except OfflineModeIsEnabled as error:
        reason, cause = "the Hub is not asked in offline mode (HF_HUB_OFFLINE)", error
    except ValueError as error:  # a name that it does not allow
        reason, cause = f"the Hub gave: {_first_line(error)}", error
    except HfHubHTTPError as error:  # it is busy, or wants a token: downloading tries again, and says what is wrong
        if not _downloaded(name, revision, cache_folder):
            return True
        reason, cause = f"the Hub gave: {_first_line(error)}", error
    except Exception as error:  # no connection; which class that is depends on huggingface_hub's version
        reason, cause = f"the Hub cannot be reached ({_first_line(error)})", error
    if not _downloaded(name, revision, cache_folder):
        raise NotOnHub(f"it was not downloaded before, and {reason}") from cause
    asked_for = isinstance(cause, OfflineModeIsEnabled)
    logger.log(
        logging.INFO if asked_for else logging.WARNING, "%s is taken as it was downloaded before: %s.", name, reason
    )
    return False


def _downloaded(name: str, revision: str | None, cache_folder: str | None) -> bool:
    """Whether the Hub's cache holds a checkpoint's configuration."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    folder = cache_folder or os.getenv("SENTENCE_TRANSFORMERS_HOME")  # as sentence-transformers chooses it
    try:
        return isinstance(try_to_load_from_cache(name, "config.json", folder, revision), str)
    except HFValidationError:
        return False


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


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


__all__ = ["NotOnHub", "bundled_checkpoints", "load", "on_hub"]
