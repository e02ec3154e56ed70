from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qfx import operators as ops
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.ir.graph import Graph, Node
from qfx.ir.text import describe, listing
from qfx.operators import ArrayType, Const
from qfx.testing import random_graph


def const(values: object, frac_bits: int = 0) -> Const:
    return Const(np.array(values, dtype=np.int64), frac_bits)


def network() -> Graph:
    rng = np.random.default_rng(1)
    weight = Const(rng.integers(-128, 128, size=(4, 1, 3, 3)), 7)
    signed = ArrayType.of(FixedType(8, 1, q=QMode.RND_CONV, o=OMode.SAT))
    unsigned = ArrayType(FixedType(4, 2, signed=False, q=QMode.RND, o=OMode.SAT), (2, 1, 0, 2), (4, 1, 1))
    return Graph(
        "digits",
        (
            Node("x", ops.Input((1, 8, 8), signed)),
            Node("conv", ops.Conv(weight, const([3, -5, 0, 9], 4), (1, 1), ((1, 1), (1, 1)), (1, 1), 1), ("x",)),
            Node("act", ops.Cast(unsigned), ("conv",)),
            Node("pool", ops.SumPool((8, 8), (8, 8), ((0, 0), (0, 0))), ("act",)),
            Node("flat", ops.Reshape((4,)), ("pool",)),
            Node("fc", ops.Linear(const([[1, -2, 3, -4], [7, 0, 0, 1]], 2), None), ("flat",)),
            Node("scaled", ops.Affine(const(3, 5), const([1, 1])), ("fc",)),
        ),
        "scaled",
    )


GOLDEN = """\
digits: scaled is the output, 2 of ap_fixed<18,7>

node     operator                            inputs  shape  type             values               raws           acc  constants
x        Input RND_CONV SAT                          1x8x8  ap_fixed<8,1>    -1..0.9921875        -128..127
conv     Conv 3x3 p1                         x       4x8x8  ap_fixed<18,4>   ~-4.97485..~5.34406  -81508..87557   18  36x8 + 4x5
act      Cast RND SAT W=4 I=0..2 over 4x1x1  conv    4x8x8  ap_ufixed<6,2>   0..3.75              0..60
pool     SumPool 8x8 s8                      act     4x1x1  ap_ufixed<12,8>  0..240               0..3840         12
flat     Reshape                             pool    4      ap_ufixed<12,8>  0..240               0..3840
fc       Linear                              flat    2      ap_fixed<16,10>  -360..480            -23040..30720   16  8x4
scaled*  Affine                              fc      2      ap_fixed<18,7>   -32.75..46           -67072..94208   18  1x2 + 2x1

nodes                7
MACs per sample      2,314
constants            51
bits of constants    344
"""


def test_golden() -> None:
    assert listing(network()) == GOLDEN


def test_one_wrong_weight_shows() -> None:
    """The listing tells ranges apart by a single raw."""
    graph = network()
    weight = graph.node("fc").op.weight
    planted = Const(weight.raw + np.array([[0, 0, 0, 0], [0, 0, 0, 1]]), weight.frac_bits)
    nodes = tuple(Node(node.name, ops.Linear(planted, None), node.inputs) if node.name == "fc" else node for node in graph.nodes)
    assert listing(graph.with_nodes(nodes)) != listing(graph)


@pytest.mark.parametrize(
    ("op", "text"),
    [
        (ops.Conv(const(np.ones((4, 1, 3, 1))), None, (2, 1), ((1, 1), (0, 0)), (1, 2), 4), "Conv 3x1 s2x1 p1x0 d1x2 g4"),
        (ops.Conv(const(np.ones((4, 4, 5))), None, (2,), ((0, 3),), (1,), 1), "Conv 5 s2 p0:3"),
        (ops.MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)), "MaxPool 2x2 s2"),
        (ops.MaxPool((3,), (1,), ((1, 1),), (2,)), "MaxPool 3 p1 d2"),
        (ops.SumPool((3, 3), (1, 1), ((2, 2), (2, 2))), "SumPool 3x3 p2"),
        (ops.Cast(ArrayType.of(FixedType(8, 2, o=OMode.WRAP, n=3))), "Cast TRN WRAP n=3"),
        (ops.Cast(ArrayType(FixedType(8, 2), (2, 0), (2, 1))), "Cast TRN WRAP W=8 I=0..2 over 2x1"),
        (ops.Cast(ArrayType(FixedType(8, 2), (2, 2), (2, 1))), "Cast TRN WRAP"),
        (ops.LeakyRelu(-3), "LeakyRelu 2^-3"),
        (ops.Clip(const(-1, 1), const(6)), "Clip -0.5..6"),
        (ops.Clip(const(1, 30), const(3 << 40)), "Clip ~9.31323e-10..~3.29853e+12"),
        (ops.Clip(const(-1, -3), const(0, 3)), "Clip -8..0"),
        (ops.Reshape((2, 3)), "Reshape"),
        (ops.Transpose((1, 0)), "Transpose 1,0"),
        (ops.Pad(((0, 0), (1, 2))), "Pad p0:0x1:2"),
        (ops.Slice((0, 1), (2, 6), (1, 2)), "Slice 0:2,1:6:2"),
        (ops.Take(1, (2, 0, 0)), "Take axis 1 2,0,0"),
        (ops.Take(0, tuple(range(8))), "Take axis 0 0,1,2,3,4,5..(8)"),
        (ops.TopValues(1, 3), "TopValues greatest 3 axis 1"),
        (ops.TopPlaces(0, 1, False), "TopPlaces least 1 axis 0"),
        (ops.Embedding(const(np.ones((7, 3)))), "Embedding 7 rows of 3"),
        (ops.Upsample((2, 3)), "Upsample 2x3"),
        (ops.Stretch((2,)), "Stretch 2"),
        (ops.Add(), "Add"),
    ],
)
def test_operators_in_words(op: ops.Operator, text: str) -> None:
    assert describe(op) == text


def test_constants() -> None:
    assert ops.Relu().constants() == {}
    assert ops.Linear(const([[1]]), None).constants() == {"weight": const([[1]])}
    assert ops.Affine(const(1), const(2)).constants() == {"scale": const(1), "shift": const(2)}


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_any_graph_can_be_listed_the_same_each_time(seed: int) -> None:
    graph = random_graph(np.random.default_rng(seed))
    text = listing(graph)
    assert text == listing(random_graph(np.random.default_rng(seed)))
    rows = [row for row in text.split("\n\n")[1].splitlines() if "::" not in row.split()[0]]
    assert len(rows) == len(graph.nodes) + 1
    assert [row.split()[0].rstrip("*") for row in rows[1:]] == [node.name for node in graph.nodes]
    assert all(line == line.rstrip() for line in text.splitlines())
