"""The layers of a model and what they share: which options they take, by prices (``prices.py``) and by an integer program (``program.py``).

Prices come first: they are quick. The program is asked where they leave a gap to a bound, or find nothing that fits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from qfx.hardware.cost.resources import FIELDS, Resources
from qfx.hardware.design.streams import IntArray
from qfx.hardware.folding import program
from qfx.hardware.folding.options import Layer
from qfx.hardware.folding.prices import COLUMNS, BoolArray, FloatArray, Pace, Picked, by_prices, changes, exchanged, rewidth_cycles
from qfx.hardware.folding.program import bad
from qfx.hardware.timing.program import READ_WRITE, RESTART, REWIND

_LEAST_LIMIT = 0.5  # so that one of what may not be used at all is above it
_BESIDE = REWIND  # cycles of a port's frame beside one per word
_EMPTIES = READ_WRITE + RESTART - REWIND  # further ones of a stream of several ports, which does not begin again while its pipeline is full
_REWIDTH = REWIND  # cycles of a process that changes the width of words, beyond one per word
GAP = 0.02
"""Between a choice and its bound: what is not worth a search, as a part of the bound."""
_UNDECIDED = 3  # paces without an answer, which take longest, that end the search
_NODES = 200  # of the search, each a relaxed program
_FINE = 1.005  # from pace to pace where several ports share a stream

_ROUNDING = 1e-6  # of sums of floats
_BLOCK = 64  # options compared at a time


@dataclass(frozen=True, slots=True)
class Best:
    """The choice of every layer's option (``picked``), how ``bad`` it is, and a ``bound``: none is less bad."""

    picked: Picked
    bad: float
    bound: float

    @property
    def gap(self) -> float:
        """How much less bad another choice may be, as a part of the bound."""
        return max(self.bad / self.bound - 1, 0.0) if self.bound > 0 else np.inf


@dataclass(frozen=True, slots=True)
class Fastest:
    """A choice that fits for a frame in ``pace`` cycles; none fits in fewer than ``bound``."""

    picked: Picked
    pace: int
    bound: int


