"""What a converted file was made of, told in its metadata, so that it comes back as the same graph.

Rounding in other tools' words takes several nodes for one cast, of which no reader could be sure. So the file says of which graph it was made, as
qfx's own files do, with the weights where the file has them already. Nothing is believed: the graph is converted again, and the file must be what
comes of it, byte for byte. A file whose weights were changed comes back with the changed weights; one whose nodes were changed does not.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]
from onnx import numpy_helper

from qfx.errors import ModelFileError, QfxError, UnsupportedError
from qfx.export.onnx_file import to_model
from qfx.ir.from_onnx import difference, in_bytes, read_graph
from qfx.ir.graph import Graph

KEY = "qfx.origin"
"""The entry of the metadata."""

_FEW = 64
"""Constants of so many numbers are told again; of more it is said where the file has them."""
_MOST_BYTES = 1 << 31
_MIDDLES = (0, 128)
"""What integer files add to weights: nothing, or the middle of a byte."""

Convert = Callable[[Graph, str, int | None, str], onnx.ModelProto]
"""From graph, form, batch and the version of qfx to the file without this entry."""

Array = npt.NDArray[Any]


def tell(model: onnx.ModelProto, graph: Graph, form: str, batch: int | None) -> None:
    """Add the entry to a file that was made of ``graph``. A graph that has no file of qfx's own (its sums take more than 53 bits) is not told."""
    try:
        own = to_model(graph, producer_version=model.producer_version)
    except QfxError:
        return
    taken = {}
    held: dict[str, list[onnx.TensorProto]] = {}
    for tensor in model.graph.initializer:
        held.setdefault(tensor.name.partition("#")[0], []).append(tensor)
    points = {node.input[0]: _grids(node) for node in own.graph.node if node.op_type == "FromRaw"}
    kept = []
    for tensor in own.graph.initializer:
        if tensor.name in points and np.prod(tensor.dims) > _FEW:
            found = _found(numpy_helper.to_array(tensor), points[tensor.name], held.get(tensor.name.partition("#")[0], []))
            if found is not None:
                taken[tensor.name] = [*found, onnx.TensorProto.DataType.Name(tensor.data_type), list(tensor.dims)]
                continue
        if not tensor.name.endswith(".lsb"):
            kept.append(tensor)
    del own.graph.initializer[:], own.graph.value_info[:], own.functions[:], own.metadata_props[:]
    own.graph.initializer.extend(kept)
    content = zlib.compress(own.SerializeToString(deterministic=True), 9)
    told = {"form": form, "batch": batch, "keys": sorted(graph.metadata), "taken": taken, "graph": base64.b64encode(content).decode()}
    model.metadata_props.add(key=KEY, value=json.dumps(told, sort_keys=True))


def tells(model: onnx.ModelProto) -> bool:
    """Whether the file says what it was made of."""
    return any(entry.key == KEY for entry in model.metadata_props)


def origin(model: onnx.ModelProto, convert: Convert) -> Graph:
    """The graph that the file was made of, with its names and metadata.

    Raises ModelFileError for a file that is damaged, that another version of qfx wrote in another way, or that was changed in more than the numbers
    of its weights.
    """
    told, rest = _entry(model)
    where = model.graph.name
    try:
        form, batch = told["form"], told["batch"]
        graph = read_graph(_own(model, told), {entry.key: entry.value for entry in rest.metadata_props if entry.key in told["keys"]})
        expected = convert(graph, form, batch, model.producer_version)
    except (UnsupportedError, ModelFileError) as error:
        raise ModelFileError(f"does not say what it was made of: {error.what}", where=where, remedy=_REMEDY) from error
    except (QfxError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, MemoryError, DecodeError, zlib.error) as error:
        raise ModelFileError(f"does not say what it was made of ({type(error).__name__}: {error})", where=where, remedy=_REMEDY) from error
    if in_bytes(expected) != in_bytes(rest):
        part = difference(expected, rest) or "its header"
        raise ModelFileError(f"{part} is not as `qfx convert` wrote it", where=where, remedy=_REMEDY)
    return graph


_REMEDY = "convert the model again, with this version of qfx"


def _entry(model: onnx.ModelProto) -> tuple[dict[str, Any], onnx.ModelProto]:
    """What the entry says, and the model without it."""
    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    del rest.metadata_props[:]
    texts = [entry.value for entry in model.metadata_props if entry.key == KEY]
    rest.metadata_props.extend(entry for entry in model.metadata_props if entry.key != KEY)
    try:
        told = json.loads(texts[0])
    except (ValueError, IndexError, RecursionError) as error:
        raise ModelFileError(f"its entry {KEY} is damaged", where=model.graph.name, remedy=_REMEDY) from error
    if not isinstance(told, dict) or len(texts) > 1:
        raise ModelFileError(f"its entry {KEY} is damaged", where=model.graph.name, remedy=_REMEDY)
    return told, rest


def _own(model: onnx.ModelProto, told: dict[str, Any]) -> onnx.ModelProto:
    """The nodes of qfx's own file, and its integers."""
    unpacked = zlib.decompressobj()
    content = unpacked.decompress(base64.b64decode(told["graph"], validate=True), _MOST_BYTES)
    own = onnx.ModelProto()
    own.ParseFromString(content)
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    points = {node.input[0]: _grids(node) for node in own.graph.node if node.op_type == "FromRaw"}
    for name, (source, turned, middle, dtype, shape) in told["taken"].items():
        raw = _taken(numpy_helper.to_array(held[source]), tuple(shape), points[name], bool(turned), int(middle))
        kind = onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.DataType.Value(dtype))
        if not np.issubdtype(kind, np.integer) or (raw.astype(kind) != raw).any():
            raise ValueError(f"{source} does not hold integers of {dtype}")
        own.graph.initializer.append(numpy_helper.from_array(raw.astype(kind), name))
    return own


def _found(raw: Array, points: Array, tensors: list[onnx.TensorProto]) -> tuple[str, bool, int] | None:
    """Which of the file's tensors has these raws, and how; None if none."""
    for tensor in tensors:
        if np.prod(tensor.dims) != raw.size:
            continue
        array = numpy_helper.to_array(tensor)
        for turned in (False, True):
            for middle in _MIDDLES:
                if np.array_equal(_taken(array, raw.shape, points, turned, middle), raw):
                    return tensor.name, turned, middle
    return None


def _taken(array: Array, shape: tuple[int, ...], points: Array, turned: bool, middle: int) -> Array:
    """Raws of ``shape`` on the grids ``points`` (one, or one a row), of values, or of integers with ``middle`` added."""
    ordered = (array.T if turned else array).reshape(shape)
    if array.dtype.kind == "f":
        ordered = np.ldexp(ordered.astype(np.float64), points.reshape(-1, *(1,) * (len(shape) - 1)) if points.size > 1 else points)
    raws: Array = ordered.astype(np.int64) - middle
    return raws


def _grids(node: onnx.NodeProto) -> Array:
    """Of a constant of qfx's own file."""
    (found,) = (attribute for attribute in node.attribute if attribute.name == "frac_bits")
    return np.array(onnx.helper.get_attribute_value(found))
