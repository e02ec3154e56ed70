"""Every form of a file, run by the tools that it is for, on random graphs: the interpreter's raw integers, or a refusal by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from cells import gru, recurrent

from qfx import operators as ops
from qfx.errors import QfxError, UnsupportedError
from qfx.fixed.arraytype import ArrayType
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.ir.graph import Graph, Node
from qfx.leaving.convert import FORMS, checked, convert
from qfx.leaving.integer import _FORMS as INTEGER_OPERATORS
from qfx.testing import adversarial_feeds, random_graph

SAMPLES = 12
GRAPHS = {"qdq": 60, "qonnx": 15, "integer": 60}


def saturating(graph: Graph, rng: np.random.Generator) -> Graph | None:
    """The graph with casts that saturate, rounding as they did; None where another range breaks a table."""

    def of(node: Node) -> Node:
        if not isinstance(node.op, ops.Input | ops.Cast):
            return node
        o = (OMode.SAT, OMode.SAT_SYM)[int(rng.integers(2))]
        return replace(node, op=replace(node.op, cast=replace(node.op.cast, element=replace(node.op.cast.element, o=o, n=0))))

    try:
        return graph.with_nodes(tuple(map(of, graph.nodes)))
    except QfxError:
        return None


def graphs(form: str, count: int) -> Mapping[int, Graph]:
    found: dict[int, Graph] = {}
    for seed in range(10 * count):
        rng = np.random.default_rng(seed)
        operators = list(INTEGER_OPERATORS) if form == "integer" else [op for op in ops.OPERATORS if op is not ops.Scan]
        drawn = random_graph(rng, several=seed % 3 == 0, operators=operators)
        graph = drawn if form == "integer" else saturating(drawn, rng)
        if graph is not None:
            found[seed] = graph
        if len(found) == count:
            break
    return found


@pytest.mark.parametrize("form", FORMS)
def test_random_graphs_leave_exactly_or_not_at_all(form: str, thorough: bool) -> None:
    places: list[str] = []
    tried = graphs(form, GRAPHS[form] * (10 if thorough else 1))
    for seed, graph in tried.items():
        batch = SAMPLES if form == "qonnx" else None
        try:
            model = convert(graph, form, batch=batch)
        except UnsupportedError as error:
            places += [error.where] if error.where in graph.infos else []
            continue
        assert model.SerializeToString(deterministic=True) == convert(graph, form, batch=batch).SerializeToString(deterministic=True)
        for row in checked(graph, model, form, adversarial_feeds(graph, np.random.default_rng(seed), SAMPLES)):
            assert row.first is None, (seed, row)
        places.append("")
    assert len(places) == len(tried)  # each refusal names a node
    assert places.count("") > len(tried) / 2


def one_cast(q: QMode, o: OMode, x: FixedType, to: FixedType, shape: tuple[int, ...] = (3,)) -> Graph:
    """A cast of all numbers of a type."""
    given = ArrayType.of(x)
    cast = ArrayType.of(replace(to, q=q, o=o))
    return Graph("cast", (Node("x", ops.Input(shape, given)), Node("y", ops.Cast(cast), ("x",))), "y")


@pytest.mark.parametrize("q", QMode)
@pytest.mark.parametrize("o", [OMode.SAT, OMode.SAT_SYM])
@pytest.mark.parametrize("signed", [True, False])
def test_all_numbers_of_a_word_through_every_rounding(q: QMode, o: OMode, signed: bool) -> None:
    graph = one_cast(q, o, FixedType(9, 4, True, QMode.RND_CONV, OMode.SAT), FixedType(5, 3, signed), (1,))
    raws = np.arange(-256, 256)
    for form in FORMS:
        for row in checked(graph, convert(graph, form, batch=len(raws)), form, {"x": (raws / 32.0).astype(np.float32).reshape(-1, 1)}):
            assert row.first is None, (form, row)


@pytest.mark.parametrize("q", QMode)
@pytest.mark.parametrize("int_bits", [3, 9])
@pytest.mark.parametrize("signed", [True, False])
def test_any_float_through_every_rounding_of_the_input(q: QMode, signed: bool, int_bits: int) -> None:
    """Ties, their neighbours and what adding a half would round: the input's cast is of any float32."""
    graph = Graph("input", (Node("x", ops.Input((1,), ArrayType.of(FixedType(6, int_bits, signed, q, OMode.SAT)))),), "x")
    around = np.arange(-70, 70, dtype=np.float32) * np.float32(2.0 ** (int_bits - 7))
    x = np.concatenate(
        [
            around,
            np.nextafter(around, np.float32(np.inf)),
            np.nextafter(around, np.float32(-np.inf)),
            np.array([1e-45, -1e-45, 3e38, -3e38], dtype=np.float32),
        ]
    )
    for form in ("qdq", "qonnx"):
        for row in checked(graph, convert(graph, form, batch=len(x)), form, {"x": x.reshape(-1, 1)}):
            assert row.first is None, (form, row)


