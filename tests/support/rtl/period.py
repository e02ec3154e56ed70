"""The least period at which a machine's recurrences let it begin a turn every cycle.

A path from a register back to itself may be cut by no pipeline register: where a value goes through n registers on its way round, its delay can be
spread over n cycles and no more. So the greatest delay per register over all circles bounds the period from below, however deep the pipeline is.
Handshakes are left out: the vendor's tools spend a cycle of their own on them.

Delays: those of RapidWright's timing model of UltraScale+ (github.com/Xilinx/RapidWright, timing/ultrascaleplus: intrasite_delay_terms.txt v0.5,
intersite_delay_terms.txt v0.4, taken from Vivado; Maidee, Neely, Kaviani, Lavin: An Open-source Lightweight Timing Model for RapidWright, FPT 2019),
in nanoseconds. What lies between two cells depends on where they are placed and is assumed (``net``).
Logic is put into six-input LUTs by cuts (Cong and Ding: FlowMap, 1994) for words as for bits: all bits of a word are alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import ceil

from qfx.hardware.rtl.machines.netlist import Machine, Memory, Node, Register

LUT_INPUTS = 6
_CARRY_INPUTS = 5  # of the LUT in front of a carry chain, both of whose outputs are used (UG574)
_CUTS = 16
_ROUNDS = 40


@dataclass(frozen=True, slots=True)
class Delays:
    """In nanoseconds."""

    net: float = 0.35
    """Assumed: a site pin (0.04 to 0.07) and a few wires of 0.05 to 0.1 each; of a placed MicroBlaze the model's authors show 0.40."""
    lut: float = 0.10
    """Of the six inputs the slowest takes 0.15, the fastest 0.035."""
    clock_to_q: float = 0.077
    setup: float = 0.075
    """From a LUT into the flip-flop beside it: 0.05 and 0.025."""
    direct: float = 0.125
    """From a site pin into a flip-flop."""
    carry_in: float = 0.08
    """From a LUT into the chain and out of its first bit."""
    carry_bit: float = 0.025
    """For each further bit up to eight."""
    carry_eight: float = 0.069
    """For each further eight bits, into the next slice and through it."""
    carry_out: float = 0.03
    ram_read: float = 0.15
    """Of 64 words in LUTs: address to data."""
    ram_wider: float = 0.10
    """For each doubling of the words above 64: a multiplexer of its slice."""
    ram_clock: float = 0.312
    """From the clock edge that writes to the data that is read."""
    ram_setup: float = 0.18
    dsp: float = 1.56
    """A and B to P of a DSP block without registers."""

    def times(self, factor: float) -> Delays:
        return replace(self, **{field.name: getattr(self, field.name) * factor for field in fields(self)})

    def chain(self, bits: int) -> float:
        """From the LUTs in front of a carry chain to its last bit."""
        return self.carry_in + min(bits - 1, 7) * self.carry_bit + max(0, ceil(bits / 8) - 1) * self.carry_eight + self.carry_out


ULTRASCALE_PLUS_2 = Delays()
"""Speed grade -2, which the model's parts have."""


@dataclass(frozen=True, slots=True)
class Recurrence:
    """``period_ns`` and the registers and memories round which it runs, as the C++ calls their values. No recurrence: 0 and none."""

    period_ns: float
    around: tuple[str, ...]


def least_period(
    machine: Machine, delays: Delays = ULTRASCALE_PLUS_2, *, balanced: bool = True, distances: Mapping[str, int] | None = None
) -> Recurrence:
    """``balanced``: a sum of several numbers is formed so that what comes round is added last, as the vendor's tools balance expressions (UG1399,
    EXPRESSION_BALANCE, on by default); else in the order in which clang leaves it. ``distances``: of arrays the least number
    of turns from a store to a load of what it stored, as a simulation saw it (``bench.Seen``); 1 if it is not known."""
    return _Analysis(machine, delays, balanced, distances or {}).result()


