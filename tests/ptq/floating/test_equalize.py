"""Equalization: which layers form a chain, what balance it reaches, and that the network stays the same (to the bit for powers of two)."""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from ptq_models import IMAGES, Residual, separable, settled, uneven
from torch import Tensor, nn

import qfx
from qfx import ptq
from qfx.capture.trace import trace
from qfx.ptq.floating.equalize import chains, input_ranges, measured_statistics, output_ranges
from qfx.ptq.floating.fold import Statistics, folded_statistics

PASSES = {"equalize": ptq.equalize, "equalize_exactly": ptq.equalize_exactly}


def pairs(model: nn.Module, x: Tensor = IMAGES) -> list[tuple[str, str]]:
    return [(chain.first, chain.second) for chain in chains(trace(model.eval(), x))]


def spread(model: nn.Module, path: str) -> float:
    """Between the largest and the smallest output channel of a layer, in bits."""
    layer = model.get_submodule(path)
    ranges = output_ranges(layer, layer.weight.detach())  # type: ignore[arg-type]
    return float((ranges.max() / ranges.min()).log2())


def same(a: nn.Module, b: nn.Module, x: Tensor = IMAGES) -> float:
    """The largest difference, relative to the largest result."""
    with torch.no_grad():
        return float((a(x) - b(x)).abs().max() / b(x).abs().max())


class Functional(nn.Module):
    """One chain through everything that keeps channels apart."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c, self.d = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3, padding=1, groups=2), nn.Linear(24, 5), nn.Linear(5, 2)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.a(x), 0.25)
        x = F.pad(F.avg_pool2d(x, 2), (1, 0, 0, 1))[:, :, :2, 1:]
        x = F.max_pool2d(self.up(x).transpose(2, 3), 2)
        x = F.dropout(self.b(x).relu(), 0.5, self.training)
        return self.d(torch.relu(self.c(x.view(x.size(0), -1))))


class Transposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.ConvTranspose2d(3, 4, 3, groups=1), nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), nn.Conv2d(6, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))


MODELS: dict[str, tuple[nn.Module, list[tuple[str, str]]]] = {
    "depthwise": (separable(), [("expand", "depthwise"), ("depthwise", "project"), ("project", "fc")]),
    "functional": (Functional(), [("a", "b"), ("b", "c"), ("c", "d")]),
    "transposed": (Transposed(), [("a", "b"), ("b", "c")]),
    "residual": (ptq.fold_batch_norm(settled(Residual()), IMAGES), [("conv1", "conv2")]),
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", PASSES)
def test_chains_are_scaled_and_nothing_changes(kind: str, name: str) -> None:
    model, expected = MODELS[kind]
    assert pairs(model) == expected
    model = uneven(model, expected)
    before = copy.deepcopy(model.state_dict())
    result = PASSES[name](model, IMAGES)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    for first, second in expected:
        assert not torch.equal(result.get_parameter(f"{first}.weight"), model.get_parameter(f"{first}.weight"))
        above, below = result.get_submodule(first), result.get_submodule(second)
        ones = output_ranges(above, above.weight.detach())  # type: ignore[arg-type]
        others = input_ranges(below, below.weight.detach()).reshape(len(ones), -1).amax(1)  # type: ignore[arg-type]
        gap = (ones / others).log2().abs().max()
        assert gap < (1e-3 if name == "equalize" else 3.0)  # a factor rounded by up to 1/2 bit, on either side, by either neighbour
    if name == "equalize":
        assert same(result, model) < 1e-5
    else:
        assert torch.equal(result(IMAGES), model(IMAGES))


def test_a_factor_that_is_no_power_of_two_is_seen() -> None:
    model = uneven(*MODELS["depthwise"])
    result = ptq.equalize_exactly(model, IMAGES)
    with torch.no_grad():
        result.get_parameter("expand.weight").mul_(1.01)
    assert not torch.equal(result(IMAGES), model(IMAGES))
    assert not torch.equal(ptq.equalize(model, IMAGES)(IMAGES), model(IMAGES))


@pytest.mark.parametrize("name", PASSES)
def test_per_tensor_weights_gain(name: str) -> None:
    """Channels that lay 8 bits apart come together, and the quantized network with one binary point per tensor comes nearer to the float one."""
    model = uneven(*MODELS["depthwise"])
    result = PASSES[name](model, IMAGES)
    assert spread(model, "depthwise") > 4
    assert spread(result, "depthwise") < spread(model, "depthwise") - 2
    errors = []
    for each in (model, result):
        recipe = qfx.Recipe(weight=qfx.Spec(6), activation=qfx.Spec(16))
        difference = qfx.quantize(each, IMAGES, recipe)(IMAGES) - model(IMAGES)
        errors.append(float(difference.detach().square().mean()))
    assert errors[1] < errors[0] / 4


class Branches(nn.Module):
    """No chain: the first result is read twice, the second added to, the third multiplied, the layer c is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(3, 3, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y = self.b(y) + y
        y = self.d(self.c(self.c(y)) * x)
        return F.relu6(y)


NO_CHAIN: dict[str, nn.Module] = {
    "branches": Branches(),
    "ReLU6": nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU6(), nn.Conv2d(4, 2, 1)),
    "BatchNorm": nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)),
    "pixels of a channel apart": nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(2), nn.Unflatten(2, (4, 9)), nn.Conv2d(4, 2, 1)),
    "an operation that qfx does not have": nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sigmoid(), nn.Conv2d(4, 2, 1)),
    "one layer": nn.Sequential(nn.Conv2d(3, 4, 1)),
}


