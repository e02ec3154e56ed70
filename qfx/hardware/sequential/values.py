"""What lies in memory and what an engine is told to do with it: values and steps, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from qfx.fixed.type import QMode
from qfx.ir.values import RawArray

Integers = npt.NDArray[np.object_]
"""Python integers, an entry for each channel."""


CHANNELS = 32
"""Parts of a place in memory begin at multiples of so many channels: at a vector of any array."""


class Kind(IntEnum):
    """What a step makes of its windows; as in ``hls/include/qfx/sequential/step.h``."""

    MATRIX = 0
    SUM = 1
    MAXIMUM = 2


class Overflow(IntEnum):
    """What becomes of numbers beyond the bounds: the bound, whatever bits are left, or 0."""

    CLAMP = 0
    WRAP = 1
    ZERO = 2


ROUNDING: dict[QMode, int] = {
    QMode.TRN: 0, QMode.RND: 1, QMode.RND_MIN_INF: 2, QMode.RND_ZERO: 3, QMode.RND_INF: 4, QMode.RND_CONV: 5, QMode.TRN_ZERO: 6,
}  # fmt: skip
"""The rounding modes by their number in the C++."""


@dataclass(frozen=True, slots=True)
class Value:
    """A value that lies in memory, or what is seen of one: raws of ``width`` bits in the shape (channels, height, columns).

    ``name``: of the place where it lies, that of a node of the graph. ``skip``: the channels of the place that come before, whole vectors of any
    array. ``zoom``: how many rows and columns show each one that is in memory (1: as it is)."""

    name: str
    channels: int
    height: int
    columns: int
    width: int
    signed: bool
    skip: int = 0
    zoom: tuple[int, int] = (1, 1)

    @property
    def pixels(self) -> int:
        return self.height * self.columns

    @property
    def held(self) -> tuple[int, int]:
        """Rows and columns in memory."""
        return self.height // self.zoom[0], self.columns // self.zoom[1]


@dataclass(frozen=True, slots=True)
class Window:
    """The windows of a step over two axes; pads may be negative where pixels are left out at the beginning."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    pads: tuple[int, int]
    dilation: tuple[int, int]

    @property
    def reach(self) -> tuple[int, int]:
        """Rows and columns that one window spans."""
        return (self.kernel[0] - 1) * self.dilation[0] + 1, (self.kernel[1] - 1) * self.dilation[1] + 1


PIXEL = Window((1, 1), (1, 1), (0, 0), (1, 1))
"""Every pixel by itself."""


@dataclass(frozen=True, eq=False, slots=True)
class Epilogue:
    """What becomes of the sums; an entry of each array for each channel of the result.

    ``sum * factor + added + (beside << beside_up)``; numbers of 0 and more are shifted up by ``leak``, those below are multiplied by ``slope``;
    rounded after ``down`` bits, brought within ``least`` and ``greatest``, into ``bits`` where that wraps, and shifted ``up``.
    """

    factor: Integers
    added: Integers
    beside_up: Integers
    leak: int
    slope: int
    down: Integers
    rounding: QMode
    least: Integers
    greatest: Integers
    overflow: Overflow
    bits: int
    signed: bool
    up: Integers
    value_bits: int
    """Bits, with a sign, that hold every number on the way."""

    @property
    def leaky(self) -> bool:
        """Whether what is below 0 becomes something else than what is not."""
        return self.leak != 0 or self.slope != 1


@dataclass(frozen=True, eq=False, slots=True)
class Step:
    """One fused layer: ``target`` = epilogue of the windows of ``source``. ``weight`` is (outputs, channels, *kernel) of a matrix, and
    (channels, *kernel) of a sum of each channel, None of a maximum. ``nodes``: the graph's nodes that it computes, the target's last.

    ``first``: the step of another product with a matrix whose results are ``beside`` this one's. It is computed together with it, tile by tile and
    job by job, so that they never go to memory: ``beside`` is None then."""

    kind: Kind
    source: Value
    target: Value
    window: Window
    weight: RawArray | None
    epilogue: Epilogue
    beside: Value | None
    acc_bits: int
    nodes: tuple[str, ...]
    macs: int
    weight_bits: int = 1
    """Bits of a signed word that holds every weight."""
    first: Step | None = None

    @property
    def name(self) -> str:
        return self.nodes[0]

    @property
    def products(self) -> tuple[Step, ...]:
        """What is multiplied, in that order: the step itself, behind the one that is computed together with it."""
        return (self,) if self.first is None else (self.first, self)

    @property
    def reads(self) -> tuple[Value, ...]:
        """What must be in memory."""
        sources = tuple(one.source for one in self.products)
        return sources if self.beside is None else (*sources, self.beside)


@dataclass(frozen=True, slots=True)
class Fold:
    """Channel ``k * channels + c`` of column x is channel c of column ``x * stride - before + k * dilation`` of the frame, or 0 beyond it."""

    channels: int
    columns: int
    kernel: int
    stride: int
    before: int
    dilation: int


@dataclass(frozen=True, slots=True)
class Layers:
    """A network as steps: ``inputs`` come from outside, ``outputs`` go there, each with the order of the graph's ports. ``folds``: the inputs, by
    name, that are written otherwise than they come. ``batch``: the frames that go through at once, a step of all of them after the other."""

    steps: tuple[Step, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    folds: tuple[tuple[str, Fold], ...] = ()
    batch: int = 1

    def fold(self, value: Value) -> Fold:
        """How a value is written; one that is not folded as it is."""
        return dict(self.folds).get(value.name, Fold(value.channels, value.columns, 1, 1, 0, 1))

    @property
    def values(self) -> tuple[Value, ...]:
        """All that lies in memory, in the order in which it comes to be."""
        return (*self.inputs, *(step.target for step in self.steps))


def integers(numbers: Any, count: int) -> Integers:
    """One number, or one for each channel, as an array of Python integers."""
    result: Integers = np.empty(count, dtype=object)
    flat = [int(number) for number in np.asarray(numbers, dtype=object).reshape(-1)]
    result[:] = flat * count if len(flat) == 1 else flat
    return result
