"""What the pieces of a layer cost, measured: Verilog of each piece -> Yosys ``synth_xilinx`` -> cells -> ``pieces.csv``.

The estimator's formulas (``qfx/hardware/cost/resources.py``) are held to this file by ``tests/hardware/cost/test_estimate.py``. Needs Yosys;
the tests do not.
"""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from qfx.hardware.rtl.luts import sites

DATA = Path(__file__).with_name("pieces.csv")
FAMILIES = {"ultrascale+": "xcup", "7series": "xc7"}
FLAGS = "-noiopad -noclkbuf"
_NARROW, _WIDE, _NO_DSP = "-nowidelut", "", "-nowidelut -nodsp"  # with or without the F7, F8 multiplexers


@dataclass(frozen=True)
class Piece:
    """One module: ``kind`` and ``sizes`` name it for the formulas, ``ports`` and ``body`` are its Verilog."""

    kind: str
    sizes: tuple[int, ...]
    ports: str
    body: str
    flags: str = _NARROW

    @property
    def name(self) -> str:
        return "_".join((self.kind, *map(str, self.sizes)))

    @property
    def verilog(self) -> str:
        return f"module {self.name}(input clk, {self.ports});\n{self.body}\nendmodule\n"


def pieces() -> Iterable[Piece]:
    """All pieces that are measured."""
    for a in (2, 3, 4, 5, 6, 8, 10, 12, 16, 18, 24, 27, 28, 32):
        for b in (2, 3, 4, 6, 8, 12, 16, 18, 24):
            if b <= a:
                if a <= 18:
                    yield _rows_multiplier(a, b)
                if a >= 8 and b >= 8:
                    yield _multiplier(a, b)
    for width in (4, 8, 12, 16, 24, 32):
        yield Piece("add", (width,), f"input signed [{width - 1}:0] a, b, output signed [{width - 1}:0] y", "assign y = a + b;")
        yield Piece("max", (width,), f"input signed [{width - 1}:0] a, b, output signed [{width - 1}:0] y", "assign y = a < b ? b : a;")
        yield Piece("relu", (width,), f"input signed [{width - 1}:0] a, output signed [{width - 1}:0] y", f"assign y = a[{width - 1}] ? 0 : a;")
        body = f"always @(posedge clk) acc <= (first ? {width}'sd0 : acc) + x;"
        yield Piece("accumulate", (width,), f"input first, input signed [{width - 1}:0] x, output reg signed [{width - 1}:0] acc", body)
        body = f"always @(posedge clk) n <= n == {(1 << width) - 3} ? 0 : n + 1;"
        yield Piece("counter", (width,), f"output reg [{width - 1}:0] n", body)
    for source, target, drop in ((16, 8, 4), (20, 8, 8), (24, 8, 10), (14, 4, 6), (24, 16, 6), (32, 16, 12), (20, 8, 0), (12, 6, 2)):
        for rounding in ("trn", "rnd", "conv"):
            for saturating in (0, 1):
                yield _cast(source, target, drop, rounding, saturating)
    for inputs in (2, 4, 8, 16, 32):
        for width in (8, 12, 16):
            yield _tree(inputs, width)
    for depth in (4, 16, 32, 64, 128, 256, 512):
        for width in (8, 16):
            yield _rom(depth, width)
    for depth in (2, 16, 32, 64, 128):
        for width in (8, 32):
            yield _srl_fifo(depth, width)
    for depth in (16, 32, 64, 128, 256):
        for width in (8, 32, 64):
            yield _lutram(depth, width)
    for ways in (2, 4, 8, 16):
        for width in (8, 16):
            yield _multiplexer(ways, width)
    for digits in (1, 2, 3):
        for span in (2, 4, 7):
            for width in (4, 8):
                yield _digit_product(digits, span, width)
    for count, chain, split, known in (
        (2, 8, 19, 0),
        (2, 4, 16, 1),
        (2, 4, 16, 2),
        (2, 8, 17, 2),
        (3, 8, 11, 0),
        (3, 8, 10, 1),
        (3, 2, 9, 2),
        (4, 4, 7, 0),
        (4, 1, 7, 1),
        (4, 2, 7, 2),
        (4, 8, 11, 0),
        (4, 8, 10, 1),
    ):
        yield _split(count, chain, split, known)
    for width, chain in ((8, 3), (8, 5), (8, 8), (16, 4)):
        yield _column(width, chain)
    for stages in (2, 4, 8, 12, 20):
        for inputs, outputs in ((1, 1), (2, 1), (1, 2), (3, 3)):
            yield _handshake(stages, inputs, outputs)


