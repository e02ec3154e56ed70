"""The scripts of a project, run by tclsh against models of the vendor's tools (the folder tcl): commands, options, parameters, pins and order."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from hardware_models import chain, classifier

from qfx.errors import ProjectError
from qfx.fixed.packing import Port
from qfx.fixed.type import FixedType
from qfx.hardware.board import board, boards
from qfx.hardware.design.design import Design
from qfx.hardware.design.schedule import Schedule
from qfx.hardware.emit.blockdesign import block_design
from qfx.hardware.project.project import Project, write_project
from qfx.operators import Relu

MODELS = Path(__file__).resolve().parent / "tcl"
_NEWEST = {
    "xilinx.com:kv260_som": "1.4",
    "tul.com.tw:pynq-z2": "1.0",
    "avnet.com:ultra96v2": "1.2",
    "xilinx.com:zcu102": "3.4",
    "xilinx.com:zcu104": "1.1",
}
INSTALLED = " ".join(f"{name}:part0:{version}" for name, version in _NEWEST.items())


@pytest.fixture(scope="module")
def tclsh() -> str:
    path = shutil.which("tclsh")
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("tclsh is missing, and continuous integration may not skip the scripts")
        pytest.skip("tclsh is not installed")
    return path


@pytest.fixture
def written(tmp_path: Path) -> Project:
    return write_project(classifier(), tmp_path / "my project", board="ultra96v2", clock_ns=4.0, top="net")


class Run:
    """What a script did: exit status, the vendor commands that it called (lists of words), standard output and error."""

    def __init__(self, tclsh: str, tool: str, project: Path, settings: Mapping[str, str]) -> None:
        log = project.parent / "calls.log"
        log.unlink(missing_ok=True)
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("QFX_", "MODEL_"))}
        command = {"hls": ["-f", str(project / "script.tcl")], "vivado": ["-mode", "batch", "-source", str(project / "vivado.tcl")]}[tool]
        done = subprocess.run(
            [tclsh, str(MODELS / f"{tool}.tcl"), *command],
            capture_output=True,
            text=True,
            check=False,
            env=environment | {"MODEL_LOG": str(log)} | dict(settings),
            cwd=project.parent,
        )
        self.status, self.stdout, self.stderr = done.returncode, done.stdout, done.stderr
        self.calls = [tcl_words(line) for line in log.read_text().splitlines()] if log.exists() else []
        self.commands = [call[0] for call in self.calls]


def tcl_words(line: str) -> list[str]:
    """The words of a Tcl list without nested lists worth telling apart."""
    return [word[1:-1] if word.startswith("{") else word for word in re.findall(r"\{[^{}]*\}|[^\s{}]+", line)]


def settings_of(project: Path) -> dict[str, str]:
    """The model's accelerator has the ports that the project says."""
    data = json.loads((project / "driver" / "accelerator.json").read_text())
    if "engine" in data:
        return {"MODEL_MASTERS": " ".join(port["name"] for port in data["engine"]["ports"]), "MODEL_NO_STREAMS": "1", "MODEL_BOARDS": INSTALLED}
    if data.get("memories"):
        ends = {"MODEL_MASTERS": " ".join(one["name"] for one in data["memories"])}
        return (
            ends
            | {f"MODEL_{side.upper()}_BITS": str(data[name]["slot"] * data[name]["parallel"]) for side, name in (("in", "input"), ("out", "output"))}
            | {"MODEL_BOARDS": INSTALLED}
        )
    if "inputs" in data:
        ends = [(port, mode) for kind, mode in (("inputs", "Slave"), ("outputs", "Master")) for port in data[kind]]
        streams = " ".join(f"{port['stream']} {mode} {port['slot'] * port['parallel']}" for port, mode in ends)
        return {
            "MODEL_STREAMS": streams,
            "MODEL_BOARDS": INSTALLED,
            **({"MODEL_WEIGHTS_BITS": str(data["weights"]["slot"])} if "weights" in data else {}),
        }
    bits = {name: str(data[name]["slot"] * data[name]["parallel"]) for name in ("input", "output")}
    weights = {"MODEL_WEIGHTS_BITS": str(data["weights"]["slot"])} if "weights" in data else {}
    return {"MODEL_IN_BITS": bits["input"], "MODEL_OUT_BITS": bits["output"], "MODEL_BOARDS": INSTALLED, **weights}


