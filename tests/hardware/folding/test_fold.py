"""Choosing foldings: every option is what lowering makes of it, what is chosen is fast enough and fits, and what cannot be is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hardware_models import DIRECTED, chain, classifier, const, conv, residual, scalar
from hypothesis import given, settings
from hypothesis import strategies as st
from random_schedules import random_schedule

from qfx.errors import ProjectError
from qfx.hardware.board import Board, board
from qfx.hardware.cost.estimate import LIMITS, estimate
from qfx.hardware.cost.resources import FIELDS
from qfx.hardware.design import design as d
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Folding, Request, Schedule
from qfx.hardware.folding import file as folding_file
from qfx.hardware.folding import search as fold
from qfx.hardware.folding import summary
from qfx.hardware.folding.options import OUTPUT, layers
from qfx.hardware.timing.simulate import DeadlockError
from qfx.ir.graph import Graph
from qfx.operators import Cast, Conv, MaxPool, Reshape
from qfx.operators import Linear as LinearOp

ZCU = board("zcu102")
SMALL = replace(ZCU, name="small", title="small board", lut=3000, ff=8000, dsp=12, bram36=5)


def network() -> Graph:
    """Two convolutions with a pool between, and a classifier: words of 1 to 8 channels."""
    narrow = Cast(scalar("ap_ufixed<4,2,AP_RND,AP_SAT>"))
    return chain(
        "network",
        (4, 8, 8),
        conv(0, 8, 4, 3, 3, pads=(1, 1)),
        narrow,
        MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)),
        conv(2, 8, 8, 3, 3, pads=(1, 1)),
        narrow,
        Reshape((128,)),
        LinearOp(const(4, 10, 128), None),
    )


def busy(design: d.Design) -> dict[str, int]:
    """The busy cycles of each layer; forks and changes of width and grid left out."""
    found: dict[str, int] = {}
    for process, node in zip(design.processes, design.nodes, strict=True):
        if not isinstance(process, d.Fork | d.Rewidth | d.Regrid):
            name = OUTPUT if isinstance(process, d.ToPort) else process.name if isinstance(process, d.Permute) else node
            found[name] = max(found.get(name, 0), process.cycles + process.pause)
    return found


def schedule_of(graph: Graph, picks: dict[str, Folding]) -> Schedule:
    ports = {graph.input.name, OUTPUT}
    foldings = {name: folding for name, folding in picks.items() if name not in ports and graph.infos.get(name)}
    return Schedule.of(foldings, input_parallel=picks[graph.input.name].pe, output_parallel=picks[OUTPUT].pe)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, len(DIRECTED) - 1), st.data())
def test_an_option_is_what_lowering_makes_of_it(index: int, data: st.DataObject) -> None:
    graph = DIRECTED[index]()
    found = layers(lower(graph, Schedule()), ZCU, {})
    picks = {layer.name: data.draw(st.integers(0, len(layer.foldings) - 1), layer.name) for layer in found}
    design = lower(graph, schedule_of(graph, {layer.name: layer.foldings[picks[layer.name]] for layer in found}))
    assert busy(design) == {layer.name: int(layer.busy[picks[layer.name]]) for layer in found}
    # What is left of the costs are forks, changes of width, and FIFOs deeper than two words.
    costs = np.sum([layer.costs[picks[layer.name]] for layer in found], axis=0)
    total = [getattr(estimate(design, ZCU).total, field) for field in FIELDS]
    assert all(costs <= np.multiply(total, 1.1) + 600)
    assert costs[2] <= total[2]


@pytest.mark.parametrize("index", range(len(DIRECTED)))
def test_every_folding_that_divides_is_an_option(index: int) -> None:
    """Of the others those that save lanes: test_ragged.py."""
    graph = DIRECTED[index]()
    found = {layer.name: layer for layer in layers(lower(graph, Schedule()), ZCU, {})}
    schedule = random_schedule(graph, np.random.default_rng(index))
    for name, folding in schedule.foldings:
        op = graph.node(name).op
        if isinstance(op, Conv | LinearOp):
            groups = op.groups if isinstance(op, Conv) and op.groups < len(op.weight.raw) else 1
            if op.weight.raw[0].size % folding.simd or len(op.weight.raw) // groups % folding.pe:
                continue
        if name in found:
            assert (folding.pe, folding.simd) in {(option.pe, option.simd) for option in found[name].foldings}, name


@pytest.mark.parametrize("target", [20000, 3000, 1200, 700])
def test_frames_per_second_are_made_and_not_overdone(target: int) -> None:
    graph, fps = network(), 1e9 / (target * 5)
    made = fold.resolve(graph, ZCU, Request(fps=fps), clock_ns=5)
    assert made.fps >= fps
    assert made.timing is not None
    assert made.timing.interval <= target
    assert not made.estimate.over(LIMITS)
    # Half of any layer's multipliers would miss the pace, or would not be cheaper: the words of neighbours would no longer go together.
    for name in made.weighted:
        folding = made.schedule.folding(name)
        for halved in ({"pe": folding.pe // 2}, {"simd": folding.simd // 2}):
            if 0 not in halved.values():
                slower = Schedule.of(dict(made.schedule.foldings) | {name: replace(folding, **halved, arithmetic="lut")})
                other = fold.plan(graph, ZCU, slower, clock_ns=5)
                assert other.interval > target or price(other) > 0.97 * price(made), (name, folding, halved)


def price(made: fold.Plan) -> float:
    return sum(made.estimate.share(field) ** 2 for field in FIELDS)


def test_slower_is_cheaper_and_a_tighter_clock_does_the_same() -> None:
    slow, fast = (fold.resolve(network(), ZCU, Request(fps=fps), clock_ns=5) for fps in (20_000, 200_000))
    assert all(getattr(slow.estimate.total, field) < getattr(fast.estimate.total, field) for field in ("lut", "ff"))
    assert fold.choose(network(), ZCU, clock_ns=2.5, fps=400_000) == fast.schedule


def test_the_fastest_that_fits() -> None:
    large, small = (fold.resolve(network(), known, Request(fit=True), clock_ns=5) for known in (ZCU, SMALL))
    assert large.interval < small.interval
    for made in (large, small):
        assert not made.estimate.over(LIMITS)
    # A tenth faster would not have fitted.
    with pytest.raises(ProjectError, match="does not fit the small board: needs"):
        fold.resolve(network(), SMALL, Request(fps=small.fps * 1.1), clock_ns=5)
    # On the large board nothing but the window units is in the way.
    assert large.interval <= 1.05 * (64 * 9 + 80)


def test_a_faster_plan_where_only_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for can be missed though a faster one fits: the costs of no layer differ from design to design."""
    quick = fold.resolve(network(), ZCU, Request(fit=True), clock_ns=5)
    real = fold._Search._make

    def only_the_fastest(self: fold._Search, picked: list[int]) -> fold._Made:
        made = real(self, picked)
        over = made.plan is None or made.plan.interval > quick.interval
        return fold._Made(replace(made.estimate, board=replace(ZCU, lut=1)), None) if over else made

    monkeypatch.setattr(fold._Search, "_make", only_the_fastest)
    made = fold.resolve(network(), ZCU, Request(fps=quick.fps / 4), clock_ns=5)
    assert made.interval == quick.interval


