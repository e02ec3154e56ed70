"""Boards: the part, and its resources, as data in ``hls/boards/*.toml``."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from math import ceil
from pathlib import Path
from types import MappingProxyType
from typing import Any

from qfx.errors import ProjectError
from qfx.files import drop_schema
from qfx.hardware.assets import hls_root


@dataclass(frozen=True, slots=True)
class Board:
    """An FPGA board. ``part`` is the vendor's part number; the counts are those of the part.

    ``bram36`` counts 36 kbit block RAMs, ``uram`` 288 kbit UltraRAMs. ``board_part`` is a pattern that the vendor's board files match ("": there are
    none). ``ps`` is the IP of the processing system, ``control_port`` the AXI master of it that reaches the registers and ``memory_port`` the AXI
    slave that reaches memory. ``clock_ns`` is the clock period, in nanoseconds, where none is asked for. ``fastest_mhz``: what every design needs,
    block RAM (the DMA has some) and the clock buffers, runs no faster in this part; the default is that of the fastest UltraScale+ part (DS925, -3).
    ``memory_gb_s``: 10**9 bytes a second that the processing system's memory moves at its peak (its width times its rate). 0: that is not known, or
    there is none, and designs that read memory while they run are refused.
    """

    name: str
    title: str
    part: str
    lut: int
    ff: int
    dsp: int
    bram36: int
    uram: int
    board_part: str = ""
    ps: str = "zynq_ultra_ps_e"
    control_port: str = "M_AXI_HPM0_FPD"
    memory_port: str = "S_AXI_HP0_FPD"
    clock_ns: float = 5.0
    fastest_mhz: float = 825.0
    memory_gb_s: float = 0.0

    @property
    def memory_masters(self) -> tuple[PsPort, ...]:
        """The AXI slaves of the processing system that a design's own masters may read memory by: the high-performance ports but that of the DMA."""
        return tuple(port for name, port in PORTS[self.ps].items() if name.startswith("S_AXI_HP") and "HPC" not in name and name != self.memory_port)

    @property
    def memory_port_bits(self) -> int:
        """The width of each of them (UG1085: 128; UG585: 64)."""
        return 64 if self.ps == "processing_system7" else 128

    def memory_bytes_per_cycle(self, clock_ns: float) -> float:
        """Bytes that the design's masters together read in a clock cycle at best: what memory sustains, and no more than their ports carry."""
        ports = len(self.memory_masters) * self.memory_port_bits / 8
        return min(MEMORY_SUSTAINED * self.memory_gb_s * clock_ns, ports)


MEMORY_SUSTAINED = 0.7
"""The share of its peak that memory is assumed to give to long sequential bursts, what refresh and the processors take taken off. Nobody measured it
on these boards with these designs."""

LEAST_CLOCK_NS, MOST_CLOCK_NS = 0.5, 1000.0
"""Clock periods that no FPGA has lie outside, whatever the part."""

_FIELDS: Mapping[str, str] = MappingProxyType({field.name: str(field.type) for field in fields(Board) if field.name != "name"})
_OPTIONAL = frozenset(field.name for field in fields(Board) if field.default is not MISSING)

_ZYNQ_7000: Mapping[str, Any] = MappingProxyType(  # DS191, -3: block RAM
    {"ps": "processing_system7", "control_port": "M_AXI_GP0", "memory_port": "S_AXI_HP0", "clock_ns": 10.0, "fastest_mhz": 601.0}
)

_WRITTEN = (  # into scripts in Tcl
    ("title", r"[^\x00-\x1f{}$\[\]\"\\\\]+", "a line without quotes, braces, brackets, dollars and backslashes"),
    ("part", r"xc[A-Za-z0-9_-]+", 'a part number of AMD, such as "xczu3eg-sbva484-1-i"'),
    ("board_part", r"[A-Za-z0-9_.:*?-]*", "a pattern for Vivado's board files, or an empty text"),
    ("name", r"[A-Za-z0-9_.-]+", "the file a name of letters, digits, dots, dashes and underlines"),
)


LEAST_COUNTS: Mapping[str, int] = MappingProxyType({"lut": 1, "ff": 1, "dsp": 0, "bram36": 0, "uram": 0})
"""What a part has at least."""

MOST_MEMORY_GB_S = 1000.0
"""More has no memory that such boards have."""