def export(project: Path, top: str) -> None:
    """As the HLS tool leaves it."""
    folder = project / f"{top}_hls" / "solution" / "impl" / "ip"
    folder.mkdir(parents=True)
    (folder / "component.xml").write_text(f"<spirit:name>{top}</spirit:name>\n")


# --- script.tcl


def test_the_whole_script(tclsh: str, written: Project) -> None:
    run = Run(tclsh, "hls", written.path, {})
    root = str(written.path)
    assert (run.status, run.stderr) == (0, "")
    assert run.commands == [
        *("open_project", "set_top", "add_files", "add_files", "add_files", "add_files", "open_solution", "set_part", "create_clock"),
        *("set_clock_uncertainty", "csim_design", "csynth_design", "export_design"),
    ]
    calls = run.calls
    assert calls[0] == ["open_project", "-reset", "net_hls"]
    assert calls[1] == ["set_top", "net"]
    assert calls[6:10] == [
        ["open_solution", "-reset", "solution"],
        ["set_part", "xczu3eg-sbva484-1-i"],
        ["create_clock", "-period", "4", "-name", "default"],
        ["set_clock_uncertainty", "12.5%", "default"],
    ]
    assert calls[-1] == ["export_design", "-format", "ip_catalog", "-version", "1.0.0"]
    files = [call[2] if call[1] == "-tb" else call[1] for call in calls if call[0] == "add_files"]
    assert files == [f"{root}/{name}" for name in ("src/net.cpp", "tb/tb.cpp", "tb/golden_input.txt", "tb/golden_output.txt")]
    flags = calls[2][calls[2].index("-cflags") + 1]
    assert {"-std=c++11", "-DNDEBUG", f'-I"{root}/include"'} <= set(re.split(r" (?=-)", flags))
    assert "sim" not in flags
    assert (written.path / "net_hls" / "solution" / "impl" / "ip" / "component.xml").is_file()


@pytest.mark.parametrize(
    ("steps", "designs"),
    [("csim", ["csim_design"]), ("synth cosim", ["csynth_design", "cosim_design"]), (" ", ["csim_design", "csynth_design", "export_design"])],
)
def test_selected_steps(tclsh: str, written: Project, steps: str, designs: list[str]) -> None:
    run = Run(tclsh, "hls", written.path, {"QFX_STEPS": steps})
    assert run.status == 0
    assert [command for command in run.commands if command.endswith("_design")] == designs


@pytest.mark.parametrize(
    ("steps", "message"), [("synthesis", 'no step is called "synthesis"'), ("export", "need synth"), ("cosim csim", "need synth")]
)
def test_wrong_steps_stop_before_the_tool_does_anything(tclsh: str, written: Project, steps: str, message: str) -> None:
    run = Run(tclsh, "hls", written.path, {"QFX_STEPS": steps})
    assert (run.status, run.calls) == (1, [])
    assert message in run.stderr


@pytest.mark.parametrize(
    ("was", "planted", "message"),
    [
        ("csynth_design", "csynth_desing", "invalid command name"),
        ("-format ip_catalog", "-fromat ip_catalog", "export_design has no option -fromat"),
        ("-format ip_catalog", "", "export_design needs -format"),
        ("-format ip_catalog", "-format catalog", "no format catalog"),
        ("create_clock -period 4", "create_clock -period 0", "period 0"),
        ("create_clock -period 4", "create_clock 4", "needs -period"),
        ("uncertainty 12.5% default", "uncertainty 125% default", "uncertainty: 125%"),
        ("uncertainty 12.5% default", "uncertainty 12.5% other", "no clock other"),
        ("src/net.cpp", "src/net.cc", "is not a file"),
        ("$root/include$q", "$root/includes$q", "is not a folder"),
        ("set_top net\n", "", "there is no top"),
        ("open_solution -reset solution\n", "", "there is no solution"),
    ],
)
def test_the_model_finds_faults_in_the_script(tclsh: str, written: Project, was: str, planted: str, message: str) -> None:
    plant(written.path / "script.tcl", was, planted)
    run = Run(tclsh, "hls", written.path, {})
    assert run.status != 0
    assert message in run.stderr


