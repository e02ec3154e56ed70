"""Memories that are loaded while the hardware runs: their size, and what is at hand for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from qfx.fixed.packing import SLOTS
from qfx.fixed.type import FixedType
from qfx.hardware.design import arithmetic
from qfx.hardware.design.streams import IntArray, Table


@dataclass(frozen=True, slots=True)
class Memory:
    """``rows`` of elements of ``bits`` bits, as unsigned numbers."""

    rows: tuple[tuple[int, ...], ...]
    bits: int

    @property
    def size(self) -> int:
        return sum(map(len, self.rows))


@dataclass(frozen=True, slots=True, eq=False)
class Loadable:
    """``elements`` of ``bits`` bits; ``memory`` makes what is at hand for them, which takes longer than to tell their number."""

    elements: int
    bits: int
    memory: Callable[[], Memory]


def rom(weights: IntArray, type_: FixedType) -> Loadable:
    """Weights, raws of ``type_``: row by row, the elements of a row in order."""
    rows, lanes = weights.shape
    _, elements, bits = arithmetic.rom_shape(rows, lanes, type_.width)
    return Loadable(rows * elements, bits, lambda: Memory(tuple(map(tuple, arithmetic.pack_rows(weights, type_)[0])), bits))


def tables(found: Iterable[Table]) -> tuple[Loadable, ...]:
    """Those of the tables that are loaded."""
    return tuple(_table(table, table.loaded) for table in found if table.loaded is not None)


def _table(table: Table, type_: FixedType) -> Loadable:
    bits = slot_of(type_.width)
    return Loadable(len(table.values), bits, lambda: Memory((tuple(value & ((1 << bits) - 1) for value in table.values),), bits))


def slot_of(bits: int) -> int:
    """The least slot that holds ``bits`` bits, at most 64."""
    return next(slot for slot in SLOTS if slot >= bits)
