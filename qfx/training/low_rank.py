"""``low_rank``: low-rank auxiliary weights inside the rounding, so that few parameters are trained."""

from __future__ import annotations

import fnmatch
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from qfx.errors import QfxError, UnsupportedError
from qfx.nn.model import QuantizedModel


class LowRank(nn.Module):
    """A parametrization: the weight, plus ``gain`` * a @ b in its rows and columns. ``a`` starts at 0, so that nothing changes at first."""

    a: nn.Parameter
    b: nn.Parameter

    def __init__(self, weight: Tensor, rank: int, gain: float) -> None:
        super().__init__()
        rows, columns = weight.shape[0], weight[0].numel()
        self.gain = gain
        self.a = nn.Parameter(weight.new_zeros(rows, rank))
        self.b = nn.Parameter(torch.randn(rank, columns, dtype=weight.dtype, device=weight.device) * columns**-0.5)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.gain * (self.a @ self.b).reshape(weight.shape)


def low_rank(model: nn.Module, rank: int = 8, *, gain: float = 1.0, pattern: str = "*") -> list[nn.Parameter]:
    """Freeze every weight of two axes and more whose layer's name matches ``pattern``, and add trainable matrices of ``rank`` to each; in place,
    before ``qfx.quantize``, which casts the sum: cast(W + gain * A B). Returns A and B of all layers; the quantized model has copies of them, by the
    same names.

    Only they have gradients and states of an optimizer: rank * (rows + columns) numbers a layer instead of rows * columns. Weights of which that
    would be no fewer stay as they are. When training is over, export as ever: hardware sees one cast weight, nothing of A and B.

    Source: Bondarenko, Del Chiaro and Nagel, "Low-Rank Quantization-Aware Training for LLMs", 2024, arXiv 2406.06385 (A B inside of the rounding;
    their frozen weights are kept as integers, ours as floats). Raises QfxError where no weight matches, for a rank below 1 or a gain that is 0 or no
    number, and UnsupportedError for a quantized model, the binary points of which were chosen without A and B.
    """
    if not isinstance(rank, int) or rank < 1:
        raise QfxError(f"rank is {rank!r}", where="low_rank", remedy="use 1 or more")
    if not isinstance(gain, int | float) or not math.isfinite(gain) or gain == 0:
        raise QfxError(f"gain is {gain!r}", where="low_rank", remedy="use a number other than 0, such as 1.0")
    if any(isinstance(module, QuantizedModel) for module in model.modules()):
        raise UnsupportedError("is quantized already", where=type(model).__name__, remedy="call low_rank on the float model, before qfx.quantize")
    found: list[nn.Parameter] = []
    for name, layer in list(model.named_modules()):
        weight: Any = getattr(layer, "weight", None)
        if not isinstance(weight, nn.Parameter) or weight.dim() < 2 or not fnmatch.fnmatchcase(name, pattern):
            continue
        if isinstance(layer, nn.Embedding) or rank * (weight.shape[0] + weight[0].numel()) >= weight.numel():
            continue
        added = LowRank(weight.detach(), rank, gain)
        weight.requires_grad_(False)
        parametrize.register_parametrization(layer, "weight", added)
        found += [added.a, added.b]
    if not found:
        told = f"no weight of a layer that matches {pattern!r} would have fewer parameters of rank {rank}"
        raise QfxError(told, where="low_rank", remedy="use a smaller rank, or another pattern")
    return found
