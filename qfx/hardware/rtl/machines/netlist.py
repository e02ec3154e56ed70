"""A process as hardware that takes one turn a cycle: values that are worked out within a cycle, registers, memories and ports.

Values only; ``machine.py`` makes them of LLVM IR, ``verilog.py`` writes them, ``period.py`` measures them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Node:
    """A value of ``width`` bits. ``args`` are places in ``Machine.nodes``, all in front of the node's own.

    ``op``: one of LLVM's (``add``, ``icmp``, ...; the ``name`` of an ``icmp`` is its predicate), or
    ``const`` (``value``);
    ``reg`` and ``arg`` (``name``: of a register, of a number that the call brings);
    ``input`` (bits from ``value`` up of the word at port ``name``);
    ``state`` (whether this turn is one of state ``value``);
    ``load`` (``name``: the memory; the address);
    ``slice`` (bits from ``value`` up); ``not``;
    ``choose`` (condition, value, condition, value, ..., value if no condition holds; at most one does).
    """

    op: str
    width: int
    args: tuple[int, ...] = ()
    value: int = 0
    name: str = ""


@dataclass(frozen=True, slots=True)
class Update:
    """What a register or memory takes at the end of a turn in which ``enable`` holds; ``address``: -1 for a register."""

    enable: int
    value: int
    address: int = -1


@dataclass(frozen=True, slots=True)
class Register:
    name: str
    width: int
    updates: tuple[Update, ...]


@dataclass(frozen=True, slots=True)
class Memory:
    """One partition of an array: ``depth`` words of ``width`` bits. ``array``: what the C++ calls it. ``initial``: what it holds at the start; None:
    nothing known. Of the updates that hold in a turn the last one counts. ``loads``: the condition and the address of each. ``ports``: the most loads
    and the most stores that one turn can make."""

    name: str
    array: str
    depth: int
    width: int
    initial: tuple[int, ...] | None
    updates: tuple[Update, ...]
    loads: tuple[tuple[int, int], ...]
    ports: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Piece:
    """Bits of a word that leaves, from ``low`` up."""

    enable: int
    low: int
    width: int
    value: int


@dataclass(frozen=True, slots=True)
class Port:
    """A stream: an input (``pieces`` is empty) gives a word in a turn in which ``enable`` holds, an output takes one."""

    name: str
    width: int
    enable: int
    pieces: tuple[Piece, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Machine:
    """``states[k]`` is the code behind number k of the turns' beginnings; 0 is the beginning of a frame, which is no turn. ``jumps``: (condition,
    next state); ``done``: the frame has ended. ``notes``: what the translation had to do that a vendor's tool may do otherwise."""

    name: str
    nodes: tuple[Node, ...]
    states: tuple[str, ...]
    registers: tuple[Register, ...]
    memories: tuple[Memory, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    arguments: Mapping[str, int]
    jumps: tuple[tuple[int, int], ...]
    done: int
    notes: tuple[str, ...]
    parameters: tuple[str, ...]
    """The names of all parameters in order, streams and numbers."""


class Builder:
    """Nodes under construction; equal ones are made once, and what is plain at sight is simplified."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._places: dict[Node, int] = {}

    def make(self, op: str, width: int, *args: int, value: int = 0, name: str = "") -> int:
        node = Node(op, width, args, value, name)
        if node not in self._places:
            self._places[node] = len(self.nodes)
            self.nodes.append(node)
        return self._places[node]

    def const(self, value: int, width: int) -> int:
        return self.make("const", width, value=value % (1 << width))

    def known(self, place: int) -> int | None:
        """The number that a value always is."""
        node = self.nodes[place]
        return node.value if node.op == "const" else None

    @property
    def yes(self) -> int:
        return self.const(1, 1)

    def no(self, a: int) -> int:
        known = self.known(a)
        if known is not None:
            return self.const(1 - known, 1)
        node = self.nodes[a]
        return node.args[0] if node.op == "not" else self.make("not", 1, a)

    def both(self, a: int, b: int) -> int:
        if self.known(a) == 0 or self.known(b) == 0:
            return self.const(0, 1)
        if self.known(a) == 1 or a == b:
            return b
        return a if self.known(b) == 1 else self.make("and", 1, a, b)

    def any(self, places: list[int]) -> int:
        found = [place for place in dict.fromkeys(places) if self.known(place) != 0]
        if any(self.known(place) == 1 for place in found):
            return self.yes
        if not found:
            return self.const(0, 1)
        return found[0] if len(found) == 1 else self.make("or", 1, *found)

    def select(self, condition: int, a: int, b: int) -> int:
        known, width = self.known(condition), self.nodes[a].width
        if known is not None or a == b:
            return b if known == 0 else a
        if width == 1 and self.known(a) == 1:
            return self.any([condition, b])
        if width == 1 and self.known(b) == 0:
            return self.both(condition, a)
        return self.make("choose", width, condition, a, b)

    def choose(self, arms: list[tuple[int, int]], default: int) -> int:
        """One value of several; the conditions exclude each other."""
        arms = [(condition, value) for condition, value in arms if self.known(condition) != 0 and value != default]
        for condition, value in arms:
            if self.known(condition) == 1:
                return value
        if len(arms) <= 1:
            return self.select(*arms[0], default) if arms else default
        return self.make("choose", self.nodes[default].width, *(part for arm in arms for part in arm), default)

    def resize(self, place: int, width: int, *, signed: bool = False) -> int:
        node = self.nodes[place]
        if node.width == width:
            return place
        if node.op == "const":
            sign = signed and node.value >> (node.width - 1) & 1
            return self.const(node.value - (1 << node.width if sign else 0), width)
        if node.width > width:
            if node.op in ("zext", "sext"):
                inner = self.nodes[node.args[0]].width
                return self.resize(node.args[0], width, signed=node.op == "sext") if inner != width else node.args[0]
            return self.make("slice", width, place)
        return self.make("sext" if signed else "zext", width, place)
