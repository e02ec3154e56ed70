"""An unrolled design as one Verilog module (IEEE 1364-2001): the stages of its plan as registers, AXI4-Streams around them. Text only, deterministic.

All stages move together, or wait while the result of the last one cannot leave. What goes round is control alone: whether a stage holds a frame.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import groupby

from qfx.fixed.packing import Port
from qfx.hardware.design.design import Design
from qfx.hardware.rtl import operations
from qfx.hardware.unrolled.cost import Pipeline
from qfx.hardware.unrolled.plan import Plan
from qfx.hardware.unrolled.program import Constant, Program, Source
from qfx.hardware.unrolled.ternary import ternary


def module(plan: Plan, top: str, model: str) -> str:
    """The module ``top``.

    Ports: ``clk``; ``rst`` (synchronous, active high); of each stream ``NAME_tdata``, ``NAME_tvalid``, ``NAME_tready`` and ``NAME_tlast``, by the
    rules of AXI4-Stream, numbers in a word as ``qfx.fixed.packing`` has them. A frame enters when the last word of each input is there, and at most
    one in ``plan.interval`` cycles; the last word of its result leaves in the cycle number ``plan.latency``, the first word counted as 1. TLAST of
    the first input's last word leaves with the last word of each output.

    Raises UnsupportedError, naming the layer, for what has no Verilog.
    """
    operations.check(plan.program)
    return "\n".join(_module(plan, top, model)) + "\n"


def combinational(program: Program) -> str:
    """The program without registers and handshakes: the module ``top`` with an input ``x<node>`` for each source, an output ``y<port>_<place>`` for
    each number. For counting its LUTs."""
    ports, body, joined = [], [], ternary(program)
    inner = set(joined.values())
    for place, node in enumerate(program.nodes):
        own = program.type(place)
        if isinstance(node, Source):
            ports.append(f"input [{own.width - 1}:0] x{place}")
            body.append(f"{operations.declared(program, place, f'v{place}')} = x{place};")
        elif not isinstance(node, Constant) and place not in inner:
            body += operations.lines(program, place, lambda source: f"v{source}", joined.get(place))
    for number, port in enumerate(program.outputs):
        for place, result in enumerate(port):
            node, own = program.nodes[result.node], program.type(result.node)
            ports.append(f"output [{own.width - 1}:0] y{number}_{place}")
            value = f"{own.width}'d{node.raw % (1 << own.width)}" if isinstance(node, Constant) else f"v{result.node}"
            body.append(f"assign y{number}_{place} = {value};")
    return f"module top({', '.join(ports)});\n" + "\n".join(body) + "\nendmodule\n"


def _module(plan: Plan, top: str, model: str) -> Iterator[str]:
    program, made, design = plan.program, plan.pipeline, plan.design
    end = made.depth + 1
    yield f"// {model}, unrolled: {program.operations} operations in {made.depth} stages."
    yield f"// A frame every {_cycles(plan.interval)}; the last word of its result leaves in cycle {plan.latency}, its first word counted as cycle 1."
    yield "// v12 is the number of operation 12, v12_s3 the same as stage 3 has it. Stages move together, while step is 1."
    yield f"module {top} ("
    yield "  input wire clk,"
    yield "  input wire rst,  // synchronous, active high"
    yield ",\n".join([*_ports(design.sources, "input", "output"), *_ports(design.sinks, "output", "input")])
    yield ");"
    yield f"reg [{end}:1] valid, last;  // which stages hold a frame; {end}: that of the result"
    yield "wire step, enter;"
    yield f"wire result = valid[{end}], result_last = last[{end}];"
    yield from _inputs(plan)
    yield "always @(posedge clk) begin"
    yield "  if (rst) valid <= 0;"
    yield f"  else if (step) valid <= {'enter' if end == 1 else f'{{valid[{end - 1}:1], enter}}'};"
    first = design.sources[0][0]
    yield f"  if (step) last <= {f'{first}_tlast' if end == 1 else f'{{last[{end - 1}:1], {first}_tlast}}'};"
    yield "end"
    yield from _stages(program, made, design)
    yield from _outputs(program, made, design)
    yield "endmodule"


def _cycles(count: int) -> str:
    return "cycle" if count == 1 else f"{count} cycles"


def _ports(ports: tuple[tuple[str, Port], ...], one: str, other: str) -> Iterator[str]:
    for name, port in ports:
        numbers = f"{port.type}, {port.words} {'word' if port.words == 1 else 'words'} a frame"
        yield f"  // {name}: {port.numbers} numbers of {numbers}, {port.parallel} in a word, each in {port.slot} bits\n" + ",\n".join(
            (
                f"  {one} wire [{port.word_bits - 1}:0] {name}_tdata",
                f"  {one} wire {name}_tvalid",
                f"  {other} wire {name}_tready",
                f"  {one} wire {name}_tlast",
            )
        )


def _travels(port: Port, place: int) -> int:
    """Where a number travels in a frame: pixel by pixel, channels innermost."""
    channel, pixel = divmod(place, port.pixels)
    return pixel * port.channels + channel


def _inputs(plan: Plan) -> Iterator[str]:
    """The frame of each input, complete with the word that is there; words before it wait in a register."""
    design = plan.design
    yield "// --- words that come"
    for name, port in design.sources:
        if port.words == 1:
            yield f"wire [{port.word_bits - 1}:0] {name}_frame = {name}_tdata;"
            yield f"wire {name}_whole = {name}_tvalid;"
            yield f"assign {name}_tready = enter;"
            continue
        count, wait, final = f"{name}_count", f"{name}_words", port.words - 1
        bits = final.bit_length()
        yield f"reg [{bits - 1}:0] {count};"
        yield f"reg [{port.word_bits * final - 1}:0] {wait};"
        yield f"wire [{port.word_bits * port.words - 1}:0] {name}_frame = {{{name}_tdata, {wait}}};"
        yield f"wire {name}_whole = {name}_tvalid & {count} == {bits}'d{final};"
        yield f"assign {name}_tready = {count} != {bits}'d{final} | enter;"
        yield "always @(posedge clk)"
        yield f"  if (rst) {count} <= 0;"
        yield f"  else if ({name}_tvalid & {name}_tready) begin"
        yield f"    {count} <= {count} == {bits}'d{final} ? {bits}'d0 : {count} + {bits}'d1;"
        moved = f"{name}_tdata" if final == 1 else f"{{{name}_tdata, {wait}[{port.word_bits * final - 1}:{port.word_bits}]}}"
        yield f"    if ({count} != {bits}'d{final}) {wait} <= {moved};"
        yield "  end"
    whole = " & ".join(f"{name}_whole" for name, _ in design.sources)
    if plan.interval == max(port.words for _, port in design.sources):
        yield f"assign enter = step & {whole};"
        return
    # Results take more words than frames: those that enter faster than they leave would wait within the pipeline.
    bits = (plan.interval - 1).bit_length()
    yield f"reg [{bits - 1}:0] pause;  // cycles before the next frame may enter"
    yield f"assign enter = step & pause == 0 & {whole};"
    yield "always @(posedge clk)"
    yield "  if (rst) pause <= 0;"
    yield f"  else if (enter) pause <= {bits}'d{plan.interval - 1};"
    yield f"  else if (pause != 0) pause <= pause - {bits}'d1;"


def _stages(program: Program, made: Pipeline, design: Design) -> Iterator[str]:
    """Every operation in its stage, and behind each stage the registers of what later ones read. A sum that another one takes in has no wire."""
    moves: dict[int, list[str]] = defaultdict(list)
    computing: list[int] = []
    inner = set(made.joined.values())
    sources: list[str] = []
    for place, node in enumerate(program.nodes):
        if isinstance(node, Constant):
            continue
        stage, name = made.stages[place], f"v{place}"
        if isinstance(node, Source):
            port_name, port = design.sources[node.port]
            low = _travels(port, node.place) * port.slot + node.down
            sources.append(f"{operations.declared(program, place, name, 'reg')};")
            moves[0].append(f"{name} <= {port_name}_frame[{low + program.type(place).width - 1}:{low}];")
        else:
            computing.append(place)
        for kept in range(made.registers[place]):
            moves[stage + kept].append(f"{_at(name, stage, stage + kept + 1)} <= {_at(name, stage, stage + kept)};")
    yield "// --- numbers that come"
    yield from sources
    declared = (
        f"{operations.declared(program, place, _at(f'v{place}', made.stages[place], made.stages[place] + kept), 'reg')};"
        for place, node in enumerate(program.nodes)
        if not isinstance(node, Constant)
        for kept in range(1, made.registers[place] + 1)
    )
    yield "// --- numbers that stages hand on"
    yield from declared
    for layer, places in groupby(computing, lambda place: program.layers[place]):
        group = list(places)
        yield f"// --- {layer}: {len(group)} operations"
        for place in group:
            if place not in inner:
                yield from operations.lines(program, place, _reader(made, made.stages[place]), made.joined.get(place))
    for stage in sorted(moves):
        yield f"// --- from stage {stage} to stage {stage + 1}"
        yield "always @(posedge clk) if (step) begin"
        yield from (f"  {line}" for line in moves[stage])
        yield "end"


def _at(name: str, first: int, stage: int) -> str:
    """What a number of stage ``first`` is called in a later one."""
    return name if stage == first else f"{name}_s{stage}"


def _reader(made: Pipeline, stage: int) -> Callable[[int], str]:
    """What numbers are called in a stage."""
    return lambda source: _at(f"v{source}", made.stages[source], stage)


def _outputs(program: Program, made: Pipeline, design: Design) -> Iterator[str]:
    """The words of each output: the first one straight from the last stage, those behind it from a register, so that the stages go on meanwhile."""
    end = made.depth + 1
    several = len(design.sinks) > 1
    gone = []
    yield "// --- words that leave"
    for (name, port), results in zip(design.sinks, program.outputs, strict=True):
        yield f"wire [{port.word_bits * port.words - 1}:0] {name}_frame;"
        for place, result in enumerate(results):
            low = _travels(port, place) * port.slot
            yield f"assign {name}_frame[{low + port.slot - 1}:{low}] = {_raw(program, made, result.node, result.up, port.slot, end)};"
        fresh = f"result & ~{name}_sent" if several else "result"
        if port.words == 1:
            yield f"assign {name}_tdata = {name}_frame, {name}_tvalid = {fresh}, {name}_tlast = result_last;"
            first = f"{name}_tvalid & {name}_tready"
        else:
            left, wait, more = f"{name}_left", f"{name}_words", port.words - 1
            bits, high = more.bit_length(), port.word_bits * more - 1
            yield f"reg [{bits - 1}:0] {left};"
            yield f"reg [{high}:0] {wait};"
            yield f"reg {name}_ends;"
            yield f"assign {name}_tvalid = {left} != 0 | ({fresh});"
            yield f"assign {name}_tdata = {left} != 0 ? {wait}[{port.word_bits - 1}:0] : {name}_frame[{port.word_bits - 1}:0];"
            yield f"assign {name}_tlast = {left} == {bits}'d1 & {name}_ends;"
            first = f"{left} == 0 & {name}_tvalid & {name}_tready"
            yield "always @(posedge clk)"
            yield f"  if (rst) {left} <= 0;"
            yield f"  else if ({first}) begin"
            yield f"    {left} <= {bits}'d{more};"
            yield f"    {wait} <= {name}_frame[{port.word_bits * port.words - 1}:{port.word_bits}];"
            yield f"    {name}_ends <= result_last;"
            yield f"  end else if ({left} != 0 & {name}_tready) begin"
            yield f"    {left} <= {left} - {bits}'d1;"
            if more > 1:
                yield f"    {wait} <= {wait} >> {port.word_bits};"
            yield "  end"
        if several:
            yield f"reg {name}_sent;  // of the frame in the last stage"
            yield f"always @(posedge clk) if (rst | step) {name}_sent <= 0; else if ({first}) {name}_sent <= 1;"
            gone.append(f"({name}_sent | ({first}))")
        else:
            gone.append(f"({first})")
    yield f"assign step = ~result | ({' & '.join(gone)});"


def _raw(program: Program, made: Pipeline, node: int, up: int, slot: int, end: int) -> str:
    """The bits of a number that leaves, in its slot."""
    known = program.nodes[node]
    if isinstance(known, Constant):
        return f"{slot}'h{(known.raw << up) % (1 << slot):x}"
    own, name = program.type(node), _at(f"v{node}", made.stages[node], end)
    above = slot - own.width - up
    sign = [f"{{{above}{{{name}[{own.width - 1}]}}}}" if own.signed else f"{above}'d0"] if above > 0 else []
    high = own.width if above >= 0 else own.width + above
    bits = name if high == own.width else f"{name}[{high - 1}:0]"
    return f"{{{', '.join([*sign, bits, *([f'{up}{chr(39)}d0'] if up else [])])}}}"
