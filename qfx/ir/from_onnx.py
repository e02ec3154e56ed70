"""ONNX -> ``Graph``: the inverse of ``qfx.export.onnx_file``, for files that qfx wrote and for nothing else.

Attributes and integer initializers say what the graph is; everything else in the file (function bodies, float initializers, dtypes, helper nodes)
follows from the graph. So the graph that was read is written again, and the file must be that, byte for byte: a file that was changed to compute
something else than its attributes say is refused. Nothing in a file is ever evaluated.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped, unused-ignore]
from onnx import numpy_helper

from qfx import formats
from qfx.errors import ModelFileError, QfxError, UnsupportedError
from qfx.export import opset
from qfx.export.onnx_file import DIGEST_KEY, digest, to_model, written_keys
from qfx.homes import joined
from qfx.ir.graph import Graph, Node
from qfx.ir.onnx_node import REMEDY, OnnxNode
from qfx.ir.operator import Operator
from qfx.ir.values import Const
from qfx.ir.within import restored
from qfx.operators import OPERATORS

_FORMS: dict[str, type[Operator]] = joined((form, operator) for operator in OPERATORS for form in operator.forms)
"""The operator that reads each form."""

_COPIES = {("", "Cast"), ("", "Identity"), (opset.DOMAIN, "Swap"), (opset.DOMAIN, "Zeros")}
"""What gives the values of its input in another form, or nothing of its own: helpers of the nodes."""


def load_graph(path: str | os.PathLike[str]) -> Graph:
    """The graph in an ONNX file that qfx wrote. Raises what ``from_model`` raises, and ModelFileError for a file that cannot be read."""
    source = Path(path)
    model = onnx.ModelProto()
    formats.refuse(formats.kind_of_file(source), str(source))
    try:
        model.ParseFromString(source.read_bytes())
    except OSError as error:
        raise ModelFileError(f"cannot be read: {error.strerror}", where=str(source), remedy="check the path") from error
    except DecodeError as error:
        raise ModelFileError("is not an ONNX file, or a damaged one", where=str(source), remedy=REMEDY) from error
    try:
        return from_model(model)
    except QfxError as error:
        where = f"{source}: {error.where}" if error.where else str(source)
        raise type(error)(error.what, where=where, remedy=error.remedy) from error


def from_model(model: onnx.ModelProto) -> Graph:
    """The graph that ``to_model`` made the model of, with its names and metadata.

    Raises ModelFileError for a model that qfx did not write, that a later version of the operator set wrote, or that was changed or damaged since
    (version 1 has no digest: of its files, those that a changed constant leaves consistent are read);
    UnsupportedError, naming the node, for an operator that qfx does not write.
    """
    opset_version = _check_origin(model)
    try:
        graph = read_graph(model, _metadata(model, opset_version))
        expected = to_model(graph, producer_version=model.producer_version, opset_version=opset_version)
    except (ModelFileError, UnsupportedError):
        raise
    except QfxError as error:  # types, constants or sums that no graph that was written can hold
        raise ModelFileError(error.what, where=error.where, remedy=REMEDY) from error
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError) as error:  # numpy and protobuf on nonsense
        raise ModelFileError(f"is damaged: {error}", where=model.graph.name, remedy=REMEDY) from error
    if opset_version < opset.CHANNELS_FROM:
        _forget_types(expected, model := _copy(model))
    if in_bytes(expected) != in_bytes(model):
        part = difference(expected, model)
        if part is None:
            _check_digest(model, opset_version)
        raise ModelFileError(f"{part or 'its header'} is not as qfx wrote it", where=graph.name, remedy=REMEDY)
    return graph


def _check_origin(model: onnx.ModelProto) -> int:
    """The version of qfx's operator set that wrote the model."""
    versions = {entry.domain: entry.version for entry in model.opset_import}
    where = model.graph.name
    if opset.DOMAIN not in versions:
        formats.refuse(formats.kind_of_onnx(model), where)
        maker = f" (its producer is {model.producer_name!r})" if model.producer_name else ""
        remedy = "export the model with qfx.export_onnx; a float ONNX file goes through `qfx ptq` first"
        raise ModelFileError(f"not written by qfx{maker}", where=where, remedy=remedy)
    if versions[opset.DOMAIN] not in opset.READABLE:
        raise ModelFileError(
            f"has version {versions[opset.DOMAIN]} of {opset.DOMAIN}, this qfx reads version {opset.VERSION} and older",
            where=where,
            remedy="update qfx, or export the model again",
        )
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise ModelFileError(f"{tensor.name!r} lies in another file", where=where, remedy="qfx writes one file; " + REMEDY)
    for kind, count in (("input", len(model.graph.input)), ("output", len(model.graph.output))):
        if not count:
            raise ModelFileError(f"has no {kind}", where=where, remedy=REMEDY)
    return int(versions[opset.DOMAIN])


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    other = onnx.ModelProto()
    other.CopyFrom(model)
    return other


