"""One plot and one histogram of the error for each rounding and overflow mode, drawn from the definition of Cast."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from qfx.fixed.reference import cast_fraction
from qfx.fixed.type import FixedType, OMode, QMode

_WIDE, _TALL, _GAP = 300.0, 190.0, 46.0
_FINE = 16
"""Numbers between two of the grid that are looked at."""

ROUNDING = {
    QMode.TRN: "towards minus infinity: bits are dropped. The error is 0 to 1 step, always downwards; its mean is half a step.",
    QMode.TRN_ZERO: "towards zero.",
    QMode.RND: "to the nearest; halves towards plus infinity.",
    QMode.RND_ZERO: "to the nearest; halves towards zero.",
    QMode.RND_MIN_INF: "to the nearest; halves towards minus infinity.",
    QMode.RND_INF: "to the nearest; halves away from zero.",
    QMode.RND_CONV: "to the nearest; halves to the even neighbour, so that their errors cancel.",
}
OVERFLOW = {
    OMode.WRAP: "wraps round: the bits above the word are dropped. Costs nothing; ruins what overflows.",
    OMode.SAT: "stays at the nearest bound.",
    OMode.SAT_SYM: "stays at the nearest bound of a range that is as long below zero as above.",
    OMode.SAT_ZERO: "becomes zero.",
    OMode.WRAP_SM: "wraps round, mirrored: numbers turn back at the bounds.",
}


def page() -> str:
    """All modes."""
    if set(ROUNDING) != set(QMode) or set(OVERFLOW) != set(OMode):
        raise AssertionError("every mode has a line here")
    parts = [
        "# Rounding and overflow, mode by mode\n",
        "Drawn from the definition of Cast (`qfx/fixed/reference.py`), which the vendor's headers agree with on every number "
        "([types](types.md)). Left: what a number becomes; the "
        "dashed line is the number itself. Right: how often which error comes, of numbers that lie evenly.\n",
        "## Rounding\n",
        "A grid with steps of 1; between two of its numbers lie fifteen others.\n",
    ]
    for q, told in ROUNDING.items():
        type_ = FixedType(8, 8, True, q, OMode.SAT)
        numbers = [Fraction(i, _FINE) for i in range(-3 * _FINE, 3 * _FINE + 1)]
        even = [Fraction(i, _FINE) for i in range(-4 * _FINE, 4 * _FINE)]
        parts += [f"### {q.value}\n", f"{told[0].upper()}{told[1:]}\n", _figure(q.value, type_, numbers, even), ""]
    parts += ["## Overflow\n", "A word of four bits with a sign, `ap_fixed<4,4>`: it holds -8 to 7.\n"]
    for o, told in OVERFLOW.items():
        type_ = FixedType(4, 4, True, QMode.TRN, o)
        numbers = [Fraction(i) for i in range(-20, 21)]
        parts += [f"### {o.value}\n", f"{told[0].upper()}{told[1:]}\n", _figure(o.value, type_, numbers, numbers), ""]
    return "\n".join(parts)


def value(number: Fraction, type_: FixedType) -> Fraction:
    """What the number becomes."""
    return cast_fraction(number, type_) * type_.lsb


def errors(type_: FixedType, numbers: Sequence[Fraction]) -> dict[Fraction, int]:
    """How often which error comes, by rising error."""
    return dict(sorted(Counter(value(number, type_) - number for number in numbers).items()))


def _figure(name: str, type_: FixedType, numbers: Sequence[Fraction], even: Sequence[Fraction]) -> str:
    width = 2 * _WIDE + _GAP
    found = errors(type_, even)
    mean = sum(error * count for error, count in found.items()) / sum(found.values())
    told = f"{name}: what numbers become, and their errors, {float(mean):.3g} in the mean"
    box = f"-24 -8 {width + 30:g} {_TALL + 44:g}"
    return (
        f'<svg viewBox="{box}" width="100%" style="max-width:44rem" role="img" aria-label="{told}" font-size="11" fill="currentColor">'
        f"{_curve(type_, numbers)}{_histogram(found, float(mean))}</svg>"
    )


def _curve(type_: FixedType, numbers: Sequence[Fraction]) -> str:
    low, high = float(numbers[0]), float(numbers[-1])
    unit = _WIDE / (high - low)
    results = [float(value(number, type_)) for number in numbers]
    tall = _TALL / max(high - low, 1.0)

    def place(x: float, y: float) -> tuple[float, float]:
        return (x - low) * unit, _TALL / 2 - y * tall

    x0, y0 = place(low, low)
    x1, y1 = place(high, high)
    parts = [
        f'<path d="M0 {_TALL / 2:g}H{_WIDE:g}M{_WIDE / 2:g} 0V{_TALL:g}" stroke="currentColor" opacity=".25"/>',
        f'<path d="M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}" stroke="currentColor" opacity=".45" stroke-dasharray="4 3"/>',
    ]
    dots = "".join('<circle cx="{:.1f}" cy="{:.1f}" r="2"/>'.format(*place(float(n), y)) for n, y in zip(numbers, results, strict=True))
    parts.append(f'<g fill="#2f6fb0">{dots}</g>')
    parts += [f'<text x="0" y="{_TALL + 14:g}">{low:g}</text><text x="{_WIDE:g}" y="{_TALL + 14:g}" text-anchor="end">{high:g}</text>']
    return "".join(parts)


def _histogram(found: dict[Fraction, int], mean: float) -> str:
    left, most, low, high = _WIDE + _GAP, max(found.values()), float(min(found)), float(max(found))
    span = max(high - low, 1.0)
    pad = 0.08 * span
    start, unit = (low + high) / 2 - span / 2 - pad, _WIDE / (span + 2 * pad)
    gaps = [float(b - a) for a, b in zip(list(found), list(found)[1:], strict=False)]
    size = max(min(gaps, default=1.0) * unit * 0.7, 2.0)
    drawn = []
    for error, count in found.items():
        x, tall = left + (float(error) - start) * unit - size / 2, _TALL * count / most
        drawn.append(f'<rect x="{x:.1f}" y="{_TALL - tall:.1f}" width="{size:.1f}" height="{tall:.1f}"/>')
    bars = "".join(drawn)
    zero, middle = (left + (at - start) * unit for at in (0.0, mean))
    return (
        f'<path d="M{left:g} {_TALL:g}h{_WIDE:g}" stroke="currentColor" opacity=".25"/><g fill="#c96a12">{bars}</g>'
        f'<path d="M{zero:.1f} 0V{_TALL:g}" stroke="currentColor" opacity=".45" stroke-dasharray="4 3"/>'
        f'<path d="M{middle:.1f} {_TALL + 2:g}l-4 8h8z"/><text x="{left:g}" y="{_TALL + 14:g}">{low:g}</text>'
        f'<text x="{left + _WIDE:g}" y="{_TALL + 14:g}" text-anchor="end">{high:g}</text>'
        f'<text x="{left + _WIDE / 2:g}" y="{_TALL + 30:g}" text-anchor="middle">error; its mean is {mean:.3g}</text>'
    )
