"""What two branches that meet share: processes (*chains*) and window units (*taps*).

A chain is a node and the nodes behind it that join its epilogue. Pointwise nodes follow the node whose value they alone read. What joins two values
number by number (a residual sum, with what stands behind it) joins one of the two, if that is the value of a process with a place for a second
stream: it then reads the other value word for word where its own words leave, and needs neither a process nor streams of its own. Both values may
come from such a process. Then the one with fewer products takes the sum: the shortcut. It is the other's words that it waits for, so that what a
shortcut holds back is what it reads, which is shorter than sums, and not what it gives. Of equals the later one. No circle can arise: a node and its
chain have single readers, so what they need never needs what they give.

A tap is a value that leaves a window unit. Every window of a convolution has a tap that lies on the pixel of its place (the centre of 3 x 3 taps with
same padding). Two kinds of readers of the same value need just these taps:

- a convolution of 1 x 1 taps with the same stride, or a slice that takes the same pixels: a shortcut. It needs no copy of the frame, and nothing
  that leaves pixels out;
- what joins the value with one that comes of the convolution, where the windows have every pixel at its place (stride 1, same padding): a residual
  sum. Its pixels come when the windows do, behind the line buffer, so that its FIFO need not hold them as long.

The window unit writes that tap on a second stream (hls/include/qfx/tap.h); there is no fork.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from qfx.ir.graph import Graph, Node
from qfx.ir.windows import Windows


@dataclass(frozen=True, slots=True)
class Chain:
    """The ``nodes`` behind a node that its process takes over, in order. ``beside``: the value that one of them joins with its own, if one does, the
    input number ``place`` of that one."""

    nodes: tuple[Node, ...]
    beside: tuple[str, ...] = ()
    place: int = 1


ALONE = Chain(())
"""A node with nothing behind it."""

Readers = Callable[[str], Sequence[Node]]
"""The live nodes that read a value, one for every time that it is read."""


def chains(nodes: Iterable[Node], readers: Readers, graph: Graph) -> dict[str, Chain]:
    """The chain behind each of the ``nodes`` whose process has an epilogue and that is in no chain itself."""
    order = list(nodes)
    known = {node.name: node for node in order}
    followers = {node.name: next(iter(by)) for node in order if node.name not in graph.outputs and len(by := readers(node.name)) == 1}
    hosts = _hosts(order, known, followers, graph)
    found: dict[str, Chain] = {}
    members: set[str] = set()
    for node in order:
        if node.name in members or not node.op.fuses:
            continue
        chain = _chain(node, followers, hosts)
        members.update(member.name for member in chain.nodes)
        found[node.name] = chain
    return found


def _chain(node: Node, followers: Mapping[str, Node], hosts: Mapping[str, str]) -> Chain:
    behind: list[Node] = []
    chain, last = ALONE, node
    while (following := followers.get(last.name)) is not None:
        if hosts.get(following.name) == node.name:
            place = 1 - following.inputs.index(last.name)
            chain = Chain((), (following.inputs[place],), place)
        elif not following.op.pointwise:
            break
        behind.append(following)
        last = following
    return Chain(tuple(behind), chain.beside, chain.place)


def _hosts(order: Sequence[Node], known: Mapping[str, Node], followers: Mapping[str, Node], graph: Graph) -> dict[str, str]:
    """For each node that joins two values and becomes part of the process of one of them: that process's node."""
    places = {node.name: place for place, node in enumerate(order)}
    hosts: dict[str, str] = {}
    for node in order:
        sources = tuple(graph.infos[name] for name in node.inputs)
        if len(sources) != 2 or node.op.joins(sources, graph.infos[node.name]) is None:
            continue
        able = [host for name in node.inputs if (host := _host(name, node, known, followers)) is not None]
        if able:
            best = min(able, key=lambda host: (host.op.macs(graph.infos[host.name]), -places[host.name]))
            hosts[node.name] = best.name
    return hosts


def _host(name: str, join: Node, known: Mapping[str, Node], followers: Mapping[str, Node]) -> Node | None:
    """The node whose process gives the value ``name`` to ``join`` alone and has a place for another stream, if there is one."""
    reader, node = join, known.get(name)
    while node is not None and followers.get(node.name) is reader:
        if not node.op.pointwise:
            source = known.get(node.inputs[0]) if node.inputs else None
            return node if node.op.takes_beside and not (source and source.op.spreads) else None
        reader, node = node, known.get(node.inputs[0])
    return None


@dataclass(frozen=True, slots=True)
class Tap:
    """The value ``value`` reaches the node ``reader`` by the window unit of the node ``window``, which gives it the tap ``at``, an index for each
    axis."""

    value: str
    window: str
    reader: str
    at: tuple[int, ...]


def taps(
    nodes: Sequence[Node], readers: Callable[[str], Sequence[Node]], graph: Graph, chains: Mapping[str, Chain], apart: Collection[str] = ()
) -> tuple[Tap, ...]:
    """At most one for each value and each window unit. ``nodes``: the live ones, in order; ``chains``: what each process takes over; ``apart``: the
    names of those that have no window unit, and take whole frames."""
    groups = _Groups(nodes, chains)
    found: list[Tap] = []
    for value in nodes:
        if graph.infos[value.name].per_channel:  # which convolutions read on other grids
            continue
        by = readers(value.name)
        tap = next(_possible(value.name, [node for node in by if node.name not in apart], graph, groups), None)
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


def readers_of(graph: Graph, live: frozenset[str]) -> dict[str, tuple[Node, ...]]:
    found: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if node.name in live:
            for source in node.inputs:
                found.setdefault(source, []).append(node)
    return {name: tuple(nodes) for name, nodes in found.items()}


def live_nodes(graph: Graph) -> frozenset[str]:
    live = set(graph.outputs)
    for node in reversed(graph.nodes):
        if node.name in live:
            live.update(node.inputs)
    return frozenset(live)