def _forget_types(*models: onnx.ModelProto) -> None:
    """Clear what nodes say of their types in words: version 1 found wider ones, and nothing computes with them."""
    for model in models:
        for node in model.graph.node:
            node.ClearField("doc_string")


def _check_digest(model: onnx.ModelProto, opset_version: int) -> None:
    """Raise ModelFileError if the graph is not the one whose digest the file holds."""
    held = [entry.value for entry in model.metadata_props if entry.key == DIGEST_KEY]
    if opset_version >= opset.DIGESTS_FROM and held != [digest(model)]:
        what = "was changed or damaged since it was written: its constants and nodes are not those of the digest in its metadata"
        raise ModelFileError(what if held else f"lacks the digest of its constants ({DIGEST_KEY})", where=model.graph.name, remedy=REMEDY)


def _metadata(model: onnx.ModelProto, opset_version: int) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props if entry.key not in written_keys(opset_version)}


def read_graph(model: onnx.ModelProto, metadata: Mapping[str, str]) -> Graph:
    """What attributes and integer initializers say, unchecked: raises whatever numpy and protobuf raise on nonsense. Users call ``from_model``."""
    reader = _Reader(model.graph)
    nodes = tuple(node for proto in model.graph.node for node in reader.read(proto))
    return Graph(model.graph.name, nodes, tuple(output.name for output in model.graph.output), dict(metadata))


class _Reader:
    """Turns ONNX nodes into graph nodes; remembers the constants and the float64 copies that it passes."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.sources = {source.name: source for source in graph.input}
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        self.consts: dict[str, Const] = {}
        self.copies: dict[str, str] = {}

    def read(self, proto: onnx.NodeProto) -> list[Node]:
        """No node for a helper, else one."""
        if not proto.output:
            raise ModelFileError("has no output", where=proto.name, remedy=REMEDY)
        given = OnnxNode(proto, self.sources, self.tensors, self.consts, _read_body)
        if (proto.domain, proto.op_type) in _COPIES:
            if "#" in proto.output[0]:  # else the last one of a node that has helpers behind it, under its own name
                self.copies[proto.output[0]] = self.original(given.input(0))
            return []
        if (proto.domain, proto.op_type) == (opset.DOMAIN, "FromRaw"):
            self.consts[proto.output[0]] = Const(numpy_helper.to_array(given.tensor(0)), given.grids())
            return []
        operator = _FORMS.get(given.form)
        if operator is None:
            what = f"the operator {proto.domain or 'ai.onnx'}.{proto.op_type} is none that qfx writes"
            raise UnsupportedError(what, where=proto.name, remedy="export with qfx.export_onnx")
        op = operator.read(given)
        return [Node(proto.output[0].partition("#")[0], op, tuple(map(self.original, op.operands(proto.input))))]

    def original(self, name: str) -> str:
        """The value that a copy of that name is one of; others are themselves."""
        return self.copies.get(name, name)


def _read_body(proto: onnx.GraphProto, name: str) -> tuple[Graph, tuple[int, ...]]:
    """The body of the Scan ``name``, and the positions of the outputs that it carries to the next step. The file lists these first."""
    reader = _Reader(proto)
    nodes = [node for part in proto.node for node in reader.read(part)]
    *states, result = (reader.original(output.name) for output in proto.output)
    outputs = tuple(dict.fromkeys((result, *states)))
    return restored(Graph(proto.name, tuple(nodes), outputs), name), tuple(outputs.index(state) for state in states)


def in_bytes(message: Message) -> bytes:
    """The same message gives the same bytes."""
    content: bytes = message.SerializeToString(deterministic=True)
    return content


def difference(expected: onnx.ModelProto, found: onnx.ModelProto) -> str | None:
    """The first part of a model, in words, that differs; None if only its header does."""
    parts: list[tuple[str, Iterable[Message], Iterable[Message]]] = [
        ("the function", expected.functions, found.functions),
        ("the initializer", expected.graph.initializer, found.graph.initializer),
        ("the node", expected.graph.node, found.graph.node),
        ("the value", expected.graph.value_info, found.graph.value_info),
        ("the input", expected.graph.input, found.graph.input),
        ("the output", expected.graph.output, found.graph.output),
    ]
    for what, wanted, given in parts:
        by_name = {part.name: in_bytes(part) for part in wanted}
        for part in given:
            name = part.name
            if by_name.pop(name, None) != in_bytes(part):
                return f"{what} {name!r}"
        if by_name:
            return f"{what} {next(iter(by_name))!r} is missing, the file"
    return None
