"""``folding.toml``: the folding of a project's layers as a file that a user can read, change and give back.

    [ports]
    input = 1

    [layers."conv1"]
    pe = 4
    simd = 8
    arithmetic = "dsp"

    [fifos]
    relu_output = 64
    add_output = { depth = 2048, storage = "uram" }

Where the model has several inputs or outputs, each port has a width of its own, by the model's name for it:

    [ports.input]
    left = 4

    [ports.output]
    "map 1" = 2

``merged = true`` in ``[ports]`` sends all inputs in one stream, one after the other in a frame, and all outputs in one.

A layer inside a loop over the steps of a sequence can have a folding of its own, by its name in the whole model (``layers."rnn::gates"``); the others
have as much of the loop's as their numbers have divisors for.

``taps = 9`` gives a layer with windows all taps of a window of nine in one word; 1, the default, one after the other. ``pixels = 2`` lets a layer
with weights work on two pixels at once, with the same weights, and pools and what moves or joins pixels on words of two; the default is 1.
``weights = "ddr"`` leaves the weights in the board's memory, and ``rows = 4`` reads them once for every four rows of the result; the default is once
a frame. ``sparsity = "2:4"`` stores and multiplies two weights of each four neighbouring inputs alone, of a layer that has no more.

``pe``, ``simd`` and ``arithmetic`` default to 1, 1 and "auto"; ``weights`` (what holds them: "lut", "bram", "mixed" or, if they are loaded, "uram")
and ``buffer`` (the line buffer of a window: "lut", "bram" or "uram") to "auto"; layers, ports and FIFOs that are not named are left to ``qfx hls``,
and so are the depth and the storage ("lut", "bram", "uram", or "ddr", the board's memory) of a FIFO where they are not given.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from qfx.errors import ProjectError
from qfx.files import drop_schema, schema_line
from qfx.hardware.cost.estimate import NAMES
from qfx.hardware.cost.resources import FIELDS, Resources
from qfx.hardware.design.schedule import FIFO_STORAGE, OUT, Folding, Request, Schedule
from qfx.hardware.folding.plan import Plan, nearest
from qfx.ir.within import inside

TABLES = ("ports", "layers", "fifos")
PORTS = ("input", "output")
LAYER_KEYS: Mapping[str, type] = {
    "pe": int,
    "simd": int,
    "arithmetic": str,
    "taps": int,
    "weights": str,
    "buffer": str,
    "pixels": int,
    "rows": int,
    "sparsity": str,
}
FIFO_KEYS = ("depth", "storage")


def read(path: str | PathLike[str], *, fps: float | None = None, fit: bool = False) -> Request:
    """What the file asks for. Raises ProjectError, naming the file and the place in it, for anything but the above.

    Whether the layers, FIFOs and ports by name exist is for ``fold.resolve`` to say, which knows the model.
    """
    where = str(path)
    try:
        data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ProjectError(f"cannot be read: {error.strerror or error}", where=where, remedy="name a folding file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProjectError(f"not TOML: {error}", where=where, remedy="repair the file") from error
    drop_schema(data)
    _known(data, TABLES, where, "a table")
    for name in TABLES:
        if not isinstance(data.get(name, {}), dict):
            raise ProjectError(f"{name} is not a table", where=where, remedy=f"write [{name}]")
    asked = data.get("ports", {})
    _known(asked, (*PORTS, "merged"), f"{where}: [ports]", "a port")
    merged = asked.get("merged", False)
    if not isinstance(merged, bool):
        raise ProjectError(f"merged is {merged!r}", where=f"{where}: [ports]", remedy="give true or false")
    tables = {name: value for name, value in asked.items() if isinstance(value, dict)}
    ports = _counts({name: value for name, value in asked.items() if name not in tables and name != "merged"}, f"{where}: [ports]")
    named = {name: _counts(tables.get(name, {}), f"{where}: [ports.{name}]") for name in PORTS}
    widths = (*named["input"].items(), *((OUT + name, width) for name, width in named["output"].items()))
    layers = {name: _folding(values, f'{where}: [layers."{name}"]') for name, values in data.get("layers", {}).items()}
    given = data.get("fifos", {})
    places = {name: value for name, value in given.items() if isinstance(value, dict)}
    fifos = _counts({name: value for name, value in given.items() if name not in places}, f"{where}: [fifos]")
    storage = {name: place for name, value in places.items() if (place := _fifo_storage(value, f"{where}: [fifos.{name}]"))}
    fifos |= {name: value["depth"] for name, value in places.items() if "depth" in value}
    foldings = tuple(sorted(layers.items(), key=lambda item: item[0]))
    depths, built_of = tuple(sorted(fifos.items())), tuple(sorted(storage.items()))
    return Request(foldings, ports.get("input"), ports.get("output"), depths, fps, fit, widths, merged, fifo_storage=built_of)


def _folding(values: object, where: str) -> Folding:
    if not isinstance(values, dict):
        raise ProjectError("is not a table", where=where, remedy="give pe, simd, arithmetic, weights and buffer")
    _known(values, LAYER_KEYS, where, "a key")
    for key, value in values.items():
        if type(value) is not LAYER_KEYS[key]:
            raise ProjectError(f"{key} is {value!r}", where=where, remedy=f"give {'a word' if LAYER_KEYS[key] is str else 'a whole number'}")
    try:
        return Folding(**values)
    except ProjectError as error:
        raise ProjectError(error.what, where=where, remedy=error.remedy) from error


def _fifo_storage(values: Mapping[str, Any], where: str) -> str:
    """What a FIFO is to be built of, "" if that is left open; its depth is checked."""
    _known(values, FIFO_KEYS, where, "a key")
    _counts({key: value for key, value in values.items() if key == "depth"}, where)
    place = values.get("storage", "")
    if "storage" in values and place not in FIFO_STORAGE:
        raise ProjectError(f"storage is {place!r}", where=where, remedy=f"give one of {', '.join(FIFO_STORAGE)}")
    return str(place)


def _counts(values: Mapping[str, Any], where: str) -> dict[str, int]:
    for key, value in values.items():
        if type(value) is not int or value < 1:
            raise ProjectError(f"{key} is {value!r}", where=where, remedy="give a whole number of at least 1")
    return dict(values)


def _known(values: Iterable[str], known: Iterable[str], where: str, what: str) -> None:
    for key in values:
        if key not in known:
            raise ProjectError(f"{key!r} is not {what} of a folding file", where=where, remedy=nearest(key, known))


def text(plan: Plan, model: str, ports: tuple[Sequence[str], Sequence[str]] | None = None) -> str:
    """The plan's schedule as a file, with what every layer takes as comments. ``read`` gives it back. ``ports``: the model's names for inputs and
    outputs, which have to be there where there are several."""
    schedule = plan.schedule
    beside = f", with --batch {plan.design.batch} beside it" if plan.design.batch > 1 else ""
    lines = [
        schema_line("folding"),
        f"# Folding of {model} for {plan.estimate.board.name} at {plan.clock_ns:g} ns:",
        f"# {plan.interval} cycles from frame to frame, {plan.fps:.0f} frames per second.",
        f"# `qfx hls --folding` takes this file, whole or in parts{beside}.",
        "",
        *_ports(plan, ports),
    ]
    weighted = plan.weighted
    for cost in plan.estimate.layers:
        if cost.node not in plan.folded:
            continue
        folding = schedule.folding(cost.node)
        lines += ["", f'[layers."{cost.node}"]  # {cost.cycles} cycles, {counts(cost.resources)}', f"pe = {folding.pe}"]
        if cost.node in weighted:
            lines += [f"simd = {folding.simd}", f'arithmetic = "{folding.arithmetic}"']
        lines += _more(folding)
        for name, own in schedule.foldings:
            if name.startswith(inside(cost.node, "")):
                lines += ["", f'[layers."{name}"]', f"pe = {own.pe}"]
                lines += [f"simd = {own.simd}", f'arithmetic = "{own.arithmetic}"'] * (name in weighted)
                lines += _more(own)
    if schedule.fifos or schedule.fifo_storage:
        lines += ["", "[fifos]", *_fifos(schedule)]
    return "\n".join(lines) + "\n"


def _more(folding: Folding) -> list[str]:
    """Taps and pixels, where there are several, sparsity, where there is any, and where the memories of a layer lie, as far as that is asked for."""
    counts = [f"{key} = {count}" for key, count in (("taps", folding.taps), ("pixels", folding.pixels)) if count > 1]
    counts += [f"rows = {folding.rows}"] * bool(folding.rows)
    counts += [f'sparsity = "{folding.sparsity}"'] * bool(folding.sparsity)
    return [*counts, *_places(folding)]


def _places(folding: Folding) -> list[str]:
    return [f'{key} = "{place}"' for key, place in (("weights", folding.weights), ("buffer", folding.buffer)) if place != "auto"]


def _fifos(schedule: Schedule) -> list[str]:
    """The FIFOs with what is asked of them."""
    depths, places = dict(schedule.fifos), dict(schedule.fifo_storage)
    lines = []
    for name in sorted(depths.keys() | places.keys()):
        depth = [f"depth = {depths[name]}"] if name in depths else []
        storage = [f'storage = "{places[name]}"'] if name in places else []
        lines.append(f"{name} = {{ {', '.join([*depth, *storage])} }}" if storage else f"{name} = {depths[name]}")
    return lines


def _ports(plan: Plan, names: tuple[Sequence[str], Sequence[str]] | None) -> list[str]:
    """The widths of the ports: those of several by name, as they came out."""
    if names is None or not plan.design.several:
        return ["[ports]", f"input = {plan.schedule.input_parallel}", f"output = {plan.schedule.output_parallel}"]
    lines: list[str] = ["[ports]", "merged = true"] * plan.schedule.merged
    for table, own, ports in zip(("input", "output"), names, (plan.design.inputs, plan.design.outputs), strict=True):
        widths = [f"{json.dumps(name, ensure_ascii=False)} = {port.parallel}" for name, port in zip(own, ports, strict=True)]
        lines += [*[""] * bool(lines), f"[ports.{table}]", *widths]
    return lines


def counts(resources: Resources) -> str:
    """``12 LUT, 3 FF, 0 DSP, 0 BRAM18, 0 URAM``"""
    return ", ".join(f"{getattr(resources, field)} {NAMES[field]}" for field in FIELDS)
