"""What older programs import from ``qfx.codegen`` is what ``qfx.hardware`` has."""

from __future__ import annotations

import subprocess
import sys

import pytest

from qfx.hardware.design import schedule
from qfx.hardware.project import csim, project


@pytest.mark.parametrize(("old", "new"), [("csim", csim), ("project", project), ("schedule", schedule)])
def test_an_old_name_is_the_new_thing(old: str, new: object) -> None:
    namespace: dict[str, object] = {}
    exec(f"from qfx.codegen import {old}", namespace)
    module = namespace[old]
    names = module.__all__  # type: ignore[attr-defined]
    assert names
    assert all(getattr(module, name) is getattr(new, name) for name in names)


def test_the_old_room_needs_no_torch() -> None:
    code = "import qfx.codegen.csim, qfx.codegen.project, qfx.codegen.schedule, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
