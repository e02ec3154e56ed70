"""Timed simulation of a design's tokens: when every process takes its turns if every FIFO has its depth. No data, no synthesis.

Model, cycle by cycle (docs/schedule.md says what is assumed and why it is the safe side):

- A turn is atomic: it starts when the turn before it started at least one cycle ago, all words that it reads have arrived, and all FIFOs that it
  writes have room by the time its write is due. Nothing is read or written by half.
- A turn that starts in cycle t reads in cycle t and writes in cycle t + latency. A word can be read from the cycle after its write, and its place be
  written from the cycle after its read.
- Between the last turn of a frame and the first of the next, a process pauses: REWIND cycles, or, where its loop is not all that it does, latency +
  RESTART, in which its pipeline runs empty.
- An input port always has a word and an output port always takes one, whatever the others do; frames follow each other without a pause.

When a turn takes place depends only on turns that it needs, so the order in which processes are simulated does not matter, and a design that stops
in one order stops in all of them.

The generators below are the definition; ``tokens.cpp`` does the same where there is a compiler.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qfx.errors import ProjectError
from qfx.hardware.design import design as d
from qfx.hardware.timing import tokens
from qfx.hardware.timing.program import RESTART as RESTART  # part of this module's vocabulary
from qfx.hardware.timing.program import Program

MAX_WORDS = 40_000_000
"""Words a frame, over all FIFOs, beyond which a simulation is refused: some ten seconds and 3 GiB, without a compiler many minutes."""

_EFFORT = 150_000  # words: a fraction of a second


@dataclass(frozen=True, slots=True)
class Wait:
    """A process that cannot go on: ``stream`` is "empty" (it waits for ``other`` to write) or "full" (for ``other`` to read)."""

    process: str
    stream: str
    state: str
    other: str

    def __str__(self) -> str:
        return f"{self.process} waits for {self.other}: {self.stream} is {self.state}"


class DeadlockError(ProjectError):
    """The design stops for good. ``waits``: every process that cannot go on; ``circle``: those of them that wait for each other in a ring."""

    waits: tuple[Wait, ...]
    circle: tuple[Wait, ...]

    def __init__(self, waits: Sequence[Wait], circle: Sequence[Wait], where: str = "") -> None:
        self.waits, self.circle = tuple(waits), tuple(circle)
        full = [wait.stream for wait in self.circle if wait.state == "full"]
        super().__init__(
            "the design deadlocks: " + "; ".join(map(str, self.circle)), where=where, remedy=f"make {' or '.join(full) or 'a FIFO'} deeper"
        )


@dataclass(frozen=True, slots=True)
class ProcessTiming:
    """``turns`` a frame; ``busy``: cycles of one that never waits (turns and pause); ``stall``: cycles that it waits in the last frame."""

    name: str
    turns: int
    latency: int
    busy: int
    stall: int


@dataclass(frozen=True, slots=True)
class Timing:
    """``interval``: cycles from frame to frame, of the last two frames simulated; ``steady``: the two before them were as far apart. Of a design with
    a batch a frame is here all frames of a call.

    ``latency``: cycles from reading the first word of the first frame until its last word has left. ``peaks``: the most words that each FIFO held, in
    the order of the design's streams; 0 of those that were not asked for.
    """

    interval: int
    steady: bool
    latency: int
    frames: int
    processes: tuple[ProcessTiming, ...]
    peaks: tuple[int, ...]

    @property
    def bottleneck(self) -> ProcessTiming:
        """The process that takes most cycles a frame: no FIFO makes the interval shorter."""
        return max(self.processes, key=lambda process: process.busy)

    def frames_per_second(self, clock_ns: float) -> float:
        return 1e9 / (self.interval * clock_ns)


def words(design: d.Design) -> int:
    """Words a call, over all FIFOs: what a simulation costs."""
    return sum(map(design.words, design.streams))


def simulate(
    design: d.Design,
    frames: int | None = None,
    *,
    depths: Mapping[str, int] | None = None,
    known: Ready | None = None,
    peaks_of: Collection[str] | None = None,
) -> Timing:
    """Run ``frames`` frames (at least 2; default: 3, more if they are small) through the design; ``depths`` overrides depths by stream name.
    ``known``: ``ready`` of the design, or of one that has other depths. ``peaks_of``: the FIFOs whose peaks are asked for (default: all).

    Raises DeadlockError if the design stops, ProjectError if its frame is longer than MAX_WORDS.
    """
    total = words(design)
    if total > MAX_WORDS:
        raise ProjectError(
            f"a frame moves {total} words, too many to simulate (at most {MAX_WORDS})",
            where="schedule",
            remedy="fold less (raise PE and SIMD: fewer, wider words), or rely on the analysis alone",
        )
    count = max(2, frames) if frames is not None else min(max(3, _EFFORT // total), 16)
    return _Simulation(design, count, dict(depths or {}), known).run(peaks_of)


@dataclass(frozen=True, slots=True, eq=False)
class Alone:
    """One frame that nothing waits for: of each process the cycles in which its turns start that read or write (``starts``), the ``cycles`` until all
    are done and can start again, and the most words that each FIFO held (``peaks``): as deep, it runs just the same."""

    starts: tuple[d.IntArray, ...]
    cycles: int
    peaks: Mapping[str, int]


def alone(design: d.Design) -> Alone:
    """One frame of the design. Raises DeadlockError if it stops."""
    run = _Simulation(design, 1, {})
    run.advance()
    starts = tuple(run.starts)
    wrote: dict[str, d.IntArray] = {}
    read: dict[str, d.IntArray] = {}
    for process, plan, program_, at in zip(design.processes, run.plans, run.programs, starts, strict=True):
        read.update({stream.name: at[events] for stream, events in zip(process.sources, plan.read_at, strict=True)})
        wrote.update({stream.name: at[events] + program_.latency for stream, events in zip(process.targets, plan.write_at, strict=True)})
    cycles = max(int(times[-1]) + plan.end for times, plan in zip(starts, run.plans, strict=True))
    return Alone(starts, cycles, {name: _peak(wrote[name], read[name]) for name in wrote})


@dataclass(frozen=True, slots=True)
class Course:
    """When a process works on each of the frames simulated: (cycle in which its first turn starts, cycle in which its last turn is done)."""

    name: str
    frames: tuple[tuple[int, int], ...]


def course(design: d.Design, frames: int) -> tuple[Course, ...]:
    """The first ``frames`` frames through the design, in the order of its processes. Raises as ``simulate``."""
    if (total := words(design)) > MAX_WORDS:
        raise ProjectError(f"a frame moves {total} words, too many to simulate", where="schedule", remedy="fold less (raise PE and SIMD)")
    run = _Simulation(design, frames, {})
    run.advance()
    found = []
    for process, plan, at in zip(design.processes, run.plans, run.starts, strict=True):
        times = at.reshape(frames, -1)
        end = plan.end - RESTART
        found.append(Course(process.name, tuple((int(row[0]), int(row[-1]) + end) for row in times)))
    return tuple(found)


@dataclass(slots=True)
class _Fifo:
    """``arrived``: cycles from which the words that wait can be read. ``free``: cycles from which the places that are free can be written."""

    arrived: deque[int]
    free: deque[int]


class _Plan:
    """The turns of a program that read or write: ``gaps`` between them and ``codes``, the ports: bit i for input i, bit 8 + o for output o."""

    def __init__(self, program_: Program) -> None:
        turns, self.read_at, self.write_at = program_.events()
        codes = np.zeros(turns.size, dtype=np.uint16)
        for i, at in enumerate(self.read_at):
            codes[at] |= 1 << i
        for o, at in enumerate(self.write_at):
            codes[at] |= 256 << o
        self.codes = codes
        self.gaps = np.diff(turns, prepend=0).astype(np.int32)
        self.restart = program_.turns - int(turns[-1]) + program_.pause
        self.end = program_.turns - int(turns[-1]) + program_.latency + RESTART


@dataclass(frozen=True, slots=True, eq=False)
class Ready:
    """What a simulation knows of a design's processes, whatever the depths of its FIFOs."""

    programs: tuple[Program, ...]
    plans: tuple[_Plan, ...]


