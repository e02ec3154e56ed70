"""TFLite models of 16-bit activations, and operators whose kernels take several roundings, give the integers of LiteRT's reference kernels."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from ai_edge_litert import schema_py_generated as schema
from integers.test_tflite import differing, read
from integers.tflite_files import Int8s, Writing

from qfx import operators as ops
from qfx.errors import ExactnessError, ModelFileError, UnsupportedError
from qfx.export.onnx_file import save
from qfx.hardware.project import csim
from qfx.hardware.project.project import write_project
from qfx.integers.steps import Steps, line
from qfx.integers.tflite.rounding import Rounding
from qfx.ir.from_onnx import load_graph
from qfx.ir.interpret import run_raws
from qfx.ir.values import Const
from qfx.verify import verify

WIDE = {"dtype": "INT16"}


def every(count: int = 65536) -> Any:
    """Every number of int16, as one sample (height, width, 1)."""
    return np.arange(-32768, 32768, 65536 // count).astype(np.int16).reshape(1, 256, -1, 1)


def numbers(rng: np.random.Generator, shape: tuple[int, ...], count: int = 12) -> Int8s:
    x = rng.integers(-32768, 32768, (count, *shape)).astype(np.int16)
    x[0], x[1] = -32768, 32767
    return x  # type: ignore[return-value]


@pytest.mark.parametrize("bias", ["INT64", "INT32", ""])
@pytest.mark.parametrize("kind", ["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"])
def test_sums_of_products(tmp_path: Path, kind: str, bias: str) -> None:
    if not bias and kind == "CONV_2D":
        pytest.skip("LiteRT asks for a bias there")
    if bias == "INT32" and kind == "DEPTHWISE_CONV_2D":
        pytest.skip("LiteRT has none of 32 bits there")
    rng, file = np.random.default_rng(len(kind + bias)), Writing()
    flat, depthwise = kind == "FULLY_CONNECTED", kind == "DEPTHWISE_CONV_2D"
    shape = (1, 12) if flat else (1, 5, 6, 3)
    x = file.tensor("x", shape, 3e-4, **WIDE)
    kernel = (4, 12) if flat else (1, 3, 3, 3) if depthwise else (4, 3, 3, 3)
    outputs = 3 if depthwise else 4
    scales: Any = 0.006 if flat else rng.uniform(0.002, 0.02, outputs)
    most = 40 if flat else 127
    weight = file.tensor("w", kernel, scales, data=rng.integers(-most, most + 1, kernel).astype(np.int8), axis=3 if depthwise else 0)
    inputs = [x, weight]
    if kind == "TRANSPOSE_CONV":
        inputs = [file.tensor("shape", (4,), data=np.array([1, 10, 12, 4], np.int32), dtype="INT32"), weight, x]
    if bias:
        data = rng.integers(-(10**6), 10**6, outputs).astype(np.int32 if bias == "INT32" else np.int64)
        inputs.append(file.tensor("b", (outputs,), 3e-4 * np.asarray(scales), data=data, dtype=bias))
    y = file.tensor("y", (1, 4) if flat else (1, 10, 12, 4) if kind == "TRANSPOSE_CONV" else (1, 5, 6, outputs), 0.0021, **WIDE)
    table = {"CONV_2D": "Conv2DOptions", "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions"}.get(kind, kind.title().replace("_", "") + "Options")
    options = {} if flat else {"strideW": 1, "strideH": 1, "padding": 0}
    if kind == "TRANSPOSE_CONV":
        options = {"strideW": 2, "strideH": 2, "padding": 0}
    elif not flat:
        options |= {"dilationWFactor": 1, "dilationHFactor": 1} | ({"depthMultiplier": 1} if depthwise else {})
    if bias == "INT32":
        options["quantizedBiasType"] = schema.TensorType.INT32
    file.op(kind, inputs, [y], table, 4, fusedActivationFunction=1 if kind == "CONV_2D" else 0, **options)
    content = file.content([x], [y])
    assert differing(read(tmp_path, content), content, numbers(rng, shape[1:])) == 0


def dense(weights: Int8s, bias: npt.NDArray[np.int64], kind: str) -> bytes:
    """A fully connected layer of 16-bit numbers."""
    file, (outputs, inputs) = Writing(), weights.shape
    x, weight = file.tensor("x", (1, inputs), 3e-4, **WIDE), file.tensor("w", (outputs, inputs), 0.006, data=weights)
    sums = file.tensor("b", (outputs,), 3e-4 * 0.006, data=bias.astype(np.int32 if kind == "INT32" else np.int64), dtype=kind)
    y = file.tensor("y", (1, outputs), 0.0031, **WIDE)
    options = {"quantizedBiasType": schema.TensorType.INT32} if kind == "INT32" else {}
    file.op("FULLY_CONNECTED", [x, weight, sums], [y], "FullyConnectedOptions", 4, fusedActivationFunction=0, **options)
    return file.content([x], [y])


@pytest.mark.parametrize("kind", ["INT64", "INT32"])
def test_a_fully_connected_layer_rounds_once(tmp_path: Path, kind: str) -> None:
    """Sums at the steps of the kernel, as biases: LiteRT multiplies by a double there, where a multiplier of 15 bits gives others."""
    factor = float(np.float32(3e-4)) * float(np.float32(0.006)) / float(np.float32(0.0031))
    steps = np.floor((np.arange(-9000, 9000, 601) + 0.5) / factor).astype(np.int64)
    bias = np.concatenate([steps, steps + 1])
    content = dense(np.ones((bias.size, 1), np.int8), bias, kind)
    x = np.array([[0], [1], [-3]], np.int16)
    assert differing(read(tmp_path, content), content, x) == 0  # type: ignore[arg-type]
    if kind == "INT64":
        older = read(tmp_path, content, Rounding.DOUBLE)
        assert differing(older, content, x) > 0  # type: ignore[arg-type]
    rng = np.random.default_rng(2)
    content = dense(rng.integers(-40, 41, (5, 9)).astype(np.int8), rng.integers(-9999, 9999, 5), kind)
    assert differing(read(tmp_path, content), content, numbers(rng, (9,), 600)) == 0


def test_sums_too_long_for_that_are_refused(tmp_path: Path) -> None:
    content = dense(np.full((2, 64), 127, np.int8), np.zeros(2, np.int64), "INT64")
    with pytest.raises(ExactnessError, match="multiplies by a double") as refused:
        read(tmp_path, content)
    assert "FULLY_CONNECTED y" in str(refused.value)
    assert read(tmp_path, content, Rounding.DOUBLE).outputs


@pytest.mark.parametrize("kind", ["ADD", "SUB", "MUL", "MAXIMUM", "constant ADD"])
@pytest.mark.parametrize("seed", range(2))
def test_two_operands(tmp_path: Path, kind: str, seed: int) -> None:
    rng, file = np.random.default_rng(seed), Writing()
    one, two, out = (float(scale) for scale in rng.uniform(1e-4, 6e-4, 3))
    if kind == "MAXIMUM":
        two = out = one
    x = file.tensor("x", (1, 16, 16, 2), one, **WIDE)
    data = rng.integers(-32768, 32768, (1, 16, 16, 2)).astype(np.int16)
    other = file.tensor("c", (1, 16, 16, 2), two, data=data, **WIDE) if kind[0] == "c" else file.tensor("z", (1, 16, 16, 2), two, **WIDE)
    if kind[0] != "c":
        file.op("QUANTIZE", [x], [other])
    y = file.tensor("y", (1, 16, 16, 2), out * (30 if kind == "MUL" else 1), **WIDE)
    name = kind.split()[-1]
    table = "MaximumMinimumOptions" if name == "MAXIMUM" else f"{name.title()}Options"
    more: dict[str, Any] = {} if name == "MAXIMUM" else {"fusedActivationFunction": 0}
    file.op(name, [x, other], [y], table, 4, **more, **({"potScaleInt16": False} if name in ("ADD", "SUB") else {}))
    content = file.content([x], [y])
    assert differing(read(tmp_path, content), content, numbers(rng, (16, 16, 2), 20)) == 0


@pytest.mark.parametrize("kind", ["RELU", "LEAKY_RELU", "QUANTIZE", "to int8", "AVERAGE_POOL_2D", "MAX_POOL_2D"])
def test_one_operand_for_all_its_numbers(tmp_path: Path, kind: str) -> None:
    file = Writing()
    shape = (1, 256, 256, 1)
    pool = "POOL" in kind
    x = file.tensor("x", shape, 5.83687e-3, **WIDE)
    y = file.tensor(
        "y", (1, 128, 128, 1) if pool else shape, 5.83687e-3 if pool else 4.64229e-3 if kind[0] != "t" else 1.31, **({} if kind[0] == "t" else WIDE)
    )
    options: dict[str, Any] = {"table": "LeakyReluOptions", "alpha": 0.3} if kind == "LEAKY_RELU" else {}
    if pool:
        options = {"table": "Pool2DOptions", "strideW": 2, "strideH": 2, "filterWidth": 2, "filterHeight": 2, "padding": 1}
    file.op("QUANTIZE" if kind[0] == "t" else kind, [x], [y], version=3 if pool else 2, **options)
    content = file.content([x], [y])
    assert differing(read(tmp_path, content), content, every()) == 0


@pytest.mark.parametrize("kind", ["LOGISTIC", "TANH"])
@pytest.mark.parametrize("scale", [2.0**-12, 2.0**-11, 2.0**-13, 3e-4, 1.7e-3, 0.011, 0.5])
def test_gates_for_all_their_numbers(tmp_path: Path, kind: str, scale: float) -> None:
    file = Writing()
    x, y = file.tensor("x", (1, 256, 256, 1), scale, **WIDE), file.tensor("y", (1, 256, 256, 1), 2.0**-15, **WIDE)
    file.op(kind, [x], [y], version=3)
    content = file.content([x], [y])
    graph = read(tmp_path, content)
    assert differing(graph, content, every()) == 0
    table = next(place for place, node in enumerate(graph.nodes) if isinstance(node.op, ops.LookupLinear))
    lines = graph.nodes[table].op
    assert isinstance(lines, ops.LookupLinear)
    values = lines.values.raw.copy()
    values[256] += 2 << lines.slopes.grid  # the line behind 0
    planted = replace(graph.nodes[table], op=replace(lines, values=Const(values, lines.slopes.grid)))
    assert differing(replace(graph, nodes=(*graph.nodes[:table], planted, *graph.nodes[table + 1 :])), content, every()) > 0


@pytest.mark.parametrize("seed", range(3))
def test_prelu(tmp_path: Path, seed: int) -> None:
    """Slopes for each channel, of both signs, for every number of int8."""
    rng, file = np.random.default_rng(seed), Writing()
    x = file.tensor("x", (1, 16, 16, 4), 0.07, int(rng.integers(-60, 60)))
    slope = file.tensor("alpha", (1, 1, 4), 0.011, int(rng.integers(-100, 100)), data=rng.integers(-128, 128, (1, 1, 4)).astype(np.int8))
    y = file.tensor("y", (1, 16, 16, 4), 0.05, int(rng.integers(-60, 60)))
    file.op("PRELU", [x, slope], [y], version=1)
    content = file.content([x], [y])
    sample = np.repeat(np.arange(-128, 128).astype(np.int8).reshape(1, 16, 16, 1), 4, axis=3)
    graph = read(tmp_path, content)
    assert differing(graph, content, sample) == 0


@pytest.mark.parametrize(("corners", "half"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("to", [(10, 12), (7, 9), (3, 4), (5, 6), (1, 1)])
def test_resize_bilinear(tmp_path: Path, corners: bool, half: bool, to: tuple[int, int]) -> None:
    for kind, zero in (("INT8", 9), ("INT16", 0)):
        rng, file = np.random.default_rng(0), Writing()
        x = file.tensor("x", (1, 5, 6, 3), 0.1, zero, dtype=kind)
        size = file.tensor("size", (2,), data=np.array(to, np.int32), dtype="INT32")
        y = file.tensor("y", (1, *to, 3), 0.1, zero, dtype=kind)
        file.op("RESIZE_BILINEAR", [x, size], [y], "ResizeBilinearOptions", 4, alignCorners=corners, halfPixelCenters=half)
        content = file.content([x], [y])
        ends = np.iinfo(np.dtype(kind.lower()))
        sample: Any = rng.integers(ends.min, ends.max + 1, (12, 5, 6, 3)).astype(kind.lower())
        assert differing(read(tmp_path, content), content, sample) == 0


def test_every_executor_gives_them(tmp_path: Path) -> None:
    """A convolution, a sum, a leaky rectifier, a resize and slopes by channel: ONNX Runtime and the fast build of the C++."""
    rng, file = np.random.default_rng(2), Writing()
    x = file.tensor("x", (1, 4, 4, 2), 3e-4, **WIDE)
    weight = file.tensor("w", (2, 3, 3, 2), [0.004, 0.011], data=rng.integers(-127, 128, (2, 3, 3, 2)).astype(np.int8))
    bias = file.tensor("b", (2,), [1.2e-6, 3.3e-6], data=rng.integers(-(10**5), 10**5, 2), dtype="INT64")
    names = ("conv", "sum", "leaky")
    conv, total, leaky = (file.tensor(name, (1, 4, 4, 2), scale, **WIDE) for name, scale in zip(names, (5e-4, 7e-4, 6e-4), strict=True))
    options = {"strideW": 1, "strideH": 1, "dilationWFactor": 1, "dilationHFactor": 1, "padding": 0, "fusedActivationFunction": 0}
    file.op("CONV_2D", [x, weight, bias], [conv], "Conv2DOptions", 4, **options)
    file.op("ADD", [x, conv], [total], "AddOptions", 4, fusedActivationFunction=0, potScaleInt16=False)
    file.op("LEAKY_RELU", [total], [leaky], "LeakyReluOptions", alpha=0.2)
    short = file.tensor("short", (1, 4, 4, 2), 0.11, 7)
    file.op("QUANTIZE", [leaky], [short])
    size = file.tensor("size", (2,), data=np.array((6, 5), np.int32), dtype="INT32")
    wider = file.tensor("wider", (1, 6, 5, 2), 0.11, 7)
    file.op("RESIZE_BILINEAR", [short, size], [wider], "ResizeBilinearOptions", 3, alignCorners=False, halfPixelCenters=True)
    slope = file.tensor("alpha", (1, 1, 2), 0.011, 0, data=np.array([[[60, -90]]], np.int8))
    y = file.tensor("y", (1, 6, 5, 2), 0.09, -20)
    file.op("PRELU", [wider, slope], [y], version=1)
    content = file.content([x], [y])
    save(read(tmp_path, content), tmp_path / "model.onnx")
    graph, sample = load_graph(tmp_path / "model.onnx"), numbers(rng, (4, 4, 2), 24)
    assert differing(graph, content, sample) == 0
    folder = write_project(graph, tmp_path / "project", board="zcu102").path
    simulations = {"fast": partial(csim.run_raw, folder, fast=True)}
    rows = verify(tmp_path / "model.onnx", np.moveaxis(sample, -1, 1).astype(np.float32), simulations)
    assert [row.differing_values for row in rows] == [0, 0]


def test_one_wrong_bit_of_a_long_multiplier_is_noticed(tmp_path: Path) -> None:
    """A line over 65,536 steps is the kernel's; one with a multiplier off by one least place is not."""
    file = Writing()
    x, y = file.tensor("x", (1, 256, 256, 1), 0.004, **WIDE), file.tensor("y", (1, 256, 256, 1), 0.0051, **WIDE)
    file.op("QUANTIZE", [x], [y])
    content = file.content([x], [y])
    graph = read(tmp_path, content)
    (place,) = (i for i, node in enumerate(graph.nodes) if isinstance(node.op, ops.Affine) and node.op.scale is not None)
    node = graph.nodes[place]
    assert isinstance(node.op, ops.Affine)
    scale = node.op.scale
    assert scale is not None
    other = replace(node, op=replace(node.op, scale=Const(scale.raw + 1, scale.frac_bits)))
    changed = graph.with_nodes((*graph.nodes[:place], other, *graph.nodes[place + 1 :]))
    assert differing(graph, content, every()) == 0
    sample = np.moveaxis(every(), -1, 1).astype(np.float32)
    assert (run_raws(graph, sample)[0] != run_raws(changed, sample)[0]).any()


