"""Several inputs and outputs on the board: block design, driver over the model of the DMAs, what make deploys, loaded constants."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from test_driver import module
from test_several_ports import S6, U4, data, detector, siamese
from test_tcl import MODELS, Run, export, plant, settings_of, tcl_words
from test_tcl import tclsh as tclsh

from qfx.errors import ProjectError
from qfx.hardware.board import PORTS, board, boards
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import OUT, Schedule
from qfx.hardware.emit.blockdesign import MAX_CONNECTED, block_design, cells
from qfx.hardware.emit.emit import emit
from qfx.hardware.project.csim import build
from qfx.hardware.project.project import write_project
from qfx.ir.graph import Graph, Node
from qfx.ir.interpret import quantize_inputs, run, run_from_raws
from qfx.operators import Add, Input, Relu

# --- the block design


def many(inputs: int, outputs: int) -> Graph:
    """As many inputs and outputs; all of the inputs meet in the first output."""
    nodes = [Node(f"x{i}", Input((3, 2), S6)) for i in range(inputs)]
    last = "x0"
    for i in range(1, inputs):
        nodes.append(Node(f"sum{i}", Add(), (last, f"x{i}")))
        last = f"sum{i}"
    nodes += [Node(f"y{i}", Relu(), (last,)) for i in range(outputs)]
    return Graph("many", tuple(nodes), tuple(f"y{i}" for i in range(outputs)))


def net(calls: list[list[str]]) -> list[tuple[str, str]]:
    """The interface connections of a run, each as its two pins."""
    return [(call[1].lstrip("/"), call[2].lstrip("/")) for call in calls if call[0] == "connect_bd_intf_net"]


def check_connections(calls: list[list[str]], project: Path, graph: Graph) -> None:
    """Every stream of the accelerator has one connection and every channel of a DMA one end; each memory port and register block is reached once."""
    pairs = net(calls)
    used = Counter(pin for pair in pairs for pin in pair)
    assert set(used.values()) == {1}
    made = [call[-1] for call in calls if call[0] == "create_bd_cell"]
    dmas = [name for name in made if name.startswith("dma")]
    sends, receives = cells(len(graph.inputs), len(graph.outputs))
    assert dmas == list(dict.fromkeys((*sends, *receives)))
    channels = {f"{dma}/M_AXIS_MM2S" for dma in sends} | {f"{dma}/S_AXIS_S2MM" for dma in receives}
    assert {pin for pin in used if "AXIS_" in pin and pin.startswith("dma")} == channels
    ends = dict((*pairs, *((second, first) for first, second in pairs)))
    design = lower(graph, Schedule())
    for name, dma in zip(design.port_names[0], sends, strict=True):
        at = ends[f"accelerator/{name}"]
        assert (at if at.startswith("dma") else ends[at.replace("M_AXIS", "S_AXIS")]) == f"{dma}/M_AXIS_MM2S"
    for name, dma in zip(design.port_names[1], receives, strict=True):
        at = ends[f"accelerator/{name}"]
        assert (at if at.startswith("dma") else ends[at.replace("S_AXIS", "M_AXIS")]) == f"{dma}/S_AXIS_S2MM"
    assert sum(pin.endswith("S_AXI_LITE") for pin in used) == len(dmas)
    script = (project / "vivado.tcl").read_text()
    assert "CONFIG.c_include_mm2s {0}" in script if len(sends) < len(receives) else "CONFIG.c_include_mm2s {0}" not in script


@pytest.mark.parametrize("name", [known.name for known in boards()])
def test_the_block_design_of_every_board(tclsh: str, tmp_path: Path, name: str) -> None:
    for graph in (siamese(), detector(), many(3, 1)):
        project = write_project(graph, tmp_path / graph.name, board=name, clock_ns=4.0).path
        export(project, graph.name)
        run = Run(tclsh, "vivado", project, settings_of(project))
        assert (run.status, run.stderr) == (0, ""), graph.name
        check_connections(run.calls, project, graph)
        found = board(name)
        into = [pair[1].removeprefix("ps/") for pair in net(run.calls) if pair[0].startswith("memory")]
        assert into[0] == found.memory_port
        assert set(into) <= set(PORTS[found.ps])
        assert len(set(into)) == len(into) == min(max(len(graph.inputs), len(graph.outputs)), 4)


def test_streams_of_any_width_meet_the_dmas(tclsh: str, tmp_path: Path) -> None:
    nodes = (Node("x", Input((12, 2), U4)), Node("y", Input((12, 2), U4)), Node("s", Add(), ("x", "y")), Node("t", Relu(), ("s",)))
    schedule = Schedule.of({}, ports={"x": 3, "y": 4, OUT + "s": 12, OUT + "t": 1})
    project = write_project(Graph("wide", nodes, ("s", "t")), tmp_path / "p", board="zcu102", schedule=schedule).path
    export(project, "wide")
    run = Run(tclsh, "vivado", project, settings_of(project))
    assert (run.status, run.stderr) == (0, "")
    check_connections(run.calls, project, Graph("wide", nodes, ("s", "t")))
    assert {call[-1] for call in run.calls if call[0] == "create_bd_cell"} & {"widen", "widen_1", "narrow", "narrow_1"} == {"widen", "narrow"}


def test_as_many_ports_as_a_smartconnect_has(tclsh: str, tmp_path: Path) -> None:
    project = write_project(many(15, 15), tmp_path / "p", board="zcu102").path
    export(project, "many")
    run = Run(tclsh, "vivado", project, settings_of(project))
    assert (run.status, run.stderr) == (0, "")
    check_connections(run.calls, project, many(15, 15))
    for memory in block_design(lower(many(15, 15), Schedule()), board("zcu102"), clock_ns=5).memories:
        assert len(memory.masters) <= MAX_CONNECTED
    with pytest.raises(ProjectError, match=r"has 16 inputs and 1 outputs.*\n?.*15 DMAs at most"):
        write_project(many(16, 1), tmp_path / "q", board="zcu102")
    assert not (tmp_path / "q").exists()


def test_the_text_is_the_same_every_time() -> None:
    graph = siamese()
    first, second = (emit(graph, Schedule(), board("ultra96v2"), clock_ns=5, top="net") for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("was", "planted", "message"),
    [
        ("[stream Slave b_in]", "[stream Slave a_in]", "net already"),
        ("[stream Slave b_in]", "[stream Slave map_1_out]", "expected one stream map_1_out of siamese, found 0"),
        ("connect_bd_intf_net [get_bd_intf_pins dma_1/M_AXIS_MM2S] [stream Slave b_in]\n", "", "is not connected"),
        ("connect_bd_intf_net [get_bd_intf_pins dma_1/M_AXI_S2MM] [get_bd_intf_pins memory_1/S01_AXI]\n", "", "/dma_1/M_AXI_S2MM is not connected"),
        ("memory_1/M00_AXI] [get_bd_intf_pins ps/S_AXI_HP1", "memory_1/M00_AXI] [get_bd_intf_pins ps/S_AXI_HP0", "net already"),
        ("    [get_bd_pins ps/saxihp1_fpd_aclk] \\\n", "", "nothing drives the clock /ps/saxihp1_fpd_aclk"),
        ("    [get_bd_pins dma_1/m_axi_mm2s_aclk] \\\n", "", "nothing drives the clock /dma_1/m_axi_mm2s_aclk"),
        ("    [get_bd_pins memory_1/aresetn] \\\n", "", "nothing drives the reset /memory_1/aresetn"),
        ("NUM_MI {3}", "NUM_MI {2}", "there is no control/M02_AXI"),
        ("PSU__USE__S_AXI_GP3 {1}", "PSU__USE__S_AXI_GP3 {0}", "there is no ps/S_AXI_HP1_FPD"),
        ("foreach {mode count} {Slave 2", "foreach {mode count} {Slave 3", "expected 3 streams of siamese that are Slave, found 2"),
        ("c_s_axis_s2mm_tdata_width {16}", "c_s_axis_s2mm_tdata_width {8}", "has 16 bits, /dma/S_AXIS_S2MM 8"),
    ],
)
def test_the_model_finds_faults(tclsh: str, tmp_path: Path, was: str, planted: str, message: str) -> None:
    for path, text in emit(siamese(), Schedule(), board("zcu102"), clock_ns=5, top="siamese").items():
        if path in ("vivado.tcl", "driver/accelerator.json"):
            (tmp_path / "p" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "p" / path).write_text(text)
    export(tmp_path / "p", "siamese")
    plant(tmp_path / "p" / "vivado.tcl", was, planted)
    run = Run(tclsh, "vivado", tmp_path / "p", settings_of(tmp_path / "p"))
    assert run.status != 0
    assert message in run.stderr


def test_a_dma_that_reaches_another_one(tclsh: str, tmp_path: Path) -> None:
    """The model of the tool follows every master to its ends."""
    for path, text in emit(siamese(), Schedule(), board("zcu102"), clock_ns=5, top="siamese").items():
        if path in ("vivado.tcl", "driver/accelerator.json"):
            (tmp_path / "p" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "p" / path).write_text(text)
    export(tmp_path / "p", "siamese")
    script = tmp_path / "p" / "vivado.tcl"
    plant(script, "control/M02_AXI] [get_bd_intf_pins dma_1/S_AXI_LITE]", "control/M02_AXI] [get_bd_intf_pins ps/S_AXI_HP1_FPD]")
    plant(script, "memory_1/M00_AXI] [get_bd_intf_pins ps/S_AXI_HP1_FPD]", "memory_1/M00_AXI] [get_bd_intf_pins dma_1/S_AXI_LITE]")
    run = Run(tclsh, "vivado", tmp_path / "p", settings_of(tmp_path / "p"))
    assert run.status != 0
    assert "/dma_1/S_AXI_LITE has 2 addresses" in run.stderr


def test_make_deploys_golden_vectors_of_every_port(tclsh: str, tmp_path: Path) -> None:
    project = write_project(siamese(), tmp_path / "p", board="pynq_z2").path
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, model in (("vitis-run", "hls"), ("vivado", "vivado")):
        (tools / name).write_text(f'#!/bin/sh\nexport MODEL_LOG="{tmp_path}/{model}.log"\nexec "{tclsh}" "{MODELS}/{model}.tcl" "$@"\n')
        (tools / name).chmod(0o755)
    environment = dict(os.environ) | settings_of(project) | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "PYTHON": sys.executable}
    for target in ("selftest", "deploy"):
        done = subprocess.run(["make", target], cwd=project, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "siamese: passed, 8 golden vectors" in done.stdout or target == "deploy"
    calls = [tcl_words(line) for line in (tmp_path / "hls.log").read_text().splitlines()]
    golden = {Path(call[2]).name for call in calls if call[0] == "add_files" and "/golden_" in call[2]}
    assert golden == {f"golden_{name}.txt" for name in ("a_in", "b_in", "n_class_out", "map_1_out")}
    deployed = {path.name for path in (project / "deploy" / "driver").iterdir()}
    assert {f"golden_{kind}_{name}.npy" for kind in ("x", "input_raw") for name in ("a_in", "b_in")} <= deployed
    assert {f"golden_output_raw_{name}.npy" for name in ("n_class_out", "map_1_out")} <= deployed
    assert {"siamese.bit", "siamese.hwh", "siamese.xsa"} <= {path.name for path in (project / "deploy").iterdir()}


# --- the driver


@pytest.fixture(scope="module")
def projects(gxx: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two inputs and outputs of different lengths and word widths; one input and three outputs; two inputs and one output."""
    folder = tmp_path_factory.mktemp("ports")
    made = {}
    for graph, ports in ((siamese(), {"a": 2, OUT + "near": 4}), (detector(), {}), (many(2, 1), {"x0": 3})):
        made[graph.name] = write_project(graph, folder / graph.name, board="ultra96v2", schedule=Schedule.of({}, ports=ports)).path
        build(made[graph.name])
    return made


