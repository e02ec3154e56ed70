"""The cast functions under ONNX Runtime against the definition, and the shape of the operator set."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from qfx.errors import UnsupportedError
from qfx.export import opset
from qfx.export.onnx_file import to_model
from qfx.export.split import plan_split
from qfx.fixed.reference import cast_float
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.ir.graph import Graph, Node
from qfx.ir.values import ArrayType
from qfx.operators import Input

N_KINDS = {OMode.WRAP: (0, 1, 3), OMode.WRAP_SM: (0, 1, 2, 3)}
MODES = [(q, o, n) for q in QMode for o in OMode for n in N_KINDS.get(o, (0,))]
CASTS = sorted({opset.cast_name(FixedType(8, 4, q=q, o=o, n=n)) for q, o, n in MODES})


def run_cast(type_: FixedType, x: np.ndarray) -> np.ndarray:
    """The raws that the exported cast gives under ONNX Runtime; x is float32 or float64 of shape (n,)."""
    model = to_model(Graph("cast", (Node("x", Input((x.size,), ArrayType.of(type_))),), "x"))
    if x.dtype == np.float64:  # the function takes float64 too, as it does inside a graph
        model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x#float": x[None]})
    raw = np.ldexp(y[0].astype(np.float64), type_.frac_bits)
    assert np.array_equal(raw, np.rint(raw))
    return raw.astype(np.int64)


def adversarial(type_: FixedType) -> np.ndarray:
    """Ties, bounds and grid points of the type, with their neighbours among the doubles, near 0, near the bounds and far out."""
    low, high, span = type_.min_raw, type_.max_raw, 1 << type_.width
    whole = {
        0,
        1,
        2,
        3,
        low,
        high,
        span,
        -span,
        3 * span,
        span // 2,
        -3 * span // 2,
        5 * span + 1,
        -7 * span - 3,
        1 << 23,
        1 << 24,
        (1 << 52) + 1,
        1 << 53,
    }
    raws = {r + d for r in whole for d in (-2.0, -1.5, -1.0, -0.5, 0.0, 0.25, 0.5, 1.0, 1.5)}
    raws |= {x for r in raws for x in (np.nextafter(r, -math.inf), np.nextafter(r, math.inf), -r)} | {
        -0.0,
        5e-324,
        -5e-324,
        0.49999997,
        1e300,
        -1e300,
    }
    return np.array([math.ldexp(float(r), -type_.frac_bits) for r in sorted(raws)])


@pytest.mark.parametrize(("q", "o", "n"), MODES, ids=lambda v: str(getattr(v, "value", v)))
def test_every_mode_pair_equals_the_definition(q: QMode, o: OMode, n: int) -> None:
    for signed in (True, False) if o is not OMode.WRAP_SM else (True,):
        for width, int_bits in ((6, 3), (3, -2), (max(n, 1), 1), (24, 30)):
            type_ = FixedType(width, int_bits, signed, q, o, n)
            x = adversarial(type_)
            assert run_cast(type_, x).tolist() == [cast_float(float(v), type_) for v in x], str(type_)
            with np.errstate(over="ignore"):
                single = x.astype(np.float32)
            single = single[np.isfinite(single)]
            assert run_cast(type_, single).tolist() == [cast_float(float(v), type_) for v in single], str(type_)


@st.composite
def types(draw: st.DrawFn) -> FixedType:
    q, o, n = draw(st.sampled_from(MODES))
    width = draw(st.integers(max(n, 1), 53))
    return FixedType(width, draw(st.integers(-60, 60)), draw(st.booleans()) or o is OMode.WRAP_SM, q, o, n)


@given(
    types(),
    st.lists(st.floats(-1e200, 1e200), min_size=1, max_size=8),
    st.lists(st.integers(-(1 << 60), 1 << 60), min_size=1),
)
def test_any_type_casts_doubles_as_the_definition_does(type_: FixedType, wild: list[float], halves: list[int]) -> None:
    wild = [v if abs(v) > 1e-200 else 0.0 for v in wild]  # x * scale must be a normal number
    near = [math.ldexp(float(h), -type_.frac_bits - 1) for h in halves]
    x = np.array(wild + near)
    assert run_cast(type_, x).tolist() == [cast_float(float(v), type_) for v in x]


def test_a_planted_rounding_error_is_seen() -> None:
    type_ = FixedType(6, 3, q=QMode.RND)
    wrong = FixedType(6, 3, q=QMode.RND_MIN_INF)  # differs on ties alone
    x = adversarial(type_)
    assert run_cast(wrong, x).tolist() != [cast_float(float(v), type_) for v in x]


def test_each_pair_of_modes_has_one_function() -> None:
    assert len(CASTS) == 7 * 8
    assert opset.cast_name(FixedType(8, 4, q=QMode.RND_CONV, n=3)) == "Cast_RND_CONV_WRAP_N"
    assert opset.cast_name(FixedType(8, 4, o=OMode.WRAP_SM, n=1)) == "Cast_TRN_WRAP_SM_1"


@pytest.mark.parametrize(
    "name",
    [*CASTS, "FromRaw", "Affine", "Scale", "LeakyRelu", "PadMaxPool", "PaddedMaxPool", "SumPool", "SumPool_x3", "Conv_w1_x4", "ConvBias_w3_x2"],
)
def test_a_function_is_made_of_standard_operators(name: str) -> None:
    function = opset.function(name)
    assert (function.name, function.domain) == (name, "ai.qfx")
    assert {node.domain for node in function.node} == {""}
    assert [(entry.domain, entry.version) for entry in function.opset_import] == [("", 21)]
    infos = [helper.make_tensor_value_info(v, onnx.TensorProto.FLOAT, ["N"]) for v in "vw"]
    graph = helper.make_graph([helper.make_node("Identity", ["v"], ["w"])], "g", infos[:1], infos[1:])
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("ai.qfx", opset.VERSION)]
    onnx.checker.check_model(helper.make_model(graph, functions=[function], opset_imports=imports, ir_version=opset.IR_VERSION))


@pytest.mark.parametrize("name", ["Cast_RND", "Conv_w5_x1", "Conv_w0_x1", "Quant", "", "SumPool_w1_x1"])
def test_no_other_function_exists(name: str) -> None:
    with pytest.raises(UnsupportedError, match="has no operator"):
        opset.function(name)


def test_functions_are_the_callers_own() -> None:
    opset.function("Scale").node[0].op_type = "Add"
    assert opset.function("Scale").node[0].op_type == "Mul"


def test_the_bodies_are_part_of_the_version() -> None:
    """Whoever changes a body raises VERSION: files carry it, and are compared with it."""
    text = onnx.printer.to_text(opset.function("Cast_RND_SAT"))
    assert [line.strip() for line in text.splitlines() if "=" in line and "(" in line and "opset" not in line][1:] == [
        "x64 = Cast <to: int = 11> (x)",
        "v = Mul (x64, scale)",
        "half = Constant <value: tensor = double {0.5}> ()",
        "base = Floor (v)",
        "rest = Sub (v, base)",
        "carry = GreaterOrEqual (rest, half)",
        "step = Cast <to: int = 11> (carry)",
        "r = Add (base, step)",
        "c = Clip (r, min, max)",
        "y64 = Div (c, scale)",
        "y = Cast <to: int = @dtype> (y64)",
    ]


@given(st.integers(1, 30), st.integers(1, 1 << 30), st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_a_split_makes_every_piece_fit_float32_and_loses_nothing(w_bits: int, x_mag: int, terms: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.integers(-(1 << (w_bits - 1)), 1 << (w_bits - 1), (3, terms), endpoint=True)
    plan = plan_split(weight, x_mag)
    assert plan is not None
    x = rng.integers(-x_mag, x_mag, terms, endpoint=True)
    x[0] = x_mag
    w_parts, x_parts = split(weight, plan.w_cuts), split(x, plan.x_cuts)
    assert np.array_equal(sum(w_parts), weight)
    assert np.array_equal(sum(x_parts), x)
    total = 0
    for w, w_cut in zip(w_parts, (*plan.w_cuts, 0), strict=True):
        for part, x_cut in zip(x_parts, (*plan.x_cuts, 0), strict=True):
            assert (np.abs(w >> w_cut) @ np.abs(part >> x_cut)).max() <= 1 << 24
            total = total + np.abs(w).astype(object) @ np.abs(part).astype(object)
    assert max(total) <= plan.total


def split(raw: np.ndarray, cuts: tuple[int, ...]) -> list[np.ndarray]:
    parts, rest = [], raw
    for cut in cuts:
        part = np.rint(rest / 2.0**cut).astype(np.int64) << cut
        parts.append(part)
        rest = rest - part
    return [*parts, rest]


def test_narrow_operands_are_not_split() -> None:
    plan = plan_split(np.full((1, 9), 127), 255)
    assert plan is not None
    assert (plan.w_cuts, plan.x_cuts) == ((), ())


def test_sums_that_no_four_pieces_hold_have_no_split() -> None:
    assert plan_split(np.full((1, 300), (1 << 30) - 1), 1 << 53) is None


def test_onnx_knows_the_opset() -> None:
    assert helper.make_opsetid("", opset.ONNX_OPSET).version <= onnx.defs.onnx_opset_version()
