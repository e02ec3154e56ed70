"""A software model of a layer engine on the board: its registers, and the C simulation over what lies in memory at the addresses in them.

It is strict where hardware is silent: an address must be of memory that was allocated, as long as the engine may reach, and a multiple of what it
moves at a time; values, what lies beside and results must be one region.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import numpy as np

from .description import Description, Engine
from .device import AP_DONE, AP_IDLE, AP_START, CONTROL, DeviceError
from .simulated_memory import SimulatedMemory

_SHOWN = 2000
_WHERE = "model of the board"


class SimulatedEngine:
    """Registers of 32 bits: control (bit 0 starts a run, which is over at once; bit 1 says so until it is read; bit 2: nothing runs, UG1399), the
    number of steps, and both halves of every address."""

    traffic: dict[str, int]
    """The bytes that each master has moved so far, as the C simulation counted them."""

    def __init__(self, executable: Path, description: Description, engine: Engine, memory: SimulatedMemory) -> None:
        self._executable, self._description, self._engine, self._memory = executable, description, engine, memory
        addresses = (*(one.register for one in description.memories), *engine.value_registers)
        self._held = dict.fromkeys((engine.steps_register, *(base + half for base in addresses for half in (0, 4))), 0)
        self._done = False
        self.traffic = dict.fromkeys((port.name for port in engine.ports), 0)

    def read(self, offset: int) -> int:
        if offset != CONTROL:
            raise DeviceError(f"the driver reads a register at {offset:#x}", where=_WHERE)
        value = AP_IDLE | (AP_DONE if self._done else 0)
        self._done = False
        return value

    def write(self, offset: int, value: int) -> None:
        if offset in self._held and 0 <= value < 1 << 32:
            self._held[offset] = value
            return
        if (offset, value) != (CONTROL, AP_START):
            raise DeviceError(f"the engine has no register {value:#x} at {offset:#x}", where=_WHERE)
        self._run()
        self._done = True

    def _run(self) -> None:
        engine = self._engine
        regions = {self._address(register) for register in engine.value_registers}
        if len(regions) != 1:
            told = ", ".join(f"{address:#x}" for address in sorted(regions))
            raise DeviceError(f"values, what lies beside and results are one region, not {told}", where=_WHERE)
        vector = engine.inputs[0].lanes * engine.inputs[0].bits // 8
        values = self._memory.at(self._aligned(regions.pop(), vector), engine.value_bytes, "values")
        with tempfile.TemporaryDirectory(prefix="qfx_engine_") as name:
            folder = Path(name)
            (folder / "values.bin").write_bytes(values.tobytes())
            for one in self._description.memories:
                address = self._aligned(self._address(one.register), self._description.alignment)
                (folder / f"{one.name}.bin").write_bytes(self._memory.at(address, one.bytes, one.name).tobytes())
            command = [str(self._executable), "--board", str(self._held[engine.steps_register]), str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode or done.stdout or done.stderr:
                what = f"the C simulation failed (status {done.returncode}): {(done.stdout + done.stderr)[:_SHOWN]}"
                raise DeviceError(what, where=str(self._executable))
            values[:] = np.frombuffer((folder / "values.bin").read_bytes(), dtype=np.uint8)
            turns = [int(number) for number in (folder / "turns").read_text(encoding="utf-8").split()]
        for port in engine.ports:
            self.traffic[port.name] += turns[port.process] * port.bytes
        program = next(one for one in self._description.memories if one.name == "program")
        self.traffic["parameters"] += program.bytes // engine.steps * self._held[engine.steps_register]

    def _address(self, register: int) -> int:
        return self._held[register + 4] << 32 | self._held[register]

    def _aligned(self, address: int, size: int) -> int:
        if address % size:
            raise DeviceError(f"the address {address:#x} is not a multiple of {size} bytes", where=_WHERE)
        return address