@pytest.fixture(scope="module")
def driver(projects: dict[str, Path]) -> Iterator[ModuleType]:
    """The package of one of them; ``board_of`` gives it the ports of any."""
    with driver_of(projects["siamese"]) as package:
        yield package


@contextmanager
def driver_of(project: Path) -> Iterator[ModuleType]:
    """The project's package ``driver``."""
    sys.path.insert(0, str(project))
    try:
        import driver

        yield driver
    finally:
        sys.path.remove(str(project))
        for name in [name for name in sys.modules if name == "driver" or name.startswith("driver.")]:
            del sys.modules[name]


def board_of(driver: ModuleType, project: Path, **changes: Any) -> dict[str, Any]:
    """What ``Accelerator`` is called with for the model of the project's board."""
    description = replace(driver.load_description(project / "driver" / "accelerator.json"), **changes)
    return {"device": driver.SimulatedBoard(project / "build" / "tb", description), "description": description}


@pytest.mark.parametrize("make", [siamese, detector, lambda: many(2, 1)])
def test_batches_of_several_ports(projects: dict[str, Path], driver: ModuleType, make: Callable[[], Graph]) -> None:
    graph = make()
    x = data(graph, 7)
    raws = quantize_inputs(graph, x)
    want = dict(zip(graph.output_names, run_from_raws(graph, raws), strict=True))
    values = run(graph, x)
    exact = dict(zip(graph.output_names, values if isinstance(values, tuple) else (values,), strict=True))
    with driver.Accelerator(**board_of(driver, projects[graph.name])) as accelerator:
        given: list[Any] = [x, tuple(x.values()), list(x.values())] if len(x) > 1 else [x, *x.values()]
        for form in given:
            got = accelerator.run(form)
            found = got if len(want) > 1 else {graph.output_names[0]: got}
            assert list(found) == list(graph.output_names)
            assert all(np.array_equal(found[name], exact[name]) for name in exact)
        for batch, transfers in ((1, 7), (3, 3), (7, 1)):
            got = accelerator.run_raw(raws, batch=batch)
            found = got if len(want) > 1 else {graph.output_names[0]: got}
            assert all(np.array_equal(found[name], want[name]) for name in want)
            assert (accelerator.timing.frames, accelerator.timing.transfers) == (7, transfers)
        none = accelerator.run({name: array[:0] for name, array in x.items()})
        assert [array.shape for array in (none.values() if isinstance(none, dict) else [none])] == [(0, *raw.shape[1:]) for raw in want.values()]


