"""What to do next: what stands out in the measurements and in the design, and the command or the line of a recipe that changes it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from qfx.hardware.cost.estimate import LIMITS, NAMES
from qfx.hardware.cost.resources import FIELDS
from qfx.hardware.folding import summary
from qfx.hardware.folding.plan import Plan
from qfx.hardware.sequential import summary as sequential_summary
from qfx.hardware.sequential.plan import Plan as Sequential
from qfx.hardware.sequential.summary import BOUND
from qfx.hardware.sequential.tiles import STEP_CYCLES
from qfx.hardware.unrolled import summary as unrolled_summary
from qfx.hardware.unrolled.plan import Plan as Unrolled
from qfx.ir.graph import Graph
from qfx.operators import Input, MinifloatCast
from qfx.pages import html
from qfx.pages.measured import Lossy, Measured, Value, bounds, lossy

OVERFLOW, SPARE_BITS, LOUD_DB, MOST = 0.01, 1, 6.0, 4
"""From which share of overflow, from how many bits of range without use, and from how many decibels below the next one on a cast is worth a word;
and of how many casts each is said."""


@dataclass(frozen=True, slots=True)
class Advice:
    """``what`` is the matter, ``do`` says what to do about it, ``command`` how, where there is one."""

    what: str
    do: str
    command: str = ""


def overflowing(found: Value) -> float:
    """The share of numbers that a cast takes back to its range."""
    return 0.0 if found.loss is None else (found.loss.above + found.loss.below) / max(found.loss.values, 1)


def spare(found: Value, low: float, high: float) -> int:
    """How many bits at the upper end of a cast's range nothing on the data uses."""
    furthest = max(found.high / high if high > 0 else 0.0, found.low / low if low < 0 else 0.0)
    return 0 if furthest <= 0 else max(0, -math.ceil(math.log2(furthest)))


def advice(graph: Graph, model: str, measured: Measured | None, plan: Plan | Unrolled | Sequential | None) -> list[Advice]:
    """In the order in which it pays."""
    found = [*(_of_data(graph, measured) if measured is not None else ())]
    if measured is None:
        found.append(
            Advice("No data was given", "ranges, overflow, rounding and errors come from data", f"qfx report {model} --data test.npz -o report.html")
        )
    elif measured.answers is None:
        found.append(Advice("No labels were given", "save class numbers as 'y' beside 'x' in the .npz file to see accuracy and confusions"))
    if plan is None:
        found.append(
            Advice("No board was named", "see what the design takes and where it waits", f"qfx report {model} --board ultra96v2 --fit -o report.html")
        )
    elif isinstance(plan, Sequential):
        found += [Advice(note.partition(":")[0], note) for note in sequential_summary.notes(plan)]
        found += _of_engine(model, plan)
    elif isinstance(plan, Unrolled):
        found += [Advice(note.partition(":")[0], note) for note in unrolled_summary.notes(plan)]
    else:
        found += _of_design(model, plan)
    return found


def _of_data(graph: Graph, measured: Measured) -> Iterator[Advice]:
    values = [(measured.values[name], op) for name, op in lossy(graph).items()]
    clipped = sorted((v for v, op in values if overflowing(v) >= OVERFLOW and not _is_relu(v, op)), key=lambda v: -overflowing(v))
    floats = {value.name for value, op in values if isinstance(op, MinifloatCast)}
    for value in clipped[:MOST]:
        bits = value.loss.missing_bits if value.loss is not None else 0
        held = f"a format of numbers 2^{bits} times as great" if value.name in floats else f"{bits} more integer bit{'s' * (bits != 1)}"
        yield Advice(
            f"{value.name} overflows for {html.percent(overflowing(value))} of its numbers",
            f"{held} would hold them all. A few saturated numbers are often the best choice at few "
            f"bits; many are not: "
            "calibrate on data like this, train on, or give this cast a bit more in the recipe",
        )
    loud = sorted((v for v, _ in values if v.own_db is not None and math.isfinite(v.own_db)), key=lambda v: v.own_db or 0.0)
    if len(loud) > 1 and (loud[1].own_db or 0.0) - (loud[0].own_db or 0.0) >= LOUD_DB:
        yield Advice(
            f"{loud[0].name} adds more noise than any other cast ({html.decibel(loud[0].own_db)}; the next {html.decibel(loud[1].own_db)})",
            "one or two bits more in this place alone gain more than anywhere else: an override in the recipe, or learned word lengths "
            "under a budget",
        )
    idle = sorted(
        (-bits, value.name) for value, op in values if not isinstance(op, MinifloatCast) and (bits := spare(value, *bounds(op))) >= SPARE_BITS
    )
    if idle:
        named = ", ".join(f"{name} {-bits}" for bits, name in idle[:_LISTED]) + (f" and {len(idle) - _LISTED} more" if len(idle) > _LISTED else "")
        yield Advice(
            f"{len(idle)} cast{'s leave' if len(idle) > 1 else ' leaves'} upper bits of the range unused on this data",
            f"unused bits: {named}. Words shorter by as many, or as many more fractional bits, cost no accuracy here",
        )
    inner = [value for value, op in values if not isinstance(op, Input)]
    dead = [v for v in inner if v.size - v.held > 0 and v.size > 1]
    for value in sorted(dead, key=lambda v: (v.held - v.size, v.name))[:MOST]:
        yield Advice(
            f"{value.size - value.held} of {value.size} channels of {value.name} are 0 on all {measured.samples} samples",
            "pruned channels cost nothing in hardware only if training knows: word lengths that may go down to none remove them",
        )


