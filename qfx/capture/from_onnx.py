"""Float ONNX files as torch modules: the operators that qfx has layers for, checked against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, fx, nn

from qfx import formats
from qfx.capture.assemble import Assembly, Blockers, Value
from qfx.capture.onnx_operators import HANDLERS, Node
from qfx.capture.refusals.remedies import plain_remedy
from qfx.errors import DataError, ModelFileError, UnsupportedError

Array = npt.NDArray[Any]

TOLERANCE = 1e-3
"""Of the greatest output: how far the module may be from ONNX Runtime, which sums in another order."""


def from_onnx(path: Path, example: Tensor) -> fx.GraphModule:
    """The float ONNX model at ``path`` as a module of torch layers, in evaluation mode, that gives what ONNX Runtime gives on ``example``.

    Layers are called after their weights (``conv1.weight`` makes ``conv1``) or after the ONNX node. A fixed batch in the file does not bind the
    module.
    Raises ModelFileError for a file that is no ONNX model, UnsupportedError for operators or attributes without a layer, which lists all of
    them with node and remedy, DataError for an example of the wrong shape.
    """
    model = _read(path)
    expected_of = _onnx_runtime(path)  # which also finds whatever is wrong with the file
    inputs = [value for value in model.graph.input if value.name not in {tensor.name for tensor in model.graph.initializer}]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise UnsupportedError(
            f"has {len(inputs)} inputs and {len(model.graph.output)} outputs", where=str(path), remedy="give a model with one of each"
        )
    batch = _check_shape(inputs[0], example, path)
    module = _Reader(model, inputs[0].name, example[: batch or 2] if batch != 1 else example[:1]).read(path.stem)
    _check_same(module, expected_of, path, example, batch)
    return module


def _read(path: Path) -> onnx.ModelProto:
    formats.refuse(formats.kind_of_file(path), str(path))
    try:
        model = onnx.load(path)
    except OSError as error:
        raise ModelFileError(f"cannot be read: {error.strerror or error}", where=str(path), remedy="check the path") from error
    except DecodeError as error:
        raise ModelFileError("is not an ONNX model", where=str(path), remedy="export it again") from error
    if model.producer_name == "qfx":
        raise ModelFileError("is quantized already: qfx wrote it", where=str(path), remedy="give the float model")
    formats.refuse(formats.kind_of_onnx(model), str(path))
    return model


def _check_shape(declared: onnx.ValueInfoProto, example: Tensor, path: Path) -> int | None:
    """The batch that the file insists on, or None."""
    dims = declared.type.tensor_type.shape.dim
    sizes = [dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in dims]
    shape = tuple(example.shape)
    if declared.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise UnsupportedError("its input is not float32", where=str(path), remedy="give the float model, without quantization at its input")
    if not sizes:
        return None
    if len(sizes) != len(shape) or any(size not in (None, have) for size, have in zip(sizes[1:], shape[1:], strict=True)):
        wanted = " x ".join("?" if size is None else str(size) for size in sizes[1:])
        fits = len(sizes) == len(shape) == 4 and all(size in (None, have) for size, have in zip(sizes[1:], (shape[3], *shape[1:3]), strict=True))
        remedy = "its channels come last; transpose them to the front: x.transpose(0, 3, 1, 2)" if fits else "save the samples in the model's layout"
        raise DataError(f"samples have shape {' x '.join(map(str, shape[1:]))}, the model takes {wanted}", where="calibration data", remedy=remedy)
    if sizes[0] is not None and len(example) < sizes[0]:
        raise DataError(f"holds {len(example)} samples; the model takes batches of {sizes[0]}", where="calibration data", remedy="give more samples")
    return sizes[0]


def _onnx_runtime(path: Path) -> Callable[[Tensor], Array]:
    """What ONNX Runtime makes of inputs. Raises ModelFileError for a file that it does not take."""
    import onnxruntime  # type: ignore[import-untyped, unused-ignore]

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds
        raise _does_not_run(path, error) from error

    def run(x: Tensor) -> Array:
        try:
            result: Array = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
        except Exception as error:  # onnxruntime's own kinds
            raise _does_not_run(path, error) from error
        return result

    return run


def _does_not_run(path: Path, error: Exception) -> ModelFileError:
    message = str(error).split("\n")[0]
    return ModelFileError(f"does not run under ONNX Runtime: {message}", where=str(path), remedy="export it again")


def _check_same(module: nn.Module, expected_of: Callable[[Tensor], Array], path: Path, example: Tensor, batch: int | None) -> None:
    """Refuse a module that gives something else than the file under ONNX Runtime."""
    parts = [example] if batch is None else list(torch.split(example[: len(example) // batch * batch], batch))
    expected = np.concatenate([expected_of(part) for part in parts])
    with torch.no_grad():
        found = module(example[: len(expected)]).numpy()
    scale = float(np.abs(expected).max())
    if found.shape != expected.shape or not np.allclose(found, expected, rtol=0.0, atol=TOLERANCE * scale, equal_nan=True):
        what = (
            f"shape {found.shape} in place of {expected.shape}"
            if found.shape != expected.shape
            else f"up to {np.abs(found - expected).max():.3g} else"
        )
        raise UnsupportedError(
            f"the module made of it gives {what}", where=str(path), remedy="please report this defect; or use the PyTorch module with --checkpoint"
        )


class _Reader:
    """Walks through an ONNX graph. ``values`` holds a Value for what depends on the input and an array for what does not."""

    def __init__(self, model: onnx.ModelProto, input_name: str, example: Tensor) -> None:
        self.model, self.graph, self.input_name = model, model.graph, input_name
        self.assembly = Assembly(example)
        self.blockers = Blockers()
        self.values: dict[str, Value | Array] = {tensor.name: numpy_helper.to_array(tensor) for tensor in self.graph.initializer}
        self.values[input_name] = self.assembly.input
        self.uses: dict[str, int] = {}
        for name in [name for node in self.graph.node for name in node.input] + [value.name for value in self.graph.output]:
            self.uses[name] = self.uses.get(name, 0) + 1

    def read(self, name: str) -> fx.GraphModule:
        for node in self.graph.node:
            with self.blockers.at(partial(self._stand_in, node)):
                self._node(node)
        self.blockers.check(self.assembly, name)
        result = self.values[self.graph.output[0].name]
        if not isinstance(result, Value):
            raise UnsupportedError("its output does not depend on the input", where=name, remedy="give a model that computes something")
        return self.assembly.finish(result, name)

    def _node(self, proto: onnx.NodeProto) -> None:
        where = proto.name or f"{proto.op_type} that gives {proto.output[0]!r}"
        arguments = [self.values[name] if name else None for name in proto.input]
        if not any(isinstance(argument, Value) for argument in arguments) or proto.op_type == "Shape":
            self._constant(proto, arguments, where)
            return
        handler = HANDLERS.get(proto.op_type) if proto.domain in ("", "ai.onnx") else None
        if handler is None:
            remedy = plain_remedy(proto.op_type, "replace it by a supported layer, or cut the model before it")
            what = f"the operator {proto.op_type} has no fixed-point form in qfx"
            raise UnsupportedError(what, where=where, remedy=f"{remedy} (docs/ptq.md lists the operators)")
        results = handler(Node(self.assembly, proto, where, arguments, self.uses))
        for name, value in zip(proto.output, results if isinstance(results, list) else [results], strict=False):
            self.values[name] = value

    def _stand_in(self, proto: onnx.NodeProto) -> bool:
        """Give what a refused operation would have given, as far as its shape can be inferred, so that the operations behind it are looked at."""
        shapes = self._inferred()
        for name in proto.output:
            if name and name not in shapes:
                return False
            if name:
                self.values[name] = self.assembly.stand_in(shapes[name])
        return True

    def _inferred(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the graph's values that ONNX can infer from the example's."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        for value in model.graph.input:
            if value.name == self.input_name:
                value.CopyFrom(helper.make_tensor_value_info(self.input_name, onnx.TensorProto.FLOAT, tuple(self.assembly.input.data.shape)))
        del model.graph.value_info[:]
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")
        try:
            graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        except Exception:  # whatever the inference raises: then nothing is known
            return {}
        found = {}
        for value in (*graph.value_info, *graph.output):
            dims = value.type.tensor_type.shape.dim
            if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
                found[value.name] = tuple(dim.dim_value for dim in dims)
        return found

    def _constant(self, proto: onnx.NodeProto, arguments: list[Value | Array | None], where: str) -> None:
        """Carry out what depends on no data. Shapes are those on the example; what becomes of its batch, ``Assembly.reshape`` sees to."""
        arrays = [argument.data.numpy() if isinstance(argument, Value) else argument for argument in arguments]
        feeds = {name: array for name, array in zip(proto.input, arrays, strict=True) if array is not None}
        graph = helper.make_graph(
            [proto],
            "constant",
            [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape) for name, array in feeds.items()],
            [helper.make_empty_tensor_value_info(name) for name in proto.output if name],
        )
        try:
            results = ReferenceEvaluator(helper.make_model(graph, opset_imports=list(self.model.opset_import))).run(None, feeds)
        except Exception as error:  # whatever the evaluator raises
            message = str(error).split("\n")[0]
            raise UnsupportedError(
                f"cannot be computed ahead: {message}", where=where, remedy="simplify the model (onnxsim), or export it again"
            ) from error
        for name, value in zip([name for name in proto.output if name], results, strict=True):
            self.values[name] = np.asarray(value)
