"""The check of pragmas: what the library and emitted projects hold passes, and every rule finds a planted fault."""

from __future__ import annotations

import numpy as np
import pytest
from hardware_models import DIRECTED
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_schedules import random_schedule
from support import synthesizable
from support.cpp_preprocess import evaluate, preprocess, synthesized, translation_units
from support.pragma_grammar import INTERFACE_OPTIONS, PRAGMAS, STORAGE, Tool
from support.pragmas import check

from qfx.errors import ProjectError
from qfx.hardware.assets import hls_root, read_tree
from qfx.hardware.board import board
from qfx.hardware.emit.emit import emit
from qfx.ir.passes.pipeline import optimize
from qfx.testing import random_graph

LIBRARY = {f"include/{path}": text for path, text in read_tree(hls_root() / "include", "qfx/*.h").items()}
VIVADO, VITIS = Tool.VIVADO_HLS, Tool.VITIS_HLS

TOP = """
typedef int word_t;
static const int DEPTH = 4;
void top(hls::stream<word_t>& in, hls::stream<word_t>& out, int gain) {{
{}
}}
"""


def complaints(text: str, tool: Tool = VITIS, **options: str) -> list[str]:
    return [finding.what for finding in check({"src/top.cpp": text}, tool, **options)]


def in_function(line: str, tool: Tool = VITIS) -> list[str]:
    """The complaints about a pragma in a function with a template parameter, arrays, a stream and a variable."""
    return complaints(
        "template <class S, int N> void f(hls::stream<int>& in, const int (&table)[3][N], int run_time) {\n"
        f"int plane[4][N]; int one; hls::stream<int> fifo; static const int FOUR = 4; const int late = run_time;\n{line}\n}}\n",
        tool,
    )


def in_loop(line: str, tool: Tool = VITIS) -> list[str]:
    return complaints(f"template <int N> void f(int n) {{ for (int i = 0; i < N; i++) {{ int x;\n{line}\nx = i; }} }}\n", tool)


@pytest.mark.parametrize("tool", Tool)
def test_library_passes(tool: Tool) -> None:
    assert check(LIBRARY, tool) == ()
    pragmas = [token.text for unit in translation_units(LIBRARY) for token in preprocess(LIBRARY, unit, tool.macros) if token.kind == "pragma"]
    assert sum("PIPELINE" in text for text in pragmas) >= 10
    assert any("DATA_PACK" in text for text in pragmas) == (tool is VIVADO)
    assert any("style=flp" in text for text in pragmas) == (tool is VITIS)


@pytest.mark.parametrize("which", range(len(DIRECTED)))
def test_projects_pass(which: int, thorough: bool) -> None:
    graph = optimize(DIRECTED[which]())
    for seed in range(4 if thorough else 1):
        files = emit(graph, random_schedule(graph, np.random.default_rng(seed)), board("zcu102"), clock_ns=5, top="top")
        for tool in Tool:
            assert check(files, tool, top="top") == ()


def test_random_projects_pass(thorough: bool) -> None:
    seed = int(np.random.default_rng().integers(1 << 32))
    print(f"seed {seed}")  # shown by pytest if the test fails
    for which in range(400 if thorough else 20):
        rng = np.random.default_rng(seed + which)
        graph = optimize(random_graph(rng))
        files = emit(graph, random_schedule(graph, rng), board("ultra96v2"), clock_ns=5, top="top")
        for tool in Tool:
            assert check(files, tool, top="top") == (), seed + which
            assert synthesizable.check(files, tool) == (), seed + which


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_broken_pragma_of_a_project_is_found(data: st.DataObject) -> None:
    """A pragma somewhere in a project with a letter of its kind, an option or a variable changed."""
    graph = optimize(data.draw(st.sampled_from(DIRECTED[:6]))())
    files = emit(graph, random_schedule(graph, np.random.default_rng(data.draw(st.integers(0, 99)))), board("zcu102"), clock_ns=5, top="top")
    places = [(path, i) for path, text in synthesized(files).items() for i, line in enumerate(text.splitlines()) if line.startswith("#pragma HLS ")]
    path, line = data.draw(st.sampled_from(places))
    lines = files[path].splitlines()
    parts = lines[line].split(" ")
    changed = data.draw(st.integers(2, len(parts) - 1))
    checked = parts[changed].split("=")[0] if parts[changed].startswith("bundle=") else parts[changed]  # a bundle may have any name
    letters = [i for i, letter in enumerate(checked) if letter.isalpha()]
    at = data.draw(st.sampled_from(letters)) if letters else 0
    parts[changed] = parts[changed][:at] + "Q" + parts[changed][at + 1 :] if letters else f"{parts[changed]}Q"
    lines[line] = " ".join(parts)
    found = [finding for tool in Tool for finding in check({**files, path: "\n".join(lines) + "\n"}, tool, top="top")]
    assert [(finding.path, finding.line) for finding in found][:1] == [(path, line + 1)], lines[line]


