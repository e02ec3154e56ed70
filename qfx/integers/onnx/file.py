"""A quantized ONNX file as ONNX Runtime runs it: its optimizer makes integer kernels of what stands between DequantizeLinear and QuantizeLinear."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort  # type: ignore[import-untyped, unused-ignore]
from onnx import helper, numpy_helper

from qfx.errors import ModelFileError, UnsupportedError

Array = npt.NDArray[Any]

PRODUCTS = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "ConvTranspose")
"""What sums floats in an order of its own, unless it is quantized."""

INT8_OPTION = "session.qdqisint8allowed"
"""With it ONNX Runtime makes integer kernels of signed activations too, as it does by itself on Arm (onnxruntime_session_options_config_keys.h)."""

_QUIET = 4
"""What is wrong is told by the error that is raised."""


@dataclass(frozen=True, eq=False)
class Fused:
    """A node of the optimized graph."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    proto: onnx.NodeProto


@dataclass(frozen=True, eq=False)
class Model:
    """``inputs``: name, numpy's type and shape without the batch. ``constants`` by name. ``option``: of ONNX Runtime's session, without which it
    computes some of it in floats; or empty."""

    name: str
    inputs: tuple[tuple[str, str, tuple[int, ...]], ...]
    outputs: tuple[str, ...]
    nodes: tuple[Fused, ...]
    constants: Mapping[str, Array]
    opsets: tuple[onnx.OperatorSetIdProto, ...]
    option: str = ""

    def measured(self, node: Fused, values: Mapping[str, Array]) -> Array:
        """What ONNX Runtime gives for ``node`` on ``values``; its other inputs are the constants. UnsupportedError where it cannot run it alone."""
        names = [name for name in dict.fromkeys(node.inputs) if name]
        feeds = {name: values.get(name, self.constants.get(name)) for name in names}
        if any(value is None for value in feeds.values()):
            raise UnsupportedError("has several inputs that are computed", where=f"{node.kind} {node.outputs[0]}", remedy="only one can be")
        proto = onnx.NodeProto()
        proto.CopyFrom(node.proto)
        inputs = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(feeds[name].dtype), None) for name in names]  # type: ignore[union-attr]
        graph = helper.make_graph([proto], "one", inputs, [onnx.ValueInfoProto(name=node.outputs[0])])
        model = helper.make_model(graph, opset_imports=list(self.opsets), ir_version=10)
        try:
            session = ort.InferenceSession(model.SerializeToString(), _options(), providers=["CPUExecutionProvider"])
            result: Array = session.run([node.outputs[0]], feeds)[0]
        except Exception as error:  # onnxruntime's exceptions have no common base of their own
            where = f"{node.kind} {node.outputs[0]}"
            raise UnsupportedError(f"ONNX Runtime cannot run it alone: {_line(error)}", where=where, remedy="leave it out of the model") from error
        return result


def read_model(path: Path) -> Model:
    """The file as ONNX Runtime's optimizer leaves it. Where signed activations keep it from integer kernels, as on processors without Arm's, it is
    asked for them (``INT8_OPTION``). Raises ModelFileError for a file that is damaged or that ONNX Runtime refuses."""
    try:
        proto = onnx.load(str(path))
    except Exception as error:  # protobuf has exceptions of its own
        raise ModelFileError(f"cannot be read: {_line(error)}", where=str(path), remedy="give an ONNX file") from error
    model = _fused(proto, path, "")
    if not any(node.kind in PRODUCTS for node in model.nodes):
        return model
    signed = _fused(proto, path, INT8_OPTION)
    return model if any(node.kind in PRODUCTS for node in signed.nodes) else signed


def _fused(proto: onnx.ModelProto, path: Path, option: str) -> Model:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "fused.onnx"
        options = _options()
        if option:
            options.add_session_config_entry(option, "1")
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(target)
        try:
            ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
            fused = onnx.load(str(target))
        except Exception as error:  # as above
            raise ModelFileError(f"ONNX Runtime refuses it: {_line(error)}", where=str(path), remedy="repair the model") from error
    return _model(fused, path, option)


def _model(proto: onnx.ModelProto, path: Path, option: str) -> Model:
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    nodes = []
    for node in proto.graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
            continue
        attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        nodes.append(Fused(node.op_type, tuple(node.input), tuple(node.output), attributes, node))
    inputs = tuple(_input(value, path) for value in proto.graph.input if value.name not in constants)
    return Model(path.stem, inputs, tuple(value.name for value in proto.graph.output), tuple(nodes), constants, tuple(proto.opset_import), option)


def _input(value: onnx.ValueInfoProto, path: Path) -> tuple[str, str, tuple[int, ...]]:
    kind = value.type.tensor_type
    shape = [size.dim_value for size in kind.shape.dim]
    if len(shape) < 2 or shape[0] not in (0, 1) or min(shape[1:]) < 1:
        remedy = "give all sizes but the batch's, which is the first axis, and free or 1"
        raise UnsupportedError(f"the input {value.name} has the shape {shape}", where=str(path), remedy=remedy)
    return value.name, np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)).name, tuple(shape[1:])


def _options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = _QUIET
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return options


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
