"""Pieces of the networks that Brevitas carries as examples (``brevitas_examples``), small: which come over, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx

pytest.importorskip("brevitas", reason="Brevitas is in the extra 'bench'", exc_type=ImportError)
nets = pytest.importorskip("brevitas_nets")
pytestmark = pytest.mark.filterwarnings("ignore")  # Brevitas' own

qnn: Any = nets.qnn


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_powers_of_two(model: nn.Module) -> nn.Module:
    """The same model, every scale a power of two: the examples have float scales."""
    from brevitas.core.function_wrapper import CeilSte  # type: ignore[import-untyped, unused-ignore]
    from brevitas.core.restrict_val import PowerOfTwoRestrictValue  # type: ignore[import-untyped, unused-ignore]
    from brevitas.inject.enum import RestrictValueType  # type: ignore[import-untyped, unused-ignore]
    from brevitas.proxy.quant_proxy import QuantProxyFromInjector  # type: ignore[import-untyped, unused-ignore]

    power = {"restrict_scaling_type": RestrictValueType.POWER_OF_TWO, "restrict_scaling_impl": PowerOfTwoRestrictValue}
    for part in model.modules():
        if isinstance(part, QuantProxyFromInjector) and part.is_quant_enabled:
            part.quant_injector = part.quant_injector.let(**power, restrict_value_float_to_int_impl=CeilSte)
            part.init_tensor_quant()
    return model


def mobilenet(whole: bool = False) -> nn.Module:
    from brevitas_examples.imagenet_classification.models.mobilenetv1 import (  # type: ignore[import-untyped, unused-ignore]
        DwsConvBlock,
        MobileNet,
    )

    net = MobileNet([[4], [6], [8, 8]], False, 4, 4, avg_pool_kernel_size=4, num_classes=5) if whole else DwsConvBlock(3, 6, 2, 4, 4)
    return nn.Sequential(nets.first(), net)


def proxylessnas() -> nn.Module:
    from brevitas_examples.imagenet_classification.models.proxylessnas import ProxylessNAS  # type: ignore[import-untyped, unused-ignore]

    ways = {"residuals": [[1], [1, 1]], "shortcuts": [[0], [0, 1]], "kernel_sizes": [[3], [5, 3]], "expansions": [[1], [3, 3]]}
    net = ProxylessNAS([[4], [6, 6]], 4, 8, **ways, **dict.fromkeys(("bit_width", "depthwise_bit_width"), 4), first_layer_weight_bit_width=8,
                       hadamard_classifier=False, num_classes=5)  # fmt: skip
    net.final_pool.kernel_size = 4
    return nn.Sequential(nets.first(), net)


def vgg(norm: bool) -> nn.Module:
    from brevitas_examples.imagenet_classification.models.vgg import make_layers  # type: ignore[import-untyped, unused-ignore]

    return nn.Sequential(nets.first(4), *make_layers([4, "M", 6], norm, 4))


def resnet_block(weight: str = "") -> nn.Module:
    """Its forward asserts that what it adds are QuantTensors, and one quantizer is shared with the layer before it."""
    from brevitas_examples.bnn_pynq.models.resnet import QuantBasicBlock  # type: ignore[import-untyped, unused-ignore]
    from brevitas_examples.imagenet_classification.a2q import quant  # type: ignore[import-untyped, unused-ignore]

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            settings = {"weight_quant": getattr(quant, weight).let(accumulator_bit_width=16)} if weight else {}
            self.relu = qnn.QuantReLU(act_quant=nets.UNSIGNED, bit_width=4, return_quant_tensor=True)
            self.pool = nn.MaxPool2d(2)
            self.same = QuantBasicBlock(3, 3, shared_quant_act=self.relu, act_bit_width=4, weight_bit_width=4, **settings)
            self.less = QuantBasicBlock(3, 4, 2, act_bit_width=4, weight_bit_width=4, **settings)

        def forward(self, x: Any) -> Any:
            return self.less(self.same(self.pool(self.relu(x))))

    return Block()


def nearest_neighbours(weight: str = "CommonIntWeightPerChannelQuant") -> nn.Module:
    from brevitas_examples.super_resolution.models import common  # type: ignore[import-untyped, unused-ignore]

    made = common.QuantNearestNeighborConvolution
    return made(3, 4, upscale_factor=2, signed_act=True, bias=False, acc_bit_width=16, weight_quant=getattr(common, weight))  # type: ignore[no-any-return]


def melgan() -> nn.Module:
    """A convolution with weight normalization and a transposed one, whose biases are off: float biases in front of a LeakyReLU are refused."""
    from brevitas_examples.text_to_speech.melgan import common  # type: ignore[import-untyped, unused-ignore]

    conv, up = common.make_quantconv1d(3, 4, 3, 1, 1, 8), common.make_transpconv1d(4, 4, 4, 2, 1, 8)
    conv.bias = up.bias = None
    normed = nn.utils.weight_norm(conv)
    return nn.Sequential(nets.first(), normed, common.make_hardtanh_activation(8), up, common.make_relu_activation(8))


PIECES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], bool]] = {
    "MobileNet block": (mobilenet, (3, 6, 6), False),
    "MobileNet": (lambda: mobilenet(whole=True), (3, 16, 16), True),
    "ProxylessNAS": (proxylessnas, (3, 16, 16), True),
    "VGG": (lambda: vgg(norm=False), (3, 6, 6), False),
    "VGG with norms": (lambda: vgg(norm=True), (3, 6, 6), False),
    "ResNet blocks": (resnet_block, (3, 8, 8), False),
    "ResNet blocks, A2Q": (lambda: resnet_block("CommonIntAccumulatorAwareWeightQuant"), (3, 8, 8), True),
    "ResNet blocks, A2Q+": (lambda: resnet_block("CommonIntAccumulatorAwareZeroCenterWeightQuant"), (3, 8, 8), True),
    "super resolution": (nearest_neighbours, (3, 4, 4), False),
    "super resolution, A2Q": (lambda: nearest_neighbours("CommonIntAccumulatorAwareWeightQuant"), (3, 4, 4), False),
    "MelGAN": (melgan, (3, 12), False),
}  # the last: with --thorough


@pytest.mark.parametrize("name", PIECES)
def test_pieces(name: str, thorough: bool) -> None:
    make, shape, long = PIECES[name]
    if long and not thorough:
        pytest.skip("with --thorough")
    torch.manual_seed(3)
    net = nets.settled(by_powers_of_two(make()), numbers(16, *shape))
    nets.assert_same(net, qfx.from_brevitas(net, numbers(4, *shape)), numbers(20, *shape, seed=4) * 2)


def test_with_float_scales_as_they_are() -> None:
    """The shuffle of ESPCN, a norm, and a ReLU in front of an unsigned input."""
    from brevitas import quant  # type: ignore[import-untyped, unused-ignore]
    from test_integers_of import differing

    torch.manual_seed(3)
    net = nn.Sequential(
        nn.ReLU(),
        qnn.QuantIdentity(act_quant=quant.Uint8ActPerTensorFloat, return_quant_tensor=True),
        qnn.QuantConv2d(1, 8, 3, bias=True, weight_quant=quant.Int8WeightPerChannelFloat, bias_quant=quant.Int32Bias),
        nn.BatchNorm2d(8),
        nn.PixelShuffle(2),
        qnn.QuantReLU(bit_width=6),
    )
    nets.settled(net, numbers(16, 1, 8, 8))
    wrong, most = differing(qfx.integers_of(net, numbers(8, 1, 8, 8), nearest=True), net)
    assert wrong <= 2
    assert most <= 1


@pytest.mark.parametrize("kind", ["QuantTanh", "QuantSigmoid", "nn.GELU"])
def test_functions_by_table(kind: str) -> None:
    torch.manual_seed(3)
    unsigned = {"act_quant": nets.UNSIGNED} if kind == "QuantSigmoid" else {"act_quant": nets.ACT}
    own = [nn.GELU(), nets.first()] if kind == "nn.GELU" else [getattr(qnn, kind)(**unsigned, return_quant_tensor=True)]
    net = nets.settled(nn.Sequential(nets.first(), *own, qnn.QuantLinear(8, 4, bias=False, weight_quant=nets.WEIGHT)), numbers(64, 8))
    nets.assert_same(net, qfx.from_brevitas(net, numbers(16, 8)), numbers(200, 8, seed=5) * 2)


def test_a_wrong_entry_of_a_table_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from qfx.nn.layers.tables.lookup import Tabled

    net = nets.settled(nn.Sequential(nets.first(), nn.Tanh(), nets.first()), numbers(64, 8))
    values = Tabled.values

    def wrong(self: Tabled, x: Any) -> Any:
        found = values(self, x)
        return type(found)(torch.where(x.tensor() == x.tensor().max(), 0.0, found.value), found.interval)

    monkeypatch.setattr(Tabled, "values", wrong)
    with pytest.raises(qfx.UnsupportedError, match=r"computes in float, and for .* the source gives .*, exact arithmetic 0"):
        qfx.from_brevitas(net, numbers(16, 8))


def test_tables_that_no_cast_ends_are_refused() -> None:
    for parts in ([nn.Tanh(), nn.ReLU()], [nn.Tanh(), nn.Unflatten(1, (2, 4))], [nn.Tanh()]):
        net = nets.settled(nn.Sequential(nets.first(), *parts, *([nets.first()] if len(parts) > 1 else [])), numbers(16, 8))
        with pytest.raises(qfx.UnsupportedError, match="is a Lookup, which the source computes in float"):
            qfx.from_brevitas(net, numbers(16, 8))
    twice = nets.first()
    net = nets.settled(nn.Sequential(nets.first(), nn.Tanh(), twice, nn.Tanh(), twice), numbers(16, 8))
    with pytest.raises(qfx.UnsupportedError, match="rounds what a function by table gives, in several places"):
        qfx.from_brevitas(net, numbers(16, 8))


class Asking(nn.Module):
    """Takes other ways for QuantTensors, and reads their values. ``layers``: asks for the class of a layer."""

    def __init__(self, *, layers: bool = False) -> None:
        super().__init__()
        self.first, self.fc = nets.first(), qnn.QuantLinear(8, 8, bias=False, weight_quant=nets.WEIGHT)
        self.second, self.layers = nets.first(4), layers

    def forward(self, x: Any) -> Any:
        from brevitas.quant_tensor import QuantTensor  # type: ignore[import-untyped, unused-ignore]

        x = self.first(x)
        assert isinstance(x, QuantTensor)
        y = self.fc(nn.functional.relu(x).reshape(-1, 8))
        if isinstance(y, QuantTensor) or (self.layers and isinstance(self.fc, qnn.QuantLinear)):
            y = self.second(y)  # of Brevitas' own, y is a tensor
        return (y.value if isinstance(y, QuantTensor) else y) + x.value


def test_a_forward_may_ask_whether_values_are_quantized() -> None:
    torch.manual_seed(3)
    net = Asking()
    del net.second
    nets.settled(net, numbers(16, 8))
    nets.assert_same(net, qfx.from_brevitas(net, numbers(16, 8)), numbers(50, 8, seed=5))


def test_a_forward_that_goes_another_way_on_plain_layers_is_refused() -> None:
    net = nets.settled(Asking(layers=True), numbers(16, 8))
    for convert in (qfx.from_brevitas, lambda *args: qfx.from_brevitas(*args, strict=False), qfx.integers_of):
        with pytest.raises(qfx.UnsupportedError, match=r"second.output: is run by the source, but not by its forward on plain layers"):
            convert(copy.deepcopy(net), numbers(16, 8))


def test_subclasses_of_layers() -> None:
    class Named(qnn.QuantLinear):  # type: ignore[misc]
        pass

    class Other(qnn.QuantLinear):  # type: ignore[misc]
        def forward(self, hidden_states: Any, scale: float = 1.0) -> Any:
            return super().forward(hidden_states) * scale

    torch.manual_seed(3)
    named, other = (nn.Sequential(nets.first(), kind(8, 4, bias=False, weight_quant=nets.WEIGHT)) for kind in (Named, Other))
    nets.settled(named, numbers(16, 8))
    nets.assert_same(named, qfx.from_brevitas(named, numbers(16, 8)), numbers(50, 8, seed=5))
    with pytest.raises(qfx.UnsupportedError, match="1: is of class Other, a QuantLinear with a forward of its own"):
        qfx.from_brevitas(nets.settled(other, numbers(16, 8)), numbers(16, 8))
