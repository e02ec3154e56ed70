"""Programs that qfx runs, and their own children, end when qfx is interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from qfx import process


def gone(pid: int) -> bool:
    """Whether the process has ended, at the latest in a while."""
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_status_and_output() -> None:
    done = process.run(["sh", "-c", 'echo "$A"; echo bad >&2; exit 3'], env={**os.environ, "A": "out"})
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "bad\n")


def test_an_interrupt_ends_the_whole_group(tmp_path: Path) -> None:
    """Also a child that does not end when it is asked to, and its child."""
    script = f"trap '' TERM; sleep 300 & echo $! > {tmp_path}/grandchild; echo $$ > {tmp_path}/child; wait; sleep 300"

    def interrupt() -> None:
        while not (tmp_path / "child").is_file() or not (tmp_path / "child").read_text().strip():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        process.run(["sh", "-c", script])
    thread.join()
    assert all(gone(int((tmp_path / name).read_text())) for name in ("child", "grandchild"))


def test_a_timeout_ends_it_too(tmp_path: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        process.run(
            [sys.executable, "-c", f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(300)"], timeout=2
        )
    assert gone(int((tmp_path / "pid").read_text()))


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError):
        process.run(["no-such-program"])


def test_an_interrupt_while_a_program_starts_ends_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interrupt comes when the child runs and its name is not known here yet."""
    started: list[int] = []

    class Slow(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)  # type: ignore[call-overload]
            started.append(self.pid)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)  # where Python would raise

    usual = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(process.subprocess, "Popen", Slow)
    with pytest.raises(KeyboardInterrupt):
        process.run(["sleep", "30"])
    assert len(started) == 1
    assert gone(started[0])
    assert signal.getsignal(signal.SIGINT) is usual
