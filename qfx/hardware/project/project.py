"""HLS projects on disk: written as a whole or not at all, and never over anything that is not ours."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from qfx import __version__
from qfx.errors import ProjectError
from qfx.files import schema_name
from qfx.fixed.type import FixedType
from qfx.hardware.assets import read_tree, vendor_headers
from qfx.hardware.board import Board, check_clock
from qfx.hardware.board import board as find_board
from qfx.hardware.design import loading
from qfx.hardware.design.design import Design
from qfx.hardware.design.names import checked_top, top_name
from qfx.hardware.design.schedule import Request, Schedule
from qfx.hardware.emit.driver import golden_files
from qfx.hardware.emit.emit import emit
from qfx.hardware.emit.emulate import EXECUTABLES
from qfx.hardware.folding import file as folding_file
from qfx.hardware.folding import search as fold
from qfx.hardware.folding import summary
from qfx.hardware.folding.search import Plan
from qfx.hardware.project import folder
from qfx.hardware.sequential import emit as sequential_emit
from qfx.hardware.sequential import summary as sequential_summary
from qfx.hardware.sequential.plan import Plan as Sequential
from qfx.hardware.sequential.plan import plan as sequential_plan
from qfx.hardware.unrolled import emit as unrolled_emit
from qfx.hardware.unrolled import summary as unrolled_summary
from qfx.hardware.unrolled.plan import Plan as Unrolled
from qfx.hardware.unrolled.plan import plan as unrolled_plan
from qfx.ir.feeds import Feed, Feeds, feeds, samples
from qfx.ir.graph import Graph, Node
from qfx.ir.interpret import quantize_inputs, run_from_raws
from qfx.ir.passes.loadable import Types, loadable_types, make_constant, make_loadable
from qfx.ir.passes.pipeline import optimize
from qfx.ir.values import ArrayType, RawArray
from qfx.operators import Input, macs
from qfx.schemas import schemas
from qfx.testing import adversarial_feeds

MANIFEST = "qfx_project.json"
WEIGHTS = ("rom", "stream", "ddr", "auto")
"""Where the weights are: in ROM, or loaded through a port of their own while the hardware runs, or, as far as the schedule says so, in the board's
memory."""
STYLES = ("streaming", "unrolled", "sequential")
"""A process for each layer, joined by streams, or the whole network one pipelined function, or one layer engine that runs layer by layer."""
WEIGHTS_FILE = "tb/weights.bin"
"""The words for that port."""
MEMORY_FOLDER = "tb/memory"
"""What lies in the board's memory, a file for each master."""
FORMAT = 1

_BUILT = tuple(f"build/{name}" for name in EXECUTABLES)
_GOLDEN_SAMPLES = 8
_GOLDEN_MACS = 200_000_000  # a few seconds of C simulation


@dataclass(frozen=True, slots=True)
class Entry:
    """An input: its shape without the batch, and the cast that makes raws of its floats."""

    shape: tuple[int, ...]
    cast: ArrayType


@dataclass(frozen=True, slots=True)
class Exit:
    """An output: its shape without the batch, and its type."""

    shape: tuple[int, ...]
    type: FixedType


_Port = TypeVar("_Port")


