"""Binary points per channel: exactness is a property of each channel, learned points stay near their start, errors name the layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nn_models import check_exact
from sklearn.datasets import load_digits
from torch import Tensor, nn

import qfx
from qfx import ExactnessError, Recipe, RecipeError, Spec
from qfx.fixed.arith import Channels, Interval
from qfx.nn.qtensor import QTensor
from qfx.nn.quantizer import Quantizer


class Residual(nn.Module):
    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(1, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.conv1, self.norm1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.norm2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm0(self.stem(x)))
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return self.head(F.adaptive_avg_pool2d(F.relu(y + x), 1).flatten(1))


def channelled(width: int = 8, **changes: Any) -> Recipe:
    constants = {role: Spec(bits, granularity="channel", **changes) for role, bits in (("weight", width), ("scale", 16), ("shift", 16))}
    return Recipe(**constants)


def digits() -> tuple[Tensor, Tensor]:
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.tensor(labels)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_training_does_not_run_out_of_bits(seed: int, thorough: bool) -> None:
    x, y = digits()
    torch.manual_seed(seed)
    qmodel = qfx.quantize(Residual(), x[:256], channelled()).train()
    optimizer = torch.optim.Adam(qfx.parameter_groups(qmodel, lr=3e-2))
    for _ in range(2000 if thorough else 120):
        batch = torch.randint(0, 1500, (64,))
        optimizer.zero_grad()
        F.cross_entropy(qmodel(x[batch]), y[batch]).backward()
        optimizer.step()
    graph = qfx.to_graph(qmodel.eval())
    assert any(info.per_channel for info in graph.infos.values())
    check_exact(qmodel)


@pytest.mark.parametrize("spread", [1e3, 1e4, 1e6])
def test_a_norm_on_raw_features_of_any_size(spread: float) -> None:
    torch.manual_seed(0)
    sizes = torch.logspace(0, float(torch.log10(torch.tensor(spread))), 12)
    model = nn.Sequential(nn.BatchNorm1d(12), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 5)).train()
    for _ in range(100):
        model(torch.randn(64, 12) * sizes)
    recipe = Recipe(**{role: Spec(16, granularity="channel") for role in ("input", "scale", "shift")})
    check_exact(qfx.quantize(model.eval(), torch.randn(64, 12) * sizes, recipe))


@pytest.mark.parametrize("size", [1e-4, 1e-10, 1e-20])
def test_channels_that_a_norm_nearly_switches_off(size: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 6, 8, 8)
    model = nn.Sequential(nn.Conv2d(6, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    with torch.no_grad():
        for parameter in (model[1].weight, model[1].bias):
            parameter[:3] *= size
    check_exact(qfx.quantize(model, x, channelled()))


def test_distant_binary_points_agree_in_every_executor() -> None:
    """As far apart as they can get: every learned point at the end of its reach, in alternating directions."""
    torch.manual_seed(0)
    x, _ = digits()
    qmodel = qfx.quantize(Residual(4), x[:64], channelled(reach=4)).eval()
    with torch.no_grad():
        for index, (_, quantizer) in enumerate(qfx.quantizers(qmodel)):
            if quantizer.frac_bits.dim():
                signs = torch.tensor([1.0, -1.0]).repeat(6)[index % 2 : index % 2 + quantizer.frac_bits.numel()]
                quantizer.frac_bits += 100 * signs.reshape(quantizer.frac_bits.shape)
    assert all(float((quantizer.points() - quantizer.frac_start).abs().max()) <= 4 for _, quantizer in qfx.quantizers(qmodel))
    check_exact(qmodel)


def test_a_learned_point_stays_within_reach_and_keeps_its_gradient() -> None:
    quantizer = Quantizer(Spec(8, reach=2))
    x = torch.randn(100, generator=torch.Generator().manual_seed(0))
    quantizer.initialize(x)
    start = float(quantizer.frac_start)
    expected = {shift: quantizer(x).value.detach() for shift in (0,)}
    for shift in (-2.0, 2.0):
        with torch.no_grad():
            quantizer.frac_bits.fill_(start + shift)
        expected[shift] = quantizer(x).value.detach()
    for shift, nearest in ((-50.0, -2.0), (2.6, 2.0), (77.0, 2.0)):
        with torch.no_grad():
            quantizer.frac_bits.fill_(start + shift)
        result = quantizer(x)
        assert torch.equal(result.value.detach(), expected[nearest])
        assert int(quantizer.points()) == start + nearest == quantizer.types()[0].frac_bits
        assert result.interval == quantizer.interval()
        (gradient,) = torch.autograd.grad(result.value.square().sum(), quantizer.frac_bits)
        assert float(gradient) != 0.0


def test_the_start_travels_with_a_checkpoint() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 4), nn.ReLU()), torch.randn(32, 6)
    first, second = qfx.quantize(model, x), qfx.quantize(model, 1000 * x)
    with torch.no_grad():
        for _, quantizer in qfx.quantizers(first):
            quantizer.frac_bits += 11.0
    second.load_state_dict(first.state_dict())
    assert torch.equal(second(x), first(x))
    # A checkpoint of earlier days has no starts: its binary points are taken as they are.
    old = {name: value for name, value in first.state_dict().items() if not name.endswith("frac_start")}
    third = qfx.quantize(model, 1000 * x)
    third.load_state_dict(old)
    for (_, mine), (_, theirs) in zip(qfx.quantizers(third), qfx.quantizers(first), strict=True):
        assert torch.equal(mine.points(), torch.round(theirs.frac_bits.detach()))


@pytest.mark.parametrize("reach", [-1, 101, 2.5, True])
def test_a_bad_reach_is_refused(reach: object) -> None:
    with pytest.raises(RecipeError, match="reach"):
        Spec(reach=reach)  # type: ignore[arg-type]


def test_what_is_too_wide_is_refused_by_the_name_of_its_layer() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) + self.b(x)

    x = torch.randn(16, 4)
    qmodel = qfx.quantize(Sum(), x, Recipe(weight=Spec(8, reach=100), bias=Spec(8, reach=100), activation=Spec(8, reach=100)))
    with torch.no_grad():
        qmodel.get_parameter("a.bias_cast.frac_bits").fill_(90.0)
        for _, quantizer in qfx.quantizers(qmodel):
            quantizer.frac_start.copy_(quantizer.frac_bits)
    with pytest.raises(ExactnessError) as caught:
        qmodel(x)
    assert caught.value.where == "a"
    assert "53" in caught.value.what
    assert "reach" in caught.value.remedy


def test_arithmetic_keeps_the_grid_of_each_channel() -> None:
    from qfx.nn.functional import QAdd, QConcat, QReLU, QReshape, QSlice

    far = Channels((Interval(-8, 7, 0), Interval(-8, 7, 45)))
    x = QTensor(torch.tensor([[3.0, 2.0**-45]]), far)
    twice = QAdd()(x, x)
    assert isinstance(twice.interval, Channels)
    assert twice.tensor().tolist() == [[6.0, 2.0**-44]]
    assert QReLU()(twice).interval.magnitude_bits == 4
    assert QConcat()(x, x).interval == Channels(far.channels * 2)
    assert QSlice((1,), (2,), (1,))(x).interval == far.channels[1]
    assert QReshape((2, 1))(x).interval == far
    assert QReshape((1, 2))(x).interval == far.hull
