"""The cycles of a design of pipelined modules, exactly: ``simulate`` with pipelines that take turns while their last one waits.

The cycle model begins a turn no earlier than its word can leave, since it knows when that will be. A pipeline does not know: it takes turns until it
is full. With L stages behind the first, turn n begins in cycle a(n) and leaves in w(n):

    a(n) = max(a(n-1) + 1, all words that it reads are there, w(n-L))
    w(n) = max(a(n) + L, w(n-1) + 1, all places that it writes are free)

So words never leave later than in the model, and earlier only where FIFOs are full. All else is as in ``simulate``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping

import numpy as np

from qfx.errors import ProjectError
from qfx.hardware.design import design as d
from qfx.hardware.timing.program import Program
from qfx.hardware.timing.simulate import neighbours

MOST_TURNS = 20_000_000
"""Turns of all processes and frames beyond which nothing is worked out: some ten seconds."""


def cycles(design: d.Design, latencies: Mapping[str, int], frames: int) -> tuple[int, int]:
    """Latency and interval of ``frames`` frames back to back, as ``simulate`` counts them; (0, 0) where that would take too long. ``latencies``: the
    stages behind the first of each process, 0 if it is not named. Raises ProjectError if the design stops."""
    programs = [process.program for process in design.processes]
    if frames * sum(program.turns for program in programs) > MOST_TURNS:
        return 0, 0
    arrived: dict[str, deque[int]] = {stream.name: deque() for stream in design.streams}
    free = {stream.name: deque([-1] * min(stream.depth, stream.words * frames)) for stream in design.streams}
    seen: list[list[tuple[int, int]]] = [[] for _ in programs]
    runs = []
    for process, program, ends in zip(design.processes, programs, seen, strict=True):
        queues = [arrived[one.name] for one in process.sources], [free[one.name] for one in process.targets]
        others = [free[one.name] for one in process.sources], [arrived[one.name] for one in process.targets]
        runs.append(_turns(program, latencies.get(process.name, 0), frames, *queues, *others, ends))
    near = neighbours(design)
    waiting, queued, ended = deque(range(len(runs))), [True] * len(runs), [False] * len(runs)
    while waiting:
        index = waiting.popleft()
        queued[index] = False
        moved = next(runs[index], None)
        ended[index] = moved is None
        if moved != 0:
            for other in near[index]:
                if not queued[other] and not ended[other]:
                    queued[other] = True
                    waiting.append(other)
    if not all(ended):
        stuck = next(process.name for process, done in zip(design.processes, ended, strict=True) if not done)
        raise ProjectError("the design stops", where=stuck, remedy="please report it")
    exits = [index for index, process in enumerate(design.processes) if not process.targets]
    last = [max(seen[index][frame][1] for index in exits) for frame in range(frames)]
    return last[0] - seen[0][0][0] + 1, last[-1] - last[-2] if frames > 1 else 0


def _turns(
    program: Program,
    latency: int,
    frames: int,
    come: list[deque[int]],
    room: list[deque[int]],
    release: list[deque[int]],
    send: list[deque[int]],
    ends: list[tuple[int, int]],
) -> Iterator[int]:
    """Yields the turns since it last waited, whenever it waits. ``ends``: of each frame when the first turn that moves a word begins, and when the
    last one leaves."""
    codes = np.zeros(program.turns, dtype=np.uint16)
    for place, turns in enumerate(program.reads):
        codes[turns] |= 1 << place
    for place, turns in enumerate(program.writes):
        codes[turns] |= 256 << place
    parts = {int(code): ([i for i in range(8) if code >> i & 1], [o for o in range(8) if code >> (8 + o) & 1]) for code in np.unique(codes)}
    acting = np.flatnonzero(codes)
    opening, closing = int(acting[0]), int(acting[-1])
    full = deque([-1] * latency)
    begun = gone = -2
    moved = 0
    for frame in range(frames):
        gap = program.pause if frame else 1
        first = last = 0
        for turn, code in enumerate([0, *codes.tolist()], -1):  # first the beginning of the frame, which is no turn
            reads, writes = parts[code] if code else ((), ())
            begin = begun + gap
            gap = 1
            for place in reads:
                while not come[place]:
                    yield moved
                    moved = 0
                begin = max(begin, come[place].popleft())
            if latency:
                begin = max(begin, full.popleft())
            leave = max(begin + latency, gone + 1)
            for place in writes:
                while not room[place]:
                    yield moved
                    moved = 0
                leave = max(leave, room[place].popleft())
            if latency:
                full.append(leave)
            else:
                begin = leave
            for place in reads:
                release[place].append(begin + 1)
            for place in writes:
                send[place].append(leave + 1)
            begun, gone = begin, leave
            moved += bool(code)
            if turn == opening:
                first = begin
            if turn == closing:
                last = leave
        ends.append((first, last))
