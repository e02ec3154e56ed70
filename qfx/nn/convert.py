"""``quantize()``: an ordinary float module becomes the same network in trainable fixed point."""

from __future__ import annotations

import copy
import inspect
from collections import OrderedDict
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from qfx.capture.refusals.blockers import blockers, changed_modules, norm_called_twice, output_problems, refusal, require_supported, require_traceable
from qfx.capture.refusals.remedies import OTHERS, plain_remedy
from qfx.capture.trace import Traced, base_layer, capture, is_layer
from qfx.errors import DataError, QfxError, RecipeError, UnsupportedError, together
from qfx.nn.functional import (
    Named,
    QAdd,
    QConcat,
    QDropout,
    QInput,
    QLeakyReLU,
    QMaxPool,
    QPad,
    QPermute,
    QReLU,
    QReLU6,
    QReshape,
    QSlice,
    QSub,
    QUpsample,
)
from qfx.nn.layers import Weighted
from qfx.nn.lookup import find, only_moves
from qfx.nn.model import QuantizedModel, quantizers, unwrapped
from qfx.nn.norm import Norm, QBatchNorm, QFoldedBatchNorm
from qfx.nn.qtensor import QTensor
from qfx.nn.quantizer import Quantizer
from qfx.recipe import Recipe

MAX_EXACT_BITS = 48
"""A result that would need more bits than this is cast before it grows further, well below float64's 53."""

_TAKES_EXACT = (QBatchNorm, QAdd, QSub, QReLU, QLeakyReLU, QReLU6, QDropout)
"""Layers that may read a result which is not cast yet; every other layer reads cast values."""

_KEEPS_GRID = (QReLU, QReLU6, QMaxPool, QConcat, QReshape, QPermute, QPad, QSlice, QUpsample, QDropout)
"""Layers that give cast values for cast values; the result of every other layer is due for a Cast."""

_ENDS_CHAIN = (QReLU, QLeakyReLU, QReLU6)
"""Layers behind which a Cast that is due stands at once."""


@dataclass
class _Value:
    """A tensor of the network under construction: its node, its data on the example, whether a Cast is still due, and the role of that Cast."""

    node: fx.Node
    data: QTensor
    due: bool
    path: str
    role: str


def quantize(model: nn.Module, example_input: Tensor, recipe: Recipe | None = None) -> QuantizedModel:
    """The same network in fixed point: trainable, and initialised from ``example_input``.

    ``model`` is left as it is; DataParallel, DistributedDataParallel, AveragedModel and torch.compile around it are looked through. The result is a
    ``torch.fx.GraphModule`` whose parameters keep their names (a float checkpoint of ``model`` loads into it), plus one ``frac_bits`` per quantizer:
    the binary points, which any optimizer learns. ``example_input``: a batch of real inputs, batch first; binary points start where the squared error
    on it is least. ``recipe``: word lengths, modes, granularity; default Recipe().

    Casts stand behind every chain of {convolution, linear} -> BatchNorm -> addition -> activation, behind pooling averages and products, at
    the input and at the output; inside a chain the numbers are exact, however wide. A ``model`` that is a single torch layer is named
    "layer".

    Raises UnsupportedError for modules and operators without a fixed-point form, or control flow that depends on data: it lists all of them
    (``error.blockers``); DataError for NaN,
    infinity or a wrong shape; RecipeError for a pattern that matches nothing.
    """
    recipe = Recipe() if recipe is None else recipe
    if not isinstance(recipe, Recipe):
        raise RecipeError(f"is a {type(recipe).__name__}", where="recipe", remedy="give a Recipe; Recipe.load(path) reads one")
    if not isinstance(example_input, Tensor) or example_input.dim() < 2 or example_input.shape[0] < 1:
        raise DataError("must be one tensor, batch first", where="example_input", remedy="give a batch of real inputs")
    if not bool(torch.isfinite(example_input).all()):
        raise DataError("NaN or infinity", where="example_input", remedy="clean the data")
    model = unwrapped(model)
    _check_model(model)
    with torch.inference_mode(False), torch.no_grad():
        result = _built(_copied(model), example_input, recipe, type(model).__name__)
    recipe.check_patterns({name: quantizer.also for name, quantizer in quantizers(result)})
    if any(parameter.dtype is torch.float64 for parameter in model.parameters()):
        result.double()
    result.train(model.training)
    names = {name for name, _ in result.named_modules()}
    for name, module in model.named_modules():  # a BatchNorm that was frozen stays frozen
        if name in names:
            result.get_submodule(name).training = module.training
    return result


