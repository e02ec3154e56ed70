"""Several pixels at once: the numbers, the turns and the FIFOs of layers that work on them, and which of them a search is offered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hardware_models import chain, const, conv, joined, scalar
from schedule_models import resnet
from support.bounded import BoundedBundle, build, differences

from qfx.errors import ProjectError
from qfx.hardware.board import board
from qfx.hardware.cost import pieces
from qfx.hardware.cost import resources as r
from qfx.hardware.design import design as d
from qfx.hardware.design import dsp
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Folding, Request, Schedule
from qfx.hardware.folding import file as folding_file
from qfx.hardware.folding import matrices
from qfx.hardware.folding import search as fold
from qfx.hardware.folding.options import layers
from qfx.hardware.project.project import prepare
from qfx.hardware.timing.fifo import least_depths, size_fifos
from qfx.ir.graph import Graph
from qfx.ir.interpret import quantize_input, run_from_raw
from qfx.ir.values import RawArray
from qfx.operators import Affine, Cast, Conv, Linear, MaxPool, Relu, SumPool
from qfx.testing import adversarial_inputs, assert_bit_exact

FRAMES = 3
ZCU = board("zcu102")
NARROW = Cast(scalar("ap_fixed<6,3,AP_RND,AP_SAT>"))


def convolution(outputs: int, channels: int, *kernel: int, groups: int = 1, stride: int = 1, width: int = 8) -> Graph:
    """With constants for each channel behind it; 4 rows of pixels."""
    layer = conv(0, outputs, channels, *kernel, pads=(kernel[0] // 2,) * 2, groups=groups, stride=stride)
    return chain("convolution", (channels * groups, 4, width), layer, Affine(const(2, outputs), const(3, outputs)), Relu())


def pooled(pool: MaxPool | SumPool) -> Graph:
    """With constants for each channel behind it; 4 rows of 32 pixels."""
    return chain("pooled", (3, 4, 32), pool, Affine(const(2, 3), const(3, 3)))


def short(cast: str, outputs: int = 6) -> Graph:
    """Of words of 4 bits, as many of the weights as of the numbers."""
    layer = Conv(const(5, outputs, 4, 3, 3, bits=4), None, (1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    return chain("short", (4, 4, 8), layer, Affine(const(2, outputs), const(3, outputs)), Relu(), cast=cast)


def at(graph: Graph, *folding: int | str, **more: int) -> tuple[Graph, Schedule]:
    return graph, Schedule.of({graph.nodes[1].name: Folding(*folding, **more)})  # type: ignore[arg-type]


FIXED = (
    at(convolution(6, 4, 3, 3), 2, 4, pixels=2),  # a tap a turn, sides of registers and of a memory
    at(convolution(6, 4, 3, 3), 1, 12, "pair", taps=9, pixels=2),  # packed across pixels, for one output
    at(convolution(6, 4, 3, 3), 3, 36, "pair", taps=9, pixels=4),  # whole windows, too few words a row for several of them: joined
    at(convolution(6, 2, 3, 3, width=16), 6, 18, "pair27", taps=9, pixels=2),  # several windows a word
    at(convolution(3, 2, 3, 3, width=32, stride=2), 1, 18, "dsp", taps=9, pixels=2),
    at(convolution(4, 1, 3, 3, groups=4, width=16), 4, 9, "pair", taps=9, pixels=2),  # depthwise
    at(convolution(4, 1, 3, 3, groups=4), 2, 3, "shift", taps=9, pixels=4),
    at(prepare(convolution(5, 4, 3, 3), "stream"), 3, 8, "pair", taps=9, pixels=2),  # words that are filled up
    at(convolution(6, 4, 1, 1), 6, 4, "lut", pixels=4),  # words of four pixels at both ends
    (joined(), Schedule.of({"conv": Folding(4, 4, pixels=4), "depthwise": Folding(2, 3, taps=9, pixels=2), "short": Folding(2, 4, pixels=2)})),
    (resnet(), Schedule.of({name: Folding(2, 2, pixels=4) for name in "abcdp"})),  # sums and taps of windows
    at(pooled(MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1))), 3, taps=4, pixels=2),
    at(pooled(MaxPool((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))), 3, taps=9, pixels=4),  # outside counts as the least number
    at(pooled(SumPool((2, 2), (2, 2), ((0, 0), (0, 0)))), 3, taps=4, pixels=2),
    at(short("ap_ufixed<4,3>"), 2, 4, "grid27", pixels=2),  # two outputs by two pixels: a tap a turn
    at(short("ap_ufixed<4,3>"), 3, 36, "grid", taps=9, pixels=4),  # known bits; whole windows, the last output alone
    at(short("ap_fixed<4,3>", outputs=7), 3, 12, "grid27", taps=9, pixels=2),  # numbers with signs, words that are filled up
)


@dataclass(frozen=True)
class Compiled:
    graphs: tuple[Graph, ...]
    bundle: BoundedBundle

    def x_raw(self, index: int) -> RawArray:
        """Two frames of any numbers, and one of bounds."""
        graph = self.graphs[index]
        rng, found = np.random.default_rng(index), graph.infos["x"]
        bounds = quantize_input(graph, adversarial_inputs(graph, rng, 1))
        return np.concatenate([rng.integers(found.type.min_raw, found.type.max_raw + 1, (FRAMES - 1, *found.shape)), bounds])


@pytest.fixture(scope="module")
def compiled(gxx: str, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    designs = [size_fifos(lower(graph, schedule)) for graph, schedule in FIXED]
    graphs = tuple(graph for graph, _ in FIXED)
    return Compiled(graphs, build([*designs, altered()], tmp_path_factory.mktemp("pixels"), flags=("-Werror", "-O0")))


def unit_of(design: d.Design) -> tuple[int, d.MatVec]:
    return next((i, process) for i, process in enumerate(design.processes) if isinstance(process, d.MatVec))


def altered() -> d.Design:
    """The first design with one bit of one weight changed."""
    design = size_fifos(lower(*FIXED[1]))
    place, unit = unit_of(design)
    weights = unit.weights.copy()
    weights[-1, -1] ^= 1
    return replace(design, processes=(*design.processes[:place], replace(unit, weights=weights), *design.processes[place + 1 :]))


def test_numbers_turns_and_depths(compiled: Compiled) -> None:
    """Raw for raw those of the interpreter, in the turns of the model, through FIFOs as deep as chosen, and one as shallow as it can be."""
    for index, graph in enumerate(compiled.graphs):
        design, x_raw = compiled.bundle.designs[index], compiled.x_raw(index)
        least = least_depths(design)
        deepest = max(least, key=lambda name: least[name])
        for depths in (None, {deepest: least[deepest]}):
            found = compiled.bundle.run(index, x_raw, depths)
            assert_bit_exact(found.y_raw, run_from_raw(graph, x_raw), names=(f"bounded simulation of {FIXED[index][1]}", "interpreter"))
            assert differences(design, found) == [], FIXED[index][1]


def test_a_bit_of_a_weight_is_seen(compiled: Compiled) -> None:
    x_raw = compiled.x_raw(1)
    assert not np.array_equal(compiled.bundle.run(len(FIXED), x_raw).y_raw, run_from_raw(compiled.graphs[1], x_raw))


def test_what_does_not_come_out_even_is_refused() -> None:
    for graph, folding, part in (
        (convolution(6, 4, 3, 3), Folding(pixels=5), "pixels=5 does not divide the 32 pixels"),
        (convolution(6, 4, 3, 3), Folding(arithmetic="quad", pixels=2), "PE=1 outputs do not fill a DSP block of 4"),
        (positioned(), Folding(pixels=2), "constants for each pixel"),
        (FIXED[11][0], Folding(pixels=2), "a word holds all taps and channels of each"),
        (FIXED[11][0], Folding(3, taps=4, pixels=16), "no window unit writes so many"),
        (FIXED[11][0], Folding(3, taps=4, pixels=3), "pixels=3 does not divide the 32 pixels"),
        (chain("linear", (12,), Linear(const(0, 4, 12), None)), Folding(pixels=2), "pixels=2 does not divide the 1 pixels"),
    ):
        with pytest.raises(ProjectError, match=part):
            lower(graph, Schedule.of({graph.nodes[1].name: folding}))


def positioned() -> Graph:
    """With a constant for each number of the frame behind its sums."""
    return chain("positioned", (4, 4, 8), conv(0, 6, 4, 1, 1), Affine(const(2, 6), const(3, 6, 4, 8)))


def test_windows_come_side_by_side_where_a_unit_makes_them() -> None:
    """Then no pixel waits for the one before: as many turns as words."""
    kinds = [[type(process) for process in lower(graph, schedule).processes] for graph, schedule in FIXED[:6]]
    assert [d.WideWindow in own for own in kinds] == [False, False, False, True, True, True]
    assert [d.Gather in own for own in kinds] == [True, True, False, False, False, False]
    assert [d.Scatter in own for own in kinds] == [True, True, True, False, False, False]
    assert [d.Deal in own for own in kinds] == [False, False, False, False, True, False]
    for graph, schedule in FIXED[3:6]:
        (window,) = (process for process in lower(graph, schedule).processes if isinstance(process, d.WideWindow))
        assert window.cycles < window.input.words + 2 * window.input.words // 4 + 2
        assert window.input.numbers == graph.infos["x"].size


def test_packs_across_pixels_where_they_fill_a_block() -> None:
    """And along outputs else: as many blocks for as many products."""
    for folding, blocks in ((Folding(1, 12, "pair", pixels=2), 12), (Folding(2, 12, "pair"), 12), (Folding(3, 12, "triple", pixels=2), 24)):
        graph, schedule = at(convolution(6, 4, 3, 3))[0], Schedule.of({"conv0": replace(folding, taps=9)})
        _, unit = unit_of(lower(graph, schedule))
        assert unit.cost(r.device(ZCU.part)).dsp == blocks, folding
        assert dsp.across(folding.arithmetic, unit.weight_type, unit.input.type, folding.pixels) == (folding.pixels == 2 == folding.pe + 1)


def test_rows_of_weights_are_narrower_and_deeper() -> None:
    """As many products a cycle: 256 weights a row take 57 blocks, and 64 a row for four pixels no more than what they hold."""
    graph = chain("wide", (64, 8, 8), conv(0, 64, 64, 3, 3, pads=(1, 1)))
    found = []
    for folding in (Folding(8, 32, "dsp", taps=9, weights="bram"), Folding(2, 32, "dsp", taps=9, weights="bram", pixels=4)):
        _, unit = unit_of(lower(graph, Schedule.of({"conv0": folding})))
        found.append((unit.cycles, unit.memories[0].depth, unit.memories[0].width * unit.memories[0].count))
    assert [cycles for cycles, _, _ in found] == [9216, 9216]
    assert [(depth, width) for _, depth, width in found] == [(144, 1024), (576, 256)]


def test_a_pool_is_offered_what_lowering_makes_of_it() -> None:
    """Words, busy cycles and costs; and a search takes it, where a convolution in front is as fast."""
    for graph, schedule in FIXED[11:14]:
        name = graph.nodes[1].name
        (layer,) = (layer for layer in layers(lower(graph, Schedule()), ZCU, {}) if layer.name == name)
        offered = [i for i, folding in enumerate(layer.foldings) if folding.pixels > 1]
        assert schedule.folding(name).pixels in {layer.foldings[i].pixels for i in offered}
        for place in offered:
            design = lower(graph, Schedule.of({name: layer.foldings[place]}))
            window, pool = (process for process in design.processes if isinstance(process, d.WideWindow | d.Pool))
            assert (window.sources[0].parallel, pool.targets[0].parallel) == (layer.takes[place], layer.gives[place])
            assert max(window.busy, pool.busy) == layer.busy[place]
            queues = [pieces.queue(stream, stream.parallel) for process in (window, pool) for stream in process.targets]
            assert r.total([*(process.cost(r.device(ZCU.part)) for process in (window, pool)), *queues]) == r.Resources(*layer.costs[place].tolist())
        made = fold.resolve(graph, ZCU, Request(fit=True), clock_ns=5)
        assert made.schedule.folding(name).pixels > 1
        assert made.interval < graph.infos["x"].size // 3
        with pytest.raises(ProjectError, match="has no weights"):
            fold.resolve(graph, ZCU, Request(((name, Folding(3, 2)),)), clock_ns=5)


def test_a_sum_of_a_pool_that_is_off_by_one_is_seen(gxx: str, tmp_path: Path) -> None:
    """The design's word with a bias of one more."""
    graph, schedule = FIXED[13]
    other = pooled(SumPool((2, 2), (2, 2), ((0, 0), (0, 0))))
    affine = next(node for node in other.nodes if isinstance(node.op, Affine))
    assert affine.op.shift is not None
    raws = affine.op.shift.raw.copy()
    raws.flat[0] += 1
    changed = replace(affine.op, shift=replace(affine.op.shift, raw=raws))
    wrong = chain("pooled", (3, 4, 32), other.nodes[1].op, changed)
    bundle = build([size_fifos(lower(wrong, schedule))], tmp_path, flags=("-Werror", "-O0"))
    x_raw = quantize_input(graph, adversarial_inputs(graph, np.random.default_rng(0), FRAMES))
    assert int((bundle.run(0, x_raw).y_raw != run_from_raw(graph, x_raw)).sum()) == FRAMES * 32


