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
from qfx.hardware.design.streams import Stream
from qfx.hardware.emit.spelling import Constant, Unit, initializer, native, raw, words_of
from qfx.hardware.processes.memory.from_memory import BURST_BEATS, LATENCY_CYCLES
from qfx.hardware.processes.traits import Between, OneToOne, Passing
from qfx.hardware.timing.delays import Recurrence, loops
from qfx.hardware.timing.program import Turns, every, held

_BLOCKS, _LEAST = 16, 4


@dataclass(frozen=True, slots=True)
class Spill(OneToOne, Passing, Between):
    """What it reads it writes to memory, a word of ``bits`` bits for each, in blocks of ``burst`` words; a frame's last block has what is left. It
    gives the words back, in order: ``due[b]``: how many blocks have gone back when block b has come. ``port``: as of FromMemory.

    Nothing in ``due``: that is not decided yet (``timing/spilling.py``). It then is taken for a FIFO that passes every word at once, and its C++
    gives each block back at once.

    The order of its turns is fixed, so that it is right however long memory takes, and waits as any other process does. Among them are such in which
    it waits for memory: LATENCY_CYCLES for the response to a burst that is written, and as many for the first word of one that is read.
    """

    rewinds: ClassVar[bool] = False  # an AXI master ends its bursts with the loop
    scratch: ClassVar[bool] = True
    """What lies in memory is its own: nobody has to put anything there."""

    name: str
    input: Stream
    output: Stream
    due: tuple[int, ...]
    burst: int
    bits: int
    port: str

    @property
    def blocks(self) -> int:
        """Of a frame."""
        return ceil(self.input.words / self.burst)

    @property
    def gone(self) -> tuple[int, ...]:
        """``due``, decided or not."""
        return self.due or tuple(range(1, self.blocks + 1))

    @property
    def last(self) -> int:
        """Words of the last block."""
        return self.input.words - (self.blocks - 1) * self.burst

    @property
    def ring(self) -> int:
        """Blocks that are in memory at once, at most."""
        return max(block + 1 - gone for block, gone in enumerate((0, *self.gone[:-1])))

    @property
    def beats(self) -> int:
        """Words of memory that it uses."""
        return self.ring * self.burst

    @property
    def frame_bytes(self) -> int:
        """Bytes that it writes and reads in a frame."""
        return 2 * self.input.words * self.bits // 8

    @property
    def cycles(self) -> int:
        return frame_cycles(self.input.words, self.burst) if self.due else self.input.words

    def turns(self) -> Turns:
        if self.due:
            return _turns(self.input.words, self.due, self.burst, LATENCY_CYCLES)
        words = every(self.input.words)
        return words.size, (words,), (words,)

    def counted(self) -> Turns:
        return _turns(self.input.words, self.gone, self.burst, 0)

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        return (loops(self.blocks, self.burst), loops(self.ring, self.burst))

    @property
    def memories(self) -> tuple[Memory, ...]:
        return (Memory(self.blocks, self.blocks.bit_length(), constant=True),)

    def logic(self, on: Device) -> Resources:
        counters = [r.counter(max(count, 2)) for count in (self.blocks, self.blocks, self.ring, self.ring)]
        return r.total([self.control(), *counters, r.comparison(self.blocks.bit_length()), channels(self.bits)])

    def unit(self, ports: tuple[str, str]) -> Unit:
        words = words_of(self.input)
        due = Constant(f"{self.name}_due", native(self.gone), f"[{self.blocks}]", initializer([str(gone) for gone in self.gone]))
        numbers = (self.burst, self.blocks, self.last, self.ring, self.input.type.width)
        call = f"qfx::spill<{', '.join(map(str, numbers))}, {raw(self.input.type)}, {self.input.parallel}, {self.bits}>(in, memory, out, {due.name});"
        parameters = (f"{words}& in", f"qfx::uint<{self.bits}>* memory", f"{words}& out")
        return Unit(self.name, (due,), "", parameters, (self.input.name, self.port, self.output.name), (), (call,))


def burst(words: int) -> int:
    """The words of a block of a frame of so many: as many as a burst has, but so few that there are some sixteen blocks.

    >>> burst(12544), burst(300), burst(20)
    (64, 16, 4)
    """
    return min(max(1 << (words // _BLOCKS).bit_length() >> 1, _LEAST), BURST_BEATS)


def frame_cycles(words: int, size: int) -> int:
    """The turns of a frame of so many words of memory in blocks of ``size``, those of waiting among them."""
    return 2 * (words + ceil(words / size) * LATENCY_CYCLES)


def channels(bits: int) -> Resources:
    """An AXI master that reads and writes words of so many bits, a burst at a time: as ``from_memory.master``, an estimate."""
    return r.fifo(BURST_BEATS, bits + 2) * 2 + Resources(lut=600 + bits, ff=800 + 4 * bits)


@lru_cache(maxsize=64)
def _turns(words: int, due: tuple[int, ...], size: int, wait: int) -> Turns:
    """Those with so many of ``wait`` behind each block that comes, for the response, and in front of each that goes back."""
    counts = np.full(len(due), size, dtype=np.int64)
    counts[-1] = words - (len(due) - 1) * size
    ends = np.concatenate([[0], np.cumsum(counts + wait)])  # turns for so many blocks, come or gone
    gone = np.array((0, *due), dtype=np.int64)
    word = np.arange(words, dtype=np.int64)
    block, place = word // size, word % size
    comes = ends[block] + ends[gone[block]] + place
    after = np.searchsorted(gone[1:], block, side="right") + 1  # how many blocks have come before each word goes back
    goes = ends[after] + ends[block] + wait + place
    return 2 * (words + len(due) * wait), (held(comes),), (held(goes),)
