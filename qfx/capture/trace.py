"""From a float module to its graph: symbolic tracing, and what every node gives on real data."""

from __future__ import annotations

import builtins
import contextlib
import inspect
import operator
import re
import traceback
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from qfx.capture.any_names import AnyNameModule
from qfx.capture.refusals import remedies
from qfx.capture.refusals.remedy_texts import OF_SHAPES, TEXTS
from qfx.capture.refusals.rewrites import Shape
from qfx.errors import DataError, UnsupportedError, together
from qfx.ir.rules import MAX_RANK


@dataclass(frozen=True)
class Traced:
    """A float model's graph, with the shape (batch left out) of every node that gives a tensor computed from the input, and the value of every one
    that gives no tensor.

    ``fixed``: the tensors that do not depend on the input, parameters and what is computed of them. ``refused``: the nodes that have no place in a
    fixed-point network, whatever comes of the others. ``tainted``: those whose shape has none. ``stopped``: why tracing ended before the end of the
    model; the graph then gives None. ``differs``: that the model computes something else than the graph.
    """

    module: fx.GraphModule
    shapes: dict[fx.Node, tuple[int, ...]]
    constants: dict[fx.Node, Any]
    fixed: Mapping[fx.Node, Tensor] = field(default_factory=dict)
    refused: Mapping[fx.Node, UnsupportedError] = field(default_factory=dict)
    tainted: Set[fx.Node] = frozenset()
    stopped: UnsupportedError | None = None
    differs: UnsupportedError | None = None

    def tensor_users(self, node: fx.Node) -> list[fx.Node]:
        """The nodes that compute with the tensor, not only ask for its size; the output node included."""
        return [user for user in node.users if user in self.shapes or user.op == "output"]

    def resolve(self, argument: Any) -> Any:
        """An argument with nodes of known value replaced by it; nodes that give tensors stay."""
        return fx.map_arg(argument, lambda node: self.constants.get(node, node))

    def path(self, node: fx.Node) -> str:
        """The dotted path of the module in whose forward the node was called."""
        return _caller(node)

    def site(self, node: fx.Node) -> tuple[str, str, int] | None:
        """Which call in the user's forward the node is: a module that runs several times makes several nodes of one such call. None for layers."""
        return node.meta.get(_SITE)

    def place(self, node: fx.Node) -> str:
        """Where an error says that a node is: its module, or the operation below the module that calls it."""
        return _place(node)


_SITE = "qfx_site"


_CALL, _GETATTR = nn.Module.__call__, nn.Module.__getattr__


@contextlib.contextmanager
def _untraced() -> Iterator[None]:
    """While a model is traced, fx replaces two methods of ``nn.Module``; here they are themselves again."""
    traced = nn.Module.__call__, nn.Module.__getattr__
    nn.Module.__call__, nn.Module.__getattr__ = _CALL, _GETATTR  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__call__, nn.Module.__getattr__ = traced  # type: ignore[method-assign]


class _Proxy(fx.Proxy):
    """A symbolic tensor of known sizes: Python may decide by every size but the batch's, which stays symbolic."""

    tracer: _Tracer

    @property
    def shape(self) -> Any:
        sizes = self.tracer.sizes(self.node)
        symbolic: Any = super().__getattr__("shape")
        return symbolic if sizes is None else (symbolic[0], *sizes[1:])

    def size(self, dim: int | None = None) -> Any:
        shape = self.shape
        return shape if dim is None else shape[dim]

    def dim(self) -> Any:
        sizes = self.tracer.sizes(self.node)
        return self.tracer.create_proxy("call_method", "dim", (self,), {}) if sizes is None else len(sizes)

    @property
    def ndim(self) -> Any:
        return self.dim()

    @property
    def dtype(self) -> Any:
        value = self.tracer.values.get(self.node)
        return value.dtype if isinstance(value, Tensor) else super().__getattr__("dtype")

    def __len__(self) -> int:
        value = self.tracer.values.get(self.node)
        if isinstance(value, Tensor):
            raise _StopError(
                "asks for the length of the batch", "write x.shape[0], which may be used as a size; let nothing else depend on the batch"
            )
        return len(value) if isinstance(value, tuple | list) else super().__len__()

    def __iter__(self) -> Iterator[Any]:
        value = self.tracer.values.get(self.node)
        if isinstance(value, Tensor):
            raise _StopError("goes through the samples of the batch one by one", "compute with the whole batch at once")
        proxy: Any = self
        return iter([proxy[place] for place in range(len(value))]) if isinstance(value, tuple | list) else super().__iter__()