@dataclass(frozen=True, slots=True)
class Project:
    """A project folder, as its manifest tells it. ``inputs`` and ``outputs`` are those of the model by name, in its order; ``style`` is one of
    STYLES, ``weights`` one of WEIGHTS, and ``loadable`` are the types of the constants that can be loaded."""

    path: Path
    model: str
    board: str
    clock_ns: float
    top: str
    style: str
    weights: str
    loadable: Mapping[str, Types]
    inputs: Mapping[str, Entry]
    outputs: Mapping[str, Exit]
    files: Mapping[str, str]
    """SHA-256 of every file by its path in the folder."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of the only input, as ``input_cast``. ProjectError where there are several."""
        return _only(self.inputs, self).shape

    @property
    def input_cast(self) -> ArrayType:
        return _only(self.inputs, self).cast

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of the only output, as ``output_type``. ProjectError where there are several."""
        return _only(self.outputs, self).shape

    @property
    def output_type(self) -> FixedType:
        return _only(self.outputs, self).type


def _only(ports: Mapping[str, _Port], project: Project) -> _Port:
    if len(ports) != 1:
        raise ProjectError(f"has {len(ports)} ports: {', '.join(ports)}", where=project.top, remedy="this takes one input and one output")
    return next(iter(ports.values()))


def write_project(
    graph: Graph,
    out_dir: str | os.PathLike[str],
    *,
    board: str | Board,
    clock_ns: float | None = None,
    top: str | None = None,
    schedule: Schedule | Request | Plan | Unrolled | Sequential | None = None,
    weights: str = "rom",
    force: bool = False,
    golden_inputs: Feed | None = None,
    style: str = "streaming",
    extra_files: Mapping[str, bytes] | None = None,
) -> Project:
    """Write the HLS project of ``graph``, after ``prepare``, for ``board`` (a name, the path of a TOML file, or a Board) into ``out_dir``.

    ``clock_ns`` is the clock period in nanoseconds (default: the board's); ``top`` names the top function (default: from the graph's name);
    ``schedule`` folds the layers and names nodes of the prepared graph (default: one number at a time), or says what is asked of the folding, or is a
    plan made of the prepared graph. ``weights`` is one of WEIGHTS: "stream" makes a design whose weights, biases, scales and shifts are loaded while
    it runs; "ddr" and "auto" leave weights in the board's memory (``Request.memory``), unless ``schedule`` is settled already and says where they
    lie. ``style`` is one of STYLES: "unrolled" makes one pipelined function of the whole network, "sequential" one layer engine that runs it from
    memory; neither has a folding, and ``schedule`` may then be its plan.
    ``golden_inputs``, floats of shape (N, *input shape; several as ``qfx.run`` takes them), are the samples of the test bench (default: a few
    adversarial ones); the interpreter gives the expected raws. ``extra_files`` are added as they are.

    The folder appears complete or not at all. It must be absent or empty; ``force`` also replaces a qfx project, but keeps every file in it that qfx
    did not write. Raises ProjectError otherwise, or if the design does not fit the board, and DataError for golden inputs that the model does not
    take.
    """
    target = folder.followed(out_dir)
    old = _replaceable(target, force)
    found = find_board(board) if isinstance(board, str) else board
    name = top_name(graph.name) if top is None else top
    if style not in STYLES:
        raise ProjectError(f"style: {style!r}", where=graph.name, remedy=f"use one of {', '.join(STYLES)}")
    graph = prepare(graph, weights)
    checked_top(name)
    clock_ns = found.clock_ns if clock_ns is None else clock_ns
    check_clock(clock_ns, found)
    if weights in ("ddr", "auto") and style == "streaming" and (schedule is None or isinstance(schedule, Request)):
        schedule = replace(schedule or Request(), memory=weights)
    made: Plan | Unrolled | Sequential
    if style == "sequential":
        made = _sequential(graph, found, schedule, weights, clock_ns)
        uncertainty = f"{100 * made.clock.uncertainty(clock_ns):g}%"
        files = sequential_emit.files(graph, made.engine, found, clock_ns=clock_ns, top=name, uncertainty=uncertainty)
        files["estimate.txt"] = sequential_summary.as_text(made, graph.name).encode("utf-8")
        files["report.json"] = sequential_summary.as_json(made, graph.name).encode("utf-8")
        golden = _golden(graph, golden_inputs)
        files |= {f"sim/ap_types/{path}": text.encode("utf-8") for path, text in read_tree(vendor_headers(), "**/*.h").items()}
        files |= {
            f"tb/golden_{side}.txt": _lines(np.concatenate([raw.reshape(len(raw), -1) for raw in raws], axis=1)).encode("utf-8")
            for side, raws in _sides(golden)
        }
        names = tuple(f"in_{i}" for i in range(len(graph.inputs))), tuple(f"out_{i}" for i in range(len(graph.outputs)))
        arrays = tuple(golden[0].values()), tuple(golden[1].values()), golden[2]
        files |= golden_files(names, len(graph.inputs) + len(graph.outputs) > 2, *arrays)
        return _written(graph, target, files, extra_files, old, (found, clock_ns, name, "rom", style))
    if style == "unrolled":
        made = _unrolled(graph, found, schedule, weights, clock_ns)
        sources = unrolled_emit.sources(made.program, made.design, name, made.interval)
        texts = emit(graph, Schedule(), found, clock_ns=clock_ns, top=name, design=made.design, sources=sources)
        texts["estimate.txt"] = unrolled_summary.as_text(made, graph.name)
        texts["report.json"] = unrolled_summary.as_json(made, graph.name)
    else:
        made = _planned(graph, found, schedule, clock_ns)
        texts = emit(graph, made.schedule, found, clock_ns=clock_ns, top=name, design=made.design)
        texts["folding.toml"] = folding_file.text(made, graph.name, ([node.name for node in graph.inputs], graph.output_names))
        texts[schema_name("folding")] = schemas.text("folding")
        texts["estimate.txt"] = summary.as_text(made, graph.name)
        texts["report.json"] = summary.as_json(made, graph.name)
    texts.update({f"sim/ap_types/{path}": text for path, text in read_tree(vendor_headers(), "**/*.h").items()})
    golden = _golden(make_constant(graph), golden_inputs)
    made_of = {path: held if isinstance(held, bytes) else held.encode("utf-8") for path, held in texts.items()}
    files = made_of | _golden_files(made.design, *golden)
    if made.design.loader is not None:
        files |= dict.fromkeys((WEIGHTS_FILE, f"driver/{Path(WEIGHTS_FILE).name}"), loading.words(made.design))
    for master in made.design.weights_in_memory:
        files[f"{MEMORY_FOLDER}/{master.port}.bin"] = master.contents
    return _written(graph, target, files, extra_files, old, (found, clock_ns, name, weights, style))


def _written(
    graph: Graph,
    target: Path,
    files: dict[str, bytes],
    extra_files: Mapping[str, bytes] | None,
    old: Project | None,
    about: tuple[Board, float, str, str, str],
) -> Project:
    """The files with a manifest in place of the project ``old``. ``about``: board, clock period, top, weights and style."""
    for path, data in (extra_files or {}).items():
        if path in files or path == MANIFEST or Path(path).is_absolute() or ".." in Path(path).parts:
            raise ProjectError(f"the extra file {path!r} cannot be added", where=str(target), remedy="give a new relative path inside the project")
        files[path] = data
    manifest = _manifest(graph, *about, files)
    files[MANIFEST] = (json.dumps(manifest, indent=2) + "\n").encode("utf-8")
    ours = None if old is None else {*old.files, MANIFEST, *_BUILT}
    folder.replace(target, files, None if ours is None else ours.__contains__)
    return read_project(target)


def prepare(graph: Graph, weights: str = "rom", types: Mapping[str, Types] | None = None) -> Graph:
    """The graph that a project is made of: optimized, its constants loadable if ``weights`` is "stream". A graph that is prepared stays as it is.

    ``types``: as in ``make_loadable``. Raises ProjectError unless ``weights`` is one of WEIGHTS, and if nothing could be loaded.
    """
    if weights not in WEIGHTS:
        raise ProjectError(f"weights: {weights!r}", where=graph.name, remedy=f"use one of {', '.join(WEIGHTS)}")
    graph = optimize(make_loadable(graph, types) if weights == "stream" else graph)
    if weights == "stream" and not loadable_types(graph):
        raise ProjectError("has no constants that could be loaded", where=graph.name, remedy="leave the weights in ROM")
    return graph


def check_target(out_dir: str | os.PathLike[str], *, force: bool = False) -> None:
    """Raises ProjectError if ``write_project`` would refuse the folder."""
    _replaceable(folder.followed(out_dir), force)


def _planned(graph: Graph, board: Board, schedule: Schedule | Request | Plan | Unrolled | Sequential | None, clock_ns: float) -> Plan:
    if isinstance(schedule, Unrolled | Sequential):
        raise ProjectError("a plan of another style", where=graph.name, remedy="say which with style")
    if isinstance(schedule, Plan):
        return schedule
    if isinstance(schedule, Request):
        return fold.resolve(graph, board, schedule, clock_ns=clock_ns)
    return fold.fitting_plan(graph, board, schedule or Schedule(), clock_ns=clock_ns)


def _unrolled(
    graph: Graph, board: Board, schedule: Schedule | Request | Plan | Unrolled | Sequential | None, weights: str, clock_ns: float
) -> Unrolled:
    """The prepared graph as one pipelined function. Raises ProjectError for what only a folded design has."""
    if isinstance(schedule, Unrolled):
        return schedule
    if weights != "rom":
        what, remedy = "an unrolled design has its weights in its adders", "leave the weights in ROM, or use the streaming style"
        raise ProjectError(f"{what}; none can be loaded", where=graph.name, remedy=remedy)
    if isinstance(schedule, Sequential) or schedule not in (None, Schedule(), Request()):
        raise ProjectError("an unrolled design has no folding", where=graph.name, remedy="leave the folding out, or use the streaming style")
    return unrolled_plan(graph, board, clock_ns=clock_ns)


def _sequential(
    graph: Graph, board: Board, schedule: Schedule | Request | Plan | Unrolled | Sequential | None, weights: str, clock_ns: float
) -> Sequential:
    """The prepared graph for a layer engine. Raises ProjectError for what only a folded design has."""
    if isinstance(schedule, Sequential):
        return schedule
    if weights == "stream":
        what, remedy = "a sequential design reads its weights from memory", "leave --weights out, or use the streaming style"
        raise ProjectError(f"{what}; no port loads any", where=graph.name, remedy=remedy)
    if schedule not in (None, Schedule(), Request()):
        raise ProjectError("a sequential design has no folding", where=graph.name, remedy="leave the folding out, or use the streaming style")
    return sequential_plan(graph, board, clock_ns=clock_ns)


def _sides(golden: tuple[Feeds, Mapping[str, RawArray], tuple[RawArray, ...]]) -> tuple[tuple[str, tuple[RawArray, ...]], ...]:
    return ("input", tuple(golden[1].values())), ("output", golden[2])


def read_project(path: str | os.PathLike[str]) -> Project:
    """The project in the folder ``path``. Raises ProjectError if its manifest is missing or cannot be read."""
    path = Path(path)
    try:
        data: dict[str, Any] = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise ProjectError(f"its format is {data['format']}, this qfx reads {FORMAT}", where=str(path), remedy="write the project again")
        return Project(
            path=path,
            model=str(data["model"]),
            board=str(data["board"]),
            clock_ns=float(data["clock_ns"]),
            top=str(data["top"]),
            style=str(data.get("style", "streaming")),
            weights=str(data.get("weights", "rom")),
            loadable={name: (_type(first), _type(second)) for name, (first, second) in data.get("loadable", {}).items()},
            inputs={name: _entry(port) for name, port in (data["inputs"] if "inputs" in data else {"input": data["input"]}).items()},
            outputs={
                name: Exit(tuple(port["shape"]), FixedType.parse(port["type"]))
                for name, port in (data["outputs"] if "outputs" in data else {"output": data["output"]}).items()
            },
            files=dict(data["files"]),
        )
    except FileNotFoundError as error:
        raise ProjectError(f"there is no {MANIFEST}", where=str(path), remedy="name a folder that qfx wrote") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ProjectError(f"{MANIFEST} cannot be read: {error}", where=str(path), remedy="write the project again") from error


def _entry(port: Mapping[str, Any]) -> Entry:
    return Entry(tuple(port["shape"]), ArrayType(FixedType.parse(port["type"]), tuple(port["int_bits"]), tuple(port["int_bits_shape"])))


def changed_files(project: Project) -> list[str]:
    """The files that are not as qfx wrote them, or are gone, by their path in the project, sorted."""
    return [path for path, digest in sorted(project.files.items()) if _sha256(project.path / path) != digest]


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def _golden_files(design: Design, x: Feeds, x_raw: Mapping[str, RawArray], y_raw: tuple[RawArray, ...]) -> dict[str, bytes]:
    """The golden vectors of the test bench and the driver's."""
    names = design.port_names[0] + design.port_names[1] if design.several else ("input", "output")
    texts = {f"tb/golden_{name}.txt": _lines(raw).encode("utf-8") for name, raw in zip(names, (*x_raw.values(), *y_raw), strict=True)}
    return texts | golden_files(design.port_names, design.several, tuple(x.values()), tuple(x_raw.values()), y_raw)


