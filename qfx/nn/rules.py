"""What each float operation becomes: the table from torch modules, functions and methods to fixed-point layers, joined of the families' entries.
Whatever is not here is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from torch import nn

from qfx.nn.call import Family, Rule
from qfx.nn.layers import (
    arithmetic,
    avg_pool,
    batch_norm,
    composed,
    concat,
    conv,
    conv_transpose,
    dropout,
    linear,
    max_pool,
    pad,
    permute,
    relu,
    reshape,
    slice,
    upsample,
)

FAMILIES: tuple[Family, ...] = (
    linear.FAMILY,
    conv.FAMILY,
    conv_transpose.FAMILY,
    batch_norm.FAMILY,
    relu.FAMILY,
    max_pool.FAMILY,
    avg_pool.FAMILY,
    arithmetic.FAMILY,
    composed.FAMILY,
    concat.FAMILY,
    reshape.FAMILY,
    permute.FAMILY,
    pad.FAMILY,
    slice.FAMILY,
    upsample.FAMILY,
    dropout.FAMILY,
)

_Key = TypeVar("_Key")
_Entry = TypeVar("_Entry")


def _joined(tables: Iterable[Iterable[tuple[_Key, _Entry]]]) -> dict[_Key, _Entry]:
    """One table of several. Raises ValueError for what stands in two of them."""
    result: dict[_Key, _Entry] = {}
    for key, entry in (pair for table in tables for pair in table):
        if key in result:
            raise ValueError(f"two families have a rule for {key}")
        result[key] = entry
    return result


MODULES: dict[type[nn.Module], Rule] = _joined(family.modules.items() for family in FAMILIES)
"""By the class whose forward runs."""

FUNCTIONS: dict[Callable[..., Any], tuple[str, Rule]] = _joined(family.functions.items() for family in FAMILIES)
"""Argument names (a star gathers the rest) and the rule."""

METHODS: dict[str, tuple[str, Rule]] = _joined(family.methods.items() for family in FAMILIES)

FAMILY_OF: dict[Rule, Family] = _joined(((rule, family) for rule in family.rules) for family in FAMILIES)

ABSORBING: frozenset[type[nn.Module]] = frozenset(
    module for family in FAMILIES for module in family.modules if any(layer.traits.holds_constants for layer in family.layers)
)
"""torch's layers that could take in a constant which follows."""
