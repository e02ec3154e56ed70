"""All inputs in one stream and all outputs in one: split and join, FIFO depths, test bench, block design, driver, loaded weights, the command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hardware_models import classifier
from support import bounded, pragmas, synthesizable
from support.bundles import build_bundle
from support.pragma_grammar import Tool
from test_several_ports import GRAPHS, S6, U4, apart, crossed, data, detector, siamese, sums

from qfx.cli import main
from qfx.errors import ProjectError
from qfx.export.onnx_file import save
from qfx.fixed.type import FixedType
from qfx.hardware.assets import simulation_headers
from qfx.hardware.board import board
from qfx.hardware.design import design as d
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import OUT, Request, Schedule
from qfx.hardware.emit.blockdesign import block_design
from qfx.hardware.emit.emit import CSIM_FLAGS, emit
from qfx.hardware.folding import file as folding_file
from qfx.hardware.folding import search as fold
from qfx.hardware.project import csim
from qfx.hardware.project.execute import put_together
from qfx.hardware.project.project import prepare, write_project
from qfx.hardware.project.reload import words_for
from qfx.hardware.timing.fifo import least_depths, plan
from qfx.hardware.timing.simulate import DeadlockError
from qfx.ir.graph import Graph, Node
from qfx.ir.interpret import quantize_inputs, run_from_raws
from qfx.ir.passes.pipeline import optimize
from qfx.ir.values import ArrayType
from qfx.operators import Add, Cast, Input
from qfx.testing import assert_bit_exact, random_graph
from qfx.verify import verify

MERGED = Schedule.of({}, merged=True)
ZCU = board("zcu102")


def padded() -> Graph:
    """Words of several numbers, slots of several widths, and frames that do not fill their last word."""
    nodes = (
        Node("a", Input((4, 3), U4)),
        Node("b", Input((1, 5), ArrayType.of(FixedType(12, 5)))),
        Node("c", Input((4, 3), S6)),
        Node("sum", Add(), ("a", "c")),
        Node("long", Cast(ArrayType.of(FixedType(20, 12))), ("b",)),
    )
    return Graph("padded", nodes, ("sum", "long", "b"))


WIDE = Schedule.of({}, ports={"a": 4, "c": 2, OUT + "sum": 2}, merged=True)
CASES = [*((make(), MERGED) for make in GRAPHS), (padded(), MERGED), (padded(), WIDE), (padded(), replace(WIDE, input_parallel=4, output_parallel=4))]


def check(found: tuple[np.ndarray, ...], graph: Graph, x: dict[str, np.ndarray], what: str) -> None:
    for raw, expected in zip(found, run_from_raws(graph, x), strict=True):
        assert_bit_exact(raw, expected, names=(what, f"interpreter, {graph.name}"))


def test_the_simulation_is_bit_exact(tmp_path: Path) -> None:
    bundle = build_bundle(CASES, tmp_path)
    for index, (graph, _) in enumerate(CASES):
        x = quantize_inputs(graph, data(graph))
        check(bundle.run_from_raws(index, list(x.values())), graph, x, "C simulation")


def test_bounded_fifos_pass_frames(tmp_path: Path) -> None:
    """With the depths chosen nothing deadlocks, though one input comes when the other is over; split and join take the turns of their programs."""
    designs = [plan(lower(graph, schedule)).design for graph, schedule in CASES]
    compiled = bounded.build(designs, tmp_path)
    for index, (graph, _) in enumerate(CASES):
        x = quantize_inputs(graph, data(graph, 6))
        found = compiled.run(index, put_together(list(x.values())))
        check(found.outputs, graph, x, "bounded simulation")
        assert bounded.differences(designs[index], found) == []


def test_an_input_that_waits_has_room(tmp_path: Path) -> None:
    """The least depths are exact: with a word less the C++ stops. The first of two inputs that are added has to wait as a whole."""
    nodes = (Node("x", Input((4, 3, 2), S6)), Node("y", Input((4, 3, 2), S6)), Node("s", Add(), ("x", "y")))
    graph = Graph("waits", nodes, "s")
    design = plan(lower(graph, MERGED)).design
    least = least_depths(design)
    first, second = next(process for process in design.processes if isinstance(process, d.SplitPort)).outputs
    assert least[first.name] >= first.words - 1
    assert (first.depth >= least[first.name], least[second.name]) == (True, 1)
    compiled = bounded.build([design], tmp_path)
    x = put_together(list(quantize_inputs(graph, data(graph, 3)).values()))
    tried = 0
    for stream in design.streams:
        if least[stream.name] > 1:
            tried += 1
            compiled.run(0, x, {stream.name: least[stream.name]})
            with pytest.raises(DeadlockError):
                compiled.run(0, x, {stream.name: least[stream.name] - 1})
    assert tried


def test_the_depths_before_they_are_sized_are_safe(tmp_path: Path) -> None:
    """What a design has whose frames are too long to simulate."""
    designs = [lower(graph, schedule) for graph, schedule in CASES]
    compiled = bounded.build(designs, tmp_path)
    for index, (graph, _) in enumerate(CASES):
        x = quantize_inputs(graph, data(graph, 4))
        check(compiled.run(index, put_together(list(x.values()))).outputs, graph, x, "bounded simulation")


def test_random_models(tmp_path: Path) -> None:
    graphs = [optimize(random_graph(np.random.default_rng(seed), several=True)) for seed in range(12)]
    assert sum(len(graph.inputs) == 2 for graph in graphs) >= 3
    bundle = build_bundle([(graph, MERGED) for graph in graphs], tmp_path)
    for index, graph in enumerate(graphs):
        assert plan(lower(graph, MERGED)).timing is not None
        x = quantize_inputs(graph, data(graph))
        check(bundle.run_from_raws(index, list(x.values())), graph, x, "C simulation")


def test_widths_and_words_of_a_stream() -> None:
    design = lower(padded(), replace(WIDE, ports=(*WIDE.ports, ("b", 1))))
    (into,), (out,) = design.wires
    assert (into.name, into.bits, out.name, out.bits) == ("in", 32, "out", 32)
    assert [into.words(port) for _, port in into.ports] == [3, 3, 3]  # 12 bytes, 10 and 12
    assert [out.words(port) for _, port in out.ports] == [6, 5, 3]
    assert (into.frame_bytes, out.frame_bytes) == (36, 56)
    three = Schedule.of({}, ports={"x": 3}, merged=True)
    graph = Graph("three", (Node("x", Input((3,), S6)), Node("y", Input((3,), S6)), Node("s", Add(), ("x", "y"))), "s")
    with pytest.raises(ProjectError, match="a word of 3 numbers is 24 bits, which no merged stream can carry"):
        lower(graph, three)
    assert lower(graph, replace(three, merged=False)).merged == (0, 0)
    design = lower(graph, MERGED)
    assert (design.merged, design.wire_names) == ((8, 0), ("in", "s_out"))
    assert lower(detector(), MERGED).wire_names == ("image_in", "out")


def test_one_input_and_one_output_stay_as_they_are() -> None:
    for name in ("rom", "stream"):
        graph = prepare(classifier(), name)
        assert emit(graph, MERGED, ZCU, clock_ns=5, top="net") == emit(graph, Schedule(), ZCU, clock_ns=5, top="net")


def test_the_tools_rules(gxx: str, tmp_path: Path) -> None:
    for graph, schedule in ((padded(), WIDE), (prepare(siamese(), "stream"), MERGED)):
        files = emit(graph, schedule, ZCU, clock_ns=5, top="top")
        for tool in Tool:
            assert pragmas.check(files, tool, top="top") == ()
            assert synthesizable.check(files, tool) == ()
        for path, text in files.items():
            (tmp_path / graph.name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / graph.name / path).write_text(text)
        root = tmp_path / graph.name
        command = [gxx, *CSIM_FLAGS, "-Werror", *simulation_headers(), f"-I{root / 'include'}", "-fsyntax-only", str(root / "src" / "top.cpp")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_schedules_that_are_chosen_and_given_back(tmp_path: Path) -> None:
    graph = siamese()
    names = [node.name for node in graph.inputs], graph.output_names
    path = tmp_path / "folding.toml"
    for request in (Request(merged=True), Request(fit=True, merged=True), Request(fps=20_000, merged=True)):
        made = fold.resolve(graph, ZCU, request, clock_ns=5)
        assert made.design.merged[0]
        assert made.fps >= (request.fps or 0)
        path.write_text(folding_file.text(made, "m", names), encoding="utf-8")
        again = fold.resolve(graph, ZCU, folding_file.read(path), clock_ns=5)
        assert (again.design.streams, again.design.merged) == (made.design.streams, made.design.merged)
    path.write_text("[ports]\nmerged = 1\n", encoding="utf-8")
    with pytest.raises(ProjectError, match="merged is 1"):
        folding_file.read(path)


@pytest.mark.parametrize("make", [sums, siamese, crossed, apart])
def test_the_search_counts_on_words_that_come_one_after_the_other(make: Callable[[], Graph]) -> None:
    """The ports of the first design that is tried keep the pace together, and what they cannot keep is said before any is made."""
    graph = make()
    best = fold.resolve(graph, ZCU, Request(fit=True, merged=True), clock_ns=5)
    for share in (0.95, 0.5, 0.3):
        told = Stages()
        made = fold.resolve(graph, ZCU, Request(fps=share * best.fps, merged=True), clock_ns=5, progress=told)
        assert made.fps >= share * best.fps
        assert [done for stage, done in told.seen if "cheapest" in stage] == [0]
    words = sum(graph.infos[node.name].size for node in graph.inputs)
    narrow = Request(fps=1e9 / 5 / (words + 2), ports=tuple((node.name, 1) for node in graph.inputs), merged=True)
    with pytest.raises(ProjectError, match=r"all inputs in one stream take \d+ \(one after the other"):
        fold.resolve(graph, ZCU, narrow, clock_ns=5)


class Stages:
    """What was told of the progress."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.seen.append((stage, done))


