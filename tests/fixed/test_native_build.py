"""Building and keeping the native kernel: real processes, real damage. Whatever goes wrong, the numbers stay right and one warning says why."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qfx.fixed import native_build

pytestmark = pytest.mark.usefixtures("gxx")

REPORT = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import torch
    from qfx.fixed import native
    from qfx.fixed.kernel import cast, channel_moments
    from qfx.fixed.type import FixedType
    numbers = cast(torch.tensor([0.3, 9.0]), FixedType.parse("ap_fixed<8,4,AP_RND,AP_SAT>")).tolist()
    moments = channel_moments(torch.ones(2, 1))
assert (numbers, [float(m) for m in moments]) == ([0.3125, 7.9375], [1.0, 0.0]), (numbers, moments)
print(native.available())
for warning in caught:
    print(warning.category.__name__, warning.message)
"""
LIBRARIES = 2  # a Cast and the moments
FORKS = """
import json, os, sys, tempfile, traceback
import torch
from qfx.fixed import kernel
for line in sys.stdin:
    environment, code = json.loads(line)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        os.environ.clear()
        os.environ.update(environment)
        tempfile.tempdir = None
        try:
            exec(code)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(0)
    os.close(writer)
    with open(reader) as file:
        said = file.read()
    os.waitpid(child, 0)
    print(json.dumps(said), flush=True)
"""


def environment(**given: str) -> dict[str, str]:
    """That of this process without what a build looks at, and with what is given."""
    looked_at = ("CXX", "HOME", "XDG_CACHE_HOME", "PYTHONWARNINGS")
    kept = {name: value for name, value in os.environ.items() if name not in looked_at}
    path = {"PYTHONPATH": str(Path(native_build.__file__).parents[2])}
    return {**kept, **path, **given}


