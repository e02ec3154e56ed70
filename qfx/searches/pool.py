"""Who helps with a sweep: processes of this machine, or of a Dask cluster's. All run one command line, ``qfx sweep ... --joins``, which takes
cells from the database until none is left; what starts such processes knows nothing of cells.

A helper is always a process of its own. Exact arithmetic switches settings of torch that belong to a process, so it does not share one with
the threads of a Dask worker; and the name of a process tells later whether what it had begun is still under way."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from qfx.errors import DataError, ProjectError

_ANSWER_S = 15.0
"""How long a scheduler may take to answer."""

_ALONE_S = 30.0
"""How long a sweep waits for a worker where the cluster has none: Dask's nannies start them anew, and batch systems others."""

_TRIES = 3
"""How often a worker is asked that does not answer."""

_LOOK_S = 0.5
_GRACE_S = 5.0
_WORDS = 2000
"""The end of what a helper wrote to standard error that goes into an error."""


class Pool(Protocol):
    """Helpers that run one command line. ``works``: whether the process that asks for them takes cells, too."""

    works: bool

    def start(self) -> None:
        """Start them all, once more if they have ended."""

    def wait(self, tell: Callable[[], None]) -> list[str]:
        """Wait until all have ended, and ``tell`` meanwhile. Why some failed, a text each."""

    def gone(self, helpers: set[str]) -> set[str]:
        """Those of the helpers (``name_here``) that are known to have ended."""

    def close(self) -> None:
        """End those that still run."""


class Here:
    """``count`` processes of this machine."""

    works = True

    def __init__(self, command: Sequence[str], count: int) -> None:
        self._command, self._count = [sys.executable, "-m", "qfx.cli", *command], count
        self._helpers: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        self._helpers = []
        for _ in range(self._count):  # each is known at once, for ``close`` if the next cannot be started
            self._helpers.append(subprocess.Popen(self._command, stdout=subprocess.DEVNULL))

    def wait(self, tell: Callable[[], None]) -> list[str]:
        codes = [helper.wait() for helper in self._helpers]
        return [f"ended with {code}, see above" for code in codes if code]

    def gone(self, helpers: set[str]) -> set[str]:
        return gone_here(helpers)

    def close(self) -> None:
        _end(self._helpers)


class Dask:
    """``count`` helpers on the workers of the Dask cluster whose scheduler is at ``address``; None: one for each that it has now. They start in this
    folder, which all of its machines must see; a database in a file is for one machine.

    Raises DataError if distributed is not installed, nobody answers there, or its machines cannot help."""

    works = False

    def __init__(self, address: str, command: Sequence[str], count: int | None, file: bool) -> None:
        self._distributed = distributed = _distributed()
        self._address, self._command = address, list(command)
        try:
            self._client = distributed.Client(address, timeout=_ANSWER_S)
        except (OSError, TimeoutError, ValueError) as error:  # of connecting, and of an address that is none
            why = str(error).splitlines()[0] if str(error) else "no answer"
            raise DataError(f"no Dask scheduler answers: {why}", where=f"--dask {address}", remedy="start one: dask scheduler") from None
        self._hosts: dict[str, str] = {}  # the machine of each worker that has ever answered, by its address
        try:
            _, silent = self._ask(set())
            self._count = count or len(self._client.nthreads())
            if not self._count:
                raise DataError("the scheduler has no workers", where=f"--dask {address}", remedy=f"start some: dask worker {address}")
            elsewhere = sorted({*self._hosts.values(), *silent} - {socket.gethostname()})
            if file and elsewhere:
                remedy = "give a database that all reach: --storage postgresql://..."
                raise DataError(
                    f"a database in a file is for one machine, and these have workers: {', '.join(elsewhere)}", where="--storage", remedy=remedy
                )
            self._stop = distributed.Event(f"qfx-sweep-{uuid.uuid4().hex}", client=self._client)
        except BaseException:
            self._client.close()
            raise
        self._futures: list[Any] = []

    def start(self) -> None:
        """One on each worker, and round again; where a worker ends, others take its helpers."""
        folder, addresses = str(Path.cwd()), self._addresses()
        self._futures = []
        for number in range(self._count):
            to = [addresses[number % len(addresses)]] if addresses else None
            future = self._client.submit(_help, self._command, folder, self._stop.name, pure=False, workers=to, allow_other_workers=to is not None)
            self._futures.append(future)

    def wait(self, tell: Callable[[], None]) -> list[str]:
        """Raises ProjectError if the scheduler is gone, or has had no worker for ``_ALONE_S``."""
        seen = time.monotonic()
        while not all(future.done() for future in self._futures):
            if self._client.status in ("closing", "closed"):
                raise self._lost("the scheduler is gone")
            if self._addresses():
                seen = time.monotonic()
            elif time.monotonic() - seen > _ALONE_S:
                raise self._lost(f"the scheduler has had no worker for {_ALONE_S:g} s")
            tell()
            time.sleep(_LOOK_S)
        failed = [future.exception() for future in self._futures]
        return [str(error) or type(error).__name__ for error in failed if error is not None]

    def gone(self, helpers: set[str]) -> set[str]:
        """Each machine of the cluster says which of its processes are alive. Of a machine that is in it no more, the helpers that this object has
        started are gone with its workers; who started others is not known. Of a machine with a worker that does not answer, none is known to be."""
        alive, silent = self._ask(helpers)
        here = socket.gethostname()
        alive[here] = alive.get(here, set()) | alive_here(helpers)
        unsure = {self._hosts.get(address) for address in silent}  # None: it may be on any machine
        started = set() if None in unsure else self._started()

        def may_be_gone(helper: str) -> bool:
            host = helper.rpartition(":")[0]
            return host not in unsure and (host in alive or helper in started)

        return {helper for helper in helpers if may_be_gone(helper)} - {name for names in alive.values() for name in names}

    def close(self) -> None:
        with suppress(Exception):  # a scheduler that is gone has told nobody, and its workers end what they run
            self._stop.set()
            if self._addresses():
                self._distributed.wait(self._futures, timeout=2 * _GRACE_S)
        self._client.close()

    def _addresses(self) -> list[str]:
        """Of the workers that the scheduler has now; none where it does not answer."""
        with suppress(OSError):
            return sorted(self._client.nthreads())
        return []

    def _lost(self, what: str) -> ProjectError:
        remedy = f"see to it that there are workers (dask worker {self._address}); the same command goes on with what is left"
        return ProjectError(what, where=f"--dask {self._address}", remedy=remedy)

    def _ask(self, helpers: set[str]) -> tuple[dict[str, set[str]], set[str]]:
        """By the machine, which helpers live there; and the addresses of workers that do not answer, such as those that are just ending."""
        alive: dict[str, set[str]] = {}
        for left in reversed(range(_TRIES)):
            try:
                answers = self._client.run(_alive_on_a_worker, sorted(helpers), on_error="return")
            except OSError as error:
                raise self._lost(f"the scheduler does not answer: {error}") from None
            silent = {address for address, answer in answers.items() if isinstance(answer, BaseException)}
            for address, answer in answers.items():
                if isinstance(answer, ImportError):
                    what = f"qfx cannot be imported by the worker {address}: {answer}"
                    raise DataError(what, where=f"--dask {self._address}", remedy="install it there") from None
                if address not in silent:
                    self._hosts[address] = answer[0]
                    alive.setdefault(answer[0], set()).update(answer[1])
            if not silent or not left:
                break
            time.sleep(_LOOK_S)
        return alive, silent

    def _started(self) -> set[str]:
        """The helpers that the workers have started for this object, by what they told the scheduler."""
        return {str(name) for _, name in self._client.get_events(self._stop.name)}


