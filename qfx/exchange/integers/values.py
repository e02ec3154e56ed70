"""What flows through a fake-quantized network while its graph of integers grows: stored integers, and what has not been quantized yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from qfx.exchange.affine import AffineCast
from qfx.integers.growing import Growing, Range
from qfx.integers.steps import Ints

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

UNIT = 2.0**-24
"""Half a last place of float32, over the number."""

Move = Callable[[Growing, str, str], str]
"""Numbers at other places, or the greatest of windows: the graph, a name, and the node that is moved; the node that holds the result."""


@dataclass(frozen=True, eq=False)
class View:
    """Stored integers: the node that holds them, the least of them, and the float that each stands for, from that one on. ``cast``: what made them,
    as long as they stand for its numbers."""

    node: str
    low: int
    floats: Floats
    cast: AffineCast | None = None

    @property
    def integers(self) -> Ints:
        return np.arange(self.low, self.low + len(self.floats), dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums of integers, not in the graph yet, each times a factor of its channel plus an offset, in exact arithmetic.

    ``emit``: puts them into the graph under a name, times a sign of each channel; ``ranges``: between which they lie. ``error``: how far the source's
    float32 may be from the exact number, in each channel. ``clamp``: what they are limited to (a ReLU). ``moves``: what happens to the results then.
    """

    emit: Callable[[str, Ints], str]
    ranges: tuple[Range, ...]
    factors: tuple[Fraction, ...]
    offsets: tuple[Fraction, ...]
    error: Doubles
    clamp: tuple[Fraction | None, Fraction | None] = (None, None)
    moves: tuple[Move, ...] = ()
    emitted: dict[bytes, str] = field(default_factory=dict)

    @property
    def largest(self) -> Doubles:
        """The greatest magnitude of each channel."""
        return np.array(
            [
                float(max(abs(factor * end + offset) for end in range_))
                for factor, offset, range_ in zip(self.factors, self.offsets, self.ranges, strict=True)
            ]
        )

    def limited(self, low: Fraction | None, high: Fraction | None) -> Sums:
        """Behind a clamp."""

        def within(end: Fraction | None) -> Fraction | None:
            if end is None:
                return None
            end = end if low is None else max(end, low)
            return end if high is None else min(end, high)

        first, last = self.clamp
        return replace(self, clamp=(low if first is None else within(first), high if last is None else within(last)))

    def in_graph(self, name: str, signs: Ints) -> str:
        """The node that holds them, which is put into the graph once."""
        key = signs.tobytes()
        if key not in self.emitted:
            self.emitted[key] = self.emit(name, signs)
        return self.emitted[key]


@dataclass(frozen=True, eq=False)
class Pair:
    """A function of two stored integers, not quantized yet: ``table`` has its float for each pair. ``moves``: as of Sums."""

    a: View
    b: View
    table: Floats
    moves: tuple[Move, ...] = ()


@dataclass(frozen=True, eq=False)
class Joined:
    """Values side by side along an axis (the batch left out), each of integers of its own."""

    parts: tuple[View, ...]
    axis: int


Value = View | Sums | Pair | Joined
