"""What a command says of its progress, and where."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from qfx.cli import telling as module
from qfx.cli.telling import telling
from qfx.export.onnx_file import save
from qfx.fixed.type import FixedType
from qfx.hardware.board import board
from qfx.hardware.design.schedule import Request
from qfx.hardware.folding.search import resolve
from qfx.hardware.project.csim import losses, run_raw, trace_raw
from qfx.hardware.project.project import prepare, write_project
from qfx.ir.graph import Graph, Node
from qfx.ir.interpret import run_raw as interpret
from qfx.ir.losses import losses as interpreted_losses
from qfx.ir.values import ArrayType, Const
from qfx.operators import Cast, Input, Linear
from qfx.progress import parts, silent
from qfx.report import report_project
from qfx.trace import locate
from qfx.verify import verify


def test_a_log_gets_a_line_a_stage_on_stderr_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with telling("reading", after_s=0.0) as progress:
        for done in range(101):
            progress("working", done, 100)
        progress("writing", 0, 1)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == ["reading", "working", "writing"]


def test_a_short_command_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with telling("reading") as progress:
        progress("working", 0, 1)
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def test_work_without_news_is_told_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage that begins before anything is shown, and calls no more: a compiler."""
    import time

    monkeypatch.setattr(module, "_EVERY_S", 0.1)
    monkeypatch.setattr(module, "_TICK_S", 0.01)
    told = ""
    with telling("compiling", after_s=0.1) as progress:
        progress("running", 3, 8)
        for _ in range(1000):
            time.sleep(0.01)
            told += capsys.readouterr().err
            if told.count("\n") >= 2:
                break
    assert told.splitlines()[:2] == ["running", "running: 3 of 8"]


def test_bars_that_begin_while_streams_are_redirected_do_not_keep_them(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As hls4ml's are: what a command prints behind its work must come out."""
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, as rich sees it
    monkeypatch.setattr(module, "_TICK_S", 0.01)
    before = sys.stdout, sys.stderr
    with telling("reading", after_s=0.0), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        time.sleep(0.2)
    assert (sys.stdout, sys.stderr) == before
    print("done")
    assert capsys.readouterr().out.endswith("done\n")


def test_bars_on_a_terminal() -> None:
    out = io.StringIO()
    bars = module._Bars(Console(file=out, force_terminal=True, width=100), 0.0)
    bars("reading", 0, 1)
    bars.tick()
    bars("working", 3, 7)
    bars("working", 0, 7)
    bars("working", 5, 7)
    bars._bars.refresh()
    bars.close()
    for word in ("reading", "working", "5/7"):
        assert word in out.getvalue()


@pytest.mark.parametrize("count", [0, 1, 7, 1000])
def test_parts_cover_everything_once(count: int) -> None:
    told: list[tuple[str, int, int]] = []
    covered = [i for part in parts(count, lambda *news: told.append(news), "stage", first=2, most=64) for i in range(count)[part]]
    assert covered == list(range(count))
    assert told[0] == ("stage", 0, count)
    assert told[-1] == ("stage", count, count)


@pytest.fixture(scope="module")
def graph() -> Graph:
    word = ArrayType.of(FixedType.parse("ap_fixed<6,3,AP_RND,AP_SAT>"))
    weight = Const(np.random.default_rng(0).integers(-8, 8, (3, 4)), 3)
    return Graph("net", (Node("x", Input((4,), word), ()), Node("fc", Linear(weight, None), ("x",)), Node("y", Cast(word), ("fc",))), "y")


def test_long_work_tells_its_stages_and_computes_what_it_does_without(graph: Graph, gxx: str, tmp_path: Path) -> None:
    model, project = tmp_path / "net.onnx", tmp_path / "project"
    save(graph, model)
    write_project(graph, project, board="zcu102", extra_files={"model.onnx": model.read_bytes()})
    x = np.random.default_rng(1).normal(size=(1000, 4)).astype(np.float32) * 4
    told: list[str] = []

    def progress(stage: str, done: int, total: int) -> None:
        assert 0 <= done <= total
        if stage not in told:
            told.append(stage)

    assert np.array_equal(run_raw(project, x, progress=progress), interpret(graph, x))
    assert told == ["compiling the C simulation", "running the C simulation"]
    assert all(comparison.first is None for comparison in verify(model, x, progress=progress))
    assert told[2:] == ["running the integer interpreter", "running ONNX Runtime"]
    assert locate(model, project, x, progress=progress) == locate(model, project, x)
    assert told[4:] == ["compiling the C simulation with a trace", "comparing every layer of the C simulation"]
    traced, parted = trace_raw(project, x), trace_raw(project, x, progress=progress)
    assert all(np.array_equal(traced[name], parted[name]) for name in traced)
    assert np.array_equal(traced["y"], interpret(graph, x))
    counted, want = losses(project, x, progress=progress), interpreted_losses(prepare(graph), x)
    assert all(counted[name] == want[name] for name in counted)
    assert "compiling the C simulation with counters" in told
    assert report_project(project, x, progress=progress) == report_project(project, x)


@pytest.mark.parametrize("request_", [Request(), Request(fit=True), Request(fps=1000.0)])
def test_the_search_for_a_folding_tells_how_far_it_is(graph: Graph, request_: Request) -> None:
    told: list[tuple[str, int, int]] = []
    prepared = prepare(graph)
    found = resolve(prepared, board("zcu102"), request_, clock_ns=5.0, progress=lambda *news: told.append(news))
    assert found.schedule == resolve(prepared, board("zcu102"), request_, clock_ns=5.0, progress=silent).schedule
    stages = [stage for stage, _, _ in told]
    assert stages[0] == "lowering the model"
    assert "simulating the design and sizing its FIFOs" in stages
    assert request_ == Request() or any("searching" in stage for stage in stages)
    assert all(done <= total for _, done, total in told)
