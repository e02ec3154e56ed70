"""Estimates: the formulas against measurements with an open synthesis tool, and the sums over processes, layers and boards."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from math import ceil
from pathlib import Path

import numpy as np
import pytest
from hardware_models import DIRECTED, chain, classifier, const, conv
from random_schedules import random_schedule

from qfx.errors import ProjectError
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.hardware.board import board, boards
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.estimate import LIMITS, capacity, check_fits, estimate
from qfx.hardware.cost.resources import FIELDS, SERIES7, ULTRASCALE, Device, Resources
from qfx.hardware.design import design as d
from qfx.hardware.design import storage
from qfx.hardware.design.dsp import Packing
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Folding, Schedule
from qfx.hardware.design.storage import Storage
from qfx.hardware.timing.fifo import size_fifos, with_depths
from qfx.operators import Linear

PIECES = Path(__file__).parents[3] / "benchmarks" / "calibration" / "pieces.csv"
DEVICES = {"ultrascale+": ULTRASCALE, "7series": SERIES7}
MODES = {"trn": QMode.TRN, "rnd": QMode.RND, "conv": QMode.RND_CONV}


def rows() -> list[dict[str, str]]:
    with PIECES.open(encoding="utf-8") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def cast_luts(kind: str, source: int, target: int, drop: int) -> int:
    _, rounding, overflow = kind.split("_")
    to = FixedType(target, target, True, MODES[rounding], OMode.SAT if overflow == "sat" else OMode.WRAP)
    return r.cast(FixedType(source, source - drop), to).lut


def digits_luts(digits: int, span: int, width: int) -> int:
    return r.digit_product(width, width + span + 2, [(span + 1, True)] + [(span + 1, False)] * (digits - 1)).lut


FORMULAS: dict[str, tuple[Callable[[list[int], Device, str], int], float]] = {
    "mul_lut": (lambda s, _, __: r.multiplier_luts(*s), 0.05),
    "add": (lambda s, _, __: r.adder(*s).lut, 0.0),
    "accumulate": (lambda s, _, __: r.adder(*s).lut, 0.0),
    "tree": (lambda s, _, __: r.adder_tree(*s, 99).lut, 0.0),
    "max": (lambda s, _, __: r.greater(*s).lut, 0.25),
    "relu": (lambda s, _, __: r.multiplexer(2, *s).lut, 0.0),
    "counter": (lambda s, _, __: r.counter(1 << s[0]).lut, 0.15),
    "cast": (lambda s, _, kind: cast_luts(kind, *s), 0.25),
    "mux": (lambda s, _, __: r.multiplexer(*s).lut, 0.10),
    "fifo_srl": (lambda s, _, __: r.fifo(*s).lut, 0.10),
    "lutram": (lambda s, on, __: r.lutram(*s, on), 0.35),
    "digit_product": (lambda s, _, __: digits_luts(*s), 0.20),
    "split": (lambda s, _, __: Packing(s[0], s[1], s[2], s[3], FixedType(25, 25), FixedType(48, 48)).luts, 0.05),
    "handshake": (lambda s, _, __: r.handshake(s[1] + s[2], s[0]).lut, 0.20),
    "rom_lut": (lambda s, _, __: r.rom(*s).lut, 0.0),
}
"""For each kind of piece its formula and the error that docs/estimates.md states, as a part of what was measured; 2 LUTs more are always allowed."""


def off(kind: str, formula: Callable[[list[int], Device, str], int], error: float) -> list[str]:
    """The pieces for which the formula is further off than stated."""
    found = []
    for row in rows():
        if row["kind"] != kind and row["kind"].split("_")[0] != kind:
            continue
        sizes = [int(size) for size in row["sizes"].split()]
        if kind == "fifo_srl" and storage.fifo(*sizes) is Storage.BRAM:
            continue  # block RAM by our rule
        if kind == "rom_lut" and (sizes[0] < 16 or storage.rom(*sizes) is Storage.BRAM or row["family"] != "ultrascale+"):
            continue  # four words are folded into each other; larger ones are block RAM
        predicted, measured = formula(sizes, DEVICES[row["family"]], row["kind"]), int(row["lut"])
        if abs(predicted - measured) > error * measured + 2:
            found.append(f"{row['family']} {row['kind']} {sizes}: {predicted}, measured {measured}")
    return found


@pytest.mark.parametrize("kind", FORMULAS)
def test_formulas_reproduce_the_measurements(kind: str) -> None:
    assert off(kind, *FORMULAS[kind]) == []


@pytest.mark.parametrize("kind", FORMULAS)
def test_a_wrong_formula_is_noticed(kind: str) -> None:
    formula, error = FORMULAS[kind]
    assert off(kind, lambda sizes, on, name: int(formula(sizes, on, name) * 1.6) + 3, error)


def test_every_kind_of_piece_is_compared() -> None:
    kinds = {row["kind"] for row in rows()}
    assert {kind for kind in kinds if kind not in FORMULAS and kind.split("_")[0] not in FORMULAS} == {"mul_dsp", "column"}


def test_flip_flops_of_a_handshake_are_exactly_those_measured() -> None:
    found = [row for row in rows() if row["kind"] == "handshake"]
    for row in found:
        stages, inputs, outputs = map(int, row["sizes"].split())
        assert r.handshake(inputs + outputs, stages).ff == int(row["ff"]), row
    assert len(found) == 40


def test_dsp_blocks_are_exactly_those_measured() -> None:
    for row in rows():
        if row["kind"] == "mul_dsp":
            a, b = map(int, row["sizes"].split())
            assert r.multiplier_dsps(a, b, DEVICES[row["family"]]) == int(row["dsp"]), row


def test_a_column_is_summed_in_its_blocks() -> None:
    """An open tool finds the chain: a block for each product, no adder outside. (It knows the sum in the block for 7-series parts only.)"""
    measured = [row for row in rows() if row["kind"] == "column" and row["family"] == "7series"]
    assert len(measured) == 4
    for row in measured:
        _, chain = map(int, row["sizes"].split())
        assert (int(row["dsp"]), int(row["carry"]), int(row["lut_cells"])) == (chain, 0, 0), row


def test_a_multiplier_in_luts_is_as_large_as_the_vendors() -> None:
    assert 365 <= r.multiplier_luts(18, 18) <= 401  # its core generator, optimized for area or speed: hls4ml issue 99


@pytest.mark.parametrize(
    ("depth", "width", "blocks"),
    [(512, 36, 1), (513, 36, 2), (1024, 18, 1), (2048, 9, 1), (16384, 1, 1), (16385, 1, 2), (96, 128, 4), (36864, 8, 18)],
)
def test_block_ram_shapes(depth: int, width: int, blocks: int) -> None:
    assert r.bram18(depth, width) == blocks


def test_small_memories_take_luts_and_large_ones_block_ram() -> None:
    assert r.ram(192, 8, ULTRASCALE).bram18 == r.rom(256, 8).bram18 == r.fifo(128, 8).bram18 == 0
    assert r.ram(193, 8, ULTRASCALE).bram18 == r.rom(257, 8).bram18 == r.fifo(129, 8).bram18 == 1
    assert r.fifo(32, 512).bram18 == r.rom(64, 512).bram18 == 0


@pytest.mark.parametrize("index", range(len(DIRECTED)))
def test_sums(index: int) -> None:
    """Processes and layers add up to the total; every process of the design is there, in order."""
    graph = DIRECTED[index]()
    design = size_fifos(lower(graph, random_schedule(graph, np.random.default_rng(index))))
    for known in boards():
        found = estimate(design, known)
        assert [cost.process for cost in found.costs] == [*(process.name for process in design.processes), "control"]
        assert found.total == r.total([cost.resources for cost in found.costs]) == r.total([cost.resources for cost in found.layers])
        assert all(getattr(cost.resources, field) >= 0 for cost in found.costs for field in FIELDS)
        assert found == estimate(design, known)


def unit(bits: int, arithmetic: str, pe: int = 4, simd: int = 8) -> d.MatVec:
    weight = replace(const(0, 8, 16, bits=bits), raw=np.arange(128).reshape(8, 16) % (1 << bits - 1) - (1 << bits - 2))
    graph = chain("unit", (16,), Linear(weight, None), cast=f"ap_fixed<{bits},2>")
    design = lower(graph, Schedule.of({"linear0": Folding(pe, simd, arithmetic)}))
    return next(process for process in design.processes if isinstance(process, d.MatVec))


def test_arithmetic_decides_what_the_multipliers_are_made_of() -> None:
    cost = {name: unit(8, name).cost(ULTRASCALE) for name in ("dsp", "lut", "pair", "shift")}
    assert {name: found.dsp for name, found in cost.items()} == {"dsp": 32, "lut": 0, "pair": 16, "shift": 0}
    assert cost["dsp"].lut < cost["pair"].lut < cost["lut"].lut  # splitting a pair takes some
    short = {name: unit(4, name).cost(ULTRASCALE) for name in ("pair", "triple", "quad")}
    assert {name: found.dsp for name, found in short.items()} == {"pair": 16, "triple": 16, "quad": 8}  # of four outputs three and one
    assert short["pair"].lut < short["quad"].lut


def test_a_chain_of_blocks_takes_registers_instead_of_adders() -> None:
    """One output, eight lanes: products and sums are all in the blocks, and factors wait for their turn. Those of two lanes need not, the third's
    wait in flip-flops."""
    one = {name: unit(8, name, 1, 8) for name in ("dsp", "lut")}
    weight = one["dsp"].weight_type.width
    waiting = 5 * ceil((8 + weight) / 2)
    assert one["dsp"].cost(ULTRASCALE).dsp == 8
    tree = r.adder_tree(8, 8 + weight, 99).lut
    multipliers = 8 * r.multiplier_luts(8, weight)
    assert one["lut"].cost(ULTRASCALE).lut - one["dsp"].cost(ULTRASCALE).lut == tree + multipliers - waiting
    assert one["dsp"].latency - one["lut"].latency == 7 - 3


def test_the_sums_of_wide_products_stay_in_luts() -> None:
    """A product of more than one block has no chain."""
    wide = unit(26, "dsp", 1, 8)
    narrow = unit(8, "dsp", 1, 8)
    assert wide.latency - narrow.latency == 3 - 7
    assert wide.cost(ULTRASCALE).lut > r.adder_tree(8, 26 + wide.weight_type.width, 99).lut


def test_an_estimate_of_another_folding_is_that_of_the_lowered_one() -> None:
    base = unit(8, "auto", 1, 1)
    for pe, simd, name in ((2, 4, "dsp"), (8, 16, "lut"), (4, 2, "pair"), (2, 8, "shift")):
        lowered = unit(8, name, pe, simd)
        assert base.cost_at(Folding(pe, simd, name), ULTRASCALE) == lowered.cost(ULTRASCALE)


def test_wide_products_depend_on_the_family() -> None:
    assert r.device("xc7z020clg400-1") == SERIES7
    assert r.device("xczu3eg-sbva484-1-i") == r.device("xck26-sfvc784-2LV-c") == ULTRASCALE
    process = unit(26, "dsp")
    assert (process.cost(ULTRASCALE).dsp, process.cost(SERIES7).dsp) == (32 * 2, 32 * 4)


def test_deep_fifos_cost_block_ram() -> None:
    design = lower(classifier(), Schedule())
    shallow, deep = (estimate(with_depths(design, {design.streams[0].name: depth}), board("zcu102")).total for depth in (2, 5000))
    assert deep.bram18 - shallow.bram18 == r.bram18(5000, design.streams[0].type.width)


def test_a_board_that_is_too_small_is_refused_with_the_layers_that_cost_most() -> None:
    found = estimate(lower(chain("two", (8, 6, 6), conv(0, 16, 8, 3, 3), conv(2, 4, 16, 1, 1)), Schedule()), board("ultra96v2"))
    check_fits(found)
    small = replace(found, board=replace(found.board, lut=300, dsp=0))
    with pytest.raises(ProjectError, match=r"needs \d+ LUT of 300 \(conv0 \d+, conv1 \d+.*") as caught:
        check_fits(small)
    assert "larger board" in caught.value.remedy
    assert small.over(LIMITS) == ("lut",) if found.total.dsp == 0 else ("lut", "dsp")
    # The limits are shares of the board, and the last unit counts.
    exact = replace(found, board=replace(found.board, lut=found.total.lut))
    check_fits(exact)
    with pytest.raises(ProjectError):
        check_fits(replace(found, board=replace(found.board, lut=found.total.lut - 1)))


def test_capacity_counts_18_kbit_blocks() -> None:
    assert capacity(board("ultra96v2")) == Resources(70560, 141120, 360, 432)
