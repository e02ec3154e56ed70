"""Layers with weights as matrices: what a rounding pass sees of a layer, whatever its kind.

With G groups, a layer is G products ``Y = X @ W.T``: ``X`` (G, rows, K) holds what the weights of one output meet at one position, ``W`` (G, O, K)
the weights, ``Y`` (G, rows, O) the result. A row is one position of one sample.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qfx.nn.layers import Weighted


def to_matrix(layer: Weighted, cast_weight: Tensor) -> Tensor:
    """A weight as the layer casts it (outputs on axis 0), as (G, O, K)."""
    return cast_weight.reshape(layer.groups, cast_weight.shape[0] // layer.groups, -1)


def from_matrix(layer: Weighted, matrix: Tensor) -> Tensor:
    """The inverse of ``to_matrix``."""
    return matrix.reshape(layer.cast_weight().shape)


def input_rows(layer: Weighted, x: Tensor) -> Tensor:
    """``x`` (batch, ...), the layer's input, as (G, batch * positions, K): sample by sample, position by position."""
    return layer.input_rows(x)


def output_rows(layer: Weighted, y: Tensor) -> Tensor:
    """``y`` (batch, outputs, ...), the layer's result, as (G, batch * positions, O), in the order of ``input_rows``."""
    flat = y.reshape(y.shape[0], layer.groups, y.shape[1] // layer.groups, -1)
    return flat.permute(1, 0, 3, 2).reshape(layer.groups, -1, flat.shape[2])


def some_rows(count: int, most: int, generator: torch.Generator) -> Tensor:
    """At most ``most`` of ``count`` indices in rising order, chosen at random without repetition."""
    if count <= most:
        return torch.arange(count)
    return torch.randperm(count, generator=generator)[:most].sort().values
