"""How much each quantizer matters: what the model loses if it alone works at a word length, by several measures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, fx, nn

from qfx.errors import QfxError, RecipeError
from qfx.fixed.arith import Interval
from qfx.nn.convert import quantize
from qfx.nn.functional import QInput
from qfx.nn.qtensor import QTensor
from qfx.nn.quantizer import Quantizer
from qfx.ptq.activations import ActivationCache, Env, Progress, batches, evaluating, run_node
from qfx.ptq.calibrate import with_input_sign
from qfx.ptq.float_reference import PassThrough, float_reference
from qfx.ptq.floating.fold import fold_batch_norm
from qfx.recipe import Recipe

Measure = Literal["sqnr", "correlation", "fisher", "hessian", "taylor"]
Role = Literal["weight", "activation", "input"]

WIDTHS = (2, 3, 4, 5, 6, 8)
EXAMPLE = 64
"""Samples that place the binary points of a float model that is quantized here; they are placed anew for every word length."""

_GRADIENT = ("fisher", "hessian", "taylor")
_KEPT_VARIANCE, _SAMPLES_PER_COMPONENT = 0.999, 4


@dataclass(frozen=True, slots=True)
class Row:
    """One quantizer. ``losses[i]``: what the model loses with it alone at ``widths[i]`` bits, at least 0. ``numbers``: how many numbers it casts, all
    weights of a layer or one sample's activations. ``width``: the word length that the model has there now."""

    name: str
    role: Role
    numbers: int
    width: int
    losses: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Losses of quantizers, in the order of the network, in the unit of ``measure`` (see ``sensitivity``)."""

    measure: Measure
    widths: tuple[int, ...]
    rows: tuple[Row, ...]

    def row(self, name: str) -> Row:
        """The row of one quantizer. Raises QfxError if there is none."""
        for row in self.rows:
            if row.name == name:
                return row
        raise QfxError("has no row", where=name, remedy=f"the rows are: {', '.join(row.name for row in self.rows[:12])}")

    def loss(self, name: str, width: int) -> float:
        """What the model loses with the quantizer ``name`` alone at ``width`` bits. Raises QfxError if that was not measured."""
        if width not in self.widths:
            raise QfxError(f"was not measured at {width} bits", where=name, remedy=f"the word lengths are: {', '.join(map(str, self.widths))}")
        return self.row(name).losses[self.widths.index(width)]

    def decibels(self, name: str, width: int) -> float:
        """-10 log10 of the loss: for "sqnr" the ratio of signal and noise at the output; infinite without a loss."""
        loss = self.loss(name, width)
        return -10 * math.log10(loss) if loss > 0 else math.inf

    def __str__(self) -> str:
        """A table for people, in decibels, the most sensitive quantizers (at the shortest word length) first."""
        order = sorted(self.rows, key=lambda row: -row.losses[0])
        longest = max((len(row.name) for row in order), default=0)
        head = f"{'quantizer':{longest}}  {'numbers':>9}" + "".join(f"{width:>6} bit" for width in self.widths)
        lines = [f"{self.measure}, in dB", head]
        for row in order:
            lines.append(f"{row.name:{longest}}  {row.numbers:>9}" + "".join(f"{self.decibels(row.name, width):>10.1f}" for width in self.widths))
        return "\n".join(lines)


def table_from(data: Mapping[str, Any]) -> Table:
    """A table from what ``dataclasses.asdict`` made of it. Raises KeyError, TypeError or ValueError for anything else."""
    rows = (Row(row["name"], row["role"], row["numbers"], row["width"], tuple(row["losses"])) for row in data["rows"])
    return Table(data["measure"], tuple(data["widths"]), tuple(rows))


def sensitivity(
    model: nn.Module,
    data: Tensor | Iterable[Tensor],
    *,
    widths: Iterable[int] = WIDTHS,
    measure: Measure = "sqnr",
    recipe: Recipe | None = None,
    roles: Iterable[Role] = ("weight", "activation"),
    probes: int = 8,
    seed: int = 0,
    progress: Progress | None = None,
) -> Table:
    """For each quantizer of a role in ``roles``: what the float model loses if that one alone casts, at each word length of ``widths``.

    ``model``: from ``qfx.quantize``, or a float model, which is folded and quantized by ``recipe`` first; it stays as it is. ``data``: calibration
    inputs, a tensor or batches; some hundred samples do. Every cast keeps its modes and granularity, its binary points are placed anew for each word
    length. "activation" means the casts between the layers, not the model's input and result. ``measure``:

    - "sqnr": noise over signal at the output, ``sum (y - y_w)**2 / sum y**2``; one run of the rest of the network per row and word length.
    - "correlation": 1 - the mean canonical correlation of the output in float and with the cast (blind to what a linear layer could repair).
    - "fisher", "hessian", "taylor": from the curvature of the distillation loss (the divergence of the softmax, plus the relative squared error) by
      what is cast, from gradients alone, the same effort for any number of word lengths. "fisher" is half the sum of its diagonal, element by element
      the mean squared gradient, times the squared rounding errors; "hessian" half its mean diagonal times the sum of the squared rounding errors;
      "taylor" half the squared first-order change of the output (which takes into account that errors can add up or cancel).

    All are additive over quantizers as far as the errors are small and independent. ``probes``: random directions per batch for the last three.
    Deterministic for a ``seed``.

    Sources: Dong et al., "HAWQ-V2: Hessian Aware trace-Weighted Quantization of Neural Networks", 2020 ("hessian", with Hutchinson's estimate of the
    trace); Nanda et al., "CPTQuant", 2024, sections on CMPQ and TDMPQ, after whose ideas, canonical correlation and Taylor expansion, "correlation"
    and "taylor" are built: there they rank layers of language models, here they are losses per word length.

    Raises RecipeError for an unknown measure, role or word length, DataError for bad data, and what ``qfx.quantize`` raises.
    """
    lengths = tuple(sorted(set(widths)))
    if not lengths or lengths[0] < 1 or lengths[-1] > 32:
        raise RecipeError(f"the widths are {list(lengths)}", where="sensitivity", remedy="give word lengths from 1 to 32")
    if measure not in get_args(Measure):
        raise RecipeError(f"the measure is {measure!r}", where="sensitivity", remedy=f"use one of {', '.join(get_args(Measure))}")
    wanted = tuple(roles)
    for role in wanted:
        if role not in get_args(Role):
            raise RecipeError(f"the role is {role!r}", where="sensitivity", remedy=f"use some of {', '.join(get_args(Role))}")
    parts = batches(data)
    qmodel = model if _is_quantized(model) else _quantized(model, parts[0], recipe)
    assert isinstance(qmodel, fx.GraphModule)
    sites = [site for site in _sites(qmodel) if site.role in wanted]
    work = _Work(float_reference(qmodel), parts, lengths, measure, probes, seed, progress)
    with evaluating(work.reference):
        losses = work.by_gradients(sites) if measure in _GRADIENT else work.by_outputs(sites)
    rows = (Row(site.name, site.role, work.numbers[site.name], site.quantizer.word_length, losses[site.name]) for site in sites)
    return Table(measure, lengths, tuple(rows))


def present_widths(qmodel: fx.GraphModule) -> set[int]:
    """The word lengths that the weights and activations of a quantized model have now."""
    return {site.quantizer.word_length for site in _sites(qmodel) if site.role in ("weight", "activation")}


def _is_quantized(model: nn.Module) -> bool:
    return any(isinstance(layer, QInput) for layer in model.modules())


def _quantized(model: nn.Module, example: Tensor, recipe: Recipe | None) -> fx.GraphModule:
    recipe = with_input_sign(Recipe() if recipe is None else recipe, example)
    return quantize(fold_batch_norm(model, example[:EXAMPLE]), example[:EXAMPLE], recipe).eval()


@dataclass(frozen=True, eq=False)
class _Site:
    """A quantizer, the node that calls it or its layer, and the path of what stands for it in the reference."""

    name: str
    role: Role
    quantizer: Quantizer
    node: str
    path: str


def _sites(qmodel: fx.GraphModule) -> list[_Site]:
    """Every quantizer of a weight, of an activation and of the input, once, in the order of the network."""
    nodes = [node for node in qmodel.graph.nodes if node.op == "call_module"]
    layers = {node: qmodel.get_submodule(str(node.target)) for node in nodes}
    computes = {node for node in nodes if not isinstance(layers[node], Quantizer) and _casts(layers[node], "")}
    found: dict[str, _Site] = {}
    for node in nodes:
        for path, quantizer in _casts(layers[node], str(node.target)):
            role: Role | None = None
            if isinstance(layers[node], QInput):
                role = "input"
            elif quantizer.name.endswith(".weight"):
                role = "weight"
            elif isinstance(layers[node], Quantizer) and _reaches(node, computes):
                role = "activation"
            if role is not None and quantizer.name not in found:
                found[quantizer.name] = _Site(quantizer.name, role, quantizer, node.name, path)
    return list(found.values())


def _casts(layer: nn.Module, path: str) -> list[tuple[str, Quantizer]]:
    parts = ((f"{path}.{name}" if name else path, part) for name, part in layer.named_modules())
    return [(name, part) for name, part in parts if isinstance(part, Quantizer) and part.is_initialized]


def _reaches(node: fx.Node, targets: set[fx.Node]) -> bool:
    """Whether something is computed from the node's value, or only moved to the output."""
    open_, seen = list(node.users), set()
    while open_:
        user = open_.pop()
        if user in targets:
            return True
        if user not in seen:
            seen.add(user)
            open_ += list(user.users)
    return False


