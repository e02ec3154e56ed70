"""The fast emulator gives the raw integers of the interpreter and of the vendor's build; its cast is the definition's in every mode."""

from __future__ import annotations

import struct
import subprocess
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hardware_models import DIRECTED, classifier
from random_schedules import random_schedule
from support.bundles import build_bundle

from qfx.errors import ProjectError
from qfx.fixed.reference import cast_raw
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.hardware.assets import hls_root
from qfx.hardware.design.schedule import Schedule
from qfx.hardware.emit import emulate
from qfx.hardware.emit.emulate import FAST_FLAGS, emit_emulator, wide_schedule
from qfx.hardware.project import csim
from qfx.hardware.project.project import write_project
from qfx.ir.graph import Graph
from qfx.ir.interpret import quantize_input, run, run_raw
from qfx.testing import adversarial_inputs, assert_bit_exact, random_graph

SAMPLES = 6


@pytest.mark.usefixtures("gxx")
def test_directed_and_random_graphs(tmp_path: Path, thorough: bool) -> None:
    seed = int(np.random.default_rng().integers(1 << 32))
    print(f"seed {seed}")  # shown by pytest if the test fails
    rng = np.random.default_rng(seed)
    graphs = [make() for make in DIRECTED] + [random_graph(rng) for _ in range(200 if thorough else 25)]
    # Of -O3 the vectorizer matters, not the inlining of the whole library into one function per design.
    bundle = build_bundle([(graph, Schedule()) for graph in graphs], tmp_path, fast=True, flags=("-Werror", "-O1", "-ftree-vectorize"))
    for index, graph in enumerate(graphs):
        x = adversarial_inputs(graph, np.random.default_rng(index), SAMPLES)
        found = bundle.run_from_raw(index, quantize_input(graph, x))
        assert_bit_exact(found, run_raw(graph, x), names=(f"emulator of {graph.name} ({index})", "interpreter"))


@pytest.mark.usefixtures("gxx")
def test_a_project_runs_fast_and_like_the_vendors_build(tmp_path: Path) -> None:
    graph = classifier()
    project = write_project(graph, tmp_path / "project", board="kv260", schedule=random_schedule(graph, np.random.default_rng(3))).path
    x = adversarial_inputs(graph, np.random.default_rng(4), 9)
    fast = csim.run_raw(project, x, fast=True)
    assert_bit_exact(fast, run_raw(graph, x))
    assert_bit_exact(fast, csim.run_raw(project, x))
    assert_bit_exact(csim.run(project, x, fast=True), run(graph, x))
    assert csim.run_raw(project, x[:0], fast=True).shape == (0, 10)
    built = (project / "build" / "fast").stat().st_mtime_ns
    csim.build(project, fast=True)
    assert (project / "build" / "fast").stat().st_mtime_ns == built  # nothing changed, nothing is compiled
    (project / "build" / "fast.target").write_text("another processor")
    csim.build(project, fast=True)
    assert (project / "build" / "fast").stat().st_mtime_ns > built
    # Writing it again takes away what was built for the old one.
    write_project(graph, project, board="zcu102", force=True)
    assert not (project / "build").exists()


@pytest.mark.usefixtures("gxx")
def test_one_lsb_of_a_weight_is_seen(tmp_path: Path) -> None:
    graph = classifier()
    project = write_project(graph, tmp_path / "project", board="zcu102").path
    x = adversarial_inputs(graph, np.random.default_rng(5), 9)
    (weights,) = (project / "sim" / "fast" / "weights").glob("linear4*")
    flip_weight(weights)
    with pytest.raises(AssertionError, match="numbers differ"):
        assert_bit_exact(csim.run_raw(project, x, fast=True), run_raw(graph, x))


def flip_weight(header: Path) -> None:
    """The lowest bit of the first weight of a generated header."""
    text = header.read_text()
    at = text.index("0x") + 2
    end = next(i for i in range(at, len(text)) if text[i] not in "0123456789abcdef")
    header.write_text(f"{text[:at]}{int(text[at:end], 16) ^ 1:x}{text[end:]}")


