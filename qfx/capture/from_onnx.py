"""Float ONNX files as torch modules: the operators that qfx has layers for, checked against ONNX Runtime."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Mapping
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
from qfx.capture.batch.freeing import for_any_batch
from qfx.capture.batch.joining import rows
from qfx.capture.inputs import Inputs
from qfx.capture.onnx.node import Node
from qfx.capture.onnx_operators import HANDLERS
from qfx.capture.refusals.remedies import plain_remedy
from qfx.errors import DataError, ModelFileError, UnsupportedError

Array = npt.NDArray[Any]

_TYPES: dict[int, torch.dtype] = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.UINT8: torch.uint8,
    onnx.TensorProto.INT8: torch.int8,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT64: torch.int64,
}
"""Of inputs."""

TOLERANCE = 1e-3
"""Of the greatest output: how far the module may be from ONNX Runtime, which sums in another order."""


def from_onnx(path: Path, example: Any) -> fx.GraphModule:
    """The float ONNX model at ``path`` as a module of torch layers and functions, in evaluation mode, that gives what ONNX Runtime gives on
    ``example``: a tensor, or several in the order of the file's inputs or by their names.

    Its arguments have the names of the file's inputs; it returns one tensor, or a dict by the names of the file's outputs. Layers are called after
    their weights (``conv1.weight`` makes ``conv1``) or after the ONNX node. A fixed batch in the file does not bind the module.
    Raises ModelFileError for a file that is no ONNX model, UnsupportedError for operators or attributes that torch has not, which lists all of
    them with node and remedy, DataError for an example of the wrong shape.
    """
    model = _read(path)
    expected_of = _onnx_runtime(path)  # which also finds whatever is wrong with the file
    held = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in held]
    if not inputs or not model.graph.output:
        raise UnsupportedError(
            f"has {len(inputs)} inputs and {len(model.graph.output)} outputs", where=str(path), remedy="give a model with some of each"
        )
    feeds = _feeds(inputs, example, path)
    batches = {_check_shape(value, feeds[value.name], path) for value in inputs} - {None}
    batch = max(batches, key=lambda size: size or 0) if batches else None
    first = _Reader(model, {name: data[: batch or 2] for name, data in feeds.items()}, path.stem)

    def literal(count: int) -> _Reader:
        return _Reader(model, {name: rows(data, count) for name, data in feeds.items()}, path.stem, literal=True)

    module = for_any_batch(first, literal, batch, path.stem)
    _check_same(module, expected_of, path, feeds, batch)
    return module


def argument(name: str) -> str:
    """The name of an argument of the module for that of an input of the file."""
    found = re.sub(r"\W", "_", name) or "x"
    return f"_{found}" if found[0].isdigit() or keyword.iskeyword(found) or found == "self" else found


def _feeds(inputs: list[onnx.ValueInfoProto], example: Any, path: Path) -> dict[str, Tensor]:
    """The example by the names of the file's inputs, in the types that the file takes."""
    if isinstance(example, Inputs):
        example = dict(example.kwargs) if example.kwargs else example.args
    names = [value.name for value in inputs]
    if isinstance(example, Mapping):
        known = {argument(name): name for name in names} | {name: name for name in names}
        given = {known.get(name, name): data for name, data in example.items()}
    else:
        parts = [example] if isinstance(example, Tensor) else list(example)
        given = dict(zip(names, parts, strict=False)) if len(parts) <= len(names) else {}
    if set(given) != set(names):
        raise DataError(
            f"the model takes {len(names)} inputs: {', '.join(names)}", where="calibration data", remedy="give each of them, by name or in order"
        )
    if len({len(data) for data in given.values()}) > 1:
        told = ", ".join(f"{name} {len(data)}" for name, data in given.items())
        raise DataError(f"inputs of different batch sizes: {told}", where="calibration data", remedy="give as many samples of each input")
    return {value.name: _typed(value, given[value.name], path) for value in inputs}


def _typed(declared: onnx.ValueInfoProto, data: Tensor, path: Path) -> Tensor:
    kind = declared.type.tensor_type.elem_type
    if kind not in _TYPES:
        raise UnsupportedError(
            f"its input {declared.name!r} is not float32", where=str(path), remedy="give the float model, without quantization at its input"
        )
    result = data.to(_TYPES[kind])
    if not _TYPES[kind].is_floating_point and not torch.equal(result.double(), data.double()):
        raise DataError(f"the input {declared.name!r} takes whole numbers", where="calibration data", remedy="save integers")
    return result


def _read(path: Path) -> onnx.ModelProto:
    formats.refuse(formats.kind_of_file(path), str(path))
    try:
        model = onnx.load(path)
    except OSError as error:
        raise ModelFileError(f"cannot be read: {error.strerror or error}", where=str(path), remedy="check the path") from error
    except DecodeError as error:
        raise ModelFileError("is not an ONNX model", where=str(path), remedy="export it again") from error
    except onnx.checker.ValidationError as error:
        raise outside(path, error) from error
    if model.producer_name == "qfx":
        raise ModelFileError("is quantized already: qfx wrote it", where=str(path), remedy="give the float model")
    formats.refuse(formats.kind_of_onnx(model), str(path))
    return model


def outside(path: Path, error: Exception) -> ModelFileError:
    """Of constants that a file keeps in another file."""
    why = str(error).strip().split("\n")[0]
    return ModelFileError(f"its constants in other files cannot be read: {why}", where=str(path), remedy="keep them beside it, as they were exported")