def test_a_line_of_many_steps_is_that_of_few() -> None:
    """Bounds that nothing touches are left out; what is found takes every step where it was."""
    for factor in (0.31, 0.7771, 1 / 3, 0.015):
        steps = Steps.of(lambda sums, factor=factor: np.floor(sums * factor + 0.5).astype(np.int64), -90000, 90000, -32768, 32767)  # type: ignore[misc]
        found = line(steps)
        assert found is not None
        sums = np.arange(-90000, 90001)
        assert (np.clip(found(sums), -32768, 32767) == np.clip(np.floor(sums * factor + 0.5), -32768, 32767)).all()


@pytest.mark.parametrize("kind", ["LOGISTIC", "TANH", "SOFTMAX"])
def test_what_is_not_read_is_named(tmp_path: Path, kind: str) -> None:
    file = Writing()
    x, z, y = (file.tensor(name, (1, 8), 0.00031, **WIDE) for name in "xzy")
    file.op(kind, [x], [z], **({"table": "SoftmaxOptions", "beta": 1.0} if kind == "SOFTMAX" else {}))
    file.op("RELU", [z], [y])
    with pytest.raises(UnsupportedError, match=kind):
        read(tmp_path, file.content([x], [y]))


@pytest.mark.parametrize(("beyond", "more"), [(False, 0), (True, 1)])
def test_sums_are_taken_as_far_as_the_kernel_holds_them_scaled(tmp_path: Path, beyond: bool, more: int) -> None:
    """15 bits of multiplier, 15 of shift: sums of up to 2**31 / factor. What LiteRT makes of longer ones has another sign."""
    scales = [float(np.float32(scale)) for scale in (3e-4, 0.02, 0.0021)]
    multiplier = round(scales[0] * scales[1] / scales[2] * 2**23)
    assert 1 << 14 <= multiplier < 1 << 15
    file = Writing()
    x, y = file.tensor("x", (1, 2, 2, 1), scales[0], **WIDE), file.tensor("y", (1, 2, 2, 1), scales[2], **WIDE)
    weight = file.tensor("w", (1, 1, 1, 1), scales[1:2], data=np.ones((1, 1, 1, 1), np.int8))
    bias = ((2**31 - 1) << 23) // multiplier - 32767 + more
    shared = file.tensor("b", (1,), scales[0] * scales[1], data=np.array([bias], np.int64), dtype="INT64")
    ones = {"strideW": 1, "strideH": 1, "dilationWFactor": 1, "dilationHFactor": 1}
    file.op("CONV_2D", [x, weight, shared], [y], "Conv2DOptions", 4, **ones)
    content = file.content([x], [y])
    if beyond:
        with pytest.raises(ExactnessError, match="scaled sums can leave int32"):
            read(tmp_path, content)
    else:
        assert differing(read(tmp_path, content), content, numbers(np.random.default_rng(0), (2, 2, 1))) == 0


