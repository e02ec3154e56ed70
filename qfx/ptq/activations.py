"""The layers of a quantized model and what they are given: activations of the model and its float reference, layer by layer, in bounded memory."""

from __future__ import annotations

import contextlib
import difflib
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, fx, nn

from qfx.errors import DataError, QfxError, UnsupportedError
from qfx.nn.layers import QFoldedBatchNorm, Weighted
from qfx.nn.qtensor import QTensor
from qfx.progress import Progress as Progress

Env = dict[str, Any]
"""The values that are still to be read, by the name of the node that gave them: the input batch, or QTensors."""

_TENSORS = ("value", "scale", "shift", "addend")


@dataclass(frozen=True)
class LayerCall:
    """A layer with weights where the network calls it: its dotted path, the layer, and the node of the graph."""

    path: str
    layer: Weighted
    node: fx.Node


def batches(data: Tensor | Iterable[Tensor], size: int = 64) -> list[Tensor]:
    """``stream`` as a list."""
    return list(stream(data, size))


def stream(data: Tensor | Iterable[Tensor], size: int = 64) -> Iterator[Tensor]:
    """Calibration data batch by batch: a tensor is cut into pieces of ``size``, an iterable is taken as it is, one batch at a time.

    Raises DataError, as soon as it is met, for something else than tensors, for NaN or infinity, and if there is nothing in it.
    """
    none = True
    if isinstance(data, Tensor):
        parts: Iterable[Tensor] = torch.split(data, size) if data.dim() else ()
    elif isinstance(data, Iterable):
        parts = data
    else:
        raise DataError(f"got a {type(data).__name__}", where="calibration", remedy="give a tensor of real inputs, or an iterable of batches")
    for number, part in enumerate(parts):
        if not isinstance(part, Tensor) or part.dim() < 2:
            got = f"a tensor of {part.dim()} axes" if isinstance(part, Tensor) else f"a {type(part).__name__}"
            raise DataError(f"batch {number} is {got}", where="calibration", remedy="give batches of inputs alone, the batch axis first, no labels")
        if not bool(torch.isfinite(part).all()):
            raise DataError(f"batch {number} holds NaN or infinity", where="calibration", remedy="clean the data")
        if len(part):
            none = False
            yield part
    if none:
        raise DataError("no calibration data", where="calibration", remedy="give a tensor of real inputs, batch first, or an iterable of batches")


def layer_calls(qmodel: fx.GraphModule, layers: Iterable[str] | None = None) -> list[LayerCall]:
    """Every layer with weights, or those at the given paths, in the order of the network.

    Raises UnsupportedError for a layer whose BatchNorm is folded on the fly, and for one that is called more than once; QfxError for a path that is
    none of such a layer.
    """
    wanted = None if layers is None else set(layers)
    found: dict[str, LayerCall] = {}
    known = []
    for node in qmodel.graph.nodes:
        layer = qmodel.get_submodule(str(node.target)) if node.op == "call_module" else None
        if not isinstance(layer, Weighted):
            continue
        path = str(node.target)
        known.append(path)
        if wanted is not None and path not in wanted:
            continue
        if len(node.args) > 1 and isinstance(qmodel.get_submodule(str(node.args[1].target)), QFoldedBatchNorm):
            raise UnsupportedError(
                "its BatchNorm is folded on the fly", where=path, remedy="call qfx.ptq.fold_batch_norm on the float model before qfx.quantize"
            )
        if path in found:
            raise UnsupportedError("is called more than once", where=path, remedy="give each call a module of its own, or leave the layer out")
        found[path] = LayerCall(path, layer, node)
    for path in sorted((wanted or set()) - set(found)):
        near = difflib.get_close_matches(path, known, 1)
        raise QfxError(
            "is no layer with weights of the model", where=path, remedy=f"did you mean {near[0]}?" if near else "see model.named_modules()"
        )
    return list(found.values())


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In this context the model is in evaluation mode; afterwards every module of it is in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


