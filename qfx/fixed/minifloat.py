"""Minifloats: floating-point formats of a few bits, sign, exponent and mantissa. The definition, in Python integers.

A code is an integer of 1 + E + M bits, the sign highest. With bias B, exponent field e and mantissa field m its value is (-1)**sign times
m * 2**(1 - B - M) for e = 0, and (2**M + m) * 2**(e - B - M) otherwise. What the codes of the highest exponent mean is the format's ``specials``:

"ieee": m = 0 is infinity, all others NaN, as in IEEE 754 and E5M2.
"fn": numbers like any others, but that all ones are NaN; there is no infinity: E4M3.
"none": numbers like any others: E2M1, E2M3, E3M2 of the microscaling formats.

Every finite number is an integer times 2**(1 - B - M), ``lsb``: a minifloat is a fixed-point number of a wide word in which some are left out. So the
cast to fixed point of that word is exact, always; the cast from fixed point rounds to the nearest, of two to that whose mantissa is even (without
mantissa bits the one of greater magnitude), and numbers too great saturate or become what the format has for them.

Sources: Micikevicius et al., "FP8 Formats for Deep Learning", arXiv 2209.05433, 2022 (E5M2 and E4M3, their specials and saturation); Open Compute
Project, "OCP Microscaling Formats (MX) Specification", 1.0, 2023 (E2M1, E2M3, E3M2); IEEE 754-2019. ``array.py`` of this is ``to_codes``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from qfx.errors import DataError, RecipeError
from qfx.fixed.type import FixedType, OMode, QMode

Specials = Literal["ieee", "fn", "none"]
NAN, INFINITY = "nan", "inf"
MOST_BITS = 16
"""Of a code."""

WIDEST = 63
"""The most bits of the fixed-point word that holds a format's numbers."""

_KNOWN: dict[str, Specials] = {"E5M2": "ieee", "E4M3": "fn"}
"""The formats of eight bits; of fewer bits there are no specials, of more they are IEEE's."""


