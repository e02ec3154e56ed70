"""Choosing the folding: the cheapest that is fast enough, or the fastest that fits the board.

*Cheapest* is the least sum of the squares of the used shares of the board's LUTs, flip-flops, DSP blocks and block RAMs, so that the load is spread.
It is found by prices: every layer takes its cheapest option among those that keep the pace, in topological order so that the words of neighbours go
together; a resource's price follows its share (the gradient of the sum of squares, averaged: Frank and Wolfe), and is raised further while the sum is
above ``estimate.LIMITS`` (a subgradient step on the multipliers of a knapsack). Then single layers are exchanged as long as that helps: prices alone
treat equal layers alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from math import ceil, log, log2

import numpy as np
import numpy.typing as npt

from qfx.errors import ProjectError
from qfx.hardware.board import Board, check_clock
from qfx.hardware.cost.estimate import LIMITS, DoesNotFitError, Estimate, capacity, check_fits, estimate
from qfx.hardware.cost.resources import FIELDS
from qfx.hardware.design import design as d
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Folding, Request, Schedule
from qfx.hardware.folding.least import Weights, check_blocks, check_layers, check_weights
from qfx.hardware.folding.option import Role
from qfx.hardware.folding.options import OUTPUT, Layer, layers
from qfx.hardware.timing import fifo
from qfx.hardware.timing.simulate import Timing, simulate
from qfx.ir.graph import Graph
from qfx.progress import Progress, silent

_PRICE_STEPS = 36
_SPREAD_STEPS = 12  # of the steps: those that look for the least sum of squares before anything is known to be short
_LEAST_PRICE = 0.02
_EXCHANGES = 4
_NONE_FOUND = "use a larger board, shorter words or a smaller model: no folding was found that fits"
_OTHER_FOLDING = "use a larger board, shorter words or smaller layers, or try --fit: other foldings may take less"
_ROUNDS = 6
_LOWERING, _LISTING, _SIZING = "lowering the model", "listing the foldings of every layer", "simulating the design and sizing its FIFOs"
_PRECISION = 1.01  # of the search for the fastest that fits
_REWIDTH = 8  # cycles of a process that changes the width of words, beyond one per word

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Plan:
    """A schedule and what comes of it: the design with its FIFOs sized, what it costs, and how it runs (None: too long a frame to simulate)."""

    schedule: Schedule
    design: d.Design
    estimate: Estimate
    timing: Timing | None
    clock_ns: float

    @property
    def interval(self) -> int:
        """Cycles from frame to frame: simulated, or those of the slowest process."""
        if self.timing is not None:
            return self.timing.interval
        return max(process.busy for process in self.design.processes)

    @property
    def fps(self) -> float:
        return 1e9 / (self.interval * self.clock_ns)

    @property
    def folded(self) -> tuple[str, ...]:
        """The graph's nodes that have a folding, in order."""
        return _folded(self.design)

    @property
    def weighted(self) -> frozenset[str]:
        """Those of them that have a SIMD and an arithmetic."""
        return _weighted(self.design)


def plan(graph: Graph, board: Board, schedule: Schedule, *, clock_ns: float) -> Plan:
    """What comes of ``schedule`` (of an optimized graph). Raises ProjectError if it cannot be built or would deadlock; not if it is too large."""
    sized = fifo.plan(lower(graph, schedule))
    design, timing = sized.design, sized.timing
    if schedule.fifos:
        wished = dict(schedule.fifos)
        for name in wished:
            if all(stream.name != name for stream in design.streams):
                raise ProjectError(f"no FIFO is called {name!r}", where="[fifos]", remedy=nearest(name, [stream.name for stream in design.streams]))
        design = fifo.with_depths(design, wished)
        timing = timing and simulate(design)
    return Plan(schedule, design, estimate(design, board), timing, clock_ns)


def fitting_plan(graph: Graph, board: Board, schedule: Schedule, *, clock_ns: float) -> Plan:
    """As ``plan``, but raises ProjectError too if the design does not fit the board: if possible before FIFOs are sized, which takes long."""
    design = lower(graph, schedule)
    weights = Weights.of(design)
    try:
        check_blocks(weights, board)
        check_fits(_least(design, board))
        made = plan(graph, board, schedule, clock_ns=clock_ns)
        check_fits(made.estimate)
    except DoesNotFitError as error:
        raise DoesNotFitError(board, error.needs, _remedy(graph, board)) from None
    return made


def _remedy(graph: Graph, board: Board) -> str:
    """What to do about a design that does not fit, as far as that can be told without a search."""
    base = lower(graph, Schedule())
    try:
        check_weights(Weights.of(base), board, LIMITS)
        check_layers(layers(base, board, {}), board, LIMITS)
    except DoesNotFitError as error:
        return error.remedy
    return _OTHER_FOLDING


