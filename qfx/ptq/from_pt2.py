"""The earlier name of ``qfx.capture.from_pt2``."""

from qfx.capture.from_pt2 import from_pt2 as from_pt2
