"""Bounded simulation: the generated C++ with FIFOs that have their depth and block, each process in a fiber of its own.

C simulation runs the processes one after the other over FIFOs without bounds; it says what a design computes, not whether it can run. Here every
process runs beside the others, as in hardware, and stops when its FIFO is full or empty. The harness (``hls/sim/bounded``) counts the turns and logs
in which turn each word is read and written: what the process's ``program`` says it must be. Constants that are loaded come before the first frame.
"""

from __future__ import annotations

import math
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from qfx.errors import ProjectError
from qfx.fixed.type import FixedType
from qfx.hardware.assets import hls_root, simulation_headers
from qfx.hardware.design import design as d
from qfx.hardware.design import loading
from qfx.hardware.design.build import port
from qfx.hardware.emit import cpp
from qfx.hardware.emit.emit import CSIM_FLAGS, emit_sources
from qfx.hardware.emit.emulate import numbers, offsets
from qfx.hardware.emit.templates import render
from qfx.hardware.project.compile import compile_cpp
from qfx.hardware.timing.program import repeated
from qfx.hardware.timing.simulate import deadlock
from qfx.ir.values import RawArray

_DEADLOCK = 3  # the harness's exit status
_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True, eq=False)
class Ports:
    """Of one process and one frame: its turns, and those in which it read each word of each input and wrote each of each output."""

    turns: int
    reads: tuple[d.IntArray, ...]
    writes: tuple[d.IntArray, ...]


@dataclass(frozen=True, slots=True, eq=False)
class BoundedRun:
    """``outputs``: the raws (N, *output shape) of each; ``peaks``: the most words that each FIFO held, in the order of the design's streams
    (fibers run
    ahead as far as they can, so this is often the depth, and never more); ``ports``: per process, then per frame, or all
    frames of a call."""

    outputs: tuple[RawArray, ...]
    peaks: tuple[int, ...]
    ports: tuple[tuple[Ports, ...], ...]

    @property
    def y_raw(self) -> RawArray:
        """The raws of the only output."""
        (only,) = self.outputs
        return only


