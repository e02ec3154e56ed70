"""The window unit that takes several pixels of a row a turn, and writes the whole windows of several neighbouring pixels in one word."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qfx.hardware.cost import resources as r
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design.storage import Memory
from qfx.hardware.design.streams import MAX_PIECES, Stream
from qfx.hardware.emit.spelling import Unit
from qfx.hardware.folding.option import fits_word
from qfx.hardware.processes.process import Front
from qfx.hardware.processes.traits import Between, Buffering, OneToOne
from qfx.hardware.processes.window import WholeWindow, Window
from qfx.hardware.timing.delays import Recurrence
from qfx.hardware.timing.program import Turns


@dataclass(frozen=True, slots=True)
class WideWindow(OneToOne, Buffering, Between, Front):
    """The whole windows of ``pixels`` neighbours of a row, one after the other, taps outermost in each, from words of as many input pixels as lie
    between the first window of a word and that of the next one. ``shape``: the arguments of qfx::whole_shape without CHUNKS and TURNS; the rest as in
    Window.

    It is a unit of whole windows over such words, each of which stands for a pixel, and leaves out the columns that no window needs.
    """

    name: str
    input: Stream
    output: Stream
    shape: tuple[int, ...]
    pixels: int
    padding: int
    buffer: str = "auto"

    @property
    def possible(self) -> bool:
        """Whether there are enough words in a row; ``wide_window`` has found them."""
        return self._blocks.possible

    @property
    def _columns(self) -> tuple[int, ...]:
        """For every tap of a row of each window the column of the words that are held which it lies in, 0 being their first."""
        *_, kw, _, sw, _, left, _, dw = self.shape
        first = self._back * self._together - left
        return tuple(first + pixel * sw + kx * dw for pixel in range(self.pixels) for kx in range(kw))

    @property
    def _together(self) -> int:
        """Input pixels of a word."""
        return self.pixels * self.shape[7]

    @property
    def _back(self) -> int:
        """The words that the first window reaches back."""
        return -(-self.shape[9] // self._together)

    @property
    def _held(self) -> int:
        """The words of a row that windows of one word lie in."""
        return self._columns[-1] // self._together + 1

    @property
    def held(self) -> int:
        """The numbers of all columns of a window of words."""
        return self._held * self.shape[4] * self.input.parallel

    @property
    def _blocks(self) -> WholeWindow:
        """The unit over words for pixels."""
        h, w, oh, ow, kh, _, sh, _, top, _, dh, _ = self.shape
        shape = (1, h, w // self._together, oh, ow // self.pixels, kh, self._held, sh, 1, top, self._back, dh, 1)
        return WholeWindow(self.name, self.input, self.output, shape, self.padding, self.buffer)

    @property
    def cycles(self) -> int:
        return self._blocks.cycles

    def turns(self) -> Turns:
        return self._blocks.turns()

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        return self._blocks.recurrences

    @property
    def memories(self) -> tuple[Memory, ...]:
        return (self._blocks.line,)

    def logic(self, on: Device) -> Resources:
        """As of whole windows; of the columns that are held those count that a window needs, now or later, and padding is chosen once for each."""
        blocks, used = self._blocks, set(self._columns)
        together, number = self._together, self.input.bits // self._together
        later = [{column % together for column in used if column // together <= place} for place in range(self._held - 1)]
        kept = sum(map(len, later)) * self.shape[4] * number
        alone = replace(blocks, output=self.output.with_parallel(1))
        control = alone.logic(on) + (Resources(ff=alone.past_bits + alone.output.bits) + r.multiplexer(2, alone.output.bits * blocks.padded)) * -1
        chosen = r.multiplexer(2, self.shape[4] * len(used) * number) if blocks.padded else Resources()
        return r.total([control, chosen, Resources(ff=kept + self.output.bits)])

    def unit(self, ports: tuple[str, str]) -> Unit:
        unit = self._blocks.unit(ports)
        *body, call = unit.body
        *_, kw, _, sw, _, left, _, dw = self.shape
        channels, first = self.input.parallel // self._together, self._back * self._together - left
        picked = f"qfx::side_by_side<{self.pixels}, {channels}, {self.shape[4]}, {self._held * self._together}, {kw}, {first}, {sw}, {dw}>"
        return replace(unit, body=(*body, call.replace("qfx::whole_window<shape>", f"qfx::wide_window<shape, {picked} >")))

    # What it is to the layer behind it.

    @property
    def front(self) -> WideWindow:
        return self

    @property
    def channels(self) -> int:
        return self.input.parallel // self._together

    @property
    def taps(self) -> int:
        return self.shape[4] * self.shape[5]

    def widened(self, parallel: int) -> WideWindow:
        return self

    def whole(self) -> WideWindow:
        return self


def wide_window(front: Front, pixels: int) -> WideWindow | None:
    """The unit in the place of ``front`` that writes the whole windows of so many neighbouring pixels in one word. None where the words of either
    side are no parts of a row, or too long, or so few in a row that its memory would be asked before it has answered, and where a tap of the windows
    is read by another layer."""
    if not isinstance(front, Window) or front.tap is not None:
        return None
    shape, channels = front.shape[2:], front.channels
    _, w, oh, ow, kh, kw, _, sw, *_ = shape
    if ow * sw != w or ow % pixels:
        return None
    source = front.input.with_parallel(channels * pixels * sw)
    target = replace(front.output, parallel=pixels * kh * kw * channels, words=oh * ow // pixels)
    made = WideWindow(front.name, source, target, shape, pixels, front.padding, front.buffer)
    short = all(fits_word(stream.parallel, stream) for stream in (source, target))
    return made if short and made.possible and made.held <= MAX_PIECES else None
