"""The command line, used as a user would: a real model, a real project, real C simulation, and every kind of bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import qfx
from qfx.cli import main


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small convolutional model, exported."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64, 3)
    )
    qmodel = qfx.quantize(network, torch.randn(32, 1, 4, 4), qfx.Recipe.uniform(6))
    path = tmp_path_factory.mktemp("model") / "net.onnx"
    qfx.export_onnx(qmodel, path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs as .npz and .npy side by side."""
    folder = tmp_path_factory.mktemp("data")
    x = np.random.default_rng(0).normal(size=(20, 1, 4, 4)).astype(np.float32)
    np.savez(folder / "test.npz", x=x, y=np.zeros(20, dtype=np.int64))
    np.save(folder / "x.npy", x)
    return folder / "test.npz"


@pytest.fixture(scope="module")
def project(model: Path, gxx: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("projects") / "net"
    assert qfx_command("hls", model, "--board", "ultra96v2", "-o", out).exit_code == 0
    return out


def qfx_command(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def refusal(*arguments: object) -> str:
    """What the command says when it refuses: exit code 2, a complaint, a remedy, no traceback."""
    result = qfx_command(*arguments)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    assert "error:" in result.stderr, result.stderr
    assert "remedy:" in result.stderr, result.stderr
    assert "Traceback" not in result.output
    return result.stderr


def test_boards() -> None:
    result = qfx_command("boards")
    assert result.exit_code == 0
    for name in ("ultra96v2", "zcu102", "zcu104", "kv260", "pynq_z2"):
        assert name in result.stdout


def test_inspect_names_types_ranges_and_accumulators(model: Path) -> None:
    result = qfx_command("inspect", model)
    assert result.exit_code == 0
    for word in ("input", "0", "ap_fixed<8,", "acc", "MACs per sample", "1.output"[:1]):
        assert word in result.stdout


def test_csim_gives_the_emulators_numbers(model: Path, project: Path, data: Path, tmp_path: Path) -> None:
    x = data.with_name("x.npy")
    result = qfx_command("csim", project, "--input", x, "--output", tmp_path / "y.npy")
    assert result.exit_code == 0, result.output
    expected = qfx.run(qfx.load_graph(model), np.load(x))
    found = np.load(tmp_path / "y.npy")
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)
    assert "exists" in refusal("csim", project, "--input", x, "--output", tmp_path / "y.npy")
    assert qfx_command("csim", project, "--input", x, "--output", tmp_path / "y.npy", "--force").exit_code == 0


def test_verify_passes_and_fails(model: Path, project: Path, data: Path, tmp_path: Path) -> None:
    result = qfx_command("verify", model, project, "--data", data)
    assert result.exit_code == 0, result.output
    # One LSB of one weight, planted in the generated C++.
    broken = tmp_path / "broken"
    assert qfx_command("hls", model, "--board", "zcu102", "-o", broken).exit_code == 0
    weights = sorted((broken / "src" / "weights").glob("*.h"))[-1]
    text = weights.read_text()
    start = text.index("{", text.index("=")) + 1
    number = text[start : text.index(",", start)]
    digits = number.strip(" \n{}").rstrip("uUlL")
    weights.write_text(text[:start] + number.replace(digits, str(int(digits, 0) ^ 1), 1) + text[start + len(number) :])
    result = qfx_command("verify", model, broken, "--data", data)
    assert result.exit_code == 1, result.output
    assert "C simulation differs first at sample" in result.stderr
    assert "expected raw" in result.stderr


@pytest.mark.parametrize("what", ["src/weights", "src/layers.h", "tb/tb.cpp", "sim/values.json", "include/qfx/types.h"])
def test_a_changed_project_is_told_from_a_defect(model: Path, project: Path, data: Path, tmp_path: Path, what: str) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(project, broken, ignore=shutil.ignore_patterns("build"))
    file = min(path for path in [broken / what, *(broken / what).rglob("*")] if path.is_file())
    file.write_text(file.read_text() + "\nint f( {" if file.suffix != ".json" else '{"casts": [{}], "design": [{}], "fast": []}')
    said = refusal("verify", model, broken, "--data", data, "--trace")
    assert f"{file.relative_to(broken)} changed since it was written" in said
    assert "report this defect" not in said
    assert "--force" in said


def test_verify_says_that_a_project_that_differs_was_changed(model: Path, project: Path, data: Path, tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(project, broken, ignore=shutil.ignore_patterns("build"))
    layers = broken / "src" / "layers.h"
    layers.write_text(layers.read_text().replace("qfx::relu<", "qfx::relu<", 1) + "\n")
    assert "changed" not in qfx_command("verify", model, broken, "--data", data).stderr
    weights = sorted((broken / "src" / "weights").glob("*.h"))[-1]
    text = weights.read_text()
    weights.write_text(text.replace("= {", "= {1 ^ ", 1))
    result = qfx_command("verify", model, broken, "--data", data)
    assert result.exit_code in (1, 2)
    assert f"src/weights/{weights.name}" in result.stderr
    assert "changed since it was written" in result.stderr


def test_the_command_exits_with_the_code(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "qfx", "hls", str(model), "--board", "nonesuch", "-o", str(tmp_path / "p")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "ultra96v2" in done.stderr
    assert not (tmp_path / "p").exists()


def test_the_hardware_side_never_loads_torch(model: Path, tmp_path: Path) -> None:
    code = "import sys; from qfx.cli import main; main(sys.argv[1:], standalone_mode=False); assert 'torch' not in sys.modules"
    for arguments in (["inspect", str(model)], ["hls", str(model), "--board", "zcu102", "-o", str(tmp_path / "p")], ["boards"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_output_folder_that_holds_something_else(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    assert "not empty" in refusal("hls", model, "--board", "zcu102", "-o", out)
    assert "not a qfx project" in refusal("hls", model, "--board", "zcu102", "-o", out, "--force")
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


def test_a_project_is_replaced_only_by_force(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "p"
    assert qfx_command("hls", model, "--board", "zcu102", "-o", out).exit_code == 0
    before = json.loads((out / "qfx_project.json").read_text())
    refusal("hls", model, "--board", "pynq_z2", "-o", out)
    assert json.loads((out / "qfx_project.json").read_text()) == before
    assert qfx_command("hls", model, "--board", "pynq_z2", "-o", out, "--force").exit_code == 0
    assert json.loads((out / "qfx_project.json").read_text())["board"] == "pynq_z2"


@pytest.mark.parametrize("clock_ns", [0, -5, "nan", "inf"])
def test_bad_clock(model: Path, tmp_path: Path, clock_ns: object) -> None:
    refusal("hls", model, "--board", "zcu102", "-o", tmp_path / "p", "--clock-ns", clock_ns)
    assert list(tmp_path.iterdir()) == []


def test_bad_model_files(model: Path, tmp_path: Path) -> None:
    import onnx

    corrupt, foreign, short = tmp_path / "corrupt.onnx", tmp_path / "foreign.onnx", tmp_path / "short.onnx"
    corrupt.write_bytes(b"\x00not onnx at all" * 10)
    short.write_bytes(model.read_bytes()[:-200])
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 3]) for name in "xy"]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", values[:1], values[1:])), foreign)
    for path in (corrupt, foreign, short, tmp_path / "missing.onnx", tmp_path):
        refusal("inspect", path)
        refusal("hls", path, "--board", "zcu102", "-o", tmp_path / "p")
        assert not (tmp_path / "p").exists()


def test_bad_data(model: Path, project: Path, tmp_path: Path) -> None:
    good = np.zeros((3, 1, 4, 4), dtype=np.float32)
    nan, shape, text, pickled = (tmp_path / f"{name}.npy" for name in ("nan", "shape", "text", "pickled"))
    bad = good.copy()
    bad[1, 0, 2, 3] = np.nan
    np.save(nan, bad)
    np.save(shape, np.zeros((3, 4, 4), dtype=np.float32))
    text.write_text("1 2 3")
    np.save(pickled, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    for path in (nan, shape, text, pickled, tmp_path / "missing.npy"):
        refusal("csim", project, "--input", path, "--output", tmp_path / "y.npy")
        refusal("verify", model, project, "--data", path)
        refusal("hls", model, "--board", "zcu102", "-o", tmp_path / "p", "--golden", path)
    assert not (tmp_path / "y.npy").exists()
    assert not (tmp_path / "p").exists()


def test_nothing_proves_nothing(model: Path, project: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "none.npy", np.zeros((0, 1, 4, 4), dtype=np.float32))
    assert "no samples" in refusal("verify", model, project, "--data", tmp_path / "none.npy")


def test_verify_needs_a_project(model: Path, data: Path, tmp_path: Path) -> None:
    refusal("verify", model, tmp_path, "--data", data)
    refusal("verify", model, tmp_path / "missing", "--data", data)
    refusal("csim", tmp_path, "--input", data.with_name("x.npy"), "--output", tmp_path / "y.npy")


def test_verify_refuses_a_project_of_another_model(project: Path, data: Path, tmp_path: Path) -> None:
    other = qfx.quantize(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 5)), torch.randn(8, 1, 4, 4))
    qfx.export_onnx(other, tmp_path / "other.onnx")
    assert "C simulation" in refusal("verify", tmp_path / "other.onnx", project, "--data", data)


def test_hls_folds_for_a_frame_rate_and_says_what_it_costs(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "fast"
    result = qfx_command("hls", model, "--board", "ultra96v2", "-o", out, "--fps", 400000)
    assert result.exit_code == 0, result.output
    report = json.loads((out / "report.json").read_text())
    assert report["frames_per_second"] >= 400000
    assert report["resources"]["lut"] <= 0.8 * 70560
    assert (out / "estimate.txt").read_text() in result.stdout
    for word in ("PE", "SIMD", "ultra96v2", "BRAM18", "latency", "FIFOs"):
        assert word in result.stdout
    listed = json.loads((out / "qfx_project.json").read_text())["files"]
    assert {"folding.toml", "estimate.txt", "report.json"} <= listed.keys()
    # The file that was written makes the same project again.
    again = tmp_path / "again"
    assert qfx_command("hls", model, "--board", "ultra96v2", "-o", again, "--folding", out / "folding.toml").exit_code == 0
    hashes = json.loads((again / "qfx_project.json").read_text())["files"]
    proven = {"report.json", "estimate.txt"}  # which say how far from the best there is a design is at most, where it was searched for
    assert {name: value for name, value in hashes.items() if name not in proven} == {
        name: value for name, value in listed.items() if name not in proven
    }
    reports = [json.loads((folder / "report.json").read_text()) for folder in (out, again)]
    assert [report["binding"].pop("gap") is None for report in reports] == [False, True]
    assert reports[0] == reports[1]
    slow = json.loads(qfx_command("estimate", model, "--board", "ultra96v2", "--json").stdout)
    assert slow["resources"]["lut"] < report["resources"]["lut"]
    assert slow["interval_cycles"] > report["interval_cycles"]


def test_a_folded_project_computes_the_same(model: Path, data: Path, gxx: str, tmp_path: Path) -> None:
    assert qfx_command("hls", model, "--board", "zcu102", "-o", tmp_path / "p", "--fit").exit_code == 0
    report = json.loads((tmp_path / "p" / "report.json").read_text())
    assert any(layer.get("simd", 1) > 1 for layer in report["layers"])
    assert qfx_command("verify", model, tmp_path / "p", "--data", data).exit_code == 0


def test_estimate_prints_what_hls_would_make_and_writes_nothing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = qfx_command("estimate", model, "--board", "zcu102", "--fit")
    assert table.exit_code == 0, table.output
    assert list(tmp_path.iterdir()) == []
    assert qfx_command("hls", model, "--board", "zcu102", "-o", tmp_path / "p", "--fit").exit_code == 0
    assert (tmp_path / "p" / "estimate.txt").read_text() == table.stdout
    assert "nonesuch" in refusal("estimate", model, "--board", "nonesuch")


def test_a_folding_file_fixes_layers_and_the_rest_is_chosen(model: Path, tmp_path: Path) -> None:
    names = [layer["name"] for layer in json.loads(qfx_command("estimate", model, "--board", "zcu102", "--json").stdout)["layers"] if "simd" in layer]
    path = tmp_path / "mine.toml"
    path.write_text(f'[layers."{names[0]}"]\npe = 4\narithmetic = "dsp"\n[ports]\ninput = 1\n')
    for extra, others in (([], 1), (["--fps", 1100000], 2)):
        chosen = json.loads(qfx_command("estimate", model, "--board", "zcu102", "--folding", path, "--json", *extra).stdout)["layers"]
        folded = {layer["name"]: layer for layer in chosen}
        assert (folded[names[0]]["pe"], folded[names[0]]["simd"], folded[names[0]]["arithmetic"]) == (4, 1, "dsp")
        assert folded[names[1]]["pe"] * folded[names[1]]["simd"] >= others
    path.write_text(f'[layers."{names[0]}x"]\npe = 2\n')
    assert f"did you mean '{names[0]}'" in refusal("hls", model, "--board", "zcu102", "-o", tmp_path / "p", "--folding", path)
    path.write_text(f'[layers."{names[0]}"]\npe = 3\n')
    assert "PE=3 takes 2 words" in refusal("hls", model, "--board", "zcu102", "-o", tmp_path / "p", "--folding", path)
    refusal("hls", model, "--board", "zcu102", "-o", tmp_path / "p", "--folding", tmp_path / "missing.toml")
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--fps", 100_000_000], "leave 2 cycles"),
        (["--fps", 0], "0 frames per second"),
        (["--fps", -3], "frames per second"),
        (["--fps", "nan"], "frames per second"),
        (["--fps", 10, "--fit"], "both"),
        (["--clock-ns", 0, "--fit"], "clock period"),
        (["--top", "for"], "for"),
    ],
)
def test_options_that_cannot_be(model: Path, tmp_path: Path, arguments: list[object], complaint: str) -> None:
    assert complaint in refusal("hls", model, "--board", "zcu102", "-o", tmp_path / "p", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_larger_than_the_board(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4096, 200), torch.nn.ReLU(), torch.nn.Linear(200, 10))
    qfx.export_onnx(qfx.quantize(network, torch.randn(8, 1, 64, 64)), tmp_path / "large.onnx")
    for arguments in ([], ["--fit"], ["--fps", 10]):
        said = refusal("hls", tmp_path / "large.onnx", "--board", "pynq_z2", "-o", tmp_path / "p", *arguments)
        for word in ("does not fit the TUL PYNQ-Z2", "weights", "6.6 Mbit", "BRAM18", "280", "larger board", "no folding makes it fit"):
            assert word in said
        for word in ("DSP", "frames", *(["LUT"] if not arguments else [])):  # a search may spread weights over LUTs
            assert word not in said
    assert not (tmp_path / "p").exists()
    assert qfx_command("estimate", tmp_path / "large.onnx", "--board", "zcu102").exit_code == 0


def test_onnx_files_that_hardware_cannot_be_made_of(model: Path, tmp_path: Path) -> None:
    """A dynamic size that is not the batch, an operator or an attribute that qfx does not write: one error each that names the place."""
    import onnx

    def edited(name: str) -> tuple[onnx.ModelProto, Path]:
        return onnx.load(model), tmp_path / name

    dynamic, path = edited("dynamic.onnx")
    dynamic.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "H"
    onnx.save(dynamic, path)
    assert "only the batch may have no fixed size" in refusal("hls", path, "--board", "zcu102", "-o", tmp_path / "p")
    for change in ("operator", "attribute"):
        changed, path = edited(f"{change}.onnx")
        node = next(node for node in changed.graph.node if node.op_type == "Conv")
        if change == "operator":
            node.op_type = "Softmax"
            del node.attribute[:]
        else:
            node.attribute.append(onnx.helper.make_attribute("auto_pad", "SAME_UPPER"))
        onnx.save(changed, path)
        said = refusal("hls", path, "--board", "zcu102", "-o", tmp_path / "p")
        assert node.name in said
        assert change == "attribute" or "Softmax" in said
    assert not (tmp_path / "p").exists()


def test_the_clock_is_the_boards_unless_it_is_given(model: Path, tmp_path: Path) -> None:
    for board, clock in (("pynq_z2", 10.0), ("zcu102", 5.0)):
        assert json.loads(qfx_command("estimate", model, "--board", board, "--json").stdout)["clock_ns"] == clock
        assert qfx_command("hls", model, "--board", board, "-o", tmp_path / board).exit_code == 0
        assert json.loads((tmp_path / board / "qfx_project.json").read_text())["clock_ns"] == clock
    assert json.loads(qfx_command("estimate", model, "--board", "pynq_z2", "--clock-ns", 5, "--json").stdout)["clock_ns"] == 5.0


@pytest.mark.parametrize("style", ["streaming", "unrolled"])
def test_a_clock_that_is_not_believed_is_noted_and_auto_is_believed(model: Path, style: str) -> None:
    def found(*options: object) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(qfx_command("estimate", model, "--board", "ultra96v2", "--style", style, "--json", *options).stdout)
        return content

    plain = found()
    assert plain["believed_clock_ns"] < plain["clock_ns"] == 5.0
    assert plain["believed_frames_per_second"] == plain["frames_per_second"]
    assert not any("may not be reached" in note for note in plain["notes"])
    auto = found("--clock-ns", "auto")
    assert auto["clock_ns"] == auto["believed_clock_ns"] < 5.0
    assert auto["frames_per_second"] > plain["frames_per_second"]
    assert auto["power_w"] > plain["power_w"]
    assert not any("may not be reached" in note for note in auto["notes"])
    if style == "streaming":
        assert json.loads(qfx_command("estimate", model, "--board", "ultra96v2", "--style", "dataflow", "--json").stdout) == plain
        short = found("--clock-ns", 1.6)
        assert short["believed_frames_per_second"] < short["frames_per_second"]
        note = next(note for note in short["notes"] if "may not be reached" in note)
        assert f"{short['clock_path']} ({short['clock_process']})" in note
        assert f"--clock-ns {short['believed_clock_ns']:g}, or auto" in note
        for options in (("--fps", 100_000), ("--fit",)):
            fast = found("--clock-ns", "auto", *options)
            assert fast["clock_ns"] >= fast["believed_clock_ns"]


def test_a_clock_that_is_no_period(model: Path) -> None:
    result = qfx_command("estimate", model, "--board", "zcu102", "--clock-ns", "fast")
    assert (result.exit_code, "neither a number of nanoseconds nor" in result.stderr) == (2, True)


@pytest.mark.parametrize("extra", [(), ("--fit",), ("--fps", 1000)])
def test_a_clock_that_the_part_cannot_have(model: Path, tmp_path: Path, extra: tuple[object, ...]) -> None:
    for command in (("estimate", model), ("hls", model, "-o", tmp_path / "p")):
        said = refusal(*command, "--board", "zcu102", "--clock-ns", 0.5, *extra)
        assert "0.5 ns is 2000 MHz" in said
        assert "use at least 1.36 ns" in said
    assert qfx_command("estimate", model, "--board", "zcu102", "--clock-ns", 1.36, *extra).exit_code == 0


def test_a_board_from_a_file(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('title = "My board"\npart = "xczu3eg-sbva484-1-i"\nlut = 70560\nff = 141120\ndsp = 360\nbram36 = 216\nuram = 0\n')
    assert "My board at 5 ns" in qfx_command("estimate", model, "--board", path).stdout
    assert qfx_command("hls", model, "--board", path, "-o", tmp_path / "p").exit_code == 0
    assert json.loads((tmp_path / "p" / "qfx_project.json").read_text())["board"] == "mine"
    path.write_text("lut = 5\n")
    assert "title is missing" in refusal("estimate", model, "--board", path)
    assert "bram36" in qfx_command("boards", "--help").stdout


def test_many_luts_are_a_risk_for_routing(model: Path, tmp_path: Path) -> None:
    """Between what routes without effort and what foldings are chosen for."""
    used = json.loads(qfx_command("estimate", model, "--board", "zcu102", "--json").stdout)["resources"]["lut"]
    path = tmp_path / "mine.toml"
    for share, note in ((0.65, None), (0.75, "LUT above 70 %: routing may fail"), (0.9, "LUT above 80 %: it may not route")):
        path.write_text(f'title = "M"\npart = "xczu3eg"\nlut = {int(used / share)}\nff = 141120\ndsp = 360\nbram36 = 216\nuram = 0\n')
        shown = qfx_command("estimate", model, "--board", path).stdout
        notes = json.loads(qfx_command("estimate", model, "--board", path, "--json").stdout)["notes"]
        assert shown.count("note:") == len(notes) == (0 if note is None else 1)
        if note is not None:
            assert note in shown
            assert notes[0] in shown
            assert note in qfx_command("hls", model, "--board", path, "-o", tmp_path / "p", "--force").stdout
