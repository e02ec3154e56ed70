"""Models of TFLite give the integers of LiteRT's reference kernels, in every executor."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from integers.tflite_files import Int8s, Writing, random_content, reference

from qfx import operators as ops
from qfx.errors import ModelFileError, QfxError, UnsupportedError
from qfx.export.onnx_file import save
from qfx.hardware.design.schedule import Request
from qfx.hardware.project import csim
from qfx.hardware.project.project import write_project
from qfx.integers.tflite import read_tflite
from qfx.integers.tflite.rounding import Rounding
from qfx.ir.from_onnx import load_graph
from qfx.ir.graph import LEFT_OUT_KEY, Graph
from qfx.ir.interpret import run_raws
from qfx.ir.values import Const
from qfx.verify import verify


def samples(rng: np.random.Generator, shape: tuple[int, ...], count: int = 30) -> Int8s:
    """Random numbers, and the ends of int8."""
    x = rng.integers(-128, 128, (count, *shape)).astype(np.int8)
    x[0], x[1] = -128, 127
    return x


def first(x: Int8s) -> npt.NDArray[np.float32]:
    """Channels in front, as PyTorch and qfx have them."""
    return np.moveaxis(x, -1, 1).astype(np.float32)


def differing(graph: Graph, content: bytes, x: Int8s) -> int:
    got, want = run_raws(graph, first(x), check_ranges=True), reference(content, x)
    return sum(int((raws != np.moveaxis(one, -1, 1)).sum()) for raws, one in zip(got, want, strict=True))


def read(tmp_path: Path, content: bytes, rounding: Rounding | None = None) -> Graph:
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    return read_tflite(path, rounding=rounding)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_random_networks_give_the_integers_of_the_reference_kernels(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng(seed)
    content, shape = random_content(rng)
    assert differing(read(tmp_path_factory.mktemp("tflite"), content), content, samples(rng, shape)) == 0


@pytest.mark.parametrize("kind", ["conv", "depthwise", "dense"])
@pytest.mark.parametrize("seed", range(3))
def test_every_step_of_a_scaling_is_where_the_kernel_has_it(tmp_path: Path, kind: str, seed: int) -> None:
    """Biases alone make the sums: the last one below each step, the first one at it, and their neighbours."""
    rng = np.random.default_rng(seed)
    scales = [float(np.float32(scale)) for scale in rng.uniform(0.001, 0.1, 3)]
    scales[1] = float(np.float32(scales[1] * 2.0 ** -rng.integers(0, 12)))
    factor, zero = scales[0] * scales[1] / scales[2], int(rng.integers(-100, 100))
    halves = (np.arange(-128, 128, 7) - zero - 0.5) / factor
    bias = np.unique(np.clip(np.concatenate([np.floor(halves) + step for step in (-2, -1, 0, 1, 2, 3)]), -(2**30), 2**30)).astype(np.int32)
    file, count = Writing(), bias.size
    if kind == "dense":
        x, y = file.tensor("x", (1, 1), scales[0]), file.tensor("y", (1, count), scales[2], zero)
        weight = file.tensor("w", (count, 1), scales[1], data=np.ones((count, 1), np.int8))
    else:
        x, y = file.tensor("x", (1, 1, 1, 1), scales[0]), file.tensor("y", (1, 1, 1, count), scales[2], zero)
        shape, axis = ((1, 1, 1, count), 3) if kind == "depthwise" else ((count, 1, 1, 1), 0)
        weight = file.tensor("w", shape, np.full(count, scales[1]), data=np.ones(shape, np.int8), axis=axis)
    shared = file.tensor("b", (count,), scales[0] * scales[1], data=bias, dtype="INT32")
    inputs, ones = [x, weight, shared], {"strideW": 1, "strideH": 1, "dilationWFactor": 1, "dilationHFactor": 1}
    if kind == "dense":
        file.op("FULLY_CONNECTED", inputs, [y], "FullyConnectedOptions", 4)
    elif kind == "depthwise":
        file.op("DEPTHWISE_CONV_2D", inputs, [y], "DepthwiseConv2DOptions", 3, depthMultiplier=count, **ones)
    else:
        file.op("CONV_2D", inputs, [y], "Conv2DOptions", 3, **ones)
    content = file.content([x], [y])
    given_ = np.zeros((1, 1) if kind == "dense" else (1, 1, 1, 1), np.int8)
    assert differing(read(tmp_path, content), content, given_) == 0
    other = Rounding.DOUBLE if kind == "dense" else Rounding.SINGLE  # the other rounding takes some of its steps elsewhere
    assert differing(read(tmp_path, content, other), content, given_) > 0


@pytest.mark.parametrize("what", ["ADD", "SUB", "MUL"])
@pytest.mark.parametrize("scales", [(0.1, 0.1, 0.1), (0.1, 0.05, 0.1), (0.013, 0.17, 0.09), (0.2, 0.2, 0.1)])
@pytest.mark.parametrize("constant", ["", "channels", "all"])
def test_sums_and_products_for_every_pair(tmp_path: Path, what: str, scales: tuple[float, float, float], constant: str) -> None:
    """The first operand goes through int8 along the height, the second along the width."""
    file = Writing()
    x = file.tensor("x", (1, 16, 16, 2), scales[0], 3)
    if constant:
        shape = (2,) if constant == "channels" else (1, 16, 16, 2)
        data = np.random.default_rng(0).integers(-128, 128, shape).astype(np.int8)
        other = file.tensor("c", shape, scales[1], -9, data=data)
    else:
        other = file.simple("QUANTIZE", x, "other", scale=scales[1], zero=-9)
    y = file.tensor("y", (1, 16, 16, 2), scales[2], 5)
    file.op(what, [x, other], [y], f"{what.title()}Options", fusedActivationFunction=1)
    content = file.content([x], [y])
    assert differing(read(tmp_path, content), content, samples(np.random.default_rng(1), (16, 16, 2), 20)) == 0


@pytest.mark.parametrize("kind", ["RELU", "RELU6", "RELU_N1_TO_1", "LEAKY_RELU", "LOGISTIC", "TANH", "QUANTIZE", "HARD_SWISH"])
def test_functions_of_one_number_for_all_of_them(tmp_path: Path, kind: str) -> None:
    file = Writing()
    x = file.tensor("x", (1, 256), 0.07, 5)
    scale, zero = {"LOGISTIC": (1 / 256, -128), "TANH": (1 / 128, 0)}.get(kind, (0.045, -10))
    options = {"table": "LeakyReluOptions", "alpha": 0.3} if kind == "LEAKY_RELU" else {}
    y = file.simple(kind, x, "y", scale=scale, zero=zero, version=1 if kind in ("RELU_N1_TO_1", "HARD_SWISH") else 2, **options)
    content = file.content([x], [y])
    assert differing(read(tmp_path, content), content, np.arange(-128, 128).astype(np.int8)[None]) == 0


@pytest.mark.parametrize(("size", "scale", "keep"), [(7, 0.1, True), (6, 0.05, False), (5, 0.03, True), (8, 0.1, False)])
def test_means(tmp_path: Path, size: int, scale: float, keep: bool) -> None:
    file = Writing()
    x, axes = file.tensor("x", (1, 7, size, 3), 0.1, 5), file.tensor("axes", (2,), data=np.array([1, 2], np.int32), dtype="INT32")
    y = file.tensor("y", (1, 1, 1, 3) if keep else (1, 3), scale, -3)
    file.op("MEAN", [x, axes], [y], "ReducerOptions", keepDims=keep)
    content = file.content([x], [y])
    assert differing(read(tmp_path, content), content, samples(np.random.default_rng(0), (7, size, 3), 60)) == 0


def test_what_moves_numbers(tmp_path: Path) -> None:
    file = Writing()
    x = file.tensor("x", (1, 4, 6, 3), 0.1, 7)
    sides = file.tensor("sides", (4, 2), data=np.array([[0, 0], [1, 0], [0, 2], [1, 1]], np.int32), dtype="INT32")
    padded = file.tensor("padded", (1, 5, 8, 5), 0.1, 7)
    file.op("PAD", [x, sides], [padded], "PadOptions")
    shape = file.tensor("shape", (4,), data=np.array([1, 8, 5, 5], np.int32), dtype="INT32")
    turned = file.tensor("turned", (1, 8, 5, 5), 0.1, 7)
    file.op("RESHAPE", [padded, shape], [turned], "ReshapeOptions", 1, newShape=[1, 8, 5, 5])
    joined = file.tensor("joined", (1, 16, 5, 5), 0.1, 7)
    file.op("CONCATENATION", [turned, turned], [joined], "ConcatenationOptions", axis=1)
    wide = file.tensor("wide", (1, 16, 5, 10), 0.1, 7)
    file.op("CONCATENATION", [joined, joined], [wide], "ConcatenationOptions", axis=3)
    size = file.tensor("size", (2,), data=np.array([32, 15], np.int32), dtype="INT32")
    larger = file.tensor("larger", (1, 32, 15, 10), 0.1, 7)
    file.op("RESIZE_NEAREST_NEIGHBOR", [wide, size], [larger], "ResizeNearestNeighborOptions", version=2)
    content = file.content([x], [larger, joined])
    assert differing(read(tmp_path, content), content, samples(np.random.default_rng(0), (4, 6, 3))) == 0


@pytest.mark.parametrize(("taps", "stride", "valid"), [(4, 2, False), (2, 2, False), (3, 2, False), (3, 2, True), (3, 1, True), (5, 3, True)])
def test_transposed_convolutions(tmp_path: Path, taps: int, stride: int, valid: bool) -> None:
    rng, file = np.random.default_rng(taps), Writing()
    sizes = [(size - 1) * stride + taps if valid else size * stride for size in (4, 5)]
    x, y = file.tensor("x", (1, 4, 5, 3), 0.05, 9), file.tensor("y", (1, *sizes, 2), 0.2, -20)
    shape = file.tensor("shape", (4,), data=np.array([1, *sizes, 2], np.int32), dtype="INT32")
    scales = rng.uniform(0.001, 0.02, 2)
    weight = file.tensor("w", (2, taps, taps, 3), scales, data=rng.integers(-127, 128, (2, taps, taps, 3)).astype(np.int8))
    bias = file.tensor("b", (2,), 0.05 * scales, data=rng.integers(-3000, 3000, 2).astype(np.int32), dtype="INT32")
    file.op("TRANSPOSE_CONV", [shape, weight, x, bias], [y], "TransposeConvOptions", 3, padding=int(valid), strideH=stride, strideW=stride)
    content = file.content([x], [y])
    assert differing(read(tmp_path, content), content, samples(rng, (4, 5, 3))) == 0


def test_parts_and_orders(tmp_path: Path) -> None:
    file = Writing()

    def ints(name: str, numbers: list[int]) -> int:
        return file.tensor(name, (len(numbers),), data=np.array(numbers, np.int32), dtype="INT32")

    x, turned = file.tensor("x", (1, 4, 6, 3), 0.1, 7), file.tensor("turned", (1, 3, 4, 6), 0.1, 7)
    file.op("TRANSPOSE", [x, ints("perm", [0, 3, 1, 2])], [turned], "TransposeOptions")
    halves = [file.tensor(f"half{place}", (1, 3, 4, 3), 0.1, 7) for place in range(2)]
    file.op("SPLIT", [file.tensor("axis", (), data=np.array(3, np.int32), dtype="INT32"), turned], halves, "SplitOptions", numSplits=2)
    part = file.tensor("part", (1, 2, 2, 3), 0.1, 7)
    bounds = [ints("starts", [0, 1, 0, 0]), ints("stops", [1, 3, -1, 0]), ints("steps", [1, 1, 2, 1])]
    file.op("STRIDED_SLICE", [halves[0], *bounds], [part], "StridedSliceOptions", beginMask=0, endMask=8)
    other = file.tensor("other", (1, 2, 2, 3), 0.1, 7)
    file.op("SLICE", [halves[1], ints("begin", [0, 0, 1, 0]), ints("size", [1, 2, 2, -1])], [other], "SliceOptions")
    low, high = (file.tensor(name, (1, 2, 2, 3), 0.1, 7) for name in ("low", "high"))
    file.op("MINIMUM", [part, other], [low], "MaximumMinimumOptions")
    file.op("MAXIMUM", [part, other], [high], "MaximumMinimumOptions")
    content = file.content([x], [low, high])
    assert differing(read(tmp_path, content), content, samples(np.random.default_rng(0), (4, 6, 3))) == 0


def network(rng: np.random.Generator) -> tuple[bytes, tuple[int, ...]]:
    """Convolution, residual block, pool, and a linear layer."""
    file = Writing()
    x = file.tensor("x", (1, 6, 6, 2), 0.03, -4)
    a = file.conv(rng, x, "a", outputs=4, activation=1, zero=-128)
    b = file.conv(rng, a, "b", outputs=1, depthwise=True, zero=3)
    y = file.tensor("sum", (1, 6, 6, 4), 0.2, 10)
    file.op("ADD", [a, b], [y], "AddOptions", fusedActivationFunction=1)
    axes, pooled = file.tensor("axes", (2,), data=np.array([1, 2], np.int32), dtype="INT32"), file.tensor("pooled", (1, 4), 0.1, -7)
    file.op("MEAN", [y, axes], [pooled], "ReducerOptions")
    dense = file.dense(rng, pooled, "dense", inputs=4, outputs=3)
    return file.content([x], [dense]), (6, 6, 2)


def test_every_executor_gives_them(tmp_path: Path) -> None:
    """The ONNX file, ONNX Runtime and both builds of the C++."""
    rng = np.random.default_rng(3)
    content, shape = network(rng)
    save(read(tmp_path, content), tmp_path / "model.onnx")
    graph = load_graph(tmp_path / "model.onnx")
    x = samples(rng, shape)
    assert differing(graph, content, x) == 0
    folder = write_project(graph, tmp_path / "project", board="zcu102", schedule=Request(fit=True)).path
    simulations = {"C simulation": partial(csim.run_raw, folder), "fast": partial(csim.run_raw, folder, fast=True)}
    assert [row.differing_values for row in verify(tmp_path / "model.onnx", first(x), simulations)] == [0, 0, 0]


def test_one_wrong_bit_of_a_multiplier_is_noticed(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    content, shape = network(rng)
    graph, x = read(tmp_path, content), samples(rng, shape, 200)
    found = 0
    for place, node in enumerate(graph.nodes):
        if isinstance(node.op, ops.Affine) and node.op.scale is not None:
            wrong = replace(node.op, scale=Const(node.op.scale.raw + 64, node.op.scale.frac_bits))
            nodes = (*graph.nodes[:place], replace(node, op=wrong), *graph.nodes[place + 1 :])
            found += differing(Graph(graph.name, nodes, graph.outputs), content, x) > 0
    assert found >= 3


def test_floats_around_the_integers_are_left_out(tmp_path: Path) -> None:
    bare, file = Writing(), Writing()
    x = bare.tensor("x", (1, 5), 0.1, 3)
    integers = bare.content([x], [bare.dense(np.random.default_rng(0), x, "y", inputs=5, outputs=4)])
    floats, x = file.tensor("floats", (1, 5), dtype="FLOAT32"), file.tensor("x", (1, 5), 0.1, 3)
    file.op("QUANTIZE", [floats], [x])
    y = file.dense(np.random.default_rng(0), x, "y", inputs=5, outputs=4)
    shares, out = file.tensor("shares", (1, 4), 1 / 256, -128), file.tensor("out", (1, 4), dtype="FLOAT32")
    file.op("SOFTMAX", [y], [shares], "SoftmaxOptions", beta=1.0)
    file.op("DEQUANTIZE", [shares], [out])
    graph = read(tmp_path, file.content([floats], [out]))
    assert differing(graph, integers, samples(np.random.default_rng(1), (5,))) == 0
    assert graph.metadata[LEFT_OUT_KEY].splitlines() == ["QUANTIZE x", "DEQUANTIZE out", "SOFTMAX shares"]
    assert graph.metadata["tflite"].splitlines()[0] == "input x: scale 0.1, zero point 3"


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    raw = bytearray(content)
    for _ in range(int(rng.integers(1, 8))):
        raw[int(rng.integers(0, len(raw)))] = int(rng.integers(0, 256))
    return bytes(raw[: int(rng.integers(1, len(raw)))]) if rng.random() < 0.3 else bytes(raw)


def test_damaged_files_are_refused_or_read(tmp_path: Path) -> None:
    """Whatever a file says, the answer is a graph or an error of qfx's own."""
    content, _ = network(np.random.default_rng(0))
    refused = 0
    for seed in range(300):
        try:
            read(tmp_path, damaged(content, np.random.default_rng(seed)))
        except QfxError:
            refused += 1
    assert refused > 100


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    file = Writing()
    x, y, z = (file.tensor(name, (1, 5), 0.1) for name in "xyz")
    file.op("ELU", [x], [y], version=1)
    file.op("SIN", [y], [z], version=1)
    with pytest.raises(UnsupportedError, match=r"(?s)ELU y: ELU has no.*SIN z: SIN has no|2 obstacles"):
        read(tmp_path, file.content([x], [z]))


