from __future__ import annotations

import numpy as np
import pytest

from qfx.errors import ExactnessError, ModelFileError
from qfx.fixed.arith import Interval
from qfx.fixed.type import FixedType, OMode
from qfx.ir.graph import Graph, Info, Node, check_name
from qfx.operators import Add, ArrayType, Cast, Const, Input, Linear, Relu

INPUT = Node("x", Input((3,), ArrayType.of(FixedType(8, 4, o=OMode.SAT))))
RELU = Node("relu", Relu(), ("x",))


def test_infos_follow_the_type_rules() -> None:
    total = Node("sum", Add(), ("x", "relu"))
    narrow = Node("narrow", Cast(ArrayType.of(FixedType(6, 4, o=OMode.SAT))), ("sum",))
    graph = Graph("net", (INPUT, RELU, total, narrow), "narrow")
    assert graph.infos == {
        "x": Info((3,), FixedType(8, 4, o=OMode.SAT), Interval(-128, 127, 4)),
        "relu": Info((3,), FixedType(7, 3, signed=False), Interval(0, 127, 4)),
        "sum": Info((3,), FixedType(9, 5), Interval(-128, 254, 4)),
        "narrow": Info((3,), FixedType(6, 4, o=OMode.SAT), Interval(-32, 31, 2)),
    }
    assert graph.input is INPUT
    assert graph.node("sum") is total
    assert graph.consumers("x") == (RELU, total)
    assert graph.consumers("narrow") == ()
    with pytest.raises(KeyError):
        graph.node("absent")


def test_a_graph_is_a_value() -> None:
    graph = Graph("net", (INPUT, RELU), "relu", {"made by": "hand"})
    assert graph == Graph("net", (INPUT, RELU), "relu", {"made by": "hand"})
    shorter = graph.with_nodes((INPUT,), output="x")
    assert (shorter.output, shorter.metadata, tuple(shorter.infos)) == ("x", {"made by": "hand"}, ("x",))
    with pytest.raises(TypeError):
        graph.metadata["made by"] = "accident"  # type: ignore[index]
    with pytest.raises(TypeError):
        graph.infos["x"] = graph.infos["relu"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("nodes", "output", "where", "message"),
    [
        ((), "x", "net", "first node must be the input cast"),
        ((RELU,), "relu", "net", "first node must be the input cast"),
        ((INPUT, RELU, RELU), "relu", "net", "two nodes are called 'relu'"),
        ((INPUT, Node("a", Relu(), ("b",)), Node("b", Relu(), ("x",))), "a", "a", "reads 'b' before it is computed"),
        ((INPUT, Node("a", Relu(), ("a",))), "a", "a", "reads 'a' before it is computed"),
        ((INPUT, RELU), "absent", "net", "the output 'absent' is not a node"),
        ((INPUT, Node("l", Linear(Const(np.ones((2, 2), dtype=np.int64), 0), None), ("x",))), "l", "l", "the weight is"),
    ],
)
def test_what_is_wrong_is_refused(nodes: tuple[Node, ...], output: str, where: str, message: str) -> None:
    with pytest.raises(ModelFileError, match=message) as caught:
        Graph("net", nodes, output)
    assert caught.value.where == where


def test_sums_beyond_int64_are_refused() -> None:
    big = Node("l", Linear(Const(np.full((2, 3), 1 << 60), 0), None), ("x",))
    with pytest.raises(ExactnessError, match=r"l: needs words of 7\d bits"):
        Graph("net", (INPUT, big), "l")


@pytest.mark.parametrize("name", ["", "a b", "a\\b", "/a", "..", "a/../b", "../a", "a/..", "é", 'a"', "a\n", "a;b", "a#"])
def test_names_that_could_leave_a_folder_or_break_a_file_are_refused(name: str) -> None:
    with pytest.raises(ModelFileError, match="is not a name"):
        check_name(name)
    with pytest.raises(ModelFileError, match="is not a name"):
        Graph("net", (INPUT, Node(name, Relu(), ("x",))), name)
    with pytest.raises(ModelFileError, match="is not a name"):
        Graph(name, (INPUT,), "x")


@pytest.mark.parametrize("name", ["x", "layer1.0.conv1", "a/b:0", "a..b", "node-1", "_", "0"])
def test_names_that_are_fine(name: str) -> None:
    assert Graph(name, (INPUT, Node(f"{name}_", Relu(), ("x",))), f"{name}_").name == name