def test_every_receive_begins_before_any_send(projects: dict[str, Path], driver: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = siamese()
    order: list[str] = []
    arguments = board_of(driver, projects["siamese"])
    device = arguments["device"]
    for name in ("dma", "dma_1"):
        for kind in ("sendchannel", "recvchannel"):
            channel = getattr(getattr(device, name), kind)

            def note(*args: Any, label: str = f"{name} {kind}", begin: Any = channel.transfer) -> None:
                order.append(label)
                begin(*args)

            monkeypatch.setattr(channel, "transfer", note)
    with driver.Accelerator(**arguments) as accelerator:
        accelerator.run(data(graph, 2))
    assert order == ["dma recvchannel", "dma_1 recvchannel", "dma sendchannel", "dma_1 sendchannel"]


def test_dmas_have_the_channels_that_ports_need(projects: dict[str, Path], driver: ModuleType) -> None:
    for name, kinds in (("detector", ["both", "receive", "receive"]), ("many", ["both", "send"])):
        device = board_of(driver, projects[name])["device"]
        found = [getattr(device, cell) for cell in device.description.dmas]
        has = {(True, True): "both", (True, False): "send", (False, True): "receive"}
        assert [has[hasattr(dma, "sendchannel"), hasattr(dma, "recvchannel")] for dma in found] == kinds


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": None}, "expected the inputs a, b, got b"),
        ({"c": np.zeros((4, 2, 5, 5))}, "expected the inputs a, b, got a, b, c"),
        ({"b": np.zeros((4, 2, 5, 4))}, r"b: expected the shape \(N, 2, 5, 5\), got \(4, 2, 5, 4\)"),
        ({"b": np.zeros((4, 2, 5, 5), dtype=np.int32)}, "b: expected a float32 or float64 array, got int32"),
        ({"b": np.zeros((3, 2, 5, 5))}, "different numbers of frames: a has 4, b has 3"),
        ({"b": np.full((4, 2, 5, 5), np.nan)}, "is nan"),
    ],
)
def test_data_that_the_model_does_not_take(projects: dict[str, Path], driver: ModuleType, change: dict[str, Any], message: str) -> None:
    x = {name: array for name, array in {**data(siamese(), 4), **change}.items() if array is not None}
    with driver.Accelerator(**board_of(driver, projects["siamese"])) as accelerator:
        with pytest.raises(Exception, match=message):
            accelerator.run(x)
        with pytest.raises(Exception, match=r"expected 2 inputs \(a, b\), got 3"):
            accelerator.run([np.zeros((1, 2, 5, 5))] * 3)
        with pytest.raises(Exception, match=r"expected 2 inputs \(a, b\), got 1"):
            accelerator.run(np.zeros((1, 2, 5, 5)))


