"""The tools that RTL needs. A machine without them skips these tests; continuous integration and ``make test-rtl`` must not."""

from __future__ import annotations

import os

import pytest
from support.rtl.tools import tools


@pytest.fixture(autouse=True)
def _tools(gxx: str) -> None:
    missing = tools().missing
    if missing:
        if os.environ.get("CI"):
            pytest.fail(f"{missing}: missing, and continuous integration may not skip the check of RTL")
        pytest.skip(f"{missing}: not installed")
