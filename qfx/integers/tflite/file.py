"""A .tflite file as plain data: its tensors, its operators, and nothing of the file's format. The package ``tflite`` (the schema's own reader) takes
the file apart; what it says is checked before anything is made of it."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from qfx.errors import ModelFileError, UnsupportedError

Shape = tuple[int, ...]

DTYPES: Mapping[str, str] = MappingProxyType({
    "FLOAT32": "<f4", "INT32": "<i4", "UINT8": "u1", "INT64": "<i8", "INT16": "<i2", "INT8": "i1", "BOOL": "?",
})  # fmt: skip
"""The types of tensors that can be read, as numpy calls them."""

_FIELDS: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType({
    "CONV_2D": (
        "Conv2DOptions",
        ("Padding", "StrideH", "StrideW", "DilationHFactor", "DilationWFactor", "FusedActivationFunction", "QuantizedBiasType"),
    ),
    "DEPTHWISE_CONV_2D": (
        "DepthwiseConv2DOptions",
        ("Padding", "StrideH", "StrideW", "DilationHFactor", "DilationWFactor", "DepthMultiplier", "FusedActivationFunction"),
    ),
    "TRANSPOSE_CONV": ("TransposeConvOptions", ("Padding", "StrideH", "StrideW", "FusedActivationFunction", "QuantizedBiasType")),
    "FULLY_CONNECTED": ("FullyConnectedOptions", ("KeepNumDims", "WeightsFormat", "FusedActivationFunction", "QuantizedBiasType")),
    "AVERAGE_POOL_2D": ("Pool2DOptions", ("Padding", "StrideH", "StrideW", "FilterHeight", "FilterWidth", "FusedActivationFunction")),
    "MAX_POOL_2D": ("Pool2DOptions", ("Padding", "StrideH", "StrideW", "FilterHeight", "FilterWidth", "FusedActivationFunction")),
    "ADD": ("AddOptions", ("FusedActivationFunction", "PotScaleInt16")),
    "SUB": ("SubOptions", ("FusedActivationFunction", "PotScaleInt16")),
    "MUL": ("MulOptions", ("FusedActivationFunction",)),
    "CONCATENATION": ("ConcatenationOptions", ("Axis", "FusedActivationFunction")),
    "MEAN": ("ReducerOptions", ("KeepDims",)),
    "RESIZE_NEAREST_NEIGHBOR": ("ResizeNearestNeighborOptions", ("AlignCorners", "HalfPixelCenters")),
    "RESIZE_BILINEAR": ("ResizeBilinearOptions", ("AlignCorners", "HalfPixelCenters")),
    "STRIDED_SLICE": ("StridedSliceOptions", ("BeginMask", "EndMask", "EllipsisMask", "NewAxisMask", "ShrinkAxisMask")),
    "LEAKY_RELU": ("LeakyReluOptions", ("Alpha",)),
    "SOFTMAX": ("SoftmaxOptions", ("Beta",)),
})  # fmt: skip
"""The options of each operator: the table of the schema, and its fields."""

_BROKEN = (struct.error, IndexError, ValueError, TypeError, KeyError, OverflowError, UnicodeDecodeError)
"""What the schema's reader raises where a file points out of itself."""

_MOST = 1 << 28
"""The most numbers of a tensor."""

_AGAIN = "convert the model again; the file is damaged or cut off"


@dataclass(frozen=True, eq=False)
class Tensor:
    """``data``: of a constant. Scales and zero points: one, or one for each index of ``axis``; none of a tensor that is not quantized."""

    name: str
    shape: Shape
    dtype: str
    scales: npt.NDArray[np.float32]
    zeros: npt.NDArray[np.int64]
    axis: int
    data: npt.NDArray[Any] | None


@dataclass(frozen=True)
class Op:
    """``inputs`` and ``outputs`` count the tensors; -1 stands for one that is left out."""

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class File:
    """The only graph of a file, its operators in the order of execution."""

    name: str
    tensors: tuple[Tensor, ...]
    ops: tuple[Op, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def read_file(path: Path) -> File:
    """Raises ModelFileError for a file that is none of TFLite's or that contradicts itself, and where the package ``tflite`` is missing;
    UnsupportedError for several graphs, sparse tensors and types without numpy's counterpart."""
    try:
        schema = import_module("tflite")
    except ImportError as error:
        raise ModelFileError("the package tflite is not installed", where=str(path), remedy="pip install tflite") from error
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"cannot be read: {error.strerror}", where=str(path), remedy="give the path of a .tflite file") from error
    if content[4:8] != b"TFL3":
        raise ModelFileError("is not a TFLite model", where=str(path), remedy="give a .tflite file of version 3")
    try:
        model = schema.Model.GetRootAs(content, 0)
        return _Reader(schema, model, str(path), len(content)).file(path.stem)
    except _BROKEN as error:
        raise ModelFileError(f"points out of itself ({error})", where=str(path), remedy=_AGAIN) from error


