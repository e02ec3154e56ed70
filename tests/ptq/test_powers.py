"""Exponents of power-exponent codes: searched, and learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from executors import same_in_torch_and_the_file
from torch import nn

import qfx
from qfx import Recipe, Spec
from qfx.errors import RecipeError
from qfx.fixed.number_sets import read
from qfx.ptq import learn_powers, search_powers
from qfx.ptq.allocation import powers


def test_powers_are_no_worse_than_uniform_codes() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)), torch.randn(32, 64)
    with torch.no_grad():
        for layer in (net[0], net[2]):
            layer.weight.copy_(torch.randn_like(layer.weight) ** 3)  # heavy tails
    base = Recipe(weight=Spec(10), activation=Spec(8))
    found = search_powers(net, x, base, 4)
    exponents = [float(str(override.changes["numbers"]).split(",")[1].rstrip(")")) for override in found.overrides]
    assert all(exponent < 0.8 for exponent in exponents)
    errors = []
    for recipe in (found, Recipe(weight=Spec(10, numbers="power(4, 1.0)"), activation=Spec(8))):
        q = qfx.quantize(net, x, recipe)
        layer = q.get_submodule("0")
        errors.append((layer.constants()[0].value - layer.weight).square().mean().item())
    assert errors[0] < 0.7 * errors[1]
    with pytest.raises(RecipeError, match="codes of 4 bits in words of 3"):
        search_powers(net, x, Recipe(weight=Spec(3)), 4)


def exponent_of(recipe: Recipe, place: int = -1) -> float:
    return read(str(recipe.overrides[place].changes["numbers"])).powers[1]


def test_the_exponent_of_weights_that_lie_on_its_codes_is_learned() -> None:
    """Weights made of the codes of an exponent that the search does not try, at the top of their range: descent finds it."""
    torch.manual_seed(0)
    codes = torch.randint(-7, 8, (12, 24))
    codes[:, 0] = 7
    net, x = nn.Sequential(nn.Linear(24, 12)), torch.randn(64, 24)
    with torch.no_grad():
        net[0].weight.copy_(torch.sign(codes) * (codes.abs() / 7) ** (1 / 0.623) * (511 / 512))
    base = Recipe(weight=Spec(10), activation=Spec(12))
    searched, learned = exponent_of(search_powers(net, x, base, 4)), exponent_of(learn_powers(net, x, base, 4))
    assert abs(learned - 0.623) < 0.003 < abs(searched - 0.623)


def test_learned_powers_give_no_worse_results_than_searched_ones(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(72, 5))
    x = torch.randn(16, 4, 5, 5)
    net(x)
    net.eval()
    base = Recipe(weight=Spec(10, granularity="channel"), activation=Spec(10))
    errors, exponents = [], []
    for recipe in (search_powers(net, x, base, 3), learn_powers(net, x, base, 3)):
        first = replace(recipe, overrides=recipe.overrides[:1])  # the convolution alone, whose input is the same
        q = qfx.quantize(net, x, first).eval()
        conv, cast = q.get_submodule("0"), q.get_submodule("input")(x)
        with torch.no_grad():
            exact = nn.functional.conv2d(cast.tensor().double(), net[0].weight.double(), net[0].bias.double(), groups=2)
            errors.append(float((conv(cast).tensor().double() - exact).square().mean()))
        exponents.append(exponent_of(first))
    assert errors[1] < errors[0]
    assert exponents[1] not in powers.EXPONENTS
    same_in_torch_and_the_file(qfx.quantize(net, x, learn_powers(net, x, base, 3, steps=5)).eval(), x, tmp_path)
    with pytest.raises(RecipeError, match="0 steps"):
        learn_powers(net, x, base, 3, steps=0)
    with pytest.raises(RecipeError, match="learn_powers: codes of 4 bits in words of 3"):
        learn_powers(net, x, Recipe(weight=Spec(3)), 4)
