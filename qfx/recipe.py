"""``Recipe``: how a model is to be quantized, as data. Reads and writes TOML; imports no torch."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args

from qfx.errors import RecipeError
from qfx.files import drop_schema, schema_line
from qfx.fixed import number_sets
from qfx.fixed.type import OMode
from qfx.spec import DIGIT_ROLES as DIGIT_ROLES
from qfx.spec import LONGEST_WORD as LONGEST_WORD
from qfx.spec import RANGES as RANGES
from qfx.spec import AccumulatorMode as AccumulatorMode
from qfx.spec import Granularity as Granularity
from qfx.spec import ObserverName as ObserverName
from qfx.spec import Spec as Spec
from qfx.spec import changes_of, is_int, require, within

BatchNormStyle = Literal["keep", "fold"]
Tail = Literal["keep", "drop"]
ROLES = ("input", "weight", "bias", "scale", "shift", "reciprocal", "constant", "internal", "activation", "output")
"""The kinds of tensor that a recipe tells apart; each is a field of Recipe."""

OPTIONAL_ROLES = ("operand",)
"""Those that have no cast of their own unless a recipe asks for it: fields of Recipe that may be None."""

NUMBER_ROLES = ("activation", "internal", "operand", "output")
"""Values that a Spec may give the numbers of a minifloat, beside weights."""

_PLAIN = ("batch_norm", "tail", "table_error")
"""Its fields that are no Spec."""


@dataclass(frozen=True, slots=True)
class Override:
    """Changes to the spec of every quantizer whose name matches ``pattern``.

    A quantizer is called by its layer and role: ``conv1.weight``, ``layer1.0.add.output``, ``input``. ``pattern`` is a shell pattern
    (``*``, ``?``, ``[...]``) for such a name, or for a layer's name, which then means all quantizers of the layer. ``changes`` are fields
    of Spec. Later overrides win.

    A module that is called several times has a layer for each call: ``relu``, ``relu_1``, ... The name ``relu`` means all of them, and so does a
    pattern with wildcards that fits the first; the name ``relu_1`` means the second call alone. A quantizer's name without wildcards,
    ``relu.output``, means that one quantizer.

    ``type:Conv2d`` means all quantizers of the layers of that class, ``type:Conv2d.weight`` those of a role, ``type:add`` those of a function's
    calls; wildcards serve there too (``type:Conv*``).
    """

    pattern: str
    changes: Mapping[str, Any]

    def __post_init__(self) -> None:
        require(isinstance(self.pattern, str) and self.pattern != "", "pattern", self.pattern, "give a name or a pattern such as 'layer1.*'")
        where = f"override {self.pattern!r}"
        require(isinstance(self.changes, Mapping), "changes", self.changes, "give a mapping from fields of Spec to values", where)
        _check_names(self.changes, [f.name for f in dataclasses.fields(Spec)], where)
        for name, value in self.changes.items():
            require(value is not None, name, value, "leave it out", where)
        # A bad value is refused when it is written, not when it is used; N alone may be meant for any word length that wraps.
        lenient: dict[str, Any] = {"o": OMode.WRAP, "width": 32} if "n" in self.changes else {}
        if isinstance(self.changes.get("digits"), int):  # for whichever word is long enough
            lenient["width"] = min(max(2 * self.changes["digits"], 8), 32)
        if "numbers" in self.changes:
            lenient["width"] = 32
        spec = _build(Spec, {**lenient, **self.changes}, where)
        object.__setattr__(self, "changes", {name: getattr(spec, name) for name in self.changes})

    def matches(self, quantizer: str, also: str = "", kind: str = "") -> bool:
        """Whether the override reaches a quantizer. ``also``: what that is called in the first call of its module. ``kind``: its layer's class, or
        the function that is called."""
        if self.pattern.startswith(_TYPE):
            wanted, _, role = self.pattern.removeprefix(_TYPE).partition(".")
            return bool(kind) and fnmatch.fnmatchcase(kind, wanted) and _OfRole(role or "*", self.changes).matches(quantizer, also)
        layers = {name.rpartition(".")[0] for name in (quantizer, also)} - {""}
        names = {quantizer} if _is_literal(self.pattern) else {quantizer, also} - {""}
        return any(fnmatch.fnmatchcase(name, self.pattern) for name in names | layers)


class _OfRole(Override):
    """Changes to the quantizers of a role; the pattern is the role's."""

    def matches(self, quantizer: str, also: str = "", kind: str = "") -> bool:
        return fnmatch.fnmatchcase((also or quantizer).rpartition(".")[2], self.pattern)


