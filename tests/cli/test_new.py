"""``qfx new``: the folder is whole, and goes from training to a proven project."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from support.html_pages import check

import qfx
from qfx.cli import main
from qfx.hardware.board import board
from qfx.starter import TEMPLATES, new


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["new", *map(str, arguments)])


def test_every_template_is_written_and_every_file_named_is_there(tmp_path: Path) -> None:
    lying = {path.name.removesuffix(".template") for path in (Path(qfx.__file__).parent / "starter").glob("*.template")}
    assert lying == set(TEMPLATES)
    result = command(tmp_path / "start", "--board", "pynq_z2")
    assert result.exit_code == 0, result.output
    written = {path.name for path in (tmp_path / "start").iterdir()}
    assert written == {*TEMPLATES, "pynq_z2.toml", "board.schema.json", "recipe.schema.json"}
    for path in (tmp_path / "start").iterdir():
        assert "@BOARD@" not in path.read_text(encoding="utf-8")
        assert path.read_text(encoding="utf-8").isascii()
    mine, known = board(str(tmp_path / "start" / "pynq_z2.toml")), board("pynq_z2")
    assert (mine.name, mine.part, mine.lut, mine.clock_ns) == (known.name, known.part, known.lut, known.clock_ns)
    assert qfx.Recipe.load(tmp_path / "start" / "recipe.toml").weight.width == 4


def test_what_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("mine")
    refused = command(tmp_path)
    assert refused.exit_code == 2
    assert "not empty" in refused.stderr
    assert command(tmp_path, "--board", "nowhere", "--force").exit_code == 2
    assert (tmp_path / "train.py").read_text() == "mine"
    assert command(tmp_path, "--force").exit_code == 0
    assert (tmp_path / "train.py").read_text() != "mine"


def test_the_network_takes_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new(tmp_path / "start")
    scope: dict[str, object] = {}
    for name in ("data.py", "network.py"):
        exec((tmp_path / "start" / name).read_text(encoding="utf-8"), scope)
    x, y = scope["draw"](40, seed=1)  # type: ignore[operator]
    assert (x.shape, x.min().item() >= 0, x.max().item() <= 1, set(y.tolist())) == ((40, 1, 16, 16), True, True, {0, 1, 2, 3})
    with torch.no_grad():
        qmodel = qfx.quantize(scope["net"](), x, qfx.Recipe.load(tmp_path / "start" / "recipe.toml"))  # type: ignore[operator]
        assert qmodel.eval()(x).shape == (40, 4)


def test_make_goes_all_the_way(tmp_path: Path, gxx: str) -> None:
    new(tmp_path / "start")
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "qfx").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m qfx.cli "$@"\n')
    (commands / "qfx").chmod(0o755)
    environment = {**os.environ, "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["make", f"PYTHON={sys.executable}"], cwd=tmp_path / "start", env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    check((tmp_path / "start" / "report.html").read_text(encoding="utf-8"))
    trained = next(line for line in done.stdout.splitlines() if line.startswith("trained"))
    assert float(trained.split()[1]) > 90
