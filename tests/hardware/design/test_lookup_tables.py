"""Tables that a number addresses, in hardware: what is stored of them, how often, in what, and what it costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hardware_models import chain, const, conv, scalar
from support.bundles import build_bundle

from qfx.hardware.board import board
from qfx.hardware.cost.estimate import estimate
from qfx.hardware.cost.resources import Resources
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Folding, Schedule
from qfx.hardware.design.storage import Memory, Storage
from qfx.hardware.emit.emit import emit_sources
from qfx.hardware.timing.program import EPILOGUE_STEP, MEMORY, MULTIPLY, READ_WRITE
from qfx.ir.graph import Graph
from qfx.ir.interpret import quantize_input, run_from_raw
from qfx.ir.passes.loadable import loadable_types, make_loadable
from qfx.operators import Cast, Const, Lookup, LookupLinear
from qfx.testing import adversarial_inputs, assert_bit_exact


def one(op: Lookup | LookupLinear, cast: str = "ap_fixed<8,3>") -> Graph:
    return chain("one", (4, 3, 2), op, cast=cast)


ENTRIES = Lookup(const(1, 256, bits=8), -128, 5)
LINES = LookupLinear(const(2, 300, bits=12), const(3, 300, bits=6, frac_bits=7), -8192 - 100, 7, 6)
LONG = "ap_fixed<14,7>"


def memories(graph: Graph, pe: int) -> tuple[Memory, ...]:
    name = graph.nodes[-1].name
    design = lower(graph, Schedule.of({name: Folding(pe)}, input_parallel=pe, output_parallel=pe))
    return tuple(memory for process in design.processes for memory in process.memories)


def test_every_lane_has_the_whole_table() -> None:
    for pe in (1, 2, 4):
        assert memories(one(ENTRIES), pe) == (Memory(256, 8, pe, constant=True),)
        assert memories(one(LINES, LONG), pe) == (Memory(257, 12, pe, constant=True), Memory(257, 6, pe, constant=True))


def test_it_lies_in_what_roms_of_its_size_lie_in() -> None:
    assert Memory(32, 8, 1, constant=True).storage is Storage.LUTRAM
    assert Memory(4096, 8, 1, constant=True).storage is Storage.BRAM
    text = "\n".join(emit_sources(lower(one(ENTRIES), Schedule()), "top").values())
    assert "QFX_BIND(lookup0_entries, ROM_NP, LUTRAM)" in text
    big = Lookup(const(4, 4096, bits=8), -2048, 8)
    text = "\n".join(emit_sources(lower(one(big, "ap_fixed<12,4>"), Schedule()), "top").values())
    assert "QFX_BIND(lookup0_entries, ROM_NP, BRAM)" in text


def test_only_entries_that_can_be_reached_are_stored() -> None:
    graph = chain("few", (3,), Cast(scalar("ap_ufixed<4,2,AP_RND,AP_SAT>")), Lookup(const(1, 256, bits=8), -128, 5), cast="ap_fixed<8,4>")
    (memory,) = memories(graph, 1)
    assert memory.depth == 121  # raws 0 to 15, eight times as fine
    lines = chain("few", (3,), Cast(scalar("ap_ufixed<3,3,AP_TRN,AP_SAT>")), LookupLinear(const(2, 20), const(3, 20), -7, 0, 2))
    assert [memory.depth for memory in memories(lines, 1)] == [2, 2]  # places 7 to 10 lie on the second line and the third


def test_emission_is_integers_and_always_the_same() -> None:
    files = [emit_sources(lower(one(op, cast), Schedule()), "top") for op, cast in ((ENTRIES, "ap_fixed<8,3>"), (LINES, LONG)) for _ in range(2)]
    assert files[0] == files[1]
    assert files[2] == files[3]
    (held,) = [text for path, text in files[0].items() if "weights" in path]
    assert "static const qfx::rom_number<true, 8>::type lookup0_entries[256] = {" in held
    body = held[held.index("= {") + 3 : held.index("};")]
    assert [int(entry) for entry in body.split(",")] == ENTRIES.entries.raw.tolist()


def test_lanes_do_not_share_the_banks_of_a_table() -> None:
    schedule = Schedule.of({"lookup0": Folding(4)}, input_parallel=4, output_parallel=4)
    text = "\n".join(emit_sources(lower(one(ENTRIES), schedule), "top").values())
    assert "variable=lookup0_entries" not in text.replace(" ", "")


def test_what_it_costs_grows_with_the_lanes_and_takes_its_time() -> None:
    def of(op: Lookup | LookupLinear, cast: str, pe: int) -> Resources:
        name = one(op).nodes[-1].name
        design = lower(one(op, cast), Schedule.of({name: Folding(pe)}, input_parallel=pe, output_parallel=pe))
        (process,) = [process for process, node in zip(design.processes, design.nodes, strict=True) if node == name and process.memories]
        latency = READ_WRITE + EPILOGUE_STEP + MEMORY + (MULTIPLY if isinstance(op, LookupLinear) else 0)
        assert process.latency == latency
        costs = [cost.resources for cost in estimate(design, board("zcu102")).costs if cost.process == process.name]
        return costs[0]

    one_lane, four = of(ENTRIES, "ap_fixed<8,3>", 1), of(ENTRIES, "ap_fixed<8,3>", 4)
    assert one_lane.lut >= 8 * 4
    assert four.lut - one_lane.lut >= 3 * 8 * 4
    assert of(LINES, LONG, 2).lut > of(LINES, LONG, 1).lut > 0
    big = Lookup(const(4, 4096, bits=8), -2048, 8)
    assert of(big, "ap_fixed<12,4>", 2).bram18 == 2 * of(big, "ap_fixed<12,4>", 1).bram18 > 0


@pytest.mark.usefixtures("gxx")
def test_a_rom_of_exactly_its_bits_gives_the_same(tmp_path: Path) -> None:
    signed, unsigned = Const(np.arange(-100, 156), 2), Const(np.arange(256)[::-1], 0)
    graphs = [one(op, cast) for op, cast in ((Lookup(signed, -128, 5), "ap_fixed<8,3>"), (Lookup(unsigned, 0, 5), "ap_ufixed<8,3>"), (LINES, LONG))]
    bundle = build_bundle([(graph, Schedule()) for graph in graphs], tmp_path, flags=("-DQFX_EXACT_ROM",))
    for number, graph in enumerate(graphs):
        x = quantize_input(graph, adversarial_inputs(graph, np.random.default_rng(0), 50))
        assert_bit_exact(bundle.run_from_raw(number, x), run_from_raw(graph, x))


def test_tables_are_not_loaded_while_the_hardware_runs() -> None:
    graph = chain("mixed", (4, 3, 2), ENTRIES, conv(5, 4, 4, 1, 1))
    loadable = make_loadable(graph)
    assert set(loadable_types(loadable)) == {"conv1"}
    assert loadable.nodes[1] == graph.nodes[1]
