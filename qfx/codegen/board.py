"""Boards: the part, and its resources, as data in ``hls/boards/*.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields

from qfx.codegen.assets import hls_root
from qfx.errors import ProjectError


@dataclass(frozen=True, slots=True)
class Board:
    """An FPGA board. ``part`` is the vendor's part number; the counts are those of the part.

    ``bram36`` counts 36 kbit block RAMs, ``uram`` 288 kbit UltraRAMs. ``board_part`` is a pattern that the vendor's board files match ("": there are
    none). ``ps`` is the IP of the processing system, ``control_port`` the AXI master of it that reaches the registers and ``memory_port`` the AXI
    slave that reaches memory. ``clock_ns`` is a clock period, in nanoseconds, to start from.
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


@dataclass(frozen=True, slots=True)
class PsPort:
    """An AXI port of a processing system: ``enable`` is the parameter that switches it on, ``clock`` its clock pin."""

    name: str
    enable: str
    clock: str


def boards() -> tuple[Board, ...]:
    """Every board that qfx knows, by name."""
    return tuple(_read(path.stem) for path in sorted((hls_root() / "boards").glob("*.toml")))


def board(name: str) -> Board:
    """The board of that name. Raises ProjectError listing the known ones."""
    for known in boards():
        if known.name == name:
            return known
    names = ", ".join(known.name for known in boards())
    raise ProjectError(f"no board is called {name!r}", remedy=f"use one of {names}")


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


def _read(name: str) -> Board:
    path = hls_root() / "boards" / f"{name}.toml"
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ProjectError(f"not TOML: {error}", where=str(path), remedy="repair the file") from error
    types = {field.name: field.type for field in fields(Board) if field.name != "name"}
    if data.keys() != types.keys() or any(type(value).__name__ != types[key] for key, value in data.items()):
        raise ProjectError("its fields are not those of a board", where=str(path), remedy=f"give {', '.join(f'{k} ({t})' for k, t in types.items())}")
    found = Board(name=name, **data)
    check_ports(found)
    return found
