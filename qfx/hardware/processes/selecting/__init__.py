"""Processes that find things: rows of a table by their number."""

from qfx.hardware.processes.selecting.embedding import Embedding as Embedding
