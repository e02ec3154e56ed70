"""Faults of memories and devices: what they make of constants, in training and in graphs (docs/methods.md)."""
