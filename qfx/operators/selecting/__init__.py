"""Operators that find things: rows of a table by their number, and what ranks first."""

from qfx.operators.selecting.embedding import Embedding as Embedding
from qfx.operators.selecting.top import TopPlaces as TopPlaces
from qfx.operators.selecting.top import TopValues as TopValues
