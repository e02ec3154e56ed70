"""``qfx.from_brevitas``: a model of Brevitas as a fixed-point model of the same types, which gives the same numbers.

Brevitas computes in float what its proxies round. What a proxy does in evaluation is observed on the example: scale, zero point, bit width and sign
are what it returns. Its layers become layers of torch, with the same parameters, between explicit fake-quantizations."""

from __future__ import annotations

import copy
import importlib
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from qfx.capture.inputs import Inputs
from qfx.errors import DataError, QfxError, UnsupportedError, together
from qfx.exchange.affine import Affine, AffineCast, Float
from qfx.exchange.build import Explicit, fixed
from qfx.exchange.conversion import Casts, Conversion, compared, keep, require_same
from qfx.exchange.grid import Grid, bipolar, grid
from qfx.exchange.quant_tensors import as_quantized
from qfx.fixed.type import FixedType
from qfx.nn.convert import check_model
from qfx.nn.layers.given import FakeQuant, SignOf
from qfx.nn.model import QuantizedModel, unwrapped

_INSTALL = "pip install brevitas (0.12 or newer)"

_ROUNDING = {"RoundSte": "ROUND", "FloorSte": "FLOOR", "RoundToZeroSte": "ROUND_TO_ZERO", "CeilSte": "CEIL", "DPURoundSte": "DPU"}
"""Brevitas' rounding modules (brevitas.core.function_wrapper) by QONNX' names; DPU is no mode of either."""

_KINDS = ("IntQuant", "DecoupledIntQuant", "BinaryQuant", "ClampedBinaryQuant", "TernaryQuant", "TruncIntQuant")
_PLAIN: dict[str, Callable[..., nn.Module]] = {
    f"Quant{name}": getattr(nn, name) for name in ("Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")
}
_SETTINGS = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")


def from_brevitas(model: nn.Module, example_input: Any, *, strict: bool = True, input_type: FixedType | None = None) -> QuantizedModel:
    """``model``, of ``brevitas.nn``'s layers, as a trainable fixed-point model with Casts where it quantizes, of these types, and nowhere else.

    ``example_input``: as for ``qfx.quantize``; the results are compared on it. ``model`` is left as it is; what it computes in evaluation counts.
    Scales must be powers of two (``RestrictValueType.POWER_OF_TWO``), whether they are trained, constants or statistics, for a tensor or for each
    channel; zero points 0. Weights keep their float values, so training goes on where it stood, but those with a rounding of their own (learned
    rounding, thresholds other than half a step), which start from what they are rounded to. A BatchNorm in float is a fixed-point step whose
    constants are long enough that every cast behind it gives what Brevitas gives, which is shown for every number that can come there.

    ``strict``: raise UnsupportedError, which lists all of them, for what is not the same to the last bit: scales that are no powers of two, weights
    and biases without a quantizer, sums of more bits than float32 holds. Without it the nearest binary point stands for a scale, constants get 16
    bits, and ``qfx.conversion(qmodel)`` has the error of each tensor. ``input_type``: of inputs that the model computes with before it quantizes
    them; they must lie on its grid.

    Raises QfxError if Brevitas is not installed; UnsupportedError for layers and quantizers without a fixed-point form; DataError for an example
    that the model does not take.
    """
    source, inputs, seen = observed(model, example_input)
    model = unwrapped(model)
    reader = Reader(source, seen, nearest=not strict)
    explicit = reader.read()
    try:
        result, notes = fixed(explicit, inputs, strict=strict, input_type=input_type)
    except DataError as error:
        if error.where != "example_input":
            raise
        remedy = "write the forward for plain tensors: of QuantTensors, isinstance and .value are there, .scale and the like are not"
        raise UnsupportedError(f"its forward works with QuantTensors: {error.what}", where=type(model).__name__, remedy=remedy) from error
    found = compared(result, inputs.args or tuple(inputs.kwargs.values()), reader.casts(), explicit.numbers, seen.results)
    if strict:
        require_same(found, type(model).__name__)
    keep(result, Conversion(found.rows, notes))
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    return result.to(device).train(model.training)


