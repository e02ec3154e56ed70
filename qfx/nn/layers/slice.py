"""Parts of a value: slices and integers as indices."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import fx

from qfx import operators as ops
from qfx.fixed.arith import Interval, channelwise
from qfx.nn.call import Call, Family, Layers
from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import FixedLayer, Steps, Traits
from qfx.nn.layers.moving.take import QTake, constant_indices, taken
from qfx.nn.layers.reshape import QReshape
from qfx.nn.qtensor import QTensor


class QSlice(FixedLayer):
    """x[:, start:stop:step, ...] on every axis behind the batch."""

    starts: tuple[int, ...]
    stops: tuple[int, ...]
    steps: tuple[int, ...]

    traits: ClassVar[Traits] = Traits(moves_only=True, keeps_grid=True, reads_uncast=False)

    def __init__(self, starts: tuple[int, ...], stops: tuple[int, ...], steps: tuple[int, ...]) -> None:
        super().__init__()
        self.starts, self.stops, self.steps = starts, stops, steps

    def forward(self, x: QTensor) -> QTensor:
        index = (slice(None), *map(slice, self.starts, self.stops, self.steps))
        if isinstance(x.interval, Interval):
            return QTensor(x.tensor()[index], x.interval)
        channels = x.interval.spread(x.shape[1])[self.starts[0] : self.stops[0] : self.steps[0]]
        return QTensor(x.tensor()[index], channelwise(channels))

    def operators(self) -> Steps:
        return [("", ops.Slice(self.starts, self.stops, self.steps))]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        x = sources[0]
        return x if x.channels == 1 else x.at(torch.arange(x.channels)[self.starts[0] : self.stops[0] : self.steps[0]])

    def scales_channels(self, channels: int) -> bool:
        return (self.starts[0], self.stops[0], self.steps[0]) == (0, channels, 1)


def _getitem(call: Call) -> Layers:
    index = call.get("index")
    index = index if isinstance(index, tuple) else (index,)
    if any(part is Ellipsis for part in index):
        at = next(at for at, part in enumerate(index) if part is Ellipsis)
        left = len(call.in_shape) + 2 - sum(part is not None for part in index)
        index = (*index[:at], *([slice(None)] * left), *index[at + 1 :])
    listed = [at for at, part in enumerate(index) if isinstance(part, list | tuple | torch.Tensor | fx.Node)]
    if len(listed) == 1 and listed[0] > 0 and all(part == slice(None) for at, part in enumerate(index) if at != listed[0]):
        axis = listed[0] - 1
        return taken(call, {axis: constant_indices(call, index[listed[0]], call.in_shape[axis])}, call.in_shape)
    index = (index[0], *(part for part in index[1:] if part is not None))  # new axes: out_shape has them
    if not all(isinstance(part, slice | int) for part in index) or index[0] != slice(None):
        raise call.refuse(f"indexing with {index}", "use slices with steps, and take the whole batch")
    ranges = []
    for axis, size in enumerate(call.in_shape):
        part = index[axis + 1] if axis + 1 < len(index) else slice(None)
        if isinstance(part, int):
            part = slice(part % size, part % size + 1)
        start, stop, step = part.indices(size)
        ranges.append((start, stop, step))
    starts, stops, steps = zip(*ranges, strict=True)
    sliced = tuple(len(range(*r)) for r in ranges)
    layers: list[FixedLayer] = [QSlice(starts, stops, steps)] if sliced != call.in_shape else []
    return layers if sliced == call.out_shape else [*layers, QReshape(call.out_shape)]


FAMILY = Family(layers=(QSlice, QReshape, QTake), functions={operator.getitem: ("input index", _getitem)}, takes_constants=True)
