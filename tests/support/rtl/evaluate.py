"""A machine run turn by turn in Python: what every node is in each turn. Slow and obvious; a number that was never set is None."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from qfx.hardware.rtl.machines.netlist import Machine, Node

Values = list[int | None]
Word = Callable[[str], int]


def turns(machine: Machine, word: Word, arguments: Mapping[str, int] | None = None) -> Iterator[Values]:
    """The values of all nodes in each turn, from the beginning of a frame on; no stream ever waits. ``word``: the word that lies at an input."""
    held: dict[str, int | None] = {register.name: None for register in machine.registers}
    memories: dict[str, list[int | None]] = {
        memory.name: [None] * memory.depth if memory.initial is None else list(memory.initial) for memory in machine.memories
    }
    state = 0
    while True:
        words = {port.name: word(port.name) for port in machine.inputs}
        values: Values = []
        for node in machine.nodes:
            if node.op == "reg":
                found = held[node.name]
            elif node.op == "state":
                found = int(state == node.value)
            elif node.op == "input":
                found = words[node.name] >> node.value
            elif node.op == "arg":
                found = (arguments or {})[node.name]
            elif node.op == "load":
                row = values[node.args[0]]
                found = memories[node.name][row] if row is not None and row < len(memories[node.name]) else None
            else:
                found = value(node, [machine.nodes[place] for place in node.args], [values[place] for place in node.args])
            values.append(None if found is None else found % (1 << node.width))
        yield values
        if values[machine.done]:
            state = 0
        for condition, following in machine.jumps:
            state = following if values[condition] else state
        held |= {one.name: values[update.value] for one in machine.registers for update in one.updates if values[update.enable]}
        for memory in machine.memories:
            for update in memory.updates:
                row = values[update.address]
                if values[update.enable] and row is not None and row < memory.depth:
                    memories[memory.name][row] = values[update.value]


def _signed(value: int, width: int) -> int:
    return value - (value >> (width - 1) << width)


def value(node: Node, made_of: list[Node], args: Values) -> int | None:
    if node.op == "const":
        return node.value
    if node.op == "choose":
        for condition, value in zip(args[:-1:2], args[1::2], strict=True):
            if condition is None:
                return None
            if condition:
                return value
        return args[-1]
    if node.op in ("and", "or") and (ends := 0 if node.op == "and" else (1 << node.width) - 1) in args:
        return ends
    given = [arg for arg in args if arg is not None]
    if len(given) < len(args):
        return None
    a = given[0]
    low = _signed(a, made_of[0].width)
    if node.op in ("zext", "sext", "slice", "not"):
        return {"zext": a, "sext": low, "slice": a >> node.value, "not": ~a}[node.op]
    if node.op in ("and", "or"):
        for other in given[1:]:
            a = a & other if node.op == "and" else a | other
        return a
    b = given[1]
    if node.op == "icmp":
        signs = (low, _signed(b, made_of[1].width)) if node.name[0] == "s" else (a, b)
        return int(_COMPARE[node.name[-2:]](*signs))
    return _BINARY[node.op](low if node.op == "ashr" else a, b)


_COMPARE: Mapping[str, Callable[[int, int], bool]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}
_BINARY: Mapping[str, Callable[[int, int], int | None]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "xor": lambda a, b: a ^ b,
    "shl": lambda a, b: a << b,
    "lshr": lambda a, b: a >> b,
    "ashr": lambda a, b: a >> b,
    "udiv": lambda a, b: a // b if b else None,
    "urem": lambda a, b: a % b if b else None,
}
