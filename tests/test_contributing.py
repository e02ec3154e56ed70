"""The worked example of CONTRIBUTING.md, done to a copy of the sources: a new operator goes through every executor."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def files() -> dict[str, str]:
    """The files of the page, by path."""
    blocks = re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE, re.DOTALL)
    return dict(blocks)


def additions() -> Iterator[tuple[str, str, str]]:
    """(path, the line before, the line that is added)."""
    for path, body in re.findall(r"```diff\n--- (\S+)\n(.*?)```", PAGE, re.DOTALL):
        before = ""
        for line in body.splitlines():
            if line.startswith("+"):
                yield path, before, line[1:]
            before = line[1:]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources with the example in it."""
    root = tmp_path_factory.mktemp("sources")
    for folder in ("qfx", "hls"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for path, text in files().items():
        assert not (root / path).exists(), path
        (root / path).write_text(text, encoding="utf-8")
    for path, before, added in additions():
        text = (root / path).read_text(encoding="utf-8")
        assert text.count(f"{before}\n") == 1, f"{path} has not one line {before!r}"
        (root / path).write_text(text.replace(f"{before}\n", f"{before}\n{added}\n"), encoding="utf-8")
    return root


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(root), "PYTHONWARNINGS": "error"}
    return subprocess.run([sys.executable, *arguments], cwd=root, env=env, capture_output=True, text=True, timeout=600, check=False)


def test_the_example_is_two_files_and_a_line_in_each_table() -> None:
    assert list(files()) == ["qfx/operators/negate.py", "qfx/nn/layers/negate.py"]
    assert [path for path, _, _ in additions()] == ["qfx/operators/__init__.py"] * 2 + ["qfx/nn/rules.py"] * 2  # its import, its entry


def test_it_keeps_the_house_rules(copy: Path, thorough: bool) -> None:
    """mypy, which reads all of qfx for it, with --thorough."""
    settings = str(ROOT / "pyproject.toml")
    for tool in (("ruff", "check", "--config"), ("ruff", "format", "--check", "--config"), ("mypy", "--config-file"))[: 3 if thorough else 2]:
        done = run(copy, "-m", *tool, settings, *files())
        assert done.returncode == 0, done.stdout + done.stderr


EXECUTORS = """
import sys
import numpy as np
import torch
from torch import nn

import qfx
from qfx.hardware.project.csim import run_raw
from qfx.hardware.project.project import write_project
from qfx.hardware.design.schedule import Request
from qfx.ir.interpret import run_raw as interpret
from qfx.ir.text import listing
from qfx.operators import Negate
from qfx.testing import adversarial_inputs, assert_bit_exact, random_graph
from qfx.verify import onnx_runtime, raw_of

root, folder = sys.argv[1:]
assert qfx.__file__.startswith(root), qfx.__file__


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1)

    def forward(self, x):
        y = self.norm(self.conv(x))
        return torch.negative(self.last(torch.relu(y) - torch.relu(torch.negative(y)).negative()))


torch.manual_seed(0)
x = torch.randn(16, 2, 6, 6)
qmodel = qfx.quantize(Net(), x, qfx.Recipe(weight=qfx.Spec(6, granularity="channel"), scale=qfx.Spec(6, granularity="channel")))
optimizer = torch.optim.SGD(qmodel.parameters(), lr=0.05)
for _ in range(3):
    optimizer.zero_grad()
    (qmodel(x) - x[:, :1, 1:-1, 1:-1]).square().mean().backward()
    optimizer.step()
graph = qfx.to_graph(qmodel)
assert sum(isinstance(node.op, Negate) for node in graph.nodes) == 3, listing(graph)
qfx.export_onnx(qmodel, f"{folder}/net.onnx")
assert qfx.load_graph(f"{folder}/net.onnx").nodes == graph.nodes
data = adversarial_inputs(graph, np.random.default_rng(0), 40)
expected = interpret(graph, data, check_ranges=True)
write_project(graph, f"{folder}/project", board="zcu102", schedule=Request(fit=True))
with torch.no_grad():
    found = {"torch": raw_of(qmodel(torch.from_numpy(data)).numpy(), graph, "torch")}
found["ONNX Runtime"] = onnx_runtime(f"{folder}/net.onnx", graph)(data)
found["C simulation"] = run_raw(f"{folder}/project", data)
found["emulator"] = run_raw(f"{folder}/project", data, fast=True)
for name, raw in found.items():
    assert_bit_exact(raw, expected, names=(name, "interpreter"))
    wrong = raw.copy()
    wrong.reshape(-1)[-1] += 1
    try:
        assert_bit_exact(wrong, expected)
    except AssertionError:
        continue
    raise SystemExit(f"one LSB in {name} is not seen")
graphs = [random_graph(np.random.default_rng(seed)) for seed in range(60)]
print("negations in random graphs:", sum(isinstance(node.op, Negate) for graph in graphs for node in graph.nodes))
"""


@pytest.mark.usefixtures("gxx")
def test_it_goes_through_every_executor(copy: Path, tmp_path: Path) -> None:
    done = run(copy, "-c", EXECUTORS, str(copy), str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.rsplit(":", 1)[1]) > 5


PIECES = {
    "qfx/operators/negate.py": ("forms", "infer", "evaluate", "does_nothing", "words", "write", "read", "epilogue", "draw"),
    "qfx/nn/layers/negate.py": ("traits", "operators", "distribution", "scales_channels"),
}

LACKING = """
import sys
from pathlib import Path

for path in map(Path, sys.argv[1:]):
    try:
        exec(compile(path.read_text(), str(path), "exec"), {"__name__": path.stem, **vars(__import__("builtins"))})
    except TypeError as error:
        print(path.stem, error)
    else:
        raise SystemExit(f"{path} can be imported")
"""


def test_without_one_of_its_pieces_it_cannot_be_imported(copy: Path, tmp_path: Path) -> None:
    lacking = []
    for path, pieces in PIECES.items():
        for piece in pieces:
            text = files()[path]
            for line in (f"    def {piece}(", f"    {piece}: ", f"    {piece} = "):
                text = text.replace(line, line.replace(piece, f"other_{piece}"))
            assert text != files()[path]
            lacking.append(tmp_path / f"{piece}.py")
            lacking[-1].write_text(text, encoding="utf-8")
    done = run(copy, "-c", LACKING, *map(str, lacking))
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert [line.split()[0] for line in told] == [path.stem for path in lacking]
    for line in told:
        piece, message = line.split(" ", 1)
        assert "egate" in message
        assert piece in message
