"""Sections on the design: resources against the board, when every layer works, and how it is folded."""

from __future__ import annotations

from html import escape

from qfx.hardware.cost.estimate import NAMES, Cost, capacity
from qfx.hardware.cost.resources import FIELDS
from qfx.hardware.folding import summary, told
from qfx.hardware.folding.plan import Plan
from qfx.hardware.sequential import summary as sequential_summary
from qfx.hardware.sequential.plan import Plan as Sequential
from qfx.hardware.sequential.tiles import memory_bytes
from qfx.hardware.sequential.values import Step
from qfx.hardware.timing.simulate import Course, course
from qfx.hardware.unrolled import summary as unrolled_summary
from qfx.hardware.unrolled.plan import Plan as Unrolled
from qfx.ir.graph import Graph
from qfx.ir.text import describe
from qfx.operators import Cast, MinifloatCast
from qfx.pages import charts, html
from qfx.pages.drawing import cast_type
from qfx.pages.html import Section, cell, raw_cell

FRAMES = 3
"""Of the timeline."""


def board(plan: Plan | Unrolled | Sequential) -> Section:
    """What the design takes of its board, in all and by layer."""
    found, part = plan.estimate, "part" if isinstance(plan, Sequential) else "layer"
    lines = _notes(plan)
    notes = "".join(f"<li>{escape(line)}</li>" for line in lines)
    layers = [(layer.name, layer.resources) for layer in plan.layers] if isinstance(plan, Unrolled) else [(c.node, c.resources) for c in found.layers]
    there, fields = capacity(found.board), [field for field in FIELDS if getattr(found.total, field)]
    rows = []
    for name, resources in layers:
        cells = [cell(name, "name")]
        for field in fields:
            own, has = getattr(resources, field), max(getattr(there, field), 1)
            bar = (
                (
                    f'<span class="cell" style="--w:{min(100.0, 100 * own / max(getattr(found.total, field), 1)):.1f}%">{html.count(own)} '
                    f'<span class="soft">{100 * own / has:.1f} %</span></span>'
                )
                if own
                else "0"
            )
            cells.append(raw_cell(bar, "n", value=own))
        rows.append(cells)
    total = "".join(cell(f"{html.count(getattr(found.total, field))} {100 * found.share(field):.1f} %", "n") for field in fields)
    rows.append([f'<tr class="total"><th scope="row" class="name">total</th>{total}</tr>'])
    heads = [part, *(f"{NAMES[field]} " for field in fields)]
    body = (
        f'<p class="soft">{escape(found.board.title)} ({escape(found.board.part)}): an estimate before any synthesis. Segments are '
        f'{part}s, the largest '
        "first; the line is where foldings stop.</p>" + charts.shares(found) + (f'<ul class="warn">{notes}</ul>' if notes else "")
        + f"<h3>By {part}</h3>" + html.table(heads, rows, label=f"Resources by {part}", sorts=True)
    )  # fmt: skip
    return Section("board", "Resources against the board", body, "Board")


def _notes(plan: Plan | Unrolled | Sequential) -> tuple[str, ...]:
    if isinstance(plan, Unrolled):
        return unrolled_summary.notes(plan)
    return sequential_summary.notes(plan) if isinstance(plan, Sequential) else summary.notes(plan)


def _steps(plan: Sequential) -> Section:
    """The steps of an engine, one after the other."""
    rows: list[tuple[str, list[tuple[int, int]], bool]] = []
    start, most = 0, max(placed.cycles for placed in plan.engine.steps)
    for name, placed in zip(_names(plan), plan.engine.steps, strict=True):
        rows.append((name, [(start, start + placed.cycles)], placed.cycles == most))
        start += placed.cycles
    pace = f"{html.count(plan.interval)} cycles of {plan.clock_ns:g} ns"
    intro = f"<p>{escape(told.rate(plan))}. One engine does the layers one after the other: {pace}.</p>"
    picture = f'<div class="wide tall" role="region" aria-label="Timeline" tabindex="0">{charts.timeline(rows, "clock cycles")}</div>'
    return Section("time", "The steps of a frame", intro + picture, "Timeline")


