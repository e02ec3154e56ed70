"""Functions by table: their gradients, and what passes see of them."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from nn_models import check_exact
from table_forms import FORMS, numbers, quantized, recipe_for
from torch import nn

import qfx
from qfx import FixedType, OMode, QMode, Recipe, Spec
from qfx.errors import QfxError
from qfx.fixed.arith import Interval
from qfx.fixed.kernel import cast
from qfx.ir.interpret import run_raw
from qfx.nn.clipped import Clipped
from qfx.nn.layers.tables import QLookup, Tabled, error_bound
from qfx.nn.qtensor import QTensor
from qfx.nn.quantizer import Quantizer
from qfx.ptq import calibrate
from qfx.ptq.float_reference import float_reference
from qfx.testing import assert_bit_exact
from qfx.verify import raw_of


@pytest.mark.parametrize("width", [8, 16])
@pytest.mark.parametrize("name", ["sigmoid", "gelu", "exp", "cube", "hardshrink", "sqrt"])
def test_the_gradient_is_the_functions_at_the_cast_input(name: str, width: int) -> None:
    form = FORMS[name]
    torch.manual_seed(1)
    x = (torch.rand(400, 2) * 1.8 + 0.1).requires_grad_(True)
    recipe = Recipe(input=Spec(width, frac_bits=width - 3, signed=True), output=Spec(24, frac_bits=18))
    q = quantized(form, x.detach(), recipe)
    weight = torch.randn(400, 2)
    (q(x) * weight).sum().backward()
    come = cast(x.detach(), FixedType(width, 3, True, QMode.RND, OMode.SAT)).double().requires_grad_(True)
    (form(come) * weight).sum().backward()
    assert x.grad is not None
    assert come.grad is not None
    torch.testing.assert_close(x.grad, come.grad.float(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("width", [6, 14])
def test_binary_points_get_their_gradients(width: int) -> None:
    """That of the output: -ln2 * (q - v) in range and -ln2 * q beyond, v what the table gives; that of the input goes through the slope."""
    x = torch.tensor([[0.3, 1.7], [-0.9, 3.0]])
    q = quantized(torch.exp, x, Recipe(input=Spec(width, frac_bits=width - 3, signed=True), output=Spec(6, frac_bits=2, signed=False)))
    points = dict(q.named_parameters())
    y = q(x)
    y.sum().backward()
    come = cast(x, FixedType(width, 3, True, QMode.RND, OMode.SAT)).double()
    slope = torch.exp(come)
    inside = slope < 16
    (layer,) = [layer for layer in q.modules() if isinstance(layer, Tabled)]
    with torch.no_grad():
        value = layer.values(QTensor(come, Interval(-(1 << width - 1), (1 << width - 1) - 1, width - 3))).value
    assert bool((value - slope).abs().max() <= error_bound(layer) * 4 + 1e-12)  # what saturates need not be near
    expected = -math.log(2) * torch.where(inside, y.detach() - value, y.detach()).sum()
    (output,) = [points[name] for name in points if "output" in name]
    (source,) = [points[name] for name in points if name.startswith("input")]
    layers = {name: layer for name, layer in q.named_modules() if isinstance(layer, Quantizer)}
    scales = {("output" in name): layer.frac_grad_scale for name, layer in layers.items()}
    assert output.grad is not None
    assert source.grad is not None
    torch.testing.assert_close(output.grad.double(), expected * scales[True], rtol=1e-5, atol=1e-7)
    through = (torch.where(inside, slope, 0.0) * -math.log(2) * (come - x)).sum()
    torch.testing.assert_close(source.grad.double(), through * scales[False], rtol=1e-5, atol=1e-7)


def test_training_moves_the_table_with_the_binary_points() -> None:
    torch.manual_seed(0)
    x = torch.randn(32, 3)
    q = qfx.quantize(nn.Sequential(nn.Linear(3, 4), nn.Tanh()), x, Recipe(activation=Spec(8), output=Spec(8)))
    before = qfx.to_graph(q)
    with torch.no_grad():
        for quantizer in (cast for name, cast in qfx.quantizers(q) if name.endswith(".output")):
            quantizer.frac_bits -= 1
    after = qfx.to_graph(q)  # no forward between
    assert before.nodes != after.nodes
    with torch.no_grad():
        assert_bit_exact(raw_of(q(x).numpy(), after, "torch"), run_raw(after, x.numpy()))
    copied = copy.deepcopy(q)
    assert qfx.to_graph(copied).nodes == after.nodes
    held = pickle.dumps(copied)
    assert len(held) < 30_000  # without entries
    assert qfx.to_graph(pickle.loads(held)).nodes == after.nodes


def test_a_table_that_was_made_while_nothing_was_recorded_serves_training() -> None:
    q = quantized(torch.tanh, numbers(8), recipe_for(8))
    (layer,) = [layer for layer in q.modules() if isinstance(layer, Tabled)]
    layer._known = None
    with torch.inference_mode():
        q(numbers(8))
    x = numbers(8).requires_grad_(True)
    q(x).sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0
    double = qfx.quantize(nn.Sequential(nn.Linear(2, 2), nn.SiLU()).double(), numbers(8).double()).eval()
    check_exact(double, dtype=torch.float64)


# --- lines ----------------------------------------------------------------------------------------------------------------------------


def test_the_float_reference_computes_the_function_itself() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 2)).eval()
    x = torch.randn(32, 3)
    q = qfx.quantize(model, x, Recipe(activation=Spec(4)))
    with torch.no_grad():
        torch.testing.assert_close(float_reference(q)(x), model(x))


def test_calibration_is_not_held_back_by_the_type_that_an_output_had() -> None:
    for width in (8, 16):
        recipe = Recipe(input=Spec(width, frac_bits=width - 4, signed=True), output=Spec(width))
        q = quantized(torch.exp, torch.full((8, 2), -3.0), recipe)
        calibrate(q, torch.rand(256, 2) * 5)
        fresh = quantized(torch.exp, torch.rand(256, 2) * 5, recipe)
        assert [cast.types() for _, cast in qfx.quantizers(q)] == [cast.types() for _, cast in qfx.quantizers(fresh)]
        check_exact(q)


def test_distributions_go_through_the_function() -> None:
    mean, std = torch.tensor([0.0, 1.0, -2.0, 4.0]), torch.tensor([1.0, 0.5, 1.2, 0.1])
    generator = torch.Generator().manual_seed(0)
    samples = mean + std * torch.randn(200_000, 4, generator=generator, dtype=torch.float64)
    for function in (torch.sigmoid, F.silu, torch.exp):
        layer = QLookup(function, "f")
        got_mean, got_variance = layer.distribution([Clipped.normal(mean, std)]).moments()
        y = function(samples)
        assert torch.allclose(got_mean, y.mean(0), rtol=0.03, atol=0.02)
        assert torch.allclose(got_variance.sqrt(), y.std(0), rtol=0.1, atol=0.01)
        assert not layer.scales_channels(4)


def test_without_a_forward_there_is_no_table() -> None:
    with pytest.raises(QfxError, match="run the model once"):
        error_bound(QLookup(torch.exp, "exp"))
