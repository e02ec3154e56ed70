"""``export_onnx``: a quantized torch module as one ONNX file."""

from __future__ import annotations

import os
from pathlib import Path

from torch import nn

from qfx.export.onnx_file import save
from qfx.export.to_graph import to_graph

__all__ = ["export_onnx", "to_graph"]


def export_onnx(qmodel: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write the model as ONNX: plain onnxruntime executes it with the emulator's exact numbers.

    The file takes float32 (batch, *shape) in PyTorch's layout; its first node is the input cast, and it returns float values. Its metadata carries the qfx version and
    the recipe. An existing file is replaced in one step; nothing half-written is left. Raises what ``to_graph`` raises, and ExactnessError for a result that
    needs more than float64's 53 bits.
    """
    target = Path(path)
    save(to_graph(qmodel, target.stem), target)
