"""Other tools run the files that were made for them, and have to give the interpreter's raw integers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType

import numpy as np
import numpy.typing as npt
import onnx

from qfx.errors import DataError, QfxError
from qfx.ir.feeds import Feeds, samples
from qfx.ir.graph import Graph
from qfx.ir.interpret import quantize_inputs, run_raws
from qfx.ir.values import RawArray
from qfx.verify import Comparison, compare, raw_of

Run = Callable[[Feeds], tuple[RawArray, ...]]
"""From the floats of each input, by name, to the raws of the outputs in order."""

RUNTIME = {"ONNX Runtime": True, "ONNX Runtime, no optimizations": False}


def check(graph: Graph, x: Feeds, runs: Mapping[str, Run]) -> list[Comparison]:
    """Every tool against the interpreter on the same inputs. Raises DataError for no inputs, and QfxError for a tool that does not run the file."""
    if samples(x) == 0:
        raise DataError("holds no samples", where="data", remedy="give at least one: nothing proves nothing")
    x = {name: array.astype(np.float32) for name, array in x.items()}  # as the files take it
    expected = run_raws(graph, x)
    return [compare(graph, expected, run(x), name) for name, run in runs.items()]


def in_runtime(graph: Graph, model: onnx.ModelProto, *, optimized: bool, integers: bool = False) -> Run:
    """ONNX Runtime, whose graph optimizations are all on or all off. ``integers``: raws go in and come out."""
    import onnxruntime  # type: ignore[import-untyped, unused-ignore]

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL

    def one(x: Feeds) -> tuple[RawArray, ...]:
        try:
            session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
            found = session.run(list(graph.outputs), raw_feeds(graph, model, x) if integers else _float_feeds(x))
        except Exception as error:  # its own classes, which have no base
            raise QfxError(f"does not run the file: {error}", where="ONNX Runtime", remedy="please report it") from error
        if integers:
            return tuple(result.astype(np.int64) for result in found)
        return tuple(raw_of(result, graph, "ONNX Runtime", name) for result, name in zip(found, graph.outputs, strict=True))

    return _in_batches(model, one)


def raw_feeds(graph: Graph, model: onnx.ModelProto, x: Feeds) -> dict[str, npt.NDArray[np.integer]]:
    """The inputs of a file of integers: the raws of the model's inputs, in the dtypes that it has for them."""
    kinds = {entry.name: onnx.helper.tensor_dtype_to_np_dtype(entry.type.tensor_type.elem_type) for entry in model.graph.input}
    return {f"{name}#raw": raw.astype(kinds[f"{name}#raw"]) for name, raw in quantize_inputs(graph, x).items()}


def in_qonnx(graph: Graph, model: onnx.ModelProto) -> Run:
    """The executor of the package qonnx, which wants a fixed batch: all samples at once. Raises QfxError where it is not installed."""
    modules = [peer(name, "qonnx") for name in ("qonnx.core.modelwrapper", "qonnx.core.onnx_exec", "qonnx.transformation.infer_shapes")]
    wrapper, executor, shapes = modules

    def one(x: Feeds) -> tuple[RawArray, ...]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = wrapper.ModelWrapper(_with_batch(model, samples(x))).transform(shapes.InferShapes())
            found = executor.execute_onnx(made, _float_feeds(x))
        return tuple(raw_of(found[name], graph, "qonnx", name) for name in graph.outputs)

    return one


def _with_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """The same nodes for another number of samples."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    for entry in (*other.graph.input, *other.graph.output, *other.graph.value_info):
        entry.type.tensor_type.shape.dim[0].dim_value = batch
    return other


def _in_batches(model: onnx.ModelProto, one: Run) -> Run:
    """``one`` on as many samples at a time as the file takes; what the last batch lacks is filled with samples from the beginning."""
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value

    def run(x: Feeds) -> tuple[RawArray, ...]:
        count = samples(x)
        parts = []
        for start in range(0, count, batch):
            places = np.arange(start, start + batch) % count
            parts.append(tuple(raw[: count - start] for raw in one({name: array[places] for name, array in x.items()})))
        return tuple(np.concatenate(raws) for raws in zip(*parts, strict=True))

    return run if batch else one


def _float_feeds(x: Feeds) -> dict[str, npt.NDArray[np.float32]]:
    return {f"{name}#float": array.astype(np.float32, copy=False) for name, array in x.items()}


def peer(module: str, package: str) -> ModuleType:
    """A module of another tool. Raises QfxError that says how to install it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return import_module(module)
    except ImportError as error:
        raise QfxError(f"{package} is not installed ({error})", remedy=f"pip install {package}") from error
