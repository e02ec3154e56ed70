"""C simulation gives the raw integers of the interpreter: on directed graphs and on random ones, folded in every way."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hardware_models import DIRECTED, chain, classifier, const
from random_schedules import random_schedule
from support.bundles import build_bundle

from qfx.errors import DataError, ProjectError
from qfx.hardware.design.schedule import Schedule
from qfx.hardware.project import csim
from qfx.hardware.project.project import write_project
from qfx.ir.graph import Graph
from qfx.ir.interpret import quantize_input, run, run_raw
from qfx.operators import Const, Linear
from qfx.testing import adversarial_inputs, assert_bit_exact, random_graph

SAMPLES = 5


def check(designs: list[tuple[Graph, Schedule]], folder: Path) -> None:
    """One bundle, every design, several frames in a row."""
    bundle = build_bundle(designs, folder, flags=("-Werror", "-O1"))
    for index, (graph, schedule) in enumerate(designs):
        x = adversarial_inputs(graph, np.random.default_rng(index), SAMPLES)
        try:
            assert_bit_exact(bundle.run_from_raw(index, quantize_input(graph, x)), run_raw(graph, x), names=("C simulation", "interpreter"))
        except AssertionError as error:
            raise AssertionError(f"{graph.name} with {schedule}: {error}") from error


@pytest.mark.usefixtures("gxx")
def test_directed_graphs(tmp_path: Path, thorough: bool) -> None:
    if not thorough:
        pytest.skip("folded at random they run in the next test; one number at a time with --thorough")
    check([(make(), Schedule()) for make in DIRECTED], tmp_path)


@pytest.mark.usefixtures("gxx")
def test_directed_graphs_folded(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    check([(graph, random_schedule(graph, rng)) for graph in (make() for make in DIRECTED)], tmp_path)


@pytest.mark.usefixtures("gxx")
def test_random_graphs(tmp_path: Path, slow: bool, thorough: bool) -> None:
    seed = int(np.random.default_rng().integers(1 << 32))
    print(f"seed {seed}")  # shown by pytest if the test fails
    for batch in range(20 if thorough else 1):
        rng = np.random.default_rng(seed + batch)
        graphs = [random_graph(rng) for _ in range(30 if slow else 12)]
        designs = [(graph, random_schedule(graph, rng) if i % 2 else Schedule()) for i, graph in enumerate(graphs)]
        check(designs, tmp_path / str(batch))


@pytest.mark.usefixtures("gxx")
def test_a_planted_error_is_found(tmp_path: Path) -> None:
    graph = classifier()
    linear = graph.node("linear4")
    assert isinstance(linear.op, Linear)
    raw = linear.op.weight.raw.copy()
    raw[0, 0] += 1  # one least significant bit of one weight
    planted = replace(linear, op=replace(linear.op, weight=Const(raw, linear.op.weight.frac_bits)))
    wrong = graph.with_nodes(tuple(planted if node is linear else node for node in graph.nodes))
    bundle = build_bundle([(wrong, Schedule())], tmp_path)
    x = adversarial_inputs(graph, np.random.default_rng(0), 8)
    with pytest.raises(AssertionError, match="numbers differ"):
        assert_bit_exact(bundle.run_from_raw(0, quantize_input(graph, x)), run_raw(graph, x))


@pytest.mark.usefixtures("gxx")
def test_run_a_project(tmp_path: Path) -> None:
    graph = classifier()
    project = tmp_path / "project"
    write_project(graph, project, board="zcu102")
    x = np.random.default_rng(2).normal(size=(3, 3, 6, 5)).astype(np.float32)
    values = csim.run(project, x)
    assert values.shape == (3, 10)
    assert_bit_exact(values, run(graph, x))
    assert_bit_exact(csim.run_raw(project, x.astype(np.float64)), run_raw(graph, x))
    assert csim.run_raw(project, x[:0]).shape == (0, 10)
    built = (project / "build" / "tb").stat().st_mtime_ns
    csim.build(project)
    assert (project / "build" / "tb").stat().st_mtime_ns == built  # nothing changed, nothing is compiled
    with pytest.raises(DataError, match="shape"):
        csim.run(project, x[:, :2])
    with pytest.raises(DataError, match="complex64"):
        csim.run(project, x.astype(np.complex64))
    with pytest.raises(DataError):
        csim.run(project, np.full_like(x, np.nan))


def test_a_missing_compiler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_project(classifier(), tmp_path / "project", board="zcu102")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProjectError, match=r"g\+\+ is missing"):
        csim.build(tmp_path / "project")


def wrapper(folder: Path, compiler: str) -> Path:
    """A compiler of another name that leaves a line in ``folder/calls`` each time that it is called with sources."""
    script = folder / "wrapped"
    script.write_text(f'#!/bin/sh\ncase "$*" in *.cpp*) echo "$*" >>"{folder}/calls";; esac\nexec "{compiler}" "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    return script


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_the_compiler_is_the_one_that_is_asked_for(gxx: str, compiler: str, fast: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In either build; another one builds anew, the same one does not."""
    path = gxx if compiler == "g++" else shutil.which(compiler)
    if path is None:
        pytest.skip(f"{compiler} is not installed")
    graph = chain("little", (6,), Linear(const(1, 3, 6), None))  # it is built three times
    project = write_project(graph, tmp_path / "project", board="zcu102").path
    executable, x = project / "build" / ("fast" if fast else "tb"), adversarial_inputs(graph, np.random.default_rng(6), 4)
    csim.build(project, fast=fast)
    first = executable.stat().st_mtime_ns
    monkeypatch.setenv("CXX", f"{wrapper(tmp_path, path)} -DASKED_FOR")
    assert_bit_exact(csim.run_raw(project, x, fast=fast), run_raw(graph, x))
    (call,) = (tmp_path / "calls").read_text(encoding="utf-8").splitlines()
    assert call.startswith("-DASKED_FOR ")
    second = executable.stat().st_mtime_ns
    assert second > first
    csim.build(project, fast=fast)
    assert executable.stat().st_mtime_ns == second
    monkeypatch.delenv("CXX")
    csim.build(project, fast=fast)
    assert executable.stat().st_mtime_ns > second
    write_project(graph, project, board="zcu102", force=True)
    assert not (project / "build").exists()  # no stamp stays behind


