"""Constants of few digits: projected, trained, kept in checkpoints, and the same in every executor."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from executors import same_in_cpp, same_in_torch_and_the_file
from torch import Tensor, nn

import qfx
from qfx.errors import ModelFileError, RecipeError
from qfx.fixed.digits import DigitForm, digit_count, few_digits, k_hot, most_digits, nearest
from qfx.fixed.kernel import CastMode, quantize
from qfx.fixed.type import OMode, QMode
from qfx.nn.casts.digits import numbers, project
from qfx.nn.quantizer import Quantizer
from qfx.recipe import Override, Recipe, Spec

FORMS: tuple[DigitForm, ...] = ("signed", "ones")


def few(digits: int, form: DigitForm = "signed", **changes: Any) -> Recipe:
    """Every constant that multiplies has at most so many digits."""
    spec = Spec(16, digits=digits, digit_form=form, **changes)
    return Recipe.uniform(8, weight=replace(spec, width=8), scale=spec, reciprocal=replace(spec, learn=False), constant=spec)


def network() -> nn.Sequential:
    """Every role that multiplies: weights, scales, reciprocals and slopes."""
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AvgPool2d(3, 1),
        nn.Conv2d(4, 6, 3),
        nn.PReLU(6),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )
    slopes = net[5]
    assert isinstance(slopes, nn.PReLU)
    nn.init.normal_(slopes.weight)
    return net.eval()


def images(count: int = 16) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


# ---- the projection ----


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("o", [OMode.SAT, OMode.SAT_SYM])
def test_torch_is_numpy(form: DigitForm, signed: bool, o: OMode) -> None:
    """On every eighth of a unit, at several binary points, in float32 and float64."""
    for width in (1, 2, 5, 8, 10):
        for digits in range(1, most_digits(width, signed, form) + 1):
            allowed = few_digits(width, signed, digits, form, symmetric=o is OMode.SAT_SYM and signed)
            units = np.arange(8 * (-(2**width)), 8 * 2**width + 1) / 8
            for frac_bits in (-3, 0, 7):
                x = torch.from_numpy(np.ldexp(units, -frac_bits))
                expected = np.ldexp(nearest(units, allowed).astype(float), -frac_bits)
                table = numbers(width, CastMode(signed, o=o), digits, form)
                for given in (x, x.float()):
                    found = project(given, torch.tensor(float(frac_bits)), table)
                    assert found.dtype is given.dtype
                    assert np.array_equal(found.double().numpy(), expected)


def test_views_and_other_floats() -> None:
    """What lies in memory in another order or as its negative, half floats, and no numbers at all."""
    table = numbers(8, CastMode(o=OMode.SAT), 2, "signed")
    frac_bits = torch.tensor(3.0)
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)) * 9
    expected = project(x, frac_bits, table)
    assert torch.equal(project(x.T, frac_bits, table), expected.T)
    assert torch.equal(project(x[:, ::2], frac_bits, table), expected[:, ::2])
    assert torch.equal(project(torch.complex(x, x).conj().imag, frac_bits, table), project(-x, frac_bits, table))
    half = x.to(torch.bfloat16)
    assert torch.equal(project(half, frac_bits, table), project(half.float(), frac_bits, table))
    assert project(x[:0], frac_bits, table).shape == (0, 5)


@pytest.mark.parametrize("form", FORMS)
def test_with_all_digits_it_is_the_cast(form: DigitForm) -> None:
    """Forward and backward."""
    x = (torch.arange(-1400, 1400) / 8 / 16).requires_grad_()
    frac_bits = torch.tensor(4.3, requires_grad=True)
    mode = CastMode(q=QMode.RND, o=OMode.SAT)
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    found = []
    for cast in (
        project(x, frac_bits, numbers(8, mode, most_digits(8, True, form), form), 0.5),
        quantize(x, frac_bits, 8, mode, frac_grad_scale=0.5),
    ):
        found.append((cast, *torch.autograd.grad((cast * weight).sum(), (x, frac_bits))))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    torch.testing.assert_close(found[0][2], found[1][2])  # a sum of floats


def test_the_gradients_are_those_of_the_docstring() -> None:
    x = torch.tensor([3.0, 5.9, 64.0, 95.9, 96.0, 300.0, -180.0, -300.0], requires_grad=True)
    frac_bits = torch.zeros(8, requires_grad=True)
    value = project(x, frac_bits, numbers(8, CastMode(o=OMode.SAT), 1, "signed"))
    assert value.tolist() == [4.0, 4.0, 64.0, 64.0, 64.0, 64.0, -128.0, -128.0]
    value.sum().backward()
    assert x.grad is not None
    assert frac_bits.grad is not None
    assert x.grad.tolist() == [1, 1, 1, 1, 0, 0, 1, 0]  # beyond 96 lay 128, beyond -192 lay -256
    slopes = torch.tensor([3 - 4, 5.9 - 4, 0, 95.9 - 64, -64, -64, -180 + 128, 128]) * math.log(2)
    torch.testing.assert_close(frac_bits.grad, slopes)


def test_the_binary_point_starts_at_the_least_error() -> None:
    """The start is as good as any position, for each channel."""
    torch.manual_seed(0)
    weight = torch.randn(5, 40) * torch.tensor([0.01, 0.3, 1.0, 1.9, 30.0])[:, None]
    for digits in (1, 2):
        cast = Quantizer(Spec(8, digits=digits, granularity="channel"), signed=True, channel_axis=0)
        cast.initialize(weight)
        table = cast.allowed()
        assert table is not None

        def error(points: Tensor, table: Any = table) -> Tensor:
            return (project(weight, points, table) - weight).square().sum(1)

        best = torch.stack([error(cast.points() + step) for step in range(-4, 5)]).min(0).values
        assert torch.equal(error(cast.points()), best)


# ---- recipes and checkpoints ----


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"width": 4, "digits": 3}, "no 4-bit number has more than 2 signed digits"),
        ({"width": 4, "digits": 4, "digit_form": "ones"}, "no 4-bit number has more than 3 ones"),
        ({"digits": 0}, "digits is 0"),
        ({"width": 32, "digits": 9}, "32-bit numbers of 9 signed digits"),
        ({"digits": 2, "q": "AP_TRN"}, "q is 'AP_TRN'"),
        ({"digits": 2, "o": "AP_WRAP"}, "o is 'AP_WRAP'"),
        ({"digits": 2, "accumulator": 16}, "digits is 2, with which weights cannot be kept within an accumulator"),
        ({"digits": 2, "digit_form": "few"}, "digit_form is 'few'"),
    ],
)
def test_what_a_spec_refuses(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(RecipeError, match=what):
        Spec(**changes)


@pytest.mark.parametrize("role", ["input", "bias", "shift", "internal", "activation", "output"])
def test_what_multiplies_nothing_has_no_digits(role: str) -> None:
    with pytest.raises(RecipeError, match=rf"{role}: digits is 2(.|\n)*give digits to weight, scale, reciprocal, constant"):
        Recipe(**{role: Spec(8, digits=2)})


def test_overrides() -> None:
    recipe = Recipe(overrides=(Override("fc.weight", {"digits": 2}), Override("fc", {"width": 6})))
    assert recipe.spec("fc.weight", "weight").digits == 2
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    with pytest.raises(RecipeError, match=r"fc\.bias: digits is 2"):
        Recipe(overrides=(Override("fc", {"digits": 2}),)).spec("fc.bias", "bias")
    assert Recipe.from_toml(few(3, "ones").to_toml()) == few(3, "ones")


def test_a_checkpoint_knows_its_digits() -> None:
    net, x = network(), images()
    two, free = qfx.quantize(net, x, few(2)), qfx.quantize(net, x, Recipe.uniform(8))
    again = qfx.quantize(net, x, few(2))
    again.load_state_dict(two.state_dict())
    for q, other, told in ((free, two, r"Override\('0.weight', {'digits': 2}\)"), (two, free, r"Override\('0.weight', {'digits': 4}\)")):
        with pytest.raises(ModelFileError, match=told):
            q.load_state_dict(other.state_dict())
    with pytest.raises(ModelFileError, match="digits=2, ones"):
        two.load_state_dict(qfx.quantize(net, x, few(2, "ones")).state_dict())
    named = qfx.quantize(net, x, replace(few(2), overrides=(Override("0.weight", {"digits": 4}),)))  # as the remedy says
    cast = named.get_submodule("0").get_submodule("weight_cast")
    assert isinstance(cast, Quantizer)
    assert cast.misfit(free.state_dict(), "0.weight_cast.") is None


# ---- training ----


@pytest.mark.parametrize("digits", [1, 2])
def test_training_makes_up_for_the_projection(digits: int) -> None:
    sklearn = pytest.importorskip("sklearn.datasets")
    data = sklearn.load_digits()
    x, y = torch.tensor(data.data / 16.0, dtype=torch.float32), torch.tensor(data.target)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 10))

    def fit(model: nn.Module, epochs: int, rate: float) -> None:
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        model.train()
        for epoch in range(epochs):
            for batch in torch.randperm(1000, generator=torch.Generator().manual_seed(epoch)).split(100):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
                optimizer.step()
        model.eval()

    def loss(model: nn.Module) -> float:
        with torch.no_grad():
            return float(nn.functional.cross_entropy(model(x[:1000]), y[:1000]))

    fit(net, 15, 1e-2)
    spec = Spec(6, digits=digits)
    q = qfx.quantize(net, x[:200], Recipe.uniform(6, weight=spec, scale=Spec(16, digits=digits))).eval()
    projected = loss(q)
    fit(q, 6, 2e-3)
    assert loss(q) < projected
    for node in qfx.to_graph(q).nodes:
        for role, const in node.op.constants().items():
            assert role in ("bias", "shift") or digit_count(const.raw).max() <= digits


def test_a_number_in_the_model_keeps_to_its_digits() -> None:
    """0.6875 lies on a grid of 4 bits, but has three digits."""

    class Times(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 0.6875

    for digits, value in ((1, 0.5), (2, 0.75), (3, 0.6875)):
        q = qfx.quantize(Times(), images(), Recipe(constant=Spec(8, digits=digits)))
        consts = [const for node in qfx.to_graph(q).nodes for const in node.op.constants().values()]
        assert [float(const.raw) * 2.0**-const.grid for const in consts] == [value]


@pytest.mark.parametrize("mode", ["wrap", "saturate"])
def test_accumulators_of_a_chosen_width(mode: str, tmp_path: Path) -> None:
    recipe = replace(few(2), weight=Spec(8, digits=2, accumulator=12, accumulator_mode=mode))  # type: ignore[arg-type]
    same_in_torch_and_the_file(qfx.quantize(network(), images(), recipe).eval(), images(), tmp_path)


# ---- executors ----


@pytest.mark.parametrize("granularity", ["tensor", "channel", "element"])
def test_every_constant_has_few_digits(granularity: str, tmp_path: Path) -> None:
    for digits, form in ((1, "signed"), (2, "signed"), (3, "ones")):
        q = qfx.quantize(network(), images(), few(digits, form, granularity=granularity)).eval()  # type: ignore[arg-type]
        same_in_torch_and_the_file(q, images(), tmp_path)
        seen = set()
        for node in qfx.to_graph(q).nodes:
            for role, const in node.op.constants().items():
                if role not in ("bias", "shift"):
                    seen.add(role)
                    most = digit_count(const.raw).max() if form == "signed" else max(len(k_hot(value)) for value in const.raw.ravel().tolist())
                    assert most <= digits, (node.name, role)
        assert seen == {"weight", "scale", "slope"}


@pytest.mark.usefixtures("gxx")
def test_cpp(fast: bool, thorough: bool, tmp_path: Path) -> None:
    """Each form with one granularity; with --thorough, with all of them."""
    forms, granularities = ((1, "signed"), (2, "signed"), (3, "ones")), ("tensor", "channel", "element")
    pairs = product(forms, granularities) if thorough else zip(forms, granularities, strict=True)
    recipes = [few(digits, form, granularity=granularity) for (digits, form), granularity in pairs]  # type: ignore[arg-type]
    same_in_cpp([(qfx.quantize(network(), images(), recipe).eval(), images()) for recipe in recipes], tmp_path, fast=fast)