def _golden(graph: Graph, inputs: Feed | None) -> tuple[Feeds, dict[str, RawArray], tuple[RawArray, ...]]:
    """Inputs, the raws of their cast and the raws of the results."""
    if inputs is None:
        work = sum(macs(node.op, graph.infos[node.name]) for node in graph.nodes)
        count = min(max(_GOLDEN_MACS // max(work, 1), 2), _GOLDEN_SAMPLES)
        inputs = adversarial_feeds(graph, np.random.default_rng(0), count)
    given = feeds(graph, inputs)
    if samples(given) == 0:
        raise ProjectError("no golden inputs", where=graph.name, remedy="give at least one sample")
    x_raw = quantize_inputs(graph, given)
    return given, x_raw, run_from_raws(graph, x_raw)


def _lines(raw: RawArray) -> str:
    return "".join(" ".join(map(str, row)) + "\n" for row in raw.reshape(len(raw), -1).tolist())


def _manifest(graph: Graph, board: Board, clock_ns: float, top: str, weights: str, style: str, files: Mapping[str, bytes]) -> dict[str, Any]:
    several = len(graph.inputs) + len(graph.outputs) > 2
    outputs = {
        name: {"shape": list(graph.infos[node].shape), "type": str(graph.infos[node].type)}
        for name, node in zip(graph.output_names, graph.outputs, strict=True)
    }
    inputs = {node.name: _entry_data(graph, node) for node in graph.inputs}
    return {
        "format": FORMAT,
        "qfx": __version__,
        "model": graph.name,
        "board": board.name,
        "part": board.part,
        "clock_ns": clock_ns,
        "top": top,
        **({} if style == "streaming" else {"style": style}),
        **({} if weights == "rom" else {"weights": weights, "loadable": _texts(loadable_types(graph))}),
        **({"inputs": inputs, "outputs": outputs} if several else {"input": inputs[graph.input.name], "output": next(iter(outputs.values()))}),
        "files": {path: hashlib.sha256(data).hexdigest() for path, data in sorted(files.items())},
    }


def _entry_data(graph: Graph, node: Node) -> dict[str, Any]:
    op = node.op
    assert isinstance(op, Input)  # nothing else reads nothing
    return {
        "shape": list(op.shape),
        "type": str(op.cast.element),
        "int_bits": list(op.cast.int_bits),
        "int_bits_shape": list(op.cast.shape),
        "raw_type": str(graph.infos[node.name].type),
    }


def _texts(types: Mapping[str, Types]) -> dict[str, list[str | None]]:
    return {name: [None if type_ is None else str(type_) for type_ in pair] for name, pair in types.items()}


def _type(text: str | None) -> FixedType | None:
    return None if text is None else FixedType.parse(text)


def _replaceable(target: Path, force: bool) -> Project | None:
    """The project that may be replaced, None if there is nothing. Raises ProjectError if the folder must be left alone."""
    if target.is_symlink():
        raise ProjectError("its links go round in a circle", where=str(target), remedy="name another folder")
    if not target.exists():
        return None
    if not target.is_dir():
        raise ProjectError("is not a folder", where=str(target), remedy="name a folder that does not exist yet")
    if not any(target.iterdir()):
        return None
    if not force:
        raise ProjectError("the folder is not empty", where=str(target), remedy="name another folder, or use force to replace a qfx project")
    if not (target / MANIFEST).is_file():
        raise ProjectError("the folder is not a qfx project, so force does not replace it", where=str(target), remedy="name another folder")
    return read_project(target)
