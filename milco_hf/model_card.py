"""Fill the model card template from a checkpoint's configuration and from what only its author knows."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

TEMPLATE = Path(__file__).with_name("model_card.md")
TAGS = ("sparse-encoder", "sparse", "milco", "splade", "multilingual", "retrieval", "custom_code")
STAGES = {"sap": "sparse alignment pretraining (SAP)", "sct": "sparse contrastive training (SCT)"}


@dataclass
class TrainingSource:
    """One source of training data: its name, its licence, how many pairs or texts of it were used, where it lies."""

    name: str
    license: str
    size: str | int | None = None
    url: str | None = None


@dataclass
class Result:
    """One measured number, such as accuracy 0.87 on the translation pairs of one language."""

    dataset: str
    metric: str
    value: float
    language: str | None = None
    note: str = ""


@dataclass
class CardDetails:
    """What a model card says beyond the configuration; every field may be left out.

    Attributes:
        description: A paragraph on what this model is and is for.
        license: The weights' licence, by its Hub name ("apache-2.0", "cc-by-sa-4.0").
        languages: ISO codes of the languages it was trained on.
        encoder: Hub id or name of the multilingual encoder.
        pivot: Hub id or name of the English model whose head it started from, or of its teacher.
        training_data: The sources that the weights saw.
        results: What was measured.
        limitations: What it is bad at.
    """

    description: str = ""
    license: str | None = None
    languages: list[str] = field(default_factory=list)
    encoder: str | None = None
    pivot: str | None = None
    training_data: list[TrainingSource] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    limitations: str = ""

    def __post_init__(self) -> None:
        self.training_data = [_of(TrainingSource, source, "training_data") for source in self.training_data]
        self.results = [_of(Result, result, "results") for result in self.results]

    @classmethod
    def from_file(cls, path: str | Path) -> CardDetails:
        """Read the details from a YAML or JSON file.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not a mapping, or has a key that no field answers to.
        """
        path = Path(path).expanduser()
        text = path.read_text(encoding="utf-8")
        try:
            values = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text) or {}
        except (json.JSONDecodeError, yaml.YAMLError) as error:
            raise ValueError(f"{path} cannot be read as {path.suffix or 'YAML'}: {error}") from error
        return _of(cls, values, str(path))

    def to_file(self, path: str | Path) -> None:
        """Write what is set as YAML, for `from_file` and for people who add to it."""
        values = {name: value for name, value in asdict(self).items() if value}
        text = "# What the model card says beyond config.json; `milco push` fills in README.md with it.\n"
        text += yaml.safe_dump(values, allow_unicode=True, sort_keys=False) if values else ""
        Path(path).write_text(text, encoding="utf-8")


def render_card(
    repo_id: str, config: dict[str, Any], details: CardDetails | str | Path | None = None, comment: str = ""
) -> ModelCard:
    """Fill in the template.

    Args:
        repo_id: The repository's id, which the examples on the card load.
        config: The checkpoint's config.json as a dictionary.
        details: What the configuration does not know, or a YAML or JSON file with it.
        comment: Stands above the title, where only those who edit the file see it.

    Returns:
        The card; `str(card)` is the content of README.md.
    """
    if not isinstance(details, CardDetails):
        details = CardDetails.from_file(details) if details is not None else CardDetails()
    name = repo_id.split("/")[-1]
    bases = [base for base in (details.encoder, details.pivot) if base and base.count("/") == 1]
    data = ModelCardData(
        language=details.languages or None,
        license=details.license,
        library_name="sentence-transformers",
        pipeline_tag="feature-extraction",
        tags=list(TAGS),
        base_model=bases or None,
        model_name=name if details.results else None,
        eval_results=[_eval_result(result) for result in details.results] or None,
    )
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        repo_id=repo_id,
        name=name,
        comment=comment,
        details=details,
        sizes=_sizes(config),
        stages=[STAGES.get(stage, stage) for stage in config.get("training_stages") or []],
    )


def _of(kind: type, values: Any, where: str) -> Any:
    """`values` as a dataclass; a wrong key is answered with the right ones."""
    if isinstance(values, kind):
        return values
    if not isinstance(values, dict):
        raise ValueError(f"{where} has to map names to values, got {type(values).__name__}")
    known = [f.name for f in fields(kind)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"{where} has unknown keys {unknown}; the known ones are {known}")
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from error


def _eval_result(result: Result) -> EvalResult:
    dataset = result.dataset if result.language is None else f"{result.dataset} ({result.language})"
    return EvalResult(
        task_type="feature-extraction",
        task_name="Sparse retrieval",
        dataset_type="-".join(dataset.lower().replace("(", "").replace(")", "").split()),
        dataset_name=dataset,
        metric_type="-".join(result.metric.lower().split()),
        metric_name=result.metric,
        metric_value=result.value,
    )


def _sizes(config: dict[str, Any]) -> dict[str, Any]:
    """The numbers the card states, from config.json; what is not written there is left out."""
    encoder = config.get("encoder_config") or {}
    english = config.get("pivot_vocab_size")
    source = encoder.get("vocab_size")
    return {
        "english": english,
        "source": source if config.get("echo", True) else 0,
        "width": english + source if english and source else None,
        "encoder_type": encoder.get("model_type"),
        "layers": encoder.get("num_hidden_layers"),
        "hidden": encoder.get("hidden_size"),
        "max_length": config.get("max_position_embeddings"),
    }
