"""Minifloats: the definition against ml_dtypes on all codes, numpy and torch against the definition, and weights of them in every executor."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from executors import same_in_cpp, same_in_torch_and_the_file
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import qfx
from qfx import Recipe, Spec
from qfx.errors import DataError, RecipeError
from qfx.fixed import number_sets
from qfx.fixed.minifloat import Minifloat, to_raws
from qfx.nn.casts.digits import numbers_of
from qfx.nn.quantizer import Quantizer

STANDARD: dict[str, Any] = {
    "E5M2": ml_dtypes.float8_e5m2,
    "E4M3": ml_dtypes.float8_e4m3fn,
    "E2M1": ml_dtypes.float4_e2m1fn,
    "E2M3": ml_dtypes.float6_e2m3fn,
    "E3M2": ml_dtypes.float6_e3m2fn,
}


def halves() -> Any:
    """All finite bfloat16 and float16 numbers: every exponent that a minifloat has, and more bits than it."""
    codes = np.arange(1 << 16, dtype=np.uint16)
    with np.errstate(invalid="ignore"):
        found = np.concatenate([codes.view(ml_dtypes.bfloat16).astype(np.float64), codes.view(np.float16).astype(np.float64)])
    return found[np.isfinite(found)]


@pytest.mark.parametrize("name", STANDARD)
def test_all_codes_mean_what_ml_dtypes_says(name: str) -> None:
    kind = Minifloat.parse(name)
    with np.errstate(invalid="ignore"):
        theirs = np.arange(1 << kind.bits, dtype=np.uint8).view(STANDARD[name]).astype(np.float64)
    for code, value in enumerate(theirs.tolist()):
        raw = kind.raw(code)
        if isinstance(raw, str):
            assert str(abs(value)) == raw.removeprefix("-")
            with pytest.raises(DataError, match="no number"):
                kind.value(code)
        else:
            assert Fraction(value) == kind.value(code)
            assert kind.code(Fraction(value)) == (code if raw else 0)  # fixed point has one zero


@pytest.mark.parametrize("name", STANDARD)
def test_rounding_is_that_of_ml_dtypes(name: str) -> None:
    """All numbers of 16 bits, rounded by them, by the definition, and by numpy's form of it; beyond the end infinity, NaN, or the last."""
    kind, values = Minifloat.parse(name), halves()
    with np.errstate(invalid="ignore", over="ignore"):
        theirs = values.astype(np.float32).astype(STANDARD[name]).astype(np.float64)
    finite = np.isfinite(theirs)
    rounded = np.ldexp(to_raws(values, kind).astype(np.float64), -kind.frac_bits)
    assert (rounded[finite] == theirs[finite]).all()
    assert (np.abs(rounded[~finite]) == kind.largest * 2.0**-kind.frac_bits).all()
    some = np.random.default_rng(0).permutation(len(values))[:3000]
    for value, wanted in zip(values[some].tolist(), theirs[some].tolist(), strict=True):
        raw = kind.raw(kind.code(value, saturate=False))
        if isinstance(raw, str):
            assert str(abs(wanted)) == raw.removeprefix("-")
        else:
            assert float(raw * Fraction(2) ** -kind.frac_bits) == wanted


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(0, 4), st.sampled_from(["none", "ieee", "fn"]), st.lists(st.floats(-600, 600, width=32), min_size=1))
def test_any_format_rounds_as_the_definition(e: int, m: int, specials: Any, values: list[float]) -> None:
    if (specials == "ieee" and e < 2) or (specials == "fn" and e + m < 2):
        return
    kind = Minifloat(e, m, specials)
    steps = np.concatenate([kind.raws, -kind.raws]).astype(np.float64)
    middles = np.ldexp((np.sort(steps)[1:] + np.sort(steps)[:-1]) / 2, -kind.frac_bits)
    every = np.concatenate([values, np.ldexp(steps, -kind.frac_bits), middles, np.nextafter(middles, 1e9), np.nextafter(middles, -1e9)])
    assert to_raws(every, kind).tolist() == [kind.raw(kind.code(value)) for value in every.tolist()]
    below = to_raws(every, kind)
    below[0] += 1
    assert below.tolist() != [kind.raw(kind.code(value)) for value in every.tolist()]  # a planted last place is found


