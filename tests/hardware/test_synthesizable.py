"""The check of what synthesized C++ may hold: the library passes, emitted projects pass, and every rule finds a planted fault."""

from __future__ import annotations

import numpy as np
import pytest
from hardware_models import DIRECTED
from random_schedules import random_schedule
from support.pragma_grammar import Tool
from support.synthesizable import check

from qfx.hardware.assets import hls_root, read_tree
from qfx.hardware.board import board
from qfx.hardware.emit.emit import emit
from qfx.ir.passes.pipeline import optimize

LIBRARY = {f"include/{path}": text for path, text in read_tree(hls_root() / "include", "qfx/*.h").items()}


def complaints(text: str, tool: Tool = Tool.VITIS_HLS) -> list[str]:
    return [finding.what for finding in check({"src/top.cpp": text}, tool)]


@pytest.mark.parametrize("tool", Tool)
def test_library_passes(tool: Tool) -> None:
    assert check(LIBRARY, tool) == ()


@pytest.mark.parametrize("which", range(len(DIRECTED)))
def test_projects_pass(which: int, thorough: bool) -> None:
    graph = optimize(DIRECTED[which]())
    for seed in range(4 if thorough else 1):
        files = emit(graph, random_schedule(graph, np.random.default_rng(seed)), board("zcu102"), clock_ns=5, top="top")
        for tool in Tool:
            assert check(files, tool) == ()


def test_a_fault_in_the_library_is_found_in_its_place() -> None:
    path = "include/qfx/pool.h"
    line = next(i for i, text in enumerate(LIBRARY[path].splitlines()) if "channel < CHANNELS" in text)
    broken = LIBRARY[path].replace("channel < CHANNELS", "channel < pixel", 1)
    assert [(finding.path, finding.line) for finding in check({**LIBRARY, path: broken}, Tool.VITIS_HLS)] == [(path, line + 1)]


@pytest.mark.parametrize(
    "body",
    [
        "for (int i = 0; i < N; i++) { sum += i; }",
        "for (int i = N - 1; i >= 0; i--) { sum += i; }",
        "for (int i = 0; i < S::FOLD * 2; i += N / 2) { sum += i; }",
        "for (unsigned i = 0; i != 4u; ++i) { for (int j = 0; j <= N; j++) { sum += j; } }",
        "static const int table[4] = {1, 2, 3, 4}; sum = table[2];",
        "const bool free = sum > 0 && sum < 5; sum = free ? 1 : 0x1e2;",
        "typedef typename S::acc acc_t; acc_t acc[4]; acc[0] = acc_t(sum < 3 ? 1 : 2);",
        "sum = S::template times<int>(sum, sum);",
        "#ifndef __SYNTHESIS__\nstd::vector<double> seen; while (sum) sum--;\n#endif",
    ],
)
def test_good_code(body: str) -> None:
    for tool in Tool:
        assert complaints(f"#include <ap_int.h>\ntemplate <class S, int N> int f(int sum) {{\n{body}\nreturn sum; }}\n", tool) == []


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("float x; x = 0;", "floating point"),
        ("const double x(0);", "floating point"),
        ("sum = int(sum * 0.5);", "0.5 is floating point"),
        ("sum = int(sum * 1e3);", "1e3 is floating point"),
        ("int* x = new int[4];", "dynamic memory"),
        ("delete x;", "dynamic memory"),
        ("int* x = (int*)malloc(16);", "dynamic memory"),
        ("sum = int(typeid(sum).hash_code());", "polymorphism"),
        ("throw sum;", "an exception"),
        ("goto end;", "a jump"),
        ("std::swap(sum, sum);", "the standard library"),
        ("static int calls; calls++;", "static variable calls outlives"),
        ("static int calls = 0; calls++;", "static variable calls outlives"),
        ("int (*g)(int) = f;", "g is a pointer to a function"),
        ("sum = [&](int x) { return x; }(sum);", "a lambda"),
        ("while (sum) { sum--; }", "no constant bound"),
        ("while (sum) sum--;", "a loop without braces"),
        ("do { sum--; } while (sum);", "no constant bound"),
        ("for (int i = 0; i < N; i++) sum += i;", "a loop without braces"),
        ("for (int i = 0; i < N; i++) if (i) { sum += i; }", "a loop without braces"),
        ("for (int i = 0; i < sum; i++) { sum += i; }", "sum is a variable"),
        ("for (int i = sum; i < N; i++) { sum += i; }", "starts at no constant"),
        ("for (int i = 0; i < N; i += sum) { sum += i; }", "step is no constant"),
        ("for (int i = 0; i < N; i = next(i)) { sum += i; }", "step is no constant"),
        ("for (int i = 0; i < N && sum; i++) { sum += i; }", "sum is a variable"),
        ("for (int i = 0; sum < N; i++) { sum += i; }", "does not compare i"),
        ("for (;;) { sum++; }", "does not count one variable"),
        ("int i; for (i = 0; i < N; i++) { sum += i; }", "does not count one variable"),
        ("const int end = sum; for (int i = 0; i < end; i++) { sum += i; }", "known only at run time"),
        ("sum = f<S, N>(sum - 1);", "f calls itself"),
        ("sum = *reinterpret_cast<int*>(&sum);", "a cast between pointers"),
        ("int place = 0; for (int i = 0; i < N; i++) { place = place + 1; }", "the state place has 32 bits"),
        ("for (int j = 0; j < N; j++) { int place = 0; for (int i = 0; i < N; i++) { place = place + 1; } }", "the state place has 32 bits"),
    ],
)
def test_planted_faults(body: str, complaint: str) -> None:
    found = complaints(f"template <class S, int N> int f(int sum) {{\n{body}\nreturn sum; }}\n")
    assert found
    assert any(complaint in what for what in found), found


