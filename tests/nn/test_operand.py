"""Casts of what weights multiply: where they stand, what they are called, and the same integers in every executor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from executors import same_in_cpp, same_in_torch_and_the_file
from support.bundles import build_bundle
from torch import Tensor, nn

import qfx
from qfx import Override, Recipe, RecipeError, Spec
from qfx.errors import ExactnessError
from qfx.hardware.design.schedule import Schedule
from qfx.hardware.unrolled.evaluate import evaluate
from qfx.hardware.unrolled.unroll import unroll
from qfx.ir.interpret import quantize_input, run_from_raw
from qfx.ir.passes.pipeline import optimize
from qfx.ptq import Budget, adaround, calibrate, correct_bias, float_reference, fold_batch_norm, search, sensitivity, tune, weight_bits
from qfx.testing import assert_bit_exact

RECIPE = Recipe(weight=Spec(4), activation=Spec(8), operand=Spec(3))


class Residual(nn.Module):
    """Two blocks with shortcuts, one of a depthwise convolution; the first convolution reads the input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.bn = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv1, self.conv2 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.depthwise, self.relu = nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.ReLU()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.first(x)))
        x = self.relu(self.conv2(self.relu(self.conv1(x))) + x)
        x = self.depthwise(x) + x
        return self.fc(x.mean((2, 3)))


def _residual(seed: int = 0) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(seed)
    return Residual().eval(), torch.randn(40, 2, 5, 5)


def _widths(model: nn.Module, x: Tensor, recipe: Recipe = RECIPE) -> dict[str, int]:
    """Of all casts between layers."""
    found = {name: cast.word_length for name, cast in qfx.quantizers(qfx.quantize(model, x, recipe))}
    return {name: width for name, width in found.items() if ".output" in name or ".operand" in name or name == "input"}


def test_a_cast_of_its_own_only_where_something_else_reads_the_value() -> None:
    assert _widths(*_residual()) == {
        "input": 8,  # the first convolution reads the model's input
        "relu.output": 8,
        "conv1.operand": 3,
        "relu_1.output": 3,  # the second convolution alone reads it
        "relu_2.output": 8,
        "depthwise.operand": 3,
        "add_1.output": 8,
        "mean.output": 3,
        "fc.output": 16,
    }
    qmodel = qfx.quantize(*_residual(), RECIPE)
    assert {"conv1_operand", "depthwise_operand"} <= dict(qmodel.named_modules()).keys()
    without = _widths(*_residual(), replace(RECIPE, operand=None))
    assert "conv1.operand" not in without
    assert {without[name] for name in without if name not in ("input", "fc.output")} == {8}


class Ways(nn.Module):
    """Values on several ways to products."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.pool, self.drop, self.fc = nn.MaxPool2d(2), nn.Dropout(0.5), nn.Linear(16, 3)
        self.matrix = nn.Parameter(torch.randn(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        both = F.relu(self.b(x) + self.c(x))
        y = self.fc(self.drop(torch.flatten(self.pool(both), 1)))
        return torch.tanh(y) @ self.matrix


def test_products_alone_share_a_cast_and_moves_and_maxima_lie_between() -> None:
    torch.manual_seed(0)
    found = _widths(Ways().eval(), torch.randn(8, 2, 6, 6))
    assert found == {
        "input": 8,
        "relu.output": 3,  # of two convolutions, and nothing else
        "relu_1.output": 3,
        "fc.output": 8,
        "tanh.output": 3,
        "matmul.output": 16,
    }


class Moved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(18, 4)
        self.again = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.fc(torch.flatten(F.max_pool2d(x, 2), 1)))
        y = self.again(x) + x
        return self.again(y) + y


def test_the_input_keeps_its_cast_and_each_call_has_one() -> None:
    torch.manual_seed(0)
    model, x = Moved().eval(), torch.randn(16, 2, 6, 6)
    assert _widths(model, x) == {
        "input": 8, "relu.output": 8, "again.operand": 3, "add.output": 8, "again.operand_1": 3, "add_1.output": 16,
    }  # fmt: skip
    found = _widths(model, x, replace(RECIPE, overrides=(Override("again.operand_1", {"width": 5}),)))
    assert (found["again.operand"], found["again.operand_1"]) == (3, 5)


def test_a_module_of_the_casts_name() -> None:
    class Taken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc_operand, self.fc = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.fc_operand(x))
            return self.fc(x) + x

    torch.manual_seed(0)
    qmodel = qfx.quantize(Taken().eval(), torch.randn(8, 4), RECIPE)
    assert dict(qfx.quantizers(qmodel))["fc.operand"] is qmodel.get_submodule("fc_operand_1")


def test_overrides_reach_it_by_every_name() -> None:
    model, x = _residual()
    for pattern, named in (
        ("conv1.operand", {"conv1.operand"}),
        ("conv1", {"conv1.operand"}),
        ("*.operand", {"conv1.operand", "depthwise.operand"}),
        ("type:Conv2d.operand", {"conv1.operand", "depthwise.operand"}),
        ("type:Conv2d", {"conv1.operand", "depthwise.operand"}),
        ("relu_1.output", {"relu_1.output"}),  # a cast that is there anyway keeps its name
    ):
        found = _widths(model, x, replace(RECIPE, overrides=(Override(pattern, {"width": 5}),)))
        assert {name for name, width in found.items() if width == 5} == named, pattern
    with pytest.raises(RecipeError, match="matches nothing"):
        _widths(model, x, replace(RECIPE, overrides=(Override("first.operand", {"width": 5}),)))


def test_recipes_there_and_back(tmp_path: Path) -> None:
    assert "operand" not in Recipe().to_toml()
    assert Recipe.from_toml("[operand]\nwidth = 3") == Recipe(operand=Spec(3))
    recipe = replace(RECIPE, operand=Spec(3, granularity="channel", observer="minmax"))
    recipe.save(tmp_path / "recipe.toml")
    assert Recipe.load(tmp_path / "recipe.toml") == recipe
    for wrong, told in ((3, "operand is 3"), (Spec(3, digits=1), "digits is 1")):
        with pytest.raises(RecipeError, match=told):
            Recipe(operand=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("batch_norm", ["keep", "fold"])
def test_training_and_the_file_give_the_same(batch_norm: str, tmp_path: Path) -> None:
    model, x = _residual()
    recipe = replace(RECIPE, batch_norm=batch_norm, operand=Spec(3, granularity="channel"))  # type: ignore[arg-type]
    qmodel = qfx.quantize(model, x, recipe)
    optimizer = torch.optim.SGD(qfx.parameter_groups(qmodel, lr=0.05, binary_point_lr=0.3), momentum=0.9)
    points = qmodel.get_parameter("conv1_operand.frac_bits").detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        qmodel.train()(x).square().mean().backward()
        optimizer.step()
    assert not torch.equal(points, qmodel.get_parameter("conv1_operand.frac_bits"))
    qfx.freeze(qmodel, statistics=True)
    with torch.no_grad():
        trained = qmodel.train()(x)
        assert torch.equal(trained, qmodel.eval()(x))
    same_in_torch_and_the_file(qmodel, x, tmp_path)
    again = qfx.quantize(model, x, recipe)
    again.load_state_dict(qmodel.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval()(x), trained)


@pytest.mark.usefixtures("gxx")
def test_the_same_integers_in_cpp(tmp_path: Path) -> None:
    model, x = _residual()
    same_in_cpp([(qfx.quantize(model, x, RECIPE).eval(), x)], tmp_path, fast=False)


@pytest.mark.usefixtures("gxx")
def test_one_lsb_of_the_cast_is_seen(tmp_path: Path) -> None:
    """The operand's binary point one to the left, planted between the interpreter and the design."""
    model, x = _residual()
    qmodel = qfx.quantize(model, x, RECIPE).eval()
    graph = qfx.to_graph(qmodel)
    with torch.no_grad():
        qmodel.get_parameter("depthwise_operand.frac_bits").sub_(1)
    raw = quantize_input(graph, x.numpy())
    bundle = build_bundle([(optimize(qfx.to_graph(qmodel)), Schedule())], tmp_path, fast=True)
    with pytest.raises((AssertionError, ExactnessError)):
        assert_bit_exact(bundle.run_from_raw(0, raw), run_from_raw(graph, raw), names=("C simulation", "interpreter"))


