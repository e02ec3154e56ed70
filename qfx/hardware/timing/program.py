"""Programs: in which turn of its loop a process reads and writes which word.

A process is one pipelined loop (a few in a row for Permute) with an initiation interval of one. A *turn* is one iteration; it reads at most one word
of each input and writes at most one word of each output. Which turn does what depends on the shape alone, never on data: a frame is a fixed program.
``docs/schedule.md`` lists the programs, which lie with the process kinds; the bounded simulation (``tests/support/bounded.py``) checks every one
against the C++ turn by turn.

``latency`` is no property of the C++ but of what the vendor's tool makes of it: cycles from the start of a turn to its write. The numbers here are
assumptions (each is a constant below); they enter the predicted latency and the depth of FIFOs that balance branches, not freedom from deadlock.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from qfx.hardware.design.streams import Epilogue, IntArray

READ_WRITE = 1
"""Cycles that any process spends between reading a word and writing one."""
MEMORY = 2
"""Cycles for the address and the data of a ROM or a line buffer."""
MULTIPLY = 3
"""Cycles of a multiplier: the three registers of a DSP48 (AMD UG579), and as many for one in LUTs."""
EPILOGUE_STEP = 1
"""Cycles of an addition, comparison, shift or cast in an epilogue."""
RESTART = 2
"""Cycles in which a process of a dataflow region is done with a frame and begins the next, on top of its pipeline's latency; an assumption."""
REWIND = 1
"""Cycles between two frames of a process whose loop begins again while the frame before is in its pipeline: none as a rule, but "a delay is possible"
(UG1399, Rewinding Pipelined Loops for Performance); an assumption."""


Places = npt.NDArray[np.int32]

_FEW = 4
"""Turns for one that reads or writes anything, from which on those are merged instead of looked for among all."""


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """One frame of a process: ``turns`` of its loop, and the cycles of ``pause`` until the first turn of the next frame.

    ``reads[i][n]`` is the turn that reads word n of input i, ``writes[o][n]`` the turn that writes word n of output o; inputs and outputs in the
    order of the process's ``sources`` and ``targets``, ports left out. The arrays rise strictly and cannot be written to.
    """

    turns: int
    latency: int
    reads: tuple[IntArray, ...]
    writes: tuple[IntArray, ...]
    pause: int

    def events(self) -> tuple[IntArray, list[Places], list[Places]]:
        """The turns that read or write anything, ascending, and which of them each word is read and written in."""
        ports = (*self.reads, *self.writes)
        size = 1 + max((int(turns[-1]) for turns in ports), default=0)
        if ports and _FEW * sum(turns.size for turns in ports) < size:  # sorted runs, which a stable sort merges
            merged = np.sort(np.concatenate(ports), kind="stable")
            found = merged[np.flatnonzero(np.diff(merged, prepend=-1))]
            reads, writes = ([np.searchsorted(found, turns).astype(np.int32) for turns in side] for side in (self.reads, self.writes))
            return found, reads, writes
        active = np.zeros(size, dtype=np.bool_)
        for turns in ports:
            active[turns] = True
        place = np.cumsum(active, dtype=np.int32) - 1  # half the memory of what turns are counted in
        return np.flatnonzero(active), [place[turns] for turns in self.reads], [place[turns] for turns in self.writes]


def repeated(program: Program, times: int) -> Program:
    """The program ``times`` times, one after the other."""
    if times == 1:
        return program
    begins = np.arange(times, dtype=np.int64)[:, None] * (program.turns + program.pause)
    reads, writes = (tuple(held((begins + turns).reshape(-1)) for turns in ports) for ports in (program.reads, program.writes))
    return Program(times * (program.turns + program.pause) - program.pause, program.latency, reads, writes, program.pause)


_STEPS = {"mul": MULTIPLY, "mul_digits": MULTIPLY, "lookup": EPILOGUE_STEP + MEMORY, "lookup_linear": EPILOGUE_STEP + MEMORY + MULTIPLY}
"""Of the steps of an epilogue that take longer than others."""

Turns = tuple[int, tuple[IntArray, ...], tuple[IntArray, ...]]
"""``turns``, ``reads`` and ``writes`` of a Program."""


def epilogue_latency(epilogue: Epilogue) -> int:
    """The cycles of all steps."""
    return sum(_STEPS.get(step.function, EPILOGUE_STEP) for step in epilogue.steps)


# What follows depends on numbers alone, and many layers of a network have the same.


def held(array: IntArray) -> IntArray:
    """The array, which from here on cannot be written to."""
    array.flags.writeable = False
    return array


@lru_cache(maxsize=64)
def every(words: int) -> IntArray:
    """A word in each of ``words`` turns."""
    return held(np.arange(words, dtype=np.int64))


@lru_cache(maxsize=64)
def last(words: int) -> IntArray:
    """One word, in the last of ``words`` turns."""
    return held(np.array([words - 1], dtype=np.int64))


@lru_cache(maxsize=64)
def reduce(results: int, taps: int) -> Turns:
    """A result after every ``taps`` words."""
    turns = results * taps
    return turns, (every(turns),), (held(np.arange(taps - 1, turns, taps)),)


@lru_cache(maxsize=64)
def spread(words: int, copies: int) -> Turns:
    """Every word read once, in the first of the ``copies`` turns that write something of it."""
    turns = words * copies
    return turns, (held(np.arange(0, turns, copies)),), (every(turns),)
