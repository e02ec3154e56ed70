"""A streaming design as Verilog: a module for each process, its FIFOs at their depths, and a top module that joins them to AXI4-Streams."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from qfx.errors import ProjectError
from qfx.hardware.design import design as d
from qfx.hardware.design.storage import Storage, fifo
from qfx.hardware.emit.emit import emit_sources
from qfx.hardware.rtl.hardware import Hardware, ReadMaster
from qfx.hardware.rtl.machines import master, pipelined, sources, verilog
from qfx.hardware.rtl.machines.flow import cycles
from qfx.hardware.rtl.machines.machine import translate
from qfx.hardware.rtl.machines.netlist import Machine
from qfx.hardware.rtl.machines.stages import stages
from qfx.hardware.timing.delays import Delays
from qfx.hardware.timing.program import Program
from qfx.hardware.timing.simulate import RESTART, simulate
from qfx.progress import Progress, silent

FIFO, DEEP = "qfx_fifo", "qfx_fifo_ram"
"""The modules of FIFOs: of LUTs, and of block RAM."""

_PORTS = """ #(parameter W = 1, D = 2, B = 2, A = 1) (
  input wire clk, input wire rst,
  input wire [W-1:0] put, input wire put_valid, output wire put_ready,
  output wire [W-1:0] take, output wire take_valid, input wire take_ready
);
reg [W-1:0] words [0:D-1];
reg [B-1:0] held;
reg [A-1:0] first, next;
wire puts = put_valid & put_ready, takes = take_valid & take_ready;
wire [A-1:0] ahead = ~takes ? first : first == D - 1 ? 0 : first + 1;
assign put_ready = held != D;
assign take_valid = held != 0;
always @(posedge clk) if (puts) words[next] <= put;
always @(posedge clk)
  if (rst) begin held <= 0; first <= 0; next <= 0; end
  else begin
    if (puts) next <= next == D - 1 ? 0 : next + 1;
    first <= ahead;
    held <= held + puts - takes;
  end
"""

_FIFO_TEXT = f"""// A FIFO of D words of W bits; B bits count from 0 to D, A bits number the words.
module {FIFO}{_PORTS}assign take = words[first];
endmodule
"""

_DEEP_TEXT = f"""// The same in block RAM, which gives a word a cycle behind its address: the next first word is read, unless it comes just then.
module {DEEP}{_PORTS}reg [W-1:0] found, passed;
reg passes;
assign take = passes ? passed : found;
always @(posedge clk) begin
  found <= words[ahead];
  passed <= put;
  passes <= puts & next == ahead;
end
endmodule
"""


@dataclass(frozen=True, slots=True)
class Clock:
    """What a stage of a pipeline has time for: ``budget_ns`` between its registers, where operators take ``delays``."""

    delays: Delays
    budget_ns: float


def hardware(design: d.Design, top: str, model: str, *, frames: int, clock: Clock | None = None, progress: Progress = silent) -> Hardware:
    """The Verilog of a design whose FIFOs are sized, and the cycles that ``frames`` frames back to back should take.

    A process takes a turn a cycle. Without a ``clock`` it has no pipeline: its words leave in the turn that works them out; with one in the last
    of as many stages as it needs. Weights in memory come through AXI4 read channels. Raises ProjectError for constants that are loaded and where
    clang is missing, RtlError for C++ that has no such hardware.
    """
    if design.loader is not None:
        raise ProjectError("Verilog has its constants in ROM", where="--weights stream", remedy="leave it out")
    spilled = [master.name for master in design.masters if master.scratch]
    if spilled:
        remedy = 'leave out storage = "ddr" of that FIFO, or take a larger board'
        raise ProjectError("Verilog has no masters that write memory, as a FIFO in memory needs", where=spilled[0], remedy=remedy)
    if design.batch > 1:
        raise ProjectError("Verilog takes the frames of a call one by one", where=f"--batch {design.batch}", remedy="leave it out")
    pauses = {process.name: getattr(process.program, "pause", RESTART) for process in design.processes}
    modules: dict[str, str] = {}
    machines: dict[str, Machine] = {}
    latencies: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="qfx_rtl_") as scratch:
        folder = Path(scratch)
        sources.write(emit_sources(design, top), folder)
        region = sources.region(folder, top)
        own = {found.name for found in design.masters}
        names = [call.name for call in region.calls if call.name not in own]
        progress("clang reads the processes", 0, 1)
        module, functions = sources.processes(folder, top, names)
        for done, name in enumerate(names):
            progress("translating processes", done, len(names))
            machine = machines[name] = translate(module, functions[name], name)
            restart = pauses.get(name, 1)
            if clock is None:
                told, text = "", verilog.module(machine, watched=False, restart=restart)
            else:
                found = stages(machine, clock.delays, clock.budget_ns)
                latencies[name] = found.last
                told = f": {found.last + 1} stages, the longest of {found.longest_ns + clock.delays.register:.2f} ns (docs/estimates.md)"
                text = pipelined.module(machine, found, restart=restart)
            modules[f"{name}.v"] = f"// {name} of {model}{told}\n{text}"
        progress("translating processes", len(names), len(names))
    if design.masters:
        modules[f"{master.MODULE}.v"] = master.TEXT
    inputs, outputs = design.wires
    whole = "\n".join(_top(design, region, machines, top, model, pauses)) + "\n"
    modules |= {f"{kind}.v": text for kind, text in ((FIFO, _FIFO_TEXT), (DEEP, _DEEP_TEXT)) if f"{kind} #(" in whole}
    modules[f"{top}.v"] = whole
    latency = interval = 0
    if clock is not None and _known(design):
        latency, interval = cycles(design, latencies, frames)
    elif _known(design):
        timing = simulate(instant(design), frames)
        latency, interval = timing.latency, timing.interval
    masters = tuple(ReadMaster(found.port, found.bits, found.contents) for found in design.weights_in_memory)
    return Hardware(top, modules, inputs, outputs, latency, interval, masters)


def _known(design: d.Design) -> bool:
    """Whether there is a model of the cycles: of a loop's parts, one after the other, there is none."""
    return not any(isinstance(process, d.Loop) for process in design.processes)


