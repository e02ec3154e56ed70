"""Every operator against an oracle that shares no code with it: torch in float64 for the exact ones, reference.py for casts."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from qfx import operators as ops
from qfx.errors import DataError, ExactnessError, ModelFileError, QfxError
from qfx.fixed.arith import Channels, Interval
from qfx.fixed.reference import cast_fraction, cast_raw
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.ir.casting import cast_interval
from qfx.ir.graph import Graph, Node
from qfx.ir.interpret import output_raw, run_raw, trace
from qfx.ir.text import describe
from qfx.ir.values import Info
from qfx.operators import OPERATORS, ArrayType, Const, accumulator, macs
from qfx.testing import adversarial_inputs, assert_bit_exact, random_graph, random_type


def const(values: object, frac_bits: int = 0) -> Const:
    return Const(np.array(values, dtype=np.int64), frac_bits)


def info(shape: tuple[int, ...], lo: int = -8, hi: int = 7, frac_bits: int = 0) -> Info:
    interval = Interval(lo, hi, frac_bits)
    return Info(shape, interval.type(), interval)


def evaluate(op: ops.Operator, raw: np.ndarray, x: Info) -> np.ndarray:
    return op.evaluate((raw,), (x,), op.infer("node", (x,)))


# --- the oracle -----------------------------------------------------------------------------------------------------------------------


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


# --- what is refused ------------------------------------------------------------------------------------------------------------------

CONV = ops.Conv(const(np.ones((4, 1, 3, 3))), None, (1, 1), ((1, 1), (1, 1)), (1, 1), 2)
POOL = ops.MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1))


@pytest.mark.parametrize(
    ("op", "shapes", "message"),
    [
        (ops.Input((), ArrayType.of(FixedType(8, 8))), [], r"the shape is \(\)"),
        (ops.Input((2, 0), ArrayType.of(FixedType(8, 8))), [], r"the shape is \(2, 0\)"),
        (ops.Input((2,) * 6, ArrayType.of(FixedType(8, 8))), [], "the shape is"),
        (ops.Input((2,), ArrayType(FixedType(8, 8), (8, 7, 6), (3,))), [], r"binary points of shape \(3,\)"),
        (ops.Input((1,), ArrayType(FixedType(8, 8), (8, 7, 6), (3,))), [], r"binary points of shape \(3,\)"),
        (ops.Cast(ArrayType(FixedType(8, 8), (8, 7), (2, 1))), [(2,)], "binary points of shape"),
        (CONV, [(2,)], "the weight is"),
        (CONV, [(2, 5)], "the weight is"),
        (CONV, [(3, 5, 5)], "3 channels in 2 groups"),
        (ops.Conv(CONV.weight, const([1, 2]), (1, 1), CONV.pads, (1, 1), 2), [(2, 5, 5)], r"the bias is \(2,\) for 4 outputs"),
        (ops.Conv(CONV.weight, None, (0, 1), CONV.pads, (1, 1), 2), [(2, 5, 5)], r"stride is \(0, 1\)"),
        (ops.Conv(CONV.weight, None, (1,), CONV.pads, (1, 1), 2), [(2, 5, 5)], r"stride is \(1,\) for 2 spatial axes"),
        (ops.Conv(CONV.weight, None, (1, 1), ((-1, 0), (0, 0)), (1, 1), 2), [(2, 5, 5)], "pads are"),
        (ops.Conv(CONV.weight, None, (1, 1), ((0, 0), (0, 0)), (1, 3), 2), [(2, 5, 5)], "is larger than the padded input"),
        (ops.Conv(CONV.weight, None, (1, 1), CONV.pads, (1, 1), 3), [(2, 5, 5)], "in 3 groups"),
        (ops.Conv(CONV.weight, None, (1, 1), CONV.pads, (1, 1), 0), [(2, 5, 5)], "in 0 groups"),
        (ops.Linear(const([[1, 2]]), None), [(3,)], "the weight is"),
        (ops.Linear(const([[1, 2]]), None), [(3, 2)], "the weight is"),
        (ops.Linear(const([[1, 2]]), const([1, 2])), [(2,)], "the bias is"),
        (ops.Affine(const([1, 2]), None), [(3,)], r"the scale is \(2,\)"),
        (ops.Affine(const(1), const([1, 2])), [(3, 2)], r"the shift is \(2,\)"),
        (ops.Add(), [(2,), (3,)], "differ"),
        (ops.Sub(), [(2, 1), (2, 2)], "differ"),
        (ops.Mul(), [(1,), (2,)], "does not broadcast"),
        (ops.LeakyRelu(1), [(2,)], "log2_slope is 1"),
        (ops.Clip(const([1]), const(2)), [(2,)], "bounds of shape"),
        (ops.Clip(const(3), const(2)), [(2,)], "exceeds the high bound"),
        (POOL, [(2,)], "windows over a value of shape"),
        (ops.MaxPool((2,), (2,), ((2, 0),), (1,)), [(1, 4)], "nothing but padding"),
        (ops.MaxPool((2,), (1,), ((1, 0),), (2,)), [(1, 1)], "larger than the padded input"),
        (ops.MaxPool((2,), (1,), ((1, 1),), (2,)), [(1, 1)], "nothing but padding"),
        (ops.SumPool((2,), (0,), ((0, 0),)), [(1, 4)], "stride is"),
        (ops.Concat(), [(2, 3), (2, 4)], "only the channels may differ"),
        (ops.Concat(), [(2, 3), (2,)], "only the channels may differ"),
        (ops.Reshape((5,)), [(2, 3)], "holds 6 elements"),
        (ops.Reshape((-1,)), [(2, 3)], "the shape is"),
        (ops.Transpose((0, 0)), [(2, 3)], r"perm is \(0, 0\)"),
        (ops.Transpose((0,)), [(2, 3)], "perm is"),
        (ops.Pad(((0, 1),)), [(2, 3)], "one pair per axis"),
        (ops.Pad(((0, -1), (0, 0))), [(2, 3)], "neither of them negative"),
        (ops.Slice((0,), (2,), (1,)), [(2, 3)], "one per axis"),
        (ops.Slice((0,), (4,), (1,)), [(3,)], "0 <= start < stop <= size"),
        (ops.Slice((2,), (2,), (1,)), [(3,)], "0 <= start < stop <= size"),
        (ops.Slice((2,), (0,), (-1,)), [(3,)], "0 <= start < stop <= size"),
        (ops.Slice((-1,), (2,), (1,)), [(3,)], "0 <= start < stop <= size"),
        (ops.Take(2, (0,)), [(2, 3)], "along axis 2"),
        (ops.Take(-1, (0,)), [(2, 3)], "along axis -1"),
        (ops.Take(1, (0, 3)), [(2, 3)], "takes 0,3 along an axis of 3"),
        (ops.Take(0, (-1,)), [(2, 3)], "takes -1 along"),
        (ops.Take(0, ()), [(2, 3)], "one or more numbers of 0 to 1"),
        (ops.TopValues(2, 1), [(2, 3)], "takes 1 numbers along axis 2"),
        (ops.TopValues(1, 4), [(2, 3)], "takes 4 numbers along axis 1"),
        (ops.TopPlaces(1, 0), [(2, 3)], "take no more than there are"),
        (ops.Embedding(const([1, 2])), [(3,)], r"the rows are of shape \(2,\)"),
        (ops.Embedding(Const(np.array([[1], [2]]), (0, 3))), [(3,)], "on 2 grids"),
        (ops.Upsample((2,)), [(2, 3, 4)], "one of at least 1 per axis behind the channels"),
        (ops.Upsample((2, 0)), [(2, 3, 4)], r"factors are \(2, 0\)"),
        (ops.Upsample(()), [(2,)], "factors are"),
        (ops.Stretch((2, 2)), [(2, 3)], "one of at least 1 per axis behind the channels"),
        (ops.Stretch((-1,)), [(2, 3)], "factors are"),
    ],
)
def test_what_is_wrong_is_refused_by_name(op: ops.Operator, shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(ModelFileError, match=message) as caught:
        op.infer("layer3.0", tuple(info(shape) for shape in shapes))
    assert caught.value.where == "layer3.0"
    assert caught.value.remedy


WIDE = info((2,), -(1 << 61), (1 << 61) - 1)


@pytest.mark.parametrize(
    ("op", "inputs"),
    [
        (ops.Mul(), (WIDE, WIDE)),
        (ops.Add(), (WIDE, info((2,), 0, 1, frac_bits=3))),
        (ops.Linear(const([[2, 3]]), None), (WIDE,)),
        (ops.Linear(const([[1, -1]]), const([1], 2)), (WIDE,)),
        (ops.Affine(const(9), None), (WIDE,)),
        (ops.Affine(const(1), const(1, 4)), (WIDE,)),
        (ops.LeakyRelu(-3), (WIDE,)),
        (ops.Clip(const(0, 4), const(1)), (WIDE,)),
        (ops.Cast(ArrayType.of(FixedType(64, 64))), (WIDE,)),
        (ops.Cast(ArrayType(FixedType(40, 40), (40, 10), (2,))), (WIDE,)),
        (ops.Affine(const(1, 400), None), (info((2,), 0, 1, frac_bits=400),)),
    ],
)
def test_what_int64_could_not_hold_is_refused_by_name(op: ops.Operator, inputs: tuple[Info, ...]) -> None:
    with pytest.raises(ExactnessError) as caught:
        op.infer("layer3.0", inputs)
    assert caught.value.where == "layer3.0"
    assert caught.value.remedy


def test_a_stretched_value_holds_zeros_and_an_upsampled_one_does_not() -> None:
    high = info((2, 3), 3, 7)
    assert ops.Upsample((3,)).infer("up", (high,)).interval == high.interval
    assert ops.Stretch((1,)).infer("same", (high,)).interval == high.interval
    assert ops.Stretch((2,)).infer("one", (info((2, 1), 3, 7),)).interval == high.interval  # there is nothing between the pixels of one
    stretched = ops.Stretch((2,)).infer("stretch", (high,))
    assert (stretched.shape, stretched.interval) == ((2, 5), high.interval.with_zero())
    raw = ops.Stretch((2,)).evaluate((np.full((1, 2, 3), 3),), (high,), stretched)
    assert raw.tolist() == [[[3, 0, 3, 0, 3]] * 2]


# --- ranges ---------------------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_range_of_weighted_sums_is_reached(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = Const(rng.integers(-5, 6, size=(2, 3)), int(rng.integers(-2, 3)))
    bias = Const(rng.integers(-9, 10, size=2), int(rng.integers(-2, 5))) if rng.random() < 0.7 else None
    lo, hi = sorted(int(bound) for bound in rng.integers(-6, 7, size=2))
    x = info((3,), lo, hi, frac_bits=int(rng.integers(-1, 3)))
    op = ops.Linear(weight, bias)
    out = op.infer("linear", (x,))
    corners = np.array(list(itertools.product([lo, hi], repeat=3)))
    raw = op.evaluate((corners,), (x,), out)
    assert (raw.min(), raw.max()) == (out.interval.lo, out.interval.hi)
    image = ops.Conv(Const(weight.raw.reshape(2, 3, 1), weight.frac_bits), bias, (1,), ((0, 0),), (1,), 1)
    assert image.infer("conv", (info((3, 4), lo, hi, x.type.frac_bits),)).interval == out.interval


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_accumulator_holds_every_partial_sum_and_no_more(seed: int) -> None:
    rng = np.random.default_rng(seed)
    raw = rng.integers(-5, 6, size=(2, 3))
    bias = rng.integers(-20, 21, size=2)
    lo, hi = sorted(int(bound) for bound in rng.integers(-6, 7, size=2))
    held = accumulator(ops.Linear(const(raw), const(bias)), info((3,), lo, hi))
    seen = [
        int(bias[row]) + sum(int(raw[row, at]) * xs[at] for at in order[:count])
        for row in range(2)
        for xs in itertools.product([lo, hi], repeat=3)
        for order in itertools.permutations(range(3))
        for count in range(4)
    ]
    assert held == Interval(min(seen), max(seen), 0).type()


def test_padding_counts_as_zero_in_the_range() -> None:
    x = info((1, 3), 5, 7)
    bare = ops.Conv(const([[[2, 3]]]), None, (1,), ((0, 0),), (1,), 1)
    padded = ops.Conv(const([[[2, 3]]]), None, (1,), ((1, 0),), (1,), 1)
    assert bare.infer("conv", (x,)).interval == Interval(25, 35, 0)
    assert padded.infer("conv", (x,)).interval == Interval(0, 35, 0)
    assert accumulator(bare, x) == FixedType(6, 6, signed=False)
    assert ops.SumPool((2,), (2,), ((0, 0),)).infer("sum", (info((1, 4), 5, 7),)).interval == Interval(10, 14, 0)
    assert ops.SumPool((2,), (2,), ((1, 0),)).infer("sum", (x,)).interval == Interval(5, 14, 0)
    assert ops.SumPool((1,), (1,), ((1, 0),)).infer("sum", (x,)).interval == Interval(0, 7, 0)
    assert accumulator(ops.SumPool((2,), (2,), ((1, 0),)), info((1, 3), -7, -5)) == FixedType(5, 5)


def test_the_accumulator_of_affine_holds_product_and_sum() -> None:
    op = ops.Affine(const([3, -2]), const([-30, 1], 1))
    assert op.infer("affine", (info((2,), 0, 5),)).interval == Interval(-30, 1, 1)
    assert accumulator(op, info((2,), 0, 5)) == FixedType(6, 5)  # -30 .. 30 halves
    with pytest.raises(TypeError, match="Relu does not accumulate"):
        accumulator(ops.Relu(), info((2,)))


def test_macs() -> None:
    out = CONV.infer("conv", (info((2, 5, 5)),))
    assert macs(CONV, out) == 4 * 25 * 9
    assert macs(ops.Linear(const([[1, 2]]), None), info((1,))) == 2
    assert macs(ops.Affine(const(1), None), info((3, 2))) == 6
    assert macs(ops.Relu(), info((3, 2))) == 0


@settings(deadline=None, max_examples=400)
@given(st.integers(0, 2**32 - 1))
def test_the_range_of_a_cast_is_what_it_gives(seed: int) -> None:
    rng = np.random.default_rng(seed)
    to = random_type(rng, max_width=6)
    lo, hi = sorted(int(bound) for bound in rng.integers(-70, 71, size=2))
    frac_bits = to.frac_bits + int(rng.integers(-3, 4))
    given_ = cast_interval(Interval(lo, hi, frac_bits), ArrayType.of(to), (3,))
    seen = [cast_raw(raw, frac_bits, to) for raw in range(lo, hi + 1)]
    assert given_.frac_bits == to.frac_bits
    assert given_.lo <= min(seen)
    assert max(seen) <= given_.hi
    if to.o in (OMode.SAT, OMode.SAT_SYM):
        assert (given_.lo, given_.hi) == (min(seen), max(seen))
    if frac_bits >= to.frac_bits and to.o is OMode.SAT_ZERO:  # no multiple is skipped: tight here too
        assert (given_.lo, given_.hi) == (min(seen), max(seen))
    assert to.min_raw <= given_.lo
    assert given_.hi <= to.max_raw


def test_a_wrap_that_cannot_overflow_has_a_tight_range() -> None:
    wrap = ArrayType.of(FixedType(8, 8, q=QMode.RND))
    assert cast_interval(Interval(-3, 5, 1), wrap, (3,)) == Interval(-1, 3, 0)
    assert cast_interval(Interval(-3, 255, 1), wrap, (3,)) == Interval(-128, 127, 0)
    per_channel = ArrayType(FixedType(4, 4, o=OMode.SAT), (4, 2), (2,))
    assert cast_interval(Interval(-1, 5, 0), per_channel, (3, 2)) == Interval(-4, 20, 2)
    assert cast_interval(Interval(-1, 5, 0), per_channel, (2,)) == Channels((Interval(-1, 5, 0), Interval(-4, 7, 2)))


# --- evaluation, where the paths differ -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "groups"), [(8, 1), (8, 2), (8, 4), (29, 1), (29, 2), (29, 4)])
def test_convolution_is_exact_on_every_path(bits: int, groups: int) -> None:
    """Small words go through BLAS, wide ones (more than 53 bits in a sum) do not, depthwise has a path of its own; Python integers are the oracle."""
    rng = np.random.default_rng(bits * 10 + groups)
    bound = 1 << bits
    weight = Const(rng.integers(-bound, bound, size=(4, 4 // groups, 2, 3)), bits)
    bias = Const(rng.integers(-bound, bound, size=4), bits)
    op = ops.Conv(weight, bias, (2, 1), ((1, 0), (0, 2)), (1, 2), groups)
    x = info((4, 3, 5), -bound, bound - 1)
    out = op.infer("conv", (x,))
    raw = rng.integers(-bound, bound, size=(3, 4, 3, 5))
    raw[0], raw[1] = -bound, bound - 1
    padded = np.pad(raw, ((0, 0), (0, 0), (1, 0), (0, 2))).astype(object)
    expected = np.zeros((3, *out.shape), dtype=object)
    for n, m, i, j in np.ndindex(expected.shape):
        first = m // (4 // groups) * (4 // groups)
        window = padded[n, first : first + 4 // groups, 2 * i : 2 * i + 2, j : j + 5 : 2]
        expected[n, m, i, j] = int((window * weight.raw[m].astype(object)).sum()) + int(bias.raw[m])
    assert (out.interval.magnitude_bits > 53) == (bits > 20)
    assert_bit_exact(evaluate(op, raw, x), expected.astype(np.int64))


@pytest.mark.parametrize("bits", [8, 29])
def test_linear_is_exact_on_every_path(bits: int) -> None:
    rng = np.random.default_rng(bits)
    bound = 1 << bits
    op = ops.Linear(Const(rng.integers(-bound, bound, size=(5, 7)), 3), Const(rng.integers(-bound, bound, size=5), 5))
    raw = rng.integers(-bound, bound, size=(4, 7))
    expected = raw.astype(object) @ op.weight.raw.T.astype(object) * 4 + op.bias.raw.astype(object)
    assert_bit_exact(evaluate(op, raw, info((7,), -bound, bound - 1)), expected.astype(np.int64))


def test_float64_would_have_lost_a_bit_where_int64_is_used() -> None:
    op = ops.Linear(const([[1 << 30, 1]]), None)
    x = info((2,), -(1 << 30), 1 << 30)
    assert evaluate(op, np.array([[1 << 30, 1]]), x).tolist() == [[(1 << 60) + 1]]


def test_the_padding_of_max_pool_never_wins() -> None:
    op = ops.MaxPool((2, 2), (1, 1), ((1, 0), (0, 1)), (1, 1))
    raw = np.full((1, 1, 2, 2), -8)
    assert (evaluate(op, raw, info((1, 2, 2))) == -8).all()


def test_a_cast_per_channel_stores_on_the_finest_grid() -> None:
    cast = ArrayType(FixedType(4, 4, q=QMode.RND, o=OMode.SAT), (4, 2), (2, 1))
    assert cast.hull == FixedType(6, 4)
    raw = np.array([[[3, 5, 100], [3, 5, 100]]])  # 0.75, 1.25, 25
    out = ops.Cast(cast).infer("cast", (info((2, 3), 0, 100, frac_bits=2),))
    assert out.type == cast.hull
    assert evaluate(ops.Cast(cast), raw, info((2, 3), 0, 100, frac_bits=2)).tolist() == [[[4, 4, 28], [3, 5, 7]]]


def test_results_do_not_alias_what_they_read() -> None:
    """A later in-place step in one operator must not change another's input; the shape operators may return views, none may write."""
    rng = np.random.default_rng(5)
    for _ in range(40):
        graph = random_graph(rng)
        x = adversarial_inputs(graph, rng, 2)
        kept = trace(graph, x)
        assert_bit_exact(run_raw(graph, x), output_raw(graph, kept[graph.output]))


