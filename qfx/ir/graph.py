"""The hardware-side model: an immutable graph of exact fixed-point operators and casts. No torch from here down."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar

from qfx.errors import ModelFileError
from qfx.ir.operator import Operator
from qfx.ir.values import Info, RawArray

__all__ = ["OUTPUTS_KEY", "Graph", "Info", "Node", "RawArray", "check_name", "graph_name"]

_T = TypeVar("_T")
_NONE: Mapping[str, str] = MappingProxyType({})
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


LEFT_OUT_KEY = "left_out"
"""The entry of the metadata that tells what of a model is left out, by a recipe at its end or around the integers of a file, a line each."""
OUTPUTS_KEY = "outputs"
"""The entry of the metadata that names the outputs for users, a line each; without it they are called as their nodes."""


@dataclass(frozen=True, init=False)
class Graph:
    """Nodes in topological order, an input first; ``inputs`` are those that read nothing, ``outputs`` name the nodes whose values leave.

    Both have an order, which is that of data given and results had without names. One output may be given as a plain string.
    ``infos`` holds shape, type and interval of every node; it is derived on construction, so that a Graph that exists is consistent. ``like``: a
    graph that has some of the nodes already: what is known of a node with the same operator on the same values is not derived again.
    ``metadata`` is free text, kept in order. Raises ModelFileError naming the node that is wrong, and from the type rules ExactnessError likewise.
    """

    name: str
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    metadata: Mapping[str, str]
    infos: Mapping[str, Info] = field(init=False, compare=False, repr=False)

    def __init__(
        self, name: str, nodes: tuple[Node, ...], outputs: str | tuple[str, ...], metadata: Mapping[str, str] = _NONE, *, like: Graph | None = None
    ) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "nodes", nodes)
        object.__setattr__(self, "outputs", (outputs,) if isinstance(outputs, str) else tuple(outputs))
        object.__setattr__(self, "metadata", MappingProxyType(dict(metadata)))
        object.__setattr__(self, "infos", MappingProxyType(self._inferred(like)))
        self._check_outputs()

    def _inferred(self, like: Graph | None) -> dict[str, Info]:
        infos: dict[str, Info] = {}
        before = {} if like is None else {node.name: (node, like.infos[node.name]) for node in like.nodes}
        kept: set[str] = set()  # the values of which the same is known as before
        check_name(self.name)
        if not self.nodes or self.nodes[0].op.reads != 0:
            raise ModelFileError("the first node must be the input cast", where=self.name, remedy="export the model with qfx.export_onnx")
        for node in self.nodes:
            check_name(node.name)
            if node.name in infos:
                raise ModelFileError(f"two nodes are called {node.name!r}", where=self.name, remedy="give every node a name of its own")
            missing = [source for source in node.inputs if source not in infos]
            if missing:
                raise ModelFileError(f"reads {missing[0]!r} before it is computed", where=node.name, remedy="order the nodes topologically")
            old = before.get(node.name)
            if old is not None and old[0].op is node.op and old[0].inputs == node.inputs and kept.issuperset(node.inputs):
                infos[node.name] = old[1]
            else:
                infos[node.name] = node.op.infer(node.name, tuple(infos[source] for source in node.inputs))
            if old is not None and infos[node.name] == old[1]:
                kept.add(node.name)
        return infos

    def _check_outputs(self) -> None:
        if not self.outputs:
            raise ModelFileError("has no output", where=self.name, remedy="name at least one of the nodes")
        for position, output in enumerate(self.outputs):
            if output not in self.infos:
                raise ModelFileError(f"the output {output!r} is not a node", where=self.name, remedy="name one of the nodes")
            if output in self.outputs[:position]:
                raise ModelFileError(f"{output!r} is an output twice", where=self.name, remedy="name it once, and use the value twice")
        names = self.output_names
        if len(names) != len(self.outputs) or len(set(names)) != len(names) or not all(names):
            what = f"names its outputs {', '.join(map(repr, names))}, and has {len(self.outputs)}"
            raise ModelFileError(what, where=self.name, remedy="give each output one name of its own")

    @property
    def inputs(self) -> tuple[Node, ...]:
        """The nodes that read nothing, in order."""
        return tuple(node for node in self.nodes if node.op.reads == 0)

    @property
    def input(self) -> Node:
        """The one input. Raises ModelFileError where there are several."""
        return self._only("inputs", self.inputs)

    @property
    def output(self) -> str:
        """The one output. Raises ModelFileError where there are several."""
        return self._only("outputs", self.outputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """What users call the outputs, in order."""
        given = self.metadata.get(OUTPUTS_KEY)
        return self.outputs if given is None else tuple(given.split("\n"))

    def _only(self, what: str, values: tuple[_T, ...]) -> _T:
        if len(values) != 1:
            raise ModelFileError(f"has {len(values)} {what}", where=self.name, remedy="this takes a model of one input and one output")
        return values[0]

    def __repr__(self) -> str:
        """In one line; ``qfx.ir.text.listing`` has all of it."""
        ends = [", ".join(f"{name} {'x'.join(map(str, self.infos[name].shape))}" for name in names) for names in (self._entered, self.outputs)]
        return f"Graph({self.name!r}, {len(self.nodes)} nodes, {ends[0]} -> {ends[1]})"

    def _repr_html_(self) -> str:
        from qfx.ir.text import as_html

        return as_html(self)

    @property
    def _entered(self) -> tuple[str, ...]:
        return tuple(node.name for node in self.inputs)

    def node(self, name: str) -> Node:
        """The node of that name; KeyError if there is none."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    def consumers(self, name: str) -> tuple[Node, ...]:
        """The nodes that read the value, in order; one that reads it twice is listed once."""
        return tuple(node for node in self.nodes if name in node.inputs)

    def with_nodes(self, nodes: tuple[Node, ...], output: str | tuple[str, ...] | None = None) -> Graph:
        """A new graph with other nodes (and output, or outputs)."""
        return Graph(self.name, nodes, self.outputs if output is None else output, self.metadata, like=self)
