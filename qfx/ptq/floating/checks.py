"""What is wrong, or suspicious, with calibration data and a float model, as a list of named findings. Nothing is printed, nothing is raised."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from qfx.capture.trace import trace
from qfx.capture.traced import Traced, base_layer
from qfx.errors import DataError
from qfx.nn.layers import QReLU, QReLU6
from qfx.ptq.activations import evaluating
from qfx.ptq.floating.equalize import layers_of, output_ranges
from qfx.ptq.floating.fold import WEIGHTED, Folded, channels_first

ERRORS = ("empty-data", "nan-data", "wrong-shape", "wrong-layout", "missing-labels", "wrong-labels", "nan-weights")
"""Names of findings with which no pass can go on."""

WARNINGS = ("constant-input", "unlike-training", "dead-layer", "silent-channels", "uneven-channels")
"""Names of findings that a result may be poor for."""

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")


@dataclass(frozen=True, slots=True)
class Finding:
    """``name``: one of ERRORS or WARNINGS. ``where``: "data", "labels" or the path of a layer. ``what`` is the matter, ``remedy`` what helps."""

    name: str
    where: str
    what: str
    remedy: str

    @property
    def is_error(self) -> bool:
        return self.name in ERRORS

    def __str__(self) -> str:
        return f"{self.where}: {self.what} [{self.name}]\n  remedy: {self.remedy}"


def require(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings as they are; raises DataError for the first of them that is an error."""
    known = tuple(findings)
    for finding in known:
        if finding.is_error:
            raise DataError(finding.what, where=finding.where, remedy=finding.remedy)
    return known


def check_data(
    data: Tensor | Iterable[Tensor], *, shape: tuple[int, ...] | None = None, labels: Tensor | None = None, labels_needed: bool = False
) -> tuple[Finding, ...]:
    """Whether ``data`` (one tensor or batches, gone through once) can calibrate a model, and ``labels`` can judge it.

    ``shape``: of one input, batch left out. Finds: "empty-data", "nan-data" (NaN or infinity), "wrong-layout" (the axes of ``shape`` in another
    order), "wrong-shape", "missing-labels", "wrong-labels" (not one whole number of at least 0 for each input), "constant-input" (a channel
    that is the same number throughout).
    """
    found: list[Finding] = []
    low: Tensor | None = None
    high: Tensor | None = None
    count = 0
    for number, part in enumerate(_parts(data)):
        if not isinstance(part, Tensor) or part.dim() == 0:
            return (Finding("wrong-shape", "data", f"batch {number} is a {type(part).__name__}", "give tensors of inputs alone, batch first"),)
        if shape is not None and tuple(part.shape[1:]) != shape:
            return (_misshapen(tuple(part.shape), shape),)
        bad = ~torch.isfinite(part).reshape(len(part), -1).all(1) if part.numel() else torch.zeros(len(part), dtype=torch.bool)
        if bool(bad.any()):
            which = (bad.nonzero().flatten() + count).tolist()
            found.append(Finding("nan-data", "data", f"NaN or infinity in {_listed('input', which)}", "leave those inputs out, or repair them"))
        elif part.numel() and part.dim() > 1:
            rows = part.transpose(0, 1).flatten(1)
            least, most = rows.amin(1), rows.amax(1)
            if low is not None and low.shape != least.shape:
                what = f"batch {number} has {len(least)} channels, the one before {len(low)}"
                return (Finding("wrong-shape", "data", what, "give inputs of one shape"),)
            low = least if low is None else torch.minimum(low, least)
            high = most if high is None else torch.maximum(high, most)
        count += len(part)
    if count == 0:
        return (Finding("empty-data", "data", "there are no inputs", "give a few hundred real inputs, batch first"),)
    if low is not None and high is not None and count > 1:
        still = (low == high).nonzero().flatten().tolist()
        if still:
            what = f"{_listed('channel', still)} of {low.numel()} {'is' if len(still) == 1 else 'are'} the same number throughout"
            found.append(Finding("constant-input", "data", what, "check how the data was made; drop inputs that say nothing"))
    return (*found, *_label_findings(labels, count, labels_needed))


def _label_findings(labels: Tensor | None, count: int, needed: bool) -> Iterator[Finding]:
    if labels is None:
        if needed:
            yield Finding("missing-labels", "labels", "there are none, and accuracy needs them", "give the right class of every input")
    elif labels.dim() == 0 or len(labels) != count:
        yield Finding("wrong-labels", "labels", f"shape {tuple(labels.shape)} for {count} inputs", "give the right class of every input, in order")
    elif labels.is_floating_point() or labels.is_complex() or labels.dtype is torch.bool or bool((labels < 0).any()):
        yield Finding("wrong-labels", "labels", f"{labels.dtype} numbers that are no classes", "give class numbers from 0 on, not scores")


