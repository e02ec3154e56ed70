"""The accelerator as a function of arrays: quantize, pack, transfer, unpack."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from .description import Description, load_description
from .device import Buffer, Channel, Device, DeviceError, open_board
from .errors import DataError
from .fixed.array import Int64Array, to_float
from .fixed.arraytype import cast_floats
from .fixed.packing import pack, unpack

CONTROL = 0x00
"""The offset of the control register (UG1399, "S_AXILITE Control Register Map"; UG902 likewise)."""
AP_START, AP_IDLE, AUTO_RESTART = 0x01, 0x04, 0x80

LOAD = 0x10
"""The offset of the argument ``load``, where constants are loaded while the hardware runs."""

_BATCH_BYTES = 8 << 20  # of the larger buffer, unless the user says otherwise: far below what PYNQ can allocate


@dataclass(frozen=True)
class Timing:
    """One call of ``run`` or ``run_raw``: frames, transfers, and seconds altogether and in transfers alone (what the hardware took)."""

    frames: int
    transfers: int
    seconds: float
    transfer_seconds: float

    def __str__(self) -> str:
        rates = [self.frames / t if t > 0 else float("inf") for t in (self.seconds, self.transfer_seconds)]
        return (
            f"{self.frames} frames in {self.transfers} transfers: {self.seconds * 1e3:.3f} ms ({rates[0]:.1f} frames/s), "
            f"of which transfers {self.transfer_seconds * 1e3:.3f} ms ({rates[1]:.1f} frames/s)"
        )


class Accelerator:
    """The accelerator on an open device. Use it as a context manager, or call ``close``.

    ``bitfile`` is the bitstream (default: the one that ``make deploy`` puts beside this package); ``device`` stands in for the board, as a
    ``SimulatedBoard`` does. ``timeout_s`` bounds each transfer, in seconds. The accelerator is started once, with auto-restart: it takes frame after
    frame as they come, so that one transfer carries a whole batch. If its constants are loaded while it runs, it gets those in ``weights`` (default:
    the ``weights.bin`` beside this package's modules). Raises DeviceError if it cannot be opened or started, and as ``load_weights``.
    """

    def __init__(
        self,
        bitfile: str | Path | None = None,
        *,
        device: Device | None = None,
        description: Description | None = None,
        timeout_s: float = 10.0,
        weights: str | Path | None = None,
    ) -> None:
        self.description = load_description() if description is None else description
        if device is None:
            default = Path(__file__).resolve().parent.parent / f"{self.description.top}.bit"
            device = open_board(default if bitfile is None else Path(bitfile), weights=self.description.weights is not None)
        self._device = device
        self._timeout_s = timeout_s
        self._buffers: tuple[Buffer, Buffer] | None = None
        self._capacity = 0
        self._usable = True
        self.timing = Timing(0, 0, 0.0, 0.0)
        """Of the last call."""
        if self.description.weights is not None or weights is not None:
            self.load_weights(Path(__file__).resolve().parent / "weights.bin" if weights is None else weights)
        else:
            self._start()

    def __enter__(self) -> Accelerator:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Free the buffers and end auto-restart. The accelerator still waits for one frame: load the bitstream again before its next use."""
        self._free()
        if self._usable:
            self._usable = False
            self._device.accelerator.write(CONTROL, 0)

    def load_weights(self, path: str | Path) -> None:
        """Load the constants in ``path``, as ``qfx weights`` packs them; frames that follow are computed with them.

        A call of the accelerator takes constants only in front of a frame, and whether it does is settled when the call begins. So the call that is
        already waiting gets a frame of zeros, a single call with ``load`` set gets the constants and another one, and what comes back is dropped.
        Raises DataError for a file of another length, DeviceError if the hardware fails.
        """
        words = self._words(Path(path))
        if not self._usable:
            raise DeviceError("the accelerator is closed, or has failed before", where=self.description.top, remedy="open it again")
        registers = self._device.accelerator
        if registers.read(CONTROL) & AP_START:
            registers.write(CONTROL, 0)
            self._pass_zeros()
        registers.write(LOAD, 1)
        registers.write(CONTROL, AP_START)
        self._usable = False  # until this ends well
        self._send_words(words)
        self._pass_zeros()
        registers.write(LOAD, 0)
        self._start()

    def _words(self, path: Path) -> npt.NDArray[np.uint8]:
        port = self.description.weights
        if port is None:
            raise DataError("this accelerator has its weights in ROM", where=str(path), remedy="make the project with qfx hls --weights stream")
        try:
            words = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror or error}", where=str(path), remedy="name a file that qfx weights wrote") from error
        if words.size != port.frame_bytes:
            raise DataError(f"{words.size} bytes instead of {port.frame_bytes}", where=str(path), remedy="pack weights for this project")
        return words

    def _send_words(self, words: npt.NDArray[np.uint8]) -> None:
        """In as few transfers as the DMA's registers allow: the accelerator counts words, and does not look at TLAST."""
        channel = self._device.dma_weights.sendchannel
        most = self.description.max_bytes // self.description.alignment * self.description.alignment
        buffer = self._device.allocate(words.size)
        try:
            buffer[: words.size] = words
            buffer.flush()
            begin = time.perf_counter()
            for start in range(0, words.size, most):
                channel.transfer(buffer, start, min(most, words.size - start))
                self._wait(channel, "has not taken all constants", begin)
        except (RuntimeError, ValueError) as error:
            raise DeviceError(f"the DMA failed: {error}", where=self.description.top, remedy="open the accelerator again") from error
        finally:
            buffer.freebuffer()

    def _pass_zeros(self) -> None:
        """A frame of zeros, dropped, and the end of the call that takes it, behind which no other one starts."""
        source = np.zeros((1, self.description.input.frame_bytes), dtype=np.uint8)
        self._transfer(source, np.empty((1, self.description.output.frame_bytes), dtype=np.uint8))
        begin = time.perf_counter()
        while not self._device.accelerator.read(CONTROL) & AP_IDLE:
            if time.perf_counter() - begin > self._timeout_s:
                self._usable = False
                raise DeviceError("the accelerator does not come to rest", where=self.description.top, remedy="open it again")

    def _start(self) -> None:
        self._device.accelerator.write(CONTROL, AUTO_RESTART | AP_START)
        if not self._device.accelerator.read(CONTROL) & AUTO_RESTART:
            raise DeviceError("the accelerator does not start", where=self.description.top, remedy="check that the bitstream is this project's")

    def quantize(self, x: npt.NDArray[np.floating]) -> Int64Array:
        """The raws (N, *input shape) of float32 or float64 numbers, as the model's input cast gives them.

        Raises DataError for another shape or dtype, NaN and infinity.
        """
        shape = self.description.input.shape
        if not isinstance(x, np.ndarray) or x.dtype not in (np.float32, np.float64):
            got = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
            raise DataError(f"expected a float32 or float64 array, got {got}", where=self.description.top, remedy="convert the data")
        if x.ndim == 0 or x.shape[1:] != shape:
            expected = ", ".join(map(str, ("N", *shape)))
            raise DataError(f"expected the shape ({expected}), got {x.shape}", where=self.description.top, remedy="give what the model was made for")
        return cast_floats(x, self.description.cast)

    def run(self, x: npt.NDArray[np.floating], *, batch: int | None = None) -> npt.NDArray[np.float64]:
        """The values (N, *output shape) for floats (N, *input shape), exact. ``batch``: frames per transfer (default: as many as 8 MiB hold).

        Raises DataError as ``quantize`` does, DeviceError if the hardware fails, ExactnessError for results that float64 cannot hold.
        """
        begin = time.perf_counter()
        raw = self.run_raw(self.quantize(x), batch=batch)
        values = to_float(raw, self.description.output.type.frac_bits)
        self.timing = Timing(self.timing.frames, self.timing.transfers, time.perf_counter() - begin, self.timing.transfer_seconds)
        return values

    def run_raw(self, x_raw: Int64Array, *, batch: int | None = None) -> Int64Array:
        """The raws of the output for raws of the input (int64), as ``quantize`` gives them; ``batch`` as in ``run``."""
        if not self._usable:
            raise DeviceError("the accelerator is closed, or has failed before", where=self.description.top, remedy="open it again")
        begin = time.perf_counter()
        packed = pack(x_raw, self.description.input)
        frames = len(packed)
        step = self._batch(frames, batch)
        result = np.empty((frames, self.description.output.frame_bytes), dtype=np.uint8)
        transfer_seconds = 0.0
        for start in range(0, frames, step):
            part = slice(start, min(start + step, frames))
            transfer_seconds += self._transfer(packed[part], result[part])
        raw = unpack(result, self.description.output)
        self.timing = Timing(frames, -(-frames // step), time.perf_counter() - begin, transfer_seconds)
        return raw

    def _batch(self, frames: int, batch: int | None) -> int:
        largest = max(self.description.input.frame_bytes, self.description.output.frame_bytes)
        limit = self.description.max_bytes // largest
        if limit == 0:
            raise DeviceError(f"a frame has {largest} bytes, a transfer at most {self.description.max_bytes}", where=self.description.top)
        if batch is None:
            return max(1, min(frames, limit, _BATCH_BYTES // largest))
        if not 1 <= batch <= limit:
            raise DataError(f"the batch is {batch} frames", where=self.description.top, remedy=f"use 1 to {limit}")
        return batch

    def _transfer(self, source: npt.NDArray[np.uint8], target: npt.NDArray[np.uint8]) -> float:
        """Frames through the hardware; the seconds from the start of the transfers to their end."""
        send, receive = self._reserve(max(len(source), 1))
        send[: source.size] = source.reshape(-1)
        send.flush()
        receive.invalidate()  # or a dirty line of the cache could be written over the results
        self._usable = False  # until this ends well
        begin = time.perf_counter()
        try:
            self._device.dma.recvchannel.transfer(receive, 0, target.size)
            self._device.dma.sendchannel.transfer(send, 0, source.size)
            self._wait(self._device.dma.sendchannel, "has not taken all frames", begin)
            self._wait(self._device.dma.recvchannel, "has not given all results", begin)
        except (RuntimeError, ValueError) as error:
            raise DeviceError(
                f"the DMA failed: {error}", where=self.description.top, remedy="open the accelerator again, with smaller batches"
            ) from error
        seconds = time.perf_counter() - begin
        arrived = getattr(self._device.dma.recvchannel, "transferred", target.size)
        if arrived != target.size:
            raise DeviceError(
                f"{arrived} bytes of results instead of {target.size}",
                where=self.description.top,
                remedy="check that the bitstream is this project's",
            )
        receive.invalidate()
        target[...] = np.asarray(receive[: target.size]).reshape(target.shape)
        self._usable = True
        return seconds

    def _wait(self, channel: Channel, complaint: str, begin: float) -> None:
        while not channel.idle:
            if getattr(channel, "error", False):
                break  # wait() says which
            if time.perf_counter() - begin > self._timeout_s:
                raise DeviceError(
                    f"the accelerator {complaint} in {self._timeout_s:g} s",
                    where=self.description.top,
                    remedy="open it again; check that the bitstream is this project's, or allow more time",
                )
        channel.wait()

    def _reserve(self, frames: int) -> tuple[Buffer, Buffer]:
        if self._buffers is None or frames > self._capacity:
            self._free()
            ports = (self.description.input, self.description.output)
            self._buffers = (self._device.allocate(frames * ports[0].frame_bytes), self._device.allocate(frames * ports[1].frame_bytes))
            self._capacity = frames
        return self._buffers

    def _free(self) -> None:
        if self._buffers is not None:
            for buffer in self._buffers:
                buffer.freebuffer()
            self._buffers, self._capacity = None, 0
