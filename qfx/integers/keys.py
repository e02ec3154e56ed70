"""What the metadata of graphs of integers say."""

QUANTIZATION_KEY = "quantized"
"""The entry that says, a line for each input and output, what its integers stand for."""

DIFFERING_KEY = "quantized.differing"
"""The entry that says, a line for each operator, at how many sums its result is not that of the source, but one beside it."""

OPTION_KEY = "quantized.option"
"""The entry that says with which option of ONNX Runtime's session its integers are these."""