@pytest.mark.parametrize(
    ("asked", "message"),
    [("/nowhere/g++ -O2", "which is not installed"), ("g++ 'half", "which is no command"), ("true", r"which is neither a g\+\+ nor a clang\+\+")],
)
def test_what_is_no_compiler_is_refused_by_name(asked: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = write_project(classifier(), tmp_path / "project", board="zcu102").path
    monkeypatch.setenv("CXX", asked)
    with pytest.raises(ProjectError, match=message) as refusal:
        csim.build(project)
    assert asked in refusal.value.what
    assert "set CXX" in refusal.value.remedy


def test_a_compiler_that_refuses_the_sources_is_named(gxx: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = write_project(classifier(), tmp_path / "project", board="zcu102").path
    monkeypatch.setenv("CXX", f"{wrapper(tmp_path, gxx)} -DAP_INT_MAX_W=oops")
    with pytest.raises(ProjectError, match=r"^\S+tb: wrapped -DAP_INT_MAX_W=oops refuses the C\+\+"):
        csim.build(project)


@pytest.mark.usefixtures("gxx")
def test_broken_cpp_is_refused(tmp_path: Path) -> None:
    project = write_project(classifier(), tmp_path / "project", board="zcu102")
    source = project.path / "src" / f"{project.top}.cpp"
    source.write_text(source.read_text() + "\n#error planted\n")
    with pytest.raises(ProjectError, match="planted"):
        csim.build(project.path)
    assert not (project.path / "build" / "tb").exists()
    source.unlink()
    with pytest.raises(ProjectError, match="missing"):
        csim.build(project.path)
