"""How a step is cut into tiles and jobs on an array of multipliers, and how many turns each process takes for it: the model of
``hls/include/qfx/sequential``, which tests compare with turns that simulation counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from math import ceil
from typing import Any, cast

import numpy as np

from qfx.hardware.sequential.memory import planes
from qfx.hardware.sequential.values import Kind, Step

PROCESSES = (
    "fetch_x0", "fetch_x1", "place_x0", "place_x1", "fetch_weights", "place_weights", "multiply", "fetch_parameters", "fetch_beside",
    "epilogue", "gather", "write",
)  # fmt: skip
"""In the order of ``qfx::sequential::process``."""

SIDES = 2
"""Values come through a port for each side: the first half of the pixel lanes, which has one more if they are odd, and the other one."""
PARAMETER_WORDS = 4
"""Words of 64 bits that a channel's epilogue takes in memory."""

SHALLOW = 64
"""Words that LUTs hold without a multiplexer behind them (UG574)."""
JOB_CYCLES = 40
"""What a job takes beside its turns: the pipelines of multipliers and epilogue fill and drain. An assumption."""
STEP_CYCLES = 600
"""What a step takes beside its tiles: its instruction, the first words of memory, the last ones written. An assumption: four latencies of memory."""


@dataclass(frozen=True, slots=True)
class Shape:
    """An array: ``lanes`` channels of a vector by ``vectors`` * lanes outputs by ``pixels``, and the sizes of its memories in words: of values for
    each pixel, of weights for each output, of results. ``x_bits`` and ``w_bits`` are those of containers."""

    lanes: int
    vectors: int
    pixels: int
    x_bits: int
    w_bits: int
    x_depth: int
    w_depth: int
    y_depth: int
    lut_pixels: int = 0
    """Pixels whose products are made of LUTs, where DSP blocks are short."""

    @property
    def shallow(self) -> bool:
        """Whether memories of weights are so shallow that they are made of LUTs."""
        return self.w_depth <= SHALLOW

    @property
    def outputs(self) -> int:
        return self.lanes * self.vectors

    @property
    def wide(self) -> int:
        """Outputs whose weights come in one word of memory: as many as two ports of 128 bits carry, and at least two."""
        return _wide(self.outputs, self.lanes * self.w_bits)

    def side(self, number: int) -> tuple[int, int]:
        """The first pixel lane of a side, and how many it has; an engine of one pixel has none on the second."""
        half = (self.pixels + 1) // 2
        return (0, half) if number == 0 else (half, self.pixels - half)

    @property
    def products(self) -> int:
        """In a turn."""
        return self.lanes * self.outputs * self.pixels


@lru_cache(maxsize=1024)
def _wide(outputs: int, vector_bits: int) -> int:
    return max(count for count in (2, 4, 8, 16, 32) if outputs % count == 0 and (count == 2 or count * vector_bits <= 256))


@dataclass(frozen=True, slots=True)
class Tile:
    """How a step is cut: ``rows`` of each pixel lane by ``columns``; ``jobs`` of each tile, their weights in ``segments`` of ``entries`` words, and
    the last of ``last_entries``."""

    rows: int
    columns: int
    tiles_h: int
    tiles_w: int
    jobs: int
    segments: int
    entries: int
    last_entries: int
    sliding: bool = False
    """Whether windows of single channels take the taps of a row at once."""
    batch: int = 1
    """Frames of the run."""
    passes: int = 1
    """Frames of a tile: one, or as many as there are pixel lanes, each of which has the rows of one frame."""

    @property
    def lane_frames(self) -> bool:
        return self.passes > 1

    @property
    def tiles(self) -> int:
        """Of the run."""
        return ceil(self.batch / self.passes) * self.tiles_h * self.tiles_w

    @property
    def pixels(self) -> int:
        return self.rows * self.columns


def blocks(channels: int, lanes: int) -> int:
    return ceil(channels / lanes)


def entries(step: Step, shape: Shape) -> int:
    """Words of weights for one output."""
    taps = step.window.kernel[0] * step.window.kernel[1]
    return taps * blocks(step.source.channels, shape.lanes) if step.kind is Kind.MATRIX else taps


