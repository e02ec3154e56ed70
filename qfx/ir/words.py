"""Attributes of operators in a few characters, for listings: what is at its default is left out."""

from __future__ import annotations

from decimal import Context
from fractions import Fraction

from qfx.ir.values import ArrayType, Pads, Shape

_MAX_DIGITS = 9


def sizes(values: Shape) -> str:
    """``3x3``."""
    return "x".join(map(str, values))


def steps(letter: str, values: Shape) -> str:
    """A stride (``s2``) or dilation, unless it is 1 on every axis; one number where all axes agree."""
    if set(values) == {1}:
        return ""
    return f"{letter}{values[0]}" if len(set(values)) == 1 else letter + sizes(values)


def pads(values: Pads) -> str:
    """``p1``, ``p1x2`` (symmetric on each axis) or ``p0:1x1:1`` (before:after)."""
    if not any(map(any, values)):
        return ""
    if all(before == after for before, after in values):
        return steps("p", tuple(before for before, _ in values)) or "p1"
    return "p" + "x".join(f"{before}:{after}" for before, after in values)


def cast(type_: ArrayType) -> str:
    """The modes, and the types where there are several."""
    element = type_.element
    words = [element.q.value.removeprefix("AP_"), element.o.value.removeprefix("AP_")]
    if element.n:
        words.append(f"n={element.n}")
    if len(type_.distinct) > 1:
        words.append(f"W={element.width} I={min(type_.int_bits)}..{max(type_.int_bits)} over {sizes(type_.shape)}")
    return " ".join(words)


def number(raw: int, frac_bits: int) -> str:
    """The value in decimal: exact if that is short, else six digits behind a ``~``."""
    value = Fraction(raw) * Fraction(2) ** -frac_bits
    context = Context(prec=2000)
    exact = context.divide(value.numerator, value.denominator)
    plain = f"{exact:f}"
    if len(plain.lstrip("-")) <= _MAX_DIGITS:
        return plain
    return f"~{Context(prec=6).plus(exact):g}"
