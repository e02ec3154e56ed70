"""Pipelines: the rules that stages keep, by themselves, and what becomes of a register that breaks one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hardware_models import residual
from schedule_models import unet, upsampling
from support.rtl.machines import machines
from test_rtl_streaming import compared, network
from test_several_ports import crossed

from qfx.hardware.board import board
from qfx.hardware.design.schedule import Schedule
from qfx.hardware.folding.plan import plan
from qfx.hardware.rtl import simulate
from qfx.hardware.rtl.machines import pipelined
from qfx.hardware.rtl.machines.flow import cycles
from qfx.hardware.rtl.machines.narrow import narrow
from qfx.hardware.rtl.machines.netlist import Machine
from qfx.hardware.rtl.machines.stages import Stages, stages
from qfx.hardware.rtl.machines.streaming import instant, staged
from qfx.hardware.timing.delays import delays
from qfx.hardware.timing.simulate import simulate as simulated
from qfx.ir.graph import Graph
from qfx.ir.passes.pipeline import optimize

ON = delays("xczu9eg-ffvb1156-2-e")


def broken(machine: Machine, found: Stages) -> set[str]:
    """The rules that do not hold."""
    wrong = set()
    for place, node in enumerate(machine.nodes):
        stage = found.nodes[place]
        if any(found.nodes[arg] + (arg in found.late) > stage for arg in node.args):
            wrong.add("a value is used before it is there")
        if node.op == "reg" and stage != found.registers[node.name]:
            wrong.add("a register is not read where it is written")
        if node.op == "load" and node.name in found.memories and stage != found.memories[node.name]:
            wrong.add("a memory is not read where it is written")
    for register in machine.registers:
        if any(found.nodes[place] > found.registers[register.name] for update in register.updates for place in (update.enable, update.value)):
            wrong.add("a register is written before its value is there")
    first = [machine.done, *(port.enable for port in machine.inputs), *(condition for condition, _ in machine.jumps)]
    if any(found.nodes[place] for place in first):
        wrong.add("what a turn does is decided too late")
    return wrong


def test_stages_keep_the_rules(tmp_path: Path) -> None:
    made = [narrow(machine) for machine in machines(network(), tmp_path)]
    deepest, moved = {}, 0
    for period_ns in (1.5, 3.0, 50.0):
        found = [stages(machine, ON, period_ns) for machine in made]
        deepest[period_ns] = max(one.last for one in found)
        for machine, own in zip(made, found, strict=True):
            assert broken(machine, own) == set(), machine.name
            waiting = [place for place in range(len(machine.nodes)) if own.nodes[place] and waits(machine, own, place)]
            for place in waiting[:3]:  # in the least stage: one earlier breaks a rule
                early = replace(own, nodes=(*own.nodes[:place], own.nodes[place] - 1, *own.nodes[place + 1 :]))
                assert broken(machine, early), (machine.name, place)
                moved += 1
    assert moved > 10
    assert deepest[1.5] > deepest[3.0] > deepest[50.0], deepest


def waits(machine: Machine, found: Stages, place: int) -> bool:
    """Whether a node can be no earlier for what it is made of."""
    node = machine.nodes[place]
    return node.op in ("reg", "load") or any(found.nodes[arg] + (arg in found.late) == found.nodes[place] for arg in node.args)


@pytest.mark.parametrize("make", [network, residual, upsampling, crossed], ids=lambda make: make.__name__)
def test_cycles_are_those_of_the_model(make: Callable[[], Graph]) -> None:
    """Without stages the same; with stages as many cycles from frame to frame, and never more until the first one has left."""
    design = plan(optimize(make()), board("zcu102"), Schedule(), clock_ns=5).design
    plain = simulated(instant(design), 3)
    assert cycles(design, {}, 3) == (plain.latency, plain.interval)
    deep = {process.name: 2 + place % 5 for place, process in enumerate(design.processes)}
    model = simulated(staged(design, deep), 3)
    latency, interval = cycles(design, deep, 3)
    assert interval == model.interval
    assert plain.latency < latency <= model.latency


def test_a_pipeline_takes_more_turns_while_its_last_one_waits(thorough: bool) -> None:
    """Words leave earlier than in the model where FIFOs are full: of all designs in this one, whose frames are long."""
    if not thorough:
        pytest.skip("200,000 turns with --thorough")
    design = plan(optimize(unet()), board("zcu102"), Schedule(), clock_ns=5).design
    deep = {process.name: 2 + place % 5 for place, process in enumerate(design.processes)}
    model = simulated(staged(design, deep), 3)
    latency, interval = cycles(design, deep, 3)
    assert (interval, latency < model.latency) == (model.interval, True)


def test_a_register_that_is_written_a_stage_late_is_found(tmp_path: Path, thorough: bool) -> None:
    if not thorough:
        pytest.skip("two benches are built with --thorough")
    folder = tmp_path / "v"
    found = compared(network(), folder, pipelined=True)
    machine = next(one for one in map(narrow, machines(network(), tmp_path / "cpp")) if one.name.endswith("_matvec"))
    own = stages(machine, ON, 5 * 0.73 - ON.register)
    late = replace(own, last=own.last + 1, registers={name: stage + 1 if stage == own.last else stage for name, stage in own.registers.items()})
    (source,) = (folder / "rtl").glob("*_matvec.v")
    source.write_text(pipelined.module(machine, late))
    (folder / "build" / "bench").unlink()
    simulate.build(folder)
    assert not simulate.run(folder, found.hardware, found.frames).passed
