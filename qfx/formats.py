"""Telling the files of other tools apart, so that a model in one of them is refused by its name, with what to do today."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from qfx.errors import ModelFileError

if TYPE_CHECKING:
    import onnx


class Kind(NamedTuple):
    """What a file is, and what its owner can do."""

    name: str
    remedy: str


_FROM_TENSORFLOW = (
    "qfx reads float ONNX: convert the float TensorFlow or Keras model that it comes from, python -m tf2onnx.convert --saved-model FOLDER (or "
    "--keras FILE) --output model.onnx, then `qfx ptq --model model.onnx`"
)
_WEIGHTS = "it holds weights without a model: `qfx ptq --model package.module:factory --checkpoint FILE`, with the Python code of the model"

TFLITE = Kind("a TFLite model", "`qfx import` takes int8 models as they are; to quantize anew, convert the float model: " + _FROM_TENSORFLOW)
HDF5 = Kind("an HDF5 file, as Keras writes models and weights", _FROM_TENSORFLOW)
KERAS = Kind("a Keras model", _FROM_TENSORFLOW)
SAVED_MODEL = Kind("a TensorFlow SavedModel", _FROM_TENSORFLOW)
TORCHSCRIPT = Kind(
    "a TorchScript archive",
    "give the Python module that it was made of, to qfx.quantize or as `qfx ptq --model package.module:factory`, or exported by torch.export.save "
    "(.pt2)",
)
CHECKPOINT = Kind("a file of torch.save", _WEIGHTS)
SAFETENSORS = Kind("a safetensors file", _WEIGHTS)
EXPORTED = Kind(
    "a program of torch.export (.pt2)", "quantize it first: `qfx ptq --model model.pt2`; one that is quantized (PT2E) goes by `qfx import`"
)
PICKLE = Kind("a Python pickle", _WEIGHTS)
ARRAY = Kind("a numpy array file", "give the model; arrays are given as data")
ORT = Kind("an ONNX Runtime model (.ort)", "give the .onnx file that it was converted from")
OPENVINO = Kind("an OpenVINO model", "give the ONNX file that it was converted from")
_IMPORTED = "`qfx import model.onnx -o qfx.onnx` makes a model of the same types of it, as qfx.from_onnx does in Python"
QONNX = Kind("a QONNX model", _IMPORTED)
QDQ = Kind("a quantized ONNX model (QuantizeLinear and DequantizeLinear)", _IMPORTED)
QOPERATOR = Kind("a quantized ONNX model (QLinearConv and the like)", "`qfx import --integers` takes its integers as they are")

_QONNX_DOMAINS = ("qonnx.custom_op", "onnx.brevitas", "finn.custom_op", "finn.")
_QDQ_OPERATORS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
_INTEGER_OPERATORS = ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "QGemm", "QLinearAdd", "QAttention")
_ENTRIES = 100_000


def kind_of_file(path: Path) -> Kind | None:
    """What the file or folder at ``path`` is, by its content, if it is a model of another tool; None for ONNX, for what is not known or not there."""
    if path.is_dir():
        return SAVED_MODEL if (path / "saved_model.pb").is_file() else None
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError:
        return None
    if head[4:8] == b"TFL3":
        return TFLITE
    if head[4:8] == b"ORTM":
        return ORT
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return HDF5
    if head.startswith(b"\x93NUMPY"):
        return ARRAY
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return PICKLE
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") < 1 << 32:
        return SAFETENSORS
    if head.lstrip()[:5] == b"<?xml" and b"<net" in head:
        return OPENVINO
    if path.name == "saved_model.pb":
        return SAVED_MODEL
    return _kind_of_archive(path) if head.startswith(b"PK") else None


def _kind_of_archive(path: Path) -> Kind | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()[:_ENTRIES]
    except (OSError, zipfile.BadZipFile):
        return None
    below = {name.partition("/")[2] or name for name in names}
    if "models/model.json" in below or "models/model.json" in names:
        return EXPORTED
    if "constants.pkl" in below or any(name.startswith("code/") for name in below):
        return TORCHSCRIPT
    if "data.pkl" in below:
        return CHECKPOINT
    if "config.json" in names and any(name.endswith(".h5") for name in names):
        return KERAS
    return ARRAY if names and all(name.endswith(".npy") for name in names) else None


def kind_of_onnx(model: onnx.ModelProto) -> Kind | None:
    """Which dialect of quantized ONNX a model is in; None for plain ONNX."""
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    domains = {node.domain for node in nodes} | {entry.domain for entry in model.opset_import}
    if any(domain.startswith(_QONNX_DOMAINS) for domain in domains):
        return QONNX
    operators = {node.op_type for node in nodes}
    if operators & set(_INTEGER_OPERATORS):
        return QOPERATOR
    return QDQ if operators & set(_QDQ_OPERATORS) else None


def refuse(kind: Kind | None, where: str) -> None:
    """Raise ModelFileError for a model of another tool."""
    if kind is not None:
        raise ModelFileError(f"is {kind.name}", where=where, remedy=kind.remedy)