def test_planted_faults_outside_of_functions() -> None:
    assert "outlives the call" in complaints("int state;\n")[0]
    assert "outlives the call" in complaints("ap_int<4> state(3);\n")[0]
    assert "outlives the call" in complaints("namespace a { static int state[4] = {0, 0, 0, 0}; }\n")[0]
    assert complaints("static const int table[2] = {1, 2};\nint f(int);\nextern void g(int a, int b);\n") == []
    assert "polymorphism" in complaints("struct s { virtual int f(); };\n")[0]
    assert "no header for synthesis" in complaints("#include <vector>\n")[0]
    assert "pointer to a function" in complaints("int f(int (*g)(int)) { return g(1); }\n")[0]
    simulation = "#ifndef __SYNTHESIS__\n#include <vector>\nint state;\n#endif\n"
    assert complaints(simulation) == []


@pytest.mark.parametrize(
    ("path", "right", "wrong", "complaint"),
    [
        ("types.h", "vec& operator=(const vec& other) {", "vec& become(const vec& other) {", "the array data of vec is assigned as a whole"),
        ("shape.h", "typename upto<D1 - 1>::type i1;", "int i1;", "the state i1 has 32 bits"),
        ("matvec.h", "row_t row = 0;", "int row = 0;", "the state row has 32 bits"),
        ("matmul.h", "place_t place = 0;", "int place = 0;", "the state place has 32 bits"),
    ],
)
def test_what_the_tools_might_read_otherwise_is_found(path: str, right: str, wrong: str, complaint: str) -> None:
    path = f"include/qfx/{path}"
    broken = {**LIBRARY, path: LIBRARY[path].replace(right, wrong, 1)}
    for tool in Tool:
        assert [finding.what for finding in check(broken, tool)] == [complaint]


def test_recursion() -> None:
    circle = "int b(int x);\nint a(int x) { return b(x); }\nint b(int x) { return x > 0 ? a(x - 1) : 0; }\n"
    assert sorted(complaints(circle)) == ["a calls itself through b", "b calls itself through a"]
    assert complaints(circle.replace("a(x - 1)", "a(x, 1)")) == []  # another function, that is not here
    method = "struct s { static int f(int x) { return s::f(x); } };\n"
    assert complaints(method) == ["s::f calls itself through f"]
    through = "template <class T> int g(int x) { return T::apply(x); }\nstruct e { static int apply(int x) { return g<e>(x); } };\n"
    assert complaints(through) == ["g calls itself through apply", "e::apply calls itself through g"]
    one_way = "int b(int x) { return x; }\nint a(int x) { return b(x) + b(x); }\nstruct s { static int b(int x) { return ::b(x); } };\n"
    assert complaints(one_way) == []
    unfolded = (
        "template <int N> struct sum { static int of(const int* x) { return x[N - 1] + sum<N - 1>::of(x); } };\n"
        "template <> struct sum<0> { static int of(const int*) { return 0; } };\n"
    )
    assert complaints(unfolded) == []
    assert complaints(unfolded.splitlines()[0] + "\n") == ["sum::of calls itself through of"]


def test_the_bench_and_the_simulation_are_free() -> None:
    files = {"tb/tb.cpp": "double x;\n", "sim/native/ap_int.h": "float y;\n", "README.md": "float\n"}
    assert check(files, Tool.VITIS_HLS) == ()
