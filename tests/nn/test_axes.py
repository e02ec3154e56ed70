"""Values of four and five axes behind the batch: the float model's very numbers, and the same raw integers in every executor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from nn_models import Calls, check_same_numbers, integers
from support.bundles import build_bundle
from torch import Tensor, nn

import qfx
from qfx import Recipe, Spec
from qfx.hardware.design.schedule import Schedule
from qfx.ir.interpret import quantize_input, run_from_raw
from qfx.ir.passes.pipeline import optimize
from qfx.testing import adversarial_inputs, assert_bit_exact
from qfx.verify import raw_of

IMAGE, VOLUME, FIVE = integers(3, 4, 4, 6), integers(3, 2, 3, 4, 2), integers(3, 2, 3, 2, 1, 2)

FORMS: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], Tensor]] = {
    "channel shuffle": (lambda m, x: x.view(-1, 2, 2, 4, 6).transpose(1, 2).reshape(-1, 4, 4, 6), IMAGE),
    "pixel shuffle": (lambda m, x: x.view(-1, 1, 2, 2, 4, 6).permute(0, 1, 4, 2, 5, 3).reshape(-1, 1, 8, 12), IMAGE),
    "windows": (lambda m, x: x.view(-1, 4, 2, 2, 3, 2).permute(0, 2, 4, 1, 3, 5).flatten(1, 2), IMAGE),
    "join and cut": (lambda m, x: torch.cat([x, F.relu(x)], 1)[:, 1:3, ::2, :, 1], VOLUME),
    "pad": (lambda m, x: F.pad(x, (1, 0, 0, 2, 1, 1)), VOLUME),
    "pad the channels": (lambda m, x: F.pad(x, (0, 1, 0, 0, 1, 0, 0, 0, 1, 0)), FIVE),
    "arithmetic": (lambda m, x: (x * F.relu(x) - x).abs() + F.leaky_relu(x, 0.5), FIVE),
    "bounds": (lambda m, x: F.relu6(x) + F.dropout(x, 0.5, m.training), VOLUME),
    "upsample": (lambda m, x: F.interpolate(x, scale_factor=(2.0, 1.0, 3.0)), VOLUME),
    "mean": (lambda m, x: x[:, :, :2].mean((2, 3, 4)), VOLUME),
    "mean of four axes": (lambda m, x: x[:, :, :2].mean((2, 3, 4, 5), keepdim=True), FIVE),
    "a layer": (lambda m, x: m.a(x).unflatten(2, (2, 2)).permute(0, 3, 1, 2, 4), IMAGE),
    "squeeze": (lambda m, x: x.squeeze(4).unsqueeze(1), FIVE),
}


def model(form: str) -> nn.Module:
    return Calls(FORMS[form][0], a=nn.Conv2d(4, 3, 1)).eval()


@pytest.mark.parametrize("form", FORMS)
def test_the_numbers_are_kept(form: str) -> None:
    check_same_numbers(model(form), FORMS[form][1])


@pytest.mark.usefixtures("gxx")
def test_every_executor_gives_the_same(tmp_path: Path) -> None:
    recipe = Recipe(input=Spec(7, granularity="channel"), activation=Spec(6, granularity="channel"))
    torch.manual_seed(0)
    made = {form: qfx.quantize(model(form), x * torch.rand(x.shape[1], *(1,) * (x.dim() - 2)), recipe).eval() for form, (_, x) in FORMS.items()}
    graphs = {form: qfx.to_graph(q) for form, q in made.items()}
    bundle = build_bundle([(optimize(graph), Schedule()) for graph in graphs.values()], tmp_path)
    for number, (form, graph) in enumerate(graphs.items()):
        x = adversarial_inputs(graph, np.random.default_rng(number), 5)
        expected = run_from_raw(graph, quantize_input(graph, x))
        assert_bit_exact(bundle.run_from_raw(number, quantize_input(graph, x)), expected, names=("C simulation", f"interpreter, {form}"))
        with torch.no_grad():
            assert_bit_exact(raw_of(made[form](torch.from_numpy(x)).numpy(), graph, "torch"), expected, names=("torch", f"interpreter, {form}"))
        path = tmp_path / f"{number}.onnx"
        qfx.export_onnx(made[form], path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {session.get_inputs()[0].name: x})
        assert_bit_exact(raw_of(found, graph, "ONNX Runtime"), expected, names=("ONNX Runtime", f"interpreter, {form}"))


def test_training_reaches_the_input() -> None:
    q = qfx.quantize(model("arithmetic"), FIVE)
    x = FIVE.clone().requires_grad_(True)
    q.train()(x).sum().backward()
    assert x.grad is not None
    assert bool(x.grad.any())


def test_six_axes_are_refused() -> None:
    with pytest.raises(qfx.UnsupportedError, match="at most 5 axes behind the batch"):
        qfx.quantize(Calls(lambda m, x: x.unsqueeze(1).relu().flatten(1)), FIVE)


def test_a_linear_layer_works_on_the_last_of_four_axes() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(2, 3)
    check_same_numbers(nn.Sequential(linear), VOLUME)
    conv = nn.Conv1d(2, 3, 1)
    conv.weight, conv.bias = nn.Parameter(linear.weight.detach().unsqueeze(2)), linear.bias
    composed = Calls(lambda m, x: m.conv(x.movedim(-1, 1).flatten(2)).unflatten(2, x.shape[1:-1]).movedim(1, -1), conv=conv)
    torch.testing.assert_close(composed(VOLUME), linear(VOLUME))


REFUSED: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], str]] = {
    "cumsum": (lambda m, x: x.cumsum(1), "it is a product by a constant matrix"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_of_four_axes_say_what_holds_there(name: str) -> None:
    forward, remedy = REFUSED[name]
    with pytest.raises(qfx.UnsupportedError, match=remedy):
        qfx.quantize(Calls(forward), VOLUME)
