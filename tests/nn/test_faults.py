"""Faults of constants: the definition, and the same faults in training, in graphs and in every executor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from executors import same_in_torch_and_the_file
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import qfx
from qfx import Recipe, Spec
from qfx.errors import DataError, QfxError, UnsupportedError
from qfx.faults.definition import Faults, Stuck, read_word
from qfx.faults.graph import Word, faulty
from qfx.faults.training import inject, words
from qfx.ir.interpret import quantize_input, run_from_raw


def quantized(**weight: Any) -> tuple[Any, Tensor]:
    torch.manual_seed(0)
    x = torch.rand(32, 3, 5, 5)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 25, 5))
    return qfx.quantize(net, x, Recipe(weight=Spec(**{"width": 5, "granularity": "channel", **weight}))).eval(), x


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 12), st.booleans(), st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0, 1), st.integers(0, 2**31))
def test_what_is_read_is_the_definition(width: int, signed: bool, zero: float, one: float, flip: float, seed: int) -> None:
    faults = Faults(zero, one, flip, seed=seed)
    low = -(1 << width - 1) if signed else 0
    raw = np.random.default_rng(seed).integers(low, low + (1 << width), 40)
    drawn = faults.drawn("a", 40, width)
    masks = zip(raw.tolist(), drawn.zeros.tolist(), drawn.ones.tolist(), drawn.flips.tolist(), strict=True)
    wanted = [read_word(word, width, signed, zeros=z, ones=o, flips=f) for word, z, o, f in masks]
    assert drawn.read(raw, signed).tolist() == wanted
    assert not (drawn.zeros & drawn.ones).any()


def test_rates_are_those_asked_for_and_faults_are_nested() -> None:
    few, many = (Faults(rate, rate, 2 * rate, seed=3).drawn("a", 20_000, 8) for rate in (0.01, 0.05))
    for mask, rate in ((many.zeros, 0.05), (many.ones, 0.05), (many.flips, 0.1)):
        share = sum(int(word).bit_count() for word in mask) / (8 * len(mask))
        assert abs(share - rate) < 0.1 * rate
    assert not (few.zeros & ~many.zeros).any()
    assert not (few.ones & ~many.ones).any()
    assert Faults(variability=0.2).drawn("a", 20_000, 8).deviation.std() == pytest.approx(0.2, rel=0.02)


def test_known_faults() -> None:
    faults = Faults(known={"a": (Stuck(1, 3, 1), Stuck(2, 0, 0))})
    assert faults.drawn("a", 3, 4).read(np.array([5, 5, 5]), True).tolist() == [5, -3, 4]
    assert faults.drawn("b", 3, 4).read(np.array([5, 5, 5]), True).tolist() == [5, 5, 5]
    for wrong in (Stuck(3, 0, 0), Stuck(0, 4, 0), Stuck(0, 0, 2)):
        with pytest.raises(DataError, match="3 words of 4 bits"):
            Faults(known={"a": (wrong,)}).drawn("a", 3, 4)


@pytest.mark.parametrize(
    "faults", [Faults(0.05, 0.05, seed=1), Faults(flips=0.1), Faults(variability=0.3), Faults(known={"3.weight": (Stuck(7, 4, 1),)})]
)
def test_the_same_faults_in_torch_and_in_the_graph(faults: Faults, tmp_path: Path) -> None:
    q, x = quantized()
    clean, held = qfx.to_graph(q), words(q)
    assert inject(q, faults) >= (faults.variability == 0)
    expected = same_in_torch_and_the_file(q, x[:8], tmp_path)
    by_graph = faulty(clean, faults, held)
    found = run_from_raw(by_graph, quantize_input(by_graph, x[:8].numpy()))
    grids = qfx.to_graph(q).infos[clean.output].grids - by_graph.infos[clean.output].grids
    assert (found == expected).all()
    assert not grids.any()
    other = faulty(clean, Faults(known={"0.weight": (Stuck(0, 0, 1), Stuck(1, 0, 1), Stuck(2, 0, 1))}), held)  # one last place
    assert (run_from_raw(other, quantize_input(other, x[:8].numpy())) != expected).any()
    inject(q, None)
    assert qfx.to_graph(q) == clean


def test_training_against_faults_recovers() -> None:
    q, x = quantized()
    y = torch.arange(32) % 5
    faults = Faults(stuck_at_1=0.1, seed=2)

    def loss() -> Tensor:
        return nn.functional.cross_entropy(q(x), y)

    inject(q, faults)
    before = loss().item()
    optimizer = torch.optim.Adam(qfx.parameter_groups(q, lr=1e-2))
    for _ in range(30):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss().item() < 0.8 * before
    for step in range(2):
        inject(q, faults.at(step))
        loss().backward()


def test_refusals() -> None:
    q, _ = quantized()
    with pytest.raises(QfxError, match="matches nothing"):
        inject(q, Faults(flips=0.1), "nothing")
    with pytest.raises(QfxError, match=r"1\.output: is the cast of values that come and go"):
        inject(q, Faults(flips=0.1), "1.output")
    with pytest.raises(UnsupportedError, match="words have no bits that stay"):
        inject(quantized(learn_width=True)[0], Faults(flips=0.1))
    with pytest.raises(UnsupportedError, match="is kept within an accumulator"):
        inject(quantized(accumulator=14)[0], Faults(flips=0.1))
    before = qfx.to_graph(q)
    for known, told in (
        ({"1.weight": (Stuck(0, 0, 1),)}, r"known faults of '1\.weight', and nothing is called so"),
        ({"0.bias": (Stuck(0, 0, 1),)}, r"known faults of '0\.bias', and the pattern '\*\.weight' does not match it"),
        ({"1.output": (Stuck(0, 0, 1),)}, r"known faults of '1\.output', and the pattern"),
        ({"0.weight": (Stuck(0, 9, 1),)}, "bit 9 of word 0 is stuck"),
    ):
        with pytest.raises(QfxError, match=told):
            inject(q, Faults(known=known))
        assert qfx.to_graph(q) == before  # what is refused leaves no trace
    with pytest.raises(DataError, match="3 bits do not hold"):
        faulty(qfx.to_graph(q), Faults(flips=0.1), {"3.weight": Word(3, True, (2,))})
    for name in ("1.weight", "0.bias"):
        with pytest.raises(DataError, match=rf"{name}: has known faults, and no constant that is read is called so"):
            faulty(before, Faults(known={name: (Stuck(0, 0, 1),)}), words(q))
    for wrong in ({"flips": 1.5}, {"flips": "1"}, {"variability": float("nan")}, {"stuck_at_0": -1}, {"stuck_at_0": 0.6, "stuck_at_1": 0.6}):
        with pytest.raises(QfxError, match="Faults"):
            Faults(**wrong)
