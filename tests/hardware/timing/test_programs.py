"""The cycle model: closed form and program agree with each other and, for windows, with the turns played one by one."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hardware_models import DIRECTED, few_of_each, from_ddr, in_batches, side_by_side, spilled, whole_pixels
from hypothesis import given
from hypothesis import strategies as st
from random_schedules import random_schedule
from schedule_models import upsampling
from test_several_ports import crossed

from qfx.fixed.type import FixedType
from qfx.hardware.assets import hls_root
from qfx.hardware.design import design as d
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Schedule
from qfx.hardware.processes import PROCESSES


def designs() -> list[d.Design]:
    rng = np.random.default_rng(0)
    graphs = [make() for make in (*DIRECTED, upsampling)]
    found = [lower(graph, schedule) for graph in graphs for schedule in (Schedule(), random_schedule(graph, rng))]
    found += [
        lower(crossed(), Schedule.of({}, merged=True)),
        lower(*side_by_side()),
        lower(*whole_pixels()),
        lower(*from_ddr()),
        lower(*in_batches()),
        lower(*few_of_each()),
        lower(*spilled()),
    ]
    loops = [(design, process) for design in found for process in design.processes if isinstance(process, d.Loop)]
    return [*found, *(replace(design, processes=loop.step.parts, streams=loop.step.fifos) for design, loop in loops)]


def test_every_kind_of_process_is_covered() -> None:
    kinds = {type(process) for design in designs() for process in design.processes}
    assert kinds == set(PROCESSES)


def test_programs_are_whole() -> None:
    """Every word of every stream once, in turns that rise; as many turns as the closed form says."""
    for design in designs():
        for process in design.processes:
            found = design.program(process)
            assert found.turns == design.rounds(process) * (process.cycles + process.pause) - process.pause, process.name
            assert found.latency == process.latency >= 1
            for streams, ports in ((d.inputs(process), found.reads), (d.outputs(process), found.writes)):
                for stream, turns in zip(streams, ports, strict=True):
                    assert turns.size == design.words(stream), (process.name, stream.name)
                    assert turns[0] >= 0
                    assert turns[-1] < found.turns
                    assert (np.diff(turns) > 0).all()


def test_no_process_writes_a_word_before_it_has_read_what_it_needs() -> None:
    """The last result needs the last word read before it: in a matrix-vector unit, for example, nothing is written before all inputs of an output."""
    for design in designs():
        for process in design.processes:
            if isinstance(process, d.MatVec | d.Pool):
                found = process.program
                assert (
                    found.writes[0][0] >= found.reads[0][min(process.input.words, getattr(process, "taps", 1) // getattr(process, "together", 1)) - 1]
                )


def stream(name: str, words: int) -> d.Stream:
    return d.Stream(name, FixedType(8, 4), 1, words, 2)


def window(shape: tuple[int, ...]) -> d.Window:
    chunks, _, h, w, oh, ow, kh, kw, *_ = shape
    return d.Window("window", stream("a", h * w * chunks), stream("b", oh * ow * kh * kw * chunks), shape, 0)


def played(shape: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """The window's reads and writes, turn by turn, from the rule: read only while the present window misses a pixel, or behind the last window; else
    write, and read too if row y of the next word satisfies y - ROWS < top, or y - ROWS < top + SH and x < left."""
    chunks, _, h, w, oh, ow, kh, kw, sh, sw, pad_top, pad_left, dh, dw = shape
    rows = (kh - 1) * dh + 1
    reads: list[int] = []
    writes: list[int] = []
    turn = 0
    for oy in range(oh):
        for ox in range(ow):
            top, left = oy * sh - pad_top, ox * sw - pad_left
            inside = [(top + ky * dh, left + kx * dw) for ky in range(kh) for kx in range(kw)]
            last_y, last_x = min(top + rows - 1, h - 1), min(left + (kw - 1) * dw, w - 1)
            needed = max((last_y * w + max(last_x, -1) + 1) * chunks if last_y >= 0 else 0, 0)
            assert all((y * w + x + 1) * chunks <= needed for y, x in inside if 0 <= y < h and 0 <= x < w)
            while len(reads) < needed:
                reads.append(turn)
                turn += 1
            for _ in range(kh * kw * chunks):
                writes.append(turn)
                y, x = divmod(len(reads) // chunks, w)
                if len(reads) < h * w * chunks and (y - rows < top or (y - rows < top + sh and x < left)):
                    reads.append(turn)
                turn += 1
    while len(reads) < h * w * chunks:
        reads.append(turn)
        turn += 1
    return reads, writes


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, ...]:
    chunks, h, w = (draw(st.integers(1, most)) for most in (3, 7, 7))
    kh, kw, sh, sw, dh, dw = (draw(st.integers(1, 3)) for _ in range(6))
    pad_top, pad_left, pad_bottom, pad_right = (draw(st.integers(0, 4)) for _ in range(4))
    oh = (h + pad_top + pad_bottom - (kh - 1) * dh - 1) // sh + 1
    ow = (w + pad_left + pad_right - (kw - 1) * dw - 1) // sw + 1
    if oh < 1 or ow < 1:
        h, w, oh, ow = h + (kh - 1) * dh, w + (kw - 1) * dw, 1, 1
    return chunks, chunks, h, w, oh, ow, kh, kw, sh, sw, pad_top, pad_left, dh, dw


@given(shapes())
def test_windows_against_the_contract_turn_by_turn(shape: tuple[int, ...]) -> None:
    reads, writes = played(shape)
    found = window(shape).program
    assert found.reads[0].tolist() == reads
    assert found.writes[0].tolist() == writes
    assert found.turns == max(reads[-1], writes[-1]) + 1


def test_the_comparison_of_windows_sees_one_turn() -> None:
    shape = (1, 1, 4, 4, 2, 2, 3, 3, 1, 1, 0, 0, 1, 1)
    reads, _ = played((*shape[:-4], 1, 0, 1, 1))  # a row of padding more
    assert window(shape).program.reads[0].tolist() != reads


def test_a_window_overlaps_reading_and_writing() -> None:
    """A 3 x 3 convolution with one word a pixel, same padding: nine turns a window, and only the first row and a pixel are read beside."""
    found = window((1, 1, 8, 8, 8, 8, 3, 3, 1, 1, 1, 1, 1, 1)).program
    assert found.turns == 64 * 9 + 8 + 2


def test_matrix_vector_unit() -> None:
    """Two pixels of four inputs, two a turn, six outputs, three a turn: reads in the first half of a pixel's turns, a write in every second turn."""
    design = next(design for design in designs() if any(isinstance(process, d.MatVec) for process in design.processes))
    unit = next(process for process in design.processes if isinstance(process, d.MatVec))
    unit = replace(unit, depthwise=False, pixels=2, groups=1, outputs=6, inputs=4, pe=3, simd=2, input=stream("a", 4), output=stream("b", 4))
    found = unit.program
    assert (found.turns, unit.cycles) == (8, 8)
    assert found.reads[0].tolist() == [0, 1, 4, 5]
    assert found.writes[0].tolist() == [1, 3, 5, 7]


