"""A FIFO in the board's memory: an AXI master that writes words there and reads them back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from typing import ClassVar

import numpy as np

from qfx.hardware.cost import resources as r
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design.storage import Memory
from qfx.hardware.design.streams import BUILT, Stream
from qfx.hardware.emit.spelling import Unit, bound, raw, words_of
from qfx.hardware.processes.memory.from_memory import BURST_BEATS, LATENCY_CYCLES
from qfx.hardware.processes.traits import Between, OneToOne, Passing
from qfx.hardware.timing.delays import Recurrence, accumulated, loops
from qfx.hardware.timing.program import Turns, held

TURNS = ceil((4 * BURST_BEATS + 2 * LATENCY_CYCLES) / BURST_BEATS)
"""Turns for a word: a burst is taken, written, read and given, one after the other, and memory answers twice. An assumption, as LATENCY_CYCLES is."""


@dataclass(frozen=True, slots=True)
class Spill(OneToOne, Passing, Between):
    """What it reads it writes to memory, a word of ``bits`` bits for each, and gives it back in order. The room there is the depth of ``output``, a
    FIFO of the storage "ddr": for all that look at depths the words wait in that. ``port``: as of FromMemory.

    It asks for words and for room before it reads and writes, and so waits for neither side while the other can go on. Its own turns depend on that;
    the model has a word every TURNS.
    """

    rewinds: ClassVar[bool] = False  # an AXI master ends its bursts with the loop
    scratch: ClassVar[bool] = True
    """What lies in memory is its own: nobody has to put anything there."""

    name: str
    input: Stream
    output: Stream
    bits: int
    port: str

    @property
    def beats(self) -> int:
        """Words of memory that it uses."""
        return max(self.output.depth, BUILT)

    @property
    def frame_bytes(self) -> int:
        """Bytes that it writes and reads in a frame."""
        return 2 * self.input.words * self.bits // 8

    @property
    def cycles(self) -> int:
        return self.input.words * TURNS

    def turns(self) -> Turns:
        return _turns(self.input.words)

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        return (loops(self.input.words), accumulated(self.beats.bit_length()))

    @property
    def memories(self) -> tuple[Memory, ...]:
        return (Memory(BURST_BEATS, self.bits, 2),)

    def logic(self, on: Device) -> Resources:
        counters = r.counter(self.beats) * 3 + r.counter(BURST_BEATS) * 5 + r.counter(max(self.input.words, 2))
        bits = self.beats.bit_length()
        return r.total([self.control(), counters, r.adder(bits) * 4, r.comparison(bits) * 6, channels(self.bits)])

    def unit(self, ports: tuple[str, str]) -> Unit:
        words = words_of(self.input)
        numbers = (self.input.words, BURST_BEATS, self.beats, self.input.type.width)
        state = ("put", "got", "held", "ready", "sent")
        kind = f"{', '.join(map(str, numbers))}, {raw(self.input.type)}, {self.input.parallel}, {self.bits}"
        body = (
            f"static qfx::uint<{self.bits}> ahead[{BURST_BEATS}];",
            *(line.strip() for line in bound("ahead", self.memories[0])),
            f"static int {', '.join(f'{name} = 0' for name in state)};",
            f"qfx::spill<{kind}>(in, memory, out, ahead, {', '.join(state)});",
        )
        parameters = (f"{words}& in", f"qfx::uint<{self.bits}>* memory", f"{words}& out")
        return Unit(self.name, (), "", parameters, (self.input.name, self.port, self.output.name), (), body)


def channels(bits: int) -> Resources:
    """An AXI master that reads and writes words of so many bits, a burst at a time: as ``from_memory.master``, an estimate."""
    return r.fifo(BURST_BEATS, bits + 2) * 2 + Resources(lut=600 + bits, ff=800 + 4 * bits)


@lru_cache(maxsize=64)
def _turns(words: int) -> Turns:
    at = held(np.arange(0, words * TURNS, TURNS))
    return words * TURNS, (at,), (at,)
