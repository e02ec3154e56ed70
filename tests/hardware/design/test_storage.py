"""Storage: one decision, which the emitted C++ says in both tools' words and the estimate counts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
import pytest
from hardware_models import DIRECTED, chain, conv, memories, scalar
from hypothesis import given, settings
from hypothesis import strategies as st
from random_schedules import random_schedule
from support.cpp_preprocess import preprocess, translation_units
from support.pragma_grammar import Tool
from support.pragmas import check

from qfx.errors import ProjectError
from qfx.hardware.assets import hls_root, read_tree
from qfx.hardware.board import board
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.estimate import estimate
from qfx.hardware.design import design as d
from qfx.hardware.design import storage
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Folding, Schedule
from qfx.hardware.design.storage import LUTS_PER_BRAM18, Storage, block_rows, bram18, fifo, ram, rom, uram
from qfx.hardware.emit.emit import emit_sources
from qfx.hardware.timing.fifo import size_fifos, with_depths, with_storage
from qfx.ir.graph import Graph
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


def counted(files: Files) -> tuple[int, int]:
    """The 18 kbit block RAMs and the UltraRAMs that the C++ asks for: FIFOs, weights, line buffers and kept words, by nothing but the text."""
    top, layers = files["src/net.cpp"], files["src/layers.h"]
    blocks = {"BRAM": 0, "URAM": 0}

    def count(where: str, depth: int, width: int, memories: int = 1) -> None:
        if where.upper() in blocks:
            blocks[where.upper()] += memories * (bram18 if where.upper() == "BRAM" else uram)(depth, width)

    found = re.findall(r"int<(\d+)>, (\d+)> > (\w+)\(.*\n#pragma HLS STREAM variable=\w+ depth=(\d+)\n  QFX_BIND\((\w+), FIFO, (\w+)\)", top)
    loader = re.findall(r"#pragma HLS STREAM variable=(\w+_(?:flags|words)) ", top)
    assert len(found) == top.count("#pragma HLS STREAM") - len(loader)
    for width, parallel, name, depth, bound, where in found:
        assert name == bound
        count(where, int(depth), int(width) * int(parallel))
    read = re.findall(r"ARRAY_(\w+) variable=(\w+)_weights complete dim=2\n  QFX_BIND\((\w+)_weights, (?:ROM_1P|RAM_S2P), (\w+)\)", layers)
    assert len(read) == len(re.findall(r"QFX_BIND\(\w+_weights, ", layers))
    for kind, name, bound, where in read:
        assert name == bound
        declared = re.findall(rf"qfx::rom<(\d+)>::type(?:>::type)? {name}_weights\[(\d+)\]\[(\d+)\]", files[f"src/weights/{name}.h"])
        bits, rows, elements = map(int, declared[0])
        count(where, rows, *((bits * elements, 1) if kind == "RESHAPE" else (bits, elements)))
    lines = re.findall(r"qfx::memory_word<qfx::[su]int<(\d+)>, (\d+)>::type (\w+)\[(\d+)\];\n  QFX_BIND\((\w+), RAM_S2P, (\w+)\)", layers)
    pragma = r"#pragma HLS ARRAY_PARTITION variable=(\w+) complete dim=2"
    kept = re.findall(rf"qfx::[su]int<(\d+)> (\w+)\[(\d+)\]\[(\d+)\];\n{pragma}\n  QFX_BIND\((\w+), RAM_S2P, (\w+)\)", layers)
    assert len(lines) + len(kept) == len(re.findall(r"QFX_BIND\((?:line|past|kept), RAM_S2P, ", layers))
    for width, parallel, name, depth, bound, where in lines:
        assert name == bound
        count(where, int(depth), int(width) * int(parallel))
    for width, name, depth, lanes, split, bound, where in kept:
        assert name == split == bound
        count(where, int(depth), int(width), int(lanes))
    return blocks["BRAM"], blocks["URAM"]


def estimated(design: d.Design) -> tuple[int, int]:
    total = estimate(design, board("zcu104")).total
    return total.bram18, total.uram


def test_the_estimate_counts_the_block_ram_that_the_code_asks_for() -> None:
    files = emit_sources(network(), "net")
    text = "".join(files.values())
    for expected in ("FIFO, SRL", "FIFO, BRAM", "ROM_1P, LUTRAM", "ROM_1P, BRAM", "RAM_S2P, LUTRAM", "RAM_S2P, BRAM"):
        assert expected in text, expected
    assert counted(files) == estimated(network())
    # A binding that is not what was estimated is noticed, whichever it is.
    for path in ("src/net.cpp", "src/layers.h"):
        for match in re.finditer(r"\bBRAM\)|FIFO, SRL|ROM_1P, LUTRAM|RAM_S2P, LUTRAM", files[path]):
            other = {"BRAM)": "LUTRAM)", "FIFO, SRL": "FIFO, BRAM", "ROM_1P, LUTRAM": "ROM_1P, BRAM", "RAM_S2P, LUTRAM": "RAM_S2P, BRAM"}
            broken = files[path][: match.start()] + other[match[0]] + files[path][match.end() :]
            assert counted({**files, path: broken}) != estimated(network()), match


def placed() -> d.Design:
    """Memories that are asked for, everywhere."""
    design = lower(*memories())
    first, second = (stream.name for stream in design.streams[2:4])
    return with_storage(with_depths(design, {first: 600, second: 40}), {first: "uram", second: "bram"})


def test_memories_that_are_asked_for_are_bound_and_counted() -> None:
    design = placed()
    files = emit_sources(design, "net")
    assert counted(files) == estimated(design)
    assert estimated(design)[1] == 2  # the FIFO and the line buffer
    for tool in Tool:
        assert check({**files, **LIBRARY}, tool, top="net") == ()
        found = bindings(files, tool)
        assert found[design.streams[2].name] == ("FIFO", "URAM")
        assert found[design.streams[3].name] == ("FIFO", "BRAM")
        assert (found["conv0_matvec_weights"], found["conv2_matvec_weights"]) == (("ROM_1P", "BRAM"), ("ROM_1P", "LUTRAM"))
        assert (found["conv4_matvec_weights"], found["conv4_matvec_rest"]) == (("ROM_1P", "BRAM"), ("ROM_1P", "LUTRAM"))
    assert "QFX_BIND(line, RAM_S2P, URAM)" in bodies(files)["conv0_window"]
    for right, wrong in (
        ("FIFO, URAM", "FIFO, BRAM"),
        ("RAM_S2P, URAM", "RAM_S2P, BRAM"),
        ("ARRAY_RESHAPE variable=conv0", "ARRAY_PARTITION variable=conv0"),
    ):
        path = next(path for path in ("src/net.cpp", "src/layers.h") if right in files[path])
        assert counted({**files, path: files[path].replace(right, wrong, 1)}) != estimated(design)


@settings(deadline=None, max_examples=200)
@given(depth=st.integers(2, 9000), width=st.integers(1, 600))
def test_a_mixed_memory_fills_its_blocks(depth: int, width: int) -> None:
    first = block_rows(depth, width)
    assert 0 <= first < depth
    assert first % 512 == 0
    if first:
        assert depth - first <= 256
        assert bram18(first, width) < bram18(depth, width)
        assert bram18(first, width) == bram18(first - 511, width)


def test_rows_of_constants_waste_no_bits_of_a_block() -> None:
    """The last stage of ResNet-20, 64 x 64 x 3 x 3 weights of 8 bits: 16 blocks hold them, if they are as deep as that."""

    def blocks(lanes: int, asked: str) -> int:
        found = storage.weights(36864 // lanes, lanes, 8, loaded=False, asked=asked)
        return sum(bram18(memory.depth, memory.width) * memory.count for memory in found if memory.storage is Storage.BRAM)

    assert [blocks(lanes, "bram") for lanes in (4, 8, 16, 32, 64, 128)] == [18, 18, 20, 24, 29, 29]
    assert [blocks(lanes, "mixed") for lanes in (4, 8, 16, 32, 64, 128)] == [18, 18, 15, 15, 15, 29]
    # Elements of 44 bits, which block RAM of their own would hold in 72.
    (wide,) = storage.weights(512, 32, 22, loaded=False, asked="bram")
    assert (wide.count, bram18(wide.depth, wide.width)) == (1, 20)


@pytest.mark.parametrize(
    ("graph", "folding", "complaint"),
    [
        (chain("net", (4, 4, 4), conv(0, 4, 4, 1, 1)), Folding(weights="uram"), "cannot be initialised"),
        (chain("net", (4, 4, 4), conv(0, 4, 1, 3, 3, groups=4)), Folding(weights="mixed"), "depthwise convolution have no mixed memory"),
        (make_loadable(chain("net", (4, 4, 4), conv(0, 4, 4, 1, 1))), Folding(weights="mixed"), "that are loaded have no mixed memory"),
    ],
)
def test_memories_that_cannot_be(graph: Graph, folding: Folding, complaint: str) -> None:
    with pytest.raises(ProjectError, match=complaint):
        lower(graph, Schedule.of({"conv0": folding}))


def test_both_tools_are_told_the_same() -> None:
    files = emit_sources(network(), "net")
    vivado, vitis = (bindings(files, tool) for tool in (Tool.VIVADO_HLS, Tool.VITIS_HLS))
    assert vivado == vitis
    assert {stream.name for stream in network().streams} <= set(vitis)
    assert vitis[network().streams[2].name] == ("FIFO", "BRAM")
    assert vitis["line"][0] == "RAM_S2P"
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
    """Processes and FIFOs whose code names block RAM or UltraRAM and whose estimate has none, or the other way round."""
    found = [
        process.name
        for process in design.processes
        for field, named in (("bram18", r"\bBRAM\)"), ("uram", r"\bURAM\)"))
        if (getattr(process.cost(r.ULTRASCALE), field) > 0) != (re.search(named, bodies(files)[process.name]) is not None)
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
        for body in bodies(files).values():
            places = re.findall(r"RAM_S2P, (\w+)\)", body) or [""]
            said |= {(name, where) for name in re.findall(r"qfx::(\w+)<.*\(in, out", body) for where in places}
    assert said >= {("permute", "BRAM"), ("permute", "LUTRAM"), ("window", "LUTRAM"), ("matvec", "LUTRAM")}
    assert said >= {("pool_many", "BRAM"), ("pool_few", ""), ("repeat", "BRAM"), ("repeat", "LUTRAM")}
    # A buffer that moved alone is noticed.
    design = lower(BUFFERS[0], Schedule())
    files = emit_sources(design, "net")
    broken = {**files, "src/layers.h": files["src/layers.h"].replace("RAM_S2P, BRAM", "RAM_S2P, LUTRAM", 1)}
    assert len(disagreeing(design, broken)) == 1


def test_loaded_constants_are_memories_with_a_write_port() -> None:
    graph = make_loadable(chain("net", (16, 6, 6), conv(0, 32, 16, 3, 3), CAST))
    design = lower(graph, Schedule.of({"conv0": Folding(2, 4, "dsp")}))
    assert design.loader is not None
    files = emit_sources(design, "net")
    assert disagreeing(design, files) == []
    in_uram = lower(graph, Schedule.of({"conv0": Folding(4, 8, "dsp", weights="uram")}))  # two elements of 16 lanes
    sources = emit_sources(in_uram, "net")
    assert counted(sources) == estimated(in_uram)
    assert estimated(in_uram)[1] == 2
    assert "ARRAY_PARTITION variable=conv0_matvec_weights" in sources["src/layers.h"]  # each element is written by itself
    (weights,) = (name for name in re.findall(r"QFX_BIND\((\w+),", files["src/layers.h"]) if name.endswith("_weights"))
    for tool in Tool:
        assert check({**files, **LIBRARY}, tool, top="net") == ()
        bound = bindings(files, tool)
        assert bound[weights] == ("RAM_S2P", "BRAM")
        assert not {kind for kind, _ in bound.values()} & {"ROM_1P", "ROM_NP"}
        assert {name for load in design.loader.loads for name in (load.flags, load.words)} <= set(bound)
