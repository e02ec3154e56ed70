"""``qfx sweep``: every cell measured once, by any number of workers, whatever ends them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import qfx
from qfx.cli import main
from qfx.errors import DataError, RecipeError
from qfx.searches import pool as pools
from qfx.searches import study
from qfx.searches.cells import NONE, Cell, Space, word_lengths
from qfx.searches.cli import _without
from qfx.searches.pool import Here, gone_here, without_passwords
from qfx.searches.study import Row, Sweep, forget, front
from qfx.searches.work import Measured
from qfx.watch import runs as watch

pytest.importorskip("optuna", reason="sweeps need Optuna: pip install 'qfx[sweep]'")

NETWORK = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)).eval()
"""
SPACE = Space(("",), (2, 4), (4, 8), (NONE,))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweptnet.py").write_text(NETWORK, encoding="utf-8")
    x = np.random.default_rng(0).normal(size=(96, 1, 4, 4)).astype(np.float32)
    torch.manual_seed(0)
    scope: dict[str, Any] = {}
    exec(NETWORK, scope)
    y = scope["net"]()(torch.from_numpy(x)).argmax(1).numpy()
    np.savez("calib.npz", x=x[:32])
    np.savez("test.npz", x=x, y=y)
    return tmp_path


ASKED = ("sweep", "--model", "sweptnet:net", "--data", "calib.npz", "--eval", "test.npz", "--passes", "calibrate", "--weight-bits", "2,4")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, [*ASKED, *arguments], catch_exceptions=False)


def read(folder: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(Path(folder, "sweep.json").read_text(encoding="utf-8"))
    return rows


def test_a_table_a_front_and_a_model_of_every_cell(place: Path) -> None:
    done = run("--budget", "none", "--budget", "board=nowhere,fps=10", "-o", "out")
    assert done.exit_code == 0, done.output
    rows = read("out")
    assert [(row["weight_bits"], row["budget"], row["state"]) for row in rows] == [
        (2, "none", "done"),
        (2, "board=nowhere,fps=10", "refused"),
        (4, "none", "done"),
        (4, "board=nowhere,fps=10", "refused"),
    ]
    assert "nowhere" in rows[1]["why"]
    assert (place / "out" / "front.png").read_bytes().startswith(b"\x89PNG")
    x = np.load("test.npz")
    for row in rows[::2]:
        graph = qfx.load_graph(place / "out" / row["file"])
        right = (np.asarray(qfx.run(graph, x["x"])).argmax(1) == x["y"]).mean()
        assert right == pytest.approx(row["accuracy"], abs=1e-12)  # of 96 images: none more, none less
    assert rows[2]["cost"] == 2 * rows[0]["cost"]
    (watched,) = watch.read(place / "out")
    assert watched.stage is not None
    assert watched.stage[0] == "cells"
    assert [(cell.score, cell.cost) for cell in watched.tried] == [(row["accuracy"], row["cost"]) for row in rows[::2]]
    assert watched.front == [(row["cost"], row["accuracy"]) for row in rows if row["front"]]
    assert (watched.score, watched.cost) == ("accuracy", "bit operations")
    before = {path: path.stat().st_mtime_ns for path in (place / "out").glob("*.onnx")}
    again = run("--budget", "none", "--budget", "board=nowhere,fps=10", "-o", "out", "--json")
    assert json.loads(again.stdout) == rows
    assert before == {path: path.stat().st_mtime_ns for path in (place / "out").glob("*.onnx")}  # nothing was done again
    other = run("--budget", "none", "-o", "out")
    assert other.exit_code == 2
    assert "other cells" in other.output
    assert run("--budget", "none", "-o", "out", "--force").exit_code == 0
    assert len(read("out")) == 2
    (anew,) = watch.read(place / "out")
    assert len(anew.tried) == 2
    assert anew.stage == ("cells", 2, 2)


def test_what_a_killed_sweep_left_is_done_by_the_next(place: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), str(place)])}
    command = [sys.executable, "-m", "qfx.cli", *ASKED, "--activation-bits", "4,8", "-o", "killed"]
    worker = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not list((place / "killed").glob("*.onnx")) and time.monotonic() < deadline:
        time.sleep(0.05)
    worker.send_signal(signal.SIGKILL)
    worker.communicate()
    assert len(list((place / "killed").glob("*.onnx"))) < 4, "it was over before it was killed"
    assert run("--activation-bits", "4,8", "--workers", "1", "-o", "killed").exit_code == 0
    assert run("--activation-bits", "4,8", "-o", "whole").exit_code == 0
    assert read("killed") == read("whole")
    for row in read("whole"):
        assert Path("killed", row["file"]).read_bytes() == Path("whole", row["file"]).read_bytes()


def measured(cell: Cell) -> Measured:
    return Measured(1 - 1 / cell.weight_bits, float(cell.weight_bits * cell.activation_bits), 1.0)


def sweep(folder: Path, trials: int | None = None) -> Sweep:
    return Sweep(str(folder / "sweep.db"), "qfx", SPACE, "a subject", trials, 0)


