"""Processes that find things: rows of a table by their number, and what ranks first."""

from qfx.hardware.processes.selecting.embedding import Embedding as Embedding
from qfx.hardware.processes.selecting.top import Top as Top
