"""Rounding weights better than to nearest."""
