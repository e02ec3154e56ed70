"""Transposed convolutions without the zeros that they insert: the numbers of the graph, in every geometry, and turns as the model has them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np
import pytest
from hardware_models import scalar
from support.bounded import BoundedRun, build, differences
from support.bundles import build_bundle

from qfx.hardware.board import board
from qfx.hardware.design import design as d
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Folding, Request, Schedule
from qfx.hardware.folding.search import resolve
from qfx.hardware.project.project import prepare
from qfx.hardware.timing.fifo import size_fifos
from qfx.hardware.timing.simulate import simulate
from qfx.ir.graph import Graph, Node
from qfx.ir.interpret import quantize_input, run_from_raw
from qfx.ir.losses import losses
from qfx.ir.values import Pads, Shape
from qfx.ir.within import places
from qfx.operators import Affine, Cast, Const, Conv, Input, Relu, Stretch
from qfx.testing import adversarial_inputs, assert_bit_exact

FRAMES = 2


@dataclass(frozen=True)
class Up:
    """A transposed convolution as torch has it: of ``channels`` numbers to ``outputs``."""

    size: Shape
    channels: int
    outputs: int
    kernel: Shape
    stride: Shape
    padding: Shape
    extra: Shape = (0, 0)
    grids: tuple[int, ...] | int = 4

    @property
    def pads(self) -> Pads:
        sides = zip(self.kernel, self.padding, self.extra, strict=False)
        return tuple((k - 1 - p, k - 1 - p + more) for k, p, more in sides)

    def graph(self, groups: int = 1, dilation: int = 1) -> Graph:
        """With a bias, a scale for each channel, an activation and a cast behind it."""
        rng = np.random.default_rng(self.channels)
        axes = len(self.kernel)
        shape, ones = (self.outputs, self.channels // groups, *self.kernel), (1,) * axes
        weight, bias = Const(rng.integers(-8, 8, shape), self.grids), Const(rng.integers(-60, 60, self.outputs), 6)
        scale, shift = Const(rng.integers(-9, 10, self.outputs), 3), Const(rng.integers(-90, 90, self.outputs), 7)
        pads = self.pads if dilation == 1 else tuple((a + k - 1, b + k - 1) for (a, b), k in zip(self.pads, self.kernel, strict=True))
        nodes = (
            Node("x", Input((self.channels, *self.size), scalar("ap_fixed<6,3,AP_RND,AP_SAT>"))),
            Node("up", Stretch(self.stride), ("x",)),
            Node("conv", Conv(weight, bias, ones, pads, (dilation,) * axes, groups), ("up",)),
            Node("scale", Affine(scale, shift), ("conv",)),
            Node("relu", Relu(), ("scale",)),
            Node("y", Cast(scalar("ap_ufixed<8,5,AP_RND,AP_SAT>")), ("relu",)),
        )
        return Graph("up", nodes, "y")


DCGAN = Up((4, 5), 4, 4, (4, 4), (2, 2), (1, 1))
UNET = Up((4, 3), 4, 2, (2, 2), (2, 2), (0, 0))
OTHER = Up((5, 4), 4, 2, (3, 3), (2, 2), (1, 1), (1, 1))
FAST = (
    (DCGAN, Folding()),
    (DCGAN, Folding(8, 4, "dsp")),
    (DCGAN, Folding(4, 8, "shift")),
    (replace(OTHER, size=(3, 9)), Folding(4, 16, taps=4)),
    (UNET, Folding(4, 4, "pair")),
    (replace(OTHER, grids=(4, 6)), Folding(2, 2)),  # a binary point for each output
    (Up((3, 4), 2, 3, (5, 4), (3, 2), (1, 2), (2, 0)), Folding(3, 2)),
    (Up((4, 3), 2, 2, (3, 2), (1, 2), (1, 0)), Folding(2, 1)),  # one axis alone
    (Up((4, 3), 2, 2, (2, 3), (3, 4), (0, 0), (1, 2)), Folding(2, 2)),  # phases without a tap
    (Up((6,), 2, 3, (4,), (2,), (1,), (0,)), Folding(3, 2)),
    (Up((1, 1), 3, 2, (4, 4), (2, 2), (0, 0)), Folding()),
)
PLAIN = (
    (DCGAN.graph(groups=2), Folding(2, 2)),
    (DCGAN.graph(groups=4), Folding(2)),
    (DCGAN.graph(dilation=2), Folding()),
    (OTHER.graph(), Folding(2, 36)),  # a folding of nine taps, of which there are four here
)


WIDE = (
    (UNET, Folding(8, 4)),  # whole groups
    (replace(UNET, size=(4, 8)), Folding(8, 4, "pair", pixels=4)),  # several at once, in registers
    (replace(UNET, size=(3, 32)), Folding(8, 2, pixels=2)),  # and in a memory
    (replace(OTHER, size=(3, 16)), Folding(8, 16, taps=4, pixels=2)),  # of windows side by side
    (DCGAN, Folding(16, 16)),  # with a border that is left out
    (Up((8,), 2, 3, (2,), (2,), (0,), (0,)), Folding(6, 2, pixels=4)),  # a single row, which is in order as it comes
)
"""With words of whole groups, which leave as words of whole pixels."""


def is_fast(design: d.Design) -> bool:
    return not any(isinstance(process, d.Stretch) for process in design.processes)


def design_of(graph: Graph, folding: Folding, *, phased: bool = True) -> d.Design:
    return size_fifos(lower(graph, Schedule.of({"conv": folding}), phased=phased))


@pytest.fixture(scope="module")
def ran(gxx: str, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Graph, d.Design, np.ndarray, BoundedRun]]:
    both = (*FAST, *WIDE)
    graphs = [up.graph() for up, _ in both]
    designs = [design_of(graph, folding) for graph, (_, folding) in zip(graphs, both, strict=True)]
    assert not any(isinstance(process, d.Interleave) for design in designs[len(FAST) :] for process in design.processes)
    graphs, designs = [*graphs, graphs[0]], [*designs, planted(designs[0])]
    bundle = build(designs, tmp_path_factory.mktemp("phases"), flags=("-Werror", "-O0"))
    rng = np.random.default_rng(7)
    raws = [quantize_input(graph, rng.uniform(-4, 4, (FRAMES, *graph.infos["x"].shape)).astype(np.float32)) for graph in graphs]
    return [(graph, design, raw, bundle.run(i, raw)) for i, (graph, design, raw) in enumerate(zip(graphs, designs, raws, strict=True))]


def test_the_numbers_and_the_turns(ran: list[tuple[Graph, d.Design, np.ndarray, BoundedRun]]) -> None:
    for graph, design, raw, found in ran[:-1]:
        assert is_fast(design)
        assert_bit_exact(found.y_raw, run_from_raw(graph, raw), names=("bounded simulation", "interpreter"))
        assert differences(design, found) == []


def test_a_phase_in_the_place_of_another_is_found(ran: list[tuple[Graph, d.Design, np.ndarray, BoundedRun]]) -> None:
    graph, _, raw, found = ran[-1]
    assert not np.array_equal(found.y_raw, run_from_raw(graph, raw))


def planted(design: d.Design) -> d.Design:
    """With another column in front."""
    (place,) = [i for i, process in enumerate(design.processes) if isinstance(process, d.Interleave)]
    process = design.processes[place]
    assert isinstance(process, d.Interleave)
    moved = replace(process, first=(process.first[0], 0))
    return replace(design, processes=(*design.processes[:place], moved, *design.processes[place + 1 :]))


@pytest.mark.parametrize(("graph", "folding"), PLAIN)
def test_what_keeps_its_zeros(graph: Graph, folding: Folding) -> None:
    assert not is_fast(design_of(graph, folding))


def test_loaded_weights_keep_their_zeros() -> None:
    assert not is_fast(size_fifos(lower(prepare(DCGAN.graph(), "stream"), Schedule())))


@pytest.mark.parametrize(("up", "least"), [(DCGAN, 2.5), (UNET, 3.2), (OTHER, 1.9)])
def test_turns_are_saved(up: Up, least: float) -> None:
    """At the same number of multipliers; and by the optimizer, at the same pace with fewer."""
    up = replace(up, size=(8, 8))
    before, after = (design_of(up.graph(), Folding(2, 2), phased=phased) for phased in (False, True))
    assert simulate(before).interval > least * simulate(after).interval
    products = [
        prod((process.pixels, process.outputs, process.inputs))
        for design in (before, after)
        for process in design.processes
        if isinstance(process, d.MatVec)
    ]
    assert products[0] > least * products[1]


def test_the_optimizer_knows_what_stands_behind() -> None:
    for up, folding in (*FAST, *WIDE):
        processes = design_of(up.graph(), folding).processes
        (place,) = (i for i, process in enumerate(processes) if isinstance(process, d.MatVec))
        unit, behind = processes[place], [process for process in processes[place + 1 : -1] if not isinstance(process, d.Rewidth)]
        assert isinstance(unit, d.MatVec)
        told = [process for process in replace(unit, abreast=1).in_place(folding.pe, folding.pixels) if not isinstance(process, d.Rewidth)]
        assert [(type(process), process.busy) for process in told] == [(type(process), process.busy) for process in behind]


def test_the_optimizer_folds_them() -> None:
    found = resolve(DCGAN.graph(), board("zcu104"), Request(fps=200_000), clock_ns=5)
    assert is_fast(found.design)
    assert found.interval <= 1000


def test_casts_that_are_counted_are_those_of_the_result(gxx: str, tmp_path: Path) -> None:
    """What is left out behind the unit is no number of the model."""
    graph = DCGAN.graph()
    x = adversarial_inputs(graph, np.random.default_rng(7), FRAMES)
    raw = quantize_input(graph, x)
    sites, found = places(graph), losses(graph, x)
    bundle = build_bundle([(graph, Schedule())], tmp_path, flags=("-Werror", "-O0", "-DQFX_REPORT"))
    assert bundle.losses_from_raw(0, raw) == {sites[name]: loss for name, loss in found.items() if name != "x"}
