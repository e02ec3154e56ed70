"""Fully connected layers that read their weights from memory once for several frames: the same numbers, the turns of the model, and the refusals."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hardware_models import chain, const, conv, in_batches, scalar
from support import bounded

from qfx.cli import main
from qfx.errors import ProjectError
from qfx.export.onnx_file import save
from qfx.hardware.board import board
from qfx.hardware.design import design as d
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Folding, Request, Schedule
from qfx.hardware.folding.plan import plan
from qfx.hardware.folding.search import resolve
from qfx.hardware.processes.memory.from_memory import FromMemory
from qfx.hardware.project import csim
from qfx.hardware.project.project import Project, write_project
from qfx.hardware.rtl.machines.streaming import hardware
from qfx.hardware.timing.fifo import size_fifos, with_depths
from qfx.hardware.timing.simulate import DeadlockError, simulate
from qfx.ir.graph import Graph, Node
from qfx.ir.interpret import quantize_input, run_from_raw
from qfx.operators import Add, Cast, Input, Linear
from qfx.testing import adversarial_inputs, assert_bit_exact

NARROW = Cast(scalar("ap_fixed<6,3,AP_RND,AP_SAT>"))
BATCH = 3
BOARD = board("ultra96v2")


def raws(graph: Graph, count: int, seed: int = 0) -> np.ndarray:
    return quantize_input(graph, adversarial_inputs(graph, np.random.default_rng(seed), count))


def classifier(inputs: int = 512) -> Graph:
    return chain("wide", (inputs,), Linear(const(0, 512, inputs, bits=8), None), NARROW, Linear(const(1, 8, 512, bits=8), None), NARROW)


@pytest.fixture(scope="module")
def harness(gxx: str, tmp_path_factory: pytest.TempPathFactory) -> bounded.BoundedBundle:
    assert gxx
    return bounded.build([size_fifos(lower(*in_batches()))], tmp_path_factory.mktemp("bounded"))


@pytest.mark.parametrize("stalls", [0, 1, 2])
def test_the_harness_finds_the_same_numbers_and_the_turns_of_the_model(harness: bounded.BoundedBundle, stalls: int) -> None:
    """With FIFOs as deep as they are sized, however late memory answers."""
    graph, _ = in_batches()
    x = raws(graph, 4 * BATCH, stalls)
    found = harness.run(0, x, stalls=stalls)
    assert_bit_exact(found.y_raw, run_from_raw(graph, x))
    assert bounded.differences(harness.designs[0], found) == []


def test_another_batch_and_another_bit_are_found(harness: bounded.BoundedBundle) -> None:
    graph, _ = in_batches()
    (design,) = harness.designs
    x = raws(graph, 16 * BATCH)
    found = harness.run(0, x)
    assert bounded.differences(replace(design, once=frozenset()), found)
    want = run_from_raw(graph, x)
    for place, process in enumerate(design.processes):
        if isinstance(process, FromMemory) and process.frames > 1:
            values = process.values.copy()
            values[0, 0] ^= 1
            processes = (*design.processes[:place], replace(process, values=values), *design.processes[place + 1 :])
            changed = bounded.BoundedBundle(harness.executable, (replace(design, processes=processes),))
            assert (changed.run(0, x).y_raw != want).any(), process.name


def test_fewer_places_than_the_branch_round_a_layer_needs_are_a_deadlock() -> None:
    """The layer holds what it joins of all frames of a call before it takes its own input: room for one frame of that is not enough."""
    design = size_fifos(lower(*in_batches()))
    tiles = [process for process in design.processes if isinstance(process, d.Tiles)]
    source = next(process.input for process in tiles if process.beside is not None)
    assert design.words(source) == BATCH * source.words
    simulate(design)
    with pytest.raises(DeadlockError):
        simulate(with_depths(design, {source.name: source.words}))


def test_weights_are_read_once_for_all_frames() -> None:
    graph, schedule = in_batches()
    each, together = (plan(graph, BOARD, replace(schedule, batch=batch), clock_ns=5) for batch in (1, BATCH))
    of = [{master.port: master.frame_bytes for master in made.design.weights_in_memory} for made in (each, together)]
    for name, bytes_ in of[0].items():
        assert of[1][name] == (bytes_ if name.startswith("conv") else -(-bytes_ // BATCH))
    assert together.memory_bytes < each.memory_bytes
    assert together.timing is not None
    assert together.interval == -(-together.timing.interval // BATCH) >= max(map(together.design.busy, together.design.processes)) // BATCH
    rows = [[process.kept.depth for process in made.design.processes if isinstance(process, d.Tiles)] for made in (each, together)]
    assert rows[1] == [rows[0][0], *(BATCH * depth for depth in rows[0][1:])]


@pytest.fixture(scope="module")
def project(gxx: str, tmp_path_factory: pytest.TempPathFactory) -> Project:
    assert gxx
    graph, schedule = in_batches()
    return write_project(graph, tmp_path_factory.mktemp("project") / "p", board="ultra96v2", schedule=schedule)


@pytest.mark.parametrize("frames", [2 * BATCH, 1, BATCH + 1])
def test_a_project_takes_any_number_of_frames(project: Project, frames: int) -> None:
    graph, _ = in_batches()
    x = adversarial_inputs(graph, np.random.default_rng(frames), frames)
    assert_bit_exact(csim.run_raw(project.path, x), run_from_raw(graph, quantize_input(graph, x)))


def test_the_board_s_model_takes_any_number_of_frames(project: Project) -> None:
    """The self-test: all golden vectors in a transfer, one by one and in pairs, none of which is a multiple of the batch."""
    make = ["make", "-C", str(project.path), "selftest"]
    done = subprocess.run(make, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


def test_a_transfer_of_no_multiple_is_refused_by_the_test_bench(project: Project, tmp_path: Path) -> None:
    given = tmp_path / "words.bin"
    given.write_bytes(bytes(24))
    command = [str(project.path / "build" / "tb"), "--words", str(given), str(tmp_path / "out.bin")]
    done = subprocess.run(command, cwd=project.path / "tb", capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no multiple of a frame of 24, of which a call takes 3" in done.stderr


def test_a_search_with_a_batch_goes_past_the_bandwidth_of_single_frames() -> None:
    slow = replace(BOARD, memory_gb_s=0.1)
    graph = classifier()
    single, many = (resolve(graph, slow, Request(fit=True, memory="ddr", batch=batch), clock_ns=5) for batch in (1, 8))
    assert single.interval == single.memory_cycles
    assert many.interval < single.interval / 6
    with pytest.raises(ProjectError, match="MB of weights a frame"):
        resolve(graph, slow, Request(fps=1000, memory="ddr"), clock_ns=5)
    assert resolve(graph, slow, Request(fps=1000, memory="ddr", batch=8), clock_ns=5).fps >= 1000


@pytest.mark.parametrize("request_", [Request(memory="ddr", batch=4), Request(foldings=(("conv0", Folding(weights="ddr")),), batch=4)])
def test_a_network_without_such_layers_is_refused(request_: Request) -> None:
    graph = chain("convolutions", (4, 4, 4), conv(0, 4, 4, 3, 3))
    with pytest.raises(ProjectError, match="--batch 4: frames share the weights of fully connected layers"):
        resolve(graph, BOARD, request_, clock_ns=5)


def test_a_batch_too_long_to_simulate_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is set so low that one frame stays below it and three do not."""
    graph, schedule = in_batches()
    design = lower(graph, schedule)
    monkeypatch.setattr("qfx.hardware.timing.fifo.MAX_WORDS", sum(map(design.words, design.streams)) - 1)
    with pytest.raises(ProjectError, match="3 frames move") as caught:
        size_fifos(design)
    assert "smaller --batch" in caught.value.remedy


