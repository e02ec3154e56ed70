"""Slices of one axis in another order: ``flip``, ``roll``, ``index_select``, and whatever else repeats or leaves out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from qfx import operators as ops
from qfx.fixed.arith import channelwise
from qfx.nn.call import Call, Family, Layers
from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import FixedLayer, Steps, Traits
from qfx.nn.layers.reshape import QReshape
from qfx.nn.qtensor import QTensor


class QTake(FixedLayer):
    """``x.index_select(axis + 1, indices)``: any order, any number of times; ``axis`` leaves the batch out. The gradient of a slice is the sum over
    all places that took it."""

    axis: int
    indices: tuple[int, ...]

    traits: ClassVar[Traits] = Traits(moves_only=True, keeps_grid=True, reads_uncast=False)

    def __init__(self, axis: int, indices: tuple[int, ...]) -> None:
        super().__init__()
        self.axis, self.indices = axis, indices

    def forward(self, x: QTensor) -> QTensor:
        value, interval = x.tensor(), x.interval
        if self.axis == 0:
            each = interval.spread(x.shape[1])
            interval = channelwise(each[index] for index in self.indices)
        return QTensor(value.index_select(self.axis + 1, torch.tensor(self.indices, device=value.device)), interval)

    def operators(self) -> Steps:
        return [("", ops.Take(self.axis, self.indices))]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        x = sources[0]
        return x if self.axis or x.channels == 1 else x.at(torch.tensor(self.indices, device=x.mean.device))

    def scales_channels(self, channels: int) -> bool:
        return self.axis > 0 or self.indices == tuple(range(channels))


def taken(call: Call, orders: dict[int, Sequence[int]], shape: tuple[int, ...]) -> list[FixedLayer]:
    """The layers that take ``orders`` along the axes of a value of ``shape`` (the batch left out), and bring the result into the call's shape."""
    layers: list[FixedLayer] = []
    found = list(shape)
    for axis, order in sorted(orders.items()):
        indices = tuple(int(index) for index in order)
        if indices != tuple(range(found[axis])):
            layers.append(QTake(axis, indices))
        found[axis] = len(indices)
    return layers if tuple(found) == call.out_shape else [*layers, QReshape(call.out_shape)]


def border_orders(shape: tuple[int, ...], sides: Sequence[int], mode: str) -> dict[int, Sequence[int]]:
    """What to take along each axis so that ``sides`` (as in F.pad) are padded by the value's own numbers: torch's own answer for the numbers of an
    axis."""
    orders: dict[int, Sequence[int]] = {}
    for place, pair in enumerate(zip(sides[::2], sides[1::2], strict=True)):
        axis = len(shape) - 1 - place
        numbers = torch.arange(shape[axis], dtype=torch.float64).reshape(1, 1, -1)
        orders[axis] = F.pad(numbers, pair, mode).reshape(-1).long().tolist()
    return orders


def axis_of(call: Call, dim: int) -> int:
    """An axis as torch counts it, the batch left out. Refuses the batch."""
    axis = dim % (len(call.in_shape) + 1)
    if axis == 0:
        raise call.refuse(f"{call.name} along the batch", "let every sample be worked on alone: use another axis")
    return axis - 1


def _numbers(value: Any) -> tuple[int, ...]:
    """What was given as one number, several, or a tuple behind a star."""
    if isinstance(value, int):
        return (value,)
    flat = tuple(value)
    return _numbers(flat[0]) if len(flat) == 1 and not isinstance(flat[0], int) else flat


def constant_indices(call: Call, value: Any, size: int) -> tuple[int, ...]:
    """Indices of an axis of ``size`` that are known beforehand: a list, or an integer tensor of one axis."""
    if isinstance(value, fx.Node):
        value = call.traced.fixed.get(value, value)
    if isinstance(value, nn.Parameter | Tensor):
        if value.dtype is torch.bool:
            value = value.nonzero().reshape(-1)
        value = value.reshape(-1).tolist() if value.dim() <= 1 else value
    if not isinstance(value, list | tuple) or not value or not all(isinstance(index, int) and -size <= index < size for index in value):
        raise call.refuse(f"{call.name} by {value}", f"give constant numbers of {-size} to {size - 1}: a list, or an integer tensor that is a buffer")
    return tuple(index % size for index in value)


def _flip(call: Call) -> Layers:
    axes = [axis_of(call, dim) for dim in _numbers(call.get("dims"))]
    return taken(call, {axis: range(call.in_shape[axis])[::-1] for axis in axes}, call.in_shape)


