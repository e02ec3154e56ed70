"""What no folding can get below: the bounds hold for every design, and what is refused names what cannot be avoided."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hardware_models import DIRECTED, chain, conv, scalar
from hypothesis import given, settings
from hypothesis import strategies as st
from random_schedules import random_schedule
from test_fold import network, schedule_of

from qfx.errors import ExactnessError, ProjectError
from qfx.hardware.board import Board, board
from qfx.hardware.cost.estimate import LIMITS, capacity, estimate
from qfx.hardware.cost.resources import FIELDS
from qfx.hardware.design import design as d
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Folding, Request, Schedule
from qfx.hardware.folding import search as fold
from qfx.hardware.folding.least import BRAM18_BITS, LUT_BITS, Weights, check_layers, check_weights, weights_exceed
from qfx.hardware.folding.options import layers
from qfx.hardware.project.project import prepare
from qfx.hardware.sequential.plan import plan as engine
from qfx.hardware.timing.fifo import CHAIN_DEPTH, with_depths
from qfx.ir.graph import Graph
from qfx.ir.passes.loadable import make_loadable
from qfx.operators import Cast

ZCU = board("zcu102")
Z2 = board("pynq_z2")


def shallow(design: d.Design, on: Board = ZCU) -> np.ndarray:
    """The least that the design takes, with FIFOs of two words."""
    total = estimate(with_depths(design, {stream.name: CHAIN_DEPTH for stream in design.streams}), on).total
    return np.array([getattr(total, field) for field in FIELDS])


def large(channels: int = 256, layers_: int = 4) -> Graph:
    """Convolutions of 8-bit weights on small frames: all weights, next to nothing else."""
    narrow = Cast(scalar("ap_ufixed<4,2,AP_RND,AP_SAT>"))
    blocks = [block for i in range(layers_) for block in (conv(i, channels, channels, 3, 3, pads=(1, 1)), narrow)]
    return chain("large", (channels, 4, 4), *blocks)


@settings(deadline=None, max_examples=80)
@given(st.integers(0, len(DIRECTED) - 1), st.sampled_from((ZCU, Z2)), st.data())
def test_no_design_takes_less_than_its_options_say(index: int, on: Board, data: st.DataObject) -> None:
    graph = DIRECTED[index]()
    found = layers(lower(graph, Schedule()), on, {})
    picks = {layer.name: data.draw(st.integers(0, len(layer.foldings) - 1), layer.name) for layer in found}
    design = lower(graph, schedule_of(graph, {layer.name: layer.foldings[picks[layer.name]] for layer in found}))
    sure = np.sum([layer.sure[picks[layer.name]] for layer in found], axis=0)
    assert (sure <= shallow(design, on)).all()


@pytest.mark.parametrize("weights", ["rom", "stream"])
@pytest.mark.parametrize("index", range(len(DIRECTED)))
def test_no_design_stores_its_weights_in_less(index: int, weights: str) -> None:
    try:
        graph = prepare(DIRECTED[index](), weights)
    except (ProjectError, ExactnessError):
        pytest.skip("it has no constants to load, or such as lie on no common grid")
    least = Weights.of(lower(graph, Schedule()))
    for seed in range(8):
        design = lower(graph, random_schedule(graph, np.random.default_rng(seed)))
        total = estimate(design, ZCU).total
        assert least.in_memory + max(least.in_one_row - total.ff, 0) <= total.bram18 * BRAM18_BITS + total.lut * LUT_BITS
        assert Weights.of(design).bram18 <= total.bram18


def undominated(rows: np.ndarray) -> np.ndarray:
    """Those that no other takes as little of everything as: if a combination fits, one of these does."""
    rows = np.unique(rows, axis=0)
    return np.array([row for row in rows if not ((rows <= row).all(axis=1) & (rows < row).any(axis=1)).any()])


def test_what_is_refused_fits_with_no_combination_of_options() -> None:
    """Against every combination, on boards around the border."""
    narrow = Cast(scalar("ap_ufixed<4,2,AP_RND,AP_SAT>"))
    graph = chain("two", (8, 6, 6), conv(0, 16, 8, 3, 3), narrow, conv(2, 4, 16, 1, 1), narrow)
    found = layers(lower(graph, Schedule()), ZCU, {})
    totals = np.array([np.sum(rows, axis=0) for rows in itertools.product(*(undominated(layer.sure) for layer in found))])
    rng = np.random.default_rng(3)
    refused = fitting = 0
    for _ in range(1500):
        near = totals[rng.integers(len(totals))] * rng.uniform(0.5, 1.1, len(FIELDS))
        lut, ff, dsp, bram18, _ = (int(np.ceil(amount / LIMITS[field])) for field, amount in zip(FIELDS, near, strict=True))
        small = replace(ZCU, lut=lut, ff=ff, dsp=dsp, bram36=-(-bram18 // 2))
        limits = np.array([getattr(capacity(small), field) * LIMITS[field] for field in FIELDS])
        fits = bool((totals <= limits).all(axis=1).any())
        fitting += fits
        try:
            check_layers(found, small, LIMITS)
        except ProjectError:
            refused += 1
            assert not fits
    assert refused > 20
    assert fitting > 50


def test_weights_that_fit_nowhere_are_the_reason() -> None:
    """2.36 million words of 8 bits on a board with 280 blocks; LUTs take over what they can."""
    graph = prepare(large())
    bits = Weights.of(lower(graph, Schedule())).bits
    for request in (Request(), Request(fit=True), Request(fps=10), Request(fps=1e6), Request((("conv0", Folding(2, 2)),), fit=True)):
        with pytest.raises(ProjectError, match=r"does not fit the TUL PYNQ-Z2: the weights alone are ") as caught:
            fold.resolve(graph, Z2, request, clock_ns=5)
        assert f"{bits / 1e6:.1f} Mbit" in caught.value.what
        assert "BRAM18; the board has 280" in caught.value.what
        assert " DSP" not in caught.value.what
        assert " LUT " not in caught.value.what
        assert "no folding makes it fit" in caught.value.remedy
        assert "frames" not in str(caught.value)


def test_the_blocks_are_those_of_the_bits() -> None:
    graph = prepare(large())
    weights = Weights.of(lower(graph, Schedule()))
    assert weights.in_memory <= weights.bits == 4 * 256 * 256 * 9 * lower(graph, Schedule()).processes[2].weight_type.width  # type: ignore[union-attr]
    with pytest.raises(ProjectError, match=f"{-(-weights.bits // BRAM18_BITS):,} BRAM18; the board has 280, 90 % of which are to be used, and LUTs"):
        check_weights(weights, Z2, LIMITS)
    few = {**LIMITS, "lut": 0.01, "bram18": 0.1}
    with pytest.raises(ProjectError, match="the board has 288; its UltraRAM holds no constants") as caught:
        check_weights(weights, board("kv260"), few)
    assert "--weights stream" in caught.value.remedy
    loaded = Weights.of(lower(make_loadable(large()), Schedule()))
    check_weights(loaded, board("kv260"), few)  # 9.4 of 17 Mbit
    with pytest.raises(ProjectError, match="the board has 288, 10 %"):
        check_weights(loaded, board("kv260"), {**few, "uram": 0.4})
    check_weights(weights, ZCU, LIMITS)


def test_the_border_is_where_memory_ends() -> None:
    """A bit more than blocks and LUTs hold is refused, exactly what they hold is not."""
    there = capacity(Z2)
    room = there.bram18 * BRAM18_BITS + there.lut * LUT_BITS
    whole = dict.fromkeys(FIELDS, 1.0)
    assert not weights_exceed(Weights(room, room, 0, 0), Z2, whole)
    assert weights_exceed(Weights(room + 1, room + 1, 0, 0), Z2, whole)
    assert not weights_exceed(Weights(room + there.ff, room, there.ff, 0), Z2, whole)
    assert weights_exceed(Weights(room + there.ff + 1, room, there.ff + 1, 0), Z2, whole)


def test_small_layers_may_need_no_memory() -> None:
    """Unfolded, their weights are wired into the multipliers, and each bit has a flip-flop there."""
    graph = chain("small", (4, 1, 1), conv(0, 4, 4, 1, 1))
    assert Weights.of(lower(graph, Schedule())).in_memory == 0
    assert 0 < Weights.of(lower(graph, Schedule())).in_one_row <= Weights.of(lower(graph, Schedule())).bits


def test_one_number_at_a_time_says_what_to_try() -> None:
    """Block RAM is short, but other foldings put weights into LUTs: --fit finds one."""
    graph, few = prepare(large(64, 2)), replace(ZCU, title="few blocks", bram36=8)
    with pytest.raises(ProjectError, match=r"does not fit the few blocks: the weights alone are 0.3 Mbit: \d+ BRAM18; the board has 16\n") as caught:
        fold.resolve(graph, few, Request(), clock_ns=5)
    assert "try --fit" in caught.value.remedy
    assert "frames" not in str(caught.value)
    assert not fold.resolve(graph, few, Request(fit=True), clock_ns=5).estimate.over(LIMITS)


@pytest.mark.parametrize(("field", "name"), [("lut", "LUT"), ("ff", "FF")])
def test_a_resource_that_is_short_is_named_alone(field: str, name: str) -> None:
    tiny = replace(ZCU, title="tiny board", **{field: 500})
    for request in (Request(fit=True), Request(fps=100)):
        with pytest.raises(ProjectError, match=rf"does not fit the tiny board: needs \d+ {name} of 500, 80 % of which are to be used \(") as caught:
            fold.resolve(network(), tiny, request, clock_ns=5)
        assert ";" not in caught.value.what
        assert "frames" not in str(caught.value)


def test_two_resources_that_exclude_each_other_are_named() -> None:
    """Products in LUTs or in DSP blocks, with 32 multipliers and more in each layer: there are too few of both."""
    graph = network()
    wide = []
    for layer in layers(lower(graph, Schedule()), ZCU, {}):
        some = [i for i, folding in enumerate(layer.foldings) if folding.pe * folding.simd >= 32] if layer.kind == "matvec" else slice(None)
        wide.append(replace(layer, sure=layer.sure[some]))
    least = sum(int(layer.sure[:, 0].min()) for layer in wide)
    small = replace(ZCU, lut=int(least / LIMITS["lut"]) + 100, dsp=20)
    with pytest.raises(ProjectError, match=r"needs at least \d+ DSP of 20 \(.*conv\d \d+.*\), even with as many LUT as may be used \(\d+\)"):
        check_layers(wide, small, LIMITS)
    check_layers(wide, replace(small, dsp=2000), LIMITS)


def test_rows_that_the_chip_cannot_keep_go_to_the_engine() -> None:
    """Wide frames: streaming designs are refused with what takes the room and where it goes; the engine keeps values in memory."""
    narrow = Cast(scalar("ap_ufixed<8,4,AP_RND,AP_SAT>"))
    graph = prepare(chain("wide", (16, 2, 16384), conv(0, 16, 16, 3, 3, pads=(1, 1)), narrow, conv(2, 8, 16, 3, 3, pads=(1, 1)), narrow))
    small = replace(board("ultra96v2"), bram36=36)
    for request in (Request(), Request(fit=True), Request(fit=True, memory="ddr")):
        with pytest.raises(ProjectError, match="does not fit the Avnet Ultra96-V2: needs ") as caught:
            fold.resolve(graph, small, request, clock_ns=5)
        assert "values and weights in the board's memory (--style sequential" in caught.value.remedy
    assert str(Weights.of(lower(graph, Schedule()))) == "the weights are 0.0 Mbit, the rows that windows keep 11.0 Mbit"
    with pytest.raises(ProjectError) as caught:
        fold.resolve(graph, replace(small, memory_gb_s=0.0), Request(fit=True), clock_ns=5)
    assert "sequential" not in caught.value.remedy
    assert not engine(graph, small, clock_ns=5).estimate.over(LIMITS)
