"""Runs as a page, which a browser asks for again while work goes on, or which is kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from html import escape

from qfx.pages import html
from qfx.pages.html import Section, bars, cell, raw_cell, table
from qfx.pages.of_answers import accuracy
from qfx.watch.front import amount, front, picture, told
from qfx.watch.runs import Passed, Run, Series

_WIDE, _TALL = 300.0, 120.0
_COLUMNS = ("word_length", "binary_point", "least", "most", "saturated", "rounded")
_HEADS = ("word length", "binary point", "least", "greatest", "saturated", "rounded")


def watch_page(runs: Sequence[Run], folder: str, *, live: bool) -> str:
    """All runs, the one with most steps first. ``live``: the page asks for itself every two seconds."""
    sections = [section for run in runs for section in [*sections_of(run, run.name), *_answers(run)]]
    if not sections:
        nothing = (
            f"Nothing has been written into {escape(folder)} yet. A log comes from <code>qfx.watch.log.Log</code> or <code>qfx ptq --log</code>."
        )
        sections = [Section("empty", "Waiting", f"<p>{nothing}</p>")]
    when = "live: it follows what is written" if live else "as it was when this page was written"
    return html.page(f"{folder}: qfx watch", folder, when, html.tiles(_tiles(runs)), sections, live=live)


def _tiles(runs: Sequence[Run]) -> list[tuple[str, str, str]]:
    found = []
    for run in runs:
        if run.stage is not None:
            stage, done, total = run.stage
            share = f"{100 * done / total:.0f} %" if total > 1 else "done" if done >= total else "..."
            found.append((share, f"{run.name}: {stage}", "good" if done >= total else ""))
        if run.series:
            found.append((html.count(run.step), f"{run.name}: steps", ""))
        if run.answers is not None:
            right = html.percent(run.answers.right / max(run.answers.total, 1))
            found.append((right, f"{run.name}: right answers on {html.count(run.answers.total)}", ""))
        if run.front:
            cost, score = max(run.front, key=lambda point: (point[1], -point[0]))
            found.append((told(score, run.score), f"{run.name}: best {run.score}, {amount(cost)} {run.cost}", ""))
    return found


def sections_of(run: Run, title: str) -> list[Section]:
    """What there is of a run, under headings that begin with ``title``, if there is one."""
    moving = {tag: points for tag, points in run.metrics().items() if len(points) == 1 or len({value for _, value in points}) > 1}
    resting = ", ".join(f"{escape(called(tag))} {_short(points[-1][1])}" for tag, points in run.metrics().items() if tag not in moving)
    drawn = "".join(_chart(tag, points) for tag, points in moving.items())
    made = []
    if run.passes:
        made.append(Section(_anchor(run, "passes"), _heading(title, "passes"), _passes(run.passes)))
    if drawn or resting:
        still = f'<p class="soft">The same all the time: {resting}.</p>' if resting else ""
        made.append(Section(_anchor(run, "metrics"), _heading(title, "losses, costs"), f'<div class="charts">{drawn}</div>{still}'))
    if run.tried:
        made.append(Section(_anchor(run, "front"), _heading(title, f"{run.score} against {run.cost}"), _front(run)))
    if run.quantizers():
        made.append(Section(_anchor(run, "formats"), _heading(title, "formats"), _formats(run)))
    return made


def _answers(run: Run) -> list[Section]:
    made = accuracy(run.answers, f"Behind step {run.judged}: ")
    return [replace(made, name=_anchor(run, "accuracy"), title=_heading(run.name, "accuracy and confusions"), short="")] if made.body else []


def _anchor(run: Run, part: str) -> str:
    return f"run-{''.join(letter if letter.isalnum() and letter.isascii() else '-' for letter in run.name)}-{part}"


def _heading(title: str, what: str) -> str:
    return f"{title}: {what}" if title else what[0].upper() + what[1:]


def history(runs: Sequence[Run]) -> list[Section]:
    """How a model came to be, for its report. Headings have the names of runs only where there are several."""
    return [section for run in runs for section in sections_of(run, "" if len(runs) == 1 else run.name)]


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
            moves = len({value for _, value in points}) > 1
            line = _spark(points, f"{name}: {column.replace('_', ' ')}, from {points[0][1]:.3g} to {last:.3g}") if moves else ""
            cells.append(raw_cell(f"{line}{text}", "n", value=last))
        rows.append(cells)
    return table(["quantizer", *(f"{head} " for head in _HEADS)], rows, label="Formats", sorts=True)


def _spark(points: Series, name: str) -> str:
    """A line as tall as a word, from the first step to the last."""
    values = [value for _, value in points]
    low, high = min(values), max(values)
    first, last = points[0][0], points[-1][0]
    line = _line(points, first, max(last - first, 1), low, max(high - low, 1e-12), 90.0, 18.0)
    size = 'class="spark" viewBox="0 -1 90 20" width="90" height="20"'
    return f'<svg {size} role="img" aria-label="{escape(name)}"><polyline class="stroke" points="{line}"/></svg>'


def _chart(tag: str, points: Series) -> str:
    values = [value for _, value in points]
    low, high, first, last = min(values), max(values), points[0][0], points[-1][0]
    line = _line(points, first, max(last - first, 1), low, max(high - low, 1e-12), _WIDE, _TALL)
    x, y = line.split(" ")[-1].split(",")
    name = called(tag)
    said = f"{name} over {len(points)} steps, now {_short(values[-1])}"
    box = f"-4 -16 {_WIDE + 8:g} {_TALL + 36:g}"
    return (
        f'<figure><figcaption><b>{escape(name)}</b> <span class="soft">{_short(values[-1])}</span></figcaption>'
        f'<svg viewBox="{box}" width="100%" role="img" aria-label="{escape(said)}"><path class="axis" d="M0 0V{_TALL:g}H{_WIDE:g}"/>'
        f'<polyline class="stroke" points="{line}"/><circle class="one" cx="{x}" cy="{y}" r="3"/>'
        f'<text class="soft" x="0" y="-5">{_short(high)}</text><text class="soft" x="0" y="{_TALL + 14:g}">{_short(low)}</text>'
        f'<text class="soft" x="{_WIDE:g}" y="{_TALL + 14:g}" text-anchor="end">step {first} to {last}</text></svg></figure>'
    )


def called(tag: str) -> str:
    """A tag of our own in words; those of others as they are."""
    found = tag.removeprefix("qfx/")
    return tag if found == tag else found.removeprefix("cost/").replace("/", " ").replace("_", " ")


def _front(run: Run) -> str:
    best = front(run.tried)
    timed = any(one.seconds is not None for one in run.tried)
    rows = []
    for one in sorted(run.tried, key=lambda one: one.cost):
        on = one in best
        cells = [cell(one.name, "name"), cell(amount(one.cost), "n", value=one.cost), cell(told(one.score, run.score), "n", value=one.score)]
        seconds = [cell("" if one.seconds is None else f"{one.seconds:.1f}", "n", value=one.seconds)] if timed else []
        rows.append([f"<tr{' class=best' if on else ''}>{''.join([*cells, *seconds, cell('on the front' if on else '')])}</tr>"])
    heads = ["name", f"{run.cost} ", f"{run.score} ", *(["seconds "] if timed else []), "front"]
    intro = f'<p class="soft">{len(best)} of {len(run.tried)} are on the front: none of the others is as good for as little.</p>'
    return intro + picture(run.tried, run.cost, run.score) + table(heads, rows, label="What was tried", sorts=True)


def _line(points: Series, first: int, steps: int, low: float, span: float, wide: float, tall: float) -> str:
    return " ".join(f"{(step - first) / steps * wide:.1f},{tall * (1 - (value - low) / span):.1f}" for step, value in points)


def _short(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) and abs(value) < 1e4 else html.count(round(value))