def test_the_gap_and_what_binds_are_said() -> None:
    made = fold.resolve(network(), SMALL, Request(fit=True), clock_ns=5)
    found = summary.binding(made)
    assert made.gap is not None
    assert 0 <= made.gap < 0.1
    assert found["resources"]  # or it would be faster
    assert all(found["shares"][field] == pytest.approx(made.estimate.share(field) / LIMITS[field], abs=1e-4) for field in FIELDS)
    assert [field for field in FIELDS if found["shares"][field] >= 0.9] == sorted(found["resources"], key=FIELDS.index)
    assert "of what may be used" in summary.as_text(made, "network")
    assert "from the best there is" in summary.as_text(made, "network")
    large = summary.binding(fold.resolve(network(), ZCU, Request(fit=True), clock_ns=5))
    assert (large["resources"], large["layer"]) == ([], "conv0")
    assert summary.binding(fold.resolve(network(), ZCU, Request(), clock_ns=5))["gap"] is None
    cheap = fold.resolve(network(), ZCU, Request(fps=50_000), clock_ns=5)
    assert cheap.gap is not None
    assert cheap.gap < 0.05


def test_choices_are_the_same_every_time() -> None:
    assert fold.choose(network(), SMALL, clock_ns=5) == fold.choose(network(), SMALL, clock_ns=5)
    assert fold.choose(residual(), ZCU, clock_ns=5, fps=5e5) == fold.choose(residual(), ZCU, clock_ns=5, fps=5e5)


@pytest.mark.parametrize("index", range(len(DIRECTED)))
def test_anything_can_be_folded(index: int) -> None:
    graph = DIRECTED[index]()
    made = fold.resolve(graph, ZCU, Request(fit=True), clock_ns=5)
    assert made.timing is not None
    assert not made.estimate.over(LIMITS)
    one = fold.plan(graph, ZCU, Schedule(), clock_ns=5)
    assert made.interval <= one.interval


