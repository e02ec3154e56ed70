"""The account of a run, a row for each pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """One row of the account: a pass (or where it started) and how good the fixed-point model is after it.

    ``output_db``: signal to quantization noise of the model's output on calibration data, in dB (inf: no noise at all; None: not measured).
    ``accuracy``: the share of right answers on the evaluation data that steps are judged by. ``note``: what the pass says of itself.
    """

    name: str
    seconds: float
    output_db: float | None
    accuracy: float | None
    note: str = ""


Recorded = Callable[[Step], None]
"""Called with each step when it is behind a run."""
