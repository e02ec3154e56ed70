"""Recurrent cells as whole projects: one hardware for all steps, and no number that differs from the interpreter's."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cells import gru, lstm, recurrent, rows
from click.testing import CliRunner
from support import bounded
from support.bundles import build_bundle

from qfx.cli import main
from qfx.errors import ProjectError
from qfx.export.onnx_file import save
from qfx.hardware.board import board
from qfx.hardware.cost.estimate import estimate
from qfx.hardware.design import design as d
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Folding, Request, Schedule
from qfx.hardware.emit.emit import emit_sources
from qfx.hardware.folding import file as folding_file
from qfx.hardware.folding import summary
from qfx.hardware.folding.search import plan, resolve
from qfx.hardware.project import csim
from qfx.hardware.project.execute import put_together
from qfx.hardware.project.project import write_project
from qfx.hardware.timing.fifo import size_fifos
from qfx.hardware.timing.simulate import simulate
from qfx.ir.graph import Graph, Node
from qfx.ir.interpret import output_raw, quantize_input, run, run_raw, traced_raws
from qfx.operators import Const, Linear, Scan
from qfx.report import report_project
from qfx.testing import adversarial_inputs, assert_bit_exact

CELLS = [recurrent(make(), steps, last=steps > 1) for make in (gru, lstm) for steps in (1, 7)] + [rows(3)]


@pytest.mark.usefixtures("gxx")
@pytest.mark.parametrize("fast", [False, True])
def test_every_step_equals_the_interpreter(tmp_path: Path, fast: bool) -> None:
    designs = [(graph, schedule) for graph in CELLS for schedule in (Schedule(), Schedule.of({"rnn": Folding(2, 2)}))]
    bundle = build_bundle(designs, tmp_path, fast=fast, flags=("-Werror", "-O1"))
    for index, (graph, _) in enumerate(designs):
        x = adversarial_inputs(graph, np.random.default_rng(index), 8)  # frames that follow each other: states begin anew
        assert_bit_exact(bundle.run_from_raw(index, quantize_input(graph, x)), run_raw(graph, x), names=("C simulation", "interpreter"))


def with_one_more(graph: Graph) -> Graph:
    """One least significant bit of one weight of the cell."""
    scan = graph.node("rnn").op
    assert isinstance(scan, Scan)
    nodes = []
    for node in scan.body.nodes:
        if node.name == "n_h":
            assert isinstance(node.op, Linear)
            raw = node.op.weight.raw.copy()
            raw[0, 0] += 1
            node = Node(node.name, replace(node.op, weight=Const(raw, node.op.weight.frac_bits)), node.inputs)
        nodes.append(node)
    changed = replace(scan, body=scan.body.with_nodes(tuple(nodes)))
    return graph.with_nodes(tuple(replace(node, op=changed) if node.name == "rnn" else node for node in graph.nodes))


@pytest.mark.usefixtures("gxx")
def test_one_lsb_inside_a_cell_is_seen(tmp_path: Path) -> None:
    graph = recurrent(gru(), 6)
    bundle = build_bundle([(with_one_more(graph), Schedule())], tmp_path)
    x = adversarial_inputs(graph, np.random.default_rng(0), 20)
    with pytest.raises(AssertionError, match="numbers differ"):
        assert_bit_exact(bundle.run_from_raw(0, quantize_input(graph, x)), run_raw(graph, x))


@pytest.mark.usefixtures("gxx")
def test_a_project_by_the_command_line(tmp_path: Path) -> None:
    """qfx hls and qfx verify, the vendor's build and the fast one: 0 values differ."""
    graph = recurrent(lstm(), 5, last=True)
    save(graph, tmp_path / "m.onnx")
    x = adversarial_inputs(graph, np.random.default_rng(1), 9)
    np.save(tmp_path / "x.npy", x)
    runner = CliRunner()
    made = runner.invoke(main, ["hls", str(tmp_path / "m.onnx"), "--board", "zcu102", "--fit", "--output", str(tmp_path / "p")])
    assert made.exit_code == 0, made.output
    for fast in (False, True):
        assert_bit_exact(csim.run(tmp_path / "p", x, fast=fast), run(graph, x))
        traced = csim.trace_raw(tmp_path / "p", x, fast=fast)
        assert {"x", "rnn", "y"} <= set(traced)
        assert_bit_exact(traced["rnn"], run_raw(graph.with_nodes(graph.nodes[:2], "rnn"), x))
    found = runner.invoke(main, ["verify", str(tmp_path / "m.onnx"), str(tmp_path / "p"), "--data", str(tmp_path / "x.npy"), "--fast", "--trace"])
    assert found.exit_code == 0, found.output


