"""Layers with weights: constants, exact products, BatchNorm in both forms against torch's own."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from nn_models import WIDE, check_exact, trained
from torch import Tensor, nn

import qfx
from qfx import DataError, ExactnessError, Recipe, Spec
from qfx.fixed.arith import Interval
from qfx.nn.layers import QConv, QLinear, conv_pads
from qfx.nn.norm import QFoldedBatchNorm
from qfx.nn.qtensor import QTensor

IMAGES = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
SIGNALS = torch.randn(16, 4, 9, generator=torch.Generator().manual_seed(1))
VECTORS = torch.randn(16, 6, generator=torch.Generator().manual_seed(2))


def wide(style: str) -> Recipe:
    return Recipe(**{role: getattr(WIDE, role) for role in ("input", "weight", "bias", "scale", "shift", "activation", "output")}, batch_norm=style)


def with_gamma(norm: nn.BatchNorm2d, values: list[float]) -> nn.BatchNorm2d:
    with torch.no_grad():
        norm.weight.copy_(torch.tensor(values))
    return norm


NETWORKS: dict[str, tuple[nn.Module, Tensor]] = {
    "conv, norm, relu": (nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()), IMAGES),
    "conv with bias": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), IMAGES),
    "momentum None": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=None)), IMAGES),
    "no affine": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)), IMAGES),
    "linear": (nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)), VECTORS),
    "conv1d": (nn.Sequential(nn.Conv1d(4, 5, 3), nn.BatchNorm1d(5)), SIGNALS),
    "depthwise": (nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6)), IMAGES),
    "norm first": (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3)), IMAGES),
    "two norms": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)), IMAGES),
    "norm behind relu": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)), IMAGES),
    "norm behind pooling": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.AvgPool2d(2), nn.BatchNorm2d(4)), IMAGES),
    "signs and zero": (nn.Sequential(nn.Conv2d(3, 4, 3), with_gamma(nn.BatchNorm2d(4), [1.0, -2.0, 0.0, -0.1])), IMAGES),
}


@pytest.mark.parametrize("style", ["keep", "fold"])
@pytest.mark.parametrize("name", NETWORKS)
def test_batch_norm_is_exact_and_close_to_float(name: str, style: str) -> None:
    """Exact against the interpreter; and with 16 bits within a few thousandths of the float model, whose very affine map it is."""
    model, x = NETWORKS[name]
    model = trained(copy.deepcopy(model), x)
    q = qfx.quantize(model, x, wide(style))
    graph = check_exact(q)
    with torch.no_grad():
        expected, actual = model(x), q(x)
    assert float((actual - expected).abs().max()) < 2e-3 * float(expected.abs().max())
    kept = [node for node in graph.nodes if type(node.op).__name__ == "Affine"]
    folds = name in ("conv, norm, relu", "conv with bias", "momentum None", "no affine", "linear", "conv1d", "depthwise", "signs and zero")
    assert bool(kept) == (style == "keep" or not folds or name == "norm behind pooling")


@pytest.mark.parametrize("style", ["keep", "fold"])
@pytest.mark.parametrize("name", ["conv with bias", "linear", "momentum None", "conv1d", "no affine"])
def test_running_statistics_follow_torch(name: str, style: str) -> None:
    """In training they move as torch's do (on the fixed-point values, so nearly); in evaluation they stay; the forward does not depend on it."""
    model, x = NETWORKS[name]
    model = trained(copy.deepcopy(model), x)
    q = qfx.quantize(model, x, wide(style))
    before = copy.deepcopy(q.state_dict())
    evaluated = q.eval()(x)
    assert all(torch.equal(before[key], tensor) for key, tensor in q.state_dict().items())
    other = copy.deepcopy(q).train()
    assert torch.equal(other(x), evaluated), "the forward value depends on the mode"
    shifted = x * 0.5 + 0.1  # nothing saturates
    model.train()
    for _ in range(3):
        model(shifted)
        q.train()(shifted)
        if style == "fold":  # each batch folds other weights: compare one step
            break
    if style == "fold":
        model = trained(copy.deepcopy(NETWORKS[name][0]), x).train()
        model(shifted)
    state, moved = model.state_dict(), q.state_dict()
    for key in state:
        if "running" in key:
            assert not torch.equal(before[key], moved[key]), key
            scale = float(state[key].abs().max())
            assert torch.allclose(moved[key], state[key], rtol=0, atol=0.01 * scale), key
        if "num_batches" in key:
            assert int(moved[key]) == int(state[key])


def test_untrained_norms_start_from_the_example() -> None:
    """Nothing was tracked yet: the first forward is normalized by the example's own statistics; the float model stays untouched."""
    for style in ("keep", "fold"):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        with torch.no_grad():
            model[0].weight *= 50
        q = qfx.quantize(model, IMAGES, wide(style)).eval()
        y = q(IMAGES).detach()
        assert torch.allclose(y.mean((0, 2, 3)), torch.zeros(4), atol=0.02)
        assert torch.allclose(y.var((0, 2, 3)), torch.ones(4), atol=0.05)
        assert torch.equal(model[1].running_mean, torch.zeros(4))
        check_exact(q)


