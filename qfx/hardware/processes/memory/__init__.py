"""Processes that read, or write, the board's memory, and of layers whose weights lie there."""

from __future__ import annotations

from qfx.hardware.processes.memory.from_memory import FromMemory as FromMemory
from qfx.hardware.processes.memory.spill import Spill as Spill
from qfx.hardware.processes.memory.tiles import Tiles as Tiles
