"""An accelerator behind DMAs: frames go through its streams."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .description import Description, Wire
from .device import AP_IDLE, AP_START, AUTO_RESTART, CONTROL, Buffer, Channel, Device, DeviceError
from .errors import DataError
from .fixed.array import Int64Array
from .fixed.packing import pack, unpack
from .memory import Memories

LOAD = 0x10
"""The offset of the argument ``load``, where constants are loaded while the hardware runs."""

_BATCH_BYTES = 8 << 20  # of the larger buffer, unless the user says otherwise: far below what PYNQ can allocate


class Streams:
    """The accelerator of ``description`` on an open device, started once, with auto-restart: it takes frame after frame as they come, so that one
    transfer carries a whole batch. ``weights``: what it gets if its constants are loaded while it runs, ``memory``: the folder of what it reads from
    memory. Raises as ``Accelerator``."""

    def __init__(self, description: Description, device: Device, timeout_s: float, weights: Path | None, memory: Path) -> None:
        self.description = description
        self._device = device
        self._timeout_s = timeout_s
        self._buffers: tuple[tuple[Buffer, ...], tuple[Buffer, ...]] | None = None  # to send from, and to receive into
        self._capacity = 0
        self._usable = True
        self.memories = Memories(description, device, memory)
        if weights is not None:
            self.load_weights(weights)
        else:
            self._start()

    def close(self) -> None:
        """Free the buffers and end auto-restart. The accelerator still waits for one frame: load the bitstream again before its next use."""
        self._free()
        if self._usable:
            self._usable = False
            self._device.accelerator.write(CONTROL, 0)
        self.memories.close()

    def load_weights(self, path: Path) -> None:
        """Load the constants in ``path``; frames that follow are computed with them.

        A call of the accelerator takes constants only in front of a frame, and whether it does is settled when the call begins. So the call that is
        already waiting gets a frame of zeros, a single call with ``load`` set gets the constants and another one, and what comes back is dropped.
        Raises DataError for a file of another length, DeviceError if the hardware fails.
        """
        words = self._words(path)
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

    def run(self, x_raw: tuple[Int64Array, ...], batch: int | None) -> tuple[tuple[Int64Array, ...], int, float]:
        """The raws of every output for those of every input, the number of transfers, and their seconds. ``batch``: frames per transfer, which
        zeros fill up to whole calls of an accelerator that takes several frames in one."""
        if not self._usable:
            raise DeviceError("the accelerator is closed, or has failed before", where=self.description.top, remedy="open it again")
        inputs, outputs = self.description.inputs, self.description.outputs
        own = [pack(raw, end.port) for raw, end in zip(x_raw, inputs, strict=True)]
        frames = self.description.frames([len(words) for words in own])
        step = self._batch(frames, batch)
        packed = _put_together(own, self.description.sends)
        results = [np.empty((frames, wire.frame_bytes), dtype=np.uint8) for wire in self.description.receives]
        transfer_seconds = 0.0
        for start in range(0, frames, step):
            part = slice(start, min(start + step, frames))
            transfer_seconds += self._transfer_calls([words[part] for words in packed], [words[part] for words in results])
        raws = tuple(unpack(words, end.port) for words, end in zip(_taken_apart(results, self.description.receives), outputs, strict=True))
        return raws, -(-frames // step), transfer_seconds

    def _transfer_calls(self, sources: Sequence[npt.NDArray[np.uint8]], targets: Sequence[npt.NDArray[np.uint8]]) -> float:
        """``_transfer`` of whole calls: frames of zeros fill up the last one, and what they give is dropped."""
        count = len(sources[0])
        whole = -(-count // self.description.batch) * self.description.batch
        if whole == count:
            return self._transfer(sources, targets)
        filled = [np.concatenate([source, np.zeros((whole - count, source.shape[1]), dtype=np.uint8)]) for source in sources]
        given = [np.empty((whole, target.shape[1]), dtype=np.uint8) for target in targets]
        seconds = self._transfer(filled, given)
        for target, got in zip(targets, given, strict=True):
            target[...] = got[:count]
        return seconds

    def _batch(self, frames: int, batch: int | None) -> int:
        largest = max(wire.frame_bytes for wire in (*self.description.sends, *self.description.receives))
        each = self.description.batch
        limit = self.description.max_bytes // largest // each * each
        if limit == 0:
            what = f"{each} frames have" if each > 1 else "a frame has"
            raise DeviceError(f"{what} {each * largest} bytes, a transfer at most {self.description.max_bytes}", where=self.description.top)
        if batch is None:
            return max(each, min(frames, limit, _BATCH_BYTES // largest // each * each))
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