@pytest.mark.parametrize(
    ("kind", "dtype", "words"),
    [
        ("SOFTMAX", "INT8", "(?s)adds floats.*end the model at a SOFTMAX"),
        ("SVDF", "INT8", "(?s)keeps its state.*cut the model"),
        ("UNIDIRECTIONAL_SEQUENCE_LSTM", "INT8", "(?s)rounding of its cell.*cut the model"),
        ("HARD_SWISH", "INT16", "LiteRT has no kernel"),
    ],
)
def test_what_is_asked_for_most_is_refused_with_a_way_out(tmp_path: Path, kind: str, dtype: str, words: str) -> None:
    file = Writing()
    x, y, z = (file.tensor(name, (1, 5), 0.1, dtype=dtype) for name in "xyz")
    file.op(kind, [x], [y], "SoftmaxOptions" if kind == "SOFTMAX" else "", version=1)
    file.op("RELU", [y], [z])
    content = file.content([x], [z])
    with pytest.raises(UnsupportedError, match=words):
        read(tmp_path, content)
    if dtype == "INT16":
        with pytest.raises(RuntimeError, match="int8 are supported"):
            reference(content, np.zeros((1, 5), np.int16))


@pytest.mark.parametrize("kind", ["LEAKY_RELU", "TANH", "LOGISTIC"])
def test_a_function_from_int8_to_int16_is_not_said_to_be_without_a_kernel(tmp_path: Path, kind: str) -> None:
    file = Writing()
    x, y = file.tensor("x", (1, 5), 0.1), file.tensor("y", (1, 5), 0.1, dtype="INT16")
    file.op(kind, [x], [y], **({"table": "LeakyReluOptions", "alpha": 0.3} if kind == "LEAKY_RELU" else {}))
    with pytest.raises(UnsupportedError, match="qfx reads it in int8 only"):
        read(tmp_path, file.content([x], [y]))


