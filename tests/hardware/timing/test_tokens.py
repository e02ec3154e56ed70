"""The simulation of tokens in C++ against the one in Python that defines it: every turn of every process, and every deadlock."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hardware_models import DIRECTED
from random_schedules import random_schedule
from schedule_models import resnet

from qfx.fixed import native_build
from qfx.hardware.design import design as d
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Schedule
from qfx.hardware.timing import tokens
from qfx.hardware.timing.fifo import size_fifos, with_depths
from qfx.hardware.timing.simulate import DeadlockError, _Simulation, simulate

pytestmark = pytest.mark.usefixtures("gxx")


def both(design: d.Design, frames: int = 3) -> tuple[list[np.ndarray], list[int], list[np.ndarray], list[int]]:
    run = _Simulation(design, frames, {})
    compiled = run._compiled()
    assert compiled is not None
    return *compiled, *run._interpreted()


@pytest.mark.parametrize("index", range(len(DIRECTED)))
def test_every_turn_is_the_same(index: int) -> None:
    graph = DIRECTED[index]()
    design = size_fifos(lower(graph, random_schedule(graph, np.random.default_rng(index))))
    starts, waits, expected, expected_waits = both(design)
    assert waits == expected_waits == [-1] * len(design.processes)
    assert all(np.array_equal(*pair) for pair in zip(starts, expected, strict=True))


def test_deadlocks_are_the_same() -> None:
    design = size_fifos(lower(resnet(), Schedule()))
    shallow = with_depths(design, {stream.name: 1 for stream in design.streams})
    starts, waits, expected, expected_waits = both(shallow)
    assert waits == expected_waits
    assert any(wait >= 0 for wait in waits)
    done = [np.count_nonzero(times) for times in starts]  # the room of turns that never start holds zeros
    assert done == [np.count_nonzero(times) for times in expected]
    with pytest.raises(DeadlockError):
        simulate(shallow)


def test_a_planted_error_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A word that can be read a cycle early makes turns differ."""
    source = Path(tokens.__file__).with_name("tokens.cpp").read_text(encoding="utf-8")
    assert "start + latency + 1" in source
    (tmp_path / "wrong.cpp").write_text(source.replace("start + latency + 1", "start + latency"), encoding="utf-8")
    wrong = native_build.library_of_one_thread(tmp_path / "wrong.cpp", "")
    assert wrong is not None
    right = tokens._entry()
    assert right is not None
    wrong.qfx_tokens.argtypes = right.argtypes  # type: ignore[attr-defined]
    monkeypatch.setattr(tokens, "_entry", lambda: wrong.qfx_tokens)
    starts, _, expected, _ = both(size_fifos(lower(resnet(), Schedule())))
    assert not all(np.array_equal(*pair) for pair in zip(starts, expected, strict=True))


def test_without_a_compiler_it_is_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    design = size_fifos(lower(resnet(), Schedule()))
    expected = simulate(design)
    monkeypatch.setattr(tokens, "_entry", lambda: None)
    assert simulate(design) == expected
