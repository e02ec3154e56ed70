"""Inputs that look for mistakes in a Cast of floats, and what the definition says about them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from qfx.fixed.reference import cast_float, round_raw
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.testing import assert_bit_exact

OVERFLOWS = [(OMode.SAT, 0), (OMode.SAT_SYM, 0), (OMode.SAT_ZERO, 0), *((o, n) for o in (OMode.WRAP, OMode.WRAP_SM) for n in (0, 1, 2, 3))]
"""Every overflow mode, with N from 0 to 3 where there is an N."""

LN2 = math.log(2.0)


def types(q: QMode, sizes: Sequence[tuple[int, int]]) -> Iterator[FixedType]:
    """Every type with rounding ``q``, one of the (width, frac_bits) and any overflow mode, signed and unsigned."""
    for o, n in OVERFLOWS:
        for signed in (True,) if o is OMode.WRAP_SM else (True, False):
            for width, f in sizes:
                if n <= width:
                    yield FixedType(width, width - f, signed, q, o, n)


def adversarial(to: FixedType, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Multiples and half multiples of the lsb and their neighbours, around 0, both bounds and the first wraps; subnormals, zeros, huge numbers."""
    values = _scaled_values(to.width, to.min_raw, to.max_raw, seed)
    with np.errstate(over="ignore", under="ignore"):
        grid = np.ldexp(np.array(values), -to.frac_bits).astype(np.float32 if dtype is torch.float32 else np.float64)
        infinity = grid.dtype.type(np.inf)
        x = np.concatenate([grid, np.nextafter(grid, infinity), np.nextafter(grid, -infinity), np.array(_FIXED).astype(grid.dtype)])
    return torch.from_numpy(x[np.isfinite(x)])


_FIXED = [0.0, -0.0, 5e-324, -5e-324, 1e-45, -1e-45, 1.2e-38, -1.2e-38, 2.3e-308, -2.3e-308, 0.49999997, -0.49999997, 0.49999999999999994, 8388609.0]
_FIXED += [
    -8388609.0,
    2.0**24,
    2.0**24 + 2,
    -(2.0**24) - 2,
    2.0**53,
    -(2.0**53) + 1,
    2.0**53 + 2,
    1e30,
    -1e30,
    3.4e38,
    -3.4e38,
    1e300,
    -1e300,
    1.79e308,
]


@lru_cache(maxsize=512)
def _scaled_values(width: int, lo: int, hi: int, seed: int) -> list[float]:
    span = 1 << width
    integers = [
        lo - 1,
        lo,
        lo + 1,
        hi - 1,
        hi,
        hi + 1,
        0,
        1,
        -1,
        2,
        -3,
        span,
        -span,
        span + hi + 1,
        -span - 2,
        2 * span - 1,
        -2 * span + 1,
        3 * span + 1,
    ]
    rng = np.random.default_rng(seed)
    integers += [int(value) for value in rng.integers(-2 * span, 2 * span, size=6)]
    near = [float(value) + part for value in integers for part in (0.0, 0.5, -0.5, 0.25)]
    return [value for value in near if abs(value) <= 2.0**60]


def expected_raws(x: Tensor, to: FixedType) -> list[int]:
    return [cast_float(value, to) for value in x.reshape(-1).tolist()]


def raws(values: Tensor, frac_bits: int) -> list[int]:
    """The raws of a result. Fails if one is no multiple of the lsb or a zero is negative."""
    out = []
    for value in values.reshape(-1).tolist():
        raw = Fraction(value) * Fraction(2) ** frac_bits
        assert raw.denominator == 1, f"{value} is no multiple of 2**-{frac_bits}"
        assert value != 0 or math.copysign(1, value) == 1, "a negative zero"
        out.append(int(raw))
    return out


def assert_equals_definition(values: Tensor, x: Tensor, to: FixedType) -> None:
    """The result of a cast of ``x`` holds exactly the raws that the definition gives."""
    actual, expected = raws(values, to.frac_bits), expected_raws(x, to)
    if actual != expected:
        index = next(i for i, (a, b) in enumerate(zip(actual, expected, strict=True)) if a != b)
        raise AssertionError(f"{to}: {x.reshape(-1)[index].item()!r} gives {actual[index]}, the definition says {expected[index]}")


def assert_same_bits(actual: Tensor, expected: Tensor) -> None:
    assert actual.dtype is expected.dtype
    assert_bit_exact(actual.detach().numpy(), expected.detach().numpy())


def expected_gradient(value: float, to: FixedType) -> tuple[float, float, float]:
    """dq/dv, dq/dF and dq/dW of one number, from the table in the docstring of ``kernel.py`` and the definition alone."""
    scaled = Fraction(value) / to.lsb
    rounded = round_raw(scaled.numerator, scaled.denominator, to.q)
    q_raw = cast_float(value, to)
    q, v = q_raw * to.lsb, Fraction(value)
    if to.min_raw <= rounded <= to.max_raw:
        return 1.0, -LN2 * float(q - v), 0.0
    if to.o in (OMode.SAT, OMode.SAT_SYM):
        bound = LN2 * 2.0 ** (to.width - to.frac_bits - (1 if to.signed else 0))
        return 0.0, -LN2 * float(q), bound if rounded > 0 else (-bound if to.signed else 0.0)
    if to.o is OMode.SAT_ZERO:
        return 0.0, 0.0, 0.0
    if to.o is OMode.WRAP_SM and (q_raw - rounded) % 2:  # an inverted pattern has the other lowest bit
        return -1.0, -LN2 * float(q + v), 0.0
    return 1.0, -LN2 * float(q - v), 0.0
