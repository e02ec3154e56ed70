"""Both compilers take the whole library without a warning, for simulation and as the tools see it, and give the same numbers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hardware_models import DIRECTED, chain, conv, few_of_each, from_ddr, in_batches, side_by_side, spilled, whole_pixels
from random_schedules import random_schedule
from support.bundles import Bundle, build_bundle
from support.pragma_grammar import Tool

from qfx.hardware.assets import hls_root, read_tree, simulation_headers
from qfx.hardware.design import dsp
from qfx.hardware.design.schedule import ARITHMETIC, Folding, Schedule
from qfx.hardware.emit.emit import CSIM_FLAGS
from qfx.hardware.emit.emulate import FAST_FLAGS
from qfx.hardware.project.csim import VARIANTS
from qfx.ir.graph import Graph
from qfx.ir.interpret import quantize_input, run_raw
from qfx.ir.passes.pipeline import optimize
from qfx.operators import SumPool
from qfx.testing import adversarial_inputs, assert_bit_exact

STRICT = ("-O0", "-Werror", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Wno-sign-conversion")
CLANG = ("-Wno-unknown-warning-option", "-Wno-unused-function")
"""What clang++ knows otherwise; a bundle uses not all of the harness."""

REST = "qfx::sint<9> rest(const qfx::sint<5>& x);\nqfx::sint<9> rest(const qfx::sint<5>& x) { return qfx::align<qfx::sint<9>, 2>(x); }\n"
REST += "int line(const int pixel);\nint line(const int pixel) { return qfx::line_of<9, 3>(pixel); }\n"
"""What none of the designs needs."""


@pytest.fixture(scope="module")
def clang() -> str:
    """The path of clang++. A machine without it skips the test; continuous integration must not."""
    path = shutil.which("clang++")
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("clang++ is missing, and continuous integration may not skip it")
        pytest.skip("clang++ is not installed")
    return path


Designs = list[tuple[Graph, Schedule]]


@pytest.fixture(scope="module")
def designs() -> Designs:
    """Every directed graph, folded at random, one layer in each arithmetic, and what random foldings may leave out."""
    rng = np.random.default_rng(11)
    graphs = [optimize(make()) for make in DIRECTED]
    layer = chain("layer", (2, 4, 3), conv(40, 4, 2, 2, 2), cast="ap_fixed<4,3>")
    forms = [(layer, Schedule.of({"conv0": Folding(4, 2, name, pixels=2 if name in dsp.GRIDS else 1)})) for name in ARITHMETIC]
    sums = chain("sums", (18, 3, 2), SumPool((3, 2), (1, 1), ((0, 0), (0, 0))))
    alone = [(graph, Schedule()) for graph in (sums, *(graph for graph in graphs if graph.name == "phases"))]
    fixed = (side_by_side(), whole_pixels(), from_ddr(), in_batches(), few_of_each(), spilled())
    return [*((graph, random_schedule(graph, rng)) for graph in graphs), *forms, *alone, *fixed]


@pytest.fixture(scope="module")
def gnu(gxx: str, designs: Designs, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The designs compiled by g++."""
    assert gxx
    return build_bundle(designs, tmp_path_factory.mktemp("proof"), flags=STRICT)


