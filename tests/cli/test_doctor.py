"""``qfx doctor``: what it finds here, and that it sees what is missing or broken."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from qfx import doctor
from qfx.cli import main


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["doctor", *arguments])


@pytest.mark.usefixtures("gxx")
def test_a_whole_machine() -> None:
    result = run("--json")
    assert result.exit_code == 0, result.output
    found = {one["name"]: one for one in json.loads(result.stdout)["findings"]}
    assert not any(one["is_wrong"] for one in found.values())
    assert found["torch"]["found"] == importlib.metadata.version("torch")
    assert found["C simulation"]["found"]
    assert found["native kernel"]["found"]
    assert found["brevitas"]["required"] is False


def test_without_a_compiler_it_says_what_and_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    result = run()
    assert result.exit_code == 1
    assert "no-such-compiler" in result.stdout
    assert "apt-get install g++" in result.stdout


def test_a_compiler_that_makes_another_number_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_PROGRAM", doctor._PROGRAM.replace("1.3125", "1.25"))  # an LSB less
    wrong = [one for one in doctor.examine() if one.is_wrong]
    assert [one.name for one in wrong] == ["C simulation"]
    assert "another number" in wrong[0].problem


def test_a_package_that_is_missing_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["qfx-none>=1", "click>=999", "onnx>=1", 'qfx-extra; extra == "demo"'])
    wrong = {one.name: one for one in doctor._packages() if one.found is None}
    assert {name: one.required for name, one in wrong.items()} == {"qfx-none": True, "click": True, "qfx-extra": False}
    assert "is not >=999" in wrong["click"].problem
    assert "pip install" in wrong["qfx-none"].remedy


def test_a_tool_that_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "verilator"
    broken.write_text("#!/bin/sh\nexit 3\n", encoding="utf-8")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    found = {one.name: one for one in map(doctor._tool, doctor._TOOLS)}
    assert found["Verilator"].found is None
    assert "ends with 3" in found["Verilator"].problem
