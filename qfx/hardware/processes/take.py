"""Slices of a frame along one axis, in any order and any number of times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from qfx.hardware.cost import pieces
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design.storage import Memory
from qfx.hardware.design.streams import IntArray, Stream, Table
from qfx.hardware.emit.spelling import Unit, bound, raw, table, words
from qfx.hardware.folding.option import common_widths
from qfx.hardware.processes.process import Setting
from qfx.hardware.processes.traits import Buffering, OneToOne, Widening
from qfx.hardware.timing.delays import Recurrence, loops
from qfx.hardware.timing.program import Turns, held

READS, WRITES, KEEPS, PASSES = 1, 2, 4, 8
"""What a step does with its slice, as qfx::take has it: reads one; writes one; keeps what it reads; writes what it reads."""
_FLAGS = 4


@dataclass(frozen=True, slots=True)
class Steps:
    """How one block is worked off, a slice of the axis a step. ``entries``: for each step its flags, and the slots where it finds the slice that it
    writes and puts the one that it keeps. ``slots``: how many slices are held at once."""

    entries: tuple[tuple[int, int, int], ...]
    slots: int


@dataclass(frozen=True, slots=True)
class TakeFrame(OneToOne, Buffering, Widening):
    """``size``: the frame as blocks, each of so many slices of so many numbers; slice i of a block of the result is slice ``indices[i]``.

    ``lanes``: what the numbers per word divide; where a slice is one number, the words are slices. ``program``: the name of the table of steps.
    """

    name: str
    input: Stream
    output: Stream
    size: tuple[int, int, int]
    indices: tuple[int, ...]
    lanes: int
    program_name: str

    @property
    def steps(self) -> Steps:
        return _steps(self.size[1] // self._together, tuple(index // self._together for index in self.indices[:: self._together]))

    @property
    def _together(self) -> int:
        """The slices of a word."""
        return 1 if self.size[2] % self.output.parallel == 0 else self.output.parallel

    @property
    def _words(self) -> int:
        """The words of a slice, or of those that share one."""
        return self.size[2] * self._together // self.output.parallel

    @property
    def cycles(self) -> int:
        return self.size[0] * len(self.steps.entries) * self._words

    def turns(self) -> Turns:
        return _turns(self.size[0], tuple(flags for flags, _, _ in self.steps.entries), self._words)

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        return (loops(self.size[0], len(self.steps.entries), self._words),)

    @property
    def slices(self) -> Memory:
        """The slices that wait for their turn, or for another one."""
        return Memory(self.steps.slots * self._words, self.input.bits)

    @property
    def table(self) -> Table:
        """A number for each step: its flags, then the address of the slice to write, then that of the slice to keep."""
        bits = self.address_bits
        entries = (flags | source * self._words << _FLAGS | target * self._words << _FLAGS + bits for flags, source, target in self.steps.entries)
        return Table(self.program_name, tuple(entries), "element")

    @property
    def address_bits(self) -> int:
        return max(self.slices.depth - 1, 1).bit_length()

    @property
    def memories(self) -> tuple[Memory, ...]:
        return (self.slices, _rom(self.table))

    def logic(self, on: Device) -> Resources:
        address = r.adder(self.address_bits)
        return (
            self.control()
            + r.multiplexer(2, self.output.bits)
            + address
            + address
            + pieces.place((self.size[0], len(self.steps.entries), self._words))
        )

    def unit(self, ports: tuple[str, str]) -> Unit:
        entries, kept = self.table, self.slices
        numbers = f"{self.size[0]}, {len(entries.values)}, {self._words}, {max(kept.depth, 1)}, {self.address_bits}"
        unit = self.call(f"qfx::take<{numbers}>(in, out, {entries.name}, kept);")
        arrays = words("kept", raw(self.input.type), self.output.parallel, kept)
        return replace(unit, constants=(table(entries),), pragmas=bound(entries.name, _rom(entries)), body=(*arrays, *unit.body))

    def widths(self, setting: Setting) -> list[int]:
        return common_widths(self.lanes, (*self.sources, *self.targets))


def _rom(entries: Table) -> Memory:
    return Memory(len(entries.values), max(entries.values).bit_length(), constant=True)


@lru_cache(maxsize=256)
def _steps(size: int, indices: tuple[int, ...]) -> Steps:
    """The least number of steps, and with that every slice read as late as can be, so that few are held.

    A slice is written in the step that reads it, or in a later one from its slot. A slot is free again in the step after the last that reads it.
    """
    writes: list[int] = []
    for index in indices:
        writes.append(max(writes[-1] + 1 if writes else 0, index))
    total = max(writes[-1] + 1, size)
    first, last = dict(zip(reversed(indices), reversed(writes), strict=True)), dict(zip(indices, writes, strict=True))
    reads = [0] * size
    latest = total
    for index in reversed(range(size)):
        latest = reads[index] = min(latest - 1, first.get(index, total - 1))
    slot_of: dict[int, int] = {}
    busy_until: list[int] = []
    flags, sources, targets = ([0] * total for _ in range(3))
    for index, step in enumerate(reads):
        flags[step] |= READS
        if last.get(index, -1) > step:
            slot = next((slot for slot, until in enumerate(busy_until) if until < step), len(busy_until))
            busy_until[slot : slot + 1] = [last[index]]
            slot_of[index] = targets[step] = slot
            flags[step] |= KEEPS
    for index, step in zip(indices, writes, strict=True):
        flags[step] |= WRITES
        if reads[index] == step:
            flags[step] |= PASSES
        else:
            sources[step] = slot_of[index]
    return Steps(tuple(zip(flags, sources, targets, strict=True)), len(busy_until))


@lru_cache(maxsize=64)
def _turns(outer: int, flags: tuple[int, ...], words: int) -> Turns:
    steps = np.array(flags)
    return outer * steps.size * words, (_words_of(outer, steps & READS, words),), (_words_of(outer, steps & WRITES, words),)


def _words_of(outer: int, chosen: IntArray, words: int) -> IntArray:
    """The turns of the steps that are chosen, in every block."""
    grid = np.arange(outer * chosen.size * words, dtype=np.int64).reshape(outer, chosen.size, words)
    return held(grid[:, np.flatnonzero(chosen)].flatten())


def program_of(size: int, indices: Sequence[int]) -> Steps:
    """How a block of ``size`` slices is worked off."""
    return _steps(size, tuple(indices))