class _StopError(UnsupportedError):
    """Raised in the user's forward; where that is, ``capture`` finds out."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what, remedy=remedy)


class _Tracer(fx.Tracer):
    """Also takes user subclasses of torch's layers as one piece, as long as they compute the same.

    Every operation is carried out on ``example`` while it is traced, so that sizes are known. The model is called as ``model(x)``: its other
    parameters have their defaults.
    """

    def __init__(self, example: Tensor) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}  # of operations by name, in the present run of a module's forward
        self.place = ""  # the module whose forward runs, also after it has raised
        self.example = example
        self.values: dict[fx.Node, Any] = {}

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        parameters = list(inspect.signature(root_fn).parameters.values())
        if is_module and parameters and parameters[0].kind is not parameters[0].VAR_POSITIONAL:
            del parameters[0]  # self
        needed = [each.name for each in parameters if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
        if len(needed) > 1 or not parameters:
            inputs = f"has {len(needed)} inputs" + (f": {', '.join(needed)}" if needed else "")
            raise _StopError(inputs, "give a module with exactly one tensor input: write one whose forward(self, x) calls this one")
        return root_fn, [*([self.root] if is_module else []), self.create_proxy("placeholder", parameters[0].name, (), {})]

    def sizes(self, node: fx.Node) -> tuple[int, ...] | None:
        """Those of the node's tensor on the example; None if it gives something else."""
        value = self.values.get(node)
        return tuple(value.shape) if isinstance(value, Tensor) and value.dim() else None

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        if node.op in ("call_function", "call_method"):
            name = _operator(node)
            node.meta[_SITE] = (self.place, name, self.counts.setdefault(name, 0))
            self.counts[name] += 1
        # What does not run here is left unknown: running the whole graph tells the user why.
        with contextlib.suppress(Exception), torch.no_grad(), _untraced():
            self.values[node] = self._run(node)
        return node

    def _run(self, node: fx.Node) -> Any:
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda source: self.values[source])
        if node.op == "placeholder":
            return self.example
        if node.op == "call_module":
            return self.root.get_submodule(str(node.target))(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(self.root)
        return node.target(*args, **kwargs) if callable(node.target) else None

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        caller, self.place = self.place, self.path_of_module(m)
        counts, self.counts = self.counts, {}
        result = super().call_module(m, forward, args, kwargs)
        self.place, self.counts = caller, counts
        return result

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        base = base_layer(m)
        return super().is_leaf_module(m, module_qualified_name) or (base is not type(m) and base is not nn.Sequential)


_HARMLESS = ("extra_repr", "reset_parameters")
"""Methods that a user's subclass may override without changing what the layer computes."""


def base_layer(module: nn.Module) -> type[nn.Module]:
    """The class that says what the module computes: torch's, for a subclass that overrides none of its methods."""
    mine = [base for base in type(module).__mro__ if not base.__module__.startswith("torch.nn.") and base is not object]
    base = next(base for base in type(module).__mro__ if base.__module__.startswith("torch.nn."))
    names = {name for own in mine for name in vars(own) if not name.startswith("__") or name in ("__call__", "__getattr__")}
    changed = {name for name in names if name not in _HARMLESS and callable(getattr(base, name, None))}
    if base is nn.Module or changed:
        return type(module)
    return base


def is_layer(module: nn.Module) -> bool:
    """Whether the module is a layer of torch or a subclass that computes the same: one piece in a trace."""
    return base_layer(module).__module__.startswith("torch.nn.") and not isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict)


def trace(model: nn.Module, example: Tensor) -> Traced:
    """Trace ``model`` (in evaluation mode) and run it on ``example`` to learn shapes.

    Raises UnsupportedError, which lists all that it found, for control flow that depends on data, for several inputs, for a batch axis that gets
    mixed with others, for a tensor that is changed in place and read again; DataError for an example that the model does not take.
    """
    traced = capture(model, example)
    found = [*traced.refused.values(), *(error for error in (traced.stopped, traced.differs) if error is not None)]
    if found:
        raise together(found, where=type(model).__name__)
    return traced


