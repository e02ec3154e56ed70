"""The reference of Python names, from signatures and docstrings."""

from __future__ import annotations

import enum
import importlib
import inspect
from collections.abc import Iterator
from typing import Any

import qfx

MODULES = {
    "qfx.ptq": "Passes after training, one by one: what `qfx ptq` and `qfx.autoquant` are made of.",
    "qfx.capture.checkpoint": "Weights for a model of one's own from a checkpoint ([checkpoints](ptq.md#checkpoints)).",
    "qfx.trainers.events": "What happens in the course of a training.",
    "qfx.trainers.course": "Training loops of one's own, and what the callbacks drive.",
    "qfx.trainers.lightning": "The callback of Lightning.",
    "qfx.trainers.pytorch_lightning": "The same of `pytorch_lightning`, its earlier name.",
    "qfx.trainers.huggingface": "The callback of transformers.",
    "qfx.trainers.tensorboard": "What goes to TensorBoard.",
    "qfx.training.gradients": "Gradients and weights of few bits, loss scaling.",
    "qfx.training.adaptive": "Word lengths switched in the course of a training.",
    "qfx.training.dynamic": "Training in integers with a shared exponent.",
    "qfx.training.low_rank": "Few parameters trained beside frozen weights.",
    "qfx.training.lmul": "Products by additions alone.",
    "qfx.faults.definition": "Faults of memories and devices: what is read.",
    "qfx.faults.graph": "Such faults in graphs.",
    "qfx.faults.training": "Such faults in models that are trained.",
    "qfx.fixed.minifloat": "The numbers of minifloats.",
    "qfx.nn.layers.tables": "What bounds the error of a function by table.",
    "qfx.ir.interpret": "The integer interpreter: raws in, raws out, and every value between.",
    "qfx.exchange.onnx_files": "QONNX and QDQ files as graphs of integers.",
    "qfx.integers.tflite": "TFLite files as graphs.",
    "qfx.integers.onnx": "int8 ONNX files as graphs.",
    "qfx.leaving.convert": "Models in other tools' files.",
    "qfx.hardware.board": "Boards.",
    "qfx.hardware.design.schedule": "How parallel layers are.",
    "qfx.hardware.design.lower": "What is built of a graph.",
    "qfx.hardware.cost.resources": "What a design takes.",
    "qfx.hardware.project.csim": "The generated C++ run on data.",
    "qfx.hardware.project.emulator": "The same of a graph, without a project.",
    "qfx.watch.log": "The log that `qfx watch` follows.",
    "qfx.report": "What casts lose.",
    "qfx.verify": "Executors compared.",
    "qfx.trace": "The layer where a difference starts.",
    "qfx.testing": "Help for tests.",
}
"""Modules beside ``qfx`` whose names are for users, and what they are for."""

SOME = {
    "qfx.capture.checkpoint": ("load_checkpoint",),
    "qfx.exchange.onnx_files": ("integers_of_qonnx",),
    "qfx.fixed.minifloat": ("Minifloat", "to_raws"),
    "qfx.hardware.board": ("Board", "board", "boards"),
    "qfx.hardware.cost.resources": ("Device", "Resources", "device"),
    "qfx.hardware.design.lower": ("lower",),
    "qfx.hardware.design.schedule": ("Folding", "Request", "Schedule"),
    "qfx.hardware.project.csim": ("run",),
    "qfx.hardware.project.emulator": ("run",),
    "qfx.integers.onnx": ("read_onnx_integers",),
    "qfx.integers.tflite": ("read_tflite",),
    "qfx.ir.interpret": ("quantize_input", "quantize_inputs", "run_raw", "trace"),
    "qfx.leaving.convert": ("convert",),
    "qfx.nn.layers.tables": ("Tabled", "error_bound"),
}
"""The names for users, of modules that have others beside them."""


