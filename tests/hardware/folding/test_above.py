"""A rate that is made otherwise: what is faster is found as without it, and where nothing can be, nothing is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hardware_models import chain, classifier, conv, residual, scalar

from qfx.errors import ProjectError
from qfx.hardware.board import board
from qfx.hardware.cost.estimate import capacity
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Request, Schedule
from qfx.hardware.folding.market import Market, vector
from qfx.hardware.folding.options import layers
from qfx.hardware.folding.prices import COLUMNS
from qfx.hardware.folding.search import _Search, resolve
from qfx.ir.graph import Graph
from qfx.operators import Cast

BOARD = replace(board("ultra96v2"), lut=6000, ff=12000, dsp=24, bram36=8)
NARROW = Cast(scalar("ap_fixed<6,3,AP_RND,AP_SAT>"))


def deep() -> Graph:
    return chain("deep", (4, 8, 8), conv(0, 8, 4, 3, 3, pads=(1, 1)), NARROW, conv(2, 8, 8, 3, 3, pads=(1, 1)), NARROW, conv(4, 8, 8, 1, 1), NARROW)


@pytest.mark.parametrize("memory", ["", "auto"])
@pytest.mark.parametrize("make", [deep, residual, classifier])
def test_what_is_faster_is_found_as_without_it(make: Callable[[], Graph], memory: str) -> None:
    graph = make()
    free = resolve(graph, BOARD, Request(fit=True, memory=memory), clock_ns=5)
    again = resolve(graph, BOARD, Request(fit=True, memory=memory, above=free.fps * 0.95), clock_ns=5)
    assert again.interval <= free.interval
    with pytest.raises(ProjectError, match=r"no design that makes more than|not searched: its layers alone allow less than"):
        resolve(graph, BOARD, Request(fit=True, memory=memory, above=free.fps * 1.5), clock_ns=5)


def test_where_nothing_can_be_nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Search, "_make", lambda *_: pytest.fail("a design was made"))
    with pytest.raises(ProjectError, match="not searched: its layers alone allow less than") as caught:
        resolve(deep(), BOARD, Request(fit=True, above=1e6), clock_ns=5)
    assert caught.value.where == "deep"


@pytest.mark.parametrize("dsp", [2, 10, 24])
def test_no_choice_that_fits_is_faster_than_the_bound(dsp: int) -> None:
    """The bound beside choices of options drawn at random, with as much of everything as the choice takes."""
    graph, rng = deep(), np.random.default_rng(dsp)
    found = layers(lower(graph, Schedule(), shared=True), replace(BOARD, dsp=dsp), {})
    sure = Market([replace(layer, costs=layer.sure) for layer in found], vector(capacity(replace(BOARD, dsp=dsp))))
    bound = sure.bound(1)
    assert bound is not None
    fitting = 0
    for _ in range(3000):
        picked = [int(rng.integers(len(layer.busy))) for layer in sure.layers]
        busy = max(int(layer.busy[option]) for layer, option in zip(sure.layers, picked, strict=True))
        if sure.fits(picked, np.zeros(len(COLUMNS)), busy):
            fitting += 1
            assert busy >= bound
    assert fitting > 10
