"""Which engine a board gets: the array that takes the fewest cycles a frame, with memories as large as there is block RAM for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil

from qfx.errors import ProjectError
from qfx.fixed.arith import Interval
from qfx.hardware.board import MEMORY_SUSTAINED, Board, check_clock
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.estimate import LIMITS, Estimate, check_fits, resource_table, told
from qfx.hardware.cost.power import Power, power
from qfx.hardware.design.dsp import PACKED
from qfx.hardware.sequential.cost import estimate, of_luts, waiting
from qfx.hardware.sequential.engine import Engine, arithmetic, containers, engine, operands
from qfx.hardware.sequential.folding import folded
from qfx.hardware.sequential.merging import joined
from qfx.hardware.sequential.splitting import kept_bits
from qfx.hardware.sequential.steps import layers
from qfx.hardware.sequential.tiles import JOB_CYCLES, SHALLOW, STEP_CYCLES, Shape, alike, cut, entries, memory_bytes, turns, vectors
from qfx.hardware.sequential.values import Kind, Layers, Step
from qfx.hardware.timing.clock import Clock, expected_of_pipeline
from qfx.hardware.timing.delays import delays
from qfx.ir.graph import Graph
from qfx.progress import Progress, silent

_LANES, _VECTORS, _MOST_PIXELS = (2, 4, 8, 16, 32), (1, 2, 3, 4, 5, 6, 8), 16
_TRIED = 12
"""Arrays of which tiles are looked for: those that fit and would take the fewest cycles if all their memories were large."""
_EPILOGUE_DSPS = 2
"""DSP blocks that a lane of the epilogue takes at most."""
_LUT_PRODUCTS = 0.62
"""The share of a board's LUTs that products may take where DSP blocks are short; what else there is must fit the rest."""
_OTHER_LUTS = 16000
"""What masters, processes and an epilogue take at least; arrays that leave no room for them are not looked at."""
PORTS = 4
"""Ports of the processing system that all masters together are counted with; UltraScale+ parts have two more (UG1085)."""
_WORDS = 512
"""Depths of memories are multiples of what a block RAM has at its widest."""


@dataclass(frozen=True, slots=True)
class Plan:
    """An engine on a board at a clock period."""

    engine: Engine
    estimate: Estimate
    clock_ns: float

    def __repr__(self) -> str:
        return f"Plan({self.estimate.board.title}, {self.clock_ns:g} ns, {self.fps:,.1f} frames a second, {told(self.estimate)})"

    def _repr_html_(self) -> str:
        title = f"{self.estimate.board.title}, {self.clock_ns:g} ns: {self.fps:,.1f} frames a second (estimated)"
        return resource_table(self.estimate, title)

    @property
    def batch(self) -> int:
        """Frames of a run."""
        return self.engine.layers.batch

    @property
    def interval(self) -> int:
        """Cycles from frame to frame, on the average of a batch."""
        return ceil(self.engine.cycles / self.batch)

    @property
    def latency_ns(self) -> float:
        """Of a run: a frame is done when its whole batch is."""
        return self.engine.cycles * self.clock_ns

    @property
    def fps(self) -> float:
        return 1e9 / (self.interval * self.clock_ns)

    @property
    def macs(self) -> int:
        """Multiplications of a frame that the network asks for."""
        return sum(placed.step.macs for placed in self.engine.steps)

    @property
    def gops(self) -> float:
        """10**9 multiplications and additions a second."""
        return 2e-9 * self.macs * self.fps

    @property
    def used(self) -> float:
        """The share of all products that the network asks for."""
        return self.macs / (self.interval * self.engine.shape.products)

    @property
    def bytes(self) -> int:
        """What a frame moves to and from memory."""
        shape = self.engine.shape
        moved = sum(sum(memory_bytes(placed.step, shape, placed.tile).values()) for placed in self.engine.steps)
        return ceil(moved / self.batch)

    @property
    def binds(self) -> Counter[str]:
        """Cycles of a run by what they are spent on."""
        found: Counter[str] = Counter()
        for placed in self.engine.steps:
            found[placed.bound] += placed.cycles
        return found

    @property
    def clock(self) -> Clock:
        """The period that the engine is expected to reach: nothing in it but counters waits for itself; the widest sum is the epilogue's."""
        board = self.estimate.board
        on = delays(board.part)
        flip_flops = max(cost.resources.ff for cost in self.estimate.costs)
        return expected_of_pipeline(3, flip_flops, on.adder + on.bit * self.engine.value_bits, board)

    @property
    def power(self) -> Power:
        """At the period asked for: all parts at work as long as their steps take."""
        return power(self.estimate, clock_ns=self.clock_ns, interval=self.interval)


