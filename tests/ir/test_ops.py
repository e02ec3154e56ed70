"""Every operator against an oracle that shares no code with it: torch in float64 for the exact ones, reference.py for casts."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from op_cases import info

from qfx import operators as ops
from qfx.errors import ModelFileError
from qfx.fixed.reference import cast_fraction
from qfx.ir.graph import Graph, Node
from qfx.ir.interpret import trace
from qfx.ir.text import describe
from qfx.operators import OPERATORS, ArrayType, Const
from qfx.testing import adversarial_inputs, assert_bit_exact, random_graph


def values(raw: np.ndarray, frac_bits: np.ndarray | int) -> torch.Tensor:
    return torch.ldexp(torch.tensor(raw).double(), torch.tensor(-frac_bits))


def const_values(c: Const) -> torch.Tensor:
    return values(c.raw, c.grids)


def torch_pad(x: torch.Tensor, pads: ops.Pads) -> torch.Tensor:
    return F.pad(x, [pad for pair in reversed(pads) for pad in pair])


def channelwise(c: Const, x: torch.Tensor) -> torch.Tensor:
    found = const_values(c)
    return found.reshape(-1, *(1,) * (x.ndim - 2)) if found.ndim < 2 else found


def oracle_conv(op: ops.Conv, x: torch.Tensor) -> torch.Tensor:
    conv = F.conv1d if x.ndim == 3 else F.conv2d
    bias = None if op.bias is None else const_values(op.bias)
    return conv(torch_pad(x, op.pads), const_values(op.weight), bias, op.stride, 0, op.dilation, op.groups)


def oracle_max_pool(op: ops.MaxPool, x: torch.Tensor) -> torch.Tensor:
    padded = F.pad(x, [pad for pair in reversed(op.pads) for pad in pair], value=-torch.inf)
    pool = F.max_pool1d if x.ndim == 3 else F.max_pool2d
    return pool(padded, op.kernel, op.stride, 0, op.dilation)


def oracle_sum_pool(op: ops.SumPool, x: torch.Tensor) -> torch.Tensor:
    channels = x.shape[1]
    ones = torch.ones(channels, 1, *op.kernel, dtype=torch.float64)
    conv = F.conv1d if x.ndim == 3 else F.conv2d
    return conv(torch_pad(x, op.pads), ones, None, op.stride, 0, 1, channels)


def oracle_stretch(op: ops.Stretch, x: torch.Tensor) -> torch.Tensor:
    """Along each axis a transposed convolution by a single 1."""
    for axis, factor in enumerate(op.factors, start=2):
        rows = x.movedim(axis, -1)
        lines = F.conv_transpose1d(rows.reshape(-1, 1, rows.shape[-1]), torch.ones(1, 1, 1, dtype=x.dtype), stride=factor)
        x = lines.reshape(*rows.shape[:-1], lines.shape[-1]).movedim(-1, axis)
    return x


def oracle_minifloat(op: ops.MinifloatCast, x: torch.Tensor) -> torch.Tensor:
    """Number by number, by the definition of the format."""
    moved = Fraction(2) ** (op.frac_bits - op.kind.frac_bits)
    found = [op.kind.value(op.kind.code(Fraction(value) * moved)) / moved for value in x.flatten().tolist()]
    return torch.tensor([float(value) for value in found], dtype=torch.float64).reshape(x.shape)


def oracle_upsample(op: ops.Upsample, x: torch.Tensor) -> torch.Tensor:
    for axis, factor in enumerate(op.factors, start=2):
        x = x.repeat_interleave(factor, axis)
    return x


def places(op: ops.Lookup | ops.LookupLinear, x: torch.Tensor) -> torch.Tensor:
    return (x * 2.0**op.frac_bits).long() - op.first


def oracle_lookup_linear(op: ops.LookupLinear, x: torch.Tensor) -> torch.Tensor:
    place = places(op, x)
    line = place // 2**op.shift
    return const_values(op.values)[line] + const_values(op.slopes)[line] * (place - line * 2**op.shift)


def oracle_scan(op: ops.Scan, x: torch.Tensor) -> torch.Tensor:
    """The body by its own operators' oracles, step by step."""
    first, *states = (node.name for node in op.body.inputs)
    held = {name: torch.zeros(len(x), *op.body.infos[name].shape, dtype=torch.float64) for name in states}
    results = []
    for step in x.unbind(1):
        known = {first: step, **held}
        for node in op.body.nodes[len(known) :]:
            sources = [known[name] for name in node.inputs]
            if isinstance(node.op, ops.Cast):
                cast = oracle_cast(node.op.cast, [Fraction(value) for value in sources[0].reshape(-1).tolist()], sources[0].shape[1:])
                known[node.name] = torch.tensor([float(value) for value in cast], dtype=torch.float64).reshape(sources[0].shape)
            else:
                known[node.name] = ORACLE[type(node.op)](node.op, *sources)
        results.append(known[op.result])
        held = {name: known[following] for name, following in op.states}
    return torch.stack(results, 1)


