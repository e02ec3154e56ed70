"""Networks of Brevitas' layers, some of them random, and the comparison of raw integers with qfx' executors."""

from __future__ import annotations

import random
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import qfx
from qfx.ir.interpret import quantize_input, run_from_raw
from qfx.testing import assert_bit_exact

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import brevitas.nn as qnn  # type: ignore[import-untyped, unused-ignore]
    from brevitas.quant import binary, fixed_point, scaled_int, ternary  # type: ignore[import-untyped, unused-ignore]

ACT, UNSIGNED = fixed_point.Int8ActPerTensorFixedPoint, fixed_point.Uint8ActPerTensorFixedPoint
WEIGHT, PER_CHANNEL = fixed_point.Int8WeightPerTensorFixedPoint, fixed_point.Int8WeightPerChannelFixedPoint
BINARY = {"weight_quant": binary.SignedBinaryWeightPerTensorConst, "weight_scaling_const": 0.25}
TERNARY = {"weight_quant": ternary.SignedTernaryWeightPerTensorConst, "weight_scaling_const": 0.5}
BIASES: dict[str, Any] = {
    "internal": fixed_point.Int8BiasPerTensorFixedPointInternalScaling,
    "external 16": scaled_int.Int16Bias,
    "external 32": scaled_int.Int32Bias,
}


def first(bits: int = 8, **settings: Any) -> nn.Module:
    return qnn.QuantIdentity(act_quant=ACT, bit_width=bits, return_quant_tensor=True, **settings)  # type: ignore[no-any-return]


def settled(net: nn.Module, x: Tensor) -> nn.Module:
    """The model with trained statistics, in evaluation mode."""
    net.train()
    with torch.no_grad():
        for _ in range(3):
            net(x)
    return net.eval()


def plain(result: Any) -> Tensor:
    return result.value if hasattr(result, "value") else result  # type: ignore[no-any-return]


def assert_same(model: nn.Module, q: nn.Module, x: Tensor) -> None:
    """Brevitas' results over the scale are qfx' raw integers, in PyTorch and in the interpreter."""
    with torch.no_grad():
        theirs, ours = plain(model(x)), q(x)
    graph = qfx.to_graph(q)
    grids = graph.infos[graph.output].grids
    scaled = np.ldexp(theirs.double().numpy(), grids)
    raws = np.rint(scaled).astype(np.int64)
    assert_bit_exact(raws.astype(np.float64), scaled, names=("integers", "Brevitas over the scale"))
    assert_bit_exact(np.ldexp(ours.double().numpy(), grids), scaled, names=("PyTorch", "Brevitas"))
    assert_bit_exact(run_from_raw(graph, quantize_input(graph, x.numpy())), raws, names=("interpreter", "Brevitas"))


class Residual(nn.Module):
    """Convolutions, a BatchNorm in float, a shared quantizer of the summands, pooling, and a linear layer."""

    def __init__(self, bias: str = "internal") -> None:
        super().__init__()
        self.quant = first()
        self.conv1 = qnn.QuantConv2d(2, 4, 3, padding=1, bias=True, weight_quant=PER_CHANNEL, weight_bit_width=4, bias_quant=BIASES[bias])
        self.norm = nn.BatchNorm2d(4)
        self.relu = qnn.QuantReLU(act_quant=UNSIGNED, bit_width=4, return_quant_tensor=True)
        self.conv2 = qnn.QuantConv2d(4, 4, 3, padding=1, bias=False, weight_quant=WEIGHT, weight_bit_width=3, output_quant=ACT)
        self.add = qnn.QuantEltwiseAdd(input_quant=ACT, output_quant=ACT, return_quant_tensor=True)
        self.pool = nn.MaxPool2d(2)
        self.fc = qnn.QuantLinear(16, 3, bias=False, weight_quant=WEIGHT)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.conv1(self.quant(x))))
        x = self.pool(self.add(x, self.conv2(x)))
        return self.fc(x.flatten(1))  # type: ignore[no-any-return]


def random_net(seed: int) -> tuple[nn.Module, Tensor]:
    """A small network, and inputs for it."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    channels, image = draw.randint(1, 3), draw.random() < 0.5
    layers: list[nn.Module] = [first(draw.randint(2, 8), narrow_range=draw.random() < 0.5)]
    shape: tuple[int, ...] = (channels, 6, 6) if image else (draw.randint(2, 9),)
    x = torch.randn(12, *shape) * 2.0 ** draw.randint(-2, 2)
    for depth in range(draw.randint(1, 2)):
        kind = draw.choice([BINARY, TERNARY, {"weight_quant": WEIGHT, "weight_bit_width": draw.randint(2, 8)}, {"weight_quant": PER_CHANNEL}])
        own = draw.choice([None, *BIASES]) if layers[-1].__class__.__name__ != "MaxPool2d" else None
        settings: dict[str, Any] = {**kind, "bias": own is not None, "bias_quant": None if own is None else BIASES[own]}
        outputs = draw.randint(2, 4)
        if image:
            layers.append(
                qnn.QuantConv2d(shape[0], outputs, 3, padding=draw.randint(0, 1), stride=draw.randint(1, 2), return_quant_tensor=True, **settings)
            )
            norm: nn.Module = nn.BatchNorm2d(outputs)
        else:
            layers.append(qnn.QuantLinear(shape[0], outputs, return_quant_tensor=True, **settings))
            norm = nn.BatchNorm1d(outputs)
        if draw.random() < 0.4:
            layers.append(norm)
        layers.append(_activation(draw, depth))
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shape = tuple(plain(nn.Sequential(*layers).eval()(x)).shape[1:])
        if image and shape[1] < 3:
            break
    net = settled(nn.Sequential(*layers), x)
    silent = any(float(layer.act_quant.scale().min()) < 1e-9 for layer in net if isinstance(layer, qnn.QuantReLU))  # that scale is no power of two
    return random_net(seed + 100_003) if silent else (net, x)


def _activation(draw: random.Random, depth: int) -> nn.Module:
    kind = draw.choice(["relu", "signed", "sign"])
    if kind == "relu":
        return qnn.QuantReLU(act_quant=UNSIGNED, bit_width=draw.randint(1, 6), return_quant_tensor=True)  # type: ignore[no-any-return]
    if kind == "signed":
        return first(draw.randint(2, 6))
    return qnn.QuantIdentity(act_quant=binary.SignedBinaryActPerTensorConst, scaling_const=0.5, return_quant_tensor=True)  # type: ignore[no-any-return]
