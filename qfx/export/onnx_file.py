"""``Graph`` -> ONNX: a file that a plain ONNX Runtime executes with exactly the numbers of the graph.

Tensors hold values, not raws. An operator is a standard ONNX operator in float32 if float32 holds every partial sum in any order, in float64 if
that does and ONNX Runtime has the kernel, else a function of ``ai.qfx`` (see ``opset.py``). Nodes and values bear the names of the graph; helpers of
a node have its name, a ``#`` (which no name of a graph holds) and their role. Constants are stored as integer raws.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os

import onnx
from onnx import helper

from qfx.errors import ModelFileError, UnsupportedError
from qfx.export import opset
from qfx.export.bounds import FLOAT
from qfx.export.writer import Writer
from qfx.files import check_target, writing
from qfx.ir.graph import Graph

PRODUCER = "qfx"
VERSION_KEY, OPSET_KEY, DIGEST_KEY = "qfx.version", "qfx.opset", "qfx.sha256"
"""The metadata that the writer adds to the graph's own; the digest is that of ``digest``."""

_MAX_FILE_BYTES = (1 << 31) - 1


def to_model(graph: Graph, *, producer_version: str | None = None, opset_version: int = opset.VERSION) -> onnx.ModelProto:
    """The graph as an ONNX model: each input float32 of shape ("N", *shape) in PyTorch's layout, each output float32 where
    that is exact, else float64.

    Exact on ONNX Runtime's CPU provider at every optimization level; TF32 on a GPU (``use_tf32``) is not. The same graph gives the same bytes.
    ``producer_version`` is recorded; it is qfx's own if left out. ``opset_version`` is one of ``opset.READABLE``.
    ``qfx.ir.from_onnx.from_model`` is the inverse.

    Raises ExactnessError, naming the node, if a value needs more than float64's 53 bits; UnsupportedError for metadata under a key that
    the writer needs and for a model too large for one file (2 GiB).
    """
    version = _own_version() if producer_version is None else producer_version
    taken = sorted(set(written_keys(opset_version)) & set(graph.metadata))
    if taken:
        raise UnsupportedError(f"the metadata has an entry {taken[0]!r}", where=graph.name, remedy="use another key; qfx writes this one itself")
    writer = Writer(graph, opset_version)
    for node in graph.nodes:
        writer.write(node)
    _check_size(graph, writer)
    body = helper.make_graph(
        writer.nodes,
        graph.name,
        [helper.make_tensor_value_info(f"{node.name}#float", FLOAT, ["N", *graph.infos[node.name].shape]) for node in graph.inputs],
        [writer.value_info(name) for name in graph.outputs],
        writer.initializers,
        value_info=[writer.value_info(node.name) for node in graph.nodes if node.name not in graph.outputs],
    )
    model = helper.make_model(
        body,
        functions=[opset.function(name) for name in sorted(writer.functions)],
        opset_imports=[helper.make_opsetid("", opset.ONNX_OPSET), helper.make_opsetid(opset.DOMAIN, opset_version)],
        ir_version=opset.IR_VERSION,
        producer_name=PRODUCER,
        producer_version=version,
    )
    ours = (version, f"{opset.DOMAIN} {opset_version}", digest(model))
    for key, text in {**dict(zip(written_keys(opset_version), ours, strict=False)), **graph.metadata}.items():
        model.metadata_props.add(key=key, value=text)
    if model.ByteSize() > _MAX_FILE_BYTES:
        raise _too_large(graph, model.ByteSize(), "")
    return model


def _check_size(graph: Graph, writer: Writer) -> None:
    """Raises UnsupportedError for constants that no file holds, before protobuf, whose messages end there too, is asked to join them."""
    sizes = {tensor.name: len(tensor.raw_data) for tensor in writer.initializers}
    if sum(sizes.values()) > _MAX_FILE_BYTES:
        largest = max(sizes, key=lambda name: sizes[name])
        raise _too_large(graph, sum(sizes.values()), f"; {largest.split('#')[0]} alone has {sizes[largest] / 1e6:,.1f} MB of them")


def _too_large(graph: Graph, size: int, largest: str) -> UnsupportedError:
    what = f"its constants take {size / 1e6:,.1f} MB{largest}: more than the {_MAX_FILE_BYTES / 1e6:,.1f} MB at which ONNX files end"
    remedy = "quantize weights to 8 bits or fewer (a byte each, longer ones two), or export the model in parts that follow each other"
    return UnsupportedError(what, where=graph.name, remedy=remedy)


def written_keys(opset_version: int) -> tuple[str, ...]:
    """The keys of the metadata that the writer adds, in order."""
    return (VERSION_KEY, OPSET_KEY, DIGEST_KEY) if opset_version >= opset.DIGESTS_FROM else (VERSION_KEY, OPSET_KEY)


def digest(model: onnx.ModelProto) -> str:
    """The SHA-256 of the model's graph: of its constants and of all that its nodes say. One changed bit of a weight gives a consistent
    file, and another digest."""
    return hashlib.sha256(model.graph.SerializeToString(deterministic=True)).hexdigest()


def save(graph: Graph, path: str | os.PathLike[str], *, force: bool = False, producer_version: str | None = None) -> None:
    """Write ``to_model(graph)`` to ``path``, whole or not at all: a reader never sees half a file.

    Raises what ``to_model`` raises, and ModelFileError if the file exists (unless ``force``) or cannot be written.
    """
    remedy = "pass force=True to replace it, or choose another name"
    check_target(path, force=force, error=ModelFileError, remedy=remedy)
    content = to_model(graph, producer_version=producer_version).SerializeToString(deterministic=True)
    with writing(path, force=force, error=ModelFileError, remedy=remedy) as staged:
        staged.write_bytes(content)


def _own_version() -> str:
    try:
        return importlib.metadata.version("qfx")
    except importlib.metadata.PackageNotFoundError:  # a source tree that is not installed
        return "unknown"
