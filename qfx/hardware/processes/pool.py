"""Pools: sums and maxima over windows, or over a whole frame."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from qfx.fixed.type import FixedType
from qfx.hardware.cost import pieces
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design import storage
from qfx.hardware.design.schedule import Folding
from qfx.hardware.design.storage import SHIFT_DEPTH, Memory
from qfx.hardware.design.streams import MAX_PIECES, MAX_WORD_BITS, Epilogue, Stream
from qfx.hardware.emit.spelling import Unit, raw, words
from qfx.hardware.folding.option import Option, common_widths, fits_word, placed
from qfx.hardware.processes.process import Setting
from qfx.hardware.processes.rows.wide_window import wide_window
from qfx.hardware.processes.traits import OneToOne, Unweighted, Widening
from qfx.hardware.timing.delays import Recurrence, accumulated, choice, comparison, gates, loops, memory, recurrence
from qfx.hardware.timing.program import READ_WRITE, Turns, epilogue_latency, every, held, reduce

_ABREAST = (2, 4)
"""Pixels at once that are looked at, beside one."""


@dataclass(frozen=True, slots=True)
class Pool(OneToOne, Unweighted, Widening):
    """``taps`` numbers of each channel joined into one, in an accumulator of type ``acc``; a word of the input has ``together`` taps: 1 or all, of a
    whole frame any number, each with all channels.
    ``abreast``: the neighbouring pixels of a word, each with all its taps and channels where there are several."""

    name: str
    input: Stream
    output: Stream
    join: str  # "sum", "max"
    whole_frame: bool
    pixels: int  # of the result; of the input if ``whole_frame``
    channels: int
    taps: int
    acc: FixedType
    epilogue: Epilogue
    together: int = 1
    abreast: int = 1

    @property
    def _pe(self) -> int:
        """Channels that leave at once, of each pixel."""
        return self.output.parallel // self.abreast

    @property
    def tables(self) -> tuple[Memory, ...]:
        return storage.tables(self.epilogue, self._pe)

    @property
    def cycles(self) -> int:
        return self.input.words

    @property
    def latency(self) -> int:
        return READ_WRITE + 1 + (self.together - 1).bit_length() + epilogue_latency(self.epilogue)

    def turns(self) -> Turns:
        return _tail(self.input.words, self.output.words) if self.whole_frame else reduce(self.output.words, self.taps // self.together)

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        width = self.acc.width
        if self.whole_frame and self.together > 1:
            return (loops(self.input.words), self._join(width))
        if not self.whole_frame:
            round_ = loops(self.pixels // self.abreast, self.channels // self._pe, self.taps // self.together)
            return (round_,) if self.abreast > 1 else (round_, self._join(width))  # several pixels come with all their taps: nothing is carried
        chunks = self.channels // self.output.parallel
        first = recurrence(
            "the chunk, and with it the pixel", comparison(chunks.bit_length()), gates(), choice(), comparison(self.pixels.bit_length()), turns=2
        )
        held = (
            self._join(width) if not self.sums.depth else recurrence("a sum in its memory", memory(), *self._join(width).operators, turns=SHIFT_DEPTH)
        )
        return (loops(self.input.words), first, held)

    @property
    def _comes_round(self) -> bool:
        """Whether the numbers of a channel are those of every so many words."""
        return self.whole_frame and self.together == 1

    def _join(self, width: int) -> Recurrence:
        return accumulated(width) if self.join == "sum" else recurrence("the greatest so far", comparison(width), choice(), choice())

    @property
    def sums(self) -> Memory:
        """The accumulators of a global pool; no words if they are registers that shift."""
        words = self.channels // self.output.parallel
        return Memory(words if self.whole_frame and words > SHIFT_DEPTH else 0, self.acc.width * self.output.parallel)

    @property
    def memories(self) -> tuple[Memory, ...]:
        return (self.sums, *self.tables)

    def logic(self, on: Device) -> Resources:
        lanes, width = self.output.parallel, self.acc.width
        join = r.adder(width) if self.join == "sum" else r.greater(width) + Resources(ff=width)
        shifting = Resources(ff=width * self.channels) if self._comes_round and not self.sums.depth else Resources()
        return r.total(
            [self.control(), join * (lanes * (self.together - (self.together == self.taps))), shifting, pieces.epilogue(self.epilogue, lanes, on)]
        )

    def unit(self, ports: tuple[str, str]) -> Unit:
        taps = f"{self.taps}, {self.together}" if self.abreast == 1 else f"{self.taps}, {self.abreast}"
        pixels = 1 if self.whole_frame and self.together > 1 else self.pixels
        numbers = f"{pixels}, {self.channels}" + ("" if self._comes_round else f", {taps}")
        function = "pool_abreast" if self.abreast > 1 else "pool" if not self._comes_round else "pool_many" if self.sums.depth else "pool_few"
        call = f"qfx::{function}<qfx::pool_{self.join}, {self.name}_epilogue, {raw(self.acc)}, {numbers}>(in, out{', many' * bool(self.sums.depth)});"
        unit = self.call_with_epilogue({"in": self.input, "out": self.output}, call, self._pe)
        if not self.sums.depth:
            return unit
        many = words("many", raw(self.acc), self.output.parallel, self.sums)
        return replace(unit, body=(*many, f"#pragma HLS DEPENDENCE variable=many inter RAW distance={SHIFT_DEPTH} true", *unit.body))

    def widths(self, setting: Setting) -> list[int]:
        found = common_widths(self.channels, (*self.sources, *self.targets))
        return [width for width in found if not self.whole_frame or self._holds(width)]

    def _holds(self, width: int) -> bool:
        """Whether the tools take the accumulators of all channels, of words of ``width`` numbers."""
        if self.channels // width > SHIFT_DEPTH:
            return width * self.acc.width <= MAX_WORD_BITS
        return self.channels <= MAX_PIECES

    def options(self, setting: Setting) -> list[Option]:
        pinned = setting.pinned
        if pinned and pinned.pixels > 1:
            return self._several(setting)
        one = [] if pinned and pinned.taps > 1 else Widening.options(self, setting)
        whole = [] if pinned and pinned.taps == 1 else self._all_taps(setting)
        return [*one, *whole] if pinned else [*one, *whole, *self._several(setting)]

    def _all_taps(self, setting: Setting) -> list[Option]:
        """The options with all taps of a window in one word, or of the frame several pixels."""
        if self.whole_frame:
            return self._of_frame(setting)
        if setting.front is None or setting.front.taps == 1:
            return []
        front, on, found = setting.front.whole(), setting.on, []
        for pe in [setting.pinned.pe] if setting.pinned else self.widths(setting):
            unit, wide = front.widened(pe), self.widened(pe)
            pool = replace(self, input=self.input.with_parallel(pe * front.taps), output=wide.targets[0], together=front.taps)
            if unit.possible and fits_word(pool.input.parallel, pool.input):
                lines = unit.buffers(on, setting.buffer_places)
                line = next(iter(lines))
                queues = [pieces.queue(stream, stream.parallel) for stream in (pool.input, pool.output)]
                cost = r.total([unit.logic(on), lines[line], pool.cost(on), *queues])
                option = Option(Folding(pe, taps=front.taps, buffer=line), pe, pe, max(unit.busy, pool.busy), cost)
                found += placed(option, {"auto": Resources()}, lines)
        return found

    def _of_frame(self, setting: Setting) -> list[Option]:
        found = []
        for together in [setting.pinned.taps] if setting.pinned else (*_ABREAST, 8):
            word = together * self.channels
            if self.taps % together == 0 and fits_word(word, self.input) and fits_word(self.channels, self.output):
                pool = replace(self, input=self.input.with_parallel(word), output=self.output.with_parallel(self.channels), together=together)
                cost = pool.cost(setting.on) + pieces.queue(pool.output, self.channels)
                found.append(Option(Folding(self.channels, taps=together), word, self.channels, pool.busy, cost))
        return found

    def _several(self, setting: Setting) -> list[Option]:
        """The options with several neighbouring windows in one word, all channels of each."""
        if setting.front is None or setting.front.taps == 1 or self.epilogue.by_pixel:
            return []
        on, found = setting.on, []
        for pixels in [setting.pinned.pixels] if setting.pinned else _ABREAST:
            front = wide_window(setting.front, pixels)
            if front is None or not fits_word(pixels * self.channels, self.output):
                continue
            out = replace(self.output, parallel=pixels * self.channels, words=self.pixels // pixels)
            pool = replace(self, input=front.output, output=out, together=front.taps, abreast=pixels)
            lines = front.buffers(on, setting.buffer_places)
            line = next(iter(lines))
            queues = [pieces.queue(stream, stream.parallel) for stream in (pool.input, pool.output)]
            cost = r.total([front.logic(on), lines[line], pool.cost(on), *queues])
            folding = Folding(self.channels, taps=front.taps, buffer=line, pixels=pixels)
            option = Option(folding, front.input.parallel, out.parallel, max(front.busy, pool.busy), cost)
            found += placed(option, {"auto": Resources()}, lines)
        return found


@lru_cache(maxsize=64)
def _tail(words_in: int, words_out: int) -> Turns:
    """Results while the last ``words_out`` words come."""
    return words_in, (every(words_in),), (held(np.arange(words_in - words_out, words_in)),)
