"""``Distillation``: a loss that compares what a model in training gives with what a teacher gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qfx.errors import QfxError
from qfx.nn.model import graph_module, quantizers
from qfx.nn.qtensor import QTensor

Results = Literal["classes", "numbers"]
Transfer = Literal["values", "maps"]


class Distillation:
    """What a model in training gives, beside what ``teacher`` gives: a loss for a plain loop.

    >>> import torch, qfx
    >>> model, x = torch.nn.Linear(4, 3), torch.randn(8, 4)
    >>> qmodel = qfx.quantize(model, x)
    >>> distillation = qfx.Distillation(model)
    >>> loss = distillation(x, qmodel(x))

    ``teacher``: the float model, or a larger one; it is put in evaluation mode for each call, computes without a gradient, and is no part of
    ``qmodel``. ``results``: "classes" - the Kullback-Leibler divergence of the softmax over axis 1, of results divided by ``temperature``, times its
    square (Hinton et al., "Distilling the Knowledge in a Neural Network", 2015); "numbers" - the squared error as a share of the target's variance.
    Several results are compared one by one, and the mean counts.

    ``features`` compares inner results as well, ``feature_share`` times the mean over them: names of layers that the teacher has, too, or a mapping
    from names here to the teacher's. A name here is a quantizer's (``layer1.0.relu.output``) or that of the layer in front of one
    (``layer1.0.relu``); the teacher's is a module's. ``qmodel`` must be given then. ``transfer``: "values" - the squared error as a share of the
    target's variance, shapes being equal; "maps" - the squares summed over the channels, one map a sample, scaled to length 1, and the squared
    distance of the two maps, so that the teacher may have other channels (Zagoruyko and Komodakis, "Paying More Attention to Attention", 2017; the
    structured knowledge transfer of Li et al., "PAMS", 2020, compares such maps). ``close`` ends the watching.

    Gradient: to the results and features of ``qmodel`` as usual, none to the teacher.

    Raises QfxError for names that are not there, shapes that do not go together, and features before ``qmodel`` has run.
    """

    def __init__(
        self,
        teacher: nn.Module,
        qmodel: nn.Module | None = None,
        *,
        results: Results = "classes",
        temperature: float = 4.0,
        features: Iterable[str] | Mapping[str, str] = (),
        feature_share: float = 1.0,
        transfer: Transfer = "values",
    ) -> None:
        if results not in ("classes", "numbers"):
            raise QfxError(f"results is {results!r}", where="Distillation", remedy="use 'classes' or 'numbers'")
        if transfer not in ("values", "maps"):
            raise QfxError(f"transfer is {transfer!r}", where="Distillation", remedy="use 'values' or 'maps'")
        if not temperature > 0:
            raise QfxError(f"temperature is {temperature!r}", where="Distillation", remedy="use a number above 0")
        self.teacher: nn.Module = teacher
        self.results: Results = results
        self.temperature: float = temperature
        self.feature_share: float = feature_share
        self.transfer: Transfer = transfer
        self._pairs: list[tuple[_Watched, _Watched]] = []
        pairs = dict(features) if isinstance(features, Mapping) else {name: name for name in features}
        if pairs and qmodel is None:
            raise QfxError("features need the model in training", where="Distillation", remedy="give it: Distillation(teacher, qmodel, features=...)")
        if qmodel is not None:
            self._pairs = _watched(qmodel, teacher, pairs)

    def __repr__(self) -> str:
        features = f", {len(self._pairs)} features by {self.transfer}" if self._pairs else ""
        return f"Distillation({type(self.teacher).__name__}, {self.results}, temperature={self.temperature:g}{features})"

    def __call__(self, inputs: Any, result: Any) -> Tensor:
        """The loss of ``result``, what the model in training has just given for ``inputs``: a tensor, or a tuple or a dict of arguments."""
        modes = [(module, module.training) for module in self.teacher.modules()]
        try:
            self.teacher.eval()
            for _, watched in self._pairs:
                watched.runs = 0
            with torch.no_grad():
                target = self._asked(inputs)
        finally:
            for module, mode in modes:
                module.training = mode
        for _, watched in self._pairs:
            if watched.runs != 1:
                raise QfxError(f"runs {watched.runs} times in the teacher", where=watched.name, remedy="watch layers that run once")
        ours, theirs = _tensors(result), _tensors(target)
        if [part.shape for part in ours] != [part.shape for part in theirs] or not ours:
            shapes = [[tuple(part.shape) for part in parts] for parts in (ours, theirs)]
            raise QfxError(
                f"results of shape {shapes[0]}, the teacher's have {shapes[1]}", where="Distillation", remedy="give a teacher of the same task"
            )
        compared = self._classes if self.results == "classes" else relative_error
        loss = torch.stack([compared(a, b) for a, b in zip(ours, theirs, strict=True)]).mean()
        if self._pairs:
            inner = relative_error if self.transfer == "values" else map_distance
            loss = loss + self.feature_share * torch.stack([inner(a.taken(), b.taken()) for a, b in self._pairs]).mean()
        return loss

    def close(self) -> None:
        """Watch features no longer."""
        for pair in self._pairs:
            for watched in pair:
                watched.handle.remove()
        self._pairs = []

    def _asked(self, inputs: Any) -> Any:
        if isinstance(inputs, Mapping):
            return self.teacher(**inputs)
        return self.teacher(*inputs) if isinstance(inputs, tuple) else self.teacher(inputs)

    def _classes(self, result: Tensor, target: Tensor) -> Tensor:
        return soft_divergence(result, target, self.temperature)


def soft_divergence(result: Tensor, target: Tensor, temperature: float = 1.0) -> Tensor:
    """The Kullback-Leibler divergence of the softmax over axis 1 from the target's, both softened, times the temperature's square; the mean over
    everything else."""
    ours, theirs = F.log_softmax(result / temperature, 1), F.log_softmax(target.to(result.dtype) / temperature, 1)
    return F.kl_div(ours, theirs, log_target=True, reduction="none").sum(1).mean() * temperature**2


def relative_error(result: Tensor, target: Tensor) -> Tensor:
    """The squared error as a share of the target's variance."""
    if result.shape != target.shape:
        what = f"features of shape {tuple(result.shape)}, the teacher's have {tuple(target.shape)}"
        raise QfxError(what, where="Distillation", remedy="compare layers of the same shape, or transfer='maps'")
    target = target.to(result.dtype)
    return (result - target).square().mean() / (target - target.mean()).square().mean().clamp(min=1e-12)


