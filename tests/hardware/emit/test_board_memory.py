"""Weights in memory on the board: the scripts against models of the vendor's tools, and the driver against a model of the board."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hardware_models import from_ddr
from test_tcl import Run, export, settings_of, tclsh

from qfx.errors import ProjectError
from qfx.hardware.board import board
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Folding
from qfx.hardware.emit.blockdesign import block_design
from qfx.hardware.folding import file as folding_file
from qfx.hardware.folding import summary
from qfx.hardware.folding.search import fitting_plan
from qfx.hardware.processes.memory.from_memory import FromMemory
from qfx.hardware.project.project import Project, write_project
from qfx.ir.interpret import run_raw
from qfx.testing import adversarial_inputs, assert_bit_exact

__all__ = ["tclsh"]  # a fixture of the scripts' tests


@pytest.fixture(scope="module")
def project(gxx: str, tmp_path_factory: pytest.TempPathFactory) -> Project:
    assert gxx
    graph, schedule = from_ddr()
    written = write_project(graph, tmp_path_factory.mktemp("board") / "p", board="ultra96v2", schedule=schedule, top="net")
    subprocess.run(["make", "build/tb"], cwd=written.path, check=True, capture_output=True)
    return written


@pytest.fixture
def driver(project: Project) -> Iterator[Any]:
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


def test_the_board_reads_weights_where_the_driver_put_them(project: Project, driver: Any) -> None:
    graph, _ = from_ddr()
    x = adversarial_inputs(graph, np.random.default_rng(3), 5)
    description = importlib.import_module("driver.description").load_description()
    model = importlib.import_module("driver.simulation").SimulatedBoard(project.path / "build" / "tb", description)
    with driver.Accelerator(device=model, description=description) as accelerator:
        assert_bit_exact(accelerator.run_raw(accelerator.quantize(x)), run_raw(graph, x))
    assert model.memory_bytes == 5 * sum(one.frame_bytes for one in description.memories)


def test_one_bit_of_the_weights_in_memory_is_found(project: Project, driver: Any) -> None:
    graph, _ = from_ddr()
    x = adversarial_inputs(graph, np.random.default_rng(3), 8)
    description = importlib.import_module("driver.description").load_description()
    model = importlib.import_module("driver.simulation").SimulatedBoard(project.path / "build" / "tb", description)
    with driver.Accelerator(device=model, description=description) as accelerator:
        held = accelerator._hardware.memories.held[-1]
        held[0] ^= 1
        assert_bit_exact(accelerator.run_raw(accelerator.quantize(x)), run_raw(graph, x))  # not flushed yet
        held.flush()
        assert (accelerator.run_raw(accelerator.quantize(x)) != run_raw(graph, x)).any()


def test_addresses_where_nothing_lies_are_told(project: Project, driver: Any) -> None:
    description = importlib.import_module("driver.description").load_description()
    model = importlib.import_module("driver.simulation").SimulatedBoard(project.path / "build" / "tb", description)
    with driver.Accelerator(device=model, description=description) as accelerator:
        model.accelerator.write(description.memories[0].register, 0)
        with pytest.raises(driver.DeviceError, match="where nothing lies"):
            accelerator.run(np.zeros((1, 4, 8, 7), np.float32))


def test_files_of_other_weights_are_refused(project: Project, driver: Any, tmp_path: Path) -> None:
    description = importlib.import_module("driver.description").load_description()
    for one in description.memories:
        (tmp_path / f"{one.name}.bin").write_bytes((project.path / "tb" / "memory" / f"{one.name}.bin").read_bytes())
    first = tmp_path / f"{description.memories[0].name}.bin"
    whole = first.read_bytes()

    def opened() -> Any:
        model = importlib.import_module("driver.simulation").SimulatedBoard(project.path / "build" / "tb", description)
        return driver.Accelerator(device=model, description=description, memory=tmp_path)

    opened().close()
    errors = importlib.import_module("driver.errors")
    for contents, complaint in (
        (whole[:-1], "bytes instead of"),
        (bytes([whole[0] ^ 1]) + whole[1:], "not the weights that the hardware was made for"),
    ):
        first.write_bytes(contents)
        with pytest.raises(errors.DataError, match=complaint):
            opened()
    first.unlink()
    with pytest.raises(errors.DataError, match="cannot be read"):
        opened()


def test_the_scripts_connect_every_master(tclsh: str, project: Project) -> None:
    run = Run(tclsh, "hls", project.path, {})
    assert (run.status, run.stderr) == (0, "")
    added = [call[2] for call in run.calls if call[:2] == ["add_files", "-tb"]]
    assert sum("/tb/memory/" in name for name in added) == 6
    assert ["config_interface", "-m_axi_addr64"] in run.calls
    (project.path / "net_hls" / "solution" / "impl" / "ip").mkdir(parents=True, exist_ok=True)
    if not (project.path / "net_hls" / "solution" / "impl" / "ip" / "component.xml").exists():
        export(project.path, "net")
    run = Run(tclsh, "vivado", project.path, settings_of(project.path))
    assert (run.status, run.stderr) == (0, "")
    text = (project.path / "vivado.tcl").read_text()
    names = [one["name"] for one in json.loads((project.path / "driver" / "accelerator.json").read_text())["memories"]]
    for name in names:
        assert text.count(f"accelerator/m_axi_{name}]") == 1


def test_a_master_that_is_left_out_is_found(tclsh: str, project: Project) -> None:
    script = project.path / "vivado.tcl"
    whole = script.read_text()
    line = next(line for line in whole.splitlines() if "accelerator/m_axi_whole_memory" in line)
    try:
        script.write_text(whole.replace(line + "\n", ""))
        run = Run(tclsh, "vivado", project.path, settings_of(project.path))
        assert run.status != 0
    finally:
        script.write_text(whole)


def test_masters_share_the_ports_evenly() -> None:
    design = lower(*from_ddr())
    made = block_design(design, board("ultra96v2"), clock_ns=5)
    own = [memory for memory in made.memories if memory.port.name != "S_AXI_HP0_FPD"]
    assert [memory.port.name for memory in own] == ["S_AXI_HP1_FPD", "S_AXI_HP2_FPD", "S_AXI_HP3_FPD"]
    assert sorted(pin for memory in own for pin in memory.masters) == sorted(f"accelerator/m_axi_{master.port}" for master in design.masters)
    loads = {f"accelerator/m_axi_{master.port}": master.frame_bytes for master in design.masters}
    carried = [sum(loads[pin] for pin in memory.masters) for memory in own]
    assert max(carried) - min(carried) <= max(loads.values())


def test_more_masters_than_can_be_connected_are_refused() -> None:
    design = lower(*from_ddr())
    master = design.masters[0]
    many = tuple(FromMemory(f"m{i}", master.output, master.values, 1, 64, f"p{i}") for i in range(50))
    with pytest.raises(ProjectError, match="50 layers whose weights lie in the board's memory"):
        block_design(replace(design, processes=many), board("ultra96v2"), clock_ns=5)


def test_folding_files_and_reports_tell_of_memory(tmp_path: Path) -> None:
    graph, schedule = from_ddr()
    made = fitting_plan(graph, board("ultra96v2"), schedule, clock_ns=5)
    path = tmp_path / "folding.toml"
    path.write_text(folding_file.text(made, graph.name))
    read = dict(folding_file.read(path).foldings)
    assert read["tiled"] == Folding(4, 2, "pair", weights="ddr", rows=2)
    report = summary.data(made, graph.name)
    assert report["memory"]["bytes"] == made.memory_bytes
    assert report["memory"]["masters"] == 6
    assert f"{made.memory_bytes / 1e6:.2f} MB of weights a frame by 6 masters" in summary.as_text(made, graph.name)


def test_what_the_board_gives() -> None:
    """4.26 GB/s, of which 70 %, at 5 ns; no more than three ports of 16 bytes."""
    on = board("ultra96v2")
    assert on.memory_bytes_per_cycle(5.0) == pytest.approx(14.91)
    assert replace(on, memory_gb_s=100.0).memory_bytes_per_cycle(5.0) == 48
