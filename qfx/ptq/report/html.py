"""The report of a run as one HTML file: no scripts, no links, pictures inline as SVG."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from qfx.hardware.cost.estimate import NAMES
from qfx.ptq.allocation.front import AMOUNTS, Found, Point
from qfx.ptq.report.analysis import Analysis, Histogram, Row
from qfx.ptq.report.step import Step

_STYLE = """
:root { --ink: #1b2733; --soft: #5b6b7a; --line: #d5dde5; --paper: #ffffff; --fill: #f4f7fa; --one: #2f6fb0; --two: #e08a2b; --bad: #b3372f; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e3e9ef; --soft: #9fb0c0; --line: #3a4753; --paper: #161c22; --fill: #1f272f; --one: #6aa9e6; --two: #eba758; --bad: #ee8078; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
p { max-width: 75ch; } .soft { color: var(--soft); }
table { border-collapse: collapse; width: 100%; font-size: .88rem; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: middle; }
th { color: var(--soft); font-weight: 600; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.name { font-family: ui-monospace, monospace; font-size: .82rem; min-width: 11rem; overflow-wrap: anywhere; }
code { font-family: ui-monospace, monospace; font-size: .85em; }
.tiles { display: flex; gap: 1rem; flex-wrap: wrap; margin: 1rem 0; }
.tile { background: var(--fill); border: 1px solid var(--line); border-radius: 6px; padding: .6rem 1rem; min-width: 9rem; }
.tile b { display: block; font-size: 1.4rem; } .tile span { color: var(--soft); font-size: .85rem; }
.wide { overflow-x: auto; } svg { display: block; margin: .4rem 0; }
pre { background: var(--fill); padding: .8rem; overflow-x: auto; font-size: .82rem; }
.warn li { color: var(--bad); } .key { font-size: .85rem; color: var(--soft); }
.ink1 { color: var(--one); } .ink2 { color: var(--two); }
.one { fill: var(--one); } .two { fill: var(--two); } .outline { fill: none; stroke: var(--two); stroke-width: 1.2; }
.ring { fill: none; stroke: var(--bad); stroke-width: 1.5; } details { font-size: .9rem; margin: .4rem 0; } summary { cursor: pointer; }
.bound { stroke: var(--bad); stroke-dasharray: 3 2; } .axis { stroke: var(--line); } text { fill: var(--ink); font-size: 11px; }
text.soft { fill: var(--soft); }
"""


@dataclass(frozen=True)
class Story:
    """What the report tells. ``options``: (name, text) pairs, as given; ``recipe``: as TOML; ``proven``: on how many samples the executors agreed.
    ``met``: whether a goal was, and ``goal`` says so: the steps are then models that were tried one after the other, not passes on one (None: there
    was no goal). ``judged`` calibration samples gave the noise, the first ``stepped`` of the ``evaluated`` samples the accuracy of the steps; the two
    accuracies of the whole are of all of them. ``found``: how word lengths were chosen."""

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


def page(story: Story) -> str:
    """The report as HTML."""
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(story.title)}: quantization report</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(story.title)}</h1>",
        '<p class="soft">Post-training quantization to fixed point with power-of-two scales</p>',
        _tiles(story),
        _warnings([*story.warnings, *story.analysis.warnings]),
        _steps(story),
        _word_lengths(story.found),
        _error_by_layer(story.analysis),
        _casts(story.analysis),
        _constants(story.analysis),
        _tables(story.analysis),
        _inputs(story),
        "</body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _tiles(story: Story) -> str:
    tiles = []
    if story.accuracy is not None:
        on = f"{story.evaluated} samples"
        tiles += [(percent(story.float_accuracy), f"accuracy in float, {on}"), (percent(story.accuracy), f"accuracy in fixed point, {on}")]
    if story.met is not None:
        tiles.append(("met" if story.met else "not met", story.goal))
    tiles.append((decibel(story.output_db), f"output signal to noise, {story.judged} samples"))
    tiles.append(("0", f"differing bits between PyTorch, ONNX Runtime and the integer interpreter, {story.proven} samples"))
    return (
        '<div class="tiles">'
        + "".join(f'<div class="tile"><b>{escape(big)}</b><span>{escape(small)}</span></div>' for big, small in tiles)
        + "</div>"
    )


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    return '<h2>Warnings</h2><ul class="warn">' + "".join(f"<li>{_lines(text)}</li>" for text in warnings) + "</ul>"


def _lines(text: str) -> str:
    """The first line, the others (remedies) less loud."""
    first, *others = text.split("\n")
    return escape(first) + "".join(f'<br><span class="soft">{escape(line.strip())}</span>' for line in others)


def _steps(story: Story) -> str:
    labelled = any(step.accuracy is not None for step in story.steps)
    rows = []
    before: Step | None = None
    for step in story.steps:
        cells = [_cell(step.name, "name"), _cell(f"{step.seconds:.1f}", "n"), _cell(decibel(step.output_db), "n")]
        if story.met is None:
            cells.append(_cell(_gain(before, step), "n"))
        if labelled:
            cells.append(_cell(percent(step.accuracy), "n"))
        rows.append([*cells, _cell(step.note)])
        before = step
    heads = ["after", "seconds ", "output SQNR ", "gain "] if story.met is None else ["tried", "seconds ", "output SQNR "]
    heads += [*([f"accuracy on {story.stepped} "] if labelled else []), ""]
    bars = _decibel_bars([(step.name, (step.output_db,)) for step in story.steps if step.output_db is not None])
    judged = f"on the first {story.judged} calibration samples"
    if story.met is not None:
        return (
            "<h2>What was tried</h2>"
            f'<p class="soft">From cheap to costly: {escape(story.goal)}. The noise of the output was measured {judged}, accuracy on all '
            f"{story.evaluated} evaluation samples.</p>" + _table(heads, rows) + bars
        )
    judged += f", accuracy on the first {story.stepped} of {story.evaluated} evaluation samples" if labelled else ""
    return (
        "<h2>What each pass contributed</h2>"
        f'<p class="soft">The fixed-point model after each pass: signal to quantization noise of its output against the float model, {judged}. '
        "A pass on the float model is judged by quantizing its result to nearest.</p>" + _table(heads, rows) + bars
    )


def _gain(before: Step | None, step: Step) -> str:
    if before is None or before.output_db is None or step.output_db is None:
        return ""
    gain = step.output_db - before.output_db
    return f"{gain:+.2f} dB" if math.isfinite(gain) else ""


def _word_lengths(found: Found | None) -> str:
    if found is None:
        return ""
    resource = found.scarcest
    heads = ["", "predicted loss ", "weight bits ", *(f"{NAMES[name]} " for name, _ in found.point.resources), *(["fps "] if found.point.fps else [])]
    varied = {name: width for name, width in found.widths.items() if name.endswith(".weight") or found.point.resources}
    rows = []
    for point in found.front:
        numbers = [f"{point.loss:.4g}", str(point.weight_bits), *(str(count) for _, count in point.resources)]
        numbers += [f"{point.fps:.0f}"] if point.fps else []
        rows.append([_cell("chosen" if point.widths == found.point.widths else ""), *(_cell(text, "n") for text in numbers)])
    return (
        "<h2>Word lengths for the budget</h2>"
        f'<p class="soft">Chosen: {escape(str(found.point))}. The points that no other beats in loss and {escape(AMOUNTS[resource])}:</p>'
        + _front(found, resource)
        + _bars([(name, (float(width),)) for name, width in varied.items()], lambda width: f"{width:.0f} bits")
        + f"<details><summary>The {len(found.front)} points in numbers</summary>{_table(heads, rows)}</details>"
    )


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

    parts = [f'<svg viewBox="0 0 {left + width + 60} {height + 50}" width="100%" role="img">']
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


def _error_by_layer(analysis: Analysis) -> str:
    parts = [f"<h2>Error by layer</h2><p class='soft'>Signal to quantization noise on {analysis.samples} samples, against the float model.</p>"]
    activations = [(row.name, (row.db, row.own_db)) for row in analysis.rows if row.kind == "activation"]
    weights = [(row.name, (row.db,)) for row in analysis.rows if row.kind == "weight"]
    parts.append('<p class="key">Activations: <b class="ink1">all error up to here</b>, <b class="ink2">what this cast alone adds</b></p>')
    parts.append(_decibel_bars(activations))
    if weights:
        parts.append('<p class="key">Weights</p>' + _decibel_bars(weights))
    return "".join(parts)


def _casts(analysis: Analysis) -> str:
    rows = []
    for row in analysis.rows:
        rows.append(
            [
                _cell(row.name, "name"),
                f"<td><code>{escape(row.type)}</code><br><span class='soft'>binary point {escape(points(row.frac_bits))}</span></td>",
                _cell(decibel(row.db), "n"),
                _range(row),
                _cell(percent(row.clipped) if row.clipped else "0", "n"),
                f"<td>{_histogram(row)}</td>",
            ]
        )
    return (
        "<h2>Ranges, binary points and distributions</h2>"
        '<p class="soft">A binary point is the number of fractional bits: the scale is 2 to the minus that. Histograms (heights as square roots of '
        'counts): <b class="ink1">float</b>, <b class="ink2">quantized</b>; dashed: the bounds of the type.</p>'
        + _table(["cast", "type", "SQNR ", "range ", "clipped ", "distribution"], rows)
    )


def _range(row: Row) -> str:
    held = f"type: {number(row.least)} to {number(row.most)}"
    return f'<td class="n">{number(row.low)} to {number(row.high)}<br><span class="soft">{held}</span></td>'


def _constants(analysis: Analysis) -> str:
    if not analysis.constants:
        return ""
    rows = [[_cell(name, "name"), f"<td><code>{escape(kind)}</code></td>", _cell(points(bits))] for name, kind, bits in analysis.constants]
    return "<h2>Biases and other constants</h2>" + _table(["cast", "type", "binary point"], rows)


def _tables(analysis: Analysis) -> str:
    if not analysis.tables:
        return ""
    rows = [[_cell(path, "name"), _cell(told), _cell(f"{bits:.3g}", "n")] for path, told, bits in analysis.tables]
    told = "A table with an entry for every number is exact before the Cast behind it; lines come this near, over all numbers that can come."
    return f"<h2>Functions by table</h2><p>{told}</p>" + _table(["layer", "table", "error in least significant bits "], rows)


def _inputs(story: Story) -> str:
    rows = [[_cell(name), _cell(text, "name")] for name, text in story.options]
    return "<h2>How it was made</h2>" + _table(["", ""], rows) + f"<h2>Recipe</h2><pre>{escape(story.recipe)}</pre>"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """``heads`` that end in a space stand over numbers."""
    top = "".join(f'<th class="n">{escape(head.strip())}</th>' if head.endswith(" ") else f"<th>{escape(head)}</th>" for head in heads)
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(text: str, kind: str = "") -> str:
    return f'<td class="{kind}">{escape(text)}</td>' if kind else f"<td>{escape(text)}</td>"


def _decibel_bars(entries: Sequence[tuple[str, tuple[float, ...]]]) -> str:
    return _bars(entries, decibel)


def _bars(entries: Sequence[tuple[str, tuple[float, ...]]], label: Callable[[float], str]) -> str:
    """Horizontal bars, one or two for each name; inf (no noise at all) is as long as the longest."""
    finite = [value for _, values in entries for value in values if math.isfinite(value)]
    longest = max([*finite, 1.0]) * 1.05
    left, width, each = 250, 700, max((len(values) for _, values in entries), default=1)
    height = 12 * each + 6
    parts = [f'<svg viewBox="0 0 {left + width + 80} {height * len(entries) + 4}" width="100%" role="img">']
    for line, (name, values) in enumerate(entries):
        top = line * height + 2
        parts.append(f'<text x="{left - 8}" y="{top + height / 2 + 2}" text-anchor="end">{escape(_short(name))}</text>')
        for index, value in enumerate(values):
            size = max(min(width * value / longest, width), 1)
            y = top + 12 * index
            kind = "one" if index == 0 else "two"
            parts.append(f'<rect class="{kind}" x="{left}" y="{y}" width="{size:.1f}" height="10" rx="1"/>')
            parts.append(f'<text class="soft" x="{left + size + 5:.1f}" y="{y + 9}">{escape(label(value))}</text>')
    return "".join([*parts, "</svg>"])


def _histogram(row: Row) -> str:
    picture: Histogram = row.histogram
    width, height, bins = 240.0, 46.0, len(picture.exact)
    tallest = max([*picture.exact, *picture.quantized, 1]) ** 0.5
    step, span = width / bins, picture.high - picture.low
    parts = [f'<svg viewBox="-2 -2 {width + 4} {height + 16}" width="{width + 4}" height="{height + 16}" role="img">']
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


def _short(name: str) -> str:
    return name if len(name) <= 38 else f"...{name[-35:]}"


def points(frac_bits: Sequence[int]) -> str:
    """Binary points in few words: the number, or how many channels have which."""
    counts = sorted(Counter(frac_bits).items())
    if len(counts) == 1:
        return str(counts[0][0])
    return ", ".join(f"{bits} ({count} of {len(frac_bits)})" for bits, count in counts)


def number(value: float) -> str:
    return f"{value + 0.0:.4g}"  # without the sign of -0


def decibel(value: float | None) -> str:
    """Empty for None, what was not measured."""
    return "" if value is None else "exact" if value == math.inf else "no signal" if value == -math.inf else f"{value:.2f} dB"


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f} %"
