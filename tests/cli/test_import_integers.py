"""``qfx import`` of files of integers: TFLite, and ONNX with scales that no binary point has."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from integers.onnx_files import quantized
from integers.tflite_files import Writing, reference

from qfx.cli import main
from qfx.ir.from_onnx import load_graph
from qfx.ir.interpret import run_raw


def written(path: Path) -> bytes:
    file = Writing()
    x = file.tensor("x", (1, 5), 0.1, 3)
    content = file.content([x], [file.dense(np.random.default_rng(0), x, "y", inputs=5, outputs=4)])
    path.write_bytes(content)
    return content


def test_a_tflite_file_is_known_by_its_content(tmp_path: Path) -> None:
    content = written(tmp_path / "model.bin")
    result = CliRunner().invoke(main, ["import", str(tmp_path / "model.bin"), "-o", str(tmp_path / "model.onnx")])
    assert result.exit_code == 0, result.output
    assert "input x: scale 0.1, zero point 3" in result.output
    x = np.random.default_rng(1).integers(-128, 128, (50, 5)).astype(np.int8)
    assert (run_raw(load_graph(tmp_path / "model.onnx"), x.astype(np.float32)) == reference(content, x)[0]).all()
    again = CliRunner().invoke(main, ["import", str(tmp_path / "model.bin"), "-o", str(tmp_path / "model.onnx")])
    assert again.exit_code == 2
    assert "--force" in again.output


def test_json_tells_what_the_integers_stand_for(tmp_path: Path) -> None:
    written(tmp_path / "model.tflite")
    arguments = ["import", str(tmp_path / "model.tflite"), "-o", str(tmp_path / "model.onnx"), "--rounding", "double", "--json"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["exact"]
    assert told["told"]["tflite"][1].startswith("output y: scale")


def test_float_scales_are_refused_in_a_line_and_taken_as_integers(tmp_path: Path) -> None:
    path, _ = quantized(tmp_path, 0)
    target = ["-o", str(tmp_path / "model.onnx")]
    refused = CliRunner().invoke(main, ["import", str(path), *target])
    assert refused.exit_code == 2
    assert "scales that are no powers of two" in refused.output
    assert "--integers" in refused.output
    assert len(refused.output.splitlines()) <= 4
    taken = CliRunner().invoke(main, ["import", str(path), *target, "--integers"])
    assert taken.exit_code == 0, taken.output
    assert load_graph(tmp_path / "model.onnx").metadata["quantized"].startswith("input x")


@pytest.mark.parametrize(("more", "words"), [(["--end", "y"], "integers need none"), (["--input-type", "ap_fixed<8,8>"], "integers need none")])
def test_options_of_the_other_door(tmp_path: Path, more: list[str], words: str) -> None:
    written(tmp_path / "model.tflite")
    result = CliRunner().invoke(main, ["import", str(tmp_path / "model.tflite"), "-o", str(tmp_path / "model.onnx"), *more])
    assert result.exit_code == 2
    assert words in result.output
