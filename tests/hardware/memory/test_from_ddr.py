"""Weights in the board's memory: the same numbers as on the chip, the turns of the model, however late memory answers, and the refusals."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cells import lstm, recurrent
from hardware_models import chain, const, conv, from_ddr, scalar
from hypothesis import Phase, given, note, settings
from hypothesis import strategies as st
from support import bounded
from support.bundles import build_bundle

from qfx.errors import ProjectError
from qfx.fixed.type import FixedType
from qfx.hardware.board import board
from qfx.hardware.cost import pieces, resources
from qfx.hardware.design import design as d
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Folding, Request, Schedule
from qfx.hardware.folding.memory import tilings
from qfx.hardware.folding.search import fitting_plan, resolve
from qfx.hardware.processes.memory.from_memory import FromMemory, beats, numbers_a_beat, port_bits
from qfx.hardware.processes.memory.tiles import Tiling
from qfx.hardware.processes.process import Setting
from qfx.hardware.project import csim
from qfx.hardware.project.project import Project, write_project
from qfx.hardware.timing.fifo import size_fifos
from qfx.hardware.timing.program import Turns, held
from qfx.hardware.timing.simulate import simulate as timed
from qfx.ir.graph import Graph
from qfx.ir.interpret import quantize_input, run_from_raw
from qfx.operators import Cast, Conv, Linear, Relu, Reshape
from qfx.testing import adversarial_inputs, assert_bit_exact

NARROW = Cast(scalar("ap_fixed<6,3,AP_RND,AP_SAT>"))


def raws(graph: Graph, count: int, seed: int = 0) -> np.ndarray:
    return quantize_input(graph, adversarial_inputs(graph, np.random.default_rng(seed), count))


@pytest.fixture(scope="module")
def harness(gxx: str, tmp_path_factory: pytest.TempPathFactory) -> bounded.BoundedBundle:
    assert gxx
    return bounded.build([size_fifos(lower(*from_ddr()))], tmp_path_factory.mktemp("bounded"))


def test_the_harness_finds_the_same_numbers_and_the_turns_of_the_model(harness: bounded.BoundedBundle) -> None:
    graph, _ = from_ddr()
    x = raws(graph, 6)
    found = harness.run(0, x)
    assert_bit_exact(found.y_raw, run_from_raw(graph, x))
    assert bounded.differences(harness.designs[0], found) == []


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_memory_may_answer_when_it_likes(harness: bounded.BoundedBundle, seed: int) -> None:
    graph, _ = from_ddr()
    x = raws(graph, 4, seed)
    found = harness.run(0, x, stalls=seed)
    assert_bit_exact(found.y_raw, run_from_raw(graph, x))
    assert bounded.differences(harness.designs[0], found) == []


def test_other_turns_are_found(harness: bounded.BoundedBundle) -> None:
    """The check of the turns, with a model of one tile more and one less."""
    graph, _ = from_ddr()
    design = harness.designs[0]
    found = harness.run(0, raws(graph, 1))
    tiled = next(process for process in design.processes if isinstance(process, d.Tiles) and process.tiling.rows == 2)
    for rows in (1, 4):
        planted = replace(tiled, tiling=replace(tiled.tiling, rows=rows))
        changed = replace(design, processes=tuple(planted if process is tiled else process for process in design.processes))
        assert bounded.differences(changed, found)


def test_a_bit_of_a_weight_in_memory_is_found(harness: bounded.BoundedBundle) -> None:
    graph, _ = from_ddr()
    x = raws(graph, 24)
    want = run_from_raw(graph, x)
    (design,) = harness.designs
    for place, process in enumerate(design.processes):
        if isinstance(process, FromMemory):
            values = process.values.copy()
            values[-1, 0] ^= 1
            planted = replace(process, values=values)
            processes = (*design.processes[:place], planted, *design.processes[place + 1 :])
            changed = bounded.BoundedBundle(harness.executable, (replace(design, processes=processes),))
            assert (changed.run(0, x).y_raw != want).any(), process.name


class Late(FromMemory):
    """Memory that gives a word in one turn of so many, now and then in many."""

    def turns(self) -> Turns:
        gaps = np.random.default_rng(len(self.name)).choice([1, 2, 40], self.output.words, p=[0.5, 0.4, 0.1])
        at = np.cumsum(gaps)
        return int(at[-1]) + 1, (), (held(at.astype(np.int64)),)


def test_late_words_take_time_and_nothing_else() -> None:
    design = size_fifos(lower(*from_ddr()))
    late = tuple(
        Late(process.name, process.output, process.values, process.repeats, process.bits, process.port)
        if isinstance(process, FromMemory)
        else process
        for process in design.processes
    )
    slowest = max(process.program.turns for process in late)
    assert timed(design).interval <= timed(replace(design, processes=late)).interval <= 2 * slowest + 2000


@st.composite
def layers(draw: st.DrawFn) -> tuple[Graph, Schedule]:
    """A convolution of any geometry, folded and tiled at random, and a linear layer behind it, which may serve several frames at once."""
    channels, outputs = draw(st.sampled_from([1, 2, 4, 6])), draw(st.sampled_from([1, 2, 3, 4, 8]))
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 7))
    kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    dilation = draw(st.integers(1, 2))
    before = (draw(st.integers(0, 2)), draw(st.integers(0, 2)))
    stride = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    pads = tuple((side, draw(st.integers(0, 2))) for side in before)
    for size, kern, pad in zip((height, width), kernel, pads, strict=True):
        if size + sum(pad) < dilation * (kern - 1) + 1:
            kernel, dilation = (1, 1), 1
    seed = draw(st.integers(0, 1000))
    groups = draw(st.sampled_from([n for n in (1, 1, 2) if not outputs % n and not channels % n and (n == 1 or channels > n)]))
    per_group = channels // groups
    first = Conv(const(seed, outputs, per_group, *kernel), const(seed + 1, outputs, frac_bits=7), stride, pads, (dilation,) * 2, groups)
    graph = chain("layer", (channels, height, width), first, Relu(), NARROW)
    shape = graph.infos["cast2"].shape
    size = int(np.prod(shape))
    graph = chain("layer", (channels, height, width), first, Relu(), NARROW, Reshape((size,)), Linear(const(seed + 2, 3, size), None))

    def divisor(count: int) -> int:
        return draw(st.sampled_from([n for n in range(1, count + 1) if count % n == 0]))

    pe = divisor(outputs // groups)
    arithmetic = draw(st.sampled_from(["auto", "dsp", "lut", *["pair"] * (pe > 1)]))
    foldings = {
        "conv0": Folding(pe, divisor(per_group), arithmetic, weights="ddr", rows=divisor(shape[1])),
        "linear4": Folding(divisor(3), divisor(size), weights="ddr"),
    }
    return graph, Schedule.of(foldings, batch=draw(st.integers(1, 3)))


@settings(max_examples=25)
@given(layers())
def test_programs_are_whole(case: tuple[Graph, Schedule]) -> None:
    design = lower(*case)
    for process in design.processes:
        found = design.program(process)
        assert found.turns == design.rounds(process) * (process.cycles + process.pause) - process.pause, process.name
        for streams, ports in ((process.sources, found.reads), (process.targets, found.writes)):
            for stream, turns in zip(streams, ports, strict=True):
                assert turns.size == design.words(stream)
                assert (np.diff(turns) > 0).all()
                assert turns[0] >= 0
                assert turns[-1] < found.turns


@settings(
    max_examples=2, phases=(Phase.explicit, Phase.reuse, Phase.generate)
)  # a failing list says enough, and shrinking it compiles it again and again
@given(st.lists(layers(), min_size=8, max_size=8))
def test_random_layers_are_bit_exact(gxx: str, tmp_path_factory: pytest.TempPathFactory, cases: list[tuple[Graph, Schedule]]) -> None:
    assert gxx
    bundle = build_bundle(cases, tmp_path_factory.mktemp("layers"))
    for place, (graph, schedule) in enumerate(cases):
        note(f"{graph.nodes[1].op} {schedule.foldings}")
        x = raws(graph, 3, place)
        assert_bit_exact(bundle.run_from_raw(place, x), run_from_raw(graph, x))


@pytest.fixture(scope="module")
def project(gxx: str, tmp_path_factory: pytest.TempPathFactory) -> Project:
    assert gxx
    graph, schedule = from_ddr()
    return write_project(graph, tmp_path_factory.mktemp("project") / "p", board="ultra96v2", schedule=schedule)


def test_a_project_is_bit_exact(project: Project) -> None:
    graph, _ = from_ddr()
    x = adversarial_inputs(graph, np.random.default_rng(5), 8)
    want = run_from_raw(graph, quantize_input(graph, x))
    for fast in (False, True):
        assert_bit_exact(csim.run_raw(project.path, x, fast=fast), want)


def test_files_that_are_missing_short_or_of_other_weights_are_told(project: Project) -> None:
    """A bit that is not the project's is enough; the same bit is found by its numbers where memory is what the board has."""
    csim.run_raw(project.path, np.zeros((1, 4, 8, 7), np.float32))
    path = project.path / "tb" / "memory" / "tiled_memory.bin"
    whole = path.read_bytes()
    try:
        for contents, complaint in (
            (whole[:-8], f"tiled_memory.bin holds {len(whole) - 8} bytes of another model, or is damaged: {len(whole)} bytes"),
            (bytes([whole[0] ^ 1]) + whole[1:], f"tiled_memory.bin holds {len(whole)} bytes of another model, or is damaged"),
            (None, "cannot read tiled_memory.bin"),
        ):
            path.unlink()
            if contents is not None:
                path.write_bytes(contents)
            done = subprocess.run([str(project.path / "build" / "tb")], cwd=project.path / "tb", capture_output=True, text=True, check=False)
            assert (done.returncode, complaint in done.stderr) == (2, True)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("folding", "complaint"),
    [
        (Folding(3, 1, weights="ddr"), "PE=3 does not divide its 8 outputs"),
        (Folding(1, 3, weights="ddr"), "SIMD=3 does not divide its 4 channels"),
        (Folding(1, 1, weights="ddr", rows=3), "rows=3 does not divide the 8 rows"),
        (Folding(1, 1, "shift", weights="ddr"), "digits"),
        (Folding(1, 4, weights="ddr", taps=9), "taps=9"),
        (Folding(1, 4, weights="ddr", pixels=2), "pixels=2"),
    ],
)
def test_foldings_that_cannot_be_are_refused(folding: Folding, complaint: str) -> None:
    graph, schedule = from_ddr()
    with pytest.raises(ProjectError, match=complaint) as caught:
        lower(graph, Schedule.of(dict(schedule.foldings) | {"whole": folding}))
    assert caught.value.where == "whole"


