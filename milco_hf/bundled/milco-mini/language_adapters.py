"""Language adapters (X-MOD): which one a name of a language means, and how they run under autocast."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

# Names of languages that have an adapter under another one: ISO 639-1's old codes, and a language's written forms.
_SAME = {
    "fil": "tl",
    "in": "id",
    "iw": "he",
    "nb": "no",
    "nn": "no",
    "zh-hans": "zh-cn",
    "zh-hant": "zh-tw",
    "zh-hk": "zh-tw",
    "zh-mo": "zh-tw",
}


def find_adapter(language: str, adapters: Sequence[str]) -> str | None:
    """The adapter for a language; None where there is none.

    Adapters are called by language and country or script, "de_DE", "fr_XX", "zh_TW". The first that fits is taken: one
    of exactly that name; one of that name but for case, "_" and "-" ("zh-tw"); the first of that language, whatever its
    country ("de", "pt-br" and "en-GB" are de_DE, pt_XX and en_XX; "zh" is zh_CN, which X-MOD lists before zh_TW).
    Norwegian's nb and nn are no_XX, Filipino is tl_XX, and zh-Hant, zh-HK and zh-MO are zh_TW.

    Args:
        language: Such as "de", "de_DE" or "pt-br"; ISO 639-1 codes.
        adapters: The encoder's, in the order of their ids.
    """
    if language in adapters:
        return language
    parts = _plain(language).split("-")
    plain = [_plain(adapter) for adapter in adapters]
    for length in range(len(parts), 0, -1):  # "zh-hant-tw", then "zh-hant"
        name = "-".join(parts[:length])
        for known in (name, _SAME.get(name)):
            if known in plain:
                return adapters[plain.index(known)]
    first = _SAME.get(parts[0], parts[0])
    of_language = [adapter for adapter, name in zip(adapters, plain, strict=True) if name.split("-")[0] == first]
    return of_language[0] if first and of_language else None


def keep_states_dtype(encoder: nn.Module) -> None:
    """Lets language adapters run under autocast, in place.

    X-MOD puts what its adapters give into states as its LayerNorm gives them, and such an assignment casts nothing:
    under autocast the one is bf16, the other fp32, and PyTorch refuses. So adapters give what they were given.

    Args:
        encoder: Any encoder; those without adapters stay as they are.
    """
    for module in encoder.modules():
        adapters = getattr(module, "adapter_modules", None)
        if isinstance(adapters, nn.ModuleDict):
            for adapter in adapters.values():
                adapter.register_forward_hook(_as_given)


def _as_given(adapter: nn.Module, given: tuple[Any, ...], found: Tensor) -> Tensor:
    return found.to(given[0].dtype)


def _plain(language: str) -> str:
    return language.strip().lower().replace("_", "-")


__all__ = ["find_adapter", "keep_states_dtype"]
