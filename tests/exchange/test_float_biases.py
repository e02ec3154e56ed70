"""Biases that the source leaves in float, in front of a BatchNorm, a function or a cast: exact where every number that float32 may make of a sum
gives the same after the cast behind it, in whatever order it adds; else refused, with such a number."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.exchange import build
from qfx.exchange.exact import Loose, loosely
from qfx.fixed.arith import Interval
from qfx.nn.layers.linear import QLinear

nets = pytest.importorskip("brevitas_nets")

qnn: Any = nets.qnn


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def relu(bits: int, **settings: Any) -> nn.Module:
    return qnn.QuantReLU(act_quant=nets.UNSIGNED, bit_width=bits, **settings)  # type: ignore[no-any-return]


def linear(inputs: int, outputs: int, **settings: Any) -> nn.Module:
    return qnn.QuantLinear(inputs, outputs, **{"bias": True, "weight_quant": nets.WEIGHT, "weight_bit_width": 3, **settings})  # type: ignore[no-any-return]


def settled(seed: int, *layers: nn.Module, shape: tuple[int, ...] = (8,)) -> Any:
    torch.manual_seed(seed)
    net = nn.Sequential(*layers)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.3)
    return nets.settled(net, torch.randn(64, *shape))


def convolutions(seed: int, bits: int = 2) -> Any:
    """As most models are written: biases of torch's, each in front of a BatchNorm in float."""
    weight = {"bias": True, "weight_quant": nets.PER_CHANNEL, "weight_bit_width": bits}
    return settled(
        seed,
        nets.first(4),
        *(qnn.QuantConv2d(2, 6, 3, **weight), nn.BatchNorm2d(6), relu(bits), nn.MaxPool2d(2)),
        *(qnn.QuantConv2d(6, 4, 3, **weight), nn.BatchNorm2d(4), relu(bits), nn.Flatten()),
        linear(16, 3, bias=False),
        shape=(2, 10, 10),
    )


@pytest.mark.parametrize("seed", range(3))
def test_a_bias_goes_into_the_norm_behind_it(seed: int) -> None:
    net = convolutions(seed)
    q = qfx.from_brevitas(net, numbers(16, 2, 10, 10))
    assert [name for name, _ in qfx.quantizers(q) if name.endswith("bias")] == []
    assert qfx.conversion(q).exact
    nets.assert_same(net, q, torch.randn(64, 2, 10, 10))


def test_it_is_trained_on_and_the_source_stays() -> None:
    net = convolutions(0)
    before = {name: part.clone() for name, part in net.state_dict().items()}
    q = qfx.from_brevitas(net, numbers(16, 2, 10, 10)).train()
    q(numbers(16, 2, 10, 10)).square().mean().backward()
    assert all(part.grad is not None for name, part in q.named_parameters() if name.endswith("weight"))
    assert all(torch.equal(part, before[name]) for name, part in net.state_dict().items())


BEHIND = {
    "a function": lambda: [linear(8, 5), nn.LeakyReLU(0.01), nets.first(3)],
    "a ReLU and a norm": lambda: [linear(8, 5), nn.ReLU(), nn.BatchNorm1d(5), nets.first(2)],
    "a maximum and a norm": lambda: [
        qnn.QuantConv1d(8, 5, 1, bias=True, weight_quant=nets.WEIGHT, weight_bit_width=3),
        nn.MaxPool1d(2),
        nn.BatchNorm1d(5),
        relu(2),
    ],
    "its sign": lambda: [linear(8, 5), qnn.QuantIdentity(act_quant=nets.binary.SignedBinaryActPerTensorConst, scaling_const=0.5)],
    "binary weights": lambda: [linear(8, 5, **nets.BINARY), nn.BatchNorm1d(5), relu(2)],
    "a finer cast": lambda: [linear(8, 5, weight_bit_width=2), nets.first(12)],
}


@pytest.mark.parametrize("name", BEHIND)
def test_what_may_stand_behind_a_bias(name: str) -> None:
    shape = (8, 4) if "maximum" in name else (8,)
    net = settled(2, nets.first(3), *BEHIND[name](), shape=shape)  # type: ignore[no-untyped-call]
    nets.assert_same(net, qfx.from_brevitas(net, numbers(16, *shape)), torch.randn(256, *shape))


def test_a_bias_that_float32_holds_beside_its_sums_is_exact_and_needs_no_cast() -> None:
    net = settled(0, nets.first(4), linear(8, 5))
    with torch.no_grad():
        net[1].bias.copy_(torch.tensor([0.5, -0.375, 2**-9, 0.0, -1 - 2**-8]))
    nets.assert_same(net, qfx.from_brevitas(net, numbers(16, 8)), torch.randn(256, 8))


