"""A first estimate of power, and what a frame takes of it: documented coefficients, good to a factor of two.

Dynamic power is clock frequency x sum of (count x energy per cycle), less for what waits: a process is busy in its turns of each interval, and while
it waits its clock alone switches. Energies grow with the square of the voltage. No coefficient is the vendor's: AMD's Power Estimator (UG440) keeps
its own in a spreadsheet. They are chosen so that two published systems come out between what was estimated and what was measured of them
(docs/estimates.md, and a test): the DPU of the Kria KV260, and the smallest MLPerf Tiny design of the PYNQ-Z2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from qfx.hardware.board import Board
from qfx.hardware.cost.estimate import Estimate
from qfx.hardware.cost.resources import FIELDS, Resources
from qfx.hardware.timing.delays import grade

PICOJOULES: Mapping[str, float] = MappingProxyType({"lut": 0.09, "ff": 0.01, "dsp": 3.5, "bram18": 5.0, "uram": 20.0})
"""Energy of a busy cycle at 0.85 V in an UltraScale+ part, in pJ, with the nets: signals toggle in 12.5 % of the cycles, the average of many designs
by UG440."""
CLOCK_PICOJOULES = 0.01
"""What the clock of a flip-flop takes in every cycle, in pJ."""
SERIES7_FACTOR = 2.0
"""By which a 28 nm part at 1.0 V takes more: voltage squared is 1.4 of it, the rest are longer nets."""
_ULTRASCALE_VOLTS = 0.85

SYSTEM_W: Mapping[str, float] = MappingProxyType({"zynq_ultra_ps_e": 2.5, "processing_system7": 1.3})
"""The processing system with its memory controller, running: as Vivado's power reports are remembered to have it."""


@dataclass(frozen=True, slots=True)
class Power:
    """In watts: leakage of the programmable logic, its switching, and the processing system. Other parts of the board (memory, regulators, fan) are
    not in it: a KV260 board took 9.2 W idle where its module took 4.3 to 4.8 W at work."""

    static_w: float
    dynamic_w: float
    system_w: float

    @property
    def total_w(self) -> float:
        return self.static_w + self.dynamic_w + self.system_w

    def frames_per_joule(self, fps: float) -> float:
        return fps / self.total_w


def power(found: Estimate, *, clock_ns: float, interval: int, turns: int = 0) -> Power:
    """That of a design with these costs, a frame every ``interval`` cycles; ``turns``: those of a frame in parts that have no cycles of their own."""
    picojoules = sum(cycle_picojoules(cost.resources, min(max(cost.cycles, turns) / interval, 1.0)) for cost in found.costs)
    board = found.board
    return Power(static_w(board), picojoules * _scale(board) / clock_ns / 1000, SYSTEM_W[board.ps])


def cycle_picojoules(resources: Resources, busy: float) -> float:
    """The energy of an average cycle at 0.85 V in an UltraScale+ part, of which ``busy`` (0 to 1) do something."""
    work: float = sum(PICOJOULES[field] * getattr(resources, field) for field in FIELDS)
    return CLOCK_PICOJOULES * resources.ff + busy * work


def static_w(board: Board) -> float:
    """Leakage at a moderate temperature: it grows with the size of the part, told by its LUTs. An estimate: 0.75 W of an XCZU9EG, 0.34 of an XCZU3EG,
    0.14 of an XC7Z020, which is about what Vivado's reports are remembered to say; a hot part takes twice as much."""
    if board.part.startswith("xc7"):
        return 0.06 + 1.5e-6 * board.lut
    return (0.20 + 2.0e-6 * board.lut) * grade(board.part).volts / _ULTRASCALE_VOLTS


def _scale(board: Board) -> float:
    ratio = grade(board.part).volts / _ULTRASCALE_VOLTS
    return SERIES7_FACTOR if board.part.startswith("xc7") else ratio * ratio