def counters(machine: Machine) -> dict[str, int]:
    """The bits of loop counters: registers that start at a number, go on by one, and are compared with their bound. The vendor's tools trim them."""
    nodes, found = machine.nodes, dict[str, int]()
    bounds: dict[int, int] = {}
    for node in nodes:
        if node.op == "icmp" and node.name == "eq" and nodes[node.args[1]].op == "const":
            bounds[node.args[0]] = nodes[node.args[1]].value
    for register in machine.registers:
        steps, others = list[int](), list[int]()
        for update in register.updates:
            node = nodes[update.value]
            step = node.op == "add" and nodes[node.args[0]] == Node("reg", register.width, name=register.name) and nodes[node.args[1]].value == 1
            (steps if step and nodes[node.args[1]].op == "const" else others).append(update.value)
        if steps and all(place in bounds for place in steps) and all(nodes[place].op == "const" for place in others):
            found[register.name] = max(bounds[steps[0]], *(nodes[place].value for place in others), 1).bit_length()
    return found


def significant(nodes: Sequence[Node], counts: Mapping[str, int]) -> list[int]:
    """Of each value the low bits that can be more than sign or zero extension; ``counts``: of registers."""
    found: list[int] = []
    for node in nodes:
        args = [found[place] for place in node.args]
        wide = node.width
        if node.op == "const":
            wide = max(1, node.value.bit_length())
        elif node.op == "reg":
            wide = counts.get(node.name, wide)
        elif node.op == "zext" or (node.op == "sext" and args[0] == nodes[node.args[0]].width):
            wide = args[0]
        elif node.op == "and":
            wide = min(args)
        elif node.op in ("or", "xor"):
            wide = max(args)
        elif node.op == "choose":
            wide = max(args[1::2] + args[-1:])
        elif node.op == "add":
            wide = max(args) + 1
        elif node.op == "mul":
            wide = sum(args)
        elif node.op == "slice":
            wide = max(1, args[0] - node.value)
        found.append(min(node.width, wide))
    return found


def wanted(nodes: Sequence[Node], roots: Iterable[int], kept: Iterable[tuple[str, int]]) -> list[int]:
    """Of each value the low bits that anything depends on. ``roots``: what is needed whole; ``kept``: values that registers take, by name, of which
    as much is needed as of the register."""
    held = list(kept)
    whole, need = list(roots), dict.fromkeys((name for name, _ in held), 0)
    while True:
        found = _wanted(nodes, [*((place, nodes[place].width) for place in whole), *((place, need[name]) for name, place in held)])
        grown = dict(need)
        for node, low in zip(nodes, found, strict=True):
            if node.op == "reg" and node.name in grown:
                grown[node.name] = max(grown[node.name], low)
        if grown == need:
            return found
        need = grown


def _wanted(nodes: Sequence[Node], roots: Iterable[tuple[int, int]]) -> list[int]:
    found = [0] * len(nodes)
    for place, low in roots:
        found[place] = max(found[place], low)
    for place in range(len(nodes) - 1, -1, -1):
        node, low = nodes[place], found[place]
        for index, arg in enumerate(node.args):
            if node.op in ("add", "sub", "mul", "and", "or", "xor", "zext", "sext"):
                need = low
                if node.op == "and":
                    need = min(low, *(nodes[other].value.bit_length() for other in node.args if nodes[other].op == "const"), low)
            elif node.op == "slice":
                need = low + node.value if low else 0
            elif node.op == "choose":
                need = low if index % 2 or index == len(node.args) - 1 else 1
            elif node.op == "shl" and nodes[node.args[1]].op == "const" and index == 0:
                need = max(0, low - nodes[node.args[1]].value)
            else:
                need = nodes[arg].width if low else 0
            found[arg] = max(found[arg], min(need, nodes[arg].width))
    return found


