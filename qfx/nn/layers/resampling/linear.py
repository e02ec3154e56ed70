"""Linear and bilinear interpolation: along each axis a fixed linear map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from qfx import operators as ops
from qfx.fixed.arith import Bounds, Interval
from qfx.nn.call import Call, Layers, Part
from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import FixedLayer, Steps, Traits
from qfx.nn.layers.elementwise.held import Held, HeldConstant
from qfx.nn.layers.moving.take import QTake
from qfx.nn.qtensor import QTensor, dtype_of
from qfx.recipe import Recipe

MODES = ("linear", "bilinear")
_REMEDY = "use mode='nearest' or mode='bilinear', or a ConvTranspose, which learns what to put between the pixels"
_SUFFIXES = ("_rows", "_columns")
"""Of the layer of an axis that is not the last one worked on."""


@dataclass(frozen=True, eq=False)
class Line:
    """Where the numbers along one axis come from: number i of the result is the sum over taps of ``weights[i, tap] * x[indices[i][tap]]``.
    ``weights``: (result, taps), float64."""

    indices: tuple[tuple[int, ...], ...]
    weights: Tensor

    @classmethod
    def of(cls, matrix: Tensor) -> Line:
        """From the matrix (result, input) of the map: as many taps as its fullest row has; others name a neighbour, with a weight of 0."""
        taps, size = int((matrix != 0).sum(1).max()), matrix.shape[1]
        first = [min(int(row.nonzero()[0]), size - taps) for row in matrix]
        indices = tuple(tuple(range(start, start + taps)) for start in first)
        return cls(indices, matrix.gather(1, torch.tensor(indices)))

    @property
    def taps(self) -> int:
        return self.weights.shape[1]

    @property
    def order(self) -> tuple[int, ...]:
        return tuple(index for each in self.indices for index in each)

    @property
    def only_takes(self) -> bool:
        """Whether every number of the result is one of the input's."""
        return self.taps == 1 and bool((self.weights == 1).all())


class QInterpolate(FixedLayer):
    """Each number along one axis a sum of neighbours times constants by position, exact; the constants are cast, of role ``constant``, where the word
    does not hold them as they are. Gradients: those of the sum, to the input; those of the cast, to the constants' binary point."""

    axis: int
    order: tuple[int, ...]
    taps: int
    rank: int
    moves: bool
    constant: HeldConstant

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=False, reads_uncast=False)

    def __init__(self, axis: int, line: Line, shape: tuple[int, ...], recipe: Recipe, name: str, first: str = "") -> None:
        """``axis``: without the batch; not that of the channels. ``shape``: of the value that it reads. ``first``: what the layer is called in the
        first call of its module, where this is a later one."""
        super().__init__()
        self.axis, self.order, self.taps, self.rank = axis, line.order, line.taps, len(shape) - 1
        self.moves = self.order != tuple(range(shape[axis]))
        own, also = f"{name}.constant", f"{first or name}.constant"
        spec = recipe.spec(own, "constant", also)
        spec = replace(spec, signed=False) if spec.signed is None else spec  # no weight is negative
        self.constant = HeldConstant(_held(line.weights, axis, self.rank), spec, own, also)

    def initialize(self, x: QTensor) -> None:
        self.constant.initialize(None)

    def forward(self, x: QTensor) -> QTensor:
        weights: QTensor = self.constant()
        interval = (x.interval * self._bounds(weights)).times(self.taps)
        value, dim = x.tensor(), self.axis + 1
        dtype = dtype_of(interval, torch.promote_types(value.dtype, weights.value.dtype), where=self.name)
        if self.moves:
            value = value.index_select(dim, torch.tensor(self.order, device=value.device))
        weighted = value.to(dtype) * weights.value.to(dtype)
        shape = (*weighted.shape[:dim], -1, self.taps, *weighted.shape[dim + 1 :])
        return QTensor(weighted.reshape(shape).sum(dim + 1), interval)

    def _bounds(self, weights: QTensor) -> Bounds:
        """What bounds the constants: those that stay are shorter than their word."""
        if not self.constant.exact:
            return weights.interval
        grid = weights.interval.hull.frac_bits
        least, greatest = torch.ldexp(torch.stack(weights.value.detach().double().aminmax()), torch.tensor(grid)).tolist()
        return Interval(int(least), int(greatest), grid)

    def operators(self) -> Steps:
        taken: Steps = [(".taken", ops.Take(self.axis, self.order))] if self.moves else []
        window = tuple(self.taps if axis == self.axis else 1 for axis in range(1, self.rank + 1))
        weighted = ops.Affine(self.constant.const(f"{self.name}.constant"), None)
        return [*taken, (".weighted", weighted), ("", ops.SumPool(window, window, ((0, 0),) * self.rank))]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        return sources[0]  # the weights of each number add up to 1

    def scales_channels(self, channels: int) -> bool:
        return True

    def bits_added(self, recipe: Recipe) -> int:
        return recipe.constant.width + 1


