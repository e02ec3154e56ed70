"""FIFO depths: as deep as the throughput needs, and proven free of deadlock.

Three questions, three answers (docs/schedule.md has the arguments):

- *Where can a design deadlock?* Only round a fork and the join where its branches meet: within one biconnected component of the graph of processes
  (``network.py``). Chains between components need any depth. The FIFO of TLAST never deadlocks.
- *What does a join demand?* So much room that what waits in front of it finds a place (``demand.py``). With that at every join and at least one word
  everywhere else, no deadlock is possible.
- *What is the least depth of one FIFO?* ``least.py`` says exactly.

The depths chosen are those with which the timed simulation reaches the throughput of the slowest process.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from qfx.errors import ProjectError
from qfx.hardware.design import design as d
from qfx.hardware.design.streams import BUILT
from qfx.hardware.timing import demand
from qfx.hardware.timing.least import least_depths as least_depths  # part of this module's vocabulary
from qfx.hardware.timing.network import Network
from qfx.hardware.timing.simulate import MAX_WORDS, Ready, Timing, ready, simulate, words

CHAIN_DEPTH = 2
"""The least depth that passes a word every cycle, and the vendor's default."""
_ENOUGH = 0.99
"""The share of the slowest process's throughput at which FIFOs are deep enough."""

_AMPLE_FRAMES = 64
"""Frames that a FIFO holds in a simulation that is to show how many words it needs: more than are ever under way."""
_SLACK = 16
"""Words beyond what a join demands that let a branch keep its rhythm; tried, not trusted."""

Depths = dict[str, int]


@dataclass(frozen=True, slots=True)
class Sizing:
    """``depth`` as chosen, in words; ``least``: one word less, all others as chosen, and the design deadlocks."""

    stream: str
    least: int
    depth: int


@dataclass(frozen=True, slots=True)
class Plan:
    """``timing`` is None if the frame is too long to simulate: then a whole frame fits behind every fork, which cannot deadlock, and the interval is
    known only to be at least that of the slowest process."""

    design: d.Design
    timing: Timing | None


def size_fifos(design: d.Design) -> d.Design:
    """The design with the depth of every FIFO chosen."""
    return plan(design).design


Known = dict[tuple[Any, ...], tuple[Depths, Timing]]
"""The depths of designs that were sized, and how they run, by what both depend on."""


def plan(design: d.Design, known: Known | None = None) -> Plan:
    """The design with the depth of every FIFO chosen, and how it then runs. ``known``: what is remembered from one design to the next that differs in
    nothing but words' lengths; it is looked at and added to."""
    if words(design) > MAX_WORDS:
        spilled = [process for process in design.processes if isinstance(process, d.Spill)]
        if spilled:
            what = f"a frame moves {words(design)} words, too many to simulate (at most {MAX_WORDS}), so that nothing says how much room it needs"
            raise ProjectError(what, where=f"[fifos] {spilled[0].input.name}", remedy="fold less (raise PE and SIMD), or leave it on the chip")
        if design.batch > 1:
            what = f"{design.batch} frames move {words(design)} words, too many to simulate (at most {MAX_WORDS})"
            raise ProjectError(f"{what}, so that nothing says how deep FIFOs are", remedy="use a smaller --batch, or fold less (raise PE and SIMD)")
        return Plan(design, None)
    key = () if known is None else _movements(design)
    if known is not None and key in known:
        depths, timing = known[key]
        return Plan(with_depths(design, depths), timing)
    bounds, programs = _Bounds.of(design), ready(design)
    depths, timing = _keep_the_pace(design, bounds, programs)
    depths, timing = _tighten(design, bounds, depths, timing, programs)
    made = allow_for_held_words(with_depths(design, depths))
    if known is not None:
        known[key] = {stream.name: stream.depth for stream in made.streams}, timing
    return Plan(made, timing)


def _movements(design: d.Design) -> tuple[Any, ...]:
    """All that depths and timing depend on: who reads and writes which FIFO in which turn."""
    return (
        tuple((stream.name, design.words(stream)) for stream in design.streams),
        *(
            (
                process.name,
                design.busy(process),
                process.front is not None,
                *(tuple(stream.name for stream in streams) for streams in (process.sources, process.targets, process.marks)),
                program.turns,
                program.latency,
                *(tuple(turns.tobytes() for turns in ports) for ports in (program.reads, program.writes)),
            )
            for process, program in ((process, design.program(process)) for process in design.processes)
        ),
    )


