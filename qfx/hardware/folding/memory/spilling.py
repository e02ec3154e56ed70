"""Which FIFOs go to the board's memory: the deepest, where block RAM does not hold all and memory has bandwidth left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from qfx.errors import ProjectError
from qfx.hardware.board import Board
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.estimate import LIMITS, Estimate, capacity
from qfx.hardware.design import design as d
from qfx.hardware.design.memory.spilled import numbers, word_bits
from qfx.hardware.design.streams import BUILT
from qfx.hardware.processes.memory.from_memory import BURST_BEATS, PORT_BITS
from qfx.hardware.processes.memory.spill import TURNS, channels
from qfx.hardware.timing.simulate import Timing

_SHARE = 0.9
"""Of the bandwidth, and of a frame's cycles, that what is spilled may fill: it should hold up nothing."""

_ROUNDS, _SLOWER = 3, 1.02
_LEAST_SAVED = 4  # block RAMs that are worth a master
_MOST = 24  # FIFOs


class Planned(Protocol):
    """What is asked of a plan."""

    @property
    def design(self) -> d.Design: ...
    @property
    def estimate(self) -> Estimate: ...
    @property
    def timing(self) -> Timing | None: ...
    @property
    def clock_ns(self) -> float: ...
    @property
    def interval(self) -> int: ...
    @property
    def memory_bytes(self) -> int: ...


Found = TypeVar("Found", bound=Planned)
Storage = tuple[tuple[str, str], ...]


def spilled(made: Found, again: Callable[[Storage], Found], asked: Mapping[str, str]) -> Found:
    """The plan, or if it does not fit the board, the one with some of them in memory that takes least. ``again``: the plan with
    FIFOs in such places; ``asked``: where the user has them, which stays."""
    best, storage = made, dict(asked)
    for _ in range(_ROUNDS):
        over = _over(best.estimate)
        if over <= 0 or best.timing is None:
            break
        names = _chosen(best, over, storage)
        if not names:
            break
        storage |= dict.fromkeys(names, "ddr")
        try:
            trial = again(tuple(sorted(storage.items())))
        except ProjectError:
            break  # a number of more bits than a word of memory, or no room
        if _over(trial.estimate) >= over or trial.interval > _SLOWER * best.interval:
            break
        best = trial
    return best


def _over(found: Estimate) -> float:
    """How many block RAMs are missing, and LUTs as parts of those: FIFOs lie in either, as there is room."""
    there, taken = capacity(found.board), found.total
    blocks, luts = LIMITS["bram18"] * there.bram18, LIMITS["lut"] * there.lut
    return max(taken.bram18 - blocks, 0.0) + max(taken.lut - luts, 0.0) * blocks / luts


def _chosen(made: Planned, over: float, storage: Mapping[str, str]) -> list[str]:
    """The FIFOs that save so many block RAMs, those first that save most; fewer if there are none."""
    board: Board = made.estimate.board
    marks = {mark.name for process in made.design.processes for mark in process.marks}
    near = {stream.name for process in made.design.processes if isinstance(process, d.Spill) for stream in (process.input, process.output)}
    left = _SHARE * board.memory_bytes_per_cycle(made.clock_ns) * made.interval - made.memory_bytes
    candidates = []
    for stream in made.design.streams:
        if stream.name in marks or stream.name in near or stream.name in storage or stream.type.width > PORT_BITS[-1]:
            continue
        bits = word_bits(stream, made.interval)
        words = stream.numbers // numbers(stream, bits)
        queues = r.fifo(BUILT, bits) * 2 + r.ram(BURST_BEATS, bits, r.device(board.part)) * 2
        saved = r.fifo(stream.depth, stream.bits, "bram").bram18 - queues.bram18 - channels(bits).bram18
        if saved >= _LEAST_SAVED and TURNS * words <= _SHARE * made.interval:
            candidates.append((saved, stream.name, 2 * words * bits // 8))
    names: list[str] = []
    for saved, name, cost in sorted(candidates, key=lambda one: (-one[0], one[1])):
        if over <= 0 or len(names) + len(near) // 2 >= _MOST:
            break
        if cost <= left:
            names.append(name)
            over, left = over - saved, left - cost
    return names
