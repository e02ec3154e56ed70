"""The door: a graph as another tool's file, checked by that tool before it is written."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx

from qfx.errors import UnsupportedError
from qfx.ir.feeds import Feeds
from qfx.ir.graph import Graph
from qfx.leaving.check import RUNTIME, Run, check, in_qonnx, in_runtime
from qfx.leaving.integer import to_integer
from qfx.leaving.origin import origin, tell
from qfx.leaving.qdq import to_qdq
from qfx.leaving.qonnx import to_qonnx
from qfx.verify import Comparison

_MAX_FILE_BYTES = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class Form:
    """How a graph is written, and what runs it. ``batch``: how many samples a file takes whose user does not say; None: any number."""

    write: Callable[..., onnx.ModelProto]
    runs: Callable[[Graph, onnx.ModelProto], Mapping[str, Run]]
    batch: int | None


def _in_runtime(integers: bool) -> Callable[[Graph, onnx.ModelProto], Mapping[str, Run]]:
    def runs(graph: Graph, model: onnx.ModelProto) -> Mapping[str, Run]:
        return {name: in_runtime(graph, model, optimized=optimized, integers=integers) for name, optimized in RUNTIME.items()}

    return runs


FORMS: Mapping[str, Form] = {
    "qdq": Form(to_qdq, _in_runtime(False), None),
    "qonnx": Form(to_qonnx, lambda graph, model: {"qonnx": in_qonnx(graph, model)}, 1),
    "integer": Form(to_integer, _in_runtime(True), None),
}


def convert(graph: Graph, to: str, *, batch: int | None = None) -> onnx.ModelProto:
    """The graph in the form ``to``, a key of FORMS; the same graph gives the same bytes.

    ``batch``: how many samples the file takes; None: any number, of QONNX one, since its executor wants a number. Raises UnsupportedError naming the
    layer that the form cannot express exactly, and for a model too large for one file (2 GiB).
    """
    size = FORMS[to].batch if batch is None else batch
    model = _written(graph, to, size, _own_version())
    tell(model, graph, to, size)
    if model.ByteSize() > _MAX_FILE_BYTES:
        raise UnsupportedError("the model takes more than 2 GiB", where=graph.name, remedy="split it; ONNX files end there")
    return model


def came_from(model: onnx.ModelProto) -> Graph:
    """The graph that ``convert`` made the model of. Raises ModelFileError, as ``origin`` does, for a model that is not what comes of it."""
    return origin(model, _written)


def _written(graph: Graph, to: str, batch: int | None, version: str) -> onnx.ModelProto:
    return FORMS[to].write(graph, batch=batch, producer_version=version)


def checked(graph: Graph, model: onnx.ModelProto, to: str, x: Feeds) -> list[Comparison]:
    """What runs files of the form ``to``, against the interpreter on ``x`` (floats of each input, by name). Raises QfxError
    where it is not installed, or does not run the file."""
    return check(graph, x, FORMS[to].runs(graph, model))


def _own_version() -> str:
    try:
        return importlib.metadata.version("qfx")
    except importlib.metadata.PackageNotFoundError:  # a source tree that is not installed
        return "unknown"
