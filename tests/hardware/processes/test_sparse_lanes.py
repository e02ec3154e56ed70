"""Weights of which n of m are kept, without lanes for the others: the numbers, the turns, what is refused, and which of them a search is offered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hardware_models import chain, const, conv, few_of_each, scalar, sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from support.bounded import BoundedBundle, build, differences

from qfx.errors import ProjectError
from qfx.hardware.board import board
from qfx.hardware.cost import pieces
from qfx.hardware.cost import resources as r
from qfx.hardware.design import design as d
from qfx.hardware.design import dsp
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Folding, Request, Schedule
from qfx.hardware.design.weights.sparse import Kept, found_in
from qfx.hardware.folding import file as folding_file
from qfx.hardware.folding import search as fold
from qfx.hardware.folding.options import layers
from qfx.hardware.project.project import prepare
from qfx.hardware.timing.fifo import size_fifos
from qfx.ir.graph import Graph
from qfx.ir.interpret import quantize_input, run_from_raw
from qfx.ir.values import RawArray
from qfx.operators import Affine, Cast, Linear, Relu
from qfx.testing import adversarial_inputs, assert_bit_exact

FRAMES = 3
ZCU = board("zcu102")
NARROW = Cast(scalar("ap_fixed<6,3,AP_RND,AP_SAT>"))


def convolution(outputs: int, channels: int, *kernel: int, n: int = 2, m: int = 4, groups: int = 1, width: int = 8) -> Graph:
    """With n:m weights, and constants for each channel behind it; 4 rows of pixels."""
    layer = sparse(conv(0, outputs, channels, *kernel, pads=(kernel[0] // 2,) * 2, groups=groups), n, m)
    return chain("convolution", (channels * groups, 4, width), layer, Affine(const(2, outputs), const(3, outputs)), Relu())


def linear(outputs: int, inputs: int, n: int, m: int, bits: int = 4) -> Graph:
    return chain("linear", (inputs,), sparse(Linear(const(0, outputs, inputs, bits=bits), const(1, outputs)), n, m))


def at(graph: Graph, *folding: int | str, **more: int | str) -> tuple[Graph, Schedule]:
    return graph, Schedule.of({graph.nodes[1].name: Folding(*folding, **more)})  # type: ignore[arg-type]


def linears() -> tuple[Graph, Schedule]:
    """Groups of several sizes, outputs that fill no word, and one row."""
    layers = (sparse(Linear(const(0, 14, 16), const(1, 14)), 2, 4), sparse(Linear(const(2, 12, 14, bits=8), None), 1, 2))
    graph = chain("linears", (16,), layers[0], NARROW, layers[1], NARROW, sparse(Linear(const(3, 3, 12), None), 3, 4))
    foldings = {
        "linear0": Folding(3, 8, sparsity="2:4"),
        "linear2": Folding(6, 2, "dsp", sparsity="1:2"),
        "linear4": Folding(3, 12, "lut", sparsity="3:4"),
    }
    return graph, Schedule.of(foldings)


FIXED = (linears(), few_of_each())
MORE = (
    at(linear(5, 12, 1, 4, bits=8), 3, 4, "dsp", sparsity="1:4"),
    at(linear(4, 12, 1, 2), 1, 6, "shift", sparsity="1:2"),
    at(linear(40, 64, 2, 8, bits=9), 1, 8, weights="mixed", sparsity="2:8"),
    at(convolution(6, 4, 3, 3), 2, 4, "dsp", sparsity="2:4"),  # a tap a turn
    at(convolution(6, 8, 3, 3), 3, 36, "auto", taps=9, sparsity="2:4"),  # whole windows, of four channels a word
    at(convolution(4, 4, 3, 3, groups=2), 2, 12, "lut", sparsity="2:4"),
    at(convolution(6, 8, 1, 1), 6, 8, "dsp", sparsity="2:4"),  # pointwise
    at(convolution(6, 4, 3, 3), 2, 36, "pair", taps=9, pixels=2, sparsity="2:4"),  # packed across pixels
    at(convolution(6, 4, 3, 3), 2, 4, "lut", pixels=4, sparsity="2:4"),
)


@dataclass(frozen=True)
class Compiled:
    graphs: tuple[Graph, ...]
    bundle: BoundedBundle

    def x_raw(self, index: int) -> RawArray:
        return quantize_input(self.graphs[index], adversarial_inputs(self.graphs[index], np.random.default_rng(index), FRAMES))


def compile_all(made: tuple[tuple[Graph, Schedule], ...], folder: Path, *more: d.Design) -> Compiled:
    designs = [size_fifos(lower(graph, schedule)) for graph, schedule in made]
    return Compiled(tuple(graph for graph, _ in made), build([*designs, *more], folder, flags=("-Werror", "-O0")))


@pytest.fixture(scope="module")
def compiled(gxx: str, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    return compile_all(FIXED, tmp_path_factory.mktemp("few"), altered())


def unit_of(design: d.Design) -> tuple[int, d.MatVec]:
    return next((i, process) for i, process in enumerate(design.processes) if isinstance(process, d.MatVec))


def altered() -> d.Design:
    """The first design with one weight that is kept nearer to zero by one."""
    design = size_fifos(lower(*FIXED[0]))
    place, unit = unit_of(design)
    weights = unit.weights.copy()
    at = 0, np.flatnonzero(weights[0])[-1]
    weights[at] -= np.sign(weights[at])
    return replace(design, processes=(*design.processes[:place], replace(unit, weights=weights), *design.processes[place + 1 :]))


def compare(compiled: Compiled) -> None:
    for index, graph in enumerate(compiled.graphs):
        design, x_raw = compiled.bundle.designs[index], compiled.x_raw(index)
        found = compiled.bundle.run(index, x_raw)
        assert_bit_exact(found.y_raw, run_from_raw(graph, x_raw), names=(f"bounded simulation of design {index}", "interpreter"))
        assert differences(design, found) == [], index


def test_numbers_and_turns(compiled: Compiled) -> None:
    """Raw for raw those of the interpreter, in the turns of the model, through FIFOs as deep as chosen."""
    compare(compiled)


def test_further_foldings(gxx: str, tmp_path: Path) -> None:
    compare(compile_all(MORE, tmp_path))


def test_one_lsb_of_a_kept_weight_is_seen(compiled: Compiled) -> None:
    x_raw = compiled.x_raw(0)
    assert not np.array_equal(compiled.bundle.run(len(FIXED), x_raw).y_raw, run_from_raw(compiled.graphs[0], x_raw))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**31))
def test_what_a_rom_holds_is_the_weights(n: int, more: int, pe: int, groups: int, seed: int) -> None:
    """Each lane put at the input that its way says gives the dense row again, whatever lies in the groups."""
    kept, rng = Kept(n, n + more), np.random.default_rng(seed)
    rows = rng.integers(-128, 128, (4, groups, kept.m, pe))
    rank = rng.permuted(np.broadcast_to(np.arange(kept.m)[:, None], rows.shape), axis=2)
    rows = np.where(rank < rng.integers(0, n + 1), rows, 0).reshape(4, -1)
    held, ways = kept.compressed(rows, pe)
    assert held.shape == (4, kept.lanes(groups * kept.m) * pe)
    assert ways.min() >= 0
    assert ways.max() < kept.ways <= 1 << kept.place_bits
    back = np.zeros((4, groups, kept.m, pe), dtype=np.int64)
    for row, group, k, lane in np.ndindex(4, groups, n, pe):
        place = (group * n + k) * pe + lane
        back[row, group, k + ways[row, place], lane] += held[row, place]
    np.testing.assert_array_equal(back.reshape(4, -1), rows)


def test_how_sparse_weights_are_is_found() -> None:
    rng = np.random.default_rng(0)
    for n, m in ((2, 4), (1, 4), (1, 8), (3, 4)):
        weight = sparse(Linear(const(0, 8, 32, bits=8), None), n, m).weight.raw
        assert found_in(weight)[-1] == Kept(n, m)
    assert found_in(rng.integers(1, 5, (4, 16))) == ()
    assert found_in(np.zeros((4, 16), dtype=np.int64))[-1] == Kept(1, 16)


@pytest.mark.parametrize(
    ("made", "part"),
    [
        (
            lambda: lower(*at(linear(4, 16, 3, 4), 1, 4, sparsity="2:4")),
            "linear0: sparsity 2:4: output 0 has 3 weights that are not 0 among the 4 inputs",
        ),
        (lambda: Folding(1, 6, sparsity="2:4"), "sparsity 2:4: SIMD=6 cuts groups of 4 inputs"),
        (lambda: Folding(1, 4, sparsity="4:4"), "leaves nothing out"),
        (lambda: Folding(1, 4, sparsity="5:4"), "sparsity is '5:4'"),
        (lambda: Folding(1, 4, sparsity="half"), "sparsity is 'half'"),
        (lambda: lower(*at(linear(4, 10, 1, 2), 1, 4, sparsity="1:2")), "SIMD=4 does not divide the 10 inputs"),
        (lambda: lower(*at(linear(4, 8, 1, 2), 2, 4, "pair", sparsity="1:2")), "its outputs share no input"),
        (lambda: lower(*at(prepare(linear(4, 8, 1, 2), "stream"), 2, 4, sparsity="1:2")), "its weights are loaded, and may be any"),
        (lambda: lower(*at(linear(4, 8, 1, 2), 2, 4, weights="ddr", sparsity="1:2")), 'with weights="ddr" all of them are read'),
        (lambda: lower(*at(chain("d", (4, 4, 4), conv(0, 4, 1, 2, 2, groups=4)), 1, 4, taps=4, sparsity="1:2")), "a depthwise convolution has one"),
    ],
)
def test_what_cannot_be_left_out_is_refused(made: object, part: str) -> None:
    with pytest.raises(ProjectError, match=part):
        made()  # type: ignore[operator]


def test_half_the_weights_take_half_the_multipliers() -> None:
    """And fewer bits of ROM: a weight of 8 bits and two that say which input it meets, for each two."""
    graph = linear(64, 64, 2, 4, bits=8)
    dense, few = (unit_of(lower(*at(graph, 8, 16, "dsp", sparsity=sparsity)))[1] for sparsity in ("", "2:4"))
    on = r.device(ZCU.part)
    assert (dense.cost(on).dsp, few.cost(on).dsp) == (128, 64)
    assert [dense.memories[0].width, few.memories[0].width] == [128 * 8, pytest.approx(64 * 10, rel=0.05)]
    assert few.latency == dense.latency - dsp.delay("dsp", *dense._roles(dense.folding), 16) + few.delay(few.folding)
    lut, fewer = (unit_of(lower(*at(graph, 8, 16, "lut", sparsity=sparsity)))[1].cost(on).lut for sparsity in ("", "2:4"))
    assert fewer < 0.65 * lut


def test_an_option_is_what_lowering_makes_of_it() -> None:
    """Busy cycles and what the processes take, of options without the zeros; and a dense layer has none."""
    seen = set()
    for graph in (convolution(8, 8, 3, 3), convolution(6, 4, 3, 3, width=16), linear(8, 32, 2, 4, bits=8)):
        name = graph.nodes[1].name
        (layer,) = (layer for layer in layers(lower(graph, Schedule()), ZCU, {}) if layer.name == name)
        offered = [i for i, folding in enumerate(layer.foldings) if folding.sparsity]
        for place in offered[:: len(offered) // 12 + 1]:
            design = lower(graph, Schedule.of({name: layer.foldings[place]}))
            own = [process for process, node in zip(design.processes, design.nodes, strict=True) if node == name]
            first = next(process for process in own if not isinstance(process, d.Rewidth))
            last = [process for process in own if isinstance(process, d.MatVec | d.Scatter | d.Deal)][-1]
            inside = own[own.index(first) : own.index(last) + 1]
            assert max(process.busy for process in inside) == layer.busy[place]
            costs = [process.cost(r.device(ZCU.part)) for process in inside]
            queues = [pieces.queue(stream, stream.parallel) for process in inside for stream in process.targets]
            taken, told = r.total([*costs, *queues]), r.Resources(*layer.costs[place].tolist())
            assert (taken.dsp, taken.bram18) == (told.dsp, told.bram18)
            assert taken.lut == pytest.approx(told.lut, rel=0.2)  # changes of width are guessed
            seen.add(layer.foldings[place].arithmetic)
    assert seen >= {"dsp", "lut", "shift"}
    graph = chain("dense", (16,), Linear(const(0, 8, 16, bits=8), None))
    assert not any(folding.sparsity for layer in layers(lower(graph, Schedule()), ZCU, {}) for folding in layer.foldings)


def test_a_search_takes_them_where_they_save(tmp_path: Path) -> None:
    """With words that do not share a DSP block; and the file gives the folding back."""
    graph = chain("wide", (64,), sparse(Linear(const(0, 64, 64, bits=12), None), 2, 4), NARROW)
    made = fold.resolve(graph, ZCU, Request(fps=2e6), clock_ns=5)
    assert made.schedule.folding("linear0").sparsity == "2:4"
    (tmp_path / "folding.toml").write_text(folding_file.text(made, "m"), encoding="utf-8")
    assert 'sparsity = "2:4"' in (tmp_path / "folding.toml").read_text(encoding="utf-8")
    assert fold.resolve(graph, ZCU, folding_file.read(tmp_path / "folding.toml"), clock_ns=5).schedule == made.schedule
