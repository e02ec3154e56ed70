"""Bias correction takes the mean error out of every layer, from data and from statistics alone, and the model stays one that can be exported."""

from __future__ import annotations

import copy

import pytest
import torch
from ptq_models import Residual
from torch import Tensor, nn

import qfx
from qfx import Recipe, Spec, UnsupportedError, ptq
from qfx.ir.interpret import run
from qfx.nn.layers import Weighted
from qfx.ptq.data_free.moments import Clipped, distributions
from qfx.ptq.float_reference import float_reference
from qfx.testing import assert_bit_exact

COARSE = Recipe(input=Spec(16), weight=Spec(3), activation=Spec(12), bias=Spec(20), output=Spec(16))
X = torch.randn(64, 3, 6, 6, generator=torch.Generator().manual_seed(11))


def trained(model: nn.Module) -> nn.Module:
    """The model with the statistics of X, and constants that differ."""
    generator = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            with torch.no_grad():
                module.weight.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
                module.bias.copy_(torch.randn(module.num_features, generator=generator))
    model.train()(X)
    return model.eval()


def mean_errors(qmodel: nn.Module, reference: nn.Module, data: Tensor = X) -> dict[str, float]:
    """Per layer: the largest mean difference of an output channel to the float model."""
    results: dict[str, list[Tensor]] = {}
    for model in (qmodel, reference):
        for path, layer in model.named_modules():
            if isinstance(layer, Weighted):
                layer.register_forward_hook(lambda module, inputs, result, path=path: results.setdefault(path, []).append(result.tensor().double()))
        with torch.no_grad():
            model(data)
    for model in (qmodel, reference):
        for layer in model.modules():
            layer._forward_hooks.clear()
    return {path: float((a - b).transpose(0, 1).flatten(1).mean(1).abs().max()) for path, (a, b) in results.items()}


def folded(recipe: Recipe = COARSE) -> tuple[nn.Module, nn.Module, nn.Module]:
    model = ptq.fold_batch_norm(trained(Residual()), X)
    qmodel = qfx.quantize(model, X, recipe)
    return model, qmodel, float_reference(qmodel)


def test_the_mean_error_goes() -> None:
    _, qmodel, reference = folded()
    before = mean_errors(qmodel, reference)
    results = ptq.correct_bias(qmodel, X.split(20), reference=reference)
    after = mean_errors(qmodel, reference)
    assert [result.path for result in results] == ["stem", "conv1", "conv2", "fc"]
    for result in results:
        step = 2.0 ** -float(qmodel.get_parameter(f"{result.path}.bias_cast.frac_bits").detach().round())
        assert result.corrected
        assert before[result.path] > 20 * step
        assert after[result.path] <= step, "the rounding of the bias alone is left"
        assert result.after <= step
        assert result.before > 10 * result.after
    assert ptq.correct_bias(qmodel, X, reference=reference)[0].before <= 1e-3


def test_a_wrong_sign_would_be_seen() -> None:
    _, qmodel, reference = folded()
    before = mean_errors(qmodel, reference)["stem"]
    old = qmodel.get_parameter("stem.bias").detach().clone()
    ptq.correct_bias(qmodel, X, reference=reference, layers=["stem"])
    with torch.no_grad():
        new = qmodel.get_parameter("stem.bias")
        new.copy_(2 * old - new)
    assert mean_errors(qmodel, reference)["stem"] > 1.5 * before


def test_only_the_layers_asked_for_change() -> None:
    _, qmodel, _ = folded()
    before = {name: tensor.clone() for name, tensor in qmodel.state_dict().items()}
    (result,) = ptq.correct_bias(qmodel, X, layers=["conv2"])
    assert result.path == "conv2"
    assert [name for name, tensor in qmodel.state_dict().items() if not torch.equal(tensor, before[name])] == ["conv2.bias"]


