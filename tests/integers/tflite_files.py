"""TFLite files as tests write them, and LiteRT's reference kernels, which say what their integers are."""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

Int8s = npt.NDArray[np.int8]


class Writing:
    """A file with one graph, tensor by tensor and operator by operator."""

    def __init__(self) -> None:
        self.tensors: list[Any] = []
        self._buffers: list[Any] = [schema.BufferT()]
        self._ops: list[Any] = []
        self._codes: list[Any] = []

    def tensor(
        self, name: str, shape: tuple[int, ...], scale: Any = None, zero: int = 0, data: Any = None, dtype: str = "INT8", axis: int = 0
    ) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(shape), getattr(schema.TensorType, dtype), 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), dtype=np.uint8)
            self._buffers.append(buffer)
            tensor.buffer = len(self._buffers) - 1
        if scale is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = np.atleast_1d(np.asarray(scale, dtype=np.float32))
            tensor.quantization.zeroPoint = np.full(tensor.quantization.scale.shape, zero, dtype=np.int64)
            tensor.quantization.quantizedDimension = axis
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def op(self, kind: str, inputs: list[int], outputs: list[int], table: str = "", version: int = 2, **options: Any) -> None:
        """``table``: the name of the options' table in the schema."""
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, kind)
        code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), version
        self._codes.append(code)
        op = schema.OperatorT()
        op.opcodeIndex, op.inputs, op.outputs = len(self._codes) - 1, inputs, outputs
        if table:
            op.builtinOptions = getattr(schema, f"{table}T")()
            op.builtinOptionsType = getattr(schema.BuiltinOptions, table)
            for field, value in options.items():
                if not hasattr(op.builtinOptions, field):
                    raise AttributeError(f"{table} has no {field}")
                setattr(op.builtinOptions, field, value)
        self._ops.append(op)

    def content(self, inputs: list[int], outputs: list[int]) -> bytes:
        graph, model = schema.SubGraphT(), schema.ModelT()
        graph.tensors, graph.inputs, graph.outputs, graph.operators, graph.name = self.tensors, inputs, outputs, self._ops, "main"
        model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, self._codes, [graph], self._buffers
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    def conv(self, rng: np.random.Generator, x: int, name: str, *, outputs: int, taps: int = 3, stride: int = 1, valid: bool = False,
             dilation: int = 1, activation: int = 0, depthwise: bool = False, scale: float | None = None, zero: int = 0) -> int:  # fmt: skip
        """A convolution of random weights; ``outputs`` of a depthwise one: for each channel. Its result."""
        _, height, width, channels = self.tensors[x].shape
        outputs *= channels if depthwise else 1
        sizes = [-(-(size - (taps - 1) * dilation * valid) // stride) for size in (height, width)]
        shape = (1, taps, taps, outputs) if depthwise else (outputs, taps, taps, channels)
        scales = rng.uniform(0.001, 0.02, outputs).astype(np.float32)
        weight = self.tensor(f"{name}.w", shape, scales, data=rng.integers(-127, 128, shape).astype(np.int8), axis=3 if depthwise else 0)
        sums = float(self.tensors[x].quantization.scale[0]) * scales
        bias = self.tensor(f"{name}.b", (outputs,), sums, data=rng.integers(-3000, 3000, outputs).astype(np.int32), dtype="INT32")
        y = self.tensor(name, (1, *sizes, outputs), float(rng.uniform(0.02, 0.3)) if scale is None else scale, zero)
        options = {"strideW": stride, "strideH": stride, "dilationWFactor": dilation, "dilationHFactor": dilation, "padding": int(valid)}
        if depthwise:
            options["depthMultiplier"] = outputs // channels
        kind, table = ("DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions") if depthwise else ("CONV_2D", "Conv2DOptions")
        self.op(kind, [x, weight, bias], [y], table, 3, fusedActivationFunction=activation, **options)
        return y

    def dense(self, rng: np.random.Generator, x: int, name: str, *, inputs: int, outputs: int, activation: int = 0, zero: int = 0) -> int:
        weight_scale = float(rng.uniform(0.002, 0.01))
        weight = self.tensor(f"{name}.w", (outputs, inputs), weight_scale, data=rng.integers(-127, 128, (outputs, inputs)).astype(np.int8))
        sums = float(self.tensors[x].quantization.scale[0]) * weight_scale
        bias = self.tensor(f"{name}.b", (outputs,), sums, data=rng.integers(-2000, 2000, outputs).astype(np.int32), dtype="INT32")
        y = self.tensor(name, (1, outputs), float(rng.uniform(0.02, 0.3)), zero)
        self.op("FULLY_CONNECTED", [x, weight, bias], [y], "FullyConnectedOptions", 4, fusedActivationFunction=activation)
        return y

    def simple(self, kind: str, x: int, name: str, *, scale: float, zero: int, table: str = "", **options: Any) -> int:
        """An operator of one input, whose result has its shape."""
        y = self.tensor(name, tuple(self.tensors[x].shape), scale, zero)
        self.op(kind, [x], [y], table, **options)
        return y


def reference(content: bytes, x: Int8s) -> list[Int8s]:
    """What LiteRT's reference kernels give for samples (N, *shape), channels last: each output (N, *shape)."""
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    interpreter.allocate_tensors()
    (given,), results = interpreter.get_input_details(), interpreter.get_output_details()
    found = []
    for sample in x:
        interpreter.set_tensor(given["index"], sample[None])
        interpreter.invoke()
        found.append([interpreter.get_tensor(one["index"])[0] for one in results])
    return [np.array(one) for one in zip(*found, strict=True)]


def random_content(rng: np.random.Generator) -> tuple[bytes, tuple[int, ...]]:
    """A network with most of what there is, and the shape of a sample."""
    file = Writing()
    height, width, channels = (int(size) for size in rng.integers((4, 4, 1), (9, 9, 5)))
    x = first = file.tensor("x", (1, height, width, channels), float(rng.uniform(0.01, 0.2)), int(rng.integers(-128, 128)))
    for place in range(int(rng.integers(1, 5))):
        name, kind = f"layer{place}", rng.choice(["conv", "depthwise", "block", "max", "average", "table"])
        zero, activation = int(rng.integers(-128, 128)), int(rng.integers(0, 4))
        shape, quantization = tuple(file.tensors[x].shape), file.tensors[x].quantization
        if kind in ("conv", "depthwise"):
            stride = int(rng.integers(1, 3))
            x = file.conv(
                rng, x, name, outputs=int(rng.integers(1, 4)), stride=stride, activation=activation, depthwise=kind == "depthwise", zero=zero
            )
        elif kind == "block":
            branch = file.conv(rng, x, f"{name}.branch", outputs=shape[-1], zero=int(rng.integers(-128, 128)))
            y = file.tensor(name, shape, float(rng.uniform(0.05, 0.4)), zero)
            what = str(rng.choice(["ADD", "SUB", "MUL"]))
            file.op(what, [x, branch], [y], f"{what.title()}Options", fusedActivationFunction=activation)
            x = y
        elif kind in ("max", "average"):
            step = int(rng.integers(1, 3))
            sizes = [-(-size // step) for size in shape[1:3]]
            y = file.tensor(name, (1, *sizes, shape[3]), quantization.scale, int(quantization.zeroPoint[0]))
            options = {"strideW": step, "strideH": step, "filterWidth": 2, "filterHeight": int(rng.integers(2, 4)), "padding": 0}
            file.op("MAX_POOL_2D" if kind == "max" else "AVERAGE_POOL_2D", [x], [y], "Pool2DOptions", fusedActivationFunction=activation, **options)
            x = y
        else:
            what = str(rng.choice(["RELU", "QUANTIZE", "LEAKY_RELU"]))
            more = {"table": "LeakyReluOptions", "alpha": 0.3} if what == "LEAKY_RELU" else {}
            x = file.simple(what, x, name, scale=float(rng.uniform(0.02, 0.3)), zero=zero, **more)
    x = file.dense(rng, x, "dense", inputs=int(np.prod(file.tensors[x].shape)), outputs=int(rng.integers(1, 6)))
    return file.content([first], [x]), (height, width, channels)
