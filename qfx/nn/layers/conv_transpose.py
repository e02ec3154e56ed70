"""Transposed convolution over one, two or three axes."""

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
from qfx.nn.layers.conv import Geometry, unfolded
from qfx.nn.layers.products.weights import Weights, weights_of
from qfx.nn.layers.weighted import Weighted
from qfx.operators import Const
from qfx.recipe import Recipe

Source = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
"""The modules of torch."""


class QConvTranspose(Weighted):
    """``torch.nn.ConvTranspose1d``, ``ConvTranspose2d`` or ``ConvTranspose3d`` (stride, padding, output padding, dilation, groups), exact before its
    result is cast. ``geometry``: of ``Weights``, which do not tell it; its pads are the same on both sides.

    ``weight`` keeps PyTorch's shape (in, out / groups, *kernel). It is cast as (out, in / groups, *kernel), so that a binary point per channel is one
    per output channel, as for every other layer. ``size``: the spatial size of the input; UnsupportedError for another.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]
    groups: int
    size: tuple[int, ...]
    output_padding: tuple[int, ...]

    def __init__(
        self,
        source: Source | Weights,
        size: tuple[int, ...],
        output_padding: tuple[int, ...],
        recipe: Recipe,
        name: str,
        geometry: Geometry | None = None,
    ) -> None:
        super().__init__(source, recipe, name)
        if geometry is None:
            if isinstance(source, Weights):
                raise TypeError("weights have no geometry of their own")
            geometry = _geometry(source)
        self.kernel, self.stride, self.dilation = tuple(source.weight.shape[2:]), geometry.stride, geometry.dilation
        self.padding = tuple(before for before, _ in geometry.pads)
        self.groups, self.size, self.output_padding = geometry.groups, size, output_padding

    @property
    def pads(self) -> tuple[tuple[int, int], ...]:
        """(before, after) for each spatial axis: the layer is a convolution, by the flipped weight at stride 1, of its input with stride - 1 zeros
        between the pixels and so many around them. A negative number crops."""
        axes = zip(self.kernel, self.dilation, self.padding, self.output_padding, strict=True)
        return tuple((d * (k - 1) - p, d * (k - 1) - p + extra) for k, d, p, extra in axes)

    def as_cast(self, weight: Tensor) -> Tensor:
        return _swap_in_groups(weight, self.groups)

    def set_cast_weight(self, weight: Tensor) -> None:
        with torch.no_grad():
            self.weight.copy_(_swap_in_groups(weight, self.groups))

    def _operator(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if tuple(x.shape[2:]) != self.size:
            raise UnsupportedError(
                f"is called on {self.size} and on {tuple(x.shape[2:])}", where=self.name, remedy="give each call a module of its own"
            )
        conv = {3: F.conv_transpose1d, 4: F.conv_transpose2d, 5: F.conv_transpose3d}[weight.dim()]
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


def _geometry(source: Source) -> Geometry:
    pads = tuple((int(p), int(p)) for p in source.padding)
    return Geometry(tuple(source.stride), pads, tuple(source.dilation), source.groups)


def _conv_transpose(call: Call) -> Layers:
    assert isinstance(call.module, Source)
    return _transposed(call, call.module, _geometry(call.module))


def _functional(call: Call) -> Layers:
    """F.conv_transpose1d and its kin, by tensors that the model holds."""
    source, rank = weights_of(call, call.arguments.get("weight"), call.arguments.get("bias")), call.spatial_rank()
    stride, padding, dilation = (call.sizes(name, default, rank) for name, default in (("stride", 1), ("padding", 0), ("dilation", 1)))
    geometry = Geometry(stride, tuple((p, p) for p in padding), dilation, int(call.get("groups", 1)))
    return _transposed(call, source, geometry)


def _transposed(call: Call, source: Source | Weights, geometry: Geometry) -> Layers:
    call.spatial_rank()
    size, kernel = call.in_shape[1:], tuple(source.weight.shape[2:])
    axes = zip(size, kernel, geometry.stride, geometry.pads, geometry.dilation, strict=True)
    least = tuple((n - 1) * s + d * (k - 1) + 1 - 2 * p for n, k, s, (p, _), d in axes)
    extra = tuple(out - n for out, n in zip(call.out_shape[1:], least, strict=True))  # output_padding, or what output_size asked for
    return [QConvTranspose(source, size, extra, call.recipe, call.path, geometry)]


FAMILY = Family(
    layers=(QConvTranspose,),
    modules={nn.ConvTranspose1d: _conv_transpose, nn.ConvTranspose2d: _conv_transpose, nn.ConvTranspose3d: _conv_transpose},
    functions=dict.fromkeys(
        (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), ("input weight bias stride padding output_padding groups dilation", _functional)
    ),
    takes_constants=True,
    multiplies=True,
)
