"""Foldings that need not divide: the numbers, the turns and the FIFOs of layers whose rows do not fill their words, and which of them a search is
offered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hardware_models import chain, const, conv, odd_sizes, scalar
from hypothesis import given, settings
from hypothesis import strategies as st
from random_schedules import divisors, useful
from support.bounded import BoundedBundle, build, differences

from qfx.errors import ProjectError
from qfx.hardware.board import board
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.estimate import estimate
from qfx.hardware.cost.resources import FIELDS
from qfx.hardware.design import design as d
from qfx.hardware.design import dsp
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Folding, Request, Schedule
from qfx.hardware.folding import file as folding_file
from qfx.hardware.folding import ragged
from qfx.hardware.folding import search as fold
from qfx.hardware.folding.least import Weights
from qfx.hardware.folding.offered import ragged_pairs
from qfx.hardware.folding.options import layers
from qfx.hardware.project.project import prepare
from qfx.hardware.timing.fifo import least_depths, size_fifos
from qfx.ir.graph import Graph
from qfx.ir.interpret import quantize_input, run_from_raw
from qfx.ir.values import Const, RawArray
from qfx.operators import Affine, Cast, Linear, Relu
from qfx.testing import adversarial_inputs, assert_bit_exact

FRAMES = 3
ZCU = board("zcu102")
NARROW = Cast(scalar("ap_fixed<4,3,AP_RND,AP_SAT>"))


def linear(outputs: int, inputs: int, seed: int = 0) -> Graph:
    """One matrix, with constants for each output behind it."""
    return chain("linear", (inputs,), Linear(const(seed, outputs, inputs), const(seed + 1, outputs)), Affine(const(seed + 2, outputs), None))


def convolution(outputs: int, channels: int, *kernel: int, groups: int = 1, seed: int = 0) -> Graph:
    """With constants for each channel and for each number of the frame behind it."""
    layer = conv(seed, outputs, channels, *kernel, pads=(kernel[0] // 2,) * 2, groups=groups)
    size = tuple(length + 2 * (kernel[0] // 2) - taps + 1 for length, taps in zip((4, 9), kernel, strict=True))
    each = Affine(const(seed + 2, outputs), const(seed + 3, outputs, *size))
    return chain("convolution", (channels * groups, 4, 9), layer, each, Relu())


def loaded(graph: Graph) -> Graph:
    return prepare(graph, "stream")


def at(folding: Folding, graph: Graph, **ports: int) -> tuple[Graph, Schedule]:
    return graph, Schedule.of({graph.nodes[1].name: folding}, **ports)


FIXED = (
    at(Folding(1, 5), linear(3, 17)),
    at(Folding(4, 17), linear(10, 17)),
    at(Folding(5, 6, "pair"), linear(17, 17), input_parallel=17, output_parallel=17),
    at(Folding(2, 8), convolution(7, 4, 3, 3)),  # a tap a turn
    at(Folding(3, 8, "triple", taps=9), convolution(7, 4, 3, 3)),  # a window in one word
    at(Folding(1, 12, "shift", taps=9), convolution(2, 5, 3, 3)),  # windows of one channel, joined
    at(Folding(1, 7, taps=9), convolution(8, 3, 3, 3)),  # cut into single numbers, which are joined
    at(Folding(3, 4, "lut"), convolution(10, 3, 3, 2, groups=2)),
    at(Folding(2, 5, taps=9), convolution(4, 1, 3, 3, groups=4)),
    at(Folding(4, 5), loaded(linear(10, 17))),
    at(Folding(3, 8, "pair", taps=9), loaded(convolution(5, 4, 3, 3))),
    odd_sizes(),
)


def drawn(rng: np.random.Generator) -> tuple[Graph, Schedule]:
    """Any number of inputs and outputs, and any PE and SIMD that are useful for them."""
    outputs, channels, kernel = int(rng.integers(2, 14)), int(rng.integers(1, 8)), int(rng.choice([1, 2, 3]))
    row, seed = channels * kernel * kernel, int(rng.integers(1 << 16))
    taps = int(rng.choice([1, kernel * kernel]))
    graph = convolution(outputs, channels, kernel, kernel, seed=seed) if rng.integers(3) else linear(outputs, row := int(rng.integers(2, 40)), seed)
    taps = taps if "conv0" in graph.infos else 1
    simds = [n for n in useful(row) if taps > 1 or row % n or channels % n == 0 or n % channels == 0 or "linear0" in graph.infos]
    pe, simd = int(rng.choice(useful(outputs))), int(rng.choice(simds))
    arithmetic = str(rng.choice([name for name in ("auto", "dsp", "lut", "shift", *dsp.PACKED) if dsp.PACKED.get(name, (1, 0))[0] <= pe]))
    return at(Folding(pe, simd, arithmetic, taps=taps), loaded(graph) if rng.integers(4) == 0 and arithmetic != "shift" else graph)


def possible(graph: Graph, schedule: Schedule) -> d.Design:
    """The design, or one that is folded less where packed products of such words, or whole windows of so few words a row, cannot be had."""
    try:
        return size_fifos(lower(graph, schedule))
    except ProjectError as error:
        if "arithmetic" not in error.what and not error.what.startswith("taps="):
            raise
        ((name, folding),) = schedule.foldings
        return size_fifos(lower(graph, Schedule.of({name: Folding(folding.pe, 1)})))


@dataclass(frozen=True)
class Compiled:
    graphs: tuple[Graph, ...]
    bundle: BoundedBundle

    def x_raw(self, index: int) -> RawArray:
        return quantize_input(self.graphs[index], adversarial_inputs(self.graphs[index], np.random.default_rng(index), FRAMES))


@pytest.fixture(scope="module")
def compiled(gxx: str, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    seed = int(np.random.default_rng().integers(1 << 32))
    print(f"seed {seed}")  # shown by pytest if a test fails
    rng = np.random.default_rng(seed)
    random = [drawn(rng) for _ in range(6)]
    designs = [*(size_fifos(lower(graph, schedule)) for graph, schedule in FIXED), *(possible(graph, schedule) for graph, schedule in random)]
    graphs = tuple(graph for graph, _ in (*FIXED, *random))
    return Compiled(graphs, build([*designs, *altered()], tmp_path_factory.mktemp("ragged"), flags=("-Werror", "-O0")))


def test_numbers_turns_and_depths(compiled: Compiled) -> None:
    """Raw for raw those of the interpreter, in the turns of the model, through FIFOs of the depths that were chosen and of the least."""
    for index, graph in enumerate(compiled.graphs):
        design, x_raw = compiled.bundle.designs[index], compiled.x_raw(index)
        for depths in (None, least_depths(design)):
            found = compiled.bundle.run(index, x_raw, depths)
            assert_bit_exact(found.y_raw, run_from_raw(graph, x_raw), names=(f"bounded simulation of {graph.name}", "interpreter"))
            assert differences(design, found) == [], graph.name


def test_the_fixed_designs_change_widths_in_every_way() -> None:
    """Joined, split and cut into the greatest common divisor, on the way in and on the way out."""
    seen = set()
    for graph, schedule in FIXED:
        for process in lower(graph, schedule).processes:
            if isinstance(process, d.RowWidth):
                come, leave = process.input.parallel, process.output.parallel
                seen.add(("in" if process.row % come == 0 else "out", come < leave, max(come, leave) >= process.row))
    assert seen >= {("in", True, False), ("in", False, True), ("out", True, True), ("out", False, False)}


def test_turns_are_those_of_the_words() -> None:
    """144 inputs, 21 at a time, for 16 outputs, two at a time: 56 turns a pixel with 42 lanes, for which divisors need 48."""
    graph = chain("wide", (16, 8, 8), conv(0, 16, 16, 3, 3, pads=(1, 1)))
    (unit,) = (process for process in lower(graph, Schedule.of({"conv0": Folding(2, 21, taps=9)})).processes if isinstance(process, d.MatVec))
    assert unit.cycles == 56 * 64
    assert unit.weights.shape == (56, 42)
    found = {(pe, simd): -(-16 // pe) * -(-144 // simd) for pe in divisors(16) for simd in divisors(144)}
    assert min(pe * simd for (pe, simd), turns in found.items() if turns <= 56) == 48


def altered() -> list[d.Design]:
    """A layer as it is, with other weights beyond the last input and the last output, and with the last ones within one off."""
    design = size_fifos(lower(linear(5, 17), Schedule.of({"linear0": Folding(3, 6)})))
    place = next(i for i, process in enumerate(design.processes) if isinstance(process, d.MatVec))
    unit = design.processes[place]
    assert isinstance(unit, d.MatVec)
    folded = unit.weights.reshape(2, 3, 6, 3)  # outputs, inputs, and their lanes
    beyond, last_input, last_output = folded.copy(), folded.copy(), folded.copy()
    beyond[:, 2, 5, :] = beyond[1, :, :, 2] = 3
    last_input[0, 2, 4, 0] ^= 1
    last_output[1, 0, 0, 1] ^= 1
    assert (beyond != folded).any()
    units = [replace(unit, weights=weights.reshape(unit.weights.shape)) for weights in (folded, beyond, last_input, last_output)]
    return [replace(design, processes=(*design.processes[:place], other, *design.processes[place + 1 :])) for other in units]


def test_what_fills_up_words_does_not_matter_and_all_else_does(compiled: Compiled) -> None:
    x_raw = quantize_input(linear(5, 17), adversarial_inputs(linear(5, 17), np.random.default_rng(0), 20))
    expected, first = run_from_raw(linear(5, 17), x_raw), len(compiled.graphs)
    same = [np.array_equal(compiled.bundle.run(index, x_raw).y_raw, expected) for index in range(first, first + 4)]
    assert same == [True, True, False, False]


def test_other_weights_can_be_loaded(compiled: Compiled) -> None:
    """The words are another model's, laid out for the same hardware."""
    index = next(i for i, (graph, _) in enumerate(FIXED) if graph.name == "linear" and lower(graph, Schedule()).loader is not None)
    other = loaded(linear(10, 17, seed=50))
    design = size_fifos(lower(other, FIXED[index][1]))
    x_raw = quantize_input(other, adversarial_inputs(other, np.random.default_rng(0), FRAMES))
    expected = run_from_raw(other, x_raw)
    assert not np.array_equal(expected, compiled.bundle.run(index, x_raw).y_raw)
    assert_bit_exact(
        BoundedBundle(compiled.bundle.executable, (design,) * (index + 1)).run(index, x_raw).y_raw, expected, names=("loaded", "interpreter")
    )


