"""Where the words of FIFOs and memories lie: in LUTs (as shift registers or RAM), in block RAM or in UltraRAM.

A memory is put where the folding of its layer, or the schedule of a FIFO, asks for; where that says "auto" its depth and width decide. Code
generation binds every FIFO and memory to the decision, and the estimate counts what was bound. What the tools call it: UG1399 (BIND_STORAGE) and
UG902 (RESOURCE). docs/estimates.md says what is left to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from math import ceil

from qfx.fixed.arith import Interval
from qfx.hardware.design.arithmetic import rom_shape
from qfx.hardware.design.streams import MAX_WORD_BITS, Epilogue, Stream, Table

LUTS_PER_BRAM18 = 36
"""Where nothing is asked for, a memory is built of LUTs while it takes no more of them than this for every 18 kbit block that it saves. A word of a
block has as many bits, so that ROMs of up to 64 words and FIFOs of up to 32 are of LUTs, however wide. The boards have 150 to 400 LUTs for each
block: what a design has left of either is for who folds it to weigh (``folding/options.py``, ``folding/placing.py``)."""

BRAM18_SHAPES = ((512, 36), (1024, 18), (2048, 9), (4096, 4), (8192, 2), (16384, 1))
"""Words and bits of an 18 kbit block RAM with one read and one write port: UG473, UG573."""

URAM_SHAPE = (4096, 72)
"""Words and bits of a 288 kbit UltraRAM, which has this shape alone and no contents at first (UG573)."""

MOST_ROWS_IN_LUTS = 256
"""Of a memory that is partly of LUTs: so many words of a bit the multiplexers of a slice join (UG474, UG574)."""

SHIFT_DEPTH = 16
"""A global pool keeps so many words of sums in registers, as pool_global of hls/include/qfx/pool.h does."""


class Storage(Enum):
    """What holds the words; the value is the vendor's name of it. REGISTERS: nothing is bound, since there is no more than a word."""

    REGISTERS = ""
    SRL = "SRL"
    LUTRAM = "LUTRAM"
    BRAM = "BRAM"
    URAM = "URAM"


@lru_cache(maxsize=1 << 14)
def bram18(depth: int, width: int) -> int:
    """18 kbit block RAMs of a memory: the fewest over the shapes that one can have.

    >>> bram18(512, 36), bram18(1024, 64), bram18(100, 8), bram18(40000, 1)
    (1, 4, 1, 3)
    """
    return min(ceil(depth / words) * ceil(width / bits) for words, bits in BRAM18_SHAPES)


def uram(depth: int, width: int) -> int:
    """288 kbit UltraRAMs of a memory.

    >>> uram(4096, 72), uram(4097, 8), uram(10, 73)
    (1, 2, 2)
    """
    words, bits = URAM_SHAPE
    return ceil(depth / words) * ceil(width / bits)


def dense(depth: int, width: int) -> bool:
    """Whether UltraRAM is for such a memory where nobody asks for it: if each holds what would take two block RAMs, for there are few, and they are
    far from the rest."""
    return bram18(depth, width) >= 2 * uram(depth, width)


_ASKED = {"lut": Storage.LUTRAM, "bram": Storage.BRAM, "uram": Storage.URAM}


def fifo(depth: int, width: int, asked: str = "auto") -> Storage:
    """A FIFO: shift registers, of which a LUT holds 32 words of a bit, or blocks. Two words of shift registers become flip-flops, whatever is
    asked for; what is on the chip of one in memory is built as its size says.

    >>> fifo(32, 512), fifo(128, 8), fifo(33, 36)
    (<Storage.SRL: 'SRL'>, <Storage.SRL: 'SRL'>, <Storage.BRAM: 'BRAM'>)
    """
    if depth <= 2 or asked == "lut":
        return Storage.SRL
    if asked in _ASKED:
        return _ASKED[asked]
    return Storage.SRL if _worth(width * ceil(depth / 32), depth, width) else Storage.BRAM


def rom(depth: int, width: int, asked: str = "auto") -> Storage:
    """Constants: a LUT holds 64 words of a bit.

    >>> rom(64, 64), rom(65, 64), rom(256, 8), rom(1, 8)
    (<Storage.LUTRAM: 'LUTRAM'>, <Storage.BRAM: 'BRAM'>, <Storage.LUTRAM: 'LUTRAM'>, <Storage.REGISTERS: ''>)
    """
    return _array(width * ceil(depth / 64), depth, width, asked)


def ram(depth: int, width: int, asked: str = "auto") -> Storage:
    """A memory with a write and a read port: some one and a half LUTs for 64 words of a bit.

    >>> ram(64, 24), ram(65, 24)
    (<Storage.LUTRAM: 'LUTRAM'>, <Storage.BRAM: 'BRAM'>)
    """
    return _array(ceil(1.5 * width) * ceil(depth / 64), depth, width, asked)