def _is_literal(pattern: str) -> bool:
    """Whether a pattern has no wildcards; ``[*]`` and the like, one character in brackets, are ``glob.escape``'s."""
    return not any(sign in re.sub(r"\[[*?\[]\]", "", pattern) for sign in "*?[")


_TYPE = "type:"
"""What a pattern begins with that means layers by their class."""

_BITS_8, _BITS_16 = Spec(8), Spec(16)
_RECIPROCAL = Spec(16, learn=False)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is to be quantized: a Spec for each kind of tensor, and exceptions by name.

    ``input``: the cast of the model's float input. ``weight``, ``bias``: of convolutions and linear layers. ``scale``, ``shift``: of a
    BatchNorm that is kept as an affine step. ``reciprocal``: the constant 1/n of an average. ``constant``: numbers, buffers and parameters in
    arithmetic. ``internal``: results inside an operation that is several steps, as a normalization, a softmax or a recurrent cell.
    ``activation``: the result of a layer (after the BatchNorm and activation that follow it). ``output``: the model's result. ``operand``: what a
    convolution, a linear layer or a product with a constant matrix multiplies, where it is to have fewer bits than what else is done with the value,
    as shortcuts are added; None: such layers read what is there. A value that nothing but they read is cast by ``operand`` instead of
    ``activation``; in front of one that reads what others read too stands a cast of its own. The model's inputs keep ``input``. ``batch_norm``:
    "keep" it as a fixed-point affine step, or "fold" it into the layer before it. ``tail``: a softmax, log-softmax or sigmoid that is the last
    operation before an output: "keep" it, or "drop" it, for who needs only which number is greatest, or computes it of the result.
    ``table_error``: how far a table of lines may be from its function, in least significant bits of its output; None: half of one where there can
    be as many lines as that takes, else as near as they come.

    >>> Recipe.uniform(4).weight.width
    4
    """

    input: Spec = _BITS_8
    weight: Spec = _BITS_8
    bias: Spec = _BITS_16
    scale: Spec = _BITS_16
    shift: Spec = _BITS_16
    reciprocal: Spec = _RECIPROCAL
    constant: Spec = _BITS_16
    internal: Spec = _BITS_16
    activation: Spec = _BITS_8
    output: Spec = _BITS_16
    operand: Spec | None = None
    batch_norm: BatchNormStyle = "keep"
    tail: Tail = "keep"
    table_error: float | None = None
    overrides: tuple[Override, ...] = ()

    def __repr__(self) -> str:
        return changes_of(self)

    def _repr_html_(self) -> str:
        """A line for each kind of tensor and each exception, for notebooks."""
        from qfx.pages.notebook import notebook_table

        specs = {role: getattr(self, role) for role in (*ROLES, *OPTIONAL_ROLES) if getattr(self, role) is not None}
        lines = [(role, str(spec.width), spec.q.value, spec.o.value, _besides(spec)) for role, spec in specs.items()]
        lines += [(entry.pattern, "", "", "", ", ".join(f"{name}={value}" for name, value in entry.changes.items())) for entry in self.overrides]
        note = ", ".join(f"{name}={getattr(self, name)!r}" for name in ("batch_norm", "tail", "table_error"))
        return notebook_table("recipe", ("tensors", "bits", "rounding", "overflow", "besides"), lines, numbers=(1,), note=note)

    def __post_init__(self) -> None:
        for role in ROLES:
            require(isinstance(getattr(self, role), Spec), role, getattr(self, role), "give a Spec")
            _check_role(getattr(self, role), role, role)
        for role in OPTIONAL_ROLES:
            spec = getattr(self, role)
            require(spec is None or isinstance(spec, Spec), role, spec, "give a Spec, or leave it out")
            if spec is not None:
                _check_role(spec, role, role)
        require(self.batch_norm in get_args(BatchNormStyle), "batch_norm", self.batch_norm, f"use one of {', '.join(get_args(BatchNormStyle))}")
        require(self.tail in get_args(Tail), "tail", self.tail, f"use one of {', '.join(get_args(Tail))}")
        if self.table_error is not None:
            is_number = is_int(self.table_error) or isinstance(self.table_error, float)
            require(
                is_number and self.table_error != 0 and within("table_error", self.table_error),
                "table_error",
                self.table_error,
                "use a number above 0, or leave it out",
            )
            object.__setattr__(self, "table_error", float(self.table_error))
        require(isinstance(self.overrides, tuple | list), "overrides", self.overrides, "give a tuple of Override values")
        object.__setattr__(self, "overrides", tuple(self.overrides))
        for override in self.overrides:
            require(isinstance(override, Override), "overrides", override, "give Override values")

    @classmethod
    def uniform(cls, bits: int, **changes: Any) -> Recipe:
        """A recipe with ``bits`` for weights and activations, the defaults elsewhere; ``changes`` are fields of Recipe."""
        return cls(**{"weight": Spec(bits), "activation": Spec(bits), **changes})

    def spec(self, quantizer: str, role: str, also: str = "") -> Spec:
        """The spec of one quantizer: its role's, with every matching override applied in order. ``also``: as for ``Override.matches``. An optional
        role must have a spec."""
        spec: Spec = getattr(self, role)
        for override in self.overrides:
            if override.matches(quantizer, also):
                try:
                    spec = replace(spec, **override.changes)
                except RecipeError as error:  # fields that do not go together
                    raise RecipeError(error.what, where=f"override {override.pattern!r} of {quantizer}", remedy=error.remedy) from None
        _check_role(spec, role, quantizer)
        return spec

    def of_kind(self, kind: str) -> Recipe:
        """The recipe for the quantizers of layers of class ``kind`` (of calls of that function): overrides by type are by name there."""
        if not any(override.pattern.startswith(_TYPE) for override in self.overrides):
            return self
        found = []
        for override in self.overrides:
            wanted, _, role = override.pattern.removeprefix(_TYPE).partition(".")
            if not override.pattern.startswith(_TYPE):
                found.append(override)
            elif fnmatch.fnmatchcase(kind, wanted):
                found.append(_OfRole(role or "*", override.changes))
        return replace(self, overrides=tuple(found))

    def check_patterns(self, quantizers: Iterable[str] | Mapping[str, str], kinds: Mapping[str, str] | None = None) -> None:
        """Raise RecipeError for an override whose pattern matches none of the quantizers' names. A mapping tells what each is also called, ``kinds``
        what its layer is."""
        names, kinds = list(quantizers), kinds or {}
        also = quantizers if isinstance(quantizers, Mapping) else {}
        for override in self.overrides:
            if not any(override.matches(name, also.get(name, ""), kinds.get(name, "")) for name in names):
                known = [*names, *(name.rpartition(".")[0] for name in names)]
                if by_type := override.pattern.startswith(_TYPE):
                    known = names = sorted(set(kinds.values()) - {""})
                near = difflib.get_close_matches(override.pattern.removeprefix(_TYPE), known, n=1, cutoff=0.5)
                listed = f"the {'types' if by_type else 'names'} are: {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}"
                remedy = f"did you mean {_TYPE * by_type + near[0]!r}?" if near else listed
                raise RecipeError(f"the pattern {override.pattern!r} matches nothing", where="override", remedy=remedy)

    def to_toml(self) -> str:
        """The recipe as TOML text; ``from_toml`` reads it back to an equal recipe."""
        lines = [f'batch_norm = "{self.batch_norm}"', f'tail = "{self.tail}"', *_toml_fields({"table_error": self.table_error})]
        for role in (*ROLES, *(role for role in OPTIONAL_ROLES if getattr(self, role) is not None)):
            fields = _as_dict(getattr(self, role))
            if fields["accumulator"] is None and fields["accumulator_mode"] == "bound":
                del fields["accumulator_mode"]  # of nothing
            if fields["digits"] is None and fields["digit_form"] == "signed":
                del fields["digit_form"]  # nothing is counted
            lines += ["", f"[{role}]", *_toml_fields(fields)]
        for override in self.overrides:
            lines += ["", "[[override]]", f"pattern = {_toml_value(override.pattern)}", *_toml_fields(override.changes)]
        return "\n".join(lines) + "\n"

    @classmethod
    def from_toml(cls, text: str, *, where: str = "recipe") -> Recipe:
        """Read a recipe; what is left out keeps its default. Raises RecipeError for anything it does not know."""
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise RecipeError(f"not TOML: {error}", where=where, remedy="see docs/recipe.md for an example") from None
        drop_schema(data)
        _check_names(data, [*ROLES, *OPTIONAL_ROLES, *_PLAIN, "override"], where)
        defaults = cls()
        fields: dict[str, Any] = {name: data.get(name, getattr(defaults, name)) for name in _PLAIN}
        for role in (*ROLES, *(role for role in OPTIONAL_ROLES if role in data)):
            table = data.get(role, {})
            require(isinstance(table, dict), role, table, "write it as a table", where)
            _check_names(table, [f.name for f in dataclasses.fields(Spec)], f"{where} [{role}]")
            fields[role] = _build(Spec, {**_as_dict(getattr(defaults, role) or Spec()), **table}, f"{where} [{role}]")
        entries = data.get("override", [])
        require(isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries), "override", entries, "write [[override]]", where)
        overrides = []
        for entry in entries:
            require("pattern" in entry, "override", entry, "give it a pattern", where)
            changes = {key: value for key, value in entry.items() if key != "pattern"}
            try:
                overrides.append(Override(entry["pattern"], changes))
            except RecipeError as error:
                raise RecipeError(error.what, where=f"{where} {error.where}".strip(), remedy=error.remedy) from None
        try:
            return cls(**fields, overrides=tuple(overrides))
        except RecipeError as error:
            raise RecipeError(error.what, where=error.where or where, remedy=error.remedy) from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the recipe as TOML, with the name of its schema for editors (``qfx schema recipe``). Raises RecipeError, naming the file, if it
        cannot be written."""
        try:
            Path(path).write_text(f"{schema_line('recipe')}\n\n{self.to_toml()}", encoding="utf-8")
        except OSError as error:
            raise RecipeError(f"cannot be written: {error.strerror}", where=str(path), remedy="create the folder first") from None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recipe:
        """Read a recipe from a TOML file. Raises RecipeError, naming the file, if it is missing or wrong."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"cannot be read: {error}", where=str(path), remedy="check the path") from None
        return cls.from_toml(text, where=str(path))


def _check_role(spec: Spec, role: str, where: str) -> None:
    if spec.accumulator is not None and role != "weight":
        told = f"accumulator is {spec.accumulator}, but this is no weight: {role} is not what products are added up of"
        raise RecipeError(told, where=where, remedy="give it to weights alone; in an override by a pattern such as 'conv1.weight' or '*.weight'")
    if spec.sparsity is not None and role != "weight":
        told = f"sparsity is {spec.sparsity!r}, but this is no weight"
        raise RecipeError(told, where=where, remedy="give sparsity to weights alone; in an override by a pattern such as 'conv1.weight'")
    if spec.numbers is not None and role != "weight":
        told = f"numbers are {spec.numbers!r}, but this is {role}"
        if role not in NUMBER_ROLES:
            raise RecipeError(told, where=where, remedy=f"give numbers to weight, or a minifloat to {', '.join(NUMBER_ROLES)}")
        if not number_sets.read(spec.numbers).is_format:
            raise RecipeError(f"{told}, not a weight", where=where, remedy="values that come and go take minifloats alone, such as E4M3")
        if spec.granularity != "tensor":
            raise RecipeError(f"{told} with several binary points", where=where, remedy='use granularity "tensor"')
    if spec.digits is not None and role not in DIGIT_ROLES:
        raise RecipeError(
            f"digits is {spec.digits}, but this is no number that others are multiplied by",
            where=where,
            remedy=f"give digits to {', '.join(DIGIT_ROLES)} alone; in an override by a pattern such as '*.weight'",
        )


def _check_names(table: Mapping[str, Any], known: list[str], where: str) -> None:
    for name in table:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            remedy = f"did you mean {near[0]!r}?" if near else f"known names: {', '.join(known)}"
            raise RecipeError(f"unknown field {name!r}", where=where, remedy=remedy)


def _build(kind: type[Spec], fields: Mapping[str, Any], where: str) -> Spec:
    try:
        return kind(**fields)
    except RecipeError as error:
        raise RecipeError(error.what, where=where, remedy=error.remedy) from None


def _as_dict(spec: Spec) -> dict[str, Any]:
    return {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec)}


def _toml_fields(fields: Mapping[str, Any]) -> list[str]:
    return [f"{name} = {_toml_value(value)}" for name, value in fields.items() if value is not None]


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    text = str(value.value if isinstance(value, Enum) else value)
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON's escapes are TOML's too


def _besides(spec: Spec) -> str:
    """What differs from ``Spec()`` beside word length and modes."""
    usual = Spec()
    names = [field.name for field in dataclasses.fields(Spec) if field.name not in ("width", "q", "o")]
    return ", ".join(f"{name}={getattr(spec, name)}" for name in names if getattr(spec, name) != getattr(usual, name))