@dataclass(frozen=True, slots=True)
class BoundedBundle:
    """Several designs in one executable. Made by ``build``."""

    executable: Path
    designs: tuple[d.Design, ...]

    def run(self, index: int, x_raw: RawArray, depths: Mapping[str, int] | None = None, *, stalls: int = 0) -> BoundedRun:
        """Run design ``index`` on raws (N, *input shape), of several inputs put together,
        frames back to back; ``depths`` overrides depths by stream name. ``stalls``: 0, or the seed of what holds up reads of memory.

        Raises DeadlockError if it stops, ProjectError if the harness fails or words are left in a FIFO.
        """
        design = self.designs[index]
        chosen = {stream.name: stream.built for stream in design.streams} | _loader_depths(design) | dict(depths or {})
        with tempfile.TemporaryDirectory(prefix="qfx_bounded_") as folder:
            source, result, report, table = (Path(folder) / name for name in ("in.bin", "out.bin", "report", "depths"))
            source.write_bytes(np.ascontiguousarray(x_raw, dtype="<i8").tobytes())
            table.write_text("".join(f"{name} {depth}\n" for name, depth in chosen.items()), encoding="utf-8")
            constants = Path(folder) / "weights.bin"
            constants.write_bytes(b"" if design.loader is None else loading.words(design))
            for master in design.weights_in_memory:
                (Path(folder) / f"{master.port}.bin").write_bytes(master.contents)
            command = [str(self.executable), str(index), *map(str, (table, source, result, report, constants, stalls))]
            environment = dict(os.environ) | {"QFX_MEMORY": folder}
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S, env=environment)
            complaint = (done.stdout + done.stderr).strip()
            if done.returncode not in (0, _DEADLOCK) or complaint:
                raise _failed(f"the harness ended with status {done.returncode}: {complaint}", self.executable)
            found = _Report(report.read_text(encoding="utf-8"))
            if done.returncode == _DEADLOCK:
                raise deadlock(design, [_waits(process, *found.processes[process.name][:2]) for process in design.processes])
            left = [name for name, (_, left) in found.streams.items() if left and name not in [wire.name for wire in design.wires[1]]]
            if left:
                raise _failed(f"words are left in {', '.join(left)}", self.executable)
            flat = np.frombuffer(result.read_bytes(), dtype="<i8").astype(np.int64)
        ports = tuple(found.ports(process, len(x_raw) // design.batch) for process in design.processes)
        cuts = np.cumsum([len(x_raw) * math.prod(port.shape) for port in design.outputs])[:-1]
        outputs = tuple(part.reshape(len(x_raw), *port.shape) for part, port in zip(np.split(flat, cuts), design.outputs, strict=True))
        return BoundedRun(outputs, tuple(found.streams[stream.name][0] for stream in design.streams), ports)


def build(designs: Sequence[d.Design], folder: Path, *, flags: Sequence[str] = ()) -> BoundedBundle:
    """Compile the designs with the harness into one executable in ``folder``; ``flags`` are added to CSIM_FLAGS.

    Raises ProjectError if g++ is missing or refuses the source.
    """
    entries = []
    for i, design in enumerate(designs):
        top = f"bounded_{i}"
        for path, text in emit_sources(design, top).items():
            place = folder / top / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text, encoding="utf-8")
        entry: dict[str, object] = {"top": top, "design": design, "units": cpp.units(design, ("in", "out")), "flags": cpp.flags_stream(), "words": ""}
        entry["slow"] = [master.name for master in design.masters]
        entry["in_frame"] = numbers(design.inputs)
        entry["in_places"] = [(at, at + numbers([port])) for at, port in zip(offsets(design.inputs), design.inputs, strict=True)]
        entries.append(entry if design.loader is None else {**entry, "words": cpp.words_stream(design.loader.port.slot)})
    main = folder / "bounded.cpp"
    main.write_text(render("bounded.cpp.j2", {"designs": entries, "stream": cpp.stream}), encoding="utf-8")
    hls = hls_root()
    # Ours in front of the vendor's: one hls_stream.h hides the other.
    includes = ("-isystem", str(hls / "sim" / "bounded"), *simulation_headers(), "-isystem", str(hls / "sim" / "emulate"))
    executable = folder / "bounded"
    paths = (f"-I{hls / 'include'}", f"-I{hls / 'templates'}", f"-I{folder}")
    compile_cpp((main,), (*includes, *paths), executable, (*CSIM_FLAGS, *flags))
    return BoundedBundle(executable, tuple(designs))


def run(design: d.Design, x_raw: RawArray, depths: Mapping[str, int] | None = None) -> BoundedRun:
    """As ``BoundedBundle.run``, for one design, compiled for this run."""
    with tempfile.TemporaryDirectory(prefix="qfx_bounded_") as folder:
        return build((design,), Path(folder)).run(0, x_raw, depths)


def step_of(loop: d.Loop) -> d.Design:
    """What a loop does at each step as a design of its own, with a port for its numbers, its results and every state, before and after: its FIFOs as
    deep as in the loop. Each port has its numbers in one row."""
    parts: list[d.Process] = []
    sources: list[d.Port] = []
    sinks: list[d.Port] = []
    marks = [d.Stream(f"last{i}_s", FixedType(1, 1, False), 1, 1, 2) for i in range(1 + len(loop.step.states))]
    for part in loop.step.parts:
        if isinstance(part, d.Enter | d.Recall):
            stream, name = part.output, f"in{len(sources)}"
            sources.append(port(stream.type, (stream.words * stream.parallel,), stream.parallel, name))
            part = d.FromPort(part.name, stream, marks[len(sources) - 1], sources[-1].slot, name)
        elif isinstance(part, d.Leave | d.Keep):
            stream, name = part.input, f"out{len(sinks)}"
            sinks.append(port(stream.type, (stream.words * stream.parallel,), stream.parallel, name))
            part = d.ToPort(part.name, stream, marks[len(sinks) - 1], sinks[-1].slot, name)
        parts.append(part)
    names = tuple(tuple(f"{side}{i}" for i in range(len(marks))) for side in ("in", "out"))
    (x, *more), (y, *states) = sources, sinks
    streams = (*loop.step.fifos, *marks)
    nodes = ("",) * len(parts)
    return d.Design(tuple(parts), nodes, streams, x, y, more_inputs=tuple(more), more_outputs=tuple(states), port_names=(names[0], names[1]))


def differences(design: d.Design, found: BoundedRun) -> list[str]:
    """In which processes the C++ took its turns otherwise than the process's ``program`` says: one line each, none if all agree. Not of loops: what
    they do in a step runs side by side in hardware, and here one after the other (``step_of`` is that by itself); nor of FIFOs in memory, whose turns
    are as others let them."""
    lines = []
    for process, frames in zip(design.processes, found.ports, strict=True):
        if isinstance(process, d.Loop | d.Spill):
            continue
        want = repeated(replace(process.program, pause=0), design.rounds(process))
        for number, frame in enumerate(frames):
            # Constants come before the first frame, one a turn.
            before = sum(memory.size for memory in loading.memories(process)) if number == 0 else 0
            if frame.turns != want.turns + before:
                lines.append(f"{process.name}, frame {number}: {frame.turns} turns, the model has {want.turns + before}")
            logged = (*frame.reads, *frame.writes)
            streams = (*d.inputs(process), *d.outputs(process))
            for stream, turns, expected in zip(streams, logged, (*want.reads, *want.writes), strict=True):
                if not np.array_equal(turns, expected + before):
                    lines.append(f"{process.name}, frame {number}: other turns at {stream.name}")
    return lines


def _loader_depths(design: d.Design) -> dict[str, int]:
    loads = () if design.loader is None else design.loader.loads
    return {load.flags: loading.FLAGS_DEPTH for load in loads} | {load.words: loading.WORDS_DEPTH for load in loads}


class _Report:
    """The harness's report: ``streams``: (peak, words left) by name, ``processes``: (state, stream, turns of its frames) by name."""

    def __init__(self, text: str) -> None:
        self.streams: dict[str, tuple[int, int]] = {}
        self.processes: dict[str, tuple[str, str, list[int]]] = {}
        self._logs: dict[tuple[str, str], d.IntArray] = {}
        for line in text.splitlines():
            kind, name, *rest = line.split()
            if kind == "stream":
                self.streams[name] = (int(rest[0]), int(rest[1]))
            elif kind == "process":
                self.processes[name] = (rest[0], rest[1], [int(turns) for turns in rest[2:]])
            else:
                self._logs[kind, name] = np.array([int(turn) for turn in rest], dtype=np.int64)

    def ports(self, process: d.Process, frames: int) -> tuple[Ports, ...]:
        def logged(kind: str, streams: tuple[d.Stream, ...], frame: int) -> tuple[d.IntArray, ...]:
            return tuple(self._logs[kind, stream.name].reshape(frames, -1)[frame] for stream in streams)

        turns = self.processes[process.name][2]
        return tuple(Ports(turns[i], logged("reads", d.inputs(process), i), logged("writes", d.outputs(process), i)) for i in range(frames))


def _waits(process: d.Process, state: str, stream: str) -> int:
    """What ``simulate.deadlock`` takes."""
    if state == "done":
        return -1
    streams = [found.name for found in (d.inputs(process) if state == "empty" else d.outputs(process))]
    return streams.index(stream) + (8 if state == "full" else 0)


def _failed(what: str, executable: Path) -> ProjectError:
    return ProjectError(what, where=str(executable), remedy="please report this defect")
