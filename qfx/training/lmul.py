"""L-Mul: products by additions alone, as two exact sums. ``quantize_lmul`` puts it in place of the products of layers.

L-Mul of x = +-(1 + f) 2**a and w = +-(1 + g) 2**b, f and g from 0 below 1, is +-(1 + f + g + 2**-l) 2**(a + b): mantissas are added, not multiplied,
and l stands for their product. It is 0 where x or w is. With s(x) the leading power of x, +-2**a, and s(w) that of w, this is

    L(x, w) = s(w) * x + (w - s(w) + 2**-l * s(w)) * s(x)

over the reals and without a rounding. So a sum of such products is one of plain products by twice as many constants, of x and of s(x) side by side:
s(x) is a table, the first half of the constants are powers of two, and of each product in the other half one factor is: shifts and additions
throughout (``--shift-and-add``, ``--style unrolled``). That is why neither training nor hardware needs an arithmetic of its own for it.

Source: Luo and Sun, "Addition is All You Need for Energy-efficient Language Models", 2024, arXiv 2410.00907, equation for L(m): l = m for m <= 3
mantissa bits, 3 for m = 4, 4 beyond; theirs are floating-point words for x and w, here x is the fixed-point word that the recipe says, and w has m
mantissa bits and eight exponents.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qfx.capture.traced import base_layer
from qfx.errors import QfxError
from qfx.nn.convert import quantize
from qfx.nn.layers.tables.user import lookup
from qfx.nn.model import quantizers
from qfx.recipe import Override, Recipe
from qfx.training.products import is_plain, layers_to_change
from qfx.training.products import replace as put

EXPONENTS = 8
"""Of weights: the greatest and those below it; smaller weights are 0."""

_POWER_WIDTH, _HEADROOM = 24, 6
_NO_ERROR = 2.0**-30
"""Of s(x): a table too large for entries is refused, not made of lines that come near."""
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)


def offset_bits(mantissa_bits: int) -> int:
    """l of that many mantissa bits."""
    return mantissa_bits if mantissa_bits <= 3 else 3 if mantissa_bits == 4 else 4


def leading_power(x: Tensor) -> Tensor:
    """+-2**floor(log2 |x|), 0 for 0; straight-through, as if it were x."""
    mantissa, exponent = torch.frexp(x.detach())
    power = torch.where(mantissa == 0, torch.zeros_like(x), torch.ldexp(torch.sign(x.detach()), exponent - 1))
    return x + (power - x.detach()) if x.requires_grad else power


def weight_parts(weight: Tensor, top: int, mantissa_bits: int) -> tuple[Tensor, Tensor]:
    """What multiplies x, and what multiplies s(x), of the nearest weights with ``mantissa_bits`` and exponents from ``top`` down. The gradient of
    both goes to the weight as that of x does."""
    size = weight.detach().abs().double()
    least = 2.0 ** (top - EXPONENTS + 1)
    step = leading_power(size).clamp(min=least) * 2.0**-mantissa_bits
    near = (torch.round(size / step) * step).clamp(max=2.0**top * (2 - 2.0**-mantissa_bits))
    near = torch.where(size < least, torch.where(size < least / 2, torch.zeros_like(near), torch.full_like(near, least)), near)
    sign, power = torch.sign(weight.detach()), leading_power(near)
    rest = near - power + 2.0 ** -offset_bits(mantissa_bits) * power
    first, second = ((sign * part).to(weight.dtype) for part in (power, rest))
    return weight + (first - weight).detach(), second


class LMul(nn.Module):
    """A layer whose products are L-Mul's: ``weight`` and ``bias`` of ``layer``, by the same names."""

    weight: Any
    bias: Any
    mantissa_bits: int
    top: int
    options: tuple[()] | tuple[Any, Any, Any]
    power: nn.Module

    def __init__(self, layer: Any, mantissa_bits: int) -> None:
        super().__init__()
        self.weight, self.bias, self.mantissa_bits = layer.weight, layer.bias, mantissa_bits
        self.top = int(torch.frexp(layer.weight.detach().abs().max()).exponent) - 1
        self.axis = -1 if isinstance(layer, nn.Linear) else 1
        self.options = () if isinstance(layer, nn.Linear) else (layer.stride, layer.padding, layer.dilation)
        self.function: Any = {nn.Linear: F.linear, nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d}[base_layer(layer)]
        self.power = lookup(leading_power, name="leading_power", max_error=_NO_ERROR)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([x, self.power(x)], self.axis)
        parts = torch.cat(weight_parts(self.weight, self.top, self.mantissa_bits), 1)
        return self.function(both, parts, self.bias, *self.options)  # type: ignore[no-any-return]


def _takes(layer: nn.Module) -> bool:
    return is_plain(layer, _LAYERS) and getattr(layer, "groups", 1) == 1 and getattr(layer, "padding_mode", "zeros") == "zeros"


def quantize_lmul(
    model: nn.Module, example_input: Any, recipe: Recipe | None = None, *, mantissa_bits: int = 3, keep: Sequence[str] = ()
) -> nn.Module:
    """``qfx.quantize`` of a copy of the model in which linear layers and convolutions (one or two axes, one group) multiply by L-Mul.

    What else the model sums of products (grouped convolutions, attention, matrix products) must be named by ``keep``, patterns of modules' names, and
    keeps exact products by the recipe; so do layers that it names. Weights have ``mantissa_bits``, whatever the recipe says of them; activations are
    the recipe's, of at most 12 bits. What is trained and exported is exact L-Mul of these words. Raises UnsupportedError, with names, for products
    that it does not take and ``keep`` does not name, and for a model without layers that it takes; QfxError for mantissa bits that are not 1 to 6 or
    a pattern that matches nothing, ExactnessError for longer activations.
    """
    if mantissa_bits not in range(1, 7):
        raise QfxError(f"mantissa_bits is {mantissa_bits!r}", where="quantize_lmul", remedy="use 1 to 6")
    recipe = recipe or Recipe()
    changed = copy.deepcopy(model)
    told = "it takes nn.Linear, nn.Conv1d and nn.Conv2d of one group, padded with zeros"
    taken = layers_to_change(changed, example_input, _takes, keep, method="quantize_lmul", takes_text=told)
    made = put(changed, taken, lambda layer: LMul(layer, mantissa_bits))
    power = {"width": _POWER_WIDTH, "learn": False, "observer": "minmax", "signed": True}
    overrides = [Override(f"{name}.power*.output", power) for name in made]
    exact = {"width": 8 + EXPONENTS, "learn": False, "observer": "minmax", "granularity": "tensor"}
    kinds = tuple(Override(f"{name}.*weight", exact) for name in made)
    result = quantize(changed, example_input, replace(recipe, overrides=(*recipe.overrides, *overrides, *kinds)))
    tops = {name: layer.top for name, layer in changed.named_modules() if isinstance(layer, LMul)}
    for name, cast in quantizers(result):
        path, kind, _ = name.rpartition(".power")
        if kind and path in tops and name.endswith(".output"):
            cast.place(cast.points() - _HEADROOM)  # for inputs that the example does not have
        path = name.rpartition(".")[0].rpartition(".")[0]
        if path in tops and name.endswith(".weight"):  # the last place of the least weight, and twice the range of the greatest
            cast.place(torch.full_like(cast.frac_bits.detach(), EXPONENTS - 1 - tops[path] + max(mantissa_bits, offset_bits(mantissa_bits))))
    return result