def test_what_is_stored_are_the_weights_that_there_are() -> None:
    """What fills up words is no reason for a board to be too small."""
    for graph in (linear(10, 17), convolution(10, 3, 3, 2, groups=2)):
        name = graph.nodes[1].name
        assert Weights.of(lower(graph, Schedule.of({name: Folding(3, 5)}))).bits == Weights.of(lower(graph, Schedule())).bits


@given(st.integers(1, 300))
def test_useful_is_what_makes_fewer_words(row: int) -> None:
    assert ragged.useful(row) == useful(row)
    for value in range(1, row + 3):
        try:
            ragged.check("PE", value, row, "outputs", "layer")
        except ProjectError as error:
            assert value not in useful(row)
            named = [int(word) for word in error.remedy.replace("at most", "").split() if word.isdigit()]
            below = max(n for n in useful(row) if n < value)
            assert named == [row] if value > row else [below, min(n for n in useful(row) if n > value)]
        else:
            assert value in useful(row)


@given(st.integers(1, 12), st.sampled_from([1, 2, 4, 6, 9]), st.integers(1, 12), st.integers(2, 20), st.data())
def test_the_way_into_words_keeps_up_if_any_does(per_group: int, taps: int, outputs: int, most: int, data: st.DataObject) -> None:
    row, most = per_group * taps, most * taps
    ragged_simd = [n for n in useful(row) if row % n]
    if not ragged_simd:
        return
    simd, turns = data.draw(st.sampled_from(ragged_simd)), outputs
    word = ragged.source_channels(per_group, taps, row, simd, turns * ragged.words(row, simd), most)
    taken = {n: ragged.filling_turns(row, n * taps, simd) for n in divisors(per_group) if n * taps <= most}
    assert word in taken
    keeping = [n for n, found in taken.items() if found <= turns * ragged.words(row, simd)]
    assert word == min(keeping) if keeping else taken[word] == min(taken.values())


