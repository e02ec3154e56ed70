"""The cycle model of every process: in which turn of its loop it reads and writes which word.

A process is one pipelined loop (a few in a row for Permute) with an initiation interval of one. A *turn* is one iteration; it reads at most one word
of each input and writes at most one word of each output. Which turn does what depends on the shape alone, never on data: a frame is a fixed program.
``docs/schedule.md`` lists the programs; the bounded simulation (``tests/support/bounded.py``) checks every one against the C++ turn by turn.

``latency`` is no property of the C++ but of what the vendor's tool makes of it: cycles from the start of a turn to its write. The numbers here are
assumptions (each is a constant below); they enter the predicted latency and the depth of FIFOs that balance branches, not freedom from deadlock.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod

import numpy as np

from qfx.hardware.design import design as d
from qfx.hardware.timing.window_turns import window_turns

READ_WRITE = 1
"""Cycles that any process spends between reading a word and writing one."""
MEMORY = 2
"""Cycles for the address and the data of a ROM or a line buffer."""
MULTIPLY = 3
"""Cycles of a multiplier: the three registers of a DSP48 (AMD UG579), and as many for one in LUTs."""
EPILOGUE_STEP = 1
"""Cycles of an addition, comparison, shift or cast in an epilogue."""


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """One frame of a process: ``turns`` of its loop.

    ``reads[i][n]`` is the turn that reads word n of input i, ``writes[o][n]`` the turn that writes word n of output o; inputs and outputs in the
    order of ``design.inputs`` and ``design.outputs``, ports left out. The arrays rise strictly and cannot be written to.
    """

    turns: int
    latency: int
    reads: tuple[d.IntArray, ...]
    writes: tuple[d.IntArray, ...]


def cycles(process: d.Process) -> int:
    """The turns of a frame: the least number of cycles between two frames as far as this process goes. Equal to ``program(process).turns``."""
    if isinstance(process, d.FromPort):
        return process.output.words
    if isinstance(process, d.ToPort | d.Fork | d.SliceFrame):
        return _input(process).words
    if isinstance(process, d.Rewidth):
        return max(process.input.words, process.output.words)
    if isinstance(process, d.Window):
        return window_turns(process.shape).turns
    if isinstance(process, d.MatVec):
        return _pixels_turns(process)
    if isinstance(process, d.Pool):
        return process.input.words
    if isinstance(process, d.Permute):
        return process.input.words + process.output.words
    return process.output.words


def program(process: d.Process) -> Program:
    """The program of one frame."""
    turns, reads, writes = _port_turns(process)
    return Program(turns, latency(process), reads, writes)


def latency(process: d.Process) -> int:
    """Cycles from the start of a turn to its write, as assumed above; a sum of N numbers is a tree of ceil(log2(N)) additions, one a cycle."""
    if isinstance(process, d.MatVec):
        tree = 0 if process.depthwise else (process.simd - 1).bit_length()
        return READ_WRITE + MEMORY + MULTIPLY + tree + 1 + _epilogue(process.epilogue)
    if isinstance(process, d.Window | d.Permute | d.Repeat):
        return READ_WRITE + MEMORY
    if isinstance(process, d.Pool):
        return READ_WRITE + 1 + _epilogue(process.epilogue)
    if isinstance(process, d.Pointwise | d.Binary | d.Concat):
        return READ_WRITE + _epilogue(process.epilogue)
    return READ_WRITE


def _epilogue(epilogue: d.Epilogue) -> int:
    return sum(MULTIPLY if step.function == "mul" else EPILOGUE_STEP for step in epilogue.steps)


def _input(process: d.ToPort | d.Fork | d.SliceFrame) -> d.Stream:
    return process.input


def _pixels_turns(process: d.MatVec) -> int:
    if process.depthwise:
        return process.pixels * (process.groups // process.pe) * process.inputs
    return process.pixels * process.groups * (process.outputs // process.pe) * (process.inputs // process.simd)


_Turns = tuple[int, tuple[d.IntArray, ...], tuple[d.IntArray, ...]]


def _port_turns(process: d.Process) -> _Turns:
    """(turns, reads, writes)."""
    if isinstance(process, d.FromPort):
        words = process.output.words
        return words, (), (_every(words), _last(words))
    if isinstance(process, d.ToPort):
        words = process.input.words
        return words, (_every(words), _last(words)), ()
    if isinstance(process, d.Fork):
        every = _every(process.input.words)
        return every.size, (every,), (every, every)
    if isinstance(process, d.Rewidth):
        return _rewidth(process.input.words, process.output.words)
    if isinstance(process, d.Window):
        return _window(process.shape)
    if isinstance(process, d.MatVec):
        if process.depthwise:
            return _reduce(process.pixels * (process.groups // process.pe), process.inputs)
        return _matvec(process.pixels * process.groups, process.outputs // process.pe, process.inputs // process.simd)
    if isinstance(process, d.Pool):
        if process.whole_frame:
            return _tail(process.input.words, process.output.words)
        return _reduce(process.output.words, process.taps)
    if isinstance(process, d.Concat):
        a, b = (channels // process.output.parallel for channels in process.channels)
        return _concat(process.pixels, a, b)
    if isinstance(process, d.Permute):
        return _permute(process.input.words, process.output.words)
    if isinstance(process, d.PadFrame):
        return _pad(process.size, process.result, process.before, process.output.parallel)
    if isinstance(process, d.SliceFrame):
        return _slice(process.size, process.spans, process.output.parallel)
    if isinstance(process, d.Repeat):
        return _repeat(process.size, process.factors, process.output.parallel)
    if isinstance(process, d.Stretch):
        return _stretch(process.size, process.factors, process.output.parallel)
    every = _every(process.output.words)
    return every.size, (every,) * len(d.inputs(process)), (every,)


# What follows depends on numbers alone, and many layers of a network have the same.


def _held(array: d.IntArray) -> d.IntArray:
    array.flags.writeable = False
    return array


@lru_cache(maxsize=64)
def _every(words: int) -> d.IntArray:
    return _held(np.arange(words, dtype=np.int64))


@lru_cache(maxsize=64)
def _last(words: int) -> d.IntArray:
    return _held(np.array([words - 1], dtype=np.int64))


@lru_cache(maxsize=64)
def _rewidth(words_in: int, words_out: int) -> _Turns:
    if words_in >= words_out:
        return _reduce(words_out, words_in // words_out)
    return words_out, (_held(np.arange(0, words_out, words_out // words_in)),), (_every(words_out),)


@lru_cache(maxsize=64)
def _reduce(results: int, taps: int) -> _Turns:
    """A result after every ``taps`` words."""
    turns = results * taps
    return turns, (_every(turns),), (_held(np.arange(taps - 1, turns, taps)),)


@lru_cache(maxsize=64)
def _tail(words_in: int, words_out: int) -> _Turns:
    """Results while the last ``words_out`` words come."""
    return words_in, (_every(words_in),), (_held(np.arange(words_in - words_out, words_in)),)


@lru_cache(maxsize=64)
def _matvec(vectors: int, output_fold: int, input_fold: int) -> _Turns:
    turns = _every(vectors * output_fold * input_fold).reshape(vectors, output_fold, input_fold)
    return turns.size, (_held(turns[:, 0, :].flatten()),), (_held(turns[:, :, -1].flatten()),)


@lru_cache(maxsize=64)
def _concat(pixels: int, a: int, b: int) -> _Turns:
    turns = _every(pixels * (a + b)).reshape(pixels, a + b)
    return turns.size, (_held(turns[:, :a].flatten()), _held(turns[:, a:].flatten())), (_every(turns.size),)


@lru_cache(maxsize=64)
def _permute(words_in: int, words_out: int) -> _Turns:
    return words_in + words_out, (_every(words_in),), (_held(np.arange(words_in, words_in + words_out)),)


@lru_cache(maxsize=64)
def _pad(size: tuple[int, int, int], result: tuple[int, int, int], before: tuple[int, int, int], parallel: int) -> _Turns:
    grid = _every(prod(result) // parallel).reshape(result[0], result[1], result[2] // parallel)
    first = before[2] // parallel
    y, x = before[0], before[1]
    inside = grid[y : y + size[0], x : x + size[1], first : first + size[2] // parallel]
    return grid.size, (_held(inside.flatten()),), (_every(grid.size),)


@lru_cache(maxsize=64)
def _slice(size: tuple[int, int, int], spans: tuple[tuple[int, int, int], ...], parallel: int) -> _Turns:
    grid = _every(prod(size) // parallel).reshape(size[0], size[1], size[2] // parallel)
    rows, columns, (start, stop, step) = slice(*spans[0]), slice(*spans[1]), spans[2]
    channels = slice(start, stop, step) if parallel == 1 else slice(start // parallel, -(-stop // parallel))
    return grid.size, (_every(grid.size),), (_held(grid[rows, columns, channels].flatten()),)


@lru_cache(maxsize=64)
def _repeat(size: tuple[int, int, int], factors: tuple[int, int], parallel: int) -> _Turns:
    """A pixel is read when its first copy leaves; the further rows come from a buffer of one row."""
    height, width, channels = size
    grid = _every(prod(size) * prod(factors) // parallel).reshape(height, factors[0], width, factors[1], channels // parallel)
    return grid.size, (_held(grid[:, 0, :, 0].flatten()),), (_every(grid.size),)


@lru_cache(maxsize=64)
def _stretch(size: tuple[int, int, int], factors: tuple[int, int], parallel: int) -> _Turns:
    height, width, channels = (size[0] - 1) * factors[0] + 1, (size[1] - 1) * factors[1] + 1, size[2] // parallel
    grid = _every(height * width * channels).reshape(height, width, channels)
    return grid.size, (_held(grid[:: factors[0], :: factors[1]].flatten()),), (_every(grid.size),)


@lru_cache(maxsize=32)
def _window(shape: tuple[int, ...]) -> _Turns:
    found = window_turns(shape)
    read_only, both = found.read_only, found.both
    begin = np.cumsum(read_only + found.words) - found.words  # the turn of each window's first write
    writes = (begin[:, None] + np.arange(found.words)[None, :]).reshape(-1)
    # The reads of a window are the turns before its first write and the first of its writes: one run of turns.
    runs = read_only + both
    reads = np.repeat(begin - read_only - (np.cumsum(runs) - runs), runs) + np.arange(int(runs.sum()))
    end = int(begin[-1]) + found.words
    return found.turns, (_held(np.concatenate([reads, np.arange(end, end + found.rest)])),), (_held(writes),)