@pytest.mark.parametrize("kind", [kind for kind in NO_CHAIN if kind != "pixels of a channel apart"])
def test_what_is_no_chain_stays(kind: str) -> None:
    model = NO_CHAIN[kind].eval()
    assert pairs(model) == []
    assert torch.equal(ptq.equalize(model, IMAGES)(IMAGES), model(IMAGES))


def test_a_reshape_that_mixes_channels_ends_a_chain() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.fc = nn.Conv2d(3, 4, 1), nn.Conv2d(9, 2, 1), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).reshape(-1, 9, 4, 4))

    class Turned(Mixed):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.a(x).permute(0, 2, 3, 1).flatten(1)[:, :6])

    assert pairs(Mixed()) == []
    assert pairs(Turned()) == []


def test_dead_and_faint_channels_stay() -> None:
    model = uneven(*MODELS["depthwise"])
    with torch.no_grad():
        model.get_parameter("expand.weight")[2] = 0
        model.get_parameter("depthwise.weight")[3] = 1e-30
    result = ptq.equalize(model, IMAGES)
    assert same(result, model) < 1e-5
    assert all(bool(torch.isfinite(parameter).all()) for parameter in result.parameters())
    assert torch.equal(result.get_parameter("expand.bias")[2:4], model.get_parameter("expand.bias")[2:4])


def test_statistics_follow_the_scale() -> None:
    model = ptq.fold_batch_norm(settled(Residual()), IMAGES)
    result = ptq.equalize(model, IMAGES)
    factors = model.get_parameter("conv1.bias") / result.get_parameter("conv1.bias")
    before, after = folded_statistics(model)["conv1"], folded_statistics(result)["conv1"]
    assert torch.allclose(before.mean / after.mean, factors, rtol=1e-4)
    assert torch.allclose(before.std / after.std, factors, rtol=1e-4)
    assert not torch.allclose(factors, torch.ones(()), rtol=1e-2)
    assert torch.equal(folded_statistics(result)["stem"].mean, folded_statistics(model)["stem"].mean)


# ReLU6


def test_relu6_gives_way_where_it_never_clips() -> None:
    model = separable(lambda: nn.ReLU6(inplace=True))  # type: ignore[arg-type]
    with torch.no_grad():
        model.get_parameter("depthwise.bias")[0] = 20.0
    shares = ptq.clipped_shares(model, IMAGES)
    assert shares["relu1"] == shares["relu3"] == 0.0
    assert 0.1 <= shares["relu2"] <= 0.2
    replaced = ptq.replace_relu6(model, IMAGES, data=IMAGES)
    assert [type(replaced.get_submodule(name)) for name in ("relu1", "relu2", "relu3")] == [nn.ReLU, nn.ReLU6, nn.ReLU]
    assert torch.equal(replaced(IMAGES), model(IMAGES))
    assert pairs(model) == []
    assert pairs(replaced) == [("expand", "depthwise"), ("project", "fc")]
    everywhere = ptq.replace_relu6(model, IMAGES)
    assert not torch.equal(everywhere(IMAGES), model(IMAGES))
    assert len(pairs(everywhere)) == 3
    assert isinstance(ptq.replace_relu6(model, IMAGES, data=[IMAGES], most_clipped=0.5).get_submodule("relu2"), nn.ReLU)
    assert isinstance(model.get_submodule("relu1"), nn.ReLU6)


