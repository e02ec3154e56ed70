"""Simulation of machines with Icarus Verilog: each process by itself, or all of them with their FIFOs.

The test benches only write down what happens and when; what should have happened is compared in Python.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qfx.hardware.rtl.machines.llvm import RtlError
from qfx.hardware.rtl.machines.netlist import Machine
from qfx.hardware.rtl.machines.sources import Call
from qfx.hardware.rtl.machines.verilog import TURN_BITS, handshakes, module, shared, titled
from support.rtl.tools import tools

QUIET = 300
"""Cycles without any turn after which nothing will happen any more."""

_TIMEOUT_S = 600


@dataclass(slots=True)
class Seen:
    """Of a process or of the ports of a design: per stream the moment of each word, and its digits where it leaves. A moment is the turn of the frame
    for a process by itself, the cycle for a design. ``frames``: of a process by itself the turns of each frame, in a design the cycle of its end.
    ``clashes``: of a process by itself the arrays that a turn read where it wrote;
    ``distances``: the least number of turns between a store and a load of what it stored."""

    reads: dict[str, list[int]] = field(default_factory=dict)
    writes: dict[str, list[int]] = field(default_factory=dict)
    words: dict[str, list[str]] = field(default_factory=dict)
    frames: list[int] = field(default_factory=list)
    clashes: set[str] = field(default_factory=set)
    distances: dict[str, int] = field(default_factory=dict)


def alone(
    machines: Mapping[str, Machine], calls: Sequence[Call], words: Mapping[str, Sequence[int]], folder: Path, *, frames: int, load: bool, stalls: bool
) -> dict[str, Seen]:
    """Every process between sources and sinks that are always ready, or, with ``stalls``, at random."""
    return _run(_bench(machines, calls, words, folder, frames, load), [*machines.values()], folder, [call.name for call in calls], stalls)


def together(
    machines: Mapping[str, Machine],
    calls: Sequence[Call],
    depths: Mapping[str, int],
    words: Mapping[str, Sequence[int]],
    folder: Path,
    *,
    frames: int,
    load: bool,
    pauses: Mapping[str, int],
    stalls: bool = False,
) -> dict[str, Seen]:
    """All processes with FIFOs of these depths. ``words``: what comes in at each port. Between two frames of a process lie its ``pauses``, at least
    one cycle. The entry "" of the result has the ports."""
    lines = _design(machines, calls, depths, words, folder, frames, load, pauses)
    return _run(lines, [*machines.values()], folder, ["", *(call.name for call in calls)], stalls)


def text_of(digits: str) -> int | None:
    """The number of a word; None if some of its bits are unknown."""
    return int(digits, 16) if all(letter in "0123456789abcdef" for letter in digits) else None


def _run(bench: Iterator[str], machines: Sequence[Machine], folder: Path, names: Sequence[str], stalls: bool) -> dict[str, Seen]:
    source, compiled, log = folder / "bench.v", folder / "bench.vvp", folder / "bench.log"
    source.write_text("\n".join([*map(module, machines), _FIFO, *bench]) + "\n", encoding="utf-8")
    done = subprocess.run([tools().iverilog, "-g2001", "-o", str(compiled), str(source)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RtlError(f"iverilog refuses the Verilog:\n{(done.stdout + done.stderr)[:4000]}")
    command = [tools().vvp, "-n", str(compiled), f"+log={log}", *(["+stall"] if stalls else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    if done.returncode or done.stderr:
        raise RtlError(f"vvp ends with status {done.returncode}: {(done.stdout + done.stderr)[:4000]}")
    seen = {name: Seen() for name in names}
    by_name = {machine.name: machine for machine in machines}
    for line in log.read_text(encoding="utf-8").splitlines():
        kind, place, *rest = line.split()
        one = seen[names[int(place)]]
        if kind == "r":
            one.reads.setdefault(rest[0], []).append(int(rest[1]))
        elif kind == "w":
            one.writes.setdefault(rest[0], []).append(int(rest[1]))
            one.words.setdefault(rest[0], []).append(rest[2])
        elif kind == "c":
            clashes = enumerate(reversed(rest[0]))
            one.clashes.update(shared(by_name[names[int(place)]])[bit].array for bit, letter in clashes if letter != "0")
        elif kind == "d":
            for bit, memory in enumerate(shared(by_name[names[int(place)]])):
                least = int(rest[0], 16) >> 32 * bit & 0xFFFFFFFF
                if least != 0xFFFFFFFF:
                    one.distances[memory.array] = min(least, one.distances.get(memory.array, least))
        else:
            one.frames.append(int(rest[0]))
    return seen


_FIFO = f"""module qfx_fifo #(parameter W = 1, D = 1) (
  input clk, input rst, input [W-1:0] put, input put_valid, output put_ready, output [W-1:0] take, output take_valid, input take_ready);
  reg [W-1:0] words [0:D-1];
  reg [{TURN_BITS - 1}:0] held, first, next;
  assign put_ready = held < D;
  assign take_valid = held != 0;
  assign take = words[first];
  always @(posedge clk)
    if (rst) begin held <= 0; first <= 0; next <= 0; end
    else begin
      if (put_valid & put_ready) begin words[next] <= put; next <= next == D - 1 ? 0 : next + 1; end
      if (take_valid & take_ready) first <= first == D - 1 ? 0 : first + 1;
      held <= held + (put_valid & put_ready) - (take_valid & take_ready);
    end
