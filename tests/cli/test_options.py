"""Options that mean the same in every command."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import qfx
from qfx.cli import main
from qfx.hardware.assets import vendor_version

DOCS = Path(__file__).resolve().parents[2] / "docs" / "commands.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, gxx: str) -> Path:
    """A model, a project of it, and inputs."""
    root = tmp_path_factory.mktemp("options")
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64, 3))
    qfx.export_onnx(qfx.quantize(network, torch.randn(32, 1, 4, 4)), root / "net.onnx")
    x = np.random.default_rng(0).normal(size=(20, 1, 4, 4)).astype(np.float32)
    np.save(root / "x.npy", x)
    np.save(root / "five.npy", x[:5])
    done = run(root, "hls net.onnx --board zcu102 -o project")
    assert done.exit_code == 0, done.output
    return root


def run(folder: Path, arguments: str) -> Result:
    import contextlib

    with contextlib.chdir(folder):
        return CliRunner().invoke(main, arguments.split())


def parsed(folder: Path, arguments: str, code: int = 0) -> Any:
    result = run(folder, arguments)
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def options(command: click.Command) -> set[str]:
    return {name for option in command.params for name in option.opts}


def test_one_name_for_each_kind_of_file() -> None:
    for name, old in (("csim", "--input"), ("hls", "--golden"), ("ptq", "--calib"), ("verify", None), ("report", None)):
        known = options(main.commands[name])
        assert {"--data", "--samples"} <= known, name
        assert old is None or old in known
    for name in ("hls", "csim", "ptq", "import", "weights"):
        assert {"-o", "--output", "--force"} <= options(main.commands[name])
    for name in ("hls", "estimate", "verify", "report", "inspect", "boards", "ptq", "import"):
        assert "--json" in options(main.commands[name])


def test_what_writes_can_replace_and_what_tells_can_tell_programs() -> None:
    for name, command in main.commands.items():
        known = options(command)
        assert ("-o" in known) <= ("--force" in known), name
        assert "--json" in known or name in ("schema", "completion", "new"), name
        given = [name for option in command.params if isinstance(option, click.Option) for name in option.opts]
        assert [option for option in given if option != "-o" and not option.startswith("--")] == [], name


@pytest.mark.parametrize("option", ["--data", "--input"])
def test_old_names_still_work(folder: Path, tmp_path: Path, option: str) -> None:
    assert run(folder, f"csim project {option} x.npy -o {tmp_path}/y.npy").exit_code == 0
    assert np.array_equal(np.load(tmp_path / "y.npy"), qfx.run(qfx.load_graph(folder / "net.onnx"), np.load(folder / "x.npy")))


def test_golden_is_an_older_name_of_data(folder: Path, tmp_path: Path) -> None:
    for number, option in enumerate(("--data five.npy", "--golden five.npy", "--data x.npy --samples 5")):
        assert run(folder, f"hls net.onnx --board zcu102 -o {tmp_path}/{number} {option}").exit_code == 0
        assert len((tmp_path / str(number) / "tb" / "golden_input.txt").read_text().splitlines()) == 5
    texts = {(tmp_path / str(number) / "tb" / "golden_input.txt").read_text() for number in range(3)}
    assert len(texts) == 1


def test_the_first_samples(folder: Path, tmp_path: Path) -> None:
    assert run(folder, f"csim project --data x.npy --samples 5 -o {tmp_path}/y.npy --trace {tmp_path}/t.npz").exit_code == 0
    expected = qfx.run(qfx.load_graph(folder / "net.onnx"), np.load(folder / "five.npy"))
    assert np.array_equal(np.load(tmp_path / "y.npy"), expected)
    assert all(len(array) == 5 for array in np.load(tmp_path / "t.npz").values())
    assert parsed(folder, "verify net.onnx project --data x.npy --samples 5 --json")["samples"] == 5
    assert parsed(folder, "verify net.onnx project --data x.npy --samples 500 --json")["samples"] == 20
    for target in ("net.onnx", "project"):
        few, five = (parsed(folder, f"report {target} --json --data {data}") for data in ("x.npy --samples 5", "five.npy"))
        assert few == five
    for command in ("csim project -o y.npy", "verify net.onnx project", "report project"):
        assert run(folder, f"{command} --data x.npy --samples 0").exit_code == 2


@pytest.mark.parametrize("empty", [(0, 1, 4, 4), (3, 0, 4, 4), ()])
def test_arrays_without_samples_are_refused(folder: Path, tmp_path: Path, empty: tuple[int, ...]) -> None:
    np.save(tmp_path / "empty.npy", np.zeros(empty, np.float32))
    np.savez(tmp_path / "empty.npz", x=np.zeros(empty, np.float32), y=np.zeros(0, np.int64))
    for command in (
        f"csim project -o {tmp_path}/y.npy",
        "verify net.onnx project",
        "report net.onnx",
        "report project",
        f"hls net.onnx --board zcu102 -o {tmp_path}/p",
        f"ptq --model a:b -o {tmp_path}/m.onnx",
    ):
        for name in ("empty.npy", "empty.npz"):
            result = run(folder, f"{command} --data {tmp_path}/{name}")
            assert result.exit_code == 2, (command, result.output)
            assert re.search(r"holds no samples|single number", result.stderr), result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.npy", "empty.npz"]


def test_json_has_the_keys_that_the_page_lists(folder: Path, tmp_path: Path) -> None:
    rows = dict(re.findall(r"^\| `(verify|report|inspect|boards|ptq|hls)`[^|]*\| (.*) \|$", DOCS.read_text(), re.MULTILINE))
    found = {
        "verify": parsed(folder, "verify net.onnx project --data five.npy --fast --trace --json"),
        "report": parsed(folder, "report net.onnx --data five.npy --json"),
        "inspect": parsed(folder, "inspect net.onnx --json"),
        "hls": parsed(folder, f"hls net.onnx --board zcu102 -o {tmp_path}/p --json"),
    }
    for command, content in found.items():
        nested = [value[0] for value in content.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
        keys = [*content, *(key for entry in nested for key in entry if command != "hls")]
        listed = set(re.findall(r"`([a-z0-9_]+)`", rows[command]))
        assert set(keys) <= listed, command
    boards = parsed(folder, "boards --json")
    assert set(boards[0]) == set(re.findall(r"`([a-z0-9_]+)`", rows["boards"]))
    assert found["hls"] == parsed(folder, "estimate net.onnx --board zcu102 --json")
    assert found["hls"] == json.loads((tmp_path / "p" / "report.json").read_text())
    assert found["verify"]["equal"] is True
    assert [row["executor"] for row in found["verify"]["layers"]] == ["C simulation", "fast emulator"]
    assert found["inspect"]["nodes"][0]["name"] == "input"


def test_json_of_a_difference(folder: Path, tmp_path: Path) -> None:
    """A project of another model with the same shapes."""
    torch.manual_seed(1)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64, 3))
    qfx.export_onnx(qfx.quantize(network, torch.randn(32, 1, 4, 4)), tmp_path / "other.onnx")
    found = parsed(folder, f"verify {tmp_path}/other.onnx project --data x.npy --json", code=1)
    assert found["equal"] is False
    simulation = found["executors"][1]
    assert simulation["differing_values"] > 0
    assert set(simulation["first"]) == {"sample", "index", "expected_raw", "actual_raw", "expected", "actual", "output"}


def test_outputs_follow_links_and_make_folders(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    assert run(folder, f"hls net.onnx --board zcu102 -o {tmp_path}/a/b/project").exit_code == 0
    (tmp_path / "project").symlink_to("a/b/project")
    refused = run(folder, f"hls net.onnx --board zcu102 -o {tmp_path}/project")
    assert "not empty" in refused.stderr
    assert run(folder, f"hls net.onnx --board pynq_z2 -o {tmp_path}/project --force").exit_code == 0
    assert (tmp_path / "project").is_symlink()
    assert json.loads((tmp_path / "a/b/project/qfx_project.json").read_text())["board"] == "pynq_z2"
    assert run(folder, f"hls net.onnx --board zcu102 -o {tmp_path}/link").exit_code == 0
    assert (tmp_path / "disk" / "qfx_project.json").is_file()
    assert run(folder, f"csim project --data x.npy -o {tmp_path}/c/y.npy --trace {tmp_path}/d/trace").exit_code == 0
    assert (tmp_path / "c" / "y.npy").is_file()
    assert (tmp_path / "d" / "trace").is_dir()
    piped = run(folder, "csim project --data x.npy -o /dev/null")
    assert piped.exit_code == 0, piped.output


def test_version_names_the_vendors_headers(folder: Path) -> None:
    said = run(folder, "--version")
    assert said.exit_code == 0
    assert said.stdout == f"qfx, version {qfx.__version__}\nvendor headers: {vendor_version()}\n"
    assert re.fullmatch(r"Xilinx ap_types 2011-20\d\d from hls4ml [0-9.]+, sha256 [0-9a-f]{12}", vendor_version())


def test_every_option_has_its_line_in_help() -> None:
    for command in main.commands.values():
        for option in command.params:
            assert isinstance(option, click.Argument) or option.help, (command.name, option.name)  # type: ignore[attr-defined]
