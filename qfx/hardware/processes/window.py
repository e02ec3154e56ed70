"""The window units: a line buffer in front of a convolution or a pool, which writes one tap of a window a turn, or all of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from qfx.hardware.cost import resources as r
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design.storage import Memory
from qfx.hardware.design.streams import IntArray, Stream
from qfx.hardware.emit.spelling import Unit, literal, plain, raw, words
from qfx.hardware.processes.process import Front
from qfx.hardware.processes.traits import Between, Buffering, OneToOne
from qfx.hardware.timing.delays import Recurrence, adder, choice, comparison, gates, loops, named, recurrence, wrapping
from qfx.hardware.timing.program import Turns, every, held
from qfx.hardware.timing.window_turns import window_turns


@dataclass(frozen=True, slots=True)
class Window(OneToOne, Buffering, Between, Front):
    """``shape``: the arguments of qfx::window_shape; ``padding``: the raw outside the frame; ``buffer``: as in Folding. ``tap``: a second stream,
    with the tap in row and column ``at`` of every window, which is always inside the frame."""

    name: str
    input: Stream
    output: Stream
    shape: tuple[int, ...]
    padding: int
    buffer: str = "auto"
    tap: Stream | None = None
    at: tuple[int, int] = (0, 0)

    @property
    def targets(self) -> tuple[Stream, ...]:
        return (self.output,) if self.tap is None else (self.output, self.tap)

    @property
    def cycles(self) -> int:
        return window_turns(self.shape).turns

    def turns(self) -> Turns:
        turns, reads, writes = _turns(self.shape)
        return turns, reads, writes if self.tap is None else (*writes, _tap_turns(self.shape, self.at))

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        chunks, _, h, w, *_ = self.shape
        count, missing = (h * w * chunks).bit_length(), (gates(), gates())
        place = (h * w * chunks + self.line.depth).bit_length()
        read = recurrence("how many words have come", comparison(count), *missing, choice())
        # Whether a word is missing decides whether the next window's need is computed, which is compared two turns later.
        computed = (adder(place), choice(), comparison(place), choice(), adder(place), choice(), choice())
        need = recurrence("the words that a window needs", comparison(count), *missing, gates(), choice(), *computed, choice(), turns=2)
        return (read, need, named(wrapping(self.line.depth), "the place in the line buffer"))

    @property
    def line(self) -> Memory:
        """The line buffer: as many rows as a window spans."""
        chunks, _, _, w, _, _, kh, _, _, _, _, _, dh, _ = self.shape
        return Memory(((kh - 1) * dh + 1) * w * chunks, self.input.bits, asked=self.buffer)

    @property
    def memories(self) -> tuple[Memory, ...]:
        return (self.line,)

    def logic(self, on: Device) -> Resources:
        """The counters and comparisons that say what to read and write, and a register for each word."""
        chunks, outer, h, w, oh, ow, kh, kw, sh, sw, top, left, dh, dw = self.shape
        rows, width = (kh - 1) * dh + 1, self.input.bits
        row, size = w * chunks, rows * w * chunks
        counters = [r.counter(loop) for loop in (oh, ow, kh, kw, outer, chunks // outer, size) if loop > 1]
        bits = Resources()
        # y, top; column, left, next left; bottom, need, limit, their successors and the sums and comparisons in between
        for count, reach in ((2, top + oh * sh + rows + kh * dh), (3, (left + ow * sw + kw * dw) * chunks), (9, h * row + size), (3, 2 * size)):
            bits += r.adder((reach - 1).bit_length()) * count
        comparisons = r.comparison((h * row).bit_length()) * 6
        second = [] if self.tap is None else [r.comparison((kh - 1).bit_length() + (kw - 1).bit_length()), Resources(ff=width)]
        shake = r.handshake(1 + len(self.targets), self.latency)
        return r.total([shake, *counters, bits, comparisons, r.multiplexer(2, width), Resources(ff=2 * width), *second])

    def unit(self, ports: tuple[str, str]) -> Unit:
        type_ = raw(self.input.type)
        shape = f"qfx::window_shape<{', '.join(map(str, (*self.shape, self.cycles)))}>"
        padding = f"{type_}({literal(self.padding)})"
        line = words("line", type_, self.input.parallel, self.line)
        body = (*line, "#pragma HLS DEPENDENCE variable=line intra false")
        if self.tap is None:
            call = f"qfx::window<{shape} >(in, out, {padding}, line);"
            return replace(self.call(call), body=(*body, call))
        call = f"qfx::window_tap<{shape}, {self.at[0]}, {self.at[1]}>(in, out, tap, {padding}, line);"
        return replace(plain(self.name, {"in": self.input, "out": self.output, "tap": self.tap}, call), body=(*body, call))

    @property
    def front(self) -> Window:
        return self

    @property
    def channels(self) -> int:
        return self.shape[0] * self.input.parallel

    def widened(self, parallel: int) -> Window:
        chunks, outer, *rest = self.shape
        fewer = chunks // parallel
        # Channel by channel, as many loops as words; group by group, as many as groups.
        shape = (fewer, fewer if outer == chunks else outer, *rest)
        return replace(self.with_streams(lambda stream: stream.with_parallel(parallel)), shape=shape)

    @property
    def taps(self) -> int:
        return self.shape[6] * self.shape[7]

    @property
    def possible(self) -> bool:
        return True

    def whole(self) -> WholeWindow:
        chunks, _, *rest = self.shape
        output = replace(self.output, parallel=self.output.parallel * self.taps, words=self.output.words // self.taps)
        return WholeWindow(self.name, self.input, output, (chunks, *rest), self.padding, self.buffer, self.tap, self.at)


@lru_cache(maxsize=32)
def _turns(shape: tuple[int, ...]) -> Turns:
    found = window_turns(shape)
    read_only, both = found.read_only, found.both
    begin = np.cumsum(read_only + found.words) - found.words  # the turn of each window's first write
    writes = (begin[:, None] + np.arange(found.words)[None, :]).reshape(-1)
    # The reads of a window are the turns before its first write and the first of its writes: one run of turns.
    runs = read_only + both
    reads = np.repeat(begin - read_only - (np.cumsum(runs) - runs), runs) + np.arange(int(runs.sum()))
    end = int(begin[-1]) + found.words
    return found.turns, (held(np.concatenate([reads, np.arange(end, end + found.rest)])),), (held(writes),)


@lru_cache(maxsize=32)
def _tap_turns(shape: tuple[int, ...], at: tuple[int, int]) -> IntArray:
    """The turns that write the tap ``at`` of a window: of each of OUTER parts of a pixel those of its words."""
    chunks, outer, _, _, oh, ow, kh, kw, *_ = shape
    inner = chunks // outer
    words = np.arange(oh * ow * outer * kh * kw * inner).reshape(-1, kh, kw, inner)[:, at[0], at[1]].reshape(-1)
    (writes,) = _turns(shape)[2]
    return held(writes[words])


_LEAST_DEPTH = 8
"""The least words of a memory that is read and written in the same turn: what is written comes back that many turns later."""


@dataclass(frozen=True, slots=True)
class WholeWindow(OneToOne, Buffering, Between, Front):
    """All taps of a window in one word, taps outermost. ``shape``: the arguments of qfx::whole_shape without TURNS; the rest as in Window."""

    name: str
    input: Stream
    output: Stream
    shape: tuple[int, ...]
    padding: int
    buffer: str = "auto"
    tap: Stream | None = None
    at: tuple[int, int] = (0, 0)

    @property
    def targets(self) -> tuple[Stream, ...]:
        return (self.output,) if self.tap is None else (self.output, self.tap)

    @property
    def cycles(self) -> int:
        chunks, h, w = self.shape[:3]
        return max(h * w, self._last + 1) * chunks

    @property
    def _last(self) -> int:
        """The number of the last window's last tap, in pixels."""
        _, _, w, oh, ow, kh, kw, sh, sw, top, left, dh, dw = self.shape
        return ((oh - 1) * sh + (kh - 1) * dh - top) * w + (ow - 1) * sw + (kw - 1) * dw - left

    def turns(self) -> Turns:
        turns, reads, writes = _whole_turns(self.shape, self.cycles)
        return turns, reads, writes if self.tap is None else writes * 2

    @property
    def _words(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(words, numbers in each) of the rows and of the columns that are kept."""
        chunks, _, w, _, _, kh, kw, _, _, _, _, dh, dw = self.shape
        parallel = self.input.parallel
        rows = (dh * w * chunks, (kh - 1) * parallel) if kh > 1 else (0, 0)
        return rows, (dw * chunks, kh * (kw - 1) * parallel) if kw > 1 else (0, 0)

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        chunks, h, w, *_ = self.shape
        bits = (h * w + w).bit_length()
        due = recurrence("the pixel that completes a window", comparison(bits), gates(), gates(), choice(), choice())
        return (loops(self.cycles), due, named(wrapping(w * chunks), "the place in the rows"))

    @property
    def line(self) -> Memory:
        """The rows that are kept."""
        depth, numbers = self._words[0]
        return Memory(depth, numbers * self.input.type.width, asked=self.buffer)

    @property
    def past(self) -> Memory:
        """The columns that are kept; no words where they are registers that shift."""
        depth, numbers = self._words[1]
        return Memory(depth if depth >= _LEAST_DEPTH else 0, numbers * self.input.type.width, asked=self.buffer)

    @property
    def padded(self) -> bool:
        """Whether a tap may lie outside the frame."""
        _, h, w, oh, ow, kh, kw, sh, sw, top, left, dh, dw = self.shape
        return top > 0 or left > 0 or (oh - 1) * sh + (kh - 1) * dh >= h or (ow - 1) * sw + (kw - 1) * dw >= w

    @property
    def past_bits(self) -> int:
        """Those of the columns that are kept, where they are registers."""
        depth, numbers = self._words[1]
        return 0 if self.past.depth else depth * numbers * self.input.type.width

    @property
    def memories(self) -> tuple[Memory, ...]:
        return (self.line, self.past)

    def logic(self, on: Device) -> Resources:
        """The counters, what says whether a row and a column lie inside, the choice of padding for each number that may lie outside, and registers
        for the words; the columns that are kept where they are registers."""
        chunks, h, w, oh, ow, kh, kw, sh, sw, top, left, *_ = self.shape
        depths = [depth for depth, _ in self._words]
        counters = [r.counter(loop) for loop in (chunks, oh, ow, *depths) if loop > 1]
        places = r.adder((self.cycles // chunks + sh * w).bit_length()) * 2 + r.adder((top + (oh + 1) * sh).bit_length())
        places += r.adder((left + (ow + 1) * sw).bit_length()) + r.comparison((h * w).bit_length()) * 2
        inside = (r.comparison((h + top).bit_length()) * 2) * kh + (r.comparison((w + left).bit_length()) * 2) * kw
        kept = Resources(ff=self.past_bits)
        choice = r.multiplexer(2, self.output.bits) + inside if self.padded else Resources()
        second = Resources() if self.tap is None else Resources(ff=self.tap.bits)
        shake = r.handshake(1 + len(self.targets), self.latency)
        return r.total([shake, *counters, places, choice, kept, second, Resources(ff=self.input.bits + self.output.bits)])

    def unit(self, ports: tuple[str, str]) -> Unit:
        parallel, type_ = self.input.parallel, raw(self.input.type)
        (rows, _), (columns, _) = self._words
        _, _, _, _, _, kh, kw, *_ = self.shape
        shape = f"qfx::whole_shape<{', '.join(map(str, (*self.shape, self.cycles)))}>"
        body = [
            f"typedef {shape} shape;",
            *words("line", type_, max(kh - 1, 1) * parallel, self.line),
            *(["#pragma HLS DEPENDENCE variable=line inter false"] if rows else []),
        ]
        if self.past.depth:
            body += [*words("past", type_, kh * (kw - 1) * parallel, self.past), "#pragma HLS DEPENDENCE variable=past inter false"]
        else:
            body += [f"qfx::memory_word<{type_}, {(kh * (kw - 1) or 1) * parallel}>::type past[{columns or 1}];"]
            body += ["#pragma HLS ARRAY_PARTITION variable=past complete dim=1"]
        padding = f"{type_}({literal(self.padding)})"
        if self.tap is None:
            call = f"qfx::whole_window<shape>(in, out, {padding}, line, past);"
            return replace(self.call(call), body=(*body, call))
        call = f"qfx::whole_window_tap<shape, {self.at[0] * kw + self.at[1]}>(in, out, tap, {padding}, line, past);"
        return replace(plain(self.name, {"in": self.input, "out": self.output, "tap": self.tap}, call), body=(*body, call))

    @property
    def front(self) -> WholeWindow:
        return self

    @property
    def channels(self) -> int:
        return self.shape[0] * self.input.parallel

    @property
    def taps(self) -> int:
        return self.shape[5] * self.shape[6]

    def whole(self) -> WholeWindow:
        return self

    def widened(self, parallel: int) -> WholeWindow:
        fewer = self.channels // parallel
        source, target = self.input.with_parallel(parallel), self.output.with_parallel(parallel * self.taps)
        tap = None if self.tap is None else self.tap.with_parallel(parallel)
        return replace(self, input=source, output=target, tap=tap, shape=(fewer, *self.shape[1:]))

    @property
    def possible(self) -> bool:
        """Whether the unit does what its shape says: the windows' last taps follow each other, and no row or column is so short that its memory would
        be asked before it has answered."""
        chunks, _, w, _, ow, kh, kw, sh, sw, top, left, dh, dw = self.shape
        first = ((kh - 1) * dh - top) * w + (kw - 1) * dw - left
        return first >= 0 and sh * w > (ow - 1) * sw and (kh == 1 or dh * w * chunks >= _LEAST_DEPTH) and self.taps > 1


@lru_cache(maxsize=32)
def _whole_turns(shape: tuple[int, ...], cycles: int) -> Turns:
    chunks, h, w, oh, ow, kh, kw, sh, sw, top, left, dh, dw = shape
    first = ((kh - 1) * dh - top) * w + (kw - 1) * dw - left
    last = first + (np.arange(oh, dtype=np.int64) * (sh * w))[:, None] + np.arange(ow, dtype=np.int64)[None, :] * sw
    writes = (last.reshape(-1, 1) * chunks + np.arange(chunks, dtype=np.int64)[None, :]).reshape(-1)
    return cycles, (every(h * w * chunks),), (held(writes),)
