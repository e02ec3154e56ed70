"""The tile that is chosen for a step, against all tiles one by one."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import pytest
from test_sequential_steps import apart, flattened, moved, residual

from qfx.hardware.board import board
from qfx.hardware.sequential import plan as planning
from qfx.hardware.sequential.merging import joined
from qfx.hardware.sequential.steps import layers
from qfx.hardware.sequential.tiles import Shape, Tile, cut, cycles, fits, tiled
from qfx.hardware.sequential.values import Step
from qfx.ir.graph import Graph

SHAPES = (
    Shape(2, 2, 2, 16, 16, 2048, 2048, 2048),
    Shape(4, 1, 3, 8, 8, 40, 64, 64),
    Shape(8, 2, 1, 8, 8, 512, 64, 512),
    Shape(4, 1, 3, 8, 8, 4, 64, 4),
)
MEMORY = 4.0, 2.0


def one_by_one(step: Step, shape: Shape, batch: int) -> list[tuple[Tile, int]]:
    """Every tile that fits, with its cycles."""
    found = []
    for lane_frames in (False, True) if batch > 1 and shape.pixels > 1 else (False,):
        height = step.target.height if lane_frames else ceil(step.target.height / shape.pixels)
        for rows in range(1, height + 1):
            for columns in range(1, step.target.columns + 1):
                tile = cut(step, shape, rows, columns, batch, lane_frames)
                if fits(step, shape, tile):
                    found.append((tile, cycles(step, shape, tile, *MEMORY)[0]))
    return found


@pytest.mark.parametrize("graph", [residual(), moved(), apart(), flattened()], ids=lambda graph: graph.name)
@pytest.mark.parametrize("batch", [1, 3])
def test_no_tile_that_cuts_evenly_is_faster(graph: Graph, batch: int) -> None:
    fitting = 0
    for shape in SHAPES:
        for step in joined(layers(graph)).steps:
            chosen = tiled(step, shape, *MEMORY, batch)
            alone = one_by_one(step, shape, batch)
            assert (chosen is None) == (not alone)
            if chosen is not None:
                tile, taken, _ = chosen
                assert (tile, taken) in alone
                least = min(each for other, each in alone if _even(step, shape, other))
                assert taken == least
                fitting += 1
    assert fitting


def _even(step: Step, shape: Shape, tile: Tile) -> bool:
    """Whether no smaller tile gives as few tiles."""
    height = step.target.height if tile.lane_frames else ceil(step.target.height / shape.pixels)
    return all(size == ceil(whole / ceil(whole / size)) for size, whole in ((tile.rows, height), (tile.columns, step.target.columns)))


@pytest.mark.parametrize("graph", [residual(), moved(), apart(), flattened()], ids=lambda graph: graph.name)
@pytest.mark.parametrize("batch", [1, 3])
def test_no_array_is_faster_than_its_bound(graph: Graph, batch: int) -> None:
    """The search ends where the bound of the next array is no less than what was found."""
    made, ultra = replace(layers(graph), batch=batch), board("ultra96v2")
    memory, port = planning.bytes_per_cycle(ultra, 5.0), ultra.memory_port_bits / 8
    found = 0
    for shape in list(planning._arrays(made, ultra))[::23]:
        planned = planning._on_board(made, shape, ultra, 5.0, memory, port)
        if planned is not None:
            assert planning._least_cycles(made, shape, port) < planned.engine.cycles
            found += 1
    assert found > 2
