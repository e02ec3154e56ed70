"""The pieces that schemas are made of: JSON Schema draft 4, which Taplo (the TOML support of editors) knows."""

from __future__ import annotations

import types
from collections.abc import Mapping
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin

from qfx.files import SCHEMA_KEY

Schema = dict[str, Any]

DRAFT = "http://json-schema.org/draft-04/schema#"


def document(kind: str, description: str, properties: Mapping[str, Schema], required: tuple[str, ...] = ()) -> Schema:
    """The schema of a whole file, which may name its schema."""
    own = {SCHEMA_KEY: {"type": "string", "description": "The JSON schema of this file, for editors."}}
    head = {"$schema": DRAFT, "title": f"qfx {kind}"}
    return {**head, **table(description, {**properties, **own}, required)}


def table(description: str, properties: Mapping[str, Schema], required: tuple[str, ...] = ()) -> Schema:
    """A table with these keys and no others."""
    made: Schema = {"type": "object", "description": description, "properties": dict(properties), "additionalProperties": False}
    return {**made, "required": list(required)} if required else made


def mapping(description: str, value: Schema) -> Schema:
    """A table with any keys, whose values are alike."""
    return {"type": "object", "description": description, "additionalProperties": value}


def choice(values: tuple[str, ...]) -> Schema:
    return {"type": "string", "enum": list(values)}


def count(least: int, most: int | None = None) -> Schema:
    return {"type": "integer", "minimum": least, **({} if most is None else {"maximum": most})}


def of_hint(hint: Any) -> Schema:
    """What a type hint says of a value; None, which no file has, apart."""
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = (part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is Literal:
        return choice(get_args(hint))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return choice(tuple(str(member.value) for member in hint))
    return {"type": {bool: "boolean", int: "integer", float: "number", str: "string"}[hint]}