COMPARISONS = {">": torch.gt, ">=": torch.ge, "<": torch.lt, "<=": torch.le}

ORACLE = {
    ops.MinifloatCast: oracle_minifloat,
    ops.Conv: oracle_conv,
    ops.Linear: lambda op, x: F.linear(x, const_values(op.weight), None if op.bias is None else const_values(op.bias)),
    ops.Affine: lambda op, x: x * (1 if op.scale is None else channelwise(op.scale, x)) + (0 if op.shift is None else channelwise(op.shift, x)),
    ops.Add: lambda op, x, y: x + y,
    ops.Sub: lambda op, x, y: x - y,
    ops.Mul: lambda op, x, y: x * y,
    ops.MatMul: lambda op, x, y: x @ y,
    ops.Relu: lambda op, x: F.relu(x),
    ops.LeakyRelu: lambda op, x: F.leaky_relu(x, 2.0**op.log2_slope),
    ops.Clip: lambda op, x: torch.clamp(x, *(None if bound is None else const_values(bound) for bound in (op.low, op.high))),
    ops.PRelu: lambda op, x: torch.where(x < 0, x * channelwise(op.slope, x), x),
    ops.Compare: lambda op, x: COMPARISONS[op.sign](x, const_values(op.bound)).double(),
    ops.MaxPool: oracle_max_pool,
    ops.SumPool: oracle_sum_pool,
    ops.Concat: lambda op, *xs: torch.cat(xs, dim=1),
    ops.Reshape: lambda op, x: x.reshape(-1, *op.shape),
    ops.Transpose: lambda op, x: x.permute(0, *(axis + 1 for axis in op.perm)),
    ops.Pad: lambda op, x: torch_pad(x, op.pads),
    ops.Slice: lambda op, x: x[(slice(None), *(slice(*bounds) for bounds in zip(op.starts, op.stops, op.steps, strict=True)))],
    ops.Take: lambda op, x: x.index_select(op.axis + 1, torch.tensor(op.indices)),
    ops.TopValues: lambda op, x: x.sort(dim=op.axis + 1, descending=op.largest, stable=True).values.narrow(op.axis + 1, 0, op.count),
    ops.TopPlaces: lambda op, x: x.sort(dim=op.axis + 1, descending=op.largest, stable=True).indices.narrow(op.axis + 1, 0, op.count).double(),
    ops.Embedding: lambda op, x: const_values(op.rows)[x.long().clamp(0, len(op.rows.raw) - 1)],
    ops.Upsample: oracle_upsample,
    ops.Stretch: oracle_stretch,
    ops.Lookup: lambda op, x: const_values(op.entries)[places(op, x)],
    ops.LookupLinear: oracle_lookup_linear,
    ops.Expand: lambda op, x: x.expand(-1, *op.shape),
    ops.Max: lambda op, x, y: torch.maximum(x, y),
    ops.Min: lambda op, x, y: torch.minimum(x, y),
    ops.ReduceSum: lambda op, x: x.sum([axis + 1 for axis in op.axes], keepdim=True),
    ops.ReduceMax: lambda op, x: x.amax([axis + 1 for axis in op.axes], keepdim=True),
    ops.ReduceMin: lambda op, x: x.amin([axis + 1 for axis in op.axes], keepdim=True),
    ops.Scan: oracle_scan,
}