LEAST_MHZ, MOST_MHZ = 1.0, 1000 / LEAST_CLOCK_NS
"""Between them lies ``fastest_mhz``."""


def file_fields() -> tuple[Mapping[str, str], frozenset[str], Mapping[str, str]]:
    """The fields of a board's file with the names of their types, which of them may be left out, and the patterns of those that go into scripts."""
    return _FIELDS, _OPTIONAL, {name: pattern for name, pattern, _ in _WRITTEN if name in _FIELDS}


@dataclass(frozen=True, slots=True)
class PsPort:
    """An AXI port of a processing system: ``enable`` is the parameter that switches it on, ``clock`` its clock pin."""

    name: str
    enable: str
    clock: str


def boards() -> tuple[Board, ...]:
    """Every board that qfx knows, by name."""
    return tuple(_read(path) for path in sorted((hls_root() / "boards").glob("*.toml")))


def board(name: str) -> Board:
    """The board of that name, or in the TOML file of that path; it is called as the file, without ``.toml``.

    Raises ProjectError, listing the known ones, if there is no such board, and saying what is wrong with the file otherwise.
    """
    for known in boards():
        if known.name == name:
            return known
    if _looks_like_a_path(name):
        return _read(Path(name))
    raise ProjectError(f"no board is called {name!r}", remedy=f"use one of {', '.join(_names())}, or give the path of a TOML file (docs/board.md)")


def _names() -> list[str]:
    return [path.stem for path in sorted((hls_root() / "boards").glob("*.toml"))]


PORTS: Mapping[str, Mapping[str, PsPort]] = {
    "zynq_ultra_ps_e": {  # PG201: parameters count the ports, pins name them
        "M_AXI_HPM0_FPD": PsPort("M_AXI_HPM0_FPD", "PSU__USE__M_AXI_GP0", "maxihpm0_fpd_aclk"),
        "M_AXI_HPM1_FPD": PsPort("M_AXI_HPM1_FPD", "PSU__USE__M_AXI_GP1", "maxihpm1_fpd_aclk"),
        "M_AXI_HPM0_LPD": PsPort("M_AXI_HPM0_LPD", "PSU__USE__M_AXI_GP2", "maxihpm0_lpd_aclk"),
        "S_AXI_HPC0_FPD": PsPort("S_AXI_HPC0_FPD", "PSU__USE__S_AXI_GP0", "saxihpc0_fpd_aclk"),
        "S_AXI_HPC1_FPD": PsPort("S_AXI_HPC1_FPD", "PSU__USE__S_AXI_GP1", "saxihpc1_fpd_aclk"),
        "S_AXI_HP0_FPD": PsPort("S_AXI_HP0_FPD", "PSU__USE__S_AXI_GP2", "saxihp0_fpd_aclk"),
        "S_AXI_HP1_FPD": PsPort("S_AXI_HP1_FPD", "PSU__USE__S_AXI_GP3", "saxihp1_fpd_aclk"),
        "S_AXI_HP2_FPD": PsPort("S_AXI_HP2_FPD", "PSU__USE__S_AXI_GP4", "saxihp2_fpd_aclk"),
        "S_AXI_HP3_FPD": PsPort("S_AXI_HP3_FPD", "PSU__USE__S_AXI_GP5", "saxihp3_fpd_aclk"),
    },
    "processing_system7": {  # PG082
        "M_AXI_GP0": PsPort("M_AXI_GP0", "PCW_USE_M_AXI_GP0", "M_AXI_GP0_ACLK"),
        "M_AXI_GP1": PsPort("M_AXI_GP1", "PCW_USE_M_AXI_GP1", "M_AXI_GP1_ACLK"),
        "S_AXI_HP0": PsPort("S_AXI_HP0", "PCW_USE_S_AXI_HP0", "S_AXI_HP0_ACLK"),
        "S_AXI_HP1": PsPort("S_AXI_HP1", "PCW_USE_S_AXI_HP1", "S_AXI_HP1_ACLK"),
        "S_AXI_HP2": PsPort("S_AXI_HP2", "PCW_USE_S_AXI_HP2", "S_AXI_HP2_ACLK"),
        "S_AXI_HP3": PsPort("S_AXI_HP3", "PCW_USE_S_AXI_HP3", "S_AXI_HP3_ACLK"),
    },
}
"""The processing systems and those of their AXI ports that a board may name."""