def test_a_kept_batch_norm_takes_the_correction() -> None:
    qmodel = qfx.quantize(trained(Residual()), X, COARSE)
    reference = float_reference(qmodel)
    results = {result.path: result for result in ptq.correct_bias(qmodel, X, reference=reference)}
    assert results["conv1"].corrected
    assert results["conv1"].after < results["conv1"].before / 10
    errors: dict[str, Tensor] = {}
    for name, model in (("q", qmodel), ("f", reference)):
        model.get_submodule("bn1").register_forward_hook(lambda module, inputs, result, name=name: errors.__setitem__(name, result.tensor()))
        with torch.no_grad():
            model(X)
    mean = (errors["q"] - errors["f"]).double().transpose(0, 1).flatten(1).mean(1)
    assert float(mean.abs().max()) < 1e-3


def test_a_layer_without_any_bias_is_reported() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()
    qmodel = qfx.quantize(model, X, COARSE)
    first, second = ptq.correct_bias(qmodel, X)
    assert not first.corrected
    assert first.before == first.after > 0
    assert second.corrected


def test_a_batch_norm_folded_on_the_fly_is_refused() -> None:
    qmodel = qfx.quantize(trained(Residual()), X, Recipe(batch_norm="fold"))
    with pytest.raises(UnsupportedError, match="fold_batch_norm"):
        ptq.correct_bias(qmodel, X)


def test_a_bias_that_outgrows_its_binary_point_gets_room() -> None:
    _, qmodel, reference = folded(Recipe(weight=Spec(2), activation=Spec(8), bias=Spec(8)))
    with torch.no_grad():
        for layer in reference.modules():
            if isinstance(layer, Weighted) and layer.bias is not None:
                layer.bias.add_(37.0)
    before = {name: cast.frac_bits.detach().clone() for name, cast in qfx.quantizers(qmodel) if name.endswith(".bias")}
    results = ptq.correct_bias(qmodel, X, reference=reference)
    assert all(result.after < 0.3 for result in results)
    for name, cast in qfx.quantizers(qmodel):
        if name in before:
            assert bool((cast.frac_bits < before[name]).all())


def test_it_can_be_exported() -> None:
    _, qmodel, reference = folded()
    ptq.correct_bias(qmodel, X, reference=reference)
    graph = qfx.to_graph(qmodel.eval())
    with torch.no_grad():
        assert_bit_exact(run(graph, X.numpy()), qmodel(X).numpy())


# Without data


def test_statistics_alone_take_most_of_the_error() -> None:
    """A layer whose input is what BatchNorm and ReLU say, without zero padding: the rest is what the normal distribution does not tell."""
    torch.manual_seed(0)
    model = trained(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1))
    )
    plain = ptq.fold_batch_norm(model, X)
    qmodel = qfx.quantize(plain, X, Recipe(weight=Spec(3), activation=Spec(16)))
    reference = float_reference(qmodel)
    other = copy.deepcopy(qmodel)
    before = mean_errors(qmodel, reference)
    results = ptq.correct_bias_from_statistics(qmodel, ptq.folded_statistics(plain))
    after = mean_errors(qmodel, reference)
    assert [result.path for result in results] == ["0", "3", "6"]
    assert after["3"] < before["3"] / 4
    assert after["6"] < before["6"] / 2
    ptq.correct_bias(other, X, reference=reference)
    for path in ("3", "6"):  # the same as with data, but for what statistics do not tell
        measured, told = other.get_parameter(f"{path}.bias"), qmodel.get_parameter(f"{path}.bias")
        moved = measured - plain.get_parameter(f"{path}.bias")
        assert float((measured - told).detach().abs().max()) < 0.5 * float(moved.detach().abs().max())