def test_the_block_design_has_one_dma() -> None:
    found = block_design(lower(siamese(), MERGED), board("ultra96v2"), clock_ns=5)
    assert [(dma.name, dma.masters) for dma in found.dmas] == [("dma", ("M_AXI_MM2S", "M_AXI_S2MM"))]
    assert [lane.port for _, lane, _ in found.lanes] == ["in", "out"]
    found = block_design(lower(detector(), MERGED), board("ultra96v2"), clock_ns=5)
    assert [lane.port for _, lane, _ in found.lanes] == ["image_in", "out"]


@pytest.mark.parametrize(("make", "schedule"), [(siamese, MERGED), (padded, WIDE), (detector, MERGED)])
def test_a_project_with_its_driver(gxx: str, tmp_path: Path, make: type[Graph], schedule: Schedule) -> None:
    graph = make()
    save(graph, tmp_path / "net.onnx")
    project = write_project(graph, tmp_path / "p", board="ultra96v2", schedule=schedule).path
    x = data(graph, 5)
    rows = verify(tmp_path / "net.onnx", x, {"csim": lambda given: csim.run_raw(project, given)})
    assert not any(row.differing_bits for row in rows)
    bench = subprocess.run([str(csim.build(project))], cwd=project, capture_output=True, text=True, check=False)
    assert bench.returncode == 0, bench.stdout + bench.stderr
    python = [sys.executable, "-W", "error", "-m", "driver", "--simulate", "build/tb"]
    done = subprocess.run([*python, "--selftest"], cwd=project, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{graph.name}: passed, 8 golden vectors\n", "")
    np.savez(tmp_path / "x.npz", **x)
    np.save(tmp_path / "x.npy", next(iter(x.values())))
    given = "x.npz" if len(x) > 1 else "x.npy"
    arguments = ["--data", str(tmp_path / given), "--raw", "--batch", "2", "--output", str(tmp_path / "y.npz")]
    done = subprocess.run([*python, *arguments], cwd=project, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    with np.load(tmp_path / "y.npz") as y:
        assert list(y.files) == list(graph.output_names)
        check(tuple(y[name] for name in y.files), graph, quantize_inputs(graph, x), "driver")


def test_weights_that_are_loaded(gxx: str, tmp_path: Path) -> None:
    graph = siamese()
    written = write_project(graph, tmp_path / "p", board="ultra96v2", schedule=MERGED, weights="stream")
    project = written.path
    assert words_for(graph, project) == (project / "tb" / "weights.bin").read_bytes()
    x = data(graph, 4)
    check(csim.run_raw(project, x), graph, quantize_inputs(graph, x), "C simulation")
    python = [sys.executable, "-W", "error", "-m", "driver", "--simulate", "build/tb", "--selftest"]
    done = subprocess.run(python, cwd=project, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "siamese: passed, 8 golden vectors\n", "")
    design = fold.plan(prepare(graph, "stream"), ZCU, MERGED, clock_ns=5).design
    found = bounded.build([design], tmp_path).run(0, put_together(list(quantize_inputs(graph, x).values())))
    check(found.outputs, graph, quantize_inputs(graph, x), "bounded simulation")
    assert bounded.differences(design, found) == []


def test_the_command(gxx: str, tmp_path: Path) -> None:
    def qfx(*arguments: object) -> tuple[int, str]:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        return result.exit_code, result.output

    graph = crossed()
    save(graph, tmp_path / "net.onnx")
    x = data(graph)
    np.savez(tmp_path / "x.npz", **x)
    common = ("--board", "zcu102", "-o")
    assert qfx("hls", tmp_path / "net.onnx", "--ports", "merged", *common, tmp_path / "p")[0] == 0
    folding = tmp_path / "p" / "folding.toml"
    assert "[ports]\nmerged = true\n" in folding.read_text()
    assert qfx("hls", tmp_path / "net.onnx", "--folding", folding, *common, tmp_path / "q")[0] == 0
    assert (tmp_path / "q" / "src" / "crossed.cpp").read_bytes() == (tmp_path / "p" / "src" / "crossed.cpp").read_bytes()
    assert qfx("hls", tmp_path / "net.onnx", "--folding", folding, "--ports", "separate", *common, tmp_path / "r")[0] == 0
    assert "merged" not in (tmp_path / "r" / "folding.toml").read_text()
    assert qfx("verify", tmp_path / "net.onnx", tmp_path / "p", "--data", tmp_path / "x.npz")[0] == 0
    assert qfx("estimate", tmp_path / "net.onnx", "--board", "zcu102", "--ports", "merged", "--fit")[0] == 0
    assert "one after the other in a frame of" in (tmp_path / "p" / "README.md").read_text()
    shutil.copytree(tmp_path / "p" / "driver", tmp_path / "deploy" / "driver")
    for ending in ("bit", "hwh"):
        (tmp_path / "deploy" / f"crossed.{ending}").write_text("bits")
    csim.build(tmp_path / "p")
    stand_in = {"PYTHONPATH": str(Path(__file__).resolve().parent / "board"), "QFX_TEST_BENCH": str(tmp_path / "p" / "build" / "tb")}
    command = [sys.executable, "-W", "error", "-m", "driver", "--selftest"]
    done = subprocess.run(command, cwd=tmp_path / "deploy", env=dict(os.environ) | stand_in, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "crossed: passed, 8 golden vectors\n", "")
