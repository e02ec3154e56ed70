"""A Machine as a Verilog module (IEEE 1364-2001): a turn a cycle, a handshake at each stream.

Ports: ``clk``; ``rst``; a number ``a_NAME`` for each argument; for each stream ``s_NAME``, ``s_NAME_valid``, ``s_NAME_ready``; and
``fired``: a turn takes place in this cycle; ``turn``: its number in the frame, all ones before the first;
``done``: the frame ends with it (between two frames lie RESTART cycles, at least one);
``clash``: which of the ``shared`` memories it reads where it writes;
``distance``: of each of them the least number of turns from a store to a load of what it stored, 32 bits each, all ones if there was none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from qfx.hardware.rtl.machines.netlist import Machine, Memory, Node, Port, Register

_INFIX = {"add": "+", "sub": "-", "mul": "*", "and": "&", "or": "|", "xor": "^", "shl": "<<", "lshr": ">>", "udiv": "/", "urem": "%"}
_SIGNED = {"ashr": ">>>", "sdiv": "/", "srem": "%"}
_COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "gt": ">", "le": "<=", "ge": ">="}
TURN_BITS = 32
_IDLE = "(RESTART < 3 ? 1 : RESTART < 5 ? 2 : RESTART < 9 ? 3 : 8)"
"""Bits that count RESTART - 1 down."""


def module(machine: Machine, *, watched: bool = True, restart: int = 1) -> str:
    """``watched``: with the ports from ``fired`` on, and what they need; hardware has no use for them. ``restart``: RESTART, unless an instance has
    another."""
    return "\n".join(_lines(machine, watched, restart)) + "\n"


def titled(machine: Machine) -> str:
    """The name of the module: no keyword, whatever the process is called."""
    return f"p_{machine.name}"


def shared(machine: Machine) -> list[Memory]:
    """The memories that are both read and written while the process runs."""
    return [memory for memory in machine.memories if memory.depth > 1 and memory.updates and memory.loads]


def handshakes(port: str) -> tuple[str, str, str]:
    """The names of a stream's data, valid and ready."""
    return f"s_{port}", f"s_{port}_valid", f"s_{port}_ready"


def names(machine: Machine) -> tuple[dict[str, str], dict[str, str]]:
    """What registers and memories are called."""
    registers = {register.name: f"r{place}" for place, register in enumerate(machine.registers)}
    return registers, {memory.name: f"m{place}" for place, memory in enumerate(machine.memories)}


def heading(machine: Machine, restart: int) -> Iterator[str]:
    """The ports that hardware has."""
    yield f"module {titled(machine)} #(parameter RESTART = {restart}) ("
    yield "  input clk, input rst"
    for name, width in machine.arguments.items():
        yield f"  , input [{width - 1}:0] a_{name}"
    for into, ports in ((True, machine.inputs), (False, machine.outputs)):
        for port in ports:
            data, valid, ready = handshakes(port.name)
            one, other = ("input", "output") if into else ("output", "input")
            yield f"  , {one} [{port.width - 1}:0] {data}, {one} {valid}, {other} {ready}"


def held(machine: Machine) -> Iterator[str]:
    """What a machine keeps from turn to turn."""
    registers, memories = names(machine)
    bits = max(1, (len(machine.states) - 1).bit_length())
    yield f"  reg [{bits - 1}:0] state;"
    yield f"  reg [{_IDLE} - 1:0] idle;"
    for register in machine.registers:
        yield f"  reg [{register.width - 1}:0] {registers[register.name]}; // {register.name}"
    for memory in machine.memories:
        yield f"  reg [{memory.width - 1}:0] {memories[memory.name]} [0:{memory.depth - 1}]; // {memory.name}"
        if memory.initial is not None:
            yield "  initial begin"
            yield from (f"    {memories[memory.name]}[{place}] = {literal(value, memory.width)};" for place, value in enumerate(memory.initial))
            yield "  end"


