"""Passes on the float model: folding, equalization, and what is wrong with a model or its data."""