def ready(design: d.Design) -> Ready:
    """That of ``design``, for who simulates it with several depths. Processes of one shape share what they are."""
    programs = tuple(map(design.program, design.processes))  # which keep the arrays that are told apart by their places in memory
    alike: dict[tuple[int, ...], _Plan] = {}
    plans = []
    for one in programs:
        key = (one.turns, one.latency, one.pause, len(one.reads), *(id(turns) for turns in (*one.reads, *one.writes)))
        if key not in alike:
            alike[key] = _Plan(one)
        plans.append(alike[key])
    return Ready(programs, tuple(plans))


class _Simulation:
    """``starts``: of each process the cycles in which its turns start, one frame after the other."""

    def __init__(self, design: d.Design, frames: int, depths: dict[str, int], known: Ready | None = None) -> None:
        self.design, self.frames = design, frames
        found = ready(design) if known is None else known
        self.programs, self.plans = found.programs, found.plans
        self.depths = {stream.name: min(depths.get(stream.name, stream.depth), design.words(stream) * frames) for stream in design.streams}
        self.starts: list[d.IntArray] = []

    def run(self, peaks_of: Collection[str] | None) -> Timing:
        self.advance()
        return self._timing(peaks_of)

    def advance(self) -> None:
        """All turns of all frames. Raises DeadlockError where they stop."""
        self.starts, waits = self._compiled() or self._interpreted()
        if any(wait != _DONE for wait in waits):
            raise deadlock(self.design, waits)

    def _compiled(self) -> tuple[list[d.IntArray], list[int]] | None:
        number = {name: i for i, name in enumerate(self.depths)}
        processes = [
            tokens.Turns(
                plan.gaps,
                plan.codes,
                program_.latency,
                plan.restart,
                [number[stream.name] for stream in process.sources],
                [number[stream.name] for stream in process.targets],
            )
            for process, plan, program_ in zip(self.design.processes, self.plans, self.programs, strict=True)
        ]
        return tokens.run(processes, list(self.depths.values()), self.frames)

    def _interpreted(self) -> tuple[list[d.IntArray], list[int]]:
        fifos = {name: _Fifo(deque(), deque([0]) * depth) for name, depth in self.depths.items()}
        starts = [array("q") for _ in self.plans]
        runs = [self._process(index, fifos, starts[index]) for index in range(len(self.plans))]
        near = neighbours(self.design)
        ready = deque(range(len(runs)))
        queued = [True] * len(runs)
        waits = [0] * len(runs)
        while ready:
            index = ready.popleft()
            queued[index] = False
            before = len(starts[index])
            waits[index] = next(runs[index], _DONE)
            if len(starts[index]) != before:
                for other in near[index]:
                    if not queued[other]:
                        queued[other] = True
                        ready.append(other)
        return [np.frombuffer(times, dtype=np.int64) if times else np.zeros(0, dtype=np.int64) for times in starts], waits

    def _process(self, index: int, fifos: Mapping[str, _Fifo], starts: array[int]) -> Iterator[int]:
        process, plan, program_ = self.design.processes[index], self.plans[index], self.programs[index]
        ins = [fifos[stream.name] for stream in process.sources]
        outs = [fifos[stream.name] for stream in process.targets]
        gaps, codes = plan.gaps.tolist(), plan.codes.tolist()
        if len(ins) == len(outs) == 1:
            return _one_to_one(gaps, codes, plan.restart, self.frames, program_.latency, ins[0], outs[0], starts)
        return _many(gaps, codes, plan.restart, self.frames, program_.latency, ins, outs, starts)

    def _timing(self, peaks_of: Collection[str] | None) -> Timing:
        frames, processes = self.frames, self.design.processes
        times = [starts.reshape(frames, -1) for starts in self.starts]
        wrote = {stream.name: (i, o) for i, process in enumerate(processes) for o, stream in enumerate(process.targets)}
        read = {stream.name: (i, o) for i, process in enumerate(processes) for o, stream in enumerate(process.sources)}
        rows = []
        for process, program_, at in zip(processes, self.programs, times, strict=True):
            busy = program_.turns + program_.pause
            period = int(at[-1, -1] - at[-2, -1])
            rows.append(ProcessTiming(process.name, program_.turns, program_.latency, busy, period - busy))
        # A place is taken from the cycle of its word's write to that of its read. One FIFO after the other: all together take memory.
        peaks = []
        for stream in self.design.streams:
            if peaks_of is not None and stream.name not in peaks_of:
                peaks.append(0)
                continue
            (writer, target), (reader, source) = wrote[stream.name], read[stream.name]
            came = times[writer][:, self.plans[writer].write_at[target]].ravel() + self.programs[writer].latency
            peaks.append(_peak(came, times[reader][:, self.plans[reader].read_at[source]].ravel()))
        exits = _exits(self.design)
        last = np.max([times[index][:, -1] for index in exits], axis=0)  # the frame has left when its last output has
        gaps = np.diff(last)
        first = int(times[0][0, 0])
        done = max(int(times[index][0, -1]) + self.programs[index].latency for index in exits)
        return Timing(int(gaps[-1]), gaps.size > 1 and bool(gaps[-1] == gaps[-2]), done - first + 1, frames, tuple(rows), tuple(peaks))