def _misshapen(got: tuple[int, ...], shape: tuple[int, ...]) -> Finding:
    wanted = f"expected (batch, {', '.join(map(str, shape))})"
    for order in itertools.permutations(range(1, len(got))):
        if len(got) == len(shape) + 1 and tuple(got[axis] for axis in order) == shape:
            layout = "channels last (NHWC), " if order == (3, 1, 2) else ""
            return Finding("wrong-layout", "data", f"got {got}, {layout}{wanted}", f"use x.permute(0, {', '.join(map(str, order))})")
    if got == shape:
        return Finding("wrong-shape", "data", f"got {got}, one input without a batch axis; {wanted}", "use x.unsqueeze(0)")
    if math.prod(got[1:]) == math.prod(shape):
        return Finding("wrong-shape", "data", f"got {got}, {wanted}", f"use x.reshape(-1, {', '.join(map(str, shape))}), if that is how it is stored")
    return Finding("wrong-shape", "data", f"got {got}, {wanted}", "give what the model was trained on")


def check_model(model: nn.Module, data: Tensor | Iterable[Tensor], *, bits_lost: int = 5, far: float = 3.0) -> tuple[Finding, ...]:
    """What will make the fixed-point form of a float model poor, as far as its weights and ``data`` (gone through once or twice) tell.

    First the findings of ``check_data``; with an error among them the model is not run. Then: "wrong-layout" or "wrong-shape" (it does not run on
    the data), "nan-weights", "dead-layer" (all weights are zero, or a ReLU gives nothing but zeros), "silent-channels" (channels of a ReLU that
    never fire), "uneven-channels" (channels that do fire, but whose weights are so small beside the others' that one binary point for the whole
    weight loses more than ``bits_lost`` bits of them: check the model after ``fold_batch_norm``), "unlike-training" (the mean of what the first
    BatchNorm reads lies more than ``far`` standard deviations away from what it was trained with, on average over its channels).

    Raises UnsupportedError for a model that cannot be traced.
    """
    data = data if isinstance(data, Tensor) or not isinstance(data, Iterator) else list(data)
    found = [*check_data(data), *_weight_findings(model)]
    if any(finding.is_error for finding in found):
        return tuple(found)
    parts = (_as_taken(part, model) for part in _parts(data))
    first = next(parts)
    with evaluating(model), torch.no_grad():
        problem = _run_problem(model, first)
        if problem is not None:
            return (*found, problem)
        traced = trace(model, first)
        watch = _Watch(traced)
        for part in itertools.chain([first], parts):
            watch.run(part)
    return (*found, *watch.findings(far), *_uneven(model, watch.unheard(), bits_lost))


def _weight_findings(model: nn.Module) -> Iterator[Finding]:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            yield Finding("nan-weights", name, "NaN or infinity", "repair the checkpoint")
    for path, layer in model.named_modules():
        if base_layer(layer) in WEIGHTED and not bool(layer.weight.any()):
            yield Finding("dead-layer", path, "all of its weights are zero", "check that the checkpoint belongs to the model, or remove the layer")


def _uneven(model: nn.Module, unheard: Mapping[str, Tensor], bits_lost: int) -> Iterator[Finding]:
    """``unheard``: for layers, by path, whether a channel never gets through the ReLU behind it: its weights do not matter."""
    for path, layer in model.named_modules():
        if base_layer(layer) not in WEIGHTED:
            continue
        weight = layer.weight
        assert isinstance(weight, Tensor)
        ranges = output_ranges(layer, weight.detach())
        counts = (ranges > 0) & ~unheard.get(path, torch.zeros_like(ranges, dtype=torch.bool))
        largest = float(ranges.max())
        faint = (counts & (ranges < largest * 2.0**-bits_lost)).nonzero().flatten().tolist()
        if faint:
            span = math.log2(largest / float(ranges[counts].min()))
            what = f"{_listed('output channel', faint)} of {ranges.numel()}: weights up to {span:.0f} bits smaller than the largest"
            yield Finding("uneven-channels", path, what, 'use granularity = "channel" for weights, or qfx.ptq.equalize')


def _as_taken(part: Tensor, model: nn.Module) -> Tensor:
    """Inputs in the dtype of the parameters, or integers as they are where a table may be read by them."""
    if part.dtype in (torch.int32, torch.int64) and any(isinstance(module, nn.Embedding | nn.EmbeddingBag) for module in model.modules()):
        return part
    return part.to(next((parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()), torch.float32))


def _run_problem(model: nn.Module, batch: Tensor) -> Finding | None:
    """Why the model does not run on the data, if it does not; a transposed layout is tried out."""
    rows = batch[:2]
    try:
        model(rows)
    except Exception as error:  # whatever the user's model raises on this input
        message = str(error).split("\n")[0]
        for order in itertools.permutations(range(1, rows.dim())):
            if order != tuple(range(1, rows.dim())) and _runs(model, rows.permute(0, *order)):
                layout = ", channels last (NHWC)" if order == (3, 1, 2) else ""
                return Finding(
                    "wrong-layout", "data", f"got {tuple(batch.shape)}{layout}: {message}", f"use x.permute(0, {', '.join(map(str, order))})"
                )
        return Finding("wrong-shape", "data", f"the model does not run on {tuple(batch.shape)}: {message}", "give what the model was trained on")
    return None


