"""The C++ of layer engines, with the vendor's headers, against the interpreter: raw integer by raw integer, turn by turn."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import support.engines
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.engines import DEPTHS, ENGINE, Bench, StoppedError, build
from test_sequential_steps import apart, conv, drawn, flattened, moved, residual, typed, weights

from qfx.errors import QfxError
from qfx.fixed.type import FixedType, QMode
from qfx.hardware.assets import hls_root
from qfx.hardware.sequential import splitting
from qfx.hardware.sequential.engine import engine
from qfx.hardware.sequential.program import FIELDS, STEP_WORDS, Image, image
from qfx.hardware.sequential.steps import layers
from qfx.hardware.sequential.tiles import PROCESSES, turns
from qfx.ir.feeds import feeds
from qfx.ir.graph import Graph, Node
from qfx.ir.interpret import quantize_inputs, run_from_raws
from qfx.ir.values import ArrayType, Const
from qfx.operators import Add, Affine, Cast, Clip, Conv, Input, LeakyRelu, MaxPool, Pad, PRelu, Relu, Slice, SumPool
from qfx.testing import adversarial_feeds


def one(name: str, *nodes: Node, shape: tuple[int, ...] = (3, 6, 7), cast: str = "ap_fixed<8,4,AP_RND,AP_SAT>") -> Graph:
    return Graph(name, (Node("x", Input(shape, typed(cast))), *nodes), nodes[-1].name)


def depthwise() -> Graph:
    nodes = (
        Node("deep", Conv(weights(1, 3, 1, 3, 3), None, (2, 1), ((1, 1), (0, 2)), (1, 2), 3), ("x",)),
        Node("clip", Clip(Const(np.array(0), 0), Const(np.array(6), 0)), ("deep",)),
        Node("cast", Cast(typed("ap_ufixed<8,3,AP_RND,AP_SAT>")), ("clip",)),
        Node("deep2", Conv(weights(4, 3, 1, 3, 3), weights(5, 3, frac_bits=4, bits=6), (1, 2), ((1, 1), (1, 1)), (1, 1), 3), ("cast",)),
        Node("cast1", Cast(typed("ap_fixed<8,5,AP_RND,AP_SAT>")), ("deep2",)),
        Node("deep3", Conv(weights(6, 3, 1, 2, 3), None, (1, 1), ((1, 0), (0, 2)), (1, 1), 3), ("cast1",)),
        Node("cast3", Cast(typed("ap_fixed<8,5,AP_RND,AP_SAT>")), ("deep3",)),
        Node("point", conv(2, 6, 3, 1), ("cast3",)),
        Node("leaky", LeakyRelu(-3), ("point",)),
        Node("cast2", Cast(typed("ap_fixed<6,4,AP_RND_ZERO,AP_SAT_ZERO>")), ("leaky",)),
        Node("grouped", conv(3, 4, 3, 2, groups=2), ("cast2",)),
        Node("average", SumPool((2, 3), (2, 1), ((0, 0), (1, 1))), ("grouped",)),
    )
    return one("depthwise", *nodes)


def channels() -> Graph:
    """Binary points per channel, channels taken and filled up, a value added to itself."""
    points = ArrayType(FixedType.parse("ap_fixed<5,4,AP_RND_INF,AP_SAT>"), (2, 4, 3, 4), (4, 1, 1))
    nodes = (
        Node("conv", conv(1, 4, 3, 3, pad=2, dilation=2), ("x",)),
        Node("cast", Cast(points), ("conv",)),
        Node("some", Slice((1, 0, 1), (4, 6, 7), (2, 2, 3)), ("cast",)),
        Node("more", Pad(((1, 1), (0, 0), (1, 0))), ("some",)),
        Node("twice", Add(), ("more", "more")),
        Node("wrapped", Cast(typed("ap_fixed<4,3,AP_TRN_ZERO,AP_WRAP>")), ("twice",)),
        Node("scaled", Affine(Const(np.array(5), 3), weights(2, 4, frac_bits=4)), ("wrapped",)),
        Node("relu", Relu(), ("scaled",)),
    )
    return one("channels", *nodes)


def rounding(mode: QMode) -> Graph:
    cast = ArrayType.of(FixedType(6, 4, True, mode))
    nodes = (
        Node("conv", conv(1, 5, 3, 2), ("x",)),
        Node("cast", Cast(cast), ("conv",)),
        Node("pool", MaxPool((2, 2), (1, 2), ((1, 0), (0, 1)), (1, 2)), ("cast",)),
    )
    return one(f"rounding_{mode.name}", *nodes)


def projection() -> Graph:
    """A shortcut with a projection of another stride, window and sign than the main path, which is the later of the two."""
    nodes = (
        Node("main", conv(1, 4, 3, 3, stride=3, pad=1), ("x",)),
        Node("middle", Cast(typed("ap_ufixed<7,3,AP_RND,AP_SAT>")), ("main",)),
        Node("short", Conv(weights(2, 9, 3, 2, 3), None, (3, 3), ((0, 0), (1, 1)), (2, 1), 1), ("x",)),
        Node("last", Conv(weights(3, 9, 4, 1, 3), weights(4, 9, frac_bits=3, bits=6), (1, 1), ((0, 0), (1, 1)), (1, 1), 1), ("middle",)),
        Node("scaled", Affine(weights(5, 9, frac_bits=6, bits=9), weights(6, 9, frac_bits=3, bits=8)), ("last",)),
        Node("sum", Add(), ("scaled", "short")),
        Node("leaky", PRelu(Const(np.array(13107), 17)), ("sum",)),
        Node("cast", Cast(typed("ap_fixed<12,8,AP_RND,AP_SAT>")), ("leaky",)),
    )
    return one("projection", *nodes)


DIRECTED = (residual(), depthwise(), channels(), projection(), moved(), apart(), *(rounding(mode) for mode in QMode))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return build(residual(), tmp_path_factory.mktemp("engine"), lanes=2, vectors=2, pixels=2, lut_pixels=1)


def differing(bench: Bench, graph: Graph, folder: Path, held: Image | None = None, batch: int = 1) -> int:
    """Numbers that differ from the interpreter's; turns that differ from the model's fail."""
    raws = quantize_inputs(graph, feeds(graph, adversarial_feeds(graph, np.random.default_rng(1), batch)))
    made = bench.engine(graph, batch)
    got, counted = bench.run(made, list(raws.values()), folder, held)
    for process in PROCESSES:
        assert counted[process] == sum(turns(placed.step, bench.shape, placed.tile)[process] for placed in made.steps), process
    want = run_from_raws(graph, raws)
    return sum(int((mine.reshape(-1) != raw.reshape(-1)).sum()) for mine, raw in zip(got, want, strict=True))


@pytest.mark.parametrize("graph", DIRECTED, ids=lambda graph: graph.name)
def test_directed_networks(bench: Bench, graph: Graph, tmp_path: Path) -> None:
    assert differing(bench, graph, tmp_path) == 0


@pytest.mark.parametrize("graph", [residual(), depthwise(), projection(), moved()], ids=lambda graph: graph.name)
@pytest.mark.parametrize("batch", [2, 3])
def test_frames_that_go_through_together(bench: Bench, graph: Graph, batch: int, tmp_path: Path) -> None:
    """With frames as pixel lanes in some steps, an odd one among them, and one after the other in others."""
    lanes = {placed.tile.lane_frames for placed in bench.engine(graph, batch).steps}
    assert batch == 3 or True in lanes
    assert differing(bench, graph, tmp_path, batch=batch) == 0


def test_two_products_run_as_one_step(bench: Bench) -> None:
    for graph in (residual(), projection()):
        assert sum(placed.step.first is not None for placed in bench.engine(graph).steps) == 1


def test_products_in_parts(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = flattened()
    monkeypatch.setattr(splitting, "MOST_NUMBERS", 9 * 32)
    made = replace(layers(graph), steps=tuple(part for step in layers(graph).steps for part in splitting.parts(step)))
    made = engine(made, bench.shape, 16.0, 16.0)
    assert len(made.steps) == 6
    raws = quantize_inputs(graph, feeds(graph, adversarial_feeds(graph, np.random.default_rng(1), 1)))
    got, _ = bench.run(made, list(raws.values()), tmp_path)
    np.testing.assert_array_equal(got[0].reshape(-1), run_from_raws(graph, raws)[0][0].reshape(-1))


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32 - 1))
def test_random_networks_on_one_engine(bench: Bench, tmp_path: Path, seed: int) -> None:
    graph, batch = drawn(seed), 1 + seed % 3
    if graph is None:
        return
    try:
        bench.engine(graph, batch)
    except QfxError:
        return
    assert differing(bench, graph, tmp_path, batch=batch) == 0


def test_a_bit_too_many_in_memory_is_found(bench: Bench, tmp_path: Path) -> None:
    graph = residual()
    held = image(bench.engine(graph))
    parameters = np.frombuffer(held.parameters, dtype="<i8").copy()
    parameters[-4 * bench.shape.outputs * 2] += 1  # what is added to the first channel of the last step
    assert differing(bench, graph, tmp_path, replace(held, parameters=parameters.tobytes())) > 0
    last = np.frombuffer(held.program, dtype="<i8").reshape(-1, STEP_WORDS)[-1, FIELDS.index("weights_at")]
    weight = np.frombuffer(held.weights, dtype="<i2").copy()
    weight[last * bench.shape.wide * bench.shape.lanes :] ^= 1
    assert differing(bench, graph, tmp_path, replace(held, weights=weight.tobytes())) > 0


def test_a_bit_too_many_in_the_sums_that_wait_is_found(bench: Bench, tmp_path: Path) -> None:
    graph, batch = residual(), 3
    made = bench.engine(graph, batch)
    held = image(made)
    joined = next(index for index, placed in enumerate(made.steps) if placed.step.first is not None)
    program = np.frombuffer(held.program, dtype="<i8").reshape(-1, STEP_WORDS).copy()
    weight = np.frombuffer(held.weights, dtype="<i2").copy()
    begin = program[joined, FIELDS.index("weights_at")] * bench.shape.wide * bench.shape.lanes
    weight[begin : begin + program[joined, FIELDS.index("in[0].entries")] * bench.shape.outputs * bench.shape.lanes] ^= 1
    assert differing(bench, graph, tmp_path, replace(held, weights=weight.tobytes()), batch) > 0
    program[joined, FIELDS.index("in[1].at")] += 1
    assert differing(bench, graph, tmp_path, replace(held, program=program.tobytes()), batch) > 0


# What networks are run with above holds up memory at random, too: the seed 1.


@pytest.mark.parametrize("stalls", [0, 7, 2**31 + 5])
def test_late_memory_changes_nothing(bench: Bench, tmp_path: Path, stalls: int) -> None:
    graph = residual()
    made = bench.engine(graph)
    raws = quantize_inputs(graph, feeds(graph, adversarial_feeds(graph, np.random.default_rng(1), 1)))
    want = run_from_raws(graph, raws)[0].reshape(-1)
    for depths in ({}, dict.fromkeys(DEPTHS, 1)):
        got, _ = bench.run(made, list(raws.values()), tmp_path, stalls=stalls, depths=depths)
        np.testing.assert_array_equal(got[0].reshape(-1), want)


@pytest.mark.parametrize("name", ["xs0", "xs1", "ws", "accs", "ys"])
def test_a_step_that_stops_is_told(bench: Bench, tmp_path: Path, name: str) -> None:
    """Without room for a single word."""
    graph = residual()
    raws = quantize_inputs(graph, feeds(graph, adversarial_feeds(graph, np.random.default_rng(1), 1)))
    with pytest.raises(StoppedError, match=f"waits for room in {name}"):
        bench.run(bench.engine(graph), list(raws.values()), tmp_path, depths={name: 0})


def test_the_bench_runs_the_processes_of_a_step() -> None:
    """All of those of the header, in its order, over the same streams."""
    assert sorted(DEPTHS) == ["accs", "ws", "xs0", "xs1", "ys"]
    header = ENGINE.read_text(encoding="utf-8")
    body = header[header.index("\nvoid run(") : header.index("\nvoid run_program(")]
    called = re.findall(r"^  (\w+)<E((?:, \d)?)>\((.*)\);$", body, re.MULTILINE)
    source = Path(support.engines.__file__).with_name("engine_bench.cpp").read_text(encoding="utf-8")
    mine = re.findall(r"(\w+)<engine((?:, \d)?)>\((s, .*)\); }", source)
    assert [(name, side, re.sub(r"beside|values\d", "x", arguments)) for name, side, arguments in called] == mine
    assert [side for name, side, _ in mine if name == "fetch_x"] == [", 0", ", 1"]


def test_instructions_have_one_order() -> None:
    header = (hls_root() / "include" / "qfx" / "sequential" / "step.h").read_text(encoding="utf-8")
    read = [line.split("=")[0].strip() for line in header.splitlines() if "field[i++]" in line]
    of_window = [name.removeprefix("w.") for name in read if name.startswith("w.")]
    of_step = [name.removeprefix("s.") for name in read if name.startswith("s.")]
    assert (*of_step, *(f"in[{number}].{name}" for number in (0, 1) for name in of_window)) == FIELDS
    assert len(FIELDS) <= STEP_WORDS
