"""For every pass: it fires, it must not fire, and the output's raws are the same before and after."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qfx import operators as ops
from qfx.errors import ModelFileError
from qfx.fixed.arith import Interval
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.ir.graph import Graph, Info, Node
from qfx.ir.interpret import run_raw
from qfx.ir.passes.fold_pad import fold_pad
from qfx.ir.passes.pipeline import PIPELINE, optimize
from qfx.ir.passes.simplify import drop_relu_before_unsigned_cast, merge_reshapes, remove_dead, remove_no_ops
from qfx.ir.verify import verify, verify_rewrite
from qfx.operators import ArrayType, Const, Operator
from qfx.testing import adversarial_inputs, assert_bit_exact, random_graph

SIGNED = FixedType(8, 4, q=QMode.RND, o=OMode.SAT)
UNSIGNED = FixedType(8, 4, signed=False, q=QMode.RND, o=OMode.SAT)


def const(values: object, frac_bits: int = 0) -> Const:
    return Const(np.array(values, dtype=np.int64), frac_bits)


def cast(type_: FixedType) -> ops.Cast:
    return ops.Cast(ArrayType.of(type_))


def chain(*middle: Operator, type_: FixedType = SIGNED, shape: tuple[int, ...] = (2, 4), end: Operator | None = None) -> Graph:
    """Input, the operators n0, n1, ... and a last cast, so that the output's type is declared."""
    nodes = [Node("x", ops.Input(shape, ArrayType.of(type_)))]
    for index, op in enumerate((*middle, end or cast(FixedType(9, 7, q=QMode.RND_CONV)))):
        nodes.append(Node(f"n{index}", op, (nodes[-1].name,)))
    return Graph("chain", tuple(nodes), nodes[-1].name)


def kinds(graph: Graph) -> list[str]:
    return [type(node.op).__name__ for node in graph.nodes]


def check_same(before: Graph, after: Graph, seed: int = 0, samples: int = 12) -> None:
    x = adversarial_inputs(before, np.random.default_rng(seed), samples)
    verify(after)
    verify_rewrite(before, after, where="test")
    assert_bit_exact(run_raw(after, x, check_ranges=True), run_raw(before, x), names=("after", "before"))


def fires(pass_: Callable[[Graph], Graph], graph: Graph, expected: list[str]) -> Graph:
    after = pass_(graph)
    assert kinds(after) == expected
    check_same(graph, after)
    return after


def stays(pass_: Callable[[Graph], Graph], graph: Graph) -> None:
    assert pass_(graph) == graph


# --- remove_dead ----------------------------------------------------------------------------------------------------


def test_dead_nodes_go() -> None:
    graph = chain(ops.Relu())
    dead = graph.with_nodes((*graph.nodes, Node("dead", ops.Relu(), ("n0",)), Node("deader", ops.Relu(), ("dead",))))
    assert remove_dead(dead) == graph
    check_same(dead, remove_dead(dead))


def test_living_nodes_stay() -> None:
    graph = chain(ops.Relu())
    shortcut = graph.with_nodes((*graph.nodes, Node("sum", ops.Add(), ("n1", "x"))), output="sum")
    stays(remove_dead, shortcut)


# --- remove_no_ops --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "type_"),
    [
        (ops.Reshape((2, 4)), SIGNED),
        (ops.Transpose((0, 1)), SIGNED),
        (ops.Pad(((0, 0), (0, 0))), SIGNED),
        (ops.Slice((0, 0), (2, 4), (1, 1)), SIGNED),
        (ops.Take(1, (0, 1, 2, 3)), SIGNED),
        (ops.Upsample((1,)), SIGNED),
        (ops.Stretch((1,)), SIGNED),
        (ops.Relu(), UNSIGNED),
        (ops.LeakyRelu(-2), UNSIGNED),
        (ops.LeakyRelu(0), SIGNED),
        (ops.Clip(const(-8), const(8)), SIGNED),
        (ops.Clip(const(-128, 4), const(127, 4)), SIGNED),
        (ops.Affine(const([4, 4], 2), const(0)), SIGNED),
        (ops.Affine(const(1), None), SIGNED),
        (cast(FixedType(8, 4, o=OMode.WRAP)), SIGNED),
        (cast(FixedType(12, 6, o=OMode.WRAP_SM)), SIGNED),
        (cast(FixedType(9, 5, o=OMode.SAT_ZERO)), UNSIGNED),
        (ops.Cast(ArrayType(FixedType(10, 6), (6, 4), (2, 1))), SIGNED),
    ],
)
def test_no_ops_go(op: Operator, type_: FixedType) -> None:
    fires(remove_no_ops, chain(op, type_=type_), ["Input", "Cast"])


