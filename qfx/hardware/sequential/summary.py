"""What a plan of a sequential design comes to, for people (``estimate.txt``, the terminal) and for programs (``report.json``). Deterministic."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from qfx.hardware.board import MEMORY_SUSTAINED
from qfx.hardware.cost.estimate import LIMITS, NAMES, capacity
from qfx.hardware.cost.resources import FIELDS, Resources
from qfx.hardware.design.weights.sparse import Kept, found_in
from qfx.hardware.folding import told
from qfx.hardware.folding.summary import FORMAT, table
from qfx.hardware.processes.memory.from_memory import LATENCY_CYCLES
from qfx.hardware.sequential.delay import WORST_SUSTAINED, worst_cycles
from qfx.hardware.sequential.engine import Placed
from qfx.hardware.sequential.plan import Plan, bytes_per_cycle
from qfx.hardware.sequential.tiles import memory_bytes
from qfx.hardware.sequential.values import Kind, Step

BOUND = {
    "fetch_x0": "values from memory",
    "fetch_x1": "values from memory",
    "place_x0": "values put in place",
    "place_x1": "values put in place",
    "fetch_weights": "weights from memory",
    "place_weights": "weights put in place",
    "multiply": "the multipliers",
    "fetch_parameters": "parameters from memory",
    "fetch_beside": "values from memory that are added",
    "epilogue": "casts of the sums",
    "gather": "results gathered",
    "write": "results into memory",
}
"""What a step of the engine waits for, by the process that binds it."""


def data(plan: Plan, model: str) -> dict[str, Any]:
    """Everything as JSON values. Cycles are clock cycles; shares are parts of the board, 1.0 all of it."""
    found, shape = plan.estimate, plan.engine.shape
    return {
        "format": FORMAT,
        "model": model,
        "style": "sequential",
        "board": found.board.name,
        "part": found.board.part,
        "clock_ns": plan.clock_ns,
        "batch": plan.batch,
        "interval_cycles": plan.interval,
        "latency_cycles": plan.engine.cycles,
        "latency_ns": round(plan.latency_ns, 3),
        "frames_per_second": round(plan.fps, 3),
        **told.data(plan),
        "gops": round(plan.gops, 3),
        "gops_per_watt": round(plan.gops / plan.power.total_w, 3),
        "array": {
            "lanes": shape.lanes,
            "outputs": shape.outputs,
            "pixels": shape.pixels,
            "lut_pixels": shape.lut_pixels,
            "products": shape.products,
            "used": round(plan.used, 4),
            "arithmetic": plan.engine.arithmetic,
            "value_bits": shape.x_bits,
            "weight_bits": shape.w_bits,
        },
        "memory": {
            "bytes_per_frame": plan.bytes,
            "gb_per_second": round(plan.bytes * plan.fps / 1e9, 3),
            "assumed_gb_per_second": round(bytes_per_cycle(found.board, plan.clock_ns) / plan.clock_ns, 3),
            "value_bytes": plan.engine.places.bytes,
            "worst_frames_per_second": round(_worst_fps(plan), 3),
            "worst_gb_per_second": round(bytes_per_cycle(found.board, plan.clock_ns) / plan.clock_ns * WORST_SUSTAINED / MEMORY_SUSTAINED, 3),
        },
        "cycles_by_what_binds": dict(plan.binds.most_common()),
        "resources": _numbers(found.total),
        "available": _numbers(capacity(found.board)),
        "notes": list(notes(plan)),
        "shares": {field: round(found.share(field), 4) for field in FIELDS},
        "parts": [{"name": cost.process, **_numbers(cost.resources)} for cost in found.costs],
        "layers": [_step(plan, placed) for placed in plan.engine.steps],
    }


def _step(plan: Plan, placed: Placed) -> dict[str, Any]:
    step, tile = placed.step, placed.tile
    return {
        "name": step.name,
        "result": step.target.name,
        "kind": step.kind.name.lower(),
        "macs": step.macs,
        "cycles": placed.cycles,
        "bound_by": placed.bound,
        "tile_rows": tile.rows * plan.engine.shape.pixels,
        "tile_columns": tile.columns,
        "tiles": tile.tiles,
        "jobs": tile.jobs,
        "bytes": sum(memory_bytes(step, plan.engine.shape, tile).values()),
    }


def labels(steps: Sequence[Step]) -> list[str]:
    """Names of steps for people, each once: the layer's, and which of its steps where it takes several."""
    counts, seen = Counter(step.name for step in steps), Counter[str]()
    found = []
    for step in steps:
        seen[step.name] += 1
        found.append(step.name if counts[step.name] == 1 else f"{step.name} ({seen[step.name]} of {counts[step.name]})")
    return found


def as_json(plan: Plan, model: str) -> str:
    """``data`` as a file."""
    return json.dumps(data(plan, model), indent=2) + "\n"