def test_rows_without_memory_are_refused() -> None:
    with pytest.raises(ProjectError, match="rows=2"):
        Folding(rows=2)


def test_depthwise_convolutions_are_refused() -> None:
    graph = chain("depthwise", (4, 4, 4), conv(0, 4, 1, 3, 3, groups=4))
    with pytest.raises(ProjectError, match="each of its channels has weights of its own"):
        lower(graph, Schedule.of({"conv0": Folding(weights="ddr")}))
    with pytest.raises(ProjectError, match="no layer can have its weights"):
        resolve(graph, board("ultra96v2"), Request(memory="ddr"), clock_ns=5)


def test_a_rate_that_memory_forbids_is_told_whoever_put_the_weights_there() -> None:
    """A folding file that leaves a layer in memory, and another layer to fold for the rate."""
    graph = chain("wide", (512,), Linear(const(0, 512, 512, bits=8), None), NARROW, Linear(const(1, 8, 512, bits=8), None), NARROW)
    slow = replace(board("ultra96v2"), memory_gb_s=0.1)
    pinned = (("linear0", Folding(64, 1, "pair", weights="ddr")),)
    with pytest.raises(ProjectError, match="take the memory of ultra96v2") as caught:
        resolve(graph, slow, Request(foldings=pinned, fps=10_000), clock_ns=5)
    assert "at most 267 frames per second" in str(caught.value)