@dataclass(frozen=True, slots=True)
class _Staged:
    """A process as the cycle model sees it, whose words leave ``latency`` cycles behind the beginning of the turn that works them out."""

    process: d.Process
    latency: int

    @property
    def name(self) -> str:
        return self.process.name

    @property
    def sources(self) -> tuple[d.Stream, ...]:
        return self.process.sources

    @property
    def targets(self) -> tuple[d.Stream, ...]:
        return self.process.targets

    @property
    def program(self) -> Program:
        return replace(self.process.program, latency=self.latency)


def instant(design: d.Design) -> d.Design:
    """The same with no pipeline in its processes: that is what a Machine is."""
    return staged(design, {})


def staged(design: d.Design, latencies: Mapping[str, int]) -> d.Design:
    """The design for ``simulate``, with pipelines of so many stages behind the first in its processes, by name; none where none is named."""
    return replace(design, processes=tuple(_Staged(process, latencies.get(process.name, 0)) for process in design.processes))  # type: ignore[misc]


def _top(design: d.Design, region: sources.Region, machines: Mapping[str, Machine], top: str, model: str, pauses: Mapping[str, int]) -> Iterator[str]:
    inputs, outputs = design.wires
    ports = {wire.name for wire in (*inputs, *outputs)}
    yield f"// {model}: {len(region.calls)} processes, {len(region.depths)} FIFOs."
    yield f"module {top} ("
    yield "  input wire clk,"
    yield "  input wire rst,  // synchronous, active high"
    lines = []
    for wires, one, other in ((inputs, "input", "output"), (outputs, "output", "input")):
        for wire in wires:
            lines += [f"  {one} wire [{wire.bits - 1}:0] {wire.name}_tdata", f"  {one} wire {wire.name}_tvalid"]
            lines += [f"  {other} wire {wire.name}_tready", f"  {one} wire {wire.name}_tlast"]
    masters = {found.name: found for found in design.weights_in_memory}
    for found in design.weights_in_memory:
        lines += master.ports(found)
    yield ",\n".join(lines)
    yield ");"
    instances: list[str] = []
    widths: dict[str, int] = {}
    for call in region.calls:
        if call.name in masters:
            continue
        machine = machines[call.name]
        given = dict(zip(machine.parameters, call.arguments, strict=True))
        links = [".clk(clk)", ".rst(rst)"]
        for into, streams in ((True, machine.inputs), (False, machine.outputs)):
            for port in streams:
                stream = given[port.name]
                widths[stream] = max(widths.get(stream, 0), port.width)
                names = verilog.handshakes(port.name)
                if stream in ports:
                    ends = (f"{{{stream}_tlast, {stream}_tdata}}", f"{stream}_tvalid", f"{stream}_tready")
                else:
                    side = "take" if into else "put"
                    ends = (f"{stream}_{side}", f"{stream}_{side}_valid", f"{stream}_{side}_ready")
                links += [f".{name}({end})" for name, end in zip(names, ends, strict=True)]
        instances.append(f"{verilog.titled(machine)} i_{call.name} (\n  {', '.join(links)});")
    filled = {call.arguments[1]: masters[call.name] for call in region.calls if call.name in masters}
    instances += [master.instance(found, widths[stream], stream, pauses[found.name]) for stream, found in filled.items()]
    asked = {stream.name: stream.storage for stream in design.streams}
    for stream, depth in region.depths.items():
        width = widths[stream]
        for side in ("put", "take"):
            yield f"wire [{width - 1}:0] {stream}_{side}; wire {stream}_{side}_valid, {stream}_{side}_ready;"
        links = [f".{side}{part}({stream}_{side}{part})" for side in ("put", "take") for part in ("", "_valid", "_ready")]
        sizes = f".W({width}), .D({depth}), .B({depth.bit_length()}), .A({max(1, (depth - 1).bit_length())})"
        kind = DEEP if fifo(depth, width, asked.get(stream, "auto")) in (Storage.BRAM, Storage.URAM) else FIFO
        instances.append(f"{kind} #({sizes}) f_{stream} (.clk(clk), .rst(rst),\n  {', '.join(links)});")
    yield from instances
    yield "endmodule"
