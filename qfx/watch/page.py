"""Runs as a page, which a browser asks for again while work goes on, or which is kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from qfx.pages import html
from qfx.pages.html import Section, bars, cell, raw_cell, table
from qfx.watch.runs import Passed, Run, Series

_WIDE, _TALL = 300.0, 120.0
_COLUMNS = ("word_length", "binary_point", "saturated", "rounded")
_HEADS = ("word length", "binary point", "saturated", "rounded")


def watch_page(runs: Sequence[Run], folder: str, *, live: bool) -> str:
    """All runs, the one with most steps first. ``live``: the page asks for itself every two seconds."""
    sections = [section for run in runs for section in _sections(run)]
    if not sections:
        told = f"Nothing has been written into {escape(folder)} yet. A log comes from <code>qfx.watch.log.Log</code> or <code>qfx ptq --log</code>."
        sections = [Section("empty", "Waiting", f"<p>{told}</p>")]
    told = "live: it follows what is written" if live else "as it was when this page was written"
    return html.page(f"{folder}: qfx watch", folder, told, html.tiles(_tiles(runs)), sections, live=live)


def _tiles(runs: Sequence[Run]) -> list[tuple[str, str, str]]:
    found = []
    for run in runs:
        if run.stage is not None:
            stage, done, total = run.stage
            share = f"{100 * done / total:.0f} %" if total > 1 else "done" if done >= total else "..."
            found.append((share, f"{run.name}: {stage}", "good" if done >= total else ""))
        if run.series:
            found.append((html.count(run.step), f"{run.name}: steps", ""))
    return found


def _sections(run: Run) -> list[Section]:
    anchor = "run-" + "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in run.name)
    drawn = "".join(_chart(tag, points) for tag, points in run.metrics().items())
    made = []
    if run.passes:
        made.append(Section(f"{anchor}-passes", f"{run.name}: passes", _passes(run.passes)))
    if drawn:
        made.append(Section(f"{anchor}-metrics", f"{run.name}: losses, costs", f'<div class="charts">{drawn}</div>'))
    if run.front:
        rows = [[cell(f"{cost:,.6g}", "n", value=cost), cell(f"{score:.4g}", "n", value=score)] for cost, score in run.front]
        listed = table([f"{run.cost} ", "score "], rows, label="The front", narrow=True)
        made.append(Section(f"{anchor}-front", f"{run.name}: front of checkpoints", _front(run) + listed))
    if run.quantizers():
        made.append(Section(f"{anchor}-formats", f"{run.name}: formats", _formats(run)))
    return made


def _passes(passes: Sequence[Passed]) -> str:
    rows = []
    for one in passes:
        numbers = [(one.seconds, "" if one.seconds is None else f"{one.seconds:.1f}"), (one.sqnr_db, html.decibel(one.sqnr_db))]
        numbers.append((one.accuracy, html.percent(one.accuracy)))
        rows.append([cell(one.name, "name"), *(cell(text, "n", value=value) for value, text in numbers), cell(one.note)])
    drawn = bars([(one.name, (one.sqnr_db,)) for one in passes if one.sqnr_db is not None], html.decibel)
    return table(["pass", "seconds ", "output SQNR ", "accuracy ", ""], rows, label="Passes") + drawn


def _formats(run: Run) -> str:
    rows = []
    for name, found in run.quantizers().items():
        cells = [cell(name, "name")]
        for column in _COLUMNS:
            points = found.get(column, [])
            share = column in ("saturated", "rounded")
            if not points:
                cells.append("<td></td>")
                continue
            last = points[-1][1]
            text = html.percent(last) if share else f"{last:.3g}"
            cells.append(raw_cell(f"{_spark(points, f'{name}: {column}')}{text}", "n", value=last))
        rows.append(cells)
    return table(["quantizer", *(f"{head} " for head in _HEADS)], rows, label="Formats", sorts=True)


def _spark(points: Series, told: str) -> str:
    """A line as tall as a word, from the first step to the last."""
    values = [value for _, value in points]
    low, high = min(values), max(values)
    first, last = points[0][0], points[-1][0]
    line = _line(points, first, max(last - first, 1), low, max(high - low, 1e-12), 90.0, 18.0)
    size = 'class="spark" viewBox="0 -1 90 20" width="90" height="20"'
    return f'<svg {size} role="img" aria-label="{escape(told)}"><polyline class="stroke" points="{line}"/></svg>'


def _chart(tag: str, points: Series) -> str:
    values = [value for _, value in points]
    low, high, first, last = min(values), max(values), points[0][0], points[-1][0]
    line = _line(points, first, max(last - first, 1), low, max(high - low, 1e-12), _WIDE, _TALL)
    x, y = line.split(" ")[-1].split(",")
    told = f"{tag} over {len(points)} steps, now {_short(values[-1])}"
    box = f"-4 -16 {_WIDE + 8:g} {_TALL + 36:g}"
    return (
        f'<figure><figcaption><b>{escape(tag)}</b> <span class="soft">{_short(values[-1])}</span></figcaption>'
        f'<svg viewBox="{box}" width="100%" role="img" aria-label="{escape(told)}"><path class="axis" d="M0 0V{_TALL:g}H{_WIDE:g}"/>'
        f'<polyline class="stroke" points="{line}"/><circle class="one" cx="{x}" cy="{y}" r="3"/>'
        f'<text class="soft" x="0" y="-5">{_short(high)}</text><text class="soft" x="0" y="{_TALL + 14:g}">{_short(low)}</text>'
        f'<text class="soft" x="{_WIDE:g}" y="{_TALL + 14:g}" text-anchor="end">step {first} to {last}</text></svg></figure>'
    )


def _front(run: Run) -> str:
    points = sorted(run.front)
    costs, scores = [cost for cost, _ in points], [score for _, score in points]
    low, span, least, reach = min(scores), max(max(scores) - min(scores), 1e-12), costs[0], max(costs[-1] - costs[0], 1e-12)
    places = [((cost - least) / reach * _WIDE, _TALL * (1 - (score - low) / span)) for cost, score in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = "".join(f'<circle class="one" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in places)
    label = f"Score over {run.cost}"
    return (
        f'<svg viewBox="-6 -8 {_WIDE + 12:g} {_TALL + 28:g}" width="{2 * _WIDE:g}" role="img" aria-label="{escape(label)}" style="max-width:100%">'
        f'<path class="axis" d="M0 0V{_TALL:g}H{_WIDE:g}"/><polyline class="outline" points="{line}"/>{dots}'
        f'<text class="soft" x="{_WIDE / 2:g}" y="{_TALL + 15:g}" text-anchor="middle">{escape(run.cost)}</text></svg>'
    )


def _line(points: Series, first: int, steps: int, low: float, span: float, wide: float, tall: float) -> str:
    return " ".join(f"{(step - first) / steps * wide:.1f},{tall * (1 - (value - low) / span):.1f}" for step, value in points)


def _short(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) and abs(value) < 1e4 else f"{value:,.0f}"
