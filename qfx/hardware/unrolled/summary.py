"""What a plan of an unrolled design comes to, for people (``estimate.txt``, the terminal) and for programs (``report.json``). Deterministic."""

from __future__ import annotations

import json
from typing import Any

from qfx.hardware.cost.estimate import LIMITS, NAMES, capacity
from qfx.hardware.cost.resources import FIELDS, Resources
from qfx.hardware.folding import told
from qfx.hardware.folding.summary import FORMAT, ROUTABLE_LUTS, table
from qfx.hardware.unrolled.plan import Plan


def data(plan: Plan, model: str) -> dict[str, Any]:
    """Everything as JSON values. Cycles are clock cycles; shares are parts of the board, 1.0 all of it."""
    found = plan.estimate
    return {
        "format": FORMAT,
        "model": model,
        "style": "unrolled",
        "board": found.board.name,
        "part": found.board.part,
        "clock_ns": plan.clock_ns,
        "interval_cycles": plan.interval,
        "latency_cycles": plan.latency,
        "latency_ns": round(plan.latency_ns, 3),
        "frames_per_second": round(plan.fps, 3),
        **told.data(plan),
        "operations": plan.program.operations,
        "adders": plan.adders,
        "resources": _numbers(found.total),
        "available": _numbers(capacity(found.board)),
        "notes": list(notes(plan)),
        "shares": {field: round(found.share(field), 4) for field in FIELDS},
        "layers": [
            {"name": layer.name, "operations": layer.operations, "adders": layer.adders, **_numbers(layer.resources)} for layer in plan.layers
        ],
    }


def as_json(plan: Plan, model: str) -> str:
    """``data`` as a file."""
    return json.dumps(data(plan, model), indent=2) + "\n"


def as_text(plan: Plan, model: str) -> str:
    """A table of the layers, the totals against the board, and the timing."""
    found = plan.estimate
    head = ("layer", "operations", "adders", *(NAMES[field] for field in FIELDS))
    rows: list[tuple[str, ...]] = [(layer.name, str(layer.operations), str(layer.adders), *_cells(layer.resources)) for layer in plan.layers]
    rows.append(("total", str(plan.program.operations), str(plan.adders), *_cells(found.total)))
    rows.append((found.board.name, "", "", *_cells(capacity(found.board))))
    rows.append(("used", "", "", *(f"{100 * found.share(field):.1f} %" for field in FIELDS)))
    lines = [f"{model} on the {found.board.title} at {plan.clock_ns:g} ns, unrolled (estimated; docs/unrolled.md)", "", *table(head, rows), ""]
    lines += [f"note: {note}" for note in notes(plan)]
    lines.append(f"interval   {plan.interval} cycles, {told.rate(plan)}")
    lines.append(f"latency    {plan.latency} cycles, {plan.latency_ns:g} ns")
    lines += told.lines(plan)
    return "\n".join(lines) + "\n"


def notes(plan: Plan) -> tuple[str, ...]:
    """What to be warned of: resources above what routes without effort, and ports that take a frame in several words."""
    found = plan.estimate
    said = []
    tight = found.over(LIMITS)
    if tight:
        said.append(f"{', '.join(f'{NAMES[field]} above {100 * LIMITS[field]:.0f} %' for field in tight)}: it may not route")
    elif found.share("lut") > ROUTABLE_LUTS:
        said.append(f"LUT above {100 * ROUTABLE_LUTS:.0f} %: routing may fail, or meet no short clock period")
    if plan.interval > 1:
        said.append(f"a frame takes {plan.interval} words at its widest port, and as many cycles")
    return (*said, *told.notes(plan))


def _numbers(resources: Resources) -> dict[str, int]:
    return {field: getattr(resources, field) for field in FIELDS}


def _cells(resources: Resources) -> tuple[str, ...]:
    return tuple(str(getattr(resources, field)) for field in FIELDS)
