"""The old name of ``qfx.hardware.design.schedule``."""

from qfx.hardware.design.schedule import ARITHMETIC, Folding, Request, Schedule

__all__ = ["ARITHMETIC", "Folding", "Request", "Schedule"]