@pytest.mark.parametrize("tool", Tool)
def test_good_pragmas(tool: Tool) -> None:
    for line in (
        "#pragma HLS ARRAY_PARTITION variable=plane complete dim=0",
        "#pragma HLS array_partition variable=plane,table cyclic factor=N*2 dim=2",
        "#pragma HLS ARRAY_PARTITION variable=plane block factor=S::FOLD - 1 dim=1",
        "#pragma HLS STREAM variable=fifo depth=FOUR",
        "#pragma HLS STREAM variable = fifo depth = (N + 1) / 2",
        "#pragma HLS INLINE off",
        "#pragma HLS PIPELINE",
        "#pragma HLS DATAFLOW",
        "#pragma HLS DEPENDENCE variable=plane inter false",
        "#pragma HLS LATENCY min=1 max=FOUR",
        "#pragma HLS ALLOCATION operation instances=mul limit=N",
        "#pragma once",
    ):
        assert in_function(line, tool) == [], line
    for line in (
        "#pragma HLS UNROLL factor=N",
        "#pragma HLS PIPELINE II=1 rewind",
        "#pragma HLS LOOP_FLATTEN off",
        "#pragma HLS LOOP_TRIPCOUNT max=N",
    ):
        assert in_loop(line, tool) == [], line


def test_what_each_tool_knows() -> None:
    only_vivado = (
        "#pragma HLS DATA_PACK variable=one",
        "#pragma HLS RESOURCE variable=one core=Mul_LUT",
        "#pragma HLS RESOURCE variable=plane core=RAM_2P_BRAM latency=2",
        "#pragma HLS PIPELINE II=1 enable_flush",
        "#pragma HLS STREAM variable=plane depth=2 dim=1",
    )
    only_vitis = (
        "#pragma HLS AGGREGATE variable=one compact=bit",
        "#pragma HLS BIND_OP variable=one op=mul impl=dsp latency=3",
        "#pragma HLS BIND_STORAGE variable=plane type=rom_1p impl=bram",
        "#pragma HLS PIPELINE II=1 style=flp",
        "#pragma HLS ARRAY_PARTITION variable=plane type=cyclic factor=2",
    )
    for line in only_vivado:
        assert in_function(line, VIVADO) == [], line
        assert len(in_function(line, VITIS)) == 1, line
    assert in_loop("#pragma HLS PIPELINE II=1 rewind style=flp", VITIS) == []
    for line in only_vitis:
        assert in_function(line, VITIS) == [], line
        assert len(in_function(line, VIVADO)) == 1, line


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("#pragma HLS PIPELIN II=1", "no such pragma"),
        ("#pragma HSL PIPELINE", "no family"),
        ("#pragma HLS PIPELINE I=1", "I is no option"),
        ("#pragma HLS PIPELINE II", "ii needs a value"),
        ("#pragma HLS PIPELINE II=", "ii needs a value"),
        ("#pragma HLS PIPELINE II=0", "out of range"),
        ("#pragma HLS PIPELINE II=1 II=2", "stands twice"),
        ("#pragma HLS PIPELINE off=1", "takes no value"),
        ("#pragma HLS PIPELINE II=2 off", "no other option"),
        ("#pragma HLS PIPELINE style=fast", "style=fast is unknown"),
        ("#pragma HLS PIPELINE rewind", "rewind is for loops"),
        ("#pragma HLS UNROLL", "the body of a loop"),
        ("#pragma HLS LOOP_FLATTEN", "the body of a loop"),
        ("#pragma HLS ARRAY_PARTITION complete", "variable is missing"),
        ("#pragma HLS ARRAY_PARTITION variable=plain complete", "no variable plain in scope"),
        ("#pragma HLS ARRAY_PARTITION variable=S complete", "S is a type"),
        ("#pragma HLS ARRAY_PARTITION variable=&plane complete", "in front of a variable"),
        ("#pragma HLS ARRAY_PARTITION variable=one complete", "one is no array"),
        ("#pragma HLS ARRAY_PARTITION variable=plane complete dim=3", "2 dimensions, not 3"),
        ("#pragma HLS ARRAY_PARTITION variable=plane dim=-1", "out of range"),
        ("#pragma HLS ARRAY_PARTITION variable=plane dim=TWO", "TWO is not in scope"),
        ("#pragma HLS ARRAY_PARTITION variable=plane cyclic dim=1", "needs a factor"),
        ("#pragma HLS ARRAY_PARTITION variable=plane complete factor=2", "factor means nothing"),
        ("#pragma HLS ARRAY_PARTITION variable=plane block complete", "exclude each other"),
        ("#pragma HLS ARRAY_PARTITION variable=plane cyclic factor=run_time", "run_time is a variable, not a constant"),
        ("#pragma HLS ARRAY_PARTITION variable=plane cyclic factor=late", "known only at run time"),
        ("#pragma HLS ARRAY_PARTITION variable=plane cyclic factor=one::TWO", "one is no type"),
        ("#pragma HLS ARRAY_PARTITION variable=plane cyclic factor=1.5", "1.5 is no integer"),
        ("#pragma HLS ARRAY_PARTITION variable=plane cyclic factor=0", "out of range"),
        ("#pragma HLS STREAM variable=one depth=2", "neither a stream nor an array"),
        ("#pragma HLS STREAM variable=fifo depth=0", "out of range"),
        ("#pragma HLS STREAM variable=fifo depth=UNKNOWN", "UNKNOWN is not in scope"),
        ("#pragma HLS STREAM variable=fifo type=queue", "type=queue is unknown"),
        ("#pragma HLS BIND_OP variable=one op=mul impl=carry", "impl=carry is unknown"),
        ("#pragma HLS BIND_OP variable=one impl=dsp", "op is missing"),
        ("#pragma HLS BIND_OP variable=one op=mul impl=dsp latency=5", "out of range"),
        ("#pragma HLS BIND_STORAGE variable=plane type=rom_1p impl=uram_ecc", "rom_1p cannot be uram_ecc"),
        ("#pragma HLS FUNCTION_INSTANTIATE variable=one", "one is no parameter"),
        ("#pragma HLS ALLOCATION instances=mul limit=1", "its what is missing"),
        ("#pragma HLS LATENCY", "both missing"),
        ("#pragma HLS INLINE of", "of is no option"),
        ("#pragma HLS INTERFACE axis port=in", "the body of the top function"),
    ],
)
def test_planted_faults(line: str, complaint: str) -> None:
    found = in_function(line)
    assert len(found) == 1, found
    assert complaint in found[0], found


