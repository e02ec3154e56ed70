from __future__ import annotations

from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qfx.errors import DataError, ExactnessError
from qfx.fixed.arith import Interval
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.ir import interpret
from qfx.ir.graph import Graph, Info, Node
from qfx.operators import Add, ArrayType, Cast, Const, Conv, Input, Mul, Relu
from qfx.testing import adversarial_inputs, assert_bit_exact, random_graph

EIGHT = ArrayType.of(FixedType(8, 4, q=QMode.RND, o=OMode.SAT))


def small() -> Graph:
    conv = Conv(Const(np.array([[[1, -2]], [[3, 1]]]), 1), Const(np.array([1, -1]), 0), (1,), ((1, 0),), (1,), 1)
    nodes = (Node("x", Input((1, 3), EIGHT)), Node("conv", conv, ("x",)), Node("relu", Relu(), ("conv",)), Node("sum", Add(), ("relu", "conv")))
    return Graph("small", nodes, "sum")


def test_by_hand() -> None:
    graph = small()
    x = np.array([[[0.5, -1.0, 0.03125]]], dtype=np.float32)  # 0.03125 is half a bit: 0.0625
    traced = interpret.trace(graph, x, check_ranges=True)
    assert traced["x"].tolist() == [[[8, -16, 1]]]
    # grid 2**-5: channel 0 is 1 + (x[i-1] - 2 x[i]) / 2, channel 1 is -1 + (3 x[i-1] + x[i]) / 2
    assert traced["conv"].tolist() == [[[16, 72, 14], [-24, -24, -79]]]
    assert traced["relu"].tolist() == [[[16, 72, 14], [0, 0, 0]]]
    assert traced["sum"].tolist() == [[[32, 144, 28], [-24, -24, -79]]]
    y = interpret.run(graph, x)
    assert y.dtype == np.float32
    assert y.tolist() == [[[1.0, 4.5, 0.875], [-0.75, -0.75, -2.46875]]]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_all_ways_to_run_agree(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = random_graph(rng)
    x = adversarial_inputs(graph, rng, 5)
    raw = interpret.run_raw(graph, x, check_ranges=True)
    x_raw = interpret.quantize_input(graph, x)
    traced = interpret.trace(graph, x)
    assert list(traced) == [node.name for node in graph.nodes]
    assert_bit_exact(traced[graph.input.name], x_raw)
    assert_bit_exact(interpret.output_raw(graph, traced[graph.output]), raw)
    assert_bit_exact(interpret.run_from_raw(graph, x_raw, check_ranges=True), raw)
    assert_bit_exact(interpret.run_raw(graph, x.astype(np.float64)), raw)
    assert_bit_exact(interpret.run(graph, x).astype(np.float64), raw * 2.0 ** -graph.infos[graph.output].type.frac_bits)
    one_by_one = np.concatenate([interpret.run_raw(graph, sample[None]) for sample in x])
    assert_bit_exact(one_by_one, raw)


def test_the_length_of_a_batch_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = small()
    x = adversarial_inputs(graph, np.random.default_rng(0), 11)
    expected = interpret.trace(graph, x)
    monkeypatch.setattr(interpret, "WORKING_ELEMENTS", 40)
    assert len(list(interpret._batches(graph, {"x": x}))) > 3
    for name, raw in interpret.trace(graph, x).items():
        assert_bit_exact(raw, expected[name])
    assert_bit_exact(interpret.run_from_raw(graph, expected["x"]), expected["sum"])


def test_no_samples_give_no_results() -> None:
    graph = small()
    x = np.empty((0, 1, 3), dtype=np.float32)
    assert interpret.run(graph, x).shape == (0, 2, 3)
    assert interpret.run_from_raw(graph, interpret.quantize_input(graph, x), check_ranges=True).shape == (0, 2, 3)


def test_the_dtype_of_the_values_follows_the_output_type() -> None:
    x = Node("x", Input((1,), ArrayType.of(FixedType(24, 4, signed=False))))
    square, fourth = Node("square", Mul(), ("x", "x")), Node("fourth", Mul(), ("square", "square"))
    value = np.array([[1 + 2.0**-20]])
    assert interpret.run(Graph("g", (x,), "x"), value).dtype == np.float32
    two = interpret.run(Graph("g", (x, square), "square"), value)
    assert two.dtype == np.float64
    assert two[0, 0] == (1 + 2.0**-20) ** 2
    narrow = Node("x", Input((1,), ArrayType.of(FixedType(15, 1, signed=False))))
    graph = Graph("g", (narrow, square, fourth), "fourth")
    odd = np.array([[(2**15 - 1) * 2.0**-14]])
    with pytest.raises(ExactnessError, match="more than 53 bits"):
        interpret.run(graph, odd)
    assert interpret.run_raw(graph, odd).tolist() == [[(2**15 - 1) ** 4]]


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((2, 3), dtype=np.float32), r"x: expected the shape \(N, 1, 3\), got \(2, 3\)"),
        (np.zeros((1, 1, 4), dtype=np.float32), r"expected the shape \(N, 1, 3\), got \(1, 1, 4\)"),
        (np.zeros((), dtype=np.float32), r"got \(\)"),
        (np.zeros((1, 1, 3), dtype=np.complex64), "expected a float32 or float64 array, got complex64"),
        (np.zeros((1, 1, 3), dtype=np.float16), "got float16"),
        ([[[0.0, 0.0, 0.0]]], "got list"),
        (np.array([[[0.0, np.nan, 0.0]]]), r"got nan at \(0, 0, 1\)"),
        (np.array([[[0.0, 0.0, -np.inf]]]), r"got -inf at \(0, 0, 2\)"),
    ],
)
def test_wrong_data_are_refused(x: np.ndarray, message: str) -> None:
    for run in (interpret.run, interpret.run_raw, interpret.trace, interpret.quantize_input):
        with pytest.raises(DataError, match=message):
            run(small(), x)


