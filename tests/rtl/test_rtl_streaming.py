"""``qfx rtl`` of streaming designs: the whole of it by Verilator beside the interpreter, in the cycles of the model; planted errors are found."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hardware_models import DIRECTED, chain, const, conv, from_ddr, scalar
from rtl_models import arithmetics
from schedule_models import BRANCHED, upsampling
from test_several_ports import crossed, siamese

from qfx.cli import main
from qfx.export.onnx_file import save
from qfx.hardware.board import board
from qfx.hardware.design.schedule import Folding, Schedule
from qfx.hardware.folding.plan import plan
from qfx.hardware.rtl import project, simulate, tools
from qfx.hardware.rtl.hardware import Hardware
from qfx.hardware.timing.simulate import simulate as cycles
from qfx.ir.feeds import feeds
from qfx.ir.graph import Graph
from qfx.ir.interpret import quantize_inputs
from qfx.ir.passes.pipeline import optimize
from qfx.operators import Cast, Linear, MaxPool, Relu
from qfx.testing import adversarial_feeds
from qfx.verify import compare

ZCU = board("zcu102")
FRAMES = 4
ALL = (*BRANCHED, *DIRECTED, upsampling, arithmetics, siamese, crossed)


def network() -> Graph:
    narrow = Cast(scalar("ap_ufixed<4,2,AP_RND,AP_SAT>"))
    return chain("network", (2, 5, 5), conv(3, 3, 2, 3, 3, pads=(1, 1)), Relu(), narrow, MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)))


def compared(graph: Graph, folder: Path, schedule: Schedule = Schedule(), *, pipelined: bool = False) -> project.Written:  # noqa: B008
    """No raw differs, with streams that are always ready and with some that wait; the cycles, where the model has them, are its own."""
    graph = optimize(graph)
    made = plan(graph, ZCU, schedule, clock_ns=5)
    x_raw = quantize_inputs(graph, feeds(graph, adversarial_feeds(graph, np.random.default_rng(1), FRAMES)))
    found = project.write_streaming(graph, made, folder, x_raw=x_raw, pipelined=pipelined)
    simulate.build(folder)
    for stall in (0, 1):
        seen = simulate.run(folder, found.hardware, FRAMES, stall=stall)
        assert seen.passed, seen.text
        assert seen.raws is not None
        assert compare(graph, found.expected_raw, seen.raws, "Verilog").differing_bits == 0
        if not stall and found.hardware.latency:
            assert (seen.latency, seen.interval) == (found.hardware.latency, found.hardware.interval)
    return found


@pytest.mark.parametrize("pipelined", [False, True], ids=["turns", "stages"])
@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
def test_whole_designs(make: object, pipelined: bool, tmp_path: Path, thorough: bool) -> None:
    if not thorough:
        pytest.skip("all designs with --thorough; one of them below")
    compared(make(), tmp_path / "v", pipelined=pipelined)  # type: ignore[operator]


def offchip() -> tuple[Graph, Schedule]:
    """A matrix whose words come slower than it could take them, so that memory is what binds."""
    graph = chain("offchip", (6,), Linear(const(1, 70, 6), None), Cast(scalar("ap_fixed<6,3,AP_RND,AP_SAT>")))
    name = graph.nodes[1].name
    return graph, Schedule.of({name: Folding(2, 6, weights="ddr")}, input_parallel=6, output_parallel=2)


@pytest.mark.parametrize("make", [offchip, from_ddr], ids=lambda make: make.__name__)
def test_weights_in_memory(make: Callable[[], tuple[Graph, Schedule]], tmp_path: Path, thorough: bool) -> None:
    """Memory that answers at once, in the cycles of the model; memory that answers late, with the same numbers; and one bit of it that is wrong."""
    graph, schedule = make()
    if make is from_ddr and not thorough:
        pytest.skip("six masters with --thorough")
    folder = tmp_path / "v"
    found = compared(graph, folder, schedule)
    for one in found.hardware.masters:
        path = folder / "golden" / f"{one.name}.mem"
        words = path.read_text().split()
        assert [int(word, 16) for word in words] == one.words
        path.write_text("\n".join((*words[:-1], f"{int(words[-1], 16) ^ 1:x}")) + "\n")
        seen = simulate.run(folder, found.hardware, FRAMES, stall=3)
        assert (seen.passed, seen.raws is None) == (False, False)
        path.write_text("\n".join(words[:-1]) + "\n")
        short = simulate.run(folder, found.hardware, FRAMES)
        assert not short.passed
        assert f"{one.name}: words where there are none" in short.text
        path.write_text("\n".join(words) + "\n")


def qfx(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_simulates_and_a_planted_bit_is_found(tmp_path: Path) -> None:
    model, folder = tmp_path / "network.onnx", tmp_path / "v"
    save(network(), model)
    done = qfx("rtl", model, "--board", "zcu102", "-o", folder, "--pipelined", "--simulate", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    first, stalled = told["rtl_simulated"]["runs"]
    assert (first["differing_bits"], stalled["differing_bits"], first["values"]) == (0, 0, FRAMES * 12)
    assert first["interval_cycles"] == told["interval_cycles"]  # pipelines add nothing to it here, whatever their depth
    made = plan(optimize(network()), ZCU, Schedule(), clock_ns=5)
    assert cycles(made.design, FRAMES).interval == first["interval_cycles"]
    (source,) = (folder / "rtl").glob("*_matvec.v")
    text = source.read_text(encoding="utf-8")
    row = re.search(r"(m\d+\[2\]) = (\d+)'h([0-9a-f]+);", text)
    assert row is not None
    source.write_text(text.replace(row[0], f"{row[1]} = {row[2]}'h{int(row[3], 16) ^ 1:x};"), encoding="utf-8")
    (folder / "build" / "bench").unlink()
    simulate.build(folder)
    assert not simulate.run(folder, Hardware("network", {}, *made.design.wires, 0, 0), FRAMES).passed


def test_what_is_missing_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "network.onnx"
    save(network(), model)
    loaded = qfx("rtl", model, "--board", "zcu102", "-o", tmp_path / "v", "--weights", "stream")
    assert loaded.exit_code == 2
    assert "no port of the Verilog loads constants" in loaded.output
    staged = qfx("rtl", model, "--board", "zcu102", "-o", tmp_path / "v", "--style", "unrolled", "--pipelined")
    assert staged.exit_code == 2
    assert "--pipelined: an unrolled design is a pipeline as it is" in staged.output
    folding = tmp_path / "folding.toml"
    folding.write_text('[fifos]\nconv0_s = { storage = "ddr" }\n', encoding="utf-8")
    spilled = qfx("rtl", model, "--board", "zcu102", "-o", tmp_path / "v", "--folding", folding)
    assert spilled.exit_code == 2
    assert "conv0_spill: Verilog has no masters that write memory, as a FIFO in memory needs" in spilled.output
    monkeypatch.setattr(tools, "found_clang", lambda: "")
    done = qfx("rtl", model, "--board", "zcu102", "-o", tmp_path / "v")
    assert done.exit_code == 2
    assert "apt-get install clang-16" in done.output
    assert not (tmp_path / "v").exists()


def test_cells_are_counted_by_process(tmp_path: Path, thorough: bool) -> None:
    if not thorough or not shutil.which("yosys"):
        pytest.skip("Yosys maps a whole design with --thorough")
    model = tmp_path / "network.onnx"
    save(network(), model)
    done = qfx("rtl", model, "--board", "zcu102", "-o", tmp_path / "v", "--luts", "--json")
    assert done.exit_code == 0, done.output
    cells = json.loads(done.stdout)["rtl_cells"]
    made = plan(optimize(network()), ZCU, Schedule(), clock_ns=5)
    assert list(cells) == [*(process.name for process in made.design.processes), "network"]
    window = next(cost for cost in made.estimate.costs if cost.process.endswith("_window"))
    assert cells[window.process]["ff"] == pytest.approx(window.resources.ff, rel=0.1)
    assert cells["network"]["lut"] == 0  # wires alone
