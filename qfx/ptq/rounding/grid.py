"""The grids that a layer's constants are rounded to."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from qfx.errors import UnsupportedError
from qfx.fixed.type import OMode
from qfx.nn.casts.digits import Numbers
from qfx.nn.layers import Weighted
from qfx.nn.qtensor import QTensor
from qfx.nn.quantizer import Quantizer


def integer_range(cast: Quantizer) -> tuple[int, int]:
    """The least and the greatest integer that a cast can give. Raises UnsupportedError where its positions have words of several lengths."""
    if cast.learned_ints is not None and len(set(cast.word_lengths().flatten().tolist()) | {0.0}) != 2:
        raise UnsupportedError(
            "its weights have learned word lengths, and a rounding is chosen for words of one length",
            where=cast.name,
            remedy="round with a recipe without learn_width, or train the rounding",
        )
    signed = cast.mode.signed
    high = (1 << (cast.word_length - 1 if signed else cast.word_length)) - 1
    symmetric = cast.spec.o is OMode.SAT_SYM or cast.spec.o is OMode.WRAP_SM
    return (0 if not signed else -high if symmetric else -high - 1), high


class Around(NamedTuple):
    """The allowed integers around each number, ``low`` and ``up``, the same where it lies beyond the ends; and where between them it lies, ``rest``
    of the way up."""

    low: Tensor
    up: Tensor
    rest: Tensor

    def among(self, kept: Tensor) -> Around:
        """0 and no choice where nothing is kept."""
        return Around(*(torch.where(kept, part, torch.zeros_like(part)) for part in self))

    def chosen(self, up: Tensor) -> Tensor:
        """The integers, one of the two each, by a mask."""
        return torch.where(up, self.up, self.low)


def around(ratio: Tensor, least: int, most: int, allowed: Numbers | None) -> Around:
    """Of the integers from ``least`` to ``most``, or of ``allowed`` alone."""
    if allowed is None:
        below = torch.floor(ratio)
        return Around(below.clamp(least, most), (below + 1).clamp(least, most), ratio - below)
    low, up = (number.to(ratio.dtype) for number in allowed.neighbours(ratio))
    rest = (ratio - low) / (up - low)
    return Around(torch.where(rest >= 1, up, low), torch.where(rest < 0, low, up), rest)


def units(layer: Weighted) -> Tensor:
    """The value of one unit in the last place of each weight, outputs on axis 0; one number per binary point, shaped to multiply the weight."""
    return torch.exp2(-layer.weight_cast.points())


def settle_bias(layer: Weighted, x: QTensor) -> None:
    """Start the binary points of the layer's bias anew, no finer than the products it is added to (``x``: the layer's input)."""
    if layer.bias is not None:
        layer.start_bias(layer.bias.detach(), x)