def without_passwords(text: str) -> str:
    """The text with ``***`` for each password of a URL in it (``scheme://user:password@host``, ``?password=``)."""
    return re.sub(r"([?&]pass(?:word|wd)?=)[^&\s'\"]*", r"\1***", re.sub(r"(://[^:/@\s]*):\S*@", r"\1:***@", text))


def name_here() -> str:
    """The name of this process as a helper."""
    return f"{socket.gethostname()}:{os.getpid()}"


def gone_here(helpers: set[str]) -> set[str]:
    """Those that were processes of this machine, and have ended."""
    return {helper for helper in helpers if helper.rpartition(":")[0] == socket.gethostname()} - alive_here(helpers)


def alive_here(helpers: set[str]) -> set[str]:
    """Those that are processes of this machine."""
    places = ((helper, *helper.rpartition(":")[::2]) for helper in helpers)
    return {helper for helper, host, process in places if host == socket.gethostname() and _lives(int(process))}


def follow() -> None:
    """Run a command line of qfx, and end as soon as whoever started it does: this is what holds standard input open."""
    from qfx.cli import main

    def end_with_it() -> None:
        while os.read(0, 1024):
            pass
        os._exit(1)

    threading.Thread(target=end_with_it, daemon=True).start()
    main()


def _help(command: list[str], folder: str, stop: str) -> None:
    """What a Dask worker runs: a helper, until it ends or the event ``stop`` is set. Raises ProjectError, with what it wrote, if it fails."""
    distributed = _distributed()
    where = f"{socket.gethostname()}, {folder}"
    if not Path(folder).is_dir():
        raise ProjectError("there is no such folder", where=where, remedy="start the sweep in a folder that all machines see")
    told = distributed.Event(stop)
    with tempfile.TemporaryFile() as errors:
        helper = subprocess.Popen(
            [sys.executable, "-c", "from qfx.searches.pool import follow; follow()", *command],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        try:
            distributed.get_worker().log_event(stop, f"{socket.gethostname()}:{helper.pid}")
            while helper.poll() is None:
                if told.wait(timeout=_LOOK_S):
                    return
        finally:
            _end([helper])
        if helper.returncode:
            errors.seek(0)
            text = without_passwords(errors.read().decode(errors="replace")).strip()[-_WORDS:]
            raise ProjectError(f"a helper ended with {helper.returncode}: {text}", where=where, remedy="the same command goes on with what is left")


def _end(helpers: Sequence[subprocess.Popen[bytes]]) -> None:
    """All at once, and those by force that still run after ``_GRACE_S``."""
    for helper in helpers:
        helper.terminate()
    deadline = time.monotonic() + _GRACE_S
    for helper in helpers:
        try:
            helper.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            helper.kill()
            helper.wait()
        if helper.stdin is not None:
            helper.stdin.close()


def _alive_on_a_worker(helpers: list[str]) -> tuple[str, list[str]]:
    return socket.gethostname(), sorted(alive_here(set(helpers)))


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with suppress(OSError, IndexError):  # ended, but nobody has asked how: only Linux tells
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0] != "Z"
    return True


def _distributed() -> Any:
    try:
        import distributed
    except ImportError:
        raise DataError("--dask needs Dask's distributed", where="qfx sweep", remedy="pip install 'qfx[dask]'") from None
    return distributed
