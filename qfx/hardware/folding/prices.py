"""Cheap options that keep a pace, found by prices: quick, and mostly close to the cheapest.

*Cheapest* is the least sum of the squares of the used shares of each resource, so that the load is spread. Every layer takes its cheapest option, in
topological order so that the words of neighbours go together; a resource's price follows its share (the gradient of the sum of squares, averaged:
Frank and Wolfe), and is raised further while the sum is above what may be used (a subgradient step on the multipliers of a knapsack). Then single
layers are exchanged as long as that helps: prices alone treat equal layers alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qfx.hardware.cost.resources import FIELDS
from qfx.hardware.design import design as d
from qfx.hardware.design.streams import MAX_JOINED
from qfx.hardware.folding.program import EXCESS, Between, bad
from qfx.hardware.timing.program import REWIND

_PRICE_STEPS = 36
_SPREAD_STEPS = 12  # of the steps: those that look for the least sum of squares before anything is known to be short
_LEAST_PRICE = 0.02
_EXCHANGES = 4
_REWIDTH = REWIND  # cycles of a process that changes the width of words, beyond one per word

COLUMNS = (*FIELDS, "memory")
"""What layers take: of the board's resources, and bytes a frame of its memory."""

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Picked = list[int]
"""The option of each layer, by its place among the layer's options."""


@dataclass(frozen=True, slots=True, eq=False)
class Pace:
    """The options that are left of each layer where a frame may take so many cycles: numbers per word that they take and give, and shares of what may
    be used of each resource. ``between``: what lies between each layer and those that it reads. ``allowed``: those options with which several ports
    of one stream keep the pace, come what may of the others."""

    takes: Sequence[d.IntArray]
    gives: Sequence[d.IntArray]
    shares: Sequence[FloatArray]  # (options, COLUMNS)
    between: Sequence[Sequence[Between]]
    allowed: Sequence[BoolArray]

    def taken(self, picked: Sequence[int]) -> FloatArray:
        """The shares that the layers take, with the changes of width between them."""
        taken: FloatArray = sum((shares[i] for shares, i in zip(self.shares, picked, strict=True)), np.zeros(len(COLUMNS)))
        for links in self.between:
            for link in links:
                taken = taken + link.shares[link.source_width[picked[link.source]], link.reader_width[picked[link.reader]]]
        return taken


def changes(widths: npt.ArrayLike, words: npt.ArrayLike) -> FloatArray:
    """What the change between words of ``widths`` and of ``words`` numbers takes, in the order of COLUMNS along one more axis: LUTs alone, for
    numbers of eight bits; nothing where they are the same."""
    widths, words = np.asarray(widths), np.asarray(words)
    luts = np.where(widths == words, 0.0, 60.0 + 4.0 * np.maximum(widths, words))
    found: FloatArray = luts[..., None] * (np.array(COLUMNS) == "lut")
    return found


def rewidth_cycles(size: int, words: npt.ArrayLike, widths: npt.ArrayLike) -> d.IntArray:
    """Cycles of the change between words of ``words`` and of ``widths`` numbers, by the way that ``widths_between`` says; 0 where they are equal."""
    joined = np.lcm(words, widths)
    narrowest = np.where((joined <= MAX_JOINED) & (size % joined == 0), np.minimum(words, widths), np.gcd(words, widths))
    cycles: d.IntArray = np.where(words == widths, 0, size // narrowest + _REWIDTH)
    return cycles


def by_prices(pace: Pace, spent: FloatArray) -> Picked | None:
    """Options that fit beside what is ``spent`` anyway, as shares, else such that come near to it; None if no words were found that go together."""
    prices = np.ones(len(COLUMNS))
    best: Picked | None = None
    least = np.inf
    for step in range(_PRICE_STEPS):
        picked = _pick(pace, prices)
        if picked is None:
            return None
        shares = spent + pace.taken(picked)
        badness = bad(shares)
        if badness < least:
            best, least = picked, badness
        if step >= _SPREAD_STEPS and (shares <= 1).all():
            break
        prices = _next_prices(prices, shares, step)
    return None if best is None else exchanged(pace, best, spent)


def exchanged(pace: Pace, picked: Picked, spent: FloatArray) -> Picked:
    """Better options of single layers, for the same words at both ends, as long as there are any."""
    best = list(picked)
    used = spent + pace.taken(best)
    for _ in range(_EXCHANGES):
        before = list(best)
        for index, costs in enumerate(pace.shares):
            takes, gives, now = pace.takes[index], pace.gives[index], best[index]
            like = np.flatnonzero(pace.allowed[index] & (takes == takes[now]) & (gives == gives[now]))
            others = used - costs[now] + costs[like]
            found = int(like[np.argmin(EXCESS * np.maximum(others.max(axis=1) - 1, 0.0) + (others**2).sum(axis=1))])
            used = used - costs[now] + costs[found]
            best[index] = found
        if best == before:
            break
    return best


def _pick(pace: Pace, prices: FloatArray) -> Picked | None:
    chosen: Picked = []
    for costs, links, allowed in zip(pace.shares, pace.between, pace.allowed, strict=True):
        mask, scores = allowed.copy(), costs @ prices
        for link in links:
            width = link.source_width[chosen[link.source]]
            mask &= link.possible[width][link.reader_width]
            scores = scores + (link.shares[width] @ prices)[link.reader_width]
        if not mask.any():
            return None
        chosen.append(int(np.flatnonzero(mask)[np.argmin(scores[mask])]))
    return chosen


def _next_prices(prices: FloatArray, shares: FloatArray, step: int) -> FloatArray:
    """First the prices move towards the shares, ever less; then what is short becomes dearer and what is left cheaper, ever more slowly."""
    if step < _SPREAD_STEPS:
        return prices + (np.maximum(shares, _LEAST_PRICE) - prices) * 2 / (step + 3)
    raised: FloatArray = prices * np.exp(np.clip(shares - 1, -0.5, 1) * 2 / (1 + (step - _SPREAD_STEPS) / 4))
    return raised
