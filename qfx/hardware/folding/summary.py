"""What a plan comes to, for people (``estimate.txt``, the terminal) and for programs (``report.json``). Deterministic."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from qfx.hardware.cost.estimate import LIMITS, NAMES, Cost, capacity
from qfx.hardware.cost.resources import FIELDS, Resources
from qfx.hardware.design import dsp
from qfx.hardware.design.design import Process, Stream
from qfx.hardware.design.storage import queue
from qfx.hardware.folding import told
from qfx.hardware.folding.plan import Plan
from qfx.hardware.timing.fifo import least_depths

FORMAT = 1
_DEEPEST = 5

_BINDS = 0.9
"""The share of what may be used of a resource from which on it is said to bind."""

ROUTABLE_LUTS = 0.70
"""The share of the LUTs from which on UG949 warns of congestion."""


def data(plan: Plan, model: str) -> dict[str, Any]:
    """Everything as JSON values. Cycles are clock cycles; shares are parts of the board, 1.0 all of it.

    ``least`` of a FIFO: with a word less, all others as they are, the design deadlocks; null where the frame was too long to simulate, and of a FIFO
    ``within`` a process, of a step of its loop, which is sized by itself. ``storage``: what it is built of, "" two words of registers. ``binding``:
    as the function of that name.
    """
    found, timing = plan.estimate, plan.timing
    least = {} if timing is None else least_depths(plan.design)
    return {
        "format": FORMAT,
        "model": model,
        "board": found.board.name,
        "part": found.board.part,
        "clock_ns": plan.clock_ns,
        "simulated": timing is not None,
        "interval_cycles": plan.interval,
        "latency_cycles": None if timing is None else timing.latency,
        "frames_per_second": round(plan.fps, 3),
        **told.data(plan),
        **({"batch": plan.design.batch} if plan.design.batch > 1 else {}),
        **({"memory": _memory(plan)} if plan.memory_bytes else {}),
        "resources": _numbers(found.total),
        "available": _numbers(capacity(found.board)),
        "notes": list(notes(plan)),
        "shares": {field: round(found.share(field), 4) for field in FIELDS},
        "binding": binding(plan),
        "layers": [{"name": cost.node, **_folding(plan, cost.node), "cycles": cost.cycles, **_numbers(cost.resources)} for cost in found.layers],
        "processes": [
            {"name": cost.process, "layer": cost.node, "cycles": cost.cycles, **_numbers(cost.resources)} for cost in found.costs
        ],
        "fifos": [
            {"name": s.name, "bits": s.bits, "words": s.words, "depth": s.depth, "least": least.get(s.name), "storage": queue(s).value}
            for s in plan.design.streams
        ] + [
            {"name": s.name, "bits": s.bits, "words": s.words, "depth": s.depth, "least": None, "storage": queue(s).value, "within": process.name}
            for process in plan.design.processes for s in process.within
        ],
    }  # fmt: skip


def binding(plan: Plan) -> dict[str, Any]:
    """What is in the way of a faster design: ``shares`` of what foldings may be chosen to use of each resource, the ``resources`` of which nearly all
    is used, most first, and the ``layer`` whose process takes most cycles. ``gap``: as in Plan, null where no folding was searched for."""
    shares = {field: plan.estimate.share(field) / LIMITS[field] for field in FIELDS}
    design = plan.design
    slowest = max(zip(design.processes, design.nodes, strict=True), key=lambda pair: design.busy(pair[0]))[1]
    return {
        "shares": {field: round(share, 4) for field, share in shares.items()},
        "resources": sorted((field for field in FIELDS if shares[field] >= _BINDS), key=lambda field: -shares[field]),
        "layer": slowest,
        "gap": None if plan.gap is None else round(plan.gap, 4),
    }


def per_unit(plan: Plan, macs: Mapping[str, int]) -> dict[str, float | None]:
    """What is made of a unit: multiply-adds of a DSP block in a cycle (null without blocks; products in LUTs count, too), of the ``macs`` of a frame
    by node; of them those that DSP blocks make alone (null too where a loop goes over layers); and the LUTs that a frame a second takes."""
    dsps = plan.estimate.total.dsp
    design = plan.design
    looped = any(process.inside for process in design.processes)
    in_blocks = {node for process, node in zip(design.processes, design.nodes, strict=True) if dsp.sums(getattr(process, "arithmetic", "lut"))}
    blocks = sum(macs.get(node, 0) for node in in_blocks)
    return {
        "macs_per_dsp_cycle": round(sum(macs.values()) / (dsps * plan.interval), 4) if dsps else None,
        "macs_in_dsp_per_dsp_cycle": round(blocks / (dsps * plan.interval), 4) if dsps and not looped else None,
        "luts_per_fps": float(f"{plan.estimate.total.lut / plan.fps:.4g}"),
    }


def _bound_by(plan: Plan) -> str:
    found = binding(plan)
    parts = [f"{NAMES[field]} ({100 * found['shares'][field]:.1f} % of what may be used)" for field in found["resources"]]
    if plan.memory_cycles >= _BINDS * plan.interval:
        parts.append(f"memory ({100 * plan.memory_cycles / plan.interval:.0f} % of the bandwidth that it is assumed to give)")
    said = ", ".join([*parts, f"{found['layer']} (slowest layer)"])
    return said if plan.gap is None else f"{said}; at most {100 * plan.gap:.1f} % from the best there is"


def _memory(plan: Plan) -> dict[str, Any]:
    """What a frame reads of the board's memory: bytes, the cycles that they take all masters together, the bandwidth that is used and that which is
    assumed, in 10**9 bytes a second, and how many masters there are."""
    most = plan.estimate.board.memory_bytes_per_cycle(plan.clock_ns) / plan.clock_ns
    return {
        "bytes": plan.memory_bytes,
        "cycles": plan.memory_cycles,
        "gb_s": round(plan.memory_bytes * plan.fps / 1e9, 4),
        "assumed_gb_s": round(most, 4),
        "masters": len(plan.design.masters),
    }


def as_json(plan: Plan, model: str) -> str:
    """``data`` as a file."""
    return json.dumps(data(plan, model), indent=2) + "\n"


def as_text(plan: Plan, model: str) -> str:
    """A table of the layers, the totals against the board, the timing and the FIFOs."""
    found = plan.estimate
    head = ("layer", "PE", "SIMD", "arithmetic", "cycles", *(NAMES[field] for field in FIELDS))
    rows = [_row(plan, cost) for cost in found.layers]
    total, there = found.total, capacity(found.board)
    rows.append(("total", "", "", "", str(plan.interval), *(str(getattr(total, field)) for field in FIELDS)))
    rows.append((found.board.name, "", "", "", "", *(str(getattr(there, field)) for field in FIELDS)))
    rows.append(("used", "", "", "", "", *(f"{100 * found.share(field):.1f} %" for field in FIELDS)))
    lines = [f"{model} on the {found.board.title} at {plan.clock_ns:g} ns (estimated; docs/estimates.md)", "", *table(head, rows), ""]
    lines += [f"note: {note}" for note in notes(plan)]
    lines.append(f"interval   {plan.interval} cycles, {told.rate(plan)}")
    if plan.timing is None:
        lines.append("           of the slowest process alone: a frame has too many words to simulate")
    else:
        of = f" of {plan.design.batch} frames" if plan.design.batch > 1 else ""
        lines.append(f"latency    {plan.timing.latency} cycles, {plan.timing.latency * plan.clock_ns / 1000:.1f} us{of}")
    if plan.design.batch > 1:
        lines.append(
            f"batch      {plan.design.batch} frames a call, for which fully connected layers read their weights once; a frame is the average"
        )
    if plan.memory_bytes:
        one = _memory(plan)
        masters = f"{one['masters']} master{'s' * (one['masters'] > 1)}"
        used = f"{one['gb_s']:.2f} GB/s of the {one['assumed_gb_s']:.2f} that are assumed"
        what = "of weights" if len(plan.design.weights_in_memory) == one["masters"] else "of weights and of what FIFOs hold"
        lines.append(f"memory     {one['bytes'] / 1e6:.2f} MB {what} a frame by {masters}, {used}")
    lines.append(f"binds      {_bound_by(plan)}")
    lines += told.lines(plan)
    lines.append(f"FIFOs      {_fifos(plan.design.streams)}")
    lines += [f"           in each step of {node}: {_fifos(process.within)}" for process, node in _looped(plan)]
    return "\n".join(lines) + "\n"


def _fifos(streams: Sequence[Stream]) -> str:
    deep = sorted(streams, key=lambda stream: -stream.built)[:_DEEPEST]
    bits = sum(stream.built * stream.bits for stream in streams)
    deepest = ", ".join(f"{stream.name} {stream.built} x {stream.bits}" for stream in deep)
    spilled = [stream for stream in streams if stream.storage == "ddr"]
    held = f"; in the board's memory: {', '.join(f'{stream.name} {stream.depth} x {stream.bits}' for stream in spilled)}" if spilled else ""
    return f"{len(streams)} of {bits} bits in all; deepest (words x bits): {deepest}{held}"


def _looped(plan: Plan) -> list[tuple[Process, str]]:
    """The processes that have FIFOs of their own, with their layers."""
    design = plan.design
    return [(process, node) for process, node in zip(design.processes, design.nodes, strict=True) if process.within]


def notes(plan: Plan) -> tuple[str, ...]:
    """What to be warned of: resources above what foldings are chosen for, else LUTs above what routes without effort."""
    found = plan.estimate
    tight = found.over(LIMITS)
    said = []
    if tight:
        shares = ", ".join(f"{NAMES[field]} above {100 * LIMITS[field]:.0f} %" for field in tight)
        said.append(f"{shares}: it may not route; --fps or --fit would stay below")
    if "lut" not in tight and found.share("lut") > ROUTABLE_LUTS:
        said.append(f"LUT above {100 * ROUTABLE_LUTS:.0f} %: routing may fail, or meet no short clock period; a smaller --fps takes fewer")
    return (*said, *told.notes(plan))


def _numbers(resources: Resources) -> dict[str, int]:
    return {field: getattr(resources, field) for field in FIELDS}


def _folding(plan: Plan, node: str) -> dict[str, Any]:
    folding = plan.schedule.folding(node)
    taps = {key: count for key, count in (("taps", folding.taps), ("pixels", folding.pixels)) if count > 1}
    taps |= {"rows": folding.rows} if folding.rows else {}
    sparse = {"sparsity": folding.sparsity} if folding.sparsity else {}
    if node in plan.weighted:
        places = {"weights": folding.weights, "buffer": folding.buffer}
        return {"pe": folding.pe, "simd": folding.simd, "arithmetic": folding.arithmetic, **taps, **sparse, **places}
    return {"pe": folding.pe, **taps, "buffer": folding.buffer} if node in plan.folded else {}


def _row(plan: Plan, cost: Cost) -> tuple[str, ...]:
    folding = _folding(plan, cost.node)
    chosen = tuple(str(folding.get(key, "")) for key in ("pe", "simd"))
    arithmetic = " ".join(folding[key] for key in ("arithmetic", "sparsity") if key in folding)  # "dsp 2:4": without the zeros
    return (cost.node, *chosen, arithmetic, str(cost.cycles), *(str(getattr(cost.resources, field)) for field in FIELDS))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table; the first column and the fourth, where it says something in words, stand left."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    left = {0, 3}
    cells = [
        [cell.ljust(width) if i in left else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True))]
        for row in (head, *rows)
    ]
    return ["  ".join(row).rstrip() for row in cells]
