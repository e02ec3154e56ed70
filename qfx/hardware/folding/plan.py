"""What comes of a schedule: the design with its FIFOs sized, what it costs on a board, and how it runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from math import ceil

from qfx.errors import ProjectError
from qfx.hardware.board import Board
from qfx.hardware.cost.estimate import LIMITS, DoesNotFitError, Estimate, check_fits, estimate, resource_table, told
from qfx.hardware.cost.power import Power, power
from qfx.hardware.design import design as d
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Schedule
from qfx.hardware.design.sequence import as_built
from qfx.hardware.folding.least import Weights, check_blocks, check_layers, check_weights, elsewhere
from qfx.hardware.folding.memory import spilling
from qfx.hardware.folding.option import Role
from qfx.hardware.folding.options import layers
from qfx.hardware.folding.placing import check_asked, place_fifos
from qfx.hardware.timing import fifo
from qfx.hardware.timing.clock import Clock, expected
from qfx.hardware.timing.simulate import Timing, simulate
from qfx.ir.graph import Graph

_OTHER_FOLDING = "use a larger board, shorter words or smaller layers, or try --fit: other foldings may take less"


@dataclass(frozen=True, slots=True)
class Plan:
    """A schedule and what comes of it: the design with its FIFOs sized, what it costs, and how it runs (None: too long a frame to simulate).

    ``gap``: of a schedule that was searched for, how far it is at most from the best one, as a part of the bound that says so: in cycles a frame of
    the fastest that fits, else in the sum of squares of the shares. What is no layer (forks, deep FIFOs) counts as in this design.
    """

    schedule: Schedule
    design: d.Design
    estimate: Estimate
    timing: Timing | None
    clock_ns: float
    gap: float | None = None

    def __repr__(self) -> str:
        return f"Plan({self.estimate.board.title}, {self.clock_ns:g} ns, {self.fps:,.1f} frames a second, {told(self.estimate)})"

    def _repr_html_(self) -> str:
        title = f"{self.estimate.board.title}, {self.clock_ns:g} ns: {self.fps:,.1f} frames a second (estimated)"
        return resource_table(self.estimate, title)

    @property
    def interval(self) -> int:
        """Cycles from frame to frame: simulated, or those of the slowest process, but no fewer than memory takes."""
        slowest = self.timing.interval if self.timing is not None else max(map(self.design.busy, self.design.processes))
        return max(ceil(slowest / self.design.batch), self.memory_cycles)

    @property
    def memory_bytes(self) -> int:
        """Bytes that a frame reads from the board's memory, or writes there: weights, and what is spilled."""
        return sum(master.frame_bytes for master in self.design.masters)

    @property
    def memory_cycles(self) -> int:
        """The cycles that the board's memory takes for them, all masters together, at the bandwidth that it is assumed to give."""
        if not self.memory_bytes:
            return 0
        return ceil(self.memory_bytes / self.estimate.board.memory_bytes_per_cycle(self.clock_ns))

    @property
    def fps(self) -> float:
        return 1e9 / (self.interval * self.clock_ns)

    @property
    def clock(self) -> Clock:
        """The period that the design is expected to reach."""
        return expected(self.design.processes, self.estimate.board)

    @property
    def power(self) -> Power:
        """At the period asked for."""
        return power(self.estimate, clock_ns=self.clock_ns, interval=self.interval)

    @property
    def folded(self) -> tuple[str, ...]:
        """The graph's nodes that have a folding, in order."""
        return folded_nodes(self.design)

    @property
    def weighted(self) -> frozenset[str]:
        """Those of them that have a SIMD and an arithmetic."""
        return weighted_nodes(self.design)


