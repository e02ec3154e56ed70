"""Whatever a top function is called, the project compiles or the name is refused; a model's file may have any name."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from qfx.errors import ProjectError
from qfx.fixed.type import FixedType
from qfx.hardware.assets import hls_root, simulation_headers
from qfx.hardware.board import board
from qfx.hardware.design.names import checked_top, top_name
from qfx.hardware.design.schedule import Schedule
from qfx.hardware.emit import reserved
from qfx.hardware.emit.emit import emit
from qfx.hardware.project.project import prepare
from qfx.ir.graph import Graph, Node
from qfx.ir.values import ArrayType, Const
from qfx.operators import Cast, Input, Linear, Relu

GROUPS = {**reserved._AS_WRITTEN, **reserved._ANY_CASE}
FLAGS = ("-std=c++11", "-DNDEBUG", "-w", "-fsyntax-only")

SAMPLE_TEXT = """
layers in out ap_fixed ap_int ap_uint ap_ufixed stream abs hls hls_stream std qfx main assert NULL EOF INT_MAX int8_t size_t M_PI linux unix stdin
errno div exp time signal index read vector string map swap complex frame constants weights load tb top input output word data x y process module
entity reg wire co_await char8_t concept requires and bitor xor_eq math stdint features system aux harness dma types rom qfx_axi qfx_tb qfx_rom
qfx_trace INT8_MAX CHAR_BIT BUFSIZ FILE NAN INFINITY HUGE_VAL RAND_MAX SEEK_SET EINVAL E2BIG LC_ALL EXIT_SUCCESS CLOCKS_PER_SEC UINT_MAX PRIu64
offsetof va_arg
"""
SAMPLE = frozenset(SAMPLE_TEXT.split())


def test_every_reserved_name_is_refused_and_the_remedy_works() -> None:
    for what, words in GROUPS.items():
        for word in words:
            with pytest.raises(
                ProjectError, match=f"cannot name the top function: it is .*{re.escape(what) if reserved.meaning(word) == what else ''}"
            ) as refused:
                checked_top(word)
            suggested = re.search(r"such as '(\w+)'", refused.value.remedy)
            assert suggested is not None
            assert checked_top(suggested.group(1)) == suggested.group(1)
            assert checked_top(top_name(word)) == top_name(word)


@pytest.mark.parametrize(
    "name", ["net", "Net2", "digits", "model", "resnet20", "CNN", "qfx_net", "conv", "my_layers", "abs_net", "tiny_t", "float32"]
)
def test_ordinary_names_stay_as_they_are(name: str) -> None:
    assert checked_top(name) == name
    assert top_name(name) == name.lower()


@pytest.fixture(scope="module")
def graph() -> Graph:
    """A layer with weights, a bias and a ReLU."""
    byte = FixedType.parse("ap_fixed<8,3,AP_RND,AP_SAT>")
    rng = np.random.default_rng(0)
    weight, bias = Const(rng.integers(-8, 8, (3, 4)), 3), Const(rng.integers(-8, 8, 3), 3)
    nodes = (
        Node("x", Input((4,), ArrayType.of(byte)), ()),
        Node("fc", Linear(weight, bias), ("x",)),
        Node("relu", Relu(), ("fc",)),
        Node("y", Cast(ArrayType.of(byte)), ("relu",)),
    )
    return prepare(Graph("net", nodes, "y"))


def _write(graph: Graph, top: str, folder: Path, weights: str = "rom") -> None:
    files = emit(prepare(graph, weights), Schedule(), board("ultra96v2"), clock_ns=5.0, top=top)
    for path, text in files.items():
        if path.endswith((".h", ".cpp")):
            place = folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)


def _complaints(gxx: str, folder: Path, top: str) -> list[str]:
    """What g++ says of the test bench, the sources as HLS searches for headers, and the emulator."""
    common, sim = (f"-I{folder}/include", f"-I{folder}/src", f"-I{folder}/tb", *simulation_headers()), folder / "sim"
    native = (f"-I{folder}/include", "-isystem", str(sim / "native"), "-isystem", str(sim / "emulate"), "-DQFX_NATIVE", "-DQFX_UNPACKED")
    found = []
    for source, includes in ((folder / "tb" / "tb.cpp", common), (folder / "src" / f"{top}.cpp", common), (sim / "fast" / "fast.cpp", native)):
        done = subprocess.run([gxx, *FLAGS, *includes, str(source)], capture_output=True, text=True, check=False)
        found += [line for line in done.stderr.splitlines() if "error" in line][:1] if done.returncode else []
    return found


def _tokens(text: str) -> set[str]:
    """The identifiers of C++ that a top function could be called, by its form alone."""
    bare = re.sub(r'/\*.*?\*/|//[^\n]*|"(\\.|[^"\\\n])*"', "", text, flags=re.DOTALL)
    return {token for token in re.findall(r"[A-Za-z_]\w*", bare) if re.fullmatch(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*", token) and len(token) <= 48}


def _accepted(name: str) -> bool:
    return reserved.meaning(name) == ""


def test_a_sample_of_names_compiles_or_is_refused(graph: Graph, gxx: str, tmp_path: Path, thorough: bool) -> None:
    """In full with --thorough: every identifier of all sources of a project, with its weights in ROM and loaded."""
    names = set(SAMPLE)
    if thorough:
        for weights in ("rom", "stream"):
            _write(graph, "zzz", tmp_path / weights, weights)
        names |= set().union(*(_tokens(path.read_text()) for path in tmp_path.rglob("*") if path.is_file()))
    accepted = sorted(name for name in names if _accepted(name) and "zzz" not in name.lower() and not re.match("fc_|(in|out)put_port", name))
    for name in accepted if thorough else ["stream", "word", "top"]:
        assert name in accepted
        folder = tmp_path / name
        _write(graph, name, folder, "stream")  # whose test bench has the most names of its own
        assert _complaints(gxx, folder, name) == [], name


def test_the_function_of_a_layer_keeps_its_name(graph: Graph, tmp_path: Path) -> None:
    for top in ("fc_matvec", "FC_matvec"):
        with pytest.raises(ProjectError, match="a layer's function has that name"):
            _write(graph, top, tmp_path)
    _write(graph, "fc", tmp_path)


def test_no_accepted_name_is_declared_by_a_header(graph: Graph, gxx: str, tmp_path: Path) -> None:
    """All names that headers bring, macros and types among them: each that is accepted can be declared behind them, in one compilation."""
    _write(graph, "zzz", tmp_path)
    includes = (f"-I{tmp_path}/include", f"-I{tmp_path}/src", f"-I{tmp_path}/tb", *simulation_headers())
    bench = str(tmp_path / "tb" / "tb.cpp")
    names = set(SAMPLE)
    for standard in ("-std=c++11", "-std=gnu++14"):
        for listing in ((), ("-dM",)):
            names |= _tokens(subprocess.run([gxx, standard, *includes, "-E", *listing, bench], capture_output=True, text=True, check=True).stdout)
    accepted = sorted(name for name in names if _accepted(name) and "zzz" not in name.lower())
    assert len(accepted) > 1000
    lines = ['#include "dma.h"', '#include "harness.h"', '#include "zzz.h"', '#include "layers.h"']
    lines += [f"void {name}(hls::stream<qfx::axi_word<8> >& in, hls::stream<qfx::axi_word<8> >& out);" for name in accepted]
    lines += [f"namespace {name}_{part} {{}}" for name in accepted for part in ("ports", "layers")]
    source = tmp_path / "all.cpp"
    source.write_text("\n".join(lines) + "\n")
    for standard in ("-std=c++11", "-std=gnu++14"):
        done = subprocess.run([gxx, *FLAGS, standard, *includes, str(source)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[:2000]


def test_no_accepted_name_makes_the_guard_of_a_header() -> None:
    """A header whose guard is taken would be empty."""
    folders = [hls_root() / part for part in ("include", "templates", "sim/emulate")] + [Path(simulation_headers()[1])]
    headers = [*(hls_root() / "sim").glob("*.h"), *(path for folder in folders for path in folder.rglob("*.h"))]
    guards = {found for path in headers for found in re.findall(r"#ifndef ([A-Za-z]\w*_H)\b", path.read_text())}
    assert "QFX_AXI_H" in guards
    clashes = [guard for guard in guards if re.fullmatch(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*", guard[:-2]) and _accepted(guard[:-2].lower())]
    assert clashes == []


def test_no_accepted_name_hides_a_header_of_the_compiler(gxx: str, graph: Graph, tmp_path: Path) -> None:
    """HLS searches ``src`` first: a top function's header must not be found instead of the C library's."""
    _write(graph, "zzz", tmp_path)
    includes = (f"-I{tmp_path}/include", f"-I{tmp_path}/src", f"-I{tmp_path}/tb", *simulation_headers())
    listed = subprocess.run([gxx, "-std=c++11", *includes, "-M", str(tmp_path / "tb" / "tb.cpp")], capture_output=True, text=True, check=True).stdout
    stems = {Path(path).stem for path in re.findall(r"/include/([a-z_0-9]+\.h)", listed)}
    stems |= {path.stem for path in (hls_root() / "templates").glob("*.h")}
    assert {"features", "stdint"} <= stems
    assert [stem for stem in stems if re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", stem) and _accepted(stem)] == []
