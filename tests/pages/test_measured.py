"""What a page says of data: the counts are those of the saturation report, histograms hold every number, and errors are those of the casts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qfx import DataError, FixedType, Graph
from qfx import operators as ops
from qfx.fixed.minifloat import Minifloat
from qfx.ir.graph import Node
from qfx.ir.interpret import run, trace
from qfx.ir.losses import losses
from qfx.ir.values import ArrayType, Const
from qfx.ir.within import MARK, everything
from qfx.pages.bins import BINS, Bins
from qfx.pages.finer import finer
from qfx.pages.measured import bounds, known, measure
from qfx.testing import adversarial_feeds, random_graph


def cast(text: str) -> ArrayType:
    return ArrayType.of(FixedType.parse(text))


def chain(last: str = "ap_fixed<6,3,AP_RND,AP_SAT>", bias: float = 0.0) -> Graph:
    """(2,) -> linear -> cast."""
    weight, shift = Const.of(np.array([[1.0, 0.5], [-1.0, 0.25]])), Const.of(np.array([bias, 0.0]))
    nodes = (
        Node("x", ops.Input((2,), cast("ap_fixed<8,3,AP_RND,AP_SAT>"))),
        Node("fc", ops.Linear(weight, shift), ("x",)),
        Node("out", ops.Cast(cast(last)), ("fc",)),
    )
    return Graph("chain", nodes, "out")


@pytest.mark.parametrize("seed", range(25))
def test_random_graphs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, several=seed % 3 == 0)
    x = adversarial_feeds(graph, rng, 21)
    found = measure(graph, x)
    raws, lost = trace(graph, x), losses(graph, x)
    assert list(found.values) == [name for name, _, _ in known(graph)]
    steps = {name: value for name, value in found.values.items() if MARK in name}
    for value in steps.values():
        assert sum(value.histogram.after) % 21 == 0, seed
        assert value.loss == lost.get(value.name), seed
    for name, value in found.values.items() - steps.items():
        info = graph.infos[name]
        assert sum(value.histogram.after) == 21 * info.size, seed
        assert len(value.histogram.after) <= 3 * BINS + 2
        exact = np.ldexp(raws[name].astype(np.float64), -info.grids)
        assert (value.low, value.high) == (exact.min(), exact.max())
        if value.loss is not None:
            assert value.loss == lost[name]
            assert value.histogram.before is not None
            assert sum(value.histogram.before) == 21 * info.size


def test_a_bin_is_a_code_where_codes_are_few() -> None:
    graph = chain()
    found = measure(graph, np.array([[1.0, 1.0], [-2.0, 3.0], [0.125, 0.0]], dtype=np.float32))
    picture = found.values["out"].histogram
    assert picture.bins.codes == 1
    assert picture.bins.step == 2.0**-3
    raws = trace(graph, np.array([[1.0, 1.0], [-2.0, 3.0], [0.125, 0.0]], dtype=np.float32))["out"]
    for code in np.unique(raws).tolist():
        place = round((code * picture.bins.step - picture.bins.low) / picture.bins.step)
        assert picture.after[place] == int((raws == code).sum())


def test_a_cast_that_loses_nothing_is_exact_and_one_lsb_is_seen() -> None:
    x = np.random.default_rng(0).uniform(-3, 3, (64, 2)).astype(np.float32)
    wide = measure(chain("ap_fixed<14,6>"), x)
    assert wide.values["out"].own_db == math.inf
    narrow = measure(chain("ap_fixed<11,6>"), x)  # one bit fewer than the products' grid of 2**-7 ... 2**-5 holds
    own = narrow.values["out"].own_db
    assert own is not None
    assert math.isfinite(own)
    grid = narrow.values["out"]
    assert grid.loss is not None
    assert grid.loss.rounded > 0


def test_errors_add_up_against_the_finer_graph() -> None:
    graph = chain()
    reference = finer(graph)
    assert reference is not None
    assert (reference.below, reference.above, reference.kept) == (12, 8, ())
    x = np.random.default_rng(1).uniform(-3.9, 3.9, (64, 2)).astype(np.float32)
    exact, real = run(reference.graph, x).astype(np.float64), run(graph, x).astype(np.float64)
    expected = 10 * math.log10((exact**2).sum() / ((exact - real) ** 2).sum())
    found = measure(graph, x).values["out"].db
    assert found is not None
    assert abs(found - expected) < 1e-9  # decibels in float64


def test_casts_in_front_of_tables_stay() -> None:
    seen = 0
    for seed in range(60):
        graph = random_graph(np.random.default_rng(seed))
        reference = finer(graph)
        if reference is not None and reference.kept:
            seen += 1
            assert [node.name for node in reference.graph.nodes] == [node.name for node in graph.nodes]
            finest = {name: node.op for name, node in everything(reference.graph)}
            for name, node in everything(graph):
                if isinstance(node.op, ops.Cast | ops.Input | ops.MinifloatCast):
                    assert (finest[name] == node.op) == (name in reference.kept), (seed, name)
    assert seen


def test_answers() -> None:
    graph = chain("ap_fixed<16,8>")
    x = np.array([[3.0, 0.0], [-3.0, 0.0], [2.0, 1.0], [0.0, 0.0]], dtype=np.float32)  # scores: x0 + x1/2, -x0 + x1/4
    found = measure(graph, x, np.array([0, 1, 1, 0])).answers
    assert found is not None
    assert found.confusion == ((2, 0), (1, 1))  # of equal scores the first is the answer
    assert (found.right, found.total, found.top5) == (3, 4, None)
    with pytest.raises(DataError, match="labels from 0 to 2 for 2 classes"):
        measure(graph, x, np.array([0, 1, 2, 0]))
    with pytest.raises(DataError, match=r"shape \(3,\)"):
        measure(graph, x, np.array([0, 1, 1]))


def test_no_samples() -> None:
    with pytest.raises(DataError, match="no samples"):
        measure(chain(), np.zeros((0, 2), dtype=np.float32))


def test_every_number_of_a_minifloat_has_a_bin() -> None:
    """E2M1 in halves of 1/4: 15 numbers, and a bin at either end for what lies beyond 3."""
    nodes = (
        Node("x", ops.Input((1,), cast("ap_fixed<12,5,AP_RND,AP_SAT>"))),
        Node("out", ops.MinifloatCast(Minifloat.parse("E2M1"), 2), ("x",)),
    )
    x = np.arange(-8, 8, 1 / 64, dtype=np.float32)[:, None]
    found = measure(Graph("small", nodes, "out"), x)
    value = found.values["out"]
    bins, after = value.histogram.bins, value.histogram.after
    assert (bins.count, bins.codes, bins.format) == (17, 1, "E2M1")
    given = trace(Graph("small", nodes, "out"), x)["out"] / 4
    assert after == (0, *(int((given == number).sum()) for number in (-3, -2, -1.5, -1, -0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75, 1, 1.5, 2, 3)), 0)
    assert value.loss == losses(Graph("small", nodes, "out"), x)["out"]
    assert value.loss is not None
    assert value.histogram.before is not None
    ends = value.histogram.before[0], value.histogram.before[-1]
    assert (ends[0] - value.loss.below, ends[1] - value.loss.above) == (0, 0)  # a tie beyond the greatest is beyond it: its mantissa is odd
    assert [bins.within(place, bounds(ops.MinifloatCast(Minifloat.parse("E2M1"), 2))) for place in (0, 1, 15, 16)] == [False, True, True, False]
    reference = found.reference
    assert reference is not None
    assert isinstance(reference.graph.node("out").op, ops.Cast)  # which rounds nothing away
    assert value.db == value.own_db


def test_a_format_of_many_numbers_shares_bins() -> None:
    bins = Bins.of_format(ops.MinifloatCast(Minifloat.parse("E4M3"), 9), -1.0, 1000.0)
    assert (bins.codes, len(bins.numbers)) == (4, 253)
    assert BINS <= bins.count <= BINS + 2
    counts = np.zeros(bins.count, dtype=np.int64)
    bins.count_into(np.array(bins.numbers), counts)
    assert counts[:-2].tolist() == [4] * 63
    assert counts[-2:].tolist() == [1, 0]  # nothing beyond the greatest


def test_the_casts_of_a_loop_are_counted_at_all_steps() -> None:
    """h := cast(h / 2 + x) for three steps, and what each step loses, by hand."""
    body = (
        Node("now", ops.Input((1,), cast("ap_fixed<6,3>"))),
        Node("h", ops.Input((1,), cast("ap_fixed<6,3,AP_TRN,AP_SAT>"))),
        Node("half", ops.Linear(Const(np.array([[1]]), 1), None), ("h",)),
        Node("sum", ops.Add(), ("half", "now")),
        Node("next", ops.Cast(cast("ap_fixed<6,3,AP_TRN,AP_SAT>")), ("sum",)),
    )
    nodes = (
        Node("x", ops.Input((3, 1), cast("ap_fixed<6,3>"))),
        Node("loop", ops.Scan.of("body", body, "next", ("next",)), ("x",)),
    )
    graph = Graph("looped", nodes, "loop")
    found = measure(graph, np.array([[[0.125], [0.125], [3.75]]], dtype=np.float32)).values["loop::next"]
    # 0.125 exactly; 0.1875 to 0.125; 3.8125 to 3.75
    assert found.loss == losses(graph, np.array([[[0.125], [0.125], [3.75]]], dtype=np.float32))["loop::next"]
    assert found.loss is not None
    assert (found.loss.values, found.loss.rounded, found.loss.above) == (3, 2, 0)
    assert (found.low, found.high, found.before) == (0.125, 3.75, (0.125, 3.8125))
    assert sum(found.histogram.after) == 3
    signal, noise = 0.125**2 + 0.1875**2 + 3.8125**2, 2 * 0.0625**2
    assert found.own_db is not None
    assert abs(found.own_db - 10 * math.log10(signal / noise)) < 1e-9  # decibels in float64
    exact = (0.125, 0.1875, 3.84375)  # of the finer loop, which forgets nothing on the way
    given = (0.125, 0.125, 3.75)
    expected = 10 * math.log10(sum(e * e for e in exact) / sum((e - g) ** 2 for e, g in zip(exact, given, strict=True)))
    assert found.db is not None
    assert abs(found.db - expected) < 1e-9  # decibels in float64