def _peak(wrote: d.IntArray, read: d.IntArray) -> int:
    gone = np.searchsorted(read, wrote, side="left")  # words read in cycles before the write
    return int((np.arange(1, wrote.size + 1) - gone).max())


_DONE = -1
_FULL = 8


def _one_to_one(
    gaps: list[int], codes: list[int], restart: int, frames: int, latency: int, source: _Fifo, target: _Fifo, starts: array[int]
) -> Iterator[int]:
    """One input, one output: nearly all words of a network pass here. Yields the port that it waits for whenever it cannot go on."""
    arrived, take, release = source.arrived, source.arrived.popleft, source.free.append
    free, reserve, send = target.free, target.free.popleft, target.arrived.append
    record = starts.append
    flight = latency + 1
    start = 0
    for frame in range(frames):
        start += restart if frame else 0
        for gap, code in zip(gaps, codes, strict=True):
            start += gap
            if code == 1:
                while not arrived:
                    yield 0
                ready = take()
                if ready > start:
                    start = ready
                release(start + 1)
            elif code == 256:
                while not free:
                    yield _FULL
                ready = reserve() - latency
                if ready > start:
                    start = ready
                send(start + flight)
            else:
                while not arrived:
                    yield 0
                while not free:
                    yield _FULL
                ready = take()
                if ready > start:
                    start = ready
                ready = reserve() - latency
                if ready > start:
                    start = ready
                release(start + 1)
                send(start + flight)
            record(start)


