"""The search for word lengths: optimal for bits, checked for hardware, and never satisfied with less than was asked."""

from __future__ import annotations

import importlib
import itertools
import math
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ptq_nets import accuracy, digits, quantized_small, recipe, trained_small
from torch import nn

import qfx
from qfx import ProjectError, QfxError, RecipeError
from qfx.hardware.board import board
from qfx.hardware.cost.resources import FIELDS
from qfx.hardware.design.schedule import Request
from qfx.hardware.folding.search import resolve
from qfx.hardware.project.project import prepare
from qfx.ptq import Budget, Found, Row, Table, fold_batch_norm, plot_pareto, search, sensitivity, weight_bits, with_widths
from qfx.ptq.allocation.search import _Knapsack

hardware, search_module = (importlib.import_module(f"qfx.ptq.allocation.{name}") for name in ("hardware", "search"))

WIDTHS = (2, 3, 4, 6, 8)


@lru_cache(maxsize=1)
def folded() -> nn.Module:
    return fold_batch_norm(trained_small(), digits()[0][:8])


@lru_cache(maxsize=1)
def table() -> Table:
    return sensitivity(quantized_small(8, 8), digits()[0][:96], widths=WIDTHS, measure="fisher")


def searched(budget: Budget) -> Found:
    return search(folded(), digits()[0][:64], table(), budget, recipe=recipe(8, 8))


@lru_cache(maxsize=1)
def numbers() -> int:
    return sum(row.numbers for row in table().rows if row.role == "weight")


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Row], int]:
    rows = []
    for index in range(draw(st.integers(1, 4))):
        losses = sorted(draw(st.lists(st.floats(0, 10), min_size=3, max_size=3)), reverse=True)
        rows.append(Row(f"{index}.weight", "weight", draw(st.integers(1, 40)), 8, tuple(losses)))
    most = sum(row.numbers * 8 for row in rows)
    return rows, draw(st.integers(sum(row.numbers * 2 for row in rows), most + 5))


@settings(max_examples=60, deadline=None)
@given(problems())
def test_no_choice_of_widths_is_better(problem: tuple[list[Row], int]) -> None:
    rows, limit = problem
    widths = (2, 4, 8)
    picked = _Knapsack(rows, widths, sum(row.numbers * widths[-1] for row in rows)).picked(limit)
    assert sum(row.numbers * picked[row.name] for row in rows) <= limit
    loss = sum(row.losses[widths.index(picked[row.name])] for row in rows)
    choices = (choice for choice in itertools.product(range(3), repeat=len(rows)))
    fitting = (choice for choice in choices if sum(row.numbers * widths[i] for row, i in zip(rows, choice, strict=True)) <= limit)
    assert loss == pytest.approx(min(sum(row.losses[i] for row, i in zip(rows, choice, strict=True)) for choice in fitting))


def test_large_budgets_are_counted_in_coarser_units() -> None:
    rows = [Row(f"{index}.weight", "weight", 7_000_003 + index, 8, (4.0 / (index + 1), 2.0 / (index + 1), 0.0)) for index in range(4)]
    limit = 4 * 4 * 7_000_010
    picked = _Knapsack(rows, (2, 4, 8), 8 * 4 * 7_000_010).picked(limit)
    assert sum(row.numbers * picked[row.name] for row in rows) <= limit
    assert picked["0.weight"] > picked["3.weight"]


def test_bits_are_spent_where_they_matter() -> None:
    found = searched(Budget(weight_bits=4 * numbers()))
    qmodel = qfx.quantize(folded(), digits()[0][:64], found.recipe).eval()
    assert weight_bits(qmodel) == found.point.weight_bits <= 4 * numbers()
    for name, quantizer in qfx.quantizers(qmodel):
        assert quantizer.word_length == found.widths.get(name, quantizer.word_length)
    assert {found.widths[row.name] for row in table().rows if row.role == "activation"} == {8}
    uniform = sum(row.losses[WIDTHS.index(4)] for row in table().rows if row.role == "weight")
    assert found.point.loss < uniform
    assert accuracy(qmodel) > 90


