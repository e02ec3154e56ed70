"""Costs: bit operations counted product by product, hardware as the estimator has it, and the table."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx import Recipe, Spec
from qfx.hardware.board import board
from qfx.hardware.cost.resources import FIELDS
from qfx.hardware.design.schedule import Folding, Request, Schedule
from qfx.hardware.folding.search import resolve
from qfx.hardware.project.project import prepare
from qfx.nn.cost.cost import cost, summary
from qfx.nn.cost.multiplications import Multiplications


class Small(nn.Module):
    """Convolutions with groups and strides, a BatchNorm, a shortcut, pooling, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.b = nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=2)
        self.pool = nn.MaxPool2d(2)
        self.out = nn.Linear(4 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.a(x)))
        z = torch.relu(self.b(y + x.repeat(1, 2, 1, 1)))
        return self.out(self.pool(z).flatten(1))


def _small(recipe: Recipe) -> nn.Module:
    torch.manual_seed(0)
    return qfx.quantize(Small(), torch.randn(4, 2, 8, 8), recipe)


def test_bit_operations_product_by_product() -> None:
    """Against loops over every product of a convolution with groups, a stride and padding, and of the layer behind the pool."""
    model = _small(Recipe(weight=Spec(3), activation=Spec(5), input=Spec(6), output=Spec(9)))
    found, counts = Multiplications(model).bit_operations(), Multiplications(model).counts()
    operations = products = 0
    for _, row, column, _, dy, dx in itertools.product(range(4), range(4), range(4), range(2), range(3), range(3)):
        if 0 <= 2 * row + dy - 1 < 8 and 0 <= 2 * column + dx - 1 < 8:
            operations, products = operations + 3 * 5, products + 1
    assert (float(found["b"]), counts["b"]) == (operations, products)
    assert (float(found["out"]), counts["out"]) == (3 * 5 * 16 * 3, 16 * 3)
    assert counts["norm"] == 4 * 8 * 8
    assert float(found["a"]) == 3 * 6 * counts["a"]


def test_nothing_moves() -> None:
    """Statistics, binary points and the mode of every module are as before, in training too."""
    model = _small(Recipe.uniform(4)).train()
    model.get_submodule("norm").eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    cost(model, "ultra96v2", fps=100.0)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(6, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(x)[0][:, -1]  # type: ignore[no-any-return]


def test_products_of_values_and_of_loops() -> None:
    torch.manual_seed(0)
    attention = Multiplications(qfx.quantize(Attention(), torch.randn(3, 5, 8), Recipe.uniform(6))).counts()
    projections, scores = 4 * 5 * 8 * 8, 2 * 2 * 5 * 5 * 4
    assert sum(attention.values()) >= projections + scores
    recurrent = Multiplications(qfx.quantize(Recurrent(), torch.randn(3, 7, 6), Recipe.uniform(6))).counts()
    # four gates of what comes in and of the state, and three products of gates with values, at each of seven steps
    assert sum(recurrent.values()) == 7 * (4 * 4 * 6 + 4 * 4 * 4 + 3 * 4)


@pytest.mark.parametrize("on", ["ultra96v2", "zcu102"])
def test_hardware_is_what_the_estimator_says(on: str) -> None:
    model = _small(Recipe.uniform(5))
    graph = prepare(qfx.to_graph(model))
    plan = resolve(graph, board(on), Request(fps=50_000.0), clock_ns=board(on).clock_ns)
    found = cost(model, on, fps=50_000.0)
    assert [float(found.resources[field]) for field in FIELDS] == [getattr(plan.estimate.total, field) for field in FIELDS]
    assert (found.cycles, found.fps, found.plan is not None) == (plan.interval, plan.fps, True)
    assert float(found.lut) == plan.estimate.total.lut


def test_hardware_of_a_schedule() -> None:
    model = _small(Recipe.uniform(5))
    one, wide = cost(model, "ultra96v2"), cost(model, "ultra96v2", schedule=Schedule.of({"a": Folding(2, 2)}))
    assert float(wide.lut) > float(one.lut)
    with pytest.raises(AttributeError, match="without a board has no 'lut'"):
        _ = cost(model).lut


def test_summary() -> None:
    model = _small(Recipe.uniform(5))
    text = str(summary(model))
    lines = text.splitlines()
    assert lines[0].split() == ["layer", "kind", "weights", "zero", "type", "bits", "result", "products", "bit", "operations"]
    assert any(line.startswith("out ") and "ap_fixed<5," in line for line in lines)
    found = summary(model, "ultra96v2", fps=1000.0)
    assert sum(row.multiplications for row in found.rows) == found.total.multiplications
    assert sum(row.bit_operations for row in found.rows) == found.total.bit_operations
    assert found.total.resources == tuple(int(value) for value in cost(model, "ultra96v2", fps=1000.0).resources.values())
    assert "frames a second" in str(found)


def test_a_budget_in_the_loss_of_words_that_wrap() -> None:
    """Ranges that follow the weights are looked at with other binary points, between a forward and its backward: neither is disturbed."""
    torch.manual_seed(0)
    weight = Spec(6, o="AP_WRAP", granularity="element", learn_width=True)  # type: ignore[arg-type]
    x, labels = torch.randn(32, 8), torch.randint(0, 3, (32,))
    model = qfx.quantize(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)), x, Recipe(weight=weight))
    alone = torch.autograd.grad(nn.functional.cross_entropy(model(x), labels), list(model.parameters()), allow_unused=True)
    loss = nn.functional.cross_entropy(model(x), labels)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    budget = qfx.Budget(ebops=1500)
    budget.loss(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    beside = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    pairs = [(a, b) for a, b in zip(alone, beside, strict=True) if a is not None]
    assert pairs
    assert all(b is not None and torch.equal(a, b) for a, b in pairs)