def _lines(machine: Machine, watched: bool, restart: int) -> Iterator[str]:
    registers, memories = names(machine)
    yield from heading(machine, restart)
    memories_shared = shared(machine) if watched else []
    kept = max(len(memories_shared), 1)
    if watched:
        yield f"  , output [{kept - 1}:0] clash, output [{32 * kept - 1}:0] distance"
        yield f"  , output fired, output reg [{TURN_BITS - 1}:0] turn, output done"
    yield "  );"

    def named(place: int) -> str:
        node = machine.nodes[place]
        return literal(node.value, node.width) if node.op == "const" else f"n{place}"

    yield from held(machine)
    for place in used(machine):
        node = machine.nodes[place]
        if node.op != "const":
            yield f"  wire [{node.width - 1}:0] n{place} = {expression(machine, node, named, registers, memories)};"

    waits = {port.name: f"(~{named(port.enable)} | {handshakes(port.name)[1]})" for port in machine.inputs}
    waits |= {port.name: f"(~{named(port.enable)} | {handshakes(port.name)[2]})" for port in machine.outputs}
    yield f"  wire runs = {' & '.join(['~rst', 'idle == 0'])};"
    yield f"  wire go = {' & '.join(['runs', *waits.values()])};"
    for port in machine.inputs:
        yield f"  assign {handshakes(port.name)[2]} = go & {named(port.enable)};"
    for port in machine.outputs:  # valid, whether its own reader is ready or not (IHI 0051)
        data, valid, _ = handshakes(port.name)
        others = [wait for name, wait in waits.items() if name != port.name]
        yield f"  assign {valid} = {' & '.join(['runs', *others, named(port.enable)])};"
        yield from word(port, data, named)
    if watched:
        yield "  integer now;"
    for place, memory in enumerate(memories_shared):
        yield f"  integer m{place}_at [0:{memory.depth - 1}]; integer i{place}; reg [31:0] m{place}_least;"
        every = f"for (i{place} = 0; i{place} < {memory.depth}; i{place} = i{place} + 1)"
        yield f"  initial begin m{place}_least = -1; {every} m{place}_at[i{place}] = -1; end"
        yield f"  assign distance[{32 * place + 31}:{32 * place}] = m{place}_least;"
        pairs = [(load, at, update) for load, at in memory.loads for update in memory.updates]
        terms = [f"({named(load)} & {named(update.enable)} & {named(at)} == {named(update.address)})" for load, at, update in pairs]
        yield f"  assign clash[{place}] = go & ({' | '.join(terms)});"
    if watched and not memories_shared:
        yield "  assign clash = 0, distance = 0;"
    if watched:
        yield "  assign fired = go & state != 0;"
        yield f"  assign done = go & {named(machine.done)};"
    yield "  always @(posedge clk) begin"
    yield f"    if (rst) begin state <= 0; idle <= 0;{' turn <= -1; now <= 0;' if watched else ''} end"
    yield "    else if (idle != 0) idle <= idle - 1;"
    yield "    else if (go) begin"
    if watched:
        yield f"      turn <= {named(machine.done)} ? -1 : turn + 1;"
        yield "      now <= now + 1;"
    yield f"      if ({named(machine.done)}) begin state <= 0; idle <= RESTART - 1; end"
    for place, memory in enumerate(memories_shared):
        for load, at in memory.loads:
            since = f"now - m{place}_at[{named(at)}]"
            yield f"      if ({named(load)} && m{place}_at[{named(at)}] >= 0 && {since} > 0 && {since} < m{place}_least) m{place}_least = {since};"
        for update in memory.updates:
            yield f"      if ({named(update.enable)}) m{place}_at[{named(update.address)}] = now;"
    for condition, state in machine.jumps:
        yield f"      if ({named(condition)}) state <= {state};"
    for register in machine.registers:
        for update in register.updates:
            yield f"      if ({named(update.enable)}) {registers[register.name]} <= {named(update.value)};"
    for memory in machine.memories:
        for update in memory.updates:
            yield f"      if ({named(update.enable)}) {memories[memory.name]}[{named(update.address)}] <= {named(update.value)};"
    yield "    end"
    yield "  end"
    yield "endmodule"


def used(machine: Machine) -> list[int]:
    """The nodes that anything depends on, in order."""
    waiting = [machine.done, *(condition for condition, _ in machine.jumps)]
    waiting += [place for port in (*machine.inputs, *machine.outputs) for place in (port.enable, *(p.enable for p in port.pieces))]
    waiting += [piece.value for port in machine.outputs for piece in port.pieces]
    holders: list[Register | Memory] = [*machine.registers, *machine.memories]
    waiting += [place for memory in shared(machine) for load in memory.loads for place in load]  # which a module that is watched compares
    for holder in holders:
        waiting += [place for update in holder.updates for place in (update.enable, update.value, update.address) if place >= 0]
    found: set[int] = set()
    while waiting:
        place = waiting.pop()
        if place not in found:
            found.add(place)
            waiting += machine.nodes[place].args
    return sorted(found)


def word(port: Port, data: str, name: Callable[[int], str]) -> Iterator[str]:
    pieces: dict[tuple[int, int], list[tuple[str, str]]] = {}
    for piece in port.pieces:
        pieces.setdefault((piece.low, piece.width), []).append((name(piece.enable), name(piece.value)))
    for (low, width), arms in pieces.items():
        chosen = "".join(f"{enable} ? {value} : " for enable, value in arms[:-1]) + arms[-1][1]
        yield f"  assign {data}[{low + width - 1}:{low}] = {chosen};"


def literal(value: int, width: int) -> str:
    return f"{width}'h{value % (1 << width):x}"


def expression(machine: Machine, node: Node, name: Callable[[int], str], registers: Mapping[str, str], memories: Mapping[str, str]) -> str:
    """``name``: of the wire that a node is, or the number that it is."""
    args = [machine.nodes[place] for place in node.args]
    names = [name(place) for place in node.args]
    if node.op == "reg":
        return registers[node.name]
    if node.op == "arg":
        return f"a_{node.name}"
    if node.op == "state":
        return f"state == {node.value}"
    if node.op == "input":
        return f"s_{node.name}[{node.value + node.width - 1}:{node.value}]"
    if node.op == "load":
        return f"{memories[node.name]}[{names[0]}]"
    if node.op == "slice":
        return f"{names[0]}[{node.value + node.width - 1}:{node.value}]"
    if node.op == "zext":
        return f"{{{node.width - args[0].width}'b0, {names[0]}}}"
    if node.op == "sext":
        return f"{{{{{node.width - args[0].width}{{{names[0]}[{args[0].width - 1}]}}}}, {names[0]}}}"
    if node.op == "not":
        return f"~{names[0]}"
    if node.op == "choose":
        pairs = zip(names[::2], names[1::2], strict=False)
        return "".join(f"{condition} ? {value} : " for condition, value in pairs) + names[-1]
    if node.op == "icmp":
        signed = node.name[0] == "s"
        left, right = (f"$signed({name})" for name in names) if signed else names
        return f"{left} {_COMPARE[node.name[-2:]]} {right}"
    if node.op in _SIGNED:
        right = names[1] if node.op == "ashr" else f"$signed({names[1]})"
        return f"$signed({names[0]}) {_SIGNED[node.op]} {right}"
    if node.op in _INFIX:
        return f" {_INFIX[node.op]} ".join(names)
    raise AssertionError(node.op)