endmodule"""

_HEAD = """module bench;
  reg clk = 0, rst = 1;
  reg [8*1024-1:0] path;
  integer log, stall, quiet = 0, cycle = 0;
  initial begin
    if (!$value$plusargs("log=%s", path)) $finish;
    log = $fopen(path, "w");
    stall = $test$plusargs("stall");
  end
  always #1 clk = ~clk;"""


def _end(fired: Sequence[str], body: Sequence[str]) -> Iterator[str]:
    yield "  always @(posedge clk) begin"
    yield "    cycle <= cycle + 1;"
    yield "    if (cycle == 3) rst <= 0;"
    yield "    if (!rst) begin"
    yield f"      quiet <= {' | '.join(fired)} ? 0 : quiet + 1;"
    yield f"      if (quiet == {QUIET}) begin $fclose(log); $finish(0); end"
    yield from body
    yield "    end"
    yield "  end"
    yield "endmodule"


def _source(name: str, words: Sequence[int], width: int, folder: Path) -> Iterator[str]:
    """Words that come one after the other."""
    file = folder / f"{name}.hex"
    file.write_text("".join(f"{word:x}\n" for word in words) or "0\n", encoding="utf-8")
    count = max(len(words), 1)
    yield f"  reg [{width - 1}:0] {name}_words [0:{count}];"
    yield f"  integer {name}_at = 0; reg {name}_open = 0;"
    yield f'  initial $readmemh("{file}", {name}_words, 0, {count - 1});'
    yield f"  wire [{width - 1}:0] {name} = {name}_words[{name}_at];"
    yield f"  wire {name}_ready; wire {name}_valid = {name}_at < {len(words)} && {name}_open;"


def _sink(name: str, width: int) -> Iterator[str]:
    yield f"  reg {name}_open = 0;"
    yield f"  wire [{width - 1}:0] {name}; wire {name}_valid; wire {name}_ready = {name}_open;"


def _wires(place: int, machine: Machine) -> str:
    """What the process number ``place`` tells of itself."""
    kept = max(len(shared(machine)), 1)
    wires = {"fired": 1, "done": 1, "turn": TURN_BITS, "clash": kept, "distance": 32 * kept}
    return "".join(f"  wire [{width - 1}:0] p{place}_{name};" for name, width in wires.items()) + f" integer p{place}_frame = 0;"


def _links(place: int, machine: Machine, frames: int, load: bool) -> list[str]:
    """Its connections, streams left out. Behind its last frame it rests."""
    links = [".clk(clk)", f".rst(rst | p{place}_frame == {frames})"]
    links += [f".{name}(p{place}_{name})" for name in ("fired", "done", "turn", "clash", "distance")]
    return links + [f".a_{name}(p{place}_frame == 0 && {int(load)})" for name in machine.arguments]


_OPEN = "!stall || ($random & 3) != 0"


