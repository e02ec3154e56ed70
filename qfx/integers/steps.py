"""Requantization of other tools as a fixed-point line: the fewest bits of a multiplier and an offset that give the same integer for every sum.

Other tools scale an integer sum by a real number and round, each in its own way: gemmlowp with a 31-bit multiplier and two roundings, others in
float. Whatever they do is a staircase, a function from sums to integers that never falls; it is known by the first sum of each step. A line
``floor((multiplier * sum + offset) / 2**shift)`` takes the same steps if it passes between the last sum below each step and its first one. So
equality is decided at the steps, for all sums at once, and multipliers become far shorter than 31 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

MAX_SHIFT = 62
"""The longest shift that is looked at."""
_BITS = 62
"""Products and offsets stay below 2**62."""
_FEW = 600
"""More bounds than so many are thinned out first."""


@dataclass(frozen=True, eq=False)
class Steps:
    """A staircase over the sums ``low`` to ``high``: ``firsts[i]`` is the first sum whose result is at least ``values[i]``, ``lasts[i]`` the last one
    below it; the values rise by one.

    ``bottom`` and ``top``: the results of ``low`` and of ``high``. What is asked beyond the first and the last step depends on whether a clamp holds
    the results there (``Steps.open_below``, ``open_above``: then a line may go on).
    """

    values: Ints
    firsts: Ints
    lasts: Ints
    low: int
    high: int
    bottom: int
    top: int
    open_below: bool
    open_above: bool

    @classmethod
    def of(cls, function: Callable[[Ints], Ints], low: int, high: int, least: int, greatest: int, points: Ints | None = None) -> Steps:
        """Those of ``function``, which never falls, over the sums ``low`` to ``high``; a clamp behind it holds its results in ``least`` to
        ``greatest``, which ``function`` has obeyed already. ``points``: the only sums that can come, rising."""
        bottom, top = (int(function(np.array([end], dtype=np.int64))[0]) for end in (low, high))
        values = np.arange(bottom + 1, top + 1, dtype=np.int64)
        below, reached = np.full(values.size, low, dtype=np.int64), np.full(values.size, high, dtype=np.int64)
        while (reached - below > 1).any():
            middle = (below + reached) >> 1
            up = function(middle) >= values
            reached, below = np.where(up, middle, reached), np.where(up, below, middle)
        lasts = reached - 1
        if points is not None:
            places = np.searchsorted(points, reached)
            reached, lasts = points[places], points[places - 1]
        return cls(values, reached, lasts, low, high, bottom, top, bottom <= least, top >= greatest)

    def bounds(self, level: Callable[[Ints], Ints]) -> tuple[Ints, Ints, Ints, Ints]:
        """(levels, sums, levels, sums): a line must be at or above the first levels at the first sums, and below the second levels at the second
        ones. ``level``: where the line must be for each result."""
        levels = level(self.values)
        above, above_at, below, below_at = levels, self.firsts, levels, self.lasts
        if not self.open_below:
            above, above_at = np.append(above, level(np.array([self.bottom]))), np.append(above_at, self.low)
        if not self.open_above:
            below, below_at = np.append(below, level(np.array([self.top + 1]))), np.append(below_at, self.high)
        return above, above_at, below, below_at


@dataclass(frozen=True, slots=True)
class Line:
    """``floor((multiplier * sum + offset) / 2**shift)``."""

    multiplier: int
    offset: int
    shift: int

    def at(self, shift: int) -> Line:
        """The same with a longer shift."""
        more = shift - self.shift
        return Line(self.multiplier << more, self.offset << more, shift)

    def plus(self, more: int) -> Line:
        """The same with ``more`` added to the offset."""
        return Line(self.multiplier, self.offset + more, self.shift)

    def __call__(self, sums: Ints) -> Ints:
        result: Ints = (sums * self.multiplier + self.offset) >> self.shift
        return result


def plain(values: Ints) -> Ints:
    """The level of each result where the line gives the result itself."""
    return values


def nearest_away(bits: int) -> Callable[[Ints], Ints]:
    """The level of each result where the line gives it with ``bits`` more fractional bits, and a cast rounds these to the nearest integer, ties away
    from zero (AP_RND_INF): halves count upwards only above zero."""
    if bits == 0:
        return plain

    def level(values: Ints) -> Ints:
        return (values << bits) - (1 << (bits - 1)) + (values <= 0)

    return level


def nearest_even(bits: int) -> Callable[[Ints], Ints]:
    """As ``nearest_away``, ties to the even integer (AP_RND_CONV)."""
    if bits == 0:
        return plain

    def level(values: Ints) -> Ints:
        return (values << bits) - (1 << (bits - 1)) + (values & 1)

    return level


def line(steps: Steps, level: Callable[[Ints], Ints] = plain) -> Line | None:
    """The line with the shortest shift that takes exactly these steps, its offset the roundest of those that do; None if there is none.

    Each pair of bounds, one from below and one from above, bounds the slope by the two sums between them; every slope within the bounds has an
    offset. Candidates are compared in whole numbers.
    """
    above, above_at, below, below_at = steps.bounds(level)
    above_at, above = _corners(above_at, above)
    below_at, lowered = _corners(below_at, -below)
    below = -lowered
    if above.size == 0 or below.size == 0 or (steps.values.size == 0 and steps.bottom == steps.top):
        return Line(0, int(level(np.array([steps.bottom]))[0]), 0)
    runs = below_at[None, :] - above_at[:, None]  # along the sums, from a bound from below to one from above
    rises = below[None, :] - above[:, None]  # a line must rise by less
    if (rises[runs == 0] <= 0).any():
        return None
    slopes = np.divide(rises, runs, out=np.zeros(runs.shape), where=runs != 0)
    most = float(slopes[runs > 0].min()) if (runs > 0).any() else np.inf
    least = float(slopes[runs < 0].max()) if (runs < 0).any() else 0.0
    least = max(least, 0.0)
    if not least <= most * (1 + 1e-12):
        return None
    longest = int(max(np.abs(above_at).max(), np.abs(below_at).max())).bit_length()
    farthest = int(max(np.abs(above).max(), np.abs(below).max())).bit_length()
    for shift in range(MAX_SHIFT):
        if farthest + shift >= _BITS or (most != np.inf and np.ldexp(most, shift) >= 2.0 ** (_BITS - longest)):
            return None
        for multiplier in _candidates(least, most, shift):
            offset = _offset(multiplier, shift, above, above_at, below, below_at)
            if offset is not None:
                return Line(multiplier, offset, shift)
    return None


def _corners(at: Ints, levels: Ints) -> tuple[Ints, Ints]:
    """Of many points those that a line above all of them can touch: who lies on or below the line between two others bounds nothing. The points
    come in the order of their bounds, those of the ends last."""
    if at.size <= _FEW:
        return at, levels
    order = np.lexsort((levels, at))
    last = np.append(np.diff(at[order]) > 0, True)  # the highest of those at one place
    wide = int(np.abs(at).max()).bit_length() + int(np.abs(levels).max()).bit_length() > _BITS - 2
    x, y = (part[order][last].astype(object if wide else np.int64) for part in (at, levels))
    while x.size > 2:
        left = (y[1:-1] - y[:-2]) * (x[2:] - x[1:-1])
        kept = np.concatenate([[True], (left > (y[2:] - y[1:-1]) * (x[1:-1] - x[:-2])).astype(bool), [True]])
        if kept.all():
            break
        x, y = x[kept], y[kept]
    return x.astype(np.int64), y.astype(np.int64)


def _candidates(least: float, most: float, shift: int) -> list[int]:
    """Multipliers whose slope lies between two, the middle ones first; the ends are known up to rounding."""
    low = int(np.floor(np.ldexp(least, shift)))
    if most == np.inf:
        return [low, low + 1]
    high = int(np.ceil(np.ldexp(most, shift)))
    middle = (low + high) // 2
    return sorted({low, low + 1, middle, middle + 1, high - 1, high}, key=lambda candidate: abs(2 * candidate - low - high))


def _offset(multiplier: int, shift: int, above: Ints, above_at: Ints, below: Ints, below_at: Ints) -> int | None:
    """The roundest offset of a line of that slope that obeys the bounds."""
    least = int(((above << shift) - multiplier * above_at).max())
    most = int(((below << shift) - multiplier * below_at).min()) - 1
    return None if least > most else roundest(least, most)


def roundest(least: int, most: int) -> int:
    """The number from ``least`` to ``most`` with the most zeros at its end.

    >>> roundest(5, 9), roundest(-3, 4), roundest(13, 13)
    (8, 0, 13)
    """
    for bits in range(max(abs(least), abs(most)).bit_length(), -1, -1):
        found = (most >> bits) << bits
        if found >= least:
            return found
    return most