def capture(model: nn.Module, example: Tensor) -> Traced:
    """``trace``, but what is not supported is noted in the result. Raises UnsupportedError only for a model that reads no input; DataError."""
    tracer = _Tracer(_rows(example, 2))
    stopped = None
    try:
        graph = tracer.trace(model)
    except Exception as error:  # whatever the user's forward raises on symbolic values
        stopped = _stop(error, tracer.place or type(model).__name__)
        graph = tracer.graph
        graph.output(None)
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    if stopped is None and not inputs[0].users:
        raise UnsupportedError("has 0 inputs", where=type(model).__name__, remedy="give a module whose result depends on its one tensor input")
    module = AnyNameModule(model, graph)
    # Two batch sizes tell the batch axis from the others.
    recorders = [_Recorder(module, _dependent(graph)) for _ in range(2)]
    try:
        small, large = (recorder.record(_rows(example, count)) for recorder, count in zip(recorders, (2, 3), strict=True))
    except DataError:
        if stopped is None:
            raise
        small, large = (recorder.values for recorder in recorders)
    refused = recorders[0].refused
    differs = _difference(model, _rows(example, 3), large) if stopped is None and not refused else None
    shapes: dict[fx.Node, tuple[int, ...]] = {}
    constants: dict[fx.Node, Any] = {}
    fixed: dict[fx.Node, Tensor] = {}
    tainted: set[fx.Node] = set()
    for node, value in small.items():
        if node.op == "output" or node not in large:
            continue
        if isinstance(value, Tensor):
            if node in recorders[0].dependent:
                shapes[node] = tuple(value.shape[1:])
                problem = _misshapen(node, value, large[node])
                if problem is not None and node not in refused and not any(source in refused or source in tainted for source in node.all_input_nodes):
                    refused[node] = problem
                if problem is not None:
                    tainted.add(node)
            else:
                fixed[node] = value
        elif node not in refused and not _holds_tensors(value) and _equal(value, large[node]):  # what follows the batch size is no constant
            constants[node] = value
    return Traced(module, shapes, constants, fixed, {node: refused[node] for node in graph.nodes if node in refused}, tainted, stopped, differs)


_CONSTANT_MAKERS = re.compile(
    r"torch\.(zeros|ones|full|empty|rand|randn|arange|linspace|eye|tensor|as_tensor)\(|\.new_(zeros|ones|full|empty|tensor)\("
)


def _stop(error: Exception, place: str) -> UnsupportedError:
    """Why tracing ended, where in the user's code, and what to do."""
    every = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in every if not _is_library(frame.filename)]
    line = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno}: {frames[-1].line})" if frames and frames[-1].line else ""
    if isinstance(error, _StopError):
        what = error.what if error.what.startswith("has ") else f"cannot be traced: it {error.what}{line}"
        return UnsupportedError(what, where=place, remedy=error.remedy)
    message = str(error).split("\n")[0].partition(". ")[0]
    remedy = "let no Python decision in forward depend on data or on the batch size (other sizes and module attributes are fine)"
    if isinstance(error, TypeError) and _CONSTANT_MAKERS.search(line):
        remedy = (
            "make no tensor of the batch's size in forward: zeros beside a value are F.pad(x, ...), and other constants belong into a layer's bias"
        )
    elif not _is_library(every[-1].filename) and re.search(r"\b(raise|assert)\b", every[-1].line or ""):
        remedy = "forward raises this itself: while it is traced, isinstance and torch.is_tensor find no tensor; leave the check out"
    elif re.search(r"\.(item|numpy|tolist)\(|\b(int|float|bool)\(", line):
        remedy = "make no Python number of data in forward: compute with tensors, or ahead of the model"
    return UnsupportedError(f"cannot be traced: {message or type(error).__name__}{line}", where=place, remedy=remedy)


def _is_library(filename: str) -> bool:
    roots = (Path(torch.__file__).parent, Path(__file__).parents[1])
    return any(root in Path(filename).parents for root in roots) or filename.startswith("<")


