"""L-Mul: sums of the paper's products, to the last bit, in every executor; its error; training."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from executors import same_in_cpp, same_in_torch_and_the_file
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import qfx
from qfx import Override, Recipe, Spec
from qfx.errors import ExactnessError, QfxError, UnsupportedError
from qfx.ir.interpret import quantize_input, run_from_raw
from qfx.training.lmul import EXPONENTS, leading_power, offset_bits, quantize_lmul, weight_parts


def parts(x: Fraction) -> tuple[Fraction, Fraction]:
    """(2**e, mantissa) of |x|, the mantissa from 0 below 1."""
    power = Fraction(1)
    while abs(x) >= 2 * power:
        power *= 2
    while abs(x) < power:
        power /= 2
    return power, abs(x) / power - 1


def l_mul(x: Fraction, w: Fraction, m: int) -> Fraction:
    """The paper's definition."""
    if not x or not w:
        return Fraction(0)
    (a, f), (b, g) = parts(x), parts(w)
    size = (1 + f + g + Fraction(1, 1 << (m if m <= 3 else 3 if m == 4 else 4))) * a * b
    return size if (x > 0) == (w > 0) else -size


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 6), st.integers(-500, 500), st.floats(-1, 1))
def test_two_exact_sums_are_the_papers_product(m: int, x: int, w: float) -> None:
    first, second = weight_parts(torch.tensor([w], dtype=torch.float64), 0, m)
    power = leading_power(torch.tensor([float(x)], dtype=torch.float64))
    weight = Fraction(first.item()) + Fraction(second.item()) - Fraction(first.item()) * Fraction(1, 1 << offset_bits(m))
    assert Fraction(first.item()) * x + Fraction(second.item()) * Fraction(power.item()) == l_mul(Fraction(x), weight, m)
    if abs(w) >= 2.0 ** (1 - EXPONENTS):
        assert abs(float(weight) - w) <= abs(w) * 2.0 ** -(m + 1) or abs(w) > 2 - 2.0**-m
    else:
        assert weight in (0, Fraction(1, 1 << EXPONENTS - 1), -Fraction(1, 1 << EXPONENTS - 1))


def test_layers_are_sums_of_l_mul(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(32, 6)
    net = nn.Sequential(nn.Linear(6, 5))
    q = quantize_lmul(net, x, Recipe(output=Spec(32, frac_bits=20, learn=False), overrides=(Override("0.*bias", {"width": 20}),)))
    graph = qfx.to_graph(q.eval())
    raw = quantize_input(graph, x.numpy())
    found = np.ldexp(run_from_raw(graph, raw).astype(np.float64), -graph.infos[graph.output].type.frac_bits)
    layer, grid = graph.node("0.linear").op, graph.infos[graph.input.name].type.frac_bits
    both = layer.constants()["weight"]
    values = np.ldexp(both.raw.astype(np.float64), -both.grids)
    bias = layer.constants()["bias"]
    for row, come in zip(found, np.asarray(raw), strict=True):
        for output in range(5):
            total = Fraction(float(np.ldexp(float(bias.raw[output]), -int(np.broadcast_to(bias.grids, bias.raw.shape)[output]))))
            for place in range(6):
                power, rest = Fraction(values[output, place]), Fraction(values[output, 6 + place])
                total += l_mul(Fraction(int(come[place])) / 2**grid, power + rest - power / 8, 3)
            assert Fraction(row[output]) == Fraction(int((total * 2**20 + Fraction(1, 2)).__floor__()), 1 << 20)
    same_in_torch_and_the_file(q, x, tmp_path)


def test_every_executor_and_training(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x, y = torch.rand(48, 2, 6, 6), torch.arange(48) % 3
    net = nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
    q = quantize_lmul(net, x, Recipe(activation=Spec(5), input=Spec(5)))
    optimizer = torch.optim.Adam(qfx.parameter_groups(q, lr=1e-2))
    found = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(q(x), y)
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[-1] < found[0]
    q.eval()
    same_in_torch_and_the_file(q, x, tmp_path)
    same_in_cpp([(q, x[:4])], tmp_path / "cpp", fast=True)


def test_refusals() -> None:
    x = torch.rand(8, 4)
    with pytest.raises(QfxError, match="mantissa_bits is 7"):
        quantize_lmul(nn.Sequential(nn.Linear(4, 2)), x, mantissa_bits=7)
    with pytest.raises(ExactnessError, match=r"0\.power: an error of .* is out of reach"):  # lines would come near, no more
        quantize_lmul(nn.Sequential(nn.Linear(4, 2)), x, Recipe(input=Spec(16)))
    with pytest.raises(UnsupportedError, match="is the layer itself"):
        quantize_lmul(nn.Linear(4, 2), x)
    with pytest.raises(UnsupportedError, match="has no linear layer"):
        quantize_lmul(nn.Sequential(nn.ReLU()), x)
