"""After training: passes that make a fixed-point model as good as the arithmetic allows, without labels."""

from qfx.ptq.calibrate import calibrate
from qfx.ptq.fold import fold_batch_norm

__all__ = ["calibrate", "fold_batch_norm"]
