"""Two branches that meet: the sum is part of a convolution's process, and what reads a value beside a convolution takes a tap of its windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hardware_models import const, conv, joined, residual, scalar
from random_schedules import random_schedule
from schedule_models import Net, resnet
from support.bounded import BoundedBundle, build, differences
from support.bundles import build_bundle

from qfx.hardware.board import board
from qfx.hardware.design import design as d
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Folding, Schedule
from qfx.hardware.folding.options import layers
from qfx.hardware.folding.plan import plan
from qfx.hardware.timing.fifo import least_depths, size_fifos
from qfx.hardware.timing.simulate import DeadlockError, simulate
from qfx.ir.graph import Graph, Node
from qfx.ir.interpret import quantize_input, run_from_raw
from qfx.ir.values import RawArray
from qfx.operators import Add, Affine, Cast, Concat, Const, Conv, Input, Linear, Mul, Operator, Pad, Relu, Slice, Sub
from qfx.testing import adversarial_inputs, assert_bit_exact

ONE = Schedule()
NARROW = Cast(scalar("ap_fixed<6,3,AP_RND,AP_SAT>"))


def identity() -> Graph:
    """Two convolutions beside what they read."""
    net = Net("identity", 4, 5)
    return net.graph(net.join("sum", net.conv("b", net.conv("a", "x", 4, 4), 4, 4), "x"))


def alone() -> Graph:
    """One convolution beside what it reads itself."""
    net = Net("alone", 2, 5)
    return net.graph(net.join("sum", "x", net.conv("a", "x", 2, 2)))


def shortcut(stride: int = 2, size: int = 7) -> Graph:
    """Two convolutions, the first with a stride, beside one of 1 x 1 taps."""
    net = Net("shortcut", 4, size)
    deep = net.conv("b", net.conv("a", "x", 4, 6, stride=stride), 6, 6)
    return net.graph(net.join("sum", net.conv("p", "x", 4, 6, 1, stride), deep))


def sliced() -> Graph:
    """Every second pixel, with channels of zeros, beside two convolutions of which the first has a stride."""
    net = Net("sliced", 2, 7)
    net.add("padded", Pad(((1, 1), (0, 0), (0, 0))), net.add("few", Slice((0, 0, 0), (2, 7, 7), (1, 2, 2)), "x"))
    return net.graph(net.join("sum", "padded", net.conv("b", net.conv("a", "x", 2, 4, stride=2), 4, 4)))


def dilated() -> Graph:
    """Windows whose taps lie apart: of 3 x 3 taps with two pixels of padding that in the middle, of 2 x 2 with one the first."""
    net = Net("dilated", 3, 6)
    net.add("a", conv(500, 3, 3, 3, 3, pads=(2, 2), dilation=2), "x")
    net.add("wide", Add(), net.add("a_q", NARROW, "a"), "x")
    net.add("wide_q", NARROW, "wide")
    net.add("b", conv(502, 3, 1, 2, 2, pads=(0, 1), groups=3), "wide_q")
    net.add("sum", Sub(), "wide_q", net.add("c", conv(504, 3, 3, 1, 1), net.add("b_q", NARROW, "b")))
    return net.graph(net.add("sum_q", NARROW, "sum"))


def signal() -> Graph:
    """One dimension; branches that meet channel by channel."""
    nodes = (
        Node("x", Input((4, 9), scalar("ap_fixed<5,2,AP_RND,AP_SAT>"))),
        Node("a", conv(510, 2, 2, 5, stride=2, pads=(2, 2), groups=2), ("x",)),
        Node("p", conv(512, 4, 4, 1, stride=2), ("x",)),
        Node("join", Concat(), ("a", "p")),
        Node("out", NARROW, ("join",)),
    )
    return Graph("signal", nodes, "out")


BUILT: tuple[Callable[[], Graph], ...] = (alone, shortcut, sliced, dilated, signal)


def kinds(graph: Graph) -> list[str]:
    return [type(process).__name__ for process in lower(graph, ONE).processes[1:-1] if not isinstance(process, d.Rewidth)]


def taps(graph: Graph) -> dict[str, tuple[int, int]]:
    """By window unit: the tap that leaves it besides."""
    units = [process for process in lower(graph, ONE).processes if isinstance(process, d.Window)]
    return {unit.name: unit.at for unit in units if unit.tap is not None}


def test_a_residual_sum_is_part_of_the_convolution_that_ends_the_branch() -> None:
    assert kinds(identity()) == ["Window", "MatVec", "Window", "MatVec"]
    last = lower(identity(), ONE).processes[-2]
    assert isinstance(last, d.MatVec)
    assert [step.function for step in last.epilogue.steps] == ["add", "relu", "cast", "add", "relu", "cast"]
    assert [step.beside for step in last.epilogue.steps] == [-1, -1, -1, 1, -1, -1]


def test_of_two_convolutions_the_one_with_fewer_products_takes_the_sum() -> None:
    for made, host in ((shortcut(), "p_matvec"), (resnet(), "p_matvec")):
        joins = [process.name for process in lower(made, ONE).processes if isinstance(process, d.MatVec) and process.beside is not None]
        assert joins[-1] == host
    # Of equals the later one.
    net = Net("equals", 2, 4)
    made = net.graph(net.join("sum", net.conv("b", "x", 2, 2), net.conv("a", "x", 2, 2)))
    (host,) = [process.name for process in lower(made, ONE).processes if isinstance(process, d.MatVec) and process.beside is not None]
    assert host == "a_matvec"


def test_what_cannot_be_part_of_a_convolution_stays_a_process() -> None:
    net = Net("others", 2, 4)
    read_twice = net.conv("a", "x", 2, 2)
    net.join("sum", read_twice, "x")
    assert "Binary" in kinds(net.graph(net.add("product", Mul(), "sum_q", read_twice)))  # the cast of the convolution has two readers
    twice = Graph("twice", (*identity().nodes, Node("double", Add(), ("sum_q", "sum_q"))), "double")
    assert kinds(twice)[-2:] == ["Fork", "Binary"]
    net = Net("three", 2, 4)  # one sum for one convolution
    first = net.join("one", net.conv("a", "x", 2, 2), "x")
    assert kinds(net.graph(net.join("two", first, "x"))).count("Binary") == 1


def test_a_shortcut_has_neither_a_fork_nor_a_window_unit() -> None:
    assert kinds(shortcut()) == ["Window", "MatVec", "Window", "MatVec", "MatVec"]
    assert taps(shortcut()) == {"a_window": (1, 1)}
    assert taps(shortcut(stride=1)) == {"a_window": (1, 1)}
    assert taps(identity()) == {"a_window": (1, 1)}
    assert taps(sliced()) == {"a_window": (1, 1)}
    assert kinds(sliced()) == ["Window", "MatVec", "PadFrame", "Window", "MatVec"]
    assert taps(dilated()) == {"b_window": (0, 0)}
    assert taps(signal()) == {"a_window": (0, 2)}
    assert taps(joined()) == {"depthwise_window": (1, 1), "three_window": (1, 1)}
    assert taps(residual()) == {"conv_window": (1, 1)}


def test_a_tap_is_taken_only_where_it_is_the_pixel_that_is_read() -> None:
    def read(first: Conv, second: Operator, cast: str = "ap_fixed<5,2,AP_RND,AP_SAT>") -> dict[str, tuple[int, int]]:
        nodes = (
            Node("x", Input((2, 6, 6), scalar(cast))),
            Node("a", first, ("x",)),
            Node("p", second, ("x",)),
            Node("join", Concat(), ("a", "p")),
        )
        return taps(Graph("read", nodes, "join"))

    one = conv(520, 2, 2, 1, 1, stride=2)
    assert read(conv(522, 2, 2, 3, 3, stride=2, pads=(1, 1)), one) == {"a_window": (1, 1)}
    assert read(conv(522, 2, 2, 5, 5, stride=2, pads=(2, 2)), one) == {"a_window": (2, 2)}
    assert read(conv(522, 2, 2, 2, 2, stride=2), one) == {"a_window": (0, 0)}
    # The windows begin a pixel beside: none of their taps is at two times their place.
    assert read(conv(522, 2, 2, 3, 3, stride=2, pads=(1, 2), dilation=2), one) == {}
    # One is a convolution of more than one tap, and one pads for itself.
    assert read(conv(522, 2, 2, 3, 3, stride=2, pads=(1, 1)), conv(524, 2, 2, 2, 2, stride=2)) == {}
    assert read(conv(522, 2, 2, 2, 2, stride=2, pads=(1, 1)), replace(one, pads=((1, 0), (1, 0)))) == {}
    # A slice takes these pixels and no others.
    first = conv(522, 2, 2, 3, 3, stride=2, pads=(1, 1))
    assert read(first, Slice((0, 0, 0), (2, 6, 5), (1, 2, 2))) == {"a_window": (1, 1)}
    assert read(first, Slice((0, 1, 0), (2, 6, 6), (1, 2, 2))) == {}
    assert read(first, Slice((0, 0, 0), (1, 6, 6), (1, 2, 2))) == {}
    # There are two convolutions of one tap each.
    assert read(one, conv(524, 2, 2, 1, 1, stride=2)) == {}


def test_no_window_unit_waits_for_what_comes_of_it() -> None:
    """The sum is part of the convolution whose windows the shortcut would read: it would have to be built before itself."""
    net = Net("circle", 2, 5)
    five = net.conv("c", net.conv("p", "x", 2, 2, 1), 2, 2, 5)
    made = net.graph(net.join("sum", net.conv("a", "x", 2, 2), five))
    assert taps(made) == {}
    assert taps(alone()) == {}
    assert kinds(made).count("Binary") == 0


def test_values_on_grids_of_their_own_are_forked() -> None:
    """A convolution reads them on another grid than what stands beside it."""
    net = Net("own", 4, 5)
    net.add("narrow", Affine(Const(np.array([3, 5, -7, 2]), (2, 9, 0, 5)), None), "x")
    for source, per_channel in (("narrow", True), ("x", False)):
        made = Net("own", 4, 5)
        made.nodes = list(net.nodes)
        made.join("sum", made.conv("b", made.conv("a", source, 4, 4), 4, 4), source)
        graph = made.graph("sum_q")
        assert graph.infos[source].per_channel is per_channel
        assert taps(graph) == ({} if per_channel else {"a_window": (1, 1)})


def test_no_window_unit_is_a_fork_in_a_frame_too_long_to_simulate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame of windows would have to lie behind it."""
    monkeypatch.setattr("qfx.hardware.design.lower.MAX_WORDS", 100)
    assert taps(shortcut()) == {}
    assert kinds(shortcut()) == ["Fork", "Window", "MatVec", "Window", "MatVec", "Window", "MatVec"]
    (unit,) = [process for process in lower(identity(), ONE, shared=True).processes if isinstance(process, d.Window) and process.tap is not None]
    assert [stream.depth for stream in unit.targets] == [stream.words for stream in unit.targets]