def _names(plan: Sequential) -> list[str]:
    return sequential_summary.labels([placed.step for placed in plan.engine.steps])


def _placed(plan: Sequential, graph: Graph) -> Section:
    """What each step does and waits for, and its tiles."""
    rows = []
    most = max(placed.cycles for placed in plan.engine.steps)
    for called, placed in zip(_names(plan), plan.engine.steps, strict=True):
        step, tile, shape = placed.step, placed.tile, plan.engine.shape
        numbers = (step.macs, tile.tiles, tile.jobs, sum(memory_bytes(step, shape, tile).values()))
        share = f'<span class="cell" style="--w:{100 * placed.cycles / most:.0f}%">{html.count(placed.cycles)}</span>'
        cells = [raw_cell(share, "n", value=placed.cycles), *(cell(html.count(number), "n", value=number) for number in numbers)]
        name = cell(called, "name")
        marked = " class=marked" if placed.cycles == most else ""
        does = cell(_does(step, graph))
        rows.append([f"<tr{marked}>{''.join([name, does, cell(sequential_summary.BOUND[placed.bound]), *cells])}</tr>"])
    heads = ["step", "what it does", "waits for", "cycles ", "multiplications ", "tiles ", "jobs ", "bytes "]
    array = plan.engine.shape
    intro = (
        f'<p class="soft">The engine multiplies {array.lanes} channels by {array.outputs} outputs by {array.pixels} pixels in a cycle. '
        "A step is done tile by tile (a part of the frame), and each tile in jobs (so many outputs). Its processes work side by side; it waits for "
        "the slowest.</p>"
    )
    return Section("folding", "Steps of the engine", intro + html.table(heads, rows, label="Steps of the engine", sorts=True), "Steps")


def _does(step: Step, graph: Graph) -> str:
    """The operators of the graph that a step does, in order, and what comes of it; copies that only the engine makes are called so."""
    nodes = {node.name: node.op for node in graph.nodes}
    found = [nodes[name] for name in step.nodes if name in nodes]
    words = [cast_type(op) if isinstance(op, Cast | MinifloatCast) else describe(op) for op in found]
    target = f"{step.target.channels}x{step.target.height}x{step.target.columns}"
    return f"{', '.join(words) or 'copy'}, {target}"


def timeline(plan: Plan | Unrolled | Sequential) -> Section:
    """When every layer works on the first frames, and which of them sets the pace."""
    if isinstance(plan, Sequential):
        return _steps(plan)
    if isinstance(plan, Unrolled):
        body = (
            f"<p>The whole network is one pipeline of {plan.pipeline.depth} stages: a frame enters every {plan.interval} "
            f"cycle{'s' * (plan.interval != 1)} and leaves "
            f"{plan.latency} cycles later ({plan.latency_ns:g} ns).</p>"
        )
        return Section("time", "Timing", body)
    slowest = summary.binding(plan)["layer"]
    intro = (
        f"<p>{escape(told.rate(plan))}. A frame every {html.count(plan.interval)} cycles of {plan.clock_ns:g} ns; <b class='bad'>"
        f"{escape(slowest)}</b> sets the pace.</p>"
    )
    if plan.design.batch > 1:
        intro += f"<p class='soft'>A call takes {plan.design.batch} frames: below, a frame is all of them.</p>"
    if plan.timing is None:
        return Section(
            "time",
            "Dataflow timeline",
            intro + '<p class="soft">A frame moves too many words to simulate: the pace is that of the slowest process alone.</p>',
            "Timeline",
        )
    courses = {one.name: one for one in course(plan.design, FRAMES)}
    shown = [cost for cost in plan.estimate.layers if cost.process in courses]
    rows = [(cost.node, courses[cost.process].frames, cost.node == slowest) for cost in shown]
    legend = (
        '<div class="legend"><span><i style="background:var(--one)"></i>frame 1, lighter: frames 2 and 3</span><span><i '
        'style="background:var(--bad)"></i>the bottleneck</span></div>'
    )
    picture = f'<div class="wide tall" role="region" aria-label="Timeline" tabindex="0">{charts.timeline(rows, "clock cycles")}</div>'
    body = intro + legend + picture + _busy(plan, shown, courses, slowest)
    return Section("time", "Dataflow timeline", body, "Timeline")