def test_streams_that_end_in_the_wrong_place(projects: dict[str, Path], driver: ModuleType, tmp_path: Path) -> None:
    executable = tmp_path / "tb"
    good = 'printf "%06d" 0 > "$4"; printf "%0100d" 0 > "$5"'
    for script, message in (
        ("exit 3", "has not given all results at class in 0.2 s"),
        (f'{good}; printf "%07d" 0 > "$4"', "DMA failed: DMA Internal Error"),
        (f'{good}; printf "%099d" 0 > "$5"', "99 bytes of results instead of 100 at map 1"),
    ):
        executable.write_text(f"#!/bin/sh\n{script}\n")
        executable.chmod(0o755)
        description = driver.load_description(projects["siamese"] / "driver" / "accelerator.json")
        device = driver.SimulatedBoard(executable, description)
        opened = driver.Accelerator(device=device, description=description, timeout_s=0.2)
        with opened as accelerator, pytest.raises(driver.DeviceError, match=message):
            accelerator.run_raw([np.zeros((1, 2, 5, 5), dtype=np.int64)] * 2)


def test_transfers_of_different_numbers_of_frames_never_end(projects: dict[str, Path], driver: ModuleType) -> None:
    device = board_of(driver, projects["siamese"])["device"]
    device.accelerator.write(0, 0x81)
    buffer = device.allocate(4096)
    for channel, nbytes in ((device.dma.recvchannel, 6), (device.dma_1.recvchannel, 100), (device.dma.sendchannel, 50)):
        channel.transfer(buffer, 0, nbytes)
    device.dma_1.sendchannel.transfer(buffer, 0, 100)  # two frames, and one at the other input
    assert not device.dma.sendchannel.idle
    assert not device.dma_1.recvchannel.idle