def _check_shape(declared: onnx.ValueInfoProto, example: Tensor, path: Path) -> int | None:
    """The batch that the file insists on, or None."""
    dims = declared.type.tensor_type.shape.dim
    sizes = [dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in dims]
    shape = tuple(example.shape)
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


def _onnx_runtime(path: Path) -> Callable[[Mapping[str, Tensor]], list[Array]]:
    """What ONNX Runtime makes of inputs. Raises ModelFileError for a file that it does not take."""
    import onnxruntime  # type: ignore[import-untyped, unused-ignore]

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds
        raise _does_not_run(path, error) from error

    def run(feeds: Mapping[str, Tensor]) -> list[Array]:
        try:
            result: list[Array] = session.run(None, {name: data.numpy() for name, data in feeds.items()})
        except Exception as error:  # onnxruntime's own kinds
            raise _does_not_run(path, error) from error
        return result

    return run


def _does_not_run(path: Path, error: Exception) -> ModelFileError:
    message = str(error).split("\n")[0]
    return ModelFileError(f"does not run under ONNX Runtime: {message}", where=str(path), remedy="export it again")


def _check_same(
    module: nn.Module, expected_of: Callable[[Mapping[str, Tensor]], list[Array]], path: Path, feeds: Mapping[str, Tensor], batch: int | None
) -> None:
    """Refuse a module that gives something else than the file under ONNX Runtime."""
    count = len(next(iter(feeds.values())))
    starts = [0] if batch is None else range(0, count // batch * batch, batch)
    runs = [expected_of({name: data[start : start + (batch or count)] for name, data in feeds.items()}) for start in starts]
    try:
        with torch.no_grad():
            result = module(*(data[: len(starts) * (batch or count)] for data in feeds.values()))
    except Exception as error:  # whatever torch raises where a shape of the file holds its batch
        message = str(error).split("\n")[0]
        raise UnsupportedError(
            f"the module made of it does not take another batch: {message}",
            where=str(path),
            remedy="keep the batch as the first axis of every tensor",
        ) from error
    found = list(result.items()) if isinstance(result, dict) else [("", result)]
    for (name, value), *parts in zip(found, *runs, strict=True):
        _check_output(f" as {name!r}" if name else "", value.numpy(), np.concatenate([np.atleast_1d(part) for part in parts]), path)


def _check_output(name: str, found: Array, expected: Array, path: Path) -> None:
    scale = float(np.abs(expected).max()) if expected.size else 0.0
    if found.shape != expected.shape or not np.allclose(found, expected, rtol=0.0, atol=TOLERANCE * scale, equal_nan=True):
        what = (
            f"shape {found.shape} in place of {expected.shape}"
            if found.shape != expected.shape
            else f"up to {np.abs(found.astype(float) - expected).max():.3g} else"
        )
        raise UnsupportedError(
            f"the module made of it gives {what}{name}",
            where=str(path),
            remedy="please report this defect; or use the PyTorch module with --checkpoint",
        )


class _Reader:
    """Walks through an ONNX graph. ``values`` holds a Value for what depends on the input and an array for what does not."""

    model: onnx.ModelProto
    graph: onnx.GraphProto
    feeds: Mapping[str, Tensor]
    name: str
    opset: int
    assembly: Assembly
    blockers: Blockers

    def __init__(self, model: onnx.ModelProto, feeds: Mapping[str, Tensor], name: str, *, literal: bool = False) -> None:
        self.model, self.graph, self.feeds, self.name = model, model.graph, feeds, name
        self.opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
        self.assembly = Assembly({argument(name): data for name, data in feeds.items()}, literal=literal)
        self.blockers = Blockers()
        self.values: dict[str, Value | Array] = {tensor.name: numpy_helper.to_array(tensor) for tensor in self.graph.initializer}
        self.values |= {name: self.assembly.inputs[argument(name)] for name in feeds}
        self.uses: dict[str, int] = {}
        for name in [name for node in self.graph.node for name in node.input] + [value.name for value in self.graph.output]:
            self.uses[name] = self.uses.get(name, 0) + 1

    def read(self) -> fx.GraphModule:
        name = self.name
        for node in self.graph.node:
            with self.blockers.at(partial(self._stand_in, node)):
                self._node(node)
        self.blockers.check(self.assembly, name)
        results: dict[str, Value] = {}
        for output in self.graph.output:
            value = self.values[output.name]
            if not isinstance(value, Value):
                what = f"its output {output.name!r} does not depend on the input"
                raise UnsupportedError(what, where=name, remedy="give a model that computes something")
            results[output.name] = value
        return self.assembly.finish(next(iter(results.values())) if len(results) == 1 else results, name)

    def _node(self, proto: onnx.NodeProto) -> None:
        where = proto.name or f"{proto.op_type} that gives {proto.output[0]!r}"
        arguments = [self.values[name] if name else None for name in proto.input]
        if not any(isinstance(value, Value) for value in arguments) or proto.op_type in ("Shape", "Size"):
            self._constant(proto, arguments, where)
            return
        handler = HANDLERS.get(proto.op_type) if proto.domain in ("", "ai.onnx") else None
        if handler is None:
            remedy = plain_remedy(proto.op_type, "replace it by a supported layer, or cut the model before it")
            what = f"the operator {proto.op_type} has no fixed-point form in qfx"
            raise UnsupportedError(what, where=where, remedy=f"{remedy} (docs/ptq.md lists the operators)")
        results = handler(Node(self.assembly, proto, where, arguments, self.uses, self.opset))
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
            if value.name in self.feeds:
                value.CopyFrom(helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, tuple(self.feeds[value.name].shape)))
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
        arrays = [value.data.numpy() if isinstance(value, Value) else value for value in arguments]
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