def as_text(plan: Plan, model: str) -> str:
    """Tables of steps and of parts against the board, and the timing."""
    found, shape = plan.estimate, plan.engine.shape
    head = ("step", "cycles", "MACs", "bound by", "tile", "tiles", "jobs", "KB moved")
    rows = [
        (
            placed.step.name,
            str(placed.cycles),
            str(placed.step.macs),
            placed.bound.replace("_", " "),
            f"{placed.tile.rows * shape.pixels}x{placed.tile.columns}",
            str(placed.tile.tiles),
            str(placed.tile.jobs),
            str(sum(memory_bytes(placed.step, shape, placed.tile).values()) // 1000),
        )
        for placed in plan.engine.steps
    ]
    parts: list[tuple[str, ...]] = [(cost.process, *_cells(cost.resources)) for cost in found.costs]
    parts.append(("total", *_cells(found.total)))
    parts.append((found.board.name, *_cells(capacity(found.board))))
    parts.append(("used", *(f"{100 * found.share(field):.1f} %" for field in FIELDS)))
    rate = bytes_per_cycle(found.board, plan.clock_ns) / plan.clock_ns
    lines = [f"{model} on the {found.board.title} at {plan.clock_ns:g} ns, sequential (estimated; docs/sequential.md)", ""]
    lines += [*table(head, rows), "", *_aligned(("part", *(NAMES[field] for field in FIELDS)), parts), ""]
    lines += [f"note: {note}" for note in notes(plan)]
    kind = f"{shape.x_bits}-bit values, {shape.w_bits}-bit weights, {plan.engine.arithmetic}"
    kind += f", {shape.lut_pixels} pixels of LUTs" if shape.lut_pixels else ""
    lines.append(f"array      {shape.lanes} channels x {shape.outputs} outputs x {shape.pixels} pixels, {shape.products} products a cycle ({kind})")
    lines.append(f"frame      {plan.interval} cycles, {told.rate(plan)}; {100 * plan.used:.0f} % of the products are the network's")
    if plan.batch > 1:
        lines.append(f"run        {plan.batch} frames, {plan.engine.cycles} cycles, those of all steps; a frame is the average")
    spent = ", ".join(f"{100 * cycles / plan.engine.cycles:.0f} % {name.replace('_', ' ')}" for name, cycles in plan.binds.most_common())
    lines.append(f"bound by   {spent}")
    moved = plan.bytes * plan.fps / 1e9
    lines.append(
        f"memory     {plan.bytes / 1e6:.1f} MB a frame, {moved:.2f} GB/s of {rate:.2f} assumed; values take {plan.engine.places.bytes / 1e6:.1f} MB"
    )
    latency = f"bursts that wait {LATENCY_CYCLES} cycles each"
    lines.append(f"late       {_worst_fps(plan):.1f} frames per second with half of that, {latency}, and masters that share ports")
    lines.append(f"work       {plan.gops:.1f} GOPS, {plan.gops / plan.power.total_w:.1f} GOPS/W")
    lines += told.lines(plan)
    return "\n".join(lines) + "\n"


def _worst_fps(plan: Plan) -> float:
    """Frames a second if memory is as late as is reckoned with at the worst."""
    return 1e9 / (worst_cycles(plan) * plan.clock_ns)


def _aligned(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return [
        "  ".join(cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in (head, *rows)
    ]


def notes(plan: Plan) -> tuple[str, ...]:
    """What to be warned of."""
    found = plan.estimate
    tight = found.over(LIMITS)
    said = [f"{', '.join(f'{NAMES[field]} above {100 * LIMITS[field]:.0f} %' for field in tight)}: it may not route"] if tight else []
    return (*said, *_zeros(plan), *told.notes(plan))


def _zeros(plan: Plan) -> list[str]:
    """Of n:m weights, which only a streaming or an unrolled design leaves out: an array's lanes all read the same inputs, whatever the output."""
    products = [part for placed in plan.engine.steps for part in placed.step.products]
    sparse = {part.name: kept for part in products if (kept := _kept(part)) is not None}
    if not sparse:
        return []
    named = ", ".join(f"{name} {kept}" for name, kept in list(sparse.items())[:3])
    more = f" and {len(sparse) - 3} more" if len(sparse) > 3 else ""
    layers = "1 layer" if len(sparse) == 1 else f"{len(sparse)} layers"
    return [f"n:m weights of {layers} ({named}{more}): the engine stores and multiplies their zeros, --style streaming does neither"]


def _kept(step: Step) -> Kept | None:
    """The n:m of a step's weights along its channels, or along all that a linear layer reads of a map."""
    weight = step.weight
    if step.kind is not Kind.MATRIX or weight is None or step.macs != weight.size * step.target.pixels:  # zeros between groups are none of these
        return None
    by_channel = np.moveaxis(weight, 1, -1).reshape(-1, weight.shape[1])
    found = (*found_in(by_channel), *found_in(weight.reshape(len(weight), -1)))
    return min(found, key=lambda kept: kept.n / kept.m, default=None)


def _numbers(resources: Resources) -> dict[str, int]:
    return {field: getattr(resources, field) for field in FIELDS}


def _cells(resources: Resources) -> tuple[str, ...]:
    return tuple(str(getattr(resources, field)) for field in FIELDS)
