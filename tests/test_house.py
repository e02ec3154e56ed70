"""The house: rooms of a size that a newcomer overlooks, data that flows one way, and a plan on the wall that is true."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in (ROOT / "qfx").rglob("*.py")}
MAX_FILES, MAX_LINES = 20, 500


def for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """What runs when the module is imported: not the bodies of functions, nor what is there for type checkers alone."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or for_types(node):
            continue
        yield node
        waiting += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]


@cache
def imports(module: str) -> frozenset[str]:
    """The modules of qfx, and torch, that are imported with the module."""
    found: set[str] = set()
    package = module if SOURCES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in statements(ast.parse(SOURCES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package.split(".")[: len(package.split(".")) - node.level + 1], *([base] if base else [])])
            names = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in SOURCES else base for alias in node.names]
        else:
            continue
        found.update(name for name in names if name in SOURCES)
        found.update("torch" for name in names if name.split(".")[0] == "torch")
    return frozenset(found - {module})


def reached(module: str) -> set[str]:
    """All that is imported with the module, directly or not."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        for name in imports(waiting.pop()):
            if name not in found:
                found.add(name)
                if name in SOURCES:
                    waiting.append(name)
    return found


def test_no_room_has_more_files_than_one_overlooks() -> None:
    for folder in {path.parent for path in SOURCES.values()}:
        assert len(list(folder.glob("*.py"))) <= MAX_FILES, folder


def test_no_file_is_longer_than_one_reads() -> None:
    for path in SOURCES.values():
        assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES, path


def test_data_flows_one_way() -> None:
    """No module is imported, directly or not, by one that it imports. Packages that gather names (``__init__``) count like any other module."""
    for module in SOURCES:
        around = sorted(name for name in imports(module) if name in SOURCES and module in reached(name))
        assert not around, f"{module} imports {around[0]}, which imports it"


TORCH_FREE = (
    "qfx.errors",
    "qfx.files",
    "qfx.cli",
    "qfx.ir",
    "qfx.leaving",
    "qfx.operators",
    "qfx.pages",
    "qfx.hardware",
    "qfx.verify",
    "qfx.trace",
    "qfx.report",
    "qfx.testing",
    "qfx.watch",
)


def test_the_hardware_side_never_imports_torch() -> None:
    checked = [module for module in SOURCES if module.startswith(TORCH_FREE)]
    assert len(checked) > 100
    for module in checked:
        assert "torch" not in reached(module), module


def test_the_plan_shows_every_room() -> None:
    plan = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for folder in {path.parent.relative_to(ROOT) for path in SOURCES.values()}:
        assert f"`{folder}/`" in plan, f"docs/architecture.md does not show {folder}/"


def test_every_file_that_the_pages_name_is_there() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for path in re.findall(r"`((?:qfx|hls|tests|benchmarks|demo)/[\w./-]+\.\w+)`", page.read_text(encoding="utf-8")):
            assert (ROOT / path).exists() or "negate" in path, f"{page.name} names {path}"
