"""The front door: modules, ``.pt2`` files, float ONNX files and checkpoints, as what qfx can quantize; or what stands in their way."""