def test_a_bias_that_no_kernel_holds_is_refused(tmp_path: Path) -> None:
    file = Writing()
    x, y = file.tensor("x", (1, 2), 0.1, **WIDE), file.tensor("y", (1, 1), 0.1, **WIDE)
    weight = file.tensor("w", (1, 2), 0.1, data=np.ones((1, 2), np.int8))
    bias = file.tensor("b", (1,), 0.01, data=np.array([2**63 - 1], np.int64), dtype="INT64")
    file.op("FULLY_CONNECTED", [x, weight, bias], [y], "FullyConnectedOptions", 4)
    with pytest.raises(ExactnessError, match="bias leaves int48"):
        read(tmp_path, file.content([x], [y]))


@pytest.mark.parametrize("dtype", ["INT8", "INT16"])
def test_a_slope_that_leaves_int32_is_refused(tmp_path: Path, dtype: str) -> None:
    file = Writing()
    x, y = file.tensor("x", (1, 5), 0.1, dtype=dtype), file.tensor("y", (1, 5), 0.1, dtype=dtype)
    file.op("LEAKY_RELU", [x], [y], "LeakyReluOptions", alpha=1e30)
    with pytest.raises(ModelFileError, match="scaled by 1e\\+30"):
        read(tmp_path, file.content([x], [y]))
