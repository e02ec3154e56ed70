"""What the pieces of a design cost in LUTs, flip-flops, DSP blocks, block RAM and UltraRAM.

The formulas describe how the pieces map to the cells of 7-series and UltraScale+ parts (UG474, UG574: LUTs and carry chains; UG479, UG579: DSP
blocks; UG473, UG573: block RAM and UltraRAM). What a memory is built of is decided in ``storage.py``. Those of logic, LUT memories and DSP blocks are
held to measurements with Yosys, ``benchmarks/calibration/pieces.csv``; docs/estimates.md states the errors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from operator import attrgetter
from typing import Any

from qfx.fixed.type import FixedType, OMode, QMode
from qfx.hardware.design import storage
from qfx.hardware.design.storage import Storage
from qfx.hardware.design.storage import bram18 as bram18  # part of this module's vocabulary
from qfx.hardware.design.storage import uram as uram

AUTO_DSP_WIDTH = 5
"""A product whose arithmetic is left to the tool counts as a DSP block if both factors have so many bits, else as LUTs. Tools differ in this."""


@dataclass(frozen=True, slots=True)
class Resources:
    """Counts of 6-input LUTs, flip-flops, DSP blocks, 18 kbit block RAMs (a 36 kbit one counts as two) and 288 kbit UltraRAMs."""

    lut: int = 0
    ff: int = 0
    dsp: int = 0
    bram18: int = 0
    uram: int = 0

    def __add__(self, other: Resources) -> Resources:
        return Resources(self.lut + other.lut, self.ff + other.ff, self.dsp + other.dsp, self.bram18 + other.bram18, self.uram + other.uram)

    def __mul__(self, count: int) -> Resources:
        return Resources(self.lut * count, self.ff * count, self.dsp * count, self.bram18 * count, self.uram * count)


FIELDS = ("lut", "ff", "dsp", "bram18", "uram")
counts: Callable[[Any], tuple[int, ...]] = attrgetter(*FIELDS)
"""Those of Resources, in the order of FIELDS."""


def total(parts: Sequence[Resources]) -> Resources:
    """The sum of the parts."""
    lut = ff = dsp = bram18 = uram = 0
    for part in parts:
        lut += part.lut
        ff += part.ff
        dsp += part.dsp
        bram18 += part.bram18
        uram += part.uram
    return Resources(lut, ff, dsp, bram18, uram)


@dataclass(frozen=True, slots=True)
class Device:
    """What differs between part families: the signed factors of a DSP block, and the bits that 8 LUTs hold as RAM of 32 and of 64 words."""

    dsp_wide: int
    dsp_narrow: int
    bits_of_32: int
    bits_of_64: int


ULTRASCALE = Device(27, 18, 14, 7)
"""DSP48E2 (UG579); RAM32M16, RAM64M8 (UG974)."""

SERIES7 = Device(25, 18, 12, 6)
"""DSP48E1 (UG479); RAM32M, RAM64M (UG953)."""


def device(part: str) -> Device:
    """The family of a part number: 7-series parts begin with "xc7"."""
    return SERIES7 if part.startswith("xc7") else ULTRASCALE


@lru_cache(maxsize=1024)
def multiplier_dsps(a: int, b: int, on: Device) -> int:
    """DSP blocks of a signed ``a`` x ``b`` bit product: the wider factor is cut into parts that fit the wide port, the other likewise; lower parts
    are unsigned, a bit shorter (UG579).

    >>> [multiplier_dsps(a, b, ULTRASCALE) for a, b in ((27, 18), (24, 24), (32, 24))]
    [1, 2, 4]
    """

    def parts(width: int, room: int) -> int:
        return 1 if width <= room else 1 + ceil((width - room) / (room - 1))

    return parts(max(a, b), on.dsp_wide) * parts(min(a, b), on.dsp_narrow)


def multiplier_luts(a: int, b: int) -> int:
    """LUTs of a signed ``a`` x ``b`` bit product: a carry chain for every two bits of the narrower factor (each of its LUTs adds two partial
    products), then a tree of adders.

    >>> multiplier_luts(8, 8), multiplier_luts(18, 18)
    (70, 365)
    """
    wide, narrow = max(a, b), min(a, b)
    if narrow <= 1:
        return wide if narrow else 0
    spans = [min(2, narrow - row) for row in range(0, narrow, 2)]  # bits of the narrow factor that each term covers
    luts = len(spans) * (wide + 1)
    while len(spans) > 1:
        joined = [x + y for x, y in zip(spans[::2], spans[1::2], strict=False)]
        luts += sum(wide + span - 2 for span in joined)
        spans = joined + (spans[-1:] if len(spans) % 2 else [])
    return luts


def product(a: int, b: int, arithmetic: str, on: Device) -> Resources:
    """One multiplier with a register behind it; ``arithmetic`` is "dsp", "lut" or "auto"."""
    if arithmetic == "dsp" or (arithmetic == "auto" and min(a, b) >= AUTO_DSP_WIDTH):
        return Resources(dsp=multiplier_dsps(a, b, on))  # whose registers are its own
    return Resources(lut=multiplier_luts(a, b), ff=a + b)


def adder(width: int) -> Resources:
    """A sum of ``width`` bits with a register: a LUT and a flip-flop per bit, as has an accumulator that can be cleared."""
    return Resources(lut=width, ff=width)


@lru_cache(maxsize=1 << 12)
def adder_tree(count: int, width: int, most: int) -> Resources:
    """The sum of ``count`` numbers of ``width`` bits, in levels of adders that grow by a bit up to ``most`` bits.

    >>> adder_tree(32, 16, 64).lut
    553
    """
    bits = 0
    while count > 1:
        width = min(width + 1, most)
        bits += count // 2 * width
        count -= count // 2
    return adder(bits)


def multiplexer(ways: int, width: int) -> Resources:
    """One of ``ways`` words: two 2:1 multiplexers share a LUT, a 4:1 one takes a LUT (UG574)."""
    return Resources(lut=ceil(width * max((ways - 1) / 3, 0.5 if ways > 1 else 0)))


def comparison(width: int) -> Resources:
    """a < b: two bits of each per LUT."""
    return Resources(lut=ceil(width / 2))


def greater(width: int) -> Resources:
    """The greater of two words: a comparison and a multiplexer."""
    return comparison(width) + multiplexer(2, width)


@lru_cache(maxsize=1 << 12)
def counter(count: int) -> Resources:
    """0 to ``count`` - 1 and again: increment, comparison and clearing."""
    bits = (count - 1).bit_length()
    return Resources(lut=ceil(2.1 * bits), ff=bits)


def handshake(streams: int, stages: int) -> Resources:
    """What a pipelined loop over ``streams`` FIFOs has beside its arithmetic: the states of its start and end, a bit for each stage, and the gate
    that stops it while a FIFO is empty or full."""
    return Resources(lut=9 + streams, ff=3 + stages)


def cast(source: FixedType, target: FixedType) -> Resources:
    """Rounding, then overflow, of one number: an adder where rounding can carry, a look at the dropped bits where the mode asks for it, and the
    choice between the number and the bounds where it saturates."""
    drop = max(source.frac_bits - target.frac_bits, 0)
    rest = source.width - drop
    bounded = target.o is not OMode.WRAP and (rest > target.width or target.signed != source.signed)
    luts = 0
    if drop and target.q is not QMode.TRN:
        luts += rest + 1 if bounded else target.width
        luts += 0 if target.q is QMode.RND else ceil((drop - 1) / 5)
    if bounded:
        luts += target.width + ceil(max(rest - target.width, 0) / 5)
    return Resources(lut=luts)


def ram(depth: int, width: int, on: Device, asked: str = "auto") -> Resources:
    """A memory with a write and a read port."""
    where = storage.ram(depth, width, asked)
    if where is Storage.REGISTERS:
        return Resources(ff=width * depth)
    return _blocks(where, depth, width) or Resources(lut=lutram(depth, width, on), ff=width)


def _blocks(where: Storage, depth: int, width: int) -> Resources | None:
    """A memory of block RAM or UltraRAM, each with registers of its own; None for one of LUTs."""
    if where is Storage.BRAM:
        return Resources(bram18=bram18(depth, width))
    return Resources(uram=uram(depth, width)) if where is Storage.URAM else None


def lutram(depth: int, width: int, on: Device) -> int:
    """LUTs of a RAM of LUTs: 8 at a time, or two a bit where that is less, and a multiplexer over blocks of 64 words (UG974, UG953)."""
    if depth <= 32:
        return min(8 * ceil(width / on.bits_of_32), 2 * width)
    blocks = ceil(depth / 64)
    return blocks * min(8 * ceil(width / on.bits_of_64), 2 * width) + multiplexer(blocks, width).lut


def rom(depth: int, width: int, asked: str = "auto") -> Resources:
    """Constants, read into a register: a LUT holds 64 words of a bit, and the multiplexers of a slice join four of them (UG474, UG574)."""
    where = storage.rom(depth, width, asked)
    if where is Storage.REGISTERS:
        return Resources()
    luts = width * ceil(depth / 64) + multiplexer(ceil(depth / 256), width).lut
    return _blocks(where, depth, width) or Resources(lut=luts, ff=width)


def fifo(depth: int, width: int, asked: str = "auto") -> Resources:
    """A stream: shift registers, block RAM or UltraRAM, a fill counter and two flags. Two words are flip-flops with a multiplexer; the multiplexers
    of a slice join shift registers up to 128 words (UG474, UG574)."""
    bits = max(depth - 1, 1).bit_length()
    if depth <= 2:
        return Resources(lut=width // 2 + 5, ff=2 * width + 4)
    where = storage.fifo(depth, width, asked)
    if where is Storage.SRL:
        return Resources(lut=width * ceil(depth / 32) + multiplexer(ceil(depth / 128), width).lut + 6 + bits + 2 * (depth > 32), ff=bits + 3)
    return Resources(lut=4 * bits + 10, ff=4 * bits + 10 + width) + (_blocks(where, depth, width) or Resources())


def digit_product(x_width: int, out_width: int, digits: Sequence[tuple[int, bool]]) -> Resources:
    """The sum of shifted numbers of ``x_width`` bits, one for each signed digit of a weight that is read at run time.

    ``digits``: how many shifts (zero among them) there are to choose from, and whether it can be negative. The sums are made in pairs, of which the
    second can be subtracted for nothing, but not the first.
    """
    luts = adders = 0
    for index, (ways, negative) in enumerate(digits):
        shifted = min(x_width + ways - 1, out_width)
        luts += ceil(shifted * ((ways - 1).bit_length() + 1) / 2) if ways > 1 else 0
        adders += (index > 0) + (negative and index % 2 == 0)
    return Resources(lut=luts + adders * out_width, ff=out_width * len(digits))
