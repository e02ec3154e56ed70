"""The programs that the check needs beside g++: a clang++ that knows integers of any width, Icarus Verilog and Verilator."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import lru_cache

from qfx.hardware.rtl.tools import CLANG_FROM, found_clang


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
            (self.clang, f"clang++ {CLANG_FROM} or newer (Debian: clang-{CLANG_FROM})"),
            (self.iverilog and self.vvp, "Icarus Verilog (Debian: iverilog)"),
            (self.verilator, "Verilator (Debian: verilator)"),
        ]
        return " and ".join(text for found, text in wanted if not found)


@lru_cache(maxsize=1)
def tools() -> Tools:
    return Tools(found_clang(), shutil.which("iverilog") or "", shutil.which("vvp") or "", shutil.which("verilator") or "")


def main() -> None:
    """Ends with status 1, and says what is missing, unless all is there."""
    if tools().missing:
        raise SystemExit(
            f"missing: {tools().missing}; install them (apt-get install clang-{CLANG_FROM} iverilog verilator); only for root make does it"
        )


if __name__ == "__main__":
    main()
