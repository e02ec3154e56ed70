"""The matrix-vector unit: convolutions behind their window unit, and linear layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from math import gcd, lcm

import numpy as np

from qfx.fixed.arith import Interval
from qfx.fixed.digits import digit_count
from qfx.fixed.type import FixedType
from qfx.hardware.cost import pieces
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.products import Products
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design import arithmetic as arith
from qfx.hardware.design import dsp, loadable, storage
from qfx.hardware.design.loadable import Loadable
from qfx.hardware.design.schedule import Folding
from qfx.hardware.design.storage import Memory, Storage
from qfx.hardware.design.streams import MAX_WORD_BITS, Epilogue, IntArray, Stream
from qfx.hardware.emit.spelling import Unit, accumulator, chains, counted_without, lanes, multiplier, pack_weights, raw, rows
from qfx.hardware.folding import ragged
from qfx.hardware.folding.offered import ragged_pairs
from qfx.hardware.folding.option import AS_FAR_AS_IT_GOES, Choices, Option, Role, Way, choices, divisors, fits_word, moved, window_channels
from qfx.hardware.processes.process import Setting, Stored
from qfx.hardware.processes.traits import IN_WINDOWS, OneToOne, WithEpilogue
from qfx.hardware.timing.delays import Recurrence, accumulated, loops, named, wrapping
from qfx.hardware.timing.program import MEMORY, MULTIPLY, READ_WRITE, REWIND, Turns, epilogue_latency, every, held, reduce

_ARITHMETIC = ("dsp", "lut", *dsp.PACKED, "shift")
"""What is chosen from, the first of equals. "auto" would leave the costs to the tool."""


@dataclass(frozen=True, slots=True, eq=False)
class MatVec(OneToOne, WithEpilogue):
    """``weights``: (rows, lanes) raws, as qfx::matvec or, if ``depthwise``, qfx::depthwise reads them; lane = simd * pe_count + pe. Where groups
    share them they are those of the groups after which the same come again.

    ``pe`` and ``simd`` need not divide the ``outputs`` and ``inputs`` of a group: the last word of a row is then filled up, with zeros where it comes
    and with what is to be dropped where it leaves, and so are the weights, and the tables of the epilogue.

    ``arithmetic``: as in Folding. For "shift" and those of ``dsp.PACKED`` lowering has made sure that it is exact. ``loaded``: the weights
    are loaded while the hardware runs, any of ``weight_type``; ``weights`` are then those at hand. ``place``: what holds them, as in Folding.
    ``beside``: a second stream, with as many numbers a word as leave at once, one word of which is read in each turn that writes; the epilogue joins
    its numbers with the sums. ``cropped``: the arguments of qfx::cropped, which tells what of the result is left out behind it; casts that are
    counted are not those.
    """

    name: str
    input: Stream
    output: Stream
    depthwise: bool
    pixels: int
    groups: int
    outputs: int
    inputs: int
    pe: int
    simd: int
    weights: IntArray
    weight_type: FixedType
    acc: FixedType
    epilogue: Epilogue
    arithmetic: str
    loaded: bool = False
    place: str = "auto"
    beside: Stream | None = None
    cropped: tuple[int, ...] = ()

    @property
    def sources(self) -> tuple[Stream, ...]:
        return (self.input,) if self.beside is None else (self.input, self.beside)

    @property
    def paired(self) -> tuple[Stream, ...]:
        return self.sources[1:]

    @property
    def possible(self) -> IntArray:
        """Raws between which all weights lie that the hardware must compute with."""
        return np.array([[self.weight_type.min_raw, self.weight_type.max_raw]], dtype=np.int64) if self.loaded else self.weights

    @property
    def folding(self) -> Folding:
        """As it is folded."""
        return Folding(self.pe, self.simd, self.arithmetic, weights=self.place)

    # Time.

    @property
    def cycles(self) -> int:
        outputs, inputs = self._folds(self.folding)
        return self._vectors(self.pe) * outputs * inputs

    @property
    def latency(self) -> int:
        return self._latency(self.folding)

    def _latency(self, folding: Folding) -> int:
        """A sum of N numbers is a tree of ceil(log2(N)) additions, one a cycle, or a chain in DSP blocks (``dsp.delay``)."""
        return READ_WRITE + MEMORY + MULTIPLY + self._delay(folding) + 1 + epilogue_latency(self.epilogue)

    def _delay(self, folding: Folding) -> int:
        return dsp.delay(folding.arithmetic, _bounds(self), self.weight_type, self.input.type, folding.simd)

    def turns(self) -> Turns:
        outputs, inputs = self._folds(self.folding)
        turns, reads, writes = reduce(self._vectors(self.pe), inputs) if self.depthwise else _turns(self._vectors(self.pe), outputs, inputs)
        return turns, reads if self.beside is None else (*reads, *writes), writes

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        outputs, inputs = self._folds(self.folding)
        counts = (self.pixels, self.groups // self.pe, inputs) if self.depthwise else (self.pixels, self.groups, outputs, inputs)
        row = named(wrapping(self._rows(self.folding)), "the row of the weights")
        return (loops(*counts), accumulated(self.acc.width + self._headroom), row)

    @property
    def _turn(self) -> FixedType:
        """The raw type of the products of a turn together, no wider than the accumulator."""
        total = _turn_type(self)
        return total if total.width < self.acc.width else self.acc

    @property
    def _headroom(self) -> int:
        """The bits by which the sums of turns are wider than the accumulator: one where a turn's sum is as wide, and others follow (matvec.h)."""
        return int(self._turn.width >= self.acc.width and self.inputs > self.simd)

    def interleaved(self, pe: int) -> int:
        """Busy cycles of the process behind it that puts results side by side (``cropped``), with PE outputs at once; 0 where there is none."""
        if not self.cropped:
            return 0
        _, channels, rows, columns, *_ = self.cropped
        return self.pixels * (2 * rows - 1) * columns * (channels // gcd(pe, channels)) + REWIND

    def _vectors(self, pe: int) -> int:
        """How many times a frame the unit takes new inputs."""
        return self.pixels * (self.groups // pe if self.depthwise else self.groups)

    def _folds(self, folding: Folding) -> tuple[int, int]:
        """(outputs, inputs): the turns for all outputs of the same inputs, and for all inputs of an output."""
        return (1 if self.depthwise else ragged.words(self.outputs, folding.pe), ragged.words(self.inputs, folding.simd))

    # Resources.

    @property
    def memories(self) -> tuple[Memory, ...]:
        return self.memories_at(self.folding)

    def memories_at(self, folding: Folding) -> tuple[Memory, ...]:
        """The memories of the unit with another folding: the weights, the inputs that are kept for further outputs, the tables of the epilogue."""
        return (*self._rom(folding), self._kept(folding), *storage.tables(self.epilogue, folding.pe, self._channels(folding)))

    def _channels(self, folding: Folding) -> int:
        """Those that leave for a pixel, with what fills up words."""
        return self.groups * (1 if self.depthwise else ragged.padded(self.outputs, folding.pe))

    def _lanes(self, folding: Folding) -> int:
        return folding.pe * folding.simd

    def _rows(self, folding: Folding) -> int:
        """Of the ROM with another folding, those of this one or of one number at a time being known: where groups share their weights, of as many of
        them as come in whole words."""
        outputs, inputs = self._folds(folding)
        if not self.depthwise:
            return self._outputs // self.outputs * outputs * inputs
        return lcm(self._outputs, folding.pe) // folding.pe * inputs

    @property
    def _outputs(self) -> int:
        """Of which there are weights: those of all groups, or of as many as come before the same come again."""
        rows = self.weights.size // ragged.padded(self.inputs, self.simd)
        return rows if self.depthwise else rows // ragged.padded(self.outputs, self.pe) * self.outputs

    def _rom(self, folding: Folding) -> tuple[Memory, ...]:
        lanes = self._lanes(folding)
        return storage.weights(self._rows(folding), lanes, self._code_bits(folding.arithmetic), loaded=self.loaded, asked=folding.weights)

    def _choice(self, folding: Folding) -> Resources:
        """What chooses between the memories of the weights, where there are two."""
        first, *rest = self._rom(folding)
        return r.multiplexer(2, first.width * first.count) if rest else Resources()

    def _places(self, folding: Folding, setting: Setting) -> dict[str, Resources]:
        """What the weights take in each place where they may lie, that of ``folding`` first."""
        places = [folding.weights]
        if setting.pinned is None:
            blocks = ("uram",) * setting.uram if self.loaded else ("mixed",) * (not self.depthwise)
            places += ["lut", "bram", *blocks]
        foldings = {place: replace(folding, weights=place) for place in places}
        return {
            place: r.total([self._choice(one), *(pieces.memory(memory, setting.on) for memory in self._rom(one))]) for place, one in foldings.items()
        }

    def _kept(self, folding: Folding) -> Memory:
        outputs, inputs = self._folds(folding)
        return storage.kept(inputs, self.input.type.width, folding.simd, outputs)

    def _code_bits(self, arithmetic: str) -> int:
        """Bits of a weight in the ROM."""
        return _digits(self).width if arithmetic == "shift" else self.weight_type.width

    def logic(self, on: Device) -> Resources:
        return self.logic_at(self.folding, on)

    def cost_at(self, folding: Folding, on: Device) -> Resources:
        """``cost`` with another folding, whose weights need not have been laid out for it."""
        return r.total([self.logic_at(folding, on), *(pieces.memory(memory, on) for memory in self.memories_at(folding))])

    def logic_at(self, folding: Folding, on: Device) -> Resources:
        """The products and their sums in a turn, the accumulators, the counters, the registers, and the epilogue of each lane."""
        bits = self._code_bits(folding.arithmetic)
        steps = _epilogue(self, folding.pe, on)
        return r.total([self._by_arithmetic(folding, on), self._choice(folding), _around(self, folding.pe, folding.simd, bits), steps])

    def _by_arithmetic(self, folding: Folding, on: Device) -> Resources:
        """What depends on what multiplies."""
        return r.handshake(1 + len(self.sources), self._latency(folding)) + self._products(folding, on)

    def _turning(self, folding: Folding, bits: int) -> Resources:
        """The accumulators, counters and registers, for codes of so many bits."""
        pe, simd, acc = folding.pe, folding.simd, self.acc.width
        x, lanes = self.input.type, self._lanes(folding)
        output_fold, input_fold = self._folds(folding)
        rows = self._rows(folding)
        loops = (self.pixels, self.groups, output_fold, input_fold, rows)
        found = [r.counter(rows)] if self.loaded else []
        found += [] if self.beside is None else [Resources(ff=pe * self.beside.type.width)]  # the word that waits for the sums
        found += [r.counter(loop) for loop in loops if loop > 1]
        found.append((r.adder(acc) if input_fold > 1 else Resources(ff=acc)) * pe)
        if output_fold > 1:
            found.append(r.multiplexer(2, simd * x.width))
        taken = (lanes if self.depthwise else simd) * x.width
        return r.total([*found, Resources(ff=taken + lanes * bits)])

    @property
    def _factors(self) -> tuple[int, int]:
        """Bits of an input and of a weight as signed numbers."""
        x, weight = self.input.type, self.weight_type
        return x.width + (not x.signed), weight.width + (not weight.signed)

    @property
    def _product_bits(self) -> int:
        return min(sum(self._factors), self.acc.width)

    def _products(self, folding: Folding, on: Device) -> Resources:
        """The products of a turn, and their sums."""
        if dsp.sums(folding.arithmetic):
            wires = self._lanes(folding) == self.weights.size and not self.loaded
            shared = 1 if self.depthwise else folding.pe  # the outputs that have the same inputs
            parts = Products(shared, folding.simd, self.input.type, _bounds(self), self.weight_type, wires, self.acc.width)
            return parts.take(folding.arithmetic, on) * (folding.pe // shared)
        return self._apart(folding, on) + r.adder_tree(folding.simd, self._product_bits, self.acc.width) * folding.pe

    def _apart(self, folding: Folding, on: Device) -> Resources:
        """The products, each by itself."""
        x, (a, b), width, lanes = self.input.type, self._factors, self._product_bits, self._lanes(folding)
        if folding.arithmetic == "shift" and lanes == self.weights.size:  # one row: the digits are constants, and shifts are wires
            adders = int(np.maximum(digit_count(self.weights) - 1, 0).sum())
            return Resources(lut=adders * width, ff=(adders + lanes) * width)
        if folding.arithmetic == "shift":
            digits = [(slot.span + slot.zero, slot.negative) for slot in _digits(self).slots]
            return r.digit_product(x.width, width, digits) * lanes
        return r.product(a, b, folding.arithmetic, on) * lanes

    # Constants.

    @property
    def loads(self) -> tuple[Loadable, ...]:
        weights = (loadable.rom(self.weights, self.weight_type),) if self.loaded else ()
        return (*weights, *loadable.tables(self.epilogue.tables))

    @property
    def stored(self) -> Stored:
        width = self.weight_type.width
        least = width
        if "shift" in arith.choices(self.possible, self.input.type, pe=1, depthwise=self.depthwise, loaded=self.loaded):
            least = min(width, _digits(self).width)
        rom, count = self._rom(self.folding), self._outputs * self.inputs
        blocks = sum(r.bram18(memory.depth, memory.width) * memory.count for memory in rom if memory.storage is Storage.BRAM)
        return Stored(count * width, count * least, self._in_one_row, blocks, self.loaded)

    @property
    def _in_one_row(self) -> bool:
        """Whether the words of a design can be so wide that one row holds all weights, which are then constants of the multipliers."""
        lanes_in, lanes_out = (self.groups * self.inputs, self.groups) if self.depthwise else (self.inputs, self.outputs)
        one_row = self.depthwise or self._outputs == self.outputs
        return one_row and lanes_in * self.input.type.width <= MAX_WORD_BITS and lanes_out * self.output.type.width <= MAX_WORD_BITS

    # Text.

    def unit(self, ports: tuple[str, str]) -> Unit:
        codes, code_type = arith.rom_contents(self.weights, self.weight_type, self.arithmetic)
        first, *rest = self._rom(self.folding)
        weights, reader = pack_weights(f"{self.name}_weights", codes[: first.depth], code_type, loaded=self.loaded)
        more = [pack_weights(f"{self.name}_rest", codes[first.depth :], code_type)[0] for _ in rest]
        outputs = self.outputs if self.depthwise else ragged.padded(self.outputs, self.pe)
        numbers = (self.pixels, self.groups, outputs, ragged.padded(self.inputs, self.simd), self.pe, self.simd)
        product = multiplier(self.arithmetic, self.possible, self.input.type, self.simd)
        acc = accumulator(self.epilogue)
        types = (reader, acc, product, raw(self._turn) if self._turn.width < self.acc.width else acc, accumulator(self.epilogue, self._headroom))
        shape = f"qfx::matvec_shape<{', '.join(map(str, (*numbers, *types)))} >"
        _, fold = self._folds(self.folding)
        kept = () if self.depthwise else lanes("kept", raw(self.input.type), fold, self.simd, self._kept(self.folding))
        constants = ", ".join([part.name for part in (weights, *more)] + ["kept"] * (not self.depthwise))
        streams = {"in": self.input, **({} if self.beside is None else {"beside": self.beside}), "out": self.output}
        function = f"{'depthwise' if self.depthwise else 'matvec'}{'' if self.beside is None else '_with'}"
        call = f"qfx::{function}<shape, {self.name}_epilogue>({', '.join((*streams, constants))});"
        unit = self.call_with_epilogue(streams, call)
        memories = zip((weights, *more), (first, *rest), strict=True)
        pragmas = (
            *chains(self.arithmetic, self.simd),
            *(line for part, memory in memories for line in rows(part.name, memory)),
            *unit.pragmas,
        )
        unit = replace(unit, epilogue=counted_without(unit.epilogue, self.cropped)) if self.cropped else unit
        return replace(unit, constants=(weights, *more, *unit.constants), pragmas=pragmas, body=(f"typedef {shape} shape;", *kept, *unit.body))

    # Folding.

    @property
    def role(self) -> Role:
        return Role.MATVEC

    @property
    def front(self) -> None:
        return None

    def limit(self, setting: Setting) -> str:
        return IN_WINDOWS if setting.front else AS_FAR_AS_IT_GOES

    def options(self, setting: Setting) -> list[Option]:
        pinned, on = setting.pinned, setting.on
        wanted = ("shift",) if setting.shift_and_add else _ARITHMETIC
        per_group = setting.front.channels // self.groups if setting.front else self.inputs
        possible = arith.choices(self.possible, self.input.type, pe=self.groups * self.outputs, depthwise=self.depthwise, loaded=self.loaded)
        names = [name for name in wanted if name in possible and dsp.worth(name, _bounds(self), self.input.type, on.dsp_wide)]
        front: dict[tuple[int, int], tuple[int, Resources, dict[str, Resources]] | None] = {}

        def window(folding: tuple[int, int, int]) -> tuple[int, Resources, dict[str, Resources]] | None:
            word = self._word(*folding, per_group)
            if word is not None and (word, folding[2]) not in front:
                front[word, folding[2]] = _window(setting, word, folding[2])
            return None if word is None else front[word, folding[2]]

        if pinned:
            foldings, extra = [(pinned.pe, pinned.simd, pinned.taps)], 0
        else:
            foldings = [folding for folding in self._foldings(setting) if window(folding) is not None]
            others = self._ragged(setting, foldings, tuple(sorted({dsp.PACKED.get(name, (1, 0))[0] for name in names})))
            extra = len(others)
            foldings += others
        found = []
        for number, (pe, simd, taps) in enumerate(foldings):
            unit = window((pe, simd, taps))
            if unit is None:
                continue
            window_busy, window_cost, lines = unit
            way = self._way(pe, simd, taps, per_group)
            around = r.total([window_cost, pieces.queue(self.output, pe), way.cost, self._memory(pe, simd, on)])
            tree = replace(self, pe=pe, simd=simd, arithmetic="lut")
            slowest = max(window_busy, way.busy, self.interleaved(pe))
            if number >= len(foldings) - extra and slowest > tree.busy:
                continue  # it saves lanes for a pace that it does not keep
            places: dict[int, tuple[Resources, Choices]] = {}
            for name in (pinned.arithmetic,) if pinned else [name for name in names if dsp.pays(name, pe)]:
                folding = Folding(pe, simd, name, taps, pinned.weights if pinned else "auto", next(iter(lines)))
                waits = self._delay(folding) - self._delay(tree.folding) if self.loaded else 0  # of a pipeline that runs empty between frames
                bits = self._code_bits(name)
                if bits not in places:
                    stored = self._places(folding, setting)
                    fixed = r.total([around, stored[folding.weights], _around(self, pe, simd, bits), _epilogue(self, pe, on)])
                    places[bits] = fixed, choices(stored, lines)
                fixed, others_places = places[bits]
                cost = self._by_arithmetic(folding, on) + fixed
                found += moved(Option(folding, way.takes, way.gives, max(tree.busy + waits, slowest), cost, way.cost), others_places)
        return found

    def _memory(self, pe: int, simd: int, on: Device) -> Resources:
        """What its memories take beside the weights."""
        _, *others = self.memories_at(Folding(pe, simd))
        return r.total([pieces.memory(memory, on) for memory in others])

    def _word(self, pe: int, simd: int, taps: int, per_group: int) -> int | None:
        """The channels a word that come into the layer."""
        if self.depthwise:
            return pe
        if self.inputs % simd:
            most = MAX_WORD_BITS // self.input.type.width
            return ragged.source_channels(per_group, taps, self.inputs, simd, ragged.words(self.outputs, pe), most)
        return window_channels(simd, per_group, taps)

    def _way(self, pe: int, simd: int, taps: int, per_group: int) -> Way:
        """How words come to the unit and leave it; ``_word`` has found some."""
        word = self._word(pe, simd, taps, per_group)
        assert word is not None
        vectors, lanes = self._vectors(pe), pe * simd if self.depthwise else simd
        if self.depthwise and lanes == word * taps:
            return Way(word, pe)
        if self.inputs % simd == 0:
            way = Way(word, pe, 0, pieces.rewidth(self.input, word * taps, lanes))
        else:
            row = taps * pe if self.depthwise else self.inputs
            widths = (word * taps, *ragged.filling(row, word * taps, lanes))
            steps = [pieces.rewidth(self.input, source, target) for source, target in pairwise(widths)]
            way = Way(word, pe, vectors * ragged.filling_turns(row, word * taps, lanes) + REWIND, r.total(steps))
        if self.depthwise or self.outputs % pe == 0:
            return way
        gives = ragged.given(self.outputs, pe, ragged.words(self.inputs, simd), MAX_WORD_BITS // self.output.type.width)
        leaving = vectors * ragged.giving_turns(self.outputs, pe, gives) + REWIND
        return Way(word, gives, max(way.busy, leaving), way.cost + pieces.rewidth(self.output, pe, gives))

    def _foldings(self, setting: Setting) -> list[tuple[int, int, int]]:
        """Every PE and SIMD that divide, and number of taps a word, whose words can travel."""
        pes = divisors(self.groups if self.depthwise else self.outputs)
        return self._travelling([(pe, simd, together) for pe in pes for simd, together in self._simds(setting, divisors)])

    def _ragged(self, setting: Setting, dividing: list[tuple[int, int, int]], packs: tuple[int, ...]) -> list[tuple[int, int, int]]:
        """Those that need not divide and have fewer lanes than all of ``dividing`` that are as fast; ``packs``: as in ``ragged_pairs``."""
        if self.cropped:  # a transposed convolution without its zeros is built where foldings divide alone
            return []
        outputs = self.groups if self.depthwise else self.outputs
        pes = divisors(outputs) if self.depthwise or self.beside is not None else ragged.useful(outputs)
        simds = self._simds(setting, ragged.useful)
        both = tuple(sorted({simd for simd, _ in simds}))
        pairs = set(ragged_pairs(outputs, self.inputs, tuple(pes), both, frozenset((pe, simd) for pe, simd, _ in dividing), packs))
        found = [(pe, simd, together) for pe in pes for simd, together in simds if (pe, simd) in pairs]
        return self._travelling(found)

    def _simds(self, setting: Setting, numbers: Callable[[int], list[int]]) -> list[tuple[int, int]]:
        """SIMD, of ``numbers`` of those that there are, and taps a word."""
        taps = setting.front.taps if setting.front else 1
        simds = [(simd, 1) for simd in ([1] if self.depthwise else numbers(self.inputs))]
        if taps > 1:  # fewer inputs than taps take longer than one tap a turn does
            simds += [(simd, taps) for simd in numbers(taps if self.depthwise else self.inputs) if simd > 1]
        return simds

    def _travelling(self, foldings: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
        """Those whose words can travel."""
        return [
            item for item in foldings if fits_word(item[0] * item[1] if self.depthwise else item[1], self.input) and fits_word(item[0], self.output)
        ]


@lru_cache(maxsize=64)
def _epilogue(process: MatVec, pe: int, on: Device) -> Resources:
    return pieces.epilogue(process.epilogue, pe, on)


@lru_cache(maxsize=64)
def _around(process: MatVec, pe: int, simd: int, bits: int) -> Resources:
    return process._turning(Folding(pe, simd), bits)


def _window(setting: Setting, word: int, taps: int) -> tuple[int, Resources, dict[str, Resources]] | None:
    """Busy cycles and costs of the window unit in front, with words of ``taps`` taps of ``word`` channels, and what its buffer takes in each place
    where it may lie, of which the costs count the first; nothing where there is no unit in front. None if there is no such unit."""
    if setting.front is None:
        return 0, Resources(), {"auto": Resources()}
    unit = setting.front if taps == 1 else setting.front.whole()
    unit = unit.widened(word)
    if not unit.possible or not all(fits_word(stream.parallel, stream) for stream in unit.targets):
        return None
    lines = unit.buffers(setting.on, setting.buffer_places)
    queues = [pieces.queue(stream, stream.parallel) for stream in unit.targets]
    return unit.busy, r.total([unit.logic(setting.on), next(iter(lines.values())), *queues]), lines


@lru_cache(maxsize=64)
def _turns(vectors: int, output_fold: int, input_fold: int) -> Turns:
    turns = every(vectors * output_fold * input_fold).reshape(vectors, output_fold, input_fold)
    return turns.size, (held(turns[:, 0, :].flatten()),), (held(turns[:, :, -1].flatten()),)


@lru_cache(maxsize=256)
def _turn_type(process: MatVec) -> FixedType:
    if process.loaded:
        return arith.sum_type(process.possible, process.input.type, process.simd)
    return arith.turn_type(process.weights, process.input.type, process.simd)


@lru_cache(maxsize=256)
def _bounds(process: MatVec) -> Interval:
    return arith.bounds(process.possible)


@lru_cache(maxsize=256)
def _digits(process: MatVec) -> arith.Digits:
    return arith.digit_form(process.weights)
