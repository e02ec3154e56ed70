"""Networks over the frames of a sample, all of them on the batch's axis: ``(N * T, C, H, W)``; and the same raw integers in every executor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from nn_models import Calls
from support.bundles import build_bundle
from test_batch_axis import FORMS as ON_STEPS
from test_batch_axis import check, exported, from_legacy_onnx, held, samples
from torch import Tensor, nn

import qfx
from qfx.errors import UnsupportedError
from qfx.hardware.design.schedule import Schedule
from qfx.ir.interpret import quantize_input, run_from_raw
from qfx.ir.passes.pipeline import optimize
from qfx.testing import adversarial_inputs, assert_bit_exact
from qfx.verify import raw_of

T, C, H, W = 3, 2, 6, 4
"""Frames of a sample, their channels, height and width."""


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(C, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 4, (3, 1), stride=(2, 1), padding=(1, 0), groups=2), nn.LeakyReLU(0.25), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


Frames = tuple[Callable[[Any, Tensor], Any], Callable[[], nn.Module]]

FORMS: dict[str, Frames] = {
    "a network": (lambda m, x: m.a(x.flatten(0, 1)).view(-1, T, 4).mean(1), network),
    "a network, frames first": (lambda m, x: m.a(x.transpose(0, 1).reshape(-1, C, H, W)).view(T, -1, 4)[-1], network),
    "beside itself": (lambda m, x: (lambda y: m.a(y) + y * m.gain)(x.view(-1, C, H, W)).mean((2, 3)).view(-1, T * C), lambda: nn.Conv2d(C, C, 1)),
    "functions": (
        lambda m, x: F.max_pool2d(F.conv2d(x.flatten(0, 1), m.a.weight, m.a.bias, padding=1), 2).flatten(1).unflatten(0, (-1, T)),
        lambda: nn.Conv2d(C, C, 3),
    ),
    "larger": (lambda m, x: m.a(F.interpolate(x.flatten(0, 1), scale_factor=2)).unflatten(0, (-1, T)), lambda: nn.Conv2d(C, 3, 3)),
    "lines": (
        lambda m, x: m.a(x[..., 0].flatten(0, 1)).relu().unflatten(0, (-1, T)),
        lambda: nn.Sequential(nn.Conv1d(C, 3, 3, padding="same"), nn.BatchNorm1d(3), nn.MaxPool1d(2)),
    ),
    "rows": (
        lambda m, x: m.a(x.flatten(2).reshape(-1, C * H * W)).relu().view(-1, T, 6),
        lambda: nn.Sequential(nn.Linear(C * H * W, 6), nn.BatchNorm1d(6)),
    ),
    "borders": (lambda m, x: m.a(x.flatten(0, 1)).unflatten(0, (-1, T))[:, 0], lambda: nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(C, C, 3))),
}


def over_frames(form: Frames) -> nn.Module:
    torch.manual_seed(0)
    model = Calls(form[0], a=form[1]())
    model.gain = nn.Parameter(torch.randn(C, 1, 1))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features)
            module.running_var = torch.rand(module.num_features) + 0.5
            module.num_batches_tracked.fill_(1)  # type: ignore[union-attr, operator]
    return model.eval()


def videos(count: int = 6) -> Tensor:
    return torch.randn(count, T, C, H, W, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("form", FORMS)
def test_frames_on_the_axis_of_the_batch(form: str) -> None:
    check(over_frames(FORMS[form]), videos(), form)


@pytest.mark.parametrize("form", FORMS)
def test_frames_in_exported_programs(form: str, tmp_path: Path) -> None:
    check(exported(over_frames(FORMS[form]), videos(), tmp_path / "model.pt2"), videos(), form)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMS)
def test_frames_in_onnx(form: str, tmp_path: Path) -> None:
    check(from_legacy_onnx(over_frames(FORMS[form]), videos(), tmp_path / "model.onnx"), videos(), form)


def test_a_float_checkpoint_loads_and_its_weights_are_trained() -> None:
    model, other = over_frames(FORMS["a network"]), over_frames(FORMS["a network"])
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.75)
    q = qfx.quantize(model, videos()).eval()
    q.load_state_dict(other.state_dict(), strict=False)
    assert torch.equal(q.a.get_submodule("0").weight, other.a[0].weight)  # type: ignore[union-attr, operator, index]
    q.train()(videos()).sum().backward()
    gradient = dict(q.named_parameters())["a.0.weight"].grad
    assert gradient is not None
    assert gradient.shape == (4, C, 3, 3)
    assert bool(gradient.any())


@pytest.mark.usefixtures("gxx")
def test_every_executor_gives_the_same(tmp_path: Path) -> None:
    made = {form: qfx.quantize(over_frames(FORMS[form]), videos()).eval() for form in ("a network", "beside itself", "lines", "borders")}
    made |= {form: qfx.quantize(held(ON_STEPS[form]), samples()).eval() for form in ("attention by hand", "rows", "stack and sum", "a normalization")}
    graphs = {form: qfx.to_graph(q) for form, q in made.items()}
    bundle = build_bundle([(optimize(graph), Schedule()) for graph in graphs.values()], tmp_path)
    for number, (form, graph) in enumerate(graphs.items()):
        x = adversarial_inputs(graph, np.random.default_rng(number), 4)
        expected = run_from_raw(graph, quantize_input(graph, x))
        assert_bit_exact(bundle.run_from_raw(number, quantize_input(graph, x)), expected, names=("C simulation", f"interpreter, {form}"))
        with torch.no_grad():
            assert_bit_exact(raw_of(made[form](torch.from_numpy(x)).numpy(), graph, "torch"), expected, names=("torch", f"interpreter, {form}"))
        path = tmp_path / f"{number}.onnx"
        qfx.export_onnx(made[form], path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {session.get_inputs()[0].name: x})
        assert_bit_exact(raw_of(found, graph, "ONNX Runtime"), expected, names=("ONNX Runtime", f"interpreter, {form}"))


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ((lambda m, x: m.a(x.flatten(0, 1)).unflatten(0, (-1, T))[:, 0] + m.a(x[:, 0]), lambda: nn.Conv2d(C, C, 1)), "frames alone or samples alone"),
        (
            (lambda m, x: m.a(x.flatten(0, 1)).unflatten(0, (-1, T)), lambda: nn.Conv2d(C, C, 3, padding=1, padding_mode="reflect")),
            "zeros as its border",
        ),
        ((lambda m, x: m.a(x[:, 0].permute(1, 0, 2, 3)).transpose(0, 1), lambda: nn.MaxPool2d(2)), "takes axis 1 for channels"),
        ((lambda m, x: m.a(x[:, 0].transpose(0, 1)[None])[0].transpose(0, 1), lambda: nn.MaxPool3d(2)), "takes axis 1 for channels"),
    ],
)
def test_what_is_no_network_over_frames_is_refused(form: Frames, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        qfx.quantize(over_frames(form), videos())
