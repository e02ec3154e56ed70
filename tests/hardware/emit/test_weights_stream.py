"""Constants that are loaded while the hardware runs: words, the C++ with its own and another model's, the driver, the block design, refusals."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from click.testing import CliRunner
from hardware_models import DIRECTED, chain, classifier, const, conv, scalar
from random_schedules import random_schedule
from support import bounded, pragmas, synthesizable
from support.pragma_grammar import Tool
from test_compilers import CLANG, STRICT
from test_tcl import Run, plant, settings_of

from qfx.cli import main
from qfx.errors import ProjectError
from qfx.export import onnx_file
from qfx.fixed.type import FixedType
from qfx.hardware.assets import simulation_headers
from qfx.hardware.board import board
from qfx.hardware.design import design as d
from qfx.hardware.design import loading
from qfx.hardware.design.arithmetic import check
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Folding, Request, Schedule
from qfx.hardware.emit.emit import CSIM_FLAGS, emit
from qfx.hardware.folding import search as fold
from qfx.hardware.project.csim import build, run_raw, trace_raw
from qfx.hardware.project.project import Project, prepare, write_project
from qfx.hardware.project.reload import words_for
from qfx.ir.graph import Graph, Node
from qfx.ir.interpret import quantize_input, run_from_raw, trace
from qfx.operators import Affine, Cast, Const, Conv, Linear, Relu, Reshape
from qfx.testing import adversarial_inputs

FOLDING = Schedule.of(
    {"conv0": Folding(2, 3, "pair"), "conv2": Folding(4), "affine3": Folding(2), "linear6": Folding(3, 8, "dsp")}, input_parallel=2, output_parallel=3
)


def network() -> Graph:
    """Grouped convolution, depthwise, a scale and shift per channel on their own and behind a layer, and a linear layer."""
    return chain(
        "network",
        (6, 4, 3),
        conv(50, 4, 3, 3, 3, pads=(1, 1), groups=2),
        Cast(scalar("ap_fixed<6,3,AP_RND_CONV,AP_SAT>")),
        conv(52, 4, 1, 2, 2, groups=4),
        Affine(Const(np.array([-7, 9, 5, -3]), 3), const(55, 4, bits=11, frac_bits=9)),
        Relu(),
        Reshape((24,)),
        Linear(const(56, 6, 24, bits=5), const(57, 6)),
        Cast(scalar("ap_fixed<14,7,AP_RND,AP_WRAP>")),
    )


def with_constants(graph: Graph, change: Callable[[Const], Const]) -> Graph:
    nodes = []
    for node in graph.nodes:
        op = node.op
        if isinstance(op, Conv | Linear):
            op = replace(op, weight=change(op.weight), bias=None if op.bias is None else change(op.bias))
        elif isinstance(op, Affine):
            op = replace(op, scale=change(op.scale), shift=None if op.shift is None else change(op.shift))
        nodes.append(Node(node.name, op, node.inputs))
    return graph.with_nodes(tuple(nodes))


def shuffled(graph: Graph, seed: int) -> Graph:
    rng = np.random.default_rng(seed)
    return with_constants(graph, lambda held: Const(rng.permuted(held.raw), held.frac_bits))


@pytest.fixture(scope="module")
def project(gxx: str, tmp_path_factory: pytest.TempPathFactory) -> Project:
    written = write_project(network(), tmp_path_factory.mktemp("stream") / "p", board="ultra96v2", schedule=FOLDING, weights="stream")
    build(written.path)
    return written


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return adversarial_inputs(network(), np.random.default_rng(1), 8)


def expected(graph: Graph, x: np.ndarray) -> np.ndarray:
    return run_from_raw(graph, quantize_input(graph, x))


def loaded_run(project: Project, words: bytes, x: np.ndarray, folder: Path) -> np.ndarray:
    """The test bench with these words loaded; with none, nothing is."""
    (folder / "weights.bin").write_bytes(words)
    (folder / "in.bin").write_bytes(quantize_input(network(), x).astype("<i8").tobytes())
    environment = dict(os.environ) | {"QFX_WEIGHTS": str(folder / "weights.bin") if words else ""}
    command = [str(project.path / "build" / "tb"), str(folder / "in.bin"), str(folder / "out.bin")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return np.frombuffer((folder / "out.bin").read_bytes(), dtype="<i8").reshape(len(x), *project.output_shape)


# --- words


def test_words_of_a_small_layer() -> None:
    """Two rows of three lanes of 4 bits in one element, then the biases of both outputs."""
    weights, biases = np.array([[1, -2, 3], [-4, 5, -8]]), np.array([-1, 300])
    graph = chain("small", (3,), Linear(Const(weights, 0), Const(biases, 0)))
    design = lower(prepare(graph, "stream"), Schedule.of({"linear0": Folding(1, 3)}))
    assert design.loader is not None
    assert (design.loader.port.slot, design.loader.port.words, loading.counts(design)) == (16, 4, (4,))
    rows = [0x1 | 0xE << 4 | 0x3 << 8, 0xC | 0x5 << 4 | 0x8 << 8]
    assert loading.words(design) == np.array([*rows, 0xFFFF, 300], dtype="<u2").tobytes()


def test_an_element_that_fills_its_slot() -> None:
    graph = chain("full", (8,), Linear(const(60, 8, 8, bits=8), None))
    design = lower(prepare(graph, "stream"), Schedule.of({"linear0": Folding(8, 8)}))
    assert design.loader is not None
    assert design.loader.port.slot == 64
    words = np.frombuffer(loading.words(design), dtype=np.int8).reshape(8, 8)  # simd, pe: eight lanes of a byte each
    op = graph.nodes[1].op
    assert isinstance(op, Linear)
    assert np.array_equal(words.T, op.weight.raw)


# --- C++


def test_own_constants(project: Project, x: np.ndarray) -> None:
    graph = network()
    assert (project.path / "tb" / "weights.bin").read_bytes() == words_for(graph, project.path)
    assert (project.path / "driver" / "weights.bin").read_bytes() == words_for(graph, project.path)
    assert np.array_equal(run_raw(project.path, x), expected(graph, x))
    golden = subprocess.run([str(project.path / "build" / "tb")], cwd=project.path, capture_output=True, text=True, check=False)
    assert golden.returncode == 0, golden.stdout + golden.stderr


@pytest.mark.parametrize("seed", range(3))
def test_another_models_constants(project: Project, x: np.ndarray, tmp_path: Path, seed: int) -> None:
    graph = shuffled(network(), seed)
    assert not np.array_equal(expected(graph, x), expected(network(), x))
    assert np.array_equal(loaded_run(project, words_for(graph, project.path), x, tmp_path), expected(graph, x))


@pytest.mark.parametrize("which", [0, 1])
def test_the_worst_constants(project: Project, x: np.ndarray, tmp_path: Path, which: int) -> None:
    """All of them the least, or the greatest, that their types hold: what accumulators of the model at hand would not."""
    nodes = []
    for node in network().nodes:
        pair = project.loadable.get(node.name)
        op = node.op
        if pair is not None:
            names = ("scale", "shift") if isinstance(op, Affine) else ("weight", "bias")
            changed = {
                name: Const(np.full(getattr(op, name).shape, type_.max_raw if which else type_.min_raw), type_.frac_bits)
                for name, type_ in zip(names, pair, strict=True)
                if type_ is not None
            }
            op = replace(op, **changed)  # type: ignore[type-var]
        nodes.append(Node(node.name, op, node.inputs))
    graph = network().with_nodes(tuple(nodes))
    assert np.array_equal(loaded_run(project, words_for(graph, project.path), x, tmp_path), expected(graph, x))
    widths = [
        [p.acc.width for p in lower(g, FOLDING).processes if isinstance(p, d.MatVec)] for g in (prepare(network()), prepare(network(), "stream"))
    ]
    assert all(rom < stream for rom, stream in zip(*widths, strict=True))


def test_without_a_load_all_constants_are_zero(project: Project, x: np.ndarray, tmp_path: Path) -> None:
    zeros = with_constants(network(), lambda held: Const(np.zeros_like(held.raw), held.frac_bits))
    got = loaded_run(project, b"", x, tmp_path)
    assert np.array_equal(got, expected(zeros, x))
    assert not np.array_equal(got, expected(network(), x))


def test_a_wrong_word_is_seen(project: Project, x: np.ndarray, tmp_path: Path) -> None:
    """The highest bit that counts of a word, in every memory. Some have no effect: what ReLU cuts off."""
    design = lower(prepare(network(), "stream"), FOLDING)
    words, slot_bytes, at = loading.words(design), design.loader.port.slot // 8, 0  # type: ignore[union-attr]
    memories = [memory for process in design.processes for memory in loading.memories(process)]
    assert len(memories) == 8
    for memory in memories:
        seen = []
        for word in range(at, at + memory.size):
            wrong = bytearray(words)
            wrong[word * slot_bytes + (memory.bits - 1) // 8] ^= 1 << (memory.bits - 1) % 8
            seen.append(not np.array_equal(loaded_run(project, bytes(wrong), x, tmp_path), expected(network(), x)))
        assert 3 * sum(seen) >= len(seen)
        at += memory.size
    assert at * slot_bytes == len(words)


def test_a_file_of_another_length(project: Project, tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"\0" * 8)
    for path in (tmp_path / "short", tmp_path / "none"):
        environment = dict(os.environ) | {"QFX_WEIGHTS": str(path)}
        done = subprocess.run([str(project.path / "build" / "tb")], cwd=project.path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "or it is not as long as all constants" in done.stderr


def test_traces_and_the_fast_emulator(project: Project, x: np.ndarray) -> None:
    """The emulator has the model's own constants for good."""
    want = trace(prepare(network(), "stream"), x[:3])
    traced = trace_raw(project.path, x[:3], fast=True)
    assert len(traced) >= 5
    assert all(np.array_equal(raw, want[name]) for name, raw in traced.items())
    assert np.array_equal(run_raw(project.path, x, fast=True), expected(network(), x))


@pytest.mark.usefixtures("gxx")
def test_processes_that_run_side_by_side(x: np.ndarray, tmp_path: Path) -> None:
    """With FIFOs that block: constants come before the first frame, in as many turns as there are words; nothing else changes."""
    design = fold.plan(prepare(network(), "stream"), board("zcu102"), FOLDING, clock_ns=5).design
    found = bounded.build((design,), tmp_path, flags=("-O0",)).run(0, quantize_input(network(), x[:3]))
    assert np.array_equal(found.y_raw, expected(network(), x[:3]))
    assert bounded.differences(design, found) == []


def test_the_sources_compile_without_a_warning(project: Project, gxx: str) -> None:
    """By g++ for simulation, by clang++ as each tool sees them."""
    source = project.path / "src" / "network.cpp"
    search = [*simulation_headers(), f"-I{project.path / 'include'}", "-fsyntax-only"]
    assert "load.h" in (project.path / "src" / "layers.h").read_text()
    clang = shutil.which("clang++")
    assert clang or not os.environ.get("CI")
    commands = [[gxx, *CSIM_FLAGS, *STRICT, *search, str(source)]]
    if clang:
        for tool in Tool:
            early = [f"#define {name} {value}" for name, value in tool.macros.items() if name not in ("__cplusplus", "__SYNTHESIS__")]
            headers = [f"#include <{name}>" for name in ("ap_axi_sdata.h", "ap_fixed.h", "ap_int.h", "hls_stream.h")]
            unit = project.path / "build" / f"{tool.name.lower()}.cpp"
            unit.write_text("\n".join([*early, *headers, "#define __SYNTHESIS__ 1", f'#include "{source}"\n']))
            commands.append([clang, *CSIM_FLAGS, *STRICT, *CLANG, *search, str(unit)])
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("which", [0, 2, 7, 9])
def test_the_tools_rules(which: int) -> None:
    graph = prepare(DIRECTED[which](), "stream")
    files = emit(graph, random_schedule(graph, np.random.default_rng(which)), board("zcu102"), clock_ns=5, top="top")
    assert "include/qfx/load.h" in files
    for tool in Tool:
        assert pragmas.check(files, tool, top="top") == ()
        assert synthesizable.check(files, tool) == ()
    header = next(path for path in files if path.startswith("src/weights/") and "qfx::loaded<" in files[path])
    bare = {**files, header: files[header].replace("static qfx::loaded<", "static qfx::kept<")}
    assert any("outlives the call" in finding.what for finding in synthesizable.check(bare, Tool.VITIS_HLS))


def test_weights_in_rom_know_nothing_of_it(tmp_path: Path) -> None:
    written = write_project(network(), tmp_path / "p", board="ultra96v2", schedule=FOLDING)
    assert (written.weights, dict(written.loadable)) == ("rom", {})
    assert not [path for path in written.files if "load.h" in path or "weights.bin" in path]
    for path in ("src/network.cpp", "src/network.h", "tb/tb.cpp", "vivado.tcl", "script.tcl", "driver/accelerator.json"):
        assert "weights" not in (written.path / path).read_text(), path


# --- other models


def test_models_that_other_hardware_needs(project: Project, tmp_path: Path) -> None:
    graph, path = network(), project.path
    wide = with_constants(graph, lambda held: Const(held.raw * 4, held.frac_bits) if held.raw.ndim == 4 else held)
    with pytest.raises(ProjectError, match=r"conv0: its weight: raws of -32 to 28 are not held by ap_fixed<4,1>"):
        words_for(wide, path)
    moved = with_constants(graph, lambda held: Const(held.raw, held.frac_bits + 1) if held.raw.ndim == 2 else held)
    with pytest.raises(ProjectError, match="linear6: its weight: ap_fixed<5,2> is not signed on the grid of 2"):
        words_for(moved, path)
    cast = chain("network", (6, 4, 3), *(node.op for node in graph.nodes[1:]), cast="ap_fixed<6,3,AP_TRN,AP_SAT>")
    with pytest.raises(ProjectError, match=r"its input is .*AP_TRN"):
        words_for(cast, path)
    last = graph.nodes[-1]
    other = graph.with_nodes((*graph.nodes[:-1], Node(last.name, Cast(scalar("ap_fixed<14,7,AP_TRN,AP_WRAP>")), last.inputs)))
    with pytest.raises(ProjectError, match=r"src/layers.h would be another one"):
        words_for(other, path)
    rom = write_project(graph, tmp_path / "rom", board="ultra96v2", schedule=FOLDING)
    with pytest.raises(ProjectError, match="has its weights in ROM"):
        words_for(graph, rom.path)


def test_a_model_with_smaller_constants_runs_on_the_same_hardware(project: Project, x: np.ndarray, tmp_path: Path) -> None:
    """Though a project of its own would have shorter words."""
    small = with_constants(network(), lambda held: Const(held.raw >> 2, held.frac_bits))
    assert np.array_equal(loaded_run(project, words_for(small, project.path), x, tmp_path), expected(small, x))


def test_a_folding_file_that_was_changed(project: Project, tmp_path: Path) -> None:
    for name in ("qfx_project.json", "folding.toml"):
        shutil.copy(project.path / name, tmp_path / name)
    plant(tmp_path / "folding.toml", "simd = 8", "simd = 4")
    with pytest.raises(ProjectError, match="has been changed since"):
        words_for(network(), tmp_path)


def test_what_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="has no constants that could be loaded"):
        write_project(chain("none", (2, 3), Relu()), tmp_path / "p", board="zcu102", weights="stream")
    with pytest.raises(ProjectError, match="weights: 'ram'"):
        write_project(network(), tmp_path / "p", board="zcu102", weights="ram")
    assert not (tmp_path / "p").exists()
    with pytest.raises(ProjectError, match="arithmetic 'shift': its digits are made for the weights at hand"):
        lower(prepare(network(), "stream"), Schedule.of({"conv0": Folding(1, 1, "shift")}))
    check("shift", np.array([[1, 2]]), FixedType(4, 4), pe=1, depthwise=False, where="there")  # in ROM it can be had


def test_foldings_are_chosen_among_those_that_can_be_had() -> None:
    made = fold.resolve(prepare(classifier(), "stream"), board("ultra96v2"), Request(fps=300_000), clock_ns=5)
    arithmetics = {folding.arithmetic for _, folding in made.schedule.foldings}
    assert "shift" not in arithmetics
    assert any(cost.process == "weights_port" for cost in made.estimate.costs)


def test_the_command(tmp_path: Path) -> None:
    def qfx(*arguments: object) -> tuple[int, str]:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        return result.exit_code, result.output

    for name, graph in (("a", network()), ("b", shuffled(network(), 5))):
        onnx_file.save(graph, tmp_path / f"{name}.onnx")
    code, output = qfx("hls", tmp_path / "a.onnx", "--board", "zcu102", "--weights", "stream", "-o", tmp_path / "p")
    assert code == 0, output
    for name in ("a", "b"):
        code, output = qfx("weights", tmp_path / f"{name}.onnx", tmp_path / "p", "-o", tmp_path / f"{name}.bin")
        assert code == 0, output
        assert f"{name}.bin: " in output
    own = (tmp_path / "p" / "tb" / "weights.bin").read_bytes()
    assert (tmp_path / "a.bin").read_bytes() == own != (tmp_path / "b.bin").read_bytes()
    assert qfx("weights", tmp_path / "a.onnx", tmp_path / "p", "-o", tmp_path / "a.bin")[0] == 2
    assert qfx("estimate", tmp_path / "a.onnx", "--board", "zcu102", "--weights", "stream")[0] == 0


# --- the board


@pytest.fixture(scope="module")
def driver(project: Project) -> Iterator[ModuleType]:
    sys.path.insert(0, str(project.path))
    try:
        import driver

        yield driver
    finally:
        sys.path.remove(str(project.path))
        for name in [name for name in sys.modules if name == "driver" or name.startswith("driver.")]:
            del sys.modules[name]


def test_the_driver_loads(project: Project, driver: ModuleType, x: np.ndarray, tmp_path: Path) -> None:
    other = shuffled(network(), 7)
    (tmp_path / "other.bin").write_bytes(words_for(other, project.path))
    # So short transfers that constants take several.
    description = replace(driver.load_description(), length_bits=9)
    device = driver.SimulatedBoard(project.path / "build" / "tb", description)
    with driver.Accelerator(device=device, description=description) as accelerator:
        assert np.array_equal(accelerator.run_raw(accelerator.quantize(x)), expected(network(), x))
        accelerator.load_weights(tmp_path / "other.bin")
        assert np.array_equal(accelerator.run_raw(accelerator.quantize(x), batch=3), expected(other, x))
        (tmp_path / "short.bin").write_bytes(b"\0" * 8)
        with pytest.raises(Exception, match=r"8 bytes instead of \d+"):
            accelerator.load_weights(tmp_path / "short.bin")
        with pytest.raises(Exception, match="cannot be read"):
            accelerator.load_weights(tmp_path / "none.bin")
        assert np.array_equal(accelerator.run_raw(accelerator.quantize(x)), expected(other, x))  # nothing has changed
        accelerator.load_weights(project.path / "tb" / "weights.bin")
        assert np.array_equal(accelerator.run_raw(accelerator.quantize(x)), expected(network(), x))
    with pytest.raises(driver.DeviceError, match="is closed"):
        accelerator.load_weights(tmp_path / "other.bin")


def test_load_is_taken_when_a_call_begins(project: Project, driver: ModuleType, x: np.ndarray) -> None:
    """A driver that set the argument while a call is waiting would have its constants ignored: the model of the board says so."""
    device = driver.SimulatedBoard(project.path / "build" / "tb", driver.load_description())
    with driver.Accelerator(device=device, timeout_s=0.2) as accelerator:
        device.accelerator.write(0x10, 1)
        x_raw = accelerator.quantize(x)
        assert np.array_equal(accelerator.run_raw(x_raw[:1]), expected(network(), x[:1]))  # the call that was waiting
        with pytest.raises(driver.DeviceError, match="has not taken all frames"):  # the next one waits for constants
            accelerator.run_raw(x_raw[:1])


@pytest.mark.parametrize("cells", ["dma accelerator dma_weights", "dma accelerator"])
def test_the_self_test_on_a_board(project: Project, tmp_path: Path, cells: str) -> None:
    deploy = tmp_path / "deploy"
    shutil.copytree(project.path / "driver", deploy / "driver")
    for name in ("network.bit", "network.hwh"):
        (deploy / name).write_text("bits")
    stand_in = {
        "PYTHONPATH": str(Path(__file__).resolve().parents[1] / "board"),
        "QFX_TEST_BENCH": str(project.path / "build" / "tb"),
        "QFX_CELLS": cells,
    }
    command = [sys.executable, "-W", "error", "-m", "driver", "--selftest"]
    done = subprocess.run(command, cwd=deploy, env=dict(os.environ) | stand_in, capture_output=True, text=True, check=False)
    if "dma_weights" in cells:
        assert (done.returncode, done.stdout, done.stderr) == (0, "network: passed, 8 golden vectors\n", "")
    else:
        assert done.returncode == 2
        assert "the design has no dma_weights" in done.stderr


@pytest.fixture(scope="module")
def tclsh() -> str:
    path = shutil.which("tclsh")
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("tclsh is missing, and continuous integration may not skip the scripts")
        pytest.skip("tclsh is not installed")
    return path


@pytest.mark.parametrize("name", ["ultra96v2", "pynq_z2"])
def test_the_scripts(tclsh: str, tmp_path: Path, name: str) -> None:
    path = write_project(network(), tmp_path / "p", board=name, top="net", schedule=FOLDING, weights="stream").path
    run = Run(tclsh, "hls", path, {})
    assert (run.status, run.stderr) == (0, "")
    assert any(str(path / "tb" / "weights.bin") in call for call in run.calls)
    run = Run(tclsh, "vivado", path, settings_of(path))
    assert (run.status, run.stderr) == (0, "")
    assert [call[-1] for call in run.calls if call[0] == "create_bd_cell"][1:4] == ["accelerator", "dma", "dma_weights"]
    text = (path / "vivado.tcl").read_text()
    for was, planted, message in (
        (" && NAME !~ weights*", "", "expected one input stream of net, found 2"),
        ("NAME =~ weights*", "NAME =~ in*", "/dma_weights/M_AXIS_MM2S has 64 bits, /accelerator/in_r 16"),
        ("CONFIG.c_include_s2mm {0}", "CONFIG.c_include_s2mm {1}", "/dma_weights/"),
        ("    [get_bd_pins dma_weights/m_axi_mm2s_aclk] \\\n", "", "nothing drives the clock /dma_weights/m_axi_mm2s_aclk"),
        ("CONFIG.NUM_MI {3}", "CONFIG.NUM_MI {2}", "there is no control/M02_AXI"),
        ("c_m_axis_mm2s_tdata_width {64}", "c_m_axis_mm2s_tdata_width {32}", "has 32 bits, /accelerator/weights 64"),
    ):
        plant(path / "vivado.tcl", was, planted)
        run = Run(tclsh, "vivado", path, settings_of(path))
        assert run.status != 0, was
        assert message in run.stderr, (was, run.stderr)
        (path / "vivado.tcl").write_text(text)