def test_scarce_dsp_blocks_are_replaced_by_luts() -> None:
    plenty = fold.resolve(network(), ZCU, Request(fps=150_000), clock_ns=5)
    none = fold.resolve(network(), replace(ZCU, dsp=0), Request(fps=150_000), clock_ns=5)
    assert none.estimate.total.dsp == 0
    few = replace(ZCU, dsp=max(plenty.estimate.total.dsp, 20), lut=int((plenty.estimate.total.lut + none.estimate.total.lut) / 2 / LIMITS["lut"]))
    scarce = fold.resolve(network(), few, Request(fps=150_000), clock_ns=5)
    assert scarce.estimate.total.dsp > 0
    assert scarce.estimate.total.lut < none.estimate.total.lut


def test_frames_per_second_out_of_reach() -> None:
    with pytest.raises(ProjectError, match=r"leave 60 cycles .* conv0 takes \d+ \(its window unit takes at most the channels of one pixel") as caught:
        fold.resolve(network(), ZCU, Request(fps=3.3e6), clock_ns=5)
    most = int(caught.value.remedy.split("at most ")[1].split()[0])
    assert fold.resolve(network(), ZCU, Request(fps=most), clock_ns=5).fps >= most


def test_a_board_on_which_nothing_fits() -> None:
    tiny = replace(SMALL, lut=500, title="tiny board")
    for request in (Request(), Request(fit=True), Request(fps=100)):
        with pytest.raises(ProjectError, match=r"does not fit the tiny board: needs \d+ LUT of 500") as caught:
            fold.resolve(network(), tiny, request, clock_ns=5)
        assert "larger board" in caught.value.remedy


def test_pinned_foldings_stay() -> None:
    pinned = {"conv0": Folding(2, 4, "dsp"), "maxpool2": Folding(4)}
    request = Request(tuple(pinned.items()), input_parallel=2, fps=20_000)
    made = fold.resolve(network(), ZCU, request, clock_ns=5)
    assert {name: made.schedule.folding(name) for name in pinned} == pinned
    assert made.schedule.input_parallel == 2
    assert made.schedule.folding("conv3") != Folding()
    alone = fold.resolve(network(), ZCU, replace(request, fps=None), clock_ns=5)
    assert alone.schedule == Schedule.of(pinned, input_parallel=2)


def test_pinned_words_that_do_not_go_together_are_joined_or_rewritten_number_by_number() -> None:
    graph = chain("odd", (6, 8, 8), MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)), MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)))
    made = fold.resolve(graph, ZCU, Request((("maxpool0", Folding(3)), ("maxpool1", Folding(2))), 6, 2, fit=True), clock_ns=5)
    assert any(isinstance(process, d.Rewidth) and process.output.parallel == 6 for process in made.design.processes)
    made = fold.resolve(chain("odd", (6, 3, 3), conv(1, 8, 6, 1, 1)), ZCU, Request((("conv0", Folding(8)),), output_parallel=9, fit=True), clock_ns=5)
    assert any(isinstance(process, d.Rewidth) and process.output.parallel == 1 for process in made.design.processes)
    assert made.interval >= 3 * 3 * 8


@pytest.mark.parametrize(
    ("foldings", "complaint", "remedy"),
    [
        ({"conv0": Folding(5)}, "PE=5 takes 2 words for its 8 outputs of a group, and so does PE=4", "4 or 8"),
        ({"conv0": Folding(1, 7)}, "SIMD=7 takes 6 words for its 36 inputs of an output, and so does SIMD=6", "6 or 8"),
        ({"conv0": Folding(1, 37)}, "SIMD=37 is more than its 36 inputs of an output", "at most 36"),
        ({"conv0": Folding(1, 9)}, "SIMD=9 with 4 input channels", "divide"),
        ({"conv0": Folding(1, 1, taps=3)}, "taps=3 of a window of 9", "1 or 9"),
        ({"maxpool2": Folding(1, taps=2)}, "taps=2 of a window of 4", "1 or 4"),
        ({"linear6": Folding(1, taps=9)}, "it has no windows", "leave taps out"),
        ({"conv4": Folding()}, "no layer is called 'conv4'", "did you mean 'conv"),
        ({"cast1": Folding(2)}, "computed within another layer", "conv0"),
        ({"maxpool2": Folding(2, 2)}, "has no weights", "pe alone"),
    ],
)
def test_foldings_that_cannot_be(foldings: dict[str, Folding], complaint: str, remedy: str) -> None:
    for fps in (None, 1000.0):
        with pytest.raises(ProjectError, match=complaint) as caught:
            fold.resolve(network(), ZCU, Request(tuple(foldings.items()), fps=fps), clock_ns=5)
        assert remedy in caught.value.remedy


