"""Convolutions and linear layers whose weights come from the board's memory, each word of them for all pixels of a tile."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import numpy as np

from qfx.fixed.arith import Interval
from qfx.fixed.type import FixedType
from qfx.hardware.cost import pieces
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.products import Products
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design import dsp, loadable
from qfx.hardware.design.loadable import Loadable
from qfx.hardware.design.schedule import Folding
from qfx.hardware.design.storage import SHIFT_DEPTH, Memory
from qfx.hardware.design.streams import Epilogue, Stream
from qfx.hardware.emit.spelling import Unit, accumulator, chains, multiplier, raw, words
from qfx.hardware.folding.memory import tilings
from qfx.hardware.folding.option import Options, Role
from qfx.hardware.processes.process import Front, Setting, Stored
from qfx.hardware.processes.traits import WithEpilogue
from qfx.hardware.timing.delays import Recurrence, accumulated, loops, memory, recurrence
from qfx.hardware.timing.program import MEMORY, MULTIPLY, READ_WRITE, RESTART, Turns, epilogue_latency, held

Plane = tuple[int, ...]
"""h, w, oh, ow, kh, kw, sh, sw, top, left, dh, dw: as ``build.plane_shape`` has it."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """The loops of qfx::tiles: ``chunks`` words make a pixel that comes, ``fold`` words one that leaves, and a tile has ``rows`` rows of results. Of
    both words each of ``groups`` has its share. Of a fully connected layer the pixels of the plane may be ``frames`` that follow each other, each
    with one."""

    plane: Plane
    chunks: int
    fold: int
    rows: int
    groups: int = 1
    frames: int = 1

    @property
    def tiles(self) -> int:
        return self.plane[2] // self.rows

    @property
    def pixels(self) -> int:
        """Of a tile's results."""
        return self.rows * self.plane[3]

    @property
    def span(self) -> int:
        """The rows of the input from the first to the last that a tile needs."""
        _, _, _, _, kh, _, sh, _, _, _, dh, _ = self.plane
        return (self.rows - 1) * sh + (kh - 1) * dh + 1

    @property
    def kept(self) -> int:
        """The rows that are kept."""
        return min(self.span, self.plane[0])

    @property
    def direct(self) -> bool:
        """Whether results come in the order in which they leave."""
        return self.fold == 1 or self.pixels == 1

    @property
    def turns(self) -> int:
        """That make a sum."""
        return self.plane[4] * self.plane[5] * self.chunks // self.groups

    @property
    def weights(self) -> int:
        """Words of weights of a tile."""
        return self.fold * self.turns

    @property
    def loads(self) -> tuple[int, ...]:
        """The rows that are read in front of each tile, and behind the last one."""
        h, sh, top = self.plane[0], self.plane[6], self.plane[8]
        ends = [min(max(tile * self.rows * sh - top + self.span, 0), h) for tile in range(self.tiles)]
        done = np.maximum.accumulate([0, *ends, h])
        return tuple(int(count) for count in np.diff(done))

    @property
    def cycles(self) -> int:
        h, w = self.plane[:2]
        leave = 0 if self.direct else self.pixels * self.fold
        return h * w * self.chunks + self.tiles * (self.weights * self.pixels + leave)


