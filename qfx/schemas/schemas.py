"""The schemas by kind, and as text."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from qfx.schemas import board, folding, recipe
from qfx.schemas.words import Schema

SCHEMAS: Mapping[str, Callable[[], Schema]] = {"recipe": recipe.schema, "board": board.schema, "folding": folding.schema}
"""What makes the schema of each kind of file."""


def text(kind: str) -> str:
    """The schema of a kind of file ("recipe", "board", "folding") as JSON."""
    return json.dumps(SCHEMAS[kind](), indent=2, ensure_ascii=False) + "\n"
