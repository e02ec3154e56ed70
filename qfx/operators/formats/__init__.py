"""Casts to number formats that are no fixed-point type."""
