"""What starting costs, counted in modules: clocks of busy machines tell nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "numpy", "onnx", "onnxruntime", "jinja2", "matplotlib", "scipy", "networkx")

AFTER = "print('loaded', len(sys.modules), *(name for name in {heavy} if name in sys.modules))"


def loaded(code: str, *arguments: str) -> tuple[int, set[str]]:
    """How many modules are there once the code has run, and which of the heavy ones."""
    whole = f"import sys\n{code}\n{AFTER.format(heavy=HEAVY)}"
    done = subprocess.run([sys.executable, "-c", whole, *arguments], capture_output=True, text=True, check=True)
    count, *heavy = done.stdout.splitlines()[-1].removeprefix("loaded ").split()
    return int(count), set(heavy)


@pytest.fixture(scope="module")
def bare() -> int:
    return loaded("pass")[0]


def test_importing_the_package_loads_next_to_nothing(bare: int) -> None:
    count, heavy = loaded("import qfx")
    assert heavy == set()
    assert count - bare <= 12


@pytest.mark.parametrize(("arguments", "most"), [("--help", 200), ("--version", 200), ("estimate --help", 200), ("ptq --help", 200), ("boards", 250)])
def test_commands_load_what_they_need(arguments: str, most: int, bare: int) -> None:
    count, heavy = loaded("from qfx.cli import main\nmain(sys.argv[1:], standalone_mode=False)", *arguments.split())
    assert heavy == set()
    assert count - bare <= most


def test_a_module_that_loads_is_seen(bare: int) -> None:
    count, heavy = loaded("import qfx, numpy")
    assert heavy == {"numpy"}
    assert count - bare > 12