def test_unrolled() -> None:
    torch.manual_seed(0)

    class Shortcut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.a(x))
            return self.c(F.relu(self.b(x) + x))

    x = torch.randn(30, 6)
    graph = optimize(qfx.to_graph(qfx.quantize(Shortcut().eval(), x, RECIPE).eval()))
    raw = quantize_input(graph, x.numpy())
    found = evaluate(unroll(graph), [raw], [graph.infos[graph.output].shape], check_ranges=True)
    np.testing.assert_array_equal(found[0], run_from_raw(graph, raw))


def test_passes_after_training_take_it_as_any_other() -> None:
    model, x = _residual()
    folded = fold_batch_norm(model, x)
    qmodel = qfx.quantize(folded, x, RECIPE)

    @torch.no_grad()
    def error() -> float:
        return float((qmodel(x) - folded(x)).square().mean())

    with torch.no_grad():
        qmodel.get_parameter("conv1_operand.frac_bits").add_(3)
    worse = error()
    calibrate(qmodel, [x[:20], x[20:]])
    reference = float_reference(qmodel)
    assert error() < worse
    correct_bias(qmodel, x, reference=reference)
    adaround(qmodel, x, iterations=20, reference=reference)
    moved = qmodel.get_parameter("depthwise_operand.frac_bits").detach().clone()
    tune(qmodel, x, epochs=3, batch=10, reference=reference, binary_point_reach=3.0)
    assert error() < worse
    assert not torch.equal(qmodel.get_parameter("depthwise_operand.frac_bits"), moved)


def test_word_lengths_are_searched_for_it() -> None:
    model, x = _residual()
    folded = fold_batch_norm(model, x)
    table = sensitivity(qfx.quantize(folded, x, RECIPE), x, widths=(2, 4, 6))
    rows = {row.name: row for row in table.rows}
    assert rows["conv1.operand"].role == "activation"
    losses = rows["conv1.operand"].losses
    assert losses[0] > losses[1] > losses[2]
    found = search(folded, x, table, Budget(mean_weight_bits=4), recipe=RECIPE)
    assert weight_bits(qfx.quantize(folded, x, found.recipe)) == found.point.weight_bits


def test_a_ladder_hands_on_to_rungs_with_an_operand() -> None:
    model, x = _residual()
    rungs = qfx.ladder(model, x, [Recipe.uniform(8), replace(Recipe.uniform(4), activation=Spec(8), operand=Spec(4)), RECIPE])
    widths = []
    for qmodel in rungs:
        with torch.no_grad():
            qmodel.get_parameter("conv1.weight").add_(0.25)
        last, widths = qmodel, [*widths, dict(qfx.quantizers(qmodel)).get("conv1.operand")]
    assert [None if cast is None else cast.word_length for cast in widths] == [None, 4, 3]
    torch.testing.assert_close(last.get_parameter("conv1.weight"), model.get_parameter("conv1.weight") + 0.75)