def test_a_folded_channel_of_scale_zero_keeps_its_statistics() -> None:
    """Residual networks start with gamma = 0: the folded layer then says nothing about the unfolded one, and must not say that it is constant."""
    model = trained(copy.deepcopy(NETWORKS["signs and zero"][0]), IMAGES)
    q = qfx.quantize(model, IMAGES, wide("fold")).train()
    before = q.state_dict()["1.running_var"].clone(), q.state_dict()["1.running_mean"].clone()
    q(IMAGES * 2)
    after = q.state_dict()["1.running_var"], q.state_dict()["1.running_mean"]
    for old, new in zip(before, after, strict=True):
        assert old[2] == new[2]
        assert (old != new).sum() == 3


def test_frozen_norms_stay_frozen_in_training() -> None:
    model = trained(copy.deepcopy(NETWORKS["conv with bias"][0]), IMAGES)
    for style in ("keep", "fold"):
        q = qfx.quantize(model, IMAGES, wide(style)).train()
        q.get_submodule("1").eval()
        q(IMAGES * 3)
        assert torch.equal(q.state_dict()["1.running_mean"], model[1].running_mean)


@pytest.mark.parametrize("style", ["keep", "fold"])
def test_gradients_reach_everything(style: str) -> None:
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)), IMAGES)
    recipe = Recipe(weight=Spec(4, granularity="channel"), activation=Spec(4), batch_norm=style)
    q = qfx.quantize(model, IMAGES, recipe).train()
    q(IMAGES).square().sum().backward()
    for name, parameter in q.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        if name != "4.output_cast.frac_bits":  # 16 bits at the output round nothing away
            assert bool((parameter.grad != 0).any()), name


def test_wide_weights_have_float_gradients() -> None:
    """With many bits the fixed-point network's gradients approach the float network's."""
    model = trained(copy.deepcopy(NETWORKS["linear"][0]), VECTORS).double()
    for style in ("keep", "fold"):
        q = qfx.quantize(model, VECTORS.double(), wide(style)).eval()
        weight = torch.randn(16, 3, generator=torch.Generator().manual_seed(5)).double()
        model.zero_grad()
        (model(VECTORS.double()) * weight).sum().backward()
        (q(VECTORS.double()) * weight).sum().backward()
        for name, parameter in model.named_parameters():
            mine = dict(q.named_parameters())[name].grad
            assert torch.allclose(mine, parameter.grad, atol=2e-3 * float(parameter.grad.abs().max())), name


def prepared(module: nn.Linear | nn.Conv2d, x: QTensor, recipe: Recipe) -> QLinear | QConv:
    layer = (QLinear if isinstance(module, nn.Linear) else QConv)(module, recipe, "layer")  # type: ignore[arg-type]
    layer.initialize(x)
    return layer


def test_products_are_exact_at_the_edge_of_float32() -> None:
    """Sums just below, at and above 24 bits: equal to integer arithmetic, in whichever dtype the layer chose."""
    for terms, dtype in ((2, torch.float32), (4, torch.float32), (64, torch.float64)):
        module = nn.Linear(terms, 1, bias=False)
        with torch.no_grad():
            module.weight.fill_(2047.0)
        x_raw = torch.full((1, terms), 2047, dtype=torch.int64)
        x = QTensor(x_raw.float(), Interval(-2048, 2047, 0))
        layer = prepared(module, x, Recipe(weight=Spec(12)))
        y = layer(x).tensor()
        assert y.dtype is dtype
        assert int(y) == int((x_raw * 2047).sum())


def test_a_bias_starts_no_finer_than_the_products() -> None:
    module = nn.Linear(2, 2)
    with torch.no_grad():
        module.weight.fill_(64.0)
        module.bias.fill_(0.123456)
    x = QTensor(torch.ones(1, 2), Interval(-8, 7, 0))
    layer = prepared(module, x, Recipe())
    products = x.interval.frac_bits + layer.weight_cast.interval().frac_bits
    assert layer.bias_cast.interval().frac_bits <= products


def test_padding_is_spelled_out() -> None:
    for kernel, dilation in (((3, 3), (1, 1)), ((2, 4), (1, 1)), ((2, 5), (3, 2)), ((1, 1), (1, 1))):
        module = nn.Conv2d(1, 1, kernel, padding="same", dilation=dilation)
        pads = conv_pads(module)
        x = torch.randn(1, 1, 9, 9)
        own = F.conv2d(F.pad(x, [*pads[1], *pads[0]]), module.weight, module.bias, dilation=dilation)
        if all((k - 1) * d % 2 == 0 for k, d in zip(kernel, dilation, strict=True)):
            assert torch.allclose(own, module(x))
        assert own.shape == x.shape
    assert conv_pads(nn.Conv1d(1, 1, 3, padding="valid")) == ((0, 0),)
    assert conv_pads(nn.Conv1d(1, 1, 3, padding=2)) == ((2, 2),)


def test_linear_wants_vectors_and_wide_products_are_refused() -> None:
    module = nn.Linear(3, 2)
    x = QTensor(torch.ones(1, 3), Interval(-8, 7, 0))
    layer = prepared(module, x, Recipe())
    with pytest.raises(DataError, match=r"^layer: "):
        layer(QTensor(torch.ones(1, 2, 3), x.interval))
    with pytest.raises(ExactnessError):
        layer(QTensor(torch.ones(1, 3).double(), Interval(-(1 << 48), 1 << 48, 0)))


def test_the_folded_norm_is_a_partner_of_the_layer_before_it() -> None:
    q = qfx.quantize(NETWORKS["conv with bias"][0], IMAGES, wide("fold"))
    assert isinstance(q.get_submodule("1"), QFoldedBatchNorm)
    names = {name for name, _ in qfx.quantizers(q)}
    assert names == {"input", "0.weight", "0.bias", "0.output"}
