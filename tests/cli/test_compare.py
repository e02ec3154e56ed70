"""``qfx compare``: what it tabulates is what ``qfx estimate`` says of each, and what is refused says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hardware_models import chain, conv, scalar

from qfx.cli import main
from qfx.export.onnx_file import save
from qfx.operators import Cast


@pytest.fixture
def model(tmp_path: Path) -> Path:
    narrow = Cast(scalar("ap_ufixed<8,2,AP_RND,AP_SAT>"))
    save(chain("net", (4, 8, 8), conv(0, 8, 4, 3, 3, pads=(1, 1)), narrow, conv(2, 8, 8, 3, 3, pads=(1, 1)), narrow), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def run(*words: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(main, ["compare", *map(str, words)])
    return done.exit_code, done.stdout, done.stderr


def said_arithmetic(said: dict[str, Any], index: int) -> str:
    """That of the convolution at ``index``, as ``estimate`` says."""
    return str([layer["arithmetic"] for layer in said["layers"] if "arithmetic" in layer][index])


def test_rows_are_what_estimate_says(model: Path, tmp_path: Path) -> None:
    code, out, _ = run(model, "--board", "zcu102", "--board", "ultra96v2", "--fps", 1000, "--fps", 50000, "--json", "--plot", tmp_path / "front.png")
    assert code == 0
    rows = json.loads(out)
    assert [(row["board"], row["asked_fps"]) for row in rows] == [(on, fps) for on in ("zcu102", "ultra96v2") for fps in (1000, 50000)]
    done = CliRunner().invoke(main, ["estimate", str(model), "--board", "ultra96v2", "--fps", "50000", "--json"])
    said = json.loads(done.stdout)
    assert all(rows[3][key] == said[key] for key in ("frames_per_second", "interval_cycles", "shares", "binding", "clock_ns"))
    work = 64 * 9 * (4 * 8 + 8 * 8)
    assert rows[3]["macs_per_sample"] == work
    if said["resources"]["dsp"]:
        assert rows[3]["macs_per_dsp_cycle"] == pytest.approx(work / (said["resources"]["dsp"] * said["interval_cycles"]), abs=1e-4)
        in_blocks = sum(64 * 9 * 4 * 8 * (1, 2)[i] for i in (0, 1) if said_arithmetic(said, i) not in ("lut", "shift"))
        assert rows[3]["macs_in_dsp_per_dsp_cycle"] == pytest.approx(in_blocks / (said["resources"]["dsp"] * said["interval_cycles"]), abs=1e-4)
    assert rows[3]["luts_per_fps"] == pytest.approx(said["resources"]["lut"] / said["frames_per_second"], rel=1e-3)
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    code, _, error = run(model, "--board", "zcu102", "--plot", tmp_path / "front.png")
    assert (code, "--force" in error) == (2, True)


def test_the_table_and_what_is_refused(model: Path) -> None:
    code, out, _ = run(model, "--board", "zcu102", "--fps", 1000, "--fps", 1e9)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split()[:3] == ["model", "asked", "fps"]
    assert lines[0].split()[-2:] == ["MAC/DSP/cycle", "LUT/fps"]
    assert lines[2].split()[:4] == ["net", "1e+09", "-", "refused"]
    assert lines[4].startswith("net on zcu102, 1e+09: ")
    assert "at most" in lines[4] or "at most" in out
    code, out, error = run(model, "--board", "zcu102", "--fps", 1e9, "--plot", "x.png")
    assert (code, "nothing to draw" in error) == (2, True)
    assert run(model, "--board", "nonesuch")[0] == 2