def observed(model: nn.Module, example_input: Any) -> tuple[nn.Module, Inputs, Seen]:
    """A copy of a model of Brevitas in evaluation mode, its example, and what its proxies gave on it. Raises as ``from_brevitas``."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module("brevitas.nn")
    except ImportError as error:
        raise QfxError(f"Brevitas is not installed: {error}", where="from_brevitas", remedy=_INSTALL) from error
    model = unwrapped(model)
    check_model(model)
    wide = next((name for name, tensor in model.named_parameters() if tensor.dtype is not torch.float32), None)
    if wide is not None:
        raise UnsupportedError("is no float32", where=wide, remedy="give the model in float32, in which the types are compared: model.float()")
    inputs = Inputs.of(model, example_input).map(lambda part: part.cpu() if isinstance(part, Tensor) else part)
    source = copy.deepcopy(model).cpu().eval()
    seen = _observed(source, inputs)
    return source, inputs, seen


@dataclass(frozen=True)
class Seen:
    """What each proxy returned in a run, call by call, by its identity; and the model's results."""

    calls: Mapping[int, list[Any]]
    results: Any


def _observed(model: nn.Module, inputs: Inputs) -> Seen:
    proxies: Any = importlib.import_module("brevitas.proxy.quant_proxy").QuantProxyFromInjector
    calls: dict[int, list[Any]] = {}
    handles = []
    for module in model.modules():
        if isinstance(module, proxies):
            kept = calls.setdefault(id(module), [])
            handles.append(module.register_forward_hook(lambda _module, _args, result, kept=kept: kept.append(result)))
    try:
        with torch.no_grad(), warnings.catch_warnings():  # of torch, about Brevitas: whoever runs the model sees them
            warnings.simplefilter("ignore")
            results = model(*inputs.args, **inputs.kwargs)
            first = {key: list(found) for key, found in calls.items()}
            for found in calls.values():
                found.clear()
            half = inputs.map(lambda part: part * 0.5 if isinstance(part, Tensor) and part.is_floating_point() else part)
            model(*half.args, **half.kwargs)
    except QfxError:
        raise
    except Exception as error:  # whatever the user's model raises
        message = str(error).split("\n")[0] or type(error).__name__
        raise DataError(f"the model does not run on the example: {message}", where="example_input", remedy="give what it takes") from error
    finally:
        for handle in handles:
            handle.remove()
    for module in model.modules():
        for one, other in zip(first.get(id(module), ()), calls.get(id(module), ()), strict=False):
            if hasattr(one, "scale") and not torch.equal(torch.as_tensor(one.scale), torch.as_tensor(other.scale)):
                name = next(path for path, part in model.named_modules() if part is module)
                remedy = "use static scales: statistics are collected in training, and stay in evaluation"
                raise UnsupportedError("has a scale that follows the data", where=name, remedy=remedy)
    return Seen(first, _plain(results))


def _plain(result: Any) -> Any:
    """Tensors for QuantTensors, in whatever holds them."""
    if hasattr(result, "value") and hasattr(result, "scale"):
        return result.value
    if isinstance(result, dict):
        return {key: _plain(part) for key, part in result.items()}
    return type(result)(_plain(part) for part in result) if isinstance(result, list | tuple) else result


class _Activation(nn.Module):
    """A cast, a function and a cast; any of them may be missing."""

    def __init__(self, before: FakeQuant | None, function: nn.Module | None, behind: FakeQuant | None) -> None:
        super().__init__()
        self.input, self.function, self.output = before, function, behind

    def forward(self, x: Tensor) -> Tensor:
        for step in (self.input, self.function, self.output):
            x = x if step is None else step(x)
        return x


class _Sum(nn.Module):
    """Two values, each cast alike, added; and a cast."""

    def __init__(self, before: FakeQuant | None, behind: FakeQuant | None) -> None:
        super().__init__()
        self.input, self.output = before, behind

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        total = a + b if self.input is None else self.input(a) + self.input(b)
        return total if self.output is None else self.output(total)


