"""[ECHO] in training: models without it, and a learning rate of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from milco_hf.modeling import MilcoForSparseEncoding


def remove_echo(model: MilcoForSparseEncoding) -> None:
    """Take [ECHO] out of a model for good: its row of the decoder or its own layer goes, and `config.echo` is off.

    Its vectors keep their V_e + V_s dimensions, the source tokens' ones at 0; its pivot view stays as it is.
    """
    model.config.echo = False
    model.echo = None
    decoder = model.head.decoder
    if not decoder.echo_row:
        return
    terms = model.config.pivot_vocab_size
    with torch.no_grad():
        decoder.weight = nn.Parameter(decoder.weight[:terms].clone())
        decoder.bias = nn.Parameter(decoder.bias[:terms].clone())
    decoder.out_features, decoder.echo_row = terms, False


def check_echo_rate(model: MilcoForSparseEncoding, rate: float, head_rate: float) -> None:
    """Refuse a rate that [ECHO], a row of the decoder or a layer of its own, cannot have.

    Raises:
        ValueError: the model has no [ECHO], or does not train it; or the head's rate is 0, so that no step of the row
            can be scaled.
    """
    setting = f"echo_learning_rate is {rate}"
    if not model.config.echo:
        raise ValueError(
            f"{setting}, but the decoder has no [ECHO] row; leave it out (null), as with source_view: false."
        )
    row = model.echo is None
    trained = model.head.decoder if row else model.echo
    if not all(parameter.requires_grad for parameter in trained.parameters()):
        place = "is part of" if row else "learns with"
        raise ValueError(f"{setting}, but [ECHO] {place} the head, which train leaves out.")
    if row and not head_rate > 0:
        raise ValueError(f"{setting}, but head_learning_rate is {head_rate}: set it above 0.")


class EchoRate:
    """A learning rate of its own for [ECHO], which is one row of the decoder and so no parameter group.

    What a step changed in the row is multiplied by the ratio of the two rates. Adam's steps are proportional to the
    rate, weight decay included, so that is the step that the row would have made alone.

    Args:
        model: with [ECHO] in the decoder; its parameters may be sharded (FSDP2).
        rate: [ECHO]'s learning rate.
        head_rate: the rate of the parameter group that the decoder is in; see `check_echo_rate` for both.
    """

    def __init__(self, model: MilcoForSparseEncoding, rate: float, head_rate: float) -> None:
        self.ratio = rate / head_rate
        self.decoder = model.head.decoder
        self.rows: list[Tensor] = []
        self.before: list[Tensor] = []

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Scale every step of an optimizer from now on."""
        optimizer.register_step_pre_hook(self._keep)
        optimizer.register_step_post_hook(self._scale)

    @property
    def _parameters(self) -> list[nn.Parameter]:
        """As they are now: FSDP2 puts sharded ones into the decoder after the optimizer was made."""
        return [self.decoder.weight, self.decoder.bias]

    def _keep(self, *_: object) -> None:
        parameters = self._parameters
        self.rows = self.rows or [_last_row(parameter) for parameter in parameters]
        self.before = [_local(parameter)[row].clone() for parameter, row in zip(parameters, self.rows, strict=True)]

    @torch.no_grad()
    def _scale(self, *_: object) -> None:
        for parameter, row, before in zip(self._parameters, self.rows, self.before, strict=True):
            values = _local(parameter)
            values[row] = before + self.ratio * (values[row] - before)


def _local(parameter: Tensor) -> Tensor:
    """What this process holds of a parameter."""
    return parameter.detach().to_local() if isinstance(parameter, DTensor) else parameter.detach()


def _last_row(parameter: Tensor) -> Tensor:
    """Booleans over the rows that this process holds: which is the last of the whole parameter."""
    last = torch.zeros(len(parameter), dtype=torch.bool, device=parameter.device)
    last[-1] = True
    if isinstance(parameter, DTensor):
        return distribute_tensor(last, parameter.device_mesh, parameter.placements).to_local()
    return last
