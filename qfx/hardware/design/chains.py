"""What one process computes: a node and the nodes behind it that join its epilogue.

Pointwise nodes follow the node whose value they alone read. What joins two values number by number (a residual sum, with what stands behind it) joins
one of the two, if that is the value of a process with a place for a second stream: it then reads the other value word for word where its own words
leave, and needs neither a process nor streams of its own.

Both values may come from such a process. Then the one with fewer products takes the sum: the shortcut. It is the other's words that it waits for, so
that what a shortcut holds back is what it reads, which is shorter than sums, and not what it gives. Of equals the later one.

No circle can arise: a node and its chain have single readers, so what they need never needs what they give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from qfx.ir.graph import Graph, Node


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
            return node if node.op.takes_beside else None
        reader, node = node, known.get(node.inputs[0])
    return None