def test_programs_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        window((1, 1, 4, 4, 2, 2, 3, 3, 1, 1, 0, 0, 1, 1)).program.reads[0][0] = 5


_FUNCTION = re.compile(r"\bvoid (\w+)\((?:[^{;]*?)\) \{\n(.*?)^\}", re.S | re.M)


def loops() -> dict[str, list[str]]:
    """The pragmas of the pipelined loops of every function of the library, those of the functions that it calls included; overloads have the same."""
    text = "\n".join(
        path.read_text(encoding="utf-8")
        for path in sorted(path for part in ("", "memory") for path in (hls_root() / "include" / "qfx" / part).glob("*.h"))
    )
    bodies = dict(_FUNCTION.findall(text))
    calls = {name: [other for other in bodies if other != name and re.search(rf"\b{other}<", body)] for name, body in bodies.items()}

    def pragmas(name: str, above: tuple[str, ...]) -> list[str]:
        """``above``: what calls it, of which overloads may call each other."""
        own = re.findall(r"QFX_PIPELINE\w*", bodies[name])
        return [*own, *(found for other in calls[name] if other not in above for found in pragmas(other, (*above, name)))]

    return {name: pragmas(name, (name,)) for name in bodies}


def test_what_begins_again_in_the_model_does_in_the_code() -> None:
    """A process that rewinds is one call of a function with one loop nest, which says so; the others have loops that do not."""
    found = loops()
    told = set()
    for design in designs():
        for process in design.processes:
            unit = process.unit(("in", "out"))
            called = [name for line in unit.body for name in re.findall(r"qfx::(\w+)<", line) if name in found]
            pragmas = {pragma for name in called for pragma in found[name]}
            told.add((process.rewinds, len(called)))
            if process.rewinds:
                assert len(called) == 1, process.name
                assert pragmas == {"QFX_PIPELINE_FRAMES"}, process.name
            else:
                assert "QFX_PIPELINE_FRAMES" not in pragmas, process.name
    assert {(True, 1), (False, 1)} <= told
