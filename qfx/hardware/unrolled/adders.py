"""Products of a constant matrix and a vector as graphs of adders: shifts, sums and differences alone.

A matrix is given by its signed digits: a row (an output) is a tuple of ``Term``, each a column (an input) times plus or minus a power of two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from heapq import heapify, heappop, heappush

from qfx.errors import ExactnessError

Row = tuple["Term", ...]


@dataclass(frozen=True, slots=True)
class Term:
    """node * 2**shift, negated if ``negative``; a node below the number of columns is an input."""

    node: int
    shift: int
    negative: bool = False

    def moved(self, shift: int, negative: bool) -> Term:
        return Term(self.node, self.shift + shift, self.negative != negative)


@dataclass(frozen=True, slots=True)
class Adder:
    """a * 2**up_a plus (or minus) b * 2**up_b; one of the shifts is 0, none is negative."""

    a: int
    b: int
    up_a: int
    up_b: int
    minus: bool


@dataclass(frozen=True)
class AdderGraph:
    """``columns`` inputs, then adders, numbered on from there, each of what comes before it; an output is a term, or None where it is always 0."""

    columns: int
    adders: tuple[Adder, ...]
    outputs: tuple[Term | None, ...]

    @cached_property
    def coefficients(self) -> tuple[dict[int, int], ...]:
        """How often every node holds each column."""
        forms: list[dict[int, int]] = [{column: 1} for column in range(self.columns)]
        for adder in self.adders:
            form = {column: factor << adder.up_a for column, factor in forms[adder.a].items()}
            for column, factor in forms[adder.b].items():
                total = form.get(column, 0) + (-(factor << adder.up_b) if adder.minus else factor << adder.up_b)
                form[column] = total
            forms.append({column: factor for column, factor in form.items() if factor})
        return tuple(forms)

    def check(self, rows: tuple[Row, ...]) -> None:
        """Raises ExactnessError unless the graph computes exactly the rows."""
        for place, (row, output) in enumerate(zip(rows, self.outputs, strict=True)):
            low = min([term.shift for term in row] + ([] if output is None else [output.shift]), default=0)
            want: dict[int, int] = {}
            for term in row:
                want[term.node] = want.get(term.node, 0) + (-1 if term.negative else 1) * (1 << (term.shift - low))
            sign, form = (1, {}) if output is None else (-1 if output.negative else 1, self.coefficients[output.node])
            up = 0 if output is None else output.shift - low
            if {c: f for c, f in want.items() if f} != {column: sign * factor << up for column, factor in form.items()}:
                raise ExactnessError(f"an adder graph computes another output {place}", remedy="please report this defect")


Solver = Callable[[tuple[Row, ...], tuple[int, ...], tuple[int, ...]], AdderGraph]
"""What makes an adder graph of rows, of the depths of the columns and of their bits."""


class Making:
    """An adder graph that grows. Equal adders are made once. ``depth`` is the number of adders on the longest way to a node, beginning with what the
    columns bring along; ``bits`` is how many bits a node has, about."""

    columns: int
    depth: list[int]
    bits: list[int]

    def __init__(self, depths: tuple[int, ...], widths: tuple[int, ...]) -> None:
        self.columns = len(depths)
        self.depth, self.bits = list(depths), list(widths)
        self.adders: list[Adder] = []
        self._known: dict[Adder, int] = {}

    def joined(self, x: Term, y: Term) -> Term:
        """The sum of two terms: at most one adder more."""
        if x.negative and not y.negative:
            x, y = y, x
        low = min(x.shift, y.shift)
        up_x, up_y, minus = x.shift - low, y.shift - low, x.negative != y.negative
        if not minus and (y.node, up_y) < (x.node, up_x):
            x, y, up_x, up_y = y, x, up_y, up_x
        adder = Adder(x.node, y.node, up_x, up_y, minus)
        node = self._known.get(adder)
        if node is None:
            node = self._known[adder] = self.columns + len(self.adders)
            self.adders.append(adder)
            self.depth.append(max(self.depth[x.node], self.depth[y.node]) + 1)
            self.bits.append(max(self.bits[x.node] + up_x, self.bits[y.node] + up_y) + 1)
        return Term(node, low, x.negative)

    def total(self, row: Row) -> Term | None:
        """The sum of all terms, the shallowest first: two of an even number, then three at a time, which one carry chain adds (``ternary.py``)."""
        if not row:
            return None
        waiting = [(*self._order(term), place, term) for place, term in enumerate(row)]
        heapify(waiting)
        count = len(row)
        while len(waiting) > 1:
            three = len(waiting) % 2 == 1
            joined = self.joined(heappop(waiting)[-1], heappop(waiting)[-1])
            if three:
                joined = self.joined(joined, heappop(waiting)[-1])
            heappush(waiting, (*self._order(joined), count, joined))
            count += 1
        return waiting[0][-1]

    def _order(self, term: Term) -> tuple[int, int, int]:
        """Of one depth narrow numbers first, and those that overlap next to each other."""
        return self.depth[term.node], term.shift + self.bits[term.node], term.shift

    def done(self, outputs: tuple[Term | None, ...]) -> AdderGraph:
        return AdderGraph(self.columns, tuple(self.adders), outputs)


def least_depth(row: Row, depth: list[int]) -> int:
    """The depth of the shallowest tree over the terms."""
    weight = sum(1 << depth[term.node] for term in row)
    return (weight - 1).bit_length() if weight else 0


def plain_graph(rows: tuple[Row, ...], depths: tuple[int, ...], widths: tuple[int, ...]) -> AdderGraph:
    """A tree for every row, of nothing shared but what is equal by chance."""
    making = Making(depths, widths)
    return making.done(tuple(making.total(row) for row in rows))
