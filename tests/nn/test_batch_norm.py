"""BatchNorm in training: the forward of the running statistics with the gradient of the batch's."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import qfx
from qfx.ir.interpret import run_raw
from qfx.verify import onnx_runtime, raw_of

WIDE = qfx.Recipe.uniform(16, input=qfx.Spec(16))


def network() -> nn.Sequential:
    """A convolution, a BatchNorm and a head, in float64."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(2, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 16, 3)).double()


def batch() -> Tensor:
    return torch.randn(12, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def gradients(model: nn.Module, x: Tensor, names: list[str]) -> dict[str, Tensor]:
    model.zero_grad()
    F.cross_entropy(model(x), torch.arange(len(x)) % 3).backward()
    return {name: model.get_parameter(name).grad.clone() for name in names}  # type: ignore[union-attr]


@pytest.mark.parametrize("style", ["keep", "fold"])
def test_the_gradient_is_that_of_a_normalized_batch(style: str) -> None:
    """With running statistics equal to the batch's, qfx and torch compute the same forward up to rounding at 16 bits, and so the same gradient."""
    x = batch()
    model = network()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([0.5, -1.0, 2.0, 1.5, 0.25]))
        products = model[0](x)
        model[1].running_mean.copy_(products.mean((0, 2, 3)))
        model[1].running_var.copy_(products.var((0, 2, 3), unbiased=False))
        model[1].num_batches_tracked.fill_(1)
    qmodel = qfx.quantize(model, x, replace(WIDE, batch_norm=style))
    names = ["0.weight", "1.weight", "1.bias", "4.weight", "4.bias"]
    expected = gradients(copy.deepcopy(model).train(), x, names)
    frozen = gradients(copy.deepcopy(model).eval(), x, names)
    found = gradients(copy.deepcopy(qmodel).train(), x, names)
    for name in names:
        error = (found[name] - expected[name]).norm() / expected[name].norm()
        assert error < 1e-3, (name, float(error))  # gradients are floats; 16 bits round the values that they are taken at
    assert (frozen["0.weight"] - expected["0.weight"]).norm() / expected["0.weight"].norm() > 0.05  # the comparison tells the two apart


class Siamese(nn.Module):
    """One branch for two inputs; ``deep``: the norm stands once more behind another layer."""

    def __init__(self, deep: bool = False) -> None:
        super().__init__()
        self.conv, self.norm, self.more, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.Linear(36, 5)
        self.deep = deep

    def branch(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        return self.head((self.norm(self.more(x)) if self.deep else x).flatten(1))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.branch(a) - self.branch(b)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("style", ["keep", "fold"])
def test_calls_of_one_norm_compute_with_the_statistics_at_the_start(style: str, deep: bool, tmp_path: Path) -> None:
    """Each call moves them, as torch's does, and the next forward of the model sees that: so training and evaluation give the same."""
    torch.manual_seed(0)
    inputs = (torch.randn(16, 3, 5, 5), 2 * torch.randn(16, 3, 5, 5) + 1)
    model = Siamese(deep)
    with torch.no_grad():
        model.train()(*inputs)
    qmodel = qfx.quantize(model.eval(), inputs, replace(WIDE, batch_norm=style))
    assert (qmodel.eval()(*inputs) - model(*inputs)).abs().max() < 0.01
    twin = copy.deepcopy(model).train()
    twin(*inputs)
    copied = copy.deepcopy(qmodel).train()
    copied(*inputs)
    assert int(copied.norm.num_batches_tracked) == int(twin.norm.num_batches_tracked)
    optimizer = torch.optim.SGD(qmodel.parameters(), 0.01)
    for _ in range(3):
        before = qmodel.eval()(*inputs)
        found = qmodel.train()(*inputs)
        assert torch.equal(found, before)
        optimizer.zero_grad()
        found.square().mean().backward()
        optimizer.step()
    qfx.export_onnx(qmodel.eval(), tmp_path / "model.onnx")
    graph = qfx.load_graph(tmp_path / "model.onnx")
    feeds = dict(zip((node.name for node in graph.inputs), (x.numpy() for x in inputs), strict=True))
    expected = run_raw(graph, feeds)
    assert np.array_equal(raw_of(qmodel(*inputs).detach().numpy(), graph, "PyTorch"), expected)
    assert np.array_equal(onnx_runtime(tmp_path / "model.onnx", graph)(feeds), expected)


def test_a_channel_of_scale_zero_gets_no_nan() -> None:
    x = batch()
    model = network()
    with torch.no_grad():
        model[1].weight[2] = 0.0
    qmodel = qfx.quantize(model, x, qfx.Recipe(batch_norm="fold")).train()
    for gradient in gradients(qmodel, x, ["0.weight", "1.weight", "1.bias"]).values():
        assert bool(torch.isfinite(gradient).all())


def test_frozen_statistics_have_the_gradient_of_an_affine_step() -> None:
    """``eval()`` on the BatchNorm alone: its statistics stay, and the gradient is the plain one."""
    x = batch()
    qmodel = qfx.quantize(network(), x).train()
    qmodel.get_submodule("1").eval()
    before = qmodel.get_buffer("1.running_mean").clone()
    frozen = gradients(qmodel, x, ["0.weight"])["0.weight"]
    assert torch.equal(qmodel.get_buffer("1.running_mean"), before)
    assert torch.equal(frozen, gradients(qmodel.eval(), x, ["0.weight"])["0.weight"])


@pytest.mark.parametrize("style", ["keep", "fold"])
def test_a_network_trains_from_scratch_in_fixed_point(style: str) -> None:
    """Digits at 4 bits, from random weights, with the plain SGD that one would use in float."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.tensor(labels)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 10),
    )
    qmodel = qfx.quantize(model.train(), x[:256], qfx.Recipe.uniform(4, batch_norm=style))
    optimizer = torch.optim.SGD(qmodel.parameters(), lr=0.05, momentum=0.9)
    for _ in range(4):
        for batch in torch.randperm(1400).split(64):
            optimizer.zero_grad()
            F.cross_entropy(qmodel(x[batch]), y[batch]).backward()
            optimizer.step()
    with torch.no_grad():
        accuracy = (qmodel.eval()(x[1400:]).argmax(1) == y[1400:]).double().mean()
    assert accuracy > 0.9  # 0.55 with the gradient of frozen statistics
