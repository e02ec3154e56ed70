"""What a model would become is told without quantizing it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from nn_models import Calls
from torch import nn

import qfx
from qfx.cli import main

X = torch.randn(4, 8)


def taken() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 4))


def refused() -> nn.Module:
    return Calls(lambda m, x: F.relu(m.cell(m.a(x).view(-1, 2, 2, 2))).cumsum(1), a=nn.Linear(8, 8), cell=nn.FractionalMaxPool2d(1, 2))


def test_every_operation_has_its_form() -> None:
    found = qfx.check(taken(), X)
    assert found.ok
    assert [(row.path, row.operation, row.form[-1:]) for row in found.rows[:2]] == [("0", "Linear", ("QLinear",)), ("1", "ReLU", ("QReLU",))]
    assert str(found).split("\n")[0].split() == ["path", "operation", "fixed", "point"]


def test_the_forms_are_those_of_quantize() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.LayerNorm((4, 6, 6)), nn.Flatten(), nn.Linear(144, 3), nn.Softmax(1))
    x = torch.randn(4, 3, 8, 8)
    built = {type(layer).__name__ for layer in qfx.quantize(model, x).modules()}
    assert {name for row in qfx.check(model, x).rows for name in row.form} <= built


def test_blockers_stand_in_their_rows() -> None:
    found = qfx.check(refused(), X)
    assert not found.ok
    assert [(row.path, row.operation) for row in found.rows] == [
        *(("a", "Linear"), ("view", "view"), ("cell", "FractionalMaxPool2d"), ("relu", "relu"), ("cumsum", "cumsum"))
    ]
    with pytest.raises(qfx.UnsupportedError) as caught:
        qfx.quantize(refused(), X)
    assert [(row.path, row.blocker, row.remedy) for row in found.blocked] == [(e.where, e.what, e.remedy) for e in caught.value.blockers]
    assert all(row.remedy in str(found) for row in found.blocked)


def test_where_tracing_stops_the_rest_is_told_as_well() -> None:
    found = qfx.check(Calls(lambda m, x: m.cell(x[:, None]) if m.a(x).sum() > 0 else x, a=nn.Linear(8, 8), cell=nn.FractionalMaxPool2d(1, 2)), X)
    assert not found.ok
    assert any("decides by data" in row.blocker for row in found.rows)


def test_the_model_is_left_as_it_is() -> None:
    model = taken().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    qfx.check(model, X)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(("factory", "code"), [("taken", 0), ("refused", 1)])
def test_the_command(factory: str, code: int, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X.numpy())
    arguments = ["check", "--model", f"{__name__}:{factory}", "--data", str(tmp_path / "x.npy")]
    table = CliRunner().invoke(main, arguments)
    assert table.exit_code == code, table.output
    assert "Linear" in table.stdout
    told = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)
    assert told["ok"] is (code == 0)
    assert told["rows"][0]["operation"] == "Linear"


@pytest.mark.parametrize(
    ("recipe", "told"),
    [(None, "0.5 LSB of the output where there can be"), (qfx.Recipe(table_error=2.0), "2 LSB of the output")],
)
def test_tables_say_how_near_they_come(recipe: qfx.Recipe | None, told: str) -> None:
    near = qfx.lookup(lambda x: x * torch.sigmoid(1.7 * x), name="near", max_error=0.01)
    model = nn.Sequential(nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 8), near, nn.Softmax(1))
    found = qfx.check(model, X, recipe)
    by_path = {row.path: row.table for row in found.rows}
    assert (by_path["0"], by_path["1"], by_path["3"]) == ("", told, "0.01")
    assert [row.table for row in found.rows if row.operation == "exp"] == [told]
    assert f"QLookup (table, lines within {told})" in str(found)
    assert "print(quantized) shows the size and the error of each" in str(found)
    assert "table" not in str(qfx.check(taken(), X))


def test_the_error_of_a_table_is_shown_after_quantize() -> None:
    q = qfx.quantize(nn.Sequential(nn.Linear(8, 8), nn.Sigmoid()), torch.randn(64, 8), qfx.Recipe(activation=qfx.Spec(16)))
    assert re.search(r"sigmoid, \d+ lines, error up to [\d.e-]+ \(0\.\d+ LSB\)", str(q))
    assert re.search(r"sigmoid, \d+ entries", str(qfx.quantize(nn.Sequential(nn.Linear(8, 8), nn.Sigmoid()), X)))


def test_what_quantize_refuses_at_once_check_refuses_alike() -> None:
    for model, recipe in ((taken(), {}), (nn.LazyLinear(3), None), (lambda x: x, None)):
        with pytest.raises(qfx.QfxError) as one:
            qfx.quantize(model, X, recipe)  # type: ignore[arg-type]
        with pytest.raises(type(one.value)) as other:
            qfx.check(model, X, recipe)  # type: ignore[arg-type]
        assert str(one.value) == str(other.value)
