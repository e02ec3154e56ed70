"""Values of any rank as rows, columns and channels: what the processes that move numbers work on; and how a value goes through them.

A value travels pixel by pixel, channels innermost: of its axes the second is outermost and the first innermost. Any run of neighbouring axes, in that
order, may be seen as one. So what changes one axis of a value of many sees it as columns, all that is outside it as rows, and all inside as channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, TypeVar

from qfx.errors import ProjectError
from qfx.fixed.type import FixedType
from qfx.hardware.design import design as d
from qfx.hardware.design.epilogue import Frame
from qfx.ir.graph import Node

if TYPE_CHECKING:
    from qfx.hardware.design.build import Builder

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Cube:
    """``groups``: the axes of the value that make the rows, the columns and the channels. ``changed``: those that a process changes in this view."""

    groups: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    changed: tuple[int, ...]

    def sizes(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """(H, W, C) of a value of ``shape``."""
        rows, columns, channels = (prod(shape[axis] for axis in group) for group in self.groups)
        return rows, columns, channels

    def lanes(self, shape: Sequence[int]) -> int:
        """The channels proper of a value of ``shape`` where they are a part of this view's alone, else 0. A word holds numbers of one pixel."""
        return shape[0] if len(self.groups[2]) > 1 else 0

    def each(self, values: Sequence[_T], rest: tuple[_T, _T, _T]) -> tuple[_T, _T, _T]:
        """For rows, columns and channels: the entry of ``values``, which has one for each axis, or that of ``rest`` where nothing changes."""
        rows, columns, channels = (
            values[group[0]] if len(group) == 1 and group[0] in self.changed else other for group, other in zip(self.groups, rest, strict=True)
        )
        return rows, columns, channels


def cubes(rank: int, changed: Sequence[bool]) -> tuple[Cube, ...]:
    """Views of a value of ``rank`` axes, one after the other, in which each axis with ``changed`` is changed once: a single one for up to three axes.

    >>> [cube.groups for cube in cubes(5, [True, False, False, True, False])]
    [((), (1, 2, 3, 4), (0,)), ((1, 2), (3,), (4, 0))]
    """
    if rank <= 3:
        spatial: list[tuple[int, ...]] = [(axis,) for axis in range(1, rank)]
        empty: list[tuple[int, ...]] = [()] * (2 - len(spatial))
        rows, columns = [*empty, *spatial]
        return (Cube((rows, columns, (0,)), tuple(range(rank))),)
    axes = [axis for axis in range(rank) if changed[axis]]
    return tuple(Cube(((), tuple(range(1, rank)), (0,)) if axis == 0 else _around(axis, rank), (axis,)) for axis in axes)


def _around(axis: int, rank: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    return tuple(range(1, axis)), (axis,), (*range(axis + 1, rank), 0)


class Moving:
    """A value that goes through one process after the other, each of which moves its numbers. ``pixels``: those of the result of which a word has all
    channels; 0: a word has numbers of one."""

    def __init__(self, builder: Builder, node: Node, stream: d.Stream, word: FixedType | None, pixels: int) -> None:
        self._builder, self._node, self._stream, self._word, self._pixels = builder, node, stream, word, pixels

    def step(self, kind: str, shape: Sequence[int]) -> tuple[str, d.Stream, d.Stream]:
        """The name of the next process, what it reads and what it writes: a value of ``shape``."""
        source = self._stream
        self._stream = self._builder.stream(self._node.name, self._word or source.type, source.parallel, prod(shape))
        return self._builder.names.new(self._node.name, kind), source, self._stream

    def move(
        self, kind: str, shape: Sequence[int], made: Callable[[str, d.Stream, d.Stream], d.PadFrame | d.SliceFrame | d.Repeat | d.Stretch]
    ) -> None:
        """On through the process that ``made`` makes of its name and of what it reads and writes, a value of ``shape``."""
        if not self._pixels:
            self._builder.add(made(*self.step(kind, shape)))
            return
        builder, stem, type_ = self._builder, self._node.name, self._word or self._stream.type
        single = made("", self._stream.with_parallel(1), d.Stream("", type_, 1, prod(shape), 2))
        wide = None if isinstance(single, d.Stretch) else single.wide(self._pixels)
        if wide is None:
            what = f"pixels={self._pixels}: its rows are not moved so many pixels at once"
            raise ProjectError(what, where=stem, remedy="use fewer, those of a row, or pixels=1")
        source = builder.rewidth(stem, self._stream, wide.input.parallel)
        self._stream = builder.stream(stem, type_, wide.output.parallel, prod(shape))
        builder.add(replace(wide, name=builder.names.new(stem, kind), input=source, output=self._stream))

    def done(self) -> None:
        """Give what the last process writes as the node's value."""
        self._builder.give_stream(self._node.name, self._stream, Frame.of(self._builder.graph.infos[self._node.name].shape))
