"""``qfx report -o``: the page is whole, self-contained and the same each time, and a browser does with it what it should."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from support.html_pages import Look, check, in_browser, look

from qfx import FixedType, Graph
from qfx import operators as ops
from qfx.cli import main
from qfx.export.onnx_file import save
from qfx.hardware.board import board
from qfx.hardware.design.schedule import Request
from qfx.hardware.folding.search import resolve
from qfx.hardware.project.project import prepare, write_project
from qfx.ir.from_onnx import load_graph
from qfx.ir.graph import Node
from qfx.ir.values import ArrayType, Const
from qfx.pages.measured import measure
from qfx.pages.model import model_page
from qfx.testing import adversarial_feeds, random_graph
from qfx.verify import compare


def network() -> Graph:
    """(2, 6, 6) -> convolution with a shortcut -> 4 scores."""
    rng = np.random.default_rng(5)

    def cast(text: str) -> ArrayType:
        return ArrayType.of(FixedType.parse(text))

    def weights(*shape: int) -> Const:
        return Const(rng.integers(-7, 8, shape), 3)

    nodes = (
        Node("x", ops.Input((2, 6, 6), cast("ap_fixed<6,2,AP_RND,AP_SAT>"))),
        Node("conv", ops.Conv(weights(2, 2, 3, 3), None, (1, 1), ((1, 1), (1, 1)), (1, 1), 1), ("x",)),
        Node("relu", ops.Relu(), ("conv",)),
        Node("relu.out", ops.Cast(cast("ap_ufixed<4,1,AP_RND,AP_SAT>")), ("relu",)),
        Node("sum", ops.Add(), ("relu.out", "x")),
        Node("sum.out", ops.Cast(cast("ap_fixed<6,2,AP_RND,AP_SAT>")), ("sum",)),
        Node("flat", ops.Reshape((72,)), ("sum.out",)),
        Node("fc", ops.Linear(weights(4, 72), None), ("flat",)),
        Node("fc.out", ops.Cast(cast("ap_fixed<12,7,AP_RND,AP_SAT>")), ("fc",)),
    )
    return Graph("net", nodes, "fc.out")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("page")
    save(network(), place / "net.onnx")
    rng = np.random.default_rng(0)
    np.savez(place / "test.npz", x=rng.normal(size=(20, 2, 6, 6)).astype(np.float32), y=rng.integers(0, 4, 20))
    return place


def report(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """The page with everything."""
    result = report(folder / "net.onnx", "--data", folder / "test.npz", "--board", "ultra96v2", "--fit", "-o", folder / "whole.html")
    assert result.exit_code == 0, result.output
    return folder / "whole.html"


def test_the_page_is_whole_and_the_same_each_time(folder: Path, whole: Path) -> None:
    text = whole.read_text(encoding="utf-8")
    page = check(text)
    words = " ".join(page.text)
    for wanted in ("ap_ufixed<4,1> RND SAT", "sets the pace", "Accuracy and confusions", "of 70\u202f560", "SIMD", "SQNR", "Dataflow timeline"):
        assert wanted in words, wanted
    for node in network().nodes:
        assert node.name in words
    again = report(folder / "net.onnx", "--data", folder / "test.npz", "--board", "ultra96v2", "--fit", "-o", folder / "again.html")
    assert again.exit_code == 0
    assert (folder / "again.html").read_text(encoding="utf-8") == text
    refused = report(folder / "net.onnx", "-o", folder / "again.html")
    assert refused.exit_code == 2
    assert "exists" in refused.stderr


def test_parts(folder: Path, tmp_path: Path) -> None:
    assert report(folder / "net.onnx", "-o", tmp_path / "types.html").exit_code == 0
    words = " ".join(check((tmp_path / "types.html").read_text(encoding="utf-8")).text)
    assert "No data was given" in words
    assert "No board was named" in words
    shown = report(folder / "net.onnx", "--data", folder / "test.npz", "-o", tmp_path / "data.html", "--json", "--samples", 8)
    told = json.loads(shown.stdout)
    counted = json.loads(report(folder / "net.onnx", "--data", folder / "test.npz", "--json", "--samples", 8).stdout)
    assert told["samples"] == 8
    assert 0 <= told["accuracy"] <= 1
    assert [(row["node"], row["type"], row["loss"]) for row in told["casts"]] == [(row["node"], row["type"], row["loss"]) for row in counted["casts"]]


def test_of_a_project(folder: Path, tmp_path: Path) -> None:
    graph = load_graph(folder / "net.onnx")
    model = (folder / "net.onnx").read_bytes()
    write_project(graph, tmp_path / "p", board="ultra96v2", schedule=Request(fps=50000.0), extra_files={"model.onnx": model})
    assert report(folder / "net.onnx", "--project", tmp_path / "p", "-o", tmp_path / "a.html").exit_code == 0
    assert report(tmp_path / "p", "-o", tmp_path / "b.html").exit_code == 0
    text = (tmp_path / "b.html").read_text(encoding="utf-8")
    check(text)
    interval = json.loads((tmp_path / "p" / "report.json").read_text())["interval_cycles"]
    assert f"A frame every {interval:,}".replace(",", "\u202f") in text
    assert "says otherwise" not in text
    folding = (tmp_path / "p" / "folding.toml").read_text(encoding="utf-8")
    (tmp_path / "p" / "folding.toml").write_text(folding.partition("[layers")[0], encoding="utf-8")
    assert report(tmp_path / "p", "-o", tmp_path / "c.html").exit_code == 0
    assert "says otherwise" in (tmp_path / "c.html").read_text(encoding="utf-8")
    save(Graph("net", graph.nodes[:4], "relu.out"), tmp_path / "other.onnx")
    refused = report(tmp_path / "other.onnx", "--project", tmp_path / "p", "-o", tmp_path / "d.html")
    assert refused.exit_code == 2
    assert "made from another model" in refused.stderr
    assert report(tmp_path / "p", "--fit", "-o", tmp_path / "d.html").exit_code == 2


def test_a_bit_that_differs_is_on_the_page() -> None:
    graph = network()
    expected = np.zeros((2, 4), dtype=np.int64)
    same, other = compare(graph, expected, expected, "ONNX Runtime"), compare(graph, expected, expected + np.eye(2, 4, dtype=np.int64), "C++")
    assert "0 bits" in model_page(graph, "m.onnx", compared=[same])
    page = model_page(graph, "m.onnx", compared=[same, other])
    assert "2 bits" in page
    assert "C++ differs first at sample 0" in page


def test_the_cpp_is_run_for_the_page(folder: Path, tmp_path: Path, gxx: str) -> None:
    write_project(load_graph(folder / "net.onnx"), tmp_path / "p", board="ultra96v2", extra_files={"model.onnx": (folder / "net.onnx").read_bytes()})
    arguments = (tmp_path / "p", "--data", folder / "test.npz", "--samples", 4, "--verify", "--fast")
    assert report(*arguments, "-o", tmp_path / "a.html").exit_code == 0
    words = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "differ: ONNX Runtime and the fast emulator, 4 samples" in words
    header = tmp_path / "p" / "sim" / "fast" / "weights" / "fc_matvec.h"
    text = header.read_text(encoding="utf-8")
    at = re.search(r"(?<=0x)[0-9a-f]+", text)
    assert at is not None
    header.write_text(f"{text[: at.start()]}{int(at[0], 16) ^ 1:x}{text[at.end() :]}", encoding="utf-8")
    found = report(*arguments, "-o", tmp_path / "b.html")
    assert found.exit_code == 1, found.output
    assert "the fast emulator differs first at" in (tmp_path / "b.html").read_text(encoding="utf-8")


def test_refusals(folder: Path) -> None:
    assert "--project and --data" in report(folder / "net.onnx", "--verify", "-o", "x.html").stderr
    assert "give -o" in report(folder / "net.onnx", "--board", "ultra96v2").stderr
    assert "--data" in report(folder / "net.onnx").stderr


def test_of_an_unrolled_design(folder: Path, tmp_path: Path) -> None:
    nodes = network().nodes
    small = Graph(
        "small", (Node("x", ops.Input((4,), nodes[0].op.cast)), Node("fc", ops.Linear(Const(np.eye(4, dtype=np.int64) * 3, 1), None), ("x",))), "fc"
    )  # type: ignore[attr-defined]
    save(small, tmp_path / "small.onnx")
    assert report(tmp_path / "small.onnx", "--board", "ultra96v2", "--style", "unrolled", "-o", tmp_path / "u.html").exit_code == 0
    assert "one pipeline of" in (tmp_path / "u.html").read_text(encoding="utf-8")


def test_of_an_engine(folder: Path, tmp_path: Path) -> None:
    shown = report(folder / "net.onnx", "--board", "ultra96v2", "--style", "sequential", "-o", tmp_path / "s.html")
    assert shown.exit_code == 0, shown.output
    text = (tmp_path / "s.html").read_text(encoding="utf-8")
    check(text)
    words = " ".join(check(text).text)
    for wanted in (
        "One engine does the layers one after the other",
        "By part",
        "Conv 3x3 p1, ap_ufixed<4,1> RND SAT, 2x6x6",
        "begin and end steps",
    ):
        assert wanted in words, wanted


@pytest.mark.parametrize("seed", range(6))
def test_random_models(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, several=seed % 2 == 0)
    found = measure(graph, adversarial_feeds(graph, rng, 9))
    on = board("ultra96v2")
    plan = resolve(prepare(graph), on, Request(), clock_ns=on.clock_ns) if seed < 3 else None
    check(model_page(graph, "m.onnx", measured=found, plan=plan))


def test_search_details_and_theme_in_a_browser(whole: Path) -> None:
    script = """
      const type = (text) => { search.value = text; search.dispatchEvent(new Event('input')); };
      const search = document.getElementById('search'), panel = document.getElementById('panel');
      const before = document.querySelector('.graph svg').getBoundingClientRect().width;
      document.getElementById('zoom-in').click();
      const after = document.querySelector('.graph svg').getBoundingClientRect().width;
      type('relu');
      const found = document.getElementById('found').textContent;
      search.dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter' }));
      const shown = !panel.hidden && panel.querySelector('h3').textContent + ' ' + panel.querySelectorAll('dt').length;
      panel.querySelector('dt').parentElement.dispatchEvent(new KeyboardEvent('keydown', { key: 'Escape', bubbles: true }));
      const closed = panel.hidden && document.activeElement.closest('.graph') !== null;
      const paper = () => getComputedStyle(document.body).backgroundColor;
      const was = paper(); document.getElementById('theme').click();
      const wide = document.documentElement.scrollWidth <= innerWidth;
      document.title = JSON.stringify([after > before, found, shown, paper() !== was, wide, closed]);
    """
    told = json.loads(in_browser(whole, script).replace("&lt;", "<"))
    assert told == [True, "2 found", "relu 4", True, True, True]


def test_sorting_and_filtering_in_a_browser(whole: Path) -> None:
    script = """
      const table = document.querySelector('#errors table.sorts'), head = table.tHead.rows[0].cells[4];
      head.querySelector('button').click();
      const numbers = Array.from(table.tBodies[0].rows).map((row) => parseFloat(row.cells[4].dataset.v));
      const input = document.querySelector('input[data-filters]');
      input.value = 'linear'; input.dispatchEvent(new Event('input'));
      const rows = Array.from(document.getElementById('values-table').tBodies[0].rows).filter((row) => !row.hidden);
      document.title = JSON.stringify([head.getAttribute('aria-sort'), numbers, rows.map((row) => row.cells[0].textContent)]);
    """
    how, numbers, rows = json.loads(in_browser(whole, script))
    assert how == "descending"
    assert numbers == sorted(numbers, reverse=True)
    assert rows == ["fc"]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1100])
def test_what_stands_in_the_window(whole: Path, width: int, dark: bool) -> None:
    """A screenshot: written on light or dark paper as the screen asks, and nothing is wider than the window."""
    found = look(whole, width=width, dark=dark)
    assert found.is_good(width=width, dark=dark), found


def test_a_page_that_is_empty_wide_or_light_in_the_dark_is_seen(tmp_path: Path) -> None:
    planted = {"empty": "", "wide": "<p style='width: 3000px; height: 300px; background: #888'>x</p>"}
    for name, body in planted.items():
        (tmp_path / f"{name}.html").write_text(f"<!doctype html><html><head><title>x</title></head><body>{body}</body></html>", encoding="utf-8")
    empty, wide = (look(tmp_path / f"{name}.html", width=400, dark=False) for name in planted)
    assert (empty.ink, empty.is_good(width=400, dark=False)) == (0, False)
    assert wide.beyond > 2000
    assert not wide.is_good(width=400, dark=False)
    assert not Look((400, 900), 0, 255, 0.3).is_good(width=400, dark=True)
    assert Look((400, 900), 0, 255, 0.3).is_good(width=400, dark=False)
