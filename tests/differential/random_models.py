"""Random torch networks and recipes for hypothesis: shapes, branches, formats and modes of every kind that qfx takes."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import hypothesis.strategies as st
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx import OMode, Override, QMode, Recipe, Spec
from qfx.fixed.arith import FLOAT64_BITS
from qfx.fixed.digits import most_digits
from qfx.ir.graph import Graph
from qfx.recipe import OPTIONAL_ROLES, ROLES

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """One operation of a program: what, on which earlier values, with which numbers."""

    kind: str
    sources: tuple[int, ...]
    options: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Program:
    """A network as data, so that hypothesis can print and shrink it."""

    in_shape: Shape
    steps: tuple[Step, ...]
    recipe: Recipe
    seed: int

    def _repr_pretty_(self, printer: Any, _: bool) -> None:
        """How hypothesis prints it, short enough for many: of the specs what is not the default."""
        parts = []
        for role in (*ROLES, *OPTIONAL_ROLES):
            spec = getattr(self.recipe, role)
            if spec is None:
                continue
            changed = [f"{f.name}={getattr(spec, f.name)!r}" for f in fields(Spec) if getattr(spec, f.name) != f.default]
            parts.append(f"{role}=Spec({', '.join(changed)})")
        printer.text(f"Program({self.in_shape}, {self.steps}, Recipe({', '.join(parts)}, batch_norm={self.recipe.batch_norm!r}), {self.seed})")


class Network(nn.Module):
    """Runs a program; layers with parameters are its children, functional operations are called as users call them."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.steps = program.steps
        for number, step in enumerate(program.steps):
            layer = _layer(step)
            if layer is not None:
                self.add_module(f"{step.kind}{number}", layer)

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for number, step in enumerate(self.steps):
            inputs = [values[source] for source in step.sources]
            child = getattr(self, f"{step.kind}{number}", None)
            found = child(*inputs) if child is not None else _FUNCTIONAL[step.kind](*inputs, *step.options)
            values.append(found[0] if step.kind == "recurrent" else found)
        return values[-1]


def build(program: Program) -> tuple[nn.Module, Tensor]:
    """The float network with random weights and statistics, and an example batch."""
    generator = torch.Generator().manual_seed(program.seed)
    with torch.random.fork_rng():
        torch.manual_seed(program.seed)
        network = Network(program)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator))
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.1)
            with torch.no_grad():
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator))
                module.bias.copy_(torch.randn(module.bias.shape, generator=generator))
            module.num_batches_tracked.fill_(1)
    return network.eval(), 2 * torch.randn(5, *program.in_shape, generator=generator)


def _layer(step: Step) -> nn.Module | None:
    kind, o = step.kind, step.options
    if kind == "conv2d":
        return nn.Conv2d(o[0], o[1], o[2], stride=o[3], padding=o[4], dilation=o[5], groups=o[6], bias=o[7])
    if kind == "conv1d":
        return nn.Conv1d(o[0], o[1], o[2], stride=o[3], padding=o[4], dilation=o[5], groups=o[6], bias=o[7])
    if kind in ("transposed1d", "transposed2d"):
        layer = nn.ConvTranspose1d if kind == "transposed1d" else nn.ConvTranspose2d
        return layer(o[0], o[1], o[2], stride=o[3], padding=o[4], output_padding=o[5], groups=o[6], bias=o[7], dilation=o[8])
    if kind == "linear":
        return nn.Linear(o[0], o[1], bias=o[2])
    if kind == "norm":
        return (nn.BatchNorm2d if o[1] == 3 else nn.BatchNorm1d)(o[0])
    if kind == "recurrent":
        more = {"nonlinearity": "relu"} if o[0] == "relu" else {}
        return _RECURRENT[o[0]](o[1], o[2], bidirectional=o[3], bias=o[4], batch_first=True, **more)
    if kind == "relu":
        return nn.ReLU()
    if kind == "relu6":
        return nn.ReLU6()
    return None


_RECURRENT: dict[str, Any] = {"lstm": nn.LSTM, "gru": nn.GRU, "tanh": nn.RNN, "relu": nn.RNN}

_TABLES = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "silu": F.silu, "gelu": F.gelu, "exp": torch.exp, "sqrt": torch.sqrt, "sin": torch.sin}

