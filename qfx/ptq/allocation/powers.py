"""Power-exponent codes: for each weight the exponent whose codes lie nearest to its numbers.

Source: Yvinec et al., "NUPES: Non-Uniform Post-Training Quantization via Power Exponent Search", 2023, arXiv 2308.05600: codes of b bits stand for
sign(k) * |k / K|**(1 / a), with one exponent a for each weight, found after training. Theirs is found by gradient descent on the reconstruction; here
all exponents of a list are tried, each with the binary points that suit it, which is exact for the list. In hardware the codes are constants of the
word, integers: no power is ever computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from qfx.errors import RecipeError
from qfx.nn.convert import quantize
from qfx.nn.layers import Weighted
from qfx.nn.quantizer import Quantizer
from qfx.recipe import Override, Recipe

EXPONENTS = (0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
"""Those that are tried; 1 is uniform."""


def search_powers(model: nn.Module, example_input: Tensor, recipe: Recipe, bits: int, exponents: Sequence[float] = EXPONENTS) -> Recipe:
    """``recipe`` with ``numbers = "power(bits, a)"`` for every weight, each with the exponent of least squared error of its weights.

    The word (``recipe.weight.width``) says how finely the codes are placed: 8 bits and more for codes of 3 and 4. Weights that already have
    ``numbers`` stay. Raises RecipeError for words shorter than the codes, and for no exponents.
    """
    if not exponents:
        raise RecipeError("no exponents are given", where="search_powers", remedy="give some from 0.05 to 2, or leave them out")
    if recipe.weight.width < bits:
        told = f"codes of {bits} bits in words of {recipe.weight.width}"
        raise RecipeError(told, where="search_powers", remedy="give weights a width of 8 or more: it is the grid that codes lie on")
    quantized = quantize(model, example_input, recipe)
    found = []
    for layer in quantized.modules():
        if isinstance(layer, Weighted) and layer.weight_cast.spec.numbers is None:
            best = min(exponents, key=lambda exponent: _error(layer, f"power({bits}, {exponent})"))
            found.append(Override(_literal(layer.weight_cast.name), {"numbers": f"power({bits}, {best})"}))
    return replace(recipe, overrides=(*recipe.overrides, *found))


def _error(layer: Weighted, numbers: str) -> float:
    weight = layer.cast_weight().detach()
    cast = Quantizer(replace(layer.weight_cast.spec, numbers=numbers, sparsity=None), signed=True, channel_axis=0)
    cast.initialize(weight)
    with torch.no_grad():
        return float((cast(weight).value.double() - weight.double()).square().mean())


def _literal(name: str) -> str:
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)
