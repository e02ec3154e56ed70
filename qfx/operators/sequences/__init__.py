"""Operators on sequences: what is done to one step after the other."""