_FUNCTIONAL = {
    "frelu": F.relu,
    "leaky": lambda x, slope: F.leaky_relu(x, slope),
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "max": lambda a, b: torch.maximum(a, b),
    "min": lambda a, b: torch.minimum(a, b),
    "times": lambda x, factor: x * factor,
    "plus": lambda x, summand: summand - x,
    "clamp": lambda x, low, high: x.clamp(low, high),
    "steep": lambda x, slope: F.leaky_relu(x, slope),
    "where": lambda x, bound: torch.where(x > bound, x, -x),
    "reduce": lambda x, axes, kind: getattr(x, kind)(axes, keepdim=True),
    "spread": lambda x, axes: x * x.amax(axes, keepdim=True),
    "product": lambda a, b: a @ b.transpose(-1, -2),
    "square": lambda x: x**2,
    "table": lambda x, name: _TABLES[name](x),
    "abs": lambda x: abs(x),
    "cat": lambda *parts: torch.cat(parts, 1),
    "maxpool": lambda x, k, s, p: (F.max_pool2d if len(k) == 2 else F.max_pool1d)(x, k, s, p),
    "avgpool": lambda x, k, s, p: (F.avg_pool2d if len(k) == 2 else F.avg_pool1d)(x, k, s, p),
    "gap": lambda x, axes: x.mean(axes),
    "adaptive": lambda x, axes: (F.adaptive_avg_pool2d if len(axes) == 2 else F.adaptive_avg_pool1d)(x, 1),
    "flatten": lambda x: torch.flatten(x, 1),
    "pad": lambda x, flat: F.pad(x, flat),
    "resized": lambda x, size, corners: F.interpolate(x, size, mode="bilinear" if len(size) == 2 else "linear", align_corners=corners),
    "windows": lambda x, size, kind: getattr(F, f"adaptive_{kind}_pool{len(size)}d")(x, size),
    "upsample": lambda x, factors: F.interpolate(x, scale_factor=factors),
    "slice": lambda x, step: x[:, :, ::step],
    "transpose": lambda x: x.transpose(-1, -2),
}

MAX_VALUES = 300
"""Elements per sample at most, so that a thousand models stay quick."""


@st.composite
def programs(draw: st.DrawFn, max_steps: int = 7, *, any_modes: bool = False) -> Program:
    """A network of up to ``max_steps`` operations that reads its input and gives one tensor; its casts have modes of MODES, or any pair of them."""
    rank = draw(st.sampled_from([3, 3, 3, 2, 2, 1, 1, 4, 5]))
    channels = draw(st.integers(1, 4))
    in_shape = (channels, *(draw(st.integers(2, 7 if rank < 4 else 3)) for _ in range(rank - 1))) if rank > 1 else (draw(st.integers(1, 12)),)
    shapes, steps = [in_shape], []
    for _ in range(draw(st.integers(1, max_steps))):
        source = len(shapes) - 1 if draw(st.integers(0, 3)) else draw(st.integers(0, len(shapes) - 1))
        found = _draw_step(draw, shapes, source)
        if found is not None:
            step, shape = found
            steps.append(step)
            shapes.append(shape)
    if not steps:
        steps.append(Step("frelu", (0,)))
    kept = _reachable(steps)
    recipe = draw(recipes(any_modes))
    recipe = replace(recipe, overrides=tuple(draw(_accumulators(kept, recipe.weight.digits is None))))
    return Program(in_shape, kept, recipe, draw(st.integers(0, 2**31 - 1)))


@st.composite
def _accumulators(draw: st.DrawFn, steps: tuple[Step, ...], may_bound: bool) -> list[Override]:
    """For one layer with weights in three an accumulator of a chosen width. Weights that are kept within it saturate, and have any digits."""
    found = []
    for number, step in enumerate(steps):
        if step.kind.startswith(("conv", "linear", "transposed")) and draw(st.integers(0, 2)) == 0:
            mode = draw(st.sampled_from(["bound", "wrap", "saturate"] if may_bound else ["wrap", "saturate"]))
            changes: dict[str, Any] = {"accumulator": draw(st.integers(8, 24)), "accumulator_mode": mode}
            if mode == "bound":
                changes |= {"o": "AP_SAT", "n": 0, "learn_width": False, "granularity": draw(st.sampled_from(["tensor", "channel"]))}
            found.append(Override(f"{step.kind}{number}.weight", changes))
    return found


def _reachable(steps: list[Step]) -> tuple[Step, ...]:
    """The steps that the last one needs, renumbered."""
    needed, pending = set(), [len(steps)]
    while pending:
        value = pending.pop()
        if value and value not in needed:
            needed.add(value)
            pending += steps[value - 1].sources
    number = {0: 0}
    kept = []
    for value in sorted(needed):
        step = steps[value - 1]
        kept.append(Step(step.kind, tuple(number[s] for s in step.sources), step.options))
        number[value] = len(kept)
    return tuple(kept)


