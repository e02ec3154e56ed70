"""The least depth of a FIFO: with a word less, all others as they are, the design deadlocks. Exact; docs/schedule.md has the argument.

A FIFO is full when word n is due and word n - depth has not been read. That stops the design for good if the reading of word n - depth needs word n,
directly or through other words and full FIFOs. Which words each event needs is worked out by sweeping needs forward with the words and, through the
depths of the other FIFOs, backward with their room, until nothing changes.
"""

from __future__ import annotations

import numpy as np

from qfx.hardware.design import design as d
from qfx.hardware.timing.network import Component, Network


def least_depths(design: d.Design, *, flushing: bool = True) -> dict[str, int]:
    """For every FIFO the least depth with which the design does not deadlock, all other FIFOs as they are. The design is free of deadlock if and only
    if no FIFO is below its least. ``flushing``: as in Network."""
    network = Network(design, flushing=flushing)
    found = {name: _Needs(network, name, component).least() for component in network.components for name in component}
    return {name: found.get(name, 1) for name in network.streams}


class _Needs:
    """Of one FIFO: ``newest[p][e]`` is the newest of its words that event e of process p needs to have been written (-1: none)."""

    def __init__(self, network: Network, name: str, component: Component) -> None:
        self.network, self.name, self.component = network, name, frozenset(component)
        self.members = network.members(component)
        self.events = {index: network.events[index].within(self.component) for index in self.members}
        self.newest = {index: np.full(events.turns.size, -1, dtype=np.int64) for index, events in self.events.items()}
        written, writer = network.written(name), network.writer[name]
        self.newest[writer][written] = np.arange(written.size)
        self.newest[writer] = np.maximum.accumulate(self.newest[writer])

    def least(self) -> int:
        """Word n + depth must not be needed before word n is read."""
        self._settle()
        needs = self.newest[self.network.reader[self.name]][self.network.read(self.name)]
        return int((needs - np.arange(needs.size)).max()) + 1

    def _settle(self) -> None:
        """Sweep over the processes, forward and backward, until no need changes."""
        stale = set(self.members)
        while stale:
            for order in (self.members, self.members[::-1]):
                for index in order:
                    if index in stale:
                        stale.discard(index)
                        if self._update(index):
                            stale |= {index} | self._neighbours(index)

    def _update(self, index: int) -> bool:
        """Bring the needs of one process up to date; whether they changed."""
        events, old = self.events[index], self.newest[index]
        new = old.copy()
        for name, at in events.reads.items():  # a word needs what its writing needs
            new[at] = np.maximum(new[at], self.newest[self.network.writer[name]][self.network.written(name)])
        for name, at in events.writes.items():  # and its place, that the word before it in that place is read
            depth = self.network.streams[name].depth
            if name != self.name and depth < at.size:
                freed = self.newest[self.network.reader[name]][self.network.read(name)[: at.size - depth]]
                new[at[depth:]] = np.maximum(new[at[depth:]], freed)
        self.newest[index] = np.maximum.accumulate(new)
        return bool((self.newest[index] != old).any())

    def _neighbours(self, index: int) -> set[int]:
        events = self.events[index]
        return {self.network.writer[name] for name in events.reads} | {self.network.reader[name] for name in events.writes}
