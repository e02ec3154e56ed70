"""The three ideas that all else rests on, drawn by what computes them: the binary point, exactness, gradients through a cast."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch

from qfx.fixed.arith import Interval
from qfx.fixed.kernel import CastMode, quantize
from qfx.fixed.type import FixedType, OMode, QMode

_WIDE, _TALL, _LEFT = 620.0, 190.0, 185.0
_COLORS = ("#2f6fb0", "#c96a12", "#3a8a4d")
WIDTH, FRAC_BITS = 4, 2
"""Of the type whose gradients are drawn: ap_fixed<4,2,AP_RND,AP_SAT>."""


_TEXT = """# Three ideas

Drawn when this site was built, by the code that computes. [Types](types.md) and [training](training.md) say it in words, [modes](modes.md) draws
rounding and overflow.

## The binary point

A fixed-point number is an integer, the *raw*, times a power of two: `ap_fixed<W,I>` has W bits, I of them left of the binary point, and F = W - I
behind it; its value is raw x 2^-F. Moving the point by one place doubles the range and the distance of two numbers. All numbers of five types of four
bits:

BINARY_POINT

The type says nothing about what bits are worth to the network; that is what training and calibration find out: where the point lies at which rounding
and saturation cost least.

## Exactness

Every operation but Cast is exact: its result has as many bits as it takes. How many that is follows from the numbers, not from widths alone. The bits
of a sum of n products of 4-bit inputs without a sign and 4-bit weights: by their types, and by the weights at hand (here: small ones mostly, as
trained weights are). A cast behind the sum brings it back to a short word, and is the only place where anything is lost.

EXACTNESS

## Gradients

A cast is a staircase, whose slope is 0 or nothing. In training its gradient is that of what the staircase follows: 1 where the number is in range, 0
where it saturates. The binary point F is a parameter, too, rounded when it is used; the gradient by F says whether finer steps or a longer range
would bring the result nearer. Of `TYPE`: what comes out, the gradient by the number, and the gradient by F.

GRADIENTS