def test_the_front_is_one() -> None:
    found = searched(Budget(weight_bits=4 * numbers()))
    assert len(found.front) > 5
    for cheap, dear in itertools.pairwise(found.front):
        assert cheap.weight_bits < dear.weight_bits
        assert cheap.loss > dear.loss
    assert found.point in found.front
    assert str(found).count(">") == 1


def test_a_budget_that_cannot_be_met_says_what_can() -> None:
    least = 2 * numbers()
    with pytest.raises(RecipeError, match=f"at least {least}"):
        searched(Budget(weight_bits=least - 1))
    assert searched(Budget(weight_bits=least)).point.weight_bits == least


@lru_cache(maxsize=1)
def in_hardware() -> Found:
    return searched(Budget(board="pynq_z2", fps=20_000, lut=2_800, dsp=10))


def test_the_design_meets_the_budget_that_plain_8_bits_do_not() -> None:
    found = in_hardware()
    assert dict(found.point.resources)["lut"] <= 2_800
    assert dict(found.point.resources)["dsp"] <= 10
    graph = prepare(qfx.to_graph(qfx.quantize(folded(), digits()[0][:64], found.recipe).eval()))
    whole = board("pynq_z2")
    small = replace(whole, lut=3500, dsp=10)  # of LUTs, 80 % are to be used
    plan = resolve(graph, small, Request(fps=20_000), clock_ns=whole.clock_ns)
    assert plan.fps >= 20_000
    longest = prepare(qfx.to_graph(quantized_small(8, 8)))
    with pytest.raises(ProjectError, match="LUT"):
        resolve(longest, small, Request(fps=20_000), clock_ns=whole.clock_ns)
    assert any(width < 8 for width in found.point.widths)
    assert found.point.loss == pytest.approx(sum(table().loss(name, width) for name, width in found.widths.items()))
    assert found.point.fps >= 20_000
    assert all(dict(point.resources)["lut"] <= 2_800 for point in found.front)


def test_products_share_a_dsp_block_as_the_words_allow() -> None:
    """The cheapest design of the middle words has three products in one, which the longest words cannot have."""
    model, x, plain = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 6)).eval(), torch.randn(64, 16), qfx.Recipe.uniform(8)
    losses = sensitivity(model, x, widths=(3, 4, 8), measure="sqnr", recipe=plain)
    found = search(model, x, losses, Budget(board="ultra96v2", fps=5e6, dsp=60), recipe=plain)
    assert dict(found.point.resources)["dsp"] <= 60
    assert found.point.fps >= 5e6


def test_losses_of_weights_count_less_where_they_will_be_trained() -> None:
    counted = table().counted("weight", 0.1)
    for before, after in zip(table().rows, counted.rows, strict=True):
        assert after.losses == (before.losses if before.role == "activation" else tuple(0.1 * loss for loss in before.losses))
    with pytest.raises(QfxError, match="from 0 on"):
        table().counted("weight", -1)


def test_predictions_that_are_wrong_do_not_make_a_design_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted fault: everything is predicted to be free. Only designs that were made are believed."""
    monkeypatch.setattr(hardware.HardwareSearch, "_usage", lambda self, widths: np.zeros(len(FIELDS)))
    monkeypatch.setattr(hardware, "FRONT", 2)
    monkeypatch.setattr(hardware, "EXCHANGES", 1)
    found = searched(Budget(board="pynq_z2", fps=20_000, lut=2_800, dsp=10))
    assert dict(found.point.resources)["lut"] <= 2_800
    assert any(width < 8 for width in found.point.widths)


def test_a_recipe_that_makes_another_model_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted fault: the first override is lost, so that the model takes more bits than was counted."""
    true = with_widths
    monkeypatch.setattr(search_module, "with_widths", lambda *args: replace(true(*args), overrides=true(*args).overrides[1:]))
    with pytest.raises(QfxError, match="weight bits, not"):
        searched(Budget(weight_bits=4 * numbers()))


