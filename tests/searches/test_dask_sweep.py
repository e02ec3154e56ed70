"""``qfx sweep --dask``: the same cells, the same files, by processes of a cluster's workers."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from qfx.cli import main
from qfx.errors import ProjectError
from qfx.searches import pool as pools
from qfx.searches.pool import gone_here, name_here

pytest.importorskip("optuna", reason="sweeps need Optuna: pip install 'qfx[sweep]'")

NETWORK = """
import os, time
from pathlib import Path
import torch
from torch import nn

class Slow(nn.Flatten):
    def forward(self, x):
        time.sleep(float(os.environ.get("SLEEPS", 0)))
        return super().forward(x)

def net():
    if "SLEEPS" in os.environ:
        meeting = Path("meeting")
        (meeting / str(os.getpid())).touch()
        deadline = time.monotonic() + 300
        while len(list(meeting.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    torch.manual_seed(0)
    return nn.Sequential(Slow(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)).eval()
"""
"""Helpers that are asked to take time wait for a second one first."""

ASKED = ("sweep", "--model", "daskednet:net", "--data", "calib.npz", "--eval", "test.npz", "--passes", "calibrate", "--weight-bits")
DASK = "clusters need Dask: pip install 'qfx[dask]'"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    (tmp_path / "daskednet.py").write_text(NETWORK, encoding="utf-8")
    random = np.random.default_rng(0)
    x = random.normal(size=(48, 1, 4, 4)).astype(np.float32)
    np.savez("calib.npz", x=x[:32])
    np.savez("test.npz", x=x, y=random.integers(3, size=48))
    return tmp_path


@contextmanager
def a_cluster(workers: int, *, processes: bool, threads: int = 1) -> Iterator[Any]:
    distributed = pytest.importorskip("distributed", reason=DASK)
    options = {"n_workers": workers, "threads_per_worker": threads, "dashboard_address": ":0", "silence_logs": 50}
    with distributed.LocalCluster(processes=processes, **options) as made:
        yield made


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    """As from a shell: what the helpers are given is read from there."""
    line = [*ASKED, *arguments]
    monkeypatch.setattr(sys, "argv", ["qfx", *line])
    return CliRunner().invoke(main, line, catch_exceptions=False)


def rows(folder: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(Path(folder, "sweep.json").read_text(encoding="utf-8"))
    return found


def test_a_cluster_gives_the_same_files_also_when_a_worker_is_killed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "2,3,4,5", "-o", "here").exit_code == 0
    Path("meeting").mkdir()
    with ExitStack() as cleanup:
        with monkeypatch.context() as patched:
            patched.setenv("SLEEPS", "0.05")  # of the cluster's processes and their helpers
            cluster = cleanup.enter_context(a_cluster(2, processes=True))
        victim = next(iter(cluster.workers.values())).pid
        dead: list[str] = []

        def kill() -> None:
            """One of Dask's workers, once its helper has said that it takes a cell."""
            deadline = time.monotonic() + 600
            while not dead and time.monotonic() < deadline:
                time.sleep(0.05)
                dead.extend(helper for helper in _who_took_cells(Path("far/sweep.db")) if _parent(helper) == victim)
            os.kill(victim, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        done = run(monkeypatch, "2,3,4,5", "--dask", cluster.scheduler_address, "--workers", "2", "-o", "far")
        killer.join()
    assert done.exit_code == 0, done.output
    assert dead, "no worker was killed"
    assert _soon(lambda: gone_here(set(dead))) == set(dead), "a helper outlived its Dask worker"
    assert rows("far") == rows("here")
    for row in rows("here"):
        assert Path("far", row["file"]).read_bytes() == Path("here", row["file"]).read_bytes()


def test_a_cluster_does_the_work_and_tells_what_fails(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with a_cluster(1, processes=False) as cluster:
        to = ("--dask", cluster.scheduler_address, "-o", "far")
        host, main_thread = socket.gethostname(), threading.current_thread()
        with monkeypatch.context() as patched:  # the worker, a thread, is on its own machine; this process on another
            patched.setattr(socket, "gethostname", lambda: "nowhere.example" if threading.current_thread() is main_thread else host)
            refused = run(monkeypatch, "4", *to)
        assert refused.exit_code == 2
        assert f"for one machine, and these have workers: {host}" in refused.output
        assert run(monkeypatch, "4", *to).exit_code == 0
        assert [row["state"] for row in rows("far")] == ["done"]
        assert os.getpid() not in {int(worker.rpartition(":")[2]) for worker in _who_took_cells(Path("far/sweep.db"))}
        for command, folder, why in ((["weep"], place, "No such command 'weep'"), (["sweep"], place / "missing", "no such folder")):
            failed = cluster.get_client().submit(pools._help, command, str(folder), "never")
            with pytest.raises(ProjectError, match=why):
                failed.result()
        _helpers_run(monkeypatch, "echo $$ > started\nexec sleep 300\n")
        pool = pools.Dask(cluster.scheduler_address, [], None, file=True)
        pool.start()
        helper = f"{socket.gethostname()}:{_soon(lambda: Path('started').is_file() and Path('started').read_text(encoding='utf-8').strip())}"
        assert pool.gone({helper}) == set()
        assert pool._started() == {helper}
        pool.close()
        assert _soon(lambda: gone_here({helper})) == {helper}, "a helper outlived its sweep"


def test_no_scheduler_and_no_dask(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "distributed", None)
        missing = run(monkeypatch, "4", "--dask", "tcp://127.0.0.1:1", "-o", "far")
    assert missing.exit_code == 2
    assert "pip install 'qfx[dask]'" in missing.output
    pytest.importorskip("distributed", reason=DASK)
    monkeypatch.setattr(pools, "_ANSWER_S", 0.3)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    for wrong in (address, "no address at all"):
        silent = run(monkeypatch, "4", "--dask", wrong, "-o", "far")
        assert silent.exit_code == 2
        assert "no Dask scheduler answers" in silent.output


def test_who_has_ended() -> None:
    program = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    helper, far = f"{socket.gethostname()}:{program.pid}", f"nowhere.example:{program.pid}"
    assert gone_here({helper, far, name_here()}) == set()
    program.kill()
    assert _soon(lambda: gone_here({helper, far, name_here()})) == {helper}  # also before anybody asked how it ended
    program.communicate()
    assert gone_here({helper, far, name_here()}) == {helper}


def test_each_worker_starts_one_helper(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "_LOOK_S", 0.05)
    _helpers_run(monkeypatch, "exec sleep 300\n")
    with a_cluster(2, processes=False, threads=3) as cluster, closing(pools.Dask(cluster.scheduler_address, [], None, file=True)) as pool:
        busy = pool._addresses()[0]
        others = pool._client.map(time.sleep, [1.5, 1.6], workers=[busy])  # so that Dask would rather take the other one
        pool.start()
        assert _soon(lambda: len(pool._started()) == 2)
        assert [sum(key.startswith("_help") for key in keys) for keys in pool._client.processing().values()] == [1, 1]
        assert pool.gone(pool._started()) == set()
        assert len(others) == 2


def test_who_is_called_gone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "_LOOK_S", 0.05)
    with subprocess.Popen(["true"]) as ended:
        pass
    dead, far = f"{socket.gethostname()}:{ended.pid}", f"left.example:{ended.pid}"
    with a_cluster(1, processes=False) as cluster, closing(pools.Dask(cluster.scheduler_address, [], None, file=True)) as pool:
        assert pool.gone({dead, far, name_here()}) == {dead}  # somebody else has started the far one, which may be alive
        pool._client.log_event(pool._stop.name, far)
        assert pool.gone({dead, far, name_here()}) == {dead, far}

        def of_another_container(helpers: list[str]) -> tuple[str, list[str]]:
            return socket.gethostname(), [helper for helper in helpers if helper == dead]

        def silent(helpers: list[str]) -> None:
            raise OSError("the connection is closed")

        monkeypatch.setattr(pools, "_alive_on_a_worker", of_another_container)
        assert pool.gone({dead, far}) == {far}
        monkeypatch.setattr(pools, "_alive_on_a_worker", silent)
        assert pool.gone({dead, far}) == {far}
        pool._hosts.clear()  # as if it had never answered: it may be on any machine
        assert far not in pool.gone({dead, far})


def test_a_cluster_that_loses_its_workers(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "_ALONE_S", 0.2)
    monkeypatch.setattr(pools, "_LOOK_S", 0.05)
    with a_cluster(1, processes=False) as cluster, closing(pools.Dask(cluster.scheduler_address, [], None, file=True)) as pool:
        cluster.scale(0)
        pool.start()
        with pytest.raises(ProjectError, match=r"had no worker for 0\.2 s\n.*the same command goes on"):
            pool.wait(lambda: None)


def _helpers_run(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Instead of Python, which takes long to start."""
    program = Path("program")
    program.write_text(f"#!/bin/sh\n{script}", encoding="utf-8")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program.resolve()))


def _soon(look: Callable[[], Any]) -> Any:
    """What it finds, once that is something, or when a minute is over."""
    deadline = time.monotonic() + 60
    while not (found := look()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def _parent(helper: str) -> int:
    """The process that started one on this machine; 0 where it is gone."""
    with suppress(OSError):
        return int(Path("/proc", helper.rpartition(":")[2], "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    return 0


def _who_took_cells(database: Path) -> set[str]:
    """By what the database says."""
    if not database.is_file():
        return set()
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5)) as opened:
            found = opened.execute("select value_json from trial_user_attributes where key = 'worker'").fetchall()
    except sqlite3.OperationalError:  # its tables are not there yet
        return set()
    return {json.loads(text) for (text,) in found}
