"""A pipeline for a machine: in which stage of a turn each value is worked out, so that a turn begins in every cycle and no stage is longer than
a period, as far as it can be cut.

What comes round must not be cut: a register is read in the stage in which it is written, and so are the words of a memory. Whether a turn takes a
word, and where the next turn goes on, is decided in stage 0. All words of a turn leave in its last stage. Everything else may lie in any stage behind
what it is made of, and is carried along (modulo scheduling with an interval of one: Rau, Iterative Modulo Scheduling, 1994).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qfx.hardware.rtl.machines.netlist import Machine, Memory, Node
from qfx.hardware.timing.delays import Delays, adder, choice, comparison, gates

SMALL = 64
"""Words that a LUT holds (UG574)."""
WIRES = ("zext", "sext", "slice", "not", "const")
"""What costs nothing to work out again in a later stage."""


@dataclass(frozen=True, slots=True, eq=False)
class Stages:
    """``nodes``: the stage of each; ``registers`` and ``memories``: by name, in which they are written; ``last``: in which words leave.
    ``late``: the loads whose word is there in the stage behind, as block RAM has it. ``longest_ns``: of the stages, by the delays given."""

    nodes: tuple[int, ...]
    registers: dict[str, int]
    memories: dict[str, int]
    last: int
    late: frozenset[int]
    longest_ns: float


def stages(machine: Machine, delays: Delays, budget_ns: float) -> Stages:
    """``budget_ns``: what a stage may take between its registers, where nothing that comes round takes more."""
    return _Scheduling(machine, delays, budget_ns).stages()


class _Scheduling:
    """Places: those of the nodes, then the registers, then the memories that are written."""

    def __init__(self, machine: Machine, delays: Delays, budget_ns: float) -> None:
        self._machine, self._delays, self._budget = machine, delays, budget_ns
        self._nodes = machine.nodes
        self._held = {one.name: len(self._nodes) + at for at, one in enumerate(machine.registers)}
        self._written: dict[str, Memory] = {one.name: one for one in machine.memories if one.updates}
        self._memory = {name: len(self._nodes) + len(self._held) + at for at, name in enumerate(self._written)}
        self._made_of: list[list[int]] = [self._sources(place) for place in range(len(self._nodes))]
        for register in machine.registers:
            self._made_of.append([place for update in register.updates for place in (update.enable, update.value)])
        for memory in self._written.values():
            stored = [place for update in memory.updates for place in (update.enable, update.value, update.address)]
            read = [node.args[0] for node in self._nodes if node.op == "load" and node.name == memory.name]
            self._made_of.append(stored + read)
        self._depth = {memory.name: memory.depth for memory in machine.memories}
        self._first = self._deciding()

    def _sources(self, place: int) -> list[int]:
        node = self._nodes[place]
        if node.op == "reg":
            return [self._held[node.name]]
        if node.op == "load" and node.name in self._memory:
            return [*node.args, self._memory[node.name]]
        return list(node.args)

    def _deciding(self) -> set[int]:
        """What decides whether a turn takes words and what comes next."""
        waiting = [port.enable for port in self._machine.inputs]
        waiting += [self._machine.done, *(condition for condition, _ in self._machine.jumps)]
        found = set[int]()
        while waiting:
            place = waiting.pop()
            if place not in found:
                found.add(place)
                waiting += self._made_of[place]
        return found

    def stages(self) -> Stages:
        stage, ready = [0] * len(self._made_of), [0.0] * len(self._made_of)
        there = list(stage)  # the stage in which the value can be used
        late = set[int]()
        longest = 0.0
        for group in _circles(self._made_of):
            inside = set(group)
            begin, at = max(
                ((there[source], ready[source]) for place in group for source in self._made_of[place] if source not in inside), default=(0, 0.0)
            )
            fixed = group[0] in self._first or (len(group) == 1 and self._is_load(group[0]) and self._nodes[group[0]].name in self._memory)
            if not fixed and at + self._around(group) > self._budget:
                begin, at = begin + 1, 0.0
            for place in group:
                before = [ready[source] for source in self._made_of[place] if there[source] == begin]
                stage[place] = there[place] = begin
                ready[place] = max(before, default=0.0) + self._takes(place) if place < len(self._nodes) else 0.0
                longest = max(longest, ready[place])
            (first, *more) = group
            if self._is_load(first) and not more and first not in self._first and self._depth[self._nodes[first].name] > 1:
                late.add(first)
                there[first] = begin + 1
                ready[first] = self._delays.memory if self._depth[self._nodes[first].name] > SMALL else 0.0
        count = len(self._nodes)
        pieces = [place for port in self._machine.outputs for piece in port.pieces for place in (piece.enable, piece.value)]
        return Stages(
            tuple(stage[:count]),
            {name: stage[place] for name, place in self._held.items()},
            {name: stage[place] for name, place in self._memory.items()},
            max([*(there[place] for place in pieces), *stage[count:]], default=0),
            frozenset(late),
            longest,
        )

    def _is_load(self, place: int) -> bool:
        return place < len(self._nodes) and self._nodes[place].op == "load"

    def _around(self, group: Sequence[int]) -> float:
        """The longest way through what comes round, from a register to one."""
        ready = dict.fromkeys(group, 0.0)
        for place in group:
            ready[place] = max((ready[source] for source in self._made_of[place] if source in ready and source < place), default=0.0) + self._takes(
                place
            )
        return max(ready.values())

    def _takes(self, place: int) -> float:
        """From what a node is made of to itself; of a load what its address has to go through."""
        if place >= len(self._nodes):
            return 0.0
        if self._is_load(place):
            depth = self._depth[self._nodes[place].name]
            return choice(min(depth, SMALL)).delay_ns(self._delays) if depth > 1 else 0.0
        return _delay(self._nodes, place, self._delays)


def _delay(nodes: Sequence[Node], place: int, delays: Delays) -> float:
    """From a node's operands to itself."""
    node = nodes[place]
    args = [nodes[arg] for arg in node.args]
    if node.op in ("add", "sub"):
        return adder(node.width).delay_ns(delays)
    if node.op == "icmp":
        return (comparison(args[0].width) if args[0].width > 6 else gates(2 * args[0].width)).delay_ns(delays)
    if node.op == "mul":
        return 2 * adder(node.width).delay_ns(delays)
    if node.op in ("and", "or", "xor"):
        return gates(len(args)).delay_ns(delays)
    if node.op == "choose":
        return choice(len(args) // 2 + 1).delay_ns(delays)
    if node.op in ("shl", "lshr", "ashr") and args[1].op != "const":
        return choice(node.width).delay_ns(delays)
    if node.op in ("udiv", "urem", "sdiv", "srem"):
        return node.width * adder(node.width).delay_ns(delays)
    return 0.0


def _circles(made_of: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Strongly connected components, each behind all that it is made of (Tarjan, 1972); the nodes of each in order."""
    index = [-1] * len(made_of)
    low = [0] * len(made_of)
    on_stack = bytearray(len(made_of))
    stack: list[int] = []
    count = 0
    for root in range(len(made_of)):
        if index[root] >= 0:
            continue
        work = [(root, 0)]
        while work:
            place, at = work.pop()
            if at == 0:
                index[place] = low[place] = count
                count += 1
                stack.append(place)
                on_stack[place] = 1
            sources = made_of[place]
            descended = False
            while at < len(sources):
                source = sources[at]
                at += 1
                if index[source] < 0:
                    work += [(place, at), (source, 0)]
                    descended = True
                    break
                if on_stack[source]:
                    low[place] = min(low[place], index[source])
            if descended:
                continue
            if low[place] == index[place]:
                group = []
                while True:
                    other = stack.pop()
                    on_stack[other] = 0
                    group.append(other)
                    if other == place:
                        break
                yield sorted(group)
            if work:
                above = work[-1][0]
                low[above] = min(low[above], low[place])
