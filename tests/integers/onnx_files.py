"""Float ONNX models as tests write them, quantized by ONNX Runtime's own tool, and the integers of its kernels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from qfx.ir.graph import graph_name

Floats = npt.NDArray[np.float32]


class Feeding(CalibrationDataReader):
    def __init__(self, x: Floats) -> None:
        self._samples: Iterator[Floats] = iter(x)

    def get_next(self) -> dict[str, Floats] | None:
        sample = next(self._samples, None)
        return None if sample is None else {"x": sample[None]}


def float_model(path: Path, rng: np.random.Generator) -> tuple[int, ...]:
    """Convolutions, one depthwise, a sum, pools, a concatenation, a function, a product, a linear layer and a softmax. The shape of a sample."""
    constants: dict[str, Any] = {
        "w1": rng.normal(size=(4, 3, 3, 3)) * 0.3, "b1": rng.normal(size=4), "w2": rng.normal(size=(4, 1, 3, 3)) * 0.4, "b2": rng.normal(size=4),
        "w3": rng.normal(size=(4, 4, 1, 1)), "half": np.array(0.37), "w4": rng.normal(size=(3, 8)) * 0.5, "b4": rng.normal(size=3),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], group=4, pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["c2", "w3"], ["c3"]),
        helper.make_node("Add", ["c3", "r1"], ["sum"]),
        helper.make_node("MaxPool", ["sum"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Sigmoid", ["pooled"], ["shares"]),
        helper.make_node("Mul", ["pooled", "half"], ["scaled"]),
        helper.make_node("Concat", ["shares", "scaled"], ["both"], axis=1),
        helper.make_node("GlobalAveragePool", ["both"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w4", "b4"], ["logits"], transB=1),
        helper.make_node("Softmax", ["logits"], ["y"]),
    ]
    initializers = [numpy_helper.from_array(np.asarray(value, dtype=np.float32), name) for name, value in constants.items()]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [1, 3, 6, 8]), ("y", [1, 3])))
    model = helper.make_model(helper.make_graph(nodes, "net", [x], [y], initializers), opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return (3, 6, 8)


def quantized(
    folder: Path, seed: int, *, per_channel: bool = False, qdq: bool = True, activations: str = "QUInt8", **more: bool
) -> tuple[Path, tuple[int, ...]]:
    """The model above, quantized to 8 bits, and the shape of a sample."""
    rng = np.random.default_rng(seed)
    source, target = folder / "float.onnx", folder / "int8.onnx"
    shape = float_model(source, rng)
    quantize_static(
        source,
        target,
        Feeding(rng.normal(size=(8, *shape)).astype(np.float32)),
        quant_format=QuantFormat.QDQ if qdq else QuantFormat.QOperator,
        per_channel=per_channel,
        activation_type=getattr(QuantType, activations),
        weight_type=QuantType.QInt8,
        extra_options=more,
    )
    return target, shape


def kernels(path: Path, output: str, x: Floats, *, signed: bool = False) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The integers of the input, and those of the tensor that a graph calls ``output``, as ONNX Runtime computes them for floats (N, *shape).
    ``signed``: with the option for integer kernels of int8."""
    fused = path.with_suffix(".fused.onnx")
    options = ort.SessionOptions()
    options.log_severity_level, options.optimized_model_filepath = 3, str(fused)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.add_session_config_entry("session.qdqisint8allowed", str(int(signed)))
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    model = onnx.load(fused)
    first = next(node for node in model.graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "x").output[0]
    last = next(name for node in model.graph.node for name in node.output if graph_name(name) == output.removesuffix(".whole"))
    model.graph.output.extend([onnx.ValueInfoProto(name=first), onnx.ValueInfoProto(name=last)])
    as_it_is = ort.SessionOptions()
    as_it_is.log_severity_level, as_it_is.graph_optimization_level = 3, ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), as_it_is, providers=["CPUExecutionProvider"])
    pairs = [session.run([first, last], {"x": sample[None]}) for sample in x]
    given, got = (np.concatenate(list(each)).astype(np.int64) for each in zip(*pairs, strict=True))
    return given, got
