"""The loop over the steps of a sequence, and the ends of what a step does."""

from __future__ import annotations

from qfx.hardware.processes.sequences.ends import Enter as Enter
from qfx.hardware.processes.sequences.ends import Keep as Keep
from qfx.hardware.processes.sequences.ends import Leave as Leave
from qfx.hardware.processes.sequences.ends import Recall as Recall
from qfx.hardware.processes.sequences.loop import Loop as Loop
