"""Sections on what data shows: every value, error by layer, overflow and rounding."""

from __future__ import annotations

import math
from html import escape

from qfx.ir import words
from qfx.ir.graph import Graph, Node
from qfx.ir.text import describe
from qfx.ir.values import Info
from qfx.operators import Cast, MinifloatCast
from qfx.pages import charts, html
from qfx.pages.advice import OVERFLOW, overflowing
from qfx.pages.drawing import cast_type, short_type
from qfx.pages.html import Section, cell, raw_cell
from qfx.pages.measured import Lossy, Measured, Value, bounds, known, lossy

_LISTED = 4


def values(graph: Graph, measured: Measured | None, anchors: dict[str, str]) -> Section:
    """Every value of the graph: its type, its range, and, with data, its distribution."""
    heads = ["value", "operator and type", "range ", *(["on the data ", "distribution", "overflow ", "rounded ", "SQNR "] if measured else [])]
    rows = []
    for name, node, info in known(graph):
        found = None if measured is None else measured.values[name]
        rows.append([f'<tr id="{anchors[name]}">{"".join(_value(name, node, info, found))}</tr>'])
    tools = (
        '<div class="tools"><label for="filter">Filter</label><input id="filter" type="search" data-filters="values-table"><span '
        'class="told" role="status"></span></div>'
    )
    told = (
        "Range: what the type and, behind exact operators, the constants allow, from least to greatest. "
        + (
            f"Distributions on {html.count(measured.samples)} samples, heights as square roots of counts: "
            '<b class="ink1">filled</b> what the value holds, <b class="ink2">line</b> what came to its cast, <span class="bad">red</span>'
            ' what lies beyond '
            "its type; ticks are its grid. SQNR: what this cast alone loses."
            if measured
            else ""
        )
    )  # fmt: skip
    body = f'<p class="soft">{told}</p>{tools}{html.table(heads, rows, label="Every value", name="values-table", sorts=True, tall=True)}'
    return Section("values", "Values: types, ranges, distributions" if measured else "Values: types and ranges", body, "Values")


def _value(name: str, node: Node, info: Info, found: Value | None) -> list[str]:
    op, hull = node.op, info.interval.hull
    kind = cast_type(op) if isinstance(op, Lossy) else short_type(info.type)
    told = "Cast" if isinstance(op, Cast | MinifloatCast) else describe(op)
    spread = [words.number(hull.lo, hull.frac_bits), words.number(hull.hi, hull.frac_bits)]
    cells = [
        cell(name, "name"),
        f"<td>{escape(told)}<br><code>{escape(kind)}</code><br><span class='soft'>{words.sizes(info.shape)}</span></td>",
        raw_cell(f"{spread[0]}<br>{spread[1]}", "n", value=float(hull.hi) * 2.0**-hull.frac_bits),
    ]
    if found is None:
        return cells
    limit = bounds(op) if isinstance(op, Lossy) and found.loss is not None else None
    told = f"Distribution of {name}, from {html.number(found.low)} to {html.number(found.high)}"
    cells += [
        raw_cell(f"{html.number(found.low)}<br>{html.number(found.high)}", "n", value=found.high),
        f"<td>{charts.histogram(found.histogram, limit, told)}</td>",
    ]
    if found.loss is None:
        return [*cells, "<td></td>" * 3]
    share, rounded = overflowing(found), found.loss.rounded / max(found.loss.values, 1)
    loud = " bad" if share >= OVERFLOW and found.loss.above else ""
    return [
        *cells,
        cell(html.share(share), f"n{loud}", value=share),
        cell(html.share(rounded), "n", value=rounded),
        cell(html.decibel(found.own_db), "n", value=found.own_db),
    ]


def errors(graph: Graph, measured: Measured | None) -> Section:
    """Signal to noise behind every cast, of this cast and of all up to it."""
    if measured is None:
        return Section("errors", "", "")
    lossy_ones = lossy(graph)
    casts = [name for name, _, _ in known(graph) if name in lossy_ones]
    ends = [name for name in graph.outputs if name not in casts]
    reference = measured.reference
    shown = []
    for name in [*casts, *ends]:
        found = measured.values[name]
        pair = tuple(value for value in (found.db, found.own_db) if value is not None)
        if pair:
            shown.append((name, pair))
    if reference is None:
        told = "What each cast alone loses. (The exact sums behind finer casts leave 64 bits, so that there is no reference for errors that add up.)"
    else:
        told = (
            '<b class="ink1">All casts up to here</b>, against the same network with the same weights whose casts have '
            f"{reference.below} more fractional and {reference.above} more integer bits; " '<b class="ink2">this cast alone</b>. '
            "Signal to noise in decibels: 6 dB are one bit; longer is better."
        )  # fmt: skip
        if reference.kept:
            named = ", ".join(reference.kept[:_LISTED]) + (f" and {len(reference.kept) - _LISTED} more" if len(reference.kept) > _LISTED else "")
            told += f" As they are in the reference, because what stands behind them takes no other type: {escape(named)}."
    worst = [name for name, pair in shown if reference is not None and pair[0] == min((p[0] for _, p in shown), default=math.inf)]
    heads = ["cast", "numbers ", "above ", "below ", "rounded ", "missing bits ", "SQNR of the cast ", "of all up to it "]
    rows = []
    for name in casts:
        found = measured.values[name]
        loss = found.loss
        assert loss is not None
        counts = [loss.values, loss.above, loss.below, loss.rounded, loss.missing_bits]
        numbers = [cell(html.count(n), "n", value=n) for n in counts]
        rows.append([cell(name, "name"), *numbers, *(cell(html.decibel(db), "n", value=db) for db in (found.own_db, found.db))])
    counts_table = html.table(heads, rows, label="What each cast loses", sorts=True)
    note = (
        '<p class="soft">above, below: numbers beyond the range of the type, which saturate or wrap; a cast to an unsigned type does '
        "the work of a ReLU for those below. rounded: numbers with bits below the least significant one.</p>"
    )
    body = f'<p class="soft">{told}</p>{html.bars(shown, html.decibel, marked=worst[:1])}<h3>Overflow and rounding, counted</h3>{note}{counts_table}'
    return Section("errors", "Error by layer, overflow and rounding", body, "Errors")