def run_python(code: str, *options: str, **given: str) -> str:
    done = subprocess.run([sys.executable, *options, "-c", code], env=environment(**given), capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


Fork = Callable[..., str]
Report = Callable[..., tuple[bool, str]]


@pytest.fixture(scope="module")
def fork() -> Iterator[Fork]:
    """Runs code in a process of its own that has loaded torch and nothing else of a kernel, and returns what it printed."""
    command = [sys.executable, "-W", "error", "-c", FORKS]
    with subprocess.Popen(command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def run(code: str, **given: str) -> str:
            assert process.stdin is not None
            assert process.stdout is not None
            print(json.dumps([environment(**given), code]), file=process.stdin, flush=True)
            said: str = json.loads(process.stdout.readline())
            assert "Traceback" not in said, said
            return said.strip()

        yield run
        process.stdin.close()


@pytest.fixture(scope="module")
def report(fork: Fork) -> Report:
    """Whether the kernel is there with such a cache, and what was said."""

    def run(cache: Path, **given: str) -> tuple[bool, str]:
        is_there, _, said = fork(REPORT, XDG_CACHE_HOME=str(cache), **given).partition("\n")
        return is_there == "True", said

    return run


def script(path: Path, text: str) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def libraries(cache: Path) -> list[Path]:
    """What lies in a cache that may not be there."""
    return sorted((cache / "qfx").glob("*"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, report: Report) -> Path:
    """A cache with what REPORT needs."""
    cache = tmp_path_factory.mktemp("built")
    assert report(cache) == (True, "")
    return cache


@pytest.fixture
def cache(built: Path, tmp_path: Path) -> Path:
    """A copy of ``built`` to damage."""
    shutil.copytree(built, tmp_path / "cache")
    return tmp_path / "cache"


def test_it_builds_into_the_cache_once(built: Path, report: Report) -> None:
    before = {path: path.stat().st_mtime_ns for path in libraries(built)}
    assert len(before) == LIBRARIES  # nothing half-built
    assert all(path.suffix == ".so" for path in before)
    assert report(built) == (True, "")
    assert {path: path.stat().st_mtime_ns for path in libraries(built)} == before


# ---- where it cannot be built ------------------------------------------------------------------------------------------


def without_compiler(folder: Path) -> tuple[dict[str, str], str, str]:
    folder.mkdir()
    return {"PATH": str(folder)}, "none of g++, c++, clang++ is on PATH", "install g++, or set CXX"


def with_a_compiler_that_fails(folder: Path) -> tuple[dict[str, str], str, str]:
    script(folder / "g++", "echo no licence; exit 1")
    return {"PATH": str(folder)}, "cannot build native.cpp: no licence", "repair the compiler"


def with_a_compiler_that_writes_nothing(folder: Path) -> tuple[dict[str, str], str, str]:
    return {"CXX": script(folder / "mute", "exit 0")}, "cannot build native.cpp: it says nothing", "repair the compiler"


def with_a_compiler_that_writes_rubbish(folder: Path) -> tuple[dict[str, str], str, str]:
    return {"CXX": script(folder / "c", 'while [ "$1" != -o ] && [ $# -gt 0 ]; do shift; done; echo rubbish >"$2"')}, "cannot be stored or loaded", ""


def with_a_compiler_that_is_no_program(folder: Path) -> tuple[dict[str, str], str, str]:
    folder.mkdir()
    (folder / "c").write_bytes(b"\x7fELF")
    (folder / "c").chmod(0o755)
    return {"CXX": str(folder / "c")}, "cannot be run", "set CXX"


def with_a_compiler_that_is_not_there(_: Path) -> tuple[dict[str, str], str, str]:
    return {"CXX": "/nowhere/g++ -O2"}, "CXX is '/nowhere/g++ -O2', which is not installed", "unset it to use g++"


def with_a_command_that_is_none(_: Path) -> tuple[dict[str, str], str, str]:
    return {"CXX": "g++ 'half"}, "which is no command", "unset it to use g++"


def with_inexact_arithmetic(_: Path) -> tuple[dict[str, str], str, str]:
    return {"CXX": "g++ -ffast-math"}, "qfx computes exactly", "set CXX to another one"


BROKEN = [
    without_compiler,
    with_a_compiler_that_fails,
    with_a_compiler_that_writes_nothing,
    with_a_compiler_that_writes_rubbish,
    with_a_compiler_that_is_no_program,
    with_a_compiler_that_is_not_there,
    with_a_command_that_is_none,
    with_inexact_arithmetic,
]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_one_warning_says_why_there_is_no_kernel(tmp_path: Path, broken: Callable[[Path], tuple[dict[str, str], str, str]], report: Report) -> None:
    given, reason, remedy = broken(tmp_path / "bin")
    is_there, said = report(tmp_path / "cache", **given)
    assert not is_there
    assert said.count("NativeKernelWarning qfx runs without its native kernel") == 1
    assert "13 times" in said
    assert reason in said
    assert remedy in said
    assert not libraries(tmp_path / "cache")


STRICT = """
import torch, qfx
x = torch.tensor([0.3])
try:
    qfx.cast(x, qfx.FixedType(8, 4))
except qfx.NativeKernelWarning as warning:
    print(str(warning)[:29], qfx.cast(x, qfx.FixedType(8, 4)).tolist())
"""


def test_where_warnings_are_errors_it_is_raised_once(tmp_path: Path) -> None:
    """And can be let pass, by its category or, on the command line, by how it begins."""
    given = {"XDG_CACHE_HOME": str(tmp_path), "CXX": "/nowhere"}
    assert run_python(STRICT, "-W", "error", **given) == "qfx runs without its native k [0.25]"
    quiet = "import torch, qfx; print(qfx.cast(torch.tensor([0.3]), qfx.FixedType(8, 4)).tolist())"
    assert run_python(quiet, "-W", "error", "-W", "ignore:qfx runs without its native kernel", **given) == "[0.25]"
    by_category = f"import qfx, warnings; warnings.simplefilter('ignore', qfx.NativeKernelWarning); {quiet}"
    assert run_python(by_category, "-W", "error", **given) == "[0.25]"


# ---- the compiler ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["arguments", "a path with a space", "nothing", "unknown flags"])
def test_the_compiler_is_the_one_that_is_asked_for(gxx: str, tmp_path: Path, form: str, report: Report) -> None:
    log = tmp_path / "log"
    refuse = 'case "$*" in *-march=native*) echo unknown; exit 1;; esac' if form == "unknown flags" else ""
    path = script(tmp_path / "my tools" / "compiler", f'echo "$@" >>{log}\n{refuse}\nexec {gxx} "$@"')
    asked = {"arguments": f"'{path}' -DASKED", "a path with a space": path, "nothing": " ", "unknown flags": f"'{path}'"}[form]
    assert report(tmp_path, CXX=asked) == (True, "")
    assert len(libraries(tmp_path)) == LIBRARIES
    if form == "nothing":
        assert not log.exists()
        return
    lines = [line for line in log.read_text().splitlines() if "--version" not in line]
    assert len(lines) == LIBRARIES * (2 if form == "unknown flags" else 1)
    assert all(("-DASKED" in line) == (form == "arguments") for line in lines)


def test_another_compiler_builds_another_object(cache: Path, report: Report) -> None:
    before = set(libraries(cache))
    assert report(cache, CXX="g++ -DOTHER") == (True, "")
    assert len(set(libraries(cache)) - before) == LIBRARIES


def test_clang_builds_it_too(tmp_path: Path, report: Report) -> None:
    clang = shutil.which("clang++")
    if clang is None:
        if os.environ.get("CI"):
            pytest.fail("clang++ is missing, and continuous integration may not skip it")
        pytest.skip("clang++ is not installed")
    assert report(tmp_path, CXX=clang) == (True, "")
    assert len(libraries(tmp_path)) == LIBRARIES


# ---- damage -------------------------------------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_the_last_byte(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


def write_rubbish(path: Path) -> None:
    path.write_bytes(os.urandom(20000))


def put_an_old_one(path: Path) -> None:
    """As an earlier version left it: a shared object without a digest."""
    code = path.read_bytes()
    path.write_bytes(code[: code.rindex(b"\0qfx sha256 ")])


def let_others_write(path: Path) -> None:
    path.chmod(0o666)


def make_a_link(path: Path) -> None:
    moved = path.parent.parent / path.name
    path.rename(moved)
    path.symlink_to(moved)


def make_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def seal_what_cannot_be_loaded(path: Path) -> None:
    path.write_bytes(native_build._sealed(b"\x7fELF of another processor"))


DAMAGE = [
    (truncate, cut_the_last_byte),
    (empty, flip_a_bit),
    (write_rubbish, put_an_old_one),
    (let_others_write, make_a_link),
    (make_a_pipe, seal_what_cannot_be_loaded),
]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda pair: "-".join(damage.__name__ for damage in pair))
def test_what_is_damaged_is_built_anew(cache: Path, damage: tuple[Callable[[Path], None], ...], report: Report) -> None:
    paths = libraries(cache)
    before = [path.read_bytes() for path in paths]
    for path, harm in zip(paths, damage, strict=True):
        harm(path)
    assert report(cache) == (True, "")
    assert libraries(cache) == paths
    assert all(stat.S_ISREG(path.lstat().st_mode) and not path.lstat().st_mode & 0o022 for path in paths)
    assert [path.read_bytes() for path in paths] == before
    times = [path.stat().st_mtime_ns for path in paths]
    assert report(cache) == (True, "")
    assert [path.stat().st_mtime_ns for path in paths] == times


def test_a_folder_in_the_place_of_an_object_is_left_alone(cache: Path, report: Report) -> None:
    path = libraries(cache)[0]
    path.unlink()
    path.mkdir()
    assert report(cache) == (True, "")
    assert path.is_dir()


# ---- folders -------------------------------------------------------------------------------------------------------------


def open_to_all(folder: Path) -> None:
    folder.chmod(0o777)


def open_to_the_group(folder: Path) -> None:
    folder.chmod(0o770)


def open_above(folder: Path) -> None:
    folder.parent.chmod(0o777)


def link(folder: Path) -> None:
    moved = folder.with_name("moved")
    folder.rename(moved)
    folder.symlink_to(moved)


def foreign(folder: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give folders away")
    os.chown(folder, 54321, 54321)


@pytest.mark.parametrize("unsafe", [open_to_all, open_to_the_group, open_above, link, foreign], ids=lambda unsafe: unsafe.__name__)
def test_a_folder_that_others_may_write_is_not_used(cache: Path, tmp_path: Path, unsafe: Callable[[Path], None], report: Report) -> None:
    """Neither read nor written; the kernel is there all the same, and one warning says what is wrong with the folder."""
    for path in libraries(cache):
        path.write_bytes(native_build._sealed(b"\x7fELF evil"))
    before = {path.name: path.read_bytes() for path in libraries(cache)}
    unsafe(cache / "qfx")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    is_there, said = report(cache, TMPDIR=str(scratch))
    assert is_there
    assert said.count("NativeKernelWarning qfx keeps no native kernel") == 1
    assert str(cache) in said
    assert "remedy:" in said
    assert {path.name: path.read_bytes() for path in libraries(cache)} == before
    assert not any(scratch.iterdir())


def test_a_sticky_folder_above_is_safe(cache: Path, report: Report) -> None:
    cache.chmod(0o1777)
    assert report(cache) == (True, "")


NO_HOME = [
    {"HOME": "/nonexistent-home"},
    {"HOME": "/proc"},  # nobody may write there, root neither
    {"HOME": "/dev/null"},
    {"HOME": "relative"},
    {"XDG_CACHE_HOME": "/proc"},
    {"XDG_CACHE_HOME": "/dev/null/x"},
]


@pytest.mark.parametrize("given", NO_HOME, ids=str)
def test_without_a_home_it_is_built_in_a_temporary_folder(tmp_path: Path, given: dict[str, str], fork: Fork) -> None:
    code = f"{REPORT}\nfrom qfx.fixed import native_build; print(native_build._cache_folder())"
    assert fork(code, TMPDIR=str(tmp_path), **given) == "True\nNone"
    assert not any(tmp_path.iterdir())
    assert not Path("/nonexistent-home").exists()


def test_a_user_without_an_entry_and_without_a_home(tmp_path: Path, fork: Fork) -> None:
    if os.geteuid():
        pytest.skip("only root can become another user")
    tmp_path.chmod(0o777)
    assert fork(f"os.setgid(54321); os.setuid(54321)\n{REPORT}", TMPDIR=str(tmp_path)) == "True"
    assert not any(tmp_path.iterdir())


def test_a_relative_cache_folder_is_ignored(tmp_path: Path, fork: Fork) -> None:
    """As the XDG base directory specification asks."""
    code = "from qfx.fixed import native_build; print(native_build._cache_folder())"
    assert fork(code, XDG_CACHE_HOME="relative", HOME=str(tmp_path)) == str(tmp_path / ".cache" / "qfx")


# ---- at the same time, and half-way ------------------------------------------------------------------------------------


def test_processes_build_at_the_same_time(tmp_path: Path, report: Report) -> None:
    command = [sys.executable, "-c", REPORT]
    env = environment(XDG_CACHE_HOME=str(tmp_path))
    processes = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(3)]
    assert [process.communicate(timeout=300)[0].strip() for process in processes] == ["True"] * 3
    assert len(libraries(tmp_path)) == LIBRARIES
    assert report(tmp_path) == (True, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_an_interrupted_build_leaves_nothing_in_the_cache(gxx: str, tmp_path: Path, number: signal.Signals, report: Report) -> None:
    """While the compiler has written half of the object. After Ctrl-C the compiler has ended too, and its temporary files are gone."""
    cache, scratch, marker = tmp_path / "cache", tmp_path / "scratch", tmp_path / "pid"
    scratch.mkdir()
    slow = 'case "$*" in *--version*) exit 0;; esac\nwhile [ "$1" != -o ]; do shift; done\necho half >"$2"; echo half >$TMPDIR/own\n'
    compiler = script(tmp_path / "bin" / "slow", f"{slow}echo $$ >{marker}.new; mv {marker}.new {marker}; sleep 60")
    env = environment(XDG_CACHE_HOME=str(cache), TMPDIR=str(scratch), CXX=compiler)
    process = subprocess.Popen([sys.executable, "-c", REPORT], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not marker.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    process.wait(timeout=60)
    assert not libraries(cache)
    compiling = int(marker.read_text())
    if number is signal.SIGINT:
        assert not Path(f"/proc/{compiling}").exists()
        assert not any(scratch.iterdir())
    else:
        os.killpg(compiling, signal.SIGKILL)
    assert report(cache, TMPDIR=str(scratch), CXX=gxx) == (True, "")
