"""A model in other tools' files: QONNX, QDQ and integer-only ONNX, each with exactly its numbers, or not written."""
