"""What of all that qfx can use is there on this machine, tried where it can be tried: ``examine`` is the door.

Nothing is changed but the cache of the native kernel, which is built if it is missing.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from qfx import compiler, process
from qfx.errors import NativeKernelWarning, QfxError

_DEPENDENCY = "what qfx is made with"
_TOOL_SECONDS = 20.0
_SHOWN = 100  # characters of what a tool says of itself
_EXTRAS = ("demo", "bench", "da4ml", "peers", "tflite")
_PROGRAM = """#include <ap_fixed.h>
int main() {
  ap_fixed<8, 4, AP_RND, AP_SAT> x = ap_fixed<16, 4>(1.28125);
  return x == ap_fixed<8, 4>(1.3125) ? 0 : 1;
}
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked for: ``found`` says what is there, None that it is missing or does not work (``problem`` says why).

    ``needed_for`` says what does without it not; ``remedy`` how to get it. ``required``: qfx is not whole without it.
    """

    name: str
    found: str | None
    needed_for: str
    remedy: str
    required: bool = False
    problem: str = ""

    @property
    def is_wrong(self) -> bool:
        """Whether something that is required is missing."""
        return self.required and self.found is None


@dataclass(frozen=True, slots=True)
class _Tool:
    """A program, by the names that it may have, and the arguments with which it says its version."""

    name: str
    programs: tuple[str, ...]
    version: tuple[str, ...]
    needed_for: str
    remedy: str


_BITSTREAM = "synthesis of a project into an IP block"
_FROM_AMD = "install Vitis (AMD's installer; free for the boards here) and source its settings64.sh"
_TOOLS = (
    _Tool("make", ("make",), ("--version",), "`make csim` and the other targets of a project", "apt-get install make"),
    _Tool("Vitis HLS", ("vitis-run", "vitis_hls", "vivado_hls"), (), _BITSTREAM, _FROM_AMD),
    _Tool("Vivado", ("vivado",), (), "`make bitstream` of a project", _FROM_AMD),
    _Tool("Verilator", ("verilator",), ("--version",), "simulation of designs as Verilog", "apt-get install verilator"),
    _Tool("Icarus Verilog", ("iverilog",), ("-V",), "`make test-rtl` of a checkout", "apt-get install iverilog"),
    _Tool("clang++ 16", ("clang++-16", "clang++"), ("--version",), "designs as RTL without a vendor's tool", "apt-get install clang-16"),
)


def examine() -> Iterator[Finding]:
    """One thing after the other, as it is found: Python, packages, the compiler and what it makes, and other tools. Raises nothing that is its
    subject."""
    yield Finding("Python", platform.python_version(), "everything", "install Python 3.11 or newer", True)
    yield from _packages()
    found = _compiler()
    yield found
    yield _headers()
    if found.found is not None:
        yield _simulation()
    yield _kernel()
    yield from map(_tool, _TOOLS)


def _packages() -> Iterator[Finding]:
    """Those that the installed qfx says that it depends on, then those of its extras, each once."""
    seen: set[str] = set()
    wanted = [Requirement(text) for text in importlib.metadata.requires("qfx") or ()]
    for extra in ("", *_EXTRAS):
        for one in wanted:
            name = canonicalize_name(one.name)
            applies = one.marker is None if not extra else one.marker is not None and one.marker.evaluate({"extra": extra})
            if applies and name not in seen:
                seen.add(name)
                yield _package(one, extra)


def _package(wanted: Requirement, extra: str) -> Finding:
    what = f"what pip calls qfx[{extra}]" if extra else _DEPENDENCY
    remedy = f"pip install '{wanted.name}{wanted.specifier}'"
    try:
        version = importlib.metadata.version(wanted.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(wanted.name, None, what, remedy, not extra, "not installed")
    if not wanted.specifier.contains(version, prereleases=True):
        return Finding(wanted.name, None, what, remedy, not extra, f"version {version} is not {wanted.specifier}")
    return Finding(wanted.name, version, what, remedy, not extra)


def _compiler() -> Finding:
    name, what, remedy = "C++ compiler", "C simulation, the fast emulator, and the native kernel", "apt-get install g++, or set CXX to a compiler"
    try:
        command = compiler.command(os.environ.get("CXX", ""), ("g++", "c++", "clang++"))
    except QfxError as error:
        return Finding(name, None, what, remedy, True, error.what)
    if command is None:
        return Finding(name, None, what, remedy, True, "none of g++, c++ and clang++ is on PATH")
    said, problem = _said([*command, "--version"])
    return Finding(name, said, what, remedy, True, problem)


def _headers() -> Finding:
    from qfx.hardware.assets import vendor_version

    name, what, remedy = "vendor's headers", "C simulation", "pip install 'hls4ml>=1.3', whose wheel carries them"
    try:
        return Finding(name, vendor_version(), what, remedy, True)
    except QfxError as error:
        return Finding(name, None, what, remedy, True, error.what)


def _simulation() -> Finding:
    """A program with a cast, compiled with the vendor's headers and run."""
    from qfx.hardware.assets import simulation_headers

    name, what, remedy = "C simulation", "the proof that hardware and emulator agree", "set CXX to a g++ or clang++ that works"
    try:
        command = compiler.command(os.environ.get("CXX", ""), ("g++", "c++", "clang++"))
        assert command is not None, "a compiler was found"
        with tempfile.TemporaryDirectory(prefix="qfx_doctor_") as folder:
            source, program = Path(folder) / "cast.cpp", Path(folder) / "cast"
            source.write_text(_PROGRAM, encoding="utf-8")
            done = process.run([*command, "-std=c++11", "-w", *simulation_headers(), str(source), "-o", str(program)])
            if done.returncode:
                return Finding(name, None, what, remedy, True, f"the compiler refuses the headers: {_short(done.stderr)}")
            done = process.run([str(program)])
    except (OSError, QfxError) as error:
        return Finding(name, None, what, remedy, True, _short(str(error)))
    if done.returncode:
        return Finding(name, None, what, remedy, True, "a cast compiled with the vendor's headers gives another number")
    return Finding(name, "a cast compiles and gives its number", what, remedy, True)


