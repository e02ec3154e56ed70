"""Convolution over one or two axes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from qfx import operators as ops
from qfx.nn.backends import sums_of_products
from qfx.nn.call import Call, Family, Layers, Part
from qfx.nn.fixed_layer import Steps
from qfx.nn.layers.moving.take import QTake, border_orders
from qfx.nn.layers.weighted import Weighted
from qfx.operators import Const
from qfx.recipe import Recipe


class QConv(Weighted):
    """``torch.nn.Conv1d`` or ``Conv2d`` (stride, zero padding, dilation, groups), exact before its result is cast."""

    def __init__(self, source: nn.Conv1d | nn.Conv2d, recipe: Recipe, name: str) -> None:
        super().__init__(source, recipe, name)
        self.stride, self.dilation, self.groups = tuple(source.stride), tuple(source.dilation), source.groups
        self.pads = conv_pads(source)

    def _operator(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding = tuple(before for before, _ in self.pads)
        if any(before != after for before, after in self.pads):
            x, padding = F.pad(x, [side for pair in reversed(self.pads) for side in pair]), (0,) * len(self.pads)
        conv = F.conv1d if weight.dim() == 3 else F.conv2d
        with sums_of_products(x.device.type):
            return conv(x, weight, bias, self.stride, padding, self.dilation, self.groups)

    def lowered(self, weight: Const, bias: Const | None) -> Steps:
        return [("", ops.Conv(weight, bias, self.stride, self.pads, self.dilation, self.groups))]

    def input_rows(self, x: Tensor) -> Tensor:
        return unfolded(x, self.groups, tuple(self.weight.shape[2:]), self.stride, self.pads, self.dilation)


def conv_pads(source: nn.Conv1d | nn.Conv2d) -> tuple[tuple[int, int], ...]:
    """(before, after) zeros for each spatial axis, with "same" and "valid" spelled out as PyTorch does."""
    if source.padding == "valid":
        return ((0, 0),) * len(source.kernel_size)
    if source.padding == "same":
        totals = [d * (k - 1) for d, k in zip(source.dilation, source.kernel_size, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((int(p), int(p)) for p in source.padding)


def unfolded(
    x: Tensor, groups: int, kernel: tuple[int, ...], stride: tuple[int, ...], pads: tuple[tuple[int, int], ...], dilation: tuple[int, ...]
) -> Tensor:
    """What the windows of a convolution hold, as (groups, batch * positions, channels / groups * taps). A negative pad crops."""
    if x.dim() == 3:  # a length is an image of height 1
        return unfolded(x.unsqueeze(2), groups, (1, *kernel), (1, *stride), ((0, 0), *pads), (1, *dilation))
    x = F.pad(x, [side for pair in reversed(pads) for side in pair])
    columns = F.unfold(x, kernel, dilation=dilation, stride=stride)  # (batch, channels * taps, positions)
    batch, _, positions = columns.shape
    return columns.reshape(batch, groups, -1, positions).permute(1, 0, 3, 2).reshape(groups, batch * positions, -1)


def _conv(call: Call) -> Layers:
    assert isinstance(call.module, nn.Conv1d | nn.Conv2d)
    layer = QConv(call.module, call.recipe, call.path)
    if call.module.padding_mode == "zeros" or not any(map(any, layer.pads)):
        return [layer]
    sides = [side for pair in reversed(layer.pads) for side in pair]
    orders = border_orders(call.in_shape, sides, call.module.padding_mode)
    layer.pads = ((0, 0),) * len(layer.pads)  # the border holds numbers of the value: another layer's work
    parts: list[Part] = []
    for axis, order in sorted(orders.items()):
        if len(order) != call.in_shape[axis]:
            parts.append(Part(QTake(axis, tuple(order)), (parts[-1] if parts else 0,), f"_border_{axis}"))
    return [*parts, Part(layer, (parts[-1] if parts else 0,))]


FAMILY = Family(layers=(QConv, QTake), modules={nn.Conv1d: _conv, nn.Conv2d: _conv})