def _fliplr(call: Call) -> Layers:
    return taken(call, {0: range(call.in_shape[0])[::-1]}, call.in_shape)


def _roll(call: Call) -> Layers:
    shifts, dims = _numbers(call.get("shifts")), call.get("dims")
    if dims is None or not _numbers(dims):
        raise call.refuse("roll without dims, which rolls the batch too", "say along which axes (dims=)")
    orders: dict[int, Sequence[int]] = {}
    for shift, dim in zip(shifts, _numbers(dims), strict=True):
        axis = axis_of(call, dim)
        orders[axis] = torch.tensor(orders.get(axis, range(call.in_shape[axis]))).roll(shift).tolist()
    return taken(call, orders, call.in_shape)


def _index_select(call: Call) -> Layers:
    axis = axis_of(call, call.get("dim"))
    return taken(call, {axis: constant_indices(call, call.get("index"), call.in_shape[axis])}, call.in_shape)


def _select(call: Call) -> Layers:
    axis = axis_of(call, call.get("dim"))
    return taken(call, {axis: constant_indices(call, [call.get("index")], call.in_shape[axis])}, call.in_shape)


def _narrow(call: Call) -> Layers:
    axis, start = axis_of(call, call.get("dim")), call.get("start")
    start += call.in_shape[axis] if start < 0 else 0
    return taken(call, {axis: range(start, start + call.get("length"))}, call.in_shape)


def _repeat_interleave(call: Call) -> Layers:
    times, dim = call.get("repeats"), call.get("dim")
    if not isinstance(times, int) or dim is None:
        raise call.refuse("repeat_interleave by several numbers, or without dim", "give one number of repeats, and the axis (dim=)")
    axis = axis_of(call, dim)
    return taken(call, {axis: [index for index in range(call.in_shape[axis]) for _ in range(times)]}, call.in_shape)


def _repeat(call: Call) -> Layers:
    repeats = _numbers(call.get("repeats", call.get("dims")))
    inner = (1,) * (len(call.out_shape) - len(call.in_shape)) + call.in_shape
    repeats = (1,) * (len(inner) + 1 - len(repeats)) + repeats
    if repeats[0] != 1 or len(inner) != len(call.in_shape):
        raise call.refuse(f"{call.name} by {repeats}", "repeat no batch, and add axes by unsqueeze first")
    return taken(call, {axis: [*range(size)] * count for axis, (size, count) in enumerate(zip(inner, repeats[1:], strict=True))}, inner)


def _expand(call: Call) -> Layers:
    if len(call.in_shape) != len(call.out_shape):
        raise call.refuse(f"{call.name} to more axes", "add axes by unsqueeze first, the batch in front")
    sizes = enumerate(zip(call.in_shape, call.out_shape, strict=True))
    return taken(call, {axis: [0] * out for axis, (size, out) in sizes if size != out}, call.in_shape)


def _channel_shuffle(call: Call) -> Layers:
    channels, groups = call.in_shape[0], call.get("groups")
    order = torch.arange(channels).reshape(groups, channels // groups).T.reshape(-1).tolist()
    return taken(call, {0: order}, call.in_shape)


FAMILY = Family(
    layers=(QTake, QReshape),
    modules={nn.ChannelShuffle: _channel_shuffle},
    functions={
        torch.flip: ("input dims", _flip),
        torch.fliplr: ("input", _fliplr),
        torch.roll: ("input shifts dims", _roll),
        torch.index_select: ("input dim index", _index_select),
        torch.select: ("input dim index", _select),
        torch.narrow: ("input dim start length", _narrow),
        torch.repeat_interleave: ("input repeats dim", _repeat_interleave),
        torch.tile: ("input dims", _repeat),
        torch.broadcast_to: ("input size", _expand),
        torch.channel_shuffle: ("input groups", _channel_shuffle),
    },
    methods={
        "flip": ("input *dims", _flip),
        "fliplr": ("input", _fliplr),
        "roll": ("input shifts dims", _roll),
        "index_select": ("input dim index", _index_select),
        "select": ("input dim index", _select),
        "narrow": ("input dim start length", _narrow),
        "repeat_interleave": ("input repeats dim", _repeat_interleave),
        "repeat": ("input *repeats", _repeat),
        "tile": ("input *dims", _repeat),
        "expand": ("input *size", _expand),
        "broadcast_to": ("input size", _expand),
    },
    takes_constants=True,
)
