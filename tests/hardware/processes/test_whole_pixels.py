"""Words of whole pixels, by which what moves numbers or joins values keeps up with convolutions of several pixels a cycle: numbers, turns, FIFOs, and
that a search takes them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hardware_models import chain, const, conv, scalar
from support.bounded import BoundedBundle, build, differences

from qfx.errors import ProjectError
from qfx.hardware.board import board
from qfx.hardware.cost import pieces
from qfx.hardware.cost import resources as r
from qfx.hardware.design import design as d
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Folding, Request, Schedule
from qfx.hardware.folding import search as fold
from qfx.hardware.folding.options import layers
from qfx.hardware.processes.traits import WholePixels
from qfx.hardware.timing.fifo import least_depths, size_fifos
from qfx.ir.graph import Graph, Node
from qfx.ir.interpret import quantize_input, run_from_raw
from qfx.ir.values import RawArray
from qfx.operators import Affine, Cast, Concat, Expand, Input, MaxPool, Mul, Operator, Pad, ReduceSum, Slice, SumPool, Upsample
from qfx.testing import assert_bit_exact

FRAMES = 3
ZCU = board("zcu102")
NARROW = Cast(scalar("ap_fixed<6,3,AP_RND,AP_SAT>"))


def joined() -> Graph:
    """Three values of other words and channels, with constants for each channel behind them."""
    wide = Cast(scalar("ap_ufixed<7,5,AP_RND,AP_SAT>"))
    return Graph(
        "joined",
        (
            Node("x", Input((3, 4, 8), scalar("ap_fixed<6,3,AP_RND,AP_SAT>"))),
            Node("few", conv(0, 2, 3, 1, 1), ("x",)),
            Node("few_q", wide, ("few",)),
            Node("many", conv(2, 5, 3, 1, 1), ("x",)),
            Node("many_q", NARROW, ("many",)),
            Node("cat", Concat(), ("few_q", "x", "many_q")),
            Node("affine", Affine(const(4, 10), const(5, 10)), ("cat",)),
        ),
        "affine",
    )


def squeezed() -> Graph:
    """Each channel times its mean."""
    return Graph(
        "squeezed",
        (
            Node("x", Input((3, 4, 8), scalar("ap_fixed<6,3,AP_RND,AP_SAT>"))),
            Node("sum", SumPool((4, 8), (1, 1), ((0, 0), (0, 0))), ("x",)),
            Node("mean", Cast(scalar("ap_fixed<6,6,AP_RND,AP_SAT>")), ("sum",)),
            Node("everywhere", Expand((3, 4, 8)), ("mean",)),
            Node("product", Mul(), ("x", "everywhere")),
            Node("y", Affine(const(10, 3), const(11, 3)), ("product",)),
        ),
        "y",
    )


def at(graph: Graph, pe: int, pixels: int = 1) -> tuple[Graph, Schedule]:
    """The last node but one folded so."""
    return graph, Schedule.of({graph.nodes[-2].name: Folding(pe, pixels=pixels)})


def moved(op: Pad | Slice | Upsample, width: int = 8) -> Graph:
    """Three channels of 4 rows."""
    return chain("moved", (3, 4, width), op, NARROW)


def at_once(op: SumPool | MaxPool | ReduceSum, together: int) -> tuple[Graph, Schedule]:
    """A pool of a whole frame of 4 x 8 pixels, so many of them a turn."""
    graph = chain("whole", (3, 4, 8), op, Affine(const(6, 3), const(7, 3)))
    return graph, Schedule.of({graph.nodes[1].name: Folding(3, taps=together)})


SINGLE = (
    at(joined(), pe=10, pixels=4),
    at(moved(Upsample((2, 2))), pe=3, pixels=4),
    at(moved(Upsample((3, 1))), pe=3, pixels=8),
    at(moved(Pad(((0, 0), (1, 1), (3, 1)))), pe=3, pixels=4),
    at(moved(Pad(((1, 1), (0, 0), (0, 0)))), pe=5),
    at(moved(Slice((0, 1, 3), (3, 3, 7), (1, 1, 1))), pe=3, pixels=2),
    at(moved(Slice((0, 0, 0), (2, 4, 8), (1, 1, 1))), pe=2),
    at_once(SumPool((4, 8), (1, 1), ((0, 0), (0, 0))), 4),
    at_once(ReduceSum((1, 2)), 2),
    at(squeezed(), pe=3, pixels=4),
    (squeezed(), Schedule.of({"everywhere": Folding(3, pixels=2)})),
    (chain("pointwise", (3, 4, 8), Affine(const(12, 3), const(13, 3)), NARROW), Schedule.of({"affine0": Folding(3, pixels=2)})),
)
"""A layer and what stands behind it, folded to whole pixels."""


def behind_each_other(shape: tuple[int, ...], *ops: tuple[Operator, dict[str, int]]) -> tuple[Graph, Schedule]:
    graph = chain("moves", shape, *(op for op, _ in ops), NARROW)
    return graph, Schedule.of({node.name: Folding(**folding) for node, (_, folding) in zip(graph.nodes[1:], ops, strict=False)})


_SQUEEZED = {"sum": Folding(3, taps=4), "everywhere": Folding(3, pixels=2), "product": Folding(3, pixels=4)}

FIXED = (
    at(joined(), pe=10),
    at(joined(), pe=10, pixels=4),
    behind_each_other(
        (3, 4, 8),
        (Upsample((2, 3)), {"pe": 3, "pixels": 12}),  # a row in registers
        (Slice((0, 0, 2), (3, 8, 18), (1, 3, 1)), {"pe": 3, "pixels": 4}),  # words that meet two
        (Pad(((0, 0), (1, 0), (3, 1))), {"pe": 3, "pixels": 4}),  # moved along within words
        (Pad(((1, 0), (0, 1), (4, 4))), {"pe": 4, "pixels": 4}),  # by whole words, with more channels
        (Slice((1, 0, 4), (3, 5, 12), (1, 1, 1)), {"pe": 2, "pixels": 4}),  # whole words, of fewer channels
        (Affine(const(8, 2), const(9, 2)), {"pe": 2, "pixels": 4}),  # a process of its own
    ),
    behind_each_other(
        (3, 4, 8),
        (Upsample((2, 2)), {"pe": 3, "pixels": 2}),  # a row in a memory
        (Slice((0, 0, 1), (3, 4, 16), (1, 2, 2)), {"pe": 3, "pixels": 2}),  # every other one
        (Upsample((3, 1)), {"pe": 3, "pixels": 8}),  # a row in a word
        (Pad(((0, 2), (1, 0), (1, 2))), {"pe": 5, "pixels": 11}),  # a row
        (Slice((0, 0, 2), (5, 4, 7), (2, 1, 1)), {"pe": 3, "pixels": 5}),  # a row
        (Pad(((1, 1), (0, 0), (0, 0))), {"pe": 5}),  # a pixel
        (Upsample((1, 2)), {"pe": 5, "pixels": 10}),  # no row is kept
        (Slice((0, 0, 0), (2, 4, 10), (1, 1, 1)), {"pe": 2}),  # a pixel
    ),
    (squeezed(), Schedule.of(_SQUEEZED)),
    at_once(MaxPool((4, 8), (1, 1), ((0, 0), (0, 0)), (1, 1)), 8),
)


OFF = {1: d.Concat, 2: d.PadFrame, 3: d.SliceFrame}
"""Those of them that are also built with a process of that kind a little wrong."""


@pytest.fixture(scope="module")
def compiled(gxx: str, tmp_path_factory: pytest.TempPathFactory) -> BoundedBundle:
    designs = [size_fifos(lower(graph, schedule)) for graph, schedule in FIXED]
    return build(
        [*designs, *(off_by_one(designs[index], kind) for index, kind in OFF.items())], tmp_path_factory.mktemp("whole"), flags=("-Werror", "-O0")
    )


def x_raw(graph: Graph, index: int) -> RawArray:
    """Numbers that differ from place to place, so that one at another place is seen."""
    shape = (FRAMES, *graph.infos["x"].shape)
    return quantize_input(graph, np.random.default_rng(index).uniform(-4, 4, shape).astype(np.float32))


def parts(design: d.Design, name: str) -> list[WholePixels | d.Pool]:
    """The processes of the node that can have words of whole pixels."""
    both = zip(design.processes, design.nodes, strict=True)
    return [process for process, node in both if node == name and isinstance(process, WholePixels | d.Pool)]


def test_numbers_turns_and_depths(compiled: BoundedBundle) -> None:
    """Raw for raw those of the interpreter, in the turns of the model, through FIFOs as deep as chosen, and one as shallow as it can be."""
    for index, (graph, schedule) in enumerate(FIXED):
        design, raws = compiled.designs[index], x_raw(graph, index)
        folded = [process for name, _ in schedule.foldings for process in parts(design, name)]
        assert all(process.together > 1 if isinstance(process, d.Pool) else process.abreast for process in folded), schedule
        least = least_depths(design)
        deepest = max(least, key=lambda name: least[name])
        for depths in (None, {deepest: least[deepest]}):
            found = compiled.run(index, raws, depths)
            assert_bit_exact(found.y_raw, run_from_raw(graph, raws), names=(f"bounded simulation of {schedule}", "interpreter"))
            assert differences(design, found) == [], schedule


def test_options_are_what_lowering_makes_of_them() -> None:
    """Words, busy cycles and costs."""
    for graph, schedule in SINGLE:
        ((name, _),) = schedule.foldings
        (layer,) = (layer for layer in layers(lower(graph, Schedule()), ZCU, {}) if layer.name == name)
        assert {max(folding.pixels, folding.taps) for folding in layer.foldings} > {1}, name
        for place, folding in enumerate(layer.foldings):
            made = parts(lower(graph, Schedule.of({name: folding})), name)
            words = [stream.parallel for process in made for stream in process.sources]
            assert {int(layer.words(source)[place]) for source in range(len(layer.sources))} <= set(words), folding
            assert made[0].sources[0].parallel == layer.takes[place], folding
            assert made[-1].targets[0].parallel == layer.gives[place], folding
            assert max(process.busy for process in made) == layer.busy[place], folding
            queues = [pieces.queue(stream, stream.parallel) for process in made for stream in process.targets]
            costs = r.total([*(process.cost(r.device(ZCU.part)) for process in made), *queues])
            assert costs == r.Resources(*layer.costs[place].tolist()), folding


def test_a_search_takes_them_where_they_are_asked_for() -> None:
    """As fast as what is in front; and none where one number a cycle is enough."""
    graph = FIXED[0][0]
    made = fold.resolve(graph, ZCU, Request(fit=True), clock_ns=5)
    assert made.schedule.folding("cat").pixels > 1
    assert made.interval < 4 * 8 - 1
    slow = fold.resolve(graph, ZCU, Request(fps=1e5), clock_ns=5)
    assert not any(getattr(process, "abreast", 0) for process in parts(lower(graph, slow.schedule), "cat"))
    frames, _ = SINGLE[7]
    made = fold.resolve(frames, ZCU, Request(fit=True), clock_ns=5)
    assert made.schedule.folding(frames.nodes[1].name).taps > 1


def test_what_does_not_come_out_even_is_refused() -> None:
    positioned = replace(FIXED[0][0], nodes=(*FIXED[0][0].nodes[:-1], Node("affine", Affine(const(4, 10), const(5, 10, 4, 8)), ("cat",))))
    up, whole = SINGLE[1][0], SINGLE[7][0]
    for graph, folding, part in (
        (up, Folding(3, pixels=64), "not moved so many pixels at once"),
        (up, Folding(3, pixels=3), "divide 128 pixels"),
        (whole, Folding(3, taps=3), "so many of the 32 pixels"),
        (whole, Folding(1, taps=2), "so many of the 32 pixels"),
        (FIXED[0][0], Folding(10, pixels=3), "divide 32 pixels"),
        (FIXED[0][0], Folding(1, pixels=2), "hold all 10 channels"),
        (FIXED[0][0], Folding(3), "use a common divisor, or PE=10"),
        (positioned, Folding(10, pixels=2), "constants for each pixel behind its inputs"),
    ):
        with pytest.raises(ProjectError) as found:
            lower(graph, Schedule.of({graph.nodes[-2].name: folding}))
        assert part in str(found.value)


def off_by_one(design: d.Design, kind: type[d.Process]) -> d.Design:
    """The design with its first process of the kind a bit, or a pixel, off."""
    place, process = next((i, process) for i, process in enumerate(design.processes) if isinstance(process, kind))
    if isinstance(process, d.Concat):
        wrong: d.Process = replace(process, shifts=(process.shifts[0], process.shifts[1] + 1))
    elif isinstance(process, d.PadFrame):
        wrong = replace(process, before=(process.before[0], process.before[1] - 1, process.before[2]))
    else:
        assert isinstance(process, d.SliceFrame)
        rows, columns, (start, stop, step) = process.spans
        wrong = replace(process, spans=(rows, columns, (start - 1, stop - 1, step)))
    return replace(design, processes=(*design.processes[:place], wrong, *design.processes[place + 1 :]))


def test_what_is_off_is_seen(compiled: BoundedBundle) -> None:
    for place, index in enumerate(OFF):
        graph, _ = FIXED[index]
        raws = x_raw(graph, index)
        assert not np.array_equal(compiled.run(len(FIXED) + place, raws).y_raw, run_from_raw(graph, raws)), index