def test_long_batches_are_cut_to_the_longest_frame(projects: dict[str, Path], driver: ModuleType) -> None:
    graph = siamese()  # map 1 has 100 bytes a frame
    raws = quantize_inputs(graph, data(graph, 5))
    with driver.Accelerator(**board_of(driver, projects["siamese"], length_bits=8)) as accelerator:
        got = accelerator.run_raw(raws)
        assert all(np.array_equal(found, want) for found, want in zip(got.values(), run_from_raws(graph, raws), strict=True))
        assert accelerator.timing.transfers == 3
        with pytest.raises(Exception, match="use 1 to 2"):
            accelerator.run_raw(raws, batch=3)


@pytest.mark.parametrize("name", ["golden_x_b_in", "golden_input_raw_b_in", "golden_output_raw_map_1_out"])
def test_a_planted_bit_fails_the_self_test(projects: dict[str, Path], tmp_path: Path, name: str) -> None:
    shutil.copytree(projects["siamese"] / "driver", tmp_path / "driver")
    path = tmp_path / "driver" / f"{name}.npy"
    golden = np.load(path)
    golden.reshape(-1)[7] += 1 if golden.dtype == np.int64 else 2**-3
    np.save(path, golden)
    done = module(tmp_path, "--simulate", str(projects["siamese"] / "build" / "tb"), "--selftest")
    assert (done.returncode, done.stdout.endswith("siamese: FAILED, 8 golden vectors\n")) == (1, True)
    assert ("quantized input b: 1 of 400 raws differ" in done.stdout) == ("output" not in name)
    assert ("output map 1, 8 frames a transfer: 1 of 800 raws differ, first at (0, 0, 1, 2)" in done.stdout) == ("output" in name)
    path.unlink()
    done = module(tmp_path, "--simulate", str(projects["siamese"] / "build" / "tb"), "--selftest")
    assert (done.returncode, f"{name}.npy: cannot be read" in done.stderr) == (2, True)


