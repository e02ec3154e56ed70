"""A quantized ONNX file becomes a graph whose integers are those of ONNX Runtime's integer kernels."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from qfx import operators as ops
from qfx.errors import UnsupportedError, together
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.integers.keys import DIFFERING_KEY, OPTION_KEY, QUANTIZATION_KEY
from qfx.integers.onnx import moving, pointwise, products
from qfx.integers.onnx.file import PRODUCTS, Fused, Model, read_model
from qfx.integers.onnx.network import Network, View
from qfx.ir.graph import LEFT_OUT_KEY, OUTPUTS_KEY, Graph, graph_name
from qfx.ir.values import ArrayType

_FLOATS = ("Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu", "Selu", "Softplus", "Softsign", "Erf", "Gelu", "Abs",
           "Neg", "Sqrt", "Exp", "Log", "Reciprocal", "Floor", "Ceil", "Round", "Pow", "Add", "Sub", "Mul", "Div", "Min", "Max")  # fmt: skip

_KINDS: Mapping[str, Callable[[Network, Fused], None]] = MappingProxyType({
    "QLinearConv": products.qlinear_conv,
    "QLinearMatMul": products.qlinear_mat_mul,
    "QGemm": products.q_gemm,
    "QuantizeLinear": pointwise.quantize,
    "DequantizeLinear": pointwise.dequantize,
    "QLinearAdd": pointwise.qlinear_add,
    "QLinearMul": pointwise.qlinear_mul,
    "QLinearSigmoid": pointwise.on_integers,
    "QLinearLeakyRelu": pointwise.on_integers,
    "QLinearGlobalAveragePool": moving.qlinear_global_average_pool,
    "QLinearConcat": moving.qlinear_concat,
    "MaxPool": moving.max_pool,
    "Reshape": moving.reshape,
    "Flatten": moving.reshape,
    "Squeeze": moving.reshape,
    "Unsqueeze": moving.reshape,
    "Transpose": moving.transpose,
    "Slice": moving.slice_,
    "Split": moving.split,
    "Resize": moving.resize,
    "Identity": moving.identity,
    "Dropout": moving.identity,
    **dict.fromkeys(_FLOATS, pointwise.on_floats),
})  # fmt: skip

_LAST = ("Softmax", "LogSoftmax", "QLinearSoftmax")
"""What is left out where only it, or what makes floats of it, stands before an output."""


_ADDED = "ONNX Runtime adds floats there, each addition rounded, which no integers reproduce for every input"
_AVERAGED = "average over whole images: GlobalAveragePool (nn.AdaptiveAvgPool2d(1)), whose kernel adds integers; or convolve by equal weights"
_SOFTMAX = "end the model at a softmax, which is left out there, or in front of it; or take the float model with its softmax by table: qfx.quantize"
_IN_FLOATS: Mapping[str, str] = MappingProxyType({
    **dict.fromkeys(("ReduceMean", "ReduceSum", "AveragePool", "QLinearAveragePool", "QLinearReduceMean"), _AVERAGED),
    **dict.fromkeys(_LAST, _SOFTMAX),
})  # fmt: skip
"""Of operators that are asked for: what to do."""


def read_onnx_integers(path: str | os.PathLike[str], *, nearest: bool = False) -> Graph:
    """The graph of an int8 or uint8 model, QDQ or QOperator, with any scales: inputs and outputs are the file's stored integers, the batch left out.

    The integers are those of ONNX Runtime's CPU kernels, to which its own optimizer (level "extended") brings the file first; small kernels are run
    for every integer, or pair of integers, that they can read. QuantizeLinear at an input, DequantizeLinear and a softmax at an output are left out,
    and told in the metadata.

    ``nearest``: where the float32 product of a kernel makes halves of what is none, and no fixed-point line takes its steps, the exact product stands
    for it; results there differ by one, and the metadata tells at how many sums of each operator.

    Raises ModelFileError for a file that cannot be read; UnsupportedError, listing all of them, for operators without an integer form; ExactnessError
    where float kernels decide by their last bits.
    """
    model = read_model(Path(path))
    network, left = Network(model, nearest=nearest), list[str]()
    told = _inputs(network, model, left)
    outputs = [_last(model, name, left) for name in model.outputs]
    inside = _needed(model, outputs, network)
    blockers = [_blocker(network, node) for node in inside if node.kind not in _KINDS]
    if blockers:
        raise together(blockers, where=str(path))
    for node in inside:
        if node.outputs[0] not in network.views:
            _KINDS[node.kind](network, node)
    held = tuple(network.views[name].node for name in outputs)
    if len(set(held)) < len(held) or any(isinstance(network.op(one), ops.Input) for one in held):
        raise UnsupportedError("an output is an input too, or twice an output", where=str(path), remedy="let an operator make each output")
    told += [f"output {name}: {_meaning(network, model, last)}" for name, last in zip(model.outputs, outputs, strict=True)]
    metadata = {QUANTIZATION_KEY: "\n".join(told)}
    if model.option:
        metadata[OPTION_KEY] = f"{model.option}=1, without which ONNX Runtime computes sums of int8 in floats on this machine"
    if network.differing:
        metadata[DIFFERING_KEY] = "\n".join(f"{where}: {count} sums" for where, count in network.differing.items())
    if len(held) > 1:
        metadata[OUTPUTS_KEY] = "\n".join(map(graph_name, model.outputs))
    if left:
        metadata[LEFT_OUT_KEY] = "\n".join(left)
    return Graph(graph_name(model.name), tuple(network.nodes), held, metadata)


def _blocker(network: Network, node: Fused) -> UnsupportedError:
    if node.kind in PRODUCTS:
        remedy = "quantize its operands and its result"
        return UnsupportedError("ONNX Runtime computes it in floats", where=network.where(node), remedy=remedy)
    if node.kind in _IN_FLOATS:
        return UnsupportedError(_ADDED, where=network.where(node), remedy=_IN_FLOATS[node.kind])
    return UnsupportedError(f"{node.kind} has no integer form", where=network.where(node), remedy=f"qfx reads {', '.join(sorted(_KINDS))}")


def _inputs(network: Network, model: Model, left: list[str]) -> list[str]:
    """Give the graph its inputs: integers, or what QuantizeLinear makes of floats."""
    told = []
    for name, dtype, shape in model.inputs:
        readers = [node for node in model.nodes if name in node.inputs]
        tensor, signed = name, dtype == "int8"
        if dtype == "float32" and len(readers) == 1 and readers[0].kind == "QuantizeLinear":
            tensor, signed = readers[0].outputs[0], network.zero(readers[0].inputs[2], readers[0])[1]
            scale, zero = network.scale(readers[0].inputs[1], readers[0]), network.zero(readers[0].inputs[2], readers[0])[0]
            left.append(network.where(readers[0]))
            told.append(f"input {name}: scale {scale!s}, zero point {zero}")
        elif dtype not in ("int8", "uint8"):
            remedy = "quantize it first of all, by one QuantizeLinear of int8 or uint8"
            raise UnsupportedError(f"the input is of {dtype}, and {len(readers)} operators read it", where=name, remedy=remedy)
        given = ArrayType.of(FixedType(8, 8, signed, QMode.RND, OMode.SAT))
        network.views[tensor] = View(network.emit(network.name(name), ops.Input(shape, given)), signed)
    return told


def _last(model: Model, name: str, left: list[str]) -> str:
    """An output, or the tensor that it is told of by floats alone."""
    made = {output: node for node in model.nodes for output in node.outputs}
    while name in made and made[name].kind in (*_LAST, "DequantizeLinear") and not any(name in node.inputs for node in _kept(model, left)):
        left.append(f"{made[name].kind} {name}")
        name = made[name].inputs[0]
    return name


def _kept(model: Model, left: list[str]) -> list[Fused]:
    return [node for node in model.nodes if f"{node.kind} {node.outputs[0]}" not in left]


def _needed(model: Model, outputs: list[str], network: Network) -> list[Fused]:
    """The nodes that outputs depend on, in order, without those whose results are inputs already."""
    wanted, found = set(outputs), []
    for node in reversed(model.nodes):
        if wanted & set(node.outputs) and node.outputs[0] not in network.views:
            wanted |= set(node.inputs)
            found.append(node)
    return found[::-1]


def _meaning(network: Network, model: Model, name: str) -> str:
    """What the integers of an output stand for, by who reads or makes them."""
    for node in model.nodes:
        if name == node.inputs[0] and node.kind in ("DequantizeLinear", "QLinearSoftmax"):
            return f"scale {network.scale(node.inputs[1], node)!s}, zero point {network.zero(node.inputs[2], node)[0]}"
    floats = network.views[name].floats
    return "stored integers" if floats is None else f"floats, {floats[0]!s} for the least integer to {floats[-1]!s} for the greatest"
