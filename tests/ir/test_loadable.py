"""Loadable constants: exact, and every range holds for whatever may be loaded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qfx.errors import DataError, ExactnessError
from qfx.fixed.type import FixedType
from qfx.ir.graph import Graph, Node
from qfx.ir.interpret import run_raw, trace
from qfx.ir.passes.loadable import loadable_types, make_constant, make_loadable
from qfx.ir.passes.pipeline import optimize
from qfx.ir.values import Const, LoadableConst
from qfx.operators import Affine, ArrayType, Conv, Input, Linear
from qfx.testing import adversarial_inputs, random_graph


def with_others(graph: Graph, rng: np.random.Generator) -> Graph:
    """The graph with other raws in every loadable constant: any, all the least, or all the greatest."""

    def other(held: Const | None) -> Const | None:
        if not isinstance(held, LoadableConst):
            return held
        low, high = held.type.min_raw, held.type.max_raw
        kind = rng.integers(3)
        raw = rng.integers(low, high, held.shape, endpoint=True) if kind == 0 else np.full(held.shape, low if kind == 1 else high)
        return Const(raw, held.frac_bits)

    nodes = []
    for node in graph.nodes:
        op = node.op
        if isinstance(op, Conv | Linear):
            op = replace(op, weight=other(op.weight) or op.weight, bias=other(op.bias))
        elif isinstance(op, Affine):
            op = replace(op, scale=other(op.scale) or op.scale, shift=other(op.shift))
        nodes.append(Node(node.name, op, node.inputs))
    return graph.with_nodes(tuple(nodes))


@settings(max_examples=60)
@given(st.integers(0, 1 << 32))
def test_every_range_holds_for_other_constants(seed: int) -> None:
    rng = np.random.default_rng(seed)
    before = random_graph(rng, max_nodes=6)
    try:
        graph = optimize(make_loadable(before))
    except ExactnessError:
        return  # 64 bits do not hold what could be loaded
    x = adversarial_inputs(before, rng, 6)
    assert np.array_equal(run_raw(graph, x), run_raw(before, x))
    for _ in range(3):
        other = with_others(graph, rng)
        for name, raw in trace(other, x).items():
            assert np.array_equal(other.infos[name].grids, graph.infos[name].grids)
            for channel, held in enumerate(graph.infos[name].stored.spread(raw.shape[1])):
                assert held.lo <= raw[:, channel].min(), name
                assert raw[:, channel].max() <= held.hi, name


def test_there_and_back() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        graph = random_graph(rng)
        try:
            loadable = make_loadable(graph)
        except ExactnessError:
            continue
        graph = make_constant(loadable)  # its constants on one grid each
        assert make_constant(make_loadable(graph)) == graph
        assert make_loadable(loadable, {}) == loadable
        assert make_loadable(graph, loadable_types(loadable)) == loadable
        assert loadable_types(graph) == {}


def linear(weight: list[list[int]], bias: list[int]) -> Graph:
    op = Linear(Const(np.array(weight), 2), Const(np.array(bias), 3))
    return Graph("linear", (Node("x", Input((2,), ArrayType.of(FixedType(3, 3)))), Node("y", op, ("x",))), "y")


def test_types_and_ranges() -> None:
    """Weights of -4 .. 3, inputs of -4 .. 3: a product lies in -12 .. 16; the bias has 8 bits, and one more behind its point."""
    graph = make_loadable(linear([[3, 1], [0, -2]], [5, -7]))
    assert loadable_types(graph) == {"y": (FixedType(3, 1), FixedType(8, 5))}
    interval = graph.infos["y"].interval
    assert (interval.lo, interval.hi, interval.frac_bits) == (-2 * 2 * 12 - 128, 2 * 2 * 16 + 127, 3)
    narrow = linear([[3, 1], [0, -2]], [5, -7]).infos["y"].interval
    assert interval.lo < narrow.lo
    assert narrow.hi < interval.hi


def test_what_a_type_does_not_hold() -> None:
    given_types = {"y": (FixedType(3, 1), FixedType(8, 5))}
    with pytest.raises(DataError, match=r"y: its weight: raws of -2 to 4 are not held by ap_fixed<3,1>"):
        make_loadable(linear([[4, 1], [0, -2]], [5, -7]), given_types)
    with pytest.raises(DataError, match=r"y: its bias: raws of -7 to 128"):
        make_loadable(linear([[3, 1], [0, -2]], [128, -7]), given_types)
    with pytest.raises(DataError, match="not signed on the grid"):
        LoadableConst(np.array([1]), 2, FixedType(3, 1, signed=False))
    assert LoadableConst(np.array([1]), 2, FixedType(3, 1)) != Const(np.array([1]), 2)
    assert LoadableConst(np.array([1]), 2, FixedType(3, 1)) != LoadableConst(np.array([1]), 2, FixedType(4, 2))
