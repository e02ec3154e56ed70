"""FIFOs in the board's memory: what stands in the place of such a stream."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from qfx.errors import ProjectError
from qfx.hardware.design import design as d
from qfx.hardware.design.names import Names
from qfx.hardware.processes.memory.from_memory import PORT_BITS, numbers_a_beat
from qfx.hardware.processes.memory.spill import TURNS

_SHARE = 0.8
"""Of the slowest process's cycles: what a master may take that is not to hold up others."""

_DEPTH = 2


def spilled(design: d.Design, names: Collection[str]) -> d.Design:
    """The design with the streams of ``names`` in memory: a process that writes and reads it stands between two FIFOs, with changes of width where
    words of memory hold other counts of numbers. The first of the FIFOs keeps the name;
    the depth of the one behind that process is the room in memory. Names of no stream are left to others to complain of.

    Raises ProjectError for what cannot be in memory.
    """
    streams = {stream.name: stream for stream in design.streams}
    found = [streams[name] for name in sorted(names) if name in streams]
    if not found:
        return design
    marks = {mark.name for process in design.processes for mark in process.marks}
    taken = Names(
        {*streams, *(process.name for process in design.processes), *(master.port for master in design.masters), *sum(design.port_names, ())}
    )
    slowest = max(process.busy for process in design.processes)
    for stream in found:
        if stream.name in marks:
            raise ProjectError("carries TLAST, a bit a frame, and no numbers", where=f"[fifos] {stream.name}", remedy="leave it on the chip")
        design = _spilled(design, stream, taken, slowest)
    return design


def word_bits(stream: d.Stream, cycles: int) -> int:
    """The bits of a word of memory: as few as keep the master from holding up a frame of ``cycles``. Raises ProjectError where none holds a
    number."""
    possible = [bits for bits in PORT_BITS if stream.type.width <= bits]
    if not possible:
        what = f"its numbers of {stream.type.width} bits are longer than a word of memory"
        raise ProjectError(what, where=f"[fifos] {stream.name}", remedy="leave it on the chip")

    return next((bits for bits in possible if TURNS * stream.numbers // numbers(stream, bits) <= _SHARE * cycles), possible[-1])


def numbers(stream: d.Stream, bits: int) -> int:
    """Of the stream in a word of memory."""
    return numbers_a_beat(stream.parallel, stream.words, stream.type.width, bits)


def _spilled(design: d.Design, stream: d.Stream, taken: Names, slowest: int) -> d.Design:
    bits = word_bits(stream, slowest)
    wide = replace(stream.with_parallel(numbers(stream, bits)), depth=_DEPTH, storage="auto")
    stem = stream.name.removesuffix("_s")

    def new(one: d.Stream, what: str) -> d.Stream:
        return replace(one, name=taken.new(f"{stem}_{what}", "s"), depth=_DEPTH, storage="auto")

    changes = wide.parallel != stream.parallel
    comes = new(wide, "there") if changes else stream
    goes = replace(new(wide, "here"), storage="ddr")
    back = new(stream, "back") if changes else goes
    parts: list[d.Process] = [d.Spill(taken.new(stem, "spill"), comes, goes, bits, taken.new(stem, "ring"))]
    if changes:
        wider, narrower = (taken.new(f"{stem}_{what}", "words") for what in ("there", "back"))
        parts = [d.Rewidth(wider, stream, comes), *parts, d.Rewidth(narrower, goes, back)]
    at = next(i for i, process in enumerate(design.processes) if stream in process.sources)
    node = next(node for process, node in zip(design.processes, design.nodes, strict=True) if stream in process.targets)
    reader = design.processes[at].with_streams(lambda one: back if one.name == stream.name else one)
    processes = (*design.processes[:at], *parts, reader, *design.processes[at + 1 :])
    nodes = (*design.nodes[:at], *[node] * len(parts), *design.nodes[at:])
    streams = (*design.streams, *dict.fromkeys(one for one in (comes, goes, back) if one != stream))
    return replace(design, processes=processes, nodes=nodes, streams=streams)