class _Probe(nn.Module):
    """Stands in the reference where a quantizer stood: lets everything pass, but shows what is to be cast to ``see``, whose answer goes on."""

    def __init__(self, through: PassThrough, see: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.through, self.see, self.frac_bits = through, see, through.frac_bits

    def forward(self, x: QTensor | Tensor) -> QTensor:
        seen: QTensor = self.through(self.see(x if isinstance(x, Tensor) else x.tensor()))
        return seen

    def with_another(self, x: Tensor, other: PassThrough, y: Tensor) -> tuple[QTensor, QTensor]:
        return self(x), other(y)

    def interval(self) -> Interval:
        return self.through.interval()


@contextmanager
def _probed(reference: fx.GraphModule, site: _Site, see: Callable[[Tensor], Tensor]) -> Iterator[None]:
    parent, _, name = site.path.rpartition(".")
    holder = reference.get_submodule(parent)
    through = getattr(holder, name)
    setattr(holder, name, _Probe(through, see))
    try:
        yield
    finally:
        setattr(holder, name, through)


@dataclass(eq=False)
class _Work:
    reference: fx.GraphModule
    parts: list[Tensor]
    widths: tuple[int, ...]
    measure: Measure
    probes: int
    seed: int
    progress: Progress | None
    numbers: dict[str, int] = field(default_factory=dict)

    def by_outputs(self, sites: list[_Site]) -> dict[str, tuple[float, ...]]:
        """Run the rest of the network behind each cast."""
        losses: dict[str, tuple[float, ...]] = {}
        nodes = list(self.reference.graph.nodes)
        position = {node.name: index for index, node in enumerate(nodes)}
        with torch.no_grad():
            expected = torch.cat([self.reference(part) for part in self.parts])
            with ActivationCache((self.reference,), self.parts) as cache:
                for number, site in enumerate(sites):
                    self._tell(number, len(sites))
                    start = position[site.node]
                    cache.advance_to(nodes[start])
                    starts = _Starts(self.reference, site, self.parts, cache, nodes)
                    losses[site.name] = tuple(
                        self._loss(expected, torch.cat(list(starts.results(cast)))) for cast in self._casts(site, _Shown(starts))
                    )
        self._tell(len(sites), len(sites))
        return losses

    def by_gradients(self, sites: list[_Site]) -> dict[str, tuple[float, ...]]:
        """Forward and backward through the whole network, all casts watched at once."""
        casts: dict[str, list[Quantizer]] = {}
        nodes = list(self.reference.graph.nodes)
        position = {node.name: index for index, node in enumerate(nodes)}
        with torch.no_grad(), ActivationCache((self.reference,), self.parts) as cache:
            for number, site in enumerate(sites):
                self._tell(number, 2 * len(sites))
                cache.advance_to(nodes[position[site.node]])
                casts[site.name] = self._casts(site, _Shown(_Starts(self.reference, site, self.parts, cache, nodes)))
        generator = torch.Generator().manual_seed(self.seed)
        sums = {site.name: _Sums(site.role == "weight", casts[site.name], self.measure) for site in sites}
        samples = sum(len(part) for part in self.parts)
        for index, part in enumerate(self.parts):
            self._tell(len(sites) + len(sites) * index // len(self.parts), 2 * len(sites))
            watched: dict[str, Tensor] = {}
            with _all_probed(self.reference, sites, watched):
                result = self.reference(part)
            tensors = list(watched.values())
            for probe in range(self.probes):
                direction = _direction(result.detach(), generator)
                grads = torch.autograd.grad(result, tensors, direction, retain_graph=probe + 1 < self.probes, allow_unused=True)
                for name, tensor, grad in zip(watched, tensors, grads, strict=True):
                    if grad is not None:
                        sums[name].add(tensor.detach(), grad)
        self._tell(2 * len(sites), 2 * len(sites))
        return {name: total.losses(samples * self.probes) for name, total in sums.items()}

    def _casts(self, site: _Site, shown: _Shown) -> list[Quantizer]:
        """The quantizer at every word length, its binary points placed from the float values that it meets."""
        made = []
        old, first = site.quantizer, next(iter(shown))
        self.numbers[site.name] = first.numel() if site.role == "weight" else first[0].numel()
        for width in self.widths:
            cast = Quantizer(replace(old.spec, width=width, learn_width=False), signed=old.signed, channel_axis=old.channel_axis, name=old.name)
            cast.initialize_from(shown)
            made.append(cast.to(dtype=old.frac_bits.dtype))
        return made

    def _loss(self, expected: Tensor, result: Tensor) -> float:
        if self.measure == "correlation":
            return max(1.0 - canonical_correlation(expected, result), 0.0)
        signal = float(expected.double().square().sum())
        noise = float((expected.double() - result.double()).square().sum())
        return noise / signal if signal > 0 else math.inf if noise > 0 else 0.0

    def _tell(self, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress("sensitivity", done, total)


@dataclass(frozen=True, eq=False)
class _Starts:
    """A site, and the batches carried to where it is next to run (those of the input's cast start from the data)."""

    reference: fx.GraphModule
    site: _Site
    parts: list[Tensor]
    cache: ActivationCache
    nodes: list[fx.Node]

    def results(self, cast: Quantizer) -> Iterator[Tensor]:
        """The output of every batch with the site cast."""
        with _probed(self.reference, self.site, lambda x: cast(x).value.to(x.dtype)):
            for index in range(len(self.parts)):
                yield self._run(index)

    def seen(self) -> Iterator[Tensor]:
        """What the site meets in every batch; weights once."""
        for index in range(1 if self.site.role == "weight" else len(self.parts)):
            caught: list[Tensor] = []
            with _probed(self.reference, self.site, _catcher(caught)):
                self._run(index, only_site=True)
            yield caught[0]

    def _run(self, index: int, only_site: bool = False) -> Tensor:
        if self.site.role == "input":
            whole: Tensor = self.reference(self.parts[index])
            return whole
        env: Env = dict(self.cache.alive(0, index))
        for node in self.nodes[self.cache.position :]:
            if node.op == "output":
                break
            run_node(self.reference, node, env)
            if only_site:
                break
        result: Tensor = torch.empty(0) if only_site else env[str(self.nodes[-1].args[0])]
        return result


def _catcher(into: list[Tensor]) -> Callable[[Tensor], Tensor]:
    def see(x: Tensor) -> Tensor:
        into.append(x)
        return x

    return see


@dataclass(frozen=True, eq=False)
class _Shown:
    """What a site meets, as often as wanted."""

    starts: _Starts

    def __iter__(self) -> Iterator[Tensor]:
        return self.starts.seen()


@contextmanager
def _all_probed(reference: fx.GraphModule, sites: list[_Site], into: dict[str, Tensor]) -> Iterator[None]:
    """In this context whatever a site meets is a variable that gradients are known of, kept in ``into`` by the quantizer's name."""

    def watch(name: str) -> Callable[[Tensor], Tensor]:
        def see(x: Tensor) -> Tensor:
            variable = x if x.requires_grad else x.detach().requires_grad_(True)
            into[name] = variable
            return variable

        return see

    open_ = [_probed(reference, site, watch(site.name)) for site in sites]
    for context in open_:
        context.__enter__()
    try:
        yield
    finally:
        for context in reversed(open_):
            context.__exit__(None, None, None)


def _direction(result: Tensor, generator: torch.Generator) -> Tensor:
    """A random z for which the mean of z z^T is the curvature of the distillation loss by the result: that of the divergence, diag(p) - p p^T over
    axis 1, plus twice that of the relative squared error."""
    first, second = (torch.randn(result.shape, generator=generator, dtype=result.dtype) for _ in range(2))
    share = torch.softmax(result, 1)
    root = share.sqrt()
    divergence = root * first - share * (root * first).sum(1, keepdim=True)
    variance = (result - result.mean()).square().mean().clamp(min=1e-12)
    per_sample = result[0].numel()
    return divergence + second * torch.sqrt(2 / (variance * per_sample))


class _Sums:
    """What the gradients of one quantizer add up to. Those of several samples may be added before they are squared: their directions are
    independent with mean 0, so that products of two samples cancel in the mean."""

    def __init__(self, constant: bool, casts: list[Quantizer], measure: Measure) -> None:
        self.constant, self.casts, self.measure = constant, casts, measure
        self.total = [0.0] * len(casts)
        self.trace = 0.0
        self.moved = [0.0] * len(casts)

    def add(self, x: Tensor, grad: Tensor) -> None:
        with torch.no_grad():
            errors = (cast(x).value.to(x.dtype) - x for cast in self.casts)
            if self.measure == "hessian":
                self.trace += float(grad.square().sum(dtype=torch.float64)) / (x.numel() if self.constant else x[0].numel())
                samples = 1 if self.constant else len(x)
                self.moved = [kept + float(error.square().sum(dtype=torch.float64)) / samples for kept, error in zip(self.moved, errors, strict=True)]
                self.total[0] += 1
                return
            for index, error in enumerate(errors):
                product = grad * error
                if self.measure == "taylor":
                    product = product.sum() if self.constant else product.flatten(1).sum(1)
                self.total[index] += float(product.square().sum(dtype=torch.float64))

    def losses(self, count: int) -> tuple[float, ...]:
        """``count``: of samples and directions."""
        if self.measure == "hessian":
            return tuple(0.5 * self.trace / count * moved / max(self.total[0], 1) for moved in self.moved)
        return tuple(0.5 * total / count for total in self.total)


def canonical_correlation(a: Tensor, b: Tensor) -> float:
    """The mean canonical correlation of two sets of variables, (samples, ...) each: 1 if each is an affine function of the other, 0 at the least.

    Of each set only the principal components are taken that make up 99.9 % of its variance, and at most one for four samples: more would correlate by
    chance (Raghu et al., "SVCCA", 2017). 0 if exactly one set is constant, 1 if both are.
    """
    first, second = _components(a), _components(b)
    if min(first.shape[1], second.shape[1]) == 0:
        return float(first.shape[1] == second.shape[1])
    values = torch.linalg.svdvals(first.T @ second).clamp(0.0, 1.0)
    return float(values.sum() / max(first.shape[1], second.shape[1]))


def _components(x: Tensor) -> Tensor:
    """An orthonormal basis (samples, k) of the principal components."""
    rows = x.flatten(1).double()
    rows = rows - rows.mean(0)
    left, values, _ = torch.linalg.svd(rows, full_matrices=False)
    power = values.square()
    enough = int((power.cumsum(0) < _KEPT_VARIANCE * power.sum()).sum()) + 1
    most = max(rows.shape[0] // _SAMPLES_PER_COMPONENT, 1)
    constant = rows.shape[0] < 2 or float(power.sum()) <= 1e-24 * rows.shape[0]
    basis: Tensor = left[:, : 0 if constant else min(enough, most)]
    return basis
