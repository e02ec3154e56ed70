"""What late memory costs a layer engine: the assumptions behind the plan's cycles, and worse ones.

**Mean.** The plan reckons with memory that sustains a share of its peak (``board.MEMORY_SUSTAINED``), bursts that follow each other without a pause,
and ``STEP_CYCLES`` for what a step waits at its beginning and its end.

**Worst.** Memory gives half of that share, masters that share a port wait for each other, and every burst waits for its whole latency, in which its
process does nothing else: a row of a tile is a burst, the weights of a tile, the parameters of a job. Memory owes nobody a bound: a design has no
deadline, and late words make it slow, never wrong, and never stop it (the tests hold up memory at random)."""

from __future__ import annotations

from math import ceil

from qfx.errors import ProjectError
from qfx.hardware.board import MEMORY_SUSTAINED
from qfx.hardware.processes.memory.from_memory import LATENCY_CYCLES
from qfx.hardware.sequential.engine import Placed
from qfx.hardware.sequential.host import late_cycles
from qfx.hardware.sequential.plan import Plan, bytes_per_cycle
from qfx.hardware.sequential.tiles import SIDES, Shape, blocks, cycles, side_rows, turns

WORST_SUSTAINED = MEMORY_SUSTAINED / 2
"""The share of its peak that memory gives at the worst that is reckoned with. An assumption, like the other one."""


def worst_cycles(plan: Plan) -> int:
    """Cycles from frame to frame under the worst assumptions, on the average of a batch."""
    board, engine = plan.estimate.board, plan.engine
    memory = bytes_per_cycle(board, plan.clock_ns) * WORST_SUSTAINED / MEMORY_SUSTAINED
    port = board.memory_port_bits / 8
    steps = sum(_worst(placed, engine.shape, memory, port) for placed in engine.steps)
    return ceil((steps + late_cycles(engine, board)) / engine.layers.batch)


def check_pace(plan: Plan, fps: float, name: str) -> None:
    """Raises ProjectError, saying what rate there is and what is in the way, if the fastest engine that fits is slower than is asked for."""
    if plan.fps >= fps:
        return
    board = plan.estimate.board
    most = bytes_per_cycle(board, plan.clock_ns) / plan.bytes * 1e9 / plan.clock_ns
    what = f"the fastest engine that fits the {board.title} makes {plan.fps:.4g} frames per second, and {fps:g} are asked for"
    if most < fps:
        what += f": {plan.bytes / 1e6:.3g} MB a frame go to and from memory, which alone allows {most:.4g}"
    else:
        (bound, cycles), *_ = plan.binds.most_common(1)
        what += f": {bound.replace('_', ' ')} takes {100 * cycles / plan.engine.cycles:.0f} % of the cycles"
    raise ProjectError(what, where=name, remedy=f"ask for at most {plan.fps:.4g}, or use a larger board, shorter words or a greater --batch")


def _worst(placed: Placed, shape: Shape, memory: float, port: float) -> int:
    taken, _ = cycles(placed.step, shape, placed.tile, memory, port)
    count = turns(placed.step, shape, placed.tile)
    waits = bursts(placed, shape)
    return taken + max(count[name] + LATENCY_CYCLES * waits.get(name, 0) for name in count) - max(count.values())


def bursts(placed: Placed, shape: Shape) -> dict[str, int]:
    """At most so many bursts of each process that moves words through a port."""
    step, tile = placed.step, placed.tile
    jobs = tile.tiles * tile.jobs
    rows = blocks(step.target.channels, shape.lanes) * step.target.height * tile.tiles_w * tile.batch
    words = turns(step, shape, tile)
    return {
        **{f"fetch_x{side}": min(words[f"fetch_x{side}"], _rows_read(placed, shape, side)) for side in range(SIDES)},
        "fetch_weights": min(words["fetch_weights"], tile.tiles),
        "fetch_parameters": jobs,
        "fetch_beside": min(words["fetch_beside"], rows),
        "write": rows,
    }


def _rows_read(placed: Placed, shape: Shape, side: int) -> int:
    """Rows of tiles that a side fetches: no more than windows see, whether they lie within the value or not."""
    tile, found = placed.tile, 0
    for one in placed.step.products:
        seen, frames = side_rows(one, shape, tile, side), shape.side(side)[1] if tile.lane_frames else 1
        found += blocks(one.source.channels, shape.lanes) * min(seen, one.source.height) * tile.tiles * frames
    return found
