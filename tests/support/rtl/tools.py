"""The programs that the check needs beside g++: a clang++ that knows integers of any width, Icarus Verilog and Verilator."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import lru_cache

_CLANG = ("clang++-16", "clang++-17", "clang++-18", "clang++-19", "clang++")
_FROM = 16
"""The first clang whose _BitInt is wider than 128 bits, behind an option."""


@dataclass(frozen=True, slots=True)
class Tools:
    """Commands; empty where there is none."""

    clang: str
    iverilog: str
    vvp: str
    verilator: str

    @property
    def missing(self) -> str:
        """What to install, in words; empty if nothing is missing."""
        wanted = [
            (self.clang, f"clang++ {_FROM} or newer (Debian: clang-{_FROM})"),
            (self.iverilog and self.vvp, "Icarus Verilog (Debian: iverilog)"),
            (self.verilator, "Verilator (Debian: verilator)"),
        ]
        return " and ".join(text for found, text in wanted if not found)


@lru_cache(maxsize=1)
def tools() -> Tools:
    clang = next((path for name in _CLANG if (path := shutil.which(name)) and _version(path) >= _FROM), "")
    return Tools(clang, shutil.which("iverilog") or "", shutil.which("vvp") or "", shutil.which("verilator") or "")


def main() -> None:
    """Ends with status 1, and says what is missing, unless all is there."""
    if tools().missing:
        raise SystemExit(f"missing: {tools().missing}; install them (apt-get install clang-{_FROM} iverilog), nothing is installed for you")


def _version(clang: str) -> int:
    text = subprocess.run([clang, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"clang version (\d+)", text)
    return int(found[1]) if found else 0


if __name__ == "__main__":
    main()
