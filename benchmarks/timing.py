"""Timing that a busy machine disturbs least: the contestants take turns, and ratios are taken within a turn."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds per call in each turn; ``ratios`` to the first contestant's in the same turn."""

    seconds: tuple[float, ...]
    ratios: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        return 1000 * statistics.median(self.seconds)

    @property
    def median_ratio(self) -> float:
        return statistics.median(self.ratios)


def alternate(contestants: Mapping[str, Callable[[], object]], *, turns: int, calls: int, warm_up: int = 2) -> dict[str, Timing]:
    """Call each contestant ``calls`` times per turn, one after the other (A B C A B C ...); the first is the base of the ratios."""
    for _ in range(warm_up):
        for call in contestants.values():
            for _ in range(calls):
                call()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(turns):
        for name, call in contestants.items():
            began = time.perf_counter()
            for _ in range(calls):
                call()
            seconds[name].append((time.perf_counter() - began) / calls)
    base = seconds[next(iter(contestants))]
    return {name: Timing(tuple(times), tuple(t / b for t, b in zip(times, base, strict=True))) for name, times in seconds.items()}


def machine() -> str:
    """The processor, the threads, the load and the versions, in one line."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    load = f"{os.getloadavg()[0]:.1f}"
    return f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads, load {load}; torch {torch.__version__}"
