"""The earlier name of ``qfx.capture.from_onnx``."""

from qfx.capture.from_onnx import from_onnx as from_onnx