@pytest.fixture(scope="module")
def gnu_fast(gxx: str, designs: Designs, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Their emulators compiled by g++."""
    assert gxx
    return build_bundle(designs, tmp_path_factory.mktemp("fast"), fast=True, flags=STRICT)


def compile_(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:4000]
    assert done.stderr == ""


def test_the_designs_use_the_whole_library(gnu: Bundle) -> None:
    """Every function and class template of the library is named by an emitted source or by another part of the library."""
    headers = read_tree(hls_root() / "include", "qfx/*.h")
    elsewhere = ("qfx/load.h", "qfx/unrolled.h")  # which test_weights_stream.py and test_unrolled.py compile
    library = "\n".join(text for path, text in headers.items() if path not in elsewhere)
    emitted = "\n".join(path.read_text(encoding="utf-8") for path in gnu.executable.parent.glob("*/src/layers.h")) + REST
    defined = set(re.findall(r"^(?:struct|inline [\w ]+|void) (\w+)(?: :| \{|\()", library, re.MULTILINE))
    assert len(defined) > 40
    unused = {name for name in defined if not re.search(rf"\bqfx::{name}\b", emitted) and len(re.findall(rf"\b{name}\b", library)) < 2}
    assert unused == set()
    assert {name for name in ("window", "matvec", "depthwise", "pool", "permute", "concat", "binary") if f"qfx::{name}<" not in emitted} == set()


def test_both_compilers_give_the_interpreters_numbers(clang: str, gnu: Bundle, designs: Designs) -> None:
    folder = gnu.executable.parent
    executable = folder / "clang_bundle"
    search = [*simulation_headers(), "-isystem", str(hls_root() / "sim" / "emulate"), f"-I{hls_root() / 'include'}", f"-I{hls_root() / 'templates'}"]
    compile_([clang, *CSIM_FLAGS, *STRICT, *CLANG, *search, str(folder / "bundle.cpp"), "-o", str(executable)])
    compare(gnu, Bundle(executable, gnu.output_shapes), designs)


def test_both_compilers_give_the_interpreters_numbers_fast(clang: str, gnu_fast: Bundle, designs: Designs) -> None:
    folder, sim = gnu_fast.executable.parent, hls_root() / "sim"
    executable = folder / "clang_bundle"
    search = ["-isystem", str(sim / "native"), "-isystem", str(sim / "emulate"), f"-I{hls_root() / 'include'}"]
    compile_([clang, *FAST_FLAGS, *STRICT, *CLANG, *search, str(folder / "bundle.cpp"), "-o", str(executable)])
    compare(gnu_fast, Bundle(executable, gnu_fast.output_shapes), designs)


@pytest.mark.parametrize("variant", ["trace", "report"])
def test_the_variants_of_simulation_compile(clang: str, variant: str, gnu: Bundle) -> None:
    """Traces and reports of what casts lose, by clang++; g++ builds them wherever they are tested."""
    emulate = ["-isystem", str(hls_root() / "sim" / "emulate")]
    search = [*emulate, *simulation_headers()] if variant == "trace" else [*simulation_headers(), *emulate]
    own = [f"-I{hls_root() / 'include'}", f"-I{hls_root() / 'templates'}", str(gnu.executable.parent / "bundle.cpp")]
    compile_([clang, *CSIM_FLAGS, *STRICT, *CLANG, *VARIANTS[variant], "-fsyntax-only", *search, *own])


def compare(first: Bundle, second: Bundle, designs: Designs) -> None:
    for index, (graph, _) in enumerate(designs):
        x = adversarial_inputs(graph, np.random.default_rng(index), 3)
        expected, x_raw = run_raw(graph, x), quantize_input(graph, x)
        for bundle, name in ((first, "g++"), (second, "clang++")):
            assert_bit_exact(bundle.run_from_raw(index, x_raw), expected, names=(f"{graph.name} by {name}", "interpreter"))


@pytest.mark.parametrize("tool", Tool)
def test_the_branches_for_synthesis_compile(clang: str, tool: Tool, gnu: Bundle) -> None:
    """What the tools see, by clang++ as both tools are built on clang. The vendor's open headers refuse __SYNTHESIS__, so they are read before it."""
    folder = gnu.executable.parent
    macros = {name: value for name, value in tool.macros.items() if name != "__cplusplus"}
    early = [f"#define {name} {value}" for name, value in macros.items() if name != "__SYNTHESIS__"]  # Vitis HLS simulates with its own macro, too
    headers = [f"#include <{name}>" for name in ("ap_axi_sdata.h", "ap_fixed.h", "ap_int.h", "hls_stream.h")]
    designs = [f'#include "{source.relative_to(folder)}"' for source in sorted(folder.glob("*/src/*.cpp"))]
    assert len(designs) > len(DIRECTED)
    unit = folder / f"{tool.name.lower()}.cpp"
    unit.write_text("\n".join([*early, *headers, "#define __SYNTHESIS__ 1", *designs, REST]), encoding="utf-8")
    compile_([clang, *CSIM_FLAGS, *STRICT, *CLANG, "-fsyntax-only", *simulation_headers(), f"-I{hls_root() / 'include'}", str(unit)])


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_a_planted_warning_is_refused(compiler: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    path = request.getfixturevalue("gxx" if compiler == "g++" else "clang")
    unit = tmp_path / "planted.cpp"
    unit.write_text('#include "qfx/pointwise.h"\nint f(int x) { { int x = 3; (void)x; } return x; }\n', encoding="utf-8")
    command = [path, *CSIM_FLAGS, *STRICT, *(CLANG if compiler == "clang++" else ()), "-fsyntax-only", *simulation_headers()]
    done = subprocess.run([*command, f"-I{hls_root() / 'include'}", str(unit)], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "shadow" in done.stderr
