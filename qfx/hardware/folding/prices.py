"""The cheapest options that keep a pace, found by prices.

*Cheapest* is the least sum of the squares of the used shares of the board's LUTs, flip-flops, DSP blocks and block RAMs, so that the load is spread.
Every layer takes its cheapest option among those that keep the pace, in topological order so that the words of neighbours go together; a resource's
price follows its share (the gradient of the sum of squares, averaged: Frank and Wolfe), and is raised further while the sum is above what may be used
(a subgradient step on the multipliers of a knapsack). Then single layers are exchanged as long as that helps: prices alone treat equal layers alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from qfx.hardware.cost.resources import FIELDS, Resources
from qfx.hardware.design import design as d
from qfx.hardware.design.streams import MAX_JOINED
from qfx.hardware.folding.options import Layer
from qfx.hardware.timing.program import REWIND

_PRICE_STEPS = 36
_SPREAD_STEPS = 12  # of the steps: those that look for the least sum of squares before anything is known to be short
_LEAST_PRICE = 0.02
_LEAST_LIMIT = 0.5  # so that one of what may not be used at all is above it
_EXCHANGES = 4
_BESIDE = REWIND  # cycles of a port's frame beside one per word
_REWIDTH = REWIND  # cycles of a process that changes the width of words, beyond one per word

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Picked = list[int]
"""The option of each layer, by its place among the layer's options."""