@dataclass(frozen=True, slots=False)
class Minifloat:
    """A format. ``bias`` None is 2**(E - 1) - 1.

    >>> [str(value) for value in map(Minifloat.parse("E2M1").value, range(8))]
    ['0', '1/2', '1', '3/2', '2', '3', '4', '6']
    """

    exponent_bits: int
    mantissa_bits: int
    specials: Specials = "none"
    bias: int | None = None

    def __post_init__(self) -> None:
        e, m = self.exponent_bits, self.mantissa_bits
        name = f"E{e}M{m}"
        if e < 1:
            raise RecipeError(f"{name} has no exponent bits", where="numbers", remedy="use at least one; a number without an exponent is fixed point")
        if m < 0 or 1 + e + m > MOST_BITS:
            raise RecipeError(f"{name} has {1 + e + m} bits", where="numbers", remedy=f"use at most {MOST_BITS}, and no fewer than 0 of mantissa")
        if self.specials == "ieee" and e < 2:
            raise RecipeError(f"{name} has no exponent left for infinity", where="numbers", remedy='use specials "none", or more exponent bits')
        if self.specials == "fn" and e + m < 2:
            raise RecipeError(f"{name} has no number beside NaN", where="numbers", remedy='use specials "none"')

    @classmethod
    def parse(cls, name: str) -> Minifloat:
        """The format of a name such as E4M3, with its standard's specials: E5M2 has infinities, E4M3 a NaN, others of at most eight bits neither, and
        longer ones are as IEEE's. Raises RecipeError for anything else."""
        found = re.fullmatch(r"E(\d+)M(\d+)", name)
        if found is None:
            raise RecipeError(f"{name!r} is no minifloat", where="numbers", remedy="name the bits of exponent and mantissa: E4M3, E5M2, E2M1")
        e, m = int(found[1]), int(found[2])
        return cls(e, m, _KNOWN.get(f"E{e}M{m}", "none" if 1 + e + m <= 8 else "ieee"))

    def __str__(self) -> str:
        return f"E{self.exponent_bits}M{self.mantissa_bits}"

    @property
    def bits(self) -> int:
        """Of a code."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def offset(self) -> int:
        """The bias."""
        return (1 << self.exponent_bits - 1) - 1 if self.bias is None else self.bias

    @property
    def frac_bits(self) -> int:
        """All numbers are integers times 2**-frac_bits."""
        return self.offset + self.mantissa_bits - 1

    def raw(self, code: int) -> int | str:
        """What the code means: an integer in units of 2**-frac_bits, or "nan", "inf", "-inf". The sign of zero is lost."""
        e, m = self.exponent_bits, self.mantissa_bits
        size, negative = code & ((1 << e + m) - 1), code >> e + m & 1
        exponent, mantissa = size >> m, size & ((1 << m) - 1)
        if self.specials == "ieee" and exponent == (1 << e) - 1:
            return NAN if mantissa else "-" * negative + INFINITY
        if self.specials == "fn" and size == (1 << e + m) - 1:
            return NAN
        raw = mantissa if not exponent else ((1 << m) + mantissa) << exponent - 1
        return -raw if negative else raw

    def value(self, code: int) -> Fraction:
        """The number of a code. Raises DataError for infinity and NaN."""
        raw = self.raw(code)
        if isinstance(raw, str):
            raise DataError(f"code {code} of {self} is {raw}, which is no number", remedy="fixed point has none: leave it out")
        return raw * Fraction(2) ** -self.frac_bits

    @cached_property
    def largest(self) -> int:
        """The greatest finite number, as ``raw``."""
        return max(raw for code in range(1 << self.bits - 1) if isinstance(raw := self.raw(code), int))

    @cached_property
    def raws(self) -> npt.NDArray[np.int64]:
        """All finite numbers that are not negative, ascending: the codes 0, 1, 2, ... in turn. Raises RecipeError where int64 does not hold them."""
        self.fixed_type  # noqa: B018 (refuses what is too wide)
        found = [raw for code in range(1 << self.bits - 1) if isinstance(raw := self.raw(code), int)]
        return np.array(found, dtype=np.int64)

    @property
    def fixed_type(self) -> FixedType:
        """The fixed-point type that holds every finite number, symmetric: ``raw`` is its raw. Raises RecipeError for more than WIDEST bits."""
        width = self.largest.bit_length() + 1
        if width > WIDEST:
            raise RecipeError(f"the numbers of {self} take {width} bits in fixed point", where="numbers", remedy="use fewer bits of exponent")
        return FixedType(width, width - self.frac_bits, True, QMode.RND_CONV, OMode.SAT_SYM)

    def code(self, value: Fraction | float | int, *, saturate: bool = True) -> int:
        """The code of the nearest number, of two of that with an even mantissa; a value that rounds to 0 keeps its sign where it is not 0.

        What rounds beyond ``largest``, as in a format without an end, is the largest number, or, without ``saturate``, infinity, or NaN, where the
        format has it. Raises DataError for NaN and infinity.
        """
        if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
            raise DataError(f"{value} has no code that fixed point knows", remedy="check the data")
        exact = Fraction(value)
        sign = int(exact < 0) << self.bits - 1
        units = abs(exact) * Fraction(2) ** self.frac_bits
        m = self.mantissa_bits
        whole = units.numerator // units.denominator
        shift = max(whole.bit_length() - m - 1, 0)  # the last place of numbers of that size
        scaled = units / (1 << shift)
        low = scaled.numerator // scaled.denominator
        rest = scaled - low
        low += int(rest > Fraction(1, 2) or (rest == Fraction(1, 2) and low & 1))
        raw = low << shift
        if raw > self.largest:
            beyond = {"ieee": ((1 << self.exponent_bits) - 1) << m, "fn": (1 << self.exponent_bits + m) - 1, "none": None}[self.specials]
            if saturate or beyond is None:
                return sign | self._code(self.largest)
            return sign | beyond
        return sign | self._code(raw)

    def _code(self, raw: int) -> int:
        """Of a number that is not negative and that the format has."""
        m = self.mantissa_bits
        shift = max(raw.bit_length() - m - 1, 0)
        return raw if raw < 1 << m else (shift + 1 << m) | (raw >> shift) - (1 << m)


def to_raws(values: npt.ArrayLike, kind: Minifloat) -> npt.NDArray[np.int64]:
    """What ``Minifloat.code`` makes of float64 numbers, saturated, as raws of ``kind.fixed_type``. Raises DataError for NaN and infinity.

    >>> to_raws([0.3, 1.25, 1.75, 100.0, -0.6], Minifloat.parse("E2M1")).tolist()
    [1, 2, 4, 12, -1]
    """
    real = np.asarray(values, dtype=np.float64)
    if not np.isfinite(real).all():
        raise DataError("NaN or infinity", remedy="check the data")
    raws = kind.raws
    size = np.ldexp(np.abs(real), kind.frac_bits)
    middles = (raws[1:] + raws[:-1]) / 2  # exact: of at most 17 significant bits
    place = np.searchsorted(middles, size, side="left")  # of two the lesser
    tie = (place < len(middles)) & (size == middles[np.minimum(place, len(middles) - 1)])
    odd = place % 2 == 1 if kind.mantissa_bits else place > 0  # the code is the place
    place = place + (tie & odd)
    found: npt.NDArray[np.int64] = np.where(real < 0, -raws[place], raws[place])
    return found