@pytest.mark.parametrize("name", ["E5M2", "E4M3", "E2M1", "E3M2", "E2M3", "E4M0"])
def test_torch_rounds_as_the_definition(name: str) -> None:
    kind = Minifloat.parse(name)
    spec = Spec(numbers=name, frac_bits=kind.frac_bits, signed=True)
    assert spec.type(signed=True).width == kind.fixed_type.width
    cast = Quantizer(spec, channel_axis=0)
    values = torch.from_numpy(halves()).double()
    values = values[values.abs() < 2.0**60]
    cast.initialize(values)
    raw = torch.ldexp(cast(values).value.double(), torch.tensor(kind.frac_bits)).to(torch.int64)
    assert raw.numpy().tolist() == to_raws(values.numpy(), kind).tolist()


def test_weights_in_every_executor(tmp_path: Path) -> None:
    torch.manual_seed(0)
    models = []
    x = torch.rand(16, 3, 6, 6)
    for numbers in ("E5M2", "E4M3", "E2M1", "power(4, 0.5)", "levels(-9, -4, -1, 0, 2, 5, 11)"):
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
        q = qfx.quantize(net, x, Recipe(weight=Spec(8, numbers=numbers, granularity="channel"))).eval()
        same_in_torch_and_the_file(q, x, tmp_path)
        q(x).sum().backward()
        weight = next(node for node in qfx.to_graph(q).nodes if node.name == "3").op.constants()["weight"]
        allowed = number_sets.read(numbers).integers(8)
        units = np.ldexp(weight.raw.astype(np.float64), q.get_submodule("3").weight_cast.points().reshape(-1, 1).int().numpy() - weight.grids)
        assert np.isin(units, allowed).all()
        models.append((q, x[:4]))
    same_in_cpp(models, tmp_path / "cpp", fast=True)


def test_numbers_saturate_with_the_gradient_of_a_cast() -> None:
    spec = Spec(numbers="E2M1", frac_bits=1)
    assert numbers_of(spec, Quantizer(spec, signed=True).mode).high == 14  # in units of 1/2: 7 is a tie, and would be 8
    cast = Quantizer(spec, channel_axis=0)
    x = torch.tensor([0.2, 2.4, 6.9, 7.1, -9.0], requires_grad=True)
    cast.initialize(x)
    value = cast(x).value
    value.sum().backward()
    assert value.tolist() == [0.0, 2.0, 6.0, 6.0, -6.0]
    assert x.grad is not None
    assert x.grad.tolist() == [1, 1, 1, 0, 0]


def test_refusals() -> None:
    for wrong, told in (
        ("E0M3", "has no exponent bits"),
        ("E5M12", "has 18 bits"),
        ("E6M1", "take 65 bits in fixed point"),
        ("E8M7", "take"),
        ("e4m3", "numbers are"),
        ("power(1, 0.5)", "numbers are"),
        ("levels(3, 1)", "numbers are"),
        ("levels(1, 2)", "numbers are"),
    ):
        with pytest.raises(RecipeError, match=told):
            Spec(numbers=wrong)
    with pytest.raises(RecipeError, match=r"take 9 bits, and width is 8"):
        Spec(8, numbers="levels(-200, 0, 200)")
    for other in ({"digits": 2}, {"learn_width": True}, {"o": "AP_WRAP"}, {"signed": False}):
        with pytest.raises(RecipeError, match="beside numbers"):
            Spec(numbers="power(4, 0.5)", **other)  # type: ignore[arg-type]
    recipe = Recipe(weight=Spec(numbers="E2M1"))
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    q, x = qfx.quantize(nn.Linear(4, 4), torch.rand(8, 4), recipe), torch.rand(8, 4)
    with pytest.raises(qfx.ModelFileError, match="numbers of a set"):
        qfx.quantize(nn.Linear(4, 4), x, Recipe(weight=Spec(5, q="AP_RND_CONV", o="AP_SAT_SYM"))).load_state_dict(q.state_dict())
