"""Lazy expressions give the numbers and the gradients of the computation that they stand for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qfx import ExactnessError, Spec
from qfx.fixed.arith import Interval
from qfx.nn.qtensor import QTensor, dtype_of
from qfx.nn.quantizer import Quantizer

GRID = 3
X = Interval(-100, 100, GRID)
CONSTANT = Interval(-16, 16, 2)


def grid(*shape: int, seed: int, bound: int = 100, frac_bits: int = GRID) -> Tensor:
    raw = torch.randint(-bound, bound + 1, shape, generator=torch.Generator().manual_seed(seed))
    raw.view(-1)[: min(4, raw.numel())] = 0  # exact zeros: where activations have their corner
    return (raw * 2.0**-frac_bits).double().requires_grad_()


def leaves() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return grid(4, 3, 5, seed=0), grid(3, seed=1, bound=16, frac_bits=2), grid(3, seed=2, bound=16, frac_bits=2), grid(4, 3, 5, seed=3)


def bounds(x: Interval) -> Interval:
    return x * CONSTANT + CONSTANT


def over(channel: Tensor) -> Tensor:
    return channel.reshape(-1, 1)


def expressions(x: Tensor, a: Tensor, b: Tensor, z: Tensor) -> dict[str, tuple[QTensor, Tensor]]:
    """name: (lazy, the same by torch's own operations)."""
    plain, other = QTensor(x, X), QTensor(z, X)
    affine = plain.affine(a, b, bounds(X))
    y = x * over(a) + over(b)
    return {
        "x * a + b": (affine, y),
        "x * a": (plain.affine(a, None, X * CONSTANT), x * over(a)),
        "x + b": (plain.affine(None, b, X + CONSTANT), x + over(b)),
        "(x * a) + b": (plain.affine(a, None, X * CONSTANT).affine(None, b, bounds(X)), y),
        "(x + b) * a": (plain.affine(None, b, X + CONSTANT).affine(a, None, (X + CONSTANT) * CONSTANT), (x + over(b)) * over(a)),
        "(x * a + b) * b + a": (affine.affine(b, a, bounds(bounds(X))), y * over(b) + over(a)),
        "x * a + b + z": (affine.add(other), y + z),
        "z + (x * a + b)": (other.add(affine), z + y),
        "(x * a + b) + (z * b)": (affine.add(other.affine(b, None, X * CONSTANT)), y + z * over(b)),
        "x + x": (plain.add(plain), x + x),
        "y + y": (affine.add(affine), y + y),
        "(x + z) + x": (plain.add(other).add(plain), x + z + x),
        "-(x * a + b)": (affine.negated(), -y),
        "relu(x)": (plain.relu(0.0, X.relu()), F.relu(x)),
        "relu(x * a + b + z)": (affine.add(other).relu(0.0, (bounds(X) + X).relu()), F.relu(y + z)),
        "relu(x) + z": (plain.relu(0.0, X.relu()).add(other), F.relu(x) + z),
        "relu(x) * a + b": (plain.relu(0.0, X.relu()).affine(a, b, bounds(X)), F.relu(x) * over(a) + over(b)),
        "relu(relu(x))": (plain.relu(0.0, X.relu()).relu(0.0, X.relu()), F.relu(F.relu(x))),
        "(x + z) * a": (plain.add(other).affine(a, None, (X + X) * CONSTANT), (x + z) * over(a)),
        "leaky(x * a)": (plain.affine(a, None, X * CONSTANT).relu(0.25, (X * CONSTANT).leaky_relu(-2)), F.leaky_relu(x * over(a), 0.25)),
        "relu6(x * a + b)": (affine.clipped_relu(6.0, bounds(X).clip(Interval(0, 0, 0), Interval(6, 6, 0))), F.relu6(y)),
        "relu6(relu6(x))": (
            plain.clipped_relu(6.0, X.clip(Interval(0, 0, 0), Interval(6, 6, 0))).clipped_relu(6.0, X.clip(Interval(0, 0, 0), Interval(6, 6, 0))),
            F.relu6(F.relu6(x)),
        ),
    }


NAMES = list(expressions(*leaves()))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cast", [False, True])
def test_numbers_and_gradients(name: str, cast: bool) -> None:
    """Carried out alone (``tensor``) or in the Cast that ends the expression: both equal torch's own operations, corners included."""
    lazy_leaves, own_leaves = leaves(), leaves()
    lazy, own = expressions(*lazy_leaves)[name][0], expressions(*own_leaves)[name][1]
    assert torch.equal(lazy.tensor(), own)
    raw = lazy.tensor().detach() * 2.0**lazy.interval.frac_bits
    assert torch.equal(raw, raw.round())
    assert lazy.interval.lo <= raw.min()
    assert raw.max() <= lazy.interval.hi
    if cast:
        quantizers = [Quantizer(Spec(9, frac_bits=2), signed=True) for _ in range(2)]
        for quantizer, value in zip(quantizers, (lazy, QTensor(own, lazy.interval)), strict=True):
            quantizer.initialize(value)
            quantizer.double()
        assert torch.equal(quantizers[0](lazy).value, quantizers[1](own).value)
        result, own = quantizers[0](lazy).value, quantizers[1](QTensor(own, lazy.interval)).value
    else:
        result = lazy.tensor()
    weight = torch.randn(own.shape, generator=torch.Generator().manual_seed(9)).double()
    (result * weight).sum().backward()
    (own * weight).sum().backward()
    for mine, theirs in zip(lazy_leaves, own_leaves, strict=True):
        assert (mine.grad is None) == (theirs.grad is None)
        if mine.grad is not None:
            assert torch.allclose(mine.grad, theirs.grad, rtol=1e-12, atol=1e-12), name
    if cast:
        assert torch.allclose(quantizers[0].frac_bits.grad, quantizers[1].frac_bits.grad, rtol=1e-12)


def test_plain() -> None:
    plain = QTensor(torch.ones(1, 2), X)
    assert plain.is_plain
    assert plain.plain() is plain
    assert plain.tensor() is plain.value
    lazy = plain.relu(0.0, X.relu())
    assert not lazy.is_plain
    assert lazy.plain().is_plain
    assert lazy.shape == (1, 2)


def test_results_are_as_wide_as_they_need_to_be() -> None:
    assert dtype_of(Interval(-(1 << 23), 1 << 23, 4)) is torch.float32
    assert dtype_of(Interval(-(1 << 25), 1 << 25, 4)) is torch.float64
    assert dtype_of(Interval(0, 1, 0), torch.float64) is torch.float64
    with pytest.raises(ExactnessError, match="54 bits"):
        dtype_of(Interval(0, (1 << 54) - 1, 0))
    wide = Interval(-(1 << 50), 1 << 50, 0)
    with pytest.raises(ExactnessError):
        QTensor(torch.ones(1), wide).add(QTensor(torch.ones(1), Interval(-1, 1, 20)))
    with pytest.raises(ExactnessError):
        QTensor(torch.ones(1, 1), X).affine(torch.ones(1), None, Interval(0, 1 << 60, 0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_what_is_not_recorded_has_the_same_bits(dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    """One tensor written over, where nobody asks for gradients: the numbers, signs of zeros and layout of the recorded way; the value stays."""
    generator = torch.Generator().manual_seed(0)
    x, z = (torch.randn(3, 4, 5, 6, generator=generator) for _ in range(2))
    x[0, 0, 0, 0], x[0, 1, 0, 0] = 0.0, -0.0
    x, z = x.to(dtype).contiguous(memory_format=memory_format), z.to(dtype)
    scale, shift = torch.randn(4, generator=generator).double(), torch.randn(4, generator=generator)
    wide = Interval(-(1 << 40), 1 << 40, 20)
    for a in (None, scale, torch.tensor(2.0)):
        for b in (None, shift):
            for addend in (None, z):
                for slope, upper in ((1.0, None), (0.0, None), (0.125, None), (0.0, 0.5)):
                    given, recorded = x.clone(), x.clone().requires_grad_()
                    found = QTensor(given, wide, a, b, addend, slope, upper).tensor()
                    expected = QTensor(recorded, wide, a, b, addend, slope, upper).tensor().detach()
                    assert found.dtype is expected.dtype
                    assert found.stride() == expected.stride()
                    assert torch.equal(found, expected)
                    assert torch.equal(found.signbit(), expected.signbit())
                    assert torch.equal(given, x)
                    with torch.no_grad():
                        assert torch.equal(QTensor(recorded, wide, a, b, addend, slope, upper).tensor(), expected)