def test_wrong_raws_are_refused() -> None:
    graph = small()
    with pytest.raises(DataError, match="expected int64 raws, got float32"):
        interpret.run_from_raw(graph, np.zeros((1, 1, 3), dtype=np.float32))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"expected the shape \(N, 1, 3\), got \(1, 3\)"):
        interpret.run_from_raw(graph, np.zeros((1, 3), dtype=np.int64))
    with pytest.raises(DataError, match=r"expected raws in \[-128, 127\], got \[0, 128\]"):
        interpret.run_from_raw(graph, np.array([[[0, 5, 128]]]))


def tampered(graph: Graph, name: str, info: Info) -> Graph:
    """The graph with a wrong Info, which its constructor would never make."""
    object.__setattr__(graph, "infos", MappingProxyType({**graph.infos, name: info}))
    return graph


def test_the_range_check_finds_a_range_that_is_one_too_small() -> None:
    x = np.full((1, 1, 3), 100, dtype=np.float32)
    graph = small()
    top = int(interpret.trace(graph, x, check_ranges=True)["conv"].max())
    honest = graph.infos["conv"]
    exact = Info(honest.shape, honest.type, Interval(honest.interval.lo, top, honest.interval.frac_bits))
    interpret.run_raw(tampered(small(), "conv", exact), x, check_ranges=True)
    short = Info(honest.shape, honest.type, Interval(honest.interval.lo, top - 1, honest.interval.frac_bits))
    with pytest.raises(ExactnessError, match="conv: gave raws in"):
        interpret.run_raw(tampered(small(), "conv", short), x, check_ranges=True)
    reshaped = Info((3, 2), honest.type, honest.interval)
    with pytest.raises(ExactnessError, match=r"conv: gave int64 \(2, 3\) where \(3, 2\) was inferred"):
        interpret.run_raw(tampered(small(), "conv", reshaped), x, check_ranges=True)


def test_input_per_element() -> None:
    cast = ArrayType(FixedType(4, 4, q=QMode.RND, o=OMode.SAT), (4, 2, 0), (3,))
    graph = Graph("g", (Node("x", Input((3,), cast)), Node("y", Cast(ArrayType.of(FixedType(8, 4))), ("x",))), "x")
    assert interpret.run(graph, np.array([[1.4, 1.4, 1.4], [1.5, 0.1, 0.1]])).tolist() == [[1.0, 1.5, 0.4375], [2.0, 0.0, 0.125]]