def resolve(graph: Graph, board: Board, request: Request, *, clock_ns: float, progress: Progress = silent) -> Plan:
    """The plan that answers the request, for an optimized graph.

    Raises ProjectError if a layer that the request names has no folding of its own, if what it fixes cannot be built, if what it asks for cannot be
    reached, and if the design does not fit the board.
    """
    check_clock(clock_ns, board)
    progress(_LOWERING, 0, 1)
    base = lower(graph, Schedule())
    pinned = dict(request.foldings)
    _check_names(graph, base, pinned)
    if request.fps is None and not request.fit:
        schedule = Schedule.of(
            pinned, input_parallel=request.input_parallel or 1, output_parallel=request.output_parallel or 1, fifos=dict(request.fifos)
        )
        progress(_SIZING, 0, 1)
        made = fitting_plan(graph, board, schedule, clock_ns=clock_ns)
        progress(_SIZING, 1, 1)
        return made
    weights = Weights.of(base)
    check_weights(weights, board, LIMITS)
    lower(
        graph, Schedule.of(pinned, input_parallel=request.input_parallel or 1, output_parallel=request.output_parallel or 1)
    )  # complains if it cannot
    pinned.update({name: Folding(n) for name, n in ((graph.input.name, request.input_parallel), (OUTPUT, request.output_parallel)) if n is not None})
    progress(_LISTING, 0, 1)
    search = _Search(graph, board, layers(base, board, pinned), clock_ns, weights, progress)
    made = search.fastest() if request.fps is None else search.at(request.fps)
    progress(_SIZING, 1, 1)
    if not request.fifos:
        return made
    return plan(graph, board, replace(made.schedule, fifos=request.fifos), clock_ns=clock_ns)


def choose(graph: Graph, board: Board, *, clock_ns: float, fps: float | None = None) -> Schedule:
    """The cheapest schedule of an optimized graph that makes ``fps`` frames per second at ``clock_ns``, or, without ``fps``, the fastest that fits.

    Raises ProjectError if no folding is fast enough, or if none that is fits the board.
    """
    return resolve(graph, board, Request(fps=fps, fit=fps is None), clock_ns=clock_ns).schedule