def test_layers_of_a_loop_are_refused() -> None:
    graph = recurrent(lstm(), 3)
    with pytest.raises(ProjectError, match="a loop goes over it") as caught:
        fitting_plan(graph, board("ultra96v2"), Schedule.of({"rnn::gates": Folding(weights="ddr")}), clock_ns=5)
    assert "gates" in caught.value.where


def test_projects_take_the_word_in_python_too(tmp_path: Path) -> None:
    graph = chain("wide", (64,), Linear(const(0, 64, 64, bits=8), None), NARROW)
    project = write_project(graph, tmp_path / "p", board="ultra96v2", weights="ddr")
    assert project.weights == "ddr"
    assert (project.path / "tb" / "memory" / "linear0_memory.bin").stat().st_size == 64 * 64


def test_a_folding_that_says_it_of_every_layer_is_taken() -> None:
    graph, schedule = from_ddr()
    request = Request(foldings=schedule.foldings, memory="ddr")
    assert resolve(graph, board("ultra96v2"), request, clock_ns=5).schedule.foldings == schedule.foldings


def test_a_layer_that_no_folding_can_build_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where one weight is wider than a word: the limit is set so low that nothing stays below it."""
    graph, _ = from_ddr()
    monkeypatch.setattr(tilings, "MAX_WORD_BITS", 0)
    with pytest.raises(ProjectError, match="whole: no folding of it can be built"):
        resolve(graph, board("ultra96v2"), Request(memory="ddr", fit=True), clock_ns=5)


def test_options_of_tiles_count_the_logic_that_their_processes_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts that all foldings share are added up apart from ``Tiles.logic``: both are the same sums, with every other part left away."""
    on = resources.device(board("ultra96v2").part)
    for part in ("memory", "queue", "rewidth"):
        monkeypatch.setattr(pieces, part, lambda *_: resources.Resources())
    monkeypatch.setattr(tilings, "master", lambda _: resources.Resources())
    design = lower(*from_ddr())
    tiles = [process for process in design.processes if isinstance(process, d.Tiles)]
    assert len(tiles) >= 4
    for unit in tiles:
        setting = Setting(on, None, None, (design.input, design.output), memory_tiles=4)
        options = unit.options(setting)
        assert len({folding.rows for folding in options.foldings}) > 1 or unit.tiling.plane[2] == 1
        for place in np.linspace(0, len(options.foldings) - 1, 5).astype(int):
            folding = options.foldings[place]
            made = unit.folded(folding.pe, folding.simd, folding.rows, folding.arithmetic)
            bits = port_bits(folding.pe * folding.simd, made.weights.type.width, made.tiling.pixels)
            read = beats(folding.pe * folding.simd, made.tiling.weights, made.weights.type.width, bits)
            reader = [resources.handshake(1, 1), resources.counter(max(read, 2)), resources.counter(max(made.tiling.tiles, 2))]
            want = resources.counts(resources.total([made.logic(on), *reader]))
            assert options.costs[place].tolist() == list(want)


