"""The accelerator as a function of arrays: quantize, pack, transfer, unpack."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from .description import Description, InputPort, Memory, Wire, load_description
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

Given: TypeAlias = "npt.NDArray[Any] | Sequence[npt.NDArray[Any]] | Mapping[str, npt.NDArray[Any]]"
"""The array of the only input; of several the arrays in the inputs' order, or by their names."""

Result = TypeVar("Result")

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
    the ``weights.bin`` beside this package's modules). Weights that it reads from memory are put there first, from the files in the folder ``memory``
    (default: the one beside this package's modules). Raises DeviceError if it cannot be opened or started, DataError for files of weights that are
    missing, of another length or of another model, and as ``load_weights``.
    """

    def __init__(
        self,
        bitfile: str | Path | None = None,
        *,
        device: Device | None = None,
        description: Description | None = None,
        timeout_s: float = 10.0,
        weights: str | Path | None = None,
        memory: str | Path | None = None,
    ) -> None:
        self.description = load_description() if description is None else description
        if device is None:
            default = Path(__file__).resolve().parent.parent / f"{self.description.top}.bit"
            device = open_board(
                default if bitfile is None else Path(bitfile), weights=self.description.weights is not None, dmas=self.description.dmas
            )
        self._device = device
        self._timeout_s = timeout_s
        self._buffers: tuple[tuple[Buffer, ...], tuple[Buffer, ...]] | None = None  # to send from, and to receive into
        self._capacity = 0
        self._held: list[Buffer] = []  # weights in memory, as long as the accelerator may read them
        self._usable = True
        self.timing = Timing(0, 0, 0.0, 0.0)
        """Of the last call."""
        self._place(Path(__file__).resolve().parent / "memory" if memory is None else Path(memory))
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
        while self._held:
            self._held.pop().freebuffer()

    def _place(self, folder: Path) -> None:
        """The weights that the accelerator reads from memory, each checked; room for what it keeps there itself; the addresses in its registers."""
        contents = [(one, _weights_of(one, folder / f"{one.name}.bin") if one.sha256 else None) for one in self.description.memories]
        for one, words in contents:
            buffer = self._device.allocate(one.bytes)
            self._held.append(buffer)
            if words is not None:
                buffer[: words.size] = words
            buffer.flush()  # or what the processor's caches hold of it could be written over what the accelerator writes
            address = int(buffer.device_address)
            self._device.accelerator.write(one.register, address & 0xFFFFFFFF)
            self._device.accelerator.write(one.register + 4, address >> 32)

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
        """A frame of zeros at every input, dropped, and the end of the call that takes it, behind which no other one starts."""
        sources = [np.zeros((1, wire.frame_bytes), dtype=np.uint8) for wire in self.description.sends]
        self._transfer(sources, [np.empty((1, wire.frame_bytes), dtype=np.uint8) for wire in self.description.receives])
        begin = time.perf_counter()
        while not self._device.accelerator.read(CONTROL) & AP_IDLE:
            if time.perf_counter() - begin > self._timeout_s:
                self._usable = False
                raise DeviceError("the accelerator does not come to rest", where=self.description.top, remedy="open it again")

    def _start(self) -> None:
        self._device.accelerator.write(CONTROL, AUTO_RESTART | AP_START)
        if not self._device.accelerator.read(CONTROL) & AUTO_RESTART:
            raise DeviceError("the accelerator does not start", where=self.description.top, remedy="check that the bitstream is this project's")

    def quantize(self, x: Given) -> Any:
        """The raws (N, *input shape) of float32 or float64 numbers, as the model's input cast gives them.

        ``x``: the array of the only input; of several the arrays by the inputs' names, or a sequence in their order; so are the raws, by name.
        Raises DataError for another shape or dtype, NaN and infinity, and for arrays of other inputs.
        """
        raws = {end.name: self._quantized(x, end) for end, x in zip(self.description.inputs, self._arrays(x), strict=True)}
        return raws if len(raws) > 1 else raws.popitem()[1]

    def _quantized(self, x: npt.NDArray[Any], end: InputPort) -> Int64Array:
        where = end.name or self.description.top
        if not isinstance(x, np.ndarray) or x.dtype not in (np.float32, np.float64):
            got = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
            raise DataError(f"expected a float32 or float64 array, got {got}", where=where, remedy="convert the data")
        if x.ndim == 0 or x.shape[1:] != end.port.shape:
            expected = ", ".join(map(str, ("N", *end.port.shape)))
            raise DataError(f"expected the shape ({expected}), got {x.shape}", where=where, remedy="give what the model was made for")
        return cast_floats(x, end.cast)

    def _arrays(self, x: Given) -> tuple[Any, ...]:
        """An array for each input, in the inputs' order."""
        names = [end.name for end in self.description.inputs]
        if isinstance(x, Mapping) and self.description.several:
            if set(x) != set(names):
                got = ", ".join(map(str, x)) or "nothing"
                raise DataError(f"expected the inputs {', '.join(names)}, got {got}", where=self.description.top, remedy="give an array for each")
            return tuple(x[name] for name in names)
        arrays = tuple(x) if isinstance(x, tuple | list) and self.description.several else (x,)
        if len(arrays) != len(names):
            what = f"expected {len(names)} input{'s' * (len(names) > 1)} ({', '.join(names)}), got {len(arrays)}"
            raise DataError(what, where=self.description.top, remedy="give an array for each, in this order or by name")
        return arrays

    def run(self, x: Given, *, batch: int | None = None) -> Any:
        """The values (N, *output shape) for floats (N, *input shape), exact. ``batch``: frames per transfer (default: as many as 8 MiB hold).

        ``x`` as for ``quantize``. Of several outputs the values by the outputs' names, in the model's order.
        Raises DataError as ``quantize`` does and for inputs of different lengths, DeviceError if the hardware fails, ExactnessError for results that
        float64 cannot hold.
        """
        begin = time.perf_counter()
        raws = self._run(self._arrays(self.quantize(x)), batch)
        values = tuple(to_float(raw, end.port.type.frac_bits) for raw, end in zip(raws, self.description.outputs, strict=True))
        self.timing = Timing(self.timing.frames, self.timing.transfers, time.perf_counter() - begin, self.timing.transfer_seconds)
        return self._named(values)

    def run_raw(self, x_raw: Given, *, batch: int | None = None) -> Any:
        """The raws of the output for raws of the input (int64), as ``quantize`` gives them; ``batch``, several inputs and outputs as in ``run``."""
        return self._named(self._run(self._arrays(x_raw), batch))

    def _named(self, results: tuple[Result, ...]) -> Result | dict[str, Result]:
        if len(results) == 1:
            return results[0]
        return {end.name: result for end, result in zip(self.description.outputs, results, strict=True)}

    def _run(self, x_raw: tuple[Int64Array, ...], batch: int | None) -> tuple[Int64Array, ...]:
        if not self._usable:
            raise DeviceError("the accelerator is closed, or has failed before", where=self.description.top, remedy="open it again")
        begin = time.perf_counter()
        inputs, outputs = self.description.inputs, self.description.outputs
        own = [pack(raw, end.port) for raw, end in zip(x_raw, inputs, strict=True)]
        frames = len(own[0])
        if any(len(words) != frames for words in own):
            told = ", ".join(f"{end.name} has {len(words)}" for end, words in zip(inputs, own, strict=True))
            raise DataError(f"the inputs have different numbers of frames: {told}", where=self.description.top, remedy="give as many of each")
        step = self._batch(frames, batch)
        packed = _put_together(own, self.description.sends)
        results = [np.empty((frames, wire.frame_bytes), dtype=np.uint8) for wire in self.description.receives]
        transfer_seconds = 0.0
        for start in range(0, frames, step):
            part = slice(start, min(start + step, frames))
            transfer_seconds += self._transfer([words[part] for words in packed], [words[part] for words in results])
        raws = tuple(unpack(words, end.port) for words, end in zip(_taken_apart(results, self.description.receives), outputs, strict=True))
        self.timing = Timing(frames, -(-frames // step), time.perf_counter() - begin, transfer_seconds)
        return raws

    def _batch(self, frames: int, batch: int | None) -> int:
        largest = max(wire.frame_bytes for wire in (*self.description.sends, *self.description.receives))
        limit = self.description.max_bytes // largest
        if limit == 0:
            raise DeviceError(f"a frame has {largest} bytes, a transfer at most {self.description.max_bytes}", where=self.description.top)
        if batch is None:
            return max(1, min(frames, limit, _BATCH_BYTES // largest))
        if not 1 <= batch <= limit:
            raise DataError(f"the batch is {batch} frames", where=self.description.top, remedy=f"use 1 to {limit}")
        return batch

    def _transfer(self, sources: Sequence[npt.NDArray[np.uint8]], targets: Sequence[npt.NDArray[np.uint8]]) -> float:
        """Frames through the hardware, an array for each stream; the seconds from the start of the transfers to their end.

        All results can be written before any word is sent, so no output holds another back.
        """
        sends, receives = self._reserve(max(len(sources[0]), 1))
        for source, send in zip(sources, sends, strict=True):
            send[: source.size] = source.reshape(-1)
            send.flush()
        for receive in receives:
            receive.invalidate()  # or a dirty line of the cache could be written over the results
        taking, giving = self._channels()
        self._usable = False  # until this ends well
        begin = time.perf_counter()
        try:
            for channel, receive, target in zip(giving, receives, targets, strict=True):
                channel.transfer(receive, 0, target.size)
            for channel, send, source in zip(taking, sends, sources, strict=True):
                channel.transfer(send, 0, source.size)
            for wire, channel in zip(self.description.sends, taking, strict=True):
                self._wait(channel, f"has not taken all frames{self._at(wire)}", begin)
            for wire, channel in zip(self.description.receives, giving, strict=True):
                self._wait(channel, f"has not given all results{self._at(wire)}", begin)
        except (RuntimeError, ValueError) as error:
            raise DeviceError(
                f"the DMA failed: {error}", where=self.description.top, remedy="open the accelerator again, with smaller batches"
            ) from error
        seconds = time.perf_counter() - begin
        for wire, channel, target in zip(self.description.receives, giving, targets, strict=True):
            arrived = getattr(channel, "transferred", target.size)
            if arrived != target.size:
                raise DeviceError(
                    f"{arrived} bytes of results instead of {target.size}{self._at(wire)}",
                    where=self.description.top,
                    remedy="check that the bitstream is this project's",
                )
        for receive, target in zip(receives, targets, strict=True):
            receive.invalidate()
            target[...] = np.asarray(receive[: target.size]).reshape(target.shape)
        self._usable = True
        return seconds

    def _channels(self) -> tuple[list[Channel], list[Channel]]:
        """Those that send and those that receive."""
        sends, receives = self.description.sends, self.description.receives
        return [getattr(self._device, wire.dma).sendchannel for wire in sends], [getattr(self._device, wire.dma).recvchannel for wire in receives]

    def _at(self, wire: Wire) -> str:
        """Which ports a complaint is about, where there are several."""
        return f" at {wire.name}" if self.description.several else ""

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

    def _reserve(self, frames: int) -> tuple[tuple[Buffer, ...], tuple[Buffer, ...]]:
        if self._buffers is None or frames > self._capacity:
            self._free()
            sends = tuple(self._device.allocate(frames * wire.frame_bytes) for wire in self.description.sends)
            self._buffers = (sends, tuple(self._device.allocate(frames * wire.frame_bytes) for wire in self.description.receives))
            self._capacity = frames
        return self._buffers

    def _free(self) -> None:
        if self._buffers is not None:
            for buffer in (*self._buffers[0], *self._buffers[1]):
                buffer.freebuffer()
            self._buffers, self._capacity = None, 0


def _weights_of(one: Memory, path: Path) -> npt.NDArray[np.uint8]:
    """The bytes of the file. Raises DataError unless they are those that the design was made with."""
    remedy = "copy the folder driver/memory of the project, whole"
    try:
        contents = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=str(path), remedy=remedy) from error
    if len(contents) != one.bytes:
        raise DataError(f"{len(contents)} bytes instead of {one.bytes}", where=str(path), remedy=remedy)
    if hashlib.sha256(contents).hexdigest() != one.sha256:
        raise DataError("these are not the weights that the hardware was made for (their SHA-256 differs)", where=str(path), remedy=remedy)
    return np.frombuffer(contents, dtype=np.uint8)


def _put_together(words: Sequence[npt.NDArray[np.uint8]], wires: Sequence[Wire]) -> list[npt.NDArray[np.uint8]]:
    """The bytes (N, frame_bytes) of each stream, for those of each port."""
    found, left = [], list(words)
    for wire in wires:
        if len(wire.ends) == 1:
            found.append(left.pop(0))
            continue
        frames = np.zeros((len(left[0]), wire.frame_bytes), dtype=np.uint8)
        for at, size in wire.places:
            frames[:, at : at + size] = left.pop(0)
        found.append(frames)
    return found


def _taken_apart(words: Sequence[npt.NDArray[np.uint8]], wires: Sequence[Wire]) -> list[npt.NDArray[np.uint8]]:
    """The bytes of each port, for those of each stream; the inverse of ``_put_together``."""
    return [frames[:, at : at + size] for frames, wire in zip(words, wires, strict=True) for at, size in wire.places]
