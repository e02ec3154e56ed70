"""docs/layers.md from the definitions; ``make layers`` writes it. What is refused, and why, stands in docs/layers.template."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qfx.capture.apart.decompositions import OF_MODULES, OF_TORCH
from qfx.nn import rules
from qfx.nn.call import Family
from qfx.nn.layers.sequences.apart import RECURRENT

DOCS = Path(__file__).resolve().parents[2] / "docs"
HOMES = {"torch": torch, "F": nn.functional, "operator": operator, "torch.linalg": torch.linalg, "torch.special": torch.special}


def sentence(docstring: str | None) -> str:
    """The first sentence of a docstring, on one line that a table can hold."""
    paragraph = " ".join((docstring or "").strip().split("\n\n")[0].split())
    return paragraph.split(". ")[0].split(": ")[0].removesuffix(".").replace("``", "`").replace("|", "\\|")


def name_of_module(kind: type[nn.Module]) -> str:
    return f"nn.{kind.__name__}" if getattr(nn, kind.__name__, None) is kind else f"{kind.__module__}.{kind.__qualname__}"


def names_of_function(function: Callable[..., Any]) -> list[str]:
    """Where people find a function; what has several public names has all of them."""
    names = [f"{prefix}.{name}" for prefix, home in HOMES.items() for name in dir(home) if name[0] != "_" and getattr(home, name) is function]
    return names or [f"{getattr(function, '__module__', None) or 'torch'}.{getattr(function, '__name__', function)}"]


def quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in dict.fromkeys(names))


def family_text(title: str, family: Family) -> str:
    """One section: the fixed-point layers, then what becomes them."""
    lines = [f"### {title}", ""]
    if family.layers:
        lines += ["| fixed-point layer | |", "|---|---|", *(f"| `{layer.__name__}` | {sentence(layer.__doc__)} |" for layer in family.layers), ""]
    kinds = {
        "modules": [name_of_module(kind) for kind in family.modules],
        "functions": [name for function in family.functions for name in names_of_function(function)],
        "methods": [f".{name}()" for name in family.methods],
    }
    lines += ["| from | |", "|---|---|", *(f"| {kind} | {quoted(names)} |" for kind, names in kinds.items() if names), ""]
    return "\n".join(lines)


def families() -> str:
    titles = {id(home.FAMILY): sentence(home.__doc__) for home in vars(rules).values() if isinstance(getattr(home, "FAMILY", None), Family)}
    return "\n".join(family_text(titles[id(family)], family) for family in rules.FAMILIES)


def taken_apart() -> str:
    """The operations that are opened into others; names that share a decomposition share a row."""
    names: dict[Callable[..., Any], list[str]] = {}
    for name, function in (*OF_TORCH.items(), *RECURRENT.items()):
        names.setdefault(function, []).append(name)
    for kind, function in OF_MODULES.items():
        names.setdefault(function, []).append(name_of_module(kind))
    rows = [f"| {quoted(found)} | {sentence(function.__doc__)} |" for function, found in names.items()]
    return "\n".join(["| operation | as |", "|---|---|", *rows])


def page() -> str:
    """The text of docs/layers.md."""
    text = (DOCS / "layers.template").read_text(encoding="utf-8")
    return text.replace("<!-- families -->\n", families()).replace("<!-- taken apart -->", taken_apart())


if __name__ == "__main__":
    (DOCS / "layers.md").write_text(page(), encoding="utf-8")