def plant(path: Path, was: str, planted: str) -> None:
    text = path.read_text()
    assert was in text, was
    path.write_text(text.replace(was, planted))


# --- vivado.tcl


@pytest.mark.parametrize("name", [known.name for known in boards()])
def test_the_block_design_of_every_board(tclsh: str, tmp_path: Path, name: str) -> None:
    project = write_project(classifier(), tmp_path / "p", board=name, clock_ns=4.0, top="net").path
    export(project, "net")
    run = Run(tclsh, "vivado", project, settings_of(project))
    assert (run.status, run.stderr) == (0, "")
    assert "WARNING" not in run.stdout
    assert "clock 250 MHz asked, 250 MHz given" in run.stdout
    assert sorted(path.name for path in (project / "deploy").iterdir()) == ["net.bit", "net.hwh", "net.xsa"]
    assert sorted(path.name for path in (project / "reports").iterdir()) == ["timing.rpt", "utilization.rpt", "utilization_hierarchical.rpt"]
    found = board(name)
    created = next(call for call in run.calls if call[0] == "create_project")
    assert created[1:4] == ["-force", "-part", found.part]
    chosen = next(call for call in run.calls if call[:2] == ["set_property", "board_part"])
    assert chosen[2] in INSTALLED.split()
    order = [
        *("create_project", "update_ip_catalog", "create_bd_design", "create_bd_cell", "connect_bd_intf_net", "connect_bd_net", "assign_bd_address"),
        *("validate_bd_design", "save_bd_design", "make_wrapper", "add_files", "launch_runs", "open_run", "report_utilization"),
        *("report_timing_summary", "get_timing_paths", "write_hw_platform"),
    ]
    assert [command for i, command in enumerate(run.commands) if command in order and command not in run.commands[:i]] == order
    runs = [call for call in run.calls if call[0] == "launch_runs"]
    assert [(call[1], call[call.index("-to_step") + 1] if "-to_step" in call else "") for call in runs] == [
        ("synth_1", ""),
        ("impl_1", "route_design"),
        ("impl_1", "write_bitstream"),
    ]


@pytest.mark.parametrize(
    ("ports", "cells"),
    [((1, 64), set()), ((3, 2), {"widen"}), ((1, 3), {"narrow"}), ((6, 192), {"widen", "narrow"})],
)
def test_streams_of_any_width_meet_the_dma(tclsh: str, tmp_path: Path, ports: tuple[int, int], cells: set[str]) -> None:
    graph = chain("wide", (192, 2, 2), Relu(), cast="ap_ufixed<8,3>")
    schedule = Schedule.of({}, input_parallel=ports[0], output_parallel=ports[1])
    project = write_project(graph, tmp_path / "p", board="zcu102", schedule=schedule).path
    export(project, "wide")
    run = Run(tclsh, "vivado", project, settings_of(project))
    assert (run.status, run.stderr) == (0, "")
    assert {call[-1] for call in run.calls if call[0] == "create_bd_cell"} & {"widen", "narrow"} == cells


