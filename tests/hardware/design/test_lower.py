"""Lowering: what becomes a process, what is fused, where FIFOs are deep, and which graphs and schedules are refused."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hardware_models import (
    DIRECTED,
    chain,
    classifier,
    const,
    conv,
    few_of_each,
    from_ddr,
    in_batches,
    own_points,
    per_channel,
    residual,
    scalar,
    side_by_side,
    spilled,
    whole_pixels,
)
from random_schedules import random_schedule
from test_several_ports import crossed

from qfx.errors import ProjectError
from qfx.fixed.type import FixedType
from qfx.hardware.assets import hls_root
from qfx.hardware.cost.resources import ULTRASCALE
from qfx.hardware.design import design as d
from qfx.hardware.design.build import loop_nest
from qfx.hardware.design.epilogue import Frame
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Folding, Schedule
from qfx.hardware.emit.emit import emit_sources
from qfx.hardware.processes.process import Setting
from qfx.ir.graph import Node
from qfx.operators import Cast, Conv, Linear, Mul, Pad, Pads, Relu, Slice, Stretch, SumPool, Transpose, Upsample

ONE = Schedule()


def kinds(design: d.Design) -> list[str]:
    return [type(process).__name__ for process in design.processes]


def test_pointwise_operators_join_the_process_before_them() -> None:
    design = lower(classifier(), ONE)
    assert kinds(design) == ["FromPort", "Window", "MatVec", "MatVec", "ToPort"]
    assert [process.name for process in design.processes] == ["input_port", "conv0_window", "conv0_matvec", "linear4_matvec", "output_port"]
    convolution = design.processes[2]
    assert isinstance(convolution, d.MatVec)
    assert [step.function for step in convolution.epilogue.steps] == ["add", "relu", "cast"]


def test_a_value_with_two_readers_is_not_fused() -> None:
    graph = chain("two", (4,), Linear(const(0, 4, 4), None), Relu())
    both = graph.with_nodes((*graph.nodes, Node("product", Mul(), ("linear0", "relu1"))), "product")
    assert kinds(lower(both, ONE)) == ["FromPort", "MatVec", "Fork", "Pointwise", "Binary", "ToPort"]


def test_dead_nodes_cost_nothing() -> None:
    graph = classifier()
    dead = graph.with_nodes((*graph.nodes, Node("dead", Relu(), (graph.output,))))
    assert kinds(lower(dead, ONE)) == kinds(lower(graph, ONE))


def test_flattening_permutes_the_weights_of_linear() -> None:
    design = lower(classifier(), ONE)
    linear = design.processes[3]
    assert isinstance(linear, d.MatVec)
    weight = classifier().node("linear4").op.weight.raw.reshape(10, 4, 6, 5)
    assert np.array_equal(linear.weights.reshape(10, 6, 5, 4), weight.transpose(0, 2, 3, 1))


def test_a_binary_point_per_output_widens_no_weight() -> None:
    units = [process for process in lower(own_points(), ONE).processes if isinstance(process, d.MatVec)]
    assert [unit.weight_type.width for unit in units] == [4, 4, 4]  # as they were cast; on one grid they take up to 13 bits
    assert [node.op.weight.interval.type().width for node in own_points().nodes if isinstance(node.op, Conv | Linear)] == [9, 11, 13]
    ups = [unit.epilogue.steps[0].operands[0].table.values for unit in units]
    assert [unit.epilogue.steps[0].function for unit in units] == ["shl_by"] * 3
    assert ups[0] == (0, 5, 2, 5)


def test_a_permutation_is_spent_only_where_it_is_needed() -> None:
    needed = chain("needed", (2, 3, 4), Transpose((0, 2, 1)))
    assert kinds(lower(needed, ONE)) == ["FromPort", "Permute", "ToPort"]
    undone = chain("undone", (2, 3, 4), Transpose((0, 2, 1)), Relu(), Transpose((0, 2, 1)))
    assert kinds(lower(undone, ONE)) == ["FromPort", "Pointwise", "ToPort"]
    column = chain("column", (2, 3, 1), Transpose((0, 2, 1)))
    assert kinds(lower(column, ONE)) == ["FromPort", "ToPort"]


def test_streams_behind_a_fork_hold_a_frame_and_others_two_words() -> None:
    design = lower(residual(), ONE)
    forks = [process for process in design.processes if isinstance(process, d.Fork) or (isinstance(process, d.Window) and process.tap is not None)]
    forked = {stream.name for process in forks for stream in process.targets}
    assert forked
    for stream in design.streams:
        assert stream.depth == (stream.words if stream.name in forked else 64 if stream.name == "last_s" else 2)


@pytest.mark.parametrize("make", DIRECTED)
def test_every_stream_has_one_writer_and_one_reader(make) -> None:  # type: ignore[no-untyped-def]
    graph = make()
    design = lower(graph, random_schedule(graph, np.random.default_rng(0)))
    written = [stream.name for p in design.processes for stream in _streams(p, "output", "outputs", "tap", *["last"] * isinstance(p, d.FromPort))]
    read = [stream.name for p in design.processes for stream in _streams(p, "input", "inputs", "beside", *["last"] * isinstance(p, d.ToPort))]
    names = [stream.name for stream in design.streams]
    assert sorted(written) == sorted(read) == sorted(names)
    assert len(set(names)) == len(names)
    assert all(stream.words >= 1 for stream in design.streams)


def _streams(process: d.Process, *fields: str) -> list[d.Stream]:
    values = [getattr(process, field, None) for field in fields]
    flat = [item for value in values for item in (value if isinstance(value, tuple) else (value,))]
    return [item for item in flat if isinstance(item, d.Stream)]


def test_the_directed_graphs_use_the_whole_library() -> None:
    paths = sorted(path for part in ("", "memory") for path in (hls_root() / "include" / "qfx" / part).glob("*.h"))  # the engine has tests of its own
    library = "".join(path.read_text() for path in paths if path.name != "load.h")  # which test_weights_stream.py uses
    # without those that others of the library call
    processes = {name for name in re.findall(r"^void (\w+)\(", library, re.M) if not re.search(rf"^ +{name}<", library, re.M)}
    assert {"matvec", "window", "fork"} <= processes
    rng = np.random.default_rng(4)
    designs = [*(lower(make(), random_schedule(make(), rng)) for make in DIRECTED), lower(crossed(), Schedule.of({}, merged=True))]
    designs.append(lower(chain("sums", (18, 3, 2), SumPool((3, 2), (1, 1), ((0, 0), (0, 0)))), Schedule()))  # of more words than registers
    (phases,) = (make() for make in DIRECTED if make().name == "phases")
    designs += [
        lower(phases, Schedule()),
        lower(*side_by_side()),
        lower(*whole_pixels()),
        lower(*from_ddr()),
        lower(*in_batches()),
        lower(*few_of_each()),
        lower(*spilled()),
    ]
    text = "".join(emit_sources(design, "t")["src/layers.h"] for design in designs)
    assert {name for name in processes if f"qfx::{name}<" not in text} == set()


@pytest.mark.parametrize(
    ("sequence", "loops"),
    [
        ([0, 1, 2], ((3, 1),)),
        ([0, 3, 1, 4, 2, 5], ((3, 1), (2, 3))),
        ([0], ()),
        ([0, 4, 1, 2, 3, 5], None),
        ([1, 0], None),
    ],
)
def test_loop_nest(sequence: list[int], loops: object) -> None:
    assert loop_nest(np.array(sequence)) == loops


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (Schedule.of({"conv0": Folding(3)}), "PE=3 takes 2 words for its 4 outputs of a group, and so does PE=2"),
        (Schedule.of({"conv0": Folding(1, 8)}), "SIMD=8 takes 4 words for its 27 inputs of an output, and so does SIMD=7"),
        (Schedule.of({"linear4": Folding(1, 70)}), "use 60 or 120"),
        (Schedule.of({"linear4": Folding(11)}), "PE=11 is more than its 10 outputs"),
        (Schedule.of({"convolution": Folding(1)}), "'convolution', which is no node"),
        (Schedule(input_parallel=4), "4 numbers per input word"),
        (Schedule(output_parallel=4), "4 numbers per output word"),
    ],
)
def test_an_impossible_folding_is_refused(schedule: Schedule, message: str) -> None:
    with pytest.raises(ProjectError, match=re.escape(message)):
        lower(classifier(), schedule)


def test_simd_may_span_kernel_positions_only_whole() -> None:
    graph = chain("spanning", (6, 3, 3), conv(0, 2, 6, 2, 2))
    assert lower(graph, Schedule.of({"conv0": Folding(1, 12)}))
    with pytest.raises(ProjectError, match="let one divide the other"):
        lower(graph, Schedule.of({"conv0": Folding(1, 4)}))


@pytest.mark.parametrize("make", [lambda: Folding(0), lambda: Folding(1, -1)])
def test_a_folding_of_nothing_is_refused(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ProjectError, match="at least 1"):
        make()


def test_words_wider_than_a_port_are_refused() -> None:
    graph = chain("broad", (2,), Cast(scalar("ap_fixed<60,50>")), cast="ap_fixed<50,40>")
    design = lower(graph, ONE)
    assert (design.input.slot, design.output.slot) == (64, 64)
    stream = replace(graph.infos["x"].type, width=65)
    from qfx.hardware.design.build import Builder

    with pytest.raises(ProjectError, match="at most 64 bits"):
        Builder(graph, ONE).stream("x", stream, 1, 2)


@pytest.mark.parametrize(
    ("pad", "slices", "pe", "at"),
    [
        (((2, 4), (0, 0)), ((0, 0), (10, 5), (1, 1)), (4, 1), "pad0"),
        (((2, 4), (0, 0)), ((0, 0), (10, 5), (1, 1)), (2, 4), "slice1"),
        (((2, 4), (0, 0)), ((0, 0), (10, 5), (2, 1)), (2, 2), "slice1"),
        (((2, 4), (0, 0)), ((0, 0), (10, 5), (1, 2)), (2, 2), ""),
    ],
)
def test_a_word_is_never_cut(pad: Pads, slices: tuple[tuple[int, ...], ...], pe: tuple[int, int], at: str) -> None:
    graph = chain("cut", (4, 5), Pad(pad), Slice(*slices))
    schedule = Schedule.of({"pad0": Folding(pe[0]), "slice1": Folding(pe[1])})
    if not at:
        parallel = {p.name: p.output.parallel for p in lower(graph, schedule).processes if isinstance(p, d.PadFrame | d.SliceFrame)}
        assert parallel == {"pad0_pad": 2, "slice1_slice": 2}
        return
    with pytest.raises(ProjectError, match=f"^{at}: PE=. would cut its channels"):
        lower(graph, schedule)


@pytest.mark.parametrize("op", [Upsample((2, 1)), Stretch((1, 3))])
def test_the_folding_of_upsampling_divides_the_channels(op: Upsample | Stretch) -> None:
    graph = chain("scaled", (6, 2, 3), op)
    name = graph.output
    (process,) = (p for p in lower(graph, Schedule.of({name: Folding(3)})).processes if isinstance(p, d.Repeat | d.Stretch))
    assert (process.output.parallel, process.size, process.factors) == (3, (2, 3, 6), op.factors)
    with pytest.raises(ProjectError, match=f"^{name}: PE=4"):
        lower(graph, Schedule.of({name: Folding(4)}))


def test_words_wider_than_the_tools_take_are_refused() -> None:
    graph = chain("broad", (512, 1, 1), Relu(), cast="ap_fixed<9,4>")
    assert lower(graph, Schedule.of({"relu0": Folding(256)}))
    with pytest.raises(ProjectError, match=r"^relu0: a word of 512 numbers of 9 bits has 4608 bits\n.*at most 455 .* 4096 bits"):
        lower(graph, Schedule.of({"relu0": Folding(512)}))
    with pytest.raises(ProjectError, match=r"^x: a word of 512 numbers of 16 bits has 8192 bits"):  # in its slots
        lower(graph, Schedule(input_parallel=512))


def test_arrays_of_more_pieces_than_the_tools_take_are_refused() -> None:
    """A pool of 2,048 channels has registers for each of up to 16 words of a pixel, a memory for more."""
    pool = chain("pool", (2048, 2, 2), SumPool((2, 2), (1, 1), ((0, 0), (0, 0))))
    assert any(isinstance(process, d.Pool) for process in lower(pool, Schedule.of({"sumpool0": Folding(64)})).processes)
    with pytest.raises(ProjectError, match="an array of 2048 pieces"):
        lower(pool, Schedule.of({"sumpool0": Folding(128)}))
    found = next(process for process in lower(pool, Schedule()).processes if isinstance(process, d.Pool))
    assert max(found.widths(Setting(ULTRASCALE, None, None, (lower(pool, Schedule()).input, lower(pool, Schedule()).output)))) == 64
    bits = chain("bits", (2048, 1, 1), Relu(), cast="ap_ufixed<1,1,AP_RND,AP_SAT>")
    with pytest.raises(ProjectError, match="a word of 2048 numbers"):
        lower(bits, Schedule.of({"relu0": Folding(2048)}))


def test_tables_are_as_small_as_they_can_be() -> None:
    tables = {
        table.name: table.index
        for process in lower(per_channel(), ONE).processes
        for step in getattr(process, "epilogue", d.Epilogue((), (), None, 0)).steps  # type: ignore[arg-type]
        for table in (operand.table for operand in step.operands)
    }
    assert tables["scale_scale"] == "channel"
    assert tables["slopes_scale"] == "element"


def test_constants_that_all_channels_share_are_held_once() -> None:
    """Rows, columns, and both: as many entries as there are numbers that differ, whatever the channels."""
    frame, numbers_ = Frame.of((4, 6, 10)), np.arange(60, dtype=np.int64).reshape(1, 6, 10)
    rows, columns, both = (frame.table("t", values) for values in (numbers_[:, :, :1], numbers_[:, :1], numbers_))
    assert [(table.index, len(table.values), table.inner, table.repeats) for table in (rows, columns, both)] == [
        ("pixel", 6, 10, False),
        ("pixel", 10, 1, True),
        ("pixel", 60, 1, False),
    ]
    halves = frame.table("t", np.array([[[3, 5]]]).repeat(5, 1).reshape(1, 1, 10))
    assert (halves.values, halves.inner, halves.repeats) == ((3, 5), 1, True)
    assert frame.table("t", np.arange(240).reshape(4, 6, 10)).index == "element"
    assert frame.loaded("t", numbers_[:, :, :1], FixedType(8, 8, True)).index == "element"  # a place of its own for each number of the frame
