"""How a design runs, as tables for people."""

from __future__ import annotations

from rich.table import Table

from qfx.hardware.design import design as d
from qfx.hardware.timing.fifo import Plan, Sizing
from qfx.hardware.timing.simulate import Timing


def headline(plan: Plan, clock_ns: float) -> str:
    """One line: interval, latency, frames per second at a clock period of ``clock_ns``, and the process that sets the pace."""
    timing = plan.timing
    if timing is None:
        name, busy = max(((process.name, plan.design.busy(process)) for process in plan.design.processes), key=lambda row: row[1])
        rate = 1e9 / (busy * clock_ns)
        return f"a frame in at least {busy} cycles, at most {rate:.1f} frames/s at {clock_ns:g} ns; too long to simulate; slowest: {name}"
    batch = plan.design.batch
    every = "a frame" if batch == 1 else f"{batch} frames"
    return (
        f"{every} every {timing.interval} cycles, {batch * timing.frames_per_second(clock_ns):.1f} frames/s at {clock_ns:g} ns; "
        f"latency {timing.latency} cycles, {timing.latency * clock_ns / 1000:.1f} us; slowest: {timing.bottleneck.name}"
    )


def schedule_table(timing: Timing, design: d.Design, clock_ns: float) -> Table:
    """A row per process: cycles that it works and waits in a frame, and its share of the interval."""
    table = Table(title=headline(Plan(design, timing), clock_ns), title_justify="left", title_style="", box=None, pad_edge=False)
    for heading in ("process", "layer", "turns", "pipeline", "waits", "busy"):
        table.add_column(heading, justify="left" if heading in ("process", "layer") else "right", no_wrap=True)
    for row, node in zip(timing.processes, design.nodes, strict=True):
        share = f"{100 * row.busy / timing.interval:.0f} %"
        table.add_row(row.name, node, str(row.turns), str(row.latency), str(timing.interval - row.busy), share)
    return table


def fifo_table(rows: tuple[Sizing, ...], design: d.Design, least: int = 3) -> Table:
    """A row per FIFO of at least ``least`` words: how wide it is, how deep, and how deep it must be."""
    table = Table(title="FIFOs", title_justify="left", title_style="", box=None, pad_edge=False)
    for heading in ("stream", "bits", "depth", "deadlock below"):
        table.add_column(heading, justify="left" if heading == "stream" else "right", no_wrap=True)
    for row, stream in zip(rows, design.streams, strict=True):
        if row.depth >= least:
            table.add_row(row.stream, str(stream.type.width * stream.parallel), str(row.depth), str(row.least))
    return table
