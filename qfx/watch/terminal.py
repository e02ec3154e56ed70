"""Runs in a terminal: lines of block letters beside their last numbers."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from qfx.pages.answers import Answers
from qfx.watch.front import amount, front, letters, told
from qfx.watch.page import called
from qfx.watch.runs import Run, Series

_BLOCKS = "▁▂▃▄▅▆▇█"
_WIDE = 32
_NUMBERS = ("seconds", "now", "least", "most", "output SQNR", "accuracy")
_FORMATS = (
    ("word_length", "word length"),
    ("binary_point", "binary point"),
    ("least", "least"),
    ("most", "greatest"),
    ("saturated", "saturated"),
    ("rounded", "rounded"),
)


def shown(runs: Sequence[Run], folder: str) -> RenderableType:
    """All of them, one below the other."""
    if not runs:
        return Text(f"nothing has been written into {folder} yet")
    parts: list[RenderableType] = []
    for run in runs:
        parts.append(Text(run.name, "bold"))
        if run.stage is not None:
            stage, done, total = run.stage
            line = Table.grid(padding=(0, 1))
            line.add_row(
                Text(stage), ProgressBar(total=max(total, 1), completed=min(done, total), width=30), Text(f"{done}/{total}" if total > 1 else "")
            )
            parts.append(line)
        if run.tried:
            parts.append(Text("\n".join(letters(run.tried, run.cost, run.score))))
        if run.answers is not None:
            right = run.answers
            parts.append(Text(f"{100 * right.right / max(right.total, 1):.2f} % of {right.total} right behind step {run.judged}{_mistaken(right)}"))
        parts += [table for table in (_front(run), _passes(run), _metrics(run), _formats(run)) if table.row_count]
    return Group(*parts)


def _mistaken(answers: Answers) -> str:
    """The most frequent confusion, in words."""
    pairs = [(n, -i, -j) for i, row in enumerate(answers.confusion) for j, n in enumerate(row) if i != j and n]
    times, i, j = max(pairs, default=(0, 0, 0))
    return f"; most often {-i} is taken for {-j} ({times} times)" if times else ""


def spark(points: Series, wide: int = _WIDE) -> str:
    """The numbers as blocks of eight heights, the mean of as many as share a place."""
    values = [value for _, value in points]
    count = min(wide, len(values))
    means = [_mean(values[place * len(values) // count : (place + 1) * len(values) // count]) for place in range(count)]
    low, span = min(means), max(means) - min(means)
    return "".join(_BLOCKS[min(int((mean - low) / span * len(_BLOCKS)), len(_BLOCKS) - 1) if span > 0 else 0] for mean in means)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _passes(run: Run) -> Table:
    table = _table("pass", "seconds", "output SQNR", "accuracy", "note")
    for one in run.passes:
        numbers = ("" if value is None else form.format(value) for value, form in ((one.seconds, "{:.1f}"), (one.sqnr_db, "{:.2f} dB")))
        table.add_row(Text(one.name), *numbers, "" if one.accuracy is None else f"{100 * one.accuracy:.2f} %", Text(one.note))
    return table


def _front(run: Run) -> Table:
    """Those on the front, the best first: a terminal has no room for all."""
    table = _table("on the front", run.cost, run.score)
    for one in reversed(front(run.tried)):
        table.add_row(Text(one.name), amount(one.cost), told(one.score, run.score))
    return table


def _metrics(run: Run) -> Table:
    table = _table("", "now", "least", "most", "so far")
    for tag, points in run.metrics().items():
        values = [value for _, value in points]
        table.add_row(Text(called(tag)), f"{values[-1]:.5g}", f"{min(values):.5g}", f"{max(values):.5g}", spark(points))
    return table


def _formats(run: Run) -> Table:
    found = run.quantizers()
    columns = [(key, head) for key, head in _FORMATS if any(key in series for series in found.values())]
    table = _table("quantizer", *(head for _, head in columns))
    for name, series in found.items():
        cells = []
        for key, _ in columns:
            points = series.get(key, [])
            share = key in ("saturated", "rounded")
            last = "" if not points else f"{100 * points[-1][1]:.2f} %" if share else f"{points[-1][1]:.3g}"
            moves = len({value for _, value in points}) > 1
            cells.append(f"{last} {spark(points, 8)}" if moves else last)
        table.add_row(Text(name), *cells)
    return table


def _table(*heads: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for head in heads:
        table.add_column(
            head, justify="right" if head in ("seconds", "now", "least", "most", "output SQNR", "accuracy") else "left", no_wrap=head != "note"
        )
    return table
