"""Quantized ONNX files with any scales give the integers of ONNX Runtime's kernels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from integers.onnx_files import Feeding, float_model, kernels, quantized
from onnx import TensorProto, helper, load, numpy_helper, save
from onnxruntime.quantization import QuantFormat, quantize_static

from qfx import operators as ops
from qfx.errors import ExactnessError, ModelFileError, UnsupportedError
from qfx.integers.onnx import read_onnx_integers
from qfx.integers.onnx.products import nearest_function
from qfx.ir.graph import LEFT_OUT_KEY, Graph
from qfx.ir.interpret import run_raws
from qfx.ir.values import Const


def differing(graph: Graph, path: Path, shape: tuple[int, ...], count: int = 40, *, signed: bool = False) -> int:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(1, *shape)) * scale for scale in np.exp(rng.uniform(-2, 2, count))]).astype(np.float32)
    given, want = kernels(path, graph.outputs[0], x, signed=signed)
    return int((run_raws(graph, given.astype(np.float32), check_ranges=True)[0] != want).sum())


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_files_of_the_runtimes_own_quantizer(tmp_path: Path, seed: int, per_channel: bool) -> None:
    path, shape = quantized(tmp_path, seed, per_channel=per_channel)
    graph = read_onnx_integers(path, nearest=True)
    assert differing(graph, path, shape) == 0
    assert "QLinearSoftmax" in graph.metadata[LEFT_OUT_KEY]
    assert graph.metadata["quantized"].startswith("input x: scale 0.0")


def test_one_wrong_bit_of_a_multiplier_is_noticed(tmp_path: Path) -> None:
    path, shape = quantized(tmp_path, 0)
    graph = read_onnx_integers(path, nearest=True)
    found = 0
    for place, node in enumerate(graph.nodes):
        if isinstance(node.op, ops.Affine) and node.op.scale is not None:
            changed = np.maximum(node.op.scale.raw + node.op.scale.raw // 32, node.op.scale.raw + 1)
            wrong = replace(node.op, scale=Const(changed, node.op.scale.frac_bits))
            nodes = (*graph.nodes[:place], replace(node, op=wrong), *graph.nodes[place + 1 :])
            found += differing(Graph(graph.name, nodes, graph.outputs), path, shape) > 0
    assert found >= 3


@pytest.mark.parametrize("factor", [2.0**-9, 3 * 2.0**-12, 0.01, 0.000762161])
def test_halves_go_to_the_even_integer_as_the_kernel_has_them(factor: float) -> None:
    """For every sum, by the line that is found; where there is none, the exact product's line is what it says."""
    function, sums = nearest_function(np.float32(factor)), np.arange(-(1 << 18), 1 << 18)
    ends = (-128, 127)
    for one in (function, function.near):
        assert one is not None
        found = one.drawn((int(sums[0]), int(sums[-1])), ends)
        if found is None:
            assert one is function
            continue
        drawn, bits = found
        results = drawn(sums)
        if bits:
            half = 1 << (bits - 1)
            results = (results + half - 1 + (results >> bits & 1)) >> bits
        assert (np.clip(results, *ends) == np.clip(one.call(sums), *ends)).all()


@pytest.mark.parametrize("symmetric", [False, True])
def test_signed_activations_give_the_integer_kernels(tmp_path: Path, symmetric: bool) -> None:
    """By default only Arm's have them; elsewhere the file says with which option."""
    path, shape = quantized(tmp_path, 0, activations="QInt8", ActivationSymmetric=symmetric)
    graph = read_onnx_integers(path, nearest=True)
    assert differing(graph, path, shape, signed=True) == 0
    assert "session.qdqisint8allowed=1" in graph.metadata["quantized.option"]
    changed = list(graph.nodes)
    place = next(i for i, node in enumerate(changed) if isinstance(node.op, ops.Conv))
    conv = changed[place].op
    assert isinstance(conv, ops.Conv)
    weight = conv.weight.raw.copy()
    weight.reshape(-1)[0] += 1
    changed[place] = replace(changed[place], op=replace(conv, weight=Const(weight, conv.weight.frac_bits)))
    assert differing(graph.with_nodes(tuple(changed)), path, shape, signed=True) > 0


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_what_float_kernels_decide_is_refused(tmp_path: Path, kind: type) -> None:
    """A transposed convolution, of which the runtime has no integer kernel."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("ConvTranspose", ["d", "w"], ["c"]),
        helper.make_node("QuantizeLinear", ["c", "s", "z"], ["p"]),
        helper.make_node("DequantizeLinear", ["p", "s", "z"], ["y"]),
    ]
    held = {"s": np.float32(0.03), "z": np.zeros((), kind), "w": np.random.default_rng(0).normal(size=(2, 2, 3, 3)).astype(np.float32)}
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, size, size]) for name, size in (("x", 5), ("y", 3)))
    graph = helper.make_graph(nodes, "net", [x], [y], initializers)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "model.onnx")
    with pytest.raises(UnsupportedError, match=r"(?s)ConvTranspose.* computes it in floats.*quantize its operands"):
        read_onnx_integers(tmp_path / "model.onnx")


def test_files_of_integer_operators(tmp_path: Path) -> None:
    path, shape = quantized(tmp_path, 0, qdq=False)
    graph = read_onnx_integers(path, nearest=True)
    assert differing(graph, path, shape) == 0


def test_a_kernel_without_a_line_is_refused_unless_the_nearest_will_do(tmp_path: Path) -> None:
    """Of a real file: float32 makes halves of products that are none, so that a few steps lie one sum further."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "sx", "zero"], ["q"]),
        helper.make_node("QLinearConv", ["q", "sx", "zero", "w", "sw", "wz", "sy", "yz"], ["c"]),
        helper.make_node("DequantizeLinear", ["c", "sy", "yz"], ["y"]),
    ]
    constants = {
        "sx": np.float32(0.0007621612166985869), "yz": np.uint8(182), "zero": np.uint8(128),
        "w": rng.integers(-128, 128, (4, 64, 3, 3)).astype(np.int8), "sw": np.float32(1), "wz": np.int8(0), "sy": np.float32(1),
    }  # fmt: skip
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [1, 64, 3, 3]), ("y", [1, 4, 1, 1])))
    path = tmp_path / "conv.onnx"
    graph = helper.make_graph(nodes, "net", [x], [y], initializers)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(ExactnessError, match=r"(?s)QLinearConv c: no fixed-point line.*nearest integers of exact"):
        read_onnx_integers(path)
    read = read_onnx_integers(path, nearest=True)
    assert read.metadata["quantized.differing"].startswith("QLinearConv c: ")
    assert differing(read, path, (64, 3, 3)) <= 2


