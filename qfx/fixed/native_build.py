"""Building the fused C++: from a source and its defines to a loaded shared object, or to one clear warning that says why there is none.

The compiler is ``$CXX``, else g++, c++ or clang++: ``qfx/compiler.py``. Shared objects are kept in ``$XDG_CACHE_HOME/qfx`` (``~/.cache/qfx``),
named by a hash of the source, the flags, the compiler and the processor. Each ends in a digest of itself, which is looked at before it is loaded:
loading a truncated one would kill the process. What is damaged is built anew. A file appears there whole, by a rename, so that processes may build at
the same time; compilation itself happens in a private temporary folder.

Whoever can write to that folder can run code in this process. So it must be a folder, no link, of this user, that nobody else may write to; where
it is not, or cannot be written to, or there is no home, the shared object is loaded from the private temporary folder, which is gone at once.

The OpenMP runtime is the one that torch has loaded: a second one would bring a second set of spinning threads. clang++ speaks to another runtime than
torch's libgomp, so what it builds has one thread. A source that is built for one thread needs no torch.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import pwd
import shlex
import shutil
import signal
import stat
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from itertools import chain, repeat
from pathlib import Path

from qfx.compiler import CompilerError
from qfx.compiler import command as compiler_command
from qfx.errors import NativeKernelWarning, QfxError

FLAGS = ("-O2", "-ftree-vectorize", "-march=native", "-std=c++11", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off")
"""How the sources are compiled, besides OpenMP."""

_SURELY_KNOWN = ("-O2", "-std=c++11", "-fPIC", "-shared", "-ffp-contract=off")  # what is tried with a compiler that refuses FLAGS
_COMPILERS = ("g++", "c++", "clang++")
_COMPILE_SECONDS = 600  # on a machine with nothing else to do it takes 2 to 30
_SHOWN = 1500  # characters of a compiler's complaint
_SOURCES = Path(__file__).parent
_SEAL = b"\0qfx sha256 "
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class _BuildError(QfxError):
    """Why there is no shared object."""


class _LateError(_BuildError):
    """The compiler took too long: another time it may not."""


SAME_NUMBERS = "it computes the same numbers"
_SLOW_TRAINING = "training takes up to 13 times as long"
_SLOW_STEPS = "training steps of small layers take up to twice as long"


def library(source_name: str, defines: tuple[str, ...]) -> ctypes.CDLL | None:
    """``source_name``, of this folder, compiled with ``defines`` and loaded, from the cache if it lies there whole; None where that is impossible.

    Then a NativeKernelWarning says what failed and what to do, once in a process.
    """
    return _or_none(_SOURCES / source_name, defines, True, f"{SAME_NUMBERS}, but {_SLOW_TRAINING}")


def library_of_one_thread(source: Path, without: str) -> ctypes.CDLL | None:
    """As ``library``, of any source, without OpenMP and so without torch. ``without``: what is different without it."""
    return _or_none(source, (), False, without)


def extension(source_name: str, flags: tuple[str, ...]) -> ctypes.CDLL | None:
    """``source_name``, of this folder, compiled with these flags alone and loaded; None, and not a word, where that is impossible. What the compiler
    refuses is remembered beside the cache's shared objects, so that not every process waits for the refusal. A compiler that takes too long is
    stopped, and a NativeKernelWarning says so, once in a process: the next one asks it again."""
    try:
        compiler, folder = _compiler(os.environ.get("CXX", "")), _cache_folder()
    except (_BuildError, CompilerError):
        return None
    refused = None if folder is None else folder / f"{_name(compiler, _SOURCES / source_name, flags, ())}.refused"
    if refused is not None and refused.is_file():
        return None
    try:
        return _library(_SOURCES / source_name, (), False, flags)
    except _LateError as error:
        _say("late", f"qfx runs without {source_name}: {SAME_NUMBERS}, but {_SLOW_STEPS}.\n  reason: {error}")
        return None
    except _BuildError as error:
        if refused is not None:
            with suppress(OSError):
                refused.write_text(str(error), encoding="utf-8")
        return None


def _or_none(source: Path, defines: tuple[str, ...], threads: bool, without: str) -> ctypes.CDLL | None:
    try:
        return _library(source, defines, threads)
    except (_BuildError, CompilerError) as error:
        _say("unbuilt", f"qfx runs without its native kernel: {without}.\n  reason: {error}")
        return None


def _library(source: Path, defines: tuple[str, ...], threads: bool, flags: tuple[str, ...] | None = None) -> ctypes.CDLL:
    """``flags``: instead of FLAGS, and of those that are tried where a compiler refuses them."""
    compiler, folder = _compiler(os.environ.get("CXX", "")), _cache_folder()
    parallel = _openmp() if threads else ()
    name = f"{_name(compiler, source, FLAGS if flags is None else flags, (*defines, *parallel))}.so"
    if folder is not None:
        with suppress(OSError):
            return _open(folder / name)
    try:
        with _workplace(folder) as place:
            built = Path(place) / name
            _compile(compiler, source, defines, parallel, built, flags)
            built.write_bytes(_sealed(built.read_bytes()))
            built.chmod(0o700)
            if folder is not None:
                with suppress(OSError):  # no space, no right to write, a file system that runs no code: then from here
                    return _published(built, folder / name)
            return _open(built)  # once loaded it needs no file any more
    except OSError as error:
        raise _BuildError(
            f"what it makes cannot be stored or loaded: {error}",
            where=shlex.join(compiler),
            remedy="set TMPDIR to a folder with space whose file system may run programs",
        ) from error


def _name(compiler: tuple[str, ...], source: Path, flags: tuple[str, ...], others: tuple[str, ...]) -> str:
    """Of what is built so, in the cache."""
    texts = [path.read_text(encoding="utf-8") for path in (source, *sorted(source.parent.glob("*.h")))]
    stamps = [_stamp(path) for path in map(shutil.which, compiler) if path is not None]
    identity = [*compiler, *flags, *others, *texts, *stamps, _processor()]
    return f"{source.stem}-{hashlib.sha256(chr(0).join(identity).encode()).hexdigest()[:32]}"


# ---- the shared object ------------------------------------------------------------------------------------------------


def _open(path: Path) -> ctypes.CDLL:
    """Load what ``_sealed`` made. Raises OSError if it is not there, not whole, not a file of this user alone, or not loadable here."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & _OTHERS_WRITE:
            raise PermissionError(f"{path} is not a file of this user that nobody else may write to")
        data = file.read()
    code, seal, _ = data.rpartition(_SEAL)
    if not seal or _sealed(code) != data:
        raise OSError(f"{path} is damaged")
    return ctypes.CDLL(str(path))


