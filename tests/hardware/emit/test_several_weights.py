"""Constants that are loaded while the hardware runs, with several inputs and outputs: C++, bounded FIFOs, driver, block design, refusals."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from support import bounded, pragmas, synthesizable
from support.pragma_grammar import Tool
from test_board_ports import board_of, driver_of, net
from test_driver import module
from test_several_ports import data, detector, siamese
from test_tcl import Run, settings_of
from test_tcl import tclsh as tclsh
from test_weights_stream import shuffled

from qfx.cli import main
from qfx.errors import ProjectError
from qfx.export.onnx_file import save
from qfx.hardware.board import board
from qfx.hardware.design.schedule import OUT, Folding, Schedule
from qfx.hardware.emit.emit import emit
from qfx.hardware.folding import search as fold
from qfx.hardware.project.csim import build, run_raw, trace_raw
from qfx.hardware.project.execute import put_together
from qfx.hardware.project.project import Project, prepare, write_project
from qfx.hardware.project.reload import words_for
from qfx.ir.graph import Graph
from qfx.ir.interpret import quantize_inputs, run_from_raws, trace

FOLDING = Schedule.of({"a_conv": Folding(2, 2), "score": Folding(3, 4)}, ports={"b": 2, OUT + "near": 2})


@pytest.fixture(scope="module")
def project(gxx: str, tmp_path_factory: pytest.TempPathFactory) -> Project:
    written = write_project(siamese(), tmp_path_factory.mktemp("stream") / "p", board="ultra96v2", schedule=FOLDING, weights="stream")
    build(written.path)
    return written


def expected(graph: Graph, x: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    return run_from_raws(graph, quantize_inputs(graph, x))


def loaded_run(project: Project, words: bytes, x: dict[str, np.ndarray], folder: Path) -> np.ndarray:
    """All outputs (N, numbers) of the test bench with these words loaded; with none, nothing is."""
    (folder / "weights.bin").write_bytes(words)
    (folder / "in.bin").write_bytes(put_together(list(quantize_inputs(siamese(), x).values())).astype("<i8").tobytes())
    environment = dict(os.environ) | {"QFX_WEIGHTS": str(folder / "weights.bin") if words else ""}
    command = [str(project.path / "build" / "tb"), str(folder / "in.bin"), str(folder / "out.bin")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return np.frombuffer((folder / "out.bin").read_bytes(), dtype="<i8").reshape(-1, 103)


def test_own_and_other_constants(project: Project, tmp_path: Path) -> None:
    graph, x = siamese(), data(siamese(), 5)
    assert (project.path / "tb" / "weights.bin").read_bytes() == words_for(graph, project.path)
    assert all(np.array_equal(*pair) for pair in zip(run_raw(project.path, x), expected(graph, x), strict=True))
    golden = subprocess.run([str(project.path / "build" / "tb")], cwd=project.path, capture_output=True, text=True, check=False)
    assert golden.returncode == 0, golden.stdout + golden.stderr
    for seed in range(2):
        other = shuffled(graph, seed)
        want = put_together(expected(other, x))
        assert not np.array_equal(want, put_together(expected(graph, x)))
        assert np.array_equal(loaded_run(project, words_for(other, project.path), x, tmp_path), want)
    assert not loaded_run(project, b"", x, tmp_path).any()  # nothing is loaded: all weights are zero
    want = trace(prepare(graph, "stream"), x)
    assert all(np.array_equal(raw, want[name]) for name, raw in trace_raw(project.path, x).items())


def test_a_file_of_another_length(project: Project, tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"\0" * 8)
    environment = dict(os.environ) | {"QFX_WEIGHTS": str(tmp_path / "short")}
    done = subprocess.run([str(project.path / "build" / "tb")], cwd=project.path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, "or it is not as long as all constants" in done.stderr) == (2, True)


@pytest.mark.usefixtures("gxx")
def test_processes_that_run_side_by_side(tmp_path: Path) -> None:
    graphs = [siamese(), detector()]
    designs = [fold.plan(prepare(graph, "stream"), board("zcu102"), Schedule(), clock_ns=5).design for graph in graphs]
    compiled = bounded.build(designs, tmp_path)
    for index, graph in enumerate(graphs):
        x = data(graph, 4)
        found = compiled.run(index, put_together(list(quantize_inputs(graph, x).values())))
        assert all(np.array_equal(*pair) for pair in zip(found.outputs, expected(graph, x), strict=True))
        assert bounded.differences(designs[index], found) == []


def test_the_tools_rules() -> None:
    files = emit(prepare(siamese(), "stream"), FOLDING, board("zcu102"), clock_ns=5, top="top")
    assert "const bool load) {" in files["src/top.cpp"]
    for tool in Tool:
        assert pragmas.check(files, tool, top="top") == ()
        assert synthesizable.check(files, tool) == ()


def test_the_driver_loads(project: Project, tmp_path: Path) -> None:
    graph = siamese()
    other, x = shuffled(graph, 7), data(graph, 5)
    (tmp_path / "other.bin").write_bytes(words_for(other, project.path))
    with driver_of(project.path) as driver, driver.Accelerator(**board_of(driver, project.path, length_bits=9)) as accelerator:
        raws = accelerator.quantize(x)
        for path, model in ((None, graph), (tmp_path / "other.bin", other), (project.path / "tb" / "weights.bin", graph)):
            if path is not None:
                accelerator.load_weights(path)
            got = accelerator.run_raw(raws)
            assert all(np.array_equal(*pair) for pair in zip(got.values(), expected(model, x), strict=True))
    done = module(project.path, "--simulate", "build/tb", "--selftest")
    assert (done.returncode, done.stdout, done.stderr) == (0, "siamese: passed, 8 golden vectors\n", "")


@pytest.mark.parametrize("name", ["ultra96v2", "pynq_z2"])
def test_the_scripts(tclsh: str, tmp_path: Path, name: str) -> None:
    path = write_project(siamese(), tmp_path / "p", board=name, schedule=FOLDING, weights="stream").path
    run = Run(tclsh, "hls", path, {})
    assert (run.status, run.stderr) == (0, "")
    assert any(str(path / "tb" / "weights.bin") in call for call in run.calls)
    run = Run(tclsh, "vivado", path, settings_of(path))
    assert (run.status, run.stderr) == (0, "")
    assert ("dma_weights/M_AXIS_MM2S", "accelerator/weights") in net(run.calls)
    assert [call[-1] for call in run.calls if call[0] == "create_bd_cell"][1:5] == ["accelerator", "dma", "dma_1", "dma_weights"]


def test_models_that_other_hardware_needs(project: Project) -> None:
    with pytest.raises(ProjectError, match="it has 1 inputs instead of 2"):
        words_for(detector(), project.path)
    graph = siamese()
    swapped = Graph("siamese", (graph.nodes[1], graph.nodes[0], *graph.nodes[2:]), graph.outputs, dict(graph.metadata))
    with pytest.raises(ProjectError, match="its input b is"):
        words_for(swapped, project.path)


def test_the_command(tmp_path: Path) -> None:
    def qfx(*arguments: object) -> tuple[int, str]:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        return result.exit_code, result.output

    for name, graph in (("a", siamese()), ("b", shuffled(siamese(), 5))):
        save(graph, tmp_path / f"{name}.onnx")
    code, output = qfx("hls", tmp_path / "a.onnx", "--board", "zcu102", "--weights", "stream", "--fit", "-o", tmp_path / "p")
    assert code == 0, output
    for name in ("a", "b"):
        code, output = qfx("weights", tmp_path / f"{name}.onnx", tmp_path / "p", "-o", tmp_path / f"{name}.bin")
        assert code == 0, output
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "p" / "tb" / "weights.bin").read_bytes() != (tmp_path / "b.bin").read_bytes()