# --- constants and types --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_", "raw", "frac_bits"),
    [
        ([0.5, -3.0, 0.0], [1, -6, 0], 1),
        ([8.0, 24.0], [1, 3], -3),
        ([0.0, -0.0], [0, 0], 0),
        (2.0**-1074, 1, 1074),
        (np.float32(0.1), 13421773, 27),
        ([1.0, 2.0**-62], [1 << 62, 1], 62),
        ([4, 6], [2, 3], -1),
        ([-(2.0**62), 2.0**62], [-1, 1], -62),
        (np.array([-(1 << 63)]), [-1], -63),
        (np.array([(1 << 60) + 1]), [(1 << 60) + 1], 0),
    ],
)
def test_const_of_finds_the_coarsest_grid(given_: object, raw: object, frac_bits: int) -> None:
    const_ = Const.of(given_)
    assert (const_.raw.tolist(), const_.frac_bits) == (raw, frac_bits)


@settings(deadline=None)
@given(st.lists(st.floats(width=32, min_value=-1000, max_value=1000).filter(lambda x: x == 0 or abs(x) > 1e-4), min_size=1, max_size=5))
def test_const_of_is_exact(given_: list[float]) -> None:
    const_ = Const.of(given_)
    lsb = Fraction(2) ** -const_.frac_bits
    assert [raw * lsb for raw in const_.raw.tolist()] == [Fraction(x) for x in given_]
    assert not const_.raw.any() or (const_.raw % 2).any(), "a coarser grid would do"
    assert const_.values.tolist() == given_


