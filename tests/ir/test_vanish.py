"""Channels that are pruned leave the graph, and every executor gives the numbers that it gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.bundles import build_bundle
from torch import Tensor, nn

import qfx
from qfx import Override, Recipe, Spec
from qfx import operators as ops
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.hardware.design.schedule import Schedule
from qfx.ir.graph import Graph, Node
from qfx.ir.interpret import quantize_input, run_raw
from qfx.ir.passes.loadable import make_loadable
from qfx.ir.passes.pipeline import optimize
from qfx.ir.passes.vanish import remove_pruned_channels
from qfx.ir.verify import verify, verify_rewrite
from qfx.operators import ArrayType, Const, Operator
from qfx.testing import adversarial_inputs, assert_bit_exact, random_graph
from qfx.verify import onnx_runtime, raw_of

TYPE = FixedType(8, 4, q=QMode.RND, o=OMode.SAT)


def const(shape: Sequence[int], seed: int, without: Sequence[int] = (), axis: int = 0) -> Const:
    raw = np.random.default_rng(seed).integers(-7, 8, size=shape)
    raw[raw == 0] = 1
    np.moveaxis(raw, axis, 0)[list(without)] = 0
    return Const(raw, 3)


def chain(*middle: Operator, shape: tuple[int, ...] = (3, 4, 4)) -> Graph:
    nodes = [Node("x", ops.Input(shape, ArrayType.of(TYPE)))]
    for index, op in enumerate((*middle, ops.Cast(ArrayType.of(FixedType(12, 7, q=QMode.RND_CONV, o=OMode.SAT))))):
        nodes.append(Node(f"n{index}", op, (nodes[-1].name,)))
    return Graph("chain", tuple(nodes), nodes[-1].name)


def conv(weight: Const, bias: Const | None = None, groups: int = 1) -> ops.Conv:
    return ops.Conv(weight, bias, (1, 1), ((1, 1), (1, 1)), (1, 1), groups)


def check_same(before: Graph, after: Graph, seed: int = 0) -> None:
    x = adversarial_inputs(before, np.random.default_rng(seed), 8)
    verify(after)
    verify_rewrite(before, after, where="test")
    assert_bit_exact(run_raw(after, x, check_ranges=True), run_raw(before, x), names=("after", "before"))


def channels(graph: Graph) -> list[int]:
    return [graph.infos[node.name].shape[0] for node in graph.nodes]


CAST = ops.Cast(ArrayType.of(TYPE))
GRIDS = ops.Cast(ArrayType(TYPE, (4, 3, 2, 4, 4, 4), (6, 1, 1)))
SCALE = ops.Affine(const((6,), 1), const((6,), 2, without=(1, 4)))
NONE = ops.Clip(Const(np.array([-8, -8, 0, -4, 0, -2]).reshape(6, 1, 1), 2), Const(np.array([7, 7, 0, 3, 0, 1]).reshape(6, 1, 1), 2))
ENDS = {
    "convolution": (conv(const((5, 6, 3, 3), 9)),),
    "linear": (ops.MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)), ops.Reshape((24,)), ops.Linear(const((5, 24), 9), const((5,), 8))),
    "depthwise": (conv(const((12, 1, 3, 3), 7), None, 6), CAST, conv(const((5, 12, 3, 3), 9))),
}
FRONTS = {  # which channels of six are 0
    "weights": ((conv(const((6, 3, 3, 3), 3, (1, 4))), CAST), 2),
    "weights, but not the bias": ((conv(const((6, 3, 3, 3), 3, (1, 4)), const((6,), 4, (1,))), CAST), 1),
    "affine": ((conv(const((6, 3, 3, 3), 3, (1, 4))), SCALE, ops.Relu(), GRIDS), 2),
    "no bits": ((conv(const((6, 3, 3, 3), 3)), CAST, NONE), 2),
    "a shift that ReLU cuts": ((conv(const((6, 3, 3, 3), 3, (0,))), ops.Affine(None, Const(np.array([-3, 1, 1, 1, 1, 1]), 2)), ops.Relu(), CAST), 1),
    "a chain of its own": (
        (conv(const((6, 3, 3, 3), 3, (1, 2))), CAST, ops.LeakyRelu(-2), ops.Upsample((2, 2)), ops.SumPool((2, 2), (2, 2), ((0, 0),) * 2), CAST),
        2,
    ),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("front", FRONTS)
def test_channels_that_are_zero_go(front: str, end: str) -> None:
    middle, gone = FRONTS[front]
    graph = chain(*middle, *ENDS[end])
    after = remove_pruned_channels(graph)
    assert channels(after)[: len(middle) + 1] == [3, *[6 - gone] * len(middle)]
    assert channels(after)[-1] == channels(graph)[-1] == 5
    assert sum(node.op.macs(after.infos[node.name]) for node in after.nodes) < sum(node.op.macs(graph.infos[node.name]) for node in graph.nodes)
    check_same(graph, after)
    assert remove_pruned_channels(after) == after


def test_channels_that_meet_zero_weights_alone_go() -> None:
    graph = chain(conv(const((6, 3, 3, 3), 3), const((6,), 2)), CAST, conv(const((5, 6, 3, 3), 4, (0, 5), axis=1)), CAST, ops.Reshape((80,)),
                  ops.Linear(const((4, 80), 5, range(16, 48), axis=1), None))  # fmt: skip
    after = remove_pruned_channels(graph)
    assert channels(after) == [3, 4, 4, 3, 3, 48, 4, 4]
    check_same(graph, after)


def test_one_pruning_makes_others() -> None:
    """The last layer needs one channel; what the layers before made for others goes with them."""
    graph = chain(conv(const((6, 3, 3, 3), 1)), CAST, conv(Const(np.eye(6, dtype=np.int64)[:, :, None, None], 0)), CAST,
                  conv(const((2, 6, 1, 1), 3, (0, 1, 3, 4, 5), axis=1)))  # fmt: skip
    after = remove_pruned_channels(graph)
    assert channels(after) == [3, 1, 1, 1, 1, 2, 2]
    check_same(graph, after)


def test_what_joins_values_keeps_their_channels_together() -> None:
    x = Node("x", ops.Input((4, 3, 3), ArrayType.of(TYPE)))
    a, b = (Node(name, conv(const((4, 4, 3, 3), seed, zero)), ("x",)) for name, seed, zero in (("a", 1, (0, 1)), ("b", 2, (1, 2))))
    sums = Node("sum", ops.Add(), ("a", "b"))
    joined = Node("joined", ops.Concat(), ("sum", "a"))
    end = Node("end", conv(const((3, 8, 3, 3), 3)), ("joined",))
    graph = Graph("join", (x, a, b, sums, joined, end, Node("y", CAST, ("end",))), "y")
    after = remove_pruned_channels(graph)
    assert channels(after) == [4, 3, 3, 3, 6, 3, 3]  # channel 1 of a and b; 0 of a is one of the sum
    check_same(graph, after)


def test_a_value_of_which_nothing_is_left_keeps_a_channel() -> None:
    graph = chain(conv(const((6, 3, 3, 3), 1, range(6))), CAST, conv(const((5, 6, 3, 3), 2), const((5,), 3)))
    after = remove_pruned_channels(graph)
    assert channels(after) == [3, 1, 1, 5, 5]
    check_same(graph, after)


def test_what_stays() -> None:
    dense = chain(conv(const((6, 3, 3, 3), 1)), CAST, conv(const((5, 6, 3, 3), 2)))
    assert remove_pruned_channels(dense) is dense
    turned = chain(conv(const((4, 3, 3, 3), 1, (2,))), CAST, ops.Transpose((1, 0, 2)), conv(const((5, 4, 3, 3), 2)))
    assert remove_pruned_channels(turned) is turned  # channels become something else
    output = chain(conv(const((6, 3, 3, 3), 1, (2,))))
    assert remove_pruned_channels(output) is output
    grouped = chain(conv(const((6, 3, 3, 3), 1, (2,))), CAST, conv(const((4, 3, 3, 3), 2), groups=2))
    assert remove_pruned_channels(grouped) is grouped
    loadable = make_loadable(chain(conv(const((6, 3, 3, 3), 1, (2,))), CAST, conv(const((5, 6, 3, 3), 2))))
    assert remove_pruned_channels(loadable) is loadable


def pruned(graph: Graph, seed: int) -> Graph:
    """With rows and columns of constants put to 0."""
    rng = np.random.default_rng(seed)

    def some(value: Const) -> Const:
        raw = value.raw.copy()
        for axis in range(min(raw.ndim, 2)):
            np.moveaxis(raw, axis, 0)[rng.random(raw.shape[axis]) < rng.choice([0.0, 0.4, 0.9])] = 0
        return Const(raw, value.frac_bits)

    nodes = []
    for node in graph.nodes:
        fields = {name: some(value) for name, value in node.op.constants().items() if isinstance(node.op, ops.Conv | ops.Linear | ops.Affine)}
        nodes.append(replace(node, op=replace(node.op, **fields)) if fields else node)  # type: ignore[type-var]
    return graph.with_nodes(tuple(nodes))


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32 - 1))
def test_random_graphs(seed: int) -> None:
    try:
        graph = pruned(random_graph(np.random.default_rng(seed)), seed)
    except qfx.QfxError:  # the ranges of the rest do not fit what was drawn for them
        return
    check_same(graph, remove_pruned_channels(graph), seed)
    check_same(graph, optimize(graph), seed)


# ---- after training ----------------------------------------------------------------------------------------------------


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 6, 3)
        self.norm, self.out = nn.BatchNorm2d(8), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.a(x))
        y = nn.functional.max_pool2d(torch.relu(y + self.norm(self.b(y))), 2)
        return self.out(torch.relu(self.c(y)).flatten(1))  # type: ignore[no-any-return]


@pytest.mark.usefixtures("gxx")
def test_all_executors_agree_after_training_that_prunes(tmp_path: Path, thorough: bool) -> None:
    torch.manual_seed(0)
    x, labels = torch.randn(16, 2, 8, 8), torch.randint(5, (16,))
    designs, expected = [], []
    for granularity, o in (("element", "AP_SAT"), ("channel", "AP_SAT_SYM"), ("element", "AP_WRAP")):
        spec = Spec(5, learn_width=True, granularity=granularity, o=o)  # type: ignore[arg-type]
        overrides = (Override("out.output", {"learn_width": False}),)
        q = qfx.quantize(Network(), x, Recipe(weight=spec, activation=spec, bias=spec, shift=spec, overrides=overrides))
        optimizer = torch.optim.Adam(qfx.parameter_groups(q, lr=0.01, binary_point_lr=0.1))
        for _ in range(25):
            optimizer.zero_grad()
            cost = torch.stack([cast.bits().mean() for _, cast in qfx.quantizers(q) if cast.spec.learn_width]).sum()
            (nn.functional.cross_entropy(q(x), labels) + 0.2 * cost).backward()
            optimizer.step()
        with torch.no_grad():
            for name in ("a", "b"):  # some channels for certain
                q.get_submodule(name).weight[1::3] = 0
                q.get_submodule(name).bias[1::3] = 0
            norm = q.get_submodule("norm")
            norm.bias[1::3] = norm.running_mean[1::3] = 0
        lengths = torch.cat([cast.word_lengths().flatten() for _, cast in qfx.quantizers(q) if cast.spec.learn_width])
        assert granularity == "channel" or bool((lengths == 0).any())
        graph = qfx.to_graph(q.eval())
        small = optimize(graph)
        assert sum(node.op.macs(small.infos[node.name]) for node in small.nodes) < sum(node.op.macs(graph.infos[node.name]) for node in graph.nodes)
        batch = adversarial_inputs(graph, np.random.default_rng(1), 6)
        raw = run_raw(graph, batch, check_ranges=True)
        with torch.no_grad():
            assert_bit_exact(raw_of(q(torch.from_numpy(batch)).numpy(), graph, "torch"), raw, names=("torch", "interpreter"))
        assert_bit_exact(run_raw(small, batch), raw, names=("what is left", "interpreter"))
        path = tmp_path / f"{granularity}-{o}.onnx"
        qfx.export_onnx(q, path)
        assert qfx.load_graph(path).nodes == graph.nodes
        assert_bit_exact(onnx_runtime(path, graph)(batch), raw, names=("ONNX Runtime", "interpreter"))
        designs.append(small)
        expected.append((quantize_input(graph, batch), raw))
    for fast in (False, True) if thorough else (False,):
        bundle = build_bundle([(graph, Schedule()) for graph in designs], tmp_path / f"bundle{fast}", fast=fast)
        for number, (batch_raw, raw) in enumerate(expected):
            assert_bit_exact(bundle.run_from_raw(number, batch_raw), raw, names=("emulator" if fast else "C simulation", "interpreter"))
