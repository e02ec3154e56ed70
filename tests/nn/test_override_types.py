"""Overrides that mean layers by their class, and functions by their name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx import Override, Recipe
from qfx.errors import RecipeError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()
        self.more = nn.ModuleDict({"weight": nn.Conv2d(4, 4, 3, padding=1)})  # a layer that is called as a role is
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.conv(x)))
        x = self.relu(self.more["weight"](x) + x)
        return self.fc(x.mean((2, 3)))


class Last(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]


def _widths(*overrides: Override) -> dict[str, int]:
    recipe = Recipe(overrides=overrides)
    qmodel = qfx.quantize(Net(), torch.randn(8, 1, 6, 6), recipe)
    assert qfx.nn.model.recipe_of(qmodel) == recipe
    return {name: quantizer.word_length for name, quantizer in qfx.quantizers(qmodel)}


def test_types_and_roles() -> None:
    plain = _widths()
    found = _widths(Override("type:Conv2d", {"width": 5}))
    assert {name for name in plain if found[name] != plain[name]} == {"conv.weight", "conv.bias", "more.weight.weight", "more.weight.bias"}
    found = _widths(Override("type:Conv2d.weight", {"width": 5}))
    assert {name for name in plain if found[name] != plain[name]} == {"conv.weight", "more.weight.weight"}
    found = _widths(Override("type:Re*", {"width": 5}))
    assert {name for name in plain if found[name] != plain[name]} == {"relu.output", "relu_1.output"}
    found = _widths(Override("type:mean.output", {"width": 5}))
    assert {name for name in plain if found[name] != plain[name]} == {"mean.output"}
    found = _widths(Override("type:BatchNorm2d.scale", {"width": 5}))
    assert {name for name in plain if found[name] != plain[name]} == {"bn.scale"}
    found = _widths(Override("type:Linear", {"width": 5}))
    assert {name for name in plain if found[name] != plain[name]} == {"fc.weight", "fc.bias", "fc.output"}


def test_later_overrides_win() -> None:
    assert _widths(Override("type:Conv2d", {"width": 5}), Override("conv", {"width": 6}))["conv.weight"] == 6
    found = _widths(Override("conv", {"width": 6}), Override("type:Conv2d.bias", {"width": 7}))
    assert (found["conv.weight"], found["conv.bias"], found["more.weight.bias"]) == (6, 7, 7)


def test_other_calls_of_a_module() -> None:
    found = _widths(Override("type:ReLU.output", {"width": 5}))
    assert found["relu.output"] == found["relu_1.output"] == 5


def test_a_type_that_no_layer_has() -> None:
    with pytest.raises(RecipeError, match=r"'type:Conv1d' matches nothing\n  remedy: did you mean 'type:Conv2d'"):
        _widths(Override("type:Conv1d", {"width": 5}))
    with pytest.raises(RecipeError, match=r"matches nothing\n  remedy: the types are: BatchNorm2d, Conv2d, Linear, ReLU, mean"):
        _widths(Override("type:zz", {"width": 5}))
    with pytest.raises(RecipeError, match="matches nothing"):
        _widths(Override("type:Linear.scale", {"width": 5}))


def test_types_are_kept_in_files(tmp_path: Path) -> None:
    recipe = Recipe(overrides=(Override("type:Conv2d.weight", {"width": 3}),))
    recipe.save(tmp_path / "recipe.toml")
    assert Recipe.load(tmp_path / "recipe.toml") == recipe


def test_cells_of_recurrent_networks() -> None:
    recipe = Recipe(overrides=(Override("type:LSTM.weight*", {"width": 4}),))
    qmodel = qfx.quantize(Last(), torch.randn(8, 5, 4), recipe)
    widths = {name: quantizer.word_length for name, quantizer in qfx.quantizers(qmodel) if "weight" in name}
    assert widths
    assert set(widths.values()) == {4}