def map_distance(result: Tensor, target: Tensor) -> Tensor:
    """The squared distance of two maps of length 1, in the mean over the samples: squares summed over axis 1."""
    ours, theirs = (F.normalize(part.square().sum(1).flatten(1), dim=1) for part in (result, target.to(result.dtype)))
    if result.shape[2:] != target.shape[2:] or result.dim() < 3:
        what = f"features of shape {tuple(result.shape)}, the teacher's have {tuple(target.shape)}"
        raise QfxError(what, where="Distillation", remedy="transfer='maps' compares (batch, channels, positions) of as many positions")
    return (ours - theirs).square().sum(1).mean()


class _Watched:
    """The latest result of a module, and how often it has run since ``runs`` was set to 0."""

    def __init__(self, module: nn.Module, name: str) -> None:
        self.name, self.runs = name, 0
        self._seen: Any = None
        self.handle = module.register_forward_hook(self._see)

    def _see(self, module: nn.Module, arguments: Any, result: Any) -> None:
        self._seen = result.tensor() if isinstance(result, QTensor) else result
        self.runs += 1

    def taken(self) -> Tensor:
        """The result, once."""
        seen, self._seen = self._seen, None
        if not isinstance(seen, Tensor):
            what = "has not run since" if seen is None else f"gives a {type(seen).__name__}, no tensor"
            raise QfxError(what, where=self.name, remedy="run the model once before each call of the loss; watch layers that give one tensor")
        return seen


def _tensors(result: Any) -> list[Tensor]:
    """All tensors in a model's result, in order."""
    if isinstance(result, Tensor):
        return [result]
    parts = result.values() if isinstance(result, Mapping) else result if isinstance(result, list | tuple) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _watched(qmodel: nn.Module, teacher: nn.Module, pairs: Mapping[str, str]) -> list[tuple[_Watched, _Watched]]:
    """Both sides of each pair, all names checked before the first is watched."""
    graph_module(qmodel)
    casts = dict(quantizers(qmodel))
    theirs = dict(teacher.named_modules())
    found = []
    for name, other in pairs.items():
        cast = casts.get(name) or casts.get(f"{name}.output")
        other = other if other in theirs else other.removesuffix(".output")
        if cast is None:
            outputs = [known for known in casts if known.endswith(".output")]
            raise QfxError(f"no quantizer is called {name!r}", where="features", remedy=f"the names of results are: {', '.join(outputs[:12])}")
        if other not in theirs:
            remedy = "give a mapping from names here to modules of the teacher"
            raise QfxError(f"the teacher has no module {other!r}", where="features", remedy=remedy)
        found.append((cast, name, theirs[other], other))
    return [(_Watched(cast, name), _Watched(module, other)) for cast, name, module, other in found]
