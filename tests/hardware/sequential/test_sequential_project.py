"""Projects of sequential designs: written, simulated, refused; and the engine that a board gets."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hardware_models import chain, const, conv, scalar, sparse
from test_sequential_steps import residual

from qfx.cli import main
from qfx.errors import ProjectError
from qfx.export.onnx_file import save
from qfx.hardware.assets import hls_root
from qfx.hardware.board import board
from qfx.hardware.cost.estimate import LIMITS
from qfx.hardware.project import csim
from qfx.hardware.project.project import changed_files, prepare, read_project, write_project
from qfx.hardware.sequential import plan as planning
from qfx.hardware.sequential.evaluate import evaluate
from qfx.hardware.sequential.folding import folded, laid_out
from qfx.hardware.sequential.plan import plan
from qfx.hardware.sequential.steps import layers
from qfx.hardware.sequential.summary import as_text, notes
from qfx.hardware.sequential.tiles import fits
from qfx.ir.feeds import feeds
from qfx.ir.interpret import quantize_inputs, run_from_raws
from qfx.operators import Cast, Linear, Reshape
from qfx.testing import adversarial_feeds

ULTRA96 = board("ultra96v2")


def test_a_project_equals_the_interpreter_and_refuses_other_weights(tmp_path: Path) -> None:
    graph = residual()
    project = write_project(graph, tmp_path / "p", board=ULTRA96, style="sequential")
    assert project.style == "sequential"
    assert changed_files(project) == []
    x = adversarial_feeds(graph, np.random.default_rng(3), 3)["x"]
    raws = quantize_inputs(graph, feeds(graph, x))
    np.testing.assert_array_equal(csim.run_raw(project.path, x), run_from_raws(graph, raws)[0])
    report = json.loads((project.path / "report.json").read_text(encoding="utf-8"))
    assert report["style"] == "sequential"
    assert [layer["name"] for layer in report["layers"]] == ["conv1", "conv2", "pool", "fc"]

    weights = project.path / "tb" / "memory" / "weights0.bin"
    good = weights.read_bytes()
    for damaged in (good[:-2], bytes([good[0] ^ 1]) + good[1:]):
        weights.write_bytes(damaged)
        with pytest.raises(ProjectError, match=r"of another model, or is damaged|changed"):
            csim.run_raw(project.path, x)
    weights.unlink()
    with pytest.raises(ProjectError, match="cannot read"):
        csim.run_raw(project.path, x)


def test_a_project_of_batches_equals_the_interpreter(tmp_path: Path) -> None:
    """Five frames, two at a time."""
    graph = residual()
    made = plan(prepare(graph), ULTRA96, clock_ns=5.0, batch=2)
    assert made.latency_ns == made.engine.cycles * 5.0
    assert made.fps == 1e9 / (-(-made.engine.cycles // 2) * 5.0)  # whole cycles for each frame
    project = write_project(graph, tmp_path / "p", board=ULTRA96, style="sequential", schedule=made)
    x = adversarial_feeds(graph, np.random.default_rng(3), 5)["x"]
    raws = quantize_inputs(graph, feeds(graph, x))
    np.testing.assert_array_equal(csim.run_raw(project.path, x), run_from_raws(graph, raws)[0])
    report = json.loads((project.path / "report.json").read_text(encoding="utf-8"))
    assert (report["batch"], report["latency_cycles"]) == (2, made.engine.cycles)
    save(graph, tmp_path / "net.onnx")
    asked = ["estimate", str(tmp_path / "net.onnx"), "--board", "ultra96v2", "--batch", "2"]
    told = CliRunner().invoke(main, [*asked, "--style", "sequential"])
    assert told.exit_code == 0, told.output
    assert f"run        2 frames, {made.engine.cycles} cycles" in told.stdout
    refused = CliRunner().invoke(main, asked)
    assert refused.exit_code != 0
    assert "--batch 2" in refused.stderr


def test_what_a_sequential_design_lacks_is_refused(tmp_path: Path) -> None:
    graph = residual()
    with pytest.raises(ProjectError, match="reads its weights from memory"):
        write_project(graph, tmp_path / "p", board=ULTRA96, style="sequential", weights="stream")
    with pytest.raises(ProjectError, match="is not known"):
        write_project(graph, tmp_path / "p", board=replace(ULTRA96, memory_gb_s=0.0), style="sequential")
    with pytest.raises(ProjectError, match="no engine for it fits"):
        write_project(graph, tmp_path / "p", board=replace(ULTRA96, bram36=6), style="sequential")
    assert not (tmp_path / "p").exists()
    project = write_project(graph, tmp_path / "p", board=ULTRA96, style="sequential")
    x = adversarial_feeds(graph, np.random.default_rng(3), 1)["x"]
    with pytest.raises(ProjectError, match="no fast emulator"):
        csim.run_raw(project.path, x, fast=True)
    with pytest.raises(ProjectError, match="no streams or casts of each layer"):
        csim.trace_raw(project.path, x)


def test_the_command(tmp_path: Path) -> None:
    save(residual(), tmp_path / "net.onnx")
    asked = ["estimate", str(tmp_path / "net.onnx"), "--board", "ultra96v2", "--style", "sequential"]
    told = CliRunner().invoke(main, asked)
    assert told.exit_code == 0, told.output
    assert "sequential" in told.stdout
    assert "GOPS/W" in told.stdout
    data = json.loads(CliRunner().invoke(main, [*asked, "--json"]).stdout)
    assert data["frames_per_second"] == pytest.approx(1e9 / (data["interval_cycles"] * 5), rel=1e-4)
    refused = CliRunner().invoke(main, [*asked, "--fit", "--weights", "stream"])
    assert refused.exit_code != 0
    assert "--fit, --weights stream" in refused.stderr
    assert CliRunner().invoke(main, [*asked, "--fps", "10"]).stdout == told.stdout
    for memory, complaint in ((4.26, "of the cycles"), (0.001, "MB a frame go to and from memory, which alone allows")):
        toml = (hls_root() / "boards" / "ultra96v2.toml").read_text(encoding="utf-8").replace("memory_gb_s = 4.26", f"memory_gb_s = {memory}")
        (tmp_path / "own.toml").write_text(toml, encoding="utf-8")
        own = [*asked[:3], str(tmp_path / "own.toml"), *asked[4:]]
        rate = json.loads(CliRunner().invoke(main, [*own, "--json"]).stdout)["frames_per_second"]
        assert CliRunner().invoke(main, [*own, "--fps", str(rate * 0.99)]).exit_code == 0
        slow = CliRunner().invoke(main, [*own, "--fps", str(rate * 2)])
        assert slow.exit_code != 0
        assert complaint in slow.stderr
        assert f"ask for at most {rate:.4g}" in slow.stderr


_SMALL = """title = "Small"
part = "xczu3eg-sbva484-1-i"
lut = 50000
ff = 100000
dsp = 200
bram36 = 100
uram = 0
memory_gb_s = 8.5
"""


def test_the_style_that_fits_is_found_and_the_others_are_told(tmp_path: Path) -> None:
    """Weights of 5 Mbit, where block RAM has 3.6 and LUTs 2.6."""
    nodes = chain("wide", (64,), Linear(const(0, 1024, 64, bits=8), None), narrow := Cast(scalar("ap_fixed<8,8,AP_RND,AP_SAT>")))
    more = chain("wide", (64,), Linear(const(0, 1024, 64, bits=8), None), narrow, Linear(const(1, 600, 1024, bits=8), None), narrow)
    save(nodes, tmp_path / "small.onnx")
    save(more, tmp_path / "large.onnx")
    (tmp_path / "small.toml").write_text(_SMALL)

    def asked(model: str, *options: str) -> Result:
        return CliRunner().invoke(main, ["estimate", str(tmp_path / model), "--board", str(tmp_path / "small.toml"), "--style", "auto", *options])

    on_chip = asked("small.onnx")
    assert on_chip.exit_code == 0, on_chip.output
    assert "style: streaming, weights on the chip" in on_chip.stderr
    large = asked("large.onnx")
    assert large.exit_code == 0, large.output
    assert "weights on the chip: does not fit" in large.stderr
    assert large.stderr.count("frames per second") == 2
    slow = asked("large.onnx", "--fps", "1e9")
    assert slow.exit_code != 0
    assert "sequential, one engine for all layers: " in slow.stderr
    assert "streaming, weights in memory" in slow.stderr
    no_board = CliRunner().invoke(main, ["hls", str(tmp_path / "small.onnx"), "--board", "none", "--style", "auto", "-o", str(tmp_path / "none")])
    assert no_board.exit_code != 0
    assert no_board.stderr.count("no board is called") == 1
    project = CliRunner().invoke(
        main, ["hls", str(tmp_path / "large.onnx"), "--board", str(tmp_path / "small.toml"), "--style", "auto", "-o", str(tmp_path / "p")]
    )
    assert project.exit_code == 0, project.output
    chosen = "sequential" if "style: sequential" in project.stderr else "streaming"
    assert read_project(tmp_path / "p").style == chosen
    refused = CliRunner().invoke(main, ["rtl", str(tmp_path / "small.onnx"), "--board", "ultra96v2", "--style", "auto", "-o", str(tmp_path / "v")])
    assert refused.exit_code != 0
    assert "has to be said here" in refused.stderr


@pytest.mark.parametrize(
    ("channels", "width", "lut", "bram36", "why"),
    [
        (16, 4096, 26000, 20, r"weights on the chip: does not fit .* LUT of 26000"),
        (32, 1024, 50000, 25, r"weights on the chip: no design that makes more than \d+\.\d frames"),
    ],
)
def test_rows_that_no_line_buffer_holds_get_the_engine(channels: int, width: int, lut: int, bram36: int, why: str, tmp_path: Path) -> None:
    """Where no folding of a process for each layer fits, and where one does that is slower."""
    rows = conv(0, channels, channels, 3, 3, pads=(1, 1))
    words = "ap_fixed<8,8,AP_RND,AP_SAT>"
    save(chain("rows", (channels, 4, width), rows, Cast(scalar(words)), cast=words), tmp_path / "rows.onnx")
    (tmp_path / "small.toml").write_text(_SMALL.replace("bram36 = 100", f"bram36 = {bram36}").replace("lut = 50000", f"lut = {lut}"))
    asked = ["hls", str(tmp_path / "rows.onnx"), "--board", str(tmp_path / "small.toml"), "-o", str(tmp_path / "p")]
    usual = CliRunner().invoke(main, asked)
    assert usual.exit_code != 0
    assert "--style auto" in usual.stderr
    assert not (tmp_path / "p").exists()
    chosen = CliRunner().invoke(main, [*asked, "--style", "auto"])
    assert chosen.exit_code == 0, chosen.output
    assert "style: sequential, one engine" in chosen.stderr
    assert re.search(why, chosen.stderr)
    assert read_project(tmp_path / "p").style == "sequential"


def test_folded_inputs_are_the_same_convolution() -> None:
    graph = residual()
    made = layers(graph)
    fold = folded(made, 16)
    assert [value.channels for value in fold.inputs] == [9]
    assert folded(fold, 16) == fold
    assert folded(made, 1).folds == ()  # nine vectors either way
    raws = quantize_inputs(graph, feeds(graph, adversarial_feeds(graph, np.random.default_rng(1), 2)))["x"]
    laid = laid_out(raws, fold.fold(made.inputs[0]), fold.inputs[0])
    np.testing.assert_array_equal(evaluate(fold, [laid])["fc"], evaluate(made, [raws])["fc"])


def test_the_engine_fits_its_board() -> None:
    graph = residual()
    for name in ("ultra96v2", "pynq_z2", "zcu102"):
        on = board(name)
        found = plan(graph, on, clock_ns=on.clock_ns)
        assert found.estimate.over(LIMITS) == ()
        assert all(fits(placed.step, found.engine.shape, placed.tile) for placed in found.engine.steps)
        assert found.interval == sum(placed.cycles for placed in found.engine.steps)
        memory = planning.bytes_per_cycle(on, on.clock_ns)
        assert found.bytes / found.interval <= memory
        assert 0 < found.used < 1
    slow = plan(graph, replace(ULTRA96, memory_gb_s=0.05), clock_ns=5.0)
    assert slow.fps < plan(graph, ULTRA96, clock_ns=5.0).fps
    assert slow.binds.most_common(1)[0][0] == "memory"


def test_zeros_of_sparse_weights_are_told() -> None:
    """The engine multiplies them, and says so; of what is dense, or has zeros between its groups alone, it says nothing."""
    narrow = Cast(scalar("ap_fixed<6,3,AP_RND,AP_SAT>"))

    def said(few: bool) -> tuple[str, ...]:
        convs = [conv(0, 8, 4, 3, 3, pads=(1, 1)), conv(1, 8, 4, 3, 3, pads=(1, 1), groups=2)]
        linear = Linear(const(2, 5, 8 * 16), None)
        if few:
            convs[0], linear = sparse(convs[0], 2, 4), sparse(linear, 1, 4)  # type: ignore[assignment]
        graph = chain("mixed", (4, 4, 4), convs[0], narrow, convs[1], narrow, Reshape((8 * 16,)), linear)
        planned = plan(graph, ULTRA96, clock_ns=5.0)
        assert all(note in as_text(planned, "mixed") for note in notes(planned))
        return tuple(note for note in notes(planned) if "n:m" in note)

    assert said(False) == ()
    (note,) = said(True)
    assert note.startswith("n:m weights of 2 layers (conv0 2:4, linear5 1:4): the engine stores and multiplies their zeros, --style streaming")