def test_what_has_no_form_for_several_frames_is_refused() -> None:
    with pytest.raises(ProjectError, match="one by one") as caught:
        hardware(size_fifos(lower(*in_batches())), "top", "model", frames=2)
    assert caught.value.where == "--batch 3"
    first, *rest = classifier(8).nodes
    two = Graph("two", (first, Node("more", Input((8,), NARROW.cast)), *rest, Node("sum", Add(), (rest[-1].name, "more"))), "sum")
    with pytest.raises(ProjectError, match="several inputs or outputs"):
        resolve(two, BOARD, Request(memory="ddr", batch=2), clock_ns=5)


def test_the_command_takes_it_where_weights_lie_in_memory(tmp_path: Path) -> None:
    model, project = str(tmp_path / "net.onnx"), tmp_path / "p"
    save(classifier(64), model)
    asked = [model, "--board", "ultra96v2", "--batch", "4"]
    told = CliRunner().invoke(main, ["hls", *asked, "--weights", "ddr", "-o", str(project)])
    assert told.exit_code == 0, told.output
    assert "batch      4 frames a call" in told.stdout
    assert json.loads((project / "report.json").read_text(encoding="utf-8"))["batch"] == 4
    folding = project / "folding.toml"
    assert "--batch 4" in folding.read_text(encoding="utf-8")
    again = CliRunner().invoke(main, ["estimate", *asked, "--folding", str(folding)])
    assert again.exit_code == 0, again.output
    assert "batch      4 frames a call" in again.stdout
    for style, weights in (("streaming", "rom"), ("streaming", "stream"), ("unrolled", "rom")):
        refused = CliRunner().invoke(main, ["estimate", *asked, "--style", style, "--weights", weights])
        assert refused.exit_code != 0
        assert "--batch 4: frames share what is read from the board's memory" in refused.stderr


def test_nothing_changes_without_a_batch() -> None:
    graph, schedule = in_batches()
    design = lower(graph, replace(schedule, batch=1))
    assert (design.batch, design.once) == (1, frozenset())
    on_chip = Schedule.of({name: replace(folding, weights="auto", rows=0) for name, folding in schedule.foldings}, batch=3)
    assert lower(graph, on_chip).batch == 1
