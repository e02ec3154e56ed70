"""The report of a run as one page, in the look of all pages (``qfx/pages``)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from qfx.hardware.cost.estimate import NAMES
from qfx.ir.graph import Graph
from qfx.pages import html, of_answers, of_data
from qfx.pages.advice import LOUD_DB, Advice
from qfx.pages.answers import Answers
from qfx.pages.html import Section, bars, cell, raw_cell, table
from qfx.pages.html import decibel as decibel  # part of this module's vocabulary, as are the other numbers in words
from qfx.pages.html import number as number
from qfx.pages.html import percent as percent
from qfx.pages.model import anchors_of, graph_section, listed
from qfx.ptq.allocation.front import AMOUNTS, Found, Point
from qfx.ptq.report.analysis import Analysis, Histogram, Row
from qfx.ptq.report.step import Step


@dataclass(frozen=True)
class Story:
    """What the report tells. ``options``: (name, text) pairs, as given; ``recipe``: as TOML; ``proven``: on how many samples the executors agreed.
    ``met``: whether a goal was, and ``goal`` says so: the steps are then models that were tried one after the other, not passes on one (None: there
    was no goal). ``judged`` calibration samples gave the noise, the first ``stepped`` of the ``evaluated`` samples the accuracy of the steps; the two
    accuracies of the whole are of all of them. ``found``: how word lengths were chosen. ``graph``: what was written, to be drawn.
    ``answers``: of it, on the evaluation samples."""

    title: str
    options: Sequence[tuple[str, str]]
    recipe: str
    steps: Sequence[Step]
    float_accuracy: float | None
    accuracy: float | None
    output_db: float
    evaluated: int
    judged: int
    stepped: int
    proven: int
    analysis: Analysis
    warnings: Sequence[str] = ()
    goal: str = ""
    met: bool | None = None
    found: Found | None = None
    graph: Graph | None = None
    answers: Answers | None = None


def page(story: Story) -> str:
    """The report as HTML."""
    analysis, graph = story.analysis, story.graph
    anchors = {} if graph is None else anchors_of(graph)
    sections = [
        _warnings([*story.warnings, *analysis.warnings]),
        *([] if graph is None else [_next(story)]),
        _steps(story),
        _word_lengths(story.found),
        *([] if graph is None else [graph_section(graph, anchors)]),
        of_answers.accuracy(story.answers),
        _error_by_layer(analysis),
        _casts(analysis),
        *([] if graph is None else [of_data.values(graph, None, anchors)]),
        _constants(analysis),
        _tables(analysis),
        *_inputs(story),
    ]
    told = "Post-training quantization to fixed point with power-of-two scales"
    return html.page(f"{story.title}: quantization report", story.title, told, _tiles(story), sections)


def _next(story: Story) -> Section:
    """What to do next, by what was measured."""
    found, model = [], story.title
    drop = None if story.accuracy is None or story.float_accuracy is None else story.float_accuracy - story.accuracy
    if drop is not None and drop >= _DROP:
        what = f"Fixed point costs {100 * drop:.2f} points of accuracy"
        found.append(
            Advice(what, "--max-drop 0.5 with --force tries passes from cheap to costly until that goal is met; longer words where the error is")
        )
    own = sorted((row for row in story.analysis.rows if row.kind == "activation" and math.isfinite(row.own_db)), key=lambda row: row.own_db)
    if len(own) > 1 and own[1].own_db - own[0].own_db >= LOUD_DB:
        what = f"{own[0].name} adds more noise than any other cast ({decibel(own[0].own_db)}; the next {decibel(own[1].own_db)})"
        found.append(Advice(what, "one or two bits more in this place alone gain more than anywhere else: an override in the recipe"))
    if story.accuracy is None:
        found.append(Advice("The accuracy was not measured", "give labelled data: --eval test.npz, with inputs x and class numbers y"))
    board = f"qfx report {model} --data test.npz --board ultra96v2 --fit -o report.html"
    found.append(Advice("See what a design takes", "resources, timeline and folding on a board, beside ranges and errors on other data", board))
    found.append(Advice("Build it", "C++ for Vitis HLS that gives these very numbers", f"qfx hls {model} --board ultra96v2 --fit -o project"))
    return listed(found)


_DROP = 0.005
"""Of accuracy that is worth a word."""


def _tiles(story: Story) -> str:
    tiles = []
    if story.accuracy is not None:
        on = f"{story.evaluated} samples"
        tiles += [(percent(story.float_accuracy), f"accuracy in float, {on}", ""), (percent(story.accuracy), f"accuracy in fixed point, {on}", "")]
    if story.met is not None:
        tiles.append(("met" if story.met else "not met", story.goal, "good" if story.met else "bad"))
    tiles.append((decibel(story.output_db), f"output signal to noise, {story.judged} samples", ""))
    tiles.append(("0", f"differing bits between PyTorch, ONNX Runtime and the integer interpreter, {story.proven} samples", "good"))
    return html.tiles(tiles)


def _warnings(warnings: Sequence[str]) -> Section:
    listed = "".join(f"<li>{_lines(text)}</li>" for text in warnings)
    return Section("warnings", "Warnings", f'<ul class="warn">{listed}</ul>' if warnings else "")


def _lines(text: str) -> str:
    """The first line, the others (remedies) less loud."""
    first, *others = text.split("\n")
    return escape(first) + "".join(f'<br><span class="soft">{escape(line.strip())}</span>' for line in others)


def _steps(story: Story) -> Section:
    labelled = any(step.accuracy is not None for step in story.steps)
    rows = []
    before: Step | None = None
    for step in story.steps:
        cells = [cell(step.name, "name"), cell(f"{step.seconds:.1f}", "n"), cell(decibel(step.output_db), "n")]
        if story.met is None:
            cells.append(cell(_gain(before, step), "n"))
        if labelled:
            cells.append(cell(percent(step.accuracy), "n"))
        rows.append([*cells, cell(step.note)])
        before = step
    heads = ["after", "seconds ", "output SQNR ", "gain "] if story.met is None else ["tried", "seconds ", "output SQNR "]
    heads += [*([f"accuracy on {story.stepped} "] if labelled else []), ""]
    drawn = bars([(step.name, (step.output_db,)) for step in story.steps if step.output_db is not None], decibel)
    judged = f"on the first {story.judged} calibration samples"
    if story.met is not None:
        body = (
            f'<p class="soft">From cheap to costly: {escape(story.goal)}. The noise of the output was measured {judged}, accuracy on all '
            f"{story.evaluated} evaluation samples.</p>" + table(heads, rows, label="What was tried") + drawn
        )
        return Section("steps", "What was tried", body)
    judged += f", accuracy on the first {story.stepped} of {story.evaluated} evaluation samples" if labelled else ""
    body = (
        f'<p class="soft">The fixed-point model after each pass: signal to quantization noise of its output against the float model, {judged}. '
        "A pass on the float model is judged by quantizing its result to nearest.</p>"
        + table(heads, rows, label="What each pass contributed")
        + drawn
    )
    return Section("steps", "What each pass contributed", body, "Passes")


def _gain(before: Step | None, step: Step) -> str:
    if before is None or before.output_db is None or step.output_db is None:
        return ""
    gain = step.output_db - before.output_db
    return f"{gain:+.2f} dB" if math.isfinite(gain) else ""


def _word_lengths(found: Found | None) -> Section:
    if found is None:
        return Section("words", "", "")
    resource = found.scarcest
    heads = ["", "predicted loss ", "weight bits ", *(f"{NAMES[name]} " for name, _ in found.point.resources), *(["fps "] if found.point.fps else [])]
    varied = {name: width for name, width in found.widths.items() if name.endswith(".weight") or found.point.resources}
    rows = []
    for point in found.front:
        numbers = [f"{point.loss:.4g}", str(point.weight_bits), *(str(count) for _, count in point.resources)]
        numbers += [f"{point.fps:.0f}"] if point.fps else []
        rows.append([cell("chosen" if point.widths == found.point.widths else ""), *(cell(text, "n") for text in numbers)])
    body = (
        f'<p class="soft">Chosen: {escape(str(found.point))}. The points that no other beats in loss and {escape(AMOUNTS[resource])}:</p>'
        + _front(found, resource)
        + bars([(name, (float(width),)) for name, width in varied.items()], lambda width: f"{width:.0f} bits")
        + f"<details><summary>The {len(found.front)} points in numbers</summary>{table(heads, rows)}</details>"
    )
    return Section("words", "Word lengths for the budget", body, "Word lengths")


def _front(found: Found, resource: str) -> str:
    """Predicted loss, logarithmic, over what it takes; the chosen point has a ring."""
    left, width, height = 70, 620, 240
    shown = [point for point in found.front if math.isfinite(point.loss)]
    if found.point not in shown:
        return ""
    xs = [point.amount(resource) for point in shown]
    logs = [math.log10(max(point.loss, 1e-12)) for point in shown]
    low, high, least, most = math.floor(min(logs)), math.ceil(max(logs)), min(xs), max(xs)
    span, reach = max(high - low, 1), max(most - least, 1)

    def place(point: Point) -> tuple[float, float]:
        x = left + width * (point.amount(resource) - least) / reach
        return x, 10 + height * (1 - (math.log10(max(point.loss, 1e-12)) - low) / span)

    parts = [
        f'<svg viewBox="0 0 {left + width + 60} {height + 50}" width="100%" role="img" aria-label="Predicted loss over {escape(AMOUNTS[resource])}">'
    ]
    for decade in range(low, low + span + 1):
        y = 10 + height * (1 - (decade - low) / span)
        parts.append(f'<line class="axis" x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="soft" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">1e{decade}</text>')
    for share in (0.0, 0.5, 1.0) if most > least else (0.0,):
        at = f'x="{left + width * share:.1f}" y="{height + 28}" text-anchor="middle"'
        parts.append(f'<text class="soft" {at}>{least + reach * share:.0f}</text>')
    parts.append(f'<text x="{left + width / 2}" y="{height + 45}" text-anchor="middle">{escape(AMOUNTS[resource])}</text>')
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, shown))
    parts.append(f'<polyline class="outline" points="{line}"/>')
    parts += [f'<circle class="one" cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in map(place, shown)]
    x, y = place(found.point)
    return "".join([*parts, f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="9"/>', "</svg>"])


def _error_by_layer(analysis: Analysis) -> Section:
    parts = [f"<p class='soft'>Signal to quantization noise on {analysis.samples} samples, against the float model.</p>"]
    activations = [(row.name, (row.db, row.own_db)) for row in analysis.rows if row.kind == "activation"]
    weights = [(row.name, (row.db,)) for row in analysis.rows if row.kind == "weight"]
    parts.append('<p class="key">Activations: <b class="ink1">all error up to here</b>, <b class="ink2">what this cast alone adds</b></p>')
    parts.append(bars(activations, decibel))
    if weights:
        parts.append('<p class="key">Weights</p>' + bars(weights, decibel))
    return Section("errors", "Error by layer", "".join(parts), "Errors")


def _casts(analysis: Analysis) -> Section:
    rows = []
    for row in analysis.rows:
        rows.append(
            [
                cell(row.name, "name"),
                f"<td><code>{escape(row.type)}</code><br><span class='soft'>binary point {escape(points(row.frac_bits))}</span></td>",
                cell(decibel(row.db), "n", value=row.db),
                _range(row),
                cell(percent(row.clipped) if row.clipped else "0", "n", value=row.clipped),
                f"<td>{_histogram(row)}</td>",
            ]
        )
    body = (
        '<p class="soft">A binary point is the number of fractional bits: the scale is 2 to the minus that. Histograms (heights as square roots of '
        'counts): <b class="ink1">float</b>, <b class="ink2">quantized</b>; dashed: the bounds of the type.</p>'
        + table(["cast", "type", "SQNR ", "range ", "clipped ", "distribution"], rows, label="Casts", sorts=True)
    )
    return Section("casts", "Ranges, binary points and distributions", body, "Casts")


def _range(row: Row) -> str:
    held = f"type: {number(row.least)} to {number(row.most)}"
    return raw_cell(f'{number(row.low)} to {number(row.high)}<br><span class="soft">{held}</span>', "n", value=row.high)


def _constants(analysis: Analysis) -> Section:
    rows = [[cell(name, "name"), f"<td><code>{escape(kind)}</code></td>", cell(points(bits))] for name, kind, bits in analysis.constants]
    return Section("constants", "Biases and other constants", table(["cast", "type", "binary point"], rows) if rows else "", "Constants")


def _tables(analysis: Analysis) -> Section:
    rows = [[cell(path, "name"), cell(told), cell(f"{bits:.3g}", "n")] for path, told, bits in analysis.tables]
    told = "A table with an entry for every number is exact before the Cast behind it; lines come this near, over all numbers that can come."
    body = f"<p>{told}</p>" + table(["layer", "table", "error in least significant bits "], rows)
    return Section("tables", "Functions by table", body if rows else "", "Tables")


def _inputs(story: Story) -> list[Section]:
    rows = [[cell(name, "name"), cell(text, "mono")] for name, text in story.options]
    made = Section("made", "How it was made", table(["option", "value"], rows))
    return [made, Section("recipe", "Recipe", f'<pre tabindex="0">{escape(story.recipe)}</pre>')]


def _histogram(row: Row) -> str:
    picture: Histogram = row.histogram
    width, height, bins = 240.0, 46.0, len(picture.exact)
    tallest = max([*picture.exact, *picture.quantized, 1]) ** 0.5
    step, span = width / bins, picture.high - picture.low
    parts = [
        (
            f'<svg viewBox="-2 -2 {width + 4} {height + 16}" width="{width + 4}" height="{height + 16}" role="img" aria-label="Distribution '
            f'of {escape(row.name)}">'
        )
    ]
    for index, count in enumerate(picture.exact):
        if count:
            tall = height * count**0.5 / tallest
            parts.append(f'<rect class="one" opacity=".7" x="{index * step:.2f}" y="{height - tall:.2f}" width="{step:.2f}" height="{tall:.2f}"/>')
    line = " ".join(f"{(index + 0.5) * step:.1f},{height - height * count**0.5 / tallest:.1f}" for index, count in enumerate(picture.quantized))
    parts.append(f'<polyline class="outline" points="{line}"/><line class="axis" x1="0" x2="{width}" y1="{height}" y2="{height}"/>')
    for bound in (row.least, row.most):
        if picture.low <= bound <= picture.high:
            x = (bound - picture.low) / span * width
            parts.append(f'<line class="bound" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}"/>')
    parts.append(f'<text class="soft" x="0" y="{height + 12}">{number(picture.low)}</text>')
    parts.append(f'<text class="soft" x="{width}" y="{height + 12}" text-anchor="end">{number(picture.high)}</text></svg>')
    return "".join(parts)


def points(frac_bits: Sequence[int]) -> str:
    """Binary points in few words: the number, or how many channels have which."""
    counts = sorted(Counter(frac_bits).items())
    if len(counts) == 1:
        return str(counts[0][0])
    return ", ".join(f"{bits} ({count} of {len(frac_bits)})" for bits, count in counts)
