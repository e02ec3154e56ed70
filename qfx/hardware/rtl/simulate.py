"""A written folder simulated with Verilator: its own bench, built and run as ``make sim`` does, and what left compared by whoever calls."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from qfx import process
from qfx.errors import ProjectError
from qfx.hardware.rtl import tools
from qfx.hardware.rtl.hardware import Hardware, raws_of
from qfx.ir.values import RawArray
from qfx.progress import Progress, silent

_SHOWN = 4000


@dataclass(frozen=True, slots=True)
class Simulated:
    """What the bench said. ``raws``: of every output port in order; None where not all words left. ``latency`` and ``interval``: cycles at full
    speed; None where not all words left, the interval also of a single frame. ``passed``: words, cycles and handshakes are as they should be."""

    frames: int
    passed: bool
    raws: tuple[RawArray, ...] | None
    latency: int | None
    interval: int | None
    text: str


def build(folder: Path, progress: Progress = silent) -> None:
    """The bench, unless it is there. Raises ProjectError where tools are missing or refuse the sources."""
    tools.verilator()
    progress("Verilator builds the bench", 0, 1)
    done = process.run(["make", "-s", "-C", str(folder), "build/bench"])
    if done.returncode:
        raise ProjectError(
            f"Verilator refuses the sources:\n{done.stderr[-_SHOWN:]}", where=str(folder), remedy="please report it, if nobody changed them"
        )
    progress("Verilator builds the bench", 1, 1)


def run(folder: Path, hardware: Hardware, frames: int, *, stall: int = 0, timeout_s: float = 3600) -> Simulated:
    """The golden vectors through the bench; ``stall``: a seed other than 0 lets every stream wait at random."""
    with tempfile.TemporaryDirectory(prefix="qfx_rtl_") as scratch:
        options = ["--write", scratch, *(["--stall", str(stall)] if stall else [])]
        done = process.run([str(folder / "build" / "bench"), str(folder / "golden"), *options], timeout=timeout_s)
        if done.returncode not in (0, 1):
            raise ProjectError(
                f"the bench ends with {done.returncode}: {(done.stdout + done.stderr)[-_SHOWN:]}", where=str(folder), remedy="report it"
            )
        words = {wire.name: [int(line, 16) for line in (Path(scratch) / f"{wire.name}.out").read_text().split()] for wire in hardware.outputs}
    numbers = dict(re.findall(r"^(\w+) (\d+)$", done.stdout, re.MULTILINE))
    complete = all(len(words[wire.name]) == frames * sum(map(wire.words, (port for _, port in wire.ports))) for wire in hardware.outputs)
    raws = tuple(raw for wire in hardware.outputs for raw in raws_of(wire, words[wire.name], frames)) if complete else None
    latency, interval = (int(numbers[key]) if key in numbers else None for key in ("latency_cycles", "interval_cycles"))
    return Simulated(frames, done.returncode == 0, raws, latency, interval, done.stdout)
