"""Asymmetric weights, per layer: a range of neighbouring integers that is shifted to where the weights lie, as an integer zero point shifts it.

Scales are powers of two here, and hardware adds no zero point: 2**bits neighbouring numbers of a longer word, zero among them, are the numbers that a
weight may have. The word that multiplies is a bit or two longer than ``bits``; codes of ``bits`` bits are what they can be stored in.

Source: Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference: A whitepaper", 2018, arXiv 1806.08342 (its affine quantizer).
"""

from __future__ import annotations

import fnmatch
import math
from typing import Any

import torch
from torch import Tensor, nn

from qfx.capture.traced import base_layer
from qfx.errors import DataError, QfxError
from qfx.recipe import Override

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def shifted(weight: Tensor, bits: int) -> dict[str, Any]:
    """The fields of a ``Spec`` (numbers, width, frac_bits) of the finest power-of-two grid on which 2**``bits`` neighbouring numbers reach from the
    least of ``weight`` to the greatest, zero among them.

    >>> shifted(torch.tensor([-0.25, 0.1, 1.5]), 3)
    {'numbers': 'levels(-1, 0, 1, 2, 3, 4, 5, 6)', 'width': 4, 'frac_bits': 2}
    """
    if bits not in range(1, 9):
        raise QfxError(f"bits is {bits!r}", where="shifted ranges", remedy="use 1 to 8")
    if not bool(torch.isfinite(weight.detach()).all()):
        raise DataError("NaN or infinity", where="shifted ranges", remedy="check the checkpoint")
    low, high = (float(end) for end in torch.aminmax(torch.cat([weight.detach().flatten().double(), torch.zeros(1, dtype=torch.float64)])))
    codes = (1 << bits) - 1
    points = math.floor(math.log2(codes / (high - low))) if high > low else 0
    first = max(-codes, min(0, round(low * 2.0**points)))
    levels = range(first, first + codes + 1)
    width = max(max(level, -level - 1).bit_length() + 1 for level in levels)
    return {"numbers": f"levels({', '.join(map(str, levels))})", "width": width, "frac_bits": points}


def shifted_ranges(model: nn.Module, bits: int = 8, *, pattern: str = "*") -> tuple[Override, ...]:
    """An override for the weight of each linear layer and convolution of a float model whose name matches ``pattern``: ``shifted`` of its weights.

    Give them in a recipe's ``overrides``, with ``weight=Spec(bits)``, granularity ``"tensor"``: one range serves all channels. Fold BatchNorm first
    (``qfx.ptq.fold_batch_norm``), since ranges are of the weights as they are. Binary points are learned on from there; the numbers stay. Raises
    QfxError where nothing matches and for bits that are not 1 to 8, DataError for NaN.
    """
    layers = [(name, layer) for name, layer in model.named_modules() if base_layer(layer) in _LAYERS and fnmatch.fnmatchcase(name, pattern)]
    if not layers:
        raise QfxError(f"no linear layer or convolution matches {pattern!r}", where="shifted_ranges", remedy='use names of layers, or "*"')
    return tuple(Override(f"{name}.weight" if name else "*weight", shifted(layer.weight, bits)) for name, layer in layers)