class Reader:
    """Makes plain layers of Brevitas' in a copy of the model. ``affine``: with fake-quantizations of any scale, and what is known of weights and
    biases in ``whole``; else with those of fixed point."""

    model: nn.Module
    seen: Seen
    nearest: bool
    affine: bool

    def __init__(self, model: nn.Module, seen: Seen, *, nearest: bool, affine: bool = False) -> None:
        self.model, self.seen, self.nearest, self.affine = model, seen, nearest, affine
        self.whole: dict[str, tuple[Tensor, Affine]] = {}
        self.fakes: dict[int, Any] = {}
        self.constants: dict[str, Grid] = {}
        self.numbers: dict[str, Tensor] = {}
        self.around: dict[str, tuple[FakeQuant | None, FakeQuant | None]] = {}
        self.refused: list[UnsupportedError] = []
        self.made: dict[int, nn.Module] = {}

    def read(self) -> Explicit:
        root: nn.Module = nn.Sequential(OrderedDict(layer=self.model)) if _is_layer(self.model) else self.model
        paths = [(path, module) for path, module in root.named_modules(remove_duplicate=False) if _is_layer(module)]
        outer: list[str] = []
        for path, module in paths:
            if any(path.startswith(f"{other}.") for other in outer):
                continue
            outer.append(path)
            if id(module) not in self.made:
                self.made[id(module)] = self._layer(path, module)
            holder, _, name = path.rpartition(".")
            setattr(root.get_submodule(holder), name, self.made[id(module)])
        if not outer:
            remedy = "give it to qfx.quantize, which quantizes float models"
            raise UnsupportedError("has no layers of Brevitas", where=type(self.model).__name__, remedy=remedy)
        if self.refused:
            raise together(self.refused, where=type(self.model).__name__)
        return Explicit(root, self.constants, self.around, self.numbers)

    def casts(self) -> dict[str, Casts]:
        """What the source's casts gave on the example."""
        return {fake.label: Casts(fake.grid, [_plain(result) for result in self.seen.calls[key]]) for key, fake in self.fakes.items()}

    def _layer(self, path: str, module: Any) -> nn.Module:
        base = next(kind for kind in type(module).__mro__ if kind.__module__.startswith("brevitas.nn"))
        kind = base.__name__
        try:
            if type(module).forward is not getattr(base, "forward", None):
                what = f"is of class {type(module).__name__}, a {kind} with a forward of its own"
                raise UnsupportedError(what, where=path, remedy=f"use Brevitas' {kind}, with its parameters, and compute the rest outside")
            make = _MAKERS.get(kind)
            if make is None:
                raise UnsupportedError(f"Brevitas' {kind} has no fixed-point form here", where=path, remedy=_remedy(kind))
            return make(self, path, module)
        except UnsupportedError as error:
            self.refused += error.blockers
            return nn.Identity()

    def weighted(self, path: str, module: Any) -> nn.Module:
        if getattr(module, "is_same_padded_strided", False):
            raise UnsupportedError("pads 'same' with a stride", where=path, remedy="write the padding as numbers")
        bias = module.bias is not None
        if isinstance(module, nn.Linear):
            plain: Any = nn.Linear(module.in_features, module.out_features, bias)
        else:
            settings = {name: getattr(module, name) for name in _SETTINGS}
            if isinstance(module, nn.modules.conv._ConvTransposeNd):
                settings["output_padding"] = module.output_padding
            plain = next(_PLAIN[kind.__name__] for kind in type(module).__mro__ if kind.__name__ in _PLAIN)(**settings, bias=bias)
        plain.bias = module.bias
        computed = not isinstance(module.weight, nn.Parameter)  # of others, as by weight_norm: what it is now counts
        plain.weight = nn.Parameter(module.weight.detach().clone()) if computed else module.weight
        for role in ("weight", "bias") if bias else ("weight",):
            self._constant(path, role, module, plain)
        before, behind = self._fake(module.input_quant, f"{path}.input"), self._fake(module.output_quant, f"{path}.output")
        if before is not None and before.label == f"{path}.input":
            before.place = f"{path}_input"  # it is attached before the layer is, so not below it
        if before is not None or behind is not None:
            self.around[path] = before, behind
        return plain  # type: ignore[no-any-return]

    def _constant(self, path: str, role: str, module: Any, plain: Any) -> None:
        proxy, name = getattr(module, f"{role}_quant"), f"{path}.{role}"
        results = self.seen.calls.get(id(proxy), [])
        if not proxy.is_quant_enabled or not results:
            return
        found = results[0]
        if any(not torch.equal(_plain(found), _plain(other)) for other in results[1:]):
            what = "is another number in every call, as its scale follows that of the input"
            raise UnsupportedError(what, where=name, remedy="give each call a layer of its own")
        if self.affine:
            self.whole[name] = _plain(found).detach(), self._affine(proxy, found, name, constant=True)
            return
        theirs = self._grid(proxy, found, name, axis_of=0, constant=True)
        weight = getattr(module, role)
        axis = theirs.axis
        if theirs.bipolar:
            parametrize.register_parametrization(plain, role, SignOf(theirs, weight))
        elif not theirs.scales and not torch.equal(FakeQuant(theirs, name)(weight.detach()), _plain(found)):
            with torch.no_grad():  # rounded in a way of its own
                setattr(plain, role, nn.Parameter(_plain(found).detach().clone()))
        if axis is not None and role == "weight" and axis == module.output_channel_dim:
            theirs = replace(theirs, axis=0)  # as layers here cast weights
        self.constants[name], self.numbers[name] = theirs, _plain(found).detach()

    def _fake(self, proxy: Any, label: str) -> Any:
        """The cast that a proxy of activations is, one for all places that share it."""
        if proxy is None or not proxy.is_quant_enabled:
            return None
        if id(proxy) not in self.fakes:
            results = self.seen.calls.get(id(proxy), [])
            if not results:
                raise UnsupportedError("is never called on the example", where=label, remedy="leave it out of the model")
            if self.affine:
                self.fakes[id(proxy)] = AffineCast(self._affine(proxy, results[0], label), label)
            else:
                self.fakes[id(proxy)] = FakeQuant(self._grid(proxy, results[0], label, axis_of=1), label)
        return self.fakes[id(proxy)]

    def _grid(self, proxy: Any, result: Any, where: str, *, axis_of: int, constant: bool = False) -> Grid:
        inner = next((part for part in proxy.modules() if _class(part) in _KINDS), None)
        if inner is None or type(result).__name__ != "IntQuantTensor":
            kinds = "integer, binary or ternary quantizers"
            raise UnsupportedError(f"is quantized by {type(proxy).__name__} to {type(result).__name__}", where=where, remedy=f"use {kinds}")
        scale, kind = result.scale.detach().cpu().numpy(), _class(inner)
        if kind in ("BinaryQuant", "ClampedBinaryQuant"):
            return bipolar(scale, where=where, nearest=self.nearest, axis_of=axis_of)
        settings: dict[str, Any] = {"where": where, "nearest": self.nearest, "axis_of": axis_of}
        if kind == "TernaryQuant":
            made = grid(scale, 0, 2, signed=True, narrow=True, rounding="HALF_DOWN", **settings)
            if float(inner.threshold) != 0.5 and not constant:
                remedy = "use a threshold of 0.5"
                raise UnsupportedError(f"is ternary with a threshold of {float(inner.threshold):g}", where=where, remedy=remedy)
            return made
        own = _class(inner.float_to_int_impl)
        rounding = _ROUNDING.get(own, "ROUND" if constant else own)
        zero_point, width = result.zero_point.detach().cpu().numpy(), result.bit_width.detach().cpu().numpy()
        return grid(scale, zero_point, width, signed=bool(result.signed), narrow=bool(inner.narrow_range), rounding=rounding, **settings)

    def _affine(self, proxy: Any, result: Any, where: str, *, constant: bool = False) -> Affine:
        """A quantizer with any scale."""
        inner = next((part for part in proxy.modules() if _class(part) in ("IntQuant", "DecoupledIntQuant")), None)
        if inner is None or type(result).__name__ != "IntQuantTensor" or (_ROUNDING.get(_class(inner.float_to_int_impl)) != "ROUND" and not constant):
            what = f"is quantized by {type(proxy).__name__} to {type(result).__name__}, not to the nearest integer"
            raise UnsupportedError(what, where=where, remedy="use integer quantizers that round to the nearest integer")
        scale, zero, width = (part.detach().cpu().double() for part in (result.scale, result.zero_point, result.bit_width))
        long = [axis for axis, size in enumerate(scale.shape) if size > 1]
        bits = int(width.reshape(-1)[0])
        if len(long) > 1 or bool((zero != zero.round()).any()) or bool((width != bits).any()):
            remedy = "use one whole number of bits, whole zero points, and one scale for the tensor or for each channel"
            raise UnsupportedError(f"has scales of shape {tuple(scale.shape)}, or zero points that are no integers", where=where, remedy=remedy)
        signed, narrow = bool(result.signed), bool(inner.narrow_range)
        low, high = (-(2 ** (bits - 1)) + narrow, 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1 - narrow)
        axis = long[0] if long and scale.dim() > 1 else 0 if long else None
        scales, zeros = tuple(scale.reshape(-1).tolist()), tuple(int(part) for part in zero.reshape(-1).unique().tolist())
        return Affine(scales, zeros, low, high, axis, Float.DIVIDED).checked(where)

    def activation(self, path: str, module: Any) -> nn.Module:
        before, proxy = self._fake(module.input_quant, f"{path}.input"), module.act_quant
        fused = proxy.fused_activation_quant_proxy
        function = None if fused is None else fused.activation_impl
        if function is not None and _class(function) == "Identity":
            function = None
        if _class(function) in ("Sigmoid", "Tanh"):  # Brevitas has subclasses of its own
            function = getattr(nn, _class(function))()
        if function is not None and not type(function).__module__.startswith("torch.nn"):
            what = f"has the activation {type(function).__name__}"
            raise UnsupportedError(what, where=path, remedy="use QuantReLU or QuantIdentity behind a layer of torch")
        return _Activation(before, function, self._marking(module, self._fake(proxy, f"{path}.output")))

    def _marking(self, module: Any, fake: Any) -> Any:
        """A layer's last cast, whose results the source's forward may take for QuantTensors."""
        if fake is not None and getattr(module, "return_quant_tensor", False):
            fake.marks = as_quantized
        return fake

    def pool(self, path: str, module: Any) -> nn.Module:
        if isinstance(module, nn.AvgPool2d):
            settings = (module.kernel_size, module.stride, module.padding, module.ceil_mode, module.count_include_pad, module.divisor_override)
            average: nn.Module = nn.AvgPool2d(*settings)
        else:
            average = nn.AdaptiveAvgPool2d(module.output_size)
        return _Activation(None, average, self._marking(module, self._fake(module.trunc_quant, f"{path}.output")))

    def accumulator(self, path: str, module: Any) -> nn.Module:
        return _Activation(None, None, self._marking(module, self._fake(module.trunc_quant, f"{path}.output")))

    def add(self, path: str, module: Any) -> nn.Module:
        behind = self._marking(module, self._fake(module.output_quant, f"{path}.output"))
        return _Sum(self._fake(module.input_quant, f"{path}.input"), behind)

    def upsample(self, path: str, module: Any) -> nn.Module:
        if module.mode != "nearest":
            raise UnsupportedError(f"{module.mode} upsampling", where=path, remedy="use mode='nearest'")
        return nn.Upsample(module.size, module.scale_factor, module.mode)