def plan(graph: Graph, board: Board, schedule: Schedule, *, clock_ns: float, known: fifo.Known | None = None, spills: bool = False) -> Plan:
    """What comes of ``schedule`` (of an optimized graph). Raises ProjectError if it cannot be built or would deadlock; not if it is too large.
    ``known``: sizes of FIFOs that are remembered, for who makes many designs that are alike. ``spills``: whether FIFOs may go to the board's memory
    where block RAM does not hold them; the plan's schedule then says so."""
    made = _plan(graph, board, schedule, clock_ns, known)
    if not spills:
        return made
    asked = dict(schedule.fifo_storage)
    return spilling.spilled(made, lambda storage: _plan(graph, board, replace(schedule, fifo_storage=storage), clock_ns, known), asked)


def _plan(graph: Graph, board: Board, schedule: Schedule, clock_ns: float, known: fifo.Known | None) -> Plan:
    schedule = as_built(graph, schedule)
    lowered = lower(graph, schedule)
    check_asked(lowered, schedule, board)
    sized = fifo.plan(lowered, known)
    design, timing = sized.design, sized.timing
    for name, _ in (*schedule.fifos, *schedule.fifo_storage):
        if all(stream.name != name for stream in design.streams):
            raise ProjectError(f"no FIFO is called {name!r}", where="[fifos]", remedy=nearest(name, [stream.name for stream in design.streams]))
    if schedule.fifos:
        design = fifo.with_depths(design, dict(schedule.fifos))
        timing = timing and simulate(design)
    design = place_fifos(design, board, dict(schedule.fifo_storage))
    return Plan(schedule, design, estimate(design, board), timing, clock_ns)


def fitting_plan(graph: Graph, board: Board, schedule: Schedule, *, clock_ns: float, spills: bool = False) -> Plan:
    """As ``plan``, but raises ProjectError too if the design does not fit the board: if possible before FIFOs are sized, which takes long."""
    design = lower(graph, schedule)
    check_asked(design, schedule, board)
    weights = Weights.of(design)
    try:
        check_blocks(weights, board)
        check_fits(shallow_estimate(design, board))
        made = plan(graph, board, schedule, clock_ns=clock_ns, spills=spills)
        check_fits(made.estimate)
    except DoesNotFitError as error:
        raise DoesNotFitError(board, error.needs, _remedy(graph, board)) from None
    return made


def _remedy(graph: Graph, board: Board) -> str:
    """What to do about a design that does not fit, as far as that can be told without a search."""
    base = lower(graph, Schedule(), shared=True)
    try:
        check_weights(Weights.of(base), board, LIMITS)
        check_layers(layers(base, board, {}), board, LIMITS)
    except DoesNotFitError as error:
        return error.remedy
    return elsewhere(board, _OTHER_FOLDING)


def shallow_estimate(design: d.Design, board: Board) -> Estimate:
    """The estimate with all FIFOs as shallow as they can be."""
    return estimate(fifo.with_depths(design, {stream.name: fifo.CHAIN_DEPTH for stream in design.streams}), board)


def folded_nodes(design: d.Design) -> tuple[str, ...]:
    """The nodes that have a folding, in order; those inside a loop behind it."""
    names = [node for process, node in _everything(design) if process.role in (Role.MATVEC, Role.OTHER)]
    return tuple(dict.fromkeys(names))


def weighted_nodes(design: d.Design) -> frozenset[str]:
    """Those of them that have a SIMD and an arithmetic."""
    return frozenset(node for process, node in _everything(design) if process.role is Role.MATVEC)


def _everything(design: d.Design) -> Iterator[tuple[d.Process, str]]:
    """Its processes, and those that they are made of, each with its node."""
    for process, node in zip(design.processes, design.nodes, strict=True):
        yield process, node
        yield from process.inside


def nearest(name: str, known: Iterable[str]) -> str:
    """A remedy for a name that does not exist: the nearest one that does, and the others."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    listed = ", ".join(names[:40]) + (f" and {len(names) - 40} more" if len(names) > 40 else "")
    return (f"did you mean {close[0]!r}? " if close else "") + f"there are {listed}"
