"""Without data: ranges and inputs that BatchNorm statistics alone give come near to what data give."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx import DataError, QfxError, Recipe, RecipeError, Spec, ptq
from qfx.ir.interpret import run
from qfx.testing import assert_bit_exact


class Net(nn.Module):
    """A small residual network."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.bn1 = nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)) + x)
        return self.fc(F.avg_pool2d(x, 8).flatten(1))  # type: ignore[no-any-return]


def textures(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Four classes of 8x8 images: stripes along each axis and diagonal, with noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    i, j = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    waves = torch.stack([torch.sin(1.6 * wave) for wave in (i, j, i + j, i - j)])
    clean = torch.stack([waves[labels], torch.roll(waves, 1, 0)[labels]], 1)
    return clean + 0.9 * torch.randn(count, 2, 8, 8, generator=generator), labels


X, Y = textures(512, 1)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """Trained for a second."""
    model, (x, y) = Net(), textures(1024, 0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for epoch in range(4):
        for index in torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(x[index]), y[index]).backward()
            optimizer.step()
    return model.eval()


def accuracy(model: nn.Module) -> float:
    with torch.no_grad():
        return float((model(X).argmax(1) == Y).double().mean())


def points(qmodel: nn.Module) -> dict[str, float]:
    return {name: float(cast.frac_bits.detach()) for name, cast in qfx.quantizers(qmodel)}


NOTHING = torch.zeros(1, 2, 8, 8)


@pytest.mark.parametrize("batch_norm", ["folded before", "kept", "folded on the fly"])
def test_ranges_from_statistics_come_near_those_from_data(net: nn.Module, batch_norm: str) -> None:
    recipe = Recipe(batch_norm="fold") if batch_norm == "folded on the fly" else Recipe()
    model = ptq.fold_batch_norm(net, NOTHING) if batch_norm == "folded before" else net
    expected = points(qfx.quantize(model, X, recipe))
    qmodel = qfx.quantize(model, NOTHING, recipe).eval()
    assert max(abs(value - expected[name]) for name, value in points(qmodel).items() if name.endswith("put")) > 1
    ptq.calibrate_from_statistics(qmodel, ptq.folded_statistics(model))
    found = points(qmodel)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert abs(found[name] - value) <= 1, name
    assert accuracy(qmodel) > accuracy(net) - 0.03


@pytest.mark.parametrize("granularity", ["channel", "element"])
def test_other_granularities(net: nn.Module, granularity: str) -> None:
    spec = Spec(8, granularity=granularity)  # type: ignore[arg-type]
    qmodel = qfx.quantize(net, NOTHING, Recipe(weight=spec, activation=spec, input=spec)).eval()
    shapes = {name: tuple(cast.frac_bits.shape) for name, cast in qfx.quantizers(qmodel)}
    ptq.calibrate_from_statistics(qmodel, {})
    assert shapes == {name: tuple(cast.frac_bits.shape) for name, cast in qfx.quantizers(qmodel)}
    assert accuracy(qmodel) > accuracy(net) - 0.03


def test_the_input_range_is_given(net: nn.Module) -> None:
    qmodel = qfx.quantize(net, NOTHING)
    for largest, expected in ((0.9, 7), (3.0, 5), (100.0, 0)):
        ptq.calibrate_from_statistics(qmodel, {}, input_range=(-largest, largest))
        assert points(qmodel)["input"] == expected
    with pytest.raises(DataError, match="input_range"):
        ptq.calibrate_from_statistics(qmodel, {}, input_range=(1.0, 1.0))


def test_distilled_inputs_have_the_statistics(net: nn.Module) -> None:
    seen: dict[str, Tensor] = {}
    for name in ("bn1", "bn2"):
        net.get_submodule(name).register_forward_pre_hook(lambda module, inputs, name=name: seen.__setitem__(name, inputs[0]))

    def mismatch(x: Tensor) -> float:
        with torch.no_grad():
            net(x)
        total = 0.0
        for name, value in seen.items():
            norm, rows = net.get_submodule(name), value.transpose(0, 1).flatten(1)
            std = norm.running_var.sqrt()
            total += float((((rows.mean(1) - norm.running_mean) / std).square() + ((rows.std(1) - std) / std).square()).mean())
        return total

    steps: list[tuple[str, int, int]] = []
    found = ptq.distill(net, NOTHING, count=32, steps=40, progress=lambda *step: steps.append(step))
    try:
        noise = torch.randn(32, 2, 8, 8, generator=torch.Generator().manual_seed(0))
        assert mismatch(found) < mismatch(noise) / 10
    finally:
        for name in seen:
            net.get_submodule(name)._forward_pre_hooks.clear()
    assert found.shape == (32, 2, 8, 8)
    assert steps[-1] == ("distillation", 40, 40)
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert torch.equal(found, ptq.distill(net, NOTHING, count=32, steps=40))
    assert not torch.equal(found, ptq.distill(net, NOTHING, count=32, steps=40, seed=1))
    assert float(ptq.distill(net, NOTHING, count=4, steps=3, input_range=(-1.0, 0.5)).max()) <= 0.5


@pytest.mark.parametrize("method", ["distill", "statistics"])
def test_eight_bits_without_data(net: nn.Module, method: str) -> None:
    qmodel = ptq.quantize_without_data(net, NOTHING, method=method)  # type: ignore[arg-type]
    assert accuracy(qmodel) > accuracy(net) - 0.02
    with torch.no_grad():
        assert_bit_exact(run(qfx.to_graph(qmodel), X[:50].numpy()), qmodel(X[:50]).numpy())
    blind = qfx.quantize(net, NOTHING).eval()
    assert accuracy(blind) < accuracy(net) - 0.1, "an example of zeros alone places no binary point"


def test_models_that_know_nothing_are_refused(net: nn.Module) -> None:
    plain = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU())
    with pytest.raises(QfxError, match="no BatchNorm"):
        ptq.distill(plain, NOTHING)
    with pytest.raises(QfxError, match="no BatchNorm"):
        ptq.calibrate_from_statistics(qfx.quantize(plain, NOTHING), {})
    for refuse in (ptq.distill, ptq.quantize_without_data):
        with pytest.raises(QfxError, match="bn1: its statistics have never seen data"):
            refuse(Net(), NOTHING)
    with pytest.raises(RecipeError, match="guess"):
        ptq.quantize_without_data(net, NOTHING, method="guess")  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["distill", "statistics"])
