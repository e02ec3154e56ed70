"""Processes of layers whose weights lie in the board's memory."""

from __future__ import annotations

from qfx.hardware.processes.memory.from_memory import FromMemory as FromMemory
from qfx.hardware.processes.memory.tiles import Tiles as Tiles
