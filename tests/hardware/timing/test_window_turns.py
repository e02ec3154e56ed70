"""The turns of the window unit, window by window, against a model that goes turn by turn and pixel by pixel."""

from __future__ import annotations

import time

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from qfx.hardware.timing.window_turns import window_turns


def turn_by_turn(shape: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """The turns that read and those that write."""
    chunks, _, h, w, oh, ow, kh, kw, sh, sw, pad_top, pad_left, dh, dw = shape
    rows = (kh - 1) * dh + 1
    reads: list[int] = []
    writes: list[int] = []
    turn = y = x = chunk = 0
    for top in range(-pad_top, oh * sh - pad_top, sh):
        for left in range(-pad_left, ow * sw - pad_left, sw):
            last_y, last_x = min(top + rows - 1, h - 1), min(left + (kw - 1) * dw, w - 1)
            left_to_write = kh * kw * chunks
            while left_to_write:
                missing = y < last_y or (y == last_y and x <= last_x)
                free = y < h and (y - rows < top or (y - rows < top + sh and x < left))
                if missing or free:
                    reads.append(turn)
                    chunk = (chunk + 1) % chunks
                    if chunk == 0:
                        x = (x + 1) % w
                        y += x == 0
                if not missing:
                    writes.append(turn)
                    left_to_write -= 1
                turn += 1
    reads.extend(range(turn, turn + h * w * chunks - len(reads)))
    return reads, writes


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, ...]:
    def few(low: int, high: int) -> int:
        return draw(st.integers(low, high))

    chunks, h, w, kh, kw, sh, sw, dh, dw = few(1, 3), few(1, 7), few(1, 7), few(1, 4), few(1, 4), few(1, 5), few(1, 5), few(1, 3), few(1, 3)
    top, left = few(0, 6), few(0, 6)
    reach_y, reach_x = (kh - 1) * dh + 1, (kw - 1) * dw + 1
    oh = (max(h + top + few(0, 6), reach_y) - reach_y) // sh + 1
    ow = (max(w + left + few(0, 6), reach_x) - reach_x) // sw + 1
    return (chunks, 1, h, w, oh, ow, kh, kw, sh, sw, top, left, dh, dw)


@given(shape=shapes())
def test_against_the_model(shape: tuple[int, ...]) -> None:
    found = window_turns(shape)
    reads, writes = turn_by_turn(shape)
    assert found.turns == max(reads[-1], writes[-1]) + 1
    turn, expected_reads, expected_writes = 0, [], []
    for read_only, both in zip(found.read_only.tolist(), found.both.tolist(), strict=True):
        expected_reads.extend(range(turn, turn + read_only + both))
        expected_writes.extend(range(turn + read_only, turn + read_only + found.words))
        turn += read_only + found.words
    expected_reads.extend(range(turn, turn + found.rest))
    assert reads == expected_reads
    assert writes == expected_writes


@pytest.mark.parametrize(
    ("shape", "turns"),
    [
        # 32 x 32, 3 x 3, padded: a row and two pixels before the first window, then 9 words a pixel, during which the rest comes
        ((1, 1, 32, 32, 32, 32, 3, 3, 1, 1, 1, 1, 1, 1), 34 + 32 * 32 * 9),
        # 1 x 1 with stride 2: as many turns as pixels; each of the four that are written leaves while the next comes
        ((1, 1, 4, 4, 2, 2, 1, 1, 2, 2, 0, 0, 1, 1), 16),
    ],
)
def test_turns(shape: tuple[int, ...], turns: int) -> None:
    assert window_turns(shape).turns == turns


def test_a_large_frame_takes_milliseconds() -> None:
    shape = (64, 1, 224, 224, 224, 224, 3, 3, 1, 1, 1, 1, 1, 1)
    begin = time.perf_counter()
    found = window_turns.__wrapped__(shape)
    assert time.perf_counter() - begin < 1
    assert found.turns == 64 * (226 + 224 * 224 * 9)
    assert found.both.dtype == np.int64
