"""Quantized models of other tools: front ends that read them, and the one mechanism that makes fixed-point models of them, bit for bit."""
