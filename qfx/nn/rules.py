"""What each float operation becomes: the table from torch modules, functions and methods to fixed-point layers, joined of the families' entries.
Whatever is not here is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from qfx.homes import joined
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
    given,
    linear,
    max_pool,
    pad,
    permute,
    relu,
    reshape,
    slice,
    tables,
    upsample,
)
from qfx.nn.layers.elementwise import extreme, piecewise, rounding
from qfx.nn.layers.moving import borders, rearrange, take
from qfx.nn.layers.products import bilinear, einsum
from qfx.nn.layers.reductions import reduce
from qfx.nn.layers.selecting import embedding, logic, top
from qfx.nn.layers.sequences import recurrent

FAMILIES: tuple[Family, ...] = (
    linear.FAMILY,
    einsum.FAMILY,
    bilinear.FAMILY,
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
    tables.FAMILY,
    extreme.FAMILY,
    piecewise.FAMILY,
    rounding.FAMILY,
    reduce.FAMILY,
    take.FAMILY,
    rearrange.FAMILY,
    borders.FAMILY,
    embedding.FAMILY,
    top.FAMILY,
    logic.FAMILY,
    recurrent.FAMILY,
    given.FAMILY,
)

MODULES: dict[type[nn.Module], Rule] = joined(pair for family in FAMILIES for pair in family.modules.items())
"""By the class whose forward runs."""

FUNCTIONS: dict[Callable[..., Any], tuple[str, Rule]] = joined(pair for family in FAMILIES for pair in family.functions.items())
"""Argument names (a star gathers the rest) and the rule."""

METHODS: dict[str, tuple[str, Rule]] = joined(pair for family in FAMILIES for pair in family.methods.items())

FAMILY_OF: dict[Rule, Family] = joined((rule, family) for family in FAMILIES for rule in family.rules)
