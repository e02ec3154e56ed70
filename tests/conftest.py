"""What all tests share: the C++ compiler, the vendor's headers, the hypothesis profile and the switch for long runs."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("qfx", deadline=None, print_blob=True)
settings.load_profile("qfx")


_SLOW = Path(__file__).with_name("slow.txt")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests of tests/slow.txt too, as continuous integration does")
    parser.addoption("--thorough", action="store_true", help="run the long sweeps in full, and what --slow runs")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what ``slow.txt`` names unless it is asked for. A line that names nothing ends a run of all tests."""
    lines = [line for line in _SLOW.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    found = set()
    skip = pytest.mark.skip(reason="runs with --slow")
    asked = config.getoption("--slow") or config.getoption("--thorough")
    for item in items:
        named = [line for line in lines if _names(line, item)]
        found.update(named)
        if named and not asked:
            item.add_marker(skip)
    unknown = sorted(set(lines) - found)
    if unknown and config.args == config.getini("testpaths"):
        raise pytest.UsageError(f"{_SLOW.name} names what is no test: {', '.join(unknown)}")


def _names(line: str, item: pytest.Item) -> bool:
    """A file, a function, a function with parameters, of which ``*`` at the end leaves the rest open, or a fixture that the test needs."""
    nodeid = item.nodeid
    if line.endswith("*"):
        return nodeid.startswith(line[:-1])
    if nodeid == line or nodeid.startswith((f"{line}[", f"{line}::")):
        return True
    file, _, fixture = line.partition("::")
    return nodeid.startswith(f"{file}::") and fixture in getattr(item, "fixturenames", ())


@pytest.fixture(scope="session")
def slow(request: pytest.FixtureRequest) -> bool:
    """Whether the user asked for more than ``make test`` does: searches at random then try more."""
    return bool(request.config.getoption("--slow") or request.config.getoption("--thorough"))


@pytest.fixture(scope="session")
def thorough(request: pytest.FixtureRequest) -> bool:
    """Whether the user asked for the long sweeps."""
    return bool(request.config.getoption("--thorough"))


@pytest.fixture(params=[False, True], ids=["vendor", "fast"])
def fast(request: pytest.FixtureRequest, thorough: bool) -> bool:
    """Which build of generated C++: with the vendor's headers, or the emulator over native integers. That runs every operator and random graphs in
    ``tests/hardware/project/test_fast.py``; what else it is compared on waits for --thorough."""
    if request.param and not thorough:
        pytest.skip("the fast emulator of these models runs with --thorough")
    return bool(request.param)


@pytest.fixture(scope="session")
def gxx() -> str:
    """The path of g++. A machine without it skips the test; continuous integration must not."""
    path = shutil.which("g++")
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("g++ is missing, and continuous integration may not skip the comparison with the vendor's headers")
        pytest.skip("g++ is not installed")
    return path


@pytest.fixture(scope="session")
def vendor_include() -> Path:
    """The folder of the vendor's ap_types headers, as the hls4ml wheel ships them (found without importing hls4ml)."""
    spec = importlib.util.find_spec("hls4ml")
    assert spec is not None, "hls4ml is a dependency of qfx"
    assert spec.submodule_search_locations is not None
    include = Path(spec.submodule_search_locations[0]) / "templates" / "vivado" / "ap_types"
    assert (include / "ap_fixed.h").is_file(), include
    return include