def vectors(step: Step, shape: Shape) -> int:
    """Vectors of results that a job gives of a pixel."""
    return shape.vectors if step.kind is Kind.MATRIX else 1


TAPS = 3
"""The most columns of a window that slides."""


def slides(step: Step, shape: Shape, columns: int) -> bool:
    """Whether windows of single channels that slide along rows of a tile of so many columns take fewer turns than tap by tap."""
    kernel, stride = step.window.kernel[1], step.window.stride[1]
    able = step.kind is not Kind.MATRIX and kernel <= TAPS <= shape.outputs and step.window.dilation[1] == 1
    return able and (columns - 1) * stride + kernel < columns * kernel


def cut(step: Step, shape: Shape, rows: int, columns: int, batch: int = 1, lane_frames: bool = False, sliding: bool | None = None) -> Tile:
    """The step in tiles of that size. ``lane_frames``: the pixel lanes are frames of the batch, not rows of one (of an array with several).
    ``sliding``: whether windows slide along rows (default: where that takes fewer turns)."""
    sliding = slides(step, shape, columns) if sliding is None else sliding
    count, most = step.window.kernel[0] if sliding else entries(step, shape), shape.w_depth
    segments = ceil(count / most) if step.kind is not Kind.MAXIMUM else 1
    each = ceil(count / segments)
    jobs = ceil(blocks(step.target.channels, shape.lanes) / vectors(step, shape))
    passes = shape.pixels if lane_frames else 1
    tiles_h, tiles_w = -(-step.target.height // (rows * shape.pixels // passes)), -(-step.target.columns // columns)
    return Tile(rows, columns, tiles_h, tiles_w, jobs, segments, each, count - (segments - 1) * each, sliding, batch, passes)


def input_size(step: Step, tile: Tile) -> tuple[int, int]:
    """What windows see of a frame in a tile: rows of one pixel lane, and columns."""
    (reach_h, reach_w), (stride_h, stride_w) = step.window.reach, step.window.stride
    return (tile.rows - 1) * stride_h + reach_h, (tile.columns - 1) * stride_w + reach_w


def side_rows(step: Step, shape: Shape, tile: Tile, side: int) -> int:
    """Rows that all windows of a side of a tile see: those of its pixel lanes together, or of each of them where they are frames."""
    first, count = shape.side(side)
    reach, stride = step.window.reach[0], step.window.stride[0]
    if tile.lane_frames:
        return (tile.rows - 1) * stride + reach
    rows = _end(min, (first + count) * tile.rows, step.target.height) - first * tile.rows
    seen: int = (rows > 0) * ((rows - 1) * stride + reach)
    return seen


def fits(step: Step, shape: Shape, tile: Tile) -> bool:
    """Whether the memories of the array hold the tile."""
    x = 0
    for one in step.products:
        rows, columns = input_size(one, tile)
        x += rows * columns * blocks(one.source.channels, shape.lanes)
    y = shape.pixels * tile.pixels * vectors(step, shape) * planes(step.target, shape.x_bits)
    if step.first is not None and max(entries(one, shape) for one in step.products) > shape.w_depth:
        return False
    return (x <= shape.x_depth) & (y <= shape.y_depth) & ((tile.segments == 1) | (tile.pixels == 1))


def turns(step: Step, shape: Shape, tile: Tile) -> dict[str, int]:
    """Turns of each process in the step."""
    target = step.target
    jobs = tile.tiles * tile.jobs
    each = shape.outputs // shape.wide if step.kind is Kind.MATRIX else ceil(TAPS / shape.wide) if tile.sliding else 1
    fetched, placed = [0, 0], [0, 0]
    words = multiplied = 0
    for one in step.products:
        into = blocks(one.source.channels, shape.lanes)
        _, columns = input_size(one, tile)
        seen = into * _seen_columns(one, tile, columns)
        for side in range(SIDES):
            rows = side_rows(one, shape, tile, side)
            fetched[side] += seen * _seen_rows(one, shape, tile, side, rows) * _frames(shape, tile, side)
            placed[side] += tile.tiles * (shape.side(side)[1] if tile.lane_frames else 1) * into * rows * columns
        count = one.window.kernel[0] if tile.sliding else entries(one, shape)
        words += 0 if one.kind is Kind.MAXIMUM else jobs * count * each
        multiplied += jobs * (tile.rows * columns if tile.sliding else tile.pixels) * count
    results = jobs * tile.pixels * shape.pixels * vectors(step, shape)
    size = blocks(target.channels, shape.lanes) * target.pixels * tile.batch
    out = planes(target, shape.x_bits)
    return {
        "fetch_x0": fetched[0],
        "fetch_x1": fetched[1],
        "place_x0": placed[0],
        "place_x1": placed[1],
        "fetch_weights": words,
        "place_weights": words,
        "multiply": multiplied,
        "fetch_parameters": jobs * len(step.products) * vectors(step, shape) * shape.lanes * PARAMETER_WORDS,
        "fetch_beside": 0 if step.beside is None else size * planes(step.beside, shape.x_bits),
        "epilogue": results * (out + len(step.products) - 1),
        "gather": results * out,
        "write": size * out,
    }


def _frames(shape: Shape, tile: Tile, side: int) -> int:
    """Frames of the run that a side reads: all of them, or those of its lanes."""
    if not tile.lane_frames:
        return tile.batch
    first, count = shape.side(side)
    return sum(max(min(tile.batch - group - first, count), 0) for group in range(0, tile.batch, shape.pixels))


def _seen_rows(step: Step, shape: Shape, tile: Tile, side: int, rows: int) -> int:
    """Rows that a side reads of a frame, in all tiles."""
    stride = step.window.stride[0]
    lanes, first = (1, 0) if tile.lane_frames else (shape.pixels, shape.side(side)[0])
    before = step.window.pads[0] - first * tile.rows * stride
    found: int = _each(_seen, tile.tiles_h, lanes * tile.rows * stride, rows, before, step.source.height, 1)
    return found


def _seen_columns(step: Step, tile: Tile, columns: int) -> int:
    before, whole, zoom = step.window.pads[1], step.source.columns, step.source.zoom[1]
    found: int = _each(_seen, tile.tiles_w, tile.columns * step.window.stride[1], columns, before, whole, zoom)
    return found


@lru_cache(maxsize=1 << 14)
def _seen(tiles: int, step: int, size: int, before: int, whole: int, zoom: int) -> int:
    """Along an axis: what is read of what lies within the value, by all tiles together; each number in memory is seen ``zoom`` times."""
    starts = (tile * step - before for tile in range(tiles))
    spans = ((max(start, 0), min(start + size, whole)) for start in starts)
    return sum(ceil(end / zoom) - start // zoom for start, end in spans if end > start)


def memory_bytes(step: Step, shape: Shape, tile: Tile) -> dict[str, int]:
    """What goes through each port."""
    return _bytes(turns(step, shape, tile), shape)


def _bytes(count: dict[str, int], shape: Shape) -> dict[str, int]:
    x, w = shape.lanes * shape.x_bits // 8, shape.wide * shape.lanes * shape.w_bits // 8
    return {
        "values0": count["fetch_x0"] * x,
        "values1": count["fetch_x1"] * x,
        "weights0": count["fetch_weights"] * w // 2,
        "weights1": count["fetch_weights"] * w // 2,
        "beside": count["fetch_beside"] * x,
        "parameters": count["fetch_parameters"] * 8,
        "results": count["write"] * x,
    }


def cycles(step: Step, shape: Shape, tile: Tile, memory_bytes_per_cycle: float, port_bytes: float) -> tuple[int, str]:
    """Clock cycles of the step of a run, and what they are spent on: the slowest process, or memory.

    Processes work at once, each on a tile or a job of its own; so a step takes as long as its slowest process, and what is in front of the first job
    and behind the last one. Memory: bytes by what memory sustains, and each port's by its width.
    """
    count, busy, memory, idle = _spent(step, shape, tile, memory_bytes_per_cycle, port_bytes)
    slowest = max(count, key=count.__getitem__)
    return ceil(max(busy, memory)) + idle, "memory" if memory > busy else slowest


def _spent(step: Step, shape: Shape, tile: Tile, memory_bytes_per_cycle: float, port_bytes: float) -> tuple[dict[str, int], int, float, int]:
    """Turns, the cycles that the slowest process is busy, those of memory, and those in front of the first job and behind the last one."""
    count = turns(step, shape, tile)
    jobs = tile.tiles * tile.jobs
    parts = jobs * (tile.segments + len(step.products) - 1)
    moved = _bytes(count, shape)
    memory = _end(max, sum(moved.values()) / memory_bytes_per_cycle, *(each / port_bytes for each in moved.values()))
    first = count["place_x0"] // tile.tiles + count["place_weights"] // parts
    last = (count["gather"] + count["write"]) // jobs
    return count, _end(max, *count.values()) + parts * JOB_CYCLES, memory, first + last + STEP_CYCLES


Known = dict[tuple[object, ...], "tuple[Tile, int, str] | None"]
"""What was found of steps that are alike."""


def alike(step: Step) -> tuple[object, ...]:
    """What the cycles of a step depend on."""
    source, target = step.source, step.target
    sizes = (source.channels, source.height, source.columns, target.channels, target.height, target.columns, target.width)
    beside = None if step.beside is None else step.beside.width
    return (step.kind, *sizes, step.window, source.zoom, beside, None if step.first is None else alike(step.first))


def tiled(step: Step, shape: Shape, memory_bytes_per_cycle: float, port_bytes: float, batch: int = 1) -> tuple[Tile, int, str] | None:
    """The tile with the fewest cycles of a run, those, and what they are spent on; None if no tile fits."""
    best: tuple[Tile, int, str] | None = None
    for lane_frames in (False, True)[: 1 if min(batch, shape.pixels) == 1 else 2]:
        height = step.target.height if lane_frames else ceil(step.target.height / shape.pixels)
        for sliding in (False, True):
            columns = [size for size in _sizes(step.target.columns) if slides(step, shape, size) is sliding]
            for size in _fastest(step, shape, (_sizes(height), columns), (memory_bytes_per_cycle, port_bytes), (batch, lane_frames, sliding)):
                tile = cut(step, shape, *size, batch, lane_frames)
                taken, what = cycles(step, shape, tile, memory_bytes_per_cycle, port_bytes)
                if best is None or taken < best[1]:
                    best = tile, taken, what
    return best


def _fastest(
    step: Step, shape: Shape, sizes: tuple[Sequence[int], Sequence[int]], memory: tuple[float, float], how: tuple[int, bool, bool]
) -> list[tuple[int, int]]:
    """The rows and columns of the fastest tile that fits, if one does: all are looked at together, as arrays in the place of numbers."""
    if not sizes[1]:
        return []
    rows, columns = np.array(sizes[0]).reshape(-1, 1), np.array(sizes[1]).reshape(1, -1)
    tile = cut(step, shape, cast(int, rows), cast(int, columns), *how)
    room = np.broadcast_to(fits(step, shape, tile), (len(sizes[0]), len(sizes[1])))
    if not room.any():
        return []
    _, busy, moving, idle = _spent(step, shape, tile, *memory)
    taken = np.where(room, np.ceil(np.maximum(busy, moving)) + idle, np.inf)
    row, column = divmod(int(np.argmin(taken)), len(sizes[1]))
    return [(sizes[0][row], sizes[1][column])]


def _end(of: Callable[..., Any], *numbers: Any) -> Any:
    """The least or the greatest of numbers, or of arrays place by place."""
    if not any(isinstance(number, np.ndarray) for number in numbers):
        return of(*numbers)
    return reduce(np.minimum if of is min else np.maximum, numbers)


def _each(function: Callable[..., int], *numbers: Any) -> Any:
    """A function of numbers, or of arrays place by place."""
    if not any(isinstance(number, np.ndarray) for number in numbers):
        return function(*numbers)
    spread = np.broadcast_arrays(*numbers)
    return np.array([function(*map(int, one)) for one in zip(*(array.reshape(-1) for array in spread), strict=True)]).reshape(spread[0].shape)


@lru_cache(maxsize=256)
def _sizes(size: int) -> tuple[int, ...]:
    """Tiles along an axis that are worth a look: those that cut it into equal parts as nearly as that goes, the largest first."""
    return tuple(sorted({ceil(size / parts) for parts in _parts(size)}, reverse=True))


def _parts(size: int) -> Iterator[int]:
    yield from (parts for parts in range(1, size + 1) if parts == 1 or ceil(size / parts) < ceil(size / (parts - 1)))
