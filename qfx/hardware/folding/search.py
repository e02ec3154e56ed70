"""Choosing the folding: the cheapest that is fast enough, or the fastest that fits the board.

What is cheapest at a pace, and the fastest that fits, ``market.py`` says, of layers and their options alone. What is no layer (forks, deep FIFOs)
is known only of a design that was made: the search makes one, counts the difference as overhead, and goes on if the design then misses the pace or
the board. Where that leads far from the fastest choice, paces between are tried.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from qfx.errors import ProjectError
from qfx.hardware.board import Board, check_clock
from qfx.hardware.cost.estimate import LIMITS, DoesNotFitError, Estimate, capacity, check_fits
from qfx.hardware.cost.resources import FIELDS
from qfx.hardware.design import design as d
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import OUT, Folding, Request, Schedule
from qfx.hardware.folding.least import Weights, check_layers, check_weights, elsewhere
from qfx.hardware.folding.market import Fastest, Market, vector
from qfx.hardware.folding.memory import offchip
from qfx.hardware.folding.option import Role
from qfx.hardware.folding.options import OUTPUT, Layer, either, layers, output_layer
from qfx.hardware.folding.placing import check_asked
from qfx.hardware.folding.plan import Plan as Plan  # part of this module's vocabulary
from qfx.hardware.folding.plan import fitting_plan as fitting_plan
from qfx.hardware.folding.plan import folded_nodes, nearest, plan, shallow_estimate, weighted_nodes
from qfx.hardware.folding.prices import COLUMNS, FloatArray, Picked
from qfx.hardware.folding.shifts import by_shifts
from qfx.hardware.folding.widths import fixed_schedule, fixed_widths
from qfx.hardware.processes.traits import WholePixels
from qfx.hardware.timing.fifo import Known
from qfx.ir.graph import Graph
from qfx.ir.within import MARK, everything
from qfx.progress import Progress, silent

_NONE_FOUND = "use a larger board, shorter words or a smaller model: no folding was found that fits"
_ROUNDS = 6
_NEAR_CHEAPEST = 0.05  # of the fastest design's badness: how near it is to the cheapest one as fast
_WORTH = 0.99  # of a pace that is reached: what the search goes on for
_FAR, _HALVINGS = 1.25, 5  # what is between two paces that far apart is looked at, with so many designs at most
_LOWERING, _LISTING, _SIZING = "lowering the model", "listing the foldings of every layer", "simulating the design and sizing its FIFOs"


def resolve(graph: Graph, board: Board, request: Request, *, clock_ns: float, progress: Progress = silent) -> Plan:
    """The plan that answers the request, for an optimized graph.

    Raises ProjectError if a layer that the request names has no folding of its own, if what it fixes cannot be built, if what it asks for cannot be
    reached, and if the design does not fit the board.
    """
    check_clock(clock_ns, board)
    progress(_LOWERING, 0, 1)
    plain = lower(graph, Schedule(), shared=True)
    _check_names(graph, plain, dict(request.foldings))
    pinned = {name for name, folding in request.foldings if folding.weights == "ddr"}
    if request.batch > 1:
        _check_batch(graph, request)
    if not request.memory:
        return _resolved(graph, board, request, plain, _Memory(frozenset(pinned)), clock_ns, progress)
    cycles = None if request.fps is None else int(1e9 / (request.fps * clock_ns))
    chosen = offchip.choices(graph, board, plain, request, clock_ns=clock_ns, cycles=cycles)
    if request.fps is not None or request.fit:
        wanted = _Memory(
            chosen.possible | pinned, chosen.tiles, spills=True, also_on_chip=chosen.possible if request.memory == "auto" else frozenset()
        )
        return _resolved(graph, board, request, plain, wanted, clock_ns, progress)
    for number, names in enumerate(chosen.sets, start=1):
        try:
            return _resolved(graph, board, request, plain, _Memory(names | pinned, spills=True), clock_ns, progress)
        except DoesNotFitError:
            if number == len(chosen.sets):
                raise
    raise AssertionError("there is at least one set")


def _check_batch(graph: Graph, request: Request) -> None:
    """Raises ProjectError where no layer would share weights among frames, and for what has no form with several frames in a call."""
    if not request.memory and lower(graph, fixed_schedule(graph, request), shared=True).batch == 1:
        raise offchip.no_batch(graph, request.batch)
    if len(graph.inputs) + len(graph.outputs) > 2:
        what = f"--batch {request.batch}: the model has several inputs or outputs, whose frames a call of the hardware takes one by one"
        raise ProjectError(what, where=graph.name, remedy="leave --batch out, or use --style sequential")


@dataclass(frozen=True, slots=True)
class _Memory:
    """The layers whose weights lie in the board's memory, or may (``also_on_chip``: those that a search can leave on the chip), and into how many
    tiles a frame of theirs may be cut. ``spills``: whether FIFOs may go there too."""

    layers: frozenset[str]
    tiles: Mapping[str, int] = field(default_factory=dict)
    spills: bool = False
    also_on_chip: frozenset[str] = frozenset()

    @property
    def foldings(self) -> dict[str, Folding]:
        return dict.fromkeys(sorted(self.layers), Folding(weights="ddr"))


def _resolved(graph: Graph, board: Board, request: Request, plain: d.Design, memory: _Memory, clock_ns: float, progress: Progress) -> Plan:
    """The plan with those weights in memory. ``plain``: the design with one number at a time, and all weights on the chip."""
    pinned = dict(request.foldings)
    inside = {name: folding for name, folding in pinned.items() if MARK in name}
    base = lower(graph, Schedule.of(memory.foldings | inside, batch=request.batch), shared=True) if memory.layers or inside else plain
    if request.shift_and_add:
        request = by_shifts(base, request)
        pinned = dict(request.foldings)
    in_memory = {name: folding for name, folding in memory.foldings.items() if name not in pinned}
    asked = fixed_schedule(graph, replace(request, foldings=(*request.foldings, *in_memory.items())))
    if request.fps is None and not request.fit:
        progress(_SIZING, 0, 1)
        made = fitting_plan(graph, board, asked, clock_ns=clock_ns, spills=memory.spills)
        progress(_SIZING, 1, 1)
        return made
    weights = Weights.of(base)
    check_weights(weights, board, LIMITS)
    built = lower(graph, asked)
    check_asked(built, asked, board)  # complains if it cannot
    if stretched := _phased(base) - _phased(built):
        what = "its folding is one of the convolution of its stretched input, which is built without those zeros where it is chosen"
        raise ProjectError(what, where=min(stretched), remedy="fix all foldings, without a frame rate, or leave this one out")
    inputs, outputs = fixed_widths(graph, request)
    names = [*(node.name for node in graph.inputs), *_output_layers(base)]
    pinned.update({name: Folding(parallel) for name, parallel in zip(names, (*inputs, *outputs), strict=True) if parallel is not None})
    progress(_LISTING, 0, 1)
    found = layers(base, board, pinned, shift_and_add=request.shift_and_add, memory_tiles=memory.tiles)
    if memory.also_on_chip:
        on_chip = {layer.name: layer for layer in layers(plain, board, pinned, shift_and_add=request.shift_and_add)}
        found = tuple(either(layer, on_chip[layer.name]) if layer.name in memory.also_on_chip else layer for layer in found)
    search = _Search(graph, board, found, clock_ns, weights, progress, request.merged, inside, spills=memory.spills, batch=request.batch)
    made = search.fastest(request.above) if request.fps is None else search.at(request.fps)
    progress(_SIZING, 1, 1)
    if not request.fifos and not request.fifo_storage:
        return made
    storage = tuple(sorted((dict(made.schedule.fifo_storage) | dict(request.fifo_storage)).items()))
    return plan(graph, board, replace(made.schedule, fifos=request.fifos, fifo_storage=storage), clock_ns=clock_ns)


def _phased(design: d.Design) -> set[str]:
    """The transposed convolutions that are built without zeros."""
    return {node for process, node in zip(design.processes, design.nodes, strict=True) if isinstance(process, d.Interleave)}


def _output_layers(design: d.Design) -> list[str]:
    return [output_layer(process.port) for process in design.processes if isinstance(process, d.ToPort)]


def choose(graph: Graph, board: Board, *, clock_ns: float, fps: float | None = None) -> Schedule:
    """The cheapest schedule of an optimized graph that makes ``fps`` frames per second at ``clock_ns``, or, without ``fps``, the fastest that fits.

    Raises ProjectError if no folding is fast enough, or if none that is fits the board.
    """
    return resolve(graph, board, Request(fps=fps, fit=fps is None), clock_ns=clock_ns).schedule


def nearest_plan(graph: Graph, board: Board, allowed: Mapping[str, float], *, fps: float, clock_ns: float, known: Known | None = None) -> Plan:
    """The cheapest plan of an optimized graph that makes ``fps`` with as much of each of FIELDS as is ``allowed``, or, where none is found, the one
    that comes nearest: whose largest share of what is allowed is least. It may be larger than the board. ``known``: as for ``plan``.

    Raises ProjectError if no folding is fast enough.
    """
    check_clock(clock_ns, board)
    base = lower(graph, Schedule(), shared=True)
    most = np.array([allowed[field] for field in FIELDS], dtype=np.float64)
    found = layers(base, _endless(board), {})
    return _Search(graph, board, found, clock_ns, Weights.of(base), silent, False, {}, most).nearest(fps, known)


def _endless(board: Board) -> Board:
    """The board with more of everything than any option of a layer needs."""
    return replace(board, **{field: getattr(board, field) << 20 for field in ("lut", "ff", "dsp", "bram36", "uram")})


def _check_names(graph: Graph, base: d.Design, pinned: Mapping[str, Folding]) -> None:
    folded, weighted = folded_nodes(base), weighted_nodes(base)
    several = {node for process, node in zip(base.processes, base.nodes, strict=True) if isinstance(process, d.Pool | WholePixels)}
    for name, folding in pinned.items():
        if name not in folded:
            known = any(own == name for own, _ in everything(graph))
            what = f"{name!r} is computed within another layer, or moves nothing: it has no folding" if known else f"no layer is called {name!r}"
            raise ProjectError(what, where="[layers]", remedy=nearest(name, folded))
        pixels = folding.pixels if name in several else 1
        if name not in weighted and folding != Folding(folding.pe, taps=folding.taps, buffer=folding.buffer, pixels=pixels):
            raise ProjectError(
                "has no weights: simd, arithmetic, weights, sparsity and, but for pools and what moves pixels, pixels mean nothing",
                where=name,
                remedy="give pe alone, or pe, taps and buffer",
            )


def _merged_sides(graph: Graph, found: Sequence[Layer]) -> dict[str, list[str]]:
    """The layers that are ports of one stream: "inputs" and "outputs", each if there are several."""
    inputs = {node.name for node in graph.inputs}
    ports = [layer.name for layer in found if layer.kind is Role.PORT]
    sides = {"inputs": [name for name in ports if name in inputs], "outputs": [name for name in ports if name not in inputs]}
    return {side: names for side, names in sides.items() if len(names) > 1}


@dataclass(frozen=True, slots=True)
class _Made:
    """What came of a choice: its estimate, and its plan unless the estimate was over the limits with the shallowest FIFOs already."""

    estimate: Estimate
    plan: Plan | None

    @property
    def fitting(self) -> Plan | None:
        """The plan, if its estimate keeps within the limits."""
        return None if self.estimate.over(LIMITS) else self.plan


def _taken(found: Estimate, made: Plan | None) -> FloatArray:
    """What a design takes, in the order of COLUMNS."""
    return np.append(vector(found.total), 0.0 if made is None else made.memory_bytes)


class _Search:
    """The search over one model's layers. ``overhead``: what is no layer took in the design made last; ``inside``: foldings asked for in loops;
    ``allowed``: how much of each resource may be used (default: the board's, up to LIMITS); ``spills``: whether FIFOs may go to memory; ``batch``: as
    of a schedule."""

    def __init__(
        self,
        graph: Graph,
        board: Board,
        found: tuple[Layer, ...],
        clock_ns: float,
        weights: Weights,
        progress: Progress,
        merged: bool,
        inside: Mapping[str, Folding],
        allowed: FloatArray | None = None,
        spills: bool = False,
        batch: int = 1,
    ) -> None:
        self.graph, self.board, self.clock_ns, self.found = graph, board, clock_ns, found
        self.merged, self.inside = merged, inside
        self.weights, self.progress = weights, progress
        self.sides = _merged_sides(graph, found) if merged else {}
        there = vector(capacity(board))
        most = there * np.array([LIMITS[field] for field in FIELDS]) if allowed is None else allowed
        self.market = Market(found, most, list(self.sides.values()), board.memory_bytes_per_cycle(clock_ns))
        self.layers = tuple(self.market.layers)
        self.overhead: FloatArray = np.zeros(len(COLUMNS))
        self.spills, self.batch = spills, batch

    def at(self, fps: float) -> Plan:
        """The cheapest plan that makes ``fps``; one that is faster, if only that is found to fit."""
        wanted = int(1e9 / (fps * self.clock_ns))
        self._check_possible()
        self._check_reachable(wanted, fps, wanted)
        target, large = wanted, None
        for number in range(_ROUNDS):
            self.progress("searching for the cheapest folding", number, _ROUNDS)
            best = self.market.cheapest(target, self.overhead)
            if best is None:
                self._check_reachable(wanted, fps, target)
                break
            made = self._make(best.picked)
            if made.plan is not None and made.plan.memory_cycles > wanted:
                raise self._too_slow_a_memory(made.plan, wanted)
            if made.plan is not None and made.plan.interval > wanted:
                target = min(target - 1, target * wanted // made.plan.interval)
            elif made.fitting is not None:
                return replace(made.fitting, gap=best.gap)
            else:
                large = made.estimate
                if not self.market.fits(best.picked, self.overhead, target):
                    break
        return self._faster(wanted, fps, large)

    def nearest(self, fps: float, known: Known | None) -> Plan:
        """The plan that makes ``fps`` and whose largest share of what may be used is least, of those that are found; one that fits ends the search.
        ``Market.nearest`` already comes near; what is no layer is known from the design before."""
        wanted = int(1e9 / (fps * self.clock_ns))
        self._check_reachable(wanted, fps, wanted)
        target, best, least = wanted, None, np.inf
        seen: list[tuple[int, Picked]] = []
        for _ in range(_ROUNDS):
            picked = self.market.nearest(target, self.overhead)
            if picked is None or (target, picked) in seen:
                break
            seen.append((target, picked))
            made = plan(self.graph, self.board, self._schedule(picked), clock_ns=self.clock_ns, known=known)
            taken = _taken(made.estimate, made)
            self.overhead = taken - self.market.costs(picked)
            if made.interval > wanted:
                target = min(target - 1, target * wanted // made.interval)
                continue
            share = self.market.share(taken, wanted)
            if share < least:
                best, least = made, share
            if share <= 1:
                break
        if best is None:
            self._check_reachable(wanted, fps, target)
            raise self._refusal(fps)
        return best

    def _faster(self, wanted: int, fps: float, large: Estimate | None) -> Plan:
        """A plan that is faster than what was asked for. Raises ProjectError if none is found; ``large``: the estimate of one that is fast enough but
        over the limits, which is then said."""
        if large is not None:
            made = self.fastest()  # or raises, for a better reason than this pace
            if made.interval <= wanted:
                return made
            other = "or use a larger board, a shorter clock period or shorter words"
            check_fits(large, LIMITS, remedies=f"ask for at most {int(made.fps)} frames per second, {other}")
        raise self._refusal(fps)

    def _too_slow_a_memory(self, made: Plan, wanted: int) -> ProjectError:
        """What to say where memory does not bring the weights in the ``wanted`` cycles."""
        most = 1e9 / (made.memory_cycles * self.clock_ns)
        what = f"{made.memory_bytes / 1e6:.3g} MB of weights a frame take the memory of {self.board.name} {made.memory_cycles} cycles, but {wanted}"
        remedy = f"ask for at most {most:.4g} frames per second, or keep weights on the chip{offchip.more_frames(made.design)}"
        return ProjectError(f"{what} are asked for", where=self.graph.name, remedy=remedy)

    def _refusal(self, fps: float) -> ProjectError:
        what = f"no folding was found that simulates at {fps:g} frames per second"
        return ProjectError(what, where=self.graph.name, remedy="ask for fewer frames per second")

    def fastest(self, above: float = 0.0) -> Plan:
        """The fastest plan that fits. Raises ProjectError if none is found that makes more than ``above`` frames per second; where there can be none,
        before any is made."""
        self._check_possible()
        best: Plan | None = None
        most = self._check_worth(above) if above else np.inf
        worth = most  # the pace that the search goes on for
        large: Fastest | None = None  # the fastest choice whose design could not be used
        tried: list[Picked] = []
        for number in range(1, _ROUNDS + 1):
            found = self.market.fastest(self.overhead, partial(self.progress, f"searching for the fastest folding, round {number}"), worth)
            if found is None:
                break
            cheap = self.market.cheapest(found.pace, self.overhead, found.picked, _NEAR_CHEAPEST)
            assert cheap is not None  # what was found, if nothing else
            if cheap.picked in tried:
                break  # or two choices, each of which the overhead of the other asks for, take turns
            tried.append(cheap.picked)
            made = self._make(cheap.picked).fitting
            if made is not None and (best is None or made.interval < best.interval):
                best, worth = replace(made, gap=made.interval / min(found.bound, made.interval) - 1), _WORTH * found.pace
                continue
            large = found if large is None or found.pace < large.pace else large
            if best is not None:
                break
        if best is None and not above:
            best = self._smallest()
        if large is not None:
            best = self._between(large, best, most)
        if best is None or best.interval > most:
            raise ProjectError(f"no design that makes more than {above:.1f} frames per second was found", where=self.graph.name, remedy=_NONE_FOUND)
        return best

    def _check_worth(self, above: float) -> float:
        """The cycles of a frame of that rate. Raises ProjectError if no choice of the layers' options is faster, whatever lies between them."""
        most = int(1e9 / (above * self.clock_ns))
        sure = [replace(layer, costs=layer.sure, memory=layer.columns[:, -1]) for layer in self.found]
        bound = Market(sure, self.market.limits, list(self.sides.values()), self.market.bytes_per_cycle).bound(most)
        if bound is None:
            return most
        rate = 1e9 / (bound * self.clock_ns)
        what = f"not searched: its layers alone allow less than {rate:.1f} frames per second within the board's resources and bandwidth"
        raise ProjectError(what, where=self.graph.name, remedy=_NONE_FOUND)

    def _between(self, large: Fastest, best: Plan | None, most: float) -> Plan | None:
        """A plan that is faster than ``best``, or than ``most`` cycles a frame, the slowest of them if none is found, where the design of ``large``
        could not be used.

        What is no layer can be so much more in a fast design than in a slow one that neither says what fits between the two: the way is halved, with
        a design for each pace, but where the choice for a pace is as fast as what was tried and could not be used.
        """
        missed = large.pace
        slow = most if best is None else best.interval
        paces = self.market.paces() if slow > _FAR * missed else []
        designs = 0
        while designs < _HALVINGS and slow > _FAR * missed:
            between = [pace for pace in paces if missed < pace < slow]
            if not between:
                break
            middle = between[min(bisect_left(between, (missed * slow) ** 0.5), len(between) - 1)]
            cheap = self.market.cheapest(middle, self.overhead)
            made: Plan | None = None
            if cheap is not None and self._busiest(cheap.picked) > missed:
                self.progress("searching between the paces of two foldings", designs, _HALVINGS)
                designs += 1
                made = self._make(cheap.picked).fitting
            if made is not None and made.interval < slow:
                best, slow = replace(made, gap=made.interval / min(large.bound, made.interval) - 1), made.interval
            else:
                missed = middle
        return best

    def _busiest(self, picked: Picked) -> int:
        """The cycles a frame of the layer that takes most."""
        return max(int(layer.busy[option]) for layer, option in zip(self.layers, picked, strict=True))

    def _smallest(self) -> Plan:
        """The cheapest at any pace, or else one number at a time, where nothing is pinned: what the search may miss."""
        slow = self.market.cheapest(self.market.ceiling, self.overhead)
        assert slow is not None  # every option keeps that pace
        made = self._make(slow.picked)
        if made.fitting is not None:
            return made.fitting
        last = self._make(self.market.smallest())
        nearest_ = min((made.estimate, last.estimate), key=lambda one: max(one.share(field) / LIMITS[field] for field in FIELDS))
        check_fits(nearest_, LIMITS, remedies=elsewhere(self.board, _NONE_FOUND))
        assert last.plan is not None  # or its estimate was over the limits
        return last.plan

    def _check_possible(self) -> None:
        """Raises ProjectError if the layers alone, whatever is chosen, take more than the limits allow."""
        check_layers(self.layers, self.board, LIMITS, self.weights)

    def _check_reachable(self, wanted: int, fps: float, cycles: int) -> None:
        """Raises ProjectError, about the ``wanted`` cycles of ``fps``, if a layer takes more than ``cycles`` whatever is chosen."""
        slow = sorted((layer for layer in self.layers if layer.busy.min() > cycles), key=lambda layer: -layer.busy.min())
        late = [
            f"all {side} in one stream take {busy} (one after the other, as wide as they can be; --ports separate gives each its own)"
            for side, busy in zip(self.sides, self.market.joint_floors, strict=True)
            if busy > cycles
        ]
        if slow or late:
            reasons = "; ".join([*late, *(f"{layer.name} takes {layer.busy.min()} ({layer.limit})" for layer in slow)][:3])
            most = 1e9 / (self.market.floor * self.clock_ns)
            raise ProjectError(
                f"{fps:g} frames per second leave {wanted} cycles of {self.clock_ns:g} ns for a frame, but {reasons}",
                where=self.graph.name,
                remedy=f"ask for at most {int(most)} frames per second, use a shorter clock period, or unpin foldings",
            )

    def _make(self, picked: Picked) -> _Made:
        """The estimate and, if that is within the limits even with the shallowest FIFOs, the plan: sizing them takes longest. Learns the overhead."""
        schedule = self._schedule(picked)
        made = _Made(shallow_estimate(lower(self.graph, schedule), self.board), None)
        if not made.estimate.over(LIMITS):
            self.progress(_SIZING, 0, 1)
            sized = plan(self.graph, self.board, schedule, clock_ns=self.clock_ns, spills=self.spills)
            made = _Made(sized.estimate, sized)
        self.overhead = _taken(made.estimate, made.plan) - self.market.costs(picked)
        if made.plan is None:
            self.overhead[-1] = 0.0  # of memory: nothing is known
        return made

    def _schedule(self, picked: Picked) -> Schedule:
        foldings, ports = dict(self.inside), {}
        for layer, option in zip(self.layers, picked, strict=True):
            if layer.kind is Role.PORT:
                ports[layer.name] = layer.foldings[option].pe
            elif layer.kind is not Role.FIXED:
                foldings[layer.name] = layer.foldings[option]
        if len(ports) == 2:
            return Schedule.of(foldings, input_parallel=ports[self.graph.input.name], output_parallel=ports[OUTPUT], batch=self.batch)
        inputs = {node.name: ports.pop(node.name) for node in self.graph.inputs}
        outputs = zip(self.graph.outputs, ports.values(), strict=True)  # both in the graph's order
        widths = inputs | {OUT + name: parallel for name, parallel in outputs}
        return Schedule.of(foldings, ports=widths, merged=self.merged, batch=self.batch)