def _array(luts: int, depth: int, width: int, asked: str) -> Storage:
    if depth <= 1 or width == 0:
        return Storage.REGISTERS
    if asked != "auto":
        return _ASKED[asked]
    return Storage.LUTRAM if _worth(luts, depth, width) else Storage.BRAM


def _worth(luts: int, depth: int, width: int) -> bool:
    return luts <= LUTS_PER_BRAM18 * bram18(depth, width)


@dataclass(frozen=True, slots=True)
class Memory:
    """What an array of the C++ becomes: ``count`` equal memories of ``depth`` words of ``width`` bits, constant or with a write and a read port.
    ``asked``: what it is to be built of, "auto", "lut", "bram" or, unless it is constant, "uram"."""

    depth: int
    width: int
    count: int = 1
    constant: bool = False
    asked: str = "auto"

    @property
    def storage(self) -> Storage:
        return (rom if self.constant else ram)(self.depth, self.width, self.asked)


def weights(rows: int, lanes: int, width: int, *, loaded: bool, asked: str = "auto") -> tuple[Memory, ...]:
    """Those of a matrix-vector unit, ``lanes`` raws or codes of ``width`` bits a row: if they are ``loaded``, a memory for each element of a row;
    else the rows are words of one memory, as far as the tools know such wide words (MAX_WORD_BITS). ``asked``: one of ``schedule.WEIGHT_STORAGE``. Of
    "mixed" ones, the rows that a whole number of blocks does not hold are a second memory, of LUTs.

    >>> [(memory.depth, memory.storage.value) for memory in weights(576, 32, 8, loaded=False, asked="mixed")]
    [(512, 'BRAM'), (64, 'LUTRAM')]
    """
    depth, elements, bits = rom_shape(rows, lanes, width)
    if loaded:
        return (Memory(depth, bits, elements, asked=asked),)
    width, count = (elements * bits, 1) if one_word(elements, bits) else (bits, elements)
    first = block_rows(depth, width) if asked == "mixed" else 0
    if not first:
        return (Memory(depth, width, count, constant=True, asked="bram" if asked == "mixed" else asked),)
    return Memory(first, width, count, constant=True, asked="bram"), Memory(depth - first, width, count, constant=True, asked="lut")


def one_word(elements: int, bits: int) -> bool:
    """Whether the elements of a row of constant weights are one word of one memory (ARRAY_RESHAPE), which wastes the fewest bits of its blocks, or
    have a memory each (ARRAY_PARTITION)."""
    return elements * bits <= MAX_WORD_BITS


@lru_cache(maxsize=1 << 12)
def block_rows(depth: int, width: int) -> int:
    """How many of the ``depth`` rows of a "mixed" memory lie in block RAM: whole blocks full, such that the rest, of at most MOST_ROWS_IN_LUTS rows,
    takes the fewest LUTs for each block that it saves; 0 where none saves any.

    >>> block_rows(576, 64), block_rows(1152, 64), block_rows(288, 64), block_rows(1024, 36)
    (512, 1024, 0, 0)
    """
    whole, best, least = bram18(depth, width), 0, 0.0
    step = BRAM18_SHAPES[0][0]
    for first in range(step * max(ceil((depth - MOST_ROWS_IN_LUTS) / step), 1), depth, step):
        saved = whole - bram18(first, width)
        luts = width * ceil((depth - first) / 64) + width / 2  # and the choice between the two
        if saved > 0 and (not best or luts / saved < least):
            best, least = first, luts / saved
    return best


def kept(words: int, width: int, simd: int, outputs: int) -> Memory:
    """The ``words`` of a pixel and group that a matrix-vector unit keeps for its further outputs, each of ``simd`` inputs of ``width`` bits, a memory
    for each. ``outputs``: how often they are used; once is without keeping them."""
    return Memory(words if outputs > 1 else 0, width, simd)


def table(values: Table, lanes: int, entries: int = 0) -> Memory:
    """Constants of an epilogue: each of ``lanes`` lanes has its share, for it reads one in the same turn as the others; or all of them, where the
    number says which; one for all lanes, where the pixel does. ``entries``: as many as there are, or will be where words are filled up."""
    if values.index == "number":
        return Memory(len(values.values), _table_width(values), lanes, constant=True)
    if values.index == "pixel":
        return Memory(len(values.values), _table_width(values), constant=True)
    return Memory(ceil((entries or len(values.values)) / lanes), _table_width(values), lanes, values.loaded is None)


@lru_cache(maxsize=1024)
def _table_width(values: Table) -> int:
    return values.loaded.width if values.loaded is not None else Interval(min(values.values), max(values.values), 0).width


def tables(epilogue: Epilogue, lanes: int, channels: int = 0) -> tuple[Memory, ...]:
    """All tables of an epilogue that works in ``lanes`` lanes; ``channels``: of a pixel, where words will be filled up."""
    return tuple(table(values, lanes, len(values.values) // epilogue.channels * channels) for values in epilogue.tables)


def queue(stream: Stream) -> Storage:
    """Where the words of a stream lie."""
    return fifo(stream.built, stream.bits, stream.storage)
