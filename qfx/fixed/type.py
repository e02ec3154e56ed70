"""``FixedType``: a fixed-point type, spoken as the vendor speaks it (AMD UG1399, "Arbitrary Precision Fixed-Point Data Types")."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum
from fractions import Fraction
from typing import TypeVar

from ..errors import TypeSyntaxError

MAX_WIDTH = 1024
"""Word lengths above this are refused: the vendor's headers stop there too (``AP_INT_MAX_W``)."""

MAX_ABS_INT_BITS = 512
"""Integer bits outside +-512 are refused: nothing a network needs, and float64 would leave its exponent range."""


class QMode(Enum):
    """Quantization (rounding) modes of ``ap_fixed``; the value is the vendor's name."""

    RND = "AP_RND"  # nearest, ties to +infinity
    RND_ZERO = "AP_RND_ZERO"  # nearest, ties to zero
    RND_MIN_INF = "AP_RND_MIN_INF"  # nearest, ties to -infinity
    RND_INF = "AP_RND_INF"  # nearest, ties away from zero
    RND_CONV = "AP_RND_CONV"  # nearest, ties to even
    TRN = "AP_TRN"  # floor
    TRN_ZERO = "AP_TRN_ZERO"  # towards zero


class OMode(Enum):
    """Overflow modes of ``ap_fixed``; the value is the vendor's name."""

    SAT = "AP_SAT"  # clamp to the nearest bound
    SAT_ZERO = "AP_SAT_ZERO"  # overflow gives 0
    SAT_SYM = "AP_SAT_SYM"  # clamp, symmetric about 0 when signed
    WRAP = "AP_WRAP"  # drop the high bits (with N > 0, N high bits saturate)
    WRAP_SM = "AP_WRAP_SM"  # sign-magnitude wrap; signed only


_TYPE = re.compile(r"^\s*ap_(u?)fixed\s*<\s*([^<>]*?)\s*>\s*$")
_INT = re.compile(r"^[+-]?[0-9]{1,9}$")
_Mode = TypeVar("_Mode", QMode, OMode)


