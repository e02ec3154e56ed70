"""What travels between processes, and what happens to a number before it leaves one. Values only; every process kind speaks of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gcd, lcm

import numpy as np
import numpy.typing as npt

from qfx.errors import ProjectError
from qfx.fixed.type import FixedType

IntArray = npt.NDArray[np.int64]

MAX_WORD_BITS = 4096
"""The widest word of a stream or port that Vitis HLS and Vivado HLS take."""

MAX_PIECES = 1024
"""The most pieces that the tools split an array into, and the most numbers of a word: with more they stop (XFORM 203-103, docs/hls.md)."""

MAX_JOINED = 64
"""The most numbers a word that words are joined to on the way to others: of 64 bits each they fill MAX_WORD_BITS."""


def widths_between(numbers: int, source: int, target: int) -> tuple[int, ...]:
    """The numbers per word that words of ``source`` numbers take one after the other on their way to words of ``target``, ``numbers`` a frame: each
    divides the one before or is divided by it. Where neither of the two does, they go over their least common multiple, so that neither end waits;
    where that makes no whole words, or words of more than MAX_JOINED numbers, over their greatest common divisor.

    >>> widths_between(96, 2, 8), widths_between(96, 8, 3), widths_between(30, 10, 3), widths_between(20, 10, 4), widths_between(9, 3, 3)
    ((8,), (24, 3), (30, 3), (20, 4), ())
    >>> widths_between(40, 8, 10), widths_between(24, 8, 5)
    ((40, 10), (1, 5))
    """
    if source == target:
        return ()
    if source % target == 0 or target % source == 0:
        return (target,)
    joined = lcm(source, target)
    return (joined if joined <= MAX_JOINED and numbers % joined == 0 else gcd(source, target), target)


def check_word(where: str, parallel: int, bits: int) -> None:
    """Raises ProjectError if no stream or port can carry ``parallel`` numbers of ``bits`` bits a word."""
    if parallel * bits > MAX_WORD_BITS:
        raise ProjectError(
            f"a word of {parallel} numbers of {bits} bits has {parallel * bits} bits",
            where=where,
            remedy=f"fold it further: at most {MAX_WORD_BITS // bits} numbers a word (PE, SIMD, of a port) keep within the tools' limit of "
            f"{MAX_WORD_BITS} bits",
        )
    if parallel > MAX_PIECES:
        raise ProjectError(
            f"a word of {parallel} numbers", where=where, remedy=f"fold it further: the tools split an array into {MAX_PIECES} pieces at most"
        )


BUILT = 64
"""Words on the chip of a FIFO in the board's memory."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A FIFO of ``words`` words a frame; a word holds ``parallel`` raws of ``type``, neighbours in the order pixel by pixel, channel by channel.
    ``storage``: what it is built of, one of ``schedule.FIFO_STORAGE``."""

    name: str
    type: FixedType
    parallel: int
    words: int
    depth: int
    storage: str = "auto"

    @property
    def built(self) -> int:
        """The words of it that lie on the chip: of one in memory what covers the time between two bursts."""
        return min(self.depth, BUILT) if self.storage == "ddr" else self.depth

    @property
    def bits(self) -> int:
        """The width of a word."""
        return self.parallel * self.type.width

    @property
    def numbers(self) -> int:
        """The numbers of a frame."""
        return self.words * self.parallel

    def with_parallel(self, parallel: int) -> Stream:
        """The same numbers, ``parallel`` of them a word."""
        return replace(self, parallel=parallel, words=self.numbers // parallel)


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Constants that an epilogue reads: one (``index`` is "scalar"), one per channel, one per element of the frame in stream order, one for all
    channels of a pixel (``index`` is "pixel": entry (pixel / ``inner``) % size), or one that the number itself says (``index`` is "number": each lane
    has the whole table)."""

    name: str
    values: tuple[int, ...]
    index: str  # "scalar", "channel", "element", "pixel", "number"
    loaded: FixedType | None = None
    """The type of values that are loaded while the hardware runs; ``values`` are then those at hand. Never "scalar" or "pixel"."""
    inner: int = 1
    pixels: int = 0
    """Of the index "pixel": how many pixels in a row read an entry, and those of a frame."""

    @property
    def repeats(self) -> bool:
        """Whether the entries start again before the frame ends."""
        return self.inner * len(self.values) < self.pixels


@dataclass(frozen=True, slots=True)
class Step:
    """One call of a pointwise template: ``out x = qfx::<function><out, *arguments>(x, *operands)``.

    An argument is an int, a FixedType (its raw type), a Tag (a fixed-point type with its modes) or a Slot (a digit of a constant). ``beside``: where
    it takes the number of the second stream too, as its first or its second number (0, 1); -1: it does not.
    """

    function: str
    out: FixedType
    arguments: tuple[int | FixedType | Tag | Slot, ...]
    operands: tuple[Operand, ...] = ()
    beside: int = -1


@dataclass(frozen=True, slots=True)
class Tag:
    """A template argument ``qfx::fixed<...>``: the type with its modes, where FixedType alone stands for its raw."""

    type: FixedType


@dataclass(frozen=True, slots=True)
class Slot:
    """One digit of every constant of a table: ``+-2**(low + i)`` for i in range(span), or 0 where ``zero`` says so; negative where ``negative`` says
    so."""

    low: int
    span: int
    zero: bool
    negative: bool

    @property
    def field(self) -> int:
        """The bits that tell the shifts, and zero, apart."""
        return (self.span + self.zero - 1).bit_length()

    @property
    def width(self) -> int:
        return self.field + self.negative


@dataclass(frozen=True, slots=True)
class Operand:
    """A constant operand: the entry of ``table`` at the present channel or element, or the table itself where the number says which entry;
    ``type`` is its raw type, None for a plain C++ int."""

    table: Table
    type: FixedType | None = None


@dataclass(frozen=True, slots=True)
class Epilogue:
    """What happens to a number before it leaves a process. ``inputs`` are the types that come (Add, Sub, Mul: two), ``out`` the one that leaves.
    ``counted``: of an accumulator that wraps, the type that would hold the sum, for simulations that count what the cast behind it loses. ``beside``:
    the type of a number of a second stream, with which one of the steps joins the number."""

    inputs: tuple[FixedType, ...]
    steps: tuple[Step, ...]
    out: FixedType
    channels: int  # of the frame, to address tables per element
    counted: FixedType | None = None
    beside: FixedType | None = None

    @property
    def tables(self) -> tuple[Table, ...]:
        """The arrays that it reads, in the order of its steps: all tables but scalars, which are literals."""
        return tuple(operand.table for step in self.steps for operand in step.operands if operand.table.index != "scalar")

    @property
    def by_pixel(self) -> bool:
        """Whether it has constants for each pixel, of which one is read in a turn: it takes one pixel at a time."""
        return any(table.index in ("element", "pixel") for table in self.tables)