class ActivationCache:
    """The activations of several models of one graph (a quantized model and its float reference) at one place of it, which moves on.

    Use it as a context. What is alive at that place is kept per batch and model: in memory up to ``memory_bytes``, the rest in a temporary folder
    that goes when the context ends. ``data``: batches, each taken once and not kept. Nothing is differentiated. ``position`` counts the nodes that
    have run; the input's cast always has.
    """

    nodes: list[list[Any]]
    position: int
    batches: int

    def __init__(self, models: tuple[fx.GraphModule, ...], data: Iterable[Tensor], *, memory_bytes: int = 1 << 29) -> None:
        self.models = models
        self.nodes = [list(model.graph.nodes) for model in models]
        self._order = {node.name: index for index, node in enumerate(self.nodes[0])}
        self._dying: dict[int, list[str]] = {}
        for node in self.nodes[0]:
            if node.users:
                self._dying.setdefault(max(self._order[user.name] for user in node.users), []).append(node.name)
        self._budget, self._bytes = memory_bytes, 0
        self._folder: Path | None = None
        self._held: list[list[Env]] = [[] for _ in models]
        start = next(index for index, node in enumerate(self.nodes[0]) if node.op == "placeholder")
        self.position = start + 2  # behind the layer that casts the input, so that no batch need be kept as it came
        try:
            for index, batch in enumerate(data):
                for which, held in enumerate(self._held):
                    held.append({})
                    self._store(which, index, self._run(which, {self.nodes[0][start].name: batch}, start, self.position))
        except BaseException:
            self.close()
            raise
        self.batches = len(self._held[0])

    def __enter__(self) -> ActivationCache:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Drop what is held, and the temporary folder."""
        self._held = [[] for _ in self.models]
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def advance_to(self, node: fx.Node) -> None:
        """Carry every batch on until ``node`` is the next to run; nothing if it has run already."""
        self._carry(self._order[node.name])

    def advance_past(self, node: fx.Node) -> None:
        """Carry every batch on until ``node`` has run."""
        self._carry(self._order[node.name] + 1)

    def _carry(self, stop: int) -> None:
        if stop <= self.position:
            return
        for which in range(len(self.models)):
            for index in range(self.batches):
                self._store(which, index, self._run(which, self._taken(which, index), self.position, stop))
        self.position = stop

    def inputs(self, node: fx.Node, index: int) -> list[QTensor]:
        """What ``node``, the next to run, reads first in batch ``index``: one value per model."""
        source = node.args[0]
        assert isinstance(source, fx.Node)
        return [self.value(source.name, index, which) for which in range(len(self.models))]

    def value(self, name: str, index: int, which: int = 0) -> Any:
        """The value of the node called ``name``, which is alive, in batch ``index`` of model ``which``."""
        return _restored(self._held[which][index][name])

    def alive(self, which: int, index: int) -> Env:
        """All values of batch ``index`` in model ``which`` that are still to be read."""
        return {name: _restored(value) for name, value in self._held[which][index].items()}

    def _run(self, which: int, env: Env, first: int, stop: int) -> Env:
        with torch.no_grad():
            for position in range(first, stop):
                run_node(self.models[which], self.nodes[which][position], env)
                for name in self._dying.get(position, ()):
                    env.pop(name, None)
        return env

    def _taken(self, which: int, index: int) -> Env:
        env, self._held[which][index] = self._held[which][index], {}
        result = {}
        for name, value in env.items():
            result[name] = _restored(value)
            if isinstance(value, _Spilled):
                value.path.unlink(missing_ok=True)
            else:
                self._bytes -= _size(value)
        return result

    def _store(self, which: int, index: int, env: Env) -> None:
        kept: Env = {}
        for name, value in env.items():
            size = _size(value)
            if size and self._bytes + size > self._budget:
                kept[name] = self._spilled(value, f"{which}_{index}_{self._order[name]}.pt")
            else:
                self._bytes += size
                kept[name] = value
        self._held[which][index] = kept

    def _spilled(self, value: QTensor | Tensor, name: str) -> _Spilled:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="qfx_ptq_"))
        path = self._folder / name
        torch.save({key: tensor.clone() for key, tensor in _tensors(value).items()}, path)  # a clone, since of a view all of its base would be saved
        rest = replace(value, value=torch.empty(0), scale=None, shift=None, addend=None) if isinstance(value, QTensor) else None
        return _Spilled(path, rest)


@dataclass(frozen=True)
class _Spilled:
    """A value whose tensors lie in a file; ``rest`` is the remainder of a QTensor, None for a plain Tensor."""

    path: Path
    rest: QTensor | None


def _tensors(value: object) -> dict[str, Tensor]:
    """Those that may go to a file; none of what a BatchNorm hands to the layer before it."""
    if isinstance(value, Tensor):
        return {"value": value}
    if not isinstance(value, QTensor):
        return {}
    return {name: tensor for name in _TENSORS if (tensor := getattr(value, name)) is not None}


def _size(value: object) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(value).values())


def _restored(value: Any) -> Any:
    if not isinstance(value, _Spilled):
        return value
    tensors = torch.load(value.path, weights_only=True)
    return tensors["value"] if value.rest is None else replace(value.rest, **tensors)


def run_node(model: fx.GraphModule, node: fx.Node, env: Env) -> None:
    """Run one node of a quantized model's graph on the values in ``env``, and put its result there."""
    if node.op in ("placeholder", "output"):
        return
    args: tuple[Any, ...] = fx.map_arg(node.args, lambda source: env[source.name])
    if node.op == "call_module":
        env[node.name] = model.get_submodule(str(node.target))(*args)
    else:
        env[node.name] = getattr(args[0], str(node.target))(*args[1:])
