"""One SCT run from its arguments: data, student, trainer, result."""

from __future__ import annotations

import logging
from collections.abc import Callable

from torch.utils.data import Dataset
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from milco_hf.loading import checkpoint_place
from milco_hf.modeling import MilcoConfig, MilcoForSparseEncoding
from milco_hf.training.collator import ENGLISH, check_languages
from milco_hf.training.data.lengths import pair_lengths
from milco_hf.training.data.mixing import PairMixture
from milco_hf.training.data.pairs import PairDataset, load_pairs
from milco_hf.training.data.sources import SourceSpec
from milco_hf.training.data.steps import StepSampler
from milco_hf.training.retrieval.arguments import SctArguments, SctDataArguments, SctModelArguments
from milco_hf.training.retrieval.batches import RowSampler, row_lengths
from milco_hf.training.retrieval.candidates import CandidateDataset
from milco_hf.training.retrieval.collator import CandidateCollator
from milco_hf.training.retrieval.dataset import RetrievalDataset
from milco_hf.training.retrieval.echo import check_echo_rate, remove_echo
from milco_hf.training.retrieval.false_negatives import treat_false_negatives
from milco_hf.training.retrieval.loading import describe, load_rows
from milco_hf.training.retrieval.lora import add_lora
from milco_hf.training.retrieval.parallel import ParallelCollator, ParallelDataset, ParallelSampler
from milco_hf.training.retrieval.sources import RetrievalSource
from milco_hf.training.retrieval.trainer import SctTrainer
from milco_hf.training.stage_setup import (
    add_stage,
    data_cache,
    data_seed,
    load_model,
    set_up,
    shared_callbacks,
    train_and_save,
)
from milco_hf.training.stage_trainer import choose_trained

logger = logging.getLogger(__name__)

STAGE = "sct"
BEFORE = "sap"


def run_sct(model_args: SctModelArguments, data_args: SctDataArguments, args: SctArguments) -> SctTrainer:
    """Train, and leave the result in `output_dir` (the best checkpoint's weights where `load_best_model_at_end`).

    Args:
        model_args: the student.
        data_args: questions and passages.
        args: loss and training.

    Returns:
        The trainer, after training.

    Raises:
        ValueError: settings that cannot work; the message names them.
    """
    set_up(args, "training/sct.py", model=model_args.model, train_data=data_args.train_data)
    model_args.model = checkpoint_place(model_args.model)
    check_aligned(MilcoConfig.from_pretrained(model_args.model), model_args)
    tokenizer = AutoTokenizer.from_pretrained(model_args.model)
    model = open_student(model_args)
    if args.echo_learning_rate is not None:  # before minutes of reading data
        check_echo_rate(model, args.echo_learning_rate, args.head_rate)
    longest = model.config.max_position_embeddings
    query_length, document_length, parallel_length = (
        length if longest is None else min(length, longest)
        for length in (model_args.query_length, model_args.document_length, data_args.parallel_length)
    )
    with args.main_process_first(desc="reading questions and passages"):
        data = training_rows(data_args, args)
        dev = dev_rows(data_args, args)
        sampler = row_sampler(data, data_args, args, tokenizer, document_length)
        parallel = parallel_text(data_args, args, tokenizer, parallel_length)
    for rows in (data, dev):
        if rows is not None:
            check_languages(model.config, [*rows.codes("query_language")[1], *rows.codes("passage_language")[1]])
    if parallel is not None:
        check_languages(model.config, [ENGLISH, *parallel[0].codes("language")[1]])
    train_dataset: Dataset = CandidateDataset(
        data, data_args.negatives, data_args.negative_sampling, data_args.corpus_negatives, data_seed(args)
    )
    multiple = 8 if args.device.type == "cuda" else None
    collator: Callable = CandidateCollator(tokenizer, query_length, document_length, multiple, model.config.adapter_ids)
    if parallel is not None:
        pairs, pair_sampler = parallel
        train_dataset, sampler = ParallelDataset(train_dataset, pairs), ParallelSampler(sampler, pair_sampler)
        collator = ParallelCollator(collator, tokenizer, parallel_length, multiple)
    clock, callbacks = shared_callbacks(args)
    trainer = SctTrainer(
        model=model,
        args=args,
        sampler=sampler,
        clock=clock,
        query_length=query_length,
        document_length=document_length,
        eval_queries=data_args.eval_queries,
        train_dataset=train_dataset,
        eval_dataset=dev,
        data_collator=collator,
        processing_class=tokenizer,
        callbacks=callbacks,
    )
    return train_and_save(trainer, args)


def check_aligned(config: MilcoConfig, model_args: SctModelArguments) -> None:
    """Refuse a checkpoint that was never aligned: contrastive training alone collapses (paper, section 5).

    Raises:
        ValueError: `sap` is not among its training stages, and `allow_unaligned` is not set.
    """
    if BEFORE not in config.training_stages and not model_args.allow_unaligned:
        raise ValueError(
            f"{model_args.model!r} was never aligned (training_stages: {config.training_stages}). Run training/sap.py "
            "on it first: contrastive training alone collapses. To train it all the same, set allow_unaligned: true "
            "(--allow-unaligned)."
        )


def open_student(model_args: SctModelArguments) -> MilcoForSparseEncoding:
    """The student in fp32, with what learns chosen, [ECHO] or updates taken out or put in, and its stage written."""
    model = load_model(model_args.model, model_args.attn_implementation)
    if not model_args.source_view:
        remove_echo(model)
    choose_trained(model, model_args.train, echo_layer=True)
    if model_args.lora:
        add_lora(
            model, model_args.lora_r, model_args.lora_alpha, model_args.lora_dropout, model_args.lora_targets or None
        )
    add_stage(model, STAGE)
    return model


