"""Layers that find things: rows of a table by their number, and what ranks first."""
