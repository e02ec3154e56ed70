"""The integer program and the market around it against every combination, on small random markets: what is cheapest, what is fastest, what fits."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qfx.hardware.cost.resources import FIELDS
from qfx.hardware.design.schedule import Folding
from qfx.hardware.folding import market as market_module
from qfx.hardware.folding import program
from qfx.hardware.folding.market import Market, least
from qfx.hardware.folding.option import Role
from qfx.hardware.folding.options import Layer
from qfx.hardware.folding.prices import COLUMNS, changes, rewidth_cycles
from qfx.hardware.folding.program import bad

FloatArray = npt.NDArray[np.float64]
TANGENTS = 1.005  # how far the squares are touched from below
CLOSE = 1e-6


def a_layer(
    name: str, sources: tuple[tuple[str, int], ...], random: np.random.Generator, options: int, kind: Role = Role.OTHER, *, reads: bool = False
) -> Layer:
    widths = np.array([1, 2, 3, 4, 8])
    takes, gives = random.choice(widths, options), random.choice(widths, options)
    busy = random.integers(20, 200, options)
    costs = random.integers(0, 60, (options, len(FIELDS)))
    memory = random.integers(0, 300, options) * random.integers(0, 2, options) if reads else None
    return Layer(name, Role.OTHER, sources, tuple(Folding(i + 1) for i in range(options)), takes, gives, busy, costs, costs, "", memory=memory)


def a_market(seed: int, *, joint: bool = False, reads: bool = False) -> Market:
    """Up to five layers that read one or two of those before, with up to five options each, and limits around what they take; ``joint``: the first
    two are ports of one stream; ``reads``: some options read memory, which gives so much in a cycle."""
    random = np.random.default_rng(seed)
    found: list[Layer] = []
    for index in range(int(random.integers(3, 6))):
        count = 0 if index == 0 or (joint and index == 1) else int(random.integers(1, min(index, 2) + 1))
        names = random.choice(index, count, replace=False) if count else []
        sources = tuple((f"l{name}", int(random.choice([24, 48, 96]))) for name in names)
        found.append(a_layer(f"l{index}", sources, random, int(random.integers(1, 6)), reads=reads))
    usual = sum(layer.costs.mean(axis=0) for layer in found)
    limits = usual * random.uniform(0.5, 2.0, len(FIELDS)) + 60 * random.integers(0, 2)
    bytes_per_cycle = float(random.uniform(0.5, 4.0)) if reads else 0.0
    return Market(found, limits, [["l0", "l1"]] if joint else [], bytes_per_cycle)


def choices(market: Market, target: int) -> Iterator[list[int]]:
    """Every combination of options that keeps the pace, words and ports of one stream minded."""
    for picked in itertools.product(*(range(len(layer.foldings)) for layer in market.layers)):
        if pace_of(market, picked) <= target:
            yield list(picked)


def pace_of(market: Market, picked: tuple[int, ...] | list[int]) -> int:
    busy = [int(layer.busy[i]) for layer, i in zip(market.layers, picked, strict=True)]
    worst = max(busy)
    for index, sources in enumerate(market.sources):
        for source, size in sources:
            cycles = rewidth_cycles(size, market.layers[index].takes[picked[index]], market.layers[source].gives[picked[source]])
            worst = max(worst, int(cycles))
    for ports in market.joint:
        worst = max(worst, sum(busy[i] for i in ports) - (len(ports) - 1) + 2)
    return worst


def taken(market: Market, picked: list[int]) -> FloatArray:
    """As ``Market.costs``, written anew."""
    total = np.zeros(len(COLUMNS))
    for index, layer in enumerate(market.layers):
        total += layer.columns[picked[index]]
        for source, _ in market.sources[index]:
            total += changes(market.layers[source].gives[picked[source]], layer.takes[picked[index]])
    return total


def check_cheapest(market: Market, target: int, overhead: FloatArray) -> None:
    best = min((bad((overhead + taken(market, picked)) / market.limits_at(target)) for picked in choices(market, target)), default=None)
    found = market.cheapest(target, overhead)
    if best is None:
        assert found is None
        return
    assert found is not None
    assert pace_of(market, found.picked) <= target
    assert found.bad == pytest.approx(bad((overhead + taken(market, found.picked)) / market.limits_at(target)))
    assert found.bound <= best * (1 + CLOSE) + CLOSE
    assert best - CLOSE <= found.bad <= (1 + market_module.GAP) * TANGENTS * best + CLOSE


def check_fastest(market: Market, overhead: FloatArray) -> None:
    used = [(picked, overhead + taken(market, picked)) for picked in choices(market, 10**9)]
    there = market.bytes_per_cycle
    fitting = [max(pace_of(market, picked), there and part[-1] / there) for picked, part in used if (part[:-1] <= market.limits).all()]
    looked_at = [pace for pace in market.paces() if pace >= min(fitting, default=np.inf) - CLOSE]  # memory's own lie between them
    found = market.fastest(overhead, lambda done, total: None)
    if not looked_at:
        assert found is None
        return
    assert found is not None
    assert market.fits(found.picked, overhead, found.pace)
    assert pace_of(market, found.picked) <= found.pace
    assert found.bound == found.pace == min(looked_at)


@pytest.mark.parametrize("seed", range(12))
def test_the_bandwidth_is_shared_as_well_as_can_be(seed: int) -> None:
    """Layers some of whose options read memory, against every combination of them."""
    market = a_market(seed, reads=True)
    overhead = np.random.default_rng(seed).uniform(0, 0.2, len(COLUMNS)) * market.limits_at(0)
    for target in np.quantile(market.paces(), [0.1, 0.4, 0.8], method="nearest").tolist():
        check_cheapest(market, int(target), overhead)
    check_fastest(market, overhead)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_against_every_combination(seed: int, joint: bool) -> None:
    market = a_market(seed, joint=joint)
    overhead = np.random.default_rng(seed).uniform(0, 0.2, len(COLUMNS)) * market.limits_at(0)
    for target in np.quantile(market.paces(), [0.1, 0.4, 0.8], method="nearest").tolist():
        check_cheapest(market, int(target), overhead)
    if not joint:  # paces of ports of one stream lie between those that are looked at
        check_fastest(market, overhead)


@pytest.mark.parametrize("wrong", ["costs", "changes", "bound", "spent", "memory"])
def test_a_wrong_answer_is_found(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that forgets what a layer, the changes of width or the overhead take, or what is read, or claims too much of its bound, differs."""
    real = program.cheapest

    def planted(problem: program.Problem, **given: object) -> program.Solved:
        if wrong == "costs":
            problem = replace(problem, shares=[problem.shares[0] * 0, *problem.shares[1:]])
        elif wrong == "changes":
            problem = replace(problem, between=[replace(between, shares=between.shares * 0) for between in problem.between])
        elif wrong == "memory":
            problem = replace(problem, shares=[shares * (np.arange(len(COLUMNS)) < len(FIELDS)) for shares in problem.shares])
        elif wrong == "spent":
            problem = replace(problem, spent=problem.spent * 0)
        solved = real(problem, **given)  # type: ignore[arg-type]
        return replace(solved, bound=solved.bound * 1.5) if wrong == "bound" else solved

    monkeypatch.setattr(program, "cheapest", planted)
    monkeypatch.setattr(program, "relaxed", lambda problem: -np.inf)
    monkeypatch.setattr(market_module, "by_prices", lambda pace, spent: None)
    failed = 0
    for seed in range(40):
        market = a_market(seed, reads=wrong == "memory")
        overhead = np.random.default_rng(seed).uniform(0.1, 0.4, len(COLUMNS)) * market.limits_at(0)
        try:
            check_cheapest(market, int(np.median(market.paces())), overhead)
        except AssertionError:
            failed += 1
    assert failed >= 3