def _bench(
    machines: Mapping[str, Machine], calls: Sequence[Call], words: Mapping[str, Sequence[int]], folder: Path, frames: int, load: bool
) -> Iterator[str]:
    yield _HEAD
    fired, body = [], []
    for place, call in enumerate(calls):
        machine = machines[call.name]
        given = dict(zip(machine.parameters, call.arguments, strict=True))
        yield _wires(place, machine)
        links = _links(place, machine, frames, load)
        for into, ports in ((True, machine.inputs), (False, machine.outputs)):
            for port in ports:
                name = f"p{place}_{port.name}"
                yield from _source(name, words[given[port.name]], port.width, folder) if into else _sink(name, port.width)
                links += [f".{one}({other})" for one, other in zip(handshakes(port.name), (name, f"{name}_valid", f"{name}_ready"), strict=True)]
                kind, more = ("r", "") if into else ("w", f", {name}")
                form = "\\n" if into else " %h\\n"
                turn = f"$signed(p{place}_turn)"
                body.append(f"      if ({name}_valid & {name}_ready) begin")
                body.append(f'        $fwrite(log, "{kind} {place} {given[port.name]} %0d{form}", {turn}{more});')
                if into:
                    body.append(f"        {name}_at <= {name}_at + 1;")
                body.append("      end")
                body.append(f"      {name}_open <= {_OPEN};")
        body.append(f'      if (p{place}_clash) $fwrite(log, "c {place} %b\\n", p{place}_clash);')
        body.append(f"      if (p{place}_done) begin")
        body.append(f'        $fwrite(log, "f {place} %0d\\n", $signed(p{place}_turn) + 1); p{place}_frame <= p{place}_frame + 1;')
        body.append(f'        $fwrite(log, "d {place} %h\\n", p{place}_distance);')
        body.append("      end")
        fired += [f"p{place}_fired", f"p{place}_done"]
        yield f"  {titled(machine)} #(.RESTART(1)) p{place} ({', '.join(links)});"
    yield from _end(fired, body)


def _design(
    machines: Mapping[str, Machine],
    calls: Sequence[Call],
    depths: Mapping[str, int],
    words: Mapping[str, Sequence[int]],
    folder: Path,
    frames: int,
    load: bool,
    pauses: Mapping[str, int],
) -> Iterator[str]:
    yield _HEAD
    fired, body = list[str](), list[str]()
    widths: dict[str, int] = {}
    instances: list[str] = []
    ends: dict[str, list[str]] = {}
    for place, call in enumerate(calls):
        machine = machines[call.name]
        given = dict(zip(machine.parameters, call.arguments, strict=True))
        yield _wires(place, machine)
        links = _links(place, machine, frames, load)
        for into, ports in ((True, machine.inputs), (False, machine.outputs)):
            for port in ports:
                stream = given[port.name]
                widths[stream] = max(widths.get(stream, 0), port.width)
                ends.setdefault(stream, []).append("take" if into else "put")
                side = "" if stream not in depths else "_take" if into else "_put"
                wires = (f"s_{stream}{side}", f"s_{stream}{side}_valid", f"s_{stream}{side}_ready")
                links += [f".{one}({other})" for one, other in zip(handshakes(port.name), wires, strict=True)]
        body.append(f'      if (p{place}_done) begin $fwrite(log, "f {place + 1} %0d\\n", cycle); p{place}_frame <= p{place}_frame + 1; end')
        fired += [f"p{place}_fired", f"p{place}_done"]
        instances.append(f"  {titled(machine)} #(.RESTART({pauses.get(call.name, 1)})) p{place} ({', '.join(links)});")
    for stream, depth in depths.items():
        width = widths[stream]
        for side in ("put", "take"):
            yield f"  wire [{width - 1}:0] s_{stream}_{side}; wire s_{stream}_{side}_valid, s_{stream}_{side}_ready;"
        links = [f".{side}{part}(s_{stream}_{side}{part})" for side in ("put", "take") for part in ("", "_valid", "_ready")]
        instances.append(f"  qfx_fifo #(.W({width}), .D({depth})) f_{stream} (.clk(clk), .rst(rst), {', '.join(links)});")
    for stream, sides in ends.items():
        if stream in depths:
            continue
        name = f"s_{stream}"
        into = sides == ["take"]
        yield from _source(name, words[stream], widths[stream], folder) if into else _sink(name, widths[stream])
        kind, more, form = ("r", "", "\\n") if into else ("w", f", {name}", " %h\\n")
        step = f" {name}_at <= {name}_at + 1;" if into else ""
        body.append(f'      if ({name}_valid & {name}_ready) begin $fwrite(log, "{kind} 0 {stream} %0d{form}", cycle{more});{step} end')
        body.append(f"      {name}_open <= {_OPEN};")
    yield from instances
    yield from _end(fired, body)
