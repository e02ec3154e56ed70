"""The earlier name of ``qfx.capture.checkpoint``."""

from qfx.capture.checkpoint import load_checkpoint as load_checkpoint
from qfx.capture.checkpoint import read_state as read_state
