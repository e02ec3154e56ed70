"""Storage: one decision, which the emitted C++ says in both tools' words and the estimate counts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
import pytest
from hardware_models import DIRECTED, chain, conv, random_schedule, scalar
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cpp_preprocess import preprocess, translation_units
from support.pragma_grammar import Tool
from support.pragmas import check

from qfx.hardware.assets import hls_root, read_tree
from qfx.hardware.board import board
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.estimate import estimate
from qfx.hardware.design import design as d
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Folding, Schedule
from qfx.hardware.design.storage import LUTS_PER_BRAM18, Storage, bram18, fifo, ram, rom
from qfx.hardware.emit.emit import emit_sources
from qfx.hardware.timing.fifo import size_fifos, with_depths
from qfx.ir.passes.loadable import make_loadable
from qfx.operators import Cast, Relu, Reshape, SumPool, Transpose, Upsample

LIBRARY = {f"include/{path}": text for path, text in read_tree(hls_root() / "include", "qfx/*.h").items()}
CAST = Cast(scalar("ap_fixed<6,3,AP_RND,AP_SAT>"))

Files = Mapping[str, str]


@pytest.mark.parametrize("decide", [fifo, rom, ram])
@settings(deadline=None, max_examples=60)
@given(depth=st.integers(2, 5000), width=st.integers(1, 600))
def test_a_deeper_memory_never_goes_back_to_luts(decide: Callable[[int, int], Storage], depth: int, width: int) -> None:
    """Along the depths that a block has at this width; and where LUTs are chosen they are worth it."""
    if decide(depth, width) is Storage.BRAM and bram18(depth + 1, width) == bram18(depth, width):
        assert decide(depth + 1, width) is Storage.BRAM
    luts = width * -(-depth // (32 if decide is fifo else 64))
    if decide(depth, width) is not Storage.BRAM and depth > 2:
        assert luts <= LUTS_PER_BRAM18 * bram18(depth, width)


def test_shallow_memories_are_of_luts_however_wide() -> None:
    for width in (1, 8, 36, 37, 64, 500):
        assert (fifo(2, width), fifo(32, width), rom(64, width)) == (Storage.SRL, Storage.SRL, Storage.LUTRAM)
        assert rom(1, width) is ram(1, width) is Storage.REGISTERS
        assert fifo(4096, width) is rom(4096, width) is ram(4096, width) is Storage.BRAM


def bindings(files: Files, tool: Tool) -> dict[str, tuple[str, str]]:
    """Kind and implementation of every variable that ``tool`` is told where to put."""
    everything = {**files, **LIBRARY}
    found = {}
    for unit in translation_units({path: text for path, text in everything.items() if path.startswith("src/")} | LIBRARY):
        for token in preprocess(everything, unit, tool.macros):
            match = re.fullmatch(r"HLS BIND_STORAGE variable = (\w+) type = (\w+) impl = (\w+)", token.text) if token.kind == "pragma" else None
            match = match or (re.fullmatch(r"HLS RESOURCE variable = (\w+) core = (\w+?)_([A-Z]+)", token.text) if token.kind == "pragma" else None)
            if match:
                found[match[1]] = (match[2], match[3])
    return found


@lru_cache
def network() -> d.Design:
    """Convolutions and FIFOs on both sides of the decision."""
    graph = chain("net", (4, 12, 12), conv(0, 16, 4, 3, 3, pads=(1, 1)), CAST, conv(2, 24, 16, 3, 3, pads=(1, 1)), CAST, conv(4, 64, 24, 1, 1), CAST)
    folding = {"conv0": Folding(4, 4, "dsp"), "conv2": Folding(2, 8, "shift"), "conv4": Folding(16, 1, "lut")}
    design = size_fifos(lower(graph, Schedule.of(folding)))
    return with_depths(design, {design.streams[2].name: 600, design.streams[4].name: 33, design.streams[5].name: 32})


def counted(files: Files) -> int:
    """The 18 kbit blocks that the C++ asks for: FIFOs, weights, line buffers and kept words, by nothing but the text."""
    top, layers = files["src/net.cpp"], files["src/layers.h"]
    blocks = 0
    found = re.findall(r"int<(\d+)>, (\d+)> > (\w+)\(.*\n#pragma HLS STREAM variable=\w+ depth=(\d+)\n  QFX_BIND\((\w+), FIFO, (\w+)\)", top)
    assert len(found) == top.count("#pragma HLS STREAM")
    for width, parallel, name, depth, bound, where in found:
        assert name == bound
        blocks += bram18(int(depth), int(width) * int(parallel)) * (where == "BRAM")
    for name in re.findall(r"QFX_BIND\((\w+_weights), ROM_1P, BRAM\)", layers):
        header = files[f"src/weights/{name.removesuffix('_weights')}.h"]
        bits, rows, elements = map(int, re.findall(rf"qfx::rom<(\d+)>::type {name}\[(\d+)\]\[(\d+)\]", header)[0])
        blocks += elements * bram18(rows, bits)
    for body in re.findall(r"^inline void \w+\(.*\n(?:.*\n)*?}", layers, re.MULTILINE):
        word = re.search(r"int<(\d+)>, (\d+)> >& in,", body)
        width, parallel = map(int, word.groups()) if word else (0, 0)  # a port has other words, and keeps none
        window = re.search(r"window_shape<([-\d, ]+), qfx::in_bram>", body)
        if window:
            chunks, _, _, columns, _, _, rows, *_, down, _, _ = map(int, window[1].split(","))
            blocks += bram18(((rows - 1) * down + 1) * columns * chunks, width * parallel)
        matvec = re.search(r"matvec_shape<\d+, \d+, \d+, (\d+), \d+, (\d+), .*qfx::in_bram >", body)
        if matvec:
            inputs, simd = map(int, matvec.groups())
            blocks += simd * bram18(inputs // simd, width)
    return blocks


def test_the_estimate_counts_the_block_ram_that_the_code_asks_for() -> None:
    files = emit_sources(network(), "net")
    text = "".join(files.values())
    for expected in ("FIFO, SRL", "FIFO, BRAM", "ROM_1P, LUTRAM", "ROM_1P, BRAM", "qfx::in_lutram", "qfx::in_bram"):
        assert expected in text, expected
    blocks = estimate(network(), board("zcu102")).total.bram18
    assert counted(files) == blocks
    # A binding that is not what was estimated is noticed, whichever it is.
    for path in ("src/net.cpp", "src/layers.h"):
        for match in re.finditer(r"\bBRAM\)|in_bram\b|FIFO, SRL|ROM_1P, LUTRAM|in_lutram", files[path]):
            other = {"BRAM)": "LUTRAM)", "in_bram": "in_lutram", "FIFO, SRL": "FIFO, BRAM", "ROM_1P, LUTRAM": "ROM_1P, BRAM", "in_lutram": "in_bram"}
            broken = files[path][: match.start()] + other[match[0]] + files[path][match.end() :]
            assert counted({**files, path: broken}) != blocks, match


def test_both_tools_are_told_the_same() -> None:
    files = emit_sources(network(), "net")
    vivado, vitis = (bindings(files, tool) for tool in (Tool.VIVADO_HLS, Tool.VITIS_HLS))
    assert vivado == vitis
    assert {stream.name for stream in network().streams} <= set(vitis)
    assert vitis[network().streams[2].name] == ("FIFO", "BRAM")
    assert vitis["memory"][0] == "RAM_S2P"  # of the templates: in_lutram and in_bram
    assert set(vitis.values()) >= {("FIFO", "SRL"), ("ROM_1P", "BRAM"), ("ROM_1P", "LUTRAM"), ("ROM_NP", "LUTRAM")}


@pytest.mark.parametrize("tool", Tool)
@pytest.mark.parametrize(
    ("right", "wrong"),
    [("FIFO, SRL", "FIFO, SLR"), ("FIFO, SRL", "RAM_S2P, SRL"), ("QFX_BIND(", "QFX_BIND(no_"), ("ROM_1P", "ROM1P")],
)
def test_a_broken_binding_is_found(tool: Tool, right: str, wrong: str) -> None:
    files = {**emit_sources(network(), "net"), **LIBRARY}
    assert check(files, tool, top="net") == ()
    path = next(path for path in ("src/net.cpp", "src/layers.h") if right in files[path])
    line = files[path][: files[path].index(right)].count("\n") + 1
    found = check({**files, path: files[path].replace(right, wrong, 1)}, tool, top="net")
    assert {(finding.path, finding.line) for finding in found} == {(path, line)}


def bodies(files: Files) -> dict[str, str]:
    return {match[1]: match[0] for match in re.finditer(r"^inline void (\w+)\((?:.*\n)*?}", files["src/layers.h"], re.MULTILINE)}


def disagreeing(design: d.Design, files: Files) -> list[str]:
    """Processes and FIFOs whose code names block RAM and whose estimate has none, or the other way round."""
    found = [
        process.name
        for process in design.processes
        if (process.cost(r.ULTRASCALE).bram18 > 0) != (re.search(r"\bBRAM\)|in_bram\b", bodies(files)[process.name]) is not None)
    ]
    for stream in design.streams:
        where = "BRAM" if r.fifo(stream.depth, stream.parallel * stream.type.width).bram18 else "SRL"
        found += [] if f"QFX_BIND({stream.name}, FIFO, {where})" in files["src/net.cpp"] else [stream.name]
    return found


BUFFERS = (
    chain("orders", (6, 24, 24), Transpose((1, 2, 0)), Transpose((2, 0, 1)), Reshape((24, 144))),
    chain("pools", (600, 3, 3), SumPool((3, 3), (1, 1), ((0, 0), (0, 0)))),
    chain("few", (16, 3, 3), SumPool((3, 3), (1, 1), ((0, 0), (0, 0)))),
    chain("rows", (8, 4, 96), Upsample((2, 2)), Relu(), Upsample((2, 1))),
)


def test_every_buffer_is_where_the_estimate_has_it() -> None:
    said = set()
    for index, graph in enumerate([*(make() for make in DIRECTED), *BUFFERS]):
        design = lower(graph, random_schedule(graph, np.random.default_rng(index)) if index < len(DIRECTED) else Schedule())
        files = emit_sources(design, "net")
        assert disagreeing(design, files) == [], graph.name
        said |= set(re.findall(r"(\w+_shape|permute|pool_global|repeat)<.*qfx::(in_\w+|by_tool)", files["src/layers.h"]))
    assert said >= {("permute", "in_bram"), ("permute", "in_lutram"), ("window_shape", "in_lutram"), ("matvec_shape", "in_lutram")}
    assert said >= {("pool_global", "in_bram"), ("pool_global", "by_tool"), ("repeat", "in_bram"), ("repeat", "in_lutram")}
    # A buffer that moved alone is noticed.
    design = lower(BUFFERS[0], Schedule())
    files = emit_sources(design, "net")
    broken = {**files, "src/layers.h": files["src/layers.h"].replace("qfx::in_bram", "qfx::in_lutram", 1)}
    assert len(disagreeing(design, broken)) == 1


def test_loaded_constants_are_memories_with_a_write_port() -> None:
    graph = make_loadable(chain("net", (16, 6, 6), conv(0, 32, 16, 3, 3), CAST))
    design = lower(graph, Schedule.of({"conv0": Folding(2, 4, "dsp")}))
    assert design.loader is not None
    files = emit_sources(design, "net")
    assert disagreeing(design, files) == []
    (weights,) = (name for name in re.findall(r"QFX_BIND\((\w+),", files["src/layers.h"]) if name.endswith("_weights"))
    for tool in Tool:
        assert check({**files, **LIBRARY}, tool, top="net") == ()
        bound = bindings(files, tool)
        assert bound[weights] == ("RAM_S2P", "BRAM")
        assert not {kind for kind, _ in bound.values()} & {"ROM_1P", "ROM_NP"}
        assert {name for load in design.loader.loads for name in (load.flags, load.words)} <= set(bound)