def _check_model(model: nn.Module) -> None:
    """Refuse what tracing would not see, and numbers that have no fixed-point form."""
    if not isinstance(model, nn.Module):
        raise UnsupportedError(f"{type(model).__name__} is not a torch.nn.Module", where="model", remedy="give the float model itself")
    if isinstance(model, torch.jit.ScriptModule):
        raise UnsupportedError("is a TorchScript module", where="model", remedy="give the Python module that it was made of")
    if any(isinstance(module, QInput) for module in model.modules()):
        raise UnsupportedError(
            "is quantized already", where=type(model).__name__, remedy="give the float model; qfx.calibrate starts binary points anew"
        )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise DataError("is not initialized yet", where=name, remedy="run the model once on an example: model(example_input)")
        if not bool(torch.isfinite(tensor).all()):
            raise DataError("NaN or infinity", where=name, remedy="repair the checkpoint")


def _copied(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode; of a single layer, one that gives it a name."""
    changed = tuple(changed_modules(model))
    try:
        source = copy.deepcopy(model).eval()
    except RuntimeError as error:  # torch's refusal of tensors with a history: a pruned weight, say
        if changed:
            raise together(changed, where=type(model).__name__) from error
        message = str(error).split(". ")[0]
        remedy = "let the model keep no results of earlier calls, only parameters and buffers"
        raise UnsupportedError(f"cannot be copied: {message}", where=type(model).__name__, remedy=remedy) from error
    require_traceable(model, changed)
    if not is_layer(model):
        return source
    if sum(each.default is each.empty for each in inspect.signature(model.forward).parameters.values()) > 1:
        name = type(model).__name__
        raise UnsupportedError(f"{name} has no fixed-point form in qfx", where=name, remedy=plain_remedy(name, OTHERS))
    return nn.Sequential(OrderedDict(layer=source))


def _built(source: nn.Module, example: Tensor, recipe: Recipe, name: str) -> QuantizedModel:
    """The fixed-point network. A model that cannot become one is refused with all that stands in the way."""
    if any(True for _ in changed_modules(source)):
        require_supported(source, example, recipe)
    traced = capture(source, example)
    found: tuple[UnsupportedError, ...] = ()
    if traced.stopped is None and traced.differs is None and not traced.refused:
        try:
            return _Builder(traced, recipe).build(example)
        except UnsupportedError as error:
            found = (error,)
    all_found = blockers(traced, recipe)
    known = {error.what for error in all_found}
    raise refusal(source, example, traced, all_found + tuple(error for error in found if error.what not in known), name)


def _initialize(module: nn.Module, args: tuple[object, ...]) -> None:
    initialize = getattr(module, "initialize", None)
    if initialize is not None:
        initialize(*args)


class _Builder:
    """Builds the fixed-point network node by node, running it on the example as it grows: every binary point starts from the data that
    reaches it."""

    def __init__(self, traced: Traced, recipe: Recipe) -> None:
        self.traced, self.recipe = traced, recipe
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.values: dict[fx.Node, _Value] = {}
        self.paths = {name for name, _ in traced.module.named_modules()} | {name for name, _ in traced.module.named_parameters()}
        self.used: set[str] = set()
        self.first: dict[str, str] = {}  # of a layer that is a module's second call or a later one: what the first is called
        self.sites: dict[tuple[str, str, int], str] = {}

    def build(self, example: Tensor) -> QuantizedModel:
        for node in self.traced.module.graph.nodes:
            if node.op == "placeholder" and node in self.traced.shapes:
                self._input(node, self.traced.shapes[node], example)
            elif node.op == "output":
                self._output(node)
            elif node in self.traced.shapes and node not in self.values and self.traced.tensor_users(node):
                self._operation(node)
        return QuantizedModel(self.root, self.graph, class_name="QuantizedModel")

    def _input(self, node: fx.Node, shape: tuple[int, ...], example: Tensor) -> None:
        placeholder = self.graph.placeholder(node.name)
        layer = QInput(shape, self.recipe)
        path = self._attach(self._free("input"), layer)
        layer.initialize(example)
        self.values[node] = _Value(self.graph.call_module(path, (placeholder,)), layer(example), due=False, path=path, role="input")

    def _operation(self, node: fx.Node) -> None:
        path = str(node.target) if node.op == "call_module" else self._functional_path(node)
        try:
            self._convert(node, path)
        except QfxError as error:
            if error.where:
                raise
            raise type(error)(error.what, where=path, remedy=error.remedy) from error

    def _convert(self, node: fx.Node, path: str) -> None:
        rule, call = find(node, path, self.traced, self.recipe)
        site = self.traced.site(node)
        first = path if site is None else self.sites.setdefault(site, path)
        if site is None and path in self.used and not isinstance(self.root.get_submodule(path), Weighted | Norm):
            path = self._free(path)
        if path != first:
            self.first[path] = first
            call = replace(call, path=path, first=first)
        layers = rule(call)
        sources = [source for source in call.inputs if source in self.values]
        if not layers:
            self.values[node] = self.values[sources[0]]
            return
        for index, layer in enumerate(layers):
            inputs = [self._ready(source, layer, node) for source in sources] if index == 0 else [self._cast(self.values[node])]
            if isinstance(layer, QAdd | QSub) and (inputs[0].data.interval | inputs[1].data.interval).magnitude_bits >= MAX_EXACT_BITS:
                inputs = [self._settled(value) for value in inputs]  # each is short, but their grids lie far apart
            self.values[node] = self._apply(layer, path if index == 0 else f"{path}_{index}", inputs, node)
        shape = tuple(self.values[node].data.shape[1:])
        if shape != call.out_shape:
            raise call.refuse(f"{call.name} gives {call.out_shape} in float and {shape} here", "please report this defect")

    def _apply(self, layer: nn.Module, path: str, inputs: list[_Value], node: fx.Node) -> _Value:
        extra: tuple[fx.Node, ...] = ()
        arguments: tuple[object, ...] = tuple(value.data for value in inputs)
        if isinstance(layer, Norm) and path in self.used:
            raise norm_called_twice(path)
        shared = isinstance(layer, Weighted) and path in self.used
        if shared:  # the same module called again keeps its one set of constants
            layer = self.root.get_submodule(path)
        else:
            path = self._attach(path, layer)
        norm = self._norm_to_fold(node) if isinstance(layer, Weighted) else None
        if norm is not None:
            arguments, extra = self._fold(layer, norm, arguments)
        if not shared:
            _initialize(layer, arguments)
        data = layer(*arguments)
        result = self.graph.call_module(path, (*(value.node for value in inputs), *extra))
        due = not isinstance(layer, _KEEPS_GRID) or any(value.due for value in inputs)
        name = inputs[0].path if isinstance(layer, QDropout) else path  # a Cast behind dropout belongs to the layer before it
        value = _Value(result, data, due, name, self._role(norm or node))
        if norm is not None:
            self.values[norm] = value
        return self._cast(value) if due and isinstance(layer, _ENDS_CHAIN) else value

    def _fold(self, layer: nn.Module, norm: fx.Node, arguments: tuple[object, ...]) -> tuple[tuple[object, ...], tuple[fx.Node, ...]]:
        """Make the BatchNorm of node ``norm`` a partner of the layer before it."""
        source = self.traced.module.get_submodule(str(norm.target))
        folded = QFoldedBatchNorm(source, str(norm.target))  # type: ignore[arg-type]
        assert isinstance(layer, Weighted)
        if folded.is_untrained:
            folded.start_from(layer.in_float(arguments[0]))  # type: ignore[arg-type]
        path = self._attach(str(norm.target), folded)
        return (*arguments, folded()), (self.graph.call_module(path),)

    def _norm_to_fold(self, node: fx.Node) -> fx.Node | None:
        if self.recipe.batch_norm != "fold":
            return None
        users = self.traced.tensor_users(node)
        if len(users) != 1 or users[0].op != "call_module":
            return None
        module = self.traced.module.get_submodule(str(users[0].target))
        once = sum(other.target in (users[0].target, node.target) for other in self.traced.module.graph.nodes) == 2
        is_norm = base_layer(module) in (nn.BatchNorm1d, nn.BatchNorm2d) and getattr(module, "running_mean", None) is not None
        return users[0] if once and is_norm else None

    def _ready(self, source: fx.Node, layer: nn.Module, node: fx.Node) -> _Value:
        """The value as the layer may read it: cast first where that is due."""
        value = self.values[source]
        if not value.due:
            return value
        alone = len(self.traced.tensor_users(source)) == 1
        small = value.data.interval.magnitude_bits <= MAX_EXACT_BITS - (self.recipe.scale.width if isinstance(layer, QBatchNorm) else 1)
        if alone and small and isinstance(layer, _TAKES_EXACT):
            return value
        return self._settled(value)

    def _settled(self, value: _Value) -> _Value:
        """The value after the Cast that is due, from here on for all who read it."""
        cast = self._cast(value)
        for other, known in self.values.items():
            if known is value:
                self.values[other] = cast
        return cast

    def _cast(self, value: _Value) -> _Value:
        if not value.due:
            return value
        name = value.path
        path, count = f"{name}.output_cast", 1
        while path in self.used:
            path, count = f"{name}.output_cast_{count}", count + 1
        label = f"{name}.output" + path.removeprefix(f"{name}.output_cast")
        also = f"{self.first.get(name, name)}.output"
        quantizer = Quantizer(self.recipe.spec(label, value.role, also), name=label, also=also)
        self._attach(path, quantizer)
        quantizer.initialize(value.data)
        return _Value(self.graph.call_module(path, (value.node,)), quantizer(value.data), due=False, path=name, role=value.role)

    def _role(self, node: fx.Node) -> str:
        """Which spec a Cast of the node's value takes: "output" if the value only moves from here to the model's output, else "activation"."""
        users = self.traced.tensor_users(node)
        leaves = all(user.op == "output" or (only_moves(user, self.traced) and self._role(user) == "output") for user in users)
        return "output" if leaves else "activation"

    def _output(self, node: fx.Node) -> None:
        for problem in output_problems(node, self.traced):
            raise problem
        (source,) = node.all_input_nodes
        value = self._cast(self.values[source])
        self.graph.output(self.graph.call_method("tensor", (value.node,)))

    def _functional_path(self, node: fx.Node) -> str:
        """Where a functional call gets its place: below the module that makes it, under the operation's name."""
        parent = self.traced.path(node)
        base = getattr(node.target, "__name__", str(node.target)).strip("_")
        path = f"{parent}.{base}" if parent else base
        return self._free(path)

    def _free(self, path: str) -> str:
        candidate, count = path, 1
        while candidate in self.paths or candidate in self.used:
            candidate, count = f"{path}_{count}", count + 1
        return candidate

    def _attach(self, path: str, module: nn.Module) -> str:
        """Put the module at a dotted path (or, if that is taken, one beside it) and return where it is."""
        if path in self.used:
            path = self._free(path)
        *parents, leaf = path.split(".")
        holder = self.root
        for name in parents:
            if not hasattr(holder, name):
                holder.add_module(name, nn.Module())
            holder = getattr(holder, name)
        if hasattr(holder, leaf):
            raise UnsupportedError(f"the name {path!r} is taken", where=path, remedy="rename the module")
        if isinstance(module, Named):
            module.name = path
        holder.add_module(leaf, module.eval())  # while it is built, nothing drops out and no statistics move
        self.used.add(path)
        return path
