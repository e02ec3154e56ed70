"""L-Mul, products by additions: its error, a perceptron on Fashion-MNIST, and LUTs of an unrolled perceptron beside exact products."""

from __future__ import annotations

import copy

import torch
from torch import nn

import qfx
from benchmarks.methods.common import accuracy, clothes_of, train
from benchmarks.methods.formats import network
from qfx import Recipe, Spec
from qfx.hardware.board import board
from qfx.hardware.unrolled.plan import plan
from qfx.ir.passes.pipeline import optimize
from qfx.training.lmul import leading_power, offset_bits, quantize_lmul, weight_parts


def errors() -> None:
    x, w = torch.meshgrid(torch.arange(16, 32).double(), torch.linspace(1, 2, 1001).double()[:-1], indexing="ij")
    for bits in (2, 3, 4, 6):
        first, second = weight_parts(w.reshape(-1), 0, bits)
        weight = first + second - first * 2.0 ** -offset_bits(bits)
        exact, found = weight * x.reshape(-1), first * x.reshape(-1) + second * leading_power(x.reshape(-1))
        relative = found / exact - 1
        print(
            f"{bits} mantissa bits: {100 * float(relative.min()):.1f} to {100 * float(relative.max()):.1f} %, mean {100 * float(relative.mean()):.1f}"
        )


def beside_formats() -> None:
    """Products of pairs of normal numbers: L-Mul of words with m mantissa bits, beside exact products that are rounded to FP8; operands rounded
    likewise. The root of the mean squared relative error of the product of the float numbers."""
    torch.manual_seed(0)
    x, w = torch.randn(2, 200_000).double().abs().clamp(2.0**-4, 4.0)

    def near(value: torch.Tensor, bits: int) -> torch.Tensor:
        mantissa, exponent = torch.frexp(value)
        return torch.ldexp(torch.round(mantissa * 2.0 ** (bits + 1)) * 2.0 ** -(bits + 1), exponent)

    def told(found: torch.Tensor) -> str:
        return f"{100 * float((found / (x * w) - 1).square().mean().sqrt()):.2f} %"

    for bits in (2, 3, 4, 6):
        a, b = near(x, bits), near(w, bits)
        left, right = leading_power(a), leading_power(b)
        print(f"L-Mul, {bits} mantissa bits: {told(left * right * (a / left + b / right - 1 + 2.0 ** -offset_bits(bits)))}", flush=True)
    for name, bits in (("E5M2", 2), ("E4M3", 3)):
        print(f"exact products of {name}, rounded to {name}: {told(near(near(x, bits) * near(w, bits), bits))}", flush=True)


def main() -> None:
    errors()
    beside_formats()
    data = clothes_of(10_000)
    model = network(data)
    example = data.train_x[:256]
    print(f"float {accuracy(model, data):.2f} %", flush=True)
    plain = qfx.quantize(copy.deepcopy(model), example, Recipe(weight=Spec(4, granularity="channel"), activation=Spec(6)))
    print(f"exact products, weights of 4, activations of 6 bits: {accuracy(plain, data):.2f} %", flush=True)
    for bits in (2, 3):
        q = quantize_lmul(model, example, Recipe(activation=Spec(6)), mantissa_bits=bits)
        before = accuracy(q, data)
        train(q, data, 1, 5e-4)
        print(f"L-Mul, {bits} mantissa bits, activations of 6: {before:.2f} %, trained for an epoch {accuracy(q, data):.2f}", flush=True)
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 5)), torch.rand(256, 16)
    models = {
        "exact, weights of 5 bits": qfx.quantize(copy.deepcopy(net), x, Recipe(weight=Spec(5), activation=Spec(6), input=Spec(6))),
        "L-Mul, 2 mantissa bits": quantize_lmul(net, x, Recipe(activation=Spec(6), input=Spec(6)), mantissa_bits=2),
    }
    for name, q in models.items():
        found = plan(optimize(qfx.to_graph(q.eval())), board("zcu102"), clock_ns=5.0)
        print(f"16-32-5 unrolled, {name}: {found.adders} adders, {found.estimate.total.lut} LUT", flush=True)


if __name__ == "__main__":
    main()
