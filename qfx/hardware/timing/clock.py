"""The clock: which period a design can be expected to reach, and what keeps it from a shorter one.

The tools pipeline what goes forward, so two things set the period of a process. *Recurrences*: paths from a turn to the next one, which the kind of
process tells (``Process.recurrences``) and the tool must fit into the period less its clock uncertainty, or it gives up the interval of one. *The
enable*: the flags of all FIFOs decide whether the process goes on, and every flip-flop of it waits for that; the tool that schedules does not see
this path, the one that routes does. Single operators are not cut, but none takes as long as the counters of a loop: an adder of 64 bits 1.34 ns where
a counter takes two of 8 bits. Beside the processes stands what the part allows at all: block RAM and clock buffers, which are slower than DSP blocks.

All delays are estimates (``delays.py``); docs/estimates.md compares.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from typing import Protocol

from qfx.hardware.board import Board
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design.streams import Stream
from qfx.hardware.timing.delays import Delays, Recurrence, delays, fan_out, gates

WIDE_UNCERTAINTY, NARROW_UNCERTAINTY = 0.27, 0.125
"""The parts of the clock period that the tools leave to routing unless told otherwise: Vitis HLS (UG1399, set_clock_uncertainty), Vivado HLS (UG902).
A project asks for the wide one where all recurrences fit into the rest, and else for the narrow one: with the wide one, the tool would rather take
two cycles a turn."""
SPARE = 0.10
"""By how much recurrences must fit into a period less the wide uncertainty: the delays are estimates."""


class Timed(Protocol):
    """What is asked of a process."""

    @property
    def name(self) -> str: ...
    @property
    def sources(self) -> tuple[Stream, ...]: ...
    @property
    def targets(self) -> tuple[Stream, ...]: ...
    @property
    def recurrences(self) -> tuple[Recurrence, ...]: ...
    def logic(self, on: Device) -> Resources: ...


@dataclass(frozen=True, slots=True)
class Clock:
    """What a design on a part is expected to reach: ``believed_ns``, rounded up to a hundredth, which the path ``what`` of ``process`` sets (no
    process: the part). ``recurrence_ns``: the longest of the paths that the tool has to fit into the period less its uncertainty."""

    believed_ns: float
    process: str
    what: str
    recurrence_ns: float

    def believes(self, clock_ns: float) -> bool:
        return self.believed_ns <= clock_ns

    def uncertainty(self, clock_ns: float) -> float:
        """The part of the period that the HLS tool is asked to leave to routing."""
        return uncertainty(self.recurrence_ns, clock_ns)


def uncertainty(recurrence_ns: float, clock_ns: float) -> float:
    """See WIDE_UNCERTAINTY."""
    return WIDE_UNCERTAINTY if recurrence_ns * (1 + SPARE) <= clock_ns * (1 - WIDE_UNCERTAINTY) else NARROW_UNCERTAINTY


def expected(processes: Iterable[Timed], board: Board) -> Clock:
    """The period that a design of these processes is expected to reach on the board."""
    on, device = delays(board.part), r.device(board.part)
    found = [(1000 / board.fastest_mhz, "", f"block RAM or the clock buffers of {board.part}")]
    longest = 0.0
    for process in processes:
        for path in process.recurrences:
            needs = path.delay_ns(on)
            longest = max(longest, needs)
            found.append((needs / (1 - NARROW_UNCERTAINTY), process.name, path.what))
        streams = (*process.sources, *process.targets)
        enable = enable_ns(len(streams), process.logic(device).ff, on)
        found.append((enable, process.name, "the enable of its pipeline"))
    period, name, what = max(found, key=lambda one: one[0])
    return Clock(rounded_up(period), name, what, longest)


def expected_of_pipeline(ports: int, flip_flops: int, longest_ns: float, board: Board) -> Clock:
    """That of one pipelined function with so many ports, whose longest operator takes ``longest_ns``: nothing in it waits for itself."""
    found = [
        (1000 / board.fastest_mhz, f"block RAM or the clock buffers of {board.part}"),
        (longest_ns / (1 - WIDE_UNCERTAINTY), "the longest sum"),
        (enable_ns(ports, flip_flops, delays(board.part)), "the enable of the pipeline"),
    ]
    period, what = max(found, key=lambda one: one[0])
    return Clock(rounded_up(period), "", what, 0.0)


def enable_ns(streams: int, flip_flops: int, on: Delays) -> float:
    """From the flags of so many FIFOs to the enable of so many flip-flops: a condition of the flags and of whether this turn uses them, and a net."""
    return on.register + gates(2 * streams + 1).delay_ns(on) + fan_out(flip_flops).delay_ns(on)


def rounded_up(period_ns: float) -> float:
    """In hundredths of a nanosecond, as they are shown and asked for."""
    return ceil(period_ns * 100 - 1e-6) / 100