def _is_relu(value: Value, op: Lossy) -> bool:
    """Whether what falls away is what a ReLU takes: numbers below 0 of an unsigned type."""
    return (
        not isinstance(op, MinifloatCast)
        and not op.cast.element.signed
        and value.loss is not None
        and value.loss.above < OVERFLOW * max(value.loss.values, 1)
    )


def _of_design(model: str, plan: Plan) -> Iterator[Advice]:
    found, slow = plan.estimate, summary.binding(plan)
    board = found.board.name
    if over := found.over(dict.fromkeys(FIELDS, 1.0)):
        yield Advice(
            f"The design needs more {', '.join(NAMES[field] for field in over)} than the {found.board.title} has",
            "fold more, or take fewer bits",
            f"qfx hls {model} --board {board} --fit -o project",
        )
    for note in summary.notes(plan):
        yield Advice(note.partition(":")[0], note.partition(":")[2].strip() or note)
    design = plan.design
    busy = sorted(((process.busy, node) for process, node in zip(design.processes, design.nodes, strict=True)), reverse=True)
    slowest, folding = slow["layer"], plan.schedule.folding(slow["layer"])
    others = [cycles for cycles, node in busy if node != slowest]
    free = min((LIMITS[field] - found.share(field) for field in FIELDS if found.share(field)), default=0.0)
    if not others:
        return
    now = f"PE {folding.pe}, SIMD {folding.simd}" if slowest in plan.weighted else f"PE {folding.pe}"
    what = f"{slowest} sets the pace, folded to {now}: {html.count(busy[0][0])} cycles a frame; the next layer takes {html.count(others[0])}"
    if plan.gap is None and free > _ROOM:
        gain = busy[0][0] / max(others[0], 1)
        do = f"it alone folded less makes {gain:.1f} times as many frames" if gain >= _GAIN else "several layers have to be folded less together"
        yield Advice(
            what,
            f"{do}; at least {100 * free:.0f} % of what a resource may be used for are free",
            f"qfx hls {model} --board {board} --fit -o project",
        )
    elif free <= _ROOM:
        yield Advice(what, "the board is nearly full: shorter words, or products in LUTs in place of DSP blocks, make room for more")


def _of_engine(model: str, plan: Sequential) -> Iterator[Advice]:
    board, cycles = plan.estimate.board.name, max(plan.engine.cycles, 1)
    again = f"qfx report {model} --board {board} --style sequential --batch {2 * plan.batch} -o report.html"
    starting = STEP_CYCLES * len(plan.engine.steps) / cycles
    if starting > _LOUD_SHARE:
        yield Advice(
            f"{100 * starting:.0f} % of the cycles begin and end steps; the array is used to {100 * plan.used:.0f} %",
            "an engine is for large networks: a design with a process for each layer makes more frames of one that is this small "
            "(--style streaming, or auto); frames that go through together (--batch) pay for a step once",
            f"qfx report {model} --board {board} --style auto --fit -o report.html",
        )
        return
    bound, taken = plan.binds.most_common(1)[0]
    what = f"Steps wait for {BOUND[bound]} in {100 * taken / cycles:.0f} % of the cycles; the array is used to {100 * plan.used:.0f} %"
    if bound in ("fetch_weights", "place_weights", "fetch_parameters"):
        yield Advice(what, "frames that go through together share them", again)
    elif bound in ("fetch_x0", "fetch_x1", "write", "fetch_beside"):
        yield Advice(what, "shorter words of activations move less; frames that go through together do not")
    elif bound == "multiply":
        yield Advice(
            what, "the engine does what it is made for: fewer multiplications, shorter words (two products in a DSP block) or a larger board"
        )
    else:
        yield Advice(what, "layers of few channels and small frames keep the multipliers waiting; frames that go through together help some", again)


_LOUD_SHARE = 0.5
_ROOM, _GAIN, _LISTED = 0.05, 1.05, 6