def oracle_cast(cast: ArrayType, source: list[Fraction], shape: tuple[int, ...]) -> list[Fraction]:
    """One by one, in exact rationals."""
    types = np.empty(cast.shape, dtype=object)
    types.reshape(-1)[:] = cast.types
    per_element = np.broadcast_to(types, shape).reshape(-1).tolist()
    return [cast_fraction(value, type_) * type_.lsb for value, type_ in zip(source, per_element * (len(source) // len(per_element)), strict=True)]


def check_node(graph: Graph, node: Node, traced: dict[str, np.ndarray], x: np.ndarray) -> None:
    out = graph.infos[node.name]
    if isinstance(node.op, ops.Input | ops.Cast):
        if isinstance(node.op, ops.Input):
            source = [Fraction(float(value)) for value in x.reshape(-1)]
        else:
            raws = traced[node.inputs[0]]
            grids = np.broadcast_to(graph.infos[node.inputs[0]].grids, raws.shape)
            source = [raw * Fraction(2) ** -bits for raw, bits in zip(raws.reshape(-1).tolist(), grids.reshape(-1).tolist(), strict=True)]
        expected = oracle_cast(node.op.cast, source, out.shape)
        assert [raw * out.type.lsb for raw in traced[node.name].reshape(-1).tolist()] == expected, node
    else:
        sources = [values(traced[name], graph.infos[name].grids) for name in node.inputs]
        expected = ORACLE[type(node.op)](node.op, *sources)
        assert_bit_exact(values(traced[node.name], out.grids).numpy(), expected.numpy(), names=(str(node), "torch"))


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 2**32 - 1))
@example(170822)  # a minifloat cast of channels on grids finer and coarser than its own
def test_random_graphs_equal_the_oracle_and_stay_in_range(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = random_graph(rng)
    x = adversarial_inputs(graph, rng, 6)
    traced = trace(graph, x, check_ranges=True)
    for node in graph.nodes:
        check_node(graph, node, traced, x)


def test_the_oracle_finds_one_wrong_bit() -> None:
    rng = np.random.default_rng(0)
    graph = random_graph(rng, max_nodes=8)
    x = adversarial_inputs(graph, rng, 2)
    traced = trace(graph, x)
    for node in graph.nodes:
        bad = dict(traced)
        bad[node.name] = traced[node.name].copy()
        bad[node.name].reshape(-1)[-1] += 1
        with pytest.raises(AssertionError):
            check_node(graph, node, bad, x)


# --- the closed set -------------------------------------------------------------------------------------------------------------------


def test_the_set_is_complete() -> None:
    homes = {value for value in vars(ops).values() if isinstance(value, type) and issubclass(value, ops.Operator) and value is not ops.Operator}
    assert homes == set(OPERATORS)
    assert set(ORACLE) | {ops.Input, ops.Cast} == set(OPERATORS)


@pytest.fixture(scope="module")
def samples() -> dict[type, tuple[Graph, Node]]:
    """One node of each operator, out of random graphs."""
    found: dict[type, tuple[Graph, Node]] = {}
    for seed in itertools.count():
        graph = random_graph(np.random.default_rng(seed))
        for node in graph.nodes:
            found.setdefault(type(node.op), (graph, node))
        if len(found) == len(OPERATORS):
            return found
        assert seed < 500, f"random graphs never contain {set(OPERATORS) - set(found)}"
    raise AssertionError


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.__name__)
def test_every_operator_has_every_piece(operator: type, samples: dict[type, tuple[Graph, Node]]) -> None:
    graph, node = samples[operator]
    inputs = tuple(graph.infos[name] for name in node.inputs)
    assert node.op.infer(node.name, inputs) == graph.infos[node.name]
    assert callable(node.op.evaluate)
    assert describe(node.op).split()[0] == operator.__name__
    assert operator.__doc__
    assert not operator.__doc__.startswith(operator.__name__ + "("), "the docstring is the one that dataclass writes"
    assert hash(node.op) == hash(node.op)


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.__name__)
def test_a_wrong_number_of_inputs_is_refused(operator: type, samples: dict[type, tuple[Graph, Node]]) -> None:
    graph, node = samples[operator]
    inputs = tuple(graph.infos[name] for name in node.inputs)
    wrong = inputs[:1] if operator is ops.Concat else (*inputs, info((2,)))
    with pytest.raises(ModelFileError, match=rf"^{node.name}: reads {len(wrong)} values"):
        node.op.infer(node.name, wrong)