@pytest.mark.parametrize(
    ("word", "dma", "memory"), [(8, 8, 128), (24, 8, 128), (48, 16, 128), (96, 32, 128), (512, 512, 512), (1536, 512, 512), (4096, 1024, 1024)]
)
def test_stream_widths(word: int, dma: int, memory: int) -> None:
    port = Port(FixedType(8, 4), (word // 8,), 8, word // 8)
    found = block_design(Design((), (), (), port, port), board("zcu104"), clock_ns=3.0)
    assert (found.input.dma_bits, found.input.memory_bits, found.input.converted) == (dma, memory, word != dma)
    assert found.output == found.input
    assert (found.clock_mhz, found.control.name, found.memory.clock) == ("333.333333", "M_AXI_HPM0_FPD", "saxihp0_fpd_aclk")


def test_a_port_that_no_converter_takes() -> None:
    port = Port(FixedType(64, 4), (65,), 64, 65)
    with pytest.raises(ProjectError, match="a port is 4160 bits wide"):
        block_design(Design((), (), (), port, port), board("zcu104"), clock_ns=3.0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with an exported IP, 24 bits in and 8 bits out, so that one converter is there. Not to be changed: see ``project``."""
    path = tmp_path_factory.mktemp("base") / "p"
    write_project(classifier(), path, board="ultra96v2", top="net", schedule=Schedule.of({}, input_parallel=3))
    export(path, "net")
    return path


@pytest.fixture
def project(base: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "p"
    copy.mkdir()
    for name in ("vivado.tcl", "net_hls", "driver"):
        (shutil.copytree if (base / name).is_dir() else shutil.copy)(base / name, copy / name)
    return copy


@pytest.mark.parametrize(
    ("was", "planted", "message"),
    [
        ("validate_bd_design", "validate_bd_desing", "invalid command name"),
        ("-vlnv xilinx.com:ip:axi_dma", "-vnlv xilinx.com:ip:axi_dma", "create_bd_cell has no option -vnlv"),
        ("xilinx.com:ip:axi_dma", "xilinx.com:ip:axi_dam", "no IP axi_dam"),
        ("c_include_sg {0}", "c_include_sq {0}", "axi_dma has no parameter c_include_sq"),
        ("c_include_sg {0}", "c_include_sg {1}", "/dma/m_axi_sg_aclk"),
        ("c_sg_length_width {26}", "c_sg_length_width {27}", "c_sg_length_width cannot be 27"),
        ("c_m_axis_mm2s_tdata_width {8}", "c_m_axis_mm2s_tdata_width {24}", "tdata_width cannot be 24"),
        ("c_m_axis_mm2s_tdata_width {8}", "c_m_axis_mm2s_tdata_width {16}", "has 16 bits, /widen/S_AXIS 8"),
        ("c_m_axi_s2mm_data_width {128}", "c_m_axi_s2mm_data_width {48}", "c_m_axi_s2mm_data_width cannot be 48"),
        ("M_TDATA_NUM_BYTES {3}", "M_TDATA_NUM_BYTES {4}", "has 32 bits, /accelerator/in_r 24"),
        ("NUM_SI {2}", "NUM_SI {1}", "there is no memory/S01_AXI"),
        ("NUM_SI {2}", "NUM_SI {3}", "/memory/S02_AXI is not connected"),
        ("PSU__USE__M_AXI_GP1 {0}", "PSU__USE__M_AXI_GP1 {1}", "nothing drives the clock /ps/maxihpm1_fpd_aclk"),
        ("PSU__USE__S_AXI_GP2 {1}", "PSU__USE__S_AXI_GP3 {1}", "there is no ps/S_AXI_HP0_FPD"),
        ("ps/pl_clk0", "ps/pl_clk", "there is no ps/pl_clk"),
        ("    [get_bd_pins dma/m_axi_s2mm_aclk] \\\n", "", "nothing drives the clock /dma/m_axi_s2mm_aclk"),
        ("    [get_bd_pins widen/aresetn] \\\n", "", "nothing drives the reset /widen/aresetn"),
        ("connect_bd_net $ps_reset [get_bd_pins reset/ext_reset_in]\n", "", "nothing drives the reset /reset/ext_reset_in"),
        ("reset/peripheral_aresetn", "reset/peripheral_reset", "nothing drives the reset"),
        (
            "[get_bd_intf_pins dma/M_AXI_S2MM] [get_bd_intf_pins memory/S01_AXI]",
            "[get_bd_intf_pins dma/M_AXI_S2MM] [get_bd_intf_pins memory/S00_AXI]",
            "net already",
        ),
        (
            "connect_bd_intf_net $data_out [get_bd_intf_pins dma/S_AXIS_S2MM]",
            "connect_bd_intf_net $data_out [get_bd_intf_pins dma/M_AXIS_MM2S]",
            "both Master",
        ),
        ("connect_bd_intf_net [get_bd_intf_pins control/M01_AXI] $registers\n", "", "is not connected"),
        ("MODE == Master && VLNV", "MODE == Mister && VLNV", "expected one output stream of net, found 0"),
        ("assign_bd_address\n", "", "addresses are not assigned"),
        ("validate_bd_design\n", "", "the design is not validated"),
        ("create_bd_design system\n", "", "no block design is open"),
        ("update_ip_catalog\n", "", "get_ipdefs before update_ip_catalog"),
        ("set_property top system_wrapper [current_fileset]\n", "", "there is no top module"),
        ("launch_runs synth_1 -jobs $jobs\nfinish synth_1\n", "", "synthesis is not done"),
        ("open_run impl_1\n", "", "a report of an implementation that is not open"),
        ("finish impl_1\n", "", "the bitstream or the hardware handoff is missing"),
        ("finish synth_1\n", "", "synthesis is not done"),
        ("-to_step write_bitstream", "-to_step write_bit", "no step write_bit"),
        ("-delay_type", "-delay", "get_timing_paths has no option -delay"),
    ],
)
def test_the_model_finds_faults_in_the_block_design(tclsh: str, project: Path, was: str, planted: str, message: str) -> None:
    plant(project / "vivado.tcl", was, planted)
    run = Run(tclsh, "vivado", project, settings_of(project))
    assert run.status != 0
    assert message in run.stderr


def test_an_ip_that_is_not_there(tclsh: str, project: Path) -> None:
    shutil.rmtree(project / "net_hls")
    run = Run(tclsh, "vivado", project, settings_of(project))
    assert (run.status, run.calls) == (1, [])
    assert "run `make ip` first" in run.stderr
    assert not (project / "net_vivado").exists()


def test_a_path_that_vivado_does_not_take(tclsh: str, written: Project) -> None:
    run = Run(tclsh, "vivado", written.path, settings_of(written.path))
    assert (run.status, run.calls) == (1, [])
    assert "paths with spaces" in run.stderr


def test_an_ip_of_another_name(tclsh: str, project: Path) -> None:
    (project / "net_hls" / "solution" / "impl" / "ip" / "component.xml").write_text("<spirit:name>other</spirit:name>")
    run = Run(tclsh, "vivado", project, settings_of(project))
    assert run.status == 1
    assert "is not net" in run.stderr


@pytest.mark.parametrize("which", ["MODEL_SETUP", "MODEL_HOLD"])
@pytest.mark.parametrize("slack", ["-0.012", ""])
def test_timing_that_is_not_met_gives_no_bitstream(tclsh: str, project: Path, which: str, slack: str) -> None:
    run = Run(tclsh, "vivado", project, settings_of(project) | {which: slack})
    assert run.status == 1
    assert "timing is not met" in run.stderr
    assert (project / "reports" / "timing.rpt").is_file()
    assert list((project / "deploy").iterdir()) == []
    run = Run(tclsh, "vivado", project, settings_of(project) | {which: slack, "QFX_ALLOW_TIMING": "1"})
    assert (run.status, run.stderr) == (0, "")
    assert "WARNING: timing is not met" in run.stdout
    assert (project / "deploy" / "net.bit").is_file()


@pytest.mark.parametrize("step", ["synth_1", "impl_1", "write_bitstream"])
def test_a_run_that_fails(tclsh: str, project: Path, step: str) -> None:
    run = Run(tclsh, "vivado", project, settings_of(project) | {"MODEL_FAIL": step})
    assert run.status == 1
    assert re.search(r"(synth|impl)_1 failed: \w+ ERROR", run.stderr)
    assert not (project / "deploy" / "net.bit").exists()


def test_what_the_environment_says(tclsh: str, project: Path) -> None:
    run = Run(tclsh, "vivado", project, settings_of(project) | {"QFX_JOBS": "7", "MODEL_MHZ": "187.498", "MODEL_HANDOFF": "srcs"})
    assert run.status == 0, run.stderr
    assert "clock 200 MHz asked, 187.498 MHz given" in run.stdout
    assert all(call[call.index("-jobs") + 1] == "7" for call in run.calls if call[0] == "launch_runs")
    assert Run(tclsh, "vivado", project, {"QFX_JOBS": "many"}).status == 1


def test_a_board_without_board_files(tclsh: str, project: Path) -> None:
    run = Run(tclsh, "vivado", project, settings_of(project) | {"MODEL_BOARDS": "xilinx.com:zcu102:part0:3.4"})
    assert (run.status, run.stderr) == (0, "")
    assert "WARNING: Vivado has no board files" in run.stdout
    assert "apply_bd_automation" not in run.commands


def test_the_newest_board_files_win(tclsh: str, project: Path) -> None:
    """Wherever they come from: Vivado's own, or a folder that the user names."""
    settings = settings_of(project) | {"MODEL_BOARDS": "em.avnet.com:ultra96v2:part0:1.0 avnet.com:ultra96v2:part0:1.2"}
    run = Run(tclsh, "vivado", project, settings)
    assert "board files avnet.com:ultra96v2:part0:1.2" in run.stdout
    run = Run(tclsh, "vivado", project, settings | {"QFX_BOARD_REPO": str(project), "MODEL_REPO_BOARDS": "avnet.com:ultra96v2:part0:1.10"})
    assert "board files avnet.com:ultra96v2:part0:1.10" in run.stdout


# --- Makefile


def test_make_goes_from_sources_to_a_folder_for_the_board(tclsh: str, tmp_path: Path) -> None:
    project = write_project(classifier(), tmp_path / "p", board="pynq_z2", top="net").path
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, model in (("vitis-run", "hls"), ("vivado", "vivado")):
        (tools / name).write_text(f'#!/bin/sh\nexport MODEL_LOG="{tmp_path}/{model}.log"\nexec "{tclsh}" "{MODELS}/{model}.tcl" "$@"\n')
        (tools / name).chmod(0o755)
    environment = dict(os.environ) | settings_of(project)

    def make(*arguments: str, path: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["make", *arguments], cwd=project, env=environment | {"PATH": path}, capture_output=True, text=True, check=False)

    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    done = make("bitstream", path=os.environ["PATH"])
    assert done.returncode != 0
    assert "vitis_hls is not on the PATH: source the settings64.sh" in done.stderr
    done = make("deploy", path=path)
    assert done.returncode == 0, done.stdout + done.stderr
    calls = [tcl_words(line)[0] for line in (tmp_path / "hls.log").read_text().splitlines()]
    assert [call for call in calls if call.endswith("_design")] == ["csynth_design", "export_design"]
    deployed = {found.relative_to(project / "deploy").as_posix() for found in (project / "deploy").rglob("*") if found.is_file()}
    assert {
        "net.bit",
        "net.hwh",
        "net.xsa",
        "driver/__main__.py",
        "driver/fixed/packing.py",
        "driver/golden_x.npy",
        "driver/accelerator.json",
    } <= deployed
    for model in ("hls", "vivado"):
        (tmp_path / f"{model}.log").unlink()
    made = (project / "deploy" / "net.bit").stat().st_mtime + 2  # Tcl copies whole seconds, and these tools are quick
    os.utime(project / "deploy" / "net.bit", (made, made))
    assert make("deploy", path=path).returncode == 0  # nothing is out of date
    assert not list(tmp_path.glob("*.log"))
    source = project / "src" / "net.cpp"
    os.utime(source, (made + 2, made + 2))
    assert make("ip", path=path).returncode == 0
    assert (tmp_path / "hls.log").exists()
    assert make("cosim", path=path).returncode == 0
    assert make("clean", path=path).returncode == 0
    assert not [name for name in ("net_hls", "net_vivado", "deploy", "reports") if (project / name).exists()]
