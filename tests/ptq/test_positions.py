"""Passes after training on linear layers that work on the last of several axes, on weights that the model holds by itself, and on products of values:
treated as layers with channels, or left alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx.nn.layers import Weighted
from qfx.ptq import (
    adaround,
    check_model,
    comq,
    correct_bias,
    equalize,
    equalize_exactly,
    float_reference,
    gptq,
    measured_statistics,
    sensitivity,
    tune,
)
from qfx.recipe import Recipe, Spec


class Mixer(nn.Module):
    """Rows of five features, as many as there are hidden features, so that a mixed-up axis has the right length."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 5), nn.Linear(5, 6)
        self.mix = nn.Parameter(torch.randn(5, 5) * 0.4)
        self.bias = nn.Parameter(torch.randn(4) * 0.2)
        self.head = nn.Parameter(torch.randn(4, 6) * 0.4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(F.relu(self.up(x)))
        x = F.relu(self.mix @ x)
        scores = x @ x.transpose(1, 2)
        return F.linear((scores @ x).amax(1) * 0.125, self.head, self.bias)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    made = Mixer().eval()
    with torch.no_grad():
        made.up.weight *= torch.tensor([0.02, 8.0, 1.0, 0.3, 2.0]).reshape(5, 1)  # what equalization would like to change
    return made


DATA = torch.randn(96, 5, 6, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("change", [equalize, equalize_exactly])
def test_equalization_leaves_them_alone(model: nn.Module, change: Callable[..., nn.Module]) -> None:
    changed = change(model, DATA[:8])
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, changed.get_parameter(name)), name


def test_equalization_leaves_a_layer_alone_whose_weight_is_read_elsewhere() -> None:
    torch.manual_seed(0)

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 6)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.second(F.relu(self.first(x))), self.first.weight)

    tied = Tied().eval()
    x = torch.randn(16, 6)
    changed = equalize(tied, x)
    torch.testing.assert_close(changed(x), tied(x))


def test_statistics_and_checks_take_their_features_for_channels(model: nn.Module) -> None:
    found = measured_statistics(model, DATA)
    with torch.no_grad():
        expected = model.get_submodule("up")(DATA).reshape(-1, 5)
    torch.testing.assert_close(found["up"].mean.float(), expected.mean(0), rtol=1e-4, atol=1e-5)
    assert {finding.where for finding in check_model(model, DATA) if finding.name == "uneven-channels"} <= {"up", "down"}


RECIPE = Recipe(weight=Spec(width=4), activation=Spec(width=10), bias=Spec(width=10))


def distance(qmodel: nn.Module, model: nn.Module) -> float:
    with torch.no_grad():
        return float((qmodel(DATA) - model(DATA)).square().mean())


def test_rounding_and_bias_correction_make_them_better(model: nn.Module) -> None:
    start = distance(qfx.quantize(model, DATA, RECIPE), model)
    for method in (gptq, comq, adaround):
        qmodel = qfx.quantize(model, DATA, RECIPE)
        results = method(qmodel, DATA, reference=float_reference(qmodel))
        assert (
            {result.path for result in results}
            == {"up", "down", "matmul", "linear"}
            == {name for name, layer in qmodel.named_modules() if isinstance(layer, Weighted)}
        )
        assert all(result.after <= result.before for result in results)
        assert distance(qmodel, model) < start
    qmodel = qfx.quantize(model, DATA, RECIPE)
    results = correct_bias(qmodel, DATA)
    assert {result.path for result in results if result.corrected} == {"up", "down", "linear"}
    assert all(result.after <= result.before for result in results)


def test_tuning_and_sensitivity_know_them(model: nn.Module) -> None:
    qmodel = qfx.quantize(model, DATA, RECIPE)
    start = distance(qmodel, model)
    tune(qmodel, DATA, epochs=4, batch=32)
    assert distance(qmodel, model) < start
    table = sensitivity(model, DATA, recipe=RECIPE, widths=(4, 8))
    assert {"up.weight", "matmul.weight", "linear.weight"} <= {row.name for row in table.rows}
