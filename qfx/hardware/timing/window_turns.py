"""The turns of the window unit, hls/include/qfx/window.h: how its reads and writes fall together.

Windows come in raster order. Before a window is written, the words up to its last pixel (or the frame's end) must have come: its *need*. While it is
written, further words come as long as their place in the line buffer is free: up to its *limit*. Each window so takes some turns that only read, then
one turn for each of its words; the first of these read as well. What is left of the frame comes behind the last window.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class WindowTurns:
    """Per window, in raster order: ``read_only`` turns, then ``words`` that write, the first ``both`` of them also read; then ``rest`` reads."""

    words: int
    read_only: IntArray
    both: IntArray
    rest: int

    @property
    def turns(self) -> int:
        return self.words * self.both.size + int(self.read_only.sum()) + self.rest


@lru_cache(maxsize=256)
def window_turns(shape: tuple[int, ...]) -> WindowTurns:
    """The turns for one frame; ``shape`` is that of design.Window, the arguments of qfx::window_shape without TURNS."""
    chunks, _, h, w, oh, ow, kh, kw, sh, sw, pad_top, pad_left, dh, dw = shape
    row, reads, rows = w * chunks, h * w * chunks, (kh - 1) * dh + 1
    bottom = (np.arange(oh, dtype=np.int64) * sh + rows - 1 - pad_top)[:, None] * row
    left = ((np.arange(ow, dtype=np.int64) * sw - pad_left) * chunks)[None, :]
    right = left + ((kw - 1) * dw + 1) * chunks
    need = np.maximum(np.minimum(bottom, reads - row) + np.clip(right, 0, row), 0).reshape(-1)
    below, following = bottom + row, bottom + row + sh * row
    free = np.where((left < row) & (following > 0), np.maximum(below, 0) + np.maximum(left, 0), np.maximum(following, 0))
    limit = np.minimum(free, reads).reshape(-1)
    words = kh * kw * chunks
    # With r words read in front of a window, min(max(r, need) + words, limit) are read behind it. In s = r - words * (windows before it) this clamps
    # s between two bounds, and clamps one after the other are a clamp again: a prefix scan by doubling finds them all.
    index = np.arange(need.size, dtype=np.int64) * words
    high = limit - index - words
    low = np.minimum(need - index, high)
    step = 1
    while step < need.size:
        low[step:], high[step:] = np.clip(low[:-step], low[step:], high[step:]), np.clip(high[:-step], low[step:], high[step:])
        step *= 2
    after = np.clip(0, low, high) + index + words
    before = np.concatenate([[0], after[:-1]])
    ready = np.maximum(before, need)
    return WindowTurns(words, ready - before, after - ready, reads - int(after[-1]))
