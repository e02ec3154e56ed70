"""Sums, means and extremes along axes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from qfx import operators as ops
from qfx.fixed.arith import Bounds
from qfx.nn.call import Call, Family, Layers
from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import FixedLayer, Steps, Traits, constant
from qfx.nn.layers.elementwise.extreme import maximum, minimum
from qfx.nn.layers.reshape import QReshape
from qfx.nn.qtensor import QTensor, dtype_of
from qfx.nn.quantizer import Quantizer
from qfx.recipe import Recipe

_REMEDY = "name axes other than the batch: dim=..."


class _Reduce(FixedLayer, abstract=True):
    """One number of all along ``axes`` (without the batch, ascending), which stay as axes of length 1."""

    axes: tuple[int, ...]
    count: int

    def __init__(self, axes: tuple[int, ...], shape: tuple[int, ...]) -> None:
        """``shape``: that of the value that it reads."""
        super().__init__()
        self.axes, self.count = axes, prod(shape[axis] for axis in axes)

    @property
    def dims(self) -> tuple[int, ...]:
        return tuple(axis + 1 for axis in self.axes)

    def bounds(self, x: QTensor) -> Bounds:
        """What is read: of all channels together, where they are mixed."""
        return x.interval.hull if 0 in self.axes else x.interval

    def mixed(self, x: Clipped) -> Clipped:
        return x.pooled() if 0 in self.axes else x

    def scales_channels(self, channels: int) -> bool:
        return 0 not in self.axes


class QReduceSum(_Reduce):
    """The sum, exact."""

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=False, reads_uncast=False)

    def forward(self, x: QTensor) -> QTensor:
        interval, value = self.bounds(x).times(self.count), x.tensor()
        return QTensor(value.to(dtype_of(interval, value.dtype, where=self.name)).sum(self.dims, keepdim=True), interval)

    def operators(self) -> Steps:
        return [("", ops.ReduceSum(self.axes))]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        x = self.mixed(sources[0])
        return Clipped(x.mean * self.count, x.std * self.count, x.low * self.count, x.high * self.count)


class QReduceMean(QReduceSum):
    """The mean: an exact sum times a fixed-point reciprocal; the Cast that follows is the only other rounding."""

    reciprocal_cast: Quantizer

    def __init__(self, axes: tuple[int, ...], shape: tuple[int, ...], recipe: Recipe, name: str, first: str = "") -> None:
        """``first``: what the layer is called in the first call of its module, where this is a later one."""
        super().__init__(axes, shape)
        own, also = f"{name}.reciprocal", f"{first or name}.reciprocal"
        self.reciprocal_cast = Quantizer(recipe.spec(own, "reciprocal", also), signed=False, name=own, also=also)

    def initialize(self, x: QTensor) -> None:
        self.reciprocal_cast.initialize(torch.full((), 1.0 / self.count, dtype=x.value.dtype, device=x.value.device))

    def reciprocal(self) -> QTensor:
        """The constant 1/n as the hardware sees it."""
        device = self.reciprocal_cast.frac_bits.device
        return self.reciprocal_cast(torch.full((), 1.0 / self.count, dtype=torch.float64, device=device))  # type: ignore[no-any-return]

    def forward(self, x: QTensor) -> QTensor:
        total, reciprocal = super().forward(x), self.reciprocal()
        return total.affine(reciprocal.value, None, total.interval * reciprocal.interval, where=self.name)

    def operators(self) -> Steps:
        return [(".sum", ops.ReduceSum(self.axes)), ("", ops.Affine(constant(self.reciprocal().value, "reciprocal"), None))]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        return self.mixed(sources[0])


class _Extreme(_Reduce, abstract=True):
    """The greatest or the least number, exact. The gradient is shared evenly among those that are equal, as torch.amax does."""

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=True, reads_uncast=False)

    operator: ClassVar[type[ops.ReduceMax] | type[ops.ReduceMin]]

    def forward(self, x: QTensor) -> QTensor:
        return QTensor(self.joined(x.tensor()), self.bounds(x))

    def joined(self, x: Tensor) -> Tensor:
        find = torch.amax if self.operator is ops.ReduceMax else torch.amin
        return find(x, self.dims, keepdim=True)

    def operators(self) -> Steps:
        return [("", self.operator(self.axes))]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        return self.mixed(sources[0])


class QReduceMax(_Extreme):
    """The greatest number."""

    operator: ClassVar[type[ops.ReduceMax] | type[ops.ReduceMin]] = ops.ReduceMax


class QReduceMin(_Extreme):
    """The least number."""

    operator: ClassVar[type[ops.ReduceMax] | type[ops.ReduceMin]] = ops.ReduceMin


def axes_of(call: Call) -> tuple[int, ...]:
    """The axes of ``dim``, without the batch, ascending. Refuses the batch, and a result of one number a sample without any axis."""
    rank, dims = len(call.in_shape) + 1, call.arguments.get("dim")
    if dims is None or dims == () or dims == []:
        raise call.refuse(f"{call.name} over all axes, the batch included", _REMEDY)
    axes = sorted({int(axis) % rank for axis in ((dims,) if isinstance(dims, int) else dims)})
    if axes[0] == 0:
        raise call.refuse(f"{call.name} over the batch", _REMEDY)
    if not call.out_shape:
        raise call.refuse(f"{call.name} to a single number a sample without an axis", "keep an axis: keepdim=True")
    return tuple(axis - 1 for axis in axes)


def finished(call: Call, layer: FixedLayer, axes: Iterable[int]) -> Layers:
    """The layer, and the reshaping to the result without its axes."""
    kept = tuple(1 if axis in axes else size for axis, size in enumerate(call.in_shape))
    return [layer] if call.out_shape == kept else [layer, QReshape(call.out_shape)]


def reduced_mean(call: Call) -> Layers:
    axes = axes_of(call)
    return finished(call, QReduceMean(axes, call.in_shape, call.recipe, call.path, call.first), axes)


def _sum(call: Call) -> Layers:
    axes = axes_of(call)
    return finished(call, QReduceSum(axes, call.in_shape), axes)


def _amax(call: Call) -> Layers:
    """Also torch.max: of two values, or along one axis, where the result are the values."""
    if _second(call) is not None:
        return maximum(call)
    axes = axes_of(call)
    return finished(call, QReduceMax(axes, call.in_shape), axes)


def _amin(call: Call) -> Layers:
    if _second(call) is not None:
        return minimum(call)
    axes = axes_of(call)
    return finished(call, QReduceMin(axes, call.in_shape), axes)


def _second(call: Call) -> Any:
    """The second value of torch.max(a, b), which stands where an axis may stand."""
    for name in ("other", "dim"):
        if isinstance(call.arguments.get(name), fx.Node):
            call.arguments["other"] = call.arguments[name]
            return call.arguments["other"]
    return None


_EXTREME = "input dim keepdim other"

FAMILY = Family(
    layers=(QReduceSum, QReduceMean, QReduceMax, QReduceMin, QReshape),
    functions={
        torch.sum: ("input dim keepdim", _sum),
        torch.amax: ("input dim keepdim", _amax),
        torch.amin: ("input dim keepdim", _amin),
        torch.max: (_EXTREME, _amax),
        torch.min: (_EXTREME, _amin),
    },
    methods={
        "sum": ("input dim keepdim", _sum),
        "amax": ("input dim keepdim", _amax),
        "amin": ("input dim keepdim", _amin),
        "max": (_EXTREME, _amax),
        "min": (_EXTREME, _amin),
    },
    takes_constants=True,
)