_ANY_KINDS = ["max", "min", "times", "plus", "clamp", "steep", "where", "reduce", "spread"]
_VECTOR_KINDS = [*_ANY_KINDS, "linear", "linear", "linear", "norm", "relu", "frelu", "leaky", "add", "mul", "square", "abs", "cat", "table"]
_SIZES = ["slice", "upsample", "transposed", "resized", "windows"]
_WINDOWS = ["conv", "conv", "conv", "conv", "maxpool", "avgpool", "gap", "adaptive", "flatten", *_SIZES]
_SEQUENCE_KINDS = [
    *_ANY_KINDS,
    *_WINDOWS,
    "norm",
    "relu",
    "frelu",
    "relu6",
    "leaky",
    "add",
    "sub",
    "mul",
    "square",
    "abs",
    "cat",
    "pad",
    "table",
    "linear",
    "product",
]
_IMAGE_KINDS = [*_SEQUENCE_KINDS, "transpose"]
_SEQUENCE_KINDS.append("recurrent")
_MANY_AXES_KINDS = [
    *_ANY_KINDS,
    "gap",
    "flatten",
    "slice",
    "relu",
    "frelu",
    "relu6",
    "leaky",
    "add",
    "sub",
    "mul",
    "square",
    "abs",
    "cat",
    "pad",
    "transpose",
    "table",
    "linear",
    "product",
]


