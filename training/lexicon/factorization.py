"""Writing a lexicon into a MILCO: its token embeddings, connector and head are fitted to the table's rows."""

from __future__ import annotations

import logging
import math

import numpy as np
import torch
from scipy import sparse
from sklearn.utils.extmath import randomized_svd
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

from milco_hf.encoding.opening import fast_in_bf16
from milco_hf.modeling import MilcoForSparseEncoding

logger = logging.getLogger(__name__)

LINEAR_SHIFT = 3.0
"""GELU(x + 3) is x + 3 within 0.004 for x above 0, and near it for most of a normalised state: a way round GELU."""


def lexicon_logits(
    table: sparse.csr_array, idf: np.ndarray, threshold: float, power: float, slope: float, scale: float
) -> sparse.csr_array:
    """The logits that a token alone should give: expm1(scale · log(1 + slope · t^power · idf)) where t > threshold.

    That is the teacher's own weight for an English term (see `teacher.saturated_idf`), less where it is unsure.

    Args:
        table: how surely a source token explains an English term, [V_s, V_e], from `association.ibm1`.
        idf: of the English terms, [V_e].
        threshold: less sure entries are left out.
        power: below 1, raises the unsure ones: many weak hints together find a translation better than few strong ones.
        slope: the teacher's.
        scale: about 1 / ‖weights of a sentence‖, since the teacher's vectors have unit length.
    """
    logits = sparse.csr_array(table, copy=True)
    logits.data[logits.data <= threshold] = 0
    logits.eliminate_zeros()
    logits.data = np.expm1(scale * np.log1p(slope * logits.data**power * idf[logits.indices])).astype(np.float32)
    return logits


@torch.no_grad()
def start_as_lexicon(model: MilcoForSparseEncoding, logits: sparse.csr_array, seed: int = 0) -> None:
    """Set a fresh model to the table's truncated SVD: every layer an identity, factors in embeddings and decoder.

    Args:
        model: its encoder must be a ModernBERT as wide as its head (pre-norm: layers whose output projections are zero
            pass their input on).
        logits: wanted logits of each source token, [V_s, V_e].
        seed: seeds the SVD and the rows of tokens that the table says nothing of.

    Raises:
        ValueError: the widths differ.
    """
    width = model.config.hidden_size
    if model.config.pivot_hidden_size != width:
        raise ValueError(f"A lexicon start needs equal widths, got {width} and {model.config.pivot_hidden_size}.")
    for layer in model.encoder.layers:
        nn.init.zeros_(layer.attn.Wo.weight)
        nn.init.zeros_(layer.mlp.Wo.weight)
    for linear, shift in ((model.connector.dense, LINEAR_SHIFT), (model.head.dense, 0.0)):
        nn.init.eye_(linear.weight)
        nn.init.constant_(linear.bias, shift)
    lengths = np.sqrt(np.asarray(logits.multiply(logits).sum(axis=1)).ravel())
    balanced = sparse.csr_array(sparse.diags_array(1 / np.sqrt(np.maximum(lengths, 0.03))) @ logits)
    left, values, right = randomized_svd(balanced, width, n_iter=2, random_state=seed)
    rows = torch.from_numpy(left * np.sqrt(values)).float()
    rows -= rows.mean(dim=1, keepdim=True)
    empty = lengths == 0
    rows[empty] = torch.randn(int(empty.sum()), width, generator=torch.Generator().manual_seed(seed))
    rows /= rows.std(dim=1, keepdim=True).clamp(min=1e-6)
    terms = torch.from_numpy(right.T * np.sqrt(values)).float()
    entries = np.random.default_rng(seed).choice(logits.nnz, min(logits.nnz, 100_000), replace=False)
    token = np.searchsorted(logits.indptr, entries, side="right") - 1
    products = (rows[token] * terms[logits.indices[entries]]).sum(dim=1)
    wanted = torch.from_numpy(logits.data[entries])
    factor = float((products * wanted).sum() / (products * products).sum().clamp(min=1e-12))
    model.get_input_embeddings().weight.copy_(rows)
    decoder, width_e = model.head.decoder, logits.shape[1]
    decoder.weight[:width_e] = factor * terms
    decoder.bias[:width_e] = -float(wanted.mean()) / 4
    if decoder.echo_row:  # every token echoes alike, a little: SAP does not train this row, and noise would stay
        decoder.weight[width_e:] = 0
        decoder.bias[width_e:] = model.config.echo_bias_init