def test_a_board_that_knows_no_memory_is_refused() -> None:
    graph, schedule = from_ddr()
    bare = replace(board("ultra96v2"), memory_gb_s=0.0)
    with pytest.raises(ProjectError, match="says nothing of one"):
        fitting_plan(graph, bare, schedule, clock_ns=5)
    with pytest.raises(ProjectError, match="says nothing of one"):
        resolve(graph, bare, Request(memory="ddr", fit=True), clock_ns=5)


def test_bandwidth_that_no_schedule_meets_is_refused_with_the_rate_that_it_allows() -> None:
    graph = chain("wide", (512,), Linear(const(0, 512, 512, bits=8), None), Cast(scalar("ap_fixed<8,8,AP_RND,AP_SAT>")))
    slow = replace(board("ultra96v2"), memory_gb_s=0.1)
    with pytest.raises(ProjectError, match=r"0.262 MB of weights a frame") as caught:
        resolve(graph, slow, Request(memory="ddr", fps=100_000), clock_ns=5)
    assert "at most 267 frames per second" in str(caught.value)


def test_what_fits_stays_on_the_chip_and_what_does_not_goes_to_memory() -> None:
    """A layer of 1.2 Mbit on a chip with 0.5 in block RAM, and LUTs for as much"""
    graph = chain(
        "wide",
        (16, 6, 6),
        conv(0, 128, 16, 3, 3, pads=(1, 1)),
        NARROW,
        Conv(const(2, 128, 128, 3, 3, bits=8), None, (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
        NARROW,
    )
    small = replace(board("ultra96v2"), bram36=16, lut=12000)
    with pytest.raises(ProjectError, match="does not fit"):
        resolve(graph, small, Request(fit=True), clock_ns=5)
    made = resolve(graph, small, Request(fit=True, memory="auto"), clock_ns=5)
    foldings = dict(made.schedule.foldings)
    assert foldings["conv2"].weights == "ddr"
    assert foldings["conv0"].weights != "ddr"
    assert made.estimate.total.bram18 <= 0.9 * 32
    assert made.memory_bytes == sum(master.frame_bytes for master in made.design.masters) > 0
    assert made.interval >= made.memory_cycles


@given(st.integers(1, 300), st.integers(1, 60), st.integers(1, 16), st.sampled_from([64, 128]))
def test_words_of_memory_hold_whole_words_or_whole_parts(lanes: int, words: int, width: int, bits: int) -> None:
    numbers = numbers_a_beat(lanes, words, width, bits)
    assert numbers * width <= bits
    assert (lanes * words) % numbers == 0
    assert numbers % lanes == 0 or lanes % numbers == 0
    assert beats(lanes, words, width, bits) * numbers == lanes * words


@given(st.integers(1, 17), st.sampled_from([(5, 3), (8, 4), (3, 2)]), st.integers(0, 5))
def test_what_lies_in_memory_is_what_is_read(width: int, size: tuple[int, int], seed: int) -> None:
    low, high = -(1 << (width - 1)), 1 << (width - 1)
    values = np.random.default_rng(seed).integers(low, high, size)
    stream = d.Stream("s", FixedType(width, width), size[1], size[0], 2)
    made = FromMemory("m", stream, values, 1, 128, "p")
    words = np.frombuffer(made.contents, dtype=np.uint8).reshape(size[0], 16)
    for word, numbers in zip(words, values.tolist(), strict=True):
        whole = int.from_bytes(word.tobytes(), "little")
        assert [(whole >> (width * place)) % (1 << width) for place in range(size[1])] == [number % (1 << width) for number in numbers]
        assert whole >> (width * size[1]) == 0


def test_the_rows_of_tiles() -> None:
    """Three rows of windows with stride 2 over seven rows, the first of them padding: rows 0 to 1, then two more for each; one is left over."""
    tiling = Tiling((7, 1, 3, 1, 3, 1, 2, 1, 1, 0, 1, 1), 1, 1, 1)
    assert tiling.loads == (2, 2, 2, 1)
    assert tiling.kept == 3
