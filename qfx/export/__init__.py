"""From a quantized model to its graph, and from a graph to the ONNX file, which is read back and compared."""
