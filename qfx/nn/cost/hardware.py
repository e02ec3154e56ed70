"""What a quantized model takes on a board, as a differentiable function of its word lengths: the estimator's figures, and its slopes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from qfx.errors import ProjectError
from qfx.export.to_graph import to_graph
from qfx.hardware.board import Board, board, check_clock
from qfx.hardware.cost.estimate import Estimate
from qfx.hardware.cost.readers import readers
from qfx.hardware.cost.resources import FIELDS
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Request, Schedule
from qfx.hardware.folding.plan import Plan, plan, shallow_estimate
from qfx.hardware.folding.search import nearest_plan, resolve
from qfx.hardware.project.project import prepare
from qfx.hardware.timing.fifo import Known
from qfx.hardware.unrolled import plan as unrolled
from qfx.ir.graph import Graph, graph_name
from qfx.nn.cost.multiplications import Multiplications
from qfx.nn.model import QuantizedModel, graph_module, quantizers
from qfx.nn.quantizer import Quantizer

FloatArray = npt.NDArray[np.float64]

_STEPS = np.array([field in ("dsp", "bram18", "uram") for field in FIELDS])
"""What comes by leaps. A bit more or less rarely makes one; its slope is that of the line through no bits at all."""

Style = Literal["streaming", "unrolled"]


@dataclass(frozen=True, eq=False)
class Line:
    """What a folded design takes, near where it was measured: ``taken`` then (in the order of FIELDS), how much more that is for each bit of a
    learned word length (``slopes``, per quantizer), and the word lengths at that time."""

    taken: FloatArray
    slopes: tuple[tuple[Quantizer, FloatArray], ...]
    lengths: tuple[float, ...]

    def now(self, least: int = 0) -> Tensor:
        """What it takes, one number for each of FIELDS: the estimator's figures as long as no word length has changed, and else LUTs and flip-flops
        along their slopes; DSP blocks and memories come by leaps, which only another measurement tells, so that these have slopes alone.
        Differentiable by the word lengths (of a quantizer with several, by the longest: a word is as wide as its widest number) that have more than
        ``least`` bits."""
        result, steps = torch.tensor(self.taken), torch.tensor(_STEPS)
        for (quantizer, slope), before in zip(self.slopes, self.lengths, strict=True):
            longest = quantizer.bits().amax().double().cpu()
            longest = longest if longest > least else longest.detach()
            result = result + torch.tensor(slope) * torch.where(steps, longest - longest.detach(), longest - before)
        return result

    def changed(self) -> float:
        """By how many bits the words of each quantizer have changed since, on average."""
        longest = [float(quantizer.bits().detach().amax()) for quantizer, _ in self.slopes]
        return sum(abs(now - before) for now, before in zip(longest, self.lengths, strict=True)) / max(len(longest), 1)

    def state(self) -> dict[str, Any]:
        """As plain data, for ``line_of``."""
        slopes = {quantizer.name: slope.tolist() for quantizer, slope in self.slopes}
        return {"taken": self.taken.tolist(), "slopes": slopes, "lengths": list(self.lengths)}


@dataclass(frozen=True, eq=False)
class UnrolledLine:
    """The same of an unrolled design. What one bit of one weight saves there only a new adder graph would tell; between two measurements LUTs and
    flip-flops go with the bit operations."""

    taken: FloatArray
    multiplications: Multiplications
    operations: float

    def now(self, least: int = 0) -> Tensor:
        """The same; ``least`` is for designs whose words are many numbers' own."""
        change = (self._total() - self.operations) / max(self.operations, 1.0)
        logic = torch.tensor([field in ("lut", "ff") for field in FIELDS], dtype=torch.float64)
        return torch.tensor(self.taken) * (1 + logic * change)

    def changed(self) -> float:
        """By how much the bit operations have changed since, relative to then."""
        with torch.no_grad():
            return abs(float(self._total()) - self.operations) / max(self.operations, 1.0)

    def _total(self) -> Tensor:
        return torch.stack(list(self.multiplications.bit_operations().values())).sum().cpu()

    def state(self) -> dict[str, Any]:
        return {"taken": self.taken.tolist(), "operations": self.operations}


def line_of(state: Mapping[str, Any], multiplications: Multiplications) -> Line | UnrolledLine:
    """The line that gave this ``state``, of a model of the same quantizers."""
    taken = _as_fields(state["taken"])
    if "operations" in state:
        return UnrolledLine(taken, multiplications, float(state["operations"]))
    by_name = dict(quantizers(multiplications.model))
    slopes = tuple((by_name[name], _as_fields(slope)) for name, slope in state["slopes"].items())
    return Line(taken, slopes, tuple(float(length) for length in state["lengths"]))


