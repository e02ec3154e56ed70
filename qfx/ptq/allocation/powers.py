"""Power-exponent codes: for each weight the exponent whose codes lie nearest to its numbers.

Source: Yvinec et al., "NUPES: Non-Uniform Post-Training Quantization via Power Exponent Search", 2023, arXiv 2308.05600: codes of b bits stand for
sign(k) * |k / K|**(1 / a), with one exponent a for each weight, found after training, by gradient descent on what the layer gives. ``search_powers``
tries all exponents of a list, each with the binary points that suit it; ``learn_powers`` goes on from there as they do. In hardware the codes are
constants of the word, integers: no power is ever computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from qfx.errors import RecipeError
from qfx.nn.convert import quantize
from qfx.nn.layers import Weighted
from qfx.nn.qtensor import QTensor
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
    layers = _layers(model, example_input, recipe, bits, "search_powers")[1]
    return _with(recipe, bits, {layer: _best(layer, bits, exponents) for layer in layers})


def learn_powers(model: nn.Module, example_input: Tensor, recipe: Recipe, bits: int, *, steps: int = 100, rate: float = 0.01) -> Recipe:
    """``search_powers``, and then ``steps`` of Adam on each exponent by the error of what its layer gives on the example input.

    The gradient: codes stay where the nearest one is, their places move with the exponent, the rounding of the places is straight-through. An
    exponent stays that of the search where the learned one, with binary points of its own, gives no smaller error. Raises RecipeError as
    ``search_powers``, and for no steps.
    """
    if steps < 1 or not rate > 0:
        raise RecipeError(f"{steps} steps at a rate of {rate}", where="learn_powers", remedy="take at least one step, at a rate above 0")
    qmodel, layers = _layers(model, example_input, recipe, bits, "learn_powers")
    moments = _moments(qmodel, layers, example_input)
    found = {}
    for layer in layers:
        start = _best(layer, bits, EXPONENTS)
        learned = _learned(layer, moments[layer], bits, start, steps, rate)
        found[layer] = _best(layer, bits, (start, learned), moments[layer])
    return _with(recipe, bits, found)


def _layers(model: nn.Module, example_input: Tensor, recipe: Recipe, bits: int, where: str) -> tuple[nn.Module, list[Weighted]]:
    """The model in the recipe's fixed point, and its layers whose weights have no numbers yet."""
    if recipe.weight.width < bits:
        told = f"codes of {bits} bits in words of {recipe.weight.width}"
        raise RecipeError(told, where=where, remedy="give weights a width of 8 or more: it is the grid that codes lie on")
    qmodel = quantize(model, example_input, recipe).eval()
    return qmodel, [layer for layer in qmodel.modules() if isinstance(layer, Weighted) and layer.weight_cast.spec.numbers is None]


def _with(recipe: Recipe, bits: int, exponents: Mapping[Weighted, float]) -> Recipe:
    named = [Override(_literal(layer.weight_cast.name), {"numbers": _name(bits, exponent)}) for layer, exponent in exponents.items()]
    return replace(recipe, overrides=(*recipe.overrides, *named))


def _name(bits: int, exponent: float) -> str:
    return f"power({bits}, {exponent})"


def _moments(qmodel: nn.Module, layers: list[Weighted], example_input: Tensor) -> dict[Weighted, Tensor]:
    """E[x x^T] of what each layer's weights meet, (groups, K, K), float64."""
    found: dict[Weighted, Tensor] = {}

    def see(layer: nn.Module, arguments: tuple[QTensor, ...]) -> None:
        assert isinstance(layer, Weighted)
        rows = layer.input_rows(arguments[0].tensor()).double()
        found[layer] = found.get(layer, 0) + rows.transpose(1, 2) @ rows / rows.shape[1]

    handles = [layer.register_forward_pre_hook(see) for layer in layers]
    with torch.no_grad():
        qmodel(example_input)
    for handle in handles:
        handle.remove()
    return found


def _learned(layer: Weighted, moments: Tensor, bits: int, start: float, steps: int, rate: float) -> float:
    """The exponent after its steps, to four digits."""
    cast, weight = _cast(layer, _name(bits, start)), layer.cast_weight().detach().double()
    greatest = (1 << cast.spec.width - 1) - 1
    scale = torch.exp2(cast.points().double()).expand_as(weight)
    shares = torch.arange(1, 1 << bits - 1, dtype=torch.float64) / ((1 << bits - 1) - 1)
    exponent = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([exponent], rate)
    for _ in range(steps):
        with torch.enable_grad():
            places = greatest * shares ** (1 / exponent)
            places = places + (torch.round(places) - places).detach()
            codes = torch.cat([-places.flip(0), places.new_zeros(1), places])
            between = ((codes[1:] + codes[:-1]) / 2).detach()
            value = codes[torch.bucketize(weight * scale, between)] / scale
            optimizer.zero_grad()
            _of_results(value - weight, moments).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            exponent.clamp_(EXPONENTS[0] / 2, 2.0)
    return round(float(exponent.detach()), 4)


def _of_results(error: Tensor, moments: Tensor) -> Tensor:
    """The mean squared error of a layer's results by that of its weights."""
    rows = error.flatten(1).reshape(len(moments), -1, moments.shape[1])
    return torch.einsum("gok,gkl,gol->", rows, moments, rows) / len(error)


def _cast(layer: Weighted, numbers: str) -> Quantizer:
    cast = Quantizer(replace(layer.weight_cast.spec, numbers=numbers, sparsity=None), signed=True, channel_axis=0)
    cast.initialize(layer.cast_weight().detach())
    return cast


def _best(layer: Weighted, bits: int, exponents: Sequence[float], moments: Tensor | None = None) -> float:
    return min(exponents, key=lambda exponent: _error(layer, _name(bits, exponent), moments))


def _error(layer: Weighted, numbers: str, moments: Tensor | None = None) -> float:
    """Mean squared, of the weights, or of what the layer gives."""
    weight, cast = layer.cast_weight().detach(), _cast(layer, numbers)
    with torch.no_grad():
        error = cast(weight).value.double() - weight.double()
    return float(error.square().mean() if moments is None else _of_results(error, moments))


def _literal(name: str) -> str:
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)
