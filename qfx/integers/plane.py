"""Sums of two scaled numbers of other tools as a plane: the fewest bits of two factors and an offset that give the same integers for every pair."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from qfx.fixed.type import QMode
from qfx.integers.steps import Ints, nearest_away, nearest_even, plain, roundest

_MAX_SHIFT = 34


@dataclass(frozen=True, slots=True)
class Plane:
    """``(a * factors[0] + b * factors[1] + offset) / 2**shift``, rounded by ``q``: down (AP_TRN), or to the nearest integer, ties away from zero
    (AP_RND_INF) or to the even one (AP_RND_CONV)."""

    factors: tuple[int, int]
    offset: int
    shift: int
    q: QMode

    def __call__(self, a: Ints, b: Ints) -> Ints:
        """For every pair: shape (a.size, b.size)."""
        total = a[:, None] * self.factors[0] + b[None, :] * self.factors[1] + self.offset
        if self.q is QMode.TRN or self.shift == 0:
            return total >> self.shift
        half = 1 << (self.shift - 1)
        if self.q is QMode.RND_CONV:
            return (total + half - 1 + (total >> self.shift & 1)) >> self.shift
        nearest: Ints = np.sign(total) * ((np.abs(total) + half) >> self.shift)
        return nearest


def plane(a: Ints, b: Ints, table: Ints, factors: tuple[float, float], ends: tuple[int, int]) -> Plane | None:
    """The plane with the shortest shift that gives ``table`` for every pair of ``a`` and ``b``, in which results are clamped to ``ends`` (beyond them
    a plane may go on). None if there is none near the slopes ``factors``; flooring planes are preferred to those that round ties."""
    for q in (QMode.TRN, QMode.RND_INF, QMode.RND_CONV):
        for shift in range(_MAX_SHIFT):
            level = {QMode.RND_INF: nearest_away(shift), QMode.RND_CONV: nearest_even(shift)}.get(q, plain)
            scale = shift if q is QMode.TRN else 0
            low = np.where(table > ends[0], level(table) << scale, np.iinfo(np.int64).min // 2)
            high = np.where(table < ends[1], level(table + 1) << scale, np.iinfo(np.int64).max // 2)
            for one, two in _near(factors, shift):
                total = a[:, None] * one + b[None, :] * two
                least, most = int((low - total).max()), int((high - total).min()) - 1
                if least <= most:
                    return Plane((one, two), roundest(least, most), shift, q)
    return None


def _near(factors: tuple[float, float], shift: int) -> list[tuple[int, int]]:
    """Whole numbers near both factors, the nearest first."""
    exact = [float(np.ldexp(factor, shift)) for factor in factors]
    one, two = ([round(factor) + step for step in (0, 1, -1)] for factor in exact)
    return sorted(product(one, two), key=lambda pair: abs(pair[0] - exact[0]) + abs(pair[1] - exact[1]))
