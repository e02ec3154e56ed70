"""hls4ml projects of qfx's models: written and compiled by hls4ml, compared with the interpreter, and only then put in their place."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from qfx.errors import ProjectError
from qfx.hardware.board import Board
from qfx.hardware.peers.layers import Made, layers_of
from qfx.ir.graph import Graph
from qfx.ir.interpret import quantize_input, run_raw, values
from qfx.ir.values import RawArray
from qfx.verify import Comparison, compare

_UNSET = "ap_fixed<99,57>"
"""The type of what nobody set: none may be left."""


REPORT = "qfx_peer.json"
"""What qfx says of a project, in its folder: by it a folder that may be replaced is known."""


def check_target(folder: Path, *, force: bool = False) -> None:
    """Raise ProjectError if ``write`` would refuse the folder."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ProjectError("is not a folder", where=str(folder), remedy="choose another name")
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / REPORT).is_file():
            raise ProjectError("the folder is not empty, and qfx did not write it for hls4ml", where=str(folder), remedy="choose another name")
        if not force:
            raise ProjectError("the folder holds a project", where=str(folder), remedy="choose another name, or pass --force")


def write(graph: Graph, folder: Path, *, board: Board, clock_ns: float, name: str, x: Any, force: bool = False) -> Comparison:
    """Write, compile and compare an hls4ml project on the inputs ``x``, and put it into ``folder`` if nothing differs: whole, or not at all.

    Raises what ``build`` raises, and ProjectError for a folder that may not be replaced.
    """
    check_target(folder, force=force)
    place = folder.resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}.") as around:
        staged = Path(around) / "project"
        peer = build(graph, staged, part=board.part, clock_ns=clock_ns, name=name)
        row = compare(graph, run_raw(graph, x), peer.run_raw(x), "hls4ml")
        if row.first is not None:
            return row
        config = staged / "hls4ml_config.yml"
        config.write_text(config.read_text(encoding="utf-8").replace(str(staged), os.fspath(folder)), encoding="utf-8")
        told = {"format": "hls4ml", "model": graph.name, "board": board.name, "clock_ns": clock_ns, "samples": len(x), "layers": peer.types()}
        (staged / REPORT).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        old = Path(around) / "old"
        if place.exists():
            os.replace(place, old)
        try:
            os.replace(staged, place)
        except OSError:
            if old.exists():
                os.replace(old, place)
            raise
        shutil.rmtree(old, ignore_errors=True)
    return row


class Peer:
    """A compiled project in ``folder``. ``run_raw``: the raws of the output for float inputs, as the interpreter gives them."""

    graph: Graph
    folder: Path

    def __init__(self, graph: Graph, made: Made, model: Any, folder: Path) -> None:
        self.graph, self.folder = graph, folder
        self._made, self._model = made, model

    def types(self) -> dict[str, dict[str, str]]:
        """By the layers' names in qfx: what hls4ml calls the layer, and its types by hls4ml's words for them."""
        return {
            node: {"name": self._made.names[node], **{role: str(type_) for role, type_ in layer.types.items()}}
            for node, layer in self._made.layers.items()
        }

    def run_raw(self, x: Any) -> RawArray:
        """The input goes in on its grid, rounded by qfx: hls4ml itself would cut off what lies below its type."""
        graph = self.graph
        raw = quantize_input(graph, x)
        exact = np.asarray(values(raw, graph.infos[graph.input.name]), dtype=np.float64).reshape(len(raw), -1)
        given = np.ascontiguousarray(exact[:, self._made.layers[graph.input.name].order])
        found = np.asarray(self._model.predict(given)).reshape(len(raw), -1)
        info = graph.infos[graph.output]
        scaled = np.ldexp(found, info.type.frac_bits)
        result = np.empty(found.shape, dtype=np.int64)
        result[:, self._made.layers[graph.output].order] = scaled.astype(np.int64)
        return result.reshape(-1, *info.shape)


def build(graph: Graph, folder: Path, *, part: str, clock_ns: float, name: str = "qfx") -> Peer:
    """Write an hls4ml project (backend Vitis, io_parallel) into ``folder``, and compile it.

    Raises UnsupportedError naming the layer that hls4ml cannot express exactly, ProjectError where hls4ml is not installed, does not compile, or
    left a type to itself.
    """
    made = layers_of(graph)
    model = _model(made, folder, part, clock_ns, name)
    with _quiet() as said:
        try:
            model.compile()
        except Exception as error:  # hls4ml raises Exception itself
            raise ProjectError(f"hls4ml does not compile it: {error}\n{said()[-2000:]}", where=str(folder), remedy="please report it") from error
    _check_types(folder)
    return Peer(graph, made, model, folder)


def _model(made: Made, folder: Path, part: str, clock_ns: float, name: str) -> Any:
    with _quiet():
        try:
            hls4ml = import_module("hls4ml")
            graphs, types = import_module("hls4ml.model.graph"), import_module("hls4ml.backends.fpga.fpga_types")
        except ImportError as error:
            raise ProjectError(f"hls4ml is not installed ({error})", where="--backend hls4ml", remedy="pip install hls4ml") from error
        config = hls4ml.utils.config.create_config(
            output_dir=os.fspath(folder),
            project_name=name,
            backend="Vitis",
            part=part,
            clock_period=clock_ns,
            io_type="io_parallel",
            write_weights_txt=False,
        )
        given = {made.names[node]: {role: str(type_) for role, type_ in layer.types.items()} for node, layer in made.layers.items()}
        sizes = {made.names[node]: layer.table_size for node, layer in made.layers.items()}
        config["HLSConfig"] = {
            "Model": {"Precision": {"default": _UNSET}, "ReuseFactor": 1, "Strategy": "Latency"},
            "LayerName": {
                layer: {"Precision": {**precisions, "default": _UNSET}, "ReuseFactor": 1, **({"TableSize": sizes[layer]} if sizes[layer] else {})}
                for layer, precisions in given.items()
            },
        }
        layers = [dict(layer.settings) for layer in made.layers.values()]
        first, last = layers[0]["name"], layers[-1]["name"]
        model = graphs.ModelGraph.from_layer_list(config, layers, [first], [last])
        for name, layer in ((made.names[node], layer) for node, layer in made.layers.items() if layer.table_size is not None):
            # hls4ml takes the type of a table from no configuration, and has made C++ types of all by now
            precision = model.config.backend.convert_precision_string(str(layer.types["table"]))
            model.graph[name].get_attr("table_t").precision = types.APTypeConverter().convert(precision)
        return model


def _check_types(folder: Path) -> None:
    for path in (folder / "firmware").glob("*.h"):
        if _UNSET.replace(" ", "") in path.read_text(encoding="utf-8").replace(" ", ""):
            raise ProjectError("hls4ml chose a type itself", where=str(path), remedy="use hls4ml 1.3, or report it")


@contextlib.contextmanager
def _quiet() -> Iterator[Any]:
    """hls4ml prints, and so does the compiler that it calls; ``said()`` is what they did."""
    with warnings.catch_warnings(), tempfile.TemporaryFile() as file:
        warnings.simplefilter("ignore")
        kept = [os.dup(number) for number in (1, 2)]
        for number in (1, 2):
            os.dup2(file.fileno(), number)

        def said() -> str:
            file.seek(0)
            return file.read().decode("utf-8", "replace")

        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                yield said
        finally:
            for number, old in zip((1, 2), kept, strict=True):
                os.dup2(old, number)
                os.close(old)
