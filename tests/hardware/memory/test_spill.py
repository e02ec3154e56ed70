"""FIFOs in the board's memory: the same numbers, the turns of the model, however late memory answers, and what is found where something is wrong."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from hardware_models import conv, scalar, spilled
from support import bounded

from qfx.errors import ProjectError
from qfx.hardware.board import board
from qfx.hardware.design import design as d
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Folding, Schedule
from qfx.hardware.emit.emit import emit
from qfx.hardware.folding import summary
from qfx.hardware.folding.plan import plan
from qfx.hardware.processes.memory.from_memory import BURST_BEATS, LATENCY_CYCLES
from qfx.hardware.processes.memory.spill import TURNS
from qfx.hardware.project import csim
from qfx.hardware.project.project import Project, write_project
from qfx.hardware.timing import fifo
from qfx.hardware.timing.program import Turns, held
from qfx.hardware.timing.simulate import DeadlockError
from qfx.hardware.timing.simulate import simulate as timed
from qfx.ir.graph import Graph, Node
from qfx.ir.interpret import quantize_input, run_from_raw
from qfx.operators import Add, Cast, Input
from qfx.testing import adversarial_inputs, assert_bit_exact


def raws(graph: Graph, count: int, seed: int = 0) -> np.ndarray:
    return quantize_input(graph, adversarial_inputs(graph, np.random.default_rng(seed), count))


@pytest.fixture(scope="module")
def harness(gxx: str, tmp_path_factory: pytest.TempPathFactory) -> bounded.BoundedBundle:
    assert gxx
    return bounded.build([fifo.size_fifos(lower(*spilled()))], tmp_path_factory.mktemp("bounded"))


@pytest.mark.parametrize("stalls", [0, 1, 2])
def test_the_harness_finds_the_same_numbers_and_the_turns_of_the_model(harness: bounded.BoundedBundle, stalls: int) -> None:
    graph, _ = spilled()
    x = raws(graph, 4, stalls)
    found = harness.run(0, x, stalls=stalls)
    assert_bit_exact(found.y_raw, run_from_raw(graph, x))
    assert bounded.differences(harness.designs[0], found) == []
    for process, frames in zip(harness.designs[0].processes, found.ports, strict=True):
        if isinstance(process, d.Spill):
            words = process.input.words
            # Whatever holds it up: a word is taken, written, read and given, each in a turn of its own, in whichever frame's call. The model has that
            # for a frame, and the time in which memory answers to two bursts for every BURST_BEATS words.
            assert sum(frame.turns for frame in frames) == 4 * words * len(frames)
            assert process.program.turns == 4 * words + 2 * LATENCY_CYCLES * words // BURST_BEATS
            assert all(len(numbers) == words for frame in frames for numbers in (*frame.reads, *frame.writes))


def test_the_harness_stops_where_words_have_no_room(harness: bounded.BoundedBundle) -> None:
    """Not even memory helps where the other way round a layer is too short; and who waits for what is told."""
    graph, _ = spilled()
    with pytest.raises(DeadlockError) as caught:
        harness.run(0, raws(graph, 2), {"relu_q_4_s": 20})
    assert "relu_q_4_s" in str(caught.value)


class Late(d.Spill):
    """Memory that takes its time, and now and then more."""

    @property
    def cycles(self) -> int:
        return self.turns()[0]

    def turns(self) -> Turns:
        gaps = np.random.default_rng(len(self.name)).choice([TURNS, 2 * TURNS, 400], self.input.words, p=[0.6, 0.35, 0.05])
        at = held(np.cumsum(gaps).astype(np.int64))
        return int(at[-1]) + 1, (at,), (at,)


def test_late_memory_takes_time_and_nothing_else() -> None:
    design = fifo.size_fifos(lower(*spilled()))
    late = tuple(Late(one.name, one.input, one.output, one.bits, one.port) if isinstance(one, d.Spill) else one for one in design.processes)
    slowest = max(process.program.turns for process in late)
    usual, held_up = timed(design), timed(replace(design, processes=late))
    assert usual.latency < held_up.latency
    assert usual.interval <= held_up.interval <= 3 * slowest + 2000


def test_its_room_is_what_the_analysis_says() -> None:
    """With the least the design runs, with a word less it stops: as any FIFO."""
    design = fifo.size_fifos(lower(*spilled()))
    least = fifo.least_depths(design)["relu_q_2_here_s"]
    assert least > 1
    assert timed(design, depths={"relu_q_2_here_s": least}).interval
    with pytest.raises(DeadlockError):
        timed(design, depths={"relu_q_2_here_s": least - 1})


def test_the_chip_need_not_hold_what_memory_does() -> None:
    graph, schedule = deep()
    plain, made = (plan(graph, board("zcu102"), replace(schedule, fifo_storage=one), clock_ns=5) for one in ((), (("x_5_s", "ddr"),)))
    (one,) = (process for process in made.design.processes if isinstance(process, d.Spill))
    assert one.beats == one.output.depth > 10 * one.output.built
    assert made.interval == plain.interval
    assert made.estimate.total.bram18 < plain.estimate.total.bram18
    assert made.memory_bytes - plain.memory_bytes == one.frame_bytes == 2 * 16 * 32 * 32
    assert "in the board's memory: x_5_here_s" in summary.as_text(made, "deep")


@pytest.fixture(scope="module")
def project(gxx: str, tmp_path_factory: pytest.TempPathFactory) -> Project:
    assert gxx
    graph, schedule = spilled()
    return write_project(graph, tmp_path_factory.mktemp("project") / "p", board="ultra96v2", schedule=schedule)


def test_a_project_is_bit_exact(project: Project) -> None:
    graph, _ = spilled()
    x = adversarial_inputs(graph, np.random.default_rng(5), 3)
    want = run_from_raw(graph, quantize_input(graph, x))
    assert_bit_exact(csim.run_raw(project.path, x), want)


def test_only_files_that_are_there_are_deployed(project: Project) -> None:
    """A project whose memory holds rings alone has no folder of weights to copy."""
    graph, schedule = spilled()
    alone = replace(schedule, foldings=tuple((name, Folding(4, 2, "pair") if name == "tiled" else folding) for name, folding in schedule.foldings))
    made = fifo.size_fifos(lower(graph, alone))
    assert made.masters
    assert not made.weights_in_memory
    files = emit(graph, alone, board("ultra96v2"), clock_ns=5.0, top="t", design=made)
    assert "tb/memory" not in str(files["Makefile"])
    assert "memory/" not in str(files["script.tcl"])
    assert "cp -R tb/memory" in (project.path / "Makefile").read_text(encoding="utf-8")
    assert re.findall(r"memory/\w+\.bin", (project.path / "script.tcl").read_text(encoding="utf-8")) == ["memory/tiled_memory.bin"]


def test_the_driver_gives_it_room_and_no_file(project: Project) -> None:
    about = json.loads((project.path / "driver/accelerator.json").read_text(encoding="utf-8"))["memories"]
    rings = [one for one in about if "sha256" not in one]
    assert [one["name"] for one in rings] == ["relu_q_2_ring", "second_2_ring", "joined_q_ring", "out_ring"]
    assert all(one["bytes"] > 0 for one in rings)
    assert sorted(path.name for path in (project.path / "tb/memory").iterdir()) == ["tiled_memory.bin"]
    tcl = (project.path / "vivado.tcl").read_text(encoding="utf-8")
    assert all(f"accelerator/m_axi_{one['name']}" in tcl for one in about)
    text = (project.path / "src" / f"{project.top}.cpp").read_text(encoding="utf-8")
    assert "\n#pragma HLS INTERFACE m_axi port=relu_q_2_ring bundle=relu_q_2_ring offset=slave depth=" in text
    assert "max_write_burst_length=64 num_write_outstanding=1" in text


def test_the_model_of_the_board_runs_it(project: Project) -> None:
    done = subprocess.run(["make", "-s", "selftest"], cwd=project.path, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_planted_bit_is_found(project: Project) -> None:
    """That memory changes. (Behind the others: what it builds stays.)"""
    graph, _ = spilled()
    right, wrong = "memory[got + beat];", "memory[got + beat] ^ uint<BITS>(got == 0 && beat == 7);"
    x = adversarial_inputs(graph, np.random.default_rng(5), 3)
    header = project.path / "include/qfx/memory/spill.h"
    text = header.read_text(encoding="utf-8")
    assert right in text
    try:
        header.write_text(text.replace(right, wrong), encoding="utf-8")
        assert (csim.run_raw(project.path, x) != run_from_raw(graph, quantize_input(graph, x))).any()
    finally:
        header.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "board_", "complaint"),
    [
        ("last_s", "ultra96v2", "carries TLAST"),
        ("nobody_s", "ultra96v2", "no FIFO is called 'nobody_s'"),
        ("relu_q_2_s", "bare", "a FIFO is to lie in the board's memory, but ultra96v2 says nothing of one"),
    ],
)
def test_what_cannot_be_in_memory_is_refused(name: str, board_: str, complaint: str) -> None:
    graph, schedule = spilled()
    on = replace(board("ultra96v2"), memory_gb_s=0.0 if board_ == "bare" else 3.0)
    foldings = tuple((layer, replace(folding, weights="auto", rows=0)) for layer, folding in schedule.foldings)
    with pytest.raises(ProjectError, match=re.escape(complaint)):
        plan(graph, on, replace(schedule, foldings=foldings, fifo_storage=((name, "ddr"),)), clock_ns=5)


def test_line_buffers_in_memory_are_refused() -> None:
    with pytest.raises(ProjectError, match="the line buffer is to lie in the board's memory") as caught:
        Folding(buffer="ddr")
    assert "--style sequential" in str(caught.value)


def test_frames_too_long_to_simulate_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fifo, "MAX_WORDS", 100)
    with pytest.raises(ProjectError, match="too many to simulate") as caught:
        fifo.plan(lower(*spilled()))
    assert caught.value.where.startswith("[fifos] ")


def test_fifos_go_to_memory_where_block_ram_does_not_hold_them() -> None:
    """And not where it does; the folding file says so, and gives the same design again."""
    graph, schedule = deep()
    large = plan(graph, board("zcu102"), schedule, clock_ns=5, spills=True)
    assert not large.schedule.fifo_storage
    small = replace(board("zcu102"), bram36=29, lut=10_500)
    made = plan(graph, small, schedule, clock_ns=5, spills=True)
    assert [place for _, place in made.schedule.fifo_storage] == ["ddr"]
    assert made.estimate.total.bram18 < large.estimate.total.bram18
    assert made.memory_bytes == sum(one.frame_bytes for one in made.design.masters) > 0
    again = plan(graph, small, made.schedule, clock_ns=5)
    assert again.estimate == made.estimate
    assert again.design.streams == made.design.streams


def deep() -> tuple[Graph, Schedule]:
    """A shortcut of 16 channels round a layer that wants all of its frame first."""
    wide = Cast(scalar("ap_fixed<8,4,AP_RND,AP_SAT>"))
    nodes = (
        Node("x", Input((16, 32, 32), scalar("ap_fixed<8,4,AP_RND,AP_SAT>"))),
        Node("tiled", conv(170, 16, 16, 3, 3, pads=(1, 1)), ("x",)),
        Node("tiled_q", wide, ("tiled",)),
        Node("pooled", conv(172, 16, 16, 1, 1), ("tiled_q",)),
        Node("sum", Add(), ("pooled", "x")),
        Node("out", wide, ("sum",)),
    )
    foldings = {"tiled": Folding(8, 8, weights="ddr"), "pooled": Folding(8, 4)}
    return Graph("deep", nodes, "out"), Schedule.of(foldings, input_parallel=4, output_parallel=4)
