"""Foldings, schedules and requests as values: what they refuse, and that order does not matter."""

from __future__ import annotations

import pytest

from qfx.errors import ProjectError
from qfx.hardware.design.schedule import ARITHMETIC, Folding, Request, Schedule, check_clock


@pytest.mark.parametrize(("pe", "simd"), [(0, 1), (1, 0), (-2, 4)])
def test_parallelism_is_positive(pe: int, simd: int) -> None:
    with pytest.raises(ProjectError, match=f"PE={pe}, SIMD={simd}"):
        Folding(pe, simd)


def test_arithmetic_is_one_of_a_few() -> None:
    assert [Folding(arithmetic=name).arithmetic for name in ARITHMETIC] == list(ARITHMETIC)
    with pytest.raises(ProjectError, match="'fast'") as caught:
        Folding(arithmetic="fast")
    assert all(name in caught.value.remedy for name in ARITHMETIC)


def test_a_schedule_does_not_depend_on_the_order_in_which_it_is_told() -> None:
    one = Schedule.of({"b": Folding(2), "a": Folding(3)}, fifos={"t": 3, "s": 2})
    other = Schedule.of({"a": Folding(3), "b": Folding(2)}, fifos={"s": 2, "t": 3})
    assert one == other
    assert hash(one) == hash(other)
    assert one.folding("a") == Folding(3)
    assert one.folding("unknown") == Folding()


@pytest.mark.parametrize("clock_ns", [0, -5, 0.4, 1001, float("nan"), float("inf")])
def test_clocks_that_no_fpga_has(clock_ns: float) -> None:
    with pytest.raises(ProjectError, match="clock period"):
        check_clock(clock_ns)


def test_requests_that_contradict_themselves() -> None:
    with pytest.raises(ProjectError, match="both"):
        Request(fps=100, fit=True)
    for fps in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ProjectError, match="frames per second"):
            Request(fps=fps)