@pytest.mark.parametrize(("input_range", "signed"), [(None, True), ((0.0, 1.0), False), ((-1.0, 1.0), True)])
def test_the_range_decides_whether_the_input_has_a_sign(net: nn.Module, method: str, input_range: tuple[float, float] | None, signed: bool) -> None:
    """Not the example, which may be anything of the right shape."""
    for example in (torch.zeros(1, 2, 8, 8), torch.rand(1, 2, 8, 8), torch.randn(1, 2, 8, 8)):
        qmodel = ptq.quantize_without_data(net, example, method=method, input_range=input_range)  # type: ignore[arg-type]
        assert dict(qfx.quantizers(qmodel))["input"].signed is signed


def test_statistics_of_a_signed_input_need_a_model_with_one(net: nn.Module) -> None:
    statistics = ptq.folded_statistics(ptq.fold_batch_norm(net, torch.zeros(1, 2, 8, 8)))
    qmodel = qfx.quantize(ptq.fold_batch_norm(net, torch.zeros(1, 2, 8, 8)), torch.rand(4, 2, 8, 8)).eval()
    ptq.calibrate_from_statistics(qmodel, statistics, input_range=(0.0, 1.0))
    with pytest.raises(DataError, match="negative numbers"):
        ptq.calibrate_from_statistics(qmodel, statistics)
