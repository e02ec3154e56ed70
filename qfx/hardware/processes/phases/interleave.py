"""Groups of pixels put side by side: depth to space, as the words come."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import gcd

import numpy as np

from qfx.hardware.cost import pieces
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design.storage import Memory
from qfx.hardware.design.streams import Stream
from qfx.hardware.emit.spelling import Unit, raw, words
from qfx.hardware.processes.rewidth import Rewidth
from qfx.hardware.processes.rows.abreast import Scatter
from qfx.hardware.processes.slice import SliceFrame
from qfx.hardware.processes.traits import Between, Buffering, OneToOne
from qfx.hardware.timing.delays import Recurrence, adder, choice, comparison, gates, loops, recurrence
from qfx.hardware.timing.program import Turns, held


@dataclass(frozen=True, slots=True)
class Interleave(OneToOne, Buffering, Between):
    """``groups``: rows and columns of groups, each of ``factors`` = (rows, columns) pixels of ``channels`` numbers, which come group by group and row
    by row in it. The result has ``size`` pixels (rows, columns), the first of which is row and column ``first`` of all that come; what lies around it
    is left out. The first row of each group leaves as it comes, the others lie in a memory until the row of groups is there."""

    name: str
    input: Stream
    output: Stream
    groups: tuple[int, int]
    factors: tuple[int, int]
    channels: int
    first: tuple[int, int]
    size: tuple[int, int]

    @property
    def _shape(self) -> tuple[int, ...]:
        """The arguments of qfx::interleave."""
        words = self.channels // self.output.parallel
        (top, left), (height, width) = self.first, self.size
        return (*self.groups, *self.factors, words, top, height, left, width)

    @property
    def cycles(self) -> int:
        rows, columns, factor, across, words, *_ = self._shape
        return rows * (2 * factor - 1) * columns * across * words

    def turns(self) -> Turns:
        return _turns(self._shape)

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        rows, columns, factor, across, words, *_ = self._shape
        bits = (columns * across * words * factor).bit_length()
        place = recurrence("the place of the group", comparison(max(columns, factor).bit_length()), gates(), choice(), choice(), adder(bits))
        return (loops(rows, (2 * factor - 1) * columns, across * words), place)

    @property
    def rows(self) -> Memory:
        """The rows of a row of groups that wait for the first one."""
        _, columns, factor, across, words, *_ = self._shape
        return Memory((factor - 1) * columns * across * words, self.input.bits)

    @property
    def memories(self) -> tuple[Memory, ...]:
        return (self.rows,)

    def logic(self, on: Device) -> Resources:
        rows, columns, factor, across, words, *_ = self._shape
        places = r.adder(max(self.rows.depth, 2).bit_length()) * 3 + r.comparison((rows * factor).bit_length()) * 4
        return self.control() + r.multiplexer(2, self.output.bits) + pieces.place((rows, columns * factor, across * words)) + places

    def unit(self, ports: tuple[str, str]) -> Unit:
        unit = self.call(f"qfx::interleave<{', '.join(map(str, self._shape))}>(in, out, kept);")
        _, columns, factor, across, line, *_ = self._shape
        distance = across * line * (columns + factor - 2)  # from the last group's second row to its turn
        kept = words("kept", raw(self.input.type), self.input.parallel, self.rows)
        apart = (f"#pragma HLS DEPENDENCE variable=kept inter RAW distance={distance} true",) if self.rows.depth and distance > 1 else ()
        return replace(unit, body=(*kept, *apart, *unit.body))


def in_place(
    stream: Stream, groups: tuple[int, int], factors: tuple[int, int], channels: int, first: tuple[int, int], size: tuple[int, int]
) -> list[Rewidth | Interleave | Scatter | SliceFrame]:
    """The processes, nameless, that put the groups of ``stream`` in their places, as Interleave has it. Words of whole groups leave as words of whole
    pixels, a row of each group in a turn; what lies around the result is then left out by a process of its own, if its words come out even."""
    whole = _whole(stream, groups, factors, channels, first, size)
    if whole is not None:
        return whole
    narrow = stream.with_parallel(gcd(stream.parallel, channels))
    before: list[Rewidth | Interleave | Scatter | SliceFrame] = [] if narrow == stream else [Rewidth("", stream, narrow)]
    count = size[0] * size[1] * channels
    return [*before, Interleave("", narrow, replace(narrow, words=count // narrow.parallel), groups, factors, channels, first, size)]


def _whole(
    stream: Stream, groups: tuple[int, int], factors: tuple[int, int], channels: int, first: tuple[int, int], size: tuple[int, int]
) -> list[Rewidth | Interleave | Scatter | SliceFrame] | None:
    rows, columns = factors
    together, rest = divmod(stream.parallel, rows * columns * channels)
    if rest or not together or groups[1] % together:
        return None
    made: list[Rewidth | Interleave | Scatter | SliceFrame] = []
    if rows > 1:
        made.append(Scatter("", stream, stream.with_parallel(stream.parallel // rows), groups[1] // together, together))
        stream = made[-1].output
    frame = (groups[0] * rows, groups[1] * columns)
    if frame == size:
        return made
    (top, left), (height, width) = first, size
    spans = ((top, top + height, 1), (left, left + width, 1), (0, channels, 1))
    single = stream.with_parallel(1)
    inside = SliceFrame("", single, replace(single, words=height * width * channels), (*frame, channels), spans).wide(columns * together)
    return None if inside is None else [*made, inside]


@lru_cache(maxsize=64)
def _turns(shape: tuple[int, ...]) -> Turns:
    rows, columns, factor, across, words, top, height, left, width = shape
    line = across * words
    turns = np.arange(rows * (2 * factor - 1) * columns * line, dtype=np.int64).reshape(rows, -1)
    come = turns[:, : factor * columns * line].reshape(rows, columns, factor, line)
    left_over = turns[:, factor * columns * line :].reshape(rows, factor - 1, columns, line)
    leave = np.concatenate([come[:, None, :, 0], left_over], axis=1)  # (rows, factor, columns, line)
    pixels = leave.reshape(rows * factor, columns * across, words)
    return turns.size, (held(come.reshape(-1)),), (held(pixels[top : top + height, left : left + width].reshape(-1)),)