@pytest.mark.parametrize("mean", [-3.0, -0.5, 0.0, 0.7, 4.0])
@pytest.mark.parametrize("std", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("limits", [(0.0, torch.inf), (0.0, 6.0), (-torch.inf, torch.inf), (-1.0, 0.5)])
def test_moments_of_a_limited_normal_distribution(mean: float, std: float, limits: tuple[float, float]) -> None:
    x = Clipped.normal(torch.tensor([mean]), torch.tensor([std])).limited(*limits)
    z = torch.linspace(-9, 9, 200_001, dtype=torch.float64)
    density = torch.exp(-z.square() / 2) / torch.exp(-z.square() / 2).sum()
    values = (mean + std * z).clamp(*limits)
    first = (values * density).sum()
    second = ((values - first).square() * density).sum()
    found = x.moments()
    assert abs(float(found[0]) - float(first)) < 1e-4
    assert abs(float(found[1]) - float(second)) < 1e-4
    samples = x.samples(4000)
    assert samples.shape == (4000, 1)
    assert abs(float(samples.mean()) - float(first)) < 1e-3
    assert bool((samples >= limits[0]).all() and (samples <= limits[1]).all())


def test_the_mean_behind_a_relu_is_the_papers_formula() -> None:
    """Nagel et al. 2019, section 4.2.1: E[ReLU(x)] = gamma * N(-beta / gamma) + beta * (1 - Phi(-beta / gamma))."""
    beta, gamma = torch.tensor([0.4, -1.0, 2.0], dtype=torch.float64), torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    normal = torch.distributions.Normal(0.0, 1.0)
    ratio = -beta / gamma
    expected = gamma * normal.log_prob(ratio).exp() + beta * (1 - normal.cdf(ratio))
    assert torch.allclose(Clipped.normal(beta, gamma).limited(0.0, torch.inf).moments()[0], expected, rtol=1e-6)


class Everything(nn.Module):
    """Each operation that moves channels about."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.bn = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.up, self.leaky, self.six = nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), nn.LeakyReLU(0.25), nn.ReLU6()
        self.bn2, self.flat, self.fc = nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(9 * 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.leaky(self.bn(self.conv(x)))
        y = nn.functional.pad(y, (0, 0, 0, 0, 1, 1))[:, 1:5] + nn.functional.relu(y)
        z = nn.functional.avg_pool2d(self.six(self.bn2(self.up(y))), 2)
        z = torch.cat([z, (z * z)[:, ::2]], 1).permute(0, 1, 3, 2)
        return self.fc(self.flat(z))  # type: ignore[no-any-return]


def test_distributions_follow_every_operation() -> None:
    """Channel by channel, what is told agrees with what data give, within what a normal distribution without neighbours can tell."""
    qmodel = qfx.quantize(trained(Everything()), X, Recipe(activation=Spec(16), weight=Spec(12)))
    found = distributions(qmodel, {}, Clipped.normal(torch.zeros(1), torch.ones(1)))
    actual: dict[str, Tensor] = {}
    for node in qmodel.graph.nodes:
        if node.op == "call_module":
            layer = qmodel.get_submodule(str(node.target))
            layer.register_forward_hook(lambda module, inputs, result, name=node.name: actual.__setitem__(name, result.tensor()))
    with torch.no_grad():
        qmodel(X)
    assert set(found) == set(actual)
    for name, values in actual.items():
        rows = values.double().transpose(0, 1).flatten(1)
        mean, variance = found[name].moments()
        assert mean.shape == (rows.shape[0],)
        assert float((mean - rows.mean(1)).abs().max()) < 0.75 * float(rows.std(1).max()), name
        assert 0.25 < float((variance.mean() / rows.var(1).mean()).sqrt()) < 4, name


def test_what_loses_its_channels_is_one_mixture() -> None:
    torch.manual_seed(0)
    turned = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(2), Turn(), nn.Conv1d(36, 2, 1))
    qmodel = qfx.quantize(trained(turned), X, Recipe(activation=Spec(16), weight=Spec(12)))
    found = distributions(qmodel, {}, Clipped.normal(torch.zeros(1), torch.ones(1)))
    mixed = next(found[node.name] for node in qmodel.graph.nodes if str(node.target) == "3.transpose")
    bias = turned.get_parameter("1.bias").detach().double()
    assert mixed.channels == 1
    assert torch.allclose(mixed.moments()[0], bias.mean())
    assert float(mixed.moments()[1]) > float(bias.var(correction=0))
    last = next(found[node.name] for node in qmodel.graph.nodes if str(node.target) == "4")
    assert last.channels == 2


class Turn(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)