def one_layer() -> tuple[QLinear, Tensor, Loose]:
    torch.manual_seed(3)
    layer = QLinear(nn.Linear(16, 1), qfx.Recipe(), "fc")
    with torch.no_grad():
        layer.weight.copy_(torch.randint(-7, 8, (1, 16)) * 2.0**-3)
    bias = layer.bias.detach().double()  # type: ignore[union-attr]
    layer.bias = None
    x = torch.randint(-8, 8, (4096, 16)) * 0.25
    layer.weight_cast.initialize(layer.weight)
    found = loosely(layer, bias, Interval(-8, 7, 2))
    assert found is not None
    return layer, x, found


def test_every_order_of_additions_stays_within_the_slack() -> None:
    layer, x, found = one_layer()
    weight = layer.weight.detach()
    exact = (x.double() @ weight.double().T).squeeze() + found.theirs
    worst = 0.0
    for _ in range(16):
        parts = torch.cat([x * weight, found.theirs.float().expand(len(x), 1)], 1)[:, torch.randperm(17)]
        total = parts[:, 0]
        for part in parts.T[1:]:
            total = total + part
        worst = max(worst, float((total.double() - exact).abs().max()))
    assert 0 < worst <= float(found.slack)
    assert float(found.slack) < 2.0**-15 * float(exact.abs().max())


def test_a_tie_within_the_slack_is_refused_with_the_number() -> None:
    net = settled(0, nets.first(4), linear(8, 5), nn.BatchNorm1d(5), relu(2))
    with torch.no_grad():  # so that a sum of 0 comes to half a step, give or take the last place of the bias
        norm, step = net[2], float(nets.plain(net(numbers(512, 8))).unique()[1])
        norm.running_mean.copy_(net[1].bias)
        norm.running_var.fill_(1 - norm.eps)
        norm.weight.fill_(1.0)
        norm.bias.fill_(step / 2)
    with pytest.raises(
        qfx.UnsupportedError, match=r"1: has a bias without a quantizer, and for products of \S+ in channel \d float32 may give .*by the order"
    ) as caught:
        qfx.from_brevitas(net, numbers(16, 8))
    assert "merge_bn" in str(caught.value)
    near = qfx.from_brevitas(net, numbers(16, 8), strict=False)
    assert "by the order of its additions" in str(qfx.conversion(near))


@pytest.mark.parametrize("part", ["theirs", "ours", "slack"])
def test_the_proof_notices_a_step(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = settled(0, nets.first(3), linear(8, 5), nn.LeakyReLU(0.01), nets.first(3)), numbers(16, 8)
    assert qfx.conversion(qfx.from_brevitas(net, x)).exact

    def planted(*arguments: Any) -> Loose | None:
        found = loosely(*arguments)
        assert found is not None
        step = 2.0**-found.sums.hull.frac_bits
        return replace(found, **{part: getattr(found, part) + 4 * step})

    monkeypatch.setattr(build, "loosely", planted)
    with pytest.raises(qfx.UnsupportedError, match="exact arithmetic"):
        qfx.from_brevitas(net, x)


def test_what_is_computed_with_a_float_bias_is_refused() -> None:
    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.fc, self.last = nets.first(4), linear(8, 8), nets.first(2)

        def forward(self, x: Tensor) -> Tensor:
            x = nets.plain(self.first(x))
            return nets.plain(self.last(x + self.fc(x)))  # type: ignore[no-any-return]

    net = settled(0, Added())
    with pytest.raises(qfx.UnsupportedError, match=r"fc: has a bias without a quantizer, and is computed with before one follows"):
        qfx.from_brevitas(net, numbers(16, 8))


def test_a_bias_is_kept_where_nothing_can_be_shown() -> None:
    """Beside sums that float32 does not hold the note says so, and the bias stays in the mean behind them."""
    torch.manual_seed(0)
    net = nn.Sequential(nets.first(16), linear(64, 5, weight_bit_width=8), nn.BatchNorm1d(5), relu(6))
    with torch.no_grad():
        net[1].bias.normal_(3000, 1000)  # type: ignore[operator, union-attr]
    net = nets.settled(net, torch.randn(64, 64) * 30000)
    x = torch.randn(16, 64) * 30000
    qmodel = qfx.from_brevitas(net, x, strict=False)
    wanted = nets.plain(net(x))
    assert torch.equal(qmodel(x), wanted)
    with torch.no_grad():
        net[1].bias.zero_()
    assert not torch.equal(nets.plain(net(x)), wanted)


@pytest.mark.parametrize("strict", [True, False])
def test_a_state_of_the_source_is_refused_where_a_bias_went_into_the_norm(strict: bool) -> None:
    net = settled(0, nets.first(4), linear(8, 5), nn.BatchNorm1d(5), relu(2))
    qmodel = qfx.from_brevitas(net, numbers(16, 8))
    own = {key: value.clone() for key, value in qmodel.state_dict().items()}
    theirs = {**own, **{key: value for key, value in net.state_dict().items() if key in ("1.bias", "2.running_mean")}}
    with pytest.raises(RuntimeError, match=r"1\.bias is a part of the mean of the BatchNorm behind it"):
        qmodel.load_state_dict(theirs, strict=strict)
    qmodel.load_state_dict(own)