def test_the_command(projects: dict[str, Path], tmp_path: Path) -> None:
    graph, project = siamese(), projects["siamese"]
    x = data(graph, 5)
    np.savez(tmp_path / "x.npz", **x)
    np.savez(tmp_path / "raw.npz", **{name: raw.astype(np.int16) for name, raw in quantize_inputs(graph, x).items()})
    np.savez(tmp_path / "mixed.npz", a=x["a"], b=np.zeros((5, 2, 5, 5), dtype=np.int16))
    np.save(tmp_path / "x.npy", x["a"])
    for source, arguments, want in (
        ("x.npz", ("--batch", "2"), run(graph, x)),
        ("x.npz", ("--raw",), run_from_raws(graph, quantize_inputs(graph, x))),
        ("raw.npz", (), run_from_raws(graph, quantize_inputs(graph, x))),
    ):
        done = module(project, "--simulate", "build/tb", "--data", str(tmp_path / source), "--output", str(tmp_path / "y"), *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("5 frames in ")
        with np.load(tmp_path / "y") as y:
            assert list(y.files) == ["class", "map 1"]
            assert all(np.array_equal(y[name], array) for name, array in zip(y.files, want, strict=True))
    for source, message in (("mixed.npz", "floats for some inputs"), ("x.npy", "give a .npz file with a, b"), ("none.npz", "cannot be read")):
        done = module(project, "--simulate", "build/tb", "--data", str(tmp_path / source), "--output", str(tmp_path / "y"))
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    done = module(project, "--simulate", "build/tb", "--bench", "11", "--batch", "4")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("11 frames in 3 transfers: ")
    assert module(project, "--simulate", "build/tb", "--bench", "0").returncode == 2
    assert module(project, "--simulate", "build/tb", "--bench", "3", "--selftest").returncode == 2


@pytest.mark.parametrize(("name", "needs"), [("siamese", "dma accelerator dma_1"), ("detector", "dma accelerator dma_1 dma_2")])
def test_on_a_board(projects: dict[str, Path], tmp_path: Path, name: str, needs: str) -> None:
    deploy = tmp_path / "deploy"
    shutil.copytree(projects[name] / "driver", deploy / "driver")
    for ending in ("bit", "hwh"):
        (deploy / f"{name}.{ending}").write_text("bits")
    stand_in = {"PYTHONPATH": str(Path(__file__).resolve().parents[1] / "board"), "QFX_TEST_BENCH": str(projects[name] / "build" / "tb")}
    done = module(deploy, "--selftest", **stand_in, QFX_CELLS=needs)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{name}: passed, 8 golden vectors\n", "")
    done = module(deploy, "--selftest", **stand_in, QFX_CELLS="dma accelerator")
    assert (done.returncode, "the design has no dma_1" in done.stderr) == (2, True)


def test_the_test_bench_wants_as_many_frames_of_each_input(projects: dict[str, Path], tmp_path: Path) -> None:
    bench = str(projects["siamese"] / "build" / "tb")
    for name, size in (("a", 100), ("b", 50)):
        (tmp_path / name).write_bytes(b"\0" * size)
    done = subprocess.run([bench, "--words", "a", "b", "y", "z"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, "50 bytes are not b_in's 2 frames" in done.stderr) == (2, True)
    done = subprocess.run([bench, "--words", "a", "b", "y"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, "takes 2 files of input streams and 2 of output streams" in done.stderr) == (2, True)
    done = subprocess.run([bench, "--words", "a", "a", "y", "z"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, (tmp_path / "y").stat().st_size, (tmp_path / "z").stat().st_size) == (0, 12, 200)


def test_the_driver_has_sound_types(projects: dict[str, Path]) -> None:
    cache = Path(__file__).resolve().parents[3] / ".mypy_cache"
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(cache), "-p", "driver"]
    done = subprocess.run(command, cwd=projects["siamese"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
