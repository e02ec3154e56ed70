"""References of the files that people write, key by key, from the same schemas that editors read: recipes, boards, foldings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from qfx.files import SCHEMA_KEY
from qfx.recipe import OPTIONAL_ROLES, ROLES
from qfx.schemas.schemas import SCHEMAS

Schema = dict[str, Any]

_HEAD = ("| key | takes | default | means |", "|---|---|---|---|")


def recipes() -> str:
    """Every key of recipe.toml."""
    parts = SCHEMAS["recipe"]()["properties"]
    roles = (*ROLES, *OPTIONAL_ROLES)
    whole = {name: found for name, found in parts.items() if name not in (*roles, "override", SCHEMA_KEY)}
    fields: dict[str, Schema] = dict(parts["weight"]["properties"])
    for role in roles:
        fields |= {name: found for name, found in parts[role]["properties"].items() if name not in fields}
    lines = [
        "# Recipe reference\n",
        "Made from the definitions that `Recipe.load` checks by. [Recipes](recipe.md) says what the keys are for, with examples; the same names are "
        "the fields of `qfx.Recipe` and `qfx.Spec` in Python.\n",
        "## The whole file\n",
        *_HEAD,
        *(_row(name, found) for name, found in whole.items()),
        "",
        "## A table for each kind of tensor\n",
        "`[weight]` and so on. Defaults are those of [the keys below](#keys-of-such-a-table) but for these.\n",
        "| table | of | its own defaults | does not take |",
        "|---|---|---|---|",
    ]
    for role in roles:
        own = parts[role]["properties"]
        differs = [f"`{name} = {_value(own[name]['default'])}`" for name in own if own[name].get("default") != _usual(parts, roles, name)]
        absent = ", ".join(f"`{name}`" for name in fields if name not in own)
        optional = "left out: there is no such cast" if role in OPTIONAL_ROLES else ""
        told = "; ".join(part for part in (", ".join(differs), optional) if part)
        lines.append(f"| `[{role}]` | {parts[role]['description']} | {told} | {absent} |")
    lines += ["\n## Keys of such a table\n", *_HEAD]
    lines += [_row(name, {**found, "default": _usual(parts, roles, name)}) for name, found in fields.items()]
    entry = parts["override"]["items"]["properties"]
    lines += [
        "\n## Exceptions by name\n",
        f"`[[override]]`: {parts['override']['description'][0].lower()}{parts['override']['description'][1:]} Beside `pattern` it takes the keys of "
        "the list before; those that it leaves out stay as they are.\n",
        *_HEAD,
        _row("pattern", entry["pattern"], needed=True),
    ]
    return "\n".join(lines) + "\n"


def _usual(parts: Mapping[str, Schema], roles: tuple[str, ...], name: str) -> Any:
    """The default that most tables have."""
    found = [parts[role]["properties"][name].get("default") for role in roles if name in parts[role]["properties"]]
    return max(found, key=found.count)


def board_keys() -> str:
    """Every key of a board's file."""
    schema = SCHEMAS["board"]()
    rows = ((name, found) for name, found in schema["properties"].items() if name != SCHEMA_KEY)
    return "\n".join([*_HEAD, *(_row(name, found, needed=name in schema["required"]) for name, found in rows)]) + "\n"


def foldings() -> str:
    """Every key of folding.toml."""
    lines = [
        "# Folding reference\n",
        "Made from the definitions that `--folding FILE` is checked by. Every project has a `folding.toml`, which says what its design is made of; "
        "[projects](hls.md#folding) say how to change it.\n",
        *_HEAD,
        *(_row(name, found) for name, found in _inside(SCHEMAS["folding"]()["properties"], "")),
    ]
    return "\n".join(lines) + "\n"


def _inside(properties: Mapping[str, Schema], before: str) -> Iterator[tuple[str, Schema]]:
    """Keys, and those of the tables below them, by their whole path; NAME: any."""
    for name, found in properties.items():
        if name == SCHEMA_KEY:
            continue
        yield f"{before}{name}", found
        for within in found.get("anyOf", (found,)):
            if "properties" in within:
                yield from _inside(within["properties"], f"{before}{name}.")
            elif isinstance(within.get("additionalProperties"), dict):
                yield from _inside({"NAME": within["additionalProperties"]}, f"{before}{name}.")


def _row(name: str, found: Schema, *, needed: bool = False) -> str:
    default = "must be given" if needed else "" if found.get("default") is None else f"`{_value(found['default'])}`"
    told = re.sub(r"\s+", " ", found.get("description", "")).replace("|", "\\|")
    return f"| `{name}` | {_takes(found)} | {default} | {told} |"


def _value(value: Any) -> str:
    """As TOML has it."""
    return (
        str(value).lower()
        if isinstance(value, bool)
        else f'"{value}"'
        if isinstance(value, str)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _takes(found: Schema) -> str:
    """What a key takes, in words."""
    if "enum" in found:
        return ", ".join(f"`{_value(value)}`" for value in found["enum"])
    if "anyOf" in found:
        return ", or ".join(map(_takes, found["anyOf"]))
    kinds = {"integer": "a whole number", "number": "a number", "string": "a text", "boolean": "`true`, `false`", "object": "a table"}
    told = kinds[found["type"]]
    least, most = found.get("minimum"), found.get("maximum")
    if least is not None and most is not None:
        bounds = f"above {_value(least)}, at most {_value(most)}" if found.get("exclusiveMinimum") else f"{_value(least)} to {_value(most)}"
        return f"{told}, {bounds}"
    if least is not None:
        return f"{told}, {_value(least)} or more"
    return f"{told}: `{found['pattern']}`".replace("|", "\\|") if "pattern" in found else told
