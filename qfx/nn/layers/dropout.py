"""Dropout, of numbers and of whole channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import nn

from qfx.nn.call import Call, Family, Layers
from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import FixedLayer, Steps, Traits
from qfx.nn.qtensor import QTensor


class QDropout(FixedLayer):
    """Dropout in training (its results leave the grid there, by design); gone at inference and in what is exported."""

    p: float
    channels: bool

    traits: ClassVar[Traits] = Traits(moves_only=True, keeps_grid=True, reads_uncast=True, named_by_source=True)

    def __init__(self, p: float, channels: bool) -> None:
        super().__init__()
        self.p, self.channels = p, channels

    def forward(self, x: QTensor) -> QTensor:
        if not self.training or self.p == 0.0:
            return x
        drop = F.dropout1d if self.channels and x.value.dim() == 3 else F.dropout2d if self.channels else F.dropout
        return QTensor(drop(x.tensor(), self.p, True), x.interval)

    def operators(self) -> Steps:
        return []  # it is gone at inference

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        return sources[0]

    def scales_channels(self, channels: int) -> bool:
        return True


def _dropout(call: Call) -> Layers:
    return [QDropout(_drop_probability(call), False)]


def _dropout_channels(call: Call) -> Layers:
    return [QDropout(_drop_probability(call), True)]


def _drop_probability(call: Call) -> float:
    if call.module is None and call.get("training", True):  # the model is traced in evaluation mode
        raise call.refuse("dropout at inference", "pass training=self.training, or use nn.Dropout")
    return float(call.get("p", 0.5))


_ARGUMENTS = "input p training inplace"

FAMILY = Family(
    layers=(QDropout,),
    modules={nn.Dropout: _dropout, nn.Dropout1d: _dropout_channels, nn.Dropout2d: _dropout_channels},
    functions={
        F.dropout: (_ARGUMENTS, _dropout),
        F.dropout1d: (_ARGUMENTS, _dropout_channels),
        F.dropout2d: (_ARGUMENTS, _dropout_channels),
    },
)
