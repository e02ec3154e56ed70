"""Values of three spatial axes: one number in torch, ONNX Runtime and interpreter; hardware refuses windows over them by the layer's name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx.errors import UnsupportedError
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Schedule
from qfx.ir.graph import Graph
from qfx.ir.interpret import run
from qfx.ir.passes.pipeline import optimize
from qfx.ptq import fold_batch_norm
from qfx.recipe import Recipe, Spec
from qfx.testing import adversarial_inputs, assert_bit_exact


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, 3, 2, 2, 2) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool3d(F.relu(F.conv3d(x, self.kernel, padding=1)), 2, 1)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: nn.Conv3d(3, 4, (3, 2, 3), stride=(1, 2, 1), padding=(1, 0, 2), dilation=(1, 1, 2)),
    "grouped": lambda: nn.Conv3d(3, 6, 3, padding="same", groups=3),
    "norm": lambda: nn.Sequential(nn.Conv3d(3, 4, 3, bias=False), nn.BatchNorm3d(4), nn.ReLU(), nn.MaxPool3d(2)),
    "transposed": lambda: nn.ConvTranspose3d(3, 2, 3, stride=2, padding=1, output_padding=(1, 0, 1)),
    "pools": lambda: nn.Sequential(nn.MaxPool3d(3, 1, 1), nn.AvgPool3d((2, 1, 2), (1, 2, 1))),
    "adaptive": lambda: nn.Sequential(nn.Conv3d(3, 4, 2), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 2)),
    "functional": Functional,
}


def quantized(name: str, recipe: Recipe | None = None) -> tuple[nn.Module, Tensor, nn.Module, Graph]:
    torch.manual_seed(0)
    model, x = NETWORKS[name](), torch.randn(8, 3, 4, 5, 4)
    for _ in range(3):
        model(x)  # the statistics of a BatchNorm
    model.eval()
    qmodel = qfx.quantize(model, x, recipe)
    return model, x, qmodel, qfx.to_graph(qmodel)


@pytest.mark.parametrize("width", [8, 20], ids=["float32", "double"])
@pytest.mark.parametrize("name", NETWORKS)
def test_torch_onnx_and_interpreter_agree_and_are_near_float(name: str, width: int, tmp_path: Path) -> None:
    spec = Spec(width=width)
    model, x, qmodel, graph = quantized(name, Recipe(weight=spec, activation=spec))
    with torch.no_grad():
        assert float((qmodel(x) - model(x)).abs().max()) <= 0.06 * float(model(x).abs().max())
    path = tmp_path / "model.onnx"
    qfx.export_onnx(qmodel, path)
    session = ort.InferenceSession(path)
    nasty = adversarial_inputs(graph, np.random.default_rng(2), 5)
    expected = run(graph, nasty).astype(np.float64)
    (in_runtime,) = session.run(None, {session.get_inputs()[0].name: nasty})
    with torch.no_grad():
        assert_bit_exact(qmodel(torch.from_numpy(nasty)).numpy().astype(np.float64), expected, names=("torch", "interpreter"))
    assert_bit_exact(in_runtime.astype(np.float64), expected, names=("ONNX Runtime", "interpreter"))


def test_gradients_are_those_of_float_but_for_rounding() -> None:
    spec = Spec(width=20)
    model, x, qmodel, _ = quantized("functional", Recipe(input=Spec(width=14), weight=spec, activation=spec, output=spec))
    grads = []
    for network in (model, qmodel):
        given = x.clone().requires_grad_()
        network(given).double().square().sum().backward()
        grads.append(given.grad)
    assert float((grads[0] - grads[1]).norm()) <= 0.05 * float(grads[0].norm())


@pytest.mark.parametrize(("name", "node"), [("conv", "layer"), ("pools", r"0"), ("transposed", "layer")])
def test_hardware_refuses_by_name(name: str, node: str) -> None:
    *_, graph = quantized(name)
    with pytest.raises(UnsupportedError, match=rf"^{node}.*over 3 axes"):
        lower(optimize(graph), Schedule())


@pytest.mark.parametrize(("shape", "channels"), [((4,), 4), ((3, 6), 3)], ids=["features", "signal"])
def test_batch_norm_of_one_axis_reads_features_and_signals(shape: tuple[int, ...], channels: int) -> None:
    torch.manual_seed(0)
    first = nn.Linear(4, channels) if len(shape) == 1 else nn.Conv1d(3, channels, 3, padding=1)
    for model in (nn.Sequential(first, nn.BatchNorm1d(channels), nn.ReLU()), nn.Sequential(nn.ReLU(), nn.BatchNorm1d(channels))):
        x = torch.randn(16, *shape)
        model(x)
        model.eval()
        qmodel = qfx.quantize(model, x)
        graph = qfx.to_graph(qmodel)
        nasty = adversarial_inputs(graph, np.random.default_rng(0), 5)
        with torch.no_grad():
            assert_bit_exact(qmodel(torch.from_numpy(nasty)).numpy().astype(np.float64), run(graph, nasty).astype(np.float64))
            assert float((qmodel(x) - model(x)).abs().max()) <= 0.06 * float(model(x).abs().max())


def test_a_norm_behind_a_linear_layer_on_several_axes_is_not_folded_into_it() -> None:
    """Its channels are the rows, the layer's outputs the columns."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3))
    x = torch.randn(32, 3, 6)
    for _ in range(5):
        model(x)
    model.eval()
    folded = fold_batch_norm(model, x)
    assert isinstance(folded[1], nn.BatchNorm1d)
    qmodel = qfx.quantize(model, x, Recipe(batch_norm="fold"))
    with torch.no_grad():
        assert float((qmodel(x) - model(x)).abs().max()) <= 0.06 * float(model(x).abs().max())
