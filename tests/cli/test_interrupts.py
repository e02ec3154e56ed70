"""Ctrl-C ends every command with 130, whatever it was doing, and everything that it had started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import qfx
from qfx.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, gxx: str) -> Path:
    """A model, a project of it that is not compiled, and inputs."""
    root = tmp_path_factory.mktemp("interrupts")
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64, 3))
    qfx.export_onnx(qfx.quantize(network, torch.randn(32, 1, 4, 4)), root / "net.onnx")
    np.save(root / "x.npy", np.random.default_rng(0).normal(size=(400_000, 1, 4, 4)).astype(np.float32))
    np.save(root / "few.npy", np.zeros((2, 1, 4, 4), np.float32))
    done = CliRunner().invoke(main, ["hls", str(root / "net.onnx"), "--board", "zcu102", "-o", str(root / "project")])
    assert done.exit_code == 0, done.output
    return root


def _interrupted(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("where", "arguments"),
    [
        ("qfx.ir.from_onnx.load_graph", "inspect net.onnx"),
        ("qfx.ir.from_onnx.load_graph", "hls net.onnx --board zcu102 -o new/project"),
        ("qfx.hardware.project.folder.replace", "hls net.onnx --board zcu102 -o new/project"),
        ("qfx.hardware.folding.search.resolve", "estimate net.onnx --board zcu102"),
        ("qfx.data.load_inputs", "csim project --data few.npy -o new/y.npy"),
        ("qfx.hardware.project.csim.trace_raw", "csim project --data few.npy --trace new/t.npz"),
        ("qfx.data.save_array", "csim project --data few.npy -o new/y.npy"),
        ("qfx.data.load_inputs", "verify net.onnx project --data few.npy"),
        ("qfx.verify.onnx_runtime", "verify net.onnx project --data few.npy"),
        ("qfx.ir.from_onnx.load_graph", "report net.onnx --data few.npy"),
        ("qfx.report.report_project", "report project --data few.npy"),
        ("qfx.hardware.project.reload.words_for", "weights net.onnx project -o new/w.bin"),
        ("qfx.hardware.board.boards", "boards"),
        ("qfx.ptq.run.command.check_targets", "ptq --model a:b --data few.npy -o new/m.onnx"),
        ("qfx.ptq.run.command._model_and_data", "ptq --model a:b --data few.npy -o new/m.onnx"),
        ("qfx.hardware.assets.vendor_version", "--version"),
    ],
)
def test_every_command_exits_with_130(folder: Path, monkeypatch: pytest.MonkeyPatch, where: str, arguments: str) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(where, _interrupted)
    before = {path for path in folder.rglob("*") if "build" not in path.parts}
    result = CliRunner().invoke(main, arguments.split())
    assert result.exit_code == 130, result.output
    assert "interrupted" in result.stderr
    assert "Traceback" not in result.output
    assert {path for path in folder.rglob("*") if "build" not in path.parts} == before


def _children(pid: int) -> dict[int, str]:
    """All processes below one, by number: their names."""
    parents: dict[int, tuple[int, str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                head, _, tail = (entry / "stat").read_text().rpartition(")")
            except OSError:
                continue
            parents[int(entry.name)] = int(tail.split()[1]), head.partition("(")[2]
    below = {pid}
    for _ in range(10):
        below |= {number for number, (parent, _) in parents.items() if parent in below}
    return {number: parents[number][1] for number in below - {pid} if number in parents}


def _stopped(command: list[str], cwd: Path, ready: Callable[[dict[int, str]], bool]) -> tuple[subprocess.Popen[str], str, dict[int, str]]:
    """Start the command, interrupt it alone once ``ready`` likes its children, and wait for its end."""
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    children: dict[int, str] = {}
    for _ in range(3000):
        children = _children(process.pid)
        if ready(children) or process.poll() is not None:
            break
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    return process, errors, children


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(("command", "program"), [("csim", "cc1plus"), ("csim", "tb"), ("verify", "cc1plus"), ("report", "tb_report")])
def test_compilers_and_simulations_are_ended(folder: Path, tmp_path: Path, command: str, program: str) -> None:
    subprocess.run(["rm", "-rf", str(folder / "project" / "build")], check=True)
    arguments = {
        "csim": ["project", "-o", str(tmp_path / "new" / "y.npy")],
        "verify": ["net.onnx", "project"],
        "report": ["project"],
    }[command]
    data = "x.npy" if program != "cc1plus" else "few.npy"
    whole = [sys.executable, "-m", "qfx.cli", command, *arguments, "--data", data]
    process, errors, children = _stopped(whole, folder, lambda found: program in found.values())
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    assert "Traceback" not in errors
    for _ in range(100):
        if not any(map(_alive, children)):
            break
        time.sleep(0.05)
    assert not any(map(_alive, children)), children
    assert list(tmp_path.iterdir()) == []
    left = sorted(path.name for path in (folder / "project" / "build").iterdir())
    assert left == ([] if program == "cc1plus" else [program])
    assert not list(folder.glob(".*"))


def test_a_reader_that_goes_away_is_no_difference(folder: Path) -> None:
    command = f"{sys.executable} -m qfx.cli boards --json | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, env={**os.environ})
    assert done.returncode in (0, 141)
    assert "Traceback" not in done.stderr