@pytest.mark.parametrize(
    ("op", "type_"),
    [
        (ops.Reshape((4, 2)), SIGNED),
        (ops.Reshape((8,)), SIGNED),
        (ops.Transpose((1, 0)), SIGNED),
        (ops.Pad(((0, 0), (0, 1))), SIGNED),
        (ops.Slice((0, 0), (2, 3), (1, 1)), SIGNED),
        (ops.Take(1, (0, 1, 2)), SIGNED),
        (ops.Take(0, (1, 0)), SIGNED),
        (ops.Upsample((2,)), SIGNED),
        (ops.Stretch((2,)), SIGNED),
        (ops.Slice((0, 0), (2, 4), (1, 2)), SIGNED),
        (ops.Slice((0, 1), (2, 4), (1, 1)), SIGNED),
        (ops.Relu(), SIGNED),
        (ops.LeakyRelu(-2), SIGNED),
        (ops.Clip(const(-127, 4), const(127, 4)), SIGNED),
        (ops.Clip(const(-128, 4), const(126, 4)), SIGNED),
        (ops.Affine(const([4, 5], 2), const(0)), SIGNED),
        (ops.Affine(const([1, 1]), const([0, 1])), SIGNED),
        (ops.Affine(const(1, -2), None), SIGNED),
        (cast(FixedType(7, 4, o=OMode.WRAP)), SIGNED),
        (cast(FixedType(8, 3, o=OMode.SAT)), SIGNED),
        (cast(FixedType(8, 4, o=OMode.SAT_SYM)), SIGNED),
        (cast(FixedType(9, 5, signed=False)), SIGNED),
        (cast(FixedType(8, 4, o=OMode.SAT)), UNSIGNED),
        (ops.Cast(ArrayType(FixedType(10, 6), (6, 3), (2, 1))), SIGNED),
    ],
)
def test_operators_that_do_something_stay(op: Operator, type_: FixedType) -> None:
    stays(remove_no_ops, chain(op, type_=type_))


def test_an_output_keeps_its_type() -> None:
    """The last cast changes no number, but it declares the type that leaves."""
    stays(remove_no_ops, chain(end=cast(FixedType(10, 6))))
    fires(remove_no_ops, chain(end=cast(SIGNED)), ["Input"])


def test_a_no_op_with_two_readers_goes() -> None:
    graph = chain(ops.Reshape((2, 4)), ops.Relu())
    both = graph.with_nodes((*graph.nodes, Node("sum", ops.Add(), ("n0", "n2")), Node("end", cast(SIGNED), ("sum",))), output="end")
    assert fires(remove_no_ops, both, ["Input", "Relu", "Cast", "Add", "Cast"]).node("sum").inputs == ("x", "n2")


# --- merge_reshapes -------------------------------------------------------------------------------------------------


def test_reshapes_in_a_row_become_one() -> None:
    after = fires(merge_reshapes, chain(ops.Reshape((8,)), ops.Reshape((4, 2)), ops.Reshape((4, 1, 2))), ["Input", "Reshape", "Cast"])
    assert after.nodes[1].op == ops.Reshape((4, 1, 2))


def test_reshapes_apart_stay() -> None:
    stays(merge_reshapes, chain(ops.Reshape((4, 2)), ops.Transpose((1, 0)), ops.Reshape((8,))))


def test_a_reshape_that_others_read_stays_too() -> None:
    graph = chain(ops.Reshape((8,)), ops.Reshape((8,)))
    both = graph.with_nodes((*graph.nodes, Node("sum", ops.Add(), ("n0", "n2"))), output="sum")
    assert fires(merge_reshapes, both, kinds(both)).node("n1").inputs == ("x",)