def test_weights_are_stored_once() -> None:
    short, long = (emit_sources(lower(recurrent(gru(), steps), Schedule()), "top") for steps in (2, 50))
    weights = {path: text for path, text in short.items() if path.startswith("src/weights/")}
    assert len(weights) >= 6
    assert weights == {path: text for path, text in long.items() if path.startswith("src/weights/")}
    assert re.sub(r"step < \d+", "", short["src/layers.h"]).count("rnn_step(") == 2  # its definition and its one call
    assert {path for path in short if short[path] != long[path]} <= {"src/layers.h", "src/top.cpp", "src/top.h"}


def test_time_grows_with_the_steps_and_cost_does_not() -> None:
    on = board("zcu102")
    designs = [size_fifos(lower(recurrent(gru(), steps), Schedule())) for steps in (4, 8, 16)]
    loops = [next(process for process in design.processes if isinstance(process, d.Loop)) for design in designs]
    first, second, third = (loop.cycles for loop in loops)
    assert third - second == 2 * (second - first)
    assert simulate(designs[2]).interval >= third
    costs = [next(cost.resources for cost in estimate(design, on).costs if cost.process == "rnn_loop") for design in designs]
    assert costs[2].lut - costs[0].lut < 50
    step = loops[0].step
    assert loops[0].cycles == 4 * step.turns + 5 * (step.states[0].words + 3)
    reads, writes = step.reads, step.writes
    assert reads.tolist() == list(range(3))
    assert writes[0] > reads[-1]


def test_a_pace_is_made_by_folding_the_cell() -> None:
    graph = recurrent(gru(8, 16), 10)
    slow = resolve(graph, board("zcu102"), Request(), clock_ns=5)
    fast = resolve(graph, board("zcu102"), Request(fps=1.5 * slow.fps), clock_ns=5)
    assert fast.fps >= 1.5 * slow.fps
    folding = fast.schedule.folding("rnn")
    assert folding.pe * folding.simd > 1
    pinned = resolve(graph, board("zcu102"), Request(foldings=(("rnn", Folding(4, 8)),), fit=True), clock_ns=5)
    assert pinned.schedule.folding("rnn") == Folding(4, 8)


def test_a_folding_wider_than_the_cell_is_what_it_comes_to() -> None:
    """Matrices of 16 outputs and of 8 and 16 inputs: nothing in them is wider than that, whatever is asked for."""
    graph = recurrent(gru(8, 16), 10)
    for asked, built in (((4096, 1), (16, 1)), ((5, 9), (4, 8)), ((4, 8), (4, 8)), ((4096, 4096), (16, 16))):
        for fit in (False, True):
            made = resolve(graph, board("zcu102"), Request(foldings=(("rnn", Folding(*asked)),), fit=fit), clock_ns=5)
            assert made.schedule.folding("rnn") == Folding(*built)
        text = folding_file.text(made, "m")
        assert "4096" not in text + summary.as_text(made, "m")
        assert emit_sources(made.design, "top") == emit_sources(
            plan(graph, board("zcu102"), Schedule.of({"rnn": Folding(*asked)}), clock_ns=5).design, "top"
        )


@pytest.mark.usefixtures("gxx")
def test_a_matrix_with_a_folding_of_its_own(tmp_path: Path) -> None:
    graph = recurrent(gru(4, 6), 5)
    asked = {"rnn": Folding(2, 1), "rnn::n_h": Folding(6, 3), "rnn::r_x": Folding(1, 4, "lut")}
    for ask in (Request(), Request(fit=True)):
        made = resolve(graph, board("zcu102"), replace(ask, foldings=tuple(asked.items())), clock_ns=5)
        (loop,) = (process for process in made.design.processes if isinstance(process, d.Loop))
        found = {node: (part.pe, part.simd, part.arithmetic) for part, node in loop.inside if isinstance(part, d.MatVec)}
        assert (found["rnn::n_h"], found["rnn::r_x"], found["rnn::z_h"]) == ((6, 3, "auto"), (1, 4, "lut"), (2, 1, "auto"))
    (tmp_path / "folding.toml").write_text(folding_file.text(made, "m"), encoding="utf-8")
    again = resolve(graph, board("zcu102"), folding_file.read(tmp_path / "folding.toml"), clock_ns=5)
    assert again.schedule == made.schedule
    bundle = build_bundle([(graph, made.schedule)], tmp_path, flags=("-O1",))
    x = adversarial_inputs(graph, np.random.default_rng(0), 8)
    assert_bit_exact(bundle.run_from_raw(0, quantize_input(graph, x)), run_raw(graph, x), names=("C simulation", "interpreter"))
    for name, folding, said in (
        ("rnn::n_h", Folding(4), "rnn::n_h: PE=4 takes 2 words for its 6 outputs, and so does PE=3"),
        ("rnn::next", Folding(2), "is computed within another layer"),
        ("rnn::none", Folding(2), "no layer is called 'rnn::none'"),
    ):
        with pytest.raises(ProjectError, match=said):
            resolve(graph, board("zcu102"), Request(foldings=((name, folding),)), clock_ns=5)


