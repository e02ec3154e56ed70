"""One value repeated along axes of length 1, so that it has the shape of another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from qfx import operators as ops
from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import FixedLayer, Steps, Traits
from qfx.nn.qtensor import QTensor


class QExpand(FixedLayer):
    """``x.expand(-1, *shape)``; exact. The gradient is summed over the copies."""

    source: tuple[int, ...]
    shape: tuple[int, ...]

    traits: ClassVar[Traits] = Traits(moves_only=True, keeps_grid=True, reads_uncast=False)

    def __init__(self, source: tuple[int, ...], shape: tuple[int, ...]) -> None:
        super().__init__()
        self.source, self.shape = source, shape

    def forward(self, x: QTensor) -> QTensor:
        value = x.tensor()
        return QTensor(value.expand(value.shape[0], *self.shape).contiguous(), x.interval)

    def operators(self) -> Steps:
        return [("", ops.Expand(self.shape))]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        return sources[0]

    def scales_channels(self, channels: int) -> bool:
        return self.source[0] == self.shape[0]