def test_an_option_is_what_lowering_makes_of_it() -> None:
    """Busy cycles, words on either side, and what the processes take, of every option with several pixels."""
    seen = set()
    for graph in (
        convolution(4, 2, 3, 3, width=16),
        convolution(4, 1, 3, 3, groups=4, width=16, stride=2),
        convolution(64, 64, 3, 3),
        convolution(8, 4, 1, 1),
        short("ap_ufixed<4,3>"),
    ):
        base = lower(graph, Schedule())
        (layer,) = (layer for layer in layers(base, ZCU, {}) if layer.name == "conv0")
        offered = [i for i, folding in enumerate(layer.foldings) if folding.pixels > 1]
        grids = [i for i in offered if layer.foldings[i].arithmetic in dsp.GRIDS]
        for place in (*offered[:: len(offered) // 12 + 1], *grids[:: len(grids) // 6 + 1]):
            design = lower(graph, Schedule.of({"conv0": layer.foldings[place]}))
            own = [process for process, node in zip(design.processes, design.nodes, strict=True) if node == "conv0"]
            first = next(process for process in own if not isinstance(process, d.Rewidth))
            last = [process for process in own if isinstance(process, d.MatVec | d.Scatter | d.Deal)][-1]
            assert first.sources[0].parallel == layer.takes[place]
            assert last.targets[0].parallel == layer.gives[place]
            inside = own[own.index(first) : own.index(last) + 1]
            assert max(process.busy for process in inside) == layer.busy[place]
            costs = [process.cost(r.device(ZCU.part)) for process in inside]
            queues = [pieces.queue(stream, stream.parallel) for process in inside for stream in process.targets]
            taken, told = r.total([*costs, *queues]), r.Resources(*layer.costs[place].tolist())
            assert (taken.dsp, taken.bram18) == (told.dsp, told.bram18)
            assert taken.lut == pytest.approx(told.lut, rel=0.2)  # changes of width are guessed
            seen |= {type(process) for process in own} | {layer.foldings[place].arithmetic}
    assert seen >= {d.WideWindow, d.Gather, d.Scatter, d.Deal, "pair", "grid27"}


def test_a_search_takes_grids_where_blocks_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """One layer of 4 bits, and DSP blocks but hardly any LUTs for its products: without grids it is slower."""
    graph = chain("few", (16, 8, 8), Conv(const(5, 16, 16, 3, 3, bits=4), None, (1, 1), ((1, 1), (1, 1)), (1, 1), 1), cast="ap_ufixed<4,3>")
    few = replace(ZCU, name="few", dsp=48, lut=3600)
    made = fold.resolve(graph, few, Request(fit=True), clock_ns=5)
    assert made.schedule.folding("conv0").arithmetic in dsp.GRIDS
    monkeypatch.setattr(matrices, "_ARITHMETIC", tuple(name for name in matrices._ARITHMETIC if name not in dsp.GRIDS))
    assert fold.resolve(graph, few, Request(fit=True), clock_ns=5).interval > made.interval


def test_a_search_takes_them_where_one_pixel_a_cycle_is_too_slow(tmp_path: Path) -> None:
    """And the file gives the folding back."""
    graph = chain("fast", (2, 8, 16), conv(0, 4, 2, 3, 3, pads=(1, 1)), NARROW)
    made = fold.resolve(graph, ZCU, Request(fit=True), clock_ns=5)
    assert made.schedule.folding("conv0").pixels == 2
    assert made.interval < 8 * 16
    (tmp_path / "folding.toml").write_text(folding_file.text(made, "m"), encoding="utf-8")
    assert "pixels = 2" in (tmp_path / "folding.toml").read_text(encoding="utf-8")
    assert fold.resolve(graph, ZCU, folding_file.read(tmp_path / "folding.toml"), clock_ns=5).schedule == made.schedule