def _draw_step(draw: st.DrawFn, shapes: list[Shape], source: int) -> tuple[Step, Shape] | None:
    shape = shapes[source]
    kinds = (_VECTOR_KINDS, _SEQUENCE_KINDS, _IMAGE_KINDS, _MANY_AXES_KINDS, _MANY_AXES_KINDS)[len(shape) - 1]
    kind = draw(st.sampled_from(kinds))
    if kind == "norm":
        return Step(kind, (source,), (shape[0], len(shape))), shape
    if kind in ("relu", "frelu", "relu6", "square", "abs"):
        return Step(kind, (source,)), shape
    if kind == "table":
        return Step(kind, (source,), (draw(st.sampled_from(sorted(_TABLES))),)), shape
    if kind == "leaky":
        return Step(kind, (source,), (2.0 ** -draw(st.integers(0, 5)),)), shape
    if kind in ("add", "sub", "mul"):
        return Step(kind, (source, draw(st.sampled_from([i for i, s in enumerate(shapes) if s == shape])))), shape
    if kind in ("max", "min"):
        return Step(kind, (source, draw(st.sampled_from([i for i, s in enumerate(shapes) if s == shape])))), shape
    if kind in ("times", "plus", "steep", "where"):
        return Step(kind, (source,), (draw(st.sampled_from([0.3, -0.7, 0.5, 2.0, 1.3, 3.0])),)), shape
    if kind == "clamp":
        return Step(kind, (source,), draw(st.sampled_from([(-1.0, 1.0), (0.1, None), (None, 0.7), (-0.25, 3.0)]))), shape
    if kind in ("reduce", "spread"):
        axes = tuple(draw(st.lists(st.integers(1, len(shape)), min_size=1, max_size=len(shape), unique=True)))
        out = tuple(1 if axis in axes else size for axis, size in enumerate(shape, start=1))
        return (
            (Step(kind, (source,), (axes, draw(st.sampled_from(["sum", "mean", "amax", "amin"])))), out)
            if kind == "reduce"
            else (Step(kind, (source,), (axes,)), shape)
        )
    if kind == "cat":
        alike = [i for i, s in enumerate(shapes) if s[1:] == shape[1:]]
        others = draw(st.lists(st.sampled_from(alike), min_size=1, max_size=2))
        out = (shape[0] + sum(shapes[i][0] for i in others), *shape[1:])
        return (Step(kind, (source, *others)), out) if _size(out) <= MAX_VALUES else None
    if kind == "linear":
        outputs = draw(st.integers(1, 10 if len(shape) == 1 else 4))
        return Step(kind, (source,), (shape[-1], outputs, draw(st.booleans()))), (*shape[:-1], outputs)
    if kind == "recurrent":
        hidden, both = draw(st.integers(1, 3)), draw(st.booleans())
        options = (draw(st.sampled_from(sorted(_RECURRENT))), shape[1], hidden, both, draw(st.booleans()))
        return Step(kind, (source,), options), (shape[0], hidden * (1 + both))
    if kind == "product":
        alike = [i for i, s in enumerate(shapes) if len(s) == len(shape) and s[-1] == shape[-1] and s[:-2] == shape[:-2]]
        other = draw(st.sampled_from(alike))
        out = (*shape[:-1], shapes[other][-2])
        return (Step(kind, (source, other)), out) if _size(out) <= MAX_VALUES else None
    if kind == "flatten":
        return Step(kind, (source,)), (_size(shape),)
    if kind in ("gap", "adaptive"):
        step = Step(kind, (source,), (tuple(range(2, len(shape) + 1)),))
        return step, (shape[0],) if kind == "gap" else (shape[0], *(1,) * (len(shape) - 1))
    if kind == "transpose":
        return Step(kind, (source,)), (*shape[:-2], shape[-1], shape[-2])
    if kind == "slice":
        step = draw(st.integers(1, 3))
        return Step(kind, (source,), (step,)), (shape[0], -(-shape[1] // step), *shape[2:])
    if kind == "upsample":
        factors = tuple(draw(st.integers(1, 3)) for _ in shape[1:])
        out = (shape[0], *(n * factor for n, factor in zip(shape[1:], factors, strict=True)))
        return (Step(kind, (source,), (factors,)), out) if _size(out) <= MAX_VALUES else None
    if kind in ("resized", "windows"):
        size = tuple(draw(st.integers(1, 2 * n)) for n in shape[1:])
        more = draw(st.booleans()) if kind == "resized" else draw(st.sampled_from(["avg", "max"]))
        out = (shape[0], *size)
        return (Step(kind, (source,), (size, more)), out) if _size(out) <= MAX_VALUES else None
    if kind == "transposed":
        return _draw_transposed(draw, shape, source)
    if kind == "pad":
        sides = [draw(st.integers(0, 2)) for _ in range(2 * draw(st.integers(1, len(shape))))]
        out = list(shape)
        for position in range(0, len(sides), 2):
            out[len(out) - 1 - position // 2] += sides[position] + sides[position + 1]
        return (Step(kind, (source,), (sides,)), tuple(out)) if _size(tuple(out)) <= MAX_VALUES else None
    return _draw_window(draw, kind, shape, source)


def _draw_window(draw: st.DrawFn, kind: str, shape: Shape, source: int) -> tuple[Step, Shape] | None:
    axes = range(len(shape) - 1)
    kernel = tuple(draw(st.integers(1, 3)) for _ in axes)
    stride = tuple(draw(st.integers(1, 3)) for _ in axes)
    dilation = tuple(draw(st.integers(1, 2)) if kind == "conv" else 1 for _ in axes)
    padding = tuple(draw(st.integers(0, k - 1 if kind == "conv" else k // 2)) for k in kernel)
    out = tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in zip(shape[1:], padding, dilation, kernel, stride, strict=True))
    if min(out) < 1:
        return None
    if kind != "conv":
        return Step(kind, (source,), (kernel, stride, padding)), (shape[0], *out)
    groups = draw(st.sampled_from([g for g in range(1, shape[0] + 1) if shape[0] % g == 0]))
    outputs = groups * draw(st.integers(1, max(4 // groups, 1)))
    bias = draw(st.booleans())
    step = Step(f"conv{len(shape) - 1}d", (source,), (shape[0], outputs, kernel, stride, padding, dilation, groups, bias))
    return step, (outputs, *out)


def _draw_transposed(draw: st.DrawFn, shape: Shape, source: int) -> tuple[Step, Shape] | None:
    axes = range(len(shape) - 1)
    kernel, stride, dilation = (tuple(draw(st.integers(1, most)) for _ in axes) for most in (3, 3, 2))
    padding = tuple(draw(st.integers(0, 2)) for _ in axes)
    extra = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    spans = zip(shape[1:], kernel, stride, padding, dilation, extra, strict=True)
    out = tuple((n - 1) * s + d * (k - 1) + 1 - 2 * p + e for n, k, s, p, d, e in spans)
    groups = draw(st.sampled_from([g for g in range(1, shape[0] + 1) if shape[0] % g == 0]))
    outputs = groups * draw(st.integers(1, max(4 // groups, 1)))
    if min(out) < 1 or _size((outputs, *out)) > MAX_VALUES:
        return None
    step = Step(f"transposed{len(shape) - 1}d", (source,), (shape[0], outputs, kernel, stride, padding, extra, groups, draw(st.booleans()), dilation))
    return step, (outputs, *out)


def _size(shape: Shape) -> int:
    return int(torch.Size(shape).numel())


def scatter(qmodel: torch.nn.Module, program: Program) -> None:
    """Binary points as training may leave them, for one program in three: anywhere, or as far from their start as they may be; in place. Word lengths
    that are learned, in any program: from none to some more than at the start."""
    generator = torch.Generator().manual_seed(program.seed)
    with torch.no_grad():
        for _, quantizer in qfx.quantizers(qmodel):
            if program.seed % 3 == 0:
                quantizer.frac_bits += torch.randint(-9, 10, quantizer.frac_bits.shape, generator=generator)
            integer = quantizer.learned_ints
            if integer is not None:
                integer += torch.randint(-quantizer.spec.width - 1, 3, integer.shape, generator=generator)
                integer.flatten()[0].clamp_(min=1 - quantizer.frac_bits.flatten()[0].round())  # what is pruned as a whole is refused


MODES = {o: tuple(list(QMode)[(2 * i + k) % len(QMode)] for k in range(3 if o is OMode.SAT else 2)) for i, o in enumerate(OMode)}
"""The roundings that each way to overflow is drawn with: together all of them. Each pair is native code that has to be compiled, in up to a dozen
variants, and the tests of casts try every pair by itself."""


@st.composite
def specs(draw: st.DrawFn, least: int, most: int, any_modes: bool, *, constant: bool = False, factor: bool = False) -> Spec:
    """A spec with any word length in the bounds, any granularity and modes of MODES, or any pair of them; one ``factor`` in four has few digits."""
    o = draw(st.sampled_from([OMode.SAT, OMode.SAT, OMode.SAT_SYM, OMode.SAT_ZERO, OMode.WRAP, OMode.WRAP_SM]))
    width = draw(st.integers(least, most))
    n = draw(st.integers(0, min(3, width))) if o in (OMode.WRAP, OMode.WRAP_SM) else 0
    signed = True if o is OMode.WRAP_SM else draw(st.sampled_from([None, None, True] if constant else [None, None, None, True, False]))
    granularity = draw(st.sampled_from(["tensor", "tensor", "channel", "element"]))
    if factor and draw(st.integers(0, 3)) == 0:
        form = draw(st.sampled_from(["signed", "ones"]))
        digits = draw(st.integers(1, min(most_digits(width, True, form), 3)))
        o = draw(st.sampled_from([OMode.SAT, OMode.SAT_SYM]))
        learned = draw(st.booleans())
        return Spec(width, QMode.RND, o, granularity=granularity, signed=signed, learn_width=learned, digits=digits, digit_form=form)
    q = draw(st.sampled_from(list(QMode) if any_modes else MODES[o]))
    learned = not n and o in (OMode.SAT, OMode.SAT_SYM, OMode.WRAP) and draw(st.integers(0, 3)) == 0
    return Spec(width, q, o, n, granularity, signed, learn_width=learned)


@st.composite
def recipes(draw: st.DrawFn, any_modes: bool) -> Recipe:
    """Any recipe whose accumulators stay within float64's 53 bits."""
    return Recipe(
        input=draw(specs(2, 10, any_modes)),
        weight=draw(specs(1, 8, any_modes, constant=True, factor=True)),
        bias=draw(specs(2, 12, any_modes, constant=True)),
        scale=draw(specs(2, 8, any_modes, constant=True, factor=True)),
        shift=draw(specs(2, 12, any_modes, constant=True)),
        reciprocal=draw(specs(2, 10, any_modes, constant=True, factor=True)),
        constant=draw(specs(2, 10, any_modes, constant=True, factor=True)),
        activation=draw(specs(1, 10, any_modes)),
        operand=draw(st.none() | specs(1, 6, any_modes)),
        output=draw(specs(2, 16, any_modes)),
        batch_norm=draw(st.sampled_from(["keep", "fold"])),
    )


def leaves_float64(graph: Graph) -> bool:
    """Whether a value of the graph or a partial sum behind it needs more than float64's 53 bits: what torch must refuse, and nothing else."""
    for node in graph.nodes:
        acc = node.op.accumulator(graph.infos[node.inputs[0]]) if node.inputs else None
        if graph.infos[node.name].interval.magnitude_bits > FLOAT64_BITS or (acc is not None and acc.width > FLOAT64_BITS):
            return True
        body = node.op.inner()
        if body is not None and leaves_float64(body):
            return True
    return False