class _Reader:
    def __init__(self, schema: Any, model: Any, where: str, size: int) -> None:
        self._schema, self._model, self._where, self._size = schema, model, where, size

    def _counted(self, count: int) -> range:
        """The indices of a vector. A length that the file cannot hold is none."""
        if not 0 <= count <= self._size:
            raise ValueError(f"a list of {count} entries")
        return range(count)

    def file(self, name: str) -> File:
        model = self._model
        if model.Version() != 3:
            raise UnsupportedError(f"is of version {model.Version()}", where=self._where, remedy="convert the model with a current converter")
        if model.SubgraphsLength() != 1:
            what = f"holds {model.SubgraphsLength()} graphs (loops, branches or several signatures)"
            raise UnsupportedError(what, where=self._where, remedy="convert one signature without control flow")
        graph = model.Subgraphs(0)
        tensors = tuple(self._tensor(graph.Tensors(index), index) for index in self._counted(graph.TensorsLength()))
        ops = tuple(self._op(graph.Operators(index)) for index in self._counted(graph.OperatorsLength()))
        inputs = tuple(int(graph.Inputs(index)) for index in self._counted(graph.InputsLength()))
        outputs = tuple(int(graph.Outputs(index)) for index in self._counted(graph.OutputsLength()))
        named = [*inputs, *outputs, *(index for op in ops for index in (*op.inputs, *op.outputs))]
        if any(not -1 <= index < len(tensors) for index in named):
            raise ValueError("names a tensor that it does not have")
        return File(name, tensors, ops, inputs, outputs)

    def _tensor(self, tensor: Any, index: int) -> Tensor:
        name = (tensor.Name() or b"").decode() or f"tensor{index}"
        where = f"{self._where}: {name}"
        shape = tuple(int(tensor.Shape(axis)) for axis in self._counted(tensor.ShapeLength()))
        if any(size < 0 for size in shape):
            raise UnsupportedError(f"the shape is {shape}", where=where, remedy="give the model fixed shapes before converting it")
        if math.prod(shape) > _MOST:
            raise UnsupportedError(f"the shape is {shape}", where=where, remedy="no device holds it; convert the model again if it is another")
        if tensor.Sparsity() is not None:
            raise UnsupportedError("is stored as a sparse tensor", where=where, remedy="convert the model without sparsity")
        dtypes = {code: name for name, code in vars(self._schema.TensorType).items() if isinstance(code, int)}
        dtype = dtypes.get(tensor.Type(), str(tensor.Type()))
        scales, zeros, axis = self._quantization(tensor.Quantization(), where)
        return Tensor(name, shape, dtype, scales, zeros, axis, self._data(tensor.Buffer(), shape, dtype, where))

    def _quantization(self, found: Any, where: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], int]:
        count = 0 if found is None else found.ScaleLength()
        if not count:
            return np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.int64), 0
        scales = np.array([found.Scale(index) for index in self._counted(count)], dtype=np.float32)
        zeros = np.array([found.ZeroPoint(index) for index in self._counted(found.ZeroPointLength())], dtype=np.int64)
        if zeros.size not in (0, 1, count):
            raise ModelFileError(f"{count} scales and {zeros.size} zero points", where=where, remedy=_AGAIN)
        if not (np.isfinite(scales) & (scales > 0)).all():
            raise ModelFileError("has scales that are not positive numbers", where=where, remedy="quantize the model again")
        return scales, np.resize(zeros, count) if zeros.size else np.zeros(count, dtype=np.int64), int(found.QuantizedDimension())

    def _data(self, index: int, shape: Shape, dtype: str, where: str) -> npt.NDArray[Any] | None:
        if index >= self._model.BuffersLength():
            raise ValueError(f"{where} lies in buffer {index}")
        buffer = self._model.Buffers(index)
        if buffer.DataLength() == 0:
            return None
        if dtype not in DTYPES:
            raise UnsupportedError(f"is of type {dtype}", where=where, remedy="quantize the model to int8")
        content = buffer.DataAsNumpy().tobytes()
        wanted = math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
        if len(content) != wanted:
            raise ModelFileError(f"holds {len(content)} bytes, its shape {shape} of {dtype} takes {wanted}", where=where, remedy=_AGAIN)
        return np.frombuffer(content, dtype=DTYPES[dtype]).reshape(shape)

    def _op(self, op: Any) -> Op:
        code = self._model.OperatorCodes(op.OpcodeIndex())
        kind = str(self._schema.opcode2name(max(code.BuiltinCode(), code.DeprecatedBuiltinCode())))
        if kind == "CUSTOM":
            kind = f"CUSTOM {(code.CustomCode() or b'').decode()}"
        inputs = tuple(int(op.Inputs(index)) for index in self._counted(op.InputsLength()))
        outputs = tuple(int(op.Outputs(index)) for index in self._counted(op.OutputsLength()))
        return Op(kind, inputs, outputs, self._options(kind, op.BuiltinOptions()))

    def _options(self, kind: str, table: Any) -> Mapping[str, Any]:
        """The fields of the operator's options; the schema's defaults where it has none."""
        if kind not in _FIELDS:
            return {}
        name, fields = _FIELDS[kind]
        options = getattr(import_module(f"tflite.{name}"), name)()
        if table is None:
            raise ValueError(f"{kind} without options")
        options.Init(table.Bytes, table.Pos)
        return {field: getattr(options, field)() for field in fields}
