"""Folding a BatchNorm changes no result beyond float rounding, whatever the layer, and leaves the model that it is given alone."""

from __future__ import annotations

import copy

import pytest
import torch
from ptq_models import IMAGES, Residual, settled
from torch import Tensor, nn

import qfx
from qfx.ptq import fold_batch_norm
from qfx.ptq.floating.fold import Folded, folded_statistics

SIGNAL = torch.randn(8, 4, 9, generator=torch.Generator().manual_seed(1))
IMAGE = torch.randn(8, 4, 5, 6, generator=torch.Generator().manual_seed(2))
FEATURES = torch.randn(8, 4, generator=torch.Generator().manual_seed(3))

LAYERS: dict[str, tuple[nn.Module, nn.Module, Tensor]] = {
    "linear": (nn.Linear(4, 6), nn.BatchNorm1d(6), FEATURES),
    "linear without bias": (nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), FEATURES),
    "conv1d": (nn.Conv1d(4, 6, 3, padding=1), nn.BatchNorm1d(6), SIGNAL),
    "conv2d": (nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(6), IMAGE),
    "grouped conv": (nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), IMAGE),
    "depthwise conv": (nn.Conv2d(4, 8, 3, groups=4), nn.BatchNorm2d(8), IMAGE),
    "transposed conv1d": (nn.ConvTranspose1d(4, 6, 3, stride=2), nn.BatchNorm1d(6), SIGNAL),
    "transposed conv": (nn.ConvTranspose2d(4, 6, 3, stride=2, bias=False), nn.BatchNorm2d(6), IMAGE),
    "grouped transposed conv": (nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), IMAGE),
    "no affine": (nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False), IMAGE),
    "large eps": (nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, eps=0.5), IMAGE),
}


def close(a: Tensor, b: Tensor) -> bool:
    """Equal but for float rounding."""
    a, b = a.detach(), b.detach()
    return a.shape == b.shape and float((a - b).abs().max()) <= 2e-6 * float(b.abs().max())


def norms(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]


@pytest.mark.parametrize("kind", LAYERS)
def test_every_layer(kind: str) -> None:
    layer, norm, x = LAYERS[kind]
    model = settled(nn.Sequential(layer, norm, nn.ReLU()))
    before = copy.deepcopy(model.state_dict())
    folded = fold_batch_norm(model, x)
    assert close(folded(x), model(x))
    assert norms(folded) == []
    assert {name for name, _ in folded.named_parameters()} == {"0.weight", "0.bias"}
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert before.keys() == model.state_dict().keys()
    assert set(folded.state_dict()) == {"0.weight", "0.bias"}


def test_a_fold_with_one_wrong_number_is_seen() -> None:
    layer, norm, x = LAYERS["grouped transposed conv"]
    model = settled(nn.Sequential(layer, norm))
    folded = fold_batch_norm(model, x)
    with torch.no_grad():
        folded.get_parameter("0.weight")[0, 0] *= 1.0001
    assert not close(folded(x), model(x))


def test_statistics_are_those_of_the_result() -> None:
    """On data with the statistics that BatchNorm has seen, the folded layer's result has the statistics that folding remembers."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, momentum=None))
    x = torch.randn(64, 4, 8, 8)
    model(x)
    settled_affine = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0, 1.0])
    with torch.no_grad():
        model.get_parameter("1.weight").copy_(settled_affine)
        model.get_parameter("1.bias").copy_(settled_affine.flip(0))
    folded = fold_batch_norm(model, x)
    known = folded_statistics(folded)["0"]
    y = folded(x).detach().transpose(0, 1).flatten(1)
    assert torch.allclose(known.mean, y.mean(1), atol=1e-4)
    assert torch.allclose(known.std, y.std(1), atol=1e-3)
    assert folded_statistics(model) == {}


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(self.conv(x)))


class Apart(nn.Module):
    """One layer with two BatchNorms behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn1, self.bn2 = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.bn1(y) + self.bn2(y)


class SharedNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.bn = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.b(torch.relu(self.bn(self.a(x)))))


KEPT: dict[str, nn.Module] = {
    "a layer that is called twice": Twice(),
    "a layer that two read": Apart(),
    "a BatchNorm that is called twice": SharedNorm(),
    "before the layer": nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)),
    "behind an activation": nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)),
    "without running statistics": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
}


@pytest.mark.parametrize("kind", KEPT)
def test_what_cannot_be_folded_stays(kind: str) -> None:
    model = settled(KEPT[kind])
    folded = fold_batch_norm(model, IMAGES)
    assert norms(folded) == norms(model)
    assert torch.equal(folded(IMAGES), model(IMAGES))


def test_a_shared_weight_is_left_alone() -> None:
    """Two layers with one Parameter: folding into it would change the other."""
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 3, 1))
    model[3].weight = model[0].weight
    settled(model)
    folded = fold_batch_norm(model, IMAGES)
    assert norms(folded) == ["1"]
    assert torch.equal(folded(IMAGES), model(IMAGES))


def test_residual_with_functional_activations() -> None:
    model = settled(Residual()).train()
    folded = fold_batch_norm(model, IMAGES)
    assert model.training
    assert not folded.training
    model.eval()
    assert close(folded(IMAGES), model(IMAGES))
    assert isinstance(folded.get_submodule("bn1"), Folded)
    assert set(folded_statistics(folded)) == {"stem", "conv1", "conv2"}
    assert set(folded.state_dict()) == {f"{layer}.{name}" for layer in ("stem", "conv1", "conv2", "fc") for name in ("weight", "bias")}


def test_a_folded_model_quantizes_under_its_own_names() -> None:
    model = fold_batch_norm(settled(Residual()), IMAGES)
    qmodel = qfx.quantize(model, IMAGES)
    names = [name for name, _ in qfx.quantizers(qmodel)]
    assert "conv1.bias" in names
    assert not [name for name in names if name.startswith("bn")]