@dataclass(frozen=True, slots=True)
class _Bounds:
    """Depths by FIFO: the ``floor`` that every design needs, the ``smooth`` one with which no rhythm is lost, and, of the FIFOs that wait in front of
    joins, one so ``ample`` that it is never full. ``stages``: the FIFOs that are made smooth, ever more of them."""

    floor: Depths
    smooth: Depths
    ample: Depths
    stages: tuple[Collection[str], ...]

    @classmethod
    def of(cls, design: d.Design) -> _Bounds:
        network = Network(design)
        held = demand.join_demands(Network(design, flushing=False))
        floor = {name: max(CHAIN_DEPTH, held.get(name, 0)) for name in network.streams}
        behind = _behind_memory(design)
        for name, (here, share) in behind.items():
            floor[here] = max(floor[here], ceil(floor[name] * share) + CHAIN_DEPTH)
            floor[name] = CHAIN_DEPTH
        floor |= {process.input.name: BUILT for process in design.processes if isinstance(process, d.Spill)}
        floor |= dict.fromkeys(network.marks, design.batch - 1 + CHAIN_DEPTH)  # the first frame leaves when the last has come
        smooth = {name: max(floor[name], CHAIN_DEPTH + words) for name, words in demand.unevenness(network).items()}
        wait = (*(behind.get(name, (name,))[0] for name in demand.early_inputs(network)), *network.marks)
        ample = {name: _AMPLE_FRAMES * design.words(network.streams[name]) for name in wait}
        smooth |= dict.fromkeys(behind, CHAIN_DEPTH)
        windows = {stream.name for process in design.processes if process.front for stream in process.sources}
        busy = demand.busy_fifos(network)
        return cls(floor, smooth, ample, ((), windows & busy, busy, tuple(network.streams)))


def _behind_memory(design: d.Design) -> dict[str, tuple[str, float]]:
    """The FIFOs behind a change of the words that come from memory: what waits there can wait in memory, in the FIFO of that name, which has so many
    words for one of its own."""
    from_memory = {process.output.name: process.output for process in design.processes if isinstance(process, d.Spill)}
    changes = [process for process in design.processes if isinstance(process, d.Rewidth) and process.input.name in from_memory]
    return {one.output.name: (one.input.name, one.output.parallel / one.input.parallel) for one in changes}


def _keep_the_pace(design: d.Design, bounds: _Bounds, known: Ready) -> tuple[Depths, Timing]:
    """The first stage that keeps up with the slowest process, or else the fastest; ample FIFOs as they are."""
    tried: list[tuple[Depths, Timing]] = []
    for deep in bounds.stages:
        depths = {name: bounds.smooth[name] if name in deep else floor for name, floor in bounds.floor.items()} | bounds.ample
        tried.append((depths, simulate(design, depths=depths, known=known, peaks_of=bounds.ample)))
        fastest = min(tried, key=lambda run: run[1].interval)
        if fastest[1].bottleneck.busy >= _ENOUGH * fastest[1].interval:
            break
    return fastest


def _tighten(design: d.Design, bounds: _Bounds, depths: Depths, timing: Timing, known: Ready) -> tuple[Depths, Timing]:
    """What was ample need not be deeper than it was filled: the simulation then runs just the same. Often much less is enough."""
    peaks = {stream.name: peak for stream, peak in zip(design.streams, timing.peaks, strict=True)}
    filled = {name: max(bounds.floor[name], peaks[name]) for name in bounds.ample}
    tight = {name: min(depth, bounds.floor[name] + max(_SLACK, bounds.floor[name] // 8)) for name, depth in filled.items()}
    if tight != filled:
        trial = simulate(design, depths=depths | tight, known=known, peaks_of=())
        if trial.interval <= timing.interval:
            return depths | tight, trial
    return depths | filled, timing


def allow_for_held_words(design: d.Design) -> d.Design:
    """The design, FIFOs made deeper where it would deadlock if pipelines kept what they work on while their input pauses. Rarely any: the demands
    have counted on that, but for joins that wait for each other in turns."""
    while True:
        least = least_depths(design, flushing=False)
        short = {stream.name: least[stream.name] for stream in design.streams if stream.depth < least[stream.name]}
        if not short:
            return design
        design = with_depths(design, short)


def with_depths(design: d.Design, depths: Mapping[str, int]) -> d.Design:
    """The design with other depths, by the stream's name."""

    def deep(stream: d.Stream) -> d.Stream:
        return replace(stream, depth=depths.get(stream.name, stream.depth))

    return replace(design, processes=tuple(process.with_streams(deep) for process in design.processes), streams=tuple(map(deep, design.streams)))


def with_storage(design: d.Design, places: Mapping[str, str]) -> d.Design:
    """The design with FIFOs in other places (``schedule.FIFO_STORAGE``), by the stream's name."""

    def there(stream: d.Stream) -> d.Stream:
        return replace(stream, storage=places.get(stream.name, stream.storage))

    return replace(design, processes=tuple(process.with_streams(there) for process in design.processes), streams=tuple(map(there, design.streams)))


def sizings(design: d.Design) -> tuple[Sizing, ...]:
    """Least and chosen depth of every FIFO, in the order of the design's streams."""
    least = least_depths(design)
    return tuple(Sizing(stream.name, least[stream.name], stream.depth) for stream in design.streams)
