"""docs/aten.md from torch's list of core operators, the forms that are tested and the tables of the doors; ``make aten`` writes it."""

from __future__ import annotations

from typing import Any

import torch

from qfx.capture.apart.decompositions import OF_TORCH
from qfx.capture.aten_operators import LAYERS, ON_CONSTANTS
from qfx.capture.names import bare_name, known, spelled
from qfx.nn import rules
from qfx.nn.call import Family
from support.aten_forms import BY_MEANING, FORMS, NOT_YET
from support.layers_page import DOCS, sentence

_INTRODUCTION = """# ATen's operators

What becomes of each operator of torch's *core ATen*: of those that `torch.export` leaves of a model (`run_decompositions`), as torch {version} lists
them. Taken is one whose form a test takes through `torch.export`, quantizes, and compares in torch and the interpreter; which arguments it may have,
`qfx.check` tells. What exporting takes apart further is taken as what it becomes. [Layers](layers.md) says what becomes of modules and functions.
`make aten` writes this page.
"""
VERSION = ".".join(torch.__version__.split(".")[:2])


def core() -> dict[str, list[str]]:
    """The operators that torch tags as core, with their overloads."""
    found: dict[str, list[str]] = {}
    for full in sorted(torch._C._dispatch_get_all_op_names()):
        space, _, name = full.partition("::")
        base, _, overload = name.partition(".")
        operator: Any = getattr(getattr(torch.ops.aten, base, None), overload or "default", None) if space == "aten" else None
        if operator is not None and torch.Tag.core in operator.tags:
            found.setdefault(base, []).append(overload or "default")
    return found


def state(base: str) -> str:
    if base in FORMS:
        return "taken"
    return "not by meaning" if base in BY_MEANING else "not yet"


def said(base: str, overload: str) -> str:
    """By which rule, or why not."""
    if base in BY_MEANING:
        return BY_MEANING[base]
    return NOT_YET[base][0] if base in NOT_YET else _rule(base, getattr(getattr(torch.ops.aten, base), overload))


def _rule(base: str, function: Any) -> str:
    """What takes the operator of an exported program, in the order in which the door looks."""
    target, _ = spelled(function, (torch.zeros(2, 2), torch.zeros(2, 2)))
    if base in LAYERS:
        return "a layer of torch"
    for table in (rules.METHODS, rules.FUNCTIONS):
        if known(target) and target in table:
            return f"rule: {_title(rules.FAMILY_OF[table[target][1]])}"  # type: ignore[index]
    taken = OF_TORCH.get(bare_name(target)) or OF_TORCH.get(bare_name(function))
    if taken is not None:
        words = sentence(taken.__doc__) if taken.__module__.startswith("qfx") else ""
        return f"taken apart: {words}" if words else "taken apart"
    if base in ON_CONSTANTS:
        return "of constants, ahead"
    raise ValueError(f"{base} has a form, and nothing takes it")


def _title(family: Family) -> str:
    return next(sentence(home.__doc__) for home in vars(rules).values() if getattr(home, "FAMILY", None) is family)


def page() -> str:
    """The text of docs/aten.md."""
    operators = core()
    rows = [f"| `{base}` | {state(base)} | {said(base, overloads[0])} |" for base, overloads in operators.items()]
    counts = {kind: sum(state(base) == kind for base in operators) for kind in ("taken", "not by meaning", "not yet")}
    total = (
        f"Of {len(operators)} operators {counts['taken']} are taken, {counts['not by meaning']} have no meaning at inference in fixed point, "
        f"{counts['not yet']} are left."
    )
    return "\n".join([_INTRODUCTION.format(version=VERSION), total, "", "| operator | | |", "|---|---|---|", *rows, ""])


if __name__ == "__main__":
    (DOCS / "aten.md").write_text(page(), encoding="utf-8")
