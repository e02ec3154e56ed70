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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="run the long sweeps in full")


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
