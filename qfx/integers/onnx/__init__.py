"""Integer ONNX models, QDQ or QOperator, with any scales: the integers of ONNX Runtime's kernels."""

from qfx.integers.onnx.reading import read_onnx_integers as read_onnx_integers
