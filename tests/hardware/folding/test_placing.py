"""Where FIFOs and memories go on a board, what of that can be asked for, and what a board refuses."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hardware_models import DIRECTED, chain, conv, memories, residual, scalar

from qfx.errors import ProjectError
from qfx.hardware.board import Board, board
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.estimate import LIMITS, capacity, estimate
from qfx.hardware.cost.resources import FIELDS, Resources
from qfx.hardware.design import design as d
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import FIFO_STORAGE, Folding, Request, Schedule
from qfx.hardware.folding import file as folding_file
from qfx.hardware.folding.option import Option, placed
from qfx.hardware.folding.options import layers
from qfx.hardware.folding.placing import place_fifos
from qfx.hardware.folding.plan import plan
from qfx.hardware.folding.search import resolve
from qfx.hardware.project.project import write_project
from qfx.hardware.timing.fifo import with_depths
from qfx.ir.passes.loadable import make_loadable
from qfx.operators import Cast

KV260, ULTRA96, ZCU = board("kv260"), board("ultra96v2"), board("zcu102")


def design(depth: int = 300) -> d.Design:
    """Four deep FIFOs among others."""
    made = lower(residual(), Schedule())
    names = [stream.name for stream in made.streams]
    return with_depths(made, dict.fromkeys(names, 2) | dict.fromkeys(names[2:6], depth))


def vector(resources: Resources) -> np.ndarray:
    return np.array([getattr(resources, field) for field in FIELDS], dtype=np.float64)


def badness(taken: np.ndarray, on: Board) -> float:
    """What placing makes least."""
    shares = taken / np.maximum(vector(capacity(on)) * [LIMITS[field] for field in FIELDS], 0.5)
    return float(1e3 * max(shares.max() - 1, 0) + (shares**2).sum())


@pytest.mark.parametrize(("lut", "bram36", "uram"), [(3000, 0, 0), (3000, 1, 4), (8000, 2, 0), (8000, 100, 4), (100000, 0, 4), (100000, 100, 0)])
def test_fifos_go_where_there_is_room(lut: int, bram36: int, uram: int) -> None:
    """As well as the best of all placements, or nearly: moves one by one may miss it."""
    on, made = replace(KV260, lut=lut, bram36=bram36, uram=uram), design()
    deep = [stream for stream in made.streams if stream.depth > 2]
    rest = vector(estimate(made, on).total) - sum(vector(r.fifo(stream.depth, stream.bits)) for stream in deep)
    places = FIFO_STORAGE[: 3 + (uram > 0)]
    costs = [[vector(r.fifo(stream.depth, stream.bits, place)) for place in places] for stream in deep]
    best = min(badness(rest + sum(chosen), on) for chosen in product(*costs))
    found = place_fifos(made, on, {})
    reached = badness(vector(estimate(found, on).total), on)
    assert reached <= max(1.05 * best, best + 1e-5)
    if not uram:
        assert all(stream.storage != "uram" for stream in found.streams)
    # What is asked for stays.
    names = [stream.name for stream in deep]
    assert {stream.storage for stream in place_fifos(made, on, dict.fromkeys(names, "lut")).streams if stream.name in names} == {"lut"}


def test_ultraram_takes_what_would_fill_block_rams() -> None:
    on, made = replace(KV260, lut=3000, bram36=2), design(4000)
    found = place_fifos(made, on, {})
    assert {stream.storage for stream in found.streams if stream.depth == 4000} == {"uram"}
    assert estimate(found, on).total.uram == sum(r.uram(stream.depth, stream.bits) for stream in found.streams if stream.storage == "uram")
    assert estimate(found, on).total.bram18 < estimate(made, on).total.bram18
    assert {stream.storage for stream in place_fifos(design(40), on, {}).streams} <= {"auto", "lut", "bram"}


def test_options_have_their_memories_in_other_places() -> None:
    """Each is what lowering makes of it, and none takes more of everything than another with the same words and turns."""
    narrow = Cast(scalar("ap_ufixed<8,4,AP_RND,AP_SAT>"))
    graph = chain("net", (16, 8, 8), conv(0, 64, 16, 3, 3, pads=(1, 1)), narrow, conv(2, 64, 64, 3, 3, pads=(1, 1)), narrow)
    found = next(layer for layer in layers(lower(graph, Schedule()), KV260, {}) if layer.name == "conv2")
    same = [i for i, one in enumerate(found.foldings) if (one.pe, one.simd, one.arithmetic, one.taps, one.pixels) == (8, 8, "dsp", 1, 1)]
    assert {(found.foldings[i].weights, found.foldings[i].buffer) for i in same} >= {
        ("auto", "auto"),
        ("lut", "auto"),
        ("mixed", "auto"),
        ("mixed", "uram"),
    }
    base = None
    for i in same:
        made = lower(graph, Schedule.of({"conv2": found.foldings[i]}))
        taken = np.array([getattr(estimate(made, KV260).total, field) for field in FIELDS])
        base = taken - found.costs[i] if base is None else base
        assert (taken - found.costs[i] == base).all(), found.foldings[i]
    memories_ = found.costs[same][:, [0, 3, 4]]
    for one, other in product(range(len(same)), repeat=2):
        assert one in (0, other) or not (memories_[one] >= memories_[other]).all()
    few = next(layer for layer in layers(lower(graph, Schedule()), ZCU, {}) if layer.name == "conv2")
    assert all(folding.buffer != "uram" for folding in few.foldings)
    pinned = next(layer for layer in layers(lower(graph, Schedule()), KV260, {"conv2": Folding(8, 8, "dsp", weights="lut")}) if layer.name == "conv2")
    assert tuple(pinned.foldings) == (Folding(8, 8, "dsp", weights="lut"),)


def test_places_that_help_nothing_are_left_out() -> None:
    option = Option(Folding(), 1, 1, 10, Resources(lut=100, bram18=2))
    cheap, dear, none = Resources(lut=20), Resources(lut=9000, bram18=0), Resources(lut=30, bram18=1)
    assert placed(option, {"auto": Resources(bram18=2), "bram": Resources(bram18=2), "lut": cheap, "mixed": none}, {"auto": Resources()}) == [
        option,
        Option(Folding(weights="lut"), 1, 1, 10, Resources(lut=120)),
    ]
    assert placed(option, {"auto": Resources(bram18=2), "lut": dear}, {"auto": Resources()}) == [option]
    assert placed(option, {"auto": cheap}, {"auto": Resources(bram18=1), "uram": Resources(uram=1)})[1].cost == Resources(lut=100, bram18=1, uram=1)


def test_loaded_weights_may_lie_in_ultraram() -> None:
    graph = make_loadable(chain("net", (32, 4, 4), conv(0, 64, 32, 3, 3)))
    found = next(layer for layer in layers(lower(graph, Schedule()), KV260, {}) if layer.name == "conv0")
    assert {folding.weights for folding in found.foldings} == {"auto", "lut", "uram"}  # "auto" is block RAM
    small = replace(KV260, lut=2200, bram36=1)
    made = resolve(graph, small, Request(fps=10_000), clock_ns=5)
    assert made.schedule.folding("conv0").weights == "uram"
    with pytest.raises(ProjectError, match="does not fit"):
        resolve(graph, replace(small, uram=0), Request(fps=10_000), clock_ns=5)


@pytest.mark.parametrize("arithmetic", ["pair27", "triple27", "quad27", "grid27"])
def test_packed_products_that_no_block_of_the_board_has_a_port_for_are_refused(arithmetic: str, tmp_path: Path) -> None:
    cast = Cast(scalar("ap_fixed<4,3,AP_RND,AP_SAT>"))
    graph = chain("short", (2, 3, 3), conv(0, 4, 2, 2, 2), cast, conv(2, 4, 4, 1, 1), cast, cast="ap_fixed<4,3,AP_RND,AP_SAT>")
    schedule = Schedule.of({"conv0": Folding(4, arithmetic=arithmetic, pixels=2 if arithmetic == "grid27" else 1)})
    complaint = f"conv0: arithmetic '{arithmetic}': its weights lie on a port of 27 bits, but the DSP blocks of the TUL PYNQ-Z2 have one of 25"
    for ask in (
        lambda: plan(graph, board("pynq_z2"), schedule, clock_ns=10),
        lambda: resolve(graph, board("pynq_z2"), Request(schedule.foldings, fit=True), clock_ns=10),
        lambda: write_project(graph, tmp_path / "project", board="pynq_z2", schedule=schedule),
    ):
        with pytest.raises(ProjectError) as caught:
            ask()
        assert complaint in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert plan(graph, ULTRA96, schedule, clock_ns=5).estimate.total.dsp > 0


@pytest.mark.parametrize(
    ("schedule", "complaint"),
    [
        (Schedule.of({"conv0": Folding(buffer="uram")}), "conv0: its line buffer is to be in UltraRAM, but the Avnet Ultra96-V2 has none"),
        (Schedule.of({}, fifo_storage={"x_s": "uram"}), "x_s: the FIFO is to be in UltraRAM, but the Avnet Ultra96-V2 has none"),
        (Schedule.of({"conv2": Folding(buffer="bram")}), "conv2: buffer is 'bram', but it has no line buffer"),
        (Schedule.of({"x": Folding(weights="lut")}), "x: weights is 'lut', but it has no weights of its own"),
        (Schedule.of({}, fifo_storage={"y": "bram"}), "no FIFO is called 'y'"),
    ],
)
def test_memories_that_a_board_or_layer_lacks_are_refused_before_anything_is_written(schedule: Schedule, complaint: str, tmp_path: Path) -> None:
    graph = memories()[0]
    with pytest.raises(ProjectError) as caught:
        plan(graph, ULTRA96, schedule, clock_ns=5)
    assert complaint in str(caught.value)
    if schedule.foldings:  # as users ask for it
        with pytest.raises(ProjectError) as caught:
            write_project(graph, tmp_path / "project", board="ultra96v2", schedule=schedule)
        assert complaint in str(caught.value)
        with pytest.raises(ProjectError, match=r"UltraRAM|line buffer|has no folding"):
            resolve(graph, ULTRA96, Request(schedule.foldings, fit=True), clock_ns=5)
    assert list(tmp_path.iterdir()) == []


def test_a_file_says_where_memories_lie(tmp_path: Path) -> None:
    path = tmp_path / "folding.toml"
    path.write_text(
        '[layers."conv0"]\npe = 2\nsimd = 12\nweights = "bram"\nbuffer = "uram"\n'
        '[layers."conv4"]\nweights = "mixed"\n'
        '[fifos]\nx_s = 40\nconv0_s = { depth = 50, storage = "uram" }\nx_2_s = { storage = "bram" }\n'
    )
    asked = folding_file.read(path)
    assert dict(asked.foldings) == {"conv0": Folding(2, 12, weights="bram", buffer="uram"), "conv4": Folding(weights="mixed")}
    assert dict(asked.fifos) == {"x_s": 40, "conv0_s": 50}
    assert dict(asked.fifo_storage) == {"conv0_s": "uram", "x_2_s": "bram"}
    graph = memories()[0]
    names = [stream.name for stream in lower(graph, Schedule()).streams]
    wished = replace(asked, fifos=((names[1], 50),), fifo_storage=((names[1], "uram"), (names[2], "bram")))
    made = resolve(graph, KV260, wished, clock_ns=5)
    assert {stream.name: stream.storage for stream in made.design.streams}[names[1]] == "uram"
    path.write_text(folding_file.text(made, "memories"))
    again = folding_file.read(path)
    assert (again.fifos, again.fifo_storage) == (wished.fifos, tuple(sorted(wished.fifo_storage)))
    assert dict(again.foldings)["conv0"].buffer == "uram"
    assert resolve(graph, KV260, again, clock_ns=5).design.streams == made.design.streams


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('[layers."conv0"]\nweights = "flash"', "weights are to lie in 'flash'"),
        ('[layers."conv0"]\nbuffer = "mixed"', "buffer is to lie in 'mixed'"),
        ('[fifos]\nx = { storage = "mixed" }', "storage is 'mixed'"),
        ("[fifos]\nx = { depth = 0 }", "depth is 0"),
        ("[fifos]\nx = { words = 3 }", "'words' is not a key"),
    ],
)
def test_files_that_ask_for_no_storage(text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "folding.toml").write_text(text)
    with pytest.raises(ProjectError, match=complaint):
        folding_file.read(tmp_path / "folding.toml")


@pytest.mark.parametrize("index", range(0, len(DIRECTED), 3))
def test_a_search_with_ultraram_plans_what_it_emits(index: int) -> None:
    made = resolve(DIRECTED[index](), KV260, Request(fit=True), clock_ns=5)
    assert plan(DIRECTED[index](), KV260, made.schedule, clock_ns=5).estimate.costs == made.estimate.costs
