"""The section on right answers and confusions."""

from __future__ import annotations

from html import escape

from qfx.pages import html
from qfx.pages.answers import Answers
from qfx.pages.html import Section, cell

MOST_CLASSES = 25
"""In a matrix of confusions; of more, the most frequent confusions are listed."""


def accuracy(answers: Answers | None, said: str = "") -> Section:
    """Right answers, and what was taken for what. ``said``: where they are from."""
    if answers is None:
        return Section("accuracy", "", "")
    counts = answers.confusion
    pairs = sorted(((n, i, j) for i, row in enumerate(counts) for j, n in enumerate(row) if i != j and n), key=lambda pair: (-pair[0], pair[1:]))
    matrix = _matrix(answers)
    told = f"{html.count(answers.right)} of {html.count(answers.total)} are right: {html.percent(answers.right / max(answers.total, 1))}"
    told += "" if answers.top5 is None else f"; among the five greatest scores {html.percent(answers.top5 / max(answers.total, 1))}"
    rows = [[cell(str(i), "n", value=i), cell(str(j), "n", value=j), cell(str(n), "n", value=n)] for n, i, j in pairs[:12]]
    listed = (
        "<h3>Most frequent confusions</h3>" + html.table(["class ", "taken for ", "times "], rows, label="Most frequent confusions", narrow=True)
        if rows
        else ""
    )
    both = f'<div class="beside">{f"<div>{matrix}</div>" if matrix else ""}{f"<div>{listed}</div>" if listed else ""}</div>'
    body = f"<p>{escape(said)}{told}.{' Rows: the right class; columns: what it was taken for.' if matrix else ''}</p>{both}"
    return Section("accuracy", "Accuracy and confusions", body, "Accuracy")


def _matrix(answers: Answers) -> str:
    """The matrix, rows the right classes, columns what they were taken for; "" of more than MOST_CLASSES classes."""
    counts = answers.confusion
    if len(counts) > MOST_CLASSES:
        return ""
    head = "".join(f'<th scope="col" class="n">{j}</th>' for j in range(len(counts)))
    rows = []
    for i, row in enumerate(counts):
        total = max(sum(row), 1)
        cells = ""
        for j, n in enumerate(row):
            tone, strength = ("--good" if i == j else "--bad"), 0 if not n else round(12 + 60 * n / total)
            cells += f'<td style="--tone:var({tone});--p:{strength}%">{n or "<span class=soft>·</span>"}</td>'
        own = f"{100 * row[i] / sum(row):.1f} %" if sum(row) else ""
        rows.append(f'<tr><th scope="row">{i}</th>{cells}<td class="n soft">{own}</td></tr>')
    return (
        '<div class="wide" role="region" aria-label="Confusion matrix" tabindex="0"><table class="confusion"><thead><tr><th scope="col">class</th>'
        f'{head}<th scope="col">right</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )
