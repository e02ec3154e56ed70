"""A layer engine on the board: the scripts against models of the vendor's tools, the driver against a model of the board over the C simulation."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hardware_models import const, scalar
from test_driver import module
from test_tcl import Run, export, plant, settings_of, tclsh

from qfx.errors import ProjectError
from qfx.fixed.type import FixedType
from qfx.fixed.vectors import Place, put, take
from qfx.hardware.board import PORTS, board
from qfx.hardware.project.project import Project, write_project
from qfx.hardware.sequential import host
from qfx.hardware.sequential.delay import bursts, worst_cycles
from qfx.hardware.sequential.plan import Plan, plan
from qfx.hardware.sequential.program import STEP_WORDS
from qfx.hardware.sequential.summary import as_json, as_text
from qfx.hardware.sequential.tiles import memory_bytes, turns
from qfx.ir.graph import Graph, Node
from qfx.ir.interpret import quantize_inputs, run, run_from_raws
from qfx.ir.passes.pipeline import optimize
from qfx.operators import Add, Affine, Cast, Conv, Input, Linear, MaxPool, Reshape
from qfx.testing import adversarial_feeds

__all__ = ["tclsh"]  # a fixture of the scripts' tests


def two_of_each() -> Graph:
    """Two inputs, the first of which is folded, and two outputs, one of which takes two containers a number."""
    same, one = ((1, 1), (1, 1)), (1, 1)
    nodes = (
        Node("image", Input((3, 6, 5), scalar("ap_fixed<8,4,AP_RND,AP_SAT>"))),
        Node("map", Input((4, 6, 5), scalar("ap_ufixed<6,3,AP_RND,AP_SAT>"))),
        Node("conv", Conv(const(1, 4, 3, 3, 3), const(2, 4, frac_bits=5, bits=8), one, same, one, 1), ("image",)),
        Node("scaled", Affine(const(3, 4, frac_bits=6, bits=9), None), ("conv",)),
        Node("sum", Add(), ("scaled", "map")),
        Node("cast", Cast(scalar("ap_fixed<7,3,AP_RND_CONV,AP_SAT_SYM>")), ("sum",)),
        Node("pool", MaxPool((2, 2), (2, 2), ((0, 0), (0, 1)), one), ("cast",)),
        Node("flat", Reshape((4 * 3 * 3,)), ("pool",)),
        Node("fc", Linear(const(4, 5, 36), const(5, 5, frac_bits=6, bits=8)), ("flat",)),
    )
    return optimize(Graph("two_of_each", nodes, ("fc", "cast")))


@pytest.fixture(scope="module")
def made() -> Plan:
    """Two frames a run, so that the last one of an odd number is alone in its."""
    return plan(two_of_each(), board("ultra96v2"), clock_ns=5.0, batch=2)


@pytest.fixture(scope="module")
def project(gxx: str, made: Plan, tmp_path_factory: pytest.TempPathFactory) -> Project:
    assert gxx
    path = tmp_path_factory.mktemp("engine") / "p"
    written = write_project(two_of_each(), path, board="ultra96v2", style="sequential", schedule=made, top="net")
    subprocess.run(["make", "build/tb"], cwd=written.path, check=True, capture_output=True)
    return written


@pytest.fixture
def driver(project: Project) -> Iterator[ModuleType]:
    """The project's own package, imported from it."""
    sys.path.insert(0, str(project.path))
    before = set(sys.modules)
    try:
        yield importlib.import_module("driver")
    finally:
        sys.path.remove(str(project.path))
        for name in set(sys.modules) - before:
            if name.split(".")[0] == "driver":
                del sys.modules[name]


@pytest.fixture
def simulated(project: Project, driver: ModuleType) -> Callable[[], Any]:
    """A new model of the board."""
    return lambda: driver.SimulatedBoard(project.path / "build" / "tb", driver.load_description())


def drawn(count: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Floats of every input, and the raws of every output that the interpreter gives for them."""
    graph = two_of_each()
    x = adversarial_feeds(graph, np.random.default_rng(3), count)
    return dict(x), dict(zip(graph.output_names, run_from_raws(graph, quantize_inputs(graph, x)), strict=True))


# --- the driver through the model


def test_frames_go_through_the_board(driver: ModuleType, simulated: Callable[[], Any], made: Plan) -> None:
    x, want = drawn(5)
    model = simulated()
    with driver.Accelerator(device=model) as accelerator:
        for batch in (None, 4):
            got = accelerator.run_raw(accelerator.quantize(x), batch=batch)
            assert got.keys() == want.keys()
            for name, raw in want.items():
                np.testing.assert_array_equal(got[name], raw)
        values = accelerator.run(x)
        for got_value, want_value in zip(values.values(), run(two_of_each(), x), strict=True):
            np.testing.assert_array_equal(got_value, want_value)
        assert re.fullmatch(r"5 frames in 3 runs: .* ms \(.* frames/s\), of which runs .* ms \(.* frames/s\)", str(accelerator.timing))
        assert accelerator.timing.seconds >= accelerator.timing.transfer_seconds > 0
        none = accelerator.run_raw({name: raw[:0] for name, raw in accelerator.quantize(x).items()})
        assert {name: raw.shape for name, raw in none.items()} == {"fc": (0, 5), "cast": (0, 4, 6, 5)}
    with pytest.raises(driver.DeviceError, match="is closed"):
        accelerator.run(x)
    # What the C simulation moved through each port is what the plan counts on.
    steps = [memory_bytes(placed.step, made.engine.shape, placed.tile) for placed in made.engine.steps]
    moved = {name: 9 * sum(step[name] for step in steps) for name in host.MASTERS}
    assert model.accelerator.traffic == moved | {"parameters": moved["parameters"] + 9 * len(steps) * STEP_WORDS * 8}
    assert {name: 9 * sum(step[name] for step in host.loads(made.engine)) for name in host.MASTERS} == model.accelerator.traffic


def test_the_self_test_and_the_command(project: Project, tmp_path: Path) -> None:
    done = subprocess.run(["make", "selftest", f"PYTHON={sys.executable}"], cwd=project.path, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "net: passed, 8 golden vectors" in done.stdout.splitlines()  # a make that is called by another one says where it leaves, too
    x, _ = drawn(3)
    np.savez(tmp_path / "x.npz", **x)
    simulate = ("--simulate", "build/tb")
    done = module(project.path, *simulate, "--data", str(tmp_path / "x.npz"), "--output", str(tmp_path / "y.npz"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("3 frames in 2 runs")
    with np.load(tmp_path / "y.npz") as found:
        for name, value in zip(two_of_each().output_names, run(two_of_each(), x), strict=True):
            np.testing.assert_array_equal(found[name], value)
    assert module(project.path, *simulate, "--bench", "4").stdout.startswith("4 frames in 2 runs")
    np.savez(tmp_path / "other.npz", **{**x, "image": x["image"][:, :, 1:]})
    done = module(project.path, *simulate, "--data", str(tmp_path / "other.npz"), "--output", str(tmp_path / "z.npz"))
    assert done.returncode == 2
    assert "image: expected the shape (N, 3, 6, 5), got (3, 3, 5, 5)" in done.stderr
    assert not (tmp_path / "z.npz").exists()
    done = module(project.path, *simulate, "--selftest", "--weights", "tb/memory/weights0.bin")
    assert (done.returncode, "reads its weights from memory" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raws: raws | {"image": raws["image"][:, :, :-1]}, r"expected raws of shape \(N, 3, 6, 5\), got \(2, 3, 5, 5\)"),
        (lambda raws: raws | {"map": raws["map"][:1]}, "the inputs have different numbers of frames: image has 2, map has 1"),
        (lambda raws: raws | {"map": raws["map"] + 64}, r"expected raws in \[0, 63\]"),
        (lambda raws: raws | {"map": raws["map"].astype(np.float32)}, "expected int64 raws, got float32"),
        (lambda raws: {"image": raws["image"]}, "expected the inputs image, map, got image"),
    ],
)
def test_frames_that_the_engine_does_not_take(driver: ModuleType, simulated: Callable[[], Any], change: Callable[[Any], Any], message: str) -> None:
    with driver.Accelerator(device=simulated()) as accelerator:
        raws = accelerator.quantize(drawn(2)[0])
        with pytest.raises(importlib.import_module("driver.errors").DataError, match=message):
            accelerator.run_raw(change(raws))


@pytest.mark.parametrize("name", ["program", "weights0", "weights1", "parameters"])
def test_files_of_other_models_and_truncated_ones_are_refused(
    project: Project, driver: ModuleType, simulated: Callable[[], Any], tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "memory"
    shutil.copytree(project.path / "tb" / "memory", folder)
    driver.Accelerator(device=simulated(), memory=folder).close()
    path = folder / f"{name}.bin"
    whole = path.read_bytes()
    errors = importlib.import_module("driver.errors")
    for contents, complaint in (
        (whole[:-8], f"{len(whole) - 8} bytes instead of {len(whole)}"),
        (whole[:-1] + bytes([whole[-1] ^ 1]), "not the weights that the hardware was made for"),
    ):
        path.write_bytes(contents)
        with pytest.raises(errors.DataError, match=complaint):
            driver.Accelerator(device=simulated(), memory=folder)
    path.unlink()
    with pytest.raises(errors.DataError, match="cannot be read"):
        driver.Accelerator(device=simulated(), memory=folder)


@pytest.mark.parametrize("place", range(4))
def test_a_bit_in_memory_is_found(driver: ModuleType, simulated: Callable[[], Any], place: int) -> None:
    """Program, both halves of the weights, parameters: one bit that what the processor reads of memory does not show."""
    x, want = drawn(8)
    with driver.Accelerator(device=simulated()) as accelerator:
        held = accelerator._hardware.memories.held[place]
        bits = np.flatnonzero(np.asarray(held))
        held[bits[len(bits) // 3]] ^= 1 if place else 2
        assert all(np.array_equal(raw, want[name]) for name, raw in accelerator.run_raw(accelerator.quantize(x)).items())  # not flushed yet
        held.flush()
        try:
            got = accelerator.run_raw(accelerator.quantize(x))
        except driver.DeviceError:
            assert place == 0  # an instruction may say anything
        else:
            assert any(not np.array_equal(raw, want[name]) for name, raw in got.items())


def test_registers_that_are_wrong_are_told(driver: ModuleType, simulated: Callable[[], Any]) -> None:
    x = drawn(1)[0]
    description = driver.load_description()

    def refused(register: int, value: int, message: str) -> None:
        model = simulated()
        with driver.Accelerator(device=model) as accelerator:
            model.accelerator.write(register, value)
            with pytest.raises(driver.DeviceError, match=message):
                accelerator.run(x)

    values, _, _, results = description.engine.value_registers
    refused(description.memories[1].register, 0, "weights0: the accelerator has .* bytes from 0x0 on, where nothing lies")
    refused(description.memories[1].register, 0x1008, "is not a multiple of 128 bytes")
    refused(results, 0x1000, "values, what lies beside and results are one region")
    refused(values + 4, 1, "are one region, not 0x")
    refused(description.engine.steps_register, 99, "99 steps, where memory holds")
    with pytest.raises(driver.DeviceError, match="no register 0x1 at 0x14"):
        simulated().accelerator.write(0x14, 1)
    with pytest.raises(driver.DeviceError, match="reads a register at 0x10"):
        simulated().accelerator.read(0x10)


class _Other:
    """A board that forgets one of its duties."""

    def __init__(self, board: Any, duty: str) -> None:
        self.board, self.duty, self.accelerator = board, duty, self
        self.memory = board.memory

    def allocate(self, nbytes: int) -> Any:
        return self.board.allocate(nbytes)

    def read(self, offset: int) -> int:
        value: int = self.board.accelerator.read(offset)
        return value & ~2 if self.duty == "end" else value & ~4 if self.duty == "idle" else value

    def write(self, offset: int, value: int) -> None:
        self.board.accelerator.write(offset, value)


def test_an_engine_that_does_not_end(driver: ModuleType, simulated: Callable[[], Any]) -> None:
    x = drawn(1)[0]
    accelerator = driver.Accelerator(device=_Other(simulated(), "end"), timeout_s=0.2)
    with pytest.raises(driver.DeviceError, match=r"has not finished a run in 0.2 s"):
        accelerator.run(x)
    with pytest.raises(driver.DeviceError, match="has failed before"):
        accelerator.run(x)
    with pytest.raises(driver.DeviceError, match="runs already"):
        driver.Accelerator(device=_Other(simulated(), "idle"))


@pytest.mark.parametrize("duty", ["flush", "invalidate"])
def test_caches_that_are_not_kept_give_wrong_numbers(
    driver: ModuleType, simulated: Callable[[], Any], duty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a driver that forgot to keep them would fail here."""
    x, want = drawn(2)
    with driver.Accelerator(device=simulated()) as accelerator:
        monkeypatch.setattr(importlib.import_module("driver.simulated_memory").SimulatedBuffer, duty, lambda buffer: None)
        got = accelerator.run_raw(accelerator.quantize(x))
        assert any(not np.array_equal(raw, want[name]) for name, raw in got.items())


def test_slices_of_buffers_are_buffers(driver: ModuleType, simulated: Callable[[], Any]) -> None:
    buffer = simulated().allocate(100)
    part = buffer[10:20]
    assert part.device_address == buffer.device_address + 10
    part[:] = 7
    assert not (buffer.memory == 7).any()
    part.flush()
    assert (buffer.memory == 7).nonzero()[0].tolist() == list(range(10, 20))
    buffer.memory[15] = 9
    part.invalidate()
    assert (part[5], buffer[15], buffer[10]) == (9, 9, 7)


def test_on_a_board(project: Project, tmp_path: Path) -> None:
    """As ``make deploy`` lays it out, with a stand-in for PYNQ over the model."""
    deploy = tmp_path / "deploy"
    shutil.copytree(project.path / "driver", deploy / "driver")
    shutil.copytree(project.path / "tb" / "memory", deploy / "driver" / "memory")
    (deploy / "net.bit").write_text("bits")
    (deploy / "net.hwh").write_text("handoff")
    pynq = {"PYTHONPATH": str(Path(__file__).resolve().parents[1] / "board"), "QFX_TEST_BENCH": str(project.path / "build" / "tb")}
    done = module(deploy, "--selftest", **pynq, QFX_CELLS="accelerator")
    assert (done.returncode, done.stdout, done.stderr) == (0, "net: passed, 8 golden vectors\n", "")
    other = module(deploy, "--selftest", **pynq, QFX_CELLS="other")
    assert (other.returncode, "the design has no accelerator" in other.stderr) == (2, True)
    golden = np.load(deploy / "driver" / "golden_output_raw_out_1.npy")
    golden.reshape(-1)[7] += 1
    np.save(deploy / "driver" / "golden_output_raw_out_1.npy", golden)
    failed = module(deploy, "--selftest", **pynq, QFX_CELLS="accelerator")
    assert (failed.returncode, failed.stdout.splitlines()[-1]) == (1, "net: FAILED, 8 golden vectors")
    assert f"output cast: 1 of {golden.size} raws differ" in failed.stdout


# --- the layout of memory


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize(
    ("width", "signed", "shape", "lanes", "bits"),
    [(8, True, (5, 3, 2), 4, 8), (13, False, (3, 4), 4, 8), (64, True, (2, 1, 3), 2, 16), (33, True, (17,), 8, 16), (1, False, (9, 2, 2), 2, 8)],
)
def test_what_is_put_is_taken(width: int, signed: bool, shape: tuple[int, ...], lanes: int, bits: int, frames: int) -> None:
    of = FixedType(width, width, signed)
    height, columns = (1, 1) if len(shape) == 1 else (1, shape[1]) if len(shape) == 2 else shape[1:]
    place = Place(of, shape, 0, shape[0], height, columns, lanes, bits, frames=frames)
    raw = np.random.default_rng(width).integers(of.min_raw, of.max_raw, (3, *shape), endpoint=True)
    raw.reshape(-1)[:2] = of.min_raw, of.max_raw
    data = put(raw, place)
    assert data.shape == (-(-3 // frames), place.run_bytes)
    np.testing.assert_array_equal(take(data, place)[:3], raw)
    assert not take(data, place)[3:].any()
    data[0, place.run_bytes // frames // place.blocks * (place.blocks - 1) * frames] ^= 1  # of the first frame, a number of the last block
    assert (take(data, place)[:3] != raw).sum() == 1


# --- the scripts


@pytest.mark.parametrize("name", ["ultra96v2", "zcu102", "kv260", "pynq_z2"])
def test_the_block_design(tclsh: str, tmp_path: Path, name: str) -> None:
    found = board(name)
    path = write_project(two_of_each(), tmp_path / "p", board=name, style="sequential", top="net").path
    run = Run(tclsh, "hls", path, {})
    assert (run.status, run.stderr) == (0, "")
    added = [Path(call[2]).name for call in run.calls if call[:2] == ["add_files", "-tb"]]
    assert added == ["tb.cpp", "golden_input.txt", "golden_output.txt", "program.bin", "parameters.bin", "weights0.bin", "weights1.bin"]
    assert ["config_interface", "-m_axi_addr64"] in run.calls
    run = Run(tclsh, "vivado", path, settings_of(path))
    assert (run.status, run.stderr) == (0, "")
    assert "WARNING" not in run.stdout
    pairs = [(call[1].lstrip("/"), call[2].lstrip("/")) for call in run.calls if call[0] == "connect_bd_intf_net"]
    reached = {pair[0].removeprefix("accelerator/m_axi_") for pair in pairs if pair[0].startswith("accelerator/m_axi_")}
    assert reached == set(host.MASTERS)
    into = [pair[1].removeprefix("ps/") for pair in pairs if pair[0].startswith("memory")]
    assert into[0] == found.memory_port
    assert set(into) <= set(PORTS[found.ps])
    assert len(set(into)) == len(into) <= 4
    assert not [call for call in run.calls if call[0] == "create_bd_cell" and "axi_dma" in " ".join(call)]
    assert sorted(path.name for path in (path / "deploy").iterdir()) == ["net.bit", "net.hwh", "net.xsa"]


@pytest.mark.parametrize(
    ("was", "planted", "message"),
    [
        (r"connect_bd_intf_net [get_bd_intf_pins accelerator/m_axi_beside]", "# ", "is not connected"),
        ("accelerator/m_axi_results]", "accelerator/m_axi_values0]", "net already"),
        ("ps/S_AXI_HP1_FPD]", "ps/S_AXI_HP0_FPD]", "net already"),
        ("control/M00_AXI] $registers", "control/M01_AXI] $registers", "there is no control/M01_AXI"),
        ("    [get_bd_pins ps/saxihp1_fpd_aclk] \\\n", "", "nothing drives the clock /ps/saxihp1_fpd_aclk"),
        ("assign_bd_address\n", "", "addresses are not assigned"),
    ],
)
def test_the_model_finds_faults(tclsh: str, project: Project, tmp_path: Path, was: str, planted: str, message: str) -> None:
    copy = tmp_path / "p"
    (copy / "driver").mkdir(parents=True)
    for name in ("vivado.tcl", "driver/accelerator.json"):
        shutil.copy(project.path / name, copy / name)
    export(copy, "net")
    plant(copy / "vivado.tcl", was, planted)
    run = Run(tclsh, "vivado", copy, settings_of(copy))
    assert run.status != 0
    assert message in run.stderr


def test_registers_of_the_sources_are_the_drivers(project: Project) -> None:
    text = (project.path / "src" / "net.cpp").read_text()
    told = {name: int(offset, 16) for name, offset in re.findall(r"s_axilite port=(\w+) bundle=control offset=(0x\w+)", text)}
    assert told == host.REGISTERS
    data = json.loads((project.path / "driver" / "accelerator.json").read_text())
    assert {one["name"]: one["register"] for one in data["memories"]} == {
        "program": told["instructions"],
        "weights0": told["weights0"],
        "weights1": told["weights1"],
        "parameters": told["parameters"],
    }
    assert data["engine"]["value_registers"] == [told["values0"], told["values1"], told["beside"], told["results"]]
    spans = sorted((offset, offset + (4 if name == "steps" else 8)) for name, offset in told.items())
    assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))


def test_masters_share_ports_so_that_none_is_late(made: Plan) -> None:
    """Nothing that a step moves through one port takes longer than the step; where ports are few and narrow, that is told."""
    ultra = board("ultra96v2")
    shared = host.shared_out(made.engine, ultra)
    assert sorted(name for names in shared.values() for name in names) == sorted(host.MASTERS)
    assert host.late_cycles(made.engine, ultra) == 0
    hurried = replace(made.engine, steps=tuple(replace(placed, cycles=1) for placed in made.engine.steps))
    moved = host.loads(made.engine)
    least = sum(max(max(one.values()), -(-sum(one.values()) // 4)) // 16 - 1 for one in moved)
    assert host.late_cycles(hurried, ultra) >= least > 0


def test_late_memory_costs_what_is_told(made: Plan) -> None:
    graph, ultra = two_of_each(), board("ultra96v2")
    assert worst_cycles(made) > made.interval  # bursts that wait, however fast memory is
    for placed in made.engine.steps:
        count, found = turns(placed.step, made.engine.shape, placed.tile), bursts(placed, made.engine.shape)
        assert all(found[name] <= count[name] for name in found)
    slow = plan(graph, replace(ultra, memory_gb_s=0.02), clock_ns=5.0)
    assert worst_cycles(slow) == pytest.approx(2 * slow.interval, rel=0.2)  # what memory binds takes twice as long if it gives half
    told = json.loads(as_json(slow, "net"))
    assert told["memory"]["worst_frames_per_second"] == pytest.approx(1e9 / (worst_cycles(slow) * 5.0), rel=1e-3)
    assert "with half of that, bursts that wait 64 cycles each" in as_text(slow, "net")


def test_a_board_without_ports_into_memory_is_refused(tmp_path: Path) -> None:
    without = replace(board("ultra96v2"), memory_port="S_AXI_ACP")
    with pytest.raises(ProjectError, match="memory_port is 'S_AXI_ACP'"):
        write_project(two_of_each(), tmp_path / "p", board=without, style="sequential")
    assert not (tmp_path / "p").exists()
