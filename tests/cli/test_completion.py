"""``qfx completion``: scripts that shells take, and what they then complete."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from qfx.cli import main


def completed(words: str, *, place: int) -> list[str]:
    """What bash is told."""
    environment = {"COMP_WORDS": words, "COMP_CWORD": str(place), "_QFX_COMPLETE": "bash_complete"}
    result = CliRunner().invoke(main, [], env=environment, prog_name="qfx", complete_var="_QFX_COMPLETE")
    assert result.exit_code == 0, result.output
    return [line.partition(",")[2] for line in result.stdout.splitlines()]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts(shell: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0, result.output
    assert f"_QFX_COMPLETE={shell}_complete" in result.stdout
    if shutil.which(shell):
        script = tmp_path / "script"
        script.write_text(result.stdout, encoding="utf-8")
        subprocess.run([shell, "-n", str(script)], check=True, env={**os.environ, "HOME": str(tmp_path)})


def test_commands_options_and_boards() -> None:
    assert set(completed("qfx ", place=1)) == set(main.commands)
    assert completed("qfx est", place=1) == ["estimate"]
    assert "--clock-ns" in completed("qfx hls model.onnx --", place=3)
    assert completed("qfx hls model.onnx --board ultra", place=4) == ["ultra96v2"]
    assert completed("qfx completion z", place=2) == ["zsh"]