def moving(folder: Path, size: tuple[int, int], attributes: dict[str, str], last: str = "Relu") -> Path:
    """Two parts of a convolution's channels, one of them resized and convolved again, the other behind ``last``; quantized."""
    rng, node = np.random.default_rng(0), helper.make_node
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Split", ["c", "parts"], ["a", "b"], axis=1),
        node("Resize", ["b", "", "", "sizes"], ["r"], **{"mode": "nearest", **attributes}),
        node("Conv", ["r", "v"], ["y"]),
        node(last, ["a"], ["z"]),
    ]
    held = {"w": rng.normal(size=(5, 2, 3, 3)), "v": rng.normal(size=(2, 3, 3, 3))}
    initializers = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in held.items()]
    whole = {"parts": [2, 3], "sizes": [1, 3, *size]}
    initializers += [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in whole.items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 6, 7])
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "yz"]
    graph = helper.make_graph(nodes, "net", [x], results, initializers)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "float.onnx")
    feeding = Feeding(rng.normal(size=(8, 2, 6, 7)).astype(np.float32))
    quantize_static(folder / "float.onnx", folder / "int8.onnx", feeding, quant_format=QuantFormat.QDQ)
    return folder / "int8.onnx"


@pytest.mark.parametrize(
    ("size", "attributes"),
    [
        ((8, 10), {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
        ((7, 13), {"coordinate_transformation_mode": "half_pixel"}),
        ((3, 9), {"coordinate_transformation_mode": "align_corners", "nearest_mode": "ceil"}),
        ((4, 5), {}),
    ],
)
def test_parts_and_nearest_pixels(tmp_path: Path, size: tuple[int, int], attributes: dict[str, str]) -> None:
    path = moving(tmp_path, size, attributes)
    graph = read_onnx_integers(path, nearest=True)
    assert differing(graph, path, (2, 6, 7)) == 0
    whole = all(new % old == 0 for new, old in zip(size, (4, 5), strict=True))
    assert any(isinstance(node.op, ops.Upsample) for node in graph.nodes) == (whole and size != (4, 5))
    places = [place for place, node in enumerate(graph.nodes) if isinstance(node.op, ops.Take)]
    for place in places:
        node = graph.nodes[place]
        wrong = replace(node.op, indices=(node.op.indices[0] ^ 1, *node.op.indices[1:]))
        nodes = (*graph.nodes[:place], replace(node, op=wrong), *graph.nodes[place + 1 :])
        assert differing(Graph(graph.name, nodes, graph.outputs), path, (2, 6, 7)) > 0


def test_what_adds_floats_is_refused_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"(?s)ReduceMean.*adds floats.*GlobalAveragePool"):
        read_onnx_integers(moving(tmp_path, (8, 10), {}, last="ReduceMean"))
    path = moving(tmp_path, (8, 10), {"mode": "linear"})
    with pytest.raises(UnsupportedError, match=r"(?s)Resize.*floats of several numbers.*nearest pixel"):
        read_onnx_integers(path)


@pytest.mark.parametrize("scale", [float("nan"), 0.0, -1.0])
def test_scales_of_weights_that_are_no_positive_numbers_are_refused(tmp_path: Path, scale: float) -> None:
    path, _ = quantized(tmp_path, 0, qdq=False, per_channel=True)
    model = load(path)
    held = next(one for one in model.graph.initializer if one.name == "w1_scale")
    held.CopyFrom(numpy_helper.from_array(np.full(numpy_helper.to_array(held).shape, scale, np.float32), "w1_scale"))
    save(model, path)
    with pytest.raises(UnsupportedError, match="w1_scale are not positive numbers"):
        read_onnx_integers(path)


def test_float_files_and_others(tmp_path: Path) -> None:
    float_model(tmp_path / "float.onnx", np.random.default_rng(0))
    with pytest.raises(UnsupportedError, match="the input is of float32"):
        read_onnx_integers(tmp_path / "float.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(ModelFileError, match=r"text\.onnx"):
        read_onnx_integers(tmp_path / "text.onnx")
    with pytest.raises(ModelFileError, match=r"nothing\.onnx"):
        read_onnx_integers(tmp_path / "nothing.onnx")