class QInterpolateFurther(QInterpolate):
    """The same along a second axis, which reads what the first gives as it is."""

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=False, reads_uncast=True)


def _held(weights: Tensor, axis: int, rank: int) -> Held:
    """The weights as a constant beside the value that is taken: one number where they are equal."""
    flat = weights.flatten()
    if bool((flat == flat[0]).all()):
        return Held(float(flat[0]))
    shape = tuple(-1 if place == axis else 1 for place in range(rank + 1))
    return Held(flat.reshape(shape)).shaped(tuple(flat.reshape(shape).shape))


def interpolated(call: Call) -> Layers:
    """The layers of F.interpolate by a linear mode, one an axis: those that only take numbers first, then those that leave fewest."""
    mode, size, result = str(call.get("mode")), call.in_shape[1:], call.out_shape[1:]
    if mode not in MODES or len(size) > 2:
        raise call.refuse(f"upsampling by mode={mode!r}", _REMEDY)
    if call.get("antialias", False):
        raise call.refuse(f"interpolation by mode={mode!r} with antialias", "train with antialias=False, or make it smaller by average pooling")
    lines = {axis: _line(call, axis) for axis in range(1, len(size) + 1)}
    axes = [axis for axis, line in lines.items() if not (line.only_takes and line.order == tuple(range(size[axis - 1])))]
    axes.sort(key=lambda axis: (not lines[axis].only_takes, result[axis - 1] / size[axis - 1]))
    parts: list[Part] = []
    shape = list(call.in_shape)
    for axis in axes:
        line, suffix = lines[axis], "" if axis == axes[-1] else _SUFFIXES[axis - 1]
        source: int | Part = parts[-1] if parts else 0
        if line.only_takes:
            layer: FixedLayer = QTake(axis, line.order)
        else:
            first = f"{call.first}{suffix}" if call.first else ""
            kind = QInterpolateFurther if parts and isinstance(parts[-1].layer, QInterpolate) else QInterpolate
            layer = kind(axis, line, tuple(shape), call.recipe, f"{call.path}{suffix}", first)
        parts.append(Part(layer, (source,), suffix))
        shape[axis] = result[axis - 1]
    return parts


def _line(call: Call, axis: int) -> Line:
    """What torch computes along one axis, from what it makes of the unit vectors."""
    unit = torch.eye(call.in_shape[axis], dtype=torch.float64)[:, None]
    size, factor = _of_axis(call.get("size"), axis), _of_axis(call.get("scale_factor"), axis)
    if size is None and factor is None:
        size = call.out_shape[axis]
    corners, again = call.get("align_corners"), call.get("recompute_scale_factor")
    found = F.interpolate(unit, size, factor, "linear", align_corners=corners, recompute_scale_factor=again)
    return Line.of(found[:, 0].T)


def _of_axis(given: Any, axis: int) -> Any:
    return given[axis - 1] if isinstance(given, list | tuple) else given
