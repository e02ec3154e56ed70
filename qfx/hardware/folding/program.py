"""The cheapest options exactly: an integer program, solved by HiGHS.

Of every layer one option is taken (a binary variable each). Between neighbours a change of width costs what their widths say: of each pair of widths
a variable that is 1 where both are taken, which follows from the options and so needs not be integer. What is least is the badness of ``prices.py``:
what is above the limits, and the sum of the squares of the shares, from below by tangents.

Deterministic: one thread, a fixed seed, and an end after so many nodes, not so many seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import highspy
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

EXCESS = 1e3
"""How bad it is to take all of what is scarcest once more than may be taken, against the sum of squares."""

_TANGENTS = np.concatenate([[0.0], np.geomspace(0.002, 1.0, 45)])
"""Shares at which the square is touched: between two the program takes it for at most 0.5 % too little."""

_NEAR = 16
"""Options of a layer among which the program looks first; then among twice as many, with fewer nodes."""

_CHEAPEST = ((_NEAR, 4), (2 * _NEAR, 16))
"""Programs that are tried one after the other: options of a layer, and the part of the nodes."""

_SURE = 1e-6
"""Of shares, more than what the solver's tolerances make of them."""

_PRICED = 1e-7
"""What the solver's reduced costs may be wrong by, of the option of one layer."""

_REACHED = 1e-7
"""An excess that is none: there the solver ends."""

_INFINITE = highspy.kHighsInf

_EVEN = {
    **dict.fromkeys(("mip_detect_symmetry", "mip_allow_restart", "mip_heuristic_run_feasibility_jump", "mip_heuristic_run_root_reduced_cost"), False),
    "objective_target": _REACHED,
}
"""How the solver is asked for a choice that fits: by its heuristics around the program without integers, and no longer than until there is one."""


@dataclass(frozen=True, slots=True, eq=False)
class Between:
    """Two neighbours: ``source_width[i]`` and ``reader_width[j]`` number the widths of their options; of each pair of widths what the change takes
    (``shares``, by source's and reader's width, of each resource) and whether it is fast enough (``possible``)."""

    source: int
    reader: int
    source_width: IntArray
    reader_width: IntArray
    shares: FloatArray
    possible: BoolArray


@dataclass(frozen=True, slots=True, eq=False)
class Together:
    """Layers of which the sum over ``amounts`` of the options taken must not exceed ``most``."""

    layers: Sequence[int]
    amounts: Sequence[FloatArray]
    most: float


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """``shares``: for each layer what each option takes of each resource, as shares of what may be taken (1.0: all of it); ``spent``: the shares that
    are taken anyway."""

    shares: Sequence[FloatArray]
    between: Sequence[Between]
    together: Sequence[Together]
    spent: FloatArray


@dataclass(frozen=True, slots=True)
class Solved:
    """``picked``: the best choice found (None: none), by each layer's option, and how bad it is for the program (``value``). ``bound``: no choice is
    less bad; infinite if there is none."""

    picked: list[int] | None
    bound: float
    value: float = np.inf


