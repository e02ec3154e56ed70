"""QONNX and QDQ files: equal to their own executors, and what is refused."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from exchange.qonnx_nets import COMMON, GENERAL, Array, assert_equal, executed, f32, inputs, quant, saved
from executors import same_in_torch_and_the_file
from onnx import TensorProto, helper

import qfx
from qfx.cli import main
from qfx.errors import UnsupportedError
from qfx.exchange.grid import ROUNDING, narrowest

pytestmark = pytest.mark.filterwarnings("ignore")  # of QONNX and Brevitas

DATA = Path(os.environ.get("QFX_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def runtime(path: Path, x: Array) -> Array:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options)
    found: Array = session.run(None, {session.get_inputs()[0].name: x})[0]
    return found


@pytest.mark.parametrize("mode", [*ROUNDING, "floor"])
def test_every_rounding_mode_is_that_of_qonnx(mode: str, tmp_path: Path) -> None:
    path = saved(tmp_path, [quant("x", "y", "step", rounding_mode=mode)], COMMON)
    x = inputs(30, 4)
    if mode == "ROUND_TO_ZERO":  # of QONNX' text and of Brevitas; qonnx calls it DOWN
        expected = executed(saved(tmp_path, [quant("x", "y", "step", rounding_mode="DOWN")], COMMON), x)
        path = saved(tmp_path, [quant("x", "y", "step", rounding_mode=mode)], COMMON)
    else:
        expected = executed(path, x)
    assert_equal(qfx.from_onnx(path), expected, x)


@pytest.mark.parametrize(("signed", "narrow", "bits"), [(1, 1, "bits"), (0, 0, "bits"), (1, 0, "one"), (1, 0, "eight"), (0, 0, "one")])
@pytest.mark.parametrize("domain", [GENERAL, "onnx.brevitas"])
def test_ranges_are_those_of_qonnx(signed: int, narrow: int, bits: str, domain: str, tmp_path: Path) -> None:
    constants = {**COMMON, "one": f32(1.0)}
    path = saved(tmp_path, [quant("x", "y", "step", bits, signed=signed, narrow=narrow)], constants)
    x = inputs(30, 4, scale=4)
    expected = executed(path, x)
    path = saved(tmp_path, [quant("x", "y", "step", bits, signed=signed, narrow=narrow, domain=domain)], constants, version=1)
    assert_equal(qfx.from_onnx(path), expected, x)


def network() -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    """A convolution with a scale for each channel, a BatchNorm in float, an average that is truncated, and a product whose weight is turned."""
    node = helper.make_node
    nodes = [
        quant("x", "xq", "fine", "eight"),
        quant("w", "wq", "steps", narrow=1),
        node("Conv", ["xq", "wq"], ["c"], name="conv", pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        quant("b", "bq", "tiny", "eight"),
        node("Add", ["c", "bq"], ["cb"], name="bias"),
        node("BatchNormalization", ["cb", "g", "h", "m", "v"], ["n"], name="norm"),
        node("Relu", ["n"], ["r"], name="relu"),
        quant("r", "rq", "step", "bits", signed=0),
        node("AveragePool", ["rq"], ["p"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Trunc", ["p", "fine", "zero", "six", "step", "bits"], ["t"], name="trunc", domain=GENERAL, rounding_mode="FLOOR", signed=0, narrow=0),
        node("MaxPool", ["t"], ["mp"], name="max", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["mp"], ["f"], name="flatten"),
        node("BipolarQuant", ["u", "step"], ["uq"], name="bipolar", domain=GENERAL),
        node("Transpose", ["uq"], ["ut"], name="turn", perm=[1, 0]),
        node("MatMul", ["f", "ut"], ["y"], name="fc"),
    ]
    draw = np.random.default_rng(3)
    constants = {
        **COMMON,
        "six": f32(6.0),
        "w": draw.standard_normal((3, 2, 3, 3)).astype(np.float32),
        "steps": np.asarray([0.25, 0.125, 0.5], dtype=np.float32).reshape(3, 1, 1, 1),
        "b": draw.standard_normal((1, 3, 1, 1)).astype(np.float32),
        "tiny": f32(0.015625),
        "u": draw.standard_normal((5, 12)).astype(np.float32),
        **{name: draw.standard_normal(3).astype(np.float32) for name in "ghm"},
        "v": draw.random(3).astype(np.float32) + 0.5,
    }
    return nodes, constants


def test_a_network_is_that_of_qonnx_and_is_trained_on(tmp_path: Path) -> None:
    nodes, constants = network()
    path = saved(tmp_path, nodes, constants, (2, 8, 8), out=(5,))
    q, x = qfx.from_onnx(path), inputs(20, 2, 8, 8, scale=3)
    names = ["input", "conv.weight", "conv.bias", "norm.scale", "norm.shift", "quant_rq.output", "pool.reciprocal", "trunc.output", "fc.weight"]
    assert [name for name, _ in qfx.quantizers(q)] == names
    assert_equal(q, executed(path, x), x)
    assert qfx.conversion(q).exact
    q.train()
    optimizer = torch.optim.SGD(qfx.parameter_groups(q, lr=0.01))
    q(torch.from_numpy(x)).square().mean().backward()
    before = q.get_parameter("conv.weight").detach().clone()
    optimizer.step()
    assert not torch.equal(before, q.get_parameter("conv.weight"))
    (tmp_path / "out").mkdir()
    same_in_torch_and_the_file(q.eval(), torch.from_numpy(x), tmp_path / "out")


@pytest.mark.parametrize(("kind", "slope"), [("LeakyRelu", 0.01), ("LeakyRelu", 0.40625), ("PRelu", -0.25)])
def test_slopes_in_front_of_a_cast_are_those_of_qonnx(kind: str, slope: float, tmp_path: Path) -> None:
    """For all 256 integers."""
    settings = {"alpha": slope} if kind == "LeakyRelu" else {}
    nodes = [
        quant("x", "xq", "fine", "eight"),
        helper.make_node(kind, ["xq"] if settings else ["xq", "slope"], ["l"], name="leaky", **settings),
        quant("l", "y", "step", "bits"),
    ]
    path = saved(tmp_path, nodes, {**COMMON, "slope": f32(slope).reshape(1)})
    x = (np.arange(-128, 128, dtype=np.float32) / 16).reshape(-1, 4)
    assert_equal(qfx.from_onnx(path), executed(path, x), x)


@pytest.mark.parametrize(("slope", "why"), [(-0.3, "constant without a quantizer"), (0.2, "for -5.625 in channel 0 the source gives -1,")])
def test_slopes_in_float_that_cannot_be_proven_are_refused(slope: float, why: str, tmp_path: Path) -> None:
    """One that falls and rises, and one whose product float32 rounds onto a tie."""
    nodes = [quant("x", "xq", "fine", "eight"), helper.make_node("PRelu", ["xq", "slope"], ["l"], name="leaky"), quant("l", "y", "step", "bits")]
    with pytest.raises(UnsupportedError, match=why):
        qfx.from_onnx(saved(tmp_path, nodes, {**COMMON, "slope": f32(slope).reshape(1)}))


def qdq(source: str, result: str, scale: str, zero: str, *, clip: tuple[str, str] | None = None, **attributes: int) -> list[onnx.NodeProto]:
    stored = f"{result}_int"
    nodes = [helper.make_node("QuantizeLinear", [source, scale, zero], [stored], name=f"q_{result}", **attributes)]
    if clip is not None:
        nodes.append(helper.make_node("Clip", [stored, *clip], [f"{stored}_clipped"], name=f"clip_{result}"))
        stored = f"{stored}_clipped"
    return [*nodes, helper.make_node("DequantizeLinear", [stored, scale, zero], [result], name=f"dq_{result}", **attributes)]


def qdq_network() -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    nodes = [
        *qdq("x", "xq", "fine", "i8"),
        helper.make_node("DequantizeLinear", ["w", "steps", "i8s"], ["wq"], name="dq_w", axis=0),
        helper.make_node("DequantizeLinear", ["b", "bias_steps", "i32s"], ["bq"], name="dq_b", axis=0),
        helper.make_node("Conv", ["xq", "wq", "bq"], ["c"], name="conv", kernel_shape=[3, 3], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        *qdq("r", "rq", "step", "u8", clip=("low", "high")),
        helper.make_node("Flatten", ["rq"], ["f"], name="flatten"),
        *qdq("u", "uq", "fine", "i8"),
        helper.make_node("Gemm", ["f", "uq"], ["g"], name="fc", transB=1),
        *qdq("g", "y", "coarse", "middle"),
    ]
    draw = np.random.default_rng(5)
    constants = {
        "fine": f32(0.0625),
        "step": f32(0.25),
        "coarse": f32(0.5),
        "i8": np.int8(0),
        "u8": np.uint8(0),
        "middle": np.uint8(128),
        "low": np.uint8(0),
        "high": np.uint8(15),
        "w": draw.integers(-127, 128, (3, 2, 3, 3)).astype(np.int8),
        "steps": f32(0.0625, 0.03125, 0.125),
        "i8s": np.zeros(3, np.int8),
        "b": draw.integers(-3000, 3000, 3).astype(np.int32),
        "bias_steps": f32(0.0625**2, 0.03125 * 0.0625, 0.125 * 0.0625),
        "i32s": np.zeros(3, np.int32),
        "u": draw.standard_normal((4, 27)).astype(np.float32),
    }
    return nodes, constants


def test_a_qdq_network_is_that_of_onnx_runtime(tmp_path: Path) -> None:
    nodes, constants = qdq_network()
    path = saved(tmp_path, nodes, constants, (2, 8, 8), out=(4,))
    q, x = qfx.from_onnx(path), inputs(40, 2, 8, 8, scale=3)
    kinds = {name: quantizer.types()[0] for name, quantizer in qfx.quantizers(q)}
    assert (kinds["dq_rq.output"].width, kinds["dq_rq.output"].signed) == (4, False)
    assert (kinds["dq_y.output"].width, kinds["dq_y.output"].signed) == (8, True)  # its zero point lies in the middle
    assert kinds["conv.bias"].width == 32
    assert_equal(q, runtime(path, x), x)


def test_a_difference_of_one_least_significant_bit_is_found(tmp_path: Path) -> None:
    nodes, constants = qdq_network()
    x = inputs(40, 2, 8, 8, scale=3)
    expected = runtime(saved(tmp_path, nodes, constants, (2, 8, 8)), x)
    constants["u"][0, 0] += 1 / 16
    with pytest.raises(AssertionError):
        assert_equal(qfx.from_onnx(saved(tmp_path, nodes, constants, (2, 8, 8))), expected, x)


@pytest.mark.parametrize("dialect", ["qonnx", "qcdq"])
def test_what_brevitas_exports_is_what_it_computes(dialect: str, tmp_path: Path) -> None:
    pytest.importorskip("brevitas", reason="Brevitas is in the extra 'bench'")
    pytest.importorskip("onnxoptimizer", reason="Brevitas exports with onnxoptimizer, which is in the extra 'peers'")
    import brevitas_nets as nets
    from brevitas.export import export_onnx_qcdq, export_qonnx  # type: ignore[import-untyped, unused-ignore]

    torch.manual_seed(1)
    net = nets.settled(nets.Residual("external 32"), torch.randn(32, 2, 4, 4))
    path, example = tmp_path / "net.onnx", torch.randn(1, 2, 4, 4)
    if dialect == "qonnx":
        export_qonnx(net, args=example, export_path=str(path), dynamo=False)
    else:
        export_onnx_qcdq(net, args=example, export_path=str(path), dynamo=False)
    x = inputs(50, 2, 4, 4, scale=2)
    with torch.no_grad():
        expected = nets.plain(net(torch.from_numpy(x))).numpy()
    assert_equal(qfx.from_onnx(path), expected, x)


def test_tfc_of_the_finn_project() -> None:
    path = DATA / "models" / "TFC_2W2A.onnx"
    if not path.is_file():
        pytest.skip(f"there is no {path.name} in QFX_DATA")
    pytest.importorskip("qonnx", reason="QONNX is in the extra 'peers'")
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    q = qfx.from_onnx(path, input_type=qfx.FixedType.parse("ap_ufixed<8,0>"), output="82")  # what follows is a norm in float
    assert qfx.conversion(q).exact
    model = ModelWrapper(str(path)).transform(InferShapes())
    x = (np.random.default_rng(4).integers(0, 256, (12, 1, 28, 28)) / 256).astype(np.float32)
    expected = [execute_onnx(model, {"0": image[None]}, return_full_exec_context=True)["82"] for image in x]
    assert_equal(q, np.concatenate(expected), x)


def test_the_command_writes_a_file_for_the_others(tmp_path: Path, runner: Callable[..., Any]) -> None:
    nodes, constants = qdq_network()
    path = saved(tmp_path, nodes, constants, (2, 8, 8))
    written = tmp_path / "qfx.onnx"
    done = runner("import", str(path), "-o", str(written))
    assert done.exit_code == 0, done.output
    assert "the same to the last bit" in done.output
    x = inputs(10, 2, 8, 8)
    assert np.array_equal(qfx.run(qfx.load_graph(written), x), runtime(path, x))
    before = written.read_bytes()
    again = runner("import", str(path), "-o", str(written))
    assert again.exit_code == 2
    assert "--force" in again.output
    assert written.read_bytes() == before
    assert runner("import", str(path), "-o", str(written), "--force", "--json").exit_code == 0


def test_the_command_leaves_nothing_of_a_file_that_it_refuses(tmp_path: Path, runner: Callable[..., Any]) -> None:
    constants = {**COMMON, "step": f32(0.3)}
    path = saved(tmp_path, [quant("x", "y", "step")], constants)
    done = runner("import", str(path), "-o", str(tmp_path / "qfx.onnx"))
    assert done.exit_code == 2
    assert "quant_y: has the scale 0.300000012, which is no power of two" in done.output
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]
    nearest = runner("import", str(path), "-o", str(tmp_path / "qfx.onnx"), "--nearest")
    assert nearest.exit_code == 0
    assert "not the same" in nearest.output


@pytest.fixture
def runner() -> Callable[..., Any]:
    from click.testing import CliRunner

    return lambda *words: CliRunner().invoke(main, list(words))


def bad(
    match: str,
    nodes: list[onnx.NodeProto],
    constants: dict[str, Array] | None = None,
    kind: type[qfx.QfxError] = qfx.UnsupportedError,
    **settings: Any,
) -> Any:
    return pytest.param(match, nodes, {**COMMON, **(constants or {})}, kind, settings, id=match[:40])


NODE = helper.make_node
U8 = {"u": np.uint8(0)}
STORED = NODE("QuantizeLinear", ["x", "step", "u"], ["q"])
TRUNCATED = NODE("Trunc", ["q", "step", "zero", "eight", "one", "bits"], ["y"], domain=GENERAL)
LIE = helper.make_tensor_value_info("c", TensorProto.FLOAT, ("N", 9))
OF_A_CAST = helper.make_tensor_value_info("q", TensorProto.FLOAT, ("N", 9))
REFUSED = [
    bad("has the zero point 3, where a fixed-point grid has none", [quant("x", "y", "step", zero="three")], {"three": f32(3.0)}),
    bad("rounds by CEIL, which is no mode of ap_fixed", [quant("x", "y", "step", rounding_mode="CEIL")]),
    bad("rounds by UP", [quant("x", "y", "step", rounding_mode="UP")]),
    bad("has words of 4.5 bits", [quant("x", "y", "step", "bits")], {"bits": f32(4.5)}),
    bad("has words of 40 bits", [quant("x", "y", "step", "bits")], {"bits": f32(40.0)}),
    bad("a narrow range without a sign", [quant("x", "y", "step", signed=0, narrow=1)]),
    bad("has the scale", [quant("x", "y", "step")], {"step": f32(0.0)}),
    bad("has the scale", [quant("x", "y", "step")], {"step": f32(float("nan"))}),
    bad("has scales of shape", [quant("x", "y", "step")], {"step": np.ones((2, 4), np.float32)}),
    bad("of the unknown domain 'my.ops'", [quant("x", "q", "step"), NODE("Odd", ["q"], ["y"], domain="my.ops")]),
    bad("Im2Col is none that is read", [quant("x", "q", "step"), NODE("Im2Col", ["q"], ["y"], domain=GENERAL)]),
    bad("QuantizeLinear is none that is read", [NODE("QuantizeLinear", ["x", "step", "u"], ["q"], domain="finn.custom_op.general")], U8),
    bad("works on integers between", [STORED, NODE("Relu", ["q"], ["y"])], {"u": np.uint8(0)}),
    bad("another scale or zero point", [STORED, NODE("DequantizeLinear", ["q", "fine", "u"], ["y"])], {"u": np.uint8(0)}),
    bad("clips integers to", qdq("x", "y", "step", "i", clip=("a", "b")), {"i": np.int8(0), "a": np.int8(-3), "b": np.int8(5)}),
    bad("is read by mul before it is quantized", [NODE("Mul", ["x", "fine"], ["m"]), quant("m", "y", "step")]),
    bad("is written in version 3", [quant("x", "y", "step")], None, qfx.ModelFileError, version=3),
    bad("is written in version 5 of ai.onnx", [quant("x", "y", "step")], None, qfx.ModelFileError, opset=5),
    bad("has no quantizers", [NODE("Relu", ["x"], ["y"])], None, qfx.ModelFileError),
    bad("is a quantized ONNX model .QLinearConv", [NODE("QLinearAdd", ["x"], ["y"], domain="com.microsoft")], None, qfx.ModelFileError),
    bad("the file says that 'c' has the shape", [quant("x", "q", "step"), NODE("Relu", ["q"], ["c"]), quant("c", "y", "step")], None, info=(LIE,)),
    bad("the file says that 'q' has the shape", [quant("x", "q", "step"), NODE("Relu", ["q"], ["y"])], None, info=(OF_A_CAST,)),
    bad("truncates numbers with 4 fractional bits", [quant("x", "q", "fine"), TRUNCATED], {"one": f32(1.0)}),
]  # fmt: skip


@pytest.mark.parametrize(("match", "nodes", "constants", "kind", "settings"), REFUSED)
def test_what_is_no_fixed_point_is_refused(
    match: str, nodes: list[onnx.NodeProto], constants: dict[str, Array], kind: type[qfx.QfxError], settings: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(kind, match=match) as caught:
        qfx.from_onnx(saved(tmp_path, nodes, constants, **settings))
    assert caught.value.remedy


def test_an_input_that_nothing_reads_is_told(tmp_path: Path) -> None:
    path = saved(tmp_path, [quant("x", "y", "step")], COMMON)
    model = onnx.load(path)
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ("N", 3)))
    onnx.save(model, path)
    with pytest.raises(qfx.UnsupportedError, match=r"more: is read by nothing"):
        qfx.from_onnx(path)


def test_a_runtime_that_refuses_a_file_says_so_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    nodes, constants = qdq_network()
    path = saved(tmp_path, nodes, {**constants, "middle": np.full((2, 3), 128, np.uint8)}, (2, 8, 8))
    with pytest.raises(qfx.ModelFileError, match="does not run under ONNX Runtime"):
        qfx.from_onnx(path)
    assert capfd.readouterr().err == ""


def test_files_that_are_broken_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, [quant("x", "y", "step")], COMMON)
    model = onnx.load(path)
    model.graph.initializer[0].dims.append(7)
    onnx.save(model, path)
    with pytest.raises(qfx.ModelFileError, match="the constant 'zero' is not what the file says"):
        qfx.from_onnx(path)
    model.graph.initializer[0].ClearField("raw_data")
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    model.graph.initializer[0].external_data.add(key="location", value="weights.bin")
    path.write_bytes(model.SerializeToString())
    for read in (qfx.from_onnx, qfx.capture.from_onnx.from_onnx):
        with pytest.raises(qfx.ModelFileError, match="its constants in other files cannot be read"):
            read(path, torch.zeros(2, 4))
    model = onnx.load(saved(tmp_path, [quant("x", "y", "step")], COMMON))
    model.ir_version = 99
    path.write_bytes(model.SerializeToString())
    with pytest.raises(qfx.ModelFileError, match="is of version 99 of ONNX' file format"):
        qfx.from_onnx(path)
    path.write_bytes(b"")
    with pytest.raises(qfx.ModelFileError, match="has no operators"):
        qfx.from_onnx(path)
    path.write_bytes(b"no model")
    with pytest.raises(qfx.ModelFileError, match="is not an ONNX model"):
        qfx.from_onnx(path)
    with pytest.raises(qfx.ModelFileError, match="cannot be read"):
        qfx.from_onnx(tmp_path / "none.onnx")


def test_files_with_random_bytes_are_refused_or_read(tmp_path: Path, thorough: bool) -> None:
    nodes, constants = network()
    path = saved(tmp_path, nodes, constants, (2, 8, 8))
    whole, refused = path.read_bytes(), 0
    for seed in range(300 if thorough else 25):
        print("seed", seed)
        draw, content = random.Random(seed), bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            content[draw.randrange(len(content))] = draw.randrange(256)
        path.write_bytes(bytes(content))
        try:
            qfx.from_onnx(path)
        except qfx.QfxError:
            refused += 1
    assert refused


def test_constant_results_are_left_out_and_told(tmp_path: Path) -> None:
    path = saved(tmp_path, [quant("x", "y", "step"), helper.make_node("Identity", ["step"], ["scale"])], COMMON)
    model = onnx.load(path)
    model.graph.output.append(helper.make_tensor_value_info("scale", TensorProto.FLOAT, ()))
    onnx.save(model, path)
    graph = qfx.to_graph(qfx.from_onnx(path))
    assert len(graph.outputs) == 1
    assert graph.metadata["left_out"] == "the constant result 'scale'"


def test_a_tensor_to_end_at_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(qfx.ModelFileError, match="has no tensor 'z'"):
        qfx.from_onnx(saved(tmp_path, [quant("x", "y", "step")], COMMON), output="z")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(-8, 7, (4, True, False)), (-7, 7, (4, True, True)), (0, 1, (1, False, False)), (-1, 0, (1, True, False)), (-1, 1, (2, True, True))],
)
def test_the_word_of_a_range(low: int, high: int, expected: tuple[int, bool, bool]) -> None:
    assert narrowest(low, high, "here") == expected