@pytest.mark.parametrize(
    ("inputs", "outputs", "words"),
    [
        ((0, 1), (), "does not fit its tensors"),
        ((0,), (2,), "does not fit"),
        ((0, -1), (2,), "leaves out a tensor"),
        ((0, 1, -1, 1), (2,), "4 inputs"),
        ((0, 1), (2, 2), "2 outputs"),
    ],
)
def test_operators_with_other_tensors_than_their_kind_has(tmp_path: Path, inputs: tuple[int, ...], outputs: tuple[int, ...], words: str) -> None:
    file = Writing()
    x = file.tensor("x", (1, 5), 0.1)
    file.tensor("w", (5, 5), 0.1, data=np.ones((5, 5), np.int8))
    y = file.tensor("y", (1, 5), 0.1)
    file.op("FULLY_CONNECTED", list(inputs), list(outputs), "FullyConnectedOptions", 4)
    file.op("RELU", [x], [y])
    with pytest.raises(ModelFileError, match=words):
        read(tmp_path, file.content([x], [y]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dtype": "UINT8"}, "is of type UINT8"),
        ({"zero": 200}, "zero point is 200"),
        ({"scale": [0.1, 0.2, 0.3, 0.4, 0.5]}, "has 5 scales"),
        ({"scale": 0.0}, "not positive"),
        ({"shape": (2, 5)}, "batch"),
        ({"shape": (1, 2**30)}, "no device holds it"),
    ],
)
def test_tensors_that_int8_models_do_not_have(tmp_path: Path, change: dict[str, object], words: str) -> None:
    file = Writing()
    x = file.tensor("x", **{"shape": (1, 5), "scale": 0.1, **change})  # type: ignore[arg-type]
    y = file.tensor("y", (1, 5), 0.1)
    file.op("RELU", [x], [y])
    with pytest.raises((UnsupportedError, ModelFileError), match=words):
        read(tmp_path, file.content([x], [y]))


@pytest.mark.parametrize(("content", "words"), [(b"", "is not a TFLite"), (b"0000TFL3", "points out"), (b"hello, world, TFL3", "is not a TFLite")])
def test_files_of_other_kinds(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(ModelFileError, match=words):
        read(tmp_path, content)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"nothing\.tflite"):
        read_tflite(tmp_path / "nothing.tflite")
