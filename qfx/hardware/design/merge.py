"""All inputs in one stream, and all outputs in one (``Schedule.merged``): the ports of a design that is built, put together.

A frame of the stream has the inputs one after the other. So an input that is needed beside a later one waits in its FIFO, which has to hold what
comes before that is there; likewise the outputs behind the first wait for their place. Until ``fifo`` has found the depths, each of these FIFOs holds
a frame: the split then never waits for room within a frame, and no process that gives an output waits for the join.
"""

from __future__ import annotations

from dataclasses import replace

from qfx.fixed.packing import Port
from qfx.hardware.design import design as d
from qfx.hardware.design.build import Builder
from qfx.hardware.design.wires import merged_bits


def merge(builder: Builder, sinks: tuple[tuple[str, Port], ...]) -> tuple[int, int]:
    """Put the ports of the builder's processes together where the schedule says so and there are several: ``sinks`` are the outputs by name.

    The widths of the streams as in ``Design.merged``. Raises ProjectError as ``merged_bits``.
    """
    sources = tuple(zip(builder.port_names, builder.inputs, strict=True))
    split, join = (builder.schedule.merged and len(ports) > 1 for ports in (sources, sinks))
    return (_split(builder, merged_bits(sources)) if split else 0), (_join(builder, merged_bits(sinks)) if join else 0)


def _split(builder: Builder, bits: int) -> int:
    found = [process for process in builder.processes if isinstance(process, d.FromPort)]
    streams = tuple(process.output for process in found)
    split = d.SplitPort(builder.names.new("inputs", "port"), streams, builder.last, tuple(process.slot for process in found), bits, "in")
    _replace(builder, list(found), split, builder.processes.index(found[0]))
    _hold_frames(builder, streams)
    return bits


def _join(builder: Builder, bits: int) -> int:
    found = [process for process in builder.processes if isinstance(process, d.ToPort)]
    streams = tuple(process.input for process in found)
    join = d.JoinPort(builder.names.new("outputs", "port"), streams, builder.last, tuple(process.slot for process in found), bits, "out")
    _replace(builder, list(found), join, builder.processes.index(found[-1]))
    _hold_frames(builder, streams)
    return bits


def _replace(builder: Builder, old: list[d.Process], new: d.Process, place: int) -> None:
    """Put ``new`` where the process number ``place``, one of the old ones, is, and take the others out."""
    kept = [(process, node) for process, node in zip(builder.processes, builder.nodes, strict=True)]
    kept[place] = (new, kept[place][1])
    kept = [(process, node) for process, node in kept if process not in old]
    builder.processes, builder.nodes = [process for process, _ in kept], [node for _, node in kept]


def _hold_frames(builder: Builder, streams: tuple[d.Stream, ...]) -> None:
    names = {stream.name for stream in streams}

    def deep(stream: d.Stream) -> d.Stream:
        return replace(stream, depth=max(stream.depth, stream.words)) if stream.name in names else stream

    builder.streams = [deep(stream) for stream in builder.streams]
    builder.processes = [process.with_streams(deep) for process in builder.processes]
