"""Other programs that qfx runs: they end when qfx does."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress

_GRACE_S = 2.0


def run(command: Sequence[str], *, env: Mapping[str, str] | None = None, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``command`` to its end and return its status and what it wrote, as text.

    It runs in a process group of its own. If this process is interrupted meanwhile (Ctrl-C, ``timeout`` seconds, any exception), the whole group is
    ended before the exception goes on: a compiler leaves no part of itself behind. Raises OSError if it cannot be started.
    """
    held: list[int] = []
    usual = signal.getsignal(signal.SIGINT)
    waits = threading.current_thread() is threading.main_thread() and callable(usual)
    if waits:  # an interrupt between the child's start and its name here would leave it behind
        signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    try:
        child = subprocess.Popen(
            command, env=None if env is None else dict(env), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
    finally:
        if waits:
            signal.signal(signal.SIGINT, usual)
    try:
        if held:
            signal.raise_signal(signal.SIGINT)
        out, err = child.communicate(timeout=timeout)
    except BaseException:
        _end(child)
        raise
    return subprocess.CompletedProcess(command, child.returncode, out, err)


def _end(child: subprocess.Popen[str]) -> None:
    """End the child and all of its group: asked first, so that it can remove its temporary files."""
    for signal_ in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal_)
        with suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE_S)
    for stream in (child.stdout, child.stderr):
        if stream is not None:
            stream.close()
