"""A software model of the board: memory, DMA and registers in Python, the accelerator as the project's C simulation (``make build/tb``).

It is strict where hardware is silent: what the processor wrote is not seen by the DMA before ``flush``, nor the other way round before
``invalidate``; unaligned, overlong and overlapping transfers raise; a batch for a design that was not started with auto-restart never ends; and a
call of the accelerator takes its argument ``load`` when it begins, which with auto-restart is as soon as the frame before has been taken.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from .description import Description
from .device import DeviceError
from .simulated_engine import SimulatedEngine
from .simulated_memory import SimulatedBuffer, SimulatedMemory

_NO_TLAST = 3  # exit status of the test bench: see tb/dma.h
_SHOWN = 2000
_START, _IDLE, _RESTART = 0x01, 0x04, 0x80
_LOAD = 0x10


class SimulatedChannel:
    """One direction of the DMA. ``transferred`` are the bytes of the last transfer that ended."""

    def __init__(self, board: SimulatedBoard) -> None:
        self._board = board
        self.active: tuple[SimulatedBuffer, int, int] | None = None
        self.error = False
        self.transferred = 0

    @property
    def idle(self) -> bool:
        return self.active is None

    def transfer(self, array: SimulatedBuffer, start: int, nbytes: int) -> None:
        if self.error or self.active is not None:
            raise RuntimeError("DMA channel not idle")
        limit = self._board.description.max_bytes
        if not 0 < nbytes <= limit:
            raise ValueError(f"a transfer of {nbytes} bytes; 1 to {limit} are possible")
        if array.device_address < 0 or start < 0 or start + nbytes > array.nbytes:
            raise RuntimeError(f"bytes {start} to {start + nbytes} of a buffer of {array.nbytes}, or of one that was freed")
        if (array.device_address + start) % self._board.description.alignment:
            raise RuntimeError(f"the address {array.device_address + start:#x} is not a multiple of {self._board.description.alignment} bytes")
        self.active = (array, start, nbytes)
        self._board.advance()

    def finish(self, nbytes: int) -> None:
        self.active, self.transferred = None, nbytes

    def wait(self) -> None:
        if self.error:
            raise RuntimeError("DMA Internal Error: more results than the buffer was to take")
        if self.active is not None:
            raise RuntimeError("this transfer would never end")


class _Sender:
    def __init__(self, board: SimulatedBoard) -> None:
        self.sendchannel = SimulatedChannel(board)


class _Receiver:
    def __init__(self, board: SimulatedBoard) -> None:
        self.recvchannel = SimulatedChannel(board)


class _Dma(_Sender, _Receiver):
    def __init__(self, board: SimulatedBoard) -> None:
        _Sender.__init__(self, board)
        _Receiver.__init__(self, board)


class _Registers:
    """The control register: bit 0 starts one call, with bit 7 set it starts again after each; a call that has begun waits for its frame, whatever is
    written (UG1399). Bit 2 reads as 1 while there is none. The argument ``load`` is at 0x10, if there is one; addresses of what is read from memory
    are where the description says."""

    def __init__(self, board: SimulatedBoard) -> None:
        self._board = board
        self.control = 0
        self._load = 0
        self.loads = False  # the call that has begun
        self.halves: dict[int, int] = {}  # of addresses, by offset
        self._known = {one.register + at for one in board.description.memories for at in (0, 4)}

    def read(self, offset: int) -> int:
        if offset != 0:
            raise DeviceError(f"the accelerator has no register at {offset:#x}", where="model of the board")
        return self.control | (0 if self.control & _START else _IDLE)

    def write(self, offset: int, value: int) -> None:
        if offset == _LOAD and value in (0, 1) and self._board.description.weights is not None:
            self._load = value
            return
        if offset in self._known and 0 <= value < 1 << 32:
            self.halves[offset] = value
            return
        if offset != 0 or value & ~(_START | _RESTART):
            raise DeviceError(f"the accelerator has no register {value:#x} at {offset:#x}", where="model of the board")
        begins = value & _START and not self.control & _START
        self.control = self.control & _START | value
        if begins:
            self.loads = self._load != 0
        self._board.advance()

    def frame_taken(self) -> None:
        """The call that has begun ends; the next one begins if it shall."""
        if self.control & _RESTART:
            self.loads = self._load != 0
        else:
            self.control &= ~_START
            self.loads = False


class SimulatedBoard:
    """The board of ``description`` with the accelerator in ``executable``, the project's test bench. Fits ``device.Device``: each DMA of the
    description is an attribute, with the channels that it has; a layer engine has none (``simulated_engine.py``)."""

    dma: _Dma
    memory_bytes: int
    """Bytes that the accelerator itself, if it has streams, has read from memory, or written there, so far."""

    def __init__(self, executable: str | Path, description: Description) -> None:
        self.executable, self.description = Path(executable).resolve(), description
        if not self.executable.is_file():
            raise DeviceError("the test bench is missing", where=str(executable), remedy="run `make build/tb` in the project")
        self.memory = SimulatedMemory()
        self.dma_weights, self._control = _Sender(self), _Registers(self)
        self.accelerator: _Registers | SimulatedEngine = self._control
        if description.engine is not None:
            self.accelerator = SimulatedEngine(self.executable, description, description.engine, self.memory)
        sends, receives = {end.dma for end in description.inputs}, {end.dma for end in description.outputs}
        for name in description.dmas:
            setattr(self, name, (_Dma if name in sends & receives else _Sender if name in sends else _Receiver)(self))
        self._arrived, self._constants = b"", b""  # words of a load under way, and those of the last
        self.memory_bytes = 0

    def allocate(self, nbytes: int) -> SimulatedBuffer:
        return self.memory.allocate(nbytes)

    def _in_memory(self, folder: Path) -> None:
        """What lies at the addresses in the registers, as files for the test bench. Raises DeviceError where nothing that is allocated does."""
        for one in self.description.memories:
            low, high = (self._control.halves.get(one.register + at, 0) for at in (0, 4))
            held = self.memory.at(high << 32 | low, one.bytes, one.name)
            if one.sha256:
                (folder / f"{one.name}.bin").write_bytes(held.tobytes())

    def advance(self) -> None:
        """Do what can be done: take constants if the call that has begun loads them, then run frames once all channels have a transfer."""
        if self._control.loads and not self._take_constants():
            return
        into, out = self.description.sends, self.description.receives
        sends: list[SimulatedChannel] = [getattr(self, wire.dma).sendchannel for wire in into]
        receives: list[SimulatedChannel] = [getattr(self, wire.dma).recvchannel for wire in out]
        taken, given = [channel.active for channel in sends], [channel.active for channel in receives]
        if any(active is None for active in (*taken, *given)) or not self._control.control & _START:
            return
        lengths = [divmod(active[2], wire.frame_bytes) for active, wire in zip(taken, into, strict=True) if active]
        frames = lengths[0][0]
        each = self.description.batch
        if lengths != [(frames, 0)] * len(into) or frames % each or (frames > each and (self._control.loads or not self._control.control & _RESTART)):
            return  # the accelerator waits for words that never come, or the DMA for an accelerator that has stopped
        words = [source.memory[begin : begin + nbytes].tobytes() for source, begin, nbytes in filter(None, taken)]
        for channel, sent in zip(sends, words, strict=True):
            channel.finish(len(sent))
        self._control.frame_taken()
        self._arrived = b""
        results = self._simulate(words)
        if results is None:
            return  # no TLAST: the DMA goes on waiting
        for channel, (target, begin, room), result in zip(receives, filter(None, given), results, strict=True):
            if len(result) > room:
                channel.error = True
                continue
            target.memory[begin : begin + len(result)] = np.frombuffer(result, dtype=np.uint8)
            channel.finish(len(result))

    def _take_constants(self) -> bool:
        """Whether the words of a load are complete. What a transfer has beyond them stays where it is, and the transfer never ends."""
        port, channel = self.description.weights, self.dma_weights.sendchannel
        assert port is not None  # or there is no register that says so
        if len(self._arrived) == port.frame_bytes:
            return True
        if channel.active is None:
            return False
        source, begin, nbytes = channel.active
        if len(self._arrived) + nbytes > port.frame_bytes:
            return False
        self._arrived += source.memory[begin : begin + nbytes].tobytes()
        channel.finish(nbytes)
        if len(self._arrived) < port.frame_bytes:
            return False
        self._constants = self._arrived
        return True

    def _simulate(self, words: list[bytes]) -> list[bytes] | None:
        """The bytes that leave each output up to the first TLAST, for those into each input; None if there is none."""
        with tempfile.TemporaryDirectory(prefix="qfx_dma_") as folder:
            constants = Path(folder) / "weights.bin"
            given, got = ([Path(folder) / f"{kind}_{i}.bin" for i in range(count)] for kind, count in self._counts())
            for path, sent in zip(given, words, strict=True):
                path.write_bytes(sent)
            constants.write_bytes(self._constants)
            environment = dict(os.environ) | {"QFX_WEIGHTS": str(constants) if self._constants else "", "QFX_MEMORY": folder}
            self._in_memory(Path(folder))
            frames = len(words[0]) // self.description.sends[0].frame_bytes
            self.memory_bytes += frames * sum(one.frame_bytes for one in self.description.memories)
            command = [str(self.executable), "--words", *map(str, (*given, *got))]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode == _NO_TLAST:
                return None
            if done.returncode or done.stdout or done.stderr:
                raise DeviceError(
                    f"the C simulation failed (status {done.returncode}): {(done.stdout + done.stderr)[:_SHOWN]}", where=str(self.executable)
                )
            return [path.read_bytes() for path in got]

    def _counts(self) -> tuple[tuple[str, int], tuple[str, int]]:
        return ("in", len(self.description.sends)), ("out", len(self.description.receives))