def test_vivados_own_faults() -> None:
    assert "no core mul_fast" in in_function("#pragma HLS RESOURCE variable=one core=Mul_Fast", VIVADO)[0]
    assert "core is missing" in in_function("#pragma HLS RESOURCE variable=one", VIVADO)[0]
    assert "flushes pipelined functions only" in in_loop("#pragma HLS PIPELINE II=1 enable_flush", VIVADO)[0]


def test_places() -> None:
    branch = "void f(int n) {{ for (int i = 0; i < 4; i++) {{ if (i) {{\n{}\nn = i; }} }} }}\n"
    assert "not in a branch" in complaints(branch.format("#pragma HLS PIPELINE"))[0]
    assert "not in a branch" in complaints(branch.format("#pragma HLS UNROLL"))[0]
    assert "not in the file itself" in complaints("#pragma HLS INLINE\nvoid f() {}\n")[0]
    assert "not in the class s" in complaints("struct s { int x[2];\n#pragma HLS ARRAY_PARTITION variable=x\n};\n")[0]
    assert "inside a statement" in complaints("void f(int n) { n =\n#pragma HLS INLINE\n1; }\n")[0]
    braceless = "void f(int n) { for (int i = 0; i < 4; i++)\n#pragma HLS UNROLL\nn = i; }\n"
    assert len(complaints(braceless)) == 2  # in the middle of a statement, and in no loop's body
    assert in_loop("#pragma HLS PIPELINE\n#pragma HLS PIPELINE")[0].endswith("this block has one already")
    assert in_loop("#pragma HLS PIPELINE\n#pragma HLS DATAFLOW")[0].endswith("exclude each other")
    late = "void f() {\n#pragma HLS ARRAY_PARTITION variable=x\nint x[4]; x[0] = 0; }\n"
    assert "no variable x in scope" in complaints(late)[0]
    other = "void f() { int x[4]; x[0] = 0; }\nvoid g() {\n#pragma HLS ARRAY_PARTITION variable=x\n}\n"
    assert "no variable x in scope" in complaints(other)[0]
    inner = "void f() { { int x[4]; x[0] = 0; }\n#pragma HLS ARRAY_PARTITION variable=x\n}\n"
    assert "no variable x in scope" in complaints(inner)[0]


