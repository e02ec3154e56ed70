"""What the RTL of a project shows: ``python -m support.rtl PROJECT`` lists each process with its least period, and what a vendor's tool may mind."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qfx.hardware.rtl.machines import sources
from qfx.hardware.rtl.machines.machine import translate
from qfx.hardware.rtl.machines.netlist import Machine
from support.rtl.period import Recurrence, counters, least_period


@dataclass(frozen=True, slots=True)
class Shown:
    """Of a process: its recurrence with balanced sums, the period with sums as clang leaves them, registers of 32 bits that are no loop counters,
    arrays that a turn reads or writes more than once, and what the translation had to do."""

    recurrence: Recurrence
    unbalanced_ns: float
    wide: tuple[str, ...]
    busy: tuple[str, ...]
    notes: tuple[str, ...]


def processes(folder: Path, top: str) -> dict[str, Shown]:
    """Of the sources in ``folder/src``; they stay as they are. Raises RtlError for what has no such hardware."""
    with tempfile.TemporaryDirectory(prefix="qfx_rtl_") as scratch:
        place = Path(scratch)
        files = {f"src/{path.relative_to(folder / 'src').as_posix()}": path.read_text(encoding="utf-8") for path in (folder / "src").rglob("*.*")}
        sources.write(files, place)
        region = sources.region(place, top)
        names = [call.name for call in region.calls]
        module, functions = sources.processes(place, top, names)
        return {name: shown(translate(module, functions[name], name)) for name in names}


def shown(machine: Machine) -> Shown:
    trimmed = counters(machine)
    wide = tuple(register.name for register in machine.registers if register.width == 32 and register.name not in trimmed)
    busy = tuple(
        f"{memory.array}: {loads} loads, {stores} stores"
        for memory in machine.memories
        if memory.depth > 1 and memory.updates and max(loads := memory.ports[0], stores := memory.ports[1]) > 1
    )
    return Shown(least_period(machine), least_period(machine, balanced=False).period_ns, wide, busy, machine.notes)


def main(arguments: list[str]) -> None:
    if len(arguments) != 1:
        raise SystemExit("usage: python -m support.rtl PROJECT")
    folder = Path(arguments[0])
    description: Mapping[str, object] = json.loads((folder / "qfx_project.json").read_text(encoding="utf-8"))
    print(f"{'process':32} {'period ns':>9} {'unbalanced':>10}  round")
    for name, one in processes(folder, str(description["top"])).items():
        print(f"{name:32} {one.recurrence.period_ns:9.2f} {one.unbalanced_ns:10.2f}  {' > '.join(one.recurrence.around)}")
        for line in (*one.busy, *one.notes, *(f"{register} has 32 bits" for register in one.wide)):
            print(f"{'':32} {line}")


if __name__ == "__main__":
    main(sys.argv[1:])
