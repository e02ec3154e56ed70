"""A layer engine: frames lie in the board's memory, and each run of the program makes results of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .description import Description, Engine
from .device import AP_DONE, AP_IDLE, AP_START, CONTROL, Device, DeviceError
from .errors import DataError
from .fixed.array import Int64Array
from .fixed.vectors import check, put, take
from .memory import Memories, write_address

_BATCH_BYTES = 8 << 20  # of inputs or outputs that lie ready, unless the user says otherwise


class LayerEngine:
    """The engine of ``description`` on an open device: its program, weights and parameters, from the folder ``memory``, are put into memory, and a
    region for values is allocated. Raises as ``Accelerator``."""

    def __init__(self, description: Description, engine: Engine, device: Device, timeout_s: float, memory: Path) -> None:
        self.description, self.engine = description, engine
        self._registers = device.accelerator
        self._timeout_s = timeout_s
        self._usable = True
        self.memories = Memories(description, device, memory)
        self.values = device.allocate(engine.value_bytes)
        self.values.flush()  # or a dirty line of the cache could be written over results
        for offset in engine.value_registers:
            write_address(self._registers, offset, self.values)
        self._registers.write(engine.steps_register, engine.steps)
        if not self._registers.read(CONTROL) & AP_IDLE:
            self.close()
            raise DeviceError("the engine runs already", where=description.top, remedy="load the bitstream again")

    def close(self) -> None:
        """Free the buffers."""
        if self._usable:
            self.values.freebuffer()
        self._usable = False
        self.memories.close()

    def run(self, x_raw: tuple[Int64Array, ...], batch: int | None) -> tuple[tuple[Int64Array, ...], int, float]:
        """The raws of every output for those of every input, the number of runs, and the seconds that the engine took. ``batch``: how many frames are
        laid out for memory before the first of them runs; the engine takes ``Engine.frames`` of them in a run, in the last one what is left."""
        if not self._usable:
            raise DeviceError("the accelerator is closed, or has failed before", where=self.description.top, remedy="open it again")
        for raw, place in zip(x_raw, self.engine.inputs, strict=True):
            check(raw, place)
        frames = self.description.frames([len(raw) for raw in x_raw])
        each = self.engine.frames
        largest = max(place.run_bytes for place in (*self.engine.inputs, *self.engine.outputs))
        step = max(each, min(frames, _BATCH_BYTES // largest * each)) if batch is None else batch
        if step < 1:
            raise DataError(f"the batch is {batch} frames", where=self.description.top, remedy="use 1 or more")
        results: list[list[Int64Array]] = [[] for _ in self.engine.outputs]
        runs, seconds = 0, 0.0
        for start in range(0, max(frames, 1), step):
            part = [raw[start : start + step] for raw in x_raw]
            given = [put(raw, place) for raw, place in zip(part, self.engine.inputs, strict=True)]
            got = [np.empty((len(given[0]), place.run_bytes), dtype=np.uint8) for place in self.engine.outputs]
            seconds += sum(self._run([one[i] for one in given], [one[i] for one in got]) for i in range(len(given[0])))
            runs += len(given[0])
            for held, data, place in zip(results, got, self.engine.outputs, strict=True):
                held.append(take(data, place)[: len(part[0])])
        return tuple(np.concatenate(held) for held in results), runs, seconds

    def _run(self, given: Sequence[npt.NDArray[np.uint8]], got: Sequence[npt.NDArray[np.uint8]]) -> float:
        """A run from bytes to bytes; the seconds from the start of the engine to its end."""
        for data, place in zip(given, self.engine.inputs, strict=True):
            part = self.values[place.first_byte : place.first_byte + place.run_bytes]
            part[:] = data
            part.flush()
        begin = time.perf_counter()
        self._registers.write(CONTROL, AP_START)
        while not self._registers.read(CONTROL) & AP_DONE:
            if time.perf_counter() - begin > self._timeout_s:
                self._usable = False
                raise DeviceError(
                    f"the engine has not finished a run in {self._timeout_s:g} s",
                    where=self.description.top,
                    remedy="load the bitstream again; check that it is this project's, or allow more time",
                )
        seconds = time.perf_counter() - begin
        for data, place in zip(got, self.engine.outputs, strict=True):
            part = self.values[place.first_byte : place.first_byte + place.run_bytes]
            part.invalidate()
            data[:] = np.asarray(part)
        return seconds