def plan(graph: Graph, board: Board, *, clock_ns: float, batch: int = 1, progress: Progress = silent) -> Plan:
    """The fastest engine that fits the board, for runs of ``batch`` frames.

    Raises UnsupportedError for what no step computes, naming the node, and ProjectError for a board without memory, or on which no array fits."""
    check_clock(clock_ns, board)
    if not board.memory_gb_s:
        what = "how fast its memory is, is not known, and a sequential design reads values and weights from there"
        raise ProjectError(what, where=board.name, remedy="give memory_gb_s in the board's file (docs/board.md)")
    made = replace(layers(graph), batch=batch)
    if not made.steps:
        raise ProjectError("has nothing to compute", where=graph.name, remedy="a layer engine needs a layer")
    per_cycle = bytes_per_cycle(board, clock_ns)
    port = board.memory_port_bits / 8
    bounded = ((_least_cycles(made, shape, port), shape) for shape in _arrays(made, board))
    candidates = sorted(bounded, key=lambda one: (one[0], one[1].products))
    best: Plan | None = None
    fitting = 0
    for least, shape in candidates:
        if best is not None and least >= best.engine.cycles:
            break  # nor is any behind it faster
        progress("choosing the array and its tiles", fitting, _TRIED)
        found = _on_board(made, shape, board, clock_ns, per_cycle, port)
        if found is None:
            continue
        fitting += 1
        if best is None or found.interval < best.interval:
            best = found
        if fitting == _TRIED:
            break
    if best is None:
        what = f"no engine for it fits the {board.title}"
        raise ProjectError(what, where=graph.name, remedy="use a larger board, or cut the widest layer, whose tile is the largest, in two")
    progress("choosing the array and its tiles", _TRIED, _TRIED)
    check_fits(best.estimate)
    return best


def bytes_per_cycle(board: Board, clock_ns: float) -> float:
    """What memory sustains, and no more than the engine's masters carry."""
    return min(MEMORY_SUSTAINED * board.memory_gb_s * clock_ns, PORTS * board.memory_port_bits / 8)


