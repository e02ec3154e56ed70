"""When what lies in memory comes back: the order of turns of FIFOs in the board's memory (``processes/memory/spill.py``).

The design is simulated with the FIFO on the chip. A frame then shows when each word is written into it, and when it is read; so, of each block of
words, how many blocks have come by the time that it is wanted, less the time that memory takes: behind so many it goes back. This order is one in
which the design has run, so that no word is wanted before what must come first; that no FIFO around it is too shallow is for the analysis of
deadlocks to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from qfx.hardware.design import design as d
from qfx.hardware.processes.memory.from_memory import LATENCY_CYCLES

Traffic = Mapping[str, tuple[d.IntArray, d.IntArray]]
"""By FIFO: the cycles in which the words of a frame are written, and in which they are read."""


def watched(design: d.Design) -> list[str]:
    """The FIFOs whose traffic says when what lies in memory is to come back."""
    return [stream.name for process in undecided(design) for stream in (process.input, _wanted(design, process))]


def decided(design: d.Design, traffic: Traffic) -> d.Design:
    """The design with the order of each FIFO in memory, and the FIFOs in front of them as deep as the order asks for. ``traffic``: of a frame
    with all of them undecided, at those that are ``watched``."""
    changes = {}
    for process in undecided(design):
        wanted = _wanted(design, process)
        written, read = traffic[process.input.name][0], traffic[wanted.name][1]
        read = read[np.arange(written.size) * process.output.parallel // wanted.parallel]  # when the first of a word's numbers is
        due = _due(written, read, process.burst)
        changes[process.name] = (due, _room(written, read, due, process.burst))
    depth = {process.input.name: changes[process.name][1] for process in undecided(design)}

    def deep(stream: d.Stream) -> d.Stream:
        return replace(stream, depth=depth.get(stream.name, stream.depth))

    made = [process.with_streams(deep) for process in design.processes]
    made = [
        replace(process, due=changes[process.name][0]) if isinstance(process, d.Spill) and process.name in changes else process for process in made
    ]
    return replace(design, processes=tuple(made), streams=tuple(map(deep, design.streams)))


def _wanted(design: d.Design, process: d.Spill) -> d.Stream:
    """The FIFO from which the numbers that come back are read: behind the change of their width, if there is one."""
    reader = next(one for one in design.processes if process.output.name in [stream.name for stream in one.sources])
    return reader.output if isinstance(reader, d.Rewidth) else process.output


def undecided(design: d.Design) -> tuple[d.Spill, ...]:
    """The FIFOs in memory of whose order nothing is said yet."""
    return tuple(process for process in design.processes if isinstance(process, d.Spill) and not process.due)


def _due(written: d.IntArray, read: d.IntArray, burst: int) -> tuple[int, ...]:
    """How many blocks have gone back behind each one that comes, for words that are written and read in these cycles."""
    early = 2 * (burst + LATENCY_CYCLES)  # from asking for a block, behind another that comes, until its last word is there
    firsts = np.arange(0, written.size, burst)
    lasts = np.append(firsts[1:], written.size) - 1
    come = np.searchsorted(written[lasts], read[firsts] - early, side="right")  # blocks that are there when each is asked for
    behind = np.maximum.accumulate(np.maximum(come, np.arange(1, firsts.size + 1)))
    return tuple(int(count) for count in np.searchsorted(behind, np.arange(1, firsts.size + 1), side="right"))


def _room(written: d.IntArray, read: d.IntArray, due: tuple[int, ...], burst: int) -> int:
    """The most words that come while a block cannot leave, since the block before it is not read yet: where they find no room, what the reader waits
    for may be kept from coming."""
    firsts = np.arange(0, written.size, burst)
    come = (np.searchsorted(np.array(due), np.arange(firsts.size), side="right") + 1) * burst  # words that have come when each goes back
    there = np.searchsorted(written, read[np.maximum(firsts - burst, 0)], side="right")
    return max(int((there - come).max()) + 1, burst)