def test_a_planted_bit_is_found() -> None:
    """One least significant bit of one weight."""
    weight = ops.Const(np.array([[3, -5, 7]]), 3)
    nodes = (
        Node("x", ops.Input((3,), ArrayType.of(FixedType(8, 4, True, QMode.RND_CONV, OMode.SAT)))),
        Node("dense", ops.Linear(weight, None), ("x",)),
    )
    graph = Graph("planted", nodes, "dense")
    changed = Graph("planted", (nodes[0], Node("dense", ops.Linear(ops.Const(np.array([[3, -4, 7]]), 3), None), ("x",))), "dense")
    x = adversarial_feeds(graph, np.random.default_rng(0), 8)
    for form in FORMS:
        assert all(row.first is None for row in checked(graph, convert(graph, form, batch=8), form, x))
        assert all(row.first is not None for row in checked(graph, convert(changed, form, batch=8), form, x))


def test_refusals_name_the_layer() -> None:
    wide = FixedType(20, 4, True, QMode.RND_CONV, OMode.SAT)
    byte = FixedType(8, 4, True, QMode.RND_CONV, OMode.SAT)
    per_element = ArrayType(FixedType(8, 4, True, QMode.RND_CONV, OMode.SAT), (1, 2, 3, 4), (2, 2))

    def refusal(graph: Graph, form: str) -> tuple[str, str]:
        with pytest.raises(UnsupportedError) as caught:
            convert(graph, form)
        return caught.value.where, caught.value.what

    wraps = one_cast(QMode.TRN, OMode.WRAP, byte, FixedType(5, 2))
    for form in ("qdq", "qonnx"):
        where, what = refusal(wraps, form)
        assert where == "y"
        assert "AP_WRAP" in what
    assert all(
        row.first is None for row in checked(wraps, convert(wraps, "integer"), "integer", adversarial_feeds(wraps, np.random.default_rng(0), 9))
    )
    where, what = refusal(one_cast(QMode.TRN, OMode.WRAP_SM, byte, FixedType(5, 2)), "integer")
    assert where == "y"
    assert "AP_WRAP_SM" in what
    where, what = refusal(one_cast(QMode.RND_CONV, OMode.SAT, wide, FixedType(17, 4)), "qdq")
    assert where == "x"
    assert "20 bits" in what
    two = Graph("elements", (Node("x", ops.Input((2, 2), per_element)),), "x")
    assert refusal(two, "qdq")[0] == "x"
    assert convert(two, "qonnx").graph.node[-1].op_type == "Quant"
    kernel = ops.Conv(ops.Const(np.full((1, 2, 3), 99), 3), None, (1,), ((0, 0),), (1,), 1)
    convolution = Graph("wide", (Node("x", ops.Input((2, 5), ArrayType.of(wide))), Node("c", kernel, ("x",))), "c")
    where, what = refusal(convolution, "qonnx")
    assert where == "c"
    assert "24" in what


def test_loops_are_refused() -> None:
    steps = recurrent(gru(), 4)
    for form in FORMS:
        with pytest.raises(UnsupportedError) as caught:
            convert(steps, form)
        assert caught.value.where == "rnn"


def test_what_cannot_overflow_may_wrap() -> None:
    """A mode that never acts is none."""
    byte = FixedType(8, 4, True, QMode.RND_CONV, OMode.SAT)
    graph = one_cast(QMode.RND, OMode.WRAP, byte, FixedType(7, 5))
    for form in FORMS:
        assert all(
            row.first is None for row in checked(graph, convert(graph, form, batch=9), form, adversarial_feeds(graph, np.random.default_rng(0), 9))
        )
