"""The project script, run by tclsh with the vendor's commands stubbed: which are called, in which order, with which arguments."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from codegen_models import classifier

from qfx.codegen.project import Project, write_project

VENDOR = "open_project set_top add_files open_solution set_part create_clock csim_design csynth_design cosim_design export_design"
COMMANDS = tuple(VENDOR.split())


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


def run(tclsh: str, project: Project, steps: str | None = None) -> tuple[int, list[list[str]], str]:
    """Exit status, vendor calls (words) and stderr."""
    stubs = "\n".join(f"proc {name} {{args}} {{puts [join [list {name} {{*}}$args] \\t]}}" for name in COMMANDS)
    driver = project.path.parent / "driver.tcl"
    driver.write_text(f"{stubs}\nsource [lindex $argv 0]\n")
    environment = {key: value for key, value in os.environ.items() if key != "QFX_STEPS"} | ({} if steps is None else {"QFX_STEPS": steps})
    command = [tclsh, str(driver), str(project.path / "script.tcl")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=project.path.parent)
    return done.returncode, [line.split("\t") for line in done.stdout.splitlines()], done.stderr


def test_the_whole_script(tclsh: str, written: Project) -> None:
    status, calls, stderr = run(tclsh, written)
    root = str(written.path)
    assert (status, stderr) == (0, "")
    assert [call[0] for call in calls] == [
        *("open_project", "set_top", "add_files", "add_files", "add_files", "add_files", "open_solution", "set_part", "create_clock"),
        *("csim_design", "csynth_design", "export_design"),
    ]
    assert calls[0] == ["open_project", "-reset", "net_hls"]
    assert calls[1] == ["set_top", "net"]
    assert calls[6:9] == [
        ["open_solution", "-reset", "solution"],
        ["set_part", "xczu3eg-sbva484-1-i"],
        ["create_clock", "-period", "4", "-name", "default"],
    ]
    assert calls[-1] == ["export_design", "-format", "ip_catalog"]
    files = [call[2] if call[1] == "-tb" else call[1] for call in calls if call[0] == "add_files"]
    assert files == [f"{root}/{name}" for name in ("src/net.cpp", "tb/tb.cpp", "tb/golden_input.txt", "tb/golden_output.txt")]
    assert all(Path(file).is_file() for file in files)
    flags = calls[2][calls[2].index("-cflags") + 1]
    assert {"-std=c++11", "-DNDEBUG", f'-I"{root}/include"'} <= set(re.split(r" (?=-)", flags))
    assert "sim" not in flags


@pytest.mark.parametrize(
    ("steps", "designs"),
    [("csim", ["csim_design"]), ("synth cosim", ["csynth_design", "cosim_design"]), (" ", ["csim_design", "csynth_design", "export_design"])],
)
def test_selected_steps(tclsh: str, written: Project, steps: str, designs: list[str]) -> None:
    status, calls, _ = run(tclsh, written, steps)
    assert status == 0
    assert [call[0] for call in calls if call[0].endswith("_design")] == designs


@pytest.mark.parametrize(
    ("steps", "message"), [("synthesis", 'no step is called "synthesis"'), ("export", "need synth"), ("cosim csim", "need synth")]
)
def test_wrong_steps_stop_before_the_tool_does_anything(tclsh: str, written: Project, steps: str, message: str) -> None:
    status, calls, stderr = run(tclsh, written, steps)
    assert (status, calls) == (1, [])
    assert message in stderr