def _kernel() -> Finding:
    """Built if need be, as the first training step would."""
    name, what, remedy = "native kernel", "training at full speed", "install g++, or set CXX to a compiler that builds it"
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", NativeKernelWarning)
            from qfx.fixed import native

            there = native.available()
    except ImportError as error:
        return Finding(name, None, what, "install torch", problem=_short(str(error)))
    said = "; ".join(_short(str(one.message)) for one in caught if issubclass(one.category, NativeKernelWarning))
    if there:
        return Finding(name, "built, and loads" + (f" ({said})" if said else ""), what, remedy)
    return Finding(name, None, what, remedy, problem=said or "it cannot be built")


def _tool(tool: _Tool) -> Finding:
    path = next(filter(None, map(shutil.which, tool.programs)), None)
    if path is None:
        return Finding(tool.name, None, tool.needed_for, tool.remedy, problem=f"no {' or '.join(tool.programs)} on PATH")
    if not tool.version:
        return Finding(tool.name, path, tool.needed_for, tool.remedy)
    said, problem = _said([path, *tool.version])
    return Finding(tool.name, said, tool.needed_for, tool.remedy, problem=problem)


def _said(command: Sequence[str]) -> tuple[str | None, str]:
    """The first line that a program says of itself; None, and why, if it does not run."""
    try:
        done = process.run(command, timeout=_TOOL_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"{shlex.join(command)} does not run: {error}"
    if done.returncode:
        return None, f"{shlex.join(command)} ends with {done.returncode}"
    return _short((done.stdout or done.stderr).strip()) or "it says nothing", ""


def _short(text: str) -> str:
    line = text.strip().splitlines()[0] if text.strip() else ""
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 3]}..."


def machine() -> str:
    """What it runs on, in a line."""
    where = f"Python {platform.python_version()} at {sys.executable}, {platform.platform()}, {os.cpu_count()} CPUs"
    return f"qfx {importlib.metadata.version('qfx')}, {where}"
