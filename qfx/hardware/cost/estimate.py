"""What a design costs on a board before any synthesis: LUTs, flip-flops, DSP blocks and memory blocks of every process, layer and in total.

Every formula is in ``resources.py``; which pieces a process is made of its kind says. docs/estimates.md compares, and says what is assumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil

from qfx.errors import ProjectError
from qfx.hardware.board import Board
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.resources import FIELDS, Resources
from qfx.hardware.design import design as d
from qfx.hardware.design import loading
from qfx.hardware.timing.program import READ_WRITE
from qfx.pages.notebook import notebook_table

LIMITS: Mapping[str, float] = {"lut": 0.80, "ff": 0.80, "dsp": 1.0, "bram18": 0.90, "uram": 0.90}
"""The share of a board's resources up to which a folding is chosen: the rest is for the DMA and its interconnect, and for routing. (UG949 warns from
70 % of the LUTs, 50 % of the flip-flops, 80 % of the DSP blocks and memory blocks on.)"""

NAMES: Mapping[str, str] = {"lut": "LUT", "ff": "FF", "dsp": "DSP", "bram18": "BRAM18", "uram": "URAM"}

CONTROL = Resources(lut=40, ff=40)
"""The AXI4-Lite block with ap_ctrl alone: an assumption."""


@dataclass(frozen=True, slots=True)
class Cost:
    """A process with the FIFOs that it writes: ``node`` is the graph node that it works for, ``cycles`` its turns a frame."""

    process: str
    node: str
    cycles: int
    resources: Resources


@dataclass(frozen=True, slots=True)
class Estimate:
    """Costs in the order of the design's processes; the last one is the control port's."""

    board: Board
    costs: tuple[Cost, ...]

    def __repr__(self) -> str:
        return f"Estimate({self.board.title}, {told(self)})"

    def _repr_html_(self) -> str:
        return resource_table(self, self.board.title)

    @property
    def total(self) -> Resources:
        return r.total([cost.resources for cost in self.costs])

    @property
    def layers(self) -> tuple[Cost, ...]:
        """One cost per graph node, in order of first appearance; ``process`` names its slowest process, ``cycles`` are that one's."""
        merged: dict[str, Cost] = {}
        for cost in self.costs:
            known = merged.get(cost.node, Cost("", cost.node, -1, Resources()))
            slower = cost if cost.cycles > known.cycles else known
            merged[cost.node] = replace(slower, resources=known.resources + cost.resources)
        return tuple(merged.values())

    def share(self, field: str) -> float:
        """The used part of the board's ``field``, one of FIELDS; 1.0 is all of it. Infinite if the board has none."""
        used, there = getattr(self.total, field), getattr(capacity(self.board), field)
        return used / there if there else (float("inf") if used else 0.0)

    def over(self, limits: Mapping[str, float]) -> tuple[str, ...]:
        """The fields whose share is above its limit."""
        return tuple(field for field in FIELDS if self.share(field) > limits[field])


def told(estimate: Estimate) -> str:
    """What it takes, in one line."""
    return ", ".join(f"{getattr(estimate.total, field):,} {NAMES[field]}" for field in FIELDS if getattr(estimate.total, field))


def resource_table(estimate: Estimate, title: str) -> str:
    """What it takes of the board, for notebooks."""
    there = capacity(estimate.board)
    rows = [(NAMES[f], f"{getattr(estimate.total, f):,}", f"{getattr(there, f):,}", f"{estimate.share(f):.1%}") for f in FIELDS if getattr(there, f)]
    return notebook_table(title, ("resource", "taken", "of", "share"), rows, numbers=(1, 2, 3))


def capacity(board: Board) -> Resources:
    """What the board has."""
    return Resources(board.lut, board.ff, board.dsp, 2 * board.bram36, board.uram)


def estimate(design: d.Design, board: Board) -> Estimate:
    """What the design, with the FIFO depths that it has, costs on the board."""
    on = r.device(board.part)
    costs = []
    for process, node in zip(design.processes, design.nodes, strict=True):
        queues = [r.fifo(stream.built, stream.bits, stream.storage) for stream in process.targets]
        costs.append(Cost(process.name, node, ceil(process.cycles * design.rounds(process) / design.batch), r.total([process.cost(on), *queues])))
    if design.loader is not None:
        costs.append(Cost(design.loader.name, "(weights)", 0, _loader(design.loader)))
    return Estimate(board, (*costs, Cost("control", "(control port)", 0, CONTROL)))


class DoesNotFitError(ProjectError):
    """A design that needs more than the board has: ``needs`` says what."""

    def __init__(self, board: Board, needs: str, remedy: str) -> None:
        super().__init__(f"does not fit the {board.title}: {needs}", where=board.name, remedy=remedy)
        self.needs = needs


def to_be_used(limit: float) -> str:
    """A note on a number of what the board has, if less than all of it is to be used."""
    return f", {100 * limit:.0f} % of which are to be used" if limit < 1 else ""


def check_fits(found: Estimate, limits: Mapping[str, float] | None = None, *, remedies: str = "") -> None:
    """Raises ProjectError unless the estimate stays within ``limits`` (default: all that the board has).

    The error names the resources that are short, the three layers that take most of them, and what would make the design fit.
    """
    limits = limits or dict.fromkeys(FIELDS, 1.0)
    over = found.over(limits)
    if not over:
        return
    total, there = found.total, capacity(found.board)
    parts = []
    for field in over:
        worst = sorted(found.layers, key=lambda cost: getattr(cost.resources, field), reverse=True)[:3]
        costly = ", ".join(f"{cost.node} {getattr(cost.resources, field)}" for cost in worst if getattr(cost.resources, field))
        parts.append(f"{getattr(total, field)} {NAMES[field]} of {getattr(there, field)}{to_be_used(limits[field])} ({costly})")
    raise DoesNotFitError(found.board, f"needs {'; '.join(parts)}", remedies or "use a larger board, shorter words or smaller layers")


def _loader(loader: d.Loader) -> Resources:
    """The port, a counter, and the two FIFOs of each process that constants are loaded into."""
    bits = loader.port.slot * loader.port.parallel
    port = Resources(lut=bits // 2 + 10, ff=bits + 10)
    queues = r.fifo(loading.WORDS_DEPTH, bits) + r.fifo(loading.FLAGS_DEPTH, 1)
    return r.total([r.handshake(1 + 2 * len(loader.loads), READ_WRITE), r.counter(max(loader.port.words, 2)), port, queues * len(loader.loads)])
