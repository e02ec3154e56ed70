"""Common subexpressions of a constant matrix: pairs of digits that many rows have in common become an adder of their own.

The way of Potkonjak, Srivastava and Chandrakasan ("Multiple constant multiplications", IEEE TCAD 15, 1996) and Hartley ("Subexpression sharing in
filters using canonic signed digit multipliers", IEEE TCAS-II 43, 1996): of all pairs of terms, whatever both are shifted and negated by, the one
that saves most is replaced by a new term, again and again, while it stands at two places or more. Two terms of one input (a multiple that several
constants share) and terms of several inputs are treated alike. What is left of each row is summed by a tree.

A digit is an integer here, ``node * SPAN + shift``, and so is a pattern: the node of the lower of two digits, how far the other one lies above it,
and whether their signs differ. That is the same for every multiple of a pair by a power of two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush

import numpy as np

from qfx.errors import ExactnessError
from qfx.hardware.unrolled.adders import AdderGraph, Making, Row, Term, least_depth
from qfx.ir.values import RawArray

SLACK = 2
"""By how many adders the deepest row may become deeper than it has to be."""

MOST_PAIRS = 1_000_000
"""Pairs of digits that are looked at at a time: of larger matrices the columns are taken in parts."""

_SPAN = 1 << 12
_APART = 1 << 40
"""Further than two digits can lie."""


def shared_graph(rows: tuple[Row, ...], depths: tuple[int, ...], widths: tuple[int, ...], *, slack: int = SLACK) -> AdderGraph:
    """An adder graph of the rows over columns of these depths and bits."""
    making = Making(depths, widths)
    shifts = [term.shift for row in rows for term in row]
    low = min(shifts, default=0)
    if max(shifts, default=0) - low > _SPAN // 4:
        raise ExactnessError(f"numbers of {max(shifts) - low} bits are added", remedy="use binary points that lie closer together")
    most = max((least_depth(row, making.depth) for row in rows), default=0) + slack
    work = [{term.node * _SPAN + term.shift - low: term.negative for term in row} for row in rows]
    for part in _parts(rows):
        _Sharing(making, work, part, most).run()
    return making.done(
        tuple(making.total(tuple(Term(code // _SPAN, code % _SPAN + low, negative) for code, negative in sorted(row.items()))) for row in work)
    )


def _parts(rows: tuple[Row, ...]) -> Iterator[frozenset[int]]:
    """The columns in parts, in order."""
    counts: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        for term in row:
            counts.setdefault(term.node, [0] * len(rows))[place] += 1
    part: list[int] = []
    digits = [0] * len(rows)
    for column in sorted(counts):
        more = [a + b for a, b in zip(digits, counts[column], strict=True)]
        if part and sum(count * count // 2 for count in more) > MOST_PAIRS:
            yield frozenset(part)
            part, more = [], counts[column]
        part.append(column)
        digits = more
    if part:
        yield frozenset(part)


class _Sharing:
    """The search over the digits of some columns. ``rows`` map digits to whether they are negative, and are changed."""

    def __init__(self, making: Making, rows: Sequence[dict[int, bool]], columns: frozenset[int], most: int) -> None:
        self.making, self.rows, self.most = making, rows, most
        self.weights = [sum(1 << making.depth[code // _SPAN] for code in row) for row in rows]
        mine = [{code: negative for code, negative in row.items() if code // _SPAN in columns} for row in rows]
        self.mine = [{code: (negative, _lower(code)) for code, negative in row.items()} for row in mine]
        self.at: list[dict[int, set[int]]] = [{} for _ in rows]
        for codes, row in zip(self.at, mine, strict=True):
            for code in row:
                codes.setdefault(code // _SPAN, set()).add(code)
        found, times = np.unique(np.concatenate([_all_patterns(row) for row in mine]), return_counts=True)
        self.counts: dict[int, int] = dict(zip(found.tolist(), times.tolist(), strict=True))
        self.heap = [(-_worth(pattern, count), pattern) for pattern, count in self.counts.items() if count > 1]
        heapify(self.heap)

    def run(self) -> None:
        while self.heap:
            worth, pattern = heappop(self.heap)
            count = self.counts.get(pattern, 0)
            if count < 2:
                continue
            if _worth(pattern, count) != -worth:  # counts have only fallen since it was put there
                heappush(self.heap, (-_worth(pattern, count), pattern))
                continue
            found = [(place, pair) for place in range(len(self.mine)) for pair in self._pairs(place, pattern)]
            if len(found) < 2:
                self.counts[pattern] = 0  # it overlaps itself
                continue
            if len(found) < count:  # likewise, or some rows would become too deep: it is worth less
                worth = -_worth(pattern, len(found))
                if self.heap and worth > self.heap[0][0]:
                    self.counts[pattern] = len(found)
                    heappush(self.heap, (worth, pattern))
                    continue
            self._replace(pattern, found)

    def _pairs(self, place: int, pattern: int) -> list[tuple[int, int]]:
        """Where the pattern stands in a row, without overlaps, while the row stays shallow enough."""
        x, distance, differs = _parts_of(pattern)
        codes = self.at[place].get(x)
        if not codes:
            return []
        row, depth, y = self.mine[place], self.making.depth, x + (distance + _SPAN // 2) // _SPAN
        more = (2 << max(depth[x], depth[y])) - (1 << depth[x]) - (1 << depth[y])
        room = ((1 << self.most) - self.weights[place]) // more if more else len(row)
        used: set[int] = set()
        pairs: list[tuple[int, int]] = []
        for code in sorted(codes):
            other = code + distance
            if other in row and len(pairs) < room and code not in used and other not in used and (row[code][0] != row[other][0]) == differs:
                used |= {code, other}
                pairs.append((code, other))
        return pairs

    def _replace(self, pattern: int, found: list[tuple[int, tuple[int, int]]]) -> None:
        x, distance, differs = _parts_of(pattern)
        y = x + (distance + _SPAN // 2) // _SPAN
        made = self.making.joined(Term(x, 0), Term(y, distance - (y - x) * _SPAN, differs))
        touched: set[int] = set()
        for place, (code, other) in found:
            negative = self.mine[place][code][0]
            self._take(place, code)
            self._take(place, other)
            self._put(place, made.node * _SPAN + code % _SPAN + made.shift, negative != made.negative, touched)
        for new in touched:
            if self.counts[new] > 1:
                heappush(self.heap, (-_worth(new, self.counts[new]), new))

    def _take(self, place: int, code: int) -> None:
        row, counts = self.mine[place], self.counts
        negative, lower = row.pop(code)
        del self.rows[place][code]
        self.at[place][code // _SPAN].discard(code)
        self.weights[place] -= 1 << self.making.depth[code // _SPAN]
        for pattern in _patterns(row, code, negative, lower):
            counts[pattern] -= 1

    def _put(self, place: int, code: int, negative: bool, touched: set[int]) -> None:
        row, counts, lower = self.mine[place], self.counts, _lower(code)
        if code in row:  # the same sum a second time at the same place: twice as much, or nothing
            same = row[code][0] == negative
            self._take(place, code)
            if same:
                self._put(place, code + 1, negative, touched)
            return
        new = _patterns(row, code, negative, lower)
        for pattern in new:
            counts[pattern] = counts.get(pattern, 0) + 1
        touched.update(new)
        row[code] = negative, lower
        self.rows[place][code] = negative
        self.at[place].setdefault(code // _SPAN, set()).add(code)
        self.weights[place] += 1 << self.making.depth[code // _SPAN]


def _lower(code: int) -> int:
    """What a digit gives to a pattern of which it is the lower one."""
    return code // _SPAN * _APART - code


def _patterns(row: dict[int, tuple[bool, int]], code: int, negative: bool, lower: int) -> list[int]:
    """Those of a digit and each of a row's."""
    return [((lower + other if code < other else below + code) << 1) + (negative != sign) for other, (sign, below) in row.items()]


def _all_patterns(row: dict[int, bool]) -> RawArray:
    """Those of all pairs in a row."""
    codes = np.array(sorted(row), dtype=np.int64)
    negative = np.array([row[code] for code in codes.tolist()], dtype=np.bool_)
    low, high = np.triu_indices(len(codes), 1)
    patterns: RawArray = (codes[low] // _SPAN * _APART + codes[high] - codes[low]) * 2 + (negative[low] != negative[high])
    return patterns


def _parts_of(pattern: int) -> tuple[int, int, bool]:
    """The node of the lower digit, how far the other one lies above it, and whether the signs differ."""
    node, distance = divmod(pattern >> 1, _APART)
    return node, distance, bool(pattern & 1)


def _worth(pattern: int, count: int) -> int:
    """The adders that it saves; of several that save as many, the one whose terms lie closest together is the narrowest."""
    distance = (pattern >> 1) % _APART
    return _SPAN * (count - 1) - abs(distance - (distance + _SPAN // 2) // _SPAN * _SPAN)