def _arrays(made: Layers, board: Board) -> Iterator[Shape]:
    """Arrays whose products are within the board's DSP blocks, and beyond them within a share of its LUTs."""
    x_bits, w_bits = containers(made)
    on = r.device(board.part)
    operand, weight_bits = operands(made)
    weights = Interval(-(1 << weight_bits - 1), (1 << weight_bits - 1) - 1, 0)
    most = max(step.acc_bits for step in made.steps)
    for lanes in _LANES:
        depth = _depth_of_weights(made, lanes, x_bits, w_bits)
        for count in _VECTORS:
            shape = Shape(lanes, count, 1, x_bits, w_bits, _WORDS, depth, _WORDS)
            each = PACKED.get(arithmetic(made, shape, on.dsp_wide), (1, 0))[0]
            blocks = ceil(shape.outputs / each) * lanes * r.multiplier_dsps(operand.width + (not operand.signed), weight_bits, on)
            luts = of_luts(operand, weights, most, shape.outputs, lanes).lut
            in_blocks = int((LIMITS["dsp"] * board.dsp - _EPILOGUE_DSPS * lanes) // blocks)
            if in_blocks < 1:
                continue
            for pixels in range(1, min(in_blocks + int(_LUT_PRODUCTS * board.lut) // luts, _MOST_PIXELS) + 1):
                in_luts = max(pixels - in_blocks, 0)
                if in_luts * luts + most * shape.outputs * pixels + _OTHER_LUTS <= LIMITS["lut"] * board.lut:
                    yield replace(shape, pixels=pixels, lut_pixels=in_luts)


def _depth_of_weights(made: Layers, lanes: int, x_bits: int, w_bits: int) -> int:
    """Words for the weights of one output of any step; those of steps that give a single pixel may come in parts."""
    unlimited = Shape(lanes, 1, 1, x_bits, w_bits, 1, 1 << 40, 1)
    whole = [entries(step, unlimited) for step in made.steps if step.target.pixels > 1 and step.kind is not Kind.MAXIMUM]
    most = max(whole, default=1)
    return SHALLOW if most <= SHALLOW else ceil(most / _WORDS) * _WORDS


def _least_cycles(made: Layers, shape: Shape, port: float) -> int:
    """What no tiles could beat: the slowest of multipliers, epilogue and ports, each of which moves everything once, and what steps and jobs take
    beside."""
    total = 0
    known: dict[object, int] = {}
    wide = replace(shape, x_depth=1 << 40, y_depth=1 << 40)
    for step in joined(folded(made, shape.lanes)).steps:
        if alike(step) not in known:
            whole = cut(step, wide, ceil(step.target.height / shape.pixels), step.target.columns, made.batch)
            lanes = cut(step, wide, step.target.height, step.target.columns, made.batch, lane_frames=min(made.batch, shape.pixels) > 1)
            count, other = turns(step, wide, whole), turns(step, wide, lanes)
            count = {name: min(taken, other[name]) for name, taken in count.items()}
            vector, weight = shape.lanes * shape.x_bits / 8, shape.wide * shape.lanes * shape.w_bits / 8
            ports = (
                max((count["fetch_x0"] * vector, count["write"] * vector, count["fetch_beside"] * vector, count["fetch_weights"] * weight / 2)) / port
            )
            beside = STEP_CYCLES + JOB_CYCLES * min(tile.tiles * tile.jobs for tile in (whole, lanes))
            known[alike(step)] = beside + max(count["multiply"], count["epilogue"], count["place_weights"], count["fetch_x0"], ceil(ports))
        total += known[alike(step)]
    return total


def _on_board(made: Layers, shape: Shape, board: Board, clock_ns: float, per_cycle: float, port: float) -> Plan | None:
    """With the memories that the board has room for; None where a tile of a step does not fit, or logic is short."""
    budget = int(LIMITS["bram18"] * 2 * board.bram36)
    best: Plan | None = None
    for y_depth in (_WORDS, 2 * _WORDS, 4 * _WORDS):
        if any(_least_results(step, shape) > y_depth for step in made.steps):
            continue
        for kept in (0, max(map(kept_bits, made.steps))):  # without room for the sums of products in parts, and, if that fails, with it
            x_depth = _depth_of_values(made, replace(shape, y_depth=y_depth), kept, budget)
            found = _in_room(made, replace(shape, x_depth=x_depth, y_depth=y_depth), board, clock_ns, per_cycle, port)
            if found is None:
                continue
            if best is None or found.engine.cycles < best.engine.cycles:
                best = found
            break
    return best


def _in_room(made: Layers, shape: Shape, board: Board, clock_ns: float, per_cycle: float, port: float) -> Plan | None:
    """With these memories, or with a little less of values where what its steps keep beside them turns out to need the room."""
    for x_depth in range(shape.x_depth, max(shape.x_depth - 2 * _WORDS, _WORDS - 1), -_WORDS):
        try:
            found = engine(made, replace(shape, x_depth=x_depth), per_cycle, port, r.device(board.part).dsp_wide)
        except ProjectError:
            return None
        costs = estimate(found, board)
        tight = costs.over(LIMITS)
        if not tight:
            return Plan(found, costs, clock_ns)
        if tuple(tight) != ("bram18",):
            return None
    return None


def _least_results(step: Step, shape: Shape) -> int:
    return shape.pixels * vectors(step, shape) * ceil(step.target.width / shape.x_bits)


def _depth_of_values(made: Layers, shape: Shape, kept: int, budget: int) -> int:
    """Words of values for each pixel lane, with what is left when all other memories are built; ``kept``: bits of sums that lie beside parts."""
    steps = joined(made).steps
    beside = [ceil(kept / shape.x_bits), *(ceil(step.beside.width / shape.x_bits) for step in steps if step.beside is not None)]
    sums = [step.epilogue.value_bits for step in steps if step.first is not None]
    fixed = 0 if shape.shallow else 2 * r.bram18(shape.w_depth, shape.lanes * shape.w_bits) * shape.outputs
    fixed += 2 * r.bram18(shape.y_depth, shape.lanes * shape.x_bits) * (1 + max(beside, default=0)) + waiting(shape)
    fixed += r.bram18(shape.y_depth, shape.lanes * max(sums)) if sums else 0
    for depth in range(64 * _WORDS, 0, -_WORDS):
        if fixed + 2 * shape.pixels * r.bram18(depth, shape.lanes * shape.x_bits) <= budget:
            return depth
    return 0
