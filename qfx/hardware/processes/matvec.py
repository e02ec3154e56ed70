"""The matrix-vector unit: convolutions behind their window unit, and linear layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import lcm

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
from qfx.hardware.design.weights.sparse import Kept, found_in
from qfx.hardware.emit.spelling import Unit, accumulator, chains, counted_without, lanes, multiplier, pack_weights, raw, rows
from qfx.hardware.folding import matrices, ragged
from qfx.hardware.folding.option import AS_FAR_AS_IT_GOES, Options, Role
from qfx.hardware.processes.phases import in_place
from qfx.hardware.processes.process import Process, Setting, Stored
from qfx.hardware.processes.traits import IN_WINDOWS, OneToOne, WithEpilogue
from qfx.hardware.timing.delays import Recurrence, accumulated, loops, named, wrapping
from qfx.hardware.timing.program import MEMORY, MULTIPLY, READ_WRITE, Turns, epilogue_latency, every, held, reduce


@dataclass(frozen=True, slots=True, eq=False)
class MatVec(OneToOne, WithEpilogue):
    """``weights``: (rows, lanes) raws, as qfx::matvec or, if ``depthwise``, qfx::depthwise reads them; lane = simd * pe_count + pe. Where groups
    share them they are those of the groups after which the same come again.

    ``pe`` and ``simd`` need not divide the ``outputs`` and ``inputs`` of a group: the last word of a row is then filled up, with zeros where it comes
    and with what is to be dropped where it leaves, and so are the weights, and the tables of the epilogue.

    ``arithmetic``: as in Folding. For "shift" and packed products lowering has made sure that it is exact. ``loaded``: the weights
    are loaded while the hardware runs, any of ``weight_type``; ``weights`` are then those at hand. ``place``: what holds them, as in Folding.
    ``beside``: a second stream, with as many numbers a word as leave at once, one word of which is read in each turn that writes; the epilogue joins
    its numbers with the sums. ``abreast``: the pixels that are worked on at once, of each of which words then hold as much, side by side.
    ``cropped``: the arguments of qfx::cropped, which tells what of the result is left out behind it; casts that are counted are not those.
    ``sparsity``: as in Folding, with a ``simd`` that divides the inputs; ``weights`` are all of them all the same, and lowering has made sure that
    those which are left out are 0.
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
    abreast: int = 1
    sparsity: str = ""

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
        return Folding(self.pe, self.simd, self.arithmetic, weights=self.place, pixels=self.abreast, sparsity=self.sparsity)

    @property
    def sparsities(self) -> tuple[Kept, ...]:
        """How sparse the weights are, of the unit with one number at a time (``sparse.found_in``)."""
        return () if self.loaded or self.depthwise else _sparsities(self)

    # Time.

    @property
    def cycles(self) -> int:
        outputs, inputs = self._folds(self.folding)
        return self.vectors(self.folding) * outputs * inputs

    @property
    def latency(self) -> int:
        return self._latency(self.folding)

    def _latency(self, folding: Folding) -> int:
        """A sum of N numbers is a tree of ceil(log2(N)) additions, one a cycle, or a chain in DSP blocks (``dsp.delay``)."""
        return READ_WRITE + MEMORY + MULTIPLY + self.delay(folding) + 1 + _epilogue_latency(self)

    def delay(self, folding: Folding) -> int:
        """Cycles from the first product of a turn, or the choice of its inputs, to the sum."""
        return _delay(self, folding.arithmetic, folding.pixels, folding.lanes) + (folding.kept is not None)

    def _roles(self, folding: Folding) -> tuple[Interval, FixedType, FixedType]:
        return _roles(self, folding.arithmetic, folding.pixels)

    @property
    def bounds(self) -> Interval:
        """Of the weights' raws."""
        return _bounds(self)

    def turns(self) -> Turns:
        outputs, inputs = self._folds(self.folding)
        turns, reads, writes = reduce(self.vectors(self.folding), inputs) if self.depthwise else _turns(self.vectors(self.folding), outputs, inputs)
        return turns, reads if self.beside is None else (*reads, *writes), writes

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        outputs, inputs = self._folds(self.folding)
        blocks = self.pixels // self.abreast
        counts = (blocks, self.groups // self.pe, inputs) if self.depthwise else (blocks, self.groups, outputs, inputs)
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

    def in_place(self, pe: int, pixels: int) -> list[Process]:
        """The processes behind it that put results side by side (``cropped``), with PE outputs at once of so many pixels."""
        if not self.cropped:
            return []
        columns, channels, *factors, top, height, left, width = self.cropped
        groups, stream = (self.pixels // columns, columns), self.output.with_parallel(pe * pixels)
        return [*in_place(stream, groups, (factors[0], factors[1]), channels, (top, left), (height, width))]

    def vectors(self, folding: Folding) -> int:
        """How many times a frame the unit takes new inputs."""
        return self.pixels // folding.pixels * (self.groups // folding.pe if self.depthwise else self.groups)

    def words(self, folding: Folding) -> tuple[int, int]:
        """Of a pixel: those that come, and those that leave."""
        outputs, inputs = self._folds(folding)
        vectors = self.groups // folding.pe if self.depthwise else self.groups
        return vectors * inputs, vectors * outputs

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
        """The weights that are read at once."""
        return folding.pe * folding.lanes

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
        lanes, bits = self._lanes(folding), self.code_bits(folding.arithmetic, folding.kept)
        return storage.weights(self._rows(folding), lanes, bits, loaded=self.loaded, asked=folding.weights)

    def _choice(self, folding: Folding) -> Resources:
        return _chosen(self._rom(folding))

    def places(self, folding: Folding, setting: Setting) -> dict[str, Resources]:
        """What the weights take in each place where they may lie, that of ``folding`` first."""
        places = [folding.weights]
        if setting.pinned is None:
            blocks = ("uram",) * setting.uram if self.loaded else ("mixed",) * (not self.depthwise)
            places += ["lut", "bram", *blocks]
        rows, lanes, bits = self._rows(folding), self._lanes(folding), self.code_bits(folding.arithmetic, folding.kept)
        return dict(_placed(rows, lanes, bits, self.loaded, tuple(places), setting.on))

    def _kept(self, folding: Folding) -> Memory:
        outputs, inputs = self._folds(folding)
        return storage.kept(inputs, self.input.type.width, folding.simd * folding.pixels, outputs)

    def code_bits(self, arithmetic: str, kept: Kept | None = None) -> int:
        """Bits of a weight in the ROM, with those that say which input it meets."""
        return (_digits(self).width if arithmetic == "shift" else self.weight_type.width) + (0 if kept is None else kept.place_bits)

    def logic(self, on: Device) -> Resources:
        return self.logic_at(self.folding, on)

    def cost_at(self, folding: Folding, on: Device) -> Resources:
        """``cost`` with another folding, whose weights need not have been laid out for it."""
        return r.total([self.logic_at(folding, on), *(pieces.memory(memory, on) for memory in self.memories_at(folding))])

    def logic_at(self, folding: Folding, on: Device) -> Resources:
        """The products and their sums in a turn, the accumulators, the counters, the registers, and the epilogue of each lane."""
        bits = self.code_bits(folding.arithmetic, folding.kept)
        return r.total([self.by_arithmetic(folding, on), self._choice(folding), self.apart(folding, bits, on)])

    def apart(self, folding: Folding, bits: int, on: Device) -> Resources:
        """What is beside the memories and does not depend on what multiplies codes of so many bits."""
        lanes = folding.pe * folding.pixels
        return _around(self, folding.pe, folding.simd, folding.pixels, folding.sparsity, bits) + _epilogue(self, lanes, on)

    def by_arithmetic(self, folding: Folding, on: Device) -> Resources:
        """What depends on what multiplies."""
        return r.total([r.handshake(1 + len(self.sources), self._latency(folding)), self._chosen_inputs(folding), self._products(folding, on)])

    def _chosen_inputs(self, folding: Folding) -> Resources:
        """The multiplexers in front of the products; wires where the places are constants."""
        kept = folding.kept
        if kept is None or self._one_row(folding):
            return Resources()
        return r.multiplexer(kept.ways, self.input.type.width) * (self._lanes(folding) * folding.pixels)

    def _one_row(self, folding: Folding) -> bool:
        """Whether the ROM is one row of constants."""
        return folding.pe * folding.simd == self.weights.size and not self.loaded

    def _turning(self, folding: Folding, bits: int) -> Resources:
        """The accumulators, counters and registers, for codes of so many bits."""
        pe, simd, acc = folding.pe * folding.pixels, folding.simd * folding.pixels, self.acc.width
        x, lanes = self.input.type, self._lanes(folding)
        output_fold, input_fold = self._folds(folding)
        rows = self._rows(folding)
        loops = (self.pixels // folding.pixels, self.groups, output_fold, input_fold, rows)
        found = [r.counter(rows)] if self.loaded else []
        found += [] if self.beside is None else [Resources(ff=pe * self.beside.type.width)]  # the word that waits for the sums
        found += [r.counter(loop) for loop in loops if loop > 1]
        found.append((r.adder(acc) if input_fold > 1 else Resources(ff=acc)) * pe)
        if output_fold > 1:
            found.append(r.multiplexer(2, simd * x.width))
        taken = (lanes * folding.pixels if self.depthwise else simd) * x.width
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
            wires = self._one_row(folding)
            shared = 1 if self.depthwise or folding.kept is not None else folding.pe  # the outputs that have the same inputs
            between, packed, other = self._roles(folding)
            crossed = _across(self, folding.arithmetic, folding.pixels)
            many, copies = (folding.pixels, shared) if crossed else (shared, folding.pixels)
            parts = Products(many, folding.lanes, other, between, packed, wires, self.acc.width, copies, crossed)
            return parts.take(folding.arithmetic, on) * (folding.pe // shared)
        tree = r.adder_tree(folding.lanes, self._product_bits, self.acc.width) * (folding.pe * folding.pixels)
        return self._one_by_one(folding, on) + tree

    def _one_by_one(self, folding: Folding, on: Device) -> Resources:
        """The products, each by itself."""
        x, (a, b), width, lanes = self.input.type, self._factors, self._product_bits, self._lanes(folding)
        if folding.arithmetic == "shift" and self._one_row(folding):  # one row: the digits are constants, and shifts are wires
            adders = int(np.maximum(digit_count(self.weights) - 1, 0).sum())
            return Resources(lut=adders * width, ff=(adders + lanes) * width) * folding.pixels
        if folding.arithmetic == "shift":
            digits = [(slot.span + slot.zero, slot.negative) for slot in _digits(self).slots]
            return r.digit_product(x.width, width, digits) * (lanes * folding.pixels)
        return r.product(a, b, folding.arithmetic, on) * (lanes * folding.pixels)

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
        shares = [(1, 0), *((kept.n / kept.m, kept.place_bits) for kept in self.sparsities)]
        least_bits = min(int(self._outputs * self.inputs * share) * (least + places) for share, places in shares)
        rom, count = self._rom(self.folding), self._outputs * self.inputs
        blocks = sum(r.bram18(memory.depth, memory.width) * memory.count for memory in rom if memory.storage is Storage.BRAM)
        return Stored(count * width, least_bits, self._in_one_row, blocks, self.loaded)

    @property
    def _in_one_row(self) -> bool:
        """Whether the words of a design can be so wide that one row holds all weights, which are then constants of the multipliers."""
        lanes_in, lanes_out = (self.groups * self.inputs, self.groups) if self.depthwise else (self.inputs, self.outputs)
        one_row = self.depthwise or self._outputs == self.outputs
        return one_row and lanes_in * self.input.type.width <= MAX_WORD_BITS and lanes_out * self.output.type.width <= MAX_WORD_BITS

    # Text.

    def unit(self, ports: tuple[str, str]) -> Unit:
        codes, code_type, inputs = self._codes()
        first, *rest = self._rom(self.folding)
        weights, reader = pack_weights(f"{self.name}_weights", codes[: first.depth], code_type, loaded=self.loaded)
        more = [pack_weights(f"{self.name}_rest", codes[first.depth :], code_type)[0] for _ in rest]
        outputs = self.outputs if self.depthwise else ragged.padded(self.outputs, self.pe)
        numbers = (self.pixels, self.groups, outputs, ragged.padded(self.inputs, self.simd), self.pe, self.simd)
        summed = self.folding.lanes
        product = multiplier(self.arithmetic, self.possible, self.input.type, summed, self.abreast)
        acc = accumulator(self.epilogue)
        several = (self.abreast, f"qfx::{self._packs}", *inputs) if self.abreast > 1 or inputs else ()
        types = (reader, acc, product, raw(self._turn) if self._turn.width < self.acc.width else acc, accumulator(self.epilogue, self._headroom))
        shape = f"qfx::matvec_shape<{', '.join(map(str, (*numbers, *types, *several)))} >"
        _, fold = self._folds(self.folding)
        kept = () if self.depthwise else lanes("kept", raw(self.input.type), fold, self.simd * self.abreast, self._kept(self.folding))
        constants = ", ".join([part.name for part in (weights, *more)] + ["kept"] * (not self.depthwise))
        streams = {"in": self.input, **({} if self.beside is None else {"beside": self.beside}), "out": self.output}
        function = f"{'depthwise' if self.depthwise else 'matvec'}{'' if self.beside is None else '_with'}"
        call = f"qfx::{function}<shape, {self.name}_epilogue>({', '.join((*streams, constants))});"
        unit = self.call_with_epilogue(streams, call, self.pe)
        memories = zip((weights, *more), (first, *rest), strict=True)
        pragmas = (
            *chains(self.arithmetic, summed),
            *(line for part, memory in memories for line in rows(part.name, memory)),
            *unit.pragmas,
        )
        unit = replace(unit, epilogue=counted_without(unit.epilogue, self.cropped)) if self.cropped else unit
        return replace(unit, constants=(weights, *more, *unit.constants), pragmas=pragmas, body=(f"typedef {shape} shape;", *kept, *unit.body))

    @property
    def _packs(self) -> str:
        """What its multipliers pack into a product (abreast.h)."""
        if self.arithmetic in dsp.GRIDS:
            return "in_a_grid"
        return "across_pixels" if _across(self, self.arithmetic, self.abreast) else "along_outputs"

    def _codes(self) -> tuple[IntArray, FixedType, tuple[str, ...]]:
        """What the ROM holds, its type, and, where not all inputs meet a weight, what says which do (few_inputs of abreast.h)."""
        kept = self.folding.kept
        if kept is None:
            return *arith.rom_contents(self.weights, self.weight_type, self.arithmetic), ()
        held, ways = kept.compressed(self.weights, self.pe)
        if self.arithmetic == "shift":
            form = _digits(self)
            held, type_ = form.codes(held), FixedType(form.width, form.width, signed=False)
        else:
            type_ = self.weight_type
        chosen = f"qfx::few_inputs<{kept.n}, {kept.m}, {'true' if type_.signed else 'false'}, {type_.width}>"
        return *kept.coded(held, type_, ways), (chosen,)

    # Folding.

    @property
    def role(self) -> Role:
        return Role.MATVEC

    @property
    def front(self) -> None:
        return None

    def limit(self, setting: Setting) -> str:
        return IN_WINDOWS if setting.front else AS_FAR_AS_IT_GOES

    def options(self, setting: Setting) -> Options:
        return matrices.options(self, setting)


@lru_cache(maxsize=1 << 15)
def _placed(rows: int, lanes: int, bits: int, loaded: bool, places: tuple[str, ...], on: Device) -> tuple[tuple[str, Resources], ...]:
    """What ``MatVec.places`` has of so many rows of lanes: layers of one shape, and foldings of one layer, share them."""
    found = []
    for place in places:
        memories = storage.weights(rows, lanes, bits, loaded=loaded, asked=place)
        found.append((place, r.total([_chosen(memories), *(pieces.memory(memory, on) for memory in memories)])))
    return tuple(found)


def _chosen(memories: Sequence[Memory]) -> Resources:
    """What chooses between the memories of the weights, where there are two."""
    first, *rest = memories
    return r.multiplexer(2, first.width * first.count) if rest else Resources()


@lru_cache(maxsize=256)
def _epilogue_latency(process: MatVec) -> int:
    return epilogue_latency(process.epilogue)


@lru_cache(maxsize=64)
def _epilogue(process: MatVec, lanes: int, on: Device) -> Resources:
    return pieces.epilogue(process.epilogue, lanes, on)


@lru_cache(maxsize=64)
def _around(process: MatVec, pe: int, simd: int, pixels: int, sparsity: str, bits: int) -> Resources:
    return process._turning(Folding(pe, simd, pixels=pixels, sparsity=sparsity), bits)


@lru_cache(maxsize=256)
def _sparsities(process: MatVec) -> tuple[Kept, ...]:
    return found_in(process.weights.reshape(-1, process.inputs)) if process.pe == process.simd == 1 else ()


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
def _roles(process: MatVec, arithmetic: str, pixels: int) -> tuple[Interval, FixedType, FixedType]:
    return dsp.roles(arithmetic, _bounds(process), process.weight_type, process.input.type, pixels)


@lru_cache(maxsize=256)
def _across(process: MatVec, arithmetic: str, pixels: int) -> bool:
    return dsp.across(arithmetic, process.weight_type, process.input.type, pixels)


@lru_cache(maxsize=1 << 12)
def _delay(process: MatVec, arithmetic: str, pixels: int, lanes: int) -> int:
    return dsp.delay(arithmetic, *_roles(process, arithmetic, pixels), lanes)


@lru_cache(maxsize=256)
def _digits(process: MatVec) -> arith.Digits:
    return arith.digit_form(process.weights)
