"""Options that mean the same in every command."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
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


def unlike(commands: dict[str, click.Command]) -> set[str]:
    """Options of one name that take different things: a word here, a flag there."""
    kinds: dict[str, set[str]] = {}
    for command in commands.values():
        for option in command.params:
            if isinstance(option, click.Option):
                kind = "flag" if option.is_flag else "callback" if option.callback else option.type.name
                for name in option.opts:
                    kinds.setdefault(name, set()).add(kind)
    return {name for name, found in kinds.items() if len(found) > 1}


def test_an_option_takes_the_same_in_every_command() -> None:
    assert unlike(main.commands) == {"--model", "--trace"}  # a project's model is a file; verify's --trace is an older name of --layers
    assert "--layers" in options(main.commands["verify"])
    planted = click.Command("planted", params=[click.Option(["--json"], type=click.Path())])
    assert unlike({**main.commands, "planted": planted}) == {"--model", "--trace", "--json"}


def test_what_writes_can_replace_and_what_tells_can_tell_programs() -> None:
    for name, command in main.commands.items():
        known = options(command)
        assert ("-o" in known) <= ("--force" in known), name
        assert "--json" in known, name
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


def test_json_of_what_writes_files(folder: Path, tmp_path: Path) -> None:
    rows = dict(re.findall(r"^\| `(new|schema -o|completion)` \| (.*) \|$", DOCS.read_text(), re.MULTILINE))
    found = {
        "new": parsed(folder, f"new {tmp_path}/start --json"),
        "schema -o": parsed(folder, f"schema recipe -o {tmp_path}/r.json --json"),
        "completion": parsed(folder, "completion bash --json"),
    }
    assert {name: set(content) for name, content in found.items()} == {name: set(re.findall(r"`([a-z_]+)`", row)) for name, row in rows.items()}
    assert all(Path(name).is_file() for name in found["new"]["files"])
    assert found["completion"]["script"].rstrip("\n") == run(folder, "completion bash").stdout.rstrip("\n")
    assert parsed(folder, "schema recipe --json") == json.loads((tmp_path / "r.json").read_text())


@pytest.mark.parametrize(("terminal", "colours"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False), (None, False)])
def test_colours_only_on_terminals_that_want_them(terminal: dict[str, str] | None, colours: bool) -> None:
    """``None``: a pipe. The command is run for real, on a terminal of its own; `doctor` is the one that has colours in its table."""
    read, write = pty.openpty() if terminal is not None else os.pipe()
    show = "from qfx.cli.doctor import _show; from qfx.doctor import Finding; _show('m', [Finding('g++', None, 'all', 'get it', True, 'none')])"
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "TERM", "COLORTERM")}
    subprocess.run([sys.executable, "-c", show], stdout=write, check=True, env={**kept, "TERM": "xterm-256color", **(terminal or {})})
    os.close(write)
    said = os.read(read, 65536).decode()
    os.close(read)
    assert "g++" in said
    assert bool(re.search(r"\x1b\[[0-9;]*3[0-9]m", said)) == colours, said


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


def test_the_emulator_runs_a_model_without_a_project(folder: Path) -> None:
    """The numbers of the interpreter, and nothing else of what a project has."""
    done = run(folder, "csim net.onnx --fast --data five.npy --output alone.npy")
    assert done.exit_code == 0, done.output
    assert "wrote alone.npy: 5 samples" in done.output
    np.testing.assert_array_equal(np.load(folder / "alone.npy"), qfx.run(qfx.load_graph(folder / "net.onnx"), np.load(folder / "five.npy")))
    for arguments in ("--output other.npy", "--fast --trace traced"):
        refused = run(folder, f"csim net.onnx --data five.npy {arguments}")
        assert refused.exit_code == 2, refused.output
        assert "pass --fast and --output alone, or make a project of it" in refused.output
