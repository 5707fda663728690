"""One SAP run from its arguments: data, teacher, student, trainer, result."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from milco_hf.loading import checkpoint_place
from milco_hf.modeling import MilcoForSparseEncoding
from milco_hf.pivot_heads import pivot_files, read_pivot_head
from milco_hf.training.arguments import DataArguments, ModelArguments, SapArguments, TeacherArguments
from milco_hf.training.collator import ENGLISH, PairCollator, check_languages
from milco_hf.training.data.lengths import pair_lengths
from milco_hf.training.data.mixing import PairMixture
from milco_hf.training.data.pairs import PairDataset, load_pairs
from milco_hf.training.data.sources import SourceSpec
from milco_hf.training.data.steps import StepSampler
from milco_hf.training.data.streaming import PairStream
from milco_hf.training.stage_setup import (
    add_stage,
    data_cache,
    data_seed,
    load_model,
    set_up,
    shared_callbacks,
    train_and_save,
)
from milco_hf.training.teachers.cache import CachedTeacher, Teacher
from milco_hf.training.teachers.loading import check_vocabulary, load_teacher
from milco_hf.training.trainer import SapCallback, SapTrainer, choose_trained

logger = logging.getLogger(__name__)

STAGE = "sap"


def run_sap(
    model_args: ModelArguments, data_args: DataArguments, teacher_args: TeacherArguments, args: SapArguments
) -> SapTrainer:
    """Train, and leave the result in `output_dir` (the best checkpoint's weights where `load_best_model_at_end`).

    Args:
        model_args: the student.
        data_args: parallel text.
        teacher_args: the teacher.
        args: loss and training.

    Returns:
        The trainer, after training.

    Raises:
        ValueError: settings that cannot work; the message names them.
    """
    set_up(
        args, "training/sap.py", model=model_args.model, train_data=data_args.train_data, teacher=teacher_args.teacher
    )
    model_args.model = checkpoint_place(model_args.model)
    tokenizer = AutoTokenizer.from_pretrained(model_args.model)
    model = load_model(model_args.model, model_args.attn_implementation)
    teacher = open_teacher(teacher_args, model.config.pivot_vocab_size)
    if model_args.init_head_from_teacher:
        start_head_from(model, teacher_args.teacher)
    choose_trained(model, model_args.train)
    add_stage(model, STAGE)
    max_length = min(model_args.max_length, model.config.max_position_embeddings or model_args.max_length)

    with args.main_process_first(desc="reading parallel text"):
        train_dataset, sampler = training_data(data_args, args, tokenizer, max_length)
        dev_dataset = dev_data(data_args, args)
    set_epoch = train_dataset.set_epoch if isinstance(train_dataset, PairStream) else None
    clock, callbacks = shared_callbacks(args)
    for dataset in (train_dataset, dev_dataset):
        if isinstance(dataset, PairDataset):  # a stream's languages show as its pairs come
            check_languages(model.config, [ENGLISH, *dataset.codes("language")[1]])
    trainer = SapTrainer(
        model=model,
        args=args,
        teacher=teacher,
        sampler=sampler,
        max_length=max_length,
        dense_targets=teacher_args.teacher_targets == "dense",
        eval_samples=data_args.eval_samples,
        eval_pairs=data_args.eval_pairs,
        clock=clock,
        train_dataset=train_dataset,
        eval_dataset=dev_dataset,
        data_collator=PairCollator(
            tokenizer, max_length, 8 if args.device.type == "cuda" else None, model.config.adapter_ids
        ),
        processing_class=tokenizer,
        callbacks=[SapCallback(teacher, set_epoch), *callbacks],
    )
    return train_and_save(trainer, args)


def open_teacher(teacher_args: TeacherArguments, pivot_vocab_size: int) -> Teacher:
    """The teacher, with its cache where one is wanted.

    Raises:
        ValueError: it has another number of English terms than the student.
    """
    teacher: Teacher = load_teacher(
        teacher_args.teacher,
        dtype=teacher_args.teacher_dtype,
        max_length=teacher_args.teacher_max_length,
        transform=teacher_args.teacher_transform,
        scale=teacher_args.teacher_scale,
        norm_power=teacher_args.teacher_norm_power,
        batch_tokens=teacher_args.teacher_batch_tokens,
    )
    check_vocabulary(teacher.vocabulary_size, pivot_vocab_size, teacher_args.teacher)
    return CachedTeacher(teacher, teacher_args.teacher_cache) if teacher_args.teacher_cache else teacher


def training_data(
    data_args: DataArguments, args: SapArguments, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[Dataset, StepSampler | None]:
    """The training pairs, and the sampler that batches them; a stream has none.

    Raises:
        ValueError: streamed and held sources together, or a setting that streams do not have.
    """
    specs = [SourceSpec.parse(entry) for entry in data_args.train_data]
    if any(spec.streaming for spec in specs):
        return _stream(specs, data_args, args), None
    dataset = load_pairs(specs, data_args.exclude_sources, data_args.languages, data_cache(data_args.data_cache, args))
    mixture = PairMixture(
        dataset,
        specs,
        data_args.temperature,
        data_args.language_weights,  # type: ignore[arg-type]
        data_args.tag_weights,  # type: ignore[arg-type]
        data_args.epoch_pairs,
        data_seed(args),
    )
    lengths: np.ndarray | None = None
    if data_args.group_by_length or data_args.max_batch_tokens:
        cache_dir = data_cache(data_args.data_cache, args)
        lengths = pair_lengths(dataset, tokenizer, max_length, data_args.exact_lengths_up_to, cache_dir)
    sampler = StepSampler(
        mixture.draw,
        lengths,
        batch_size=args.train_batch_size,
        accumulation=args.gradient_accumulation_steps,
        world_size=args.world_size,
        rank=args.process_index,
        seed=data_seed(args),
        english_share=data_args.english_share,
        max_batch_tokens=data_args.max_batch_tokens,
    )
    languages = {name: len(rows) for name, rows in dataset.by_language().items()}
    logger.info("%d training pairs in %d languages: %s", len(dataset), len(languages), languages)
    return dataset, sampler


def _stream(specs: list[SourceSpec], data_args: DataArguments, args: SapArguments) -> PairStream:
    ignored = {
        "temperature": data_args.temperature != 1.0,
        "language_weights": bool(data_args.language_weights),
        "tag_weights": bool(data_args.tag_weights),
        "max_batch_tokens": data_args.max_batch_tokens is not None,
        "epoch_pairs": data_args.epoch_pairs is not None,
    }
    used = [name for name, given in ignored.items() if given]
    if used:
        raise ValueError(f"{', '.join(used)} cannot be used with streamed sources; weight the sources instead.")
    if args.max_steps <= 0:
        raise ValueError("Streamed sources have no end: set max_steps.")
    return PairStream(
        specs,
        data_args.exclude_sources,
        data_args.languages,
        buffer=data_args.shuffle_buffer,
        batch_size=args.train_batch_size if data_args.group_by_length else None,
        seed=data_seed(args),
        rank=args.process_index,
        world_size=args.world_size,
        english_share=data_args.english_share,
    )


def dev_data(data_args: DataArguments, args: SapArguments) -> PairDataset | None:
    """The dev pairs, None where there are none.

    Raises:
        ValueError: evaluation is on, but there are no dev pairs.
    """
    if not data_args.dev_data:
        if args.eval_strategy != "no":
            raise ValueError(f"eval_strategy is {str(args.eval_strategy)!r}, but dev_data names no dev pairs.")
        return None
    specs = [SourceSpec.parse(entry) for entry in data_args.dev_data]
    return load_pairs(
        specs, languages=data_args.languages, cache_dir=data_cache(data_args.data_cache, args), progress=False
    )


def start_head_from(model: MilcoForSparseEncoding, teacher: str) -> None:
    """Copy a teacher's MLM head into the student's: transform, norm and the English terms' rows.

    Args:
        model: the student; the [ECHO] row of its decoder stays as it is.
        teacher: folder or Hub id of the teacher.

    Raises:
        ValueError: the teacher has no MLM head, or one that is not the student's size.
    """
    head = read_pivot_head(pivot_files(teacher))
    different = {name: value for name, value in head.settings.items() if getattr(model.config, name) != value}
    if different:
        own = {name: getattr(model.config, name) for name in different}
        raise ValueError(
            f"init_head_from_teacher: the head of {teacher!r} has {different}, the student's {own}. Build the student "
            "with this teacher as pivot (milco build --pivot), or set init_head_from_teacher to false."
        )
    parameters = dict(model.head.named_parameters())
    with torch.no_grad():
        for name, tensor in head.tensors.items():
            parameters[name][: len(tensor)].copy_(tensor)
