"""Loops that a model's Python runs step by step: calls of one recurrent cell, written as the one layer that they are."""
