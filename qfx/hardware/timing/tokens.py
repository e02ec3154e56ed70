"""The simulation of tokens in C++, ``tokens.cpp``: the same turns as in Python, where there is a compiler."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from qfx.fixed import native_build
from qfx.hardware.design.streams import IntArray

_SLOW = "simulating a design takes up to 100 times as long"


@dataclass(frozen=True, slots=True, eq=False)
class Turns:
    """Of one process the turns of a frame that read or write: ``gaps`` between them, ``codes`` of the ports (bit i for input i, bit 8 + o for output
    o). ``ins`` and ``outs``: its FIFOs by number. Words leave ``latency`` cycles after a turn's start; ``restart``: cycles from the last turn of a
    frame to the first of the next."""

    gaps: npt.NDArray[np.int32]
    codes: npt.NDArray[np.uint16]
    latency: int
    restart: int
    ins: Sequence[int]
    outs: Sequence[int]


def run(processes: Sequence[Turns], depths: Sequence[int], frames: int) -> tuple[list[IntArray], list[int]] | None:
    """For each process the cycles in which its turns start, those of all frames one after the other, as far as it comes; and the port that it waits
    for in the end, -1 if for none. None if there is no compiler for it, or no memory."""
    entry = _entry()
    if entry is None:
        return None
    events = np.array([turns.gaps.size for turns in processes], dtype=np.int64)
    starts, waits = np.zeros(int(events.sum()) * frames, dtype=np.int64), np.zeros(len(processes), dtype=np.int64)
    whole = (
        events,
        np.array([turns.latency for turns in processes], dtype=np.int64),
        np.array([turns.restart for turns in processes], dtype=np.int64),
        np.array([turns.gaps.ctypes.data for turns in processes], dtype=np.uintp),
        np.array([turns.codes.ctypes.data for turns in processes], dtype=np.uintp),
        np.array([len(turns.ins) for turns in processes], dtype=np.int64),
        np.array([len(turns.outs) for turns in processes], dtype=np.int64),
        np.array([number for turns in processes for number in (*turns.ins, *turns.outs)], dtype=np.int64),
    )
    deep = np.array(depths, dtype=np.int64)
    addresses = [array.ctypes.data for array in whole]
    if not entry(len(processes), frames, *addresses, len(depths), deep.ctypes.data, starts.ctypes.data, waits.ctypes.data):
        return None
    return np.split(starts, np.cumsum(events[:-1] * frames)), waits.tolist()


@lru_cache(maxsize=1)
def _entry() -> Callable[..., int] | None:
    library = native_build.library_of_one_thread(Path(__file__).with_name("tokens.cpp"), f"{native_build.SAME_NUMBERS}, but {_SLOW}")
    if library is None:
        return None
    p, i = ctypes.c_void_p, ctypes.c_int64
    library.qfx_tokens.argtypes = (i, i, p, p, p, p, p, p, p, p, i, p, p, p)
    return cast(Callable[..., int], library.qfx_tokens)
