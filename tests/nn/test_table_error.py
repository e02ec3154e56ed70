"""The error that a recipe asks of tables of lines: as few lines as do it, one clear error where none do, and a report that tells."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import qfx
from qfx.errors import ExactnessError, RecipeError
from qfx.nn.layers.tables import Tabled, error_bound
from qfx.ptq.float_reference import float_reference
from qfx.ptq.report.analysis import analyse

X = (torch.arange(-(1 << 15), 1 << 15) / 4096.0).reshape(-1, 16)


def made(table_error: float | None, function: nn.Module | None = None, width: int = 16, frac_bits: int = 14) -> qfx.nn.model.QuantizedModel:
    spec = qfx.Spec(16, frac_bits=12, signed=True)
    recipe = qfx.Recipe(input=spec, activation=spec, output=qfx.Spec(width, frac_bits=frac_bits, signed=True), table_error=table_error)
    return qfx.quantize(nn.Sequential(function or nn.Tanh()), X, recipe).eval()


def table(q: nn.Module) -> Tabled:
    (layer,) = (layer for layer in q.modules() if isinstance(layer, Tabled))
    return layer


def lines(q: nn.Module) -> int:
    return int(table(q).extra_repr().split(", ")[1].split()[0])


def test_fewer_lines_are_further_away() -> None:
    counts = []
    for wanted in (0.25, 0.5, 4.0, 64.0):
        q = made(wanted)
        assert 0.0 < table(q).error_bits <= wanted
        assert table(q).error_bits == math.ldexp(error_bound(table(q)), 14)
        counts.append(lines(q))
        assert torch.equal(q(X), torch.from_numpy(qfx.run(qfx.to_graph(q), X.numpy())))
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) > 2
    assert lines(made(None)) == counts[1]


def test_the_users_own_error_comes_first() -> None:
    assert error_bound(table(made(0.001, qfx.lookup(torch.tanh, max_error=0.01)))) > 0.001


def test_what_no_size_gives_is_one_error() -> None:
    q = made(None, qfx.lookup(torch.reciprocal, name="inverse"), 24, 10)
    assert table(q).error_bits > 0.5
    with pytest.raises(ExactnessError, match=r"out of reach: \d+ lines leave") as caught:
        made(0.5, qfx.lookup(torch.reciprocal, name="inverse"), 24, 10)
    assert caught.value.where == "0"
    assert "table_error" in caught.value.remedy


def test_the_report_lists_tables_and_warns_of_those_that_are_far_away() -> None:
    for function, far in ((nn.Tanh(), False), (qfx.lookup(torch.reciprocal, name="inverse"), True)):
        q = made(None, function, *((24, 10) if far else ()))
        found = analyse(q, float_reference(q), X[:64])
        ((path, told, bits),) = found.tables
        assert (path, bits) == ("0", table(q).error_bits)
        assert "lines, error up to" in told
        assert any("least significant bits" in warning for warning in found.warnings) is far


def test_the_recipe_keeps_it() -> None:
    recipe = qfx.Recipe(table_error=2)
    assert qfx.Recipe.from_toml(recipe.to_toml()) == recipe
    assert "table_error" not in qfx.Recipe().to_toml()
    for wrong in (0, -1.0, True, "half"):
        with pytest.raises(RecipeError, match="table_error"):
            qfx.Recipe(table_error=wrong)  # type: ignore[arg-type]
