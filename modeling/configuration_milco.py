"""MilcoConfig: a multilingual encoder, a connector, and an English MLM head with the [ECHO] row."""

from collections.abc import Sequence
from os import PathLike
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig
from transformers.activations import ACT2FN

from .checkpoint_files import write_sentence_transformers_files
from .language_adapters import find_adapter
from .view_pruning import parse_views

ECHO_SOURCES = ("pivot", "encoder")
ECHO_ACTIVATIONS = ("log_sat", "relu")
ECHO_POOLINGS = ("sum", "max")
HEAD_BACKENDS = ("auto", "reference", "chunked", "triton")

# Encoders that count positions from pad_token_id + 1, so that many of their position rows are never reached.
OFFSET_POSITIONS = frozenset(
    {
        "camembert",
        "data2vec-text",
        "ibert",
        "longformer",
        "luke",
        "mpnet",
        "roberta",
        "roberta-prelayernorm",
        "xlm-roberta",
        "xlm-roberta-xl",
        "xmod",
    }
)


class MilcoConfig(PreTrainedConfig):
    """Configuration of [`MilcoForSparseEncoding`].

    A MILCO vector has V_e + V_s dimensions: 0 … V_e − 1 are the English terms, V_e … V_e + V_s − 1 the encoder's own
    tokens (paper, section 3; arXiv 2510.00671). `input_ids` use the same numbers.

    Args:
        encoder_config: Configuration of the multilingual encoder, of any type that `AutoModel` knows (a config or its
            dictionary). Defaults to XLM-RoBERTa base.
        pivot_vocab_size: V_e, the number of English terms that the head scores.
        pivot_hidden_size: d_e, the width of the connector's output and of the English MLM head.
        pivot_hidden_act: Activation of the head's transform.
        pivot_norm_eps: Epsilon of the head's LayerNorm.
        pivot_norm_bias: Whether that LayerNorm has a bias (ModernBERT's has none).
        pivot_transform_bias: Whether the head's dense layer has a bias (ModernBERT's has none).
        connector_act: Activation of the connector, "gelu" in the paper and in the research release.
        echo: Whether the source view exists at all.
        echo_source: Where [ECHO] reads: "pivot", an additional row of the decoder (the paper), or "encoder", a linear
            layer on the encoder's hidden states times a learned scale (the research release).
        echo_activation: "log_sat", log(1 + ReLU(x)), or "relu" (the research release).
        echo_pooling: How the weights of equal source tokens combine: "sum" or "max".
        echo_special_tokens: Whether special tokens echo too (they do in the research release).
        echo_bias_init: Where [ECHO]'s bias starts; at exactly zero its ReLU would have no gradient.
        special_token_ids: Dimensions (V_e already added) of the special tokens, which do not echo.
        default_language: For encoders with language adapters (X-MOD): the language of texts that name none, such as
            "en" or "en_XX".
        query_length: Longest query in tokens; None for as long as fits.
        document_length: Longest document in tokens; None for as long as fits.
        query_pruning: How `encode_query` and everything built on it prune queries where nobody says otherwise: None for
            not at all, "mass:0.9", "top_k:30", "max_ratio:0.1" or "threshold:0.2" for the whole vector, or by view
            {"english": "mass:0.9", "source": "top_k:16"}.
        document_pruning: Documents likewise.
        head_chunk_elements: The head scores its vocabulary in chunks of about this many logits (texts × tokens ×
            terms) at a time.
        head_backend: How the head computes its maxima, with the same result: "chunked" on any device, "triton" on
            CUDA (and "chunked" elsewhere), "reference" with all logits in memory, or "auto".
        training_stages: The stages that made these weights, such as ["sap", "sct"].
        initializer_range: Standard deviation of new weights.

    Raises:
        ValueError: A value cannot work; the message names it.
    """

    model_type = "milco-hf"
    sub_configs: ClassVar[dict[str, Any]] = {"encoder_config": AutoConfig}

    encoder_config: PreTrainedConfig | dict | None = None
    pivot_vocab_size: int = 30522
    pivot_hidden_size: int = 768
    pivot_hidden_act: str = "gelu"
    pivot_norm_eps: float = 1e-12
    pivot_norm_bias: bool = True
    pivot_transform_bias: bool = True
    connector_act: str = "gelu"
    echo: bool = True
    echo_source: str = "pivot"
    echo_activation: str = "log_sat"
    echo_pooling: str = "sum"
    echo_special_tokens: bool = False
    echo_bias_init: float = 0.1
    special_token_ids: list[int] | None = None
    default_language: str | None = None
    query_length: int | None = None
    document_length: int | None = None
    query_pruning: str | dict[str, str] | None = None
    document_pruning: str | dict[str, str] | None = None
    head_chunk_elements: int = 2**22
    head_backend: str = "auto"
    training_stages: list[str] | None = None
    initializer_range: float = 0.02
    # Derived from the two vocabularies and the encoder; written to config.json for the tools that read them there.
    vocab_size: int | None = None
    projection_dim: int | None = None
    hidden_size: int | None = None
    max_position_embeddings: int | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs):
        self.encoder_config = _encoder_config(self.encoder_config)
        self.special_token_ids = sorted(set(self.special_token_ids or []))
        self.training_stages = list(self.training_stages or [])
        self._check_head()
        self._check_echo()
        self._derive_sizes()
        self._check_lengths()
        self._check_pruning()
        if self.default_language is not None:
            self.default_language = self.language_adapter(self.default_language)
            self.encoder_config.default_language = self.default_language
        super().__post_init__(**kwargs)

    @property
    def source_vocab_size(self) -> int:
        """V_s, the size of the encoder's own vocabulary."""
        return self.encoder_config.vocab_size

    @property
    def decoder_rows(self) -> int:
        """Rows of the LexEcho decoder: V_e, and one more where [ECHO] is one of them."""
        return self.pivot_vocab_size + int(self.echo and self.echo_source == "pivot")

    @property
    def languages(self) -> list[str]:
        """The encoder's language adapters, in the order of their ids; empty for encoders without."""
        return list(getattr(self.encoder_config, "languages", None) or [])

    def language_adapter(self, language: str) -> str:
        """The name of the encoder's adapter for a language, such as "de_DE" for "de" (see `find_adapter`).

        Raises:
            TypeError: The language is no string.
            ValueError: The encoder has no adapter for it, or none at all.
        """
        if not isinstance(language, str):
            raise TypeError(f'A language is a name such as "de" or "de_DE", got {language!r}.')
        if not self.languages:
            raise ValueError(
                f"language={language!r}: the {self.encoder_config.model_type} encoder has no language adapters; "
                "leave the language out."
            )
        adapter = find_adapter(language, self.languages)
        if adapter is None:
            raise ValueError(f"language={language!r} is not among the encoder's adapters: {self.languages}.")
        return adapter

    def adapter_ids(self, languages: Sequence[str | None]) -> list[int] | None:
        """Numbers of the adapters for texts of some languages; None for encoders without adapters, which need none.

        Args:
            languages: One for each text; None, "" and "und" (undetermined) are the default language.

        Raises:
            ValueError: The encoder has no adapter for one of them; or one names none and there is no default.
        """
        known = self.languages
        if not known:
            return None
        default = self.default_language or getattr(self.encoder_config, "default_language", None)
        numbers: dict[str | None, int] = {}
        for language in set(languages):
            said = language not in (None, "", "und")
            if not said and default is None:
                raise ValueError(
                    f"A text names no language, and the {self.encoder_config.model_type} encoder has no "
                    f"default_language. Name one of {known}, or set config.default_language."
                )
            numbers[language] = known.index(self.language_adapter(language if said else default))
        return [numbers[language] for language in languages]

    def save_pretrained(self, save_directory: str | PathLike, push_to_hub: bool = False, **kwargs) -> None:
        """Saves config.json, and the files that open the folder in sentence-transformers where there are none yet.

        Models call this when they are saved, so every Trainer checkpoint opens in `SparseEncoder`.

        Args:
            save_directory: Folder of the checkpoint.
            push_to_hub: Whether to upload too.
            **kwargs: As in `PreTrainedConfig.save_pretrained`.
        """
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        write_sentence_transformers_files(
            save_directory, self.query_length, self.document_length, language=bool(self.languages)
        )

    def _check_head(self) -> None:
        for name in ("pivot_vocab_size", "pivot_hidden_size", "head_chunk_elements"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be a positive integer, got {getattr(self, name)}.")
        for name in ("pivot_hidden_act", "connector_act"):
            if getattr(self, name) not in ACT2FN:
                raise ValueError(f"{name} must be one of {sorted(ACT2FN)}, got {getattr(self, name)!r}.")
        if self.head_backend not in HEAD_BACKENDS:
            raise ValueError(f"head_backend must be one of {list(HEAD_BACKENDS)}, got {self.head_backend!r}.")
        if self.pivot_norm_eps <= 0:
            raise ValueError(f"pivot_norm_eps must be positive, got {self.pivot_norm_eps}.")

    def _check_echo(self) -> None:
        for name, allowed in (
            ("echo_source", ECHO_SOURCES),
            ("echo_activation", ECHO_ACTIVATIONS),
            ("echo_pooling", ECHO_POOLINGS),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {list(allowed)}, got {getattr(self, name)!r}.")
        if self.echo and self.echo_bias_init <= 0:
            raise ValueError(
                f"echo_bias_init must be above zero, got {self.echo_bias_init}: an [ECHO] weight that starts at "
                "zero or below has no gradient and never learns."
            )

    def _derive_sizes(self) -> None:
        encoder = self.encoder_config
        if not getattr(encoder, "vocab_size", None) or not getattr(encoder, "hidden_size", None):
            raise ValueError(
                f"encoder_config of type {encoder.model_type!r} has no vocab_size or no hidden_size: MILCO needs a "
                "text encoder with one token embedding per vocabulary entry."
            )
        dimensions = self.pivot_vocab_size + encoder.vocab_size
        for name in ("vocab_size", "projection_dim"):
            if getattr(self, name) not in (None, dimensions):
                raise ValueError(
                    f"{name}={getattr(self, name)} does not match pivot_vocab_size + the encoder's vocab_size = "
                    f"{self.pivot_vocab_size} + {encoder.vocab_size} = {dimensions}; leave it out, it is derived."
                )
            setattr(self, name, dimensions)
        self.hidden_size = encoder.hidden_size
        self.max_position_embeddings = _longest_input(encoder)
        pad = getattr(encoder, "pad_token_id", None)
        self.pad_token_id = None if pad is None else self.pivot_vocab_size + pad
        outside = [i for i in self.special_token_ids if not self.pivot_vocab_size <= i < dimensions]
        if outside:
            raise ValueError(
                f"special_token_ids {outside} lie outside the source tokens {self.pivot_vocab_size}…{dimensions - 1}; "
                "they are MILCO dimensions, so the encoder's ids plus pivot_vocab_size."
            )

    def _check_lengths(self) -> None:
        for name in ("query_length", "document_length"):
            length = getattr(self, name)
            if length is None:
                continue
            if length < 1:
                raise ValueError(f"{name} must be a positive integer or None, got {length}.")
            if self.max_position_embeddings is not None and length > self.max_position_embeddings:
                raise ValueError(
                    f"{name}={length} is longer than the {self.max_position_embeddings} tokens that the encoder's "
                    "positions allow."
                )

    def _check_pruning(self) -> None:
        for name in ("query_pruning", "document_pruning"):
            try:
                parse_views(getattr(self, name))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None


def _encoder_config(value: PreTrainedConfig | dict | None) -> PreTrainedConfig:
    """Turns a config, its dictionary or None into the encoder's configuration."""
    if isinstance(value, PreTrainedConfig):
        return value
    values = dict(value or {})
    return AutoConfig.for_model(values.pop("model_type", "xlm-roberta"), **values)


def _longest_input(encoder: PreTrainedConfig) -> int | None:
    """Returns how many tokens the encoder's positions hold, None where it has no such limit."""
    positions = getattr(encoder, "max_position_embeddings", None)
    if positions is None or positions < 1:
        return None
    if encoder.model_type in OFFSET_POSITIONS:
        positions -= (encoder.pad_token_id or 0) + 1
    return positions


MilcoConfig.register_for_auto_class()

__all__ = ["MilcoConfig"]