class Market:
    """The layers of a model, what they share (``capacity``, in the order of FIELDS) and how much of it they may use (``limits``). ``sources`` and
    ``readers`` of each layer, by index, with the numbers a frame that pass between them. ``joint``: the layers, by name, that are ports of one
    stream, whose words come one after the other."""

    def __init__(self, layers: Sequence[Layer], capacity: FloatArray, limits: FloatArray, joint: Sequence[Sequence[str]] = ()) -> None:
        self.layers = layers
        self.capacity, self.limits = capacity, limits
        index = {layer.name: i for i, layer in enumerate(layers)}
        self.joint = [[index[name] for name in names] for names in joint]
        self.sources = [[(index[name], size) for name, size in layer.sources] for layer in layers]
        self.readers: list[list[tuple[int, int]]] = [[] for _ in layers]
        for reader, sources in enumerate(self.sources):
            for source, size in sources:
                self.readers[source].append((reader, size))

    @property
    def floor(self) -> int:
        """Cycles of the layer, or of the ports of one stream, that can be sped up least."""
        return max(*(int(layer.busy.min()) for layer in self.layers), *self.joint_floors, 1)

    @property
    def joint_floors(self) -> list[int]:
        """Cycles of each stream of several ports, with the widest words that they can have."""
        return [_one_after_the_other([int(self.layers[i].busy.min()) for i in ports]) for ports in self.joint]

    @property
    def ceiling(self) -> int:
        """Cycles of a frame that leave every layer all of its options: any words go together at one number a cycle."""
        frames = [size + _REWIDTH for sources in self.sources for _, size in sources]
        joint = [_one_after_the_other([int(self.layers[i].busy.max()) for i in ports]) for ports in self.joint]
        return max(*(int(layer.busy.max()) for layer in self.layers), *frames, *joint)

    def smallest(self) -> Picked:
        """Of every layer the option with the fewest LUTs."""
        return [int(layer.costs[:, 0].argmin()) for layer in self.layers]

    def costs(self, picked: Picked) -> FloatArray:
        """What the layers take."""
        taken: FloatArray = sum((layer.costs[i] for layer, i in zip(self.layers, picked, strict=True)), np.zeros(len(FIELDS)))
        return taken

    def fits(self, picked: Picked, overhead: FloatArray) -> bool:
        """Whether the layers keep within the limits, with ``overhead`` for what is no layer: forks, changes of width, deep FIFOs."""
        return bool((overhead + self.costs(picked) <= self.limits).all())

    def share(self, taken: FloatArray) -> float:
        """Of the limits, that of what is scarcest."""
        return float((taken / np.maximum(self.limits, _LEAST_LIMIT)).max())

    def cheapest(self, target: int, overhead: FloatArray) -> Picked | None:
        """The option of each layer for a frame in ``target`` cycles: one that fits, else the one that comes nearest; None if none keeps the pace."""
        possible = self._possible(target)
        prices = np.ones(len(FIELDS))
        best: Picked | None = None
        least = np.inf
        limits = np.maximum(self.limits, _LEAST_LIMIT)
        for step in range(_PRICE_STEPS):
            picked = self._pick(target, possible, prices / np.maximum(self.capacity, 1))
            if picked is None:
                return None
            shares = (overhead + self.costs(picked)) / limits
            badness = _badness(shares)
            if badness < least:
                best, least = picked, badness
            if step >= _SPREAD_STEPS and (shares <= 1).all():
                break
            prices = _next_prices(prices, shares, step)
        return None if best is None else self._exchanged(best, target, overhead)

    def _exchanged(self, picked: Picked, target: int, overhead: FloatArray) -> Picked:
        """Better options of single layers, for the same words at both ends, as long as there are any."""
        best = list(picked)
        limits = np.maximum(self.limits, _LEAST_LIMIT)
        used = overhead + self.costs(best)
        for _ in range(_EXCHANGES):
            before = list(best)
            for index, layer in enumerate(self.layers):
                now = best[index]
                like = np.flatnonzero((layer.busy <= target) & (layer.takes == layer.takes[now]) & (layer.gives == layer.gives[now]))
                others = used - layer.costs[now] + layer.costs[like]
                best[index] = int(like[np.argmin([_badness(row / limits) for row in others])])
                used = used - layer.costs[now] + layer.costs[best[index]]
            if best == before:
                break
        return best

    def _possible(self, target: int) -> list[BoolArray]:
        """For each layer which of its options keep the pace and give words that every reader can take at that pace."""
        fast = [layer.busy <= target for layer in self.layers]
        for ports in self.joint:
            for index, most in zip(ports, self._shares(ports, target), strict=True):
                fast[index] = self.layers[index].busy <= most
        possible = [mask.copy() for mask in fast]
        for index, layer in enumerate(self.layers):
            for reader, size in self.readers[index]:
                words = np.unique(self.layers[reader].takes[fast[reader]])
                widths, at = np.unique(layer.gives, return_inverse=True)
                together: BoolArray = np.asarray((_rewidth_cycles(size, words[None, :], widths[:, None]) <= target).any(axis=1))
                possible[index] &= together[at]
        return possible

    def _shares(self, ports: Sequence[int], target: int) -> list[int]:
        """How many cycles each of the ports may take by itself so that all together keep within ``target``: the longest is widened first. Fewer than
        any has where they cannot."""
        steps = [sorted({int(busy) for busy in self.layers[i].busy}) for i in ports]  # of each the last is the narrowest, tried first
        while _one_after_the_other([busy[-1] for busy in steps]) > target:
            longest = max((busy for busy in steps if len(busy) > 1), key=lambda busy: busy[-1], default=None)
            if longest is None:
                return [0] * len(steps)
            longest.pop()
        return [busy[-1] for busy in steps]

    def _pick(self, target: int, possible: Sequence[BoolArray], prices: FloatArray) -> Picked | None:
        chosen: Picked = []
        for index, layer in enumerate(self.layers):
            mask, scores = possible[index].copy(), layer.costs @ prices
            for source, size in self.sources[index]:
                width = self.layers[source].gives[chosen[source]]
                mask &= _rewidth_cycles(size, layer.takes, width) <= target
                scores = scores + (layer.takes != width) * (prices[0] * (60 + 4 * np.maximum(layer.takes, width)))
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


def _one_after_the_other(busy: Sequence[int]) -> int:
    """Busy cycles of the one port that stands for ports of so many."""
    return sum(busy) - (len(busy) - 1) * _BESIDE


def _badness(shares: FloatArray) -> float:
    """What is to be least: what is above the limits, then the sum of squares. ``shares``: of the limits."""
    return 1e3 * max(float(shares.max()) - 1, 0.0) + float((shares**2).sum())


def _rewidth_cycles(size: int, words: d.IntArray, widths: d.IntArray) -> d.IntArray:
    """Cycles of the change between words of ``words`` and of ``widths`` numbers, by the way that ``widths_between`` says; 0 where they are equal."""
    joined = np.lcm(words, widths)
    narrowest = np.where((joined <= MAX_JOINED) & (size % joined == 0), np.minimum(words, widths), np.gcd(words, widths))
    cycles: d.IntArray = np.where(words == widths, 0, size // narrowest + _REWIDTH)
    return cycles


def vector(resources: Resources) -> FloatArray:
    """In the order of FIELDS."""
    return np.array([getattr(resources, field) for field in FIELDS], dtype=np.float64)