def page() -> str:
    """All of ``qfx``, then the modules."""
    parts = ["# Python reference\n", "Made from the signatures and docstrings of the sources.\n", "## qfx\n", _text(inspect.getdoc(qfx) or "")]
    parts += [_entry(f"qfx.{name}", getattr(qfx, name)) for name in sorted(qfx.__all__)]
    for name, told in MODULES.items():
        module = importlib.import_module(name)
        parts.append(f"## {name}\n\n{told}\n")
        parts += [_entry(f"{name}.{own}", value) for own, value in public(module)]
    return "\n".join(parts)


def public(module: Any) -> Iterator[tuple[str, Any]]:
    """The classes and functions of a module that are for users."""
    named = SOME.get(module.__name__) or getattr(module, "__all__", None)
    for name in sorted(named or (name for name in vars(module) if not name.startswith("_"))):
        value = getattr(module, name)
        own = named is not None or getattr(value, "__module__", "") == module.__name__
        if own and (inspect.isclass(value) or inspect.isfunction(value)):
            yield name, value


def _entry(name: str, value: Any) -> str:
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        return f"### {name}\n\n`{type(value).__name__}`\n"
    kind = "class " if inspect.isclass(value) else ""
    parts = [f"### {name}\n", f"```python\n{kind}{_signature(name, value)}\n```\n", _text(inspect.getdoc(value) or "")]
    if inspect.isclass(value):
        parts += list(_members(value))
    return "\n".join(parts)


def _members(kind: type) -> Iterator[str]:
    if issubclass(kind, enum.Enum):
        yield ", ".join(f"`{member.name}`" for member in kind) + "\n"
        return
    for name, value in vars(kind).items():
        if name.startswith("_"):
            continue
        plain = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        told = inspect.getdoc(plain) if callable(plain) or isinstance(plain, property) else None
        if not told:
            continue
        shown = name if isinstance(plain, property) else _signature(name, plain)
        yield f"#### `{' '.join(shown.split())}`" if len(shown) <= 76 else f"#### `{name}(...)`\n\n```python\n{shown}\n```"
        yield f"\n{_text(told)}"


def _signature(name: str, value: Any) -> str:
    """With annotations as they are written, a parameter a line where it is long."""
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):
        return name
    if inspect.isclass(value) and issubclass(value, enum.Enum | BaseException):
        return name
    parameters = [one for one in found.parameters.values() if one.name not in ("self", "cls")]
    told, starred = [], False
    for one in parameters:
        if one.kind is one.KEYWORD_ONLY and not starred:
            told.append("*")
            starred = True
        starred |= one.kind is one.VAR_POSITIONAL
        told.append(_parameter(one))
    result = "" if found.return_annotation in (found.empty, "None", None) or inspect.isclass(value) else f" -> {_annotation(found.return_annotation)}"
    line = f"{name}({', '.join(told)}){result}"
    return line if len(line) <= 76 else f"{name}(\n    " + ",\n    ".join(told) + f",\n){result}"


def _parameter(one: inspect.Parameter) -> str:
    stars = "*" if one.kind is one.VAR_POSITIONAL else "**" if one.kind is one.VAR_KEYWORD else ""
    told = f"{stars}{one.name}"
    if one.annotation is not one.empty:
        told += f": {_annotation(one.annotation)}"
    if one.default is not one.empty:
        shown = repr(one.default)
        told += f" = {shown if len(shown) <= 40 and ' at 0x' not in shown else '...'}"
    return told


def _annotation(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def _text(docstring: str) -> str:
    """A docstring as Markdown: double backticks are code, doctests stand in fences."""
    lines: list[str] = []
    inside = False
    for line in docstring.replace("``", "`").splitlines():
        begins, ends = line.startswith(">>> ") and not inside, inside and not line.strip()
        lines += ["", "```python"] if begins else ["```"] if ends else []
        inside = (inside or begins) and not ends
        lines.append(line)
    return "\n".join([*lines, *(["```"] if inside else [])]) + "\n"
