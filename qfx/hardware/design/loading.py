"""Constants that are loaded while the hardware runs (``--weights stream``): which memories there are, and the words that fill them.

The words travel process by process in the design's order; for each, the weights (row by row, the elements of a row in order), then the tables of its
epilogue in the order of its steps. One word of the port carries one element, in its lowest bits.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from qfx.fixed.packing import Port, pack
from qfx.fixed.type import FixedType
from qfx.hardware.design import design as d
from qfx.hardware.design.loadable import Memory, slot_of
from qfx.hardware.design.names import Names

FLAGS_DEPTH = 64
"""So deep that small frames that follow each other do not wait, as the FIFO of TLAST."""

WORDS_DEPTH = 2


def memories(process: d.Process) -> tuple[Memory, ...]:
    """The memories of the process that are loaded, with what is at hand for them, in the order in which they are."""
    return tuple(loadable.memory() for loadable in process.loads)


def loader(processes: Iterable[d.Process], names: Names) -> d.Loader | None:
    """The loader of the processes; None if no constant is loaded."""
    found = [(process, process.loads) for process in processes if process.loads]
    if not found:
        return None
    slot = slot_of(max(loadable.bits for _, held in found for loadable in held))
    count = sum(loadable.elements for _, held in found for loadable in held)
    loads = tuple(d.Load(process.name, names.new(process.name, "flags"), names.new(process.name, "words")) for process, _ in found)
    return d.Loader(names.new("weights", "port"), Port(FixedType(slot, slot), (count,), slot, 1), loads)


def counts(design: d.Design) -> tuple[int, ...]:
    """The words of each of the loader's processes."""
    assert design.loader is not None
    names = {load.process for load in design.loader.loads}
    return tuple(sum(loadable.elements for loadable in process.loads) for process in design.processes if process.name in names)


def words(design: d.Design) -> bytes:
    """All words for the port, as they lie in memory: what the design's own constants are loaded with."""
    assert design.loader is not None
    port = design.loader.port
    elements = [element for process in design.processes for memory in memories(process) for row in memory.rows for element in row]
    # An element that uses the whole slot is a negative number to ``pack``.
    raw = (np.array(elements, dtype=np.uint64) << np.uint64(64 - port.slot)).view(np.int64) >> np.int64(64 - port.slot)
    return pack(raw.reshape(1, -1), port).tobytes()
