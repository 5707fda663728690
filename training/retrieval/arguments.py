"""Arguments of sparse contrastive training. Every one is a key of a recipe and a flag that overrides it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from milco_hf.training.stage_arguments import TRAINABLE, StageArguments, read_mapping, steps_of


@dataclass
class SctModelArguments:
    """The student, and what of it is trained."""

    model: str = field(default="", metadata={"help": "Folder or Hub id of the aligned MILCO checkpoint to start from."})
    train: list[str] = field(
        default_factory=lambda: list(TRAINABLE),
        metadata={"help": "Which parts are trained, out of encoder, connector and head ([ECHO]'s row is the head's)."},
    )
    allow_unaligned: bool = field(
        default=False, metadata={"help": "Start from a checkpoint that sparse alignment pretraining never touched."}
    )
    source_view: bool = field(
        default=True,
        metadata={"help": "Train with the source view; without, [ECHO] is taken out of the model for good."},
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "Attention of the encoder: sdpa, eager, flash_attention_2, …"}
    )
    query_length: int = field(default=64, metadata={"help": "Questions are cut to this many tokens."})
    document_length: int = field(default=512, metadata={"help": "Passages are cut to this many tokens."})
    lora: bool = field(
        default=False,
        metadata={"help": "Train low-rank updates of the encoder's linear layers (peft) in place of its weights."},
    )
    lora_r: int = field(default=16, metadata={"help": "Rank of the updates."})
    lora_alpha: float = field(default=32.0, metadata={"help": "Updates are scaled by lora_alpha / lora_r."})
    lora_dropout: float = field(default=0.05, metadata={"help": "Dropout before the updates."})
    lora_targets: list[str] = field(
        default_factory=list,
        metadata={"help": "Names of the layers that get updates; every linear layer of the encoder by default."},
    )

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        for name in ("query_length", "document_length", "lora_r"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be a positive integer, got {getattr(self, name)}.")
        if self.lora and "encoder" not in self.train:
            raise ValueError(f"lora updates the encoder, but train names {self.train}; add encoder to it.")


@dataclass
class SctDataArguments:
    """Questions and passages, and how they are mixed and sampled."""

    train_data: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Sources of rows (query, pos, neg, pos_scores, neg_scores; or pos_pid, neg_pid with a corpus; or "
            "triples): files, folders, globs, Hub ids; in a recipe also mappings with path, name, weight, languages, "
            "exclude_sources, columns, language, split, configs, corpus, queries, max_rows."
        },
    )
    corpus: list[str] = field(
        default_factory=list,
        metadata={"help": "Files, folders, globs or Hub ids of the passages that rows name by id (pid, text, title)."},
    )
    dev_data: list[str] = field(
        default_factory=list,
        metadata={"help": "Sources of dev rows, written like train_data; a language's pool is all its positives."},
    )
    languages: list[str] = field(default_factory=list, metadata={"help": "Only these languages; all where empty."})
    exclude_sources: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Values of rows' and parallel texts' `source` to leave out of training; value:language only there."
        },
    )
    passage_titles: bool = field(
        default=False, metadata={"help": "Put a corpus passage's title, where it has one, before its text."}
    )
    temperature: float = field(
        default=1.0,
        metadata={
            "help": "Each source's language is drawn in proportion to rows^(1/temperature): 1 as they are, ∞ alike."
        },
    )
    language_weights: dict | str | None = field(
        default=None, metadata={"help": 'How often languages are drawn, relative to the mixture: {"te": 1.5}.'}
    )
    tag_weights: dict | str | None = field(
        default=None, metadata={"help": "How often values of `source` are drawn within a language: a mapping."}
    )
    epoch_rows: int | None = field(
        default=None, metadata={"help": "Rows in an epoch; as many as there are by default."}
    )
    batch_language: Literal["mixed", "same"] = field(
        default="mixed",
        metadata={"help": "Whether a batch holds rows of all languages, or of one (over all processes)."},
    )
    group_by_length: bool = field(default=True, metadata={"help": "Batch rows with passages of like length together."})
    negatives: int = field(default=7, metadata={"help": "Negatives of a question, drawn anew in each epoch."})
    negative_sampling: Literal["random", "top", "stratified"] = field(
        default="random",
        metadata={
            "help": "How negatives are drawn: at random; the teacher's highest scores; or spread evenly over the range "
            "of its scores."
        },
    )
    corpus_negatives: int = field(
        default=0,
        metadata={
            "help": "Further negatives, at random from all in the language of the question's passages; only InfoNCE "
            "sees them."
        },
    )
    false_negative_threshold: float | None = field(
        default=None,
        metadata={"help": "Negatives scored so near to the positive count as answers, see false_negative_rule."},
    )
    false_negative_rule: Literal["ratio", "margin"] = field(
        default="ratio",
        metadata={
            "help": "ratio: above threshold × the positive's score (0.95, say); margin: above the positive's score "
            "less the threshold."
        },
    )
    false_negatives: Literal["drop", "promote"] = field(
        default="drop", metadata={"help": "Drop false negatives, or make them positives."}
    )
    parallel_data: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Sources of parallel text for the alignment weights, written like sparse alignment's train_data "
            "(files en-XX.tsv, Hub ids, mappings with languages, exclude_sources, max_pairs, weight, …)."
        },
    )
    parallel_batch_size: int | None = field(
        default=None,
        metadata={"help": "Pairs in a micro-batch of one process; per_device_train_batch_size by default."},
    )
    parallel_length: int = field(default=128, metadata={"help": "Parallel texts are cut to this many tokens."})
    data_cache: str | None = field(
        default=None,
        metadata={"help": "Folder for the data as memory-mapped Arrow tables; `cache` in output_dir by default."},
    )
    eval_queries: int | None = field(
        default=None,
        metadata={
            "help": "Dev questions per language in evaluations during training, spread over all of them, with their "
            "own passages as the pool; all by default."
        },
    )

    def __post_init__(self) -> None:
        """Read mappings given as JSON, and refuse values that cannot work."""
        self.language_weights = read_mapping(self.language_weights, "language_weights")
        self.tag_weights = read_mapping(self.tag_weights, "tag_weights")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}.")
        for name in ("negatives", "corpus_negatives"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}.")
        for name in ("parallel_batch_size", "parallel_length"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be a positive integer, got {getattr(self, name)}.")


@dataclass
class SctArguments(StageArguments):
    """The loss, and everything of transformers' TrainingArguments."""

    output_dir: str | None = field(
        default="runs/sct", metadata={"help": "Folder for checkpoints, logs and the result."}
    )
    kl_weight: float = field(
        default=1.0, metadata={"help": "Weight of KL between the teacher's and the student's ranking; needs scores."}
    )
    margin_mse_weight: float = field(default=0.0, metadata={"help": "Weight of MarginMSE; needs a teacher's scores."})
    infonce_weight: float = field(
        default=0.0,
        metadata={"help": "Weight of InfoNCE over the batch's passages, those of all processes; needs no scores."},
    )
    pivot_infonce_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of InfoNCE on the pivot view alone, beside the losses on both views: where a text repeats "
            "its question's words the source view tells them apart, and English terms, by which languages meet, learn "
            "nothing."
        },
    )
    short_infonce_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of InfoNCE on passages cut to their short_dimensions largest dimensions, so that an index "
            "pruned to so many finds them still."
        },
    )
    short_dimensions: int = field(
        default=30,
        metadata={"help": "Dimensions that short_infonce_weight leaves of a passage, of both views together."},
    )
    clear_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of CLEAR's loss on questions in other languages with English passages: the passages rank "
            "the questions, too (reverse training)."
        },
    )
    clear_reverse: float = field(
        default=0.4, metadata={"help": "CLEAR: share of the InfoNCE by which passages rank questions (its alpha)."}
    )
    clear_kl: float = field(
        default=0.2, metadata={"help": "CLEAR: share of the KL between the two directions' rankings (its beta)."}
    )
    alignment_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of SMSE between the two sides of parallel_data: the other side's English terms approach "
            "those that the model gives the English side."
        },
    )
    alignment_extra_weight: float = field(
        default=1.0, metadata={"help": "Weight of that SMSE's squares where the English side's terms are not active."}
    )
    alignment_infonce_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of InfoNCE on parallel_data: each text's translation among all other texts of both sides, "
            "by cosine of pivot views."
        },
    )
    alignment_temperature: float = field(default=0.05, metadata={"help": "What those cosines are divided by."})
    tau_teacher: float = field(default=1.0, metadata={"help": "KL: what the teacher's scores are divided by."})
    tau_student: float = field(default=1.0, metadata={"help": "KL: what the student's scores are divided by."})
    infonce_temperature: float = field(
        default=1.0, metadata={"help": "InfoNCE and CLEAR: what the scores are divided by."}
    )
    score_views: Literal["pivot", "source", "both"] = field(
        default="both", metadata={"help": "Which views the scores of the losses above are made of."}
    )
    sparsity: Literal["l1", "flops"] = field(
        default="l1", metadata={"help": "What the sparsity weights below multiply: L1, or FLOPS."}
    )
    sparsity_views: Literal["pivot", "source", "both"] = field(
        default="both", metadata={"help": "Which views are kept sparse."}
    )
    query_sparsity_weight: float = field(default=0.0, metadata={"help": "Weight of sparsity on questions."})
    document_sparsity_weight: float = field(default=0.0, metadata={"help": "Weight of sparsity on passages."})
    query_sparsity_warmup_steps: float = field(
        default=0.0,
        metadata={"help": "Steps until the weight is reached, quadratically; below 1, a share of all steps."},
    )
    document_sparsity_warmup_steps: float = field(
        default=0.0,
        metadata={"help": "Steps until the weight is reached, quadratically; below 1, a share of all steps."},
    )
    echo_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Learning rate of [ECHO], which sparse alignment leaves untrained; the head's by default."},
    )
    gradcache_minibatch: int | None = field(
        default=None,
        metadata={
            "help": "Encode so many texts at a time, twice, with the gradient of the whole batch (GradCache): for "
            "batches larger than memory."
        },
    )

    best_metric_example = "mrr_mean"

    def __post_init__(self) -> None:
        """Finish the shared checks, then those of the loss."""
        super().__post_init__()
        weights = ("kl_weight", "margin_mse_weight", "infonce_weight", "pivot_infonce_weight", "short_infonce_weight")
        weights += ("clear_weight", "alignment_weight", "alignment_infonce_weight")
        self.check_not_negative(*weights, "query_sparsity_weight", "document_sparsity_weight")
        self.check_not_negative("clear_reverse", "clear_kl", "alignment_extra_weight")
        if self.clear_reverse + self.clear_kl > 1:
            raise ValueError(
                f"clear_reverse and clear_kl are shares of one loss, but {self.clear_reverse} + {self.clear_kl} > 1."
            )
        if not any(getattr(self, name) for name in weights):
            raise ValueError(f"One of {', '.join(weights)} must be above 0: nothing is learned from sparsity alone.")
        if self.pivot_infonce_weight and self.score_views == "pivot":
            raise ValueError(
                f"pivot_infonce_weight is {self.pivot_infonce_weight}, but score_views: pivot leaves no other view; "
                "use infonce_weight."
            )
        if self.short_dimensions < 1:
            raise ValueError(f"short_dimensions must be a positive integer, got {self.short_dimensions}.")
        for name in ("tau_teacher", "tau_student", "infonce_temperature", "alignment_temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")
        if self.echo_learning_rate is not None:
            self.check_not_negative("echo_learning_rate")
        if self.gradcache_minibatch is not None and self.gradcache_minibatch < 1:
            raise ValueError(f"gradcache_minibatch must be a positive integer, got {self.gradcache_minibatch}.")

    def warmup(self, side: str, total_steps: int) -> int:
        """Steps of the warm-up of a side's (`query` or `document`) sparsity, out of so many in all."""
        return steps_of(getattr(self, f"{side}_sparsity_warmup_steps"), total_steps)

    @property
    def head_rate(self) -> float:
        """The learning rate that the head has."""
        return self.learning_rate if self.head_learning_rate is None else self.head_learning_rate

    @property
    def in_batch(self) -> bool:
        """Whether a loss looks at the passages of other questions."""
        weights = (self.infonce_weight, self.pivot_infonce_weight, self.short_infonce_weight, self.clear_weight)
        return any(weights)

    @property
    def aligns(self) -> bool:
        """Whether a loss looks at parallel text."""
        return bool(self.alignment_weight or self.alignment_infonce_weight)

    @property
    def needs_scores(self) -> str | None:
        """The loss that needs a teacher's scores, by its setting; None where none does."""
        return next((name for name in ("kl_weight", "margin_mse_weight") if getattr(self, name)), None)
