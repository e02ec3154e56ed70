"""After training: passes that make a fixed-point model as good as the arithmetic allows, without labels."""

from qfx.ptq.calibrate import calibrate
from qfx.ptq.equalize import absorb_bias, clipped_shares, equalize, equalize_exactly, measured_statistics, replace_relu6
from qfx.ptq.fold import Statistics, fold_batch_norm, folded_statistics

__all__ = [
    "Statistics",
    "absorb_bias",
    "calibrate",
    "clipped_shares",
    "equalize",
    "equalize_exactly",
    "fold_batch_norm",
    "folded_statistics",
    "measured_statistics",
    "replace_relu6",
]