In range dq/dF = -ln 2 (q - x): small, and on average towards the side on which rounding hurts. Saturated it is -ln 2 q: fewer fractional bits would
let the number through.
"""


def page() -> str:
    """All three."""
    numbers = [0.02 * step for step in range(-200, 201)]
    counts = [2**power for power in range(10)]
    places = [float(place) for place in range(len(counts))]
    value, by_x, by_f = gradients(numbers)
    by_type, by_weights = sums(counts)
    bits = {"by the types": list(map(float, by_type)), "by the weights": list(map(float, by_weights))}
    drawn = {
        "BINARY_POINT": number_lines([FixedType(4, int_bits) for int_bits in range(5)]),
        "EXACTNESS": curves(bits, places, list(map(str, counts)), 0.0, -(-max(by_type) // 4) * 4.0, "bits", "products in the sum"),
        "GRADIENTS": curves({"q = Cast(x)": value, "dq/dx": by_x, "dq/dF": by_f}, numbers, ["-4", "-2", "0", "2", "4"], -3.0, 3.0, "", "x"),
        "TYPE": str(type_()),
    }
    text = _TEXT
    for word, found in drawn.items():
        text = text.replace(word, found)
    return text


def type_() -> FixedType:
    """The type whose gradients are drawn."""
    return FixedType(WIDTH, WIDTH - FRAC_BITS, True, QMode.RND, OMode.SAT)


def gradients(numbers: Sequence[float]) -> tuple[list[float], list[float], list[float]]:
    """What the cast gives of each number, and its gradients by the number and by the binary point, as training has them."""
    x = torch.tensor(numbers, dtype=torch.float64, requires_grad=True)
    points = torch.full((len(numbers),), float(FRAC_BITS), dtype=torch.float64, requires_grad=True)
    q = quantize(x, points, WIDTH, CastMode(q=QMode.RND, o=OMode.SAT))
    by_x, by_f = torch.autograd.grad(q.sum(), (x, points))
    return q.tolist(), by_x.tolist(), by_f.tolist()


def sums(counts: Sequence[int]) -> tuple[list[int], list[int]]:
    """The bits of sums of so many products: by the types of inputs and weights, and by weights that are known."""
    inputs, any_weight = Interval(0, 15, 0), Interval(-8, 7, 0)
    weights = [(7 * n * n + 3 * n) % 7 - 3 if n % 16 else -8 for n in range(max(counts))]  # -3 to 3, now and then -8
    by_type, by_weights = [], []
    for count in counts:
        widest, exact = Interval(0, 0, 0), Interval(0, 0, 0)
        for weight in weights[:count]:
            widest, exact = widest + inputs * any_weight, exact + inputs * Interval(weight, weight, 0)
        by_type.append(widest.type().width)
        by_weights.append(exact.type().width)
    return by_type, by_weights


def number_lines(types: Sequence[FixedType]) -> str:
    """Every number of some types as a tick, a line for each."""
    reach = float(max(abs(type_.min_raw) * float(type_.lsb) for type_ in types))
    unit, parts = (_WIDE - 40) / (2 * reach), []
    middle = _LEFT + (_WIDE - 40) / 2
    for row, one in enumerate(types):
        y = 26.0 + 34 * row
        ticks = "".join(f"M{middle + float(Fraction(raw) * one.lsb) * unit:.1f} {y - 8:g}v16" for raw in range(one.min_raw, one.max_raw + 1))
        parts += [
            f'<text x="0" y="{y + 4:g}">ap_fixed&lt;{one.width},{one.int_bits}&gt;, steps of {float(one.lsb):g}</text>',
            f'<path d="M{_LEFT:g} {y:g}h{_WIDE - 40:g}" stroke="currentColor" opacity=".25"/>',
            f'<path d="{ticks}" stroke="{_COLORS[0]}" stroke-width="1.4"/>',
        ]
    foot = 26.0 + 34 * len(types)
    for at in (-reach, -reach / 2, 0.0, reach / 2, reach):
        parts.append(f'<text x="{middle + at * unit:.1f}" y="{foot:g}" text-anchor="middle">{at:g}</text>')
    return _svg(_LEFT + _WIDE, foot + 6, "The numbers of types of four bits", parts)


def curves(lines: dict[str, list[float]], x: Sequence[float], labels: Sequence[str], low: float, high: float, unit: str, told: str) -> str:
    """Lines over one axis; ``labels`` stand along it at even distances."""
    span = x[-1] - x[0]

    def place(at: float, value: float) -> str:
        return f"{_LEFT + (at - x[0]) / span * (_WIDE - 40):.1f} {8 + (high - min(max(value, low), high)) / (high - low) * _TALL:.1f}"

    parts = []
    for step in range(5):
        value = low + (high - low) * step / 4
        parts.append(f'<path d="M{place(x[0], value)}h{_WIDE - 40:g}" stroke="currentColor" opacity=".15"/>')
        parts.append(f'<text x="{_LEFT - 8:g}" y="{12 + (high - value) / (high - low) * _TALL:.1f}" text-anchor="end">{value:g} {unit}</text>')
    for number, label in enumerate(labels):
        at = _LEFT + number / (len(labels) - 1) * (_WIDE - 40)
        parts.append(f'<text x="{at:.1f}" y="{_TALL + 24:g}" text-anchor="middle">{label}</text>')
    parts.append(f'<text x="{_LEFT + (_WIDE - 40) / 2:g}" y="{_TALL + 42:g}" text-anchor="middle">{told}</text>')
    for number, (name, values) in enumerate(lines.items()):
        color = _COLORS[number]
        path = "L".join(place(at, value) for at, value in zip(x, values, strict=True))
        parts.append(f'<path d="M{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts.append(f'<path d="M0 {26 + 24 * number:g}h18" stroke="{color}" stroke-width="3"/><text x="24" y="{30 + 24 * number:g}">{name}</text>')
    return _svg(_LEFT + _WIDE, _TALL + 50, f"{', '.join(lines)} over {told}", parts)


def _svg(width: float, height: float, told: str, parts: Sequence[str]) -> str:
    box = f'viewBox="0 0 {width:g} {height:g}" width="100%" style="max-width:48rem"'
    return f'<svg {box} role="img" aria-label="{told}" font-size="12" fill="currentColor">{"".join(parts)}</svg>'