# --- fold_pad -------------------------------------------------------------------------------------------------------

CONV = ops.Conv(const([[[1, -2, 3], [2, 0, 1]]], 2), const([5], 4), (2,), ((0, 1),), (1,), 1)


@pytest.mark.parametrize("op", [CONV, ops.SumPool((2,), (1,), ((0, 1),))])
def test_pads_are_folded(op: Operator) -> None:
    after = fires(fold_pad, chain(ops.Pad(((0, 0), (2, 1))), op), ["Input", type(op).__name__, "Cast"])
    assert after.nodes[1].op.pads == ((2, 2),)
    fires(fold_pad, chain(ops.Pad(((0, 0), (1, 0))), ops.Pad(((0, 0), (1, 1))), op), ["Input", type(op).__name__, "Cast"])


def test_pads_of_images_are_folded_axis_by_axis() -> None:
    conv = ops.Conv(const(np.arange(18).reshape(3, 1, 2, 3)), None, (1, 1), ((0, 1), (2, 0)), (1, 1), 1)
    after = fires(fold_pad, chain(ops.Pad(((0, 0), (1, 0), (0, 3))), conv, shape=(1, 2, 3)), ["Input", "Conv", "Cast"])
    assert after.nodes[1].op.pads == ((1, 1), (2, 3))


@pytest.mark.parametrize(
    ("pad", "op"),
    [
        (ops.Pad(((1, 0), (1, 1))), ops.SumPool((2,), (1,), ((0, 0),))),
        (ops.Pad(((0, 0), (1, 1))), ops.MaxPool((2,), (1,), ((0, 0),), (1,))),
        (ops.Pad(((0, 0), (1, 1))), ops.Relu()),
    ],
)
def test_other_pads_stay(pad: Operator, op: Operator) -> None:
    stays(fold_pad, chain(pad, op))


def test_pads_in_front_of_the_greatest_are_folded_where_no_zero_can_win() -> None:
    pool = ops.MaxPool((3,), (1,), ((0, 1),), (1,))
    after = fires(fold_pad, chain(ops.Relu(), ops.Pad(((0, 0), (1, 0))), pool), ["Input", "Relu", "MaxPool", "Cast"])
    assert after.nodes[2].op.pads == ((1, 1),)
    fires(fold_pad, chain(ops.Pad(((0, 0), (1, 0))), pool, type_=UNSIGNED), ["Input", "MaxPool", "Cast"])
    stays(fold_pad, chain(ops.Relu(), ops.Pad(((0, 0), (3, 0))), pool))  # a window of nothing but zeros


def test_a_folded_sum_keeps_the_type_of_the_output() -> None:
    """Folded, windows never hold more than one real value here, so the sum needs fewer bits; as the output it must keep them."""
    pad, pool = ops.Pad(((0, 0), (1, 1))), ops.SumPool((2,), (1,), ((0, 0),))
    stays(fold_pad, chain(pad, shape=(2, 1), end=pool))
    fires(fold_pad, chain(pad, pool, shape=(2, 1)), ["Input", "SumPool", "Cast"])


# --- drop_relu_before_unsigned_cast ---------------------------------------------------------------------------------


@pytest.mark.parametrize("o", [OMode.SAT, OMode.SAT_SYM, OMode.SAT_ZERO])
@pytest.mark.parametrize("q", list(QMode))
def test_a_relu_before_a_saturating_unsigned_cast_goes(q: QMode, o: OMode) -> None:
    end = cast(FixedType(5, 3, signed=False, q=q, o=o))
    fires(drop_relu_before_unsigned_cast, chain(ops.Relu(), end=end), ["Input", "Cast"])
    per_channel = ops.Cast(ArrayType(FixedType(5, 3, signed=False, q=q, o=o), (3, 1), (2, 1)))
    fires(drop_relu_before_unsigned_cast, chain(ops.Relu(), end=per_channel), ["Input", "Cast"])