def test_hardtanh_counts_as_relu6_only_with_its_bounds() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Hardtanh(0.0, 6.0), nn.Conv2d(2, 2, 1), nn.ReLU6())
    assert list(ptq.clipped_shares(model, IMAGES)) == ["1", "3"]
    other = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Hardtanh(0.0, 5.0))
    assert ptq.clipped_shares(other, IMAGES) == {}
    assert isinstance(ptq.replace_relu6(other, IMAGES)[1], nn.Hardtanh)  # type: ignore[index]


# Bias absorption


def high_biases(padding: int = 0) -> nn.Module:
    torch.manual_seed(0)
    layers = OrderedDict(
        a=nn.Conv2d(3, 4, 1), relu=nn.ReLU(), b=nn.Conv2d(4, 2, 3, padding=padding, bias=False), relu2=nn.ReLU(), c=nn.Conv2d(2, 2, 1)
    )
    model = nn.Sequential(layers).eval()
    with torch.no_grad():
        model.get_parameter("a.bias").copy_(torch.tensor([30.0, -30.0, 0.0, 12.0]))
    return model


def test_high_biases_are_absorbed() -> None:
    model = high_biases()
    known = measured_statistics(model, IMAGES)
    result = ptq.absorb_bias(model, IMAGES, statistics=known, deviations=5.0)
    assert same(result, model) < 1e-5
    bias = result.get_parameter("a.bias")
    assert bias[0] < 10
    assert bias[3] < 6
    assert torch.equal(bias[1:3], model.get_parameter("a.bias")[1:3])
    assert result.get_parameter("b.bias").abs().max() > 1
    assert model.get_submodule("b").bias is None
    with torch.no_grad():
        largest = [float(each.get_submodule("a")(IMAGES).max()) for each in (model, result)]
    assert largest[1] < largest[0] / 2
    assert same(ptq.absorb_bias(model, IMAGES, statistics=known, deviations=-3.0), model) > 1e-3, "a part below the constant is lost"


def test_layers_that_pad_are_left_out_unless_asked_for() -> None:
    model = high_biases(padding=1)
    known = measured_statistics(model, IMAGES)
    assert torch.equal(ptq.absorb_bias(model, IMAGES, statistics=known)(IMAGES), model(IMAGES))
    padded = ptq.absorb_bias(model, IMAGES, statistics=known, deviations=5.0, padded=True)
    inner, outer = (slice(1, -1), slice(1, -1)), (0, slice(None))
    with torch.no_grad():
        difference = (padded[:3](IMAGES) - model[:3](IMAGES)).abs()  # type: ignore[index]
    assert difference[:, :, *inner].max() < 1e-4
    assert difference[:, :, *outer].max() > 1e-1


def test_absorption_takes_the_statistics_that_folding_kept() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 2)).eval()
    with torch.no_grad():
        model.get_parameter("1.bias").copy_(torch.tensor([9.0, 0.0, -9.0, 2.0]))
    folded = ptq.fold_batch_norm(model, IMAGES)
    result = ptq.absorb_bias(folded, IMAGES)
    assert torch.allclose(folded.get_parameter("0.bias") - result.get_parameter("0.bias"), torch.tensor([6.0, 0.0, 0.0, 0.0]), atol=1e-3)
    assert torch.allclose(folded_statistics(result)["0"].mean, torch.tensor([3.0, 0.0, -9.0, 2.0]), atol=1e-3)
    assert same(result, model) < 1e-5


def test_measured_statistics_add_up_over_batches() -> None:
    model = high_biases()
    known = measured_statistics(model, IMAGES.split(5))
    with torch.no_grad():
        y = model.get_submodule("a")(IMAGES).transpose(0, 1).flatten(1).double()
    assert isinstance(known["a"], Statistics)
    assert torch.allclose(known["a"].mean, y.mean(1))
    assert torch.allclose(known["a"].std, y.std(1, correction=0))
