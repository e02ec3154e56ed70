"""``make docs``: every page has its place, every link leads somewhere, and what is made from the definitions says what they say."""

from __future__ import annotations

import ast
import importlib.util
import math
import os
import re
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import test_house

import qfx
from qfx.cli import main
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.operators import OPERATORS
from qfx.schemas.schemas import SCHEMAS
from website import catalogue, concepts, house, plan
from website.api import MODULES
from website.modes import errors, value
from website.pages import NAV, write

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "staged"
    write(folder)
    return folder / "pages"


def anchors(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


def lost(pages: Path) -> list[str]:
    """Links that lead nowhere."""
    found = []
    for page in sorted(pages.glob("*.md")):
        text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            path, _, anchor = target.partition("#")
            place = pages / path if path else page
            if not re.match(r"[a-z]+:", target) and (not place.is_file() or (anchor and anchor not in anchors(place))):
                found.append(f"{page.name}: {target}")
    return found


def homeless(pages: Path) -> list[str]:
    """Pages that the navigation does not list, or not once, and entries of it without a page."""
    listed = Counter(name for _, entries in NAV for _, name in entries)
    there = Counter(path.name for path in pages.glob("*.md"))
    return sorted([*(listed - there), *(there - listed)])


def test_every_page_has_a_place_and_every_link_leads_somewhere(pages: Path) -> None:
    listed = re.findall(r"^      - .*: (\S+\.md)$", (pages.parent / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert listed == [name for _, entries in NAV for _, name in entries]
    assert homeless(pages) == []
    assert lost(pages) == []
    (pages / "planted.md").write_text("[a](nowhere.md) [b](types.md#nowhere)\n", encoding="utf-8")
    assert lost(pages) == ["planted.md: nowhere.md", "planted.md: types.md#nowhere"]
    assert homeless(pages) == ["planted.md"]
    (pages / "planted.md").unlink()


def test_references_are_whole(pages: Path) -> None:
    names = set(re.findall(r"^### qfx\.(\w+)$", (pages / "api.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(qfx.__all__) <= names
    commands = (pages / "cli.md").read_text(encoding="utf-8")
    for name, command in main.commands.items():
        assert f"## qfx {name}\n" in commands
        for option in command.params:
            assert all(word in commands for word in option.opts if word.startswith("--")), (name, option.opts)
    outside = re.sub(r"^```.*?^```$", "", commands, flags=re.MULTILINE | re.DOTALL)  # a fence that is not closed would swallow what follows
    assert re.findall(r"^## qfx (\w+)$", outside, re.MULTILINE) == list(main.commands)
    assert "```" not in outside
    operators = (pages / "operators.md").read_text(encoding="utf-8")
    assert all(f"| `{operator.__name__}` |" in operators for operator in OPERATORS)
    assert [page.name for page in sorted(pages.glob("*.md")) if len(re.findall(r"^ *```", page.read_text(encoding="utf-8"), re.MULTILINE)) % 2] == []
    for text in (commands, operators):
        assert " at 0x" not in text
        assert "/home/" not in text


def told_of(text: str) -> set[str]:
    """The names of modules beside ``qfx`` that a page uses: what its blocks import, and what is called with its module in front."""
    found = set(re.findall(r"\b(qfx(?:\.[a-z]\w*){2,})\(", text))
    for module, names in re.findall(r"^from (qfx\.[\w.]+) import (.*)$", text, re.MULTILINE):
        found |= {f"{module}.{name.split(' as ')[0].strip()}" for name in names.split(",")}
    return found


def test_the_reference_has_every_name_that_the_pages_use(pages: Path) -> None:
    names = re.findall(r"^### (qfx\.\S+)$", (pages / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    headings = {*names, *MODULES}
    used = {path.name: told_of(path.read_text(encoding="utf-8")) for path in (ROOT / "docs").glob("*.md")}
    assert len(set.union(*used.values())) > 40
    earlier = {"qfx.codegen.csim.run"}
    assert {page: lacking for page, found in used.items() if (lacking := found - headings - earlier)} == {}
    assert told_of("from qfx.faults.graph import faulty as f, g\n`qfx.a.b(1)`") == {"qfx.faults.graph.faulty", "qfx.faults.graph.g", "qfx.a.b"}


def keys_of(schema: dict[str, Any]) -> set[str]:
    """The keys that a schema knows, at any depth."""
    own = set(schema.get("properties", {}))
    below = [*schema.get("properties", {}).values(), *schema.get("anyOf", ()), schema.get("additionalProperties"), schema.get("items")]
    return own.union(*(keys_of(part) for part in below if isinstance(part, dict)))


@pytest.mark.parametrize(("kind", "page"), [("recipe", "recipe_reference.md"), ("board", "boards.md"), ("folding", "folding_reference.md")])
def test_every_key_of_a_file_has_a_line(pages: Path, kind: str, page: str) -> None:
    known = keys_of(SCHEMAS[kind]()) - {"$schema"}
    text = (pages / page).read_text(encoding="utf-8")
    listed = {name.strip("[]").rpartition(".")[2] for name in re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)}
    assert known - {"override"} <= listed
    assert text.count("\n| ") > len(known) / 2
    if kind == "recipe":
        assert "| `q` | `" + '"AP_RND"' in text
        assert "| `width` | a whole number, 1 to 32 | `16` | Word length in bits. |" in text
        assert set(re.findall(r"`(AP_\w+)`", text.replace('"', ""))) == {mode.value for kind in (QMode, OMode) for mode in kind}


def test_recipes_page_names_every_field() -> None:
    """The page that explains recipes, which people write, leaves nothing out that the reference has."""
    text = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE))))
    assert keys_of(SCHEMAS["recipe"]()) - {"$schema", "override", "pattern"} <= rows


def test_the_same_each_time(pages: Path, tmp_path: Path) -> None:
    write(tmp_path / "again")
    for path in sorted(pages.iterdir()):
        if path.is_file():
            assert (tmp_path / "again" / "pages" / path.name).read_bytes() == path.read_bytes(), path.name


def test_modes_are_drawn_from_the_definition(pages: Path) -> None:
    text = (pages / "modes.md").read_text(encoding="utf-8")
    for mode in (*QMode, *OMode):
        assert f"### {mode.value}\n" in text
    assert text.count("<svg") == len(QMode) + len(OMode)
    halves = [Fraction(i, 2) for i in range(-4, 5)]
    even = FixedType(8, 8, True, QMode.RND_CONV, OMode.SAT)
    assert [int(value(half, even)) for half in halves] == [-2, -2, -1, 0, 0, 0, 1, 2, 2]
    assert errors(FixedType(8, 8, True, QMode.TRN, OMode.SAT), halves) == {Fraction(-1, 2): 4, Fraction(0): 5}
    assert value(Fraction(9), FixedType(4, 4, True, QMode.TRN, OMode.WRAP)) == -7


def test_tutorials_show_what_the_notebooks_hold(pages: Path) -> None:
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        text = (pages / f"tutorial_{path.stem}.md").read_text(encoding="utf-8")
        pictures = re.findall(r'<img src="(images/[^"]+)" alt="[^"]+"', text)
        assert len(pictures) == path.read_text(encoding="utf-8").count('"image/png"') >= 1
        assert all((pages / picture).read_bytes().startswith(b"\x89PNG") for picture in pictures)
        assert "%%bash" not in text
        assert "\x1b" not in text
        assert ".ipynb" not in text
    assert "](tutorial_3_hardware.md)" in (pages / "tutorial_1_train.md").read_text(encoding="utf-8")
    assert '<div class="output"><div style="overflow-x:auto"><table>' in (pages / "tutorial_1_train.md").read_text(encoding="utf-8")


def test_the_house_is_drawn_from_the_import_statements(pages: Path) -> None:
    text = (pages / "house.md").read_text(encoding="utf-8")
    tree = house.modules()
    assert set(tree) == set(test_house.SOURCES)
    for name in tree:
        found = house.imports(tree, name)
        assert found == {other for other in test_house.imports(name) if other in test_house.SOURCES}, name
        inside = found & house.folders(tree)[house.folder_of(name)]
        for other in inside:
            assert f"<title>{name.rpartition('.')[2]} imports {other.rpartition('.')[2]}</title>" in text
    planted = {**tree, "qfx.errors": ast.parse("import qfx.files")}
    assert house.imports(planted, "qfx.errors") == {"qfx.files"}
    counts = house.between({"qfx.a.x": ["qfx.b.y"], "qfx.b.y": ["qfx.c.z"], "qfx.c.z": []})
    assert sum(counts.values()) == 2
    assert house.levels({"a": ["b", "c"], "b": ["c"], "c": []}) == {"a": 2, "b": 1, "c": 0}


def test_the_picture_of_the_rooms_is_that_of_the_sources() -> None:
    assert plan.FILE.read_text(encoding="utf-8") == plan.picture(), "make house"
    rooms = set(re.findall(r">(\w+)/</text>", plan.picture()))
    assert rooms | {"codegen"} == {path.name for path in house.SOURCES.iterdir() if (path / "__init__.py").is_file()}
    below = plan.downward(Counter({("a", "b"): 2, ("b", "c"): 1, ("a", "c"): 3, ("c", "a"): 1}))
    assert below == {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert plan.direct(below, "a") == {"b"}
    tree = {"qfx.ir.x": ast.parse("import numpy"), "qfx.nn.x": ast.parse("from torch import nn")}
    assert [plan.with_torch(room, tree) for room in ("qfx/ir", "qfx/nn")] == [False, True]


def test_every_picture_is_shown_somewhere() -> None:
    shown = "".join(path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    assert [path.name for path in (ROOT / "docs" / "images").iterdir() if f"images/{path.name})" not in shown] == []


def test_ideas_are_drawn_by_what_computes_them(pages: Path) -> None:
    assert (pages / "concepts.md").read_text(encoding="utf-8").count("<svg") == 3
    numbers = [-5.0, -2.1, -0.3, 0.1, 1.74, 1.8, 3.0]
    shown, by_x, by_f = concepts.gradients(numbers)
    assert shown == [float(value(Fraction(number), concepts.type_())) for number in numbers]
    for x, q, one, slope in zip(numbers, shown, by_x, by_f, strict=True):
        inside = -2.125 <= x < 1.875  # what rounds to a number of the type
        assert one == float(inside)
        assert slope == pytest.approx(-math.log(2) * ((q - x) if inside else q))
    by_type, by_weights = concepts.sums([1, 2, 512])
    assert by_type == [8, 9, 17]  # -120 to 105; -240 to 210; 512 times
    assert all(exact <= widest for exact, widest in zip(by_weights, by_type, strict=True))


def test_the_catalogue_has_the_messages_of_the_sources(pages: Path) -> None:
    text = (pages / "errors.md").read_text(encoding="utf-8")
    for kind in catalogue.KINDS:
        assert f"| `{kind}` |" in text
    found = list(catalogue.raised(house.modules()))
    assert len(found) > 500
    assert ("RecipeError", "sparsity is ...", "...", "qfx.spec") in found
    planted = ast.parse("raise DataError(f'the {what} is' + ' odd', where='x', remedy='give another')")
    assert list(catalogue.raised({"qfx.a": planted})) == [("DataError", "the ... is odd", "give another", "qfx.a")]
    assert "`nanmedian`" in text


def test_every_decision_is_on_its_page(pages: Path) -> None:
    text = (pages / "decisions.md").read_text(encoding="utf-8")
    records = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    assert len(records) == 10
    listed = (ROOT / "docs" / "decisions" / "README.md").read_text(encoding="utf-8")
    for path in records:
        record = path.read_text(encoding="utf-8")
        assert f"]({path.name})" in listed
        assert f"#{record.splitlines()[0]}\n" in text
        assert re.findall(r"^\*\*(\w+)\.\*\*", record, re.MULTILINE) == ["Context", "Decision", "Consequences", "Rejected"]


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(folder / "mkdocs.yml"), "-d", str(folder / "out")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)


@pytest.mark.skipif(importlib.util.find_spec("material") is None, reason="needs mkdocs-material (pip install 'qfx[docs]')")
def test_mkdocs_builds_it_without_a_warning_and_sees_a_broken_link(pages: Path) -> None:
    done = build(pages.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    html = (pages.parent / "out" / "index.html").read_text(encoding="utf-8")
    assert re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?:', html) == []
    page = pages / "types.md"
    page.write_text(page.read_text(encoding="utf-8") + "\n[planted](recipe.md#nowhere)\n", encoding="utf-8")
    done = build(pages.parent)
    assert done.returncode != 0
    assert "nowhere" in done.stdout + done.stderr
