"""The numbers of groups by rank, or where they stand."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from qfx.hardware.cost import pieces
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design.storage import Memory
from qfx.hardware.design.streams import Epilogue, Stream
from qfx.hardware.emit.spelling import Unit
from qfx.hardware.processes.process import Setting
from qfx.hardware.processes.traits import OneToOne, Unweighted, Widening
from qfx.hardware.timing.delays import Recurrence, choice, comparison, gates, loops, recurrence
from qfx.hardware.timing.program import READ_WRITE, Turns, epilogue_latency, held


@dataclass(frozen=True, slots=True)
class Top(OneToOne, Unweighted, Widening):
    """``shape``: so many groups of so many numbers that come side by side, of each of which so many leave: the ``largest`` (or the least) first; or
    ``places``, from 0, where they stand in the group. One number a word."""

    name: str
    input: Stream
    output: Stream
    shape: tuple[int, int, int]
    largest: bool
    places: bool
    epilogue: Epilogue

    @property
    def cycles(self) -> int:
        groups, taps, count = self.shape
        return groups * (taps + count - 1)

    @property
    def latency(self) -> int:
        return READ_WRITE + 1 + epilogue_latency(self.epilogue)

    def turns(self) -> Turns:
        return _turns(*self.shape)

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        groups, taps, count = self.shape
        kept = recurrence("the numbers that are kept", comparison(self.input.type.width), gates(), choice(3))
        return (loops(groups, taps + count - 1), kept)

    @property
    def memories(self) -> tuple[Memory, ...]:
        return self.tables

    def logic(self, on: Device) -> Resources:
        """A comparison for each number that is kept, which then stays, moves on or is replaced."""
        _, taps, count = self.shape
        width = self.input.type.width + (taps - 1).bit_length() * self.places
        kept = r.comparison(self.input.type.width) + r.multiplexer(3, width) + Resources(ff=width)
        return r.total([self.control(), kept * count, r.counter(taps + count), pieces.epilogue(self.epilogue, 1, on)])

    def unit(self, ports: tuple[str, str]) -> Unit:
        numbers = ", ".join(map(str, self.shape))
        kinds = f"{'true' if self.largest else 'false'}, {'true' if self.places else 'false'}"
        return self.call_with_epilogue({"in": self.input, "out": self.output}, f"qfx::top<{self.name}_epilogue, {numbers}, {kinds}>(in, out);")

    def widths(self, setting: Setting) -> list[int]:
        return [1]


@lru_cache(maxsize=64)
def _turns(groups: int, taps: int, count: int) -> Turns:
    """A number is read in each turn of a group until all have come; the first leaves in the turn that reads the last."""
    grid = np.arange(groups * (taps + count - 1), dtype=np.int64).reshape(groups, taps + count - 1)
    return grid.size, (held(grid[:, :taps].flatten()),), (held(grid[:, taps - 1 :].flatten()),)
