"""What lies in memory beside values: the program, the weights, and what the epilogue knows of channels. Plain little-endian data."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt

from qfx.fixed.type import FixedType
from qfx.fixed.vectors import Place, put
from qfx.hardware.sequential.engine import Engine, Placed
from qfx.hardware.sequential.memory import planes
from qfx.hardware.sequential.tiles import PARAMETER_WORDS, TAPS, Shape, blocks, entries, vectors
from qfx.hardware.sequential.values import ROUNDING, Kind, Step, Value
from qfx.ir.values import RawArray

_WINDOW = (
    "at", "blocks", "height", "width", "is_signed", "zoom_h", "zoom_w", "lines", "line",
    "kernel_h", "kernel_w", "stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w", "entries",
)  # fmt: skip
_STEP = (
    "kind", "inputs", "fill", "height", "width", "blocks", "frames", "lane_frames", "rows", "columns", "tiles_h", "tiles_w",
    "jobs", "segments", "last_entries", "weights_at", "parameters_at", "y_at", "planes", "beside_at", "beside_planes", "beside_signed",
    "sliding", "leak", "slope", "rounding", "overflow", "bits", "is_signed",
)  # fmt: skip
FIELDS = (*_STEP, *(f"in[{number}].{name}" for number in (0, 1) for name in _WINDOW))
"""The words of an instruction, in the order of ``read_step``."""

STEP_WORDS = 72
"""Words of 64 bits of an instruction; those behind the fields are 0."""


@dataclass(frozen=True, slots=True)
class Image:
    """``program`` and ``parameters`` are words of 64 bits, ``weights`` vectors of containers; ``digest``: of all of them."""

    program: bytes
    parameters: bytes
    weights: bytes

    def files(self, engine: Engine) -> dict[str, bytes]:
        """What each port reads, by the name of its file: one port brings the first half of every word of weights, the other one the second half."""
        half = engine.shape.wide // 2 * engine.shape.lanes * engine.shape.w_bits // 8
        halves = np.frombuffer(self.weights, dtype=np.uint8).reshape(-1, 2, half)
        found = {"program": self.program, "parameters": self.parameters}
        return found | {f"weights{port}": np.ascontiguousarray(halves[:, port]).tobytes() for port in (0, 1)}

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.program + self.parameters + self.weights).hexdigest()


def image(engine: Engine) -> Image:
    """What the engine finds in memory."""
    program, parameters, weights = [], [], []
    weights_at = parameters_at = 0
    for placed in engine.steps:
        packed, known = _weights(engine, placed), _parameters(engine, placed)
        program.append(_instruction(engine, placed, weights_at, parameters_at))
        weights.append(packed.tobytes())
        parameters.append(known.tobytes())
        weights_at += packed.size // (engine.shape.lanes * engine.shape.wide)
        parameters_at += known.size
    return Image(b"".join(program), b"".join(parameters), b"".join(weights))


def _instruction(engine: Engine, placed: Placed, weights_at: int, parameters_at: int) -> bytes:
    step, tile, shape = placed.step, placed.tile, engine.shape
    target, made = step.target, step.epilogue
    fill = 1 << shape.x_bits - 1 if step.kind is Kind.MAXIMUM and step.source.signed else 0
    other = step.beside
    beside = (0, 0, 0) if other is None else (engine.begin(other), planes(other, shape.x_bits), int(other.signed))
    values = (
        int(step.kind), len(step.products), fill, target.height, target.columns, blocks(target.channels, shape.lanes),
        tile.batch, int(tile.lane_frames), tile.rows, tile.columns, tile.tiles_h, tile.tiles_w,
        tile.jobs, tile.segments, tile.last_entries, weights_at, parameters_at,
        engine.begin(target), planes(target, shape.x_bits), *beside,
        int(tile.sliding), made.leak, made.slope, ROUNDING[made.rounding], int(made.overflow), made.bits, int(made.signed),
        *(field for one in step.products for field in _window(engine, one, tile.entries if one is step else entries(one, shape))),
    )  # fmt: skip
    words = np.zeros(STEP_WORDS, dtype="<i8")
    words[: len(values)] = values
    return words.tobytes()


def _window(engine: Engine, step: Step, words: int) -> tuple[int, ...]:
    window, source = step.window, step.source
    return (
        engine.begin(source), blocks(source.channels, engine.shape.lanes), source.height, source.columns, int(source.signed),
        *source.zoom, *source.held, *window.kernel, *window.stride, *window.pads, *window.dilation, words,
    )  # fmt: skip


def _weights(engine: Engine, placed: Placed) -> npt.NDArray[np.signedinteger]:
    """Of a matrix job by job, word by word, output by output: a vector of channels; of a sum block by block, a tap or those of a row in an entry."""
    step, shape = placed.step, engine.shape
    dtype = np.dtype(f"<i{shape.w_bits // 8}")
    if step.weight is None:
        return np.zeros(0, dtype=dtype)
    lanes = shape.lanes
    if step.kind is Kind.SUM:
        rows, columns = (step.weight.shape[1], step.weight.shape[2]) if placed.tile.sliding else (step.weight[0].size, 1)
        width = ceil(TAPS / shape.wide) * shape.wide if placed.tile.sliding else shape.wide  # vectors of an entry, in whole words
        first = TAPS - columns if placed.tile.sliding else 0
        alone = np.zeros((placed.tile.jobs, rows, width, lanes), dtype=dtype)
        one = np.zeros((placed.tile.jobs * lanes, rows, columns), dtype=dtype)
        one[: len(step.weight)] = step.weight.reshape(-1, rows, columns)
        alone[:, :, first : first + columns] = one.reshape(placed.tile.jobs, lanes, rows, columns).transpose(0, 2, 3, 1)
        return alone
    return np.concatenate([_matrix(one, shape, placed.tile.jobs) for one in step.products], axis=1)


def _matrix(step: Step, shape: Shape, jobs: int) -> npt.NDArray[np.signedinteger]:
    """(jobs, words, outputs, lanes)."""
    assert step.weight is not None  # a matrix has weights
    lanes = shape.lanes
    channels = blocks(step.source.channels, lanes) * lanes
    filled = np.zeros((jobs * shape.outputs, channels, *step.weight.shape[2:]), dtype=np.dtype(f"<i{shape.w_bits // 8}"))
    filled[: len(step.weight), : step.weight.shape[1]] = step.weight
    # (jobs, outputs, blocks, lanes, taps) to (jobs, taps, blocks, outputs, lanes)
    parts = filled.reshape(jobs, shape.outputs, channels // lanes, lanes, -1).transpose(0, 4, 2, 1, 3)
    assert parts.shape[1] * parts.shape[2] == entries(step, shape)
    return np.ascontiguousarray(parts).reshape(jobs, -1, shape.outputs, lanes)


def _parameters(engine: Engine, placed: Placed) -> npt.NDArray[np.int64]:
    """Job by job, and in a job input by input."""
    rows = [_channels(one, placed.tile.jobs * vectors(one, engine.shape) * engine.shape.lanes) for one in placed.step.products]
    return np.stack([one.reshape(placed.tile.jobs, -1) for one in rows], axis=1)


def _channels(step: Step, count: int) -> npt.NDArray[np.int64]:
    made = step.epilogue
    rows = np.zeros((count, PARAMETER_WORDS), dtype="<i8")
    of = slice(0, step.target.channels)
    rows[of, 0] = made.added.astype(np.int64)
    shifts = [(numbers.astype(np.int64), at) for numbers, at in ((made.beside_up, 32), (made.down, 40), (made.up, 48))]
    rows[of, 1] = (made.factor.astype(np.int64) & 0xFFFFFFFF) + sum(numbers << at for numbers, at in shifts)
    rows[of, 2], rows[of, 3] = made.least.astype(np.int64), made.greatest.astype(np.int64)
    return rows


def place(value: Value, engine: Engine, shape: tuple[int, ...] | None = None) -> Place:
    """Where a value lies in memory; of an input that is folded, how frames get there. ``shape``: that of the frame (default: with three axes)."""
    fold, bits = engine.layers.fold(value), engine.shape.x_bits
    return Place(
        FixedType(value.width, value.width, value.signed),
        (fold.channels, value.height, fold.columns) if shape is None else shape,
        engine.begin(value),
        fold.channels,
        value.height,
        value.columns,
        engine.shape.lanes,
        bits,
        fold.kernel,
        fold.stride,
        fold.before,
        fold.dilation,
        engine.layers.batch,
    )


def as_vectors(raw: RawArray, value: Value, engine: Engine) -> bytes:
    """The raws (frames of a batch, channels, height, width in any shape) as they lie in memory; of an input that is folded, of frames as they
    come."""
    of = place(value, engine)
    return put(raw.reshape(-1, *of.shape), of).tobytes()