def _sealed(code: bytes) -> bytes:
    """With a digest behind it: what follows the last section of a shared object is not looked at by the loader."""
    return code + _SEAL + hashlib.sha256(code).hexdigest().encode()


def _published(built: Path, path: Path) -> ctypes.CDLL:
    """Loaded from a copy in the cache, there whole or not at all, which stays if it can be loaded; whoever comes last replaces an equal one."""
    number, partial = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)
    try:
        with open(number, "wb") as file:
            file.write(built.read_bytes())
        os.replace(partial, path)
        partial = str(path)
        return _open(path)
    except BaseException:
        with suppress(OSError):
            os.unlink(partial)
        raise


# ---- folders ----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _cache_folder() -> Path | None:
    """Where shared objects are kept, made if need be; None if there is no home, or if others could put code there (which a warning says, once)."""
    place = os.environ.get("XDG_CACHE_HOME", "")
    home = _home()
    if not os.path.isabs(place):  # unset, or to be ignored: the XDG base directory specification
        if home is None:
            return None
        place = str(home / ".cache")
    folder = Path(place) / "qfx"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status, above = folder.lstat(), folder.parent.stat()
    except OSError:
        return None
    if not stat.S_ISDIR(status.st_mode):
        unsafe, remedy = "is a link", "replace it by a folder"
    elif status.st_uid != os.geteuid():
        unsafe, remedy = f"belongs to another user (number {status.st_uid})", "remove it, or set XDG_CACHE_HOME to a folder of your own"
    elif status.st_mode & _OTHERS_WRITE:
        unsafe, remedy = "can be written to by others", f"look who wrote there, remove what you do not know, and: chmod go-w {folder}"
    elif above.st_mode & stat.S_IWOTH and not above.st_mode & stat.S_ISVTX:
        unsafe, remedy = "can be replaced by others", f"chmod o-w {folder.parent}"
    else:
        return folder
    rebuilt = "qfx keeps no native kernel: each process builds its own, which takes seconds"
    _say("unsafe", f"{rebuilt}.\n  reason: {folder} {unsafe}, and whoever writes there runs code in this process\n  remedy: {remedy}")
    return None