@pytest.mark.parametrize(
    "line",
    [
        "#pragma HLS ARRAY_PARTITION variable=mine complete dim=1",
        "#pragma HLS BIND_STORAGE variable=mine type=ram_s2p impl=lutram",
        "#pragma HLS DEPENDENCE variable=own,mine inter false",
    ],
)
def test_pragmas_on_parameters_of_what_is_inlined(line: str) -> None:
    text = "void f(int (&mine)[4], int n) {{\n{}int own[4];\n{}\nmine[n] = own[n]; }}\n".format
    assert complaints(text("", line)) == complaints(text("#pragma HLS INLINE off\n", line)) == []
    (what,) = complaints(text("#pragma HLS INLINE\n", line))
    assert "mine is a parameter of a function that is inlined" in what
    assert complaints(text("#pragma HLS INLINE\n", line.replace("own,mine", "own").replace("mine", "own"))) == []


def test_words_that_are_written_are_no_arrays_of_numbers() -> None:
    assert "plane is written" in in_function("#pragma HLS ARRAY_RESHAPE variable=plane complete dim=2")[0]
    assert in_function("#pragma HLS ARRAY_RESHAPE variable=table complete dim=2") == []  # constants


@pytest.mark.parametrize(("kind", "option"), [("ARRAY_PARTITION", "complete dim=2"), ("DEPENDENCE", "inter false")])
def test_a_pragma_that_moves_from_a_layer_into_a_template_is_found(kind: str, option: str) -> None:
    path = "include/qfx/matvec.h"
    first = "  total_t acc[S::OUT];\n"
    assert first in LIBRARY[path]
    broken = LIBRARY[path].replace(first, f"{first}#pragma HLS {kind} variable=kept {option}\n", 1)
    for tool in Tool:
        (finding,) = check({**LIBRARY, path: broken}, tool)
        assert "kept is a parameter of a function that is inlined" in finding.what


def test_interfaces() -> None:
    good = "\n".join(
        (
            "#pragma HLS INTERFACE axis port=in",
            "#pragma HLS INTERFACE axis register both port=out",
            "#pragma HLS INTERFACE s_axilite port=gain bundle=control offset=0x10",
            "#pragma HLS INTERFACE s_axilite port=return bundle=control",
        )
    )
    for tool in Tool:
        assert complaints(TOP.format(good), tool, top="top") == []
    for line, complaint in (
        ("#pragma HLS INTERFACE axi port=in", "axi is no option"),
        ("#pragma HLS INTERFACE port=in", "its mode is missing"),
        ("#pragma HLS INTERFACE axis", "port is missing"),
        ("#pragma HLS INTERFACE axis port=inn", "inn is no parameter"),
        ("#pragma HLS INTERFACE axis s_axilite port=in", "exclude each other"),
        ("#pragma HLS INTERFACE axis port=return", "cannot be axis"),
        ("#pragma HLS INTERFACE axis port=in offset=4", "axis takes no offset"),
        ("#pragma HLS INTERFACE ap_ctrl_none port=in", "port=return"),
        ("#pragma HLS INTERFACE m_axi port=gain offset=master", "offset=master is unknown"),
        ("#pragma HLS INTERFACE s_axilite port=gain offset=gain", "offset is no constant"),
        ("#pragma HLS INTERFACE axis port=in register_mode=none", "register_mode=none is unknown"),
        ("#pragma HLS INTERFACE axis port=in\n#pragma HLS INTERFACE axis port=in", "in as axis stands twice"),
    ):
        found = complaints(TOP.format(line), top="top")
        assert len(found) == 1, found
        assert complaint in found[0], found
    assert "the body of the top function" in complaints(TOP.format(good), top="other")[0]


