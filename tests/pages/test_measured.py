"""What a page says of data: the counts are those of the saturation report, histograms hold every number, and errors are those of the casts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qfx import DataError, FixedType, Graph
from qfx import operators as ops
from qfx.ir.graph import Node
from qfx.ir.interpret import run, trace
from qfx.ir.losses import losses
from qfx.ir.values import ArrayType, Const
from qfx.pages.finer import finer
from qfx.pages.measured import BINS, measure
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
    for name, value in found.values.items():
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
    assert picture.codes == 1
    assert picture.step == 2.0**-3
    raws = trace(graph, np.array([[1.0, 1.0], [-2.0, 3.0], [0.125, 0.0]], dtype=np.float32))["out"]
    for code in np.unique(raws).tolist():
        place = round((code * picture.step - picture.low) / picture.step)
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
            for name in reference.kept:
                assert reference.graph.node(name) == graph.node(name)
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
