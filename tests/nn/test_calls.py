"""A module that is called several times: what its quantizers are called, and what recipes reach."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from nn_models import check_exact
from torch import Tensor, nn

import qfx
from qfx import Override, Recipe, RecipeError

X = torch.randn(6, 3, 8, 8)


class Inner(nn.Module):
    """A reused part with functional calls, two of one name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.pool = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.AvgPool2d(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        x = self.pool(x - F.relu(x - self.act(self.conv(x))))
        return F.avg_pool2d(x * x, 3, 1, 1)


class Reuses(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.relu, self.last = Inner(), nn.ReLU(), nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.block(x) - x)
        x = F.relu(self.relu(self.block(x)) - x)
        return self.last(F.relu(x))


def reached(*patterns: str) -> set[str]:
    """The quantizers that overrides for the patterns change."""
    torch.manual_seed(0)
    recipe = Recipe(overrides=tuple(Override(pattern, {"width": 5}) for pattern in patterns))
    return {name for name, quantizer in qfx.quantizers(qfx.quantize(Reuses(), X, recipe)) if quantizer.word_length == 5}


def names() -> list[str]:
    return [name for name, _ in qfx.quantizers(qfx.quantize(Reuses(), X))]


def test_names_are_unique() -> None:
    found = names()
    assert len(found) == len(set(found))
    assert {"relu.output", "relu_1.output", "relu_2.output"} <= set(found)
    assert {"block.pool.reciprocal", "block.pool_1.reciprocal", "block.avg_pool2d.reciprocal", "block.avg_pool2d_1.reciprocal"} <= set(found)


CALLS = {
    ("relu",): {"relu.output", "relu_1.output"},
    ("relu_1",): {"relu_1.output"},
    ("relu.output",): {"relu.output"},
    ("relu_1.output",): {"relu_1.output"},
    ("relu_2",): {"relu_2.output"},  # two calls of F.relu in a forward that runs once are two layers
    ("block.act",): {"block.act.output", "block.act_1.output"},
    ("block.pool",): {"block.pool.output", "block.pool_1.output", "block.pool.reciprocal", "block.pool_1.reciprocal"},
    ("block.pool.*",): {"block.pool.output", "block.pool_1.output", "block.pool.reciprocal", "block.pool_1.reciprocal"},
    ("block.pool_1",): {"block.pool_1.output", "block.pool_1.reciprocal"},
    ("block.avg_pool2d",): {
        *("block.avg_pool2d.output", "block.avg_pool2d_1.output"),
        *("block.avg_pool2d.reciprocal", "block.avg_pool2d_1.reciprocal"),
    },
    ("block.relu",): {"block.relu.output", "block.relu_2.output"},
    ("block.relu_1",): {"block.relu_1.output", "block.relu_3.output"},
    ("block.mul",): {"block.mul.output", "block.mul_1.output"},
    ("*.reciprocal",): {f"block.{name}.reciprocal" for name in ("pool", "pool_1", "avg_pool2d", "avg_pool2d_1")},
}


@pytest.mark.parametrize("patterns", CALLS)
def test_a_pattern_reaches_every_call(patterns: tuple[str, ...]) -> None:
    assert reached(*patterns) == CALLS[patterns] & set(names())
    assert reached(*patterns)


def test_a_shared_layer_with_weights() -> None:
    """Its constants are one set; each call has a result of its own."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(x))

    for pattern, wanted in {
        "conv": {"conv.weight", "conv.bias", "conv.output", "conv.output_1"},
        "conv.out*": {"conv.output", "conv.output_1"},
        "*.output": {"conv.output", "conv.output_1"},
        "conv.output": {"conv.output"},
        "conv.output_1": {"conv.output_1"},
    }.items():
        q = qfx.quantize(Twice(), X, Recipe(overrides=(Override(pattern, {"width": 5}),)))
        assert {name for name, quantizer in qfx.quantizers(q) if quantizer.word_length == 5} == wanted


def test_one_call_may_differ_from_the_others() -> None:
    recipe = Recipe(overrides=(Override("relu", {"width": 5}), Override("relu_1", {"width": 9}), Override("relu.output", {"width": 7})))
    found = {name: quantizer.word_length for name, quantizer in qfx.quantizers(qfx.quantize(Reuses(), X, recipe))}
    assert (found["relu.output"], found["relu_1.output"]) == (7, 9)


def test_a_pattern_for_a_call_that_has_no_cast_still_matches() -> None:
    """The first call only moves values that are cast already; the second has a Cast."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu, self.conv = nn.ReLU(), nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.relu(self.conv(self.relu(x))))

    q = qfx.quantize(Net(), X, Recipe(overrides=(Override("relu", {"width": 4}),)))
    assert {name for name, quantizer in qfx.quantizers(q) if quantizer.word_length == 4} == {"relu_1.output"}
    with pytest.raises(RecipeError, match="'relu_2' matches nothing"):
        qfx.quantize(Net(), X, Recipe(overrides=(Override("relu_2", {"width": 4}),)))


def test_copies_keep_the_names_and_all_is_exact() -> None:
    q = qfx.quantize(Reuses(), X)
    again = copy.deepcopy(q)
    assert {(z.name, z.also) for _, z in qfx.quantizers(q)} == {(z.name, z.also) for _, z in qfx.quantizers(again)}
    check_exact(q)


def test_matching_by_itself() -> None:
    assert Override("relu", {}).matches("relu_1.output", "relu.output")
    assert Override("re?u", {}).matches("relu_1.output", "relu.output")
    assert Override("relu.*", {}).matches("relu_1.output", "relu.output")
    assert not Override("relu.output", {}).matches("relu_1.output", "relu.output")
    assert not Override("m.[[]x].output", {}).matches("m.[x]_1.output", "m.[x].output")
    assert Override("m.[[]x].output", {}).matches("m.[x].output", "m.[x].output")
    assert not Override("relu", {}).matches("relu_1.output")
