"""Operators that find things: rows of a table by their number."""

from qfx.operators.selecting.embedding import Embedding as Embedding