@pytest.mark.parametrize(
    "end",
    [
        cast(FixedType(5, 3, signed=False)),
        cast(FixedType(5, 3, o=OMode.SAT)),
        cast(FixedType(5, 3, signed=False, o=OMode.WRAP, n=2)),
        ops.LeakyRelu(-1),
    ],
)
def test_a_relu_before_anything_else_stays(end: Operator) -> None:
    stays(drop_relu_before_unsigned_cast, chain(ops.Relu(), end=end))


def test_a_relu_with_another_reader_stays() -> None:
    graph = chain(ops.Relu(), end=cast(UNSIGNED))
    stays(drop_relu_before_unsigned_cast, graph.with_nodes((*graph.nodes, Node("sum", ops.Add(), ("n0", "n1"))), output="sum"))
    stays(drop_relu_before_unsigned_cast, Graph("g", graph.nodes[:2], "n0"))


def test_a_relu_with_two_such_readers_goes() -> None:
    graph = chain(ops.Relu(), end=cast(UNSIGNED))
    more = (Node("other", cast(FixedType(4, 2, signed=False, o=OMode.SAT_ZERO)), ("n0",)), Node("sum", ops.Add(), ("other", "n1")))
    fires(drop_relu_before_unsigned_cast, graph.with_nodes((*graph.nodes, *more), output="sum"), ["Input", "Cast", "Cast", "Add"])


# --- the pipeline ---------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 2**32 - 1))
def test_no_pass_changes_an_output(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, max_nodes=12)
    for pass_ in PIPELINE:
        check_same(graph, pass_(graph), seed)
        assert pass_(pass_(graph)) == pass_(graph)
    check_same(graph, optimize(graph), seed)


def test_random_graphs_exercise_every_pass() -> None:
    graphs = [random_graph(np.random.default_rng(seed), max_nodes=12) for seed in range(1000)]
    for pass_ in PIPELINE[1:]:
        assert any(pass_(graph) != graph for graph in graphs), pass_.__name__


def test_a_checker_of_passes_finds_one_wrong_bit() -> None:
    graph = chain(ops.Affine(const(3), const(1, 3)))
    worse = graph.with_nodes((graph.nodes[0], Node("n0", ops.Affine(const(3), const(2, 3)), ("x",)), graph.nodes[2]))
    with pytest.raises(AssertionError, match="numbers differ"):
        check_same(graph, worse, samples=40)


def test_optimize_names_the_pass_that_breaks_a_graph() -> None:
    def widen(graph: Graph) -> Graph:
        return graph.with_nodes((*graph.nodes, Node("wide", cast(FixedType(20, 9)), (graph.output,))), output="wide")

    def leave_dead(graph: Graph) -> Graph:
        return graph.with_nodes((*graph.nodes, Node("dead", ops.Relu(), (graph.output,))))

    def requantize(graph: Graph) -> Graph:
        return chain(ops.Relu(), type_=UNSIGNED)

    def rename(graph: Graph) -> Graph:
        return Graph("other", graph.nodes, graph.output)

    def shrink(graph: Graph) -> Graph:
        return with_info(graph, "n0", Interval(0, 1, 4))

    for pass_, message in (
        (widen, "widen: changed the output from"),
        (leave_dead, "leave_dead: dead: nothing reads it"),
        (requantize, "requantize: changed the input"),
        (rename, "rename: changed the name"),
        (shrink, "shrink: n0: holds"),
    ):
        with pytest.raises(ModelFileError, match=message):
            optimize(chain(ops.Relu()), (pass_,))


def with_info(graph: Graph, name: str, interval: Interval) -> Graph:
    """A graph whose table is wrong, which its constructor would never make."""
    copy = graph.with_nodes(graph.nodes)
    old = graph.infos[name]
    object.__setattr__(copy, "infos", MappingProxyType({**graph.infos, name: Info(old.shape, old.type, interval)}))
    return copy


def test_a_slope_of_numbers_on_a_grid_coarser_than_one() -> None:
    coarse = FixedType(6, 9, q=QMode.RND, o=OMode.SAT)
    graph = chain(ops.PRelu(const([3, -5], 2)), type_=coarse)
    assert graph.infos["n0"].type.frac_bits == -1
    check_same(graph, optimize(graph))
