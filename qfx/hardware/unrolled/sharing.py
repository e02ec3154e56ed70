"""Common subexpressions of a constant matrix: pairs of digits that many rows have in common become an adder of their own.

The way of Potkonjak, Srivastava and Chandrakasan ("Multiple constant multiplications", IEEE TCAD 15, 1996) and Hartley ("Subexpression sharing in
filters using canonic signed digit multipliers", IEEE TCAS-II 43, 1996): of all pairs of terms, whatever both are shifted and negated by, the one
that saves most is replaced by a new term, again and again, while it stands at two places or more. Two terms of one input (a multiple that several
constants share) and terms of several inputs are treated alike. What is left of each row is summed by a tree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush

from qfx.hardware.unrolled.adders import AdderGraph, Making, Row, Term, least_depth

SLACK = 2
"""By how many adders the deepest row may become deeper than it has to be."""

MOST_PAIRS = 2_000_000
"""Pairs of digits that are looked at at a time: of larger matrices the columns are taken in parts."""

_Pattern = tuple[int, int, int, bool]
"""Nodes x <= y, how much higher y stands than x, and whether it has the other sign."""


def shared_graph(rows: tuple[Row, ...], depths: tuple[int, ...], widths: tuple[int, ...], *, slack: int = SLACK) -> AdderGraph:
    """An adder graph of the rows over columns of these depths and bits."""
    making = Making(depths, widths)
    most = max((least_depth(row, making.depth) for row in rows), default=0) + slack
    work = [{(term.node, term.shift): term.negative for term in row} for row in rows]
    for part in _parts(rows):
        _Sharing(making, work, part, most).run()
    outputs = tuple(making.total(tuple(Term(node, shift, negative) for (node, shift), negative in row.items())) for row in work)
    return making.done(outputs)


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
    """The search over the digits of some columns: ``rows`` maps (node, shift) to whether the digit is negative, and is changed."""

    def __init__(self, making: Making, rows: Sequence[dict[tuple[int, int], bool]], columns: frozenset[int], most: int) -> None:
        self.making, self.rows, self.most = making, rows, most
        self.mine = [{digit: negative for digit, negative in row.items() if digit[0] in columns} for row in rows]
        self.weights = [sum(1 << making.depth[node] for node, _ in row) for row in rows]
        self.counts: dict[_Pattern, int] = {}
        self.where: dict[_Pattern, set[int]] = {}
        for place, row in enumerate(self.mine):
            digits = list(row.items())
            for index, digit in enumerate(digits):
                for other in digits[index + 1 :]:
                    pattern = _pattern(digit, other)
                    self.counts[pattern] = self.counts.get(pattern, 0) + 1
                    self.where.setdefault(pattern, set()).add(place)
        self.heap = [(-self._worth(pattern, count), pattern) for pattern, count in self.counts.items() if count > 1]
        heapify(self.heap)

    def run(self) -> None:
        while self.heap:
            worth, pattern = heappop(self.heap)
            count = self.counts.get(pattern, 0)
            if count < 2:
                continue
            if self._worth(pattern, count) != -worth:
                heappush(self.heap, (-self._worth(pattern, count), pattern))
                continue
            found = [(place, pair) for place in sorted(self.where[pattern]) for pair in self._pairs(place, pattern)]
            if len(found) < 2:
                self.counts[pattern] = 0  # it overlaps itself
                continue
            if len(found) < count:  # likewise, or some rows would become too deep: it is worth less
                worth = self._worth(pattern, len(found))
                if self.heap and -worth > self.heap[0][0]:
                    self.counts[pattern] = len(found)
                    heappush(self.heap, (-worth, pattern))
                    continue
            self._replace(pattern, found)

    def _worth(self, pattern: _Pattern, count: int) -> int:
        """The adders that it saves; of several that save as many, the one whose terms lie closest together is the narrowest."""
        return 256 * (count - 1) - abs(pattern[2])

    def _pairs(self, place: int, pattern: _Pattern) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        """Where the pattern stands in a row, without overlaps, while the row stays shallow enough."""
        x, y, up, differs = pattern
        row, depth = self.mine[place], self.making.depth
        more = (2 << max(depth[x], depth[y])) - (1 << depth[x]) - (1 << depth[y])
        room = ((1 << self.most) - self.weights[place]) // more if more else len(row)
        used: set[tuple[int, int]] = set()
        pairs: list[tuple[tuple[int, int], tuple[int, int]]] = []
        for digit in sorted(key for key in row if key[0] == x):
            other = (y, digit[1] + up)
            if len(pairs) < room and digit not in used and other not in used and other in row and (row[digit] != row[other]) == differs:
                used |= {digit, other}
                pairs.append((digit, other))
        return pairs

    def _replace(self, pattern: _Pattern, found: list[tuple[int, tuple[tuple[int, int], tuple[int, int]]]]) -> None:
        x, y, up, differs = pattern
        made = self.making.joined(Term(x, 0), Term(y, up, differs))
        for place, (digit, other) in found:
            row = self.mine[place]
            negative = row[digit]
            self._take(place, digit)
            self._take(place, other)
            self._put(place, (made.node, digit[1] + made.shift), negative != made.negative)

    def _take(self, place: int, digit: tuple[int, int]) -> None:
        row = self.mine[place]
        item = (digit, row.pop(digit))
        del self.rows[place][digit]
        self.weights[place] -= 1 << self.making.depth[digit[0]]
        for other in row.items():
            self.counts[_pattern(item, other)] -= 1

    def _put(self, place: int, digit: tuple[int, int], negative: bool) -> None:
        row = self.mine[place]
        if digit in row:  # the same sum a second time at the same place: twice as much, or nothing
            same = row[digit] == negative
            self._take(place, digit)
            if same:
                self._put(place, (digit[0], digit[1] + 1), negative)
            return
        item = (digit, negative)
        for other in row.items():
            pattern = _pattern(item, other)
            count = self.counts[pattern] = self.counts.get(pattern, 0) + 1
            self.where.setdefault(pattern, set()).add(place)
            if count > 1:
                heappush(self.heap, (-self._worth(pattern, count), pattern))
        row[digit] = self.rows[place][digit] = negative
        self.weights[place] += 1 << self.making.depth[digit[0]]


def _pattern(one: tuple[tuple[int, int], bool], two: tuple[tuple[int, int], bool]) -> _Pattern:
    """What is the same of all pairs of digits that are a multiple of one another by a power of two or its negative."""
    (a, b) = (one, two) if one[0] <= two[0] else (two, one)
    return a[0][0], b[0][0], b[0][1] - a[0][1], a[1] != b[1]