def _home() -> Path | None:
    """The user's home; None if there is none, or it does not exist."""
    home = os.environ.get("HOME", "")
    if not home:
        try:
            home = pwd.getpwuid(os.geteuid()).pw_dir
        except KeyError:
            return None
    return Path(home) if os.path.isabs(home) and os.path.isdir(home) else None


def _workplace(cache: Path | None) -> tempfile.TemporaryDirectory[str]:
    """A private temporary folder. Raises OSError if there is no place for one."""
    try:
        return tempfile.TemporaryDirectory(prefix="qfx_build_")
    except OSError:
        if cache is None:
            raise
        return tempfile.TemporaryDirectory(prefix="qfx_build_", dir=cache)


# ---- the compiler -----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _compiler(wanted: str) -> tuple[str, ...]:
    """The command for ``$CXX``, or of the first compiler that is installed. Raises CompilerError or _BuildError if there is none."""
    found = compiler_command(wanted, _COMPILERS)
    if found is None:
        raise _BuildError(f"no compiler: none of {', '.join(_COMPILERS)} is on PATH", remedy="install g++, or set CXX to a C++ compiler")
    return found


def _compile(
    compiler: tuple[str, ...], source: Path, defines: tuple[str, ...], parallel: tuple[str, ...], built: Path, asked: tuple[str, ...] | None
) -> None:
    """Make ``built``, with the flags that are asked for, or else if need be without those that not every compiler knows. Raises _BuildError with the
    compiler's complaint."""
    attempts: tuple[tuple[str, ...], ...]
    if asked is None:
        clang = "clang" in _run((*compiler, "--version"), built.parent)[1]
        attempts = ((*FLAGS, *(("-fopenmp-simd",) if clang or not parallel else parallel)), _SURELY_KNOWN)
    else:
        attempts = (asked,)
    complaint = ""
    for flags in attempts:
        status, complaint = _run((*compiler, str(source), "-o", str(built), *flags, *defines), built.parent)
        if status == 0 and built.is_file():
            return
    raise _BuildError(
        f"cannot build {source.name}: {complaint.strip()[:_SHOWN] or 'it says nothing'}",
        where=shlex.join(compiler),
        remedy="repair the compiler, or set CXX to another one",
    )


def _run(command: tuple[str, ...], folder: Path) -> tuple[int, str]:
    """Status and output of a compiler, which keeps its own temporary files in ``folder`` and ends when this call ends, however it ends."""
    env = {**os.environ, "TMPDIR": str(folder)}
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env, text=True, errors="replace", process_group=0
        )
    except OSError as error:
        raise _BuildError(f"cannot be run: {error}", where=command[0], remedy="set CXX to a C++ compiler that runs here") from error
    try:
        output, _ = process.communicate(timeout=_COMPILE_SECONDS)
    except BaseException as error:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # with what the driver started
        process.wait()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        late = f"took more than {_COMPILE_SECONDS} seconds"
        raise _LateError(late, where=shlex.join(command), remedy="try again while the machine has less to do") from error
    return process.returncode, output


@lru_cache(maxsize=1)
def _openmp() -> tuple[str, ...]:
    """Link torch's own libgomp by path (-nodefaultlibs keeps the compiler's away); without it run the blocks on one thread."""
    import torch  # not above: what is built for one thread does without

    site = Path(torch.__file__).parent
    for folder in (site / "lib", site.parent / "torch.libs"):
        for found in sorted(folder.glob("libgomp*.so*")):
            return ("-fopenmp", "-nodefaultlibs", str(found), "-lm", "-lc", "-lgcc")
    return ("-fopenmp-simd", "-nodefaultlibs", "-lm", "-lc", "-lgcc")


@lru_cache(maxsize=1)
def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "model name", "Features", "CPU part"))}))


def _stamp(program: str) -> str:
    """Path, size and time of a program: another version has another stamp."""
    path = Path(program).resolve()
    status = path.stat()
    return f"{path} {status.st_size} {status.st_mtime_ns}"


# ---- words ------------------------------------------------------------------------------------------------------------


def _say(kind: str, text: str) -> None:
    """Warn, the first time that it is about ``kind``."""
    if next(_first(kind)):
        warnings.warn(text, NativeKernelWarning, stacklevel=2)


@lru_cache(maxsize=8)
def _first(kind: str) -> Iterator[bool]:
    return chain((True,), repeat(False))