class Market:
    """The layers of a model, what they share (``limits``: how much of each of FIELDS they may use; ``bytes_per_cycle``: of the board's memory).
    ``joint``: the layers, by name, that are ports of one stream, whose words come one after the other. An ``overhead`` is in the order of COLUMNS
    (``prices.py``).

    ``layers``: of the options given those that no other with the same words at both ends is at least as good as. What is picked are their places.
    """

    layers: list[Layer]
    reads: bool
    joint: list[list[int]]
    sources: list[list[tuple[int, int]]]

    def __init__(self, layers: Sequence[Layer], limits: FloatArray, joint: Sequence[Sequence[str]] = (), bytes_per_cycle: float = 0.0) -> None:
        self.layers = [_undominated(layer) for layer in layers]
        self.limits: FloatArray = np.maximum(limits, _LEAST_LIMIT)
        self.bytes_per_cycle = bytes_per_cycle
        self.reads = any(layer.memory is not None for layer in layers)
        index = {layer.name: i for i, layer in enumerate(layers)}
        self.joint = [[index[name] for name in names] for names in joint]
        self.sources = [[(index[name], size) for name, size in layer.sources] for layer in layers]
        self._beaten = [_beaten(layer, layer.columns if self.reads else layer.costs) for layer in self.layers]
        self._kept_at: dict[int, list[IntArray] | None] = {}
        self._paces: dict[int, Pace] = {}
        self._given_up: set[int] = set()  # paces for which the program neither found a choice nor that there is none: it is not asked again
        self._reached: tuple[int, int] | None = None  # places among the paces of what was found and of the bound, when it was last looked for
        self.readers: list[list[tuple[int, int, int]]] = [[] for _ in layers]
        for reader, sources in enumerate(self.sources):
            for place, (source, size) in enumerate(sources):
                self.readers[source].append((reader, place, size))

    def limits_at(self, target: int) -> FloatArray:
        """How much of each of COLUMNS may be used in a frame of ``target`` cycles."""
        return np.append(self.limits, max(self.bytes_per_cycle * target, _LEAST_LIMIT))

    def given(self, reader: int, place: int) -> IntArray:
        """By option of its source at ``place``: the numbers per word that come from there to ``reader``."""
        source = self.layers[self.sources[reader][place][0]]
        return source.takes if place in self.layers[reader].tapped else source.gives

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

    def paces(self) -> list[int]:
        """The cycles a frame, from ``floor`` to ``ceiling``, at which options or widths become possible; where several ports share a stream, or what
        memory gives is shared, steps of less than a percent besides."""
        low, high = self.floor, self.ceiling
        found = {low, high, *(int(busy) for layer in self.layers for busy in np.unique(layer.busy))}
        for reader, sources in enumerate(self.sources):
            for place, (_, size) in enumerate(sources):
                widths, words = np.unique(self.given(reader, place)), np.unique(self.layers[reader].words(place))
                found.update(rewidth_cycles(size, words[None, :], widths[:, None]).ravel().tolist())
        if self.joint or self.reads:  # the slower, the more comes from memory
            found.update(np.geomspace(low, high, 2 + int(np.log(high / low) / np.log(_FINE))).astype(np.int64).tolist())
        return sorted(pace for pace in found if low <= pace <= high)

    def bound(self, most: int) -> int | None:
        """The cycles of a frame below which no choice fits for certain, not even one of parts of options; None if there is a choice of parts for at
        ``most`` so many."""
        nothing = np.zeros(len(COLUMNS))
        if self._conceivable(most, nothing):
            return None
        paces = [pace for pace in self.paces() if pace > most]
        first = _first(lambda place: self._conceivable(paces[place], nothing), 0, len(paces), None)
        return paces[first - 1] if first else most

    def smallest(self) -> Picked:
        """Of every layer the option with the fewest LUTs."""
        return [int(layer.costs[:, FIELDS.index("lut")].argmin()) for layer in self.layers]

    def costs(self, picked: Picked) -> FloatArray:
        """What the layers take, with the changes of width between them."""
        taken: FloatArray = sum((layer.columns[i] for layer, i in zip(self.layers, picked, strict=True)), np.zeros(len(COLUMNS)))
        for index, sources in enumerate(self.sources):
            for place, (source, _) in enumerate(sources):
                taken = taken + changes(self.given(index, place)[picked[source]], self.layers[index].words(place)[picked[index]])
        return taken

    def fits(self, picked: Picked, overhead: FloatArray, target: int) -> bool:
        """Whether the layers keep within the limits, with ``overhead`` for what is no layer: forks, deep FIFOs."""
        return bool((overhead + self.costs(picked) <= self.limits_at(target) * (1 + _ROUNDING)).all())

    def share(self, taken: FloatArray, target: int) -> float:
        """Of the limits, that of what is scarcest."""
        return float((taken / self.limits_at(target)).max())

    def cheapest(self, target: int, overhead: FloatArray, known: Picked | None = None, gap: float = GAP) -> Best | None:
        """The option of each layer for a frame in ``target`` cycles: the cheapest that fit, else those that come nearest to it; None if none keep
        the pace. ``known``: a choice for that pace to begin with; ``gap``: to the bound, which is not worth a search."""
        kept = self._kept(target)
        if kept is None:
            return None
        pace, spent = self._pace(target, kept), overhead / self.limits_at(target)
        tried = [by_prices(pace, spent), None if known is None else exchanged(pace, _among(kept, known), spent)]
        found, picked = min(((bad(spent + pace.taken(one)), one) for one in tried if one is not None), default=(np.inf, None))
        problem = self._problem(target, pace, kept, spent)
        bound = program.relaxed(problem)
        if picked is None or found > bound + gap * max(bound, 0.0) + _ROUNDING:
            solved = program.cheapest(problem, nodes=_NODES, gap=gap, start=picked)
            if solved.picked is not None and (better := bad(spent + pace.taken(solved.picked))) < found:
                picked, found = solved.picked, better
            bound = max(bound, solved.bound)
        if picked is None:
            return None
        return Best(_back(kept, picked), found, bound)

    def nearest(self, target: int, overhead: FloatArray) -> Picked | None:
        """As ``cheapest``, but quick, without a bound: by prices, and by the program only if something might fit that prices do not find."""
        kept = self._kept(target)
        if kept is None:
            return None
        spent = overhead / self.limits_at(target)
        picked = by_prices(self._pace(target, kept), spent)
        if picked is not None and self.fits(_back(kept, picked), overhead, target):
            return _back(kept, picked)
        fitting = self.fitting(target, overhead)[0] if self._conceivable(target, overhead) else None
        if fitting is not None:
            return fitting
        if picked is not None:
            return _back(kept, picked)
        best = self.cheapest(target, overhead)
        return None if best is None else best.picked

    def fastest(self, overhead: FloatArray, tried: Callable[[int, int], None], most: float = np.inf) -> Fastest | None:
        """The fastest choice that fits, for at ``most`` so many cycles a frame; None if none was found. ``tried``: called with the number of paces
        looked at, and of all.

        First by prices, then a bound without integers, then between the two by the integer program.
        """
        paces = [pace for pace in self.paces() if pace <= most]
        total = 2 * len(paces).bit_length()
        count = 0
        near, bound = (None, None) if self._reached is None else self._reached

        def told(answer: Callable[[int], bool]) -> Callable[[int], bool]:
            def asked(place: int) -> bool:
                nonlocal count
                tried(count, max(total, count + 1))
                count += 1
                return answer(place)

            return asked

        picks: dict[int, Picked | None] = {}

        def by_prices(place: int) -> bool:
            picks[place] = self._by_prices(paces[place], overhead)
            return picks[place] is not None

        reached = _first(told(by_prices), 0, len(paces), near)  # the fastest that prices find
        found = picks.get(reached)
        # What cannot be reached even in parts.
        low = _first(told(lambda place: self._conceivable(paces[place], overhead)), 0, reached, reached - 1 if bound is None else bound)
        self._reached = reached, low
        high, proven = reached, low  # below ``proven`` nothing fits; what is undecided says nothing of faster paces
        undecided, step = 0, 1  # from the bound on: mostly something fits there
        while low < high and undecided < _UNDECIDED:
            tried(count, max(total, count + 1))
            count += 1
            middle = min(low + step - 1, (low + high) // 2)
            given_up = paces[middle] in self._given_up
            picked, decided = (None, False) if given_up else self.fitting(paces[middle], overhead)
            if picked is not None:
                found, high = picked, middle
                continue
            low, step = middle + 1, 2 * step
            if decided:
                proven = low
            elif not given_up:
                self._given_up.add(paces[middle])
                undecided += 1
        if found is None:
            return None
        return Fastest(found, paces[high], paces[min(high, proven)])

    def fitting(self, target: int, overhead: FloatArray) -> tuple[Picked | None, bool]:
        """A choice for a frame in ``target`` cycles that fits, if one is found; if none, whether there is none for certain."""
        kept = self._kept(target)
        if kept is None:
            return None, True
        pace, spent = self._pace(target, kept), overhead / self.limits_at(target)
        picked, decided = program.fitting(self._problem(target, pace, kept, spent), nodes=_NODES)
        if picked is None:
            return None, decided
        return (_back(kept, picked), True) if self.fits(_back(kept, picked), overhead, target) else (None, False)

    def _by_prices(self, target: int, overhead: FloatArray) -> Picked | None:
        kept = self._kept(target)
        if kept is None:
            return None
        picked = by_prices(self._pace(target, kept), overhead / self.limits_at(target))
        return _back(kept, picked) if picked is not None and self.fits(_back(kept, picked), overhead, target) else None

    def _conceivable(self, target: int, overhead: FloatArray) -> bool:
        kept = self._kept(target)
        if kept is None:
            return False
        problem = self._problem(target, self._pace(target, kept), kept, overhead / self.limits_at(target))
        return program.conceivable(problem)

    def _kept(self, target: int) -> list[IntArray] | None:
        """For each layer those of its options that keep the pace, give words that every reader can take at that pace, and are not dominated by
        another that does; None if a layer has none."""
        if target not in self._kept_at:
            self._kept_at[target] = self._find_kept(target)
        return self._kept_at[target]

    def _find_kept(self, target: int) -> list[IntArray] | None:
        fast = [layer.busy <= target for layer in self.layers]
        found = []
        for index, beaten in enumerate(self._beaten):
            possible = fast[index].copy()
            for reader, place, size in self.readers[index]:
                words = np.unique(self.layers[reader].words(place)[fast[reader]])
                widths, at = np.unique(self.given(reader, place), return_inverse=True)
                together: BoolArray = np.asarray((rewidth_cycles(size, words[None, :], widths[:, None]) <= target).any(axis=1))
                possible &= together[at]
            in_joint = any(index in ports for ports in self.joint)  # then what is faster may be worth more than what is cheaper
            found.append(np.flatnonzero(possible if in_joint else possible & (beaten > target)))
        return found if all(at.size for at in found) else None

    def _pace(self, target: int, kept: Sequence[IntArray]) -> Pace:
        """``kept``: those of that pace."""
        if target not in self._paces:
            self._paces[target] = self._find_pace(target, kept)
        return self._paces[target]

    def _find_pace(self, target: int, kept: Sequence[IntArray]) -> Pace:
        pairs = list(zip(self.layers, kept, strict=True))
        allowed = [np.ones(at.size, dtype=np.bool_) for at in kept]
        for ports in self.joint:
            for index, most in zip(ports, self._parts(ports, target), strict=True):
                allowed[index] = self.layers[index].busy[kept[index]] <= most
        return Pace(
            [layer.takes[at] for layer, at in pairs],
            [layer.gives[at] for layer, at in pairs],
            [layer.columns[at] / self.limits_at(target) for layer, at in pairs],
            [[self._link(reader, place, target, kept) for place in range(len(sources))] for reader, sources in enumerate(self.sources)],
            allowed,
        )

    def _link(self, reader: int, place: int, target: int, kept: Sequence[IntArray]) -> program.Between:
        source, size = self.sources[reader][place]
        widths, of_source = np.unique(self.given(reader, place)[kept[source]], return_inverse=True)
        words, of_reader = np.unique(self.layers[reader].words(place)[kept[reader]], return_inverse=True)
        taken = changes(widths[:, None], words[None, :]) / self.limits_at(target)
        return program.Between(source, reader, of_source, of_reader, taken, rewidth_cycles(size, words[None, :], widths[:, None]) <= target)

    def _problem(self, target: int, pace: Pace, kept: Sequence[IntArray], spent: FloatArray) -> program.Problem:
        together = [
            program.Together(ports, [self.layers[i].busy[kept[i]].astype(np.float64) for i in ports], target + (len(ports) - 1) * _BESIDE - _EMPTIES)
            for ports in self.joint
        ]
        return program.Problem(pace.shares, [link for links in pace.between for link in links], together, spent)

    def _parts(self, ports: Sequence[int], target: int) -> list[int]:
        """How many cycles each of the ports may take by itself so that all together keep within ``target``: the longest is widened first. Fewer than
        any has where they cannot."""
        steps = [sorted({int(busy) for busy in self.layers[i].busy}) for i in ports]  # of each the last is the narrowest, tried first
        while _one_after_the_other([busy[-1] for busy in steps]) > target:
            longest = max((busy for busy in steps if len(busy) > 1), key=lambda busy: busy[-1], default=None)
            if longest is None:
                return [0] * len(steps)
            longest.pop()
        return [busy[-1] for busy in steps]


def least(takes: IntArray, gives: IntArray, costs: IntArray) -> IntArray:
    """The places of those that no other with the same words at both ends is at least as good as in every cost; the first of equals."""
    kept = [_front(costs, own) for own in _groups(takes, gives, costs)]
    return np.sort(np.concatenate(kept)) if kept else np.zeros(0, dtype=np.int64)


def _groups(takes: IntArray, gives: IntArray, costs: IntArray) -> list[IntArray]:
    """The places of those with the same words at both ends, by rising ``costs``: whatever is at least as good as another comes before it."""
    if not takes.size:
        return []
    _, group = np.unique(np.column_stack([takes, gives]), axis=0, return_inverse=True)
    order = np.lexsort((np.arange(takes.size), *costs.T[::-1], group))
    ends = np.flatnonzero(np.diff(group[order], append=-1)) + 1
    return [order[start:end] for start, end in zip((0, *ends[:-1]), ends, strict=True)]


def _front(costs: IntArray, order: IntArray) -> IntArray:
    """Those of ``order`` of which none before is at least as good in every cost: a block at a time, compared with what is kept, then with itself."""
    front = order[:0]
    for start in range(0, order.size, _BLOCK):
        block = order[start : start + _BLOCK]
        block = block[~_dominated(costs[front], costs[block]).any(axis=0)]
        by_earlier = np.triu(_dominated(costs[block], costs[block]), 1)
        front = np.concatenate([front, block[~by_earlier.any(axis=0)]])
    return front


def _dominated(ours: IntArray, theirs: IntArray) -> BoolArray:
    """Whether each of ours (rows) is at least as good as each of theirs (columns)."""
    found: BoolArray = np.ones((len(ours), len(theirs)), dtype=np.bool_)
    for mine, other in zip(ours.T, theirs.T, strict=True):
        found &= mine[:, None] <= other[None, :]
    return found


def _beaten(layer: Layer, columns: IntArray) -> IntArray:
    """Of each option the busy cycles of the fastest other one for the same words that takes no more of any of the ``columns``; of equals the slower,
    or the later, is beaten."""
    never = np.iinfo(np.int64).max
    found = np.full(layer.busy.size, never)
    for own in _groups(layer.takes, layer.gives, np.column_stack([columns, layer.busy])):  # so what beats an option comes before it
        costs, busy = columns[own], layer.busy[own]
        for start in range(0, own.size, _BLOCK):
            end = min(start + _BLOCK, own.size)
            beats = _dominated(costs[:end], costs[start:end]) & (np.arange(end)[:, None] < np.arange(start, end)[None, :])
            found[own[start:end]] = np.where(beats, busy[:end, None], never).min(axis=0)
    return found


def _first(holds: Callable[[int], bool], low: int, high: int, near: int | None) -> int:
    """The first place from ``low`` on at which it holds, or ``high``; it holds at all behind. Looked for around ``near`` first."""
    if near is not None and low <= near < high:
        step, place = 1, near
        if holds(place):
            high = place
            while low < high and holds(place := max(high - step, low)):
                high, step = place, 2 * step
            low = low if low == high else place + 1
        else:
            low = place + 1
            while low < high and not holds(place := min(low + step - 1, high - 1)):
                low, step = place + 1, 2 * step
            high = high if low == high else place
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return high


def _undominated(layer: Layer) -> Layer:
    return layer.at(least(layer.takes, layer.gives, np.column_stack([layer.busy, layer.columns])))


def _back(kept: Sequence[IntArray], picked: Sequence[int]) -> Picked:
    """What is picked of those that were kept, by the places among all."""
    return [int(at[i]) for at, i in zip(kept, picked, strict=True)]


def _among(kept: Sequence[IntArray], picked: Picked) -> Picked:
    """What is picked by the places among those that were kept, as ``_back`` undoes it."""
    return [int(np.searchsorted(at, i)) for at, i in zip(kept, picked, strict=True)]


def _one_after_the_other(busy: Sequence[int]) -> int:
    """Busy cycles of the one port that stands for ports of so many."""
    return sum(busy) - (len(busy) - 1) * _BESIDE + _EMPTIES


def vector(resources: Resources) -> FloatArray:
    """In the order of FIELDS."""
    return np.array([getattr(resources, field) for field in FIELDS], dtype=np.float64)