def check_possible(market: Market, target: int, overhead: FloatArray) -> int:
    """Every option of a choice that fits is among those that are possible; how many are not."""
    kept = market._kept(target)
    if kept is None:
        return 0
    problem = market._problem(target, market._pace(target, kept), kept, overhead / market.limits_at(target))
    left = program._possible(problem)
    possible = [set() if left is None else set(own[at].tolist()) for own, at in zip(kept, left or kept, strict=True)]
    within = [set(own.tolist()) for own in kept]
    for picked in choices(market, target):
        fits = market.fits(picked, overhead, target) and all(option in own for option, own in zip(picked, within, strict=True))
        assert not fits or all(option in own for option, own in zip(picked, possible, strict=True))
    return sum(own.size for own in kept) - sum(len(own) for own in possible)


@pytest.mark.parametrize("seed", range(20))
def test_what_cannot_fit_alone_is_left_out(seed: int) -> None:
    market = a_market(seed, joint=bool(seed % 2))
    overhead = np.random.default_rng(seed).uniform(0, 0.2, len(COLUMNS)) * market.limits_at(0)
    for target in np.quantile(market.paces(), [0.1, 0.4, 0.8], method="nearest").tolist():
        check_possible(market, int(target), overhead)


@pytest.mark.parametrize("wrong", ["possible", "decided"])
def test_what_fits_and_is_not_found_is_told(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a possible option is left out, or what is not found is said not to be there, the fastest differs."""
    possible, fitting = program._possible, program.fitting

    def narrower(problem: program.Problem) -> list[program.IntArray] | None:
        found = possible(problem)
        return found and [at[:1] for at in found]

    monkeypatch.setattr(market_module, "by_prices", lambda pace, spent: None)
    if wrong == "possible":
        monkeypatch.setattr(program, "_possible", narrower)
    else:
        monkeypatch.setattr(program, "fitting", lambda problem, nodes: (None, True) if len(problem.shares) > 3 else fitting(problem, nodes=nodes))
    failed, left_out = 0, 0
    for seed in range(40):
        market = a_market(seed)
        overhead = np.zeros(len(COLUMNS))
        try:
            left_out += check_possible(market, int(np.median(market.paces())), overhead)
            check_fastest(market, overhead)
        except AssertionError:
            failed += 1
    assert failed >= 3
    assert left_out


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6))
def test_dominated_options_alone_are_left_out(seed: int) -> None:
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 30))
    takes, gives = random.choice([1, 2], count), random.choice([1, 2], count)
    costs = random.integers(0, 4, (count, 3))
    kept = set(least(takes, gives, costs).tolist())
    for i in range(count):
        others = [
            j
            for j in range(count)
            if (takes[i], gives[i]) == (takes[j], gives[j]) and (costs[j] <= costs[i]).all() and ((costs[j] < costs[i]).any() or j < i)
        ]
        assert (i in kept) == (not others)


def test_the_same_every_time_and_in_silence(capfd: pytest.CaptureFixture[str]) -> None:
    for seed in range(5):
        first, again = (a_market(seed).fastest(np.zeros(len(COLUMNS)), lambda done, total: None) for _ in range(2))
        assert first == again
    assert capfd.readouterr() == ("", "")


def test_what_is_undecided_bounds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the program never answers, and prices find the slowest alone, the bound still holds for the fastest choice there is."""
    overhead, real, looked = np.zeros(len(COLUMNS)), Market._by_prices, 0
    monkeypatch.setattr(Market, "fitting", lambda *given: (None, False))
    for seed in range(60):
        market = a_market(seed)
        there = [picked for picked in choices(market, 10**9) if (taken(market, picked)[:-1] <= market.limits).all()]
        slowest = market.paces()[-1]
        monkeypatch.setattr(Market, "_by_prices", lambda self, target, spent, last=slowest: real(self, target, spent) if target == last else None)
        found = market.fastest(overhead, lambda done, total: None)
        if found is not None and there:
            looked += 1
            assert found.bound <= min(pace for pace in market.paces() if pace >= min(pace_of(market, picked) for picked in there)), seed
    assert looked > 5
