"""How one layer can be folded, and in what surroundings: what a process kind is asked, and in what terms it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple, overload

import numpy as np

from qfx.hardware.cost.resources import Resources, counts
from qfx.hardware.design.schedule import Folding
from qfx.hardware.design.streams import MAX_PIECES, MAX_WORD_BITS, IntArray, Stream

MAX_PORT_BITS = 512
"""The widest port word that is chosen; AXI DMA takes powers of two up to 1024 bits (PG021)."""

_NOTHING = Resources()

AS_FAR_AS_IT_GOES = "it is unfolded as far as it goes"
"""What limits a layer that nothing else limits."""


class Role(StrEnum):
    """What a process is in the folding of its layer.

    BETWEEN: none; it takes the words that come. MATVEC: it sets the layer's PE, SIMD and arithmetic. OTHER: it sets the layer's PE. PORT: it sets a
    port's numbers per word. FIXED: it is a layer of its own that cannot be folded.
    """

    BETWEEN = "between"
    MATVEC = "matvec"
    OTHER = "other"
    PORT = "port"
    FIXED = "fixed"


@dataclass(frozen=True, slots=True)
class Option:
    """One folding of a layer: numbers per word that it takes and gives, busy cycles a frame (turns, pipeline, restart), and what it costs with the
    FIFOs that it writes; ``between`` is the part of the costs that depends on the neighbours. ``memory``: bytes a frame that it reads of the board's
    memory."""

    folding: Folding
    takes: int
    gives: int
    busy: int
    cost: Resources
    between: Resources = _NOTHING
    memory: int = 0


class Foldings(Sequence[Folding]):
    """The foldings of many options, each made when it is asked for: of ``at[i]`` of the ``forms`` with weights and line buffer in ``places[i]``."""

    def __init__(self, forms: Sequence[Folding], at: IntArray, places: Sequence[tuple[str, str]]) -> None:
        self._forms, self._at, self._places = forms, at, places

    def __len__(self) -> int:
        return len(self._at)

    @overload
    def __getitem__(self, place: int) -> Folding: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Folding]: ...
    def __getitem__(self, place: int | slice) -> Folding | Sequence[Folding]:
        if isinstance(place, slice):
            return Foldings(self._forms, self._at[place], self._places[place])
        own: Folding = self._forms[int(self._at[place])]
        weights, buffer = self._places[place]
        return own if (own.weights, own.buffer) == (weights, buffer) else own.stored(weights, buffer)

    def taken(self, places: IntArray) -> Foldings:
        """Those at the places."""
        return Foldings(self._forms, self._at[places], [self._places[place] for place in places])


class Options(NamedTuple):
    """Options in columns, as in ``Option``: what a kind answers that has a hundred thousand of them. ``costs``, ``between``: (options, FIELDS)."""

    foldings: Sequence[Folding]
    takes: IntArray
    gives: IntArray
    busy: IntArray
    costs: IntArray
    between: IntArray
    memory: IntArray

    @classmethod
    def of(cls, options: Sequence[Option]) -> Options:
        """Those in a list."""
        costs, between = (
            np.array([counts(getattr(option, field)) for option in options], dtype=np.int64).reshape(len(options), len(counts(_NOTHING)))
            for field in ("cost", "between")
        )
        takes, gives, busy, memory = (
            np.array([getattr(option, field) for option in options], dtype=np.int64) for field in ("takes", "gives", "busy", "memory")
        )
        return cls(tuple(option.folding for option in options), takes, gives, busy, costs, between, memory)

    @classmethod
    def moved(cls, options: Sequence[Option], others: Sequence[Moves]) -> Options:
        """Each of the options, and it with its memories in the other places that there are for it."""
        base = Options.of(options)
        at = np.repeat(np.arange(len(options)), [1 + len(moves.places) for moves in others])
        stay = np.zeros((1, base.costs.shape[1]), dtype=np.int64)
        more = np.concatenate([part for moves in others for part in (stay, moves.more)])
        places: list[tuple[str, str]] = []
        for option, moves in zip(options, others, strict=True):
            places.append((option.folding.weights, option.folding.buffer))
            places += moves.places
        takes, gives, busy, memory = (column[at] for column in (base.takes, base.gives, base.busy, base.memory))
        return cls(Foldings(base.foldings, at, places), takes, gives, busy, base.costs[at] + more, base.between[at], memory)

    def at(self, places: IntArray) -> Options:
        """Those at the places."""
        own = self.foldings
        kept = own.taken(places) if isinstance(own, Foldings) else tuple(own[place] for place in places)
        return Options(kept, *(column[places] for column in self[1:]))


class Moves(NamedTuple):
    """Places of weights and line buffer, and what each pair takes ``more`` (pairs, FIELDS) than those that an option has."""

    places: list[tuple[str, str]]
    more: IntArray

    @classmethod
    def of(cls, others: Choices) -> Moves:
        """What ``choices`` has."""
        more = np.array([counts(taken) for _, _, taken in others], dtype=np.int64).reshape(len(others), len(counts(_NOTHING)))
        return cls([(weights, buffer) for weights, buffer, _ in others], more)


_MOST_LUTS, _LEAST_LUTS = 1000, 8
"""LUTs for an 18 kbit block between which it depends on the rest of the design which of the two is scarcer: the boards have 150 to 410 of them."""


@dataclass(frozen=True, slots=True)
class Way:
    """The numbers per word that a layer takes and gives, and of the changes of width in it the slowest's busy cycles, and what they take."""

    takes: int
    gives: int
    busy: int = 0
    cost: Resources = _NOTHING


