"""Layers with weights as matrices: what a rounding pass sees of a layer, whatever its kind.

With G groups, a layer is G products ``Y = X @ W.T``: ``X`` (G, rows, K) holds what the weights of one output meet at one position, ``W`` (G, O, K)
the weights, ``Y`` (G, rows, O) the result. A row is one position of one sample.
"""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from qfx.errors import UnsupportedError
from qfx.nn.layers import QConv, QConvTranspose, QLinear, Weighted

_Pair = TypeVar("_Pair")


def groups_of(layer: Weighted) -> int:
    return layer.groups if isinstance(layer, QConv | QConvTranspose) else 1


def to_matrix(layer: Weighted, cast_weight: Tensor) -> Tensor:
    """A weight as the layer casts it (outputs on axis 0), as (G, O, K)."""
    groups = groups_of(layer)
    return cast_weight.reshape(groups, cast_weight.shape[0] // groups, -1)


def from_matrix(layer: Weighted, matrix: Tensor) -> Tensor:
    """The inverse of ``to_matrix``."""
    return matrix.reshape(layer.cast_weight().shape)


def input_rows(layer: Weighted, x: Tensor) -> Tensor:
    """``x`` (batch, ...), the layer's input, as (G, batch * positions, K): sample by sample, position by position.

    Raises UnsupportedError for a kind of layer that has no such form.
    """
    if isinstance(layer, QLinear):
        return x.unsqueeze(0)
    if not isinstance(layer, QConv | QConvTranspose):
        raise UnsupportedError(f"{type(layer).__name__} has no form as a matrix", where=layer.name, remedy="leave the layer out of this pass")
    flat = x.dim() == 3  # a length is an image of height 1
    stride = _image(layer.stride, 1, flat)
    dilation = _image(layer.dilation, 1, flat)
    pads = _image(layer.pads, (0, 0), flat)
    kernel = _image(tuple(layer.cast_weight().shape[2:]), 1, flat)
    x = x.unsqueeze(2) if flat else x
    if isinstance(layer, QConvTranspose):
        x, stride = _stretched(x, stride), (1, 1)
    x = F.pad(x, [side for pair in reversed(pads) for side in pair])  # a negative pad crops
    columns = F.unfold(x, kernel, dilation=dilation, stride=stride)  # (batch, channels * taps, positions)
    batch, _, positions = columns.shape
    if isinstance(layer, QConvTranspose):  # which meets its taps in reverse
        columns = columns.reshape(batch, x.shape[1], -1, positions).flip(2).reshape(batch, -1, positions)
    return columns.reshape(batch, layer.groups, -1, positions).permute(1, 0, 3, 2).reshape(layer.groups, batch * positions, -1)


def output_rows(layer: Weighted, y: Tensor) -> Tensor:
    """``y`` (batch, outputs, ...), the layer's result, as (G, batch * positions, O), in the order of ``input_rows``."""
    groups = groups_of(layer)
    flat = y.reshape(y.shape[0], groups, y.shape[1] // groups, -1)
    return flat.permute(1, 0, 3, 2).reshape(groups, -1, flat.shape[2])


def _image(values: tuple[_Pair, ...], height: _Pair, flat: bool) -> tuple[_Pair, ...]:
    return (height, *values) if flat else values


def _stretched(x: Tensor, factors: tuple[int, ...]) -> Tensor:
    height, width = ((size - 1) * factor + 1 for size, factor in zip(x.shape[2:], factors, strict=True))
    result = x.new_zeros(*x.shape[:2], height, width)
    result[:, :, :: factors[0], :: factors[1]] = x
    return result


def some_rows(count: int, most: int, generator: torch.Generator) -> Tensor:
    """At most ``most`` of ``count`` indices in rising order, chosen at random without repetition."""
    if count <= most:
        return torch.arange(count)
    return torch.randperm(count, generator=generator)[:most].sort().values