def cheapest(problem: Problem, *, nodes: int, gap: float, start: Sequence[int] | None = None) -> Solved:
    """The least bad choice, to a relative ``gap``, or the best within ``nodes`` nodes of the search, among the options of each layer that the program
    without integers comes nearest to taking. ``start``: a choice to start from.
    """
    bound, prices = _Program(problem, integer=False).relaxed()
    if prices is None:
        return Solved(None, np.inf) if bound == np.inf else _Program(problem).solve(nodes, gap, start)
    # Among the options that the program without integers comes near to taking, whose bound holds for all: first few, then more.
    best, picked = np.inf, None
    for near, part in _CHEAPEST:
        places = _near(problem, prices, start, near)
        whole = all(at.size == len(shares) for at, shares in zip(places, problem.shares, strict=True))
        begin = None if start is None else [int(np.searchsorted(at, i)) for at, i in zip(places, start, strict=True)]
        found = _Program(_part(problem, places)).solve(nodes if whole else nodes // part, gap, begin)
        if found.picked is not None and found.value < best:
            picked, best = _back(places, found.picked), found.value
            start = picked
        if whole:
            return Solved(picked, max(found.bound, bound), best)
        if best < np.inf and best <= bound + gap * max(bound, 0.0):
            break
    return Solved(picked, bound, best)


def fitting(problem: Problem, *, nodes: int) -> tuple[list[int] | None, bool]:
    """A choice within the limits, if one is found within ``nodes`` nodes of the search; if none, whether there is none for certain.

    What is least is the excess of what is scarcest, among the options that a choice within the limits can have.
    """
    places = _possible(problem)
    if places is None:
        return None, True
    solved = _Program(_part(problem, places), even=True).solve(nodes, 0.0, None)
    if solved.picked is not None and solved.value <= _SURE:
        return _back(places, solved.picked), True
    return None, solved.bound > _SURE


def bad(shares: FloatArray) -> float:
    """What is to be least: what is above the limits, then the sum of squares. ``shares``: of the limits."""
    return EXCESS * max(float(shares.max()) - 1, 0.0) + float((shares**2).sum())


def relaxed(problem: Problem) -> float:
    """A bound as in ``Solved``, of the program without its integers: quick, and often close."""
    return _Program(problem, integer=False).relaxed()[0]


def conceivable(problem: Problem) -> bool:
    """Whether parts of options keep within the limits; if not, nothing does."""
    return _Program(problem, integer=False, even=True).relaxed()[0] <= _SURE


def _possible(problem: Problem) -> list[IntArray] | None:
    """Of each layer the places of the options that a choice within the limits can have; None if there is no such choice.

    The program without integers says how small the excess can be (below 0: what is left of the limits), and the reduced cost of an option how much
    greater it is at least with that one. Where that comes above 0, by more than the solver's tolerance of each layer, the option is out.
    """
    program = _Program(problem, integer=False, even=True)
    excess, prices = program.relaxed()
    if prices is None:
        return None if excess == np.inf else [np.arange(len(shares)) for shares in problem.shares]
    sure = max(_SURE, _PRICED * len(problem.shares))
    if excess > sure:
        return None
    own = [prices[start:end] for start, end in zip(program.offsets[:-1], program.offsets[1:], strict=True)]
    return [np.flatnonzero(more <= sure - excess) for more in own]


def _back(places: Sequence[IntArray], picked: Sequence[int]) -> list[int]:
    """What is picked of those at the places, by the places among all."""
    return [int(at[i]) for at, i in zip(places, picked, strict=True)]


def _near(problem: Problem, prices: FloatArray, start: Sequence[int] | None, count: int) -> list[IntArray]:
    """Of each layer the places of the ``count`` options with the least reduced costs (``prices``, of all options), and of what ``start`` has."""
    places, first = [], 0
    for index, shares in enumerate(problem.shares):
        own = prices[first : first + len(shares)]
        first += len(shares)
        at = np.argsort(own, kind="stable")[:count]
        places.append(np.unique(at if start is None else np.append(at, start[index])))
    return places


def _part(problem: Problem, places: Sequence[IntArray]) -> Problem:
    """The problem with those options alone."""
    between = []
    for one in problem.between:
        (of_source, source), (of_reader, reader) = (
            np.unique(widths[places[layer]], return_inverse=True)
            for widths, layer in ((one.source_width, one.source), (one.reader_width, one.reader))
        )
        pairs = np.ix_(of_source, of_reader)
        between.append(Between(one.source, one.reader, source, reader, one.shares[pairs], one.possible[pairs]))
    together = [Together(t.layers, [amounts[places[i]] for i, amounts in zip(t.layers, t.amounts, strict=True)], t.most) for t in problem.together]
    return Problem([shares[at] for shares, at in zip(problem.shares, places, strict=True)], between, together, problem.spent)


class _Program:
    """Columns: options of each layer, pairs of widths of each two neighbours, then of each resource its share and its square, and the excess.
    ``even``: what is least is the excess alone, which is below 0 where all shares are below 1; there are no squares."""

    def __init__(self, problem: Problem, *, integer: bool = True, even: bool = False) -> None:
        self.offsets = np.cumsum([0, *(len(shares) for shares in problem.shares)])
        resources = problem.spent.size
        options = int(self.offsets[-1])
        pairs = [np.flatnonzero(between.possible.ravel()) for between in problem.between]
        starts = options + np.cumsum([0, *(found.size for found in pairs)])
        share, square, excess = int(starts[-1]), int(starts[-1]) + resources, int(starts[-1]) + 2 * resources
        self.columns = excess + 1
        self.rows: list[tuple[float, float, IntArray, FloatArray]] = []
        for start, end in zip(self.offsets[:-1], self.offsets[1:], strict=True):
            self._row(1.0, 1.0, np.arange(start, end), np.ones(end - start))
        for between, found, first in zip(problem.between, pairs, starts[:-1], strict=True):
            at = np.arange(found.size) + first
            of_source, of_reader = np.divmod(found, between.possible.shape[1])
            for layer, widths, of in ((between.source, between.source_width, of_source), (between.reader, between.reader_width, of_reader)):
                for width in range(int(widths.max()) + 1):
                    taken, passed = np.flatnonzero(widths == width) + self.offsets[layer], at[of == width]
                    self._row(0.0, 0.0, np.concatenate([taken, passed]), np.concatenate([np.ones(taken.size), -np.ones(passed.size)]))
        for joint in problem.together:
            where = np.concatenate([np.arange(self.offsets[i], self.offsets[i + 1]) for i in joint.layers])
            self._row(-_INFINITE, joint.most, where, np.concatenate(list(joint.amounts)))
        costs = np.concatenate([*problem.shares, *(b.shares.reshape(-1, resources)[found] for b, found in zip(problem.between, pairs, strict=True))])
        for index in range(resources):
            used = np.flatnonzero(costs[:, index])
            columns = np.concatenate([used, [share + index]])
            self._row(-problem.spent[index], -problem.spent[index], columns, np.concatenate([costs[used, index], [-1.0]]))
            self._row(-_INFINITE, 1.0, np.array([share + index, excess]), np.array([1.0, -1.0]))
            for point in () if even else _TANGENTS:
                self._row(-_INFINITE, float(point) ** 2, np.array([share + index, square + index]), np.array([2 * float(point), -1.0]))
        self.cost = np.zeros(self.columns)
        self.cost[square:excess] = 0.0 if even else 1.0
        self.cost[excess] = 1.0 if even else EXCESS
        self.lower, self.upper = np.zeros(self.columns), np.full(self.columns, _INFINITE)
        self.lower[share:square] = -_INFINITE
        self.lower[excess] = -_INFINITE if even else 0.0
        self.upper[:options] = 1.0
        self.even = even
        self.integer = integer
        self.options = options

    def _row(self, lower: float, upper: float, columns: npt.ArrayLike, values: npt.ArrayLike) -> None:
        self.rows.append((lower, upper, np.asarray(columns, dtype=np.int32), np.asarray(values, dtype=np.float64)))

    def solve(self, nodes: int, gap: float, start: Sequence[int] | None) -> Solved:
        highs = self._asked(nodes, gap)
        if start is not None:
            chosen = self.offsets[:-1] + np.array(start)
            highs.setSolution(self.options, np.arange(self.options, dtype=np.int32), np.isin(np.arange(self.options), chosen).astype(np.float64))
        highs.run()
        status, info = highs.getModelStatus(), highs.getInfo()
        if status == highspy.HighsModelStatus.kInfeasible:
            return Solved(None, np.inf)
        bound = float(info.mip_dual_bound)
        if info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
            return Solved(None, bound)
        values = np.array(highs.getSolution().col_value[: self.options])
        picked = [int(values[start:end].argmax()) for start, end in zip(self.offsets[:-1], self.offsets[1:], strict=True)]
        return Solved(picked, bound, float(info.objective_function_value))

    def relaxed(self) -> tuple[float, FloatArray | None]:
        """The bound, and the reduced cost of each option; None without an optimum."""
        highs = self._asked(0, 0.0)
        highs.run()
        status = highs.getModelStatus()
        if status == highspy.HighsModelStatus.kOptimal:
            return float(highs.getInfo().objective_function_value), np.array(highs.getSolution().col_dual[: self.options])
        return np.inf if status == highspy.HighsModelStatus.kInfeasible else -np.inf, None

    def _asked(self, nodes: int, gap: float) -> highspy.Highs:
        """The solver with the model."""
        highs = highspy.Highs()
        # without presolve: it takes longer than what it saves
        settings = {"presolve": "off", "output_flag": False, "threads": 1, "random_seed": 0, "mip_rel_gap": gap, "mip_max_nodes": nodes}
        settings |= _EVEN if self.even and self.integer else {}
        for name, value in settings.items():
            highs.setOptionValue(name, value)
        highs.passModel(self._model())
        return highs

    def _model(self) -> highspy.HighsLp:
        model = highspy.HighsLp()
        model.num_col_, model.num_row_ = self.columns, len(self.rows)
        model.col_cost_, model.col_lower_, model.col_upper_ = self.cost, self.lower, self.upper
        model.row_lower_ = np.array([row[0] for row in self.rows])
        model.row_upper_ = np.array([row[1] for row in self.rows])
        matrix = model.a_matrix_
        matrix.format_ = highspy.MatrixFormat.kRowwise
        matrix.num_col_, matrix.num_row_ = self.columns, len(self.rows)
        matrix.start_ = np.cumsum([0, *(row[2].size for row in self.rows)], dtype=np.int32)
        matrix.index_ = np.concatenate([row[2] for row in self.rows])
        matrix.value_ = np.concatenate([row[3] for row in self.rows])
        if self.integer:
            kinds = [highspy.HighsVarType.kInteger] * self.options
            model.integrality_ = kinds + [highspy.HighsVarType.kContinuous] * (self.columns - self.options)
        return model
