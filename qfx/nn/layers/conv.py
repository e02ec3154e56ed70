"""Convolution over one, two or three axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from qfx import operators as ops
from qfx.capture.batch.frames import OverFrames
from qfx.nn.backends import sums_of_products
from qfx.nn.call import Call, Family, Layers, Part
from qfx.nn.fixed_layer import Steps
from qfx.nn.layers.moving.take import QTake, border_orders
from qfx.nn.layers.products.weights import Form, Weights, weights_of
from qfx.nn.layers.weighted import Weighted
from qfx.operators import Const
from qfx.recipe import Recipe

Source = nn.Conv1d | nn.Conv2d | nn.Conv3d
"""The modules of torch."""


@dataclass(frozen=True)
class Geometry:
    """Stride, (before, after) zeros and dilation for each spatial axis, and the groups of channels."""

    stride: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int

    @classmethod
    def of(cls, source: Source) -> Geometry:
        return cls(tuple(source.stride), conv_pads(source), tuple(source.dilation), source.groups)


class QConv(Weighted):
    """``torch.nn.Conv1d``, ``Conv2d`` or ``Conv3d`` (stride, zero padding, dilation, groups), exact before its result is cast.
    ``geometry``: of ``Weights``, which do not tell it."""

    stride: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int

    def __init__(self, source: Source | Weights, recipe: Recipe, name: str, geometry: Geometry | None = None) -> None:
        super().__init__(source, recipe, name)
        if geometry is None:
            if isinstance(source, Weights):
                raise TypeError("weights have no geometry of their own")
            geometry = Geometry.of(source)
        self.stride, self.pads, self.dilation, self.groups = geometry.stride, geometry.pads, geometry.dilation, geometry.groups

    def _operator(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding = tuple(before for before, _ in self.pads)
        if any(before != after for before, after in self.pads):
            x, padding = F.pad(x, [side for pair in reversed(self.pads) for side in pair]), (0,) * len(self.pads)
        conv = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[weight.dim()]
        with sums_of_products(x.device.type):
            return conv(x, weight, bias, self.stride, padding, self.dilation, self.groups)

    def lowered(self, weight: Const, bias: Const | None) -> Steps:
        return [("", ops.Conv(weight, bias, self.stride, self.pads, self.dilation, self.groups))]

    def input_rows(self, x: Tensor) -> Tensor:
        return unfolded(x, self.groups, tuple(self.cast_weight().shape[2:]), self.stride, self.pads, self.dilation)


class QConvOverFrames(QConv):
    """A convolution of images over (batch, channels, frames, height, width), every frame alone: a kernel of length 1 along the frames. The graph has
    the channels of all frames side by side, and the same weights for each frame's."""

    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]

    def __init__(self, source: Weights, call: Call, geometry: Geometry) -> None:
        super().__init__(source, call.recipe, call.path, geometry)
        self.in_shape, self.out_shape = call.in_shape, call.out_shape

    def lowered(self, weight: Const, bias: Const | None) -> Steps:
        (channels, frames, *size), (outputs, _, *result) = self.in_shape, self.out_shape
        apart = Const(weight.raw[:, :, 0], weight.frac_bits)
        each = ops.Conv(
            _for_each(apart, frames),
            None if bias is None else _for_each(bias, frames),
            self.stride[1:], self.pads[1:], self.dilation[1:], self.groups * frames,
        )  # fmt: skip
        before: Steps = [(".turned", ops.Transpose((1, 0, 2, 3))), (".beside", ops.Reshape((frames * channels, *size)))]
        return [*before, (".each", each), (".apart", ops.Reshape((frames, outputs, *result))), ("", ops.Transpose((1, 0, 2, 3)))]


def _for_each(constant: Const, frames: int) -> Const:
    """The rows of a constant, once for each frame."""
    grids = constant.frac_bits if isinstance(constant.frac_bits, int) else constant.frac_bits * frames
    return Const(np.concatenate([constant.raw] * frames), grids)