def _as_fields(numbers: Sequence[float]) -> FloatArray:
    """In the order of FIELDS; states that were written before there was UltraRAM among them have none."""
    return np.array([*numbers, *[0.0] * (len(FIELDS) - len(numbers))], dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Measured:
    """One measurement: the ``plan`` that was estimated, and its ``line``."""

    plan: Plan | unrolled.Plan
    line: Line | UnrolledLine

    def now(self) -> Tensor:
        return self.line.now()


class HardwareCost:
    """Measures a model on a board: the cheapest design that makes ``fps`` frames a second at ``clock_ns`` (default: the board's), or, without
    ``fps``, the one of a given ``schedule`` (default: one number at a time, the smallest there is). ``style`` "unrolled": the whole network as one
    pipelined function. ``allowed``: how much of each of FIELDS the design at ``fps`` may take; where none is found that keeps within that, it is the
    one that comes nearest. ``known``: sizes of FIFOs that are remembered from one such design to the next.

    Raises ProjectError for what no design can be made of, and for a pace that no folding reaches.
    """

    model: QuantizedModel
    board: Board
    clock_ns: float
    fps: float | None
    schedule: Schedule | None
    allowed: Mapping[str, float] | None
    known: Known | None

    def __init__(
        self,
        qmodel: nn.Module,
        on: str | Board,
        *,
        fps: float | None = None,
        clock_ns: float | None = None,
        schedule: Schedule | None = None,
        style: Style = "streaming",
        allowed: Mapping[str, float] | None = None,
        known: Known | None = None,
    ) -> None:
        self.model = graph_module(qmodel)
        self.board = board(on) if isinstance(on, str) else on
        self.clock_ns = self.board.clock_ns if clock_ns is None else clock_ns
        check_clock(self.clock_ns, self.board)
        if style not in get_args(Style):
            raise ProjectError(f"no style is called {style!r}", where="style", remedy=f"use one of {', '.join(get_args(Style))}")
        if style == "unrolled" and (fps is not None or schedule is not None):
            raise ProjectError("an unrolled design takes a frame every few cycles", where="style", remedy="leave fps and schedule out")
        self.fps, self.schedule, self.style, self.allowed, self.known = fps, schedule, style, allowed, known

    def graph(self) -> Graph:
        """What would be exported now, optimized as ``qfx hls`` does."""
        with torch.no_grad():
            return prepare(to_graph(self.model, "cost"))

    def plan(self) -> Plan | unrolled.Plan:
        """The design of the model as it is now."""
        graph = self.graph()
        return unrolled.plan(graph, self.board, clock_ns=self.clock_ns) if self.style == "unrolled" else self._plan(graph)

    def _plan(self, graph: Graph) -> Plan:
        if self.fps is None:
            return plan(graph, self.board, self.schedule or Schedule(), clock_ns=self.clock_ns)
        if self.allowed is not None:
            return nearest_plan(graph, self.board, self.allowed, fps=self.fps, clock_ns=self.clock_ns, known=self.known)
        return resolve(graph, self.board, Request(fps=self.fps), clock_ns=self.clock_ns)

    def measure(self, multiplications: Multiplications | None = None) -> Measured:
        """Make and estimate the design, and four more of its folding with weights and activations a bit shorter and a bit longer.

        ``multiplications``: those of the model, if they are at hand; an unrolled design's costs follow them.
        """
        return self._unrolled(multiplications) if self.style == "unrolled" else self._folded()

    def taken(self) -> FloatArray:
        """What the design takes, in the order of FIELDS, without slopes."""
        return _vector(self.plan().estimate)

    def _unrolled(self, multiplications: Multiplications | None) -> Measured:
        found = unrolled.plan(self.graph(), self.board, clock_ns=self.clock_ns)
        multiplications = Multiplications(self.model) if multiplications is None else multiplications
        operations = sum(float(count.detach()) for count in multiplications.bit_operations().values())
        return Measured(found, UnrolledLine(_vector(found.estimate), multiplications, operations))

    def _folded(self) -> Measured:
        learned = [quantizer for _, quantizer in quantizers(self.model) if quantizer.spec.learn_width]
        graph = self.graph()
        found = self._plan(graph)
        taken = _vector(found.estimate)
        weights = [quantizer for quantizer in learned if _is_weight(quantizer)]
        others = [quantizer for quantizer in learned if not _is_weight(quantizer)]
        read_by = readers(graph, [quantizer.name for quantizer in others])
        slopes: list[tuple[Quantizer, FloatArray]] = []
        now = self._by_node(graph, found.schedule)
        for group in (weights, others):
            if not group:
                continue
            less, more = self._changed(group, -1, found.schedule) or now, self._changed(group, 1, found.schedule) or now
            apart = max((less is not now) + (more is not now), 1)
            for quantizer in group:
                nodes = {graph_name(quantizer.name.rpartition(".")[0]): 1.0} if group is weights else read_by[quantizer.name]
                longest = max(float(quantizer.bits().detach().amax()), 1.0)
                slope = np.zeros(len(FIELDS))
                for node, part in nodes.items():
                    lower, upper, here = (cost.get(node, np.zeros(len(FIELDS))) for cost in (less, more, now))
                    slope += part * np.where(_STEPS, here / longest, np.maximum(upper - lower, 0.0) / apart)
                inside = _around(quantizer, now)
                if inside and not any(node in now for node in nodes):
                    within = sum(_around(other, now) == inside for other in learned)
                    slope = self._alone(quantizer, now, now[inside] / (longest * within), found.schedule)
                slopes.append((quantizer, slope))
        lengths = tuple(float(quantizer.bits().detach().amax()) for quantizer, _ in slopes)
        return Measured(found, Line(taken, tuple(slopes), lengths))

    def _alone(self, quantizer: Quantizer, now: Mapping[str, FloatArray], leaps: FloatArray, schedule: Schedule) -> FloatArray:
        """The slope of a quantizer inside a loop, which is one node: what all nodes save if its words alone are a bit shorter."""
        less = self._changed([quantizer], -1, schedule) or now
        saved = sum(now.values(), np.zeros(len(FIELDS))) - sum(less.values(), np.zeros(len(FIELDS)))
        return np.where(_STEPS, leaps, np.maximum(saved, 0.0))

    def _changed(self, group: Sequence[Quantizer], step: int, schedule: Schedule) -> dict[str, FloatArray] | None:
        """``_by_node`` if the group's words have ``step`` bits more; None where such words cannot be folded like that (two in a DSP block)."""
        with _longer(group, step):
            graph = self.graph()
        try:
            return self._by_node(graph, schedule)
        except ProjectError:
            return None

    def _by_node(self, graph: Graph, schedule: Schedule) -> dict[str, FloatArray]:
        """What each node of the graph takes. FIFOs are as shallow as they can be."""
        found = shallow_estimate(lower(graph, schedule), self.board)
        return {cost.node: np.array([getattr(cost.resources, field) for field in FIELDS], dtype=np.float64) for cost in found.layers}


def _around(quantizer: Quantizer, nodes: Iterable[str]) -> str:
    """The node in whose body the quantizer is, if it is in one: the one whose name its own begins with, the longest."""
    own = graph_name(quantizer.name)
    return max((node for node in nodes if own.startswith(f"{node}.")), key=len, default="")


def _is_weight(quantizer: Quantizer) -> bool:
    return quantizer.name.endswith(".weight")


def _vector(found: Estimate) -> FloatArray:
    return np.array([getattr(found.total, field) for field in FIELDS], dtype=np.float64)


@contextlib.contextmanager
def _longer(group: Sequence[Quantizer], step: int) -> Iterator[None]:
    """In this context the words of the quantizers have ``step`` bits more, behind the binary point; those of a bit stay at least that."""
    steps = []
    for quantizer in group:
        lengths = quantizer.bits().detach()
        moves = (lengths > 0) & (lengths + step >= 1)
        steps.append(torch.where(moves, torch.full_like(lengths, float(step)), torch.zeros_like(lengths)))
    with moved_points(group, steps):
        yield


@contextlib.contextmanager
def moved_points(group: Sequence[Quantizer], by: Sequence[Tensor | float]) -> Iterator[None]:
    """In this context the words of the quantizers have so many bits more (see ``movable``). The tensors are set aside, not written, so that a
    backward pass that is still to come finds what its forward saw."""
    moved = [movable(quantizer) for quantizer in group]
    kept = [tensor.data for tensor in moved]
    ranges = [quantizer._buffers.get("int_bits") for quantizer in group]  # which follow the numbers under AP_WRAP
    try:
        for tensor, before, step in zip(moved, kept, by, strict=True):
            tensor.data = before + step
        yield
    finally:
        for tensor, before in zip(moved, kept, strict=True):
            tensor.data = before
        for quantizer, integer in zip(group, ranges, strict=True):
            if integer is not None:
                quantizer._buffers["int_bits"] = integer


def movable(quantizer: Quantizer) -> Tensor:
    """What makes a learned word longer: its fractional bits, or, where training may not move them, its integer bits."""
    integer = quantizer.learned_ints
    return integer if integer is not None and not quantizer.spec.learn and isinstance(integer, nn.Parameter) else quantizer.frac_bits