def test_depths_can_be_wished_but_not_into_a_deadlock() -> None:
    graph = residual()
    usual = fold.resolve(graph, ZCU, Request(), clock_ns=5)
    deepest = max(usual.design.streams, key=lambda stream: stream.depth)
    deeper = fold.resolve(graph, ZCU, Request(fifos=((deepest.name, deepest.depth + 100),)), clock_ns=5)
    assert {s.name: s.depth for s in deeper.design.streams}[deepest.name] == deepest.depth + 100
    with pytest.raises(DeadlockError):
        fold.resolve(graph, ZCU, Request(fifos=((deepest.name, 1),)), clock_ns=5)
    with pytest.raises(ProjectError, match="no FIFO is called 'nonesuch'"):
        fold.resolve(graph, ZCU, Request(fifos=(("nonesuch", 4),)), clock_ns=5)


@pytest.mark.parametrize("make", [network, residual, classifier])
def test_a_folding_file_gives_the_schedule_back(make: type[Graph], tmp_path: Path) -> None:
    made = fold.resolve(make(), ZCU, Request(fit=True), clock_ns=5)
    path = tmp_path / "folding.toml"
    path.write_text(folding_file.text(made, "m"), encoding="utf-8")
    again = fold.resolve(make(), ZCU, folding_file.read(path), clock_ns=5)
    assert again.schedule.input_parallel == made.schedule.input_parallel
    assert again.design.streams == made.design.streams
    assert again.estimate == made.estimate
    assert folding_file.text(again, "m") == folding_file.text(made, "m")
    assert made.gap is not None  # of the search, which a file is none of
    assert summary.as_json(again, "m") == summary.as_json(replace(made, gap=None), "m")


@pytest.mark.parametrize(
    ("text", "complaint", "remedy"),
    [
        ("[layers", "not TOML", "repair"),
        ("[layer.a]\npe = 1", "'layer' is not a table of a folding file", "did you mean 'layers'"),
        ('[layers."a"]\npes = 2', "'pes' is not a key", "did you mean 'pe'"),
        ('[layers."a"]\npe = 2.5', "pe is 2.5", "whole number"),
        ('[layers."a"]\npe = true', "pe is True", "whole number"),
        ('[layers."a"]\nsimd = 0', "SIMD=0", "at least 1"),
        ('[layers."a"]\narithmetic = "fast"', "the arithmetic is 'fast'", "dsp"),
        ("layers = 3", "layers is not a table", r"[layers]"),
        ("[layers]\na = 3", "is not a table", "pe, simd"),
        ("[ports]\ninptu = 2", "'inptu' is not a port", "did you mean 'input'"),
        ("[ports]\ninput = 0", "input is 0", "at least 1"),
        ('[fifos]\ns = "deep"', "s is 'deep'", "whole number"),
    ],
)
def test_folding_files_that_cannot_be_read(text: str, complaint: str, remedy: str, tmp_path: Path) -> None:
    path = tmp_path / "folding.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ProjectError, match=complaint) as caught:
        folding_file.read(path)
    assert remedy in caught.value.remedy
    assert "folding.toml" in caught.value.where
    with pytest.raises(ProjectError, match="cannot be read"):
        folding_file.read(tmp_path / "missing.toml")


def test_summaries_name_every_layer_and_the_board() -> None:
    made = fold.resolve(network(), SMALL, Request(fit=True), clock_ns=4)
    text, data = summary.as_text(made, "network"), summary.data(made, "network")
    for word in ("conv0", "maxpool2", "linear6", "small board", "frames per second", "latency", "deepest"):
        assert word in text
    assert data["interval_cycles"] == made.interval
    assert data["frames_per_second"] == pytest.approx(1e9 / (made.interval * 4), abs=1e-3)
    assert sum(layer["lut"] for layer in data["layers"]) == data["resources"]["lut"] == made.estimate.total.lut
    assert {fifo["name"]: fifo["depth"] for fifo in data["fifos"]} == {stream.name: stream.depth for stream in made.design.streams}


def test_a_full_board_is_noted() -> None:
    made = fold.resolve(network(), ZCU, Request(), clock_ns=5)
    full: Board = replace(ZCU, lut=made.estimate.total.lut)
    tight = fold.resolve(network(), full, Request(), clock_ns=5)
    assert "may not route" in summary.as_text(tight, "network")
    assert "may not route" not in summary.as_text(made, "network")