def nearest(name: str, known: Iterable[str]) -> str:
    """A remedy for a name that does not exist: the nearest one that does, and the others."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    listed = ", ".join(names[:40]) + (f" and {len(names) - 40} more" if len(names) > 40 else "")
    return (f"did you mean {close[0]!r}? " if close else "") + f"there are {listed}"


def _check_names(graph: Graph, base: d.Design, pinned: Mapping[str, Folding]) -> None:
    folded, weighted = _folded(base), _weighted(base)
    for name, folding in pinned.items():
        if name not in folded:
            known = any(node.name == name for node in graph.nodes)
            what = f"{name!r} is computed within another layer, or moves nothing: it has no folding" if known else f"no layer is called {name!r}"
            raise ProjectError(what, where="[layers]", remedy=nearest(name, folded))
        if name not in weighted and folding != Folding(folding.pe):
            raise ProjectError("has no weights: simd and arithmetic mean nothing", where=name, remedy="give pe alone")


def _least(design: d.Design, board: Board) -> Estimate:
    """The estimate with all FIFOs as shallow as they can be."""
    return estimate(fifo.with_depths(design, {stream.name: fifo.CHAIN_DEPTH for stream in design.streams}), board)


def _folded(design: d.Design) -> tuple[str, ...]:
    """The nodes that have a folding, in order."""
    names = [node for process, node in zip(design.processes, design.nodes, strict=True) if process.role in (Role.MATVEC, Role.OTHER)]
    return tuple(dict.fromkeys(names))


def _weighted(design: d.Design) -> frozenset[str]:
    return frozenset(node for process, node in zip(design.processes, design.nodes, strict=True) if process.role is Role.MATVEC)


class _Search:
    def __init__(self, graph: Graph, board: Board, found: tuple[Layer, ...], clock_ns: float, weights: Weights, progress: Progress) -> None:
        self.weights, self.progress = weights, progress
        self.graph, self.board, self.layers, self.clock_ns = graph, board, found, clock_ns
        self.capacity = _vector(capacity(board))
        self.limits = self.capacity * np.array([LIMITS[field] for field in FIELDS])
        self.overhead: FloatArray = np.zeros(len(FIELDS))  # of what is no layer: forks, changes of width, deep FIFOs
        index = {layer.name: i for i, layer in enumerate(found)}
        self.sources = [[(index[name], size) for name, size in layer.sources] for layer in found]
        self.readers: list[list[tuple[int, int]]] = [[] for _ in found]
        for reader, sources in enumerate(self.sources):
            for source, size in sources:
                self.readers[source].append((reader, size))

    def at(self, fps: float) -> Plan:
        """The cheapest plan that makes ``fps``."""
        wanted = int(1e9 / (fps * self.clock_ns))
        self._check_possible()
        self._check_reachable(wanted, fps)
        target, large = wanted, None
        for number in range(_ROUNDS):
            self.progress("searching for the cheapest folding", number, _ROUNDS)
            picked = self._cheapest(target)
            if picked is None:
                self._check_reachable(wanted, fps, floor=target)
                break
            made, found = self._realize(picked)
            if made is not None and made.interval > wanted:
                target = min(target - 1, target * wanted // made.interval)
            elif made is not None and not found.over(LIMITS):
                return made
            else:
                large = found
                if not self._fits(picked):
                    break
        if large is not None:
            most = self.fastest().fps  # or raises, for a better reason than this pace
            other = "or use a larger board, a shorter clock period or shorter words"
            check_fits(large, LIMITS, remedies=f"ask for at most {int(most)} frames per second, {other}")
        raise ProjectError(
            f"no folding was found that simulates at {fps:g} frames per second", where=self.graph.name, remedy="ask for fewer frames per second"
        )

    def fastest(self) -> Plan:
        """The fastest plan that fits, to a percent."""
        self._check_possible()
        frames = [size + _REWIDTH for sources in self.sources for _, size in sources]  # any words go together at one number a cycle
        slowest = max(*(int(layer.busy.max()) for layer in self.layers), *frames)
        slow = self._cheapest(slowest)
        assert slow is not None
        least = self.floor
        for number in range(1, _ROUNDS + 1):
            low, high = float(least), float(slowest)
            picked = slow
            steps, tried = max(1, ceil(log2(max(log(high / low) / log(_PRECISION), 1)))), 0
            while high > low * _PRECISION:
                self.progress(f"searching for the fastest folding, round {number}", tried, max(steps, tried))
                tried += 1
                middle = (low * high) ** 0.5
                found = self._cheapest(int(middle))
                if found is not None and self._fits(found):
                    picked, high = found, middle
                else:
                    low = middle
            made, estimated = self._realize(picked)
            if made is not None and not estimated.over(LIMITS):
                return made  # the overhead was taken for less than it is: nothing faster would have fitted
            if picked is slow:
                break
            slow = self._cheapest(slowest) or slow  # knowing the overhead
        made, estimated = self._realize(slow)
        if made is not None and not estimated.over(LIMITS):
            return made
        made, smallest = self._smallest()
        check_fits(smallest if len(smallest.over(LIMITS)) <= len(estimated.over(LIMITS)) else estimated, LIMITS, remedies=_NONE_FOUND)
        assert made is not None  # or its estimate was over the limits
        return made

    def _smallest(self) -> tuple[Plan | None, Estimate]:
        """One number at a time, where nothing is pinned: what a search by prices may miss."""
        return self._realize([int(layer.costs[:, 0].argmin()) for layer in self.layers])

    @property
    def floor(self) -> int:
        """Cycles of the layer that can be sped up least."""
        return max(int(layer.busy.min()) for layer in self.layers)

    def _check_possible(self) -> None:
        """Raises ProjectError if the layers alone, whatever is chosen, take more than the limits allow."""
        check_layers(self.layers, self.board, LIMITS, self.weights)

    def _check_reachable(self, cycles: int, fps: float, floor: int | None = None) -> None:
        slow = sorted((layer for layer in self.layers if layer.busy.min() > (floor or cycles)), key=lambda layer: -layer.busy.min())
        if slow:
            reasons = "; ".join(f"{layer.name} takes {layer.busy.min()} ({layer.limit})" for layer in slow[:3])
            most = 1e9 / (self.floor * self.clock_ns)
            raise ProjectError(
                f"{fps:g} frames per second leave {cycles} cycles of {self.clock_ns:g} ns for a frame, but {reasons}",
                where=self.graph.name,
                remedy=f"ask for at most {int(most)} frames per second, use a shorter clock period, or unpin foldings",
            )

    def _fits(self, picked: Sequence[int]) -> bool:
        return bool((self._used(picked) <= self.limits).all())

    def _used(self, picked: Sequence[int]) -> FloatArray:
        used: FloatArray = sum((layer.costs[i] for layer, i in zip(self.layers, picked, strict=True)), self.overhead)
        return used

    def _cheapest(self, target: int) -> list[int] | None:
        """The option of each layer: one that fits, else the one that comes nearest; None if none keeps the pace."""
        possible = self._possible(target)
        prices = np.ones(len(FIELDS))
        best: list[int] | None = None
        least = np.inf
        for step in range(_PRICE_STEPS):
            picked = self._pick(target, possible, prices / np.maximum(self.capacity, 1))
            if picked is None:
                return None
            shares = self._used(picked) / np.maximum(self.limits, 1)
            badness = _badness(shares)
            if badness < least:
                best, least = picked, badness
            if step < _SPREAD_STEPS:
                prices += (np.maximum(shares, _LEAST_PRICE) - prices) * 2 / (step + 3)
            elif (shares <= 1).all():
                break
            else:
                prices = prices * np.exp(np.clip(shares - 1, -0.5, 1) * 2 / (1 + (step - _SPREAD_STEPS) / 4))
        return None if best is None else self._exchanged(best, target)

    def _exchanged(self, picked: list[int], target: int) -> list[int]:
        """Better options of single layers, for the same words at both ends, as long as there are any."""
        best = list(picked)
        limits = np.maximum(self.limits, 1)
        used = self._used(best)
        for _ in range(_EXCHANGES):
            before = list(best)
            for index, layer in enumerate(self.layers):
                now = best[index]
                like = np.flatnonzero((layer.busy <= target) & (layer.takes == layer.takes[now]) & (layer.gives == layer.gives[now]))
                others = used - layer.costs[now] + layer.costs[like]
                best[index] = int(like[np.argmin([_badness(row / limits) for row in others])])
                used = used - layer.costs[now] + layer.costs[best[index]]
            if best == before:
                break
        return best

    def _possible(self, target: int) -> list[BoolArray]:
        """For each layer which of its options keep the pace and give words that every reader can take at that pace."""
        fast = [layer.busy <= target for layer in self.layers]
        possible = [mask.copy() for mask in fast]
        for index, layer in enumerate(self.layers):
            for reader, size in self.readers[index]:
                words = np.unique(self.layers[reader].takes[fast[reader]])
                widths, at = np.unique(layer.gives, return_inverse=True)
                together: BoolArray = np.asarray((_rewidth_cycles(size, words[None, :], widths[:, None]) <= target).any(axis=1))
                possible[index] &= together[at]
        return possible

    def _pick(self, target: int, possible: Sequence[BoolArray], prices: FloatArray) -> list[int] | None:
        chosen: list[int] = []
        for index, layer in enumerate(self.layers):
            mask, scores = possible[index].copy(), layer.costs @ prices
            for source, size in self.sources[index]:
                width = self.layers[source].gives[chosen[source]]
                mask &= _rewidth_cycles(size, layer.takes, width) <= target
                scores = scores + (layer.takes != width) * (prices[0] * (60 + 4 * np.maximum(layer.takes, width)))
            if not mask.any():
                return None
            chosen.append(int(np.flatnonzero(mask)[np.argmin(scores[mask])]))
        return chosen

    def _realize(self, picked: Sequence[int]) -> tuple[Plan | None, Estimate]:
        """The plan and its estimate; no plan if that is over the limits even with the shallowest FIFOs: sizing them takes longest."""
        schedule = self._schedule(picked)
        found, made = _least(lower(self.graph, schedule), self.board), None
        if not found.over(LIMITS):
            self.progress(_SIZING, 0, 1)
            made = plan(self.graph, self.board, schedule, clock_ns=self.clock_ns)
            found = made.estimate
        layer_costs: FloatArray = sum((layer.costs[i] for layer, i in zip(self.layers, picked, strict=True)), np.zeros(len(FIELDS)))
        self.overhead = _vector(found.total) - layer_costs
        return made, found

    def _schedule(self, picked: Sequence[int]) -> Schedule:
        foldings, ports = {}, {}
        for layer, option in zip(self.layers, picked, strict=True):
            if layer.kind is Role.PORT:
                ports[layer.name] = layer.foldings[option].pe
            elif layer.kind is not Role.FIXED:
                foldings[layer.name] = layer.foldings[option]
        return Schedule.of(foldings, input_parallel=ports[self.graph.input.name], output_parallel=ports[OUTPUT])


def _badness(shares: FloatArray) -> float:
    """What is to be least: what is above the limits, then the sum of squares. ``shares``: of the limits."""
    return 1e3 * max(float(shares.max()) - 1, 0.0) + float((shares**2).sum())


def _rewidth_cycles(size: int, words: d.IntArray, widths: d.IntArray) -> d.IntArray:
    """Cycles of the change between words of ``words`` and of ``widths`` numbers, over the greatest common divisor; 0 where they are the same."""
    cycles: d.IntArray = np.where(words == widths, 0, size // np.gcd(words, widths) + _REWIDTH)
    return cycles


def _vector(resources: object) -> FloatArray:
    return np.array([getattr(resources, field) for field in FIELDS], dtype=np.float64)
