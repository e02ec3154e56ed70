"""What a sweep goes through: cells, each a recipe, word lengths and a budget."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from qfx.errors import RecipeError
from qfx.recipe import Recipe

NONE = "none"
"""The budget of a cell without one."""

CostName = Literal["bit-operations", "weight-bits"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One point of a sweep. ``recipe``: a file, or "" for that of ``qfx ptq``; word lengths of 0 are the recipe's; ``budget``: as
    ``qfx ptq --budget`` takes it, or NONE."""

    recipe: str
    weight_bits: int
    activation_bits: int
    budget: str

    @property
    def name(self) -> str:
        """A file's name, without its end: the same for the same cell, whoever computes it."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:8]
        bits = "x".join(str(bits) if bits else "own" for bits in (self.weight_bits, self.activation_bits))
        return f"{Path(self.recipe).stem or 'default'}-{bits}-{digest}"

    def recipe_of(self, default: Recipe) -> Recipe:
        """The recipe with the cell's word lengths. Raises RecipeError for one that does not exist or cannot have them."""
        recipe = Recipe.load(self.recipe) if self.recipe else default
        if self.weight_bits:
            recipe = replace(recipe, weight=replace(recipe.weight, width=self.weight_bits))
        if self.activation_bits:
            recipe = replace(recipe, activation=replace(recipe.activation, width=self.activation_bits))
        return recipe


@dataclass(frozen=True, slots=True)
class Space:
    """All cells: every recipe with every word length and every budget."""

    recipes: tuple[str, ...]
    weight_bits: tuple[int, ...]
    activation_bits: tuple[int, ...]
    budgets: tuple[str, ...]

    def __iter__(self) -> Iterator[Cell]:
        for parts in itertools.product(self.recipes, self.weight_bits, self.activation_bits, self.budgets):
            yield Cell(*parts)

    def choices(self) -> dict[str, tuple[str | int, ...]]:
        """What there is to choose for each field of a cell."""
        return {"recipe": self.recipes, "weight_bits": self.weight_bits, "activation_bits": self.activation_bits, "budget": self.budgets}


def word_lengths(text: str | None, option: str) -> tuple[int, ...]:
    """From "4,6,8"; without a text the recipe's. Raises RecipeError, naming the option."""
    if text is None:
        return (0,)
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 1 <= int(part) <= 32 for part in parts):
        raise RecipeError(f"{text!r} is no list of word lengths", where=option, remedy="give numbers of 1 to 32, such as 4,6,8")
    return tuple(dict.fromkeys(map(int, parts)))
