"""Walking through a quantized model and its float twin side by side, layer by layer, with bounded memory."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, fx

from qfx.errors import DataError, UnsupportedError
from qfx.nn.layers import QFoldedBatchNorm, Weighted
from qfx.nn.qtensor import QTensor

Env = dict[str, Any]
"""The values that are still to be read, by the name of the node that gave them: the input batch, or QTensors."""

_TENSORS = ("value", "scale", "shift", "addend")


@dataclass(frozen=True)
class Station:
    """A layer with weights, its dotted path, and the node that calls it."""

    path: str
    layer: Weighted
    node: fx.Node


def batches(data: Tensor | Iterable[Tensor], size: int = 64) -> list[Tensor]:
    """Calibration data as a list of batches: a tensor is cut into pieces of ``size``, an iterable is taken as it is.

    Raises DataError if there is nothing in it, for something else than tensors, and for NaN or infinity.
    """
    parts = list(torch.split(data, size)) if isinstance(data, Tensor) and data.dim() else list(data)
    if not all(isinstance(part, Tensor) and part.dim() for part in parts) or sum(len(part) for part in parts) == 0:
        raise DataError(
            "no calibration data", where="calibration", remedy="give a tensor of real inputs, batch first, or an iterable of such batches"
        )
    for number, part in enumerate(parts):
        if not bool(torch.isfinite(part).all()):
            raise DataError(f"batch {number} holds NaN or infinity", where="calibration", remedy="clean the data")
    return [part for part in parts if len(part)]


def stations(qmodel: fx.GraphModule) -> list[Station]:
    """Every layer with weights, in the order of the network.

    Raises UnsupportedError for a layer whose BatchNorm is folded on the fly, and for one that is called more than once.
    """
    found: list[Station] = []
    for node in qmodel.graph.nodes:
        layer = qmodel.get_submodule(str(node.target)) if node.op == "call_module" else None
        if not isinstance(layer, Weighted):
            continue
        path = str(node.target)
        if len(node.args) > 1 and isinstance(qmodel.get_submodule(str(node.args[1].target)), QFoldedBatchNorm):
            raise UnsupportedError(
                "its BatchNorm is folded on the fly", where=path, remedy="call qfx.ptq.fold_batch_norm on the float model before qfx.quantize"
            )
        if any(station.path == path for station in found):
            raise UnsupportedError("is called more than once", where=path, remedy="give each call a module of its own")
        found.append(Station(path, layer, node))
    return found


class Walk:
    """Moves a frontier through several models of one graph (a quantized model and its twin), batch by batch.

    Use it as a context. What is alive at the frontier is kept per batch and model: in memory up to ``memory_bytes``, the rest in a temporary folder
    that goes when the context ends. Nothing is differentiated.
    """

    def __init__(self, models: tuple[fx.GraphModule, ...], data: list[Tensor], *, memory_bytes: int = 1 << 29) -> None:
        self.models = models
        self._nodes = [list(model.graph.nodes) for model in models]
        self._order = {node.name: index for index, node in enumerate(self._nodes[0])}
        self._dying: dict[int, list[str]] = {}
        for node in self._nodes[0]:
            if node.users:
                self._dying.setdefault(max(self._order[user.name] for user in node.users), []).append(node.name)
        self._position = 0
        self._budget, self._bytes = memory_bytes, 0
        self._folder: Path | None = None
        start = next(node.name for node in self._nodes[0] if node.op == "placeholder")
        self._held: list[list[Env]] = [[{start: batch} for batch in data] for _ in models]
        self.batches = len(data)

    def __enter__(self) -> Walk:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def to(self, node: fx.Node) -> None:
        """Carry every batch on until ``node`` is the next to run."""
        stop = self._order[node.name]
        if stop <= self._position:
            return
        self._bytes = 0
        for which in range(len(self.models)):
            for index in range(self.batches):
                env = self._load(which, index)
                with torch.no_grad():
                    for position in range(self._position, stop):
                        run_node(self.models[which], self._nodes[which][position], env)
                        for name in self._dying.get(position, ()):
                            env.pop(name, None)
                self._store(which, index, env)
        self._position = stop

    def inputs(self, node: fx.Node, index: int) -> list[QTensor]:
        """What ``node``, the next to run, reads first in batch ``index``: one value per model."""
        source = node.args[0]
        assert isinstance(source, fx.Node)
        return [self._load(which, index)[source.name] for which in range(len(self.models))]

    def alive(self, which: int, index: int) -> Env:
        """All values of batch ``index`` in model ``which`` that are still to be read."""
        return self._load(which, index)

    def _load(self, which: int, index: int) -> Env:
        return {name: _restored(value) for name, value in self._held[which][index].items()}

    def _store(self, which: int, index: int, env: Env) -> None:
        for value in self._held[which][index].values():
            if isinstance(value, _Spilled):
                value.path.unlink(missing_ok=True)
        kept: Env = {}
        for name, value in env.items():
            size = sum(tensor.numel() * tensor.element_size() for tensor in _tensors(value).values())
            if self._bytes + size > self._budget and isinstance(value, QTensor):
                kept[name] = self._spilled(value, f"{which}_{index}_{self._order[name]}.pt")
            else:
                self._bytes += size
                kept[name] = value
        self._held[which][index] = kept

    def _spilled(self, value: QTensor, name: str) -> _Spilled:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="qfx_ptq_"))
        path = self._folder / name
        torch.save(_tensors(value), path)
        return _Spilled(path, replace(value, value=torch.empty(0), scale=None, shift=None, addend=None))


@dataclass(frozen=True)
class _Spilled:
    """A QTensor whose tensors lie in a file; ``rest`` is the remainder of it."""

    path: Path
    rest: QTensor


def _tensors(value: object) -> dict[str, Tensor]:
    if isinstance(value, Tensor):
        return {"value": value}
    if isinstance(value, QTensor):
        return {name: tensor for name in _TENSORS if (tensor := getattr(value, name)) is not None}
    return {}


def _restored(value: object) -> object:
    if isinstance(value, _Spilled):
        return replace(value.rest, **torch.load(value.path, weights_only=True))
    return value


def run_node(model: fx.GraphModule, node: fx.Node, env: Env) -> None:
    """Run one node of a quantized model's graph on the values in ``env``, and put its result there."""
    if node.op in ("placeholder", "output"):
        return
    args: tuple[Any, ...] = fx.map_arg(node.args, lambda source: env[source.name])
    if node.op == "call_module":
        env[node.name] = model.get_submodule(str(node.target))(*args)
    else:
        env[node.name] = getattr(args[0], str(node.target))(*args[1:])