def test_the_fifos_of_a_step_are_told() -> None:
    """In the printed summary and in the report, beside those between the layers."""
    made = resolve(recurrent(gru(), 5), board("zcu102"), Request(), clock_ns=5)
    (loop,) = (process for process in made.design.processes if isinstance(process, d.Loop))
    inner = [fifo for fifo in summary.data(made, "m")["fifos"] if "within" in fifo]
    assert {fifo["name"]: fifo["depth"] for fifo in inner} == {stream.name: stream.depth for stream in loop.step.fifos}
    assert {fifo["within"] for fifo in inner} == {"rnn_loop"}
    assert f"in each step of rnn: {len(loop.step.fifos)} of " in summary.as_text(made, "m")


def test_an_input_that_nothing_depends_on_is_refused() -> None:
    cell = gru()
    nodes = tuple(node for node in cell.body.nodes if node.name in ("x", "h", "n_h", "n_h_cast"))
    blind = Scan.of("blind", (*nodes, Node("next", cell.body.node("next").op, ("n_h_cast",))), "next", ("next",))
    with pytest.raises(ProjectError, match="rnn::x: is an input that no result of a step depends on"):
        lower(recurrent(blind, 3), Schedule())


@pytest.mark.usefixtures("gxx")
def test_what_casts_lose_inside_a_cell(tmp_path: Path) -> None:
    """Counted by the C++ as by the interpreter, at all steps together."""
    graph = recurrent(gru(), 4, last=True)
    project = write_project(graph, tmp_path / "p", board="zcu102").path
    x = adversarial_inputs(graph, np.random.default_rng(2), 6)
    save(graph, tmp_path / "m.onnx")
    found = report_project(project, x, model=tmp_path / "m.onnx")
    assert found.differing == ()
    rows_ = {row.node: row for row in found.rows}
    assert rows_["rnn::next"].loss.values == 6 * 4 * 4
    assert rows_["rnn::next"].simulated == rows_["rnn::next"].loss
    assert rows_["rnn::n_in"].loss.rounded > 0


@pytest.mark.usefixtures("gxx")
def test_a_step_passes_through_fifos_that_block(tmp_path: Path) -> None:
    """Its processes side by side, over FIFOs as deep as they are: the interpreter's states and results, in the turns of the programs."""
    cells = [(graph, folding) for graph in CELLS[1::2] for folding in (Folding(), Folding(4, 3), Folding(64, 64))]
    loops = []
    for graph, folding in cells:
        loops += [process for process in lower(graph, Schedule.of({"rnn": folding})).processes if isinstance(process, d.Loop)]
    designs = [bounded.step_of(loop) for loop in loops]
    compiled = bounded.build(designs, tmp_path)
    for index, ((graph, _), design) in enumerate(zip(cells, designs, strict=True)):
        scan = graph.node("rnn").op
        assert isinstance(scan, Scan)
        rng = np.random.default_rng(index)
        infos = [scan.body.infos[node.name] for node in scan.body.inputs]
        raws = [rng.integers(info.type.min_raw, info.type.max_raw + 1, (3, *info.shape)) for info in infos]
        found = compiled.run(index, put_together(raws))
        feeds = {node.name: raw for node, raw in zip(scan.body.inputs, raws, strict=True)}
        values = traced_raws(scan.body, feeds, scan.body.outputs)
        for raw, name in zip(found.outputs, (scan.result, *(new for _, new in scan.states)), strict=True):
            assert_bit_exact(raw, output_raw(scan.body, values[name], name), names=("a step by itself", "interpreter"))
        assert bounded.differences(design, found) == []
        assert all(peak <= stream.depth for peak, stream in zip(found.peaks, design.streams, strict=True))