def test_pragmas_in_macros_and_branches() -> None:
    text = (
        "#define TEXT(x) #x\n#define DO(x) _Pragma(TEXT(x))\n"
        "#if defined(__SYNTHESIS__) && !defined(__VITIS_HLS__)\n#define PACK(word) DO(HLS DATA_PACK variable = word)\n"
        "#else\n#define PACK(word)\n#endif\n"
        "#ifndef __SYNTHESIS__\n#pragma HLS NONSENSE\n#endif\n"
        "void f() { int a; \n  PACK(a)\n  PACK(b)\n}\n"
    )
    assert complaints(text, VITIS) == []
    found = check({"src/top.cpp": text}, VIVADO)
    assert [(finding.line, finding.path) for finding in found] == [(13, "src/top.cpp")]
    assert "no variable b in scope" in found[0].what
    assert str(found[0]).startswith("src/top.cpp:13: #pragma HLS DATA_PACK variable = b: ")


def test_headers_are_read_through_includes() -> None:
    files = {
        "src/top.cpp": '#include "layers.h"\nvoid top() {\n#pragma HLS ALLOCATION operation instances=mul limit=COUNT\n}\n',
        "src/layers.h": '#ifndef L\n#define L\n#include "qfx/types.h"\nstatic const int COUNT = limit::COUNT;\n#endif\n',
        "include/qfx/types.h": "#ifndef T\n#define T\nnamespace limit { static const int COUNT = 3; }\n#endif\n",
        "tb/tb.cpp": "#pragma HLS NONSENSE\n",
    }
    assert check(files, VITIS) == ()
    assert len(check({**files, "src/layers.h": files["src/layers.h"].replace("COUNT", "NUMBER")}, VITIS)) == 1
    with pytest.raises(ProjectError, match="not among the files"):
        check({**files, "src/top.cpp": '#include "missing.h"\n'}, VITIS)
    with pytest.raises(ProjectError, match="never closed"):
        check({"src/top.cpp": "#if 1\n"}, VITIS)
    with pytest.raises(ProjectError, match="cannot be decided"):
        check({"src/top.cpp": "#if 1 +\n#endif\n"}, VITIS)


def test_constant_expressions_of_conditions() -> None:
    for text, value in (("1 + 2 * 3", 7), ("( 1 << 3 ) - 4 / 3", 7), ("! 0 && 1 < 2", 1), ("- 7 / 2", -3), ("- 7 % 3", -1), ("010 + 0x10", 24)):
        assert evaluate(text.split()) == value
    for text in ("N", "1 +", "( 1", "1 / 0", "1 2"):
        assert evaluate(text.split()) is None


def test_grammar_is_consistent() -> None:
    interface = PRAGMAS["interface"]
    modes = {option.name for option in interface.options if option.group == "mode" and not option.words}
    assert modes == set(INTERFACE_OPTIONS)
    assert all(interface.option(name) for names in INTERFACE_OPTIONS.values() for name in names)
    types, implementations = PRAGMAS["bind_storage"].option("type"), PRAGMAS["bind_storage"].option("impl")
    assert types is not None
    assert implementations is not None
    assert types.words == set(STORAGE)
    assert set().union(*STORAGE.values()) == implementations.words
    for pragma in PRAGMAS.values():
        assert len({option.name for option in pragma.options}) == len(pragma.options), pragma.name
        assert all(option.tools & pragma.tools for option in pragma.options), pragma.name