def test_the_search_knows_the_words_of_both_streams() -> None:
    """What a sum takes beside is as wide as what its layer gives, and a tap as wide as what goes into the windows; what is told is what is built."""
    found = {layer.name: layer for layer in layers(lower(shortcut(), ONE), board("zcu102"), {})}
    assert found["p"].sources == (("a", 4 * 16), ("b", 6 * 16))
    assert (found["p"].tapped, found["p"].paired) == ({0}, {1})
    assert "sum" not in found
    assert np.array_equal(found["p"].words(1), found["p"].gives)
    foldings = {"a": Folding(2, 18, "lut", 9), "b": Folding(3, 6, "lut"), "p": Folding(6, 2, "lut")}
    design = lower(shortcut(), Schedule.of(foldings))
    (unit,) = [process for process in design.processes if isinstance(process, d.WholeWindow)]
    assert unit.tap is not None
    assert unit.tap.parallel == unit.input.parallel == 2
    (host,) = [process for process in design.processes if isinstance(process, d.MatVec) and process.beside is not None]
    assert host.beside is not None
    assert host.beside.parallel == host.output.parallel == 6
    made = plan(shortcut(), board("zcu102"), Schedule.of(foldings), clock_ns=5)
    assert made.timing is not None
    assert made.timing.interval >= max(process.busy for process in made.design.processes)