def _before_steps(nodes: Sequence[Node]) -> list[Node]:
    """A comparison of ``x + step`` with a number as one of ``x``: what the vendor's tools compare at a loop's beginning, clang does at its end."""
    found = list(nodes)
    places = {node: place for place, node in enumerate(nodes)}
    for place, node in enumerate(nodes):
        if node.op == "icmp" and node.name in ("eq", "ne"):
            a, b = (nodes[arg] for arg in node.args)
            if a.op == "add" and b.op == "const" and nodes[a.args[1]].op == "const":
                same = replace(b, value=(b.value - nodes[a.args[1]].value) % (1 << b.width))
                if places.get(same, place) >= place:  # a number of the same size compares as fast
                    same = b
                found[place] = replace(node, args=(a.args[0], places[same]))
    return found


_WIRES = ("zext", "sext", "slice")
_BITWISE = ("and", "or", "xor", "not", "choose")


class _Analysis:
    def __init__(self, machine: Machine, delays: Delays, balanced: bool, distances: Mapping[str, int]) -> None:
        self._delays, self._balanced = delays, balanced
        self._nodes = _before_steps(machine.nodes)
        holders: list[Register | Memory] = [*machine.registers, *machine.memories]
        self._updates = {holder.name: [(u.enable, u.value, u.address) for u in holder.updates] for holder in holders}
        self._updates["state"] = [(condition, -1, -1) for condition, _ in machine.jumps] + [(machine.done, -1, -1)]
        self._turns = {memory.name: distances.get(memory.array, 1) for memory in machine.memories if memory.depth > 1}
        self._depths = {memory.name: memory.depth for memory in machine.memories}
        names = {register.name for register in machine.registers}
        kept = [(name, value) for name in names for _, value, _ in self._updates[name]]
        roots = [
            place for name, updates in self._updates.items() for e, v, a in updates for place in (e, -1 if name in names else v, a) if place >= 0
        ]
        roots += [piece.value for port in machine.outputs for piece in port.pieces]
        self._significant = significant(self._nodes, counters(machine))
        self._wanted = wanted(self._nodes, roots, kept)
        self._live = [bits > 0 for bits in self._wanted]
        self._users = Counter(arg for place, node in enumerate(self._nodes) if self._live[place] for arg in node.args)
        self._cuts: list[list[frozenset[int]]] = []
        for place in range(len(self._nodes)):
            self._cuts.append(self._cut(place))

    def result(self) -> Recurrence:
        names = [name for name, updates in self._updates.items() if updates]
        edges = [
            (names.index(source), place, delay, self._turns.get(source, 1))
            for place, name in enumerate(names)
            for source, delay in self._into(name)
            if source in names
        ]
        low, high, around = 0.0, 100.0, list[int]()
        for _ in range(_ROUNDS):
            period = (low + high) / 2
            circle = _circle(len(names), edges, period)
            if circle:
                low, around = period, circle
            else:
                high = period
        return Recurrence(round(high, 3) if around else 0.0, tuple(names[place] for place in around))

    # Cuts.

    def _inputs(self, place: int) -> int:
        """How many inputs a LUT for one bit of the result has for each argument; 0: the operation is no single LUT."""
        node = self._nodes[place]
        if node.op in _WIRES or (node.op in _BITWISE and (node.op != "choose" or len(node.args) <= LUT_INPUTS)):
            return 1
        if node.op == "icmp":
            bits = self._compared(node)
            variables = sum(self._nodes[arg].op != "const" for arg in node.args)
            return bits if bits * variables <= LUT_INPUTS else 0
        return 0

    def _compared(self, node: Node) -> int:
        """The bits of a comparison; a test of the sign is a wire."""
        if node.name in ("slt", "sge") and self._known(node.args[1]) == 0:
            return 1
        if node.name == "sgt" and self._known(node.args[1]) == (1 << self._nodes[node.args[1]].width) - 1:
            return 1
        extra = 1 if node.name[0] == "s" else 0
        return min(self._nodes[node.args[0]].width, max(self._significant[arg] for arg in node.args) + extra)

    def _known(self, place: int) -> int | None:
        node = self._nodes[place]
        return node.value if node.op == "const" else None

    def _cut(self, place: int) -> list[frozenset[int]]:
        """Sets of values from which one LUT makes a bit of this one; that of itself comes last."""
        node, alone = self._nodes[place], frozenset([place])
        if node.op == "const":
            return [frozenset()]
        each = self._inputs(place)
        if not each or not self._live[place]:
            return [alone]
        found = self._joined(node.args, LUT_INPUTS, each)
        if node.op in _WIRES and node.args:
            return found  # no LUT at all: whoever uses it uses what it is made of
        return [*found, alone]

    def _joined(self, args: Sequence[int], most: int, each: int = 1) -> list[frozenset[int]]:
        found = {frozenset[int]()}
        for arg in args:
            options = self._cuts[arg] if each == 1 else [frozenset([arg])] if self._known(arg) is None else [frozenset[int]()]
            found = {a | b for a in found for b in options if len(a | b) * each <= most}
        return sorted(found, key=lambda cut: (len(cut), sorted(cut)))[:_CUTS]

    # Delays.

    def _into(self, name: str) -> list[tuple[str, float]]:
        """The registers on which the next value of one depends, with the delay from each."""
        d = self._delays
        ends: list[tuple[int, float]] = []
        for enable, value, address in self._updates[name]:
            deep = self._depths.get(name, 1) > 1
            for place, last in ((enable, d.ram_setup if deep else d.setup), (value, d.ram_setup if deep else d.setup), (address, d.ram_setup)):
                if place >= 0 and self._known(place) is None and (place != address or deep):
                    ends.append((place, last))
        cone = self._cone([place for place, _ in ends])
        found: dict[str, float] = {}
        for source, starts in self._sources(cone).items():
            at = self._arrivals(cone, starts, source)
            delays = [
                at[place] + last + (d.net + d.direct - d.setup if self._nodes[place].op in ("reg", "load", *_WIRES) else 0)
                for place, last in ends
                if place in at
            ]
            if delays:
                found[source] = max(delays)
        return list(found.items())

    def _cone(self, ends: list[int]) -> list[int]:
        seen, waiting = set(ends), list(ends)
        while waiting:
            for arg in self._nodes[waiting.pop()].args:
                if arg not in seen:
                    seen.add(arg)
                    waiting.append(arg)
        return sorted(seen)

    def _sources(self, cone: list[int]) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for place in cone:
            node = self._nodes[place]
            if node.op in ("reg", "load"):
                found.setdefault(node.name, []).append(place)
            elif node.op == "state":
                found.setdefault("state", []).append(place)
        return found

    def _arrivals(self, cone: list[int], starts: list[int], source: str) -> Mapping[int, float]:
        """When each value is there, counted from the clock edge, as far as it depends on the source."""
        d = self._delays
        deep = self._depths.get(source, 1) > 1
        at: dict[int, float] = dict.fromkeys(starts, d.ram_clock if deep else d.clock_to_q)
        for place in cone:
            node = self._nodes[place]
            if place in at and node.op != "load":
                continue
            cuts = self._cuts[place]
            options: list[float] = []
            if self._inputs(place):
                for cut in cuts if node.op in _WIRES else cuts[:-1]:
                    reached = [at[leaf] for leaf in cut if leaf in at]
                    step = 0.0 if node.op in _WIRES and (len(cut) <= 1) else d.net + d.lut
                    if not reached:
                        options = []
                        break
                    options.append(max(reached) + step)
                if not options and any(arg in at for arg in node.args):
                    options = [max(at[arg] for arg in node.args if arg in at) + d.net + d.lut]
                    if not self._cut_reaches(cuts, at):
                        options = [max(at[arg] for arg in node.args if arg in at)]
            elif any(arg in at for arg in node.args):
                options = [self._operation(place, at)]
            if options:
                at[place] = max(at.get(place, 0.0), min(options))
        return at

    def _terms(self, place: int) -> list[int]:
        """The numbers of a sum that is formed of sums that nothing else uses."""
        found: list[int] = []
        for arg in self._nodes[place].args:
            inner = self._nodes[arg]
            found += self._terms(arg) if inner.op == "add" and self._users[arg] == 1 and inner.width == self._nodes[place].width else [arg]
        return found

    def _cut_reaches(self, cuts: list[frozenset[int]], at: Mapping[int, float]) -> bool:
        return any(leaf in at for cut in cuts for leaf in cut)

    def _operation(self, place: int, at: Mapping[int, float]) -> float:
        """Of what is no single LUT: the arrival of its last bit."""
        d, node = self._delays, self._nodes[place]
        latest = max(at[arg] for arg in node.args if arg in at)
        bits = max(1, min(self._wanted[place], node.width))
        if node.op in ("add", "sub"):
            bits = min(bits, max(self._significant[arg] for arg in node.args) + 1)
            if self._balanced and node.op == "add":
                reached = [at[term] for term in self._terms(place) if term in at]
                if len(reached) < len(self._terms(place)) > 2:
                    return max(reached) + (d.net + d.lut + d.chain(bits)) * max(1, len(reached) - 1 and len(reached).bit_length())
            merged = [max([at[leaf] for leaf in cut if leaf in at], default=latest) for cut in self._joined(node.args, _CARRY_INPUTS)]
            return min([latest, *merged]) + d.net + d.lut + d.chain(bits)
        if node.op == "icmp":
            bits = self._compared(node)
            variables = sum(self._known(arg) is None for arg in node.args)
            if node.name in ("eq", "ne"):
                return latest + (d.net + d.lut) * _levels(bits * variables)
            return latest + d.net + d.lut + d.chain(max(1, ceil(bits * variables / 4)))
        if node.op == "choose":
            arms = len(node.args) // 2
            return latest + (d.net + d.lut) * _levels(2 * arms + 1)
        if node.op in ("and", "or", "xor"):
            return latest + (d.net + d.lut) * _levels(len(node.args))
        if node.op in ("shl", "lshr", "ashr"):
            if self._known(node.args[1]) is not None:
                return latest
            steps = max(1, (bits - 1).bit_length())
            return latest + (d.net + d.lut) * ceil(steps / 2)  # a multiplexer of four a LUT
        if node.op == "load":
            depth = self._depths[node.name]
            if depth == 1:
                return latest
            return latest + d.net + d.ram_read + d.ram_wider * max(0, (depth - 1).bit_length() - 6)
        if node.op == "mul":
            return latest + d.net + d.dsp
        return latest + (d.net + d.lut) * bits  # a division: none is known in a recurrence


def _levels(inputs: int) -> int:
    """Of LUTs for a function of so many bits that can be split."""
    levels = 1
    while inputs > LUT_INPUTS:
        inputs, levels = ceil(inputs / LUT_INPUTS), levels + 1
    return levels


def _circle(count: int, edges: Sequence[tuple[int, int, float, int]], period: float) -> list[int]:
    """A circle whose delay is more than ``period`` for each turn that it takes; empty if there is none (Bellman and Ford)."""
    distance, before, last = [0.0] * count, [-1] * count, -1
    for _ in range(count + 1):
        last = -1
        for source, target, delay, turns in edges:
            found = distance[source] + delay - turns * period
            if found > distance[target] + 1e-9:
                distance[target], before[target], last = found, source, target
        if last < 0:
            return []
    for _ in range(count):
        last = before[last]
    around, place = [last], before[last]
    while place != last:
        around.append(place)
        place = before[place]
    return around[::-1]