def spelled_out(padding: str | Sequence[int], kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """(before, after) zeros for each spatial axis, with "same" and "valid" spelled out as PyTorch does."""
    if padding == "valid":
        return ((0, 0),) * len(kernel)
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((int(p), int(p)) for p in padding)


def conv_pads(source: Source) -> tuple[tuple[int, int], ...]:
    """(before, after) zeros for each spatial axis of a torch module."""
    return spelled_out(source.padding, tuple(source.kernel_size), tuple(source.dilation))


def unfolded(
    x: Tensor, groups: int, kernel: tuple[int, ...], stride: tuple[int, ...], pads: tuple[tuple[int, int], ...], dilation: tuple[int, ...]
) -> Tensor:
    """What the windows of a convolution hold, as (groups, batch * positions, channels / groups * taps). A negative pad crops."""
    if x.dim() == 3:  # a length is an image of height 1
        return unfolded(x.unsqueeze(2), groups, (1, *kernel), (1, *stride), ((0, 0), *pads), (1, *dilation))
    x = F.pad(x, [side for pair in reversed(pads) for side in pair])
    if x.dim() == 5:
        return _volumes(x, groups, kernel, stride, dilation)
    columns = F.unfold(x, kernel, dilation=dilation, stride=stride)  # (batch, channels * taps, positions)
    batch, _, positions = columns.shape
    return columns.reshape(batch, groups, -1, positions).permute(1, 0, 3, 2).reshape(groups, batch * positions, -1)


def _volumes(x: Tensor, groups: int, kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]) -> Tensor:
    """``unfolded`` for three axes, which are padded already."""
    for axis, (size, step, apart) in enumerate(zip(kernel, stride, dilation, strict=True), start=2):
        x = x.unfold(axis, apart * (size - 1) + 1, step)
        x = x[..., ::apart]
    batch, channels = x.shape[:2]
    x = x.reshape(batch, groups, channels // groups, math.prod(x.shape[2:5]), math.prod(kernel))
    return x.permute(1, 0, 3, 2, 4).reshape(groups, -1, channels // groups * math.prod(kernel))


def _conv(call: Call) -> Layers:
    assert isinstance(call.module, Source)
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


def _over_frames(call: Call) -> Layers:
    """Frames as an axis in front of the spatial ones: a kernel of length 1 along it."""
    assert isinstance(call.module, OverFrames)
    conv: Source = call.module.__dict__["conv"]
    weight, own = conv.weight, Geometry.of(conv)
    form = Form(tuple(range(weight.dim())), (*weight.shape[:2], 1, *weight.shape[2:]))
    origins = {role: f"{call.node.target}.{role}" for role in ("weight", "bias")}
    geometry = Geometry((1, *own.stride), ((0, 0), *own.pads), (1, *own.dilation), own.groups)
    source = Weights(weight, conv.bias, form, origins)
    return [QConv(source, call.recipe, call.path, geometry) if weight.dim() == 3 else QConvOverFrames(source, call, geometry)]


def _functional(call: Call) -> Layers:
    """F.conv1d and its kin, by tensors that the model holds."""
    source = weights_of(call, call.arguments.get("weight"), call.arguments.get("bias"))
    kernel = tuple(source.weight.shape[2:])
    rank = len(kernel)
    stride, dilation = call.sizes("stride", 1, rank), call.sizes("dilation", 1, rank)
    padding = call.get("padding", 0)
    pads = spelled_out(padding if isinstance(padding, str) else call.sizes("padding", 0, rank), kernel, dilation)
    return [QConv(source, call.recipe, call.path, Geometry(stride, pads, dilation, int(call.get("groups", 1))))]


_ARGUMENTS = "input weight bias stride padding dilation groups"

FAMILY = Family(
    layers=(QConv, QConvOverFrames, QTake),
    modules={nn.Conv1d: _conv, nn.Conv2d: _conv, nn.Conv3d: _conv, OverFrames: _over_frames},
    functions=dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), (_ARGUMENTS, _functional)),
    takes_constants=True,
    multiplies=True,
)
