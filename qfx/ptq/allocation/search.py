"""Mixed precision: the word length of every quantizer, chosen for a budget in bits or in hardware with the least predicted loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor, fx, nn

from qfx.errors import QfxError
from qfx.nn.convert import quantize
from qfx.nn.model import quantizers
from qfx.ptq.activations import Progress
from qfx.ptq.allocation.front import Budget, Designs, Found, Point, Widths, least_loss, plot_pareto, weight_bits, weight_count, with_widths
from qfx.ptq.allocation.hardware import HardwareSearch
from qfx.ptq.allocation.table import Row, Table
from qfx.recipe import Recipe

MOST_UNITS = 1 << 18
"""Budgets are counted in units, bits where they are fewer than this: the search for bits is exact up to a unit per layer."""

Maker = Callable[[Widths], fx.GraphModule]


def search(
    model: nn.Module,
    example_input: Tensor,
    table: Table,
    budget: Budget,
    *,
    recipe: Recipe | None = None,
    keep: Callable[[Designs], None] | None = None,
    resume: Designs | None = None,
    progress: Progress | None = None,
) -> Found:
    """The word lengths with the least predicted loss, the sum over the table's rows, that meet the budget.

    ``model``, ``example_input``, ``recipe``: what ``qfx.quantize`` will be given (so the model with BatchNorm folded, if it is to be). ``table``:
    from ``sensitivity`` of that model and recipe; quantizers without a row keep their word lengths.

    For ``weight_bits`` only weights are varied (activations cost none), and the answer is exact for the table: a multiple-choice knapsack by dynamic
    programming. For hardware, word lengths fall step by step from the longest: each time the one that adds the least loss for what it saves, weighed
    by how scarce each resource is. What a step saves is estimated from designs in which all weights, or all activations, have one word length. The
    first step whose design, folded anew, meets the budget is found by bisection, and single steps are then taken back where
    a further design shows that they need not be. Nothing is said to meet the budget that was not made and estimated.

    ``keep`` is called after each design with all that were made. Given as ``resume`` to a later call with the same arguments, they are not made
    again.

    Raises RecipeError, with the least that can be had, if the budget cannot be met; QfxError for a table of another model; ProjectError for an
    unknown board, or frames per second that no folding reaches.
    """
    base = recipe if recipe is not None else Recipe()

    def make(widths: Widths) -> fx.GraphModule:
        return quantize(model, example_input, with_widths(base, table, widths)).eval()

    start = make(tuple(row.width for row in table.rows))
    known = {name for name, _ in quantizers(start)}
    for row in table.rows:
        if row.name not in known:
            raise QfxError("is not in the model", where=row.name, remedy="take the table from the same model and recipe: sensitivity(model, ...)")
    if not table.rows:
        raise QfxError("has no rows", where="table", remedy="choose roles that the model has")
    work = (
        _Bits(table, base, make, start, budget)
        if budget.board is None
        else HardwareSearch(table, base, make, start, budget, keep, dict(resume or {}), progress)
    )
    return work.run()


@dataclass(frozen=True, eq=False)
class _Bits:
    """The search for a budget of weight bits."""

    table: Table
    recipe: Recipe
    make: Maker
    start: fx.GraphModule
    budget: Budget

    def run(self) -> Found:
        count = weight_count(self.start)
        limit = self.budget.limit(count)
        rows = [row for row in self.table.rows if row.role == "weight"]
        if not rows:
            raise QfxError("has no rows of weights", where="table", remedy="measure roles=('weight',)")
        others = weight_bits(self.start) - sum(row.numbers * row.width for row in rows)
        least = others + sum(row.numbers * self.table.widths[0] for row in rows)
        self.budget.refuse_below(least, count)
        most = others + sum(row.numbers * self.table.widths[-1] for row in rows)
        best = _Knapsack(rows, self.table.widths, most - others)
        chosen = self._point(best.picked(limit - others), others)
        step = (most - least) / 40
        front = {chosen.widths: chosen}
        for index in range(41):
            point = self._point(best.picked(int(least - others + step * index)), others)
            front.setdefault(point.widths, point)
        points = least_loss(front.values(), lambda point: point.weight_bits)
        chosen = [point for point in points if point.weight_bits <= limit][-1]  # which may take less for the same loss
        recipe = with_widths(self.recipe, self.table, chosen.widths)
        taken = weight_bits(self.make(chosen.widths))
        if taken != chosen.weight_bits or taken > limit:
            raise QfxError(f"the model takes {taken} weight bits, not {chosen.weight_bits}", where="search", remedy="please report this defect")
        names = tuple(row.name for row in self.table.rows)
        return Found(recipe, names, chosen, points)

    def _point(self, picked: Mapping[str, int], others: int) -> Point:
        widths = tuple(picked.get(row.name, row.width) for row in self.table.rows)
        loss = sum(self.table.loss(name, width) for name, width in picked.items())
        bits = others + sum(row.numbers * picked[row.name] for row in self.table.rows if row.name in picked)
        return Point(widths, loss, bits)


class _Knapsack:
    """The width of each row with the least sum of losses whose bits are at most a limit, for every limit up to ``most``; exact if a unit is a bit of
    every row."""

    def __init__(self, rows: list[Row], widths: Widths, most: int) -> None:
        self.rows, self.widths = rows, widths
        self.unit = max(math.gcd(*(row.numbers for row in rows)), -(-most // MOST_UNITS), 1)
        self.costs = [[-(-row.numbers * width // self.unit) for width in widths] for row in rows]
        self.room = room = most // self.unit
        best = np.zeros(room + 1)
        self.picks: list[npt.NDArray[np.int8]] = []
        for row, cost in zip(rows, self.costs, strict=True):
            options = np.full((len(widths), room + 1), np.inf)
            for index, (amount, loss) in enumerate(zip(cost, row.losses, strict=True)):
                if amount <= room:
                    options[index, amount:] = best[: room + 1 - amount] + loss
            self.picks.append(options.argmin(axis=0).astype(np.int8))
            best = options.min(axis=0)

    def picked(self, limit: int) -> dict[str, int]:
        """The widths for ``limit`` bits, which the shortest words must meet."""
        left, chosen = min(limit // self.unit, self.room), {}
        if sum(cost[0] for cost in self.costs) > left:  # only for rounding up: the limit itself leaves room
            return {row.name: self.widths[0] for row in self.rows}
        for row, cost, pick in zip(reversed(self.rows), reversed(self.costs), reversed(self.picks), strict=True):
            index = int(pick[left])
            chosen[row.name] = self.widths[index]
            left -= cost[index]
        return chosen


__all__ = ["Budget", "Found", "Point", "plot_pareto", "search", "weight_bits", "with_widths"]
