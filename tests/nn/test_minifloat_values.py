"""Activations of minifloats: one rounding from the exact sum, the same in every executor."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
import torch
from executors import same_in_cpp, same_in_torch_and_the_file
from hypothesis import given, settings
from hypothesis import strategies as st
from model_parts import chain
from support.bundles import build_bundle
from torch import nn

import qfx
from qfx import Recipe, Spec
from qfx.errors import RecipeError
from qfx.export.onnx_file import save
from qfx.fixed.arith import Interval
from qfx.fixed.minifloat import Minifloat
from qfx.hardware.design.schedule import Schedule
from qfx.hardware.unrolled.evaluate import evaluate
from qfx.hardware.unrolled.unroll import unroll
from qfx.ir.graph import Graph
from qfx.ir.interpret import quantize_input, run_from_raw
from qfx.ir.passes.pipeline import optimize
from qfx.ir.values import Info
from qfx.operators import MinifloatCast
from qfx.testing import assert_bit_exact


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(0, 4), st.integers(-6, 30), st.integers(0, 2**31))
def test_the_operator_is_the_definition(e: int, m: int, moved: int, seed: int) -> None:
    kind = Minifloat(e, m)
    rng = np.random.default_rng(seed)
    near = np.array([raw << max(moved, 0) for raw in kind.raws.tolist()], dtype=object)
    every = [*rng.integers(-(1 << 40), 1 << 40, 40).tolist(), *near.tolist(), *(near[1:] + near[:-1]).tolist(), 0, 1, -1, (1 << 50) - 1, -(1 << 50)]
    raws = np.array([x + step for x in every for step in (-1, 0, 1)], dtype=np.int64)
    op = MinifloatCast(kind, kind.frac_bits)
    grid = kind.frac_bits + moved
    info = Info((len(raws),), Interval(-(1 << 51), 1 << 51, grid).type(), Interval(-(1 << 51), 1 << 51, grid))
    out = op.infer("a", (info,))
    found = op.evaluate((raws[None],), (info,), out)[0]
    wanted = [kind.raw(kind.code(Fraction(raw) / Fraction(2) ** grid)) for raw in raws.tolist()]
    assert found.tolist() == wanted
    assert out.interval.hull.hi >= max(wanted)  # type: ignore[type-var]


@pytest.mark.parametrize("numbers", ["E4M3", "E2M1", "E3M0", "E5M2"])
def test_every_executor_gives_the_same(numbers: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(24, 3, 6, 6)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.LeakyReLU(0.25), nn.Flatten(), nn.Linear(64, 3)
    )
    net(x)
    recipe = Recipe(weight=Spec(numbers="E2M1", granularity="channel"), activation=Spec(numbers=numbers), output=Spec(numbers="E4M3"))
    q = qfx.quantize(net, x, recipe).eval()
    expected = same_in_torch_and_the_file(q, x, tmp_path)
    allowed = Minifloat.parse("E4M3").raws
    assert np.isin(np.abs(expected), allowed).all()
    same_in_cpp([(q, x[:6])], tmp_path / "fast", fast=True)
    same_in_cpp([(q, x[:3])], tmp_path / "cpp", fast=False)


EVERY_WORD: dict[str, tuple[Any, tuple[int, ...]]] = {
    "E5M2": (ml_dtypes.float8_e5m2, (-1, 17)),
    "E4M3": (ml_dtypes.float8_e4m3fn, (6, 10)),
    "E2M1": (ml_dtypes.float4_e2m1fn, (10, 14)),
}
"""Formats, and binary points of words of 16 bits: the one goes beyond the greatest number, the other below the least."""


def every_word(frac_bits: int, numbers: str) -> tuple[Graph, Any, Any]:
    """A graph that casts words of 16 bits, all of them, and what ml_dtypes makes of them, saturated."""
    kind = Minifloat.parse(numbers)
    graph = chain("every", (64,), MinifloatCast(kind, kind.frac_bits), cast=f"ap_fixed<16,{16 - frac_bits}>")
    raw = np.arange(-(1 << 15), 1 << 15).reshape(-1, 64)
    with np.errstate(over="ignore", invalid="ignore"):
        theirs = np.ldexp(raw.astype(np.float64), -frac_bits).astype(np.float32).astype(EVERY_WORD[numbers][0]).astype(np.float64)
    wanted = np.ldexp(theirs, kind.frac_bits)
    return graph, raw, np.where(np.isfinite(wanted), wanted, np.sign(raw) * kind.largest).astype(np.int64)


@pytest.mark.parametrize("numbers", EVERY_WORD)
def test_every_word_of_16_bits_is_cast_as_ml_dtypes_casts_it(numbers: str, tmp_path: Path) -> None:
    for frac_bits in EVERY_WORD[numbers][1]:
        graph, raw, wanted = every_word(frac_bits, numbers)
        assert_bit_exact(run_from_raw(graph, raw), wanted, names=("interpreter", "ml_dtypes"))
        save(graph, tmp_path / f"{frac_bits}.onnx")
        session = onnxruntime.InferenceSession(tmp_path / f"{frac_bits}.onnx")
        values = np.ldexp(raw.astype(np.float32), -frac_bits)
        found = session.run(None, {session.get_inputs()[0].name: values})[0]
        assert_bit_exact(
            np.rint(np.ldexp(found.astype(np.float64), Minifloat.parse(numbers).frac_bits)).astype(np.int64), wanted, names=("ONNX", "ml_dtypes")
        )


def test_every_word_of_16_bits_in_cpp(thorough: bool, tmp_path: Path) -> None:
    """With --slow: E4M3 and E2M1, saturation and the least numbers; E5M2 as well with --thorough."""
    names = EVERY_WORD if thorough else ("E4M3", "E2M1")
    cases = [every_word(frac_bits, numbers) for numbers in names for frac_bits in EVERY_WORD[numbers][1]]
    bundle = build_bundle([(graph, Schedule()) for graph, _, _ in cases], tmp_path, fast=False)
    for place, (_, raw, wanted) in enumerate(cases):
        assert_bit_exact(bundle.run_from_raw(place, raw), wanted, names=(f"design {place} in C++", "ml_dtypes"))


def test_unrolled_designs_give_the_same() -> None:
    torch.manual_seed(0)
    x = 3 * torch.randn(200, 8)
    for numbers in ("E2M1", "E3M2"):
        net = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
        recipe = Recipe(weight=Spec(4), input=Spec(6), activation=Spec(numbers=numbers), output=Spec(numbers=numbers))
        graph = optimize(qfx.to_graph(qfx.quantize(net, x, recipe).eval()))
        raw = quantize_input(graph, x.numpy())
        (found,) = evaluate(unroll(graph), [raw], [(3,)], check_ranges=True)
        assert_bit_exact(np.asarray(found), run_from_raw(graph, raw), names=("unrolled", "interpreter"))


def test_activations_are_trained_and_checkpoints_know_them() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(64, 8), torch.arange(64) % 3
    q = qfx.quantize(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)), x, Recipe(activation=Spec(numbers="E2M1")))
    optimizer = torch.optim.Adam(qfx.parameter_groups(q, lr=1e-2))
    found = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(q(x), y)
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[-1] < found[0]
    assert dict(qfx.quantizers(q))["1.output"].frac_bits.grad is not None


def test_refusals() -> None:
    for wrong, told in (
        ({"numbers": "power(4, 0.5)"}, "power"),
        ({"numbers": "E4M3", "granularity": "channel"}, "several binary points"),
    ):
        with pytest.raises(RecipeError, match=told):
            Recipe(activation=Spec(**wrong))  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="input"):
        Recipe(input=Spec(numbers="E4M3"))
    kind, info = Minifloat(6, 3), Info((3,), Interval(-9, 9, 0).type(), Interval(-9, 9, 0))
    with pytest.raises(RecipeError, match="in fixed point"):
        MinifloatCast(kind, 0).infer("a", (info,))
