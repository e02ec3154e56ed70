"""Quantized networks as programs of torch's own operators."""