def check_ports(known: Board) -> None:
    """Raises ProjectError, naming the board, unless its processing system has an AXI master and an AXI slave of those names."""
    if known.ps not in PORTS:
        raise ProjectError(f"ps is {known.ps!r}", where=known.name, remedy=f"use one of {', '.join(PORTS)}")
    for field, port, letter in (("control_port", known.control_port, "M"), ("memory_port", known.memory_port, "S")):
        choices = [name for name in PORTS[known.ps] if name.startswith(letter)]
        if port not in choices:
            raise ProjectError(f"{field} is {port!r}", where=known.name, remedy=f"use one of {', '.join(choices)}")


def check_clock(clock_ns: float, board: Board | None = None) -> None:
    """Raises ProjectError unless the clock period is a number of nanoseconds that an FPGA, or the part of ``board``, could have."""
    if not LEAST_CLOCK_NS <= clock_ns <= MOST_CLOCK_NS:
        where = "" if board is None else board.name
        raise ProjectError(f"the clock period is {clock_ns} ns", where=where, remedy=f"use {LEAST_CLOCK_NS:g} to {MOST_CLOCK_NS:g} ns")
    if board is not None and clock_ns * board.fastest_mhz < 1000:
        most = f"block RAM or the clock buffers of {board.part} run at {board.fastest_mhz:g} MHz at most"
        raise ProjectError(
            f"a clock period of {clock_ns:g} ns is {1000 / clock_ns:.0f} MHz, but {most}",
            where=board.name,
            remedy=f"use at least {ceil(1e5 / board.fastest_mhz) / 100:g} ns; {board.clock_ns:g} ns is a period to start from",
        )


def _looks_like_a_path(text: str) -> bool:
    return text.endswith(".toml") or os.sep in text or Path(text).is_file()


def _read(path: Path) -> Board:
    """The board in a file. Raises ProjectError with the first thing that is wrong with it, and what a board's file holds."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        remedy = f"give the path of a board's TOML file, or one of {', '.join(_names())}"
        raise ProjectError(f"cannot be read: {error.strerror or error}", where=str(path), remedy=remedy) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ProjectError(f"not TOML: {error}", where=str(path), remedy="repair the file") from error
    drop_schema(data)
    for key, value in data.items():
        if key not in _FIELDS:
            close = get_close_matches(key, _FIELDS, n=1)
            raise _wrong(path, f"a board has no {key!r}", f"did you mean {close[0]!r}? " if close else "")
        if type(value).__name__ != _FIELDS[key] and not (_FIELDS[key] == "float" and type(value) is int):
            raise _wrong(path, f"{key} is {value!r}, which is no {_FIELDS[key]}")
    for key in _FIELDS:
        if key not in data and key not in _OPTIONAL:
            raise _wrong(path, f"{key} is missing")
    defaults = _ZYNQ_7000 if str(data["part"]).startswith("xc7") else {}
    values: dict[str, Any] = {key: float(value) if _FIELDS[key] == "float" else value for key, value in {**defaults, **data}.items()}
    found = Board(name=path.stem, **values)
    for key, pattern, what in _WRITTEN:
        if not re.fullmatch(pattern, getattr(found, key)):
            raise _wrong(path, f"{key} is {getattr(found, key)!r}", f"give {what}; ")
    for key, least in LEAST_COUNTS.items():
        if getattr(found, key) < least:
            raise _wrong(path, f"{key} is {getattr(found, key)}", f"give at least {least}; ")
    if not LEAST_MHZ <= found.fastest_mhz <= MOST_MHZ:
        raise _wrong(path, f"fastest_mhz is {found.fastest_mhz}", f"give {LEAST_MHZ:g} to {MOST_MHZ:g}, as the part's data sheet has it; ")
    if not 0 <= found.memory_gb_s <= MOST_MEMORY_GB_S:
        raise _wrong(
            path, f"memory_gb_s is {found.memory_gb_s}", f"give 0 to {MOST_MEMORY_GB_S:g}, the width of the memory in bytes times its transfers; "
        )
    check_clock(found.clock_ns, found)
    check_ports(found)
    return found


def _wrong(path: Path, what: str, remedy: str = "") -> ProjectError:
    names = ", ".join(f"{name} ({kind}{', optional' if name in _OPTIONAL else ''})" for name, kind in _FIELDS.items())
    return ProjectError(what, where=str(path), remedy=f"{remedy}a board's file holds {names}")