def test_hardware_that_is_too_small_is_refused() -> None:
    with pytest.raises(RecipeError, match="not even with words of 2 bits"):
        searched(Budget(board="pynq_z2", lut=300))


def test_one_number_at_a_time_without_frames_per_second() -> None:
    found = searched(Budget(board="pynq_z2"))
    assert set(found.point.widths) == {8}  # the whole board takes it


@pytest.mark.parametrize("resource", ["weight_bits", "lut"])
def test_the_front_as_a_picture(resource: str, tmp_path: Path) -> None:
    path = tmp_path / "front.png"
    plot_pareto(in_hardware(), path, resource=resource)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_pictures_need_matplotlib_and_a_resource(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = searched(Budget(weight_bits=4 * numbers()))
    with pytest.raises(QfxError, match="weight_bits"):
        plot_pareto(found, tmp_path / "front.png", resource="dsp")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(QfxError, match="qfx\\[demo\\]"):
        plot_pareto(found, tmp_path / "front.png")


def test_overrides_name_only_what_changes() -> None:
    widths = tuple(row.width if index else 3 for index, row in enumerate(table().rows))
    made = with_widths(recipe(8, 8), table(), widths)
    assert [override.pattern for override in made.overrides] == [table().rows[0].name]
    assert made.spec(table().rows[0].name, "weight").width == 3


@pytest.mark.parametrize(
    "budget",
    [
        {},
        {"weight_bits": 9, "board": "zcu102"},
        {"dsp": 3},
        {"weight_bits": 9, "fps": 3.0},
        {"weight_bits": -1},
        {"board": "zcu102", "fps": math.inf},
    ],
)
def test_budgets_that_mean_nothing(budget: dict[str, float]) -> None:
    with pytest.raises(RecipeError):
        Budget(**budget)  # type: ignore[arg-type]


def test_a_table_of_another_model() -> None:
    strange = Table("sqnr", (2, 4), (Row("elsewhere.weight", "weight", 4, 8, (1.0, 0.0)),))
    with pytest.raises(QfxError, match="not in the model"):
        search(folded(), digits()[0][:8], strange, Budget(weight_bits=100))


def test_hardware_that_weights_alone_exceed_is_refused_for_them() -> None:
    """Before any design is folded; LUTs and DSP blocks, which a folding decides, are not mentioned."""
    wide = nn.Sequential(nn.Flatten(), nn.Linear(64, 2048), nn.ReLU(), nn.Linear(2048, 1024), nn.ReLU(), nn.Linear(1024, 10))
    budget = Budget(board="pynq_z2", fps=100, lut=2000, bram18=100)
    shortest = qfx.quantize(wide, digits()[0][:64], qfx.Recipe.uniform(2)).eval()
    complaint = r"not even with words of 2 bits: .*the weights alone are 4.\d Mbit: 2\d\d BRAM18; the board has 280"
    with pytest.raises(RecipeError, match=complaint) as caught:
        hardware.refuse_hopeless(budget, shortest, 2)
    assert "DSP" not in str(caught.value)
    assert "frames" not in str(caught.value)
    hardware.refuse_hopeless(Budget(board="zcu102", fps=1e9, dsp=0), shortest, 2)


def test_the_search_refuses_it_before_its_first_design(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "resolve", None)
    wide = nn.Sequential(nn.Flatten(), nn.Linear(64, 2048), nn.ReLU(), nn.Linear(2048, 10))
    rows = (Row("1.weight", "weight", 64 * 2048, 8, (1.0, 0.5, 0.2, 0.1, 0.0)),)
    with pytest.raises(RecipeError, match=r"not even with words of 2 bits: .*the weights alone are \d"):
        search(wide, digits()[0][:64], Table("fisher", WIDTHS, rows), Budget(board="pynq_z2", lut=20, bram18=0), recipe=recipe(8, 8))
