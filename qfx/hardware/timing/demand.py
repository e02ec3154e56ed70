"""What FIFOs ask for before any simulation: room that a join must find, room for two rhythms at one rate, and where a pause costs.

Each is a function of a ``Network``; ``fifo.py`` decides what is made of the answers. docs/schedule.md has the arguments.
"""

from __future__ import annotations

from math import ceil

import numpy as np

from qfx.hardware.design import design as d
from qfx.hardware.timing.network import Component, Events, Network

_BUSY = 0.4
"""The share of the slowest process's work from which on a process is busy."""


def join_demands(network: Network) -> dict[str, int]:
    """For every FIFO into a join: the words that must have room there, if every other FIFO holds at least one.

    Feed a component one word after the other and let everything run that can: what then waits in front of a join. A component that is entered at
    several places (from several inputs, which wait for nothing) is fed there at one pace. Any order of feeding would do: a network of processes that
    wait stops either in all orders or in none.
    """
    early = early_inputs(network)
    found: dict[str, int] = {}
    for component in network.components:
        steps = _steps(network, component)
        for index in network.members(component):
            reads = network.events[index].within(component).reads
            if len(reads) > 1:
                ready = _joined(network.events[index].within(component), steps)
                found.update({name: _waiting(steps[name], ready[at], early=name in early) for name, at in reads.items()})
    return found


def _steps(network: Network, component: Component) -> dict[str, d.IntArray]:
    """By FIFO: the step of the component's first process that each word needs."""
    members = network.members(component)
    steps: dict[str, d.IntArray] = {}
    pace = int(network.events[members[0]].turns[-1]) + 1
    for index in members:
        events = network.events[index].within(component)
        step = _joined(events, steps) if events.reads else events.turns * pace // (int(events.turns[-1]) + 1)
        steps.update({name: step[at] for name, at in events.writes.items()})
    return steps


def _joined(events: Events, steps: dict[str, d.IntArray]) -> d.IntArray:
    """By event of a process: the step that it needs, by the words that it and the events before it read."""
    step = np.zeros(events.turns.size, dtype=np.int64)
    for name, at in events.reads.items():
        step[at] = np.maximum(step[at], steps[name])
    return np.maximum.accumulate(step)


def _waiting(came: d.IntArray, read: d.IntArray, *, early: bool) -> int:
    """The most words in front of a join, from the steps in which they come and are read.

    A word waits with all that came before it and were not read in earlier steps; of an input that comes last, with those that are left when its step
    is over.
    """
    gone = np.searchsorted(read, came, side="left" if early else "right")
    return int((np.arange(1, read.size + 1) - gone).max()) + (not early)


def early_inputs(network: Network) -> frozenset[str]:
    """Of every join in a component all inputs but the one whose words come last: those that wait for it, if FIFOs had no bottom."""
    inner = {name for component in network.components for name in component}
    early: set[str] = set()
    arrived: dict[str, d.IntArray] = {}
    for events, program in zip(network.events, network.programs, strict=True):
        start = np.zeros(events.turns.size, dtype=np.int64)
        for name, at in events.reads.items():
            start[at] = np.maximum(start[at], arrived[name])
        start = np.maximum.accumulate(start - events.turns) + events.turns
        inputs = {name: at for name, at in events.reads.items() if name in inner}
        if len(inputs) > 1:
            waited = {name: int((start[at] - arrived[name]).sum()) / at.size for name, at in inputs.items()}
            early |= waited.keys() - {min(waited, key=lambda name: waited[name])}
        arrived.update({name: start[at] + program.latency + 1 for name, at in events.writes.items()})
    return frozenset(early)


def busy_fifos(network: Network) -> frozenset[str]:
    """The FIFOs whose ends, or the readers behind those, work in most cycles: where a pause may cost throughput."""
    work = [program.turns + program.latency for program in network.programs]
    behind = [max([work[i], *(work[network.reader[name]] for name in events.writes)]) for i, events in enumerate(network.events)]
    most = _BUSY * max(work)
    return frozenset(name for name in network.streams if max(work[network.writer[name]], behind[network.reader[name]]) >= most)


def unevenness(network: Network) -> dict[str, int]:
    """For every FIFO the words by which its writer's program and its reader's stray from a uniform rate, together. With so much room both ends can
    keep their own rhythm at one common rate."""
    return {name: _stray(network, network.writer[name], name, write=True) + _stray(network, network.reader[name], name) for name in network.streams}


def _stray(network: Network, index: int, name: str, *, write: bool = False) -> int:
    """How many words a process is ahead of a uniform rate at most at one of its FIFOs, plus how many behind."""
    events = network.events[index]
    at = events.turns[(events.writes if write else events.reads)[name]]
    ahead = np.arange(at.size) - at * (at.size / network.programs[index].turns)
    return ceil(float(ahead.max() - ahead.min()))
