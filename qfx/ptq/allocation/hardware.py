"""Word lengths for a budget of hardware: designs are folded anew, estimated, and compared with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from torch import fx

from qfx.errors import ProjectError, RecipeError
from qfx.export.to_graph import to_graph
from qfx.hardware.board import Board, board, check_clock
from qfx.hardware.cost.estimate import LIMITS, NAMES, Estimate, capacity, estimate
from qfx.hardware.cost.readers import readers
from qfx.hardware.cost.resources import FIELDS
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Request, Schedule
from qfx.hardware.folding.least import Weights, check_weights
from qfx.hardware.folding.search import resolve
from qfx.hardware.project.project import prepare
from qfx.ir.graph import Graph, graph_name
from qfx.ptq.activations import Progress
from qfx.ptq.allocation.front import Budget, Designs, Found, Point, Widths, least_loss, weight_bits, with_widths
from qfx.ptq.allocation.table import Table
from qfx.recipe import Recipe

EXCHANGES = 4
"""So many designs are tried to take back word lengths that turn out not to be needed."""

FRONT = 5
"""So many designs with shorter words than needed are made, to show what they would save."""

FloatArray = npt.NDArray[np.float64]


@dataclass(eq=False)
class HardwareSearch:
    """The search for a budget on a board."""

    table: Table
    recipe: Recipe
    make: Callable[[Widths], fx.GraphModule]
    start: fx.GraphModule
    budget: Budget
    keep: Callable[[Designs], None] | None
    known: Designs
    progress: Progress | None

    def __post_init__(self) -> None:
        assert self.budget.board is not None
        self.whole: Board = board(self.budget.board)
        self.clock_ns: float = self.budget.clock_ns if self.budget.clock_ns is not None else self.whole.clock_ns
        check_clock(self.clock_ns, self.whole)
        self.allowed: dict[str, int] = _allowed(self.whole, self.budget)
        self.designs: dict[Widths, Point | ProjectError] = {
            widths: ProjectError("did not meet the budget before the interrupt") if point is None else point for widths, point in self.known.items()
        }
        self.done: int = 0

    def run(self) -> Found:
        rows, widths = self.table.rows, self.table.widths
        longest = tuple(widths[-1] for _ in rows)
        self._tell()
        refuse_hopeless(self.budget, self.make(tuple(widths[0] for _ in rows)), widths[0])
        steps = self._steps(longest)
        first = self._bisect(steps)
        chosen = self._exchanged(first, longest)
        point = self._design(chosen)
        assert isinstance(point, Point)
        rest = [step for step in steps if self._loss(step) > point.loss]
        for index in range(FRONT):  # shorter words still: what they would save
            if rest:
                self._design(rest[index * (len(rest) - 1) // (FRONT - 1)])
        made = [found for found in self.designs.values() if isinstance(found, Point)]
        scarce = self._scarcest(point)
        front = least_loss(made, lambda point: point.amount(scarce))
        point = front[-1]  # every one meets the budget; this loses least
        names = tuple(row.name for row in rows)
        if self.progress is not None:
            self.progress("search", self.done, self.done)
        return Found(with_widths(self.recipe, self.table, point.widths), names, point, front, scarce)

    def _steps(self, longest: Widths) -> list[Widths]:
        """Word lengths that fall one by one, each time where it costs least for what it saves."""
        rows, widths = self.table.rows, self.table.widths
        self._measure()
        steps, now = [longest], list(longest)
        while any(width != widths[0] for width in now):
            prices = self._prices(tuple(now))
            best, least = None, (math.inf, 0.0)
            for index, row in enumerate(rows):
                place = widths.index(now[index])
                for lower_place in range(place):
                    saved = float((self.costs[index][place] - self.costs[index][lower_place]) @ prices)
                    lost = row.losses[lower_place] - row.losses[place]
                    price = lost / saved if saved > 0 else math.inf if lost > 0 else 0.0
                    if (price, -saved) < least or best is None:
                        best, least = (index, lower_place), (price, -saved)
            assert best is not None
            now[best[0]] = widths[best[1]]
            steps.append(tuple(now))
        return steps

    def _measure(self) -> None:
        """``costs[row][width]``: resources that the row's word length takes, beyond what is common to all. From the cheapest designs of one pace:
        how many products share a DSP block follows from the words, and a folding that suits some cannot be had with others."""
        rows, widths = self.table.rows, self.table.widths
        middle = widths[len(widths) // 2]
        graph = self._graph(tuple(middle for _ in rows))
        common = self._by_node(graph)
        self.costs: list[list[FloatArray]] = [[np.zeros(len(FIELDS)) for _ in widths] for _ in rows]
        read_by = readers(graph, [row.name for row in rows if row.role != "weight"])
        for place, width in enumerate(widths):
            for role in ("weight", "activation"):
                mine = [(row.role == "weight") == (role == "weight") for row in rows]
                if width == middle or not any(mine):
                    continue
                costs = self._by_node(self._graph(tuple(width if own else middle for own in mine)))
                for index, row in enumerate(rows):
                    if not mine[index]:
                        continue
                    nodes = {graph_name(row.name.rpartition(".")[0]): 1.0} if role == "weight" else read_by[row.name]
                    for node, part in nodes.items():
                        self.costs[index][place] = self.costs[index][place] + part * (costs.get(node, 0.0) - common.get(node, 0.0))
            self._tell()
        total = sum(common.values(), np.zeros(len(FIELDS)))
        self.base: FloatArray = total + sum((cost[widths.index(middle)] for cost in self.costs), np.zeros(len(FIELDS)))

    def _by_node(self, graph: Graph) -> dict[str, FloatArray]:
        return {cost.node: np.array([getattr(cost.resources, field) for field in FIELDS], dtype=np.float64) for cost in self._any(graph).layers}

    def _any(self, graph: Graph) -> Estimate:
        """A design that is fast enough, whatever it takes."""
        if self.budget.fps is None:
            return estimate(lower(graph, Schedule()), self.whole)
        large = replace(self.whole, lut=1 << 24, ff=1 << 24, dsp=1 << 16, bram36=1 << 16, uram=self.whole.uram and 1 << 16)
        return resolve(graph, large, Request(fps=self.budget.fps), clock_ns=self.clock_ns).estimate

    def _graph(self, widths: Widths) -> Graph:
        return prepare(to_graph(self.make(widths), "search"))

    def _usage(self, widths: Widths) -> FloatArray:
        places = (self.table.widths.index(width) for width in widths)
        return self.base + sum((cost[place] for cost, place in zip(self.costs, places, strict=True)), np.zeros(len(FIELDS)))

    def _prices(self, widths: Widths) -> FloatArray:
        """Per unit of each resource: the fourth power of its used share, so that the scarcest decides."""
        limits = np.array([max(self.allowed[field], 1) for field in FIELDS], dtype=np.float64)
        prices: FloatArray = np.maximum(self._usage(widths) / limits, 0.01) ** 4 / limits
        return prices

    def _loss(self, widths: Widths) -> float:
        return sum(row.losses[self.table.widths.index(width)] for row, width in zip(self.table.rows, widths, strict=True))

    def _bits(self, widths: Widths) -> int:
        pairs = zip(self.table.rows, widths, strict=True)
        return weight_bits(self.start) + sum(row.numbers * (width - row.width) for row, width in pairs if row.role == "weight")

    def _design(self, widths: Widths) -> Point | ProjectError:
        """The design that these word lengths make within the budget, or why there is none."""
        if widths not in self.designs:
            self._tell()
            try:
                small = smaller(self.whole, self.allowed)
                plan = resolve(self._graph(widths), small, Request(fps=self.budget.fps), clock_ns=self.clock_ns)
                total = plan.estimate.total
                over = [field for field in FIELDS if getattr(total, field) > self.allowed[field]]
                if over or (self.budget.fps is not None and plan.fps < self.budget.fps):
                    raise ProjectError(f"takes {', '.join(f'{getattr(total, field)} {NAMES[field]}' for field in over)} at {plan.fps:.0f} fps")
                resources = tuple((field, int(getattr(total, field))) for field in FIELDS)
                self.designs[widths] = Point(widths, self._loss(widths), self._bits(widths), resources, plan.fps)
            except ProjectError as error:
                self.designs[widths] = error
            if self.keep is not None:
                self.keep({made: found if isinstance(found, Point) else None for made, found in self.designs.items()})
        return self.designs[widths]

    def _bisect(self, steps: list[Widths]) -> Widths:
        """The first step, of those that shorten words further and further, whose design meets the budget."""
        low, high = 0, len(steps) - 1
        end = self._design(steps[high])
        if isinstance(end, ProjectError):
            total = self._any(self._graph(steps[high])).total
            over = [
                f"{getattr(total, field)} {NAMES[field]} of {self.allowed[field]}" for field in FIELDS if getattr(total, field) > self.allowed[field]
            ]
            why = f"it takes about {', '.join(over)} that may be used" if over else end.what
            raise RecipeError(
                f"cannot be met, not even with words of {self.table.widths[0]} bits: {why}",
                where="budget",
                remedy="allow more, or take a larger board",
            ) from end
        if isinstance(self._design(steps[0]), Point):
            return steps[0]
        limits = np.array([max(self.allowed[field], 1) for field in FIELDS], dtype=np.float64)
        fits = [bool((self._usage(step) <= limits).all()) for step in steps]
        guess = min(max(fits.index(True) if True in fits else high, 1), high)
        while high - low > 1:  # steps[low] does not meet it, steps[high] does
            middle = guess if low < guess < high else (low + high) // 2
            guess = -1
            if isinstance(self._design(steps[middle]), Point):
                high = middle
            else:
                low = middle
        return steps[high]

    def _exchanged(self, widths: Widths, longest: Widths) -> Widths:
        """Longer words for single rows, those that gain most for what they take first, where the design allows it."""
        best, tried = widths, 0
        refused: set[int] = set()
        while tried < EXCHANGES:
            prices = self._prices(best)
            gains = []
            for index, row in enumerate(self.table.rows):
                place = self.table.widths.index(best[index])
                if index in refused or best[index] == longest[index]:
                    continue
                gain = row.losses[place] - row.losses[place + 1]
                taken = float((self.costs[index][place + 1] - self.costs[index][place]) @ prices)
                gains.append((gain / max(taken, 1e-12), index, place))
            gains = [found for found in gains if found[0] > 0]
            if not gains:
                break
            _, index, place = max(gains, key=lambda found: (found[0], -found[1]))
            longer = (*best[:index], self.table.widths[place + 1], *best[index + 1 :])
            tried += 1
            if isinstance(self._design(longer), Point):
                best = longer
            else:
                refused.add(index)
        return best

    def _scarcest(self, point: Point) -> str:
        return max(point.resources, key=lambda pair: pair[1] / max(self.allowed[pair[0]], 1))[0]

    def _tell(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress("search", self.done, max(self.done + 1, 2 + len(self.table.widths) + 10))


def refuse_hopeless(budget: Budget, shortest: fx.GraphModule, bits: int) -> None:
    """Raise RecipeError if no folding keeps the weights of ``shortest``, the model with its shortest words of ``bits`` bits, within the budget."""
    assert budget.board is not None
    whole = board(budget.board)
    there = {field: max(getattr(capacity(whole), field), 1) for field in FIELDS}
    shares = {field: amount / there[field] for field, amount in _allowed(whole, budget).items()}
    try:
        check_weights(Weights.of(lower(prepare(to_graph(shortest, "search")), Schedule())), whole, shares)
    except ProjectError as error:
        remedy = "allow more, or take a larger board or a smaller model: no folding makes it fit"
        raise RecipeError(f"cannot be met, not even with words of {bits} bits: it {error.what}", where="budget", remedy=remedy) from error


def _allowed(whole: Board, budget: Budget) -> dict[str, int]:
    """How much of each resource a design may take."""
    there = {field: getattr(capacity(whole), field) for field in FIELDS}
    allowed = {field: int(there[field] * LIMITS[field]) for field in FIELDS}
    for field in ("dsp", "lut", "bram18"):
        wished = getattr(budget, field)
        if wished is not None:
            allowed[field] = min(allowed[field], int(wished))
    return allowed


def smaller(whole: Board, allowed: Mapping[str, int]) -> Board:
    """A board on which the limits of foldings are what is ``allowed`` of each of FIELDS (or a little more, for rounding)."""
    lut, ff, dsp, bram18, uram = (math.ceil(allowed[field] / LIMITS[field]) for field in FIELDS)
    return replace(whole, lut=lut, ff=ff, dsp=dsp, bram36=-(-bram18 // 2), uram=uram)
