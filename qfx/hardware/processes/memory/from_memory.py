"""An AXI master that reads the weights of a layer from the board's memory."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import ClassVar
from zlib import crc32

import numpy as np

from qfx.hardware.cost import resources as r
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design.streams import IntArray, Stream
from qfx.hardware.emit.spelling import Unit, raw, words_of
from qfx.hardware.folding.option import divisors
from qfx.hardware.processes.traits import Between, Passing
from qfx.hardware.timing.delays import Recurrence, loops
from qfx.hardware.timing.program import Turns, every

BURST_BEATS, OUTSTANDING = 64, 4
"""Words of a burst, and bursts that are asked for before the first has come: at 128 bits a burst is 1 KiB, and all under way hide some 250 cycles.
The tools keep a FIFO of so many words (UG1399, "Controlling AXI4 Burst Behavior")."""

PORT_BITS = (64, 128)
"""The widths of masters: as wide as a high-performance port of the boards (UG585, UG1085), or half of that."""

LATENCY_CYCLES = 64
"""Cycles from an address to its first word, as told to the tool (its default); an assumption about the board."""


@dataclass(frozen=True, slots=True, eq=False)
class FromMemory(Passing, Between):
    """``values``: (words of memory, numbers of each) raws of the stream's type; they are read ``repeats`` times a frame, or once for ``frames`` of
    them, in words of ``bits`` bits.

    ``port`` is the name of the top function's pointer, and of its AXI master. Memory gives a word a cycle where nobody else asks; what all masters of
    a design get together is the board's matter (``Board.memory_bytes_per_cycle``).
    """

    rewinds: ClassVar[bool] = False  # an AXI master ends its bursts with the loop
    scratch: ClassVar[bool] = False

    name: str
    output: Stream
    values: IntArray
    repeats: int
    bits: int
    port: str
    frames: int = 1

    @property
    def sources(self) -> tuple[Stream, ...]:
        return ()

    @property
    def targets(self) -> tuple[Stream, ...]:
        return (self.output,)

    @property
    def marks(self) -> tuple[Stream, ...]:
        return ()

    @property
    def beats(self) -> int:
        """Words of memory that it keeps."""
        return len(self.values)

    @property
    def frame_bytes(self) -> int:
        """Bytes that it reads in a frame, on the average of those that it reads for together."""
        return ceil(self.beats * self.repeats * self.bits // 8 / self.frames)

    @property
    def contents(self) -> bytes:
        """What lies in memory: numbers side by side from the lowest bit of a word on, words little-endian."""
        width, numbers = self.output.type.width, self.values.shape[1]
        if width in (8, 16, 32, 64) and numbers * width == self.bits:
            return self.values.astype(f"<i{width // 8}").tobytes()
        parts = []
        for start in range(0, self.beats, _AT_ONCE):
            codes = self.values[start : start + _AT_ONCE].astype(np.int64)
            bits = np.zeros((len(codes), self.bits), dtype=np.uint8)
            bits[:, : numbers * width] = ((codes[:, :, None] >> np.arange(width)) & 1).reshape(len(codes), -1)
            parts.append(np.packbits(bits, axis=1, bitorder="little").tobytes())
        return b"".join(parts)

    @property
    def crc(self) -> int:
        """The checksum of ``contents``."""
        return crc32(self.contents)

    @property
    def cycles(self) -> int:
        return self.output.words

    def turns(self) -> Turns:
        return self.cycles, (), (every(self.cycles),)

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        return (loops(self.repeats, self.beats),)

    def logic(self, on: Device) -> Resources:
        return self.control() + master(self.bits)

    def unit(self, ports: tuple[str, str]) -> Unit:
        out = self.output
        numbers = (self.beats, self.repeats, out.type.width)
        call = f"qfx::from_memory<{', '.join(map(str, numbers))}, {raw(out.type)}, {out.parallel}, {self.bits}>(memory, out);"
        return Unit(self.name, (), "", (f"const qfx::uint<{self.bits}>* memory", f"{words_of(out)}& out"), (self.port, out.name), (), (call,))


_AT_ONCE = 1 << 14  # words of memory


def port_bits(lanes: int, width: int, pixels: int) -> int:
    """The narrowest master that brings a word of so many weights of ``width`` bits while so many pixels are worked on, or else the widest."""
    return next((bits for bits in PORT_BITS if bits * pixels >= lanes * width), PORT_BITS[-1])


def numbers_a_beat(lanes: int, words: int, width: int, bits: int) -> int:
    """How many weights of ``width`` bits a word of memory holds: as many as fit and are a part of a word of ``lanes`` weights, or whole
    words of them, of which there are so many.

    >>> numbers_a_beat(32, 100, 8, 128), numbers_a_beat(4, 6, 8, 128), numbers_a_beat(12, 5, 8, 64)
    (16, 12, 6)
    """
    most = bits // width
    if most < lanes:
        return max(n for n in divisors(lanes) if n <= most)
    return lanes * max(n for n in range(1, most // lanes + 1) if words % n == 0)


def beats(lanes: int, words: int, width: int, bits: int) -> int:
    """The words of memory that hold ``words`` words of weights."""
    return lanes * words // numbers_a_beat(lanes, words, width, bits)


def master(bits: int) -> Resources:
    """An AXI master that reads words of so many bits: addresses of 64 bits, counters of a burst, and the FIFO of what is under way. An estimate: what
    the tools write was not measured."""
    queue = r.fifo(BURST_BEATS * OUTSTANDING, bits + 2)
    return queue + Resources(lut=350 + bits // 2, ff=450 + 2 * bits)
