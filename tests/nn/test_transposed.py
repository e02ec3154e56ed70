"""Transposed convolution and upsampling: exact in every geometry, close to float, trained like any other layer."""

from __future__ import annotations

import copy

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from nn_models import WIDE, check_exact, check_same_numbers, integers, trained
from torch import Tensor, nn

import qfx
from qfx import Recipe, Spec
from qfx import operators as ops
from qfx.fixed.arith import Interval
from qfx.ir.interpret import run_raw
from qfx.nn.layers import QConvTranspose
from qfx.nn.qtensor import QTensor
from qfx.testing import adversarial_inputs, assert_bit_exact
from qfx.verify import raw_of

SIGNALS = torch.randn(16, 4, 6, generator=torch.Generator().manual_seed(1))
IMAGES = torch.randn(8, 4, 4, 5, generator=torch.Generator().manual_seed(0))


@st.composite
def geometries(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    """A transposed convolution of any geometry that PyTorch takes, and integers for it."""
    axes = draw(st.integers(1, 2))
    kernel, stride, dilation = (tuple(draw(st.integers(1, most)) for _ in range(axes)) for most in (4, 3, 2))
    padding = tuple(draw(st.integers(0, 3)) for _ in range(axes))
    extra = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    size = tuple(draw(st.integers(1, 5)) for _ in range(axes))
    spans = zip(size, kernel, stride, dilation, padding, extra, strict=True)
    assume(all((n - 1) * s + d * (k - 1) + 1 - 2 * p + more >= 1 for n, k, s, d, p, more in spans))
    groups, per_group, outputs = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d)[axes - 1]
    channels = groups * per_group
    layer = kind(channels, groups * outputs, kernel, stride, padding, extra, groups, draw(st.booleans()), dilation)
    return layer, integers(3, channels, *size, seed=draw(st.integers(0, 1000)))


@settings(max_examples=80)
@given(geometries())
def test_every_geometry_keeps_the_numbers(case: tuple[nn.Module, Tensor]) -> None:
    """Torch's own layer, its fixed-point form and the interpreter's Stretch and Conv: the same numbers on integers."""
    check_same_numbers(*case)


def test_padding_beyond_the_kernel_crops() -> None:
    q = check_same_numbers(nn.ConvTranspose1d(2, 3, 2, stride=3, padding=3, output_padding=2), integers(4, 2, 5))
    graph = qfx.to_graph(q)
    assert [type(node.op) for node in graph.nodes] == [ops.Input, ops.Stretch, ops.Slice, ops.Conv, ops.Cast]
    assert [node.name for node in graph.nodes] == ["input", "layer.stretch", "layer.crop", "layer", "layer.output"]
    q = check_same_numbers(nn.ConvTranspose2d(2, 3, (1, 3), stride=(3, 1), padding=(1, 0), output_padding=(2, 0)), integers(4, 2, 1, 4))
    assert [type(node.op) for node in qfx.to_graph(q).nodes] == [ops.Input, ops.Pad, ops.Slice, ops.Conv, ops.Cast]


def test_a_stride_of_one_needs_no_zeros_between() -> None:
    q = check_same_numbers(nn.ConvTranspose2d(2, 3, 3, padding=1), integers(4, 2, 4, 5))
    graph = qfx.to_graph(q)
    assert [type(node.op) for node in graph.nodes] == [ops.Input, ops.Conv, ops.Cast]
    assert graph.nodes[1].op.pads == ((1, 1), (1, 1))


def test_output_size_is_the_padding_that_it_asks_for() -> None:
    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.up(x, output_size=[8, 9])

    q = check_same_numbers(Sized(), integers(4, 2, 4, 5))
    assert q.get_submodule("up").output_padding == (1, 0)


def test_an_unflipped_weight_would_be_seen() -> None:
    """The check that the tests above rest on: the same network with its kernel the wrong way round differs."""
    torch.manual_seed(0)
    q = qfx.quantize(nn.ConvTranspose1d(2, 2, 3, stride=2), SIGNALS[:, :2]).eval()
    graph = qfx.to_graph(q)
    conv = graph.node("layer").op
    assert isinstance(conv, ops.Conv)
    wrong = ops.Conv(ops.Const(conv.weight.raw[..., ::-1], conv.weight.frac_bits), conv.bias, *(getattr(conv, f) for f in conv.__slots__[2:]))
    nodes = tuple(type(node)(node.name, wrong if node.name == "layer" else node.op, node.inputs) for node in graph.nodes)
    x = adversarial_inputs(graph, np.random.default_rng(0), 8)
    actual = raw_of(q(torch.from_numpy(x)).detach().numpy(), graph, "torch")
    assert_bit_exact(actual, run_raw(graph, x))
    with pytest.raises(AssertionError, match="numbers differ"):
        assert_bit_exact(actual, run_raw(graph.with_nodes(nodes), x))


torch.manual_seed(0)  # no sum of these lies so near 0 that rounding takes it through a ReLU
NETWORKS: dict[str, tuple[nn.Module, Tensor]] = {
    "2d": (nn.Sequential(nn.ConvTranspose2d(4, 6, 3, stride=2, bias=False), nn.BatchNorm2d(6), nn.ReLU()), IMAGES),
    "with bias": (nn.Sequential(nn.ConvTranspose2d(4, 6, 2, stride=2), nn.BatchNorm2d(6)), IMAGES),
    "1d": (nn.Sequential(nn.ConvTranspose1d(4, 6, 4, stride=2, padding=1), nn.BatchNorm1d(6), nn.ReLU()), SIGNALS),
    "groups": (nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)), IMAGES),
    "depthwise": (nn.Sequential(nn.ConvTranspose1d(4, 4, 4, stride=2, groups=4), nn.BatchNorm1d(4)), SIGNALS),
    "upsampled": (nn.Sequential(nn.Conv2d(4, 3, 1), nn.BatchNorm2d(3), nn.Upsample(scale_factor=2), nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2)), IMAGES),
}


