"""Progress on stderr: bars on a terminal, now and then a line elsewhere. Standard output is for results."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from qfx import progress

AFTER_S = 2.0
"""A command that takes no longer says nothing of how far it is."""

_EVERY_S = 10.0
_TICK_S = 0.25


@contextmanager
def telling(stage: str, *, after_s: float = AFTER_S) -> Iterator[progress.Progress]:
    """Something to call with (stage, done, total) while work goes on; it begins with ``stage``.

    Nothing is shown for ``after_s`` seconds. Then: on a terminal, a bar for every stage, with the time that is left, gone when the block ends;
    elsewhere a line when a stage begins and every ten seconds.
    """
    console = Console(file=sys.stderr)
    shown: _Bars | _Lines = _Bars(console, after_s) if console.is_terminal else _Lines(after_s)
    stop = threading.Event()

    def tick() -> None:
        while not stop.wait(_TICK_S):
            shown.tick()

    ticking = threading.Thread(target=tick, daemon=True)
    streams = sys.stdout, sys.stderr
    try:
        shown(stage, 0, 1)
        ticking.start()
        yield shown
    finally:
        stop.set()
        if ticking.ident is not None:
            ticking.join()
        shown.close()
        sys.stdout, sys.stderr = streams  # bars that began while the work redirected these would leave them redirected


class _Lines:
    """Lines for a log."""

    def __init__(self, after_s: float) -> None:
        self._lock, self._after_s, self._began = threading.Lock(), after_s, time.monotonic()
        self._stage, self._done, self._total = "", 0, 1
        self._told, self._told_at = True, 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        with self._lock:
            if stage != self._stage or (done == 0 and self._done):
                self._told = False
            self._stage, self._done, self._total = stage, done, total
            self._show()

    def tick(self) -> None:
        with self._lock:
            self._show()

    def _show(self) -> None:
        now = time.monotonic()
        working = self._done < self._total
        if now - self._began < self._after_s or not (working and (not self._told or now - self._told_at >= _EVERY_S)):
            return
        count = f": {self._done} of {self._total}" if self._total > 1 and self._told else ""
        elapsed = now - self._began
        print(f"{self._stage}{count}" + (f" ({elapsed:.0f} s)" if elapsed >= 1 else ""), file=sys.stderr, flush=True)
        self._told, self._told_at = True, now

    def close(self) -> None:
        """Nothing is left behind."""


class _Bars:
    """Bars for a terminal."""

    def __init__(self, console: Console, after_s: float) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._bars = Progress(*columns, console=console, transient=True)
        self._lock, self._after_s, self._began, self._started = threading.Lock(), after_s, time.monotonic(), False
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        with self._lock:
            for other, task in self._tasks.items():
                if other != stage and not self._bars.tasks[task].finished and self._bars.tasks[task].total == 1:
                    self._bars.update(task, completed=1)
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(stage, total=total)
            elif done == 0:  # once more, in another attempt
                self._bars.reset(self._tasks[stage])
            self._bars.update(self._tasks[stage], completed=done, total=total)

    def tick(self) -> None:
        with self._lock:
            if not self._started and time.monotonic() - self._began >= self._after_s:
                self._started = True
                self._bars.start()

    def close(self) -> None:
        if self._started:
            self._bars.stop()
