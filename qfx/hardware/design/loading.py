"""Constants that are loaded while the hardware runs (``--weights stream``): which memories there are, and the words that fill them.

The words travel process by process in the design's order; for each, the weights (row by row, the elements of a row in order), then the tables of its
epilogue in the order of its steps. One word of the port carries one element, in its lowest bits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from qfx.fixed.packing import SLOTS, Port, pack
from qfx.fixed.type import FixedType
from qfx.hardware.design import arithmetic
from qfx.hardware.design import design as d
from qfx.hardware.design.names import Names

FLAGS_DEPTH = 64
"""So deep that small frames that follow each other do not wait, as the FIFO of TLAST."""

WORDS_DEPTH = 2


@dataclass(frozen=True, slots=True)
class Memory:
    """``rows`` of elements of ``bits`` bits, as unsigned numbers."""

    rows: tuple[tuple[int, ...], ...]
    bits: int

    @property
    def size(self) -> int:
        return sum(map(len, self.rows))


def memories(process: d.Process) -> tuple[Memory, ...]:
    """The memories of the process that are loaded, with what is at hand for them, in the order in which they are."""
    found = []
    if isinstance(process, d.MatVec) and process.loaded:
        rows, bits = arithmetic.pack_rows(process.weights, process.weight_type)
        found.append(Memory(tuple(map(tuple, rows)), bits))
    for table in loaded_tables(process):
        assert table.loaded is not None
        bits = slot_of(table.loaded.width)
        found.append(Memory((tuple(value & ((1 << bits) - 1) for value in table.values),), bits))
    return tuple(found)


def shapes(process: d.Process) -> tuple[tuple[int, int], ...]:
    """The elements of each of the ``memories`` and the bits of one, without making their contents."""
    found = []
    if isinstance(process, d.MatVec) and process.loaded:
        rows, lanes = process.weights.shape
        _, elements, bits = arithmetic.rom_shape(rows, lanes, process.weight_type.width)
        found.append((rows * elements, bits))
    for table in loaded_tables(process):
        assert table.loaded is not None
        found.append((len(table.values), slot_of(table.loaded.width)))
    return tuple(found)


def loaded_tables(process: d.Process) -> tuple[d.Table, ...]:
    """The loaded tables of the process's epilogue, in the order of its steps."""
    steps = process.epilogue.steps if isinstance(process, d.MatVec | d.Pool | d.Pointwise | d.Binary | d.Concat) else ()
    return tuple(operand.table for step in steps for operand in step.operands if operand.table.loaded is not None)


def loader(processes: Iterable[d.Process], names: Names) -> d.Loader | None:
    """The loader of the processes; None if no constant is loaded."""
    found = [(process, held) for process in processes if (held := shapes(process))]
    if not found:
        return None
    slot = slot_of(max(bits for _, held in found for _, bits in held))
    count = sum(elements for _, held in found for elements, _ in held)
    loads = tuple(d.Load(process.name, names.new(process.name, "flags"), names.new(process.name, "words")) for process, _ in found)
    return d.Loader(names.new("weights", "port"), Port(FixedType(slot, slot), (count,), slot, 1), loads)


def counts(design: d.Design) -> tuple[int, ...]:
    """The words of each of the loader's processes."""
    assert design.loader is not None
    names = {load.process for load in design.loader.loads}
    return tuple(sum(elements for elements, _ in shapes(process)) for process in design.processes if process.name in names)


def words(design: d.Design) -> bytes:
    """All words for the port, as they lie in memory: what the design's own constants are loaded with."""
    assert design.loader is not None
    port = design.loader.port
    elements = [element for process in design.processes for memory in memories(process) for row in memory.rows for element in row]
    # An element that uses the whole slot is a negative number to ``pack``.
    raw = (np.array(elements, dtype=np.uint64) << np.uint64(64 - port.slot)).view(np.int64) >> np.int64(64 - port.slot)
    return pack(raw.reshape(1, -1), port).tobytes()


def slot_of(bits: int) -> int:
    """The least slot that holds ``bits`` bits, at most 64."""
    return next(slot for slot in SLOTS if slot >= bits)