@pytest.mark.usefixtures("gxx")
def test_large_roms_are_files_of_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which one bit counts, and which must be as long as they were."""
    monkeypatch.setattr(emulate, "_DATA_BYTES", 0)
    graph = classifier()
    project = write_project(graph, tmp_path / "project", board="zcu102").path
    x = adversarial_inputs(graph, np.random.default_rng(5), 9)
    assert_bit_exact(csim.run_raw(project, x, fast=True), run_raw(graph, x))
    (weights,) = (project / "sim" / "fast" / "weights").glob("linear4*.h.bin")
    assert "0x" not in weights.with_suffix("").read_text()
    right = weights.read_bytes()
    weights.write_bytes(bytes([right[0] ^ 1]) + right[1:])
    with pytest.raises(AssertionError, match="numbers differ"):
        assert_bit_exact(csim.run_raw(project, x, fast=True), run_raw(graph, x))
    weights.write_bytes(right[:-1])
    with pytest.raises(ProjectError, match=r"linear4\w*\.h\.bin"):
        csim.run_raw(project, x, fast=True)


def test_a_project_without_emulator_says_so(tmp_path: Path) -> None:
    project = write_project(classifier(), tmp_path / "project", board="zcu102").path
    (project / "sim" / "fast" / "fast.cpp").unlink()
    with pytest.raises(ProjectError, match=r"fast\.cpp is missing"):
        csim.build(project, fast=True)


def test_emission_is_deterministic_and_wide() -> None:
    assert emit_emulator(classifier(), "net") == emit_emulator(classifier(), "net")
    schedule = wide_schedule(classifier())
    assert (schedule.folding("conv0").pe, schedule.folding("conv0").simd) == (4, 3)
    assert (schedule.folding("linear4").pe, schedule.folding("linear4").simd) == (10, 60)
    assert (schedule.input_parallel, schedule.output_parallel) == (3, 10)


# --- the cast ---

SHIFTS = (-5, -2, -1, 0, 1, 2, 3, 5, 9)


def modes(widths: tuple[int, ...]) -> list[FixedType]:
    """Every type of these widths on the integer grid: all modes, N = 0, 1, 2 and W."""
    found = []
    for width, signed, q, o in product(widths, (False, True), QMode, OMode):
        for n in sorted({0, 1, 2, width}) if o in (OMode.WRAP, OMode.WRAP_SM) else (0,):
            if n <= width and (signed or o is not OMode.WRAP_SM):
                found.append(FixedType(width, width, signed, q, o, n))
    return found


MAIN = """#include <cstdio>
#include <ap_int.h>
#include <qfx_cast.h>
typedef int64_t (*converter)(int64_t, int);
template <class Wide, int W, bool S, ap_q_mode Q, ap_o_mode O, int N>
int64_t one(const int64_t x, const int shift) {{ return static_cast<int64_t>(qfx_cast::convert<Wide, W, S, Q, O, N>(static_cast<Wide>(x), shift)); }}
static const converter converters[] = {{
{converters}
}};
int main() {{
  int64_t task[3];
  while (std::fread(task, 8, 3, stdin) == 3) {{
    const int64_t result = converters[task[0]](task[1], static_cast<int>(task[2]));
    std::fwrite(&result, 8, 1, stdout);
  }}
}}
"""


def converted(types: list[tuple[str, FixedType]], tasks: list[tuple[int, int, int]], folder: Path) -> list[int]:
    """``tasks`` are (index of the type, raw, shift); each type comes with the C++ type that its conversion works in."""
    lines = [f"  one<{wide}, {type_.width}, {str(type_.signed).lower()}, {type_.q.value}, {type_.o.value}, {type_.n}>," for wide, type_ in types]
    (folder / "cast.cpp").write_text(MAIN.format(converters="\n".join(lines)))
    sim = hls_root() / "sim"
    flags = [flag for flag in FAST_FLAGS if flag != "-O3"]
    command = ["g++", *flags, "-O1", "-Werror", f"-I{sim / 'native'}", f"-I{sim / 'emulate'}", str(folder / "cast.cpp"), "-o", str(folder / "cast")]
    subprocess.run(command, check=True)
    packed = b"".join(struct.pack("<3q", *task) for task in tasks)
    done = subprocess.run([str(folder / "cast")], input=packed, capture_output=True, check=True)
    return list(struct.unpack(f"<{len(tasks)}q", done.stdout))


@pytest.mark.usefixtures("gxx")
def test_the_cast_is_the_definition_exhaustively(tmp_path: Path) -> None:
    types = [("int32_t" if type_.width > 2 else "int16_t", type_) for type_ in modes((1, 2, 3, 4))]
    assert len(types) > 300
    tasks = [(index, raw, shift) for index in range(len(types)) for shift in SHIFTS for raw in range(-40, 41)]
    found = converted(types, tasks, tmp_path)
    wrong = [(types[i][1], raw, shift) for (i, raw, shift), got in zip(tasks, found, strict=True) if got != cast_raw(raw, shift, types[i][1])]
    assert not wrong


@pytest.mark.usefixtures("gxx")
def test_the_cast_is_the_definition_at_the_ends(tmp_path: Path) -> None:
    """Words and shifts as wide as they come: 62-bit targets in 64 and 128 bits, shifts beyond the word, ties of every kind."""
    types = [("int64_t", type_) for type_ in modes((17, 62))] + [("__int128", type_) for type_ in modes((62, 63))]
    rng = np.random.default_rng(6)
    tasks = []
    for index, shift in product(range(len(types)), (-70, -63, -45, -1, 0, 1, 16, 17, 61, 62, 63, 64, 65, 90)):
        half = 1 << min(max(shift - 1, 0), 61)
        raws = [0, 1, -1, half, -half, half + 1, -half - 1, half - 1, 3 * half, -3 * half, 1 << 62, -(1 << 62), (1 << 63) - 1, -(1 << 63)]
        raws += [int(raw) for raw in rng.integers(-(1 << 63), 1 << 63, 3)]
        tasks += [(index, raw, shift) for raw in raws if -(1 << 63) <= raw < 1 << 63]
    found = converted(types, tasks, tmp_path)
    wrong = [
        (types[i], raw, shift, got, want)
        for (i, raw, shift), got in zip(tasks, found, strict=True)
        if got != (want := cast_raw(raw, shift, types[i][1]))
    ]
    assert not wrong


@pytest.mark.usefixtures("gxx")
def test_a_wrong_cast_would_be_seen(tmp_path: Path) -> None:
    """The comparison above, with a tie rounded the other way."""
    up, down = FixedType(4, 4, q=QMode.RND), FixedType(4, 4, q=QMode.RND_MIN_INF)
    assert converted([("int32_t", down)], [(0, 3, 1)], tmp_path) != [cast_raw(3, 1, up)]


def test_graphs_keep_their_schedule_apart() -> None:
    """The emulator folds as it likes: the project's schedule, which names other numbers, does not reach it."""
    graph: Graph = classifier()
    assert wide_schedule(graph) != Schedule()
