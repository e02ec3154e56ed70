"""Layers that work on each number by itself, or on two values number by number: constants in arithmetic, broadcasting, piecewise linear functions."""
