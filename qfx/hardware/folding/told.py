"""What the clock model and the estimate of power say of a plan, streaming or unrolled, for people and for programs."""

from __future__ import annotations

from typing import Any, Protocol

from qfx.hardware.cost.power import Power
from qfx.hardware.timing.clock import Clock


class Planned(Protocol):
    """What is asked of a plan."""

    @property
    def clock_ns(self) -> float: ...
    @property
    def fps(self) -> float: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def power(self) -> Power: ...


def believed_fps(plan: Planned) -> float:
    """Frames a second at the period asked for, or at the one that is believed where that is longer."""
    return plan.fps * plan.clock_ns / max(plan.clock_ns, plan.clock.believed_ns)


def data(plan: Planned) -> dict[str, Any]:
    """Keys of report.json. ``clock_process`` is null where the part, or the whole pipeline, sets the period."""
    clock, power = plan.clock, plan.power
    return {
        "believed_clock_ns": clock.believed_ns,
        "clock_process": clock.process or None,
        "clock_path": clock.what,
        "believed_frames_per_second": round(believed_fps(plan), 3),
        "power_w": round(power.total_w, 3),
        "power_parts_w": {"static": round(power.static_w, 3), "dynamic": round(power.dynamic_w, 3), "processing_system": round(power.system_w, 3)},
        "frames_per_joule": round(power.frames_per_joule(plan.fps), 3),
    }


def rate(plan: Planned) -> str:
    """Frames per second in words."""
    said = f"{plan.fps:.1f} frames per second"
    return said if plan.clock.believes(plan.clock_ns) else f"{said}; {believed_fps(plan):.1f} at the period that is believed"


def lines(plan: Planned) -> list[str]:
    """Of the table: the period, and the power."""
    power = plan.power
    parts = f"{power.dynamic_w:.2f} switching, {power.static_w:.2f} leakage, {power.system_w:.2f} processing system"
    return [
        f"clock      {plan.clock_ns:g} ns asked, {plan.clock.believed_ns:g} ns believed: {_what(plan.clock)}",
        f"power      {power.total_w:.1f} W ({parts}; within a factor of two), {power.frames_per_joule(plan.fps):.0f} frames per joule",
    ]


def notes(plan: Planned) -> tuple[str, ...]:
    """A warning of a period that the model does not believe."""
    clock = plan.clock
    if clock.believes(plan.clock_ns):
        return ()
    remedy = f"ask for --clock-ns {clock.believed_ns:g}, or auto"
    return (f"{plan.clock_ns:g} ns may not be reached, or only with two cycles a turn: {_what(clock)} takes {clock.believed_ns:g} ns; {remedy}",)


def _what(clock: Clock) -> str:
    return f"{clock.what} ({clock.process})" if clock.process else clock.what
