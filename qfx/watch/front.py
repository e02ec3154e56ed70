"""What was tried, by cost and score: the front of it, as a picture for pages and as letters for terminals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from qfx.pages import html

_WIDE, _TALL = 400.0, 180.0


@dataclass(frozen=True, slots=True)
class Tried:
    """A cell of a sweep, or a checkpoint of an archive: the greater its ``score`` and the smaller its ``cost``, the better."""

    name: str
    cost: float
    score: float
    seconds: float | None = None


def front(tried: Iterable[Tried]) -> list[Tried]:
    """Those of which no other is as good and as cheap, by cost. Of equals the first."""
    best: list[Tried] = []
    for one in sorted(tried, key=lambda one: (one.cost, -one.score)):
        if not best or one.score > best[-1].score:
            best.append(one)
    return best


def told(value: float, score: str) -> str:
    """A score in words: accuracies in percent."""
    return html.percent(value) if score == "accuracy" else f"{value:.4g}"


def amount(value: float) -> str:
    """A cost in words."""
    return html.count(int(value)) if float(value).is_integer() else f"{value:.4g}"


def picture(tried: Sequence[Tried], cost: str, score: str) -> str:
    """All of them as dots, those on the front larger and joined by the steps of what is best at each cost."""
    best = front(tried)
    least, reach, low, span = _frame(tried)
    left, below = 62.0, 40.0

    def place(one: Tried) -> tuple[float, float]:
        return left + _WIDE * (one.cost - least) / reach, 10 + _TALL * (1 - (one.score - low) / span)

    parts = [
        f'<svg viewBox="0 0 {left + _WIDE + 20:g} {_TALL + 10 + below:g}" class="front" role="img" aria-label="{escape(score)} against '
        f'{escape(cost)}: {len(tried)} tried, {len(best)} on the front; the table has the numbers">'
        f'<path class="axis" d="M{left:g} 10V{_TALL + 10:g}H{left + _WIDE:g}"/>'
    ]
    path, (x, y) = "", place(best[0])
    path = f"M{x:.1f} {y:.1f}" + "".join(f"H{to[0]:.1f}V{to[1]:.1f}" for to in map(place, best[1:])) + f"H{left + _WIDE:.1f}"
    parts.append(f'<path class="outline" d="{path}"/>')
    for one in sorted(tried, key=lambda one: one in best):
        x, y = place(one)
        kind, size = ("one", 5.0) if one in best else ("dim", 3.5)
        what = f"{one.name}: {told(one.score, score)}, {amount(one.cost)} {cost}"
        parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{size:g}"><title>{escape(what)}</title></circle>')
    for share in (0.0, 0.5, 1.0):
        parts.append(
            f'<text class="soft" x="{left - 6:g}" y="{14 + _TALL * (1 - share):.1f}" text-anchor="end">{told(low + share * span, score)}</text>'
        )
        at = f'x="{left + _WIDE * share:.1f}" y="{_TALL + 26:g}" text-anchor="{("start", "middle", "end")[int(2 * share)]}"'
        parts.append(f'<text class="soft" {at}>{amount(round(least + share * reach) if reach > 100 else least + share * reach)}</text>')
    parts.append(f'<text x="{left + _WIDE / 2:g}" y="{_TALL + 44:g}" text-anchor="middle">{escape(cost)}</text></svg>')
    return "".join(parts)


def letters(tried: Sequence[Tried], cost: str, score: str, wide: int = 56, tall: int = 11) -> list[str]:
    """The same in lines of letters: ``●`` on the front, ``·`` behind it."""
    best = front(tried)
    least, reach, low, span = _frame(tried)
    grid = [[" "] * wide for _ in range(tall)]
    for one in sorted(tried, key=lambda one: one in best):
        column, row = round((one.cost - least) / reach * (wide - 1)), round((1 - (one.score - low) / span) * (tall - 1))
        grid[row][column] = "●" if one in best else "·"
    marks = [told(low + span * (1 - row / (tall - 1)), score) if row in (0, tall // 2, tall - 1) else "" for row in range(tall)]
    room = max(map(len, marks))
    lines = [f"{mark:>{room}} │{''.join(row).rstrip()}" for mark, row in zip(marks, grid, strict=True)]
    ends = amount(least), amount(least + reach)
    name = f"{score} against {cost}"[: max(wide - len(ends[0]) - len(ends[1]) - 2, 0)]
    return [*lines, f"{'':>{room}} └{'─' * wide}", f"{'':>{room}}  {ends[0]}{name:^{wide - len(ends[0]) - len(ends[1])}}{ends[1]}"]


def _frame(tried: Sequence[Tried]) -> tuple[float, float, float, float]:
    """The least cost and how far costs reach, the lowest score and how far scores do; never by nothing."""
    costs, scores = [one.cost for one in tried], [one.score for one in tried]
    return min(costs), (max(costs) - min(costs)) or 1.0, min(scores), (max(scores) - min(scores)) or 1.0
