"""What Yosys makes of Verilog: its cells counted as the LUTs, flip-flops and blocks that they take in a part."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from qfx import process
from qfx.errors import ProjectError
from qfx.hardware.rtl import tools

Netlist = Mapping[str, Mapping[str, Any]]
"""The cells of a module in Yosys' JSON."""

MEMORY_LUTS = {"RAM32M": 4, "RAM64M": 4, "RAM32M16": 8, "RAM64M8": 8, "RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4, "SRL16E": 1, "SRLC32E": 1}
"""LUTs of each memory primitive: UG974, UG953."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Of a module, without those that it instantiates."""

    lut: int
    ff: int
    dsp: int
    bram18: int


def family(part: str) -> str:
    """What Yosys calls the family of a part number."""
    return "xc7" if part.startswith(("xc7", "xa7", "xq7")) else "xcup"


def mapped(folder: Path, top: str) -> dict[str, Counted]:
    """By ``syn/cells.ys`` of a written folder: the top module without what it instantiates, by its name, and each instance in it by its own.
    Raises ProjectError where Yosys is missing or fails."""
    command = tools.yosys()
    (folder / "build").mkdir(exist_ok=True)
    done = process.run(["env", "-C", str(folder), *command, "-q", "-s", "syn/cells.ys"])
    result = folder / "build" / "cells.json"
    if done.returncode or not result.is_file():
        what = f"Yosys ends with {done.returncode}: {(done.stdout + done.stderr)[-4000:]}"
        raise ProjectError(what, where=str(folder), remedy="set YOSYS to another build of it (Debian: apt-get install yosys)")
    modules = json.loads(result.read_text(encoding="utf-8"))["modules"]
    library = {"blackbox", "whitebox"}
    own = {name: counted(module["cells"]) for name, module in modules.items() if not library & set(module.get("attributes", {}))}
    return {top: own[top]} | {name: own[cell["type"]] for name, cell in modules[top]["cells"].items() if cell["type"] in own}


def joined(counts: Iterable[Counted]) -> Counted:
    """The sum."""
    found = list(counts)
    return Counted(*(sum(getattr(one, field.name) for one in found) for field in fields(Counted)))


def counted(cells: Netlist) -> Counted:
    """The cells of a module, mapped to LUTs (``$lut`` or LUT1 to LUT6), carry chains, flip-flops and blocks."""
    types = Counter(str(cell["type"]) for cell in cells.values())
    bram = sum(count * (2 if "36" in name else 1) for name, count in types.items() if name.startswith("RAMB"))
    ff = sum(count for name, count in types.items() if name in ("FDRE", "FDSE", "FDCE", "FDPE") or re.match(r"\$_\w*DFF", name))
    return Counted(sites(named(cells)), ff, sum(count for name, count in types.items() if name.startswith("DSP")), bram)


def named(cells: Netlist) -> Netlist:
    """The cells with LUTn for each ``$lut``."""
    found: dict[str, Mapping[str, Any]] = {}
    for name, cell in cells.items():
        if cell["type"] == "$lut":
            pins = dict(cell["connections"])
            pins["O"] = pins["Y"]
            cell = {**cell, "type": f"LUT{len(pins['A'])}", "connections": pins}
        found[name] = cell
    return found


def sites(cells: Netlist) -> int:
    """6-input LUTs that the mapped cells take.

    A bit of a carry chain takes one LUT, whose two outputs hold what drives S and DI (UG574, UG474: CARRY8, CARRY4). Of the other LUTs, two small
    ones share one (LUT5 + LUT1, LUT4 + LUT1 or 2, LUT3 + LUT1 to 3: the rule of Yosys' own ``stat -tech xilinx``). Memories count as their LUTs.
    Inverters cost nothing.
    """
    drivers = {bit: name for name, cell in cells.items() if cell["type"].startswith("LUT") for bit in cell["connections"]["O"]}
    in_chain: set[str] = set()
    total = 0
    for cell in cells.values():
        total += MEMORY_LUTS.get(cell["type"], 0)
        if cell["type"].startswith("CARRY"):
            pins = cell["connections"]
            for s, di in zip(pins["S"], pins["DI"], strict=True):
                if isinstance(s, str) and isinstance(di, str) and s in "01x" and di in "01x":
                    continue  # an unused place, or the end of a chain
                total += 1
                in_chain.update(drivers[bit] for bit in (s, di) if bit in drivers)
    lut = Counter(int(cell["type"][3:]) for name, cell in cells.items() if cell["type"].startswith("LUT") and name not in in_chain)
    total += lut[6]
    for large, small in ((5, 1), (4, 1), (4, 2), (3, 1), (3, 2)):
        shared = min(lut[large], lut[small])
        total += shared
        lut[large] -= shared
        lut[small] -= shared
    return total + lut[5] + lut[4] + (lut[3] + 1) // 2 + (lut[2] + lut[1] + 1) // 2
