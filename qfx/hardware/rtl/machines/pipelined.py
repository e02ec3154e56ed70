"""A machine with a pipeline as a Verilog module: the ports and turns of ``verilog.module``; the words of a turn leave ``Stages.last`` cycles later.

A turn goes on from stage to stage as soon as the next one is free, so that what is in the pipeline leaves it whether anything follows or not (what
the vendor's tools call flushable), and waits in the last stage while a word cannot leave.
"""

from __future__ import annotations

from collections.abc import Iterator

from qfx.hardware.rtl.machines.netlist import Machine
from qfx.hardware.rtl.machines.stages import WIRES, Stages
from qfx.hardware.rtl.machines.verilog import expression, handshakes, heading, held, literal, names, word


def module(machine: Machine, stages: Stages, *, restart: int = 1) -> str:
    """``restart``: as of ``verilog.module``."""
    return "\n".join(_lines(machine, stages, restart)) + "\n"


def needed(machine: Machine, stages: Stages) -> list[set[int]]:
    """Of each node the stages in which its value is there: from the one in which it is worked out to the last in which anything looks at it."""
    found: list[set[int]] = [set() for _ in machine.nodes]

    def need(place: int, stage: int) -> None:
        found[place].add(stage)

    for port in machine.inputs:
        need(port.enable, 0)
    for place in (machine.done, *(condition for condition, _ in machine.jumps)):
        need(place, 0)
    for port in machine.outputs:
        for place in (port.enable, *(place for piece in port.pieces for place in (piece.enable, piece.value))):
            need(place, stages.last)
    for register in machine.registers:
        for update in register.updates:
            need(update.enable, stages.registers[register.name])
            need(update.value, stages.registers[register.name])
    for memory in machine.memories:
        for update in memory.updates:
            for place in (update.enable, update.value, update.address):
                need(place, stages.memories[memory.name])
    for place in range(len(machine.nodes) - 1, -1, -1):
        node, at = machine.nodes[place], found[place]
        if at and node.op not in WIRES:
            at |= set(range(stages.nodes[place], max(at)))
        for stage in at if node.op in WIRES else {stages.nodes[place]} if at else ():
            for arg in node.args:
                need(arg, stage)
    return found


def _lines(machine: Machine, stages: Stages, restart: int) -> Iterator[str]:
    registers, memories = names(machine)
    last = stages.last

    def named(place: int, stage: int) -> str:
        node = machine.nodes[place]
        if node.op == "const":
            return literal(node.value, node.width)
        return f"n{place}" if stage == stages.nodes[place] else f"n{place}_{stage}"

    yield from heading(machine, restart)
    yield "  );"
    yield from held(machine)
    moved: list[list[str]] = [[] for _ in range(last + 1)]
    for place, at in enumerate(needed(machine, stages)):
        node = machine.nodes[place]
        if node.op == "const":
            continue
        for stage in sorted(at):
            own = named(place, stage)
            if stage == stages.nodes[place] or node.op in WIRES:
                text = expression(machine, node, lambda arg, stage=stage: named(arg, stage), registers, memories)  # type: ignore[misc]
                yield f"  wire [{node.width - 1}:0] {own} = {text};"
            else:
                yield f"  reg [{node.width - 1}:0] {own};"
                moved[stage - 1].append(f"{own} <= {named(place, stage - 1)};")
    yield from (f"  reg v{stage};" for stage in range(1, last + 1))
    come = [f"(~{named(port.enable, 0)} | {handshakes(port.name)[1]})" for port in machine.inputs]
    waits = {port.name: f"(~{named(port.enable, last)} | {handshakes(port.name)[2]})" for port in machine.outputs}
    yield f"  wire v0 = {' & '.join(['~rst', 'idle == 0', *come])};"
    yield f"  wire go{last} = {' & '.join([f'v{last}', *waits.values()])};"
    for stage in range(last - 1, -1, -1):
        yield f"  wire go{stage} = v{stage} & (~v{stage + 1} | go{stage + 1});"
    for port in machine.inputs:
        yield f"  assign {handshakes(port.name)[2]} = go0 & {named(port.enable, 0)};"
    for port in machine.outputs:
        data, valid, _ = handshakes(port.name)
        others = [wait for name, wait in waits.items() if name != port.name]
        yield f"  assign {valid} = {' & '.join([f'v{last}', *others, named(port.enable, last)])};"
        yield from word(port, data, lambda place: named(place, last))
    for register in machine.registers:
        stage = stages.registers[register.name]
        for update in register.updates:
            moved[stage].append(f"if ({named(update.enable, stage)}) {registers[register.name]} <= {named(update.value, stage)};")
    for memory in machine.memories:
        for update in memory.updates:
            stage = stages.memories[memory.name]
            enable, value, address = (named(place, stage) for place in (update.enable, update.value, update.address))
            moved[stage].append(f"if ({enable}) {memories[memory.name]}[{address}] <= {value};")
    yield "  always @(posedge clk) begin"
    yield "    if (rst) begin state <= 0; idle <= 0; end"
    yield "    else if (idle != 0) idle <= idle - 1;"
    yield "    else if (go0) begin"
    yield f"      if ({named(machine.done, 0)}) begin state <= 0; idle <= RESTART - 1; end"
    yield from (f"      if ({named(condition, 0)}) state <= {state};" for condition, state in machine.jumps)
    yield "    end"
    yield "  end"
    for stage, lines in enumerate(moved):
        if stage < last:
            yield f"  always @(posedge clk) v{stage + 1} <= ~rst & (go{stage} | (v{stage + 1} & ~go{stage + 1}));"
        if lines:
            yield f"  always @(posedge clk) if (go{stage}) begin"
            yield from (f"    {line}" for line in lines)
            yield "  end"
    yield "endmodule"
