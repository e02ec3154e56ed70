"""An AXI master that reads the weights of a layer from the board's memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qfx.hardware.cost import resources as r
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design.streams import IntArray, Stream
from qfx.hardware.emit.spelling import Unit, raw, words_of
from qfx.hardware.folding.option import Option, Role
from qfx.hardware.processes.process import Front, Setting
from qfx.hardware.processes.traits import Passing
from qfx.hardware.timing.delays import Recurrence, loops
from qfx.hardware.timing.program import Turns, every

BURST_BEATS, OUTSTANDING = 64, 4
"""Words of a burst, and bursts that are asked for before the first has come: at 128 bits a burst is 1 KiB, and what is under way hides some 250 cycles of
memory. The tools keep a FIFO of so many words (UG1399, "Controlling AXI4 Burst Behavior")."""

LATENCY_CYCLES = 64
"""Cycles from an address to its first word, as told to the tool (its default); an assumption about the board."""


@dataclass(frozen=True, slots=True, eq=False)
class FromMemory(Passing):
    """``values``: (words of memory, numbers of each) raws of the stream's type; they are read ``repeats`` times a frame, in words of ``bits`` bits.

    ``port`` is the name of the top function's pointer, and of its AXI master. Memory gives a word a cycle where nobody else asks; what all masters of a
    design may ask for together is the board's matter (``Board.memory_bytes_per_cycle``).
    """

    name: str
    output: Stream
    values: IntArray
    repeats: int
    bits: int
    port: str

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
        """Bytes that it reads in a frame."""
        return self.beats * self.repeats * self.bits // 8

    @property
    def contents(self) -> bytes:
        """What lies in memory: numbers side by side from the lowest bit of a word on, words little-endian."""
        width, numbers = self.output.type.width, self.values.shape[1]
        codes = self.values.astype(np.int64) & ((1 << width) - 1)
        places = (codes[:, :, None] >> np.arange(width)) & 1
        bits = np.zeros((self.beats, self.bits), dtype=np.uint8)
        bits[:, : numbers * width] = places.reshape(self.beats, -1)
        return np.packbits(bits, axis=1, bitorder="little").tobytes()

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

    @property
    def role(self) -> Role:
        return Role.BETWEEN

    @property
    def front(self) -> Front | None:
        return None

    def options(self, setting: Setting) -> list[Option]:
        return []  # the layer that computes with the weights chooses

    def limit(self, setting: Setting) -> str:
        return ""


def master(bits: int) -> Resources:
    """An AXI master that reads words of so many bits: addresses of 64 bits, counters of a burst, and the FIFO of what is under way. An estimate: what the
    tools write has not been measured here."""
    queue = r.fifo(BURST_BEATS * OUTSTANDING, bits + 2)
    return queue + Resources(lut=350 + bits // 2, ff=450 + 2 * bits)
