"""How the generated C++ is compiled: the compiler at hand, called. What is compiled from what is ``build.py``'s business."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from qfx import compiler, process
from qfx.errors import ProjectError
from qfx.hardware.project.blame import DefectError

_USUAL = ("g++",)
_SHOWN = 4000  # characters of a compiler's complaint


@dataclass(frozen=True, slots=True)
class Compiler:
    """A g++ or clang++, by its command."""

    command: tuple[str, ...]

    @property
    def name(self) -> str:
        """For messages: without the folder."""
        return shlex.join((Path(self.command[0]).name, *self.command[1:]))

    @property
    def identity(self) -> str:
        """Two compilers with one identity are the same program with the same arguments; that of the usual g++ is empty."""
        return "" if self.command == compiler.command("", _USUAL) else shlex.join(self.command)

    @property
    def target(self) -> str:
        """What it makes of this processor: the macros that it defines for it. An executable for another one may not run here."""
        return _macros(self.command, "-march=native")


def installed() -> Compiler | None:
    """``$CXX`` if that is set, else g++; None if there is none. Raises ProjectError for a ``$CXX`` that is neither a g++ nor a clang++."""
    wanted = os.environ.get("CXX", "")
    try:
        command = compiler.command(wanted, _USUAL)
    except compiler.CompilerError as error:
        raise ProjectError(error.what, where="C simulation", remedy=error.remedy) from error
    if command is None:
        return None
    if wanted.strip() and "#define __GNUC__ " not in _macros(command):  # which clang++ defines as well
        what = f"CXX is {wanted!r}, which is neither a g++ nor a clang++"
        raise ProjectError(what, where="C simulation", remedy="set CXX to one of them, or unset it to use g++")
    return Compiler(command)


def needed() -> Compiler:
    """As ``installed``, and ProjectError if there is none."""
    found = installed()
    if found is None:
        remedy = "install g++ (any version that knows C++11), or set CXX to a g++ or clang++"
        raise ProjectError("g++ is missing", where="C simulation", remedy=remedy)
    return found


def compile_cpp(sources: Sequence[Path], includes: Sequence[str], executable: Path, flags: Sequence[str]) -> None:
    """Compile; ``includes`` and ``flags`` are arguments of the compiler. Raises ProjectError if it is missing or refuses a source."""
    found = needed()
    # To a name of its own, then renamed: an interrupted build leaves no broken executable.
    partial = executable.with_name(f"{executable.name}.{os.getpid()}")
    try:
        done = process.run([*found.command, *flags, *includes, *map(str, sources), "-o", str(partial)])
        if not done.returncode:
            os.replace(partial, executable)
    finally:
        partial.unlink(missing_ok=True)
    if done.returncode:
        raise DefectError(f"{found.name} refuses the C++:\n{done.stderr[:_SHOWN]}", str(executable))


@lru_cache(maxsize=8)
def _macros(command: tuple[str, ...], *flags: str) -> str:
    """What the compiler defines by itself; empty if it cannot say."""
    try:
        return process.run([*command, *flags, "-dM", "-E", "-x", "c++", os.devnull]).stdout
    except OSError:
        return ""