def test_offered_are_those_that_save_lanes() -> None:
    """Against every pair: none that is left out is faster and smaller than all that are offered, and none that is offered is in vain."""
    for outputs, inputs, packs in ((16, 144, (1,)), (10, 64, (1, 2)), (17, 30, (1, 2, 3, 4)), (32, 27, (2,))):
        pes, simds = useful(outputs), useful(inputs)
        dividing = frozenset((pe, simd) for pe in divisors(outputs) for simd in divisors(inputs))
        offered = ragged_pairs(outputs, inputs, tuple(pes), tuple(simds), dividing, packs)
        assert not set(offered) & dividing

        def measure(pair: tuple[int, int], pack: int, outputs: int = outputs, inputs: int = inputs) -> tuple[int, int]:
            pe, simd = pair
            return -(-outputs // pe) * -(-inputs // simd), -(-pe // pack) * simd

        for pack in packs:
            front = [measure(pair, pack) for pair in (*offered, *dividing)]
            for pair in ((pe, simd) for pe in pes for simd in simds):
                turns, taken = measure(pair, pack)
                assert any(other <= turns and lanes <= taken for other, lanes in front), pair
        for pair in offered:
            assert any(
                all(turns > measure(pair, pack)[0] or lanes > measure(pair, pack)[1] for turns, lanes in (measure(other, pack) for other in dividing))
                for pack in packs
            ), pair


@settings(deadline=None, max_examples=15)
@given(st.integers(2, 17), st.integers(1, 6), st.sampled_from([1, 2, 3]), st.data())
def test_an_option_is_what_lowering_makes_of_it(outputs: int, channels: int, kernel: int, data: st.DataObject) -> None:
    """Busy cycles, words on either side, and what the unit itself takes."""
    graph = convolution(outputs, channels, kernel, kernel) if kernel > 1 else linear(outputs, channels * 5)
    name = graph.nodes[1].name
    (layer,) = (layer for layer in layers(lower(graph, Schedule()), ZCU, {}) if layer.name == name)
    row = channels * kernel * kernel if kernel > 1 else channels * 5
    others = [i for i, folding in enumerate(layer.foldings) if outputs % folding.pe or row % folding.simd]
    if not others:
        return
    place = data.draw(st.sampled_from(others))
    folding = layer.foldings[place]
    design = lower(graph, Schedule.of({name: folding}))
    own = [
        process
        for process, node in zip(design.processes, design.nodes, strict=True)
        if node == name and not isinstance(process, d.Rewidth | d.ToPort)
    ]
    assert max(process.busy for process in own) == layer.busy[place]
    (unit,) = (process for process in own if isinstance(process, d.MatVec))
    assert unit.busy == layer.busy[place]  # what it is offered for
    first = next(process for process in own if process is unit or isinstance(process, d.Window | d.WholeWindow | d.RowWidth))
    assert first.input.parallel == layer.takes[place] or isinstance(first, d.RowWidth)
    last = own[own.index(unit) + 1] if outputs % folding.pe else unit
    assert isinstance(last, d.RowWidth | d.MatVec)
    assert last.output.parallel == layer.gives[place]
    assert unit.cost(r.device(ZCU.part)).dsp == layer.costs[place][2]


def test_a_search_takes_them_where_they_pay(tmp_path: Path) -> None:
    """DSP blocks for 42 lanes but not for 48; the file gives the folding back."""
    few = Const(np.random.default_rng(0).integers(-90, 90, (16, 16, 3, 3)), 7)
    graph = chain("wide", (16, 8, 8), replace(conv(0, 16, 16, 3, 3, pads=(1, 1)), weight=few), NARROW, cast="ap_fixed<8,3,AP_RND,AP_SAT>")
    small = replace(ZCU, name="small", title="small board", lut=5000, ff=14000, dsp=22, bram36=12)
    made = fold.resolve(graph, small, Request(fit=True), clock_ns=5)
    folding = made.schedule.folding("conv0")
    assert (folding.pe, folding.simd, made.interval) == (2, 21, 56 * 64 + 1)
    assert made.gap == 0
    (tmp_path / "folding.toml").write_text(folding_file.text(made, "m"), encoding="utf-8")
    assert fold.resolve(graph, small, folding_file.read(tmp_path / "folding.toml"), clock_ns=5).schedule == made.schedule
    assert not estimate(made.design, small).over(dict.fromkeys(FIELDS, 1.0))