def training_rows(data_args: SctDataArguments, args: SctArguments) -> RetrievalDataset:
    """The training rows, without false negatives.

    Raises:
        ValueError: a loss needs a teacher's scores that some row does not have, and the message names the row; or
            questions that no row has.
    """
    sources = _sources(data_args.train_data, data_args)
    data = load_rows(
        sources,
        data_args.exclude_sources,
        data_args.languages,
        data_cache(data_args.data_cache, args),
        data_args.passage_titles,
        whole_corpus=data_args.corpus_negatives > 0,
    )
    if args.needs_scores:
        scored = data.has_scores & data.has_negatives
        if args.in_batch and scored.any():
            logger.info(
                "%s learns from %d of %d rows, those with a teacher's scores",
                args.needs_scores,
                scored.sum(),
                len(data),
            )
        else:
            data.check_scores(args.needs_scores)
        if not data_args.negatives or not scored.any():
            lacking = "negatives is 0" if not data_args.negatives else "the training data has no negatives"
            raise ValueError(f"{args.needs_scores} compares a question's passages, but {lacking}: nothing is learned.")
    if args.clear_weight and not data.bridged.any():
        raise ValueError(
            f"clear_weight is {args.clear_weight}, but no row has an English passage and a question in another "
            "language. training/cloze_rows.py makes such rows (query_language), and milco score --cross (sw-en)."
        )
    if data_args.false_negative_threshold is not None:
        rule, action = data_args.false_negative_rule, data_args.false_negatives
        treat_false_negatives(data, data_args.false_negative_threshold, rule, action)
    logger.info("training data: %s", describe(data))
    return data


def parallel_text(
    data_args: SctDataArguments, args: SctArguments, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[PairDataset, StepSampler] | None:
    """Parallel text, cut to `max_length`, and what batches it, mixed as rows are; None where no loss looks at any.

    Raises:
        ValueError: a loss needs parallel text and there is none, or not enough; or there is some, and no loss needs it.
    """
    if args.aligns != bool(data_args.parallel_data):
        given = "parallel_data is given" if data_args.parallel_data else "parallel_data names no parallel text"
        raise ValueError(
            f"{given}, but alignment_weight is {args.alignment_weight} and alignment_infonce_weight "
            f"{args.alignment_infonce_weight}: set parallel_data and one of them, or none."
        )
    if not args.aligns:
        return None
    specs = [SourceSpec.parse(entry) for entry in data_args.parallel_data]
    cache, seed = data_cache(data_args.data_cache, args), data_seed(args)
    pairs = load_pairs(specs, data_args.exclude_sources, data_args.languages, cache)
    size = data_args.parallel_batch_size or args.train_batch_size
    step = size * args.gradient_accumulation_steps * args.world_size
    if len(pairs) < step:
        raise ValueError(
            f"parallel_data has {len(pairs)} pairs, fewer than the {step} of one step; lower parallel_batch_size."
        )
    mixture = PairMixture(pairs, specs, data_args.temperature, seed=seed)
    lengths = None
    if data_args.group_by_length:
        lengths = pair_lengths(pairs, tokenizer, max_length, cache_dir=cache)
    sampler = StepSampler(
        mixture.draw,
        lengths,
        batch_size=size,
        accumulation=args.gradient_accumulation_steps,
        world_size=args.world_size,
        rank=args.process_index,
        seed=seed,
    )
    counts = {name: len(rows) for name, rows in pairs.by_language().items()}
    logger.info("%d pairs of parallel text in %d languages: %s", len(pairs), len(counts), counts)
    return pairs, sampler


def dev_rows(data_args: SctDataArguments, args: SctArguments) -> RetrievalDataset | None:
    """The dev rows, None where there are none.

    Raises:
        ValueError: evaluation is on, but there are no dev rows.
    """
    if not data_args.dev_data:
        if args.eval_strategy != "no":
            raise ValueError(f"eval_strategy is {str(args.eval_strategy)!r}, but dev_data names no dev rows.")
        return None
    cache = data_cache(data_args.data_cache, args)
    sources = _sources(data_args.dev_data, data_args)
    return load_rows(sources, (), data_args.languages, cache, data_args.passage_titles, progress=False)


def row_sampler(
    data: RetrievalDataset,
    data_args: SctDataArguments,
    args: SctArguments,
    tokenizer: PreTrainedTokenizerBase,
    document_length: int,
) -> RowSampler:
    """Mixes and batches the training rows."""
    seed = data_seed(args)
    mixture = PairMixture(
        data,  # type: ignore[arg-type]
        _sources(data_args.train_data, data_args),  # type: ignore[arg-type]
        data_args.temperature,
        data_args.language_weights,  # type: ignore[arg-type]
        data_args.tag_weights,  # type: ignore[arg-type]
        data_args.epoch_rows,
        seed,
    )
    lengths = None
    if data_args.group_by_length:
        lengths = row_lengths(data, tokenizer, document_length, cache_dir=data_cache(data_args.data_cache, args))
    return RowSampler(
        mixture.draw,
        lengths,
        data.codes("language")[0] if data_args.batch_language == "same" else None,
        batch_size=args.train_batch_size,
        accumulation=args.gradient_accumulation_steps,
        world_size=args.world_size,
        rank=args.process_index,
        seed=seed,
    )


def _sources(entries: list[str], data_args: SctDataArguments) -> list[RetrievalSource]:
    return [RetrievalSource.parse(entry, corpus=tuple(data_args.corpus)) for entry in entries]
