"""Graphs as steps: what is fused computes what the interpreter does, and what is not exact is refused by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qfx.errors import QfxError, UnsupportedError
from qfx.fixed.type import FixedType
from qfx.hardware.sequential import splitting
from qfx.hardware.sequential.evaluate import evaluate, seen
from qfx.hardware.sequential.memory import places, size
from qfx.hardware.sequential.merging import apart as undone
from qfx.hardware.sequential.merging import joined
from qfx.hardware.sequential.steps import layers
from qfx.hardware.sequential.summary import labels
from qfx.hardware.sequential.values import Kind, Layers
from qfx.ir.feeds import feeds
from qfx.ir.graph import Graph, Node
from qfx.ir.interpret import quantize_inputs, run_from_raws
from qfx.ir.passes.pipeline import optimize
from qfx.ir.values import ArrayType, Const
from qfx.operators import (
    Add,
    Affine,
    Cast,
    Clip,
    Concat,
    Conv,
    Input,
    LeakyRelu,
    Linear,
    MaxPool,
    Mul,
    Pad,
    PRelu,
    ReduceMax,
    ReduceSum,
    Relu,
    Reshape,
    Slice,
    SumPool,
    Upsample,
)  # fmt: skip
from qfx.testing import adversarial_feeds, random_graph

RUNS = (Add, Affine, Cast, Clip, Concat, Conv, LeakyRelu, Linear, MaxPool, Pad, PRelu, ReduceMax, ReduceSum, Relu, Reshape, Slice, SumPool, Upsample)


def typed(text: str) -> ArrayType:
    return ArrayType.of(FixedType.parse(text))


def weights(seed: int, *shape: int, frac_bits: int = 3, bits: int = 4) -> Const:
    return Const(np.random.default_rng(seed).integers(-(1 << bits - 1), 1 << bits - 1, shape), frac_bits)


def conv(seed: int, outputs: int, each: int, kernel: int, *, stride: int = 1, pad: int = 0, groups: int = 1, dilation: int = 1) -> Conv:
    weight, bias = weights(seed, outputs, each, kernel, kernel), weights(seed + 1, outputs, frac_bits=5, bits=8)
    return Conv(weight, bias, (stride, stride), ((pad, pad), (pad, pad)), (dilation, dilation), groups)


def drawn(seed: int) -> Graph | None:
    """A random network of operators that engines have; None where nothing fits."""
    try:
        return optimize(random_graph(np.random.default_rng(seed), operators=RUNS, max_nodes=8))
    except QfxError:
        return None


def differing(graph: Graph, made: Layers, count: int = 3) -> int:
    """Numbers of all outputs in which steps and interpreter differ."""
    raws = quantize_inputs(graph, feeds(graph, adversarial_feeds(graph, np.random.default_rng(1), count)))
    got = evaluate(made, list(raws.values()))
    want = run_from_raws(graph, raws)
    return sum(int((seen(got, value).reshape(raw.shape) != raw).sum()) for value, raw in zip(made.outputs, want, strict=True))


def residual() -> Graph:
    """Two convolutions of which the second joins a shortcut that has no cast of its own, and a flattened matrix-vector product."""
    nodes = (
        Node("x", Input((3, 7, 6), typed("ap_fixed<8,4,AP_RND,AP_SAT>"))),
        Node("conv1", conv(1, 4, 3, 3, pad=1), ("x",)),
        Node("norm1", Affine(weights(2, 4, frac_bits=6, bits=9), weights(3, 4, frac_bits=4, bits=8)), ("conv1",)),
        Node("relu1", Relu(), ("norm1",)),
        Node("cast1", Cast(typed("ap_ufixed<8,3,AP_RND,AP_SAT>")), ("relu1",)),
        Node("conv2", conv(4, 6, 4, 3, stride=2, pad=1), ("cast1",)),
        Node("norm2", Affine(weights(5, 6, frac_bits=7, bits=9), weights(6, 6, frac_bits=3, bits=8)), ("conv2",)),
        Node("short", conv(7, 6, 4, 1, stride=2), ("cast1",)),
        Node("norm3", Affine(weights(8, 6, frac_bits=8, bits=9), None), ("short",)),
        Node("add", Add(), ("norm2", "norm3")),
        Node("cast2", Cast(typed("ap_fixed<7,3,AP_RND_CONV,AP_SAT_SYM>")), ("add",)),
        Node("pool", MaxPool((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)), ("cast2",)),
        Node("flat", Reshape((6 * 2 * 2,)), ("pool",)),
        Node("fc", Linear(weights(9, 5, 24), weights(10, 5, frac_bits=6, bits=8)), ("flat",)),
    )
    return Graph("residual", nodes, "fc")


@settings(deadline=None, max_examples=120)
@given(st.integers(0, 2**32 - 1))
def test_random_networks_as_steps_are_exact_or_refused(seed: int) -> None:
    graph = drawn(seed)
    if graph is None:
        return
    try:
        made = layers(graph)
    except QfxError:  # who refuses what is another test's
        return
    assert differing(graph, made) == 0


def test_one_bit_too_many_is_found() -> None:
    graph = residual()
    made = layers(graph)
    assert differing(graph, made) == 0
    first = made.steps[-1]
    wrong = replace(first, epilogue=replace(first.epilogue, added=first.epilogue.added + 1))
    assert differing(graph, replace(made, steps=(*made.steps[:-1], wrong))) > 0


def test_what_joins_a_step() -> None:
    made = layers(residual())
    assert [step.nodes for step in made.steps] == [
        ("conv1", "norm1", "relu1", "cast1"),
        ("conv2", "norm2"),
        ("short", "norm3", "add", "cast2"),
        ("pool",),
        ("fc",),
    ]
    assert made.steps[2].beside == made.steps[1].target
    assert made.steps[3].kind is Kind.MAXIMUM
    assert made.steps[4].window.kernel == (2, 2)


def flattened() -> Graph:
    """A matrix-vector product of more columns than one step reads, with a cast behind it."""
    nodes = (
        Node("x", Input((80, 5, 5), typed("ap_fixed<6,3>"))),
        Node("pool", SumPool((3, 3), (1, 1), ((0, 0), (0, 0))), ("x",)),
        Node("small", Cast(typed("ap_fixed<6,5,AP_RND,AP_SAT>")), ("pool",)),
        Node("flat", Reshape((720,)), ("small",)),
        Node("fc", Linear(weights(1, 5, 720), weights(2, 5, frac_bits=8, bits=8)), ("flat",)),
        Node("relu", Relu(), ("fc",)),
        Node("cast", Cast(typed("ap_ufixed<7,6,AP_RND,AP_SAT>")), ("relu",)),
    )
    return Graph("flattened", nodes, "cast")


def parted(made: Layers) -> Layers:
    return replace(made, steps=tuple(part for step in made.steps for part in splitting.parts(step)))


def test_products_with_many_columns_come_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = flattened()
    assert len(parted(layers(graph)).steps) == 2
    monkeypatch.setattr(splitting, "MOST_NUMBERS", 9 * 32)
    made = parted(layers(graph))
    assert [(step.source.skip, step.source.channels) for step in made.steps] == [(0, 32), (32, 32), (64, 16)] * 2
    assert [step.target.skip for step in made.steps] == [0, 32, 64, 0, 0, 0]
    assert labels(made.steps) == [f"{name} ({place} of 3)" for name in ("pool", "fc") for place in (1, 2, 3)]
    assert sum(step.macs for step in made.steps) == 5 * 720
    assert differing(graph, made) == 0


def moved() -> Graph:
    """Joined, enlarged and taken, all at whole vectors of channels, from formats of several grids; one output is enlarged."""
    nodes = (
        Node("x", Input((3, 4, 4), typed("ap_fixed<8,4,AP_RND,AP_SAT>"))),
        Node("conv", conv(1, 32, 3, 3, pad=1), ("x",)),
        Node("fine", Cast(typed("ap_fixed<6,3,AP_RND,AP_SAT>")), ("conv",)),
        Node("pool", MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)), ("fine",)),
        Node("up", Upsample((2, 2)), ("pool",)),
        Node("point", conv(2, 4, 3, 1), ("x",)),
        Node("small", Cast(typed("ap_ufixed<7,2,AP_RND,AP_SAT>")), ("point",)),
        Node("joined", Concat(), ("up", "fine", "small")),
        Node("head", conv(3, 3, 68, 3, pad=1), ("joined",)),
        Node("cast", Cast(typed("ap_fixed<8,7,AP_RND,AP_SAT>")), ("head",)),
        Node("taken", Slice((32, 0, 0), (68, 4, 4), (1, 1, 1)), ("joined",)),
        Node("average", SumPool((2, 2), (1, 2), ((0, 0), (0, 0))), ("taken",)),
        Node("wide", Upsample((1, 3)), ("average",)),
        Node("again", Concat(), ("fine", "joined")),
        Node("last", conv(4, 2, 100, 1, stride=2), ("again",)),
    )
    return Graph("moved", nodes, ("cast", "wide", "last"))


def apart() -> Graph:
    """Joined at channels that begin no vector, and an enlarged value that is added to another one, and one that is flattened."""
    nodes = (
        Node("x", Input((3, 4, 6), typed("ap_fixed<8,4,AP_RND,AP_SAT>"))),
        Node("pool", MaxPool((2, 3), (2, 3), ((0, 0), (0, 0)), (1, 1)), ("x",)),
        Node("up", Upsample((2, 3)), ("pool",)),
        Node("point", conv(2, 4, 3, 1), ("x",)),
        Node("small", Cast(typed("ap_ufixed<7,2,AP_RND,AP_SAT>")), ("point",)),
        Node("joined", Concat(), ("up", "small", "up")),
        Node("head", conv(3, 3, 10, 3, pad=1), ("joined",)),
        Node("add", Add(), ("head", "up")),
        Node("cast", Cast(typed("ap_fixed<8,7,AP_RND,AP_SAT>")), ("add",)),
        Node("flat", Reshape((72,)), ("up",)),
        Node("fc", Linear(weights(9, 5, 72), None), ("flat",)),
    )
    return Graph("apart", nodes, ("cast", "fc"))


def test_what_only_moves_takes_no_steps_where_it_can_do_without() -> None:
    graph = moved()
    made = layers(graph)
    assert differing(graph, made) == 0
    assert [step.nodes for step in made.steps] == [
        ("conv", "fine"), ("pool",), ("point", "small"), ("joined",), ("head", "cast"), ("average",), ("wide",), ("again",), ("last",),
    ]  # fmt: skip
    copy = made.steps[3]
    assert (copy.source.name, copy.source.zoom, copy.target.name, copy.target.skip) == ("pool", (2, 2), "again", 32)
    assert [step.target.skip for step in made.steps if step.target.name == "again"] == [64, 96, 32, 0]
    wrong = replace(copy, epilogue=replace(copy.epilogue, added=copy.epilogue.added + 1))
    assert differing(graph, replace(made, steps=(*made.steps[:3], wrong, *made.steps[4:]))) > 0


def test_values_that_are_joined_anywhere_are_placed_by_matrices() -> None:
    graph = apart()
    made = layers(graph)
    assert differing(graph, made) == 0
    assert [step.kind for step in made.steps if step.nodes == ("joined",)] == [Kind.MATRIX] * 3


def test_a_product_that_only_another_adds_is_computed_with_it() -> None:
    graph = residual()
    made = layers(graph)
    together = joined(made)
    assert [step.nodes for step in together.steps] == [
        ("conv1", "norm1", "relu1", "cast1"), ("conv2", "norm2", "short", "norm3", "add", "cast2"), ("pool",), ("fc",),
    ]  # fmt: skip
    assert together.steps[1].beside is None
    assert differing(graph, together) == 0
    assert [step.nodes for step in undone(together.steps[1])] == [step.nodes for step in made.steps[1:3]]
    assert sum(step.macs for step in together.steps) == sum(step.macs for step in made.steps)
    first = together.steps[1].first
    assert first is not None
    wrong = replace(together.steps[1], first=replace(first, epilogue=replace(first.epilogue, added=first.epilogue.added + 100)))
    assert differing(graph, replace(together, steps=(together.steps[0], wrong, *together.steps[2:]))) > 0
    # Not where something else reads it, or where it is bounded on the way.
    read = Graph("residual", (*graph.nodes, Node("cut", Relu(), ("norm2",))), ("fc", "cut"))
    bounded = tuple(replace(node, inputs=("cut", "norm3")) if node.name == "add" else node for node in graph.nodes)
    at = [node.name for node in graph.nodes].index("short")
    cut = Graph("residual", (*bounded[:at], Node("cut", Relu(), ("norm2",)), *bounded[at:]), "fc")
    for other in (read, cut, Graph("residual", graph.nodes, ("fc", "norm2"))):
        assert all(step.first is None for step in joined(layers(other)).steps)


def test_values_that_live_at_once_lie_apart() -> None:
    made = layers(residual())
    found = places(made, 4, 8)
    read: dict[str, int] = {}
    for index, step in enumerate(made.steps):
        for value in (step.source, step.beside):
            if value is not None:
                read[value.name] = index
    born = {step.target.name: index for index, step in enumerate(made.steps)}
    spans = {value.name: (found.at[value.name], found.at[value.name] + size(value, 4, 8)) for value in made.values}
    for one in made.values:
        for other in made.values:
            alive = born.get(one.name, -1) <= read.get(other.name, 99) and born.get(other.name, -1) <= read.get(one.name, 99)
            if one.name != other.name and alive:
                assert spans[one.name][1] <= spans[other.name][0] or spans[other.name][1] <= spans[one.name][0]
    assert found.vectors < sum(size(value, 4, 8) for value in made.values)


def refused(*nodes: Node) -> str:
    graph = Graph("net", (Node("x", Input((2, 4, 4), typed("ap_fixed<8,4>"))), *nodes), nodes[-1].name)
    with pytest.raises(UnsupportedError) as caught:
        layers(graph)
    assert caught.value.where == nodes[-1].name
    assert caught.value.remedy
    return caught.value.what


def test_what_no_step_computes_is_refused_by_name() -> None:
    wide = Cast(typed("ap_fixed<20,10>"))
    assert "Mul" in refused(Node("square", Mul(), ("x", "x")))
    up = Node("up", Upsample((2, 2)), ("x",))
    assert "two enlarged" in refused(up, Node("twice", Add(), ("up", "up")))
    assert "enlarged numbers of 20 bits" in refused(Node("wide", wide, ("x",)), replace(up, inputs=("wide",)), Node("relu", Relu(), ("up",)))
    assert "AP_WRAP_SM" in refused(Node("cast", Cast(typed("ap_fixed<4,3,AP_TRN,AP_WRAP_SM>")), ("x",)))
    assert "20 bits" in refused(Node("wide", wide, ("x",)), Node("conv", conv(1, 2, 2, 3), ("wide",)))
    assert "under the shape" in refused(Node("turned", Reshape((4, 2, 4)), ("x",)))
    elements = ArrayType(FixedType.parse("ap_fixed<8,4>"), tuple([3, 4] * 16), (2, 4, 4))
    assert "per element" in refused(Node("cast", Cast(elements), ("x",)))
    assert "reduces the axes" in refused(Node("sum", ReduceSum((0,)), ("x",)))
