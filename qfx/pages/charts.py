"""Pictures as SVG that take their colours from the page: distributions, shares of a board, a timeline, a matrix of confusions."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from qfx.hardware.cost.estimate import LIMITS, NAMES, Estimate, capacity
from qfx.pages import html
from qfx.pages.measured import Histogram

_WIDE, _TALL = 200.0, 44.0


def histogram(picture: Histogram, bounds: tuple[float, float] | None, told: str) -> str:
    """Heights are square roots of counts. Filled: the numbers of the value; a line: those that came to its cast, red beyond its ``bounds``; ticks are
    the grid, of a minifloat its numbers. ``told``: what it is, for those who do not see it."""
    bins = picture.bins
    step = _WIDE / bins.count
    tallest = max([*picture.after, *(picture.before or ()), 1]) ** 0.5
    parts = [
        f'<svg viewBox="-3 -2 {_WIDE + 6:g} {_TALL + 22:g}" width="{_WIDE + 6:g}" height="{_TALL + 22:g}" role="img" aria-label="{escape(told)}">',
        f'<path class="one" d="{_steps(picture.after, step, tallest)}"/>',
    ]
    if picture.before is not None and bounds is not None:
        beyond = [0 if bins.within(i, bounds) else n for i, n in enumerate(picture.before)]
        if any(beyond):
            parts.append(f'<path class="over" opacity=".55" d="{_steps(beyond, step, tallest)}"/>')
        parts.append(f'<path class="outline" d="{_steps(picture.before, step, tallest, closed=False)}"/>')
    parts.append(f'<path class="axis" d="M0 {_TALL:g}H{_WIDE:g}"/>')
    if bins.codes == 1:
        parts.append(f'<path class="tick" d="{"".join(f"M{(i + 0.5) * step:.1f} {_TALL:g}v3" for i in range(bins.count))}"/>')
    for bound in bounds or ():
        if (at := bins.at(bound)) is not None:
            parts.append(f'<path class="bound" d="M{at * step:.1f} 0V{_TALL:g}"/>')
    low, high = html.number(bins.low), html.number(bins.high - bins.step if bins.codes == 1 else bins.high)
    codes = "1 code a bin" if bins.codes == 1 else f"{html.count(bins.codes)} codes a bin"
    codes = f"{bins.format}: {codes}" if bins.format else codes
    parts.append(
        f'<text class="soft" x="0" y="{_TALL + 15:g}">{low}</text><text class="soft mid" x="{_WIDE / 2:g}" y="{_TALL + 15:g}">{codes}</text>'
    )
    parts.append(f'<text class="soft" x="{_WIDE:g}" y="{_TALL + 15:g}" text-anchor="end">{high}</text></svg>')
    return "".join(parts).replace('class="soft mid"', 'class="soft" text-anchor="middle"')


def _steps(counts: Sequence[int], step: float, tallest: float, *, closed: bool = True) -> str:
    """The outline of bars, from the axis and back to it; equal neighbours are one line."""
    parts, last, run = [f"M0 {_TALL:g}"], None, 0
    for count in counts:
        y = _TALL - _TALL * count**0.5 / tallest
        text = f"{y:.1f}"
        if text != last:
            if run:
                parts.append(f"h{run * step:.2f}")
            parts.append(f"V{text}")
            last, run = text, 0
        run += 1
    parts.append(f"h{run * step:.2f}V{_TALL:g}")
    return "".join(parts) + ("Z" if closed else "")


def shares(found: Estimate) -> str:
    """What a design takes of its board: a bar for each resource, a segment for each layer in falling order, a line at what foldings may use."""
    total, there = found.total, capacity(found.board)
    lines = []
    for field, name in NAMES.items():
        used, has = getattr(total, field), getattr(there, field)
        if not used and not has:
            continue
        share = found.share(field)
        scale = max(share, 1.0) if has else 1.0
        parts, left = [], 0.0
        for place, cost in enumerate(sorted(found.layers, key=lambda cost: -getattr(cost.resources, field))):
            own = getattr(cost.resources, field)
            if not own or not has:
                continue
            size = 100 * own / has / scale
            told = f"{cost.node}: {html.count(own)} {name}"
            kind = "c" if share > 1 else ""
            parts.append(
                f'<i class="{kind}" title="{escape(told)}" style="left:{left:.3f}%;width:{size:.3f}%;opacity:{1 - 0.5 * (place % 2):g}"></i>'
            )
            left += size
        limit = f'<u title="foldings are chosen up to here" style="left:{100 * LIMITS[field] / scale:.2f}%"></u>' if LIMITS[field] < 1 else ""
        told = f"{html.count(used)} of {html.count(has)}, {100 * share:.1f} %" if has else f"{html.count(used)}, and the board has none"
        tight = ' class="bad"' if not has or share > LIMITS[field] else ""
        lines.append(
            f'<div class="share"><span>{name}</span><span class="track" aria-hidden="true">{"".join(parts)}{limit}</span><span{tight}>'
            f"{told}</span></div>"
        )
    return "".join(lines)


def timeline(rows: Sequence[tuple[str, Sequence[tuple[int, int]], bool]], unit: str) -> str:
    """(name, (first, last cycle) of each frame, whether it is the slowest) as bars over cycles."""
    left, width, tall = 22.0 + 6.6 * max(len(_short(name)) for name, _, _ in rows), 860.0, 18.0
    end = max(last for _, spans, _ in rows for _, last in spans)
    parts = [
        f'<svg class="time" viewBox="0 0 {left + width + 20:g} {tall * len(rows) + 34:g}" '
        f'style="min-width:52rem;width:100%;max-width:{1.25 * (left + width + 20):g}px" '
        f'role="img" aria-label="When each layer works on the first {len(rows[0][1])} frames; the table below has the numbers">'
    ]
    for mark in _marks(end):
        x = left + width * mark / end
        parts.append(f'<path class="axis" d="M{x:.1f} 0V{tall * len(rows):g}"/>')
        parts.append(f'<text class="soft" x="{x:.1f}" y="{tall * len(rows) + 14:g}" text-anchor="middle">{html.count(mark)}</text>')
    for line, (name, spans, hot) in enumerate(rows):
        y = line * tall
        weight = ' font-weight="700"' if hot else ""
        parts.append(f'<text x="{left - 8:g}" y="{y + 13:g}" text-anchor="end"{weight}>{escape(_short(name))}</text>')
        for frame, (first, last) in enumerate(spans):
            x, size = left + width * first / end, max(width * (last - first) / end, 1.0)
            half = (tall - 6) / len(spans)
            parts.append(
                f'<rect class="f{min(frame, 2)}{" hot" if hot else ""}" x="{x:.1f}" y="{y + 3 + frame * half:.1f}" width="{size:.1f}" '
                f'height="{half:.1f}" rx="1">'
                f"<title>{escape(name)}, frame {frame + 1}: cycle {first} to {last}</title></rect>"
            )
    parts.append(f'<text class="soft" x="{left + width / 2:g}" y="{tall * len(rows) + 30:g}" text-anchor="middle">{escape(unit)}</text></svg>')
    return "".join(parts)


def _marks(end: int) -> list[int]:
    """Some round numbers up to ``end``."""
    step = 1
    while end / step > 8:
        step *= 5 if str(step)[0] == "2" and end / (step * 2.5) <= 8 else 2
        if str(step)[0] == "4":
            step = step // 4 * 5
        if str(step)[0] == "8":
            step = step // 8 * 10
    return list(range(0, end + 1, max(step, 1)))


def _short(name: str, most: int = 30) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"
