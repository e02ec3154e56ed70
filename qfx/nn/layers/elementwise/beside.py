"""Constants beside a value: joined to it along an axis, or all around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from qfx import operators as ops
from qfx.capture.traced import called
from qfx.fixed.arith import Bounds, channelwise
from qfx.nn.call import Call
from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import FixedLayer, Steps, Traits, constant
from qfx.nn.layers.elementwise.held import Held, HeldConstant, held
from qfx.nn.qtensor import QTensor
from qfx.nn.quantizer import finest
from qfx.recipe import Recipe

Pads = tuple[tuple[int, int], ...]


class _Beside(FixedLayer, abstract=True):
    """It has one constant, of role ``constant``, with one binary point, which starts no finer than the value's grid: the result then lies on that."""

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=True, reads_uncast=False)

    constant: HeldConstant

    def __init__(self, source: Held, recipe: Recipe, name: str, first: str = "") -> None:
        """``first``: what the layer is called in the first call of its module, where this is a later one."""
        super().__init__()
        own, also = f"{name}.constant", f"{first or name}.constant"
        self.constant = HeldConstant(source, replace(recipe.spec(own, "constant", also), granularity="tensor"), own, also)

    def initialize(self, x: QTensor) -> None:
        self.constant.cast.initialize(self.constant.real().detach(), most=finest(x.interval.hull))

    def scales_channels(self, channels: int) -> bool:
        return False


class QBeside(_Beside):
    """The value and a constant joined along ``axis`` (the batch left out), the constant ``behind`` it or before it; exact. Gradients: those of the
    two parts."""

    axis: int
    shape: tuple[int, ...]
    size: int
    behind: bool

    def __init__(self, source: Held, axis: int, shape: tuple[int, ...], size: int, behind: bool, recipe: Recipe, name: str, first: str = "") -> None:
        """``shape``: that of the value that it reads; ``size``: what the constant takes of the axis."""
        super().__init__(source, recipe, name, first)
        self.axis, self.shape, self.size, self.behind = axis, shape, size, behind

    def _beside(self) -> QTensor:
        """The constant in its place: (1, ...), on its grid."""
        cast: QTensor = self.constant()
        value = cast.value
        rank = len(self.shape)
        if value.dim() == 1:
            value = value.reshape(-1, *(1,) * (rank - 1))
        sizes = (*self.shape[: self.axis], self.size, *self.shape[self.axis + 1 :])
        return QTensor(value.expand(sizes).unsqueeze(0), cast.interval)

    def forward(self, x: QTensor) -> QTensor:
        beside, value = self._beside(), x.tensor()
        dtype = torch.promote_types(value.dtype, beside.value.dtype)
        parts = [value.to(dtype), beside.value.to(dtype).expand(len(value), *beside.shape[1:])]
        joined = torch.cat(parts if self.behind else parts[::-1], self.axis + 1)
        return QTensor(joined, self._bounds(x.interval, beside.interval.hull))

    def _bounds(self, x: Bounds, beside: Bounds) -> Bounds:
        if self.axis:
            return x | beside
        each = [*x.spread(self.shape[0])], [*beside.spread(self.size)]
        return channelwise(bound for part in (each if self.behind else each[::-1]) for bound in part)

    def operators(self) -> Steps:
        room = [(0, 0)] * len(self.shape)
        room[self.axis] = (0, self.size) if self.behind else (self.size, 0)
        before = [0] * len(self.shape)
        before[self.axis] = self.shape[self.axis]
        whole = F.pad(self._beside().value[0], [side for size in reversed(before) for side in ((size, 0) if self.behind else (0, size))])
        return [(".room", ops.Pad(tuple(room))), ("", ops.Affine(None, constant(whole, f"{self.name}.constant")))]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        rows = self._beside().value[0].detach().double()
        x = sources[0]
        if self.axis == 0:
            mean, std = rows.flatten(1).mean(1), rows.flatten(1).std(1, unbiased=False)
            own, x = Clipped.normal(mean, std), x.expanded(self.shape[0])
            parts = (x, own) if self.behind else (own, x)
            return Clipped(*(torch.cat([getattr(part, name) for part in parts]) for name in ("mean", "std", "low", "high")))
        share = self.size / (self.size + self.shape[self.axis])
        mean, variance = x.expanded(self.shape[0]).moments()
        first = share * rows.flatten(1).mean(1) + (1 - share) * mean
        second = share * rows.flatten(1).square().mean(1) + (1 - share) * (variance + mean.square())
        return Clipped.normal(first, (second - first.square()).clamp(min=0).sqrt())


class QFill(_Beside):
    """One number around every axis behind the batch, (before, after) each; exact. Gradient: that of what is inside."""

    traits: ClassVar[Traits] = Traits(moves_only=True, keeps_grid=True, reads_uncast=False)

    def __init__(self, source: Held, pads: Pads, recipe: Recipe, name: str, first: str = "") -> None:
        super().__init__(source, recipe, name, first)
        self.pads = pads

    def forward(self, x: QTensor) -> QTensor:
        fill: QTensor = self.constant()
        dtype = torch.promote_types(x.tensor().dtype, fill.value.dtype)
        value = x.tensor().to(dtype)
        sides = [side for pair in reversed(self.pads) for side in pair]
        outside = F.pad(torch.zeros_like(value[:1]), sides, value=1.0)
        bounds = x.interval.hull if any(self.pads[0]) else x.interval
        return QTensor(F.pad(value, sides) + outside * fill.value.to(dtype), bounds | fill.interval)

    def operators(self) -> Steps:
        """Zeros around what is as much less, so that no table has an entry for every place."""
        value = self.constant().value
        less, more = (constant(sign * value, f"{self.name}.constant") for sign in (-1, 1))
        return [(".less", ops.Affine(None, less)), (".room", ops.Pad(self.pads)), ("", ops.Affine(None, more))]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        x = sources[0]
        if x.channels == 1 or self.pads[0] == (0, 0):
            return x
        number = float(self.constant().value.detach())
        return Clipped(
            *(F.pad(values, self.pads[0], value=fill) for values, fill in ((x.mean, number), (x.std, 0.0), (x.low, number), (x.high, number)))
        )


def constant_beside(call: Call, node: fx.Node, rank: int, axis: int | None) -> Held:
    """A constant that is joined to values of ``rank`` axes, along ``axis`` (None: a new one): what it was before it was repeated for every sample, or
    along other axes, so that it is kept once, and trained."""
    own = node
    while called(own) in ("expand", "repeat", "tile", "broadcast_to") and own.args and isinstance(own.args[0], fx.Node):
        value, short = call.traced.fixed.get(own), call.traced.fixed.get(own.args[0])
        if value is None or short is None or short.dim() > value.dim():
            break
        padded = short.reshape((1,) * (value.dim() - short.dim()) + tuple(short.shape))
        repeated = [place for place, (size, whole) in enumerate(zip(padded.shape, value.shape, strict=True)) if size != whole]
        if (axis is not None and axis + 1 in repeated) or any(padded.shape[place] != 1 for place in repeated):
            break
        own = own.args[0]
    found = held(call, own)
    assert found is not None  # it does not depend on the input
    return found.within(call, rank)


def is_zero(constant_: Held) -> bool:
    """Whether it is zeros for good."""
    return not constant_.trained and not bool(constant_.now().any())


def size_along(call: Call, node: fx.Node, dim: int) -> int:
    """What a constant takes of an axis."""
    value: Tensor = call.traced.fixed[node]
    return int(value.shape[dim])
