"""A word length for each binary point: equal to the definition, equal in both executors, gradients by the table and by finite differences."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from kernel_cases import assert_same_bits
from torch import Tensor

from qfx.errors import DataError, ExactnessError
from qfx.fixed import eager, native
from qfx.fixed.kernel import CastMode, quantize
from qfx.fixed.plan import plan_of
from qfx.fixed.reference import cast_raw
from qfx.fixed.type import FixedType, OMode, QMode

LN2 = math.log(2)
OVERFLOWS = (OMode.SAT, OMode.SAT_SYM, OMode.WRAP)
MODES = [CastMode(signed, q, o) for q in QMode for o in OVERFLOWS for signed in (True, False)]
SHAPES = [
    ((7,), ()),
    ((7,), (7,)),
    ((3, 5), (1, 5)),
    ((3, 5), (3, 1)),
    ((3, 300), (3, 300)),
    ((2, 3, 4, 5), (1, 3, 1, 1)),
    ((2, 3, 4, 5), (1, 3, 4, 5)),
]


def drawn(shape: tuple[int, ...], bits: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers on a grid with ties, binary points, and integer bits that make words of -3 to 9 bits."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-600, 600, shape, generator=generator) / 32
    frac = torch.rand(bits, generator=generator) * 6 - 1
    word = torch.randint(-3, 9, bits, generator=generator)
    return x.to(dtype), frac.to(dtype), (word - frac.round() + 0.3).to(dtype)


def defined(x: float, frac_bits: int, word: int, mode: CastMode) -> float:
    """By ``reference.py``; 0 for no bits at all."""
    if word <= 0:
        return 0.0
    exact = Fraction(x)
    fine = exact.denominator.bit_length() - 1
    to = FixedType(word, word - frac_bits, mode.signed, mode.q, mode.o)
    return math.ldexp(cast_raw(exact.numerator, fine, to), -frac_bits)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: f"{mode.q.value}-{mode.o.value}-{'signed' if mode.signed else 'unsigned'}")
def test_it_equals_the_definition(mode: CastMode) -> None:
    x, frac, integer = drawn((4, 50), (1, 50), seed=1)
    out = eager.forward(plan_of(mode, 8), x, frac, integer, None, None, None)
    f, word = frac.round().expand(x.shape), (frac.round() + integer.round()).clamp(max=8).expand(x.shape)
    for value, found, bits, width in zip(*(t.flatten().tolist() for t in (x, out, f, word)), strict=True):
        assert found == defined(value, int(bits), int(width), mode)


@pytest.mark.usefixtures("gxx")
@pytest.mark.parametrize(("shape", "bits"), SHAPES)
@pytest.mark.parametrize("o", OVERFLOWS)
def test_both_executors_give_the_same_bits(o: OMode, shape: tuple[int, ...], bits: tuple[int, ...]) -> None:
    for number, (signed, dtype) in enumerate(((True, torch.float32), (False, torch.float32), (True, torch.float64))):
        for width in (8, 27):
            plan = plan_of(CastMode(signed, QMode.RND, o), width, *((0.0, 6.0) if number == 1 else ()))
            x, frac, integer = drawn(shape, bits, number, dtype)
            by_channel = len(shape) > 1 and bits == (1, shape[1], *(1,) * (len(shape) - 2))
            scale = torch.rand(shape[1], generator=torch.Generator().manual_seed(2)) if number == 1 and by_channel else None
            fused = native.fused(plan, x, frac, integer, scale, None, None)
            assert fused is not None
            out = fused.forward(x, frac, integer, scale, None, None)
            assert_same_bits(out, eager.forward(plan, x, frac, integer, scale, None, None))
            g = torch.randn(shape, generator=torch.Generator().manual_seed(3)).to(out.dtype)
            found = fused.backward(g, x, frac, integer, scale, None, None, 0.5, True)
            expected = eager.backward(plan, g, x, frac, integer, scale, None, None, 0.5)
            for a, b in zip(found, expected, strict=True):
                assert (a is None) == (b is None)
                if a is not None and b is not None:
                    assert a.dtype is b.dtype
                    bound = 2e-6 if torch.float32 in (x.dtype, a.dtype) else 1e-12
                    torch.testing.assert_close(a, b, rtol=bound, atol=bound * max(1.0, float(b.abs().max())))


@pytest.mark.parametrize(("o", "signed"), [(OMode.SAT, True), (OMode.SAT, False), (OMode.SAT_SYM, True)])
def test_gradients_follow_the_table(o: OMode, signed: bool) -> None:
    """F = 2 and I = 3 (resolution 1/4, bound 4 or 8), then no bits."""
    values = [0.3, -0.3, 20.0, -20.0]
    x = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    frac, integer = (torch.full((4,), bits, dtype=torch.float64, requires_grad=True) for bits in (2.0, 3.0))
    out = quantize(x, frac, 16, CastMode(signed, QMode.RND, o), int_bits=integer)
    bound = 4.0 if signed else 8.0
    low = [-0.25, -bound if o is OMode.SAT else 0.25 - bound] if signed else [0.0, 0.0]
    assert out.tolist() == [0.25, low[0], bound - 0.25, low[1]]
    out.sum().backward()
    assert x.grad is not None
    assert frac.grad is not None
    assert integer.grad is not None
    assert x.grad.tolist() == [1.0, 1.0 if signed else 0.0, 0.0, 0.0]
    by_low = -LN2 * 0.25 if o is OMode.SAT_SYM else 0.0
    assert frac.grad.tolist() == pytest.approx([LN2 * (0.3 - 0.25), LN2 * (-0.3 + 0.25) if signed else 0.0, LN2 * 0.25, by_low])
    assert integer.grad.tolist() == pytest.approx([0.0, 0.0, LN2 * bound, -LN2 * bound if signed else 0.0])
    none = torch.full((4,), -2.4, dtype=torch.float64, requires_grad=True)
    for tensor in (x, frac):
        tensor.grad = None
    nothing = quantize(x, frac, 16, CastMode(signed, QMode.RND, o), int_bits=none)
    assert nothing.tolist() == [0.0] * 4
    nothing.sum().backward()
    assert x.grad.tolist() == [1.0] * 4
    assert frac.grad.tolist() == pytest.approx([LN2 * value for value in values])
    assert none.grad is not None
    assert none.grad.tolist() == [0.0] * 4


def test_what_the_resolution_gets_is_the_derivative_of_the_expected_error() -> None:
    """E[(q - v)**2] = 4**-F / 12 for numbers that are uniform in a range: its finite difference, and the mean of the gradients over many numbers."""
    x = torch.rand(400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 6 - 3
    integer = torch.tensor(3.0, dtype=torch.float64)
    for bits in (1.0, 3.0, 5.0):
        frac = torch.tensor(bits, dtype=torch.float64, requires_grad=True)
        error = (quantize(x, frac, 16, CastMode(True, QMode.RND_CONV, OMode.SAT), int_bits=integer) - x).square().mean()
        error.backward()
        step = 1e-3
        difference = (4.0 ** -(bits + step) - 4.0 ** -(bits - step)) / 12 / (2 * step)
        assert frac.grad is not None
        assert frac.grad.item() == pytest.approx(difference, rel=0.02)
        assert error.item() == pytest.approx(4.0**-bits / 12, rel=0.02)


@pytest.mark.parametrize("o", [OMode.SAT, OMode.SAT_SYM])
@pytest.mark.parametrize("signed", [True, False])
def test_what_the_range_gets_is_the_derivative_of_the_expected_error(o: OMode, signed: bool) -> None:
    """Of numbers beyond the bound the error is a smooth function of I: the finite difference of its mean, with the resolution far finer."""
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2
    fine = torch.tensor(16.0, dtype=torch.float64)

    def error(bits: float) -> float:
        bound = 2.0 ** (bits - signed)
        held = x.clamp(-bound if signed else 0.0, bound - 2.0**-16)
        return float((held - x).square().mean())

    for bits in (0.0, 1.0, 2.0):
        integer = torch.tensor(bits, dtype=torch.float64, requires_grad=True)
        (quantize(x, fine, 30, CastMode(signed, QMode.RND, o), int_bits=integer) - x).square().mean().backward()
        assert integer.grad is not None
        assert integer.grad.item() == pytest.approx((error(bits + 1e-3) - error(bits - 1e-3)) / 2e-3, rel=1e-3)


def test_what_was_pruned_can_come_back() -> None:
    """A number without bits is trained towards a target that it needs a bit for."""
    x, frac, integer = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.9, -2.0, 2.0))
    optimizer = torch.optim.SGD([frac], lr=0.2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = (quantize(x, frac, 8, CastMode(True, QMode.RND, OMode.SAT), int_bits=integer) - 0.9).square()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert frac.round().item() == 0  # one step of 1: 0.9 becomes 1
    assert loss.item() < 0.02


def test_what_is_refused() -> None:
    x, frac = torch.ones(3), torch.zeros(3)
    for mode in (CastMode(True, QMode.RND, OMode.SAT_ZERO), CastMode(True, QMode.RND, OMode.WRAP, 2), CastMode(True, QMode.RND, OMode.WRAP_SM)):
        with pytest.raises(DataError, match="word lengths of their own under"):
            quantize(x, frac, 8, mode, int_bits=frac)
    mode = CastMode(True, QMode.RND, OMode.SAT)
    for other in (torch.zeros(()), torch.zeros(3, dtype=torch.float64)):
        with pytest.raises(DataError, match="give both the same shape and dtype"):
            quantize(x, frac, 8, mode, int_bits=other)
    with pytest.raises(ExactnessError, match="nan integer bits"):
        quantize(x, frac, 8, mode, int_bits=torch.tensor([0.0, math.nan, 1.0]))
    with pytest.raises(ExactnessError, match="nan integer bits"):
        eager.forward(plan_of(mode, 8), x, frac, torch.full((3,), math.nan), None, None, None)
