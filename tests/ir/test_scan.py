"""Scan: its type rule, its integer meaning beside a loop of its own, the listing, the passes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from cells import UNIT, WORD, cast, gru, lstm, recurrent

from qfx import operators as ops
from qfx.errors import ExactnessError, ModelFileError
from qfx.fixed.type import FixedType
from qfx.ir.graph import Graph, Node
from qfx.ir.interpret import run_from_raws, run_raw
from qfx.ir.passes.loadable import make_loadable
from qfx.ir.passes.pipeline import optimize
from qfx.ir.text import as_data, listing
from qfx.ir.values import LoadableConst
from qfx.ir.verify import verify
from qfx.operators import ArrayType, Const
from qfx.testing import adversarial_inputs, assert_bit_exact, random_graph


def numbers(graph: Graph, count: int = 20) -> np.ndarray:
    return adversarial_inputs(graph, np.random.default_rng(0), count)


def by_hand(scan: ops.Scan, x_raw: np.ndarray) -> np.ndarray:
    """The body as a model of its own, once for each step; x_raw: (N, T, F) on the grid of the body's input."""
    body = scan.body
    first, *states = body.inputs
    held = {node.name: np.zeros((len(x_raw), *body.infos[node.name].shape), dtype=np.int64) for node in states}
    results = []
    for turn in range(x_raw.shape[1]):
        outputs = run_from_raws(body, {first.name: x_raw[:, turn], **held}, check_ranges=True)
        results.append(outputs[0])
        held = {name: outputs[position] for name, position in zip(held, scan.carried, strict=True)}
    return np.stack(results, 1)


@pytest.mark.parametrize("steps", [1, 7])
@pytest.mark.parametrize("make", [gru, lstm])
def test_a_cell_equals_its_steps_by_hand(make, steps: int) -> None:
    scan = make()
    graph = recurrent(scan, steps)
    verify(graph)
    x = numbers(graph)
    raw = run_raw(graph, x, check_ranges=True)
    x_raw = np.clip(np.floor(np.ldexp(x.astype(np.float64), WORD.frac_bits) + 0.5), WORD.min_raw, WORD.max_raw).astype(np.int64)
    expected = by_hand(scan, x_raw)
    assert_bit_exact(raw, expected)
    assert len(np.unique(raw[:, -1])) > 5
    expected[3, steps - 1, 1] += 1
    with pytest.raises(AssertionError, match="1 of"):
        assert_bit_exact(raw, expected)


def test_the_result_has_the_type_of_a_step() -> None:
    graph = recurrent(lstm(3, 2), 5)
    info = graph.infos["rnn"]
    assert info.shape == (5, 2)
    assert info.type == graph.node("rnn").op.body.infos["h_next"].type
    assert graph.node("rnn").op.states == (("h", "h_next"), ("c", "c_next"))
    assert graph.node("rnn").op.carried == (0, 1)


def cell(*nodes: Node, result: str = "next", states: tuple[str, ...] = ("next",), state: ArrayType | None = None) -> ops.Scan:
    inputs = (Node("x", ops.Input((2,), ArrayType.of(WORD))), Node("h", ops.Input((2,), state or ArrayType.of(UNIT))))
    return ops.Scan.of("cell", (*inputs, *nodes), result, states)


SUM = Node("sum", ops.Add(), ("x", "h"))


def test_a_state_may_have_a_type_for_each_element() -> None:
    own = ArrayType(FixedType(6, 3), (3, 1), (2,))
    scan = cell(SUM, Node("next", ops.Cast(own), ("sum",)), state=own)
    x = np.array([[[0.25, 0.25], [0.5, 1.0], [0.0, 0.0]]], dtype=np.float32)
    raw = run_raw(recurrent(scan, 3), x, check_ranges=True)
    assert raw.tolist() == [[[8, 8], [24, -24], [24, -24]]]  # on 2**-5; the second wraps at 1


def test_a_sequence_of_a_narrower_type_is_moved() -> None:
    scan = cell(SUM, Node("next", cast(UNIT), ("sum",)))
    coarse = FixedType(4, 3)
    graph = Graph("g", (Node("x", ops.Input((2, 2), ArrayType.of(coarse))), Node("rnn", scan, ("x",))), "rnn")
    x = np.array([[[0.5, 0.0], [-1.0, 0.5]]], dtype=np.float32)
    assert run_raw(graph, x).tolist() == [[[64, 0], [-64, 64]]]