def _multiplier(a: int, b: int) -> Piece:
    return Piece("mul_dsp", (a, b), f"input signed [{a - 1}:0] a, input signed [{b - 1}:0] b, output signed [{a + b - 1}:0] p", "assign p = a * b;")


def _rows_multiplier(a: int, b: int) -> Piece:
    """Signed a x b: one carry chain for every two bits of b (each adds two partial products), then a tree of adders. Vivado builds the like."""
    width = a + b
    lines, terms = [], []  # registers between the levels, as in a pipeline; without them Yosys would build compressors instead of carry chains
    for row in range(0, b, 2):
        last = row + 1 >= b - 1
        low = f"(b[{row}] ? {{{{{width - a}{{a[{a - 1}]}}}}, a}} : {width}'d0)"
        if row + 1 == b:  # the sign bit stands alone
            expression = f"{width}'d0 - {low}"
        else:
            high = f"((b[{row + 1}] ? {{{{{width - a}{{a[{a - 1}]}}}}, a}} : {width}'d0) << 1)"
            expression = f"{low} {'-' if last else '+'} {high}"
        # a row is a + 2 bits wide; the sign extends it
        lines.append(f"wire [{width - 1}:0] full{row} = {expression};")
        lines.append(f"reg signed [{a + 1}:0] row{row}; always @(posedge clk) row{row} <= full{row}[{a + 1}:0];")
        terms.append((f"row{row}", a + 2, row))
    count = 0
    while len(terms) > 1:
        following = []
        for left, right in zip(terms[::2], terms[1::2], strict=False):
            (x, wx, sx), (y, wy, sy) = left, right
            grown = min(max(wx, wy + sy - sx) + 1, width - sx)
            lines.append(f"reg signed [{grown - 1}:0] sum{count}; always @(posedge clk) sum{count} <= {x} + ($signed({{{y}, {sy - sx}'d0}}));")
            following.append((f"sum{count}", grown, sx))
            count += 1
        if len(terms) % 2:
            following.append(terms[-1])
        terms = following
    lines.append(f"assign p = {terms[0][0]};")
    ports = f"input signed [{a - 1}:0] a, input signed [{b - 1}:0] b, output signed [{width - 1}:0] p"
    return Piece("mul_lut", (a, b), ports, "\n".join(lines), _NO_DSP)


def _cast(source: int, target: int, drop: int, rounding: str, saturating: int) -> Piece:
    if rounding == "trn" or drop == 0:
        rounded = f"wire signed [{source - drop}:0] r = x >>> {drop};"
    else:
        up = f"x[{drop - 1}]" if rounding == "rnd" else f"(x[{drop - 1}] & (x[{drop}] | (|x[{max(drop - 2, 0)}:0])))"
        rounded = f"wire signed [{source - drop}:0] r = $signed(x[{source - 1}:{drop}]) + $signed({{1'b0, {up}}});"
    top, bottom = (1 << (target - 1)) - 1, 1 << (target - 1)
    clipped = f"(r > {top} ? {target}'sd{top} : r < -{bottom} ? -{target}'sd{bottom} : r[{target - 1}:0])" if saturating else f"r[{target - 1}:0]"
    ports = f"input signed [{source - 1}:0] x, output signed [{target - 1}:0] y"
    return Piece(f"cast_{rounding}_{'sat' if saturating else 'wrap'}", (source, target, drop), ports, f"{rounded}\nassign y = {clipped};")


