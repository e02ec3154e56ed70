"""Quantized models of other tools."""
