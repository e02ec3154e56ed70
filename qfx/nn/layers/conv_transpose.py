"""Transposed convolution over one or two axes."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qfx import operators as ops
from qfx.errors import UnsupportedError
from qfx.nn.backends import sums_of_products
from qfx.nn.call import Call, Family, Layers
from qfx.nn.fixed_layer import Steps
from qfx.nn.layers.conv import unfolded
from qfx.nn.layers.weighted import Weighted
from qfx.operators import Const
from qfx.recipe import Recipe


class QConvTranspose(Weighted):
    """``torch.nn.ConvTranspose1d`` or ``ConvTranspose2d`` (stride, padding, output padding, dilation, groups), exact before its result is cast.

    ``weight`` keeps PyTorch's shape (in, out / groups, *kernel). It is cast as (out, in / groups, *kernel), so that a binary point per channel is one
    per output channel, as for every other layer. ``size``: the spatial size of the input; UnsupportedError for another.
    """

    def __init__(
        self, source: nn.ConvTranspose1d | nn.ConvTranspose2d, size: tuple[int, ...], output_padding: tuple[int, ...], recipe: Recipe, name: str
    ) -> None:
        super().__init__(source, recipe, name)
        self.kernel, self.stride, self.dilation = tuple(source.kernel_size), tuple(source.stride), tuple(source.dilation)
        self.padding = tuple(int(p) for p in source.padding)
        self.groups, self.size, self.output_padding = source.groups, size, output_padding

    @property
    def pads(self) -> tuple[tuple[int, int], ...]:
        """(before, after) for each spatial axis: the layer is a convolution, by the flipped weight at stride 1, of its input with stride - 1 zeros
        between the pixels and so many around them. A negative number crops."""
        axes = zip(self.kernel, self.dilation, self.padding, self.output_padding, strict=True)
        return tuple((d * (k - 1) - p, d * (k - 1) - p + extra) for k, d, p, extra in axes)

    def cast_weight(self) -> Tensor:
        return _swap_in_groups(self.weight, self.groups)

    def set_cast_weight(self, weight: Tensor) -> None:
        with torch.no_grad():
            self.weight.copy_(_swap_in_groups(weight, self.groups))

    def _operator(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if tuple(x.shape[2:]) != self.size:
            raise UnsupportedError(
                f"is called on {self.size} and on {tuple(x.shape[2:])}", where=self.name, remedy="give each call a module of its own"
            )
        conv = F.conv_transpose1d if weight.dim() == 3 else F.conv_transpose2d
        with sums_of_products(x.device.type):
            own = _swap_in_groups(weight, self.groups)
            return conv(x, own, bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation)

    def lowered(self, weight: Const, bias: Const | None) -> Steps:
        """Output pixel o of a transposed convolution is the sum of weight[k] * x[i] over all i * stride + k * dilation - padding = o. With zeros
        between the pixels of x, i * stride counts pixels, so that this is a convolution by the flipped weight: kernel position k' = K - 1 - k meets
        pixel o - (dilation * (K - 1) - padding) + k' * dilation.
        """
        flipped = Const(np.flip(weight.raw, tuple(range(2, weight.raw.ndim))), weight.frac_bits)
        stretched = tuple((n - 1) * s + 1 for n, s in zip(self.size, self.stride, strict=True))
        steps: Steps = [] if stretched == self.size else [(".stretch", ops.Stretch(self.stride))]
        pads = self.pads
        if any(side < 0 for pair in pads for side in pair):
            around = tuple((max(before, 0), max(after, 0)) for before, after in pads)
            if any(map(any, around)):
                steps.append((".pad", ops.Pad(((0, 0), *around))))
            starts = tuple(max(-before, 0) for before, _ in pads)
            stops = tuple(n + before + after for n, (before, _), (_, after) in zip(stretched, around, pads, strict=True))
            channels = weight.shape[1] * self.groups
            steps.append((".crop", ops.Slice((0, *starts), (channels, *stops), (1,) * (len(starts) + 1))))
            pads = ((0, 0),) * len(pads)
        ones = (1,) * len(pads)
        return [*steps, ("", ops.Conv(flipped, bias, ones, pads, self.dilation, self.groups))]

    def taps(self, weight: Tensor) -> Tensor:
        return super().taps(weight) / math.prod(self.stride)  # on average over the outputs

    def input_rows(self, x: Tensor) -> Tensor:
        kernel, ones = self.kernel, (1,) * len(self.kernel)
        rows = unfolded(_stretched(x, self.stride), self.groups, kernel, ones, self.pads, self.dilation)
        return rows.reshape(*rows.shape[:2], -1, math.prod(kernel)).flip(3).flatten(2)  # it meets its taps in reverse


def _swap_in_groups(weight: Tensor, groups: int) -> Tensor:
    """(groups * a, b, *kernel) as (groups * b, a, *kernel); its own inverse."""
    return weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)


def _stretched(x: Tensor, factors: tuple[int, ...]) -> Tensor:
    """``x`` with zeros between its pixels."""
    sizes = [(size - 1) * factor + 1 for size, factor in zip(x.shape[2:], factors, strict=True)]
    result = x.new_zeros(*x.shape[:2], *sizes)
    result[(slice(None), slice(None), *(slice(None, None, factor) for factor in factors))] = x
    return result


def _conv_transpose(call: Call) -> Layers:
    source = call.module
    assert isinstance(source, nn.ConvTranspose1d | nn.ConvTranspose2d)
    size, padding = call.in_shape[1:], call.sizes("padding", 0, call.spatial_rank())
    axes = zip(size, source.kernel_size, source.stride, padding, source.dilation, strict=True)
    least = tuple((n - 1) * s + d * (k - 1) + 1 - 2 * p for n, k, s, p, d in axes)
    extra = tuple(out - n for out, n in zip(call.out_shape[1:], least, strict=True))  # output_padding, or what output_size asked for
    return [QConvTranspose(source, size, extra, call.recipe, call.path)]


FAMILY = Family(layers=(QConvTranspose,), modules={nn.ConvTranspose1d: _conv_transpose, nn.ConvTranspose2d: _conv_transpose})
