"""Values that leave a window unit: what reads a value next to a convolution may take its pixels from the windows of that convolution.

Every window has a tap that lies on the pixel of its place (the centre of 3 x 3 taps with same padding). Two kinds of readers need just these taps:

- a convolution of 1 x 1 taps with the same stride: a shortcut. It needs no copy of the frame, and no window unit that leaves pixels out where it has
  a stride;
- what joins the value with one that comes of the convolution, where the windows have every pixel at its place (stride 1, same padding): a residual
  sum. Its pixels come when the windows do, behind the line buffer, so that its FIFO need not hold them as long.

The window unit writes that tap on a second stream (hls/include/qfx/tap.h); there is no fork.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from qfx.hardware.design.chains import ALONE, Chain
from qfx.ir.graph import Graph, Node
from qfx.ir.windows import Windows


@dataclass(frozen=True, slots=True)
class Tap:
    """The value ``value`` reaches the node ``reader`` by the window unit of the node ``window``, which gives it the tap ``at``, an index for each
    axis."""

    value: str
    window: str
    reader: str
    at: tuple[int, ...]


def taps(nodes: Sequence[Node], readers: Callable[[str], Sequence[Node]], graph: Graph, chains: Mapping[str, Chain]) -> tuple[Tap, ...]:
    """At most one for each value and each window unit. ``nodes``: the live ones, in order; ``chains``: what each process takes over."""
    groups = _Groups(nodes, chains)
    found: list[Tap] = []
    for value in nodes:
        if graph.infos[value.name].per_channel:  # which convolutions read on other grids
            continue
        by = readers(value.name)
        tap = next(_possible(value.name, by, graph, groups), None)
        if tap is not None:
            found.append(tap)
            groups.wait(tap.reader, tap.window)
    return tuple(found)


def _possible(value: str, by: Sequence[Node], graph: Graph, groups: _Groups) -> Iterator[Tap]:
    for window in by:
        seen = window.op.sees(graph.infos[value])
        at = None if seen is None or len(seen.size) > 2 else _own_place(seen)
        if seen is None or at is None:
            continue
        for reader in by:
            once = by.count(reader) == 1 and reader is not window
            if once and _takes(reader, value, seen, graph) and not groups.needs(window.name, reader.name):
                joins = reader.op.sees(graph.infos[value]) is None
                if not joins or groups.needs(reader.name, window.name):
                    yield Tap(value, window.name, reader.name, at)


def _own_place(seen: Windows) -> tuple[int, ...] | None:
    """The tap of each window that is the pixel at stride times the window's place; None if there is none, or no other tap."""
    axes = list(zip(seen.kernel, seen.pads, seen.dilation, strict=True))
    if all(size == 1 for size, _, _ in axes) or any(before % apart or before // apart >= size for size, (before, _), apart in axes):
        return None
    return tuple(before // apart for _, (before, _), apart in axes)


def _takes(reader: Node, value: str, seen: Windows, graph: Graph) -> bool:
    """Whether ``reader`` needs the pixels at stride times the place of each window, and no others."""
    own = reader.op.sees(graph.infos[value])
    if own is not None:
        single = all(size == 1 for size in own.kernel) and not any(map(any, own.pads))
        return single and (own.stride, own.out) == (seen.stride, seen.out)
    sources = tuple(graph.infos[name] for name in reader.inputs)
    joins = len(sources) == 2 and reader.op.joins(sources, graph.infos[reader.name]) is not None
    return joins and set(seen.stride) == {1} and seen.out == seen.size


class _Groups:
    """Which processes need what others give: each node with its chain is one."""

    def __init__(self, nodes: Sequence[Node], chains: Mapping[str, Chain]) -> None:
        self._of: dict[str, str] = {}
        self._needs: dict[str, set[str]] = {}
        members = {member.name for chain in chains.values() for member in chain.nodes}
        for node in nodes:
            if node.name not in members:
                chain = chains.get(node.name, ALONE)
                self._of.update(dict.fromkeys([node.name, *(member.name for member in chain.nodes)], node.name))
                self._needs[node.name] = {*node.inputs, *chain.beside}

    def wait(self, reader: str, window: str) -> None:
        """Note that ``reader`` reads what the window unit of ``window`` writes."""
        self._needs[self._of[reader]].add(window)

    def needs(self, name: str, other: str) -> bool:
        """Whether the process of ``name`` is that of ``other``, or needs what comes of it."""
        wanted, waiting = self._of[other], [self._of[name]]
        seen: set[str] = set()
        while waiting:
            group = waiting.pop()
            if group == wanted:
                return True
            if group not in seen:
                seen.add(group)
                waiting += [self._of[source] for source in self._needs[group]]
        return False