_MAKERS: dict[str, Callable[[Reader, str, Any], nn.Module]] = {
    **dict.fromkeys(("QuantLinear", *_PLAIN), Reader.weighted),
    **dict.fromkeys(("QuantIdentity", "QuantReLU", "QuantHardTanh", "QuantSigmoid", "QuantTanh", "QuantHardSwish"), Reader.activation),
    **dict.fromkeys(("TruncAvgPool2d", "TruncAdaptiveAvgPool2d"), Reader.pool),
    "TruncQuantAccumulator": Reader.accumulator,
    "QuantEltwiseAdd": Reader.add,
    **dict.fromkeys(("QuantUpsample", "QuantUpsamplingNearest2d"), Reader.upsample),
}


def _is_layer(module: nn.Module) -> bool:
    """Whether it is a layer of Brevitas, or of a subclass."""
    return any(kind.__module__.startswith("brevitas.nn") for kind in type(module).__mro__)


def _class(module: Any) -> str:
    """The class of a module, a compiled one's too."""
    return str(getattr(module, "original_name", type(module).__name__))


def _remedy(kind: str) -> str:
    if "LSTM" in kind or "RNN" in kind or "Attention" in kind:
        return "compose it of layers that have one, or give the float model to qfx.quantize"
    return "use QuantLinear, QuantConv, QuantReLU, QuantIdentity, QuantEltwiseAdd, TruncAvgPool2d or layers of torch"