def test_workers_share_the_cells(tmp_path: Path) -> None:
    first, second = sweep(tmp_path), sweep(tmp_path)
    first.begin()
    seen: list[Cell] = []

    def one_after_the_other(cell: Cell) -> Measured:
        seen.append(cell)
        if len(seen) == 1:
            second.work(one_after_the_other, lambda done, total: None)
        return measured(cell)

    first.work(one_after_the_other, lambda done, total: None)
    assert sorted(seen, key=str) == sorted(SPACE, key=str)  # each once
    assert [row.state for row in first.rows()] == ["done"] * 4
    second.begin()
    second.work(one_after_the_other, lambda done, total: None)
    assert len(seen) == 4


def test_two_workers_that_were_given_the_same_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a database without locks on rows may do. Both compute the same, and the first that tells counts."""
    import optuna

    first, second = sweep(tmp_path), sweep(tmp_path)
    first.begin()
    asked, ask = [], second._study.ask

    def as_the_first() -> Any:
        asked.append(first._study.trials[0])
        return optuna.trial.Trial(second._study, asked[0]._trial_id) if len(asked) == 1 else ask()

    monkeypatch.setattr(second._study, "ask", as_the_first)
    seen: list[Cell] = []

    def one_in_the_other(cell: Cell) -> Measured:
        seen.append(cell)
        if len(seen) == 1:
            second.work(one_in_the_other, lambda done, total: None)
        return measured(cell)

    first.work(one_in_the_other, lambda done, total: None)
    assert len(seen) == 5
    assert seen[0] == seen[1]
    assert [row.state for row in first.rows()] == ["done"] * 4


def test_an_error_that_is_nobodys_leaves_the_cell_in_line(tmp_path: Path) -> None:
    def broken(cell: Cell) -> Measured:
        raise MemoryError

    one = sweep(tmp_path)
    one.begin()
    with pytest.raises(MemoryError):
        one.work(broken, lambda done, total: None)
    again = sweep(tmp_path)
    again.begin()
    again.work(measured, lambda done, total: None)
    assert [row.state for row in again.rows()] == ["done"] * 4


def test_a_worker_that_was_killed_before_it_said_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "_NAMELESS_S", 0.2)
    one = sweep(tmp_path)
    one.begin()
    one._study.ask()  # and the process ends here
    again = sweep(tmp_path)
    again.begin()
    again.work(measured, lambda done, total: None)
    assert [row.state for row in again.rows()] == ["done"] * 4


def test_a_worker_that_begins_meanwhile_keeps_its_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "_NAMELESS_S", 0.3)
    one, two = sweep(tmp_path), sweep(tmp_path)
    one.begin()
    left = one._study.ask()  # its process ends here
    begun: list[int] = []
    monkeypatch.setattr(study.time, "sleep", lambda _: begun.append(two._study.ask().number) if not begun else None)
    assert sweep(tmp_path)._left(gone_here) == [left.number]
    assert begun


def test_so_many_trials(tmp_path: Path) -> None:
    one = sweep(tmp_path, trials=3)
    one.begin()
    one.work(measured, lambda done, total: None)
    assert 1 <= len(one.rows()) <= 3
    with pytest.raises(DataError, match="another model"):
        Sweep(str(tmp_path / "sweep.db"), "qfx", SPACE, "another", None, 0)


def test_the_front() -> None:
    cells = list(SPACE)
    rows = [Row(cells[0], "done", 0.5, 10.0), Row(cells[1], "done", 0.5, 9.0), Row(cells[2], "done", 0.9, 20.0), Row(cells[3], "refused", why="no")]
    assert front(rows) == [rows[1], rows[2]]


def test_bad_word_lengths_are_refused() -> None:
    assert word_lengths("4,8,4", "--weight-bits") == (4, 8)
    for text in ("", "4,x", "0", "33"):
        with pytest.raises(RecipeError, match="no list of word lengths"):
            word_lengths(text, "--weight-bits")


def test_a_worker_gets_the_command_line_without_workers() -> None:
    given = ["--model", "m", "--workers", "3", "--dask", "tcp://host:8786", "-o", "x", "--workers=2"]
    assert _without(given, "--workers", "--dask") == ["--model", "m", "-o", "x"]


def test_helpers_that_do_not_end_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pools, "_GRACE_S", 0.3)
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\ntrap '' TERM\ntouch $$.started\nwhile :; do sleep 0.1; done\n", encoding="utf-8")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    pool = Here([], 2)
    pool.start()
    helpers = list(pool._helpers)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("*.started"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    pool.close()
    assert [helper.returncode for helper in helpers] == [-signal.SIGKILL] * 2


def test_a_helper_that_cannot_be_started_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexec sleep 300\n", encoding="utf-8")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    pool = Here([], 2)
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def once(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        if started:
            raise OSError("no more processes")
        started.append(start(*arguments, **options))
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", once)
    with pytest.raises(OSError, match="no more processes"):
        pool.start()
    pool.close()
    assert started[0].returncode == -signal.SIGTERM


@pytest.mark.parametrize(
    "url", ["nowhere://user:secret@host/sweeps", "nowhere://host/sweeps?user=me&password=secret", "nowhere://user:secr@et@host:port/sweeps"]
)
def test_a_password_is_in_no_error(url: str) -> None:
    for use in (lambda: Sweep(url, "qfx", SPACE, "a subject", None, 0), lambda: forget(url, "qfx")):
        with pytest.raises(DataError, match=r"cannot be used") as refused:
            use()
        assert "***" in str(refused.value)
        assert "secr" not in str(refused.value)
    kept = "tcp://10.0.0.1:8786, postgresql://user@host:5432/sweeps and me@host"
    assert without_passwords(kept) == kept
