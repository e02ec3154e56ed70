"""A machine whose values are as wide as they can get, and no wider than what is looked at: a counter of 32 bits has the bits that it needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from qfx.hardware.rtl.machines.netlist import Builder, Machine, Memory, Node, Piece, Port, Register, Update
from qfx.hardware.rtl.machines.ranges import Range, ranges

_MODULAR = ("add", "sub", "mul", "and", "or", "xor")
"""Whose low bits are made of the low bits of their operands."""


def narrow(machine: Machine) -> Machine:
    """The same words in the same turns."""
    return _Narrowing(machine).machine()


def _bits(found: Range) -> tuple[int, bool]:
    """The fewest bits that hold a range, and whether they have a sign."""
    plain = found.unsigned[1].bit_length()
    low, high = found.signed
    signed = max(high.bit_length(), (-1 - low).bit_length() if low < 0 else 0) + 1
    return (signed, True) if signed < plain else (max(plain, 1), False)


def demanded(machine: Machine) -> tuple[dict[str, int], list[int]]:
    """How many low bits of each register and of each node anything looks at."""
    nodes = machine.nodes
    wanted = [0] * len(nodes)
    registers = dict.fromkeys((register.name for register in machine.registers), 0)

    def want(place: int, count: int) -> None:
        wanted[place] = max(wanted[place], min(count, nodes[place].width))

    for memory in machine.memories:
        for update in memory.updates:
            for place in (update.enable, update.address, update.value):
                want(place, nodes[place].width)
        for place in (place for load in memory.loads for place in load):
            want(place, nodes[place].width)
    for port in (*machine.inputs, *machine.outputs):
        for place in (port.enable, *(place for piece in port.pieces for place in (piece.enable, piece.value))):
            want(place, nodes[place].width)
    for place in (machine.done, *(condition for condition, _ in machine.jumps), *(u.enable for r in machine.registers for u in r.updates)):
        want(place, 1)
    while True:
        for place in range(len(nodes) - 1, -1, -1):
            _pass_on(nodes, place, wanted[place], want)
        before = dict(registers)
        for place, node in enumerate(nodes):
            if node.op == "reg":
                registers[node.name] = max(registers[node.name], wanted[place])
        if registers == before:
            return registers, wanted
        for register in machine.registers:
            for update in register.updates:
                want(update.value, registers[register.name])


def _pass_on(nodes: Sequence[Node], at: int, count: int, want: Callable[[int, int], None]) -> None:
    """What a node wants of its operands where ``count`` of its bits are wanted."""
    node = nodes[at]
    if count == 0:
        return
    if node.op == "and":  # no more than a mask lets pass
        count = min([count, *(nodes[place].value.bit_length() for place in node.args if nodes[place].op == "const")])
    if node.op == "choose":
        for condition, value in zip(node.args[:-1:2], node.args[1::2], strict=True):
            want(condition, 1)
            want(value, count)
        want(node.args[-1], count)
    elif node.op in (*_MODULAR, "not", "zext", "sext"):
        for place in node.args:
            want(place, count)
    elif node.op == "slice":
        want(node.args[0], node.value + count)
    else:
        for place in node.args:
            want(place, 1 << 30)


class _Narrowing:
    def __init__(self, machine: Machine) -> None:
        self._machine, self._b = machine, Builder()
        self._ranges = ranges(machine)
        self._looked, self._wanted = demanded(machine)
        held = {node.name: found for node, found in zip(machine.nodes, self._ranges, strict=True) if node.op == "reg"}
        self._held = {
            register.name: self._room(held.get(register.name), register.width, self._looked[register.name]) for register in machine.registers
        }
        self._new: list[int] = []

    def _room(self, found: Range | None, width: int, wanted: int) -> tuple[int, bool]:
        """Bits, and whether they have a sign."""
        bits, signed = (width, False) if found is None else _bits(found)
        return (bits, signed) if bits <= wanted else (max(wanted, 1), False)

    def machine(self) -> Machine:
        for place, node in enumerate(self._machine.nodes):
            self._new.append(self._made(place, node))
        m, new = self._machine, self._new
        registers = tuple(self._register(register) for register in m.registers if self._looked[register.name])
        return replace(
            m,
            nodes=tuple(self._b.nodes),
            registers=registers,
            memories=tuple(self._memory(memory) for memory in m.memories),
            inputs=tuple(self._port(port) for port in m.inputs),
            outputs=tuple(self._port(port) for port in m.outputs),
            jumps=tuple((new[condition], state) for condition, state in m.jumps),
            done=new[m.done],
        )

    def _register(self, register: Register) -> Register:
        bits, _ = self._held[register.name]
        updates = [Update(self._new[update.enable], self._b.resize(self._new[update.value], bits)) for update in register.updates]
        return Register(register.name, bits, tuple(update for update in updates if self._b.known(update.enable) != 0))

    def _memory(self, memory: Memory) -> Memory:
        new = self._new
        updates = tuple(Update(*(new[place] for place in (update.enable, update.value, update.address))) for update in memory.updates)
        return replace(memory, updates=updates, loads=tuple((new[load], new[at]) for load, at in memory.loads))

    def _port(self, port: Port) -> Port:
        pieces = (Piece(self._new[piece.enable], piece.low, piece.width, self._new[piece.value]) for piece in port.pieces)
        return Port(port.name, port.width, self._new[port.enable], tuple(pieces))

    def _made(self, place: int, node: Node) -> int:
        """The node as it is now, in its old width."""
        b, found = self._b, self._ranges[place]
        if found is not None and found.single is not None and node.op != "load":
            return b.const(found.single, node.width)
        bits, signed = self._room(found, node.width, self._wanted[place])
        if node.op == "reg" and not self._looked[node.name]:
            return b.const(0, node.width)  # nothing looks at it, and the register goes
        if node.op == "reg":
            bits, signed = self._held[node.name]
            return b.resize(b.make("reg", bits, name=node.name), node.width, signed=signed)
        args = [self._new[arg] for arg in node.args]
        if node.op == "not" and node.width == 1:
            return b.no(args[0])
        if node.width == 1 and node.op in ("and", "or"):
            return self._logic(node.op, args)
        if node.op in _MODULAR and bits < node.width:
            return b.resize(b.make(node.op, bits, *(b.resize(arg, bits) for arg in args)), node.width, signed=signed)
        if node.op == "choose":
            *pairs, default = args
            arms = [(condition, b.resize(value, bits)) for condition, value in zip(pairs[::2], pairs[1::2], strict=True)]
            return b.resize(b.choose(arms, b.resize(default, bits)), node.width, signed=signed)
        if node.op in ("zext", "sext"):
            return b.resize(args[0], node.width, signed=node.op == "sext")
        if node.op == "slice" and node.value == 0:
            return b.resize(args[0], node.width)
        if node.op == "icmp":
            return self._compare(node, args)
        return b.make(node.op, node.width, *args, value=node.value, name=node.name)

    def _logic(self, op: str, args: list[int]) -> int:
        if op == "or":
            return self._b.any(args)
        found = args[0]
        for other in args[1:]:
            found = self._b.both(found, other)
        return found

    def _compare(self, node: Node, args: list[int]) -> int:
        """With no more bits than both sides need; of numbers that are not negative a sign is not looked at."""
        sides = [self._ranges[place] for place in node.args]
        known = [side for side in sides if side is not None]
        if len(known) < len(sides):
            return self._b.make("icmp", 1, *args, name=node.name)
        name, width = node.name, self._machine.nodes[node.args[0]].width
        plain = max(side.unsigned[1].bit_length() for side in known)
        if name[0] == "s" and all(side.signed[0] >= 0 for side in known):
            name = f"u{name[1:]}"
        if name[0] == "s" or (name in ("eq", "ne") and plain == width):
            bits = max(max(high.bit_length(), (-1 - low).bit_length() if low < 0 else 0) + 1 for low, high in (side.signed for side in known))
        else:
            bits = max(plain, 1)
        bits = min(bits, width)
        return self._b.make("icmp", 1, *(self._b.resize(arg, bits) for arg in args), name=name)
