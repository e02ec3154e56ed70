"""Fake-quantized networks of torch with any scales as graphs of integers."""