def placed(option: Option, weights: Mapping[str, Resources], buffers: Mapping[str, Resources]) -> list[Option]:
    """``option`` with its weights and its line buffer in each of the places, of which it has the first: what that memory takes there. Without those
    that take as much of everything as another one, or more; the option as it is comes first."""
    elsewhere = (
        Option(option.folding.stored(weight, buffer), option.takes, option.gives, option.busy, option.cost + more, option.between, option.memory)
        for weight, buffer, more in choices(weights, buffers)
    )
    return [option, *elsewhere]


Choices = tuple[tuple[str, str, Resources], ...]
"""Places of weights and line buffer, and what they take beyond the places that an option has."""


def choices(weights: Mapping[str, Resources], buffers: Mapping[str, Resources]) -> Choices:
    """Those of ``placed`` beside the first."""
    return _choices(tuple(weights.items()), tuple(buffers.items()))


@lru_cache(maxsize=1 << 14)
def _choices(weights: tuple[tuple[str, Resources], ...], buffers: tuple[tuple[str, Resources], ...]) -> Choices:
    pairs = [(weight, buffer, taken + other) for weight, taken in weights for buffer, other in buffers]
    less = pairs[0][2] * -1
    return tuple(
        (weight, buffer, taken + less)
        for i, (weight, buffer, taken) in enumerate(pairs)
        if i and not any(_no_better(taken, other, i > j) for j, (_, _, other) in enumerate(pairs) if i != j)
    )


def _no_better(one: Resources, other: Resources, later: bool) -> bool:
    """Whether ``one`` takes no less of anything that memories are built of than ``other``, or for a single block as many LUTs as nobody would give;
    ``later``: whether equal ones count."""
    luts, blocks, urams = one.lut - other.lut, one.bram18 - other.bram18, one.uram - other.uram
    if luts >= 0 and blocks >= 0 and urams >= 0:
        return later or luts + blocks + urams > 0
    return urams >= 0 and (luts > -blocks * _MOST_LUTS > 0 or (blocks > 0 and -luts < blocks * _LEAST_LUTS))


def divisors(count: int) -> list[int]:
    """All of them, ascending."""
    return [n for n in range(1, count + 1) if count % n == 0]


def fits_word(count: int, stream: Stream) -> bool:
    """Whether a word of the stream may hold ``count`` numbers."""
    return count * stream.type.width <= MAX_WORD_BITS and count <= MAX_PIECES


def common_widths(count: int, streams: tuple[Stream, ...]) -> list[int]:
    """The numbers per word that divide ``count`` and that all of the streams can carry."""
    return [n for n in divisors(count) if all(fits_word(n, stream) for stream in streams)]


def port_widths(numbers: int, slot: int) -> list[int]:
    """The numbers per word of a port: powers of two that divide those of a frame."""
    return [n for n in divisors(numbers & -numbers) if n * slot <= MAX_PORT_BITS]


def window_channels(simd: int, per_group: int, taps: int) -> int | None:
    """The channels a word of the window unit in front of ``simd`` inputs, which divide ``taps`` * ``per_group`` where all taps come in a word: as few
    as make words from which those of the unit come by joining or splitting alone. None where a word has one tap and none do.

    >>> window_channels(4, 16, 1), window_channels(36, 16, 9), window_channels(48, 16, 9), window_channels(9, 16, 1)
    (4, 4, 16, None)
    """
    if taps == 1:
        return None if per_group % simd and simd % per_group else min(simd, per_group)
    return next(n for n in divisors(per_group) if not n * taps % simd)
