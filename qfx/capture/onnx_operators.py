"""What each ONNX operator of a float model becomes: a table from operators to calls of torch, joined of the kinds' entries."""

from __future__ import annotations

from qfx.capture.onnx import elementwise, layers, recurrent, reductions, resizing, shapes
from qfx.capture.onnx.node import Handler
from qfx.homes import joined

HANDLERS: dict[str, Handler] = joined(
    pair for kind in (layers, elementwise, reductions, shapes, resizing, recurrent) for pair in kind.HANDLERS.items()
)
"""What each operator becomes."""

OPERATORS = tuple(HANDLERS)
"""The ONNX operators that may stand in a float model."""
