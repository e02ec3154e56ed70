from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qfx.fixed.type import FixedType
from qfx.ir.graph import Graph, Node
from qfx.ir.interpret import quantize_inputs
from qfx.ir.verify import verify
from qfx.operators import (
    OPERATORS,
    Add,
    Affine,
    ArrayType,
    Cast,
    Const,
    Conv,
    Embedding,
    Input,
    Linear,
    Relu,
    Reshape,
    SumPool,
    accumulator,
)
from qfx.testing import MAX_GROWN_WIDTH, adversarial_feeds, adversarial_inputs, assert_bit_exact, random_graph


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint64, np.float32, np.float64])
def test_equal_arrays_pass_and_one_bit_fails(dtype: type) -> None:
    expected = np.arange(6, dtype=dtype).reshape(2, 3)
    assert_bit_exact(expected.copy(), expected)
    planted = expected.copy()
    planted[1, 0] += 1
    with pytest.raises(AssertionError, match=r"1 of 6 numbers differ; first at \(1, 0\): C simulation has 4.*, interpreter has 3"):
        assert_bit_exact(planted, expected, names=("C simulation", "interpreter"))


def test_the_last_bit_of_wide_numbers_counts() -> None:
    big = np.array([1 << 62])
    with pytest.raises(AssertionError, match="has 4611686018427387905"):
        assert_bit_exact(big + 1, big)
    with pytest.raises(AssertionError):
        assert_bit_exact(np.array([(1 << 63) + 1], dtype=np.uint64), np.array([1 << 63], dtype=np.uint64))
    with pytest.raises(AssertionError):
        assert_bit_exact(np.array([-1]), np.array([(1 << 64) - 1], dtype=np.uint64))
    one = np.array([1.0])
    with pytest.raises(AssertionError, match=r"1.0000000000000002 \(0x1.0000000000001p\+0\)"):
        assert_bit_exact(np.nextafter(one, 2), one)
    with pytest.raises(AssertionError):
        assert_bit_exact(np.array([0.1], dtype=np.float32), np.array([0.1]))
    assert_bit_exact(np.array([0.5], dtype=np.float32), np.array([0.5]))


def test_what_cannot_be_compared() -> None:
    assert_bit_exact(np.array([0.0]), np.array([-0.0]))
    with pytest.raises(AssertionError, match="nan"):
        assert_bit_exact(np.array([np.nan]), np.array([np.nan]))
    with pytest.raises(AssertionError, match=r"shape \(2,\), expected has shape \(1, 2\)"):
        assert_bit_exact(np.zeros(2), np.zeros((1, 2)))
    with pytest.raises(AssertionError, match="compare raws with raws"):
        assert_bit_exact(np.zeros(2), np.zeros(2, dtype=int))
    with pytest.raises(AssertionError, match="neither"):
        assert_bit_exact(np.array([True]), np.array([True]))
    assert_bit_exact(np.zeros((0, 3)), np.zeros((0, 3)))


def test_adversarial_inputs_hold_what_they_promise() -> None:
    type_ = FixedType(6, 3)
    graph = Graph("g", (Node("x", Input((50,), ArrayType.of(type_))),), "x")
    x = adversarial_inputs(graph, np.random.default_rng(0), 60)
    assert (x.dtype, x.shape) == (np.float32, (60, 50))
    assert np.isfinite(x).all()
    assert (x[0] == -4).all()
    assert (x[1] == 3.875).all()
    assert not x[2].any()
    seen = set(x.reshape(-1).tolist())
    for value in (3.9375, -4.0625, 4.0, -4.125, 0.0625, -0.0625, 1e30, -1e30, 2.0**24):
        assert float(np.float32(value)) in seen, value
    assert float(np.nextafter(np.float32(0.0625), np.float32(0))) in seen
    tiny = np.abs(x[(x != 0)]).min()
    assert tiny < np.finfo(np.float32).tiny
    assert np.signbit(x[x == 0]).any()