def test_less_waits_beside_a_branch_than_behind_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """The FIFO of a residual sum need not hold what waits for the first convolution's windows; that of a shortcut holds no sums."""

    def bits(graph: Graph) -> int:
        sized = size_fifos(lower(graph, ONE))
        return sum(stream.depth * stream.bits for stream in sized.streams)

    shared = [bits(graph) for graph in (identity(), shortcut(), resnet())]
    monkeypatch.setattr("qfx.hardware.design.build.taps", lambda *_: ())
    forked = [bits(graph) for graph in (identity(), shortcut(), resnet())]
    assert all(few < many for few, many in zip(shared, forked, strict=True))


@dataclass(frozen=True)
class Compiled:
    """Designs in one executable, with their graphs; behind the first ``right`` ones such with an error."""

    graphs: tuple[Graph, ...]
    right: int
    bundle: BoundedBundle

    def x_raw(self, index: int) -> RawArray:
        graph = self.graphs[index]
        return quantize_input(graph, adversarial_inputs(graph, np.random.default_rng(index), 3))

    def wanted(self, index: int) -> RawArray:
        return run_from_raw(self.graphs[index], self.x_raw(index))


@pytest.fixture(scope="module")
def compiled(gxx: str, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    seed = int(np.random.default_rng().integers(1 << 32))
    print(f"seed {seed}")  # shown by pytest if a test fails
    rng = np.random.default_rng(seed)
    whole = Schedule.of({"a": Folding(2, 9, taps=9), "b": Folding(1, 3), "p": Folding(3, 1)})
    graphs = [make() for make in BUILT]
    designs = [size_fifos(lower(graph, random_schedule(graph, rng))) for graph in graphs]
    designs += [size_fifos(lower(shortcut(), whole)), size_fifos(lower(identity(), ONE))]
    graphs += [shortcut(), identity()]
    same = designs[-1], designs[BUILT.index(dilated)]
    wrong = (second_number_moved(same[0]), tap_aside(same[0]), turned_round(same[1]))
    bundle = build((*designs, *wrong), tmp_path_factory.mktemp("residual"), flags=("-Werror", "-O0"))
    return Compiled((*graphs, identity(), identity(), dilated()), len(designs), bundle)


def test_numbers_turns_and_depths(compiled: Compiled) -> None:
    """C simulation over FIFOs of the depths chosen, turn by turn; with a word less than the least it stops, where the model says."""
    told = 0
    for index, design in enumerate(compiled.bundle.designs[: compiled.right]):
        graph, x_raw, wanted = compiled.graphs[index], compiled.x_raw(index), compiled.wanted(index)
        found = compiled.bundle.run(index, x_raw)
        assert_bit_exact(found.y_raw, wanted, names=(f"bounded simulation of {graph.name}", "interpreter"))
        assert differences(design, found) == [], graph.name
        name, least = max(least_depths(design).items(), key=lambda item: item[1])
        if least > 1:
            assert np.array_equal(compiled.bundle.run(index, x_raw, {name: least}).y_raw, wanted)
            with pytest.raises(DeadlockError) as stopped:
                compiled.bundle.run(index, x_raw, {name: least - 1})
            with pytest.raises(DeadlockError) as modelled:
                simulate(design, 3, depths={name: least - 1})
            assert stopped.value.waits == modelled.value.waits
            told += 1
    assert told > 1


def test_an_error_of_one_place_is_found(compiled: Compiled) -> None:
    """The second number moved by a bit, the tap beside, and the two of a difference in the other order: each gives other numbers."""
    for index in range(compiled.right, len(compiled.graphs)):
        assert not np.array_equal(compiled.bundle.run(index, compiled.x_raw(index)).y_raw, compiled.wanted(index))
    x_raw, y_raw = compiled.x_raw(0), compiled.wanted(0).copy()
    y_raw.flat[3] += 1
    with pytest.raises(AssertionError):
        assert_bit_exact(compiled.bundle.run(0, x_raw).y_raw, y_raw, names=("bounded simulation", "interpreter"))


def test_the_emulator_gives_the_same_numbers(gxx: str, tmp_path: Path) -> None:
    graphs = [make() for make in BUILT]
    fast = build_bundle([(graph, ONE) for graph in graphs], tmp_path, fast=True, flags=("-Werror", "-O0"))
    for index, graph in enumerate(graphs):
        x_raw = quantize_input(graph, adversarial_inputs(graph, np.random.default_rng(index), 3))
        assert_bit_exact(fast.run_from_raw(index, x_raw), run_from_raw(graph, x_raw), names=(f"emulator of {graph.name}", "interpreter"))


def changed(design: d.Design, last: Callable[[d.Process], bool], change: Callable[[d.Process], d.Process]) -> d.Design:
    """The design with the last process changed of which that holds."""
    processes = list(design.processes)
    at = max(i for i, one in enumerate(processes) if last(one))
    processes[at] = change(processes[at])
    return replace(design, processes=tuple(processes))


def joins(process: d.Process) -> bool:
    return isinstance(process, d.MatVec) and process.beside is not None


def with_join(process: d.Process, edit: Callable[[d.Step], d.Step]) -> d.Process:
    assert isinstance(process, d.MatVec)
    steps = tuple(edit(step) if step.beside >= 0 else step for step in process.epilogue.steps)
    return replace(process, epilogue=replace(process.epilogue, steps=steps))


def second_number_moved(design: d.Design) -> d.Design:
    def moved(step: d.Step) -> d.Step:
        first, second = step.arguments
        assert isinstance(second, int)
        return replace(step, arguments=(first, second + 1))

    return changed(design, joins, lambda process: with_join(process, moved))


def tap_aside(design: d.Design) -> d.Design:
    def aside(process: d.Process) -> d.Process:
        assert isinstance(process, d.Window)
        return replace(process, at=(process.at[0], process.at[1] - 1))

    return changed(design, lambda process: isinstance(process, d.Window) and process.tap is not None, aside)


def turned_round(design: d.Design) -> d.Design:
    return changed(design, joins, lambda process: with_join(process, lambda step: replace(step, beside=1 - step.beside)))


def test_the_gates_of_a_recurrent_cell_join_their_sums() -> None:
    """Two matrices of one gate: the second one's process adds."""
    nodes = (
        Node("x", Input((6,), scalar("ap_fixed<6,3>"))),
        Node("left", Linear(const(530, 4, 6), None), ("x",)),
        Node("right", Linear(const(531, 4, 6), const(532, 4)), ("x",)),
        Node("sum", Add(), ("left", "right")),
        Node("gate", Relu(), ("sum",)),
    )
    assert kinds(Graph("gates", nodes, "gate")) == ["Fork", "MatVec", "MatVec"]
