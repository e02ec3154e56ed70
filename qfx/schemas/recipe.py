"""The schema of a recipe, from the fields of ``Spec`` and ``Recipe``."""

from __future__ import annotations

import dataclasses
from enum import Enum
from typing import Any, get_type_hints

from qfx.recipe import DIGIT_ROLES, NUMBER_ROLES, OPTIONAL_ROLES, RANGES, ROLES, Recipe, Spec
from qfx.schemas.words import Schema, document, of_hint, table

_ABOVE = ("percentile", "table_error")
"""Numbers that are greater than the least."""

FIELDS = {
    "width": "Word length in bits.",
    "q": "Quantization mode: how a number becomes one of the grid.",
    "o": "Overflow mode: what becomes of numbers beyond the range.",
    "n": "Saturated bits of AP_WRAP and AP_WRAP_SM.",
    "granularity": "One binary point per tensor, per channel (output channel of a weight) or per element.",
    "signed": "Whether the type has a sign; left out: as the numbers need it.",
    "frac_bits": "Where binary points start, in bits right of the point; left out: where the observer places them.",
    "learn": "Whether binary points are trained.",
    "learn_width": "Whether each binary point has a word length of its own that is trained.",
    "observer": "How data places a binary point.",
    "percentile": "With the observer percentile: how many percent of the numbers must not overflow.",
    "reach": "How many positions a learned binary point may move from its start.",
    "learn_range": "With learn_width: whether the range is trained.",
    "accumulator": "Bits that the sums of products of these weights are added up in; left out: as many as they need.",
    "accumulator_mode": "What becomes of sums that would leave the accumulator.",
    "digits": "Only numbers of at most so many nonzero digits; left out: all numbers.",
    "digit_form": "Which digits are counted: signed ones (CSD), or the ones of the magnitude.",
    "numbers": "Only numbers of a set: a minifloat format such as E2M1, power(bits, exponent), or integers one by one; left out: all.",
    "sparsity": "n:m, as 2:4: of each m weights along the inputs at most n are not 0; left out: any number.",
}
"""What an editor says of a field of a Spec."""

PARTS = {
    "input": "The cast of the model's float input.",
    "weight": "Weights of convolutions and linear layers.",
    "bias": "Biases of convolutions and linear layers.",
    "scale": "Scales of a BatchNorm that is kept as an affine step.",
    "shift": "Shifts of a BatchNorm that is kept as an affine step.",
    "reciprocal": "The constant 1/n of an average.",
    "constant": "Numbers, buffers and parameters in arithmetic.",
    "internal": "Results inside an operation of several steps.",
    "activation": "The result of a layer.",
    "output": "The model's result.",
    "operand": "What weights multiply, where that has other bits than what else is done with the value.",
    "batch_norm": "Keep BatchNorm as an affine step, or fold it into the layer before it.",
    "tail": "Keep or drop a softmax, log-softmax or sigmoid at the end.",
    "table_error": "How far a table of lines may be from its function, in least significant bits.",
    "override": "Changes for the quantizers whose names match a pattern; later ones win.",
}
"""What an editor says of a field of a Recipe."""


def schema() -> Schema:
    """Of recipe.toml, as ``Recipe.from_toml`` reads it. Which fields go together, it does not say."""
    default, hints = Recipe(), get_type_hints(Recipe)
    properties: dict[str, Schema] = {}
    for name in ("batch_norm", "tail", "table_error"):
        properties[name] = {**_ranged(name, of_hint(hints[name])), **_default(getattr(default, name)), "description": PARTS[name]}
    for role in (*ROLES, *OPTIONAL_ROLES):
        properties[role] = table(PARTS[role], _spec(role, getattr(default, role) or Spec()))
    pattern = {"type": "string", "minLength": 1, "description": "A name such as conv1.weight, a shell pattern, or type:Conv2d."}
    entry = table(PARTS["override"], {"pattern": pattern, **_spec("", None)}, ("pattern",))
    properties["override"] = {"type": "array", "description": PARTS["override"], "items": entry}
    return document("recipe", "How a model is quantized: a table for each kind of tensor, and exceptions by name.", properties)


def _spec(role: str, default: Spec | None) -> dict[str, Schema]:
    """The fields of a Spec in a role ("": any), those apart that this role may not have."""
    hints = get_type_hints(Spec)
    found = {}
    for field in dataclasses.fields(Spec):
        if field.name == "numbers" and role not in ("", "weight", *NUMBER_ROLES):
            continue
        if role and ((field.name in ("accumulator", "sparsity") and role != "weight") or (field.name == "digits" and role not in DIGIT_ROLES)):
            continue
        told = {} if default is None else _default(getattr(default, field.name))
        found[field.name] = {**_ranged(field.name, of_hint(hints[field.name])), **told, "description": FIELDS[field.name]}
    return found


def _ranged(name: str, made: Schema) -> Schema:
    if name not in RANGES:
        return made
    least, most = RANGES[name]
    return {**made, "minimum": least, **({"exclusiveMinimum": True} if name in _ABOVE else {}), "maximum": most}


def _default(value: Any) -> Schema:
    return {} if value is None else {"default": value.value if isinstance(value, Enum) else value}
