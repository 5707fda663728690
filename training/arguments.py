"""Arguments of sparse alignment pretraining. Every one is a key of a recipe and a flag that overrides it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from milco_hf.training.stage_arguments import TRAINABLE, StageArguments, read_mapping, steps_of


@dataclass
class ModelArguments:
    """The student, and what of it is trained."""

    model: str = field(
        default="",
        metadata={"help": "Folder or Hub id of the MILCO checkpoint to start from, as `milco build` writes it."},
    )
    train: list[str] = field(
        default_factory=lambda: list(TRAINABLE),
        metadata={
            "help": "Which parts are trained, out of encoder, connector and head; the others stay frozen. Of the "
            "encoder alone: embeddings, shared (its layers), adapters (of all languages) or adapters:XX (X-MOD)."
        },
    )
    init_head_from_teacher: bool = field(
        default=False,
        metadata={"help": "Start the student's English head from the teacher's MLM head, of the same sizes."},
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "Attention of the encoder: sdpa, eager, flash_attention_2, …"}
    )
    max_length: int = field(default=512, metadata={"help": "Texts are cut to this many tokens."})


@dataclass
class DataArguments:
    """Parallel text and how it is mixed."""

    train_data: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Sources of training pairs: files, folders, globs, Hub ids; in a recipe also mappings with path, "
            "name, weight, languages, exclude_sources, columns, language, split, configs, max_pairs, streaming."
        },
    )
    dev_data: list[str] = field(
        default_factory=list, metadata={"help": "Sources of dev pairs, written like train_data."}
    )
    languages: list[str] = field(
        default_factory=list, metadata={"help": "Only these other languages; all of them where empty."}
    )
    exclude_sources: list[str] = field(
        default_factory=list,
        metadata={"help": "Source tags (third column) to leave out of every source; tag:language only there."},
    )
    temperature: float = field(
        default=1.0,
        metadata={
            "help": "Each source's language is drawn in proportion to pairs^(1/temperature): 1 as they are, ∞ alike."
        },
    )
    language_weights: dict | str | None = field(
        default=None, metadata={"help": 'How often languages are drawn, relative to the mixture: {"te": 1.5}.'}
    )
    tag_weights: dict | str | None = field(
        default=None, metadata={"help": 'How often source tags are drawn within a language: {"gnome-ui": 0.5}.'}
    )
    epoch_pairs: int | None = field(
        default=None, metadata={"help": "Pairs in an epoch; as many as there are by default."}
    )
    english_share: float = field(
        default=1.0,
        metadata={"help": "Share of the pairs whose English side is a training text too, from 0 to 1."},
    )
    group_by_length: bool = field(default=True, metadata={"help": "Batch texts of like length together."})
    exact_lengths_up_to: int = field(
        default=5_000_000,
        metadata={"help": "Count the tokens of at most so many pairs to group them; beyond, lengths are estimated."},
    )
    max_batch_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Fill batches up to about this many tokens (texts × longest) instead of a fixed number of pairs; "
            "per_device_train_batch_size is then the most pairs."
        },
    )
    shuffle_buffer: int = field(default=20_000, metadata={"help": "Pairs to shuffle among when a source is streamed."})
    data_cache: str | None = field(
        default=None,
        metadata={"help": "Folder for the pairs as memory-mapped Arrow tables; `cache` in output_dir by default."},
    )
    eval_pairs: int | None = field(
        default=None, metadata={"help": "Dev pairs per language in evaluations during training; all by default."}
    )
    eval_samples: int = field(default=3, metadata={"help": "Dev texts whose top terms each evaluation logs."})

    def __post_init__(self) -> None:
        """Read mappings given as JSON, and refuse values that cannot work."""
        self.language_weights = read_mapping(self.language_weights, "language_weights")
        self.tag_weights = read_mapping(self.tag_weights, "tag_weights")
        if not 0 <= self.english_share <= 1:
            raise ValueError(f"english_share must be between 0 and 1, got {self.english_share}.")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}.")


@dataclass
class TeacherArguments:
    """The frozen English sparse teacher."""

    teacher: str = field(
        default="",
        metadata={"help": "Folder or Hub id: a SPLADE checkpoint (MLM or SparseEncoder) or a SparseStaticEmbedding."},
    )
    teacher_dtype: str = field(
        default="bfloat16", metadata={"help": "bfloat16, float16 or float32; neural teachers only."}
    )
    teacher_max_length: int = field(
        default=512, metadata={"help": "English texts are cut to this many teacher tokens."}
    )
    teacher_batch_tokens: int = field(
        default=4096, metadata={"help": "Texts × tokens that a neural teacher reads at a time."}
    )
    teacher_transform: Literal["identity", "inverse_log_sat"] = field(
        default="identity",
        metadata={
            "help": "How a static teacher's weights become logits: identity (logit = weight), or inverse_log_sat "
            "(logit = exp(weight) - 1, which LogSat takes back to the weight)."
        },
    )
    teacher_scale: float = field(
        default=1.0, metadata={"help": "Multiplies a static teacher's weights before the transform."}
    )
    teacher_norm_power: float | None = field(
        default=None,
        metadata={
            "help": "How far a static teacher's weights are divided by their length: 0 not at all, 1 to unit length; "
            "by default 1 where the teacher's folder has a Normalize module, else 0."
        },
    )
    teacher_targets: Literal["sparse", "dense"] = field(
        default="sparse",
        metadata={
            "help": "sparse: the teacher's positive logits, negative ones count as 0; can be cached. dense: all its "
            "logits, as SMSE is written; recomputed each time."
        },
    )
    teacher_cache: str | None = field(
        default=None,
        metadata={"help": "Folder where teacher vectors are kept, so that later epochs and runs need no teacher."},
    )

    def __post_init__(self) -> None:
        """Refuse combinations that cannot work."""
        if self.teacher_targets == "dense" and self.teacher_cache:
            raise ValueError(
                "teacher_cache keeps sparse vectors; set teacher_targets: sparse, or leave teacher_cache out."
            )


@dataclass
class SapArguments(StageArguments):
    """The loss, and everything of transformers' TrainingArguments."""

    output_dir: str | None = field(
        default="runs/sap", metadata={"help": "Folder for checkpoints, logs and the result."}
    )
    normalize: Literal["union", "teacher"] = field(
        default="union",
        metadata={"help": "SMSE divides by the positives of either side (union) or by the teacher's own (teacher)."},
    )
    extra_weight: float = field(
        default=1.0,
        metadata={
            "help": "Weight of SMSE's squares where only the student is active; below 1, unsure translations keep "
            "more of their weight."
        },
    )
    norm_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of (‖t‖ - ‖t*‖)², t and t* the pivot views of student and teacher: the inner product ranks "
            "long vectors first, whatever they say. 0 in the paper."
        },
    )
    contrast_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of InfoNCE between a text's pivot view and the teacher's vectors of its batch, by cosine: "
            "the own translation against the others of the same batch on this process. 0 in the paper."
        },
    )
    contrast_temperature: float = field(
        default=0.05, metadata={"help": "What contrast_weight's cosines are divided by."}
    )
    l1_weight: float = field(default=0.0, metadata={"help": "Weight of L1 on the pivot view: mean over texts of Σ|t|."})
    l1_warmup_steps: float = field(
        default=0.0,
        metadata={"help": "Steps until l1_weight is reached, quadratically; below 1, a share of all steps."},
    )

    def __post_init__(self) -> None:
        """Finish the shared checks, then those of the loss."""
        super().__post_init__()
        self.check_not_negative("extra_weight", "norm_weight", "contrast_weight", "l1_weight")
        if not self.contrast_temperature > 0:
            raise ValueError(f"contrast_temperature must be positive, got {self.contrast_temperature}.")

    def l1_warmup(self, total_steps: int) -> int:
        """Steps of L1's warm-up, out of so many in all."""
        return steps_of(self.l1_warmup_steps, total_steps)
