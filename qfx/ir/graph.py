"""The hardware-side model: an immutable graph of exact fixed-point operators and casts. No torch from here down."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from qfx.errors import ModelFileError
from qfx.ir.operator import Operator
from qfx.ir.values import Info, RawArray

__all__ = ["Graph", "Info", "Node", "RawArray", "check_name", "graph_name"]

_NAME = re.compile(r"[A-Za-z0-9_.:/-]+")


def check_name(name: str) -> None:
    """Raises ModelFileError unless the name is ASCII letters, digits and ``_ . : / -`` and shows no way out of a folder: files are named after it."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.startswith("/") or ".." in name.split("/"):
        raise ModelFileError(f"{name!r} is not a name", remedy="use letters, digits and _ . : / - without a leading / and without ..")


def graph_name(label: str) -> str:
    """``label``, which may be any text, as a name that ``check_name`` lets pass: what it cannot hold becomes ``_``.

    >>> graph_name("m.conv 1"), graph_name("blocks.0.weight")
    ('m.conv_1', 'blocks.0.weight')
    """
    parts = [part if part.strip(".") else part.replace(".", "_") for part in re.sub(r"[^A-Za-z0-9_.:/-]", "_", label).split("/")]
    text = "/".join(parts)
    return f"_{text[1:]}" if text.startswith("/") else text or "_"


@dataclass(frozen=True, slots=True)
class Node:
    """One operator. Its single result bears the node's own name; ``inputs`` are the names of the nodes it reads."""

    name: str
    op: Operator
    inputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Graph:
    """Nodes in topological order; the first is the one ``Input``; ``output`` names the node whose value leaves.

    ``infos`` holds shape, type and interval of every node; it is derived on construction, so that a Graph that exists is consistent.
    ``metadata`` is free text, kept in order. Raises ModelFileError naming the node that is wrong, and from the type rules ExactnessError likewise.
    """

    name: str
    nodes: tuple[Node, ...]
    output: str
    metadata: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    infos: Mapping[str, Info] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        infos: dict[str, Info] = {}
        check_name(self.name)
        if not self.nodes or self.nodes[0].op.reads != 0:
            raise ModelFileError("the first node must be the input cast", where=self.name, remedy="export the model with qfx.export_onnx")
        for position, node in enumerate(self.nodes):
            check_name(node.name)
            if position and node.op.reads == 0:
                raise ModelFileError("a second input", where=node.name, remedy="qfx takes models of one input")
            if node.name in infos:
                raise ModelFileError(f"two nodes are called {node.name!r}", where=self.name, remedy="give every node a name of its own")
            missing = [source for source in node.inputs if source not in infos]
            if missing:
                raise ModelFileError(f"reads {missing[0]!r} before it is computed", where=node.name, remedy="order the nodes topologically")
            infos[node.name] = node.op.infer(node.name, tuple(infos[source] for source in node.inputs))
        if self.output not in infos:
            raise ModelFileError(f"the output {self.output!r} is not a node", where=self.name, remedy="name one of the nodes")
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))
        object.__setattr__(self, "infos", MappingProxyType(infos))

    @property
    def input(self) -> Node:
        return self.nodes[0]

    def node(self, name: str) -> Node:
        """The node of that name; KeyError if there is none."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    def consumers(self, name: str) -> tuple[Node, ...]:
        """The nodes that read the value, in order; one that reads it twice is listed once."""
        return tuple(node for node in self.nodes if name in node.inputs)

    def with_nodes(self, nodes: tuple[Node, ...], output: str | None = None) -> Graph:
        """A new graph with other nodes (and output)."""
        return replace(self, nodes=nodes, output=self.output if output is None else output)