def _many(
    gaps: list[int], codes: list[int], restart: int, frames: int, latency: int, ins: list[_Fifo], outs: list[_Fifo], starts: array[int]
) -> Iterator[int]:
    """Any number of inputs and outputs."""
    parts = {code: ([i for i in range(len(ins)) if code >> i & 1], [o for o in range(len(outs)) if code >> (8 + o) & 1]) for code in set(codes)}
    start = 0
    for frame in range(frames):
        start += restart if frame else 0
        for gap, code in zip(gaps, codes, strict=True):
            start += gap
            reads, writes = parts[code]
            for i in reads:
                while not ins[i].arrived:
                    yield i
            for o in writes:
                while not outs[o].free:
                    yield _FULL + o
            for i in reads:
                start = max(start, ins[i].arrived.popleft())
            for o in writes:
                start = max(start, outs[o].free.popleft() - latency)
            for i in reads:
                ins[i].free.append(start + 1)
            for o in writes:
                outs[o].arrived.append(start + latency + 1)
            starts.append(start)


def ends(design: d.Design) -> tuple[dict[str, int], dict[str, int]]:
    """The index of the process that writes, and of the one that reads, each stream by name."""
    writers = {stream.name: i for i, process in enumerate(design.processes) for stream in process.targets}
    readers = {stream.name: i for i, process in enumerate(design.processes) for stream in process.sources}
    return writers, readers


def neighbours(design: d.Design) -> tuple[tuple[int, ...], ...]:
    """For each process the indices of those that it shares a FIFO with."""
    writers, readers = ends(design)
    near: list[set[int]] = [set() for _ in design.processes]
    for name, writer in writers.items():
        near[writer].add(readers[name])
        near[readers[name]].add(writer)
    return tuple(tuple(sorted(found)) for found in near)


def deadlock(design: d.Design, waits: Sequence[int]) -> DeadlockError:
    """The error for processes that all wait: ``waits[i]`` is the input (0, 1) or the output (8, 9) that process i waits for, -1 if it has ended."""
    writers, readers = ends(design)
    found: dict[int, Wait] = {}
    follows: dict[int, int] = {}
    for index, wait in enumerate(waits):
        if wait == _DONE:
            continue
        process = design.processes[index]
        full = wait >= _FULL
        stream = (process.targets[wait - _FULL] if full else process.sources[wait]).name
        follows[index] = readers[stream] if full else writers[stream]
        found[index] = Wait(process.name, stream, "full" if full else "empty", design.processes[follows[index]].name)
    path: list[int] = []
    index = min(found)
    while index not in path:
        path.append(index)
        index = follows[index]
    return DeadlockError(tuple(found.values()), [found[i] for i in path[path.index(index) :]], "schedule")


def _exits(design: d.Design) -> list[int]:
    """The indices of the processes that write the output ports."""
    return [i for i, process in enumerate(design.processes) if not process.targets]
