"""The processes of a design as C++ text, in the order in which they are called. Each says itself what it is in C++ (``spelling.py``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from qfx.hardware.design import design as d
from qfx.hardware.design import loading
from qfx.hardware.emit.spelling import Unit
from qfx.hardware.emit.spelling import queue as queue  # what the templates of a project are given
from qfx.hardware.emit.spelling import raw as raw
from qfx.hardware.emit.spelling import stream as stream


def units(design: d.Design, ports: tuple[str, str]) -> list[Unit]:
    """All processes as text, in the order in which they are called; ``ports`` are the names of the top function's streams."""
    made = [_for_frames(unit(process, ports), design.rounds(process)) for process in design.processes]
    loader = design.loader
    if loader is None:
        return made
    by_process = {load.process: load for load in loader.loads}
    loading_ = [_with_load(unit_, by_process[unit_.name], loader.port.slot) if unit_.name in by_process else unit_ for unit_ in made]
    return [_loader(loader, loading.counts(design)), *loading_]


def _for_frames(unit_: Unit, count: int) -> Unit:
    """The process for so many frames of a call. Its loops are then nested in that over frames: a nest stays one, and begins again as it did."""
    if count == 1:
        return unit_
    inner = (line if line.startswith("#") else f"  {line}" for line in unit_.body)
    body = (f"{unit_.name}_frames:", f"for (int frame = 0; frame < {count}; frame++) {{", *inner, "}")
    return replace(unit_, body=body)


def functions(units: Sequence[Unit]) -> list[Unit]:
    """The units and those inside them, each before the one that calls it."""
    return [function for unit_ in units for function in (*functions(unit_.inner), unit_)]


def flags_stream() -> str:
    return "hls::stream<qfx::uint<1> >"


def words_stream(slot: int) -> str:
    return f"hls::stream<qfx::uint<{slot}> >"


def _loader(loader: d.Loader, counts: tuple[int, ...]) -> Unit:
    """The process that reads the port of the constants."""
    slot = loader.port.slot
    streams = [(load.flags, flags_stream()) for load in loader.loads] + [(load.words, words_stream(slot)) for load in loader.loads]
    parameters = (f"hls::stream<qfx::axi_word<{slot}> >& port", "const bool load", *(f"{type_}& {name}" for name, type_ in streams))
    flags = [f"{load.flags}.write(qfx::uint<1>(load));" for load in loader.loads]
    passes = [f"  qfx::hand_on<{count}, {slot}>(port, {load.words});" for load, count in zip(loader.loads, counts, strict=True)]
    body = (*flags, "if (load) {", *passes, "}")
    return Unit(loader.name, (), "", parameters, ("weights", "load", *(name for name, _ in streams)), (), body)


def _with_load(unit_: Unit, load: d.Load, slot: int) -> Unit:
    """The process with its constants loaded before a frame, if they come: those of the functions that it calls too, before it calls them."""
    parameters = (*unit_.parameters, f"{flags_stream()}& flags", f"{words_stream(slot)}& words")
    loads = [f"  qfx::load(words, {constant.name});" for part in functions([unit_]) for constant in part.constants if constant.loaded]
    body = ("if (flags.read() != 0) {", *loads, "}", *unit_.body)
    return replace(unit_, parameters=parameters, arguments=(*unit_.arguments, load.flags, load.words), body=body)


def unit(process: d.Process, ports: tuple[str, str]) -> Unit:
    """The process as text, as if all of its constants were there; ``ports`` are the names of the top function's streams."""
    return process.unit(ports)
