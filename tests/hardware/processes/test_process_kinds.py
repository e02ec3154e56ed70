"""Process kinds: one that is defined here, outside, passes all that the hardware side asks of a process; one with a gap cannot be defined at all."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from dataclasses import FrozenInstanceError, dataclass, fields, is_dataclass, replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from hardware_models import DIRECTED, few_of_each, from_ddr, in_batches, side_by_side, spilled, whole_pixels
from random_schedules import random_schedule
from schedule_models import upsampling
from support.bounded import build, differences
from test_several_ports import crossed

from qfx.fixed.type import FixedType
from qfx.hardware import processes
from qfx.hardware.board import board
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.estimate import estimate
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design import design as d
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Folding, Schedule
from qfx.hardware.design.storage import Memory
from qfx.hardware.emit.emit import emit_sources
from qfx.hardware.emit.spelling import Unit, stream
from qfx.hardware.folding.least import Weights
from qfx.hardware.folding.option import common_widths
from qfx.hardware.folding.options import OUTPUT, layers
from qfx.hardware.processes import PROCESSES, Process
from qfx.hardware.processes.process import REQUIRED, Setting
from qfx.hardware.processes.traits import Buffering, OneToOne, Widening
from qfx.hardware.timing.delays import Recurrence, loops
from qfx.hardware.timing.fifo import least_depths, size_fifos
from qfx.hardware.timing.program import Turns, every, held
from qfx.hardware.timing.simulate import DeadlockError, simulate

NUMBER, SUM = FixedType(6, 3), FixedType(7, 4)
LATE, WORDS = 5, 24


@dataclass(frozen=True, slots=True)
class Delay(OneToOne, Buffering, Widening):
    """Every word ``late`` turns after it came."""

    name: str
    input: d.Stream
    output: d.Stream
    late: int

    @property
    def cycles(self) -> int:
        return self.input.words + self.late

    def turns(self) -> Turns:
        words = self.input.words
        return words + self.late, (every(words),), (held(np.arange(self.late, words + self.late)),)

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        return (loops(self.cycles),)

    @property
    def memories(self) -> tuple[Memory, ...]:
        return (Memory(self.late, self.input.bits),)

    def logic(self, on: Device) -> Resources:
        return self.control() + r.counter(self.late)

    def unit(self, ports: tuple[str, str]) -> Unit:
        word, words = stream(self.input.type, self.input.parallel).removeprefix("hls::stream<").removesuffix(" >"), self.input.words
        body = (
            f"{word} kept[{self.late}];",
            f"for (int n = 0; n < {words + self.late}; n++) {{",
            "  QFX_PIPELINE",
            "  QFX_TURN();",
            f"  {word} came;",
            f"  if (n < {words}) came = in.read();",
            f"  if (n >= {self.late}) out.write(kept[n % {self.late}]);",
            f"  kept[n % {self.late}] = came;",
            "}",
        )
        return replace(self.call(""), body=body)

    def widths(self, setting: Setting) -> list[int]:
        return common_widths(2, (*self.sources, *self.targets))


def design(parallel: int = 2) -> d.Design:
    """x, and x late, added: the shorter way must keep what the longer one holds."""
    words = WORDS // parallel
    streams = {name: d.Stream(f"{name}_s", NUMBER, parallel, words, words) for name in ("x", "here", "there", "late")}
    total, last = d.Stream("total_s", SUM, parallel, words, 2), d.Stream("last_s", FixedType(1, 1, signed=False), 1, 1, 64)
    add = d.Epilogue((NUMBER, NUMBER), (d.Step("add", SUM, (0, 0)),), SUM, 2)
    parts: tuple[tuple[Process, str], ...] = (
        (d.FromPort("input_port", streams["x"], last, 8), "x"),
        (d.Fork("x_fork", streams["x"], (streams["here"], streams["there"])), "x"),
        (Delay("x_delay", streams["there"], streams["late"], LATE), "delay"),
        (d.Binary("x_add", (streams["here"], streams["late"]), total, WORDS // 2, 2, add), "add"),
        (d.ToPort("output_port", total, last, 8), "add"),
    )
    ports = (d.Port(NUMBER, (2, WORDS // 2), 8, parallel), d.Port(SUM, (2, WORDS // 2), 8, parallel))
    return d.Design(tuple(part for part, _ in parts), tuple(node for _, node in parts), (*streams.values(), total, last), *ports)


def test_a_kind_from_outside_is_timed_sized_and_emitted(gxx: str, tmp_path: Path) -> None:
    """Its C++ takes the turns that it says, gives the right numbers, and stops where the analysis says."""
    sized = size_fifos(design())
    timing = simulate(sized)
    delay = sized.processes[2]
    assert timing.processes[2].turns == delay.program.turns == delay.cycles == WORDS // 2 + LATE
    assert timing.interval == timing.bottleneck.busy == delay.busy
    least = least_depths(sized)
    assert least["here_s"] > LATE  # words that wait while the first one is late
    x_raw = np.random.default_rng(0).integers(-32, 32, (3, 2, WORDS // 2))
    bundle = build((sized,), tmp_path)
    found = bundle.run(0, x_raw)
    assert np.array_equal(found.y_raw, 2 * x_raw)
    assert differences(sized, found) == []
    for short, stops in ((least, False), (least | {"here_s": least["here_s"] - 1}, True)):
        try:
            bundle.run(0, x_raw, short)
            stopped = False
        except DeadlockError:
            stopped = True
        assert stopped is stops
    assert "QFX_TURN" in emit_sources(sized, "top")["src/layers.h"]


def test_a_kind_from_outside_is_estimated_and_folded() -> None:
    made, on = design(1), board("ultra96v2")
    device = r.device(on.part)
    cost = {cost.process: cost for cost in estimate(made, on).costs}["x_delay"]
    delay = made.processes[2]
    assert (cost.node, cost.cycles) == ("delay", WORDS + LATE)
    assert cost.resources == delay.cost(device) + r.fifo(WORDS, NUMBER.width)
    assert delay.cost(device) == delay.logic(device) + r.ram(LATE, NUMBER.width, device)
    found = {layer.name: layer for layer in layers(made, on, {})}
    assert list(found) == ["x", "delay", "add", OUTPUT]
    assert found["delay"].foldings == (Folding(1), Folding(2))
    assert found["delay"].sources == (("x", WORDS),)
    assert found["delay"].busy.tolist() == [process.busy for process in (delay, design(2).processes[2])]
    assert Weights.of(made) == Weights(0, 0, 0, 0)


def complete() -> dict[str, object]:
    """All that a kind must define."""
    return {member: getattr(Delay, member) for member in REQUIRED}


@pytest.mark.parametrize("member", REQUIRED)
def test_a_kind_with_a_gap_is_no_class(member: str) -> None:
    type("Whole", (Process,), complete())
    with pytest.raises(TypeError, match=rf"process kind Planted does not define {member} "):
        type("Planted", (Process,), {name: value for name, value in complete().items() if name != member})


def test_a_gap_is_no_class_by_way_of_traits_either() -> None:
    with pytest.raises(TypeError, match=r"process kind Planted does not define cycles, turns, recurrences, memories, logic, unit, widths"):

        class Planted(OneToOne, Buffering, Widening):
            pass


def test_every_kind_is_listed_frozen_and_in_the_package() -> None:
    modules = [import_module(f"{processes.__name__}.{module.name}") for module in pkgutil.iter_modules(processes.__path__)]
    defined = {value for module in modules for value in vars(module).values() if isinstance(value, type) and issubclass(value, Process)}
    kinds = {kind for kind in defined if is_dataclass(kind)}
    assert kinds == set(PROCESSES)
    assert len(PROCESSES) == len(kinds)
    assert sum(not module.ispkg for module in pkgutil.iter_modules(processes.__path__)) < 20
    for process in lower(DIRECTED[0](), Schedule()).processes:
        with pytest.raises(FrozenInstanceError):
            process.name = "other"


def test_what_kinds_say_holds_together() -> None:
    """Costs are those of the parts; the streams are the fields; what travels beside the numbers is one of them."""
    rng, device, seen = np.random.default_rng(1), r.ULTRASCALE, set()
    merged = lower(crossed(), Schedule.of({}, merged=True))
    designs = [lower(graph, random_schedule(graph, rng)) for graph in (make() for make in (*DIRECTED, upsampling))]
    for made in (
        *designs,
        merged,
        lower(*side_by_side()),
        lower(*whole_pixels()),
        lower(*from_ddr()),
        lower(*in_batches()),
        lower(*few_of_each()),
        lower(*spilled()),
    ):
        outer = made.processes
        for process in (*outer, *(part for loop in outer if isinstance(loop, d.Loop) for part in loop.step.parts)):
            seen.add(type(process))
            held_streams = [getattr(process, field.name) for field in fields(process)]  # type: ignore[arg-type]
            flat = [one for value in held_streams for one in (value if isinstance(value, tuple) else (value,)) if isinstance(one, d.Stream)]
            assert sorted(one.name for one in flat) == sorted(one.name for one in (*process.sources, *process.targets))
            assert set(process.marks) <= {*process.sources, *process.targets}
            deeper = process.with_streams(lambda one: replace(one, depth=99))
            assert {one.depth for one in (*deeper.sources, *deeper.targets)} == {99}
            assert type(deeper) is type(process)
            memories = [
                (r.rom(one.depth, one.width, one.asked) if one.constant else r.ram(one.depth, one.width, device, one.asked)) * one.count
                for one in process.memories
            ]
            assert process.cost(device) == r.total([process.logic(device), *memories])
            assert process.unit(("in", "out")).name == process.name
    assert seen == set(PROCESSES)


def test_kinds_know_nothing_of_those_who_ask_them() -> None:
    """Neither a design, nor lowering, simulation, estimate, search or emission is imported with them."""
    code = "import qfx.hardware.processes, sys; print('\\n'.join(name for name in sys.modules if name.startswith('qfx.hardware.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    above = ("design.design", "design.lower", "design.build", "design.loading", "timing.simulate", "timing.fifo", "cost.estimate")
    above = (*above, "folding.options", "folding.search", "emit.cpp", "emit.emit", "emit.templates", "project.project")
    assert not set(done.stdout.split()) & {f"qfx.hardware.{name}" for name in above}
