"""The engine that is built: its array, its memories, and the widths of all numbers in it, from the steps that it has to run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import ceil

from qfx.errors import ProjectError, UnsupportedError
from qfx.fixed.arith import Interval
from qfx.fixed.type import FixedType
from qfx.hardware.design import dsp
from qfx.hardware.emit import spelling
from qfx.hardware.sequential.folding import folded
from qfx.hardware.sequential.memory import Places, begin, places, planes
from qfx.hardware.sequential.merging import apart, joined
from qfx.hardware.sequential.splitting import parts
from qfx.hardware.sequential.tiles import Known, Shape, Tile, alike, blocks, cut, entries, fits, input_size, tiled, vectors
from qfx.hardware.sequential.values import ROUNDING, Kind, Layers, Overflow, Step, Value


@dataclass(frozen=True, slots=True)
class Placed:
    """A step as it runs: in which tiles, for how many cycles, and what they are spent on."""

    step: Step
    tile: Tile
    cycles: int
    bound: str


@dataclass(frozen=True, slots=True)
class Engine:
    """``shape``: the array. Widths are those that the widest step needs; ``rounding`` and ``overflow`` have a bit for each mode that a step uses, and
    the flags say which parts of the epilogue are built at all."""

    layers: Layers
    shape: Shape
    steps: tuple[Placed, ...]
    places: Places
    acc_bits: int
    value_bits: int
    scale_bits: int
    beside_planes: int
    beside_depth: int
    rounding: int
    overflow: int
    factors: bool
    beside: bool
    leak: bool
    up: bool
    products: bool
    """Whether a step multiplies channel by channel."""
    signed: bool
    """Whether a value that is multiplied has a sign."""
    operand_bits: int
    """Of what is multiplied: with a sign if one of them has one."""
    weight_bits: int
    arithmetic: str
    """How products are made: "dsp", or a packing of ``design/dsp.py``."""
    slides: bool
    slide_rows: int
    """Whether windows of single channels slide, and the most rows of one."""
    held_depth: int
    """Words of sums that wait for those of the second input of a step; 0: no step has two."""
    slope_bits: int
    """Of what numbers below 0 are multiplied by; 0: by nothing."""

    @property
    def operand(self) -> FixedType:
        return FixedType(self.operand_bits, self.operand_bits, self.signed)

    @property
    def weights(self) -> Interval:
        """Any weights: the engine is good for others of the same shape."""
        return Interval(-(1 << self.weight_bits - 1), (1 << self.weight_bits - 1) - 1, 0)

    @property
    def product_bits(self) -> int:
        return self.operand_bits + (not self.signed) + self.weight_bits

    @property
    def multiplier(self) -> str:
        """What the C++ calls it."""
        if self.arithmetic == "dsp":
            return f"qfx::mul_dsp<ap_int<{self.product_bits}>, {dsp.chain(self.weights.type(), self.operand, self.shape.lanes)}>"
        form = dsp.packing(self.arithmetic, self.weights, self.operand, self.shape.lanes)
        assert form is not None  # it was chosen because it is exact
        numbers = (form.count, form.chain, form.split, form.known, self.weight_bits - 1)
        return f"qfx::mul_packed<{', '.join(map(str, numbers))}, {spelling.raw(form.packed)}, {spelling.raw(form.wide)} >"

    @property
    def cycles(self) -> int:
        """Of a run: of all frames of a batch."""
        return sum(placed.cycles for placed in self.steps)

    def begin(self, value: Value) -> int:
        """The first vector of a value."""
        return begin(value, self.places.at[value.name], self.shape.lanes, self.shape.x_bits, self.layers.batch)


def containers(layers: Layers) -> tuple[int, int]:
    """Bits of the containers of values and of weights: 8 if that holds all that is multiplied, else 16."""
    read = [step.source.width for step in _products(layers) if any(step.epilogue.factor)]
    weights = [step.weight_bits for step in _products(layers)]
    return 8 if max(read, default=8) <= 8 else 16, 8 if max(weights, default=8) <= 8 else 16


def _products(layers: Layers) -> list[Step]:
    """All steps, with those that are computed together with another."""
    return [one for step in layers.steps for one in step.products]


def operands(layers: Layers) -> tuple[FixedType, int]:
    """The type that holds all that is multiplied, and the bits of all weights."""
    read = [step.source for step in _products(layers) if any(step.epilogue.factor)] or [layers.steps[0].source]
    signed = any(value.signed for value in read)
    bits = max(value.width + (signed and not value.signed) for value in read)
    return FixedType(bits, bits, signed), max(2, *(step.weight_bits for step in _products(layers)))


def arithmetic(layers: Layers, shape: Shape, wide: int) -> str:
    """The packing with the most products in a DSP block whose wide port has so many bits, that is exact for any weights; "dsp" if there is none."""
    operand, weight_bits = operands(layers)
    weights = Interval(-(1 << weight_bits - 1), (1 << weight_bits - 1) - 1, 0)
    fitting = [name for name, (_, port) in dsp.PACKED.items() if port <= wide and dsp.packing(name, weights, operand, shape.lanes) is not None]
    return max(fitting, key=lambda name: (dsp.PACKED[name][0], -dsp.PACKED[name][1]), default="dsp")


def engine(layers: Layers, shape: Shape, memory_bytes_per_cycle: float, port_bytes: float, wide: int = dsp.DSP_WIDE) -> Engine:
    """The engine of that shape for the steps, with DSP blocks whose wide port has so many bits.

    Raises ProjectError, naming the step, where a memory of the shape holds no tile of it."""
    if not layers.steps:
        raise ProjectError("has nothing to compute", where="sequential design", remedy="a layer engine needs a layer")
    layers = joined(folded(layers, shape.lanes))
    placed: list[Placed] = []
    known: Known = {}

    def tried(steps: Iterable[Step]) -> list[Placed] | None:
        """Steps in their tiles; None if one of them has no tile that fits."""
        found = []
        for step in steps:
            if alike(step) not in known:
                known[alike(step)] = tiled(step, shape, memory_bytes_per_cycle, port_bytes, layers.batch)
            tile = known[alike(step)]
            if tile is None:
                return None
            found.append(Placed(step, *tile))
        return found

    for step in layers.steps:
        ways = [tried((step,))]
        if step.first is not None:
            ways.append(tried(apart(step)))
        if not any(ways):
            ways.append(tried(part for one in apart(step) for part in parts(one)))
        best = min((way for way in ways if way), key=lambda way: sum(one.cycles for one in way), default=None)
        if best is None:
            what = f"no tile of it fits memories of {shape.x_depth} words of values, {shape.w_depth} of weights and {shape.y_depth} of results"
            raise ProjectError(what, where=step.name, remedy="use a board with more block RAM")
        placed += best
    layers = replace(layers, steps=tuple(one.step for one in placed))
    made = [step.epilogue for step in _products(layers)]
    operand, weight_bits = operands(layers)
    values = max(one.value_bits for one in made)
    acc = max(max(step.acc_bits for step in _products(layers)), shape.x_bits + 2)
    factors = any(f != 1 for one in made for f in one.factor)
    # Inside of a product of factor and sum, and while planes are joined.
    others = [planes(step.beside, shape.x_bits) * shape.x_bits + 1 for step in layers.steps if step.beside is not None]
    value_bits = max(values, acc, shape.x_bits + 2, *others, 0)
    if value_bits > 64 + 8:
        raise UnsupportedError(f"needs words of {value_bits} bits", where=layers.steps[0].name, remedy="cast values to fewer bits")
    beside = [entry for entry in placed if entry.step.beside is not None]
    depths, held = (
        [shape.pixels * entry.tile.pixels * vectors(entry.step, shape) for entry in found]
        for found in (beside, [entry for entry in placed if entry.step.first is not None])
    )
    return Engine(
        layers,
        shape,
        tuple(placed),
        places(layers, shape.lanes, shape.x_bits),
        acc,
        value_bits,
        max(abs(int(f)) for one in made for f in one.factor).bit_length() + 1,
        max((planes(entry.step.beside, shape.x_bits) for entry in beside if entry.step.beside is not None), default=1),
        max(depths, default=1),
        sum(1 << mode for mode in {ROUNDING[one.rounding] for one in made if any(one.down)}),
        sum(1 << mode for mode in {int(one.overflow) for one in made}) | 1 << Overflow.CLAMP,
        factors,
        bool(beside),
        any(one.leaky for one in made),
        any(any(one.up) for one in made),
        any(step.kind is Kind.SUM and step.weight is not None and (step.weight != 1).any() for step in layers.steps),
        operand.signed,
        operand.width,
        weight_bits,
        arithmetic(layers, shape, wide),
        any(entry.tile.sliding for entry in placed),
        max((entry.step.window.kernel[0] for entry in placed if entry.tile.sliding), default=1),
        max(held, default=0),
        max(one.slope for one in made).bit_length() + 1 if any(one.slope != 1 for one in made) else 0,
    )


def least_shape(layers: Layers, lanes: int, vector_count: int, pixels: int, most_weights: int, pixels_of_tile: int) -> Shape:
    """A shape whose memories hold, of each step, a tile of about ``pixels_of_tile`` results a pixel lane; of the weights of one output that come in
    parts, ``most_weights`` words."""
    x_bits, w_bits = containers(layers)
    shape = Shape(lanes, vector_count, pixels, x_bits, w_bits, 1 << 40, 1 << 40, 1 << 40)
    x = w = y = 1
    for step in layers.steps:
        rows = min(ceil(step.target.height / pixels), max(pixels_of_tile // step.target.columns, 1))
        columns = min(step.target.columns, pixels_of_tile)
        tile = cut(step, shape, rows, columns)
        lane_rows, in_columns = input_size(step, tile)
        x = max(x, lane_rows * in_columns * blocks(step.source.channels, lanes))
        y = max(y, pixels * tile.pixels * vectors(step, shape) * planes(step.target, x_bits))
        whole = step.target.height * step.target.columns == 1
        w = max(w, min(entries(step, shape), most_weights) if whole else entries(step, shape))
    shape = Shape(lanes, vector_count, pixels, x_bits, w_bits, x, w, y)
    assert all(fits(step, shape, cut(step, shape, 1, 1)) for step in layers.steps)
    return shape
