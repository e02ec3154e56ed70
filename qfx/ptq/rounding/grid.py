"""The grids that a layer's constants are rounded to."""

from __future__ import annotations

import torch
from torch import Tensor

from qfx.errors import UnsupportedError
from qfx.fixed.type import OMode
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


def units(layer: Weighted) -> Tensor:
    """The value of one unit in the last place of each weight, outputs on axis 0; one number per binary point, shaped to multiply the weight."""
    return torch.exp2(-layer.weight_cast.points())


def settle_bias(layer: Weighted, x: QTensor) -> None:
    """Start the binary points of the layer's bias anew, no finer than the products it is added to (``x``: the layer's input)."""
    if layer.bias is not None:
        layer.start_bias(layer.bias.detach(), x)
