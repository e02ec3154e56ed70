"""``export_onnx``: a quantized torch module as one ONNX file."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]
from torch import nn

from qfx.errors import ModelFileError
from qfx.export.onnx_file import save
from qfx.export.to_graph import to_graph

__all__ = ["export_onnx", "to_graph"]


def export_onnx(qmodel: nn.Module, path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Write the model as ONNX: plain onnxruntime executes it with the emulator's exact numbers.

    The file takes float32 (batch, *shape) in PyTorch's layout; its first node is the input cast, and it returns float values. Its metadata
    carries the qfx version and the recipe. A file that qfx wrote earlier is replaced in one step; nothing half-written is left.

    Raises ModelFileError for an existing file that qfx did not write (unless ``force``), ExactnessError for a result that needs more than
    float64's 53 bits, and what ``to_graph`` raises.
    """
    target = Path(path)
    if not force and target.exists() and not _replaceable(target):
        raise ModelFileError("exists and was not written by qfx", where=str(target), remedy="choose another name, or pass force=True")
    save(to_graph(qmodel, target.stem), target, force=True)


def _replaceable(path: Path) -> bool:
    """Whether nothing is lost with the file: it is empty, or an export of qfx."""
    if not path.is_file():
        return False
    content = path.read_bytes()
    try:
        return not content or onnx.ModelProto.FromString(content).producer_name == "qfx"
    except DecodeError:
        return False
