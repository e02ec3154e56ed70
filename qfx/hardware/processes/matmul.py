"""The product of two matrices that both travel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

from qfx.fixed.arith import Interval
from qfx.fixed.type import FixedType
from qfx.hardware.cost import pieces
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.products import Products
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design import dsp, storage
from qfx.hardware.design.schedule import Folding
from qfx.hardware.design.storage import Memory
from qfx.hardware.design.streams import MAX_PIECES, Epilogue, Stream
from qfx.hardware.emit.spelling import Unit, chains, lanes, product, raw
from qfx.hardware.folding.option import AS_FAR_AS_IT_GOES, Option, Role, divisors, fits_word
from qfx.hardware.processes.process import Setting
from qfx.hardware.processes.traits import TwoToOne, Unweighted
from qfx.hardware.timing.delays import Recurrence, accumulated, loops, named, wrapping
from qfx.hardware.timing.program import MEMORY, MULTIPLY, READ_WRITE, Turns, epilogue_latency, every, held

_ARITHMETIC = ("dsp", "lut")
"""What is chosen from, the first of equals."""


@dataclass(frozen=True, slots=True)
class ProductShape:
    """``matrices`` products of (rows, inputs) by (inputs, outputs) a frame."""

    matrices: int
    rows: int
    outputs: int
    inputs: int


@dataclass(frozen=True, slots=True)
class MatMul(TwoToOne, Unweighted):
    """The first of ``inputs`` comes row by row, the second column by column, both in words of SIMD terms; the result leaves row by row, PE numbers a
    word. Of the second a matrix is kept, and of the first a row; a matrix is read whole before the rows that meet it."""

    rewinds: ClassVar[bool] = False

    name: str
    inputs: tuple[Stream, Stream]
    output: Stream
    shape: ProductShape
    acc: FixedType
    epilogue: Epilogue
    arithmetic: str

    @property
    def pe(self) -> int:
        return self.output.parallel

    @property
    def simd(self) -> int:
        return self.inputs[0].parallel

    @property
    def _folds(self) -> tuple[int, int]:
        """The turns for all outputs of a row, and for all terms of an output."""
        return self.shape.outputs // self.pe, self.shape.inputs // self.simd

    # Time.

    @property
    def cycles(self) -> int:
        outputs, inputs = self._folds
        return self.shape.matrices * inputs * (self.shape.outputs + self.shape.rows * outputs)

    @property
    def latency(self) -> int:
        a, b = (stream.type for stream in self.inputs)
        sums = dsp.delay(self.arithmetic, Interval.of(b), b, a, self.simd)
        return READ_WRITE + MEMORY + MULTIPLY + sums + 1 + epilogue_latency(self.epilogue)

    def turns(self) -> Turns:
        return _turns(self.shape, *self._folds)

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        outputs, inputs = self._folds
        lanes = self.pe
        load = loops(self.shape.matrices, outputs, lanes, inputs)
        return (
            load,
            loops(self.shape.rows, outputs, inputs),
            accumulated(self._total.width),
            named(wrapping(outputs * inputs), "the place in the matrix"),
        )

    @property
    def _turn(self) -> FixedType:
        """The raw type of the products of a turn together, no wider than the accumulator."""
        a, b = (Interval.of(stream.type.with_frac_bits(0)) for stream in self.inputs)
        total = (a * b).times(self.simd).type()
        return total if total.width < self.acc.width else self.acc

    @property
    def _total(self) -> FixedType:
        """What the sums of turns are added in: wider than they (matvec.h)."""
        return replace(self.acc, width=self.acc.width + (self._turn.width >= self.acc.width and self._folds[1] > 1))

    # Resources.

    @property
    def matrix(self) -> Memory:
        """The matrix that is kept: a memory for each number that a turn reads of it."""
        outputs, inputs = self._folds
        return Memory(outputs * inputs, self.inputs[1].type.width, self.pe * self.simd)

    @property
    def row(self) -> Memory:
        """The row that meets the matrix."""
        outputs, inputs = self._folds
        return storage.kept(inputs, self.inputs[0].type.width, self.simd, outputs)

    @property
    def memories(self) -> tuple[Memory, ...]:
        return (self.matrix, self.row, *self.tables)

    def logic(self, on: Device) -> Resources:
        """The products and their sums in a turn, the accumulators, the counters, the registers, and the epilogue of each lane."""
        outputs, inputs = self._folds
        a, b = (stream.type for stream in self.inputs)
        lanes, acc = self.pe * self.simd, self.acc.width
        factors = (a.width + (not a.signed), b.width + (not b.signed))
        loops = (self.shape.matrices, self.shape.outputs, self.shape.rows, outputs, inputs, outputs * inputs)
        found = [r.handshake(3, self.latency), *(r.counter(loop) for loop in loops if loop > 1)]
        if dsp.sums(self.arithmetic):
            found.append(Products(self.pe, self.simd, a, Interval.of(b), b, False, acc).take(self.arithmetic, on))
        else:
            found.append(r.product(*factors, self.arithmetic, on) * lanes)
            found.append(r.adder_tree(self.simd, min(sum(factors), acc), acc) * self.pe)
        found.append((r.adder(acc) if inputs > 1 else Resources(ff=acc)) * self.pe)
        if outputs > 1:
            found.append(r.multiplexer(2, self.simd * a.width))
        found.append(Resources(ff=self.simd * a.width + lanes * b.width))
        return r.total([*found, pieces.epilogue(self.epilogue, self.pe, on)])

    # Text.

    def unit(self, ports: tuple[str, str]) -> Unit:
        a, b = (stream.type for stream in self.inputs)
        numbers = (self.shape.matrices, self.shape.rows, self.shape.outputs, self.shape.inputs, self.pe, self.simd)
        types = (raw(self.acc), product(self.arithmetic, b, a, self.simd), raw(self._turn), raw(self._total))
        shape = f"qfx::matmul_shape<{', '.join(map(str, (*numbers, *types)))} >"
        streams = {"a": self.inputs[0], "b": self.inputs[1], "out": self.output}
        unit = self.call_with_epilogue(streams, f"qfx::matmul<shape, {self.name}_epilogue>(a, b, out, matrix, kept);")
        outputs, inputs = self._folds
        arrays = lanes("matrix", raw(b), outputs * inputs, self.pe * self.simd, self.matrix) + lanes("kept", raw(a), inputs, self.simd, self.row)
        return replace(unit, body=(f"typedef {shape} shape;", *arrays, *unit.body), pragmas=(*chains(self.arithmetic, self.simd), *unit.pragmas))

    # Folding.

    @property
    def role(self) -> Role:
        return Role.MATVEC

    @property
    def front(self) -> None:
        return None

    def limit(self, setting: Setting) -> str:
        return AS_FAR_AS_IT_GOES

    def options(self, setting: Setting) -> list[Option]:
        pinned, (a, b) = setting.pinned, self.inputs
        pairs = [(pe, simd) for pe in divisors(self.shape.outputs) for simd in divisors(self.shape.inputs)]
        pairs = [
            (pe, simd) for pe, simd in pairs if fits_word(simd, a) and fits_word(simd, b) and fits_word(pe, self.output) and pe * simd <= MAX_PIECES
        ]
        found = []
        for pe, simd in [(pinned.pe, pinned.simd)] if pinned else pairs:
            streams = {"inputs": (a.with_parallel(simd), b.with_parallel(simd)), "output": self.output.with_parallel(pe)}
            for name in (pinned.arithmetic,) if pinned else _ARITHMETIC:
                unit = replace(self, arithmetic=name, **streams)  # type: ignore[arg-type]
                cost = unit.cost(setting.on) + pieces.queue(self.output, pe)
                found.append(Option(Folding(pe, simd, name), simd, pe, unit.busy, cost))
        return found


@lru_cache(maxsize=64)
def _turns(shape: ProductShape, output_fold: int, input_fold: int) -> Turns:
    load = shape.outputs * input_fold
    row = output_fold * input_fold
    frame = every(shape.matrices * (load + shape.rows * row)).reshape(shape.matrices, -1)
    rows = frame[:, load:].reshape(shape.matrices, shape.rows, output_fold, input_fold)
    reads = (held(rows[:, :, 0, :].flatten()), held(frame[:, :load].flatten()))
    return frame.size, reads, (held(rows[:, :, :, -1].flatten()),)