def _dependent(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that are computed from the input."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or any(source in found for source in node.all_input_nodes):
            found.add(node)
    return found


def _difference(model: nn.Module, x: Tensor, traced: dict[fx.Node, Any]) -> UnsupportedError | None:
    """Whether a model computes something else than its graph: tracing takes ``x += y`` for ``x = x + y``, and randomness for a constant."""
    with torch.no_grad():
        expected, actual = model(x), next(value for node, value in traced.items() if node.op == "output")
    if not isinstance(expected, Tensor) or not isinstance(actual, Tensor):
        return None  # refused later, with a better reason
    scale = float(expected.nan_to_num(0.0, 0.0, 0.0).abs().max()) if expected.numel() else 0.0
    if expected.shape == actual.shape and torch.allclose(expected, actual, rtol=0.0, atol=1e-3 * scale, equal_nan=True):
        return None
    return UnsupportedError(
        "computes something else when it is traced",
        where=type(model).__name__,
        remedy="write x = x + y where another name stands for x too, and keep randomness out of inference (F.dropout(x, training=self.training))",
    )


def _misshapen(node: fx.Node, value: Tensor, other: Any) -> UnsupportedError | None:
    """What is wrong with the shape of a tensor, for its values on batches of 2 and 3."""
    name = _operator(node)
    if value.dim() < 2 or value.shape[0] != 2 or other.shape != (3, *value.shape[1:]):
        remedy = "keep the batch as the first axis of every tensor, with at least one axis behind it"
        if remedies.key(name) in TEXTS and remedies.key(name) not in OF_SHAPES:
            remedy = TEXTS[remedies.key(name)]
        elif value.dim() == 1 and value.shape[0] == 2:
            remedy = "leave one axis behind the batch: shape (batch, 1), which the host may squeeze"
        elif remedies.key(name) in ("stack", "vstack"):
            remedy = TEXTS["stack"]
        what = f"gives shape {tuple(value.shape)} for a batch of 2 and {tuple(other.shape)} for a batch of 3"
        return UnsupportedError(_said(node, what), where=_place(node), remedy=remedy)
    if value.dim() > MAX_RANK + 1 or value.numel() == 0:
        return UnsupportedError(
            _said(node, f"gives shape {tuple(value.shape)} for a batch of 2"), where=_place(node), remedy=_fewer_axes(node, value)
        )
    return None


def _said(node: fx.Node, what: str) -> str:
    """A complaint about a node, with the name of the operation where its place does not say that."""
    if node.op == "placeholder":
        return f"the model's input {what}"
    name = _operator(node)
    return what if name in (_place(node).rpartition(".")[2], node.name.rstrip("0123456789").strip("_")) else f"{name} {what}"


def _fewer_axes(node: fx.Node, value: Tensor) -> str:
    if value.dim() <= MAX_RANK + 1:
        return "leave no axis empty"
    if node.op != "placeholder" and _only_reorders(node):
        return "at the end of a model leave it out, with what follows it: the host reorders the result"
    return f"a value has at most {MAX_RANK} axes behind the batch: make one of them part of another"


def _equal(a: Any, b: Any) -> bool:
    """Whether two Python values are the same; arrays are not looked at."""
    return type(a) is type(b) and not hasattr(a, "__array__") and bool(a == b)


_REORDERS = ("view", "reshape", "permute", "transpose", "contiguous", "flatten", "unflatten", "squeeze", "unsqueeze", "movedim", "getattr", "size")


def _only_reorders(node: fx.Node) -> bool:
    """Whether nothing but moves lies between the node and the output."""
    return all(user.op == "output" or (_operator(user) in _REORDERS and _only_reorders(user)) for user in node.users)


def _holds_tensors(value: Any) -> bool:
    return any(isinstance(leaf, Tensor) for leaf in tree_leaves(value))


def _operator(node: fx.Node) -> str:
    """What the user calls the operation."""
    if node.op == "call_module":
        module = node.graph.owning_module.get_submodule(str(node.target)) if node.graph.owning_module is not None else None
        return str(node.target) if module is None else base_layer(module).__name__
    return str(getattr(node.target, "__name__", node.target)).strip("_")


def _caller(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


def _place(node: fx.Node) -> str:
    """Where an error says that a node is: its module, or the operation below the module that calls it."""
    if node.op == "call_module":
        return str(node.target)
    caller, name = _caller(node), node.name
    own = str(getattr(node.target, "__name__", node.target))
    if hasattr(builtins, own) and name == f"{own}_1":  # fx avoids the names of builtins, as in max_1
        name = own
    return f"{caller}.{name}" if caller else name


def _rows(example: Tensor, count: int) -> Tensor:
    index = torch.arange(count, device=example.device) % example.shape[0]
    return example[index]


class _Recorder(fx.Interpreter):
    """Runs the graph and keeps what every node gave. The fixed-point network changes nothing in place: a model that can tell is refused.

    ``refused``: what has no place in a fixed-point network. ``dependent``: the nodes that are computed from the input.
    """

    def __init__(self, module: fx.GraphModule, dependent: set[fx.Node]) -> None:
        super().__init__(module)
        self.values: dict[fx.Node, Any] = {}
        self.refused: dict[fx.Node, UnsupportedError] = {}
        self.dependent = dependent
        self.place = {node: index for index, node in enumerate(module.graph.nodes)}

    def record(self, x: Tensor) -> dict[fx.Node, Any]:
        with torch.no_grad():
            try:
                self.run(x)
            except Exception as error:  # whatever the user's model raises on this input
                message = str(error).split("\n")[0]
                remedy = "give one real batch, and let the model take any batch size: x.shape[0] or -1 in place of a number"
                if not x.is_floating_point():
                    remedy = f"give floating-point numbers, as the model takes them: the example is {x.dtype}, example.float() may do"
                raise DataError(
                    f"the model does not run on an example of shape {tuple(x.shape)}: {message}", where="example_input", remedy=remedy
                ) from error
        return self.values

    def run_node(self, n: fx.Node) -> Any:
        versions = {node: value._version for node, value in self.values.items() if isinstance(value, Tensor)}
        value = super().run_node(n)
        for node, version in versions.items():  # a view shares its base's version
            if self.values[node]._version != version and any(self.place[user] > self.place[n] for user in node.users):
                self.refused[n] = UnsupportedError(
                    f"changes the result of {node.name!r} in place, which is read again later",
                    where=_place(n),
                    remedy="use the form that is not in place (inplace=False, x = x + y), and its result",
                )
                break
        several = n.op != "output" and n in self.dependent and not isinstance(value, Tensor) and _holds_tensors(value)
        if several and not any(source in self.refused for source in (n, *n.all_input_nodes)):
            self.refused[n] = self._several(n, value)
        self.values[n] = value
        return value

    def _several(self, node: fx.Node, value: Any) -> UnsupportedError:
        """A refusal of what gives several tensors."""
        name = _operator(node)
        shapes = tuple(tuple(leaf.shape[1:]) for leaf in tree_leaves(value) if isinstance(leaf, Tensor))
        module = self.module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if remedies.key(name) in ("boolean", "fn", "maxpool1d", "maxpool2d", "adaptivemaxpool1d", "adaptivemaxpool2d") or "pool" in remedies.key(
            name
        ):
            remedy = "leave return_indices off; to undo the pooling, train with nn.Upsample(scale_factor=2) or nn.ConvTranspose2d"
        else:
            known = {source: value for source, value in self.values.items() if not isinstance(value, Tensor) or source not in self.dependent}
            sizes = {source: tuple(value.shape[1:]) for source, value in self.values.items() if isinstance(value, Tensor)}
            remedy = remedies.remedy(seen(node, name, sizes, known, shapes, module))
        return UnsupportedError(_said(node, f"gives a {type(value).__name__} of tensors"), where=_place(node), remedy=remedy)


def seen(
    node: fx.Node, name: str, shapes: Mapping[fx.Node, Shape], known: Mapping[fx.Node, Any], result: Any, module: nn.Module | None
) -> remedies.Seen:
    """What remedies want to know of a call: ``known`` has the values of nodes that do not depend on the input, ``shapes`` the shapes of others."""

    def value_of(source: fx.Node) -> Any:
        return known[source] if source in known else remedies.Seen(source.name, shapes.get(source))

    args, kwargs = fx.map_arg((node.args, node.kwargs), value_of)
    first = next((arg for arg in tree_leaves((args, dict(kwargs))) if isinstance(arg, remedies.Seen)), None)
    return remedies.Seen(name, None if first is None else first.shape, result, tuple(args), dict(kwargs), module)