def fit_lexicon(
    model: MilcoForSparseEncoding,
    logits: sparse.csr_array,
    frequencies: np.ndarray,
    rounds: int = 10,
    batch_size: int = 512,
    learning_rate: float = 1.5e-3,
    embeddings_learning_rate: float = 4.5e-2,
    margin: float = 0.05,
    frequent: int = 6000,
    seed: int = 0,
) -> float:
    """Fit embeddings, connector and head so that each token alone gives its row of the table.

    A low rank cannot hold the table by least squares, but need not: below zero every logit is as good as any other, so
    only rising over −margin costs. Layers keep their start and every token is read as a text of its own.

    Args:
        model: started by `start_as_lexicon`; trained in place.
        logits: wanted logits, [V_s, V_e]; absent entries shall stay below −margin.
        frequencies: texts with each source token, [V_s]; the most frequent ones are seen twice a round.
        rounds: times that every token is seen.
        batch_size: tokens in a step.
        learning_rate: highest rate of AdamW for connector and head; falls to 0 linearly.
        embeddings_learning_rate: likewise for the embeddings. A token's row, whose entries are about 1, moves only in
            the `rounds` steps that see it: at 1.5e-3 half of milco-mini's table is missed after 14, at 4.5e-2 2 %.
        margin: how far below zero absent terms shall stay.
        frequent: how many tokens are seen twice a round.
        seed: seeds the order.

    Returns:
        The last round's loss: squared error over the squared size of the targets.
    """
    parts = [model.encoder.embeddings.norm, model.encoder.final_norm, model.connector, model.head]
    optimizer = torch.optim.AdamW(
        [
            {"params": model.get_input_embeddings().parameters(), "highest": embeddings_learning_rate},
            {"params": [parameter for part in parts for parameter in part.parameters()], "highest": learning_rate},
        ],
        betas=(0.9, 0.98),
        weight_decay=0.0,
        fused=True,  # every step moves all embeddings, whose moments go through memory once so
    )
    generator = np.random.default_rng(seed)
    twice = np.argsort(-frequencies, kind="stable")[:frequent]
    per_round = math.ceil((logits.shape[0] + len(twice)) / batch_size)
    loss_of_round = float("nan")
    progress = tqdm(total=rounds * per_round, desc="fitting the lexicon", mininterval=1)
    for number in range(rounds):
        order = generator.permutation(np.concatenate([np.arange(logits.shape[0]), twice]))
        error = size = 0.0
        for start in range(0, len(order), batch_size):
            step = progress.n
            for group in optimizer.param_groups:
                group["lr"] = group["highest"] * min((step + 1) / 20, max(0.01, 1 - step / progress.total))
            tokens = order[start : start + batch_size]
            wanted = torch.from_numpy(logits[tokens].toarray())
            squares = _row_errors(_token_logits(model, torch.from_numpy(tokens), logits.shape[1]), wanted, margin)
            target_size = float(wanted.square().sum()) + 1e-6
            loss = squares / target_size
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            error, size = error + float(squares.detach()), size + target_size
            progress.update()
        loss_of_round = error / size
        logger.info("lexicon, round %d of %d: %.3f of the table's size is missed", number + 1, rounds, loss_of_round)
    progress.close()
    return loss_of_round


def _token_logits(model: MilcoForSparseEncoding, tokens: Tensor, terms: int) -> Tensor:
    """Logits that each token gives as a text of its own, without special tokens: [batch, V_e]."""
    with torch.autocast("cpu", torch.bfloat16, enabled=fast_in_bf16("cpu")):
        encoder = model.encoder  # its layers are identities yet: reading past them gives the same states, sooner
        hidden = encoder.final_norm(encoder.embeddings(input_ids=tokens[:, None]))[:, 0]
        head = model.head
        states = head.norm(head.activation(head.dense(model.connector(hidden))))
        return functional.linear(states, head.decoder.weight[:terms], head.decoder.bias[:terms]).float()


def _row_errors(found: Tensor, wanted: Tensor, margin: float) -> Tensor:
    """Sum of squared errors, where an absent term costs nothing at or below −margin."""
    present = wanted > 0
    target = torch.where(present, wanted, torch.full_like(wanted, -margin))
    return ((found - target).square() * (present | (found > -margin))).sum()