@pytest.mark.parametrize(
    ("scan", "message"),
    [
        (cell(SUM, result="sum", states=("sum",)), "the state 'h' is .* and becomes 'sum', .*, which it does not hold"),
        (cell(SUM, Node("next", cast(UNIT), ("sum",)), states=("next", "next")), "its body has 2 inputs, and it carries 2 states"),
        (cell(SUM, Node("next", cast(UNIT), ("sum",)), states=()), "its body has 2 inputs, and it carries 0 states"),
        (
            cell(SUM, Node("next", cast(UNIT), ("sum",)), Node("two", ops.Concat(), ("h", "next")), states=("two",)),
            r"'h' is \(2,\) and becomes 'two'",
        ),
        (replace(cell(SUM, Node("next", cast(UNIT), ("sum",))), carried=(1,)), "of which it carries"),
        (replace(cell(SUM, Node("next", cast(UNIT), ("sum",)), result="x"), carried=(0,)), "of which it carries"),
    ],
)
def test_a_body_that_does_not_fit_is_refused(scan: ops.Scan, message: str) -> None:
    with pytest.raises((ExactnessError, ModelFileError), match=rf"^rnn: .*{message}"):
        recurrent(scan, 3)


@pytest.mark.parametrize(
    ("shape", "type_", "message"),
    [((4, 3), WORD, r"reads steps of \(3,\)"), ((4,), WORD, r"reads steps of \(\)"), ((4, 2), FixedType(9, 3), "does not hold")],
)
def test_a_sequence_that_does_not_fit_is_refused(shape: tuple[int, ...], type_: FixedType, message: str) -> None:
    scan = cell(SUM, Node("next", cast(UNIT), ("sum",)))
    with pytest.raises((ExactnessError, ModelFileError), match=rf"^rnn: .*{message}"):
        Graph("g", (Node("x", ops.Input(shape, ArrayType.of(type_))), Node("rnn", scan, ("x",))), "rnn")


def test_the_listing_shows_the_body() -> None:
    graph = recurrent(gru(2, 3), 4)
    text = listing(graph)
    assert "rnn*" in text
    assert "Scan gru(x) -> next [h := next]" in text
    assert "rnn::r_in" in text
    macs = 3 * (2 + 3) * 3 * 4
    assert f"MACs per sample      {macs}" in text
    data = as_data(graph)
    assert data["macs_per_sample"] == macs
    assert [part["name"] for part in data["nodes"][1]["body"]] == [node.name for node in graph.node("rnn").op.body.nodes]
    json.dumps(data)


def test_passes_work_inside_and_change_nothing() -> None:
    scan = cell(
        SUM,
        Node("dead", ops.Relu(), ("sum",)),
        Node("same", ops.Reshape((2,)), ("sum",)),
        Node("next", cast(UNIT), ("same",)),
    )
    graph = recurrent(scan, 3)
    after = optimize(graph)
    assert [node.name for node in after.node("rnn").op.body.nodes] == ["x", "h", "sum", "next"]
    assert_bit_exact(run_raw(after, numbers(graph)), run_raw(graph, numbers(graph)))


def test_random_scans_keep_their_raws_through_the_passes() -> None:
    seen = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        graph = random_graph(rng)
        if any(isinstance(node.op, ops.Scan) for node in graph.nodes):
            seen += 1
            x = adversarial_inputs(graph, rng, 5)
            assert_bit_exact(run_raw(optimize(graph), x, check_ranges=True), run_raw(graph, x, check_ranges=True))
    assert seen > 5


def test_its_weights_become_loadable_as_others_do_and_its_tables_stay() -> None:
    graph = recurrent(gru(), 3, last=True)
    made = make_loadable(graph)
    assert made.node("fc").op != graph.node("fc").op
    loaded = {name for name, const in made.node("rnn").op.constants().items() if isinstance(const, LoadableConst)}
    assert loaded >= {"r_x.weight", "r_x.bias", "n_h.weight"}
    assert "n.entries" not in loaded
    numbers_of = {name: const.raw for name, const in graph.node("rnn").op.constants().items()}
    assert all(np.array_equal(const.raw, numbers_of[name]) for name, const in made.node("rnn").op.constants().items())
    assert set(graph.node("rnn").op.constants()) >= {"r_x.weight", "r_x.bias", "n_h.weight", "n.entries"}


def test_a_scan_in_a_scan() -> None:
    """Rows of a picture, each of them a sequence."""
    inner = cell(SUM, Node("next", cast(UNIT), ("sum",)))
    inputs = (Node("rows", ops.Input((3, 2), ArrayType.of(WORD))), Node("state", ops.Input((3, 2), ArrayType.of(UNIT))))
    both = Node("both", ops.Sub(), ("along", "state"))
    outer = ops.Scan.of("outer", (*inputs, Node("along", inner, ("rows",)), both, Node("kept", cast(UNIT), ("both",))), "kept", ("kept",))
    graph = Graph("g", (Node("x", ops.Input((2, 3, 2), ArrayType.of(WORD))), Node("rnn", outer, ("x",))), "rnn")
    x = numbers(graph)
    first, second = (run_raw(recurrent(inner, 3), x[:, row]) for row in range(2))
    high = UNIT.max_raw
    expected = np.stack([first, np.clip(second - np.clip(first, -128, high), -128, high)], 1)
    assert_bit_exact(run_raw(graph, x, check_ranges=True), expected)
    assert "rnn::along::sum" in listing(graph)
    assert Const(np.array([1]), 0) not in graph.node("rnn").op.constants().values()