def _busy(plan: Plan, shown: list[Cost], courses: dict[str, Course], slowest: str) -> str:
    assert plan.timing is not None
    timed = {one.name: one for one in plan.timing.processes}
    rows = []
    for cost in shown:
        one, frames = timed[cost.process], courses[cost.process].frames
        share = one.busy / max(plan.interval * plan.design.batch, 1)
        bar = f'<span class="cell" style="--w:{min(100.0, 100 * share):.0f}%">{100 * share:.0f} %</span>'
        marked = ' class="marked"' if cost.node == slowest else ""
        numbers = "".join(cell(html.count(n), "n", value=n) for n in (one.busy, one.stall, *frames[0]))
        rows.append([f"<tr{marked}>{cell(cost.node, 'name')}{cell(cost.process)}{raw_cell(bar, 'n', value=share)}{numbers}</tr>"])
    heads = ["layer", "its slowest process", "busy ", "busy cycles ", "waiting cycles ", "first frame from ", "to "]
    return "<details><summary>In numbers</summary>" + html.table(heads, rows, label="When layers work", sorts=True) + "</details>"


_WORDS = ("arithmetic", "weights", "buffer")


def folding(plan: Plan | Unrolled | Sequential, graph: Graph) -> Section:
    """How parallel every layer of ``graph`` is."""
    if isinstance(plan, Sequential):
        return _placed(plan, graph)
    if isinstance(plan, Unrolled):
        rows = [
            [
                cell(layer.name, "name"),
                cell(html.count(layer.operations), "n", value=layer.operations),
                cell(html.count(layer.adders), "n", value=layer.adders),
            ]
            for layer in plan.layers
        ]
        return Section(
            "folding", "Operations by layer", html.table(["layer", "operations ", "adders "], rows, label="Operations by layer", sorts=True), "Layers"
        )
    slowest = summary.binding(plan)["layer"]
    rows, layers = [], summary.data(plan, "")["layers"]
    numbers, words = ([key for key in keys if any(layer.get(key) for layer in layers)] for keys in (("pe", "simd", "pixels"), _WORDS))
    fields = [field for field in FIELDS if any(layer[field] for layer in layers)]
    for layer in layers:
        cells = [cell(layer["name"], "name")]
        cells += [cell(str(layer.get(key, "")), "n", value=layer.get(key, 0)) for key in numbers]
        cells += [cell(str(layer.get(key, ""))) for key in words]
        share = min(100.0, 100 * layer["cycles"] / max(plan.interval, 1))
        cells.append(raw_cell(f'<span class="cell" style="--w:{share:.0f}%">{html.count(layer["cycles"])}</span>', "n", value=layer["cycles"]))
        cells += [cell(html.count(layer[field]), "n", value=layer[field]) for field in fields]
        rows.append([f"<tr{' class=marked' if layer['name'] == slowest else ''}>{''.join(cells)}</tr>"])
    counts = [f"{'pixels' if key == 'pixels' else key.upper()} " for key in numbers]
    heads = ["layer", *counts, *words, "cycles a frame ", *(f"{NAMES[field]} " for field in fields)]
    streams = plan.design.streams
    bits = sum(stream.depth * stream.parallel * stream.type.width for stream in streams)
    note = (
        '<p class="soft">PE outputs times SIMD inputs are worked on in one cycle (times pixels). Write them into <code>folding.toml</code>'
        " of the project "
        f"to fix them. {len(streams)} FIFOs of {html.count(bits)} bits in all.</p>"
    )
    return Section("folding", "Folding", note + html.table(heads, rows, label="Folding of every layer", sorts=True))
