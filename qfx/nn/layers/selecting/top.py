"""What ranks first along an axis, and where it stands: ``argmax``, ``topk``, ``sort`` and what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from qfx import operators as ops
from qfx.capture.apart.ranked import argtopk, topk
from qfx.fixed.arith import Interval
from qfx.nn.call import Call, Family, Layers
from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import FixedLayer, Steps, Traits
from qfx.nn.layers.moving.take import axis_of
from qfx.nn.layers.reductions.reduce import finished
from qfx.nn.layers.reshape import QReshape
from qfx.nn.qtensor import QTensor


class _Ranking(FixedLayer, abstract=True):
    """The ``count`` greatest numbers along ``axis`` (the batch left out), or the least; equal ones in the order in which they stand."""

    axis: int
    count: int
    largest: bool

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=True, reads_uncast=False)

    operator: ClassVar[type[ops.TopValues] | type[ops.TopPlaces]]

    def __init__(self, axis: int, count: int, largest: bool) -> None:
        super().__init__()
        self.axis, self.count, self.largest = axis, count, largest

    def operators(self) -> Steps:
        return [("", self.operator(self.axis, self.count, self.largest))]

    def scales_channels(self, channels: int) -> bool:
        return False


class QTopValues(_Ranking):
    """The numbers, exact. Gradient: each goes back to where the number stood."""

    operator: ClassVar[type[ops.TopValues] | type[ops.TopPlaces]] = ops.TopValues

    def forward(self, x: QTensor) -> QTensor:
        interval = x.interval.hull if self.axis == 0 else x.interval
        return QTensor(topk(x.tensor(), self.count, self.axis + 1, self.largest), interval)

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        """That of all numbers: which of them are taken is not looked at."""
        return sources[0].pooled() if self.axis == 0 else sources[0]

    def scales_channels(self, channels: int) -> bool:
        return self.axis != 0


class QTopPlaces(_Ranking):
    """Where they stand on the axis, from 0: whole numbers. No gradient."""

    operator: ClassVar[type[ops.TopValues] | type[ops.TopPlaces]] = ops.TopPlaces

    def __init__(self, axis: int, count: int, largest: bool, size: int) -> None:
        """``size``: of the axis."""
        super().__init__(axis, count, largest)
        self.size = size

    def forward(self, x: QTensor) -> QTensor:
        value = x.tensor().detach()
        return QTensor(self._places(value).to(value.dtype), Interval(0, self.size - 1, 0))

    def _places(self, value: Tensor) -> Tensor:
        if self.count > 1:
            return argtopk(value, self.count, self.axis + 1, self.largest)
        find = torch.argmax if self.largest else torch.argmin  # the first of equal numbers, as torch says
        return find(value, self.axis + 1, keepdim=True)

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        """Every place as often as the others."""
        middle = torch.full((1,), (self.size - 1) / 2, dtype=torch.float64)
        return Clipped.normal(middle, torch.full_like(middle, ((self.size**2 - 1) / 12) ** 0.5)).limited(0.0, float(self.size - 1))


def _arg(largest: bool, call: Call) -> Layers:
    if call.get("dim") is None:
        raise call.refuse(f"{call.name} over all axes, the batch included", "name an axis other than the batch: dim=..., keepdim=True")
    axis = axis_of(call, call.get("dim"))
    return finished(call, QTopPlaces(axis, 1, largest, call.in_shape[axis]), (axis,))


def _argmax(call: Call) -> Layers:
    return _arg(True, call)


def _argmin(call: Call) -> Layers:
    return _arg(False, call)


def _top(call: Call) -> Layers:
    return [QTopValues(axis_of(call, call.get("dim", -1)), call.get("k"), call.arguments.get("largest", True))]


def _top_places(call: Call) -> Layers:
    axis = axis_of(call, call.get("dim", -1))
    return [QTopPlaces(axis, call.get("k"), call.arguments.get("largest", True), call.in_shape[axis])]


FAMILY = Family(
    layers=(QTopValues, QTopPlaces, QReshape),
    functions={
        torch.argmax: ("input dim keepdim", _argmax),
        torch.argmin: ("input dim keepdim", _argmin),
        topk: ("input k dim largest", _top),
        argtopk: ("input k dim largest", _top_places),
    },
    methods={"argmax": ("input dim keepdim", _argmax), "argmin": ("input dim keepdim", _argmin)},
)
