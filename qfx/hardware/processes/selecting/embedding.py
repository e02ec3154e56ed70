"""Rows of a table, by their number."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from qfx.fixed.type import FixedType
from qfx.hardware.cost import pieces
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design import loadable, storage
from qfx.hardware.design.loadable import Loadable
from qfx.hardware.design.schedule import Folding
from qfx.hardware.design.storage import Memory, Storage
from qfx.hardware.design.streams import Epilogue, IntArray, Stream
from qfx.hardware.emit.spelling import Unit, pack_weights, rows
from qfx.hardware.folding.option import AS_FAR_AS_IT_GOES, Option, Role, divisors, fits_word
from qfx.hardware.processes.process import Setting, Stored
from qfx.hardware.processes.traits import OneToOne, WithEpilogue
from qfx.hardware.timing.delays import Recurrence, adder, choice, loops, recurrence
from qfx.hardware.timing.program import MEMORY, READ_WRITE, Turns, epilogue_latency, spread


@dataclass(frozen=True, slots=True, eq=False)
class Embedding(OneToOne, WithEpilogue):
    """A row of ``rows``, (count, width) raws of ``type``, for each number that comes: ``width`` numbers, one row after the other. A number beyond
    either end reads the row at that end."""

    name: str
    input: Stream
    output: Stream
    rows: IntArray
    type: FixedType
    epilogue: Epilogue

    # Time.

    @property
    def _words(self) -> int:
        """Of a row."""
        return int(self.rows.shape[1]) // self.output.parallel

    @property
    def cycles(self) -> int:
        return self.output.words

    @property
    def latency(self) -> int:
        return READ_WRITE + 1 + MEMORY + epilogue_latency(self.epilogue)  # 1: the row that is nearest

    def turns(self) -> Turns:
        return spread(self.input.words, self._words)

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        address = recurrence("the address", adder(max(self.rom.depth - 1, 1).bit_length()), choice())
        return (loops(self.input.words, self._words), address)

    # Resources.

    @property
    def rom(self) -> Memory:
        """The table."""
        (rom,) = storage.weights(self.rows.size // self.output.parallel, self.output.parallel, self.type.width, loaded=False)
        return rom

    @property
    def memories(self) -> tuple[Memory, ...]:
        return (self.rom, *self.tables)

    def logic(self, on: Device) -> Resources:
        lanes, address = self.output.parallel, max(self.rom.depth - 1, 1).bit_length()
        x, last = self.input.type, len(self.rows) - 1
        ends = r.comparison(x.width) * (int(x.signed) + (x.max_raw > last)) + r.multiplexer(2, address)
        return r.total([self.control(), ends, r.adder(address), pieces.epilogue(self.epilogue, lanes, on)])

    # Constants.

    @property
    def loads(self) -> tuple[Loadable, ...]:
        return loadable.tables(self.epilogue.tables)

    @property
    def stored(self) -> Stored:
        bits, rom = int(self.rows.size) * self.type.width, self.rom
        blocks = r.bram18(rom.depth, rom.width) * rom.count if rom.storage is Storage.BRAM else 0
        return Stored(bits, bits, False, blocks)

    # Text.

    def unit(self, ports: tuple[str, str]) -> Unit:
        lanes, (count, width) = self.output.parallel, self.rows.shape
        words = np.swapaxes(self.rows.reshape(count, width // lanes, lanes), 0, 1).reshape(-1, lanes)
        table, reader = pack_weights(f"{self.name}_rows", words, self.type)
        call = f"qfx::embedding<{reader}, {self.name}_epilogue, {self.input.words}, {count}, {width // lanes}>(in, out, {table.name});"
        unit = self.call_with_epilogue({"in": self.input, "out": self.output}, call)
        return replace(unit, constants=(table, *unit.constants), pragmas=(*rows(table.name, self.rom), *unit.pragmas))

    # Folding.

    @property
    def role(self) -> Role:
        return Role.OTHER

    @property
    def front(self) -> None:
        return None

    def limit(self, setting: Setting) -> str:
        return AS_FAR_AS_IT_GOES

    def options(self, setting: Setting) -> list[Option]:
        widths = [pe for pe in divisors(self.rows.shape[1]) if fits_word(pe, self.output)]
        return [self._option(pe, setting) for pe in ([setting.pinned.pe] if setting.pinned else widths)]

    def _option(self, pe: int, setting: Setting) -> Option:
        wide = replace(self, output=self.output.with_parallel(pe))
        return Option(Folding(pe), 1, pe, wide.busy, wide.cost(setting.on) + pieces.queue(wide.output, pe))