@pytest.mark.parametrize("style", ["keep", "fold"])
@pytest.mark.parametrize("name", NETWORKS)
def test_batch_norm_is_exact_and_close_to_float(name: str, style: str) -> None:
    model, x = NETWORKS[name]
    model = trained(copy.deepcopy(model), x)
    roles = {role: getattr(WIDE, role) for role in ("input", "weight", "bias", "scale", "shift", "activation", "output")}
    q = qfx.quantize(model, x, Recipe(**roles, batch_norm=style))
    graph = check_exact(q)
    with torch.no_grad():
        expected, actual = model(x), q(x)
        assert torch.equal(actual, q.train()(x)), "the forward value depends on the mode"
    assert float((actual - expected).abs().max()) < 2e-3 * float(expected.abs().max())
    assert any(isinstance(node.op, ops.Affine) for node in graph.nodes) == (style == "keep")


@pytest.mark.parametrize("style", ["keep", "fold"])
@pytest.mark.parametrize("name", ["2d", "groups", "depthwise"])
def test_wide_weights_have_float_gradients(name: str, style: str) -> None:
    model, x = NETWORKS[name]
    model, x = trained(copy.deepcopy(model), x).double(), x.double()
    roles = {role: getattr(WIDE, role) for role in ("input", "weight", "bias", "scale", "shift", "activation", "output")}
    q = qfx.quantize(model, x, Recipe(**roles, batch_norm=style)).eval()
    by = torch.randn(model(x).shape, generator=torch.Generator().manual_seed(5)).double()
    (model(x) * by).sum().backward()
    (q(x) * by).sum().backward()
    for key, parameter in model.named_parameters():
        mine = dict(q.named_parameters())[key].grad
        assert mine.shape == parameter.shape
        assert torch.allclose(mine, parameter.grad, atol=2e-3 * float(parameter.grad.abs().max())), key


@pytest.mark.parametrize("name", ["2d", "1d", "groups", "upsampled"])
@pytest.mark.parametrize("granularity", ["tensor", "channel", "element"])
def test_all_granularities_are_exact(name: str, granularity: str) -> None:
    model, x = NETWORKS[name]
    roles = dict.fromkeys(("input", "weight", "bias", "scale", "shift", "activation", "output"), Spec(5, granularity=granularity))
    check_exact(qfx.quantize(model, x, Recipe(**roles)))


def test_a_binary_point_per_channel_is_one_per_output_channel() -> None:
    """Whatever the groups: an output channel that is 8 times as large starts 3 bits coarser, the others where they were."""
    for groups in (1, 2):
        torch.manual_seed(0)
        layer = nn.ConvTranspose2d(4, 6, 3, groups=groups)
        before = qfx.quantize(layer, IMAGES, Recipe(weight=Spec(6, granularity="channel"))).get_parameter("layer.weight_cast.frac_bits").flatten()
        with torch.no_grad():
            if groups == 1:
                layer.weight[:, 4] *= 8
            else:
                layer.weight[2:, 1] *= 8  # the second output channel of the second group
        after = qfx.quantize(layer, IMAGES, Recipe(weight=Spec(6, granularity="channel"))).get_parameter("layer.weight_cast.frac_bits").flatten()
        assert before.shape == (6,)
        assert (before - after).tolist() == [0, 0, 0, 0, 3, 0]


def test_overrides_reach_the_layer_and_checkpoints_load() -> None:
    model = nn.Sequential(nn.ConvTranspose1d(4, 3, 2, stride=2), nn.ReLU())
    q = qfx.quantize(model, SIGNALS, Recipe(overrides=(qfx.Override("0.weight", {"width": 3}),)))
    assert dict(qfx.quantizers(q))["0.weight"].word_length == 3
    assert [name for name, _ in qfx.quantizers(q)] == ["input", "0.weight", "0.bias", "1.output"]
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight.mul_(-1)
    q.load_state_dict(other.state_dict(), strict=False)
    assert torch.equal(q.get_parameter("0.weight"), other[0].weight)
    check_exact(q)


def test_products_are_exact_at_the_edge_of_float32() -> None:
    """Sums just below and above 24 bits: equal to integer arithmetic, in whichever dtype the layer chose."""
    for channels, dtype in ((1, torch.float32), (32, torch.float64)):
        module = nn.ConvTranspose1d(channels, 1, 2, bias=False)
        with torch.no_grad():
            module.weight.fill_(2047.0)
        x = QTensor(torch.full((1, channels, 3), 2047.0), Interval(-2048, 2047, 0))
        layer = QConvTranspose(module, (3,), (0,), Recipe(weight=Spec(12)), "layer")
        layer.initialize(x)
        y = layer(x).tensor()
        assert y.dtype is dtype
        assert y[0, 0].tolist() == [channels * 2047 * 2047 * taps for taps in (1, 2, 2, 1)]


def test_upsampling_spreads_the_gradient_over_its_copies() -> None:
    q = qfx.quantize(nn.Sequential(nn.Upsample(scale_factor=3)), SIGNALS, WIDE)
    x = SIGNALS.clone().requires_grad_()
    by = integers(16, 4, 18)
    (q(x) * by).sum().backward()
    assert torch.equal(x.grad, by.reshape(16, 4, 6, 3).sum(3))
    assert [type(node.op) for node in qfx.to_graph(q).nodes] == [ops.Input, ops.Upsample]