@settings(deadline=None)
@given(st.integers(-500, 500), st.booleans())
def test_adversarial_inputs_are_finite_for_extreme_types(int_bits: int, signed: bool) -> None:
    graph = Graph("g", (Node("x", Input((4,), ArrayType.of(FixedType(8, int_bits, signed)))),), "x")
    assert np.isfinite(adversarial_inputs(graph, np.random.default_rng(0), 5)).all()


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_random_graphs_are_valid_bounded_and_reproducible(seed: int, max_nodes: int) -> None:
    graph = random_graph(np.random.default_rng(seed), max_nodes=max_nodes)
    assert graph == random_graph(np.random.default_rng(seed), max_nodes=max_nodes)
    assert len(graph.nodes) <= max_nodes + 1
    verify(graph)
    for node in graph.nodes:
        assert graph.infos[node.name].type.width <= MAX_GROWN_WIDTH
        if isinstance(node.op, Conv | Linear | Affine | SumPool):
            assert accumulator(node.op, graph.infos[node.inputs[0]]).width <= MAX_GROWN_WIDTH


def test_adversarial_inputs_number_rows_within_their_table() -> None:
    """Rows of 5 and of 3, numbered by one input, which is moved before; beside it one that numbers nothing."""
    whole = ArrayType.of(FixedType(8, 8))
    tables = [Embedding(Const(np.arange(2 * rows).reshape(rows, 2), 1)) for rows in (5, 3)]
    nodes = (
        Node("x", Input((6,), whole)),
        Node("other", Input((6, 2), whole)),
        Node("moved", Reshape((6,)), ("x",)),
        Node("a", tables[0], ("moved",)),
        Node("b", tables[1], ("x",)),
        Node("sum", Add(), ("a", "b")),
        Node("y", Add(), ("sum", "other")),
    )
    graph = Graph("g", nodes, "y")
    feeds = adversarial_feeds(graph, np.random.default_rng(0), 40)
    raw = quantize_inputs(graph, feeds)
    assert (raw["x"].min(), raw["x"].max()) == (0, 2)
    assert (raw["other"].min(), raw["other"].max()) == (-128, 127)
    one = graph.with_nodes((nodes[0], *nodes[2:4]), "a")
    x = adversarial_inputs(one, np.random.default_rng(0), 40)
    assert set(np.unique(quantize_inputs(one, {"x": x})["x"])) == {0, 1, 2, 3, 4}
    assert (x[1] == 4).all()


def test_random_graphs_reach_everything() -> None:
    graphs = [random_graph(np.random.default_rng(seed)) for seed in range(300)]
    nodes = [(graph, node) for graph in graphs for node in graph.nodes]
    assert {type(node.op) for _, node in nodes} == set(OPERATORS)
    casts = [node.op.cast for _, node in nodes if isinstance(node.op, Cast | Input)]
    assert len({(cast.element.q, cast.element.o) for cast in casts}) == 35
    assert {len(cast.shape) for cast in casts} == {0, 1, 2, 3, 4, 5}
    assert any(cast.element.int_bits < 0 for cast in casts)
    assert any(cast.element.int_bits > cast.element.width for cast in casts)
    assert any(cast.element.n for cast in casts)
    assert {len(graph.infos[graph.input.name].shape) for graph in graphs} == {1, 2, 3, 4, 5}
    assert any(len(graph.consumers(node.name)) > 1 for graph, node in nodes)
    convs = [node.op for _, node in nodes if isinstance(node.op, Conv)]
    for reached in (lambda op: op.groups > 1, lambda op: max(op.dilation) > 1, lambda op: max(op.stride) > 1, lambda op: op.bias is None):
        assert any(map(reached, convs))
        assert not all(map(reached, convs))


def test_the_choice_of_operators_can_be_limited() -> None:
    for seed in range(20):
        graph = random_graph(np.random.default_rng(seed), operators=(Relu, Cast))
        assert {type(node.op) for node in graph.nodes[1:]} <= {Relu, Cast}
        assert len(graph.nodes) > 1


def test_no_torch_and_no_hypothesis_are_loaded() -> None:
    code = "import qfx.testing, sys; sys.exit(any(name in sys.modules for name in ('torch', 'hypothesis')))"
    subprocess.run([sys.executable, "-c", code], check=True)
