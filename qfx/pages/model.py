"""``qfx report -o``: one page from the model to the board."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from qfx.hardware.cost.estimate import NAMES
from qfx.hardware.cost.resources import FIELDS
from qfx.hardware.folding import summary, told
from qfx.hardware.folding.plan import Plan
from qfx.hardware.sequential.plan import Plan as Sequential
from qfx.hardware.unrolled.plan import Plan as Unrolled
from qfx.ir import words
from qfx.ir.graph import Graph
from qfx.operators import MinifloatCast
from qfx.pages import html, of_answers, of_data, of_design
from qfx.pages.advice import OVERFLOW, Advice, advice, overflowing
from qfx.pages.answers import Answers
from qfx.pages.drawing import drawing, short_type
from qfx.pages.html import Section
from qfx.pages.measured import Measured, known, lossy
from qfx.verify import Comparison

_TOOLS = (
    '<div class="tools"><label for="search">Search</label><input id="search" type="search" placeholder="name, operator or type" autocomplete="off">'
    '<span class="told" id="found" role="status"></span><button type="button" id="zoom-out" aria-label="Smaller">−</button>'
    '<button type="button" id="zoom-in" aria-label="Larger">+</button><button type="button" id="zoom-one">1:1</button>'
    '<button type="button" id="zoom-fit">Fit</button></div>'
)
_KEY = (
    '<p class="legend"><span><i style="background:var(--box);border:1px solid var(--boxline)"></i>exact operator</span>'
    '<span><i style="background:var(--cast);border:1px solid var(--castline)"></i>cast: the only place where bits are lost</span>'
    '<span><i style="background:var(--goodfill);border:1px solid var(--good)"></i>input or output</span>'
    '<span><i style="border:2px solid var(--bad)"></i>bottleneck, or overflow of 1 % and more</span></p>'
)


def model_page(
    graph: Graph,
    model: str,
    *,
    measured: Measured | None = None,
    plan: Plan | Unrolled | Sequential | None = None,
    notes: Sequence[str] = (),
    compared: Sequence[Comparison] = (),
    history: Sequence[Section] = (),
    answers: Answers | None = None,
) -> str:
    """The page of ``graph``, as the file ``model`` holds it: with what data shows if it was ``measured``, and the ``plan`` of what is built of it.
    ``notes``: what the reader should know first. ``compared``: executors beside the interpreter, on the same data. ``history``: how it came to
    be, as ``qfx watch`` shows it. ``answers``: those that its log has, where data has no labels."""
    anchors, logged = anchors_of(graph), measured is None or measured.answers is None
    shown = answers if measured is None or measured.answers is None else measured.answers
    sections = [
        _notes([*notes, *(f"{row.executor} differs first at {row.first}" for row in compared if row.first is not None)]),
        listed(advice(graph, model, measured, plan)),
        *history,
        graph_section(graph, anchors, _hot(graph, measured, plan)),
        of_answers.accuracy(shown, "As the log has it: " if logged else ""),
        of_data.errors(graph, measured),
        of_data.values(graph, measured, anchors),
        *([] if plan is None else [of_design.board(plan), of_design.timeline(plan), of_design.folding(plan, graph)]),
    ]
    where = "" if plan is None else f" on the {plan.estimate.board.title} at {plan.clock_ns:g} ns"
    shapes = ", ".join(f"{node.name} {words.sizes(graph.infos[node.name].shape)}" for node in graph.inputs)
    leaves = ", ".join(f"{words.sizes(graph.infos[name].shape)} of {short_type(graph.infos[name].type)}" for name in graph.outputs)
    subtitle = escape(f"{shapes} to {leaves}{where}")
    return html.page(f"{graph.name}: report", graph.name, subtitle, _tiles(graph, measured, plan, compared, shown), sections)


def _tiles(
    graph: Graph, measured: Measured | None, plan: Plan | Unrolled | Sequential | None, compared: Sequence[Comparison], right: Answers | None
) -> str:
    found = []
    if right is not None:
        found.append((html.percent(right.right / max(right.total, 1)), f"right answers on {html.count(right.total)}", ""))
    if compared:
        bits, names = sum(row.differing_bits for row in compared), " and ".join(row.executor for row in compared)
        samples = "" if measured is None else f", {html.count(measured.samples)} samples"
        found.append((f"{html.count(bits)} bits", f"differ: {names}{samples}", "bad" if bits else "good"))
    if measured is not None:
        worst = max((value for value in measured.values.values() if value.loss is not None), key=overflowing)
        kind = "bad" if overflowing(worst) >= OVERFLOW else ""
        if overflowing(worst):
            found.append((html.share(overflowing(worst)), f"most overflow, at {worst.name}", kind))
        else:
            found.append(("none", "no cast overflows", "good"))
        out = measured.values[graph.outputs[0]]
        if out.db is not None:
            found.append((html.decibel(out.db), "signal to noise of all casts, at the output", ""))
    if plan is not None:
        slowest = "" if isinstance(plan, Unrolled | Sequential) else f"; {summary.binding(plan)['layer']} sets the pace"
        found.append((f"{told.believed_fps(plan):,.0f}".replace(",", "\u202f"), f"frames per second expected{slowest}", ""))
        field = max(FIELDS, key=plan.estimate.share)
        share = plan.estimate.share(field)
        found.append((f"{100 * share:.0f} %", f"of the {NAMES[field]}, the scarcest", "bad" if share > 1 else ""))
    macs = sum(node.op.macs(graph.infos[node.name]) for node in graph.nodes)
    bits = sum(const.raw.size * const.interval.width for node in graph.nodes for const in node.op.constants().values())
    found.append((html.count(macs), f"multiplications a sample, {bits / 8192:.1f} KiB of constants", ""))
    return html.tiles(found)


def _notes(notes: Sequence[str]) -> Section:
    return Section("notes", "Notes", f'<ul class="warn">{"".join(f"<li>{escape(note)}</li>" for note in notes)}</ul>' if notes else "")


def listed(found: Sequence[Advice]) -> Section:
    """What to do next."""
    items = ""
    for one in found:
        items += f"<li><b>{escape(one.what)}</b>: {escape(one.do)}.{html.command(one.command) if one.command else ''}</li>"
    return Section("next", "What to do next", f'<ol class="next">{items}</ol>' if items else "<p>Nothing stands out.</p>", "Next")


def anchors_of(graph: Graph) -> dict[str, str]:
    """Where the numbers of every value stand on a page, by its name in the whole model."""
    return {name: f"v{number}" for number, (name, _, _) in enumerate(known(graph))}


def graph_section(graph: Graph, anchors: dict[str, str], hot: frozenset[str] = frozenset()) -> Section:
    """The graph, drawn; ``hot`` nodes stand out. Its nodes lead to the rows of ``of_data.values``."""
    hint = (
        '<p class="soft">Choose a node for its numbers. Drag or scroll to move; Ctrl and the wheel, or the keys + − 0, to zoom; Enter in '
        "the search goes "
        "from one hit to the next.</p>"
    )
    picture = f'<div class="graph" tabindex="0" role="region" aria-label="The graph">{drawing(graph, anchors, hot)}</div>'
    body = (
        f'{_KEY}{_TOOLS}<div class="split">{picture}<aside class="panel" id="panel" aria-label="Details" aria-live="polite" hidden>'
        f"</aside></div>{hint}"
    )
    return Section("graph", "Graph with its types", body, "Graph")


def _hot(graph: Graph, measured: Measured | None, plan: Plan | Unrolled | Sequential | None) -> frozenset[str]:
    hot = set() if plan is None or isinstance(plan, Unrolled | Sequential) else {summary.binding(plan)["layer"]}
    for name, op in lossy(graph).items() if measured is not None else ():
        loss = measured.values[name].loss if measured is not None else None
        signed = isinstance(op, MinifloatCast) or op.cast.element.signed
        if loss is not None and loss.above + (loss.below if signed else 0) >= OVERFLOW * max(loss.values, 1):
            hot.add(name)
    return frozenset(hot)
