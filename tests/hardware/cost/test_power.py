"""The estimate of power against two published systems, and what it grows with."""

from __future__ import annotations

import pytest
from hardware_models import classifier

from qfx.hardware.board import Board, board, boards
from qfx.hardware.cost.estimate import Cost, Estimate, estimate
from qfx.hardware.cost.power import PICOJOULES, SYSTEM_W, Power, power
from qfx.hardware.cost.resources import FIELDS, Resources
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Schedule


def of(on: Board, resources: Resources, mhz: float, cycles: int = 100, interval: int = 100) -> Power:
    return power(Estimate(on, (Cost("all", "all", cycles, resources),)), clock_ns=1000 / mhz, interval=interval)


def test_the_dpu_of_the_kv260_lies_between_what_was_measured_and_what_amd_estimates() -> None:
    """DPUCZDX8G B3136 with its platform at 300 MHz: 57,776 LUTs, 595 DSP blocks at twice the clock, 110.5 block RAMs (and 45 UltraRAMs); AMD's Kria
    documentation estimates 7.9 W of the chip, Simfero (2026) measured 4.3 to 4.8 W of the module. The flip-flops are not published."""
    found = of(board("kv260"), Resources(lut=57_776, ff=80_000, dsp=2 * 595, bram18=221), 300).total_w
    assert 4.3 < found < 7.9


def test_a_small_design_on_the_pynq_z2_is_as_measured() -> None:
    """MLPerf Tiny, hls4ml and FINN (arXiv:2206.11791): as little as 30 uJ and 20 us an inference, 1.5 W. Half of the part is busy here."""
    found = of(board("pynq_z2"), Resources(lut=25_000, ff=30_000, dsp=20, bram18=30), 100).total_w
    assert 1.5 / 2 < found < 1.5 * 2
    assert found == pytest.approx(1.5, rel=0.4)


def test_what_it_grows_with() -> None:
    on, some = board("zcu102"), Resources(10_000, 20_000, 100, 50)
    full = of(on, some, 200)
    assert of(on, some, 400).dynamic_w == pytest.approx(2 * full.dynamic_w)
    waiting = of(on, some, 200, cycles=25)
    assert 0.2 * full.dynamic_w < waiting.dynamic_w < 0.5 * full.dynamic_w  # the clock alone goes on
    assert waiting.static_w == full.static_w
    for field in FIELDS:
        assert of(on, some + Resources(**{field: 1000}), 200).dynamic_w > full.dynamic_w
    assert full.total_w == full.static_w + full.dynamic_w + full.system_w
    assert full.frames_per_joule(100.0) == pytest.approx(100 / full.total_w)
    assert board("kv260").part.endswith("2LV-c")
    assert of(board("kv260"), some, 200).dynamic_w < full.dynamic_w < of(board("pynq_z2"), some, 200).dynamic_w


def test_every_resource_and_every_processing_system_has_a_coefficient() -> None:
    assert set(FIELDS) <= set(PICOJOULES)
    assert {known.ps for known in boards()} <= set(SYSTEM_W)


def test_of_a_design() -> None:
    on = board("ultra96v2")
    found = estimate(lower(classifier(), Schedule()), on)
    slow, fast = (power(found, clock_ns=clock_ns, interval=1000) for clock_ns in (10.0, 5.0))
    assert slow.dynamic_w * 2 == pytest.approx(fast.dynamic_w)
    assert 2.5 < slow.total_w < 3.5