@dataclass(frozen=True, slots=True)
class FixedType:
    """A fixed-point type ``ap_[u]fixed<width, int_bits, q, o, n>``.

    ``int_bits`` is the vendor's I: the bits left of the binary point, **sign bit included**; it may be negative or exceed ``width``.
    ``frac_bits`` is ``width - int_bits``. A *raw* is the integer mantissa; the *value* is ``raw * 2**-frac_bits``. ``n`` is the number of saturated
    bits of AP_WRAP and AP_WRAP_SM (0 elsewhere). Defaults are ap_fixed's own.

    >>> t = FixedType.parse("ap_fixed<8,3,AP_RND_CONV,AP_SAT>")
    >>> t.frac_bits, t.min_raw, t.max_raw, str(t)
    (5, -128, 127, 'ap_fixed<8,3,AP_RND_CONV,AP_SAT>')

    Raises TypeSyntaxError for a type that the vendor's headers would not take.
    """

    width: int
    int_bits: int
    signed: bool = True
    q: QMode = QMode.TRN
    o: OMode = OMode.WRAP
    n: int = 0

    def __repr__(self) -> str:
        return f"FixedType.parse({str(self)!r})"

    def _repr_html_(self) -> str:
        """With what it holds, for notebooks."""
        low, high = (f"{float(raw * self.lsb):g}" for raw in (self.min_raw, self.max_raw))
        shown = str(self).replace("<", "&lt;").replace(">", "&gt;")  # without a module for it: drivers on boards have this file
        return f"<code>{shown}</code>: {low} to {high}, steps of 2<sup>{-self.frac_bits}</sup>"

    def __post_init__(self) -> None:
        for field, value in (("width", self.width), ("int_bits", self.int_bits), ("n", self.n)):
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeSyntaxError(f"{field} must be an integer, got {value!r}", remedy="give Python ints")
        choices: tuple[tuple[str, object, type], ...] = (("signed", self.signed, bool), ("q", self.q, QMode), ("o", self.o, OMode))
        for field, choice, kind in choices:
            if not isinstance(choice, kind):
                raise TypeSyntaxError(f"{field} must be a {kind.__name__}, got {choice!r}", remedy="FixedType.parse reads the vendor's spelling")
        if not 1 <= self.width <= MAX_WIDTH:
            raise TypeSyntaxError(f"width is {self.width}", remedy=f"use a word length from 1 to {MAX_WIDTH}")
        if abs(self.int_bits) > MAX_ABS_INT_BITS:
            raise TypeSyntaxError(f"int_bits is {self.int_bits}", remedy=f"use integer bits from -{MAX_ABS_INT_BITS} to {MAX_ABS_INT_BITS}")
        if self.o is OMode.WRAP_SM and not self.signed:
            raise TypeSyntaxError("AP_WRAP_SM on an unsigned type", remedy="AP_WRAP_SM is signed only (UG1399); use AP_WRAP")
        if self.n and self.o not in (OMode.WRAP, OMode.WRAP_SM):
            raise TypeSyntaxError(f"N is {self.n} with {self.o.value}", remedy="saturated bits belong to AP_WRAP and AP_WRAP_SM")
        if not 0 <= self.n <= self.width:
            raise TypeSyntaxError(f"N is {self.n} for a width of {self.width}", remedy="use 0 <= N <= width")

    @property
    def frac_bits(self) -> int:
        """F = width - int_bits: the exponent of the least significant bit is -F."""
        return self.width - self.int_bits

    @property
    def lsb(self) -> Fraction:
        """The value of the least significant bit, 2**-frac_bits."""
        return Fraction(2) ** -self.frac_bits

    @property
    def min_raw(self) -> int:
        """The least raw that a cast into this type can give (AP_SAT_SYM leaves out the lone negative bound, except at width 1)."""
        if not self.signed:
            return 0
        low = -(1 << (self.width - 1))
        return low + 1 if self.o is OMode.SAT_SYM and self.width > 1 else low

    @property
    def max_raw(self) -> int:
        """The greatest raw."""
        return (1 << (self.width - 1)) - 1 if self.signed else (1 << self.width) - 1

    def with_frac_bits(self, frac_bits: int) -> FixedType:
        """The same type with its binary point moved so that ``frac_bits`` bits lie right of it."""
        return replace(self, int_bits=self.width - frac_bits)

    @classmethod
    def parse(cls, text: str) -> FixedType:
        """Read the vendor's spelling; whitespace is free, trailing arguments may be left out, ``ap_fixed`` is signed and ``ap_ufixed`` is not.

        Raises TypeSyntaxError, quoting the part that is wrong.
        """
        match = _TYPE.match(text) if isinstance(text, str) else None
        if match is None:
            raise TypeSyntaxError(f"cannot read the type {text!r}", remedy="write it like ap_fixed<16,6,AP_RND,AP_SAT>")
        parts = [part.strip() for part in match.group(2).split(",")]
        if not 2 <= len(parts) <= 5:
            raise TypeSyntaxError(f"{text!r} has {len(parts)} arguments", remedy="give width, int_bits and at most q, o and n")
        numbers = parts[:2] + parts[4:]
        for part in numbers:
            if not _INT.match(part):
                raise TypeSyntaxError(f"{part!r} in {text!r} is not an integer", remedy="write it like ap_fixed<16,6,AP_RND,AP_SAT,0>")
        q = _mode(QMode, parts[2], text) if len(parts) > 2 else QMode.TRN
        o = _mode(OMode, parts[3], text) if len(parts) > 3 else OMode.WRAP
        n = int(parts[4]) if len(parts) > 4 else 0
        return cls(int(parts[0]), int(parts[1]), match.group(1) == "", q, o, n)

    def __str__(self) -> str:
        """The vendor's spelling, as short as it can be said; ``parse`` reads it back."""
        parts = [str(self.width), str(self.int_bits), self.q.value, self.o.value, str(self.n)]
        if self.n == 0:
            parts.pop()
            if self.o is OMode.WRAP:
                parts.pop()
                if self.q is QMode.TRN:
                    parts.pop()
        return f"ap_{'' if self.signed else 'u'}fixed<{','.join(parts)}>"


def _mode(modes: type[_Mode], name: str, text: str) -> _Mode:
    try:
        return modes(name)
    except ValueError:
        known = ", ".join(mode.value for mode in modes)
        raise TypeSyntaxError(f"{name!r} in {text!r} is not a mode", remedy=f"use one of {known}") from None
