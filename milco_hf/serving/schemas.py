"""Requests and answers, for checking and for the OpenAPI page."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, PlainValidator, WithJsonSchema, model_validator

from milco_hf.serving.errors import EMPTY, ERROR_TYPES, VALIDATION, Refused


def _inputs(value: Any) -> list[str]:
    """A string, or strings; by hand, since pydantic would list an error for each of a million wrong elements."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise Refused(422, VALIDATION, f"`inputs` has to be a string or a list of strings, got {_json_type(value)}.")
    if not value:
        raise Refused(400, EMPTY, "`inputs` cannot be empty")
    for place, text in enumerate(value):
        if not isinstance(text, str):
            ids = " Token ids are not taken: send the text." if isinstance(text, (int, list)) else ""
            raise Refused(422, VALIDATION, f"`inputs[{place}]` has to be a string, got {_json_type(text)}.{ids}")
    return value


def _prune(value: Any) -> str | dict[str, str] | None:
    """A pruning, or one for each view; what it says is read later."""
    whole = value is None or isinstance(value, str)
    if not whole and not (isinstance(value, dict) and all(isinstance(how, str) for how in value.values())):
        raise Refused(
            422, VALIDATION, f"`prune` has to be a string, or an object of strings by view, got {_json_type(value)}."
        )
    return value


def _json_type(value: Any) -> str:
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


Inputs = Annotated[
    Any,
    PlainValidator(_inputs),
    WithJsonSchema(
        {
            "oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}],
            "example": "Who wrote this book?",
        }
    ),
]
Direction = Literal["Left", "Right", "left", "right"]
Truncate = Annotated[
    bool | None,
    Field(description="Cut texts that are too long. Null: as the server was started (`--auto-truncate`)."),
]
Language = Annotated[
    str | None,
    Field(
        max_length=100,
        description="What the texts are in, for encoders with language adapters (X-MOD), such as `de`; null is the "
        "model's default. Other encoders read all languages alike and refuse a name.",
    ),
]
_HOW = {"type": "string", "example": "mass:0.9"}
Prune = Annotated[
    Any,
    PlainValidator(_prune),
    WithJsonSchema({"oneOf": [_HOW, {"type": "object", "additionalProperties": _HOW}, {"type": "null"}]}),
]


class Strict(BaseModel):
    """A request whose fields are all known."""

    @model_validator(mode="before")
    @classmethod
    def _only_known_fields(cls, data: Any) -> Any:
        # by hand, since extra="forbid" would list an error for each of any number of them
        if isinstance(data, dict) and (unknown := next((name for name in data if name not in cls.model_fields), None)):
            raise Refused(
                422, VALIDATION, f"`{unknown[:100]}` is no field of this request; it has {', '.join(cls.model_fields)}."
            )
        return data


class EmbedSparseRequest(BaseModel):
    """As text-embeddings-inference has it; like there, fields that are not known are ignored."""

    inputs: Inputs
    truncate: Truncate = None
    truncation_direction: Direction = "Right"
    prompt_name: str | None = Field(
        None,
        description='A key of the checkpoint\'s `prompts`. "query" encodes as `/embed_query` does; anything else, and '
        "none, as `/embed_document`, with that prompt.",
    )
    language: Language = None


class EmbedRequest(Strict):
    """Texts to encode as queries, or as documents."""

    inputs: Inputs
    truncate: Truncate = None
    truncation_direction: Direction = "Right"
    language: Language = None
    prune: Prune = Field(None, description="Another pruning than the server's.")
    format: Literal["indices", "terms"] = Field(
        "indices", description="Dimensions and weights for a search engine, or weighted names for people."
    )


class SearchRequest(Strict):
    """A query for the index that is served."""

    query: str = Field(examples=["Who wrote this book?"])
    k: int = Field(10, ge=1, description="How many documents.")
    query_language: Language = None
    language: str | None = Field(None, description="Only documents of this language.")
    filter: dict[str, Any] | None = Field(None, description="Only documents with this metadata.")
    truncate: Truncate = None
    prune: Prune = Field(None, description="Another pruning of the query than the index's.")
    terms: int = Field(0, ge=0, le=1000, description="Name so many of the matched terms of each document.")


class ExplainRequest(Strict):
    """A query, and a document: its text, or its id in the index that is served."""

    query: str = Field(examples=["Who wrote this book?"])
    document: str | None = Field(None, description="The document's text.")
    id: str | None = Field(None, description="Or the id of a document of the index.")
    passage: tuple[int, int] | None = Field(
        None, description="Where a passage begins and ends in the text of `id`, as a hit of `/search` names it."
    )
    query_language: Language = None
    document_language: Language = None
    prune: Prune = Field(None, description="Another pruning of the query than the server's.")
    format: Literal["json", "html"] = Field("json", description="`html` gives one self-contained page.")


class SparseValue(BaseModel):
    """A dimension and its weight."""

    index: int
    value: float


class SparseVector(BaseModel):
    """Dimensions, ascending, and their weights."""

    indices: list[int]
    values: list[float]


class NamedVector(BaseModel):
    """Weighted English terms and source tokens, heaviest first."""

    english: dict[str, float]
    source: dict[str, float]


class EmbedResponse(BaseModel):
    """The vectors, and the fingerprint of the model that made them."""

    embeddings: list[SparseVector] | list[NamedVector]
    fingerprint: str
    tokens: int = Field(description="Tokens of all texts, special ones included.")
    cut_tokens: int = Field(description="Tokens that were cut off.")


class MatchedTerm(BaseModel):
    """A dimension that query and document share."""

    term: str
    view: Literal["english", "source"]
    query: float
    document: float
    share: float = Field(description="Its part of the sum over all shared dimensions.")


class FoundDocument(BaseModel):
    """A document that matched."""

    id: str
    score: float
    title: str
    text: str
    language: str | None
    metadata: dict[str, Any]
    passage: tuple[int, int] | None = Field(description="Where the best passage begins and ends in the text.")
    terms: list[MatchedTerm] | None = None


class SearchResponse(BaseModel):
    """The best documents, best first."""

    hits: list[FoundDocument]
    query: dict[str, Any] = Field(description="How many dimensions the query had, and how many were searched with.")


class ErrorResponse(BaseModel):
    """What went wrong."""

    error: str
    error_type: Literal[ERROR_TYPES]  # type: ignore[valid-type]


__all__ = [
    "EmbedRequest",
    "EmbedResponse",
    "EmbedSparseRequest",
    "ErrorResponse",
    "ExplainRequest",
    "NamedVector",
    "SearchRequest",
    "SearchResponse",
    "SparseValue",
    "SparseVector",
]