def _runs(model: nn.Module, x: Tensor) -> bool:
    try:
        model(x)
    except Exception:
        return False
    return True


class _Watch(fx.Interpreter):
    """Runs a traced model and remembers the largest result of every ReLU channel, and what the first BatchNorm reads."""

    def __init__(self, traced: Traced) -> None:
        super().__init__(traced.module)
        self.traced = traced
        self.relus: dict[fx.Node, str] = {}
        for node in traced.module.graph.nodes:
            if _is_relu(node, traced):
                self.relus[node] = self._name(node)
        self.largest: dict[fx.Node, Tensor] = {}
        norms = (node for node in traced.module.graph.nodes if node.op == "call_module" and _known(self._module(node)) is not None)
        self.norm: fx.Node | None = next(norms, None)
        self.total, self.count = torch.zeros((), dtype=torch.float64), 0

    def _module(self, node: fx.Node) -> nn.Module:
        return self.traced.module.get_submodule(str(node.target))

    def _name(self, node: fx.Node) -> str:
        if node.op == "call_module":
            return str(node.target)
        parent, called = self.traced.path(node), getattr(node.target, "__name__", str(node.target)).strip("_")
        name = f"{parent}.{called}" if parent else called
        taken = sum(known == name or known.startswith(f"{name}_") for known in self.relus.values())
        return f"{name}_{taken}" if taken else name  # as qfx.quantize names them

    def run_node(self, n: fx.Node) -> Any:
        if n is self.norm:  # before it runs: what follows may work in place
            rows = self.env[n.all_input_nodes[0]].transpose(0, 1).flatten(1)
            self.total, self.count = self.total + rows.double().sum(1), self.count + rows.shape[1]
        result = super().run_node(n)
        if n in self.relus:
            largest = result.transpose(0, 1).flatten(1).amax(1)
            self.largest[n] = torch.maximum(self.largest[n], largest) if n in self.largest else largest
        return result

    def unheard(self) -> dict[str, Tensor]:
        """For each layer with weights, by path, that reaches a ReLU through BatchNorm and additions alone: which channels never fire there."""
        found = {}
        for node in self.traced.module.graph.nodes:
            if node.op == "call_module" and base_layer(self._module(node)) in WEIGHTED and channels_first(node, self.traced):
                end = self._behind(node)
                if end in self.largest:
                    found[str(node.target)] = self.largest[end] <= 0
        return found

    def _behind(self, node: fx.Node) -> fx.Node:
        users = self.traced.tensor_users(node)
        passes = len(users) == 1 and (
            (users[0].op == "call_module" and base_layer(self._module(users[0])) in (*_NORMS, nn.Identity)) or users[0].target in _ADDITIONS
        )
        return self._behind(users[0]) if passes else users[0] if len(users) == 1 else node

    def findings(self, far: float) -> Iterator[Finding]:
        for node, name in self.relus.items():
            silent = (self.largest[node] <= 0).nonzero().flatten().tolist()
            count = self.largest[node].numel()
            if len(silent) == count:
                yield Finding("dead-layer", name, "gives nothing but zeros on the data", "check that checkpoint, model and data belong together")
            elif silent:
                remedy = "give more data, or prune them: they cost hardware and give nothing"
                yield Finding(
                    "silent-channels", name, f"{_listed('channel', silent)} of {count} never fire{'s' * (len(silent) == 1)} on the data", remedy
                )
        known = None if self.norm is None else _known(self._module(self.norm))
        if self.norm is not None and known is not None:
            mean, std = known
            away = float(((self.total / self.count - mean.double()).abs() / (std.double() + 1e-12)).mean())
            if away > far:
                what = f"what it reads lies {away:.1f} standard deviations away from what it was trained with"
                remedy = "prepare the data as in training (range 0..1 or 0..255, mean and deviation, order of the colours)"
                yield Finding("unlike-training", str(self.norm.target), what, remedy)


def _known(module: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Mean and standard deviation that a module expects of its input."""
    if isinstance(module, Folded):
        return module.mean, module.std
    if isinstance(module, _NORMS) and module.running_mean is not None and module.running_var is not None:
        return module.running_mean, (module.running_var + module.eps).sqrt()
    return None


def _is_relu(node: fx.Node, traced: Traced) -> bool:
    if node not in traced.shapes or node.op == "placeholder":
        return False
    layers = layers_of(node, traced)
    return layers is not None and len(layers) == 1 and isinstance(layers[0], QReLU | QReLU6)


def _parts(data: Tensor | Iterable[Tensor]) -> Iterator[Tensor]:
    """Batches, unchecked."""
    if isinstance(data, Tensor):
        return iter(torch.split(data, 64) if data.dim() else [data])
    return iter(data)


def _listed(noun: str, which: list[int]) -> str:
    shown = ", ".join(map(str, which[:8]))
    return f"{noun} {shown}" if len(which) == 1 else f"{noun}s {shown}" + (f", ... ({len(which)} in all)" if len(which) > 8 else "")
