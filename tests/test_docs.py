"""The documentation is true: doctests, every fenced Python block and ``qfx`` command, tables of names, and links."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import re
import shlex
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pytest

import qfx
from qfx.recipe import ROLES, Recipe, Spec

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, and the line where its text starts."""

    language: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(m.group(1), m.group(2), text.count("\n", 0, m.start(2)) + 1) for m in _FENCE.finditer(text)]


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def modules() -> list[str]:
    return ["qfx", *(info.name for info in pkgutil.walk_packages(qfx.__path__, "qfx."))]


@pytest.mark.parametrize("name", modules())
def test_doctests(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "qfx.fixed.gpu.kernels":
        pytest.importorskip("triton", reason="Triton is in the extra 'gpu'")
    monkeypatch.chdir(tmp_path)
    results = doctest.testmod(importlib.import_module(name), optionflags=_FLAGS)
    assert results.failed == 0


def test_that_a_wrong_doctest_fails() -> None:
    module = types.ModuleType("planted")
    module.__doc__ = ">>> 1 + 1\n3\n"
    runner = doctest.DocTestRunner(optionflags=_FLAGS)
    for test in doctest.DocTestFinder().find(module):
        runner.run(test, out=lambda text: None)
    assert runner.summarize(verbose=False).failed == 1


def run_console(block: Block, folder: Path, page: Path) -> None:
    """Run the lines that start with ``$``; what stands between them must be what they print (doctest's ``...`` stands for anything)."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        words = shlex.split(command)
        if words[0] == "make" and "-C" not in words:  # the repository's own targets: too long to run here, but they must be there
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE), command
            continue
        if words[0] not in ("qfx", "make"):
            continue
        environment = {**os.environ, "PATH": path, "COLUMNS": "120"}
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, f"{page_id(page)}:{block.line}: {command}\n{done.stdout}{done.stderr}"
        if expected.strip():
            assert doctest.OutputChecker().check_output(expected, done.stdout, _FLAGS), f"{command} printed\n{done.stdout}"


@pytest.mark.parametrize("page", [page for page in PAGES if any(b.language in ("python", "console") for b in blocks(page))], ids=page_id)
def test_blocks(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gxx: str) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.language == "python":
            padded = "\n" * (block.line - 1) + block.text  # so that a traceback shows the line of the page
            exec(compile(padded, str(page), "exec", dont_inherit=True), names)
        elif block.language == "toml":
            (tmp_path / "recipe.toml").write_text(block.text, encoding="utf-8")
        elif block.language == "console":
            run_console(block, tmp_path, page)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links(page: Path) -> None:
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path) if path else page
        assert place.exists(), f"{page_id(page)} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", place.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{page_id(page)} links to {target}"


def code_words(page: Path) -> set[str]:
    """Everything between single backticks."""
    return set(re.findall(r"`([^`\n]+)`", _FENCE.sub("", page.read_text(encoding="utf-8"))))


def test_the_page_of_names_lists_them_all() -> None:
    section = (ROOT / "docs" / "names.md").read_text(encoding="utf-8").split("## Names")[1].split("\n| ", 1)[1].split("\n\n")[0]
    listed = {match.split("(")[0] for match in re.findall(r"`qfx\.([A-Za-z_]+[^`]*)`", section)}
    assert listed == set(qfx.__all__)


def test_the_page_of_names_lists_the_commands() -> None:
    from qfx.cli import main

    words = code_words(ROOT / "docs" / "names.md")
    for command in main.commands:
        assert any(word.startswith(f"qfx {command}") for word in words), command


def test_the_readme_is_a_screen_and_its_three_commands_are_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) < 550
    (commands,) = [block.text.splitlines() for block in blocks(ROOT / "README.md")]
    assert commands == ["pip install .", "qfx new start", "make -C start"]
    assert re.findall(r"!\[[^\]]+\]\(docs/images/(\w+)\.png\)", text) == ["report"]


def test_layers_page_is_what_the_definitions_give() -> None:
    """docs/layers.md is written by ``make layers``; every entry of the tables stands in it, and no other layer among the supported ones."""
    from support import layers_page

    from qfx.capture.apart.decompositions import OF_MODULES, OF_TORCH
    from qfx.nn.rules import FUNCTIONS, METHODS, MODULES

    text = (ROOT / "docs" / "layers.md").read_text(encoding="utf-8")
    assert text == layers_page.page(), "make layers"
    supported = text.split("## What is refused")[0]
    words = set(re.findall(r"`([^`\n]+)`", supported))
    modules = {layers_page.name_of_module(kind) for kind in (*MODULES, *OF_MODULES)}
    assert modules <= words
    assert [function for function in FUNCTIONS if not set(layers_page.names_of_function(function)) <= words] == []
    assert [name for name in METHODS if f".{name}()" not in words] == []
    assert set(OF_TORCH) <= words
    assert {word for word in words if re.fullmatch(r"nn\.[A-Z]\w*", word)} <= modules


def test_recipe_page_is_complete() -> None:
    page = ROOT / "docs" / "recipe.md"
    words = code_words(page)
    wanted = [*ROLES, *Spec.__dataclass_fields__, "batch_norm", "tail", "table_error", "overrides", "pattern"]
    assert [name for name in wanted if name not in words] == []
    default, *others = (block.text for block in blocks(page) if block.language == "toml")
    assert default == Recipe().to_toml()
    assert others
    for text in others:
        Recipe.from_toml(text)


def test_types_page_shows_what_cast_gives() -> None:
    """The mode tables: the arguments behind ap_fixed<4,4, what the mode means, then for each value of the header the result of the Cast."""
    import torch

    text = (ROOT / "docs" / "types.md").read_text(encoding="utf-8")
    tables = re.findall(r"^\| mode \| meaning \|(.*)\|\n\|[-|:]+\|\n((?:\| `AP_.*\n)+)", text, re.MULTILINE)
    rows = [(header, row) for header, body in tables for row in body.splitlines()]
    assert len(tables) == 2
    assert len(rows) == 15
    for header, row in rows:
        mode, _, *cells = (cell.strip() for cell in row.strip("|").split("|"))
        type_ = qfx.FixedType.parse(f"ap_fixed<4,4,{mode.strip('`')}>")
        values = torch.tensor([float(cell) for cell in header.split("|")])
        assert qfx.cast(values, type_).tolist() == [float(cell) for cell in cells], mode