@dataclass(frozen=True, slots=True, eq=False)
class Tiles(WithEpilogue):
    """``input`` has SIMD channels a word, ``output`` PE; ``weights`` brings those of their products once for each tile, lane = simd * pe_count + pe.
    ``bounds``: of the weights' raws; ``turn``: the raw type of what the products of a turn sum to. ``beside``: a second stream, with the words of
    what leaves, whose numbers the epilogue joins with the sums."""

    rewinds: ClassVar[bool] = False

    name: str
    input: Stream
    weights: Stream
    output: Stream
    tiling: Tiling
    bounds: Interval
    turn: FixedType
    acc: FixedType
    epilogue: Epilogue
    arithmetic: str
    beside: Stream | None = None

    @property
    def sources(self) -> tuple[Stream, ...]:
        return (self.input, self.weights) if self.beside is None else (self.input, self.weights, self.beside)

    @property
    def paired(self) -> tuple[Stream, ...]:
        return self.sources[2:]

    @property
    def targets(self) -> tuple[Stream, ...]:
        return (self.output,)

    @property
    def marks(self) -> tuple[Stream, ...]:
        return ()

    @property
    def pe(self) -> int:
        return self.output.parallel

    @property
    def simd(self) -> int:
        return self.input.parallel

    # Time.

    @property
    def cycles(self) -> int:
        held_ = 0 if self.beside is None or self.tiling.direct else self.output.words * self.tiling.frames
        return self.tiling.cycles + held_

    @property
    def latency(self) -> int:
        sums = dsp.delay(self.arithmetic, *self._roles, self.simd)
        return READ_WRITE + 2 * MEMORY + MULTIPLY + sums + 1 + epilogue_latency(self.epilogue)

    @property
    def pause(self) -> int:
        return self.paused(self.latency)

    def paused(self, latency: int) -> int:
        """The pause with such a latency: each of its loops runs empty before the next begins."""
        loops_ = self.tiling.tiles * (2 if self.tiling.direct else 3 + (self.beside is not None))
        return loops_ * latency + RESTART

    def turns(self) -> Turns:
        return _turns(self.tiling, self.beside is not None)

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        h, w, oh, ow, kh, kw, *_ = self.tiling.plane
        counts = (oh // self.tiling.rows, self.tiling.fold, kh, kw, self.tiling.chunks // self.tiling.groups, self.tiling.rows, ow)
        if not self.sums.depth:
            total = accumulated(self._total.width)
        else:
            total = recurrence("a sum in its memory", memory(), *accumulated(self._total.width).operators, turns=SHIFT_DEPTH)
        return (loops(h, w, self.tiling.chunks), loops(*counts), total)

    @property
    def _roles(self) -> tuple[Interval, FixedType, FixedType]:
        return dsp.roles(self.arithmetic, self.bounds, self.weights.type, self.input.type, 1)

    @property
    def _turn(self) -> FixedType:
        """The raw type of the products of a turn together, no wider than the accumulator."""
        return self.turn if self.turn.width < self.acc.width else self.acc

    @property
    def _total(self) -> FixedType:
        """What the sums of turns are added in: wider than they (matvec.h)."""
        return replace(self.acc, width=self.acc.width + (self._turn.width >= self.acc.width and self.tiling.turns > 1))

    # Resources.

    @property
    def kept(self) -> Memory:
        """The rows of the input that a tile needs."""
        return Memory(self.tiling.kept * self.tiling.plane[1] * self.tiling.chunks, self.input.bits)

    @property
    def sums(self) -> Memory:
        """The sums of a tile's pixels; no words if they are registers that shift."""
        pixels = self.tiling.pixels
        return Memory(pixels if pixels > SHIFT_DEPTH else 0, self.pe * self._total.width)

    @property
    def results(self) -> Memory:
        """What waits until the tile is done."""
        return Memory(0 if self.tiling.direct else self.tiling.pixels * self.tiling.fold, self.output.bits)

    @property
    def others(self) -> Memory:
        """What is held of the second stream."""
        return Memory(0, 1) if self.beside is None else Memory(self.results.depth, self.beside.bits)

    @property
    def memories(self) -> tuple[Memory, ...]:
        return (self.kept, self.sums, self.results, self.others, *self.tables)

    def logic(self, on: Device) -> Resources:
        """The loops over a tile, the products and their sums in a turn, and the epilogue of each lane."""
        return r.total([self.nest(), self.products(on), pieces.epilogue(self.epilogue, self.pe, on)])

    def nest(self) -> Resources:
        """The counters of its loops, the places of a window, and the sums of all pixels where they are registers: the same with any arithmetic."""
        h, w, oh, ow, kh, kw, *_ = self.tiling.plane
        acc, depth = self._total.width, max(self.kept.depth, 2).bit_length()
        found = [r.counter(count) for count in (h, w, self.tiling.chunks) if count > 1]
        nest = (oh // self.tiling.rows, self.tiling.fold, kh, kw, self.tiling.chunks // self.tiling.groups, self.tiling.rows, ow)
        found += [r.counter(count) for count in nest if count > 1]
        found += [r.adder(depth)] * (self.tiling.groups > 1)
        found += [r.adder(depth)] * 4 + [r.comparison(max(h, w).bit_length() + 1)] * 4  # the place of a tap, and whether it lies in the frame
        found += [r.multiplexer(2, self.input.bits)] if kh * kw > 1 else []
        found.append((r.adder(acc) if self.tiling.turns > 1 else Resources(ff=acc)) * self.pe)
        if not self.sums.depth and self.tiling.pixels > 1:
            found.append(Resources(ff=acc * self.pe * self.tiling.pixels))
        return r.total(found)

    def products(self, on: Device) -> Resources:
        """The handshake, the products of a turn and their sums: the same with any rows."""
        x, weight = self.input.type, self.weights.type
        lanes = self.pe * self.simd
        found = [r.handshake(1 + len(self.sources), self.latency), Resources(ff=self.simd * x.width + lanes * weight.width)]
        if dsp.sums(self.arithmetic):
            between, packed, other = self._roles
            found.append(Products(self.pe, self.simd, other, between, packed, False, self.acc.width).take(self.arithmetic, on))
        else:
            factors = (x.width + (not x.signed), weight.width + (not weight.signed))
            found.append(r.product(*factors, self.arithmetic, on) * lanes)
            found.append(r.adder_tree(self.simd, min(sum(factors), self.acc.width), self.acc.width) * self.pe)
        return r.total(found)

    # Constants.

    @property
    def loads(self) -> tuple[Loadable, ...]:
        return loadable.tables(self.epilogue.tables)

    @property
    def stored(self) -> Stored | None:
        return None

    # Text.

    def unit(self, ports: tuple[str, str]) -> Unit:
        tiling, x = self.tiling, self.input.type
        frame = f"qfx::tiles_frame<{', '.join(map(str, tiling.plane))}>"
        numbers = (tiling.chunks, tiling.fold, self.pe, self.simd, tiling.rows, tiling.groups)
        frames = (tiling.frames,) if tiling.frames > 1 else ()
        product = multiplier(self.arithmetic, np.array([[self.bounds.lo, self.bounds.hi]]), x, self.simd)
        acc = accumulator(self.epilogue)
        turn = raw(self._turn) if self._turn.width < self.acc.width else acc
        types = (acc, product, turn, accumulator(self.epilogue, self._total.width - self.acc.width))
        shape = f"qfx::tiles_shape<{', '.join(map(str, (frame, *numbers, *types, *frames)))} >"
        beside = {} if self.beside is None else {"beside": self.beside}
        streams = {"in": self.input, "weights": self.weights, **beside, "out": self.output}
        arguments = ", ".join((*streams, "kept", "sums", "results", *["others"] * len(beside)))
        call = f"qfx::tiles{'_with' * len(beside)}<shape, {self.name}_epilogue>({arguments});"
        unit = self.call_with_epilogue(streams, call, self.pe)
        arrays = [*words("kept", raw(x), self.simd, self.kept)]
        if self.sums.depth:
            arrays += words("sums", "shape::total", self.pe, self.sums)
            arrays.append(f"#pragma HLS DEPENDENCE variable=sums inter RAW distance={SHIFT_DEPTH} true")
        else:
            arrays += [f"shape::total sums[{tiling.pixels}][{self.pe}];", "#pragma HLS ARRAY_PARTITION variable=sums complete dim=0"]
        arrays += words("results", raw(self.output.type), self.pe, self.results)
        if self.beside is not None:
            arrays += words("others", raw(self.beside.type), self.pe, self.others)
        return replace(unit, body=(f"typedef {shape} shape;", *arrays, *unit.body), pragmas=(*chains(self.arithmetic, self.simd), *unit.pragmas))

    # Folding.

    @property
    def folding(self) -> Folding:
        """As it is folded."""
        return Folding(self.pe, self.simd, self.arithmetic, weights="ddr", rows=self.tiling.rows)

    def folded(self, pe: int, simd: int, rows: int, arithmetic: str) -> Tiles:
        """It with another folding; ``turn`` is then no narrower than it needs to be."""
        own = self.tiling
        tiling = Tiling(own.plane, own.chunks * self.simd // simd, own.fold * self.pe // pe, rows, own.groups, own.frames)
        turn = (self.bounds * Interval.of(self.input.type.with_frac_bits(0))).times(simd).type()
        streams = (self.input.with_parallel(simd), self.weights.with_parallel(pe * simd), self.output.with_parallel(pe))
        beside = None if self.beside is None else self.beside.with_parallel(pe)
        return Tiles(self.name, *streams, tiling, self.bounds, turn, self.acc, self.epilogue, arithmetic, beside)

    @property
    def role(self) -> Role:
        return Role.MATVEC

    @property
    def front(self) -> Front | None:
        return None

    def limit(self, setting: Setting) -> str:
        return "it goes over a tap and a pixel of its result a cycle, and over as many weights as words of them can hold"

    def options(self, setting: Setting) -> Options:
        return tilings.options(self, setting)


@lru_cache(maxsize=64)
def _turns(tiling: Tiling, beside: bool) -> Turns:
    w = tiling.plane[1]
    turn, results = 0, tiling.pixels * tiling.fold
    loads, weights, writes, others = [], [], [], []
    *before, rest = (rows * w * tiling.chunks for rows in tiling.loads)
    for count in before:
        if beside and not tiling.direct:
            others.append(turn + np.arange(results, dtype=np.int64))
            turn += results
        loads.append(turn + np.arange(count, dtype=np.int64))
        turn += count
        each = turn + np.arange(tiling.weights, dtype=np.int64) * tiling.pixels
        weights.append(each)
        turn += tiling.weights * tiling.pixels
        if tiling.direct:
            lasts = each.reshape(tiling.fold, -1)[:, -1:]
            writes.append((lasts + np.arange(tiling.pixels, dtype=np.int64)).flatten())
        else:
            writes.append(turn + np.arange(results, dtype=np.int64))
            turn += results
    loads.append(turn + np.arange(rest, dtype=np.int64))
    gives = held(np.concatenate(writes))
    reads = [held(np.concatenate(loads)), held(np.concatenate(weights))]
    reads += [] if not beside else [gives if tiling.direct else held(np.concatenate(others))]
    return turn + rest, tuple(reads), (gives,)
