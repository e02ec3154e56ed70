"""What long work tells its caller: how far it is. Nothing here prints; the commands do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total) as work goes on; last with done == total. A total of 1 is work whose parts are not counted."""

_PART_S = 1.0


def silent(stage: str, done: int, total: int) -> None:
    """Tells nobody."""


def parts(count: int, progress: Progress, stage: str, *, first: int = 1, most: int = 1 << 20) -> Iterator[slice]:
    """Slices that cover ``range(count)``, the next one twice as long while one takes less than a second, and ``progress`` told in between.

    Work of unknown speed is cut so: it can be interrupted and followed, and a short one is done in a few steps. One empty slice for a count of 0.
    """
    size, done = first, 0
    progress(stage, 0, count)
    while done < count or count == 0:
        started = time.monotonic()
        yield slice(done, min(done + size, count))
        done = min(done + size, count)
        progress(stage, done, count)
        if time.monotonic() - started < _PART_S:
            size = min(2 * size, most)
        if count == 0:
            return