@pytest.mark.parametrize(
    ("given_", "message"),
    [([np.nan], "NaN"), ([np.inf], "NaN"), ([], "holds nothing"), (["a"], "are <U1"), ([1.0, 2.0**-64], "need 65 bits"), ([1j], "complex")],
)
def test_const_of_refuses(given_: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Const.of(given_)


def test_const_is_a_value() -> None:
    raw = np.array([[1, 2], [3, 4]], dtype=np.int32)
    a, b = Const(raw, 3), Const(raw.astype(np.int64), 3)
    raw[0, 0] = 9
    assert a == b
    assert hash(a) == hash(b)
    assert a != Const(b.raw, 2)
    assert a != Const(b.raw.reshape(4), 3)
    assert a != "a"
    assert a.raw.dtype == np.int64
    assert not a.raw.flags.writeable
    assert a.interval == Interval(1, 4, 3)
    assert a.values.tolist() == [[0.125, 0.25], [0.375, 0.5]]
    with pytest.raises(DataError, match="float64"):
        Const(np.array([1.0]), 0)
    with pytest.raises(DataError, match="does not fit int64"):
        Const(np.array([1 << 63], dtype=np.uint64), 0)
    with pytest.raises(QfxError):
        Const(np.array([(1 << 60) + 1]), 0).values  # noqa: B018


def test_channel_sums_do_not_overflow() -> None:
    big = (1 << 63) - 1
    assert const([[big, big, -5], [0, -1, 1]]).channel_sums == ((-5, 2 * big), (-1, 1))


def test_array_types() -> None:
    element = FixedType(8, 3, q=QMode.RND, o=OMode.SAT)
    assert ArrayType.of(element).hull == element
    assert ArrayType(element, (3, 3), (2,)).hull == element
    mixed = ArrayType(element, (3, -1), (2, 1))
    assert mixed.hull == FixedType(12, 3)
    assert mixed.types == (element, FixedType(8, -1, q=QMode.RND, o=OMode.SAT))
    assert mixed.frac_bits.tolist() == [[5], [9]]
    assert str(mixed) == "ap_fixed<8,3,AP_RND,AP_SAT> with int_bits -1..3 over (2, 1)"
    with pytest.raises(ModelFileError, match="2 binary points for the shape"):
        ArrayType(element, (3, 3), (3,))
    with pytest.raises(ModelFileError, match="the greatest int_bits is 2"):
        ArrayType(element, (2,))
    with pytest.raises(ModelFileError, match="0 binary points"):
        ArrayType(element, (), (0,))