def _tree(inputs: int, width: int) -> Piece:
    ports = ", ".join(f"input signed [{width - 1}:0] x{i}" for i in range(inputs))
    names, lines, grown = [f"x{i}" for i in range(inputs)], [], width
    while len(names) > 1:
        grown += 1
        following = [f"s{grown}_{i}" for i in range(len(names) // 2)]
        sums = [(y, f"{names[2 * i]} + {names[2 * i + 1]}") for i, y in enumerate(following)]
        lines += [f"reg signed [{grown - 1}:0] {y}; always @(posedge clk) {y} <= {sum_};" for y, sum_ in sums]
        names = following
    return Piece("tree", (inputs, width), f"{ports}, output signed [{grown - 1}:0] y", "\n".join([*lines, f"assign y = {names[0]};"]))


def _rom(depth: int, width: int) -> Piece:
    """Random bits, read into registers; kept out of block RAM."""
    generator = random.Random(depth * 1000 + width)
    bits = max(depth - 1, 1).bit_length()
    cases = "\n".join(f"{bits}'d{i}: y <= {width}'d{generator.getrandbits(width)};" for i in range(depth))
    body = f"always @(posedge clk) case (a)\n{cases}\nendcase"
    return Piece(
        "rom_lut", (depth, width), f"input [{bits - 1}:0] a, output reg [{width - 1}:0] y", f'(* rom_style = "distributed" *)\n{body}', _WIDE
    )


def _srl_fifo(depth: int, width: int) -> Piece:
    """A shift register with an address counter, full and empty flags: how HLS tools build shallow streams."""
    bits = max(depth - 1, 1).bit_length()
    lanes = "\n".join(
        f"reg [{depth - 1}:0] lane{i}; always @(posedge clk) if (push) lane{i} <= {{lane{i}, d[{i}]}}; assign q[{i}] = lane{i}[last[{bits - 1}:0]];"
        for i in range(width)
    )
    body = f"""reg [{bits}:0] last; reg empty_n, full_n;
wire push = write & full_n, pop = read & empty_n;
{lanes}
assign {{e, f}} = {{empty_n, full_n}};
always @(posedge clk)
  if (rst) begin last <= -1; empty_n <= 0; full_n <= 1; end
  else if (push & ~pop) begin last <= last + 1; empty_n <= 1; full_n <= last != {depth - 2}; end
  else if (pop & ~push) begin last <= last - 1; full_n <= 1; empty_n <= last != 0; end"""
    return Piece("fifo_srl", (depth, width), f"input rst, write, read, input [{width - 1}:0] d, output [{width - 1}:0] q, output e, f", body)


def _lutram(depth: int, width: int) -> Piece:
    bits = (depth - 1).bit_length()
    body = f"""(* ram_style = "distributed" *) reg [{width - 1}:0] memory [0:{depth - 1}];
always @(posedge clk) if (we) memory[wa] <= d;
always @(posedge clk) q <= memory[ra];"""
    return Piece(
        "lutram", (depth, width), f"input we, input [{bits - 1}:0] wa, ra, input [{width - 1}:0] d, output reg [{width - 1}:0] q", body, _WIDE
    )


def _multiplexer(ways: int, width: int) -> Piece:
    bits = (ways - 1).bit_length()
    return Piece(
        "mux",
        (ways, width),
        f"input [{bits - 1}:0] s, input [{ways * width - 1}:0] x, output [{width - 1}:0] y",
        f"assign y = x >> (s * {width});",
        _WIDE,
    )


def _digit_product(digits: int, span: int, width: int) -> Piece:
    """x times the sum of ``digits`` signed digits that a code chooses: each one of ``span`` shifts or zero, added or subtracted."""
    field, out = span.bit_length(), width + span + 2
    lines = []
    for i in range(digits):
        low = i * (field + 1)
        lines.append(f"wire [{field - 1}:0] f{i} = code[{low + field - 1}:{low}]; wire n{i} = code[{low + field}];")
        lines.append(f"reg signed [{out - 1}:0] m{i}; reg g{i};")
        lines.append(f"always @(posedge clk) begin m{i} <= f{i} == {span} ? 0 : x <<< f{i}; g{i} <= n{i}; end")
    value = "(g0 ? -m0 : m0)"
    for i in range(1, digits):
        lines.append(f"reg signed [{out - 1}:0] s{i}; always @(posedge clk) s{i} <= g{i} ? {value} - m{i} : {value} + m{i};")
        value = f"s{i}"
    lines.append(f"assign y = {value};")
    ports = f"input [{digits * (field + 1) - 1}:0] code, input signed [{width - 1}:0] x, output signed [{out - 1}:0] y"
    return Piece("digit_product", (digits, span, width), ports, "\n".join(lines))


def _split(count: int, chain: int, split: int, known: int) -> Piece:
    """The sum of a chain of packed products, read as its fields (qfx/hardware/design/dsp.py); the known bits are made of the factors' lowest bits a
    chain and three registers earlier."""
    width, bits = split + known, max(known, 1)
    lines = []
    for k in range(count - 1):
        if known:
            terms = [f"w[{(lane * count + k + 1) * bits} +: {bits}] * x[{lane * bits} +: {bits}]" for lane in range(chain)]
            lines.append(f"reg [{bits - 1}:0] known{k} [0:{chain + 2}]; integer i{k};")
            lines.append(f"wire [{bits - 1}:0] sum{k} = {' + '.join(terms)};")
            moved = f"for (i{k} = 1; i{k} <= {chain + 2}; i{k} = i{k} + 1) known{k}[i{k}] <= known{k}[i{k} - 1];"
            lines.append(f"always @(posedge clk) begin known{k}[0] <= sum{k}; {moved} end")
            lines.append(f"wire [{bits - 1}:0] top{k} = p[{(k + 1) * split} +: {bits}] - known{k}[{chain + 2}];")
            lines.append(f"wire signed [{width - 1}:0] field{k} = {{top{k}, p[{k * split} +: {split}]}};")
        else:
            lines.append(f"wire signed [{width - 1}:0] field{k} = p[{k * split} +: {split}];")
    lines.append(f"wire signed [{width - 1}:0] field{count - 1} = p[{(count - 1) * split} +: {width}];")
    for k in range(count):
        carried = "" if k == 0 else f" - (field{k - 1} >>> {split})" if known else f" + field{k - 1}[{width - 1}]"
        lines.append(f"reg [{width - 1}:0] y{k}; always @(posedge clk) y{k} <= field{k}{carried}; assign y[{k * width} +: {width}] = y{k};")
    ports = (
        f"input [{count * width - 1}:0] p, input [{chain * count * bits - 1}:0] w, input [{chain * bits - 1}:0] x, output [{count * width - 1}:0] y"
    )
    return Piece("split", (count, chain, split, known), ports, "\n".join(lines))


def _column(width: int, chain: int) -> Piece:
    """A chain of products of two signed numbers of so many bits, each with a block's registers, its factors a cycle later than those before."""
    lines = []
    for lane in range(chain):
        names = []
        for side in "ab":
            names.append(f"{side}[{lane * width} +: {width}]")
            for step in range(lane + 1):
                lines.append(f"reg signed [{width - 1}:0] {side}{lane}_{step}; always @(posedge clk) {side}{lane}_{step} <= {names[-1]};")
                names[-1] = f"{side}{lane}_{step}"
        lines.append(f"reg signed [{2 * width - 1}:0] m{lane}; reg signed [47:0] p{lane};")
        lines.append(f"always @(posedge clk) begin m{lane} <= {names[0]} * {names[1]}; p{lane} <= m{lane}{f' + p{lane - 1}' if lane else ''}; end")
    ports = f"input signed [{chain * width - 1}:0] a, b, output signed [47:0] y"
    return Piece("column", (width, chain), ports, "\n".join([*lines, f"assign y = p{chain - 1};"]))


def _handshake(stages: int, inputs: int, outputs: int) -> Piece:
    """What a pipelined loop over streams has beside its arithmetic: the handshake of a block (start, ready, done, continue, idle; UG1399, block-level
    control protocols), a bit for each stage that says whether a turn is in it, and the gate that stops all while a FIFO that a turn uses is empty or
    full."""
    ports = ["input rst, start, resume, last, output reg done, output ready, idle, enable"]
    ports += [f"input in{i}_empty_n, in{i}_used, output in{i}_read" for i in range(inputs)]
    ports += [f"input out{i}_full_n, out{i}_used, output out{i}_write" for i in range(outputs)]
    there = " & ".join(f"(in{i}_empty_n | ~in{i}_used)" for i in range(inputs))
    room = " & ".join(f"(out{i}_full_n | ~(valid[{stages - 1}] & out{i}_used))" for i in range(outputs))
    lines = [
        f"reg running, finished; reg [{stages - 1}:0] valid;",
        f"wire begins = running & start & ~finished, stuck = (begins & ~({there})) | ~({room}), taken = begins & ~stuck, empty = ~running & ~|valid;",
        "assign enable = ~stuck, ready = taken & last, idle = running & ~start & ~|valid;",
        "always @(posedge clk) if (rst) begin running <= 1; finished <= 0; done <= 0; valid <= 0; end else begin",
        f"if (~stuck) valid <= {{valid[{stages - 2}:0], taken}};",
        "if (ready) running <= 0; else if (empty) running <= 1;",
        "finished <= ~resume & (finished | empty); done <= empty & ~resume; end",
        *(f"assign in{i}_read = taken & in{i}_used;" for i in range(inputs)),
        *(f"assign out{i}_write = valid[{stages - 1}] & out{i}_used & ~stuck;" for i in range(outputs)),
    ]
    return Piece("handshake", (stages, inputs, outputs), ", ".join(ports), "\n".join(lines))


def measure(family: str) -> list[dict[str, object]]:
    """One row per piece. Modules are synthesized apart (no flattening), so that one run of Yosys measures many."""
    rows: list[dict[str, object]] = []
    for flags in (_NARROW, _WIDE, _NO_DSP):
        chosen = [piece for piece in pieces() if piece.flags == flags]
        with tempfile.TemporaryDirectory() as folder:
            source, result = Path(folder) / "pieces.v", Path(folder) / "netlist.json"
            instances = "\n".join(f"(* keep *) {piece.name} i_{piece.name}();" for piece in chosen)
            source.write_text("".join(piece.verilog for piece in chosen) + f"module top();\n{instances}\nendmodule\n")
            script = f"read_verilog {source}; synth_xilinx -top top {FLAGS} {flags} -family {FAMILIES[family]}; write_json {result}"
            subprocess.run(["yosys", "-q", "-p", script], check=True, capture_output=True)
            modules = json.loads(result.read_text())["modules"]
        for piece in chosen:
            cells = modules[piece.name]["cells"]
            types = Counter(str(cell["type"]) for cell in cells.values())
            count = {prefix: sum(n for name, n in types.items() if name.startswith(prefix)) for prefix in ("LUT", "CARRY", "FD", "DSP")}
            name = {"family": family, "kind": piece.kind, "sizes": " ".join(map(str, piece.sizes))}
            rows.append(name | {"lut": sites(cells), "lut_cells": count["LUT"], "carry": count["CARRY"], "ff": count["FD"], "dsp": count["DSP"]})
    return rows


def main() -> None:
    """Rewrite ``pieces.csv``."""
    version = subprocess.run(["yosys", "-V"], check=True, capture_output=True, text=True).stdout.strip()
    rows = [row for family in FAMILIES for row in measure(family)]
    with DATA.open("w", newline="", encoding="utf-8") as file:
        file.write(
            f"# {version}; synth_xilinx {FLAGS} -family {' and '.join(FAMILIES.values())} -nowidelut (not for ROM, RAM, mux; mul_lut: also -nodsp)\n"
        )
        file.write("# lut: 6-input LUTs (see sites() in measure.py), memories included; lut_cells: LUT cells as mapped\n")
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{DATA}: {len(rows)} rows", file=sys.stderr)
