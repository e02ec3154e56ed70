"""From a float module to its graph: symbolic tracing, and what every node gives on real data."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from qfx.errors import DataError, UnsupportedError


@dataclass(frozen=True)
class Traced:
    """A float model's graph, with the shape (batch left out) of every node that gives a tensor, and the value of every one that does not."""

    module: fx.GraphModule
    shapes: dict[fx.Node, tuple[int, ...]]
    constants: dict[fx.Node, Any]

    def tensor_users(self, node: fx.Node) -> list[fx.Node]:
        """The nodes that compute with the tensor, not only ask for its size; the output node included."""
        return [user for user in node.users if user in self.shapes or user.op == "output"]

    def resolve(self, argument: Any) -> Any:
        """An argument with nodes of known value replaced by it; nodes that give tensors stay."""
        return fx.map_arg(argument, lambda node: self.constants.get(node, node))

    def path(self, node: fx.Node) -> str:
        """The dotted path of the module in whose forward the node was called."""
        return _caller(node)


MAX_AXES = 3
"""Axes behind the batch: (features,), (channels, length) or (channels, height, width)."""


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


class _Tracer(fx.Tracer):
    """Also takes user subclasses of torch's layers as one piece, as long as they compute the same.

    Every operation is carried out on ``example`` while it is traced, so that sizes are known.
    """

    def __init__(self, example: Tensor) -> None:
        super().__init__()
        self.place = ""  # the module whose forward runs, also after it has raised
        self.example = example
        self.values: dict[fx.Node, Any] = {}

    def sizes(self, node: fx.Node) -> tuple[int, ...] | None:
        """Those of the node's tensor on the example; None if it gives something else."""
        value = self.values.get(node)
        return tuple(value.shape) if isinstance(value, Tensor) and value.dim() else None

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
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
        result = super().call_module(m, forward, args, kwargs)
        self.place = caller
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


def trace(model: nn.Module, example: Tensor) -> Traced:
    """Trace ``model`` (in evaluation mode) and run it on ``example`` to learn shapes.

    Raises UnsupportedError for control flow that depends on data, for several inputs, for a batch axis that gets mixed with others, for a
    tensor that is changed in place and read again; DataError for an example that the model does not take.
    """
    tracer = _Tracer(_rows(example, 2))
    try:
        graph = tracer.trace(model)
    except Exception as error:  # whatever the user's forward raises on symbolic values
        message = str(error).split("\n")[0]
        raise UnsupportedError(
            f"cannot be traced: {message or type(error).__name__}",
            where=tracer.place or type(model).__name__,
            remedy="let no Python decision in forward depend on data or on the batch size (other sizes and module attributes are fine)",
        ) from error
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    used = [node for node in inputs if node.users]
    if len(used) != 1 or inputs[0] is not used[0]:
        raise UnsupportedError(f"has {len(used)} inputs", where=type(model).__name__, remedy="give a module with exactly one tensor input")
    module = fx.GraphModule(model, graph)
    # Two batch sizes tell the batch axis from the others.
    small, large = (_Recorder(module).record(_rows(example, count)) for count in (2, 3))
    _check_same(model, _rows(example, 3), large)
    shapes: dict[fx.Node, tuple[int, ...]] = {}
    constants: dict[fx.Node, Any] = {}
    for node, value in small.items():
        if node.op == "output":
            continue
        if isinstance(value, Tensor):
            if node.op != "get_attr":
                shapes[node] = _shape(node, value, large[node])
        elif value == large[node]:  # what follows the batch size is no constant
            constants[node] = value
    return Traced(module, shapes, constants)


def _check_same(model: nn.Module, x: Tensor, traced: dict[fx.Node, Any]) -> None:
    """Refuse a model that computes something else than its graph: tracing takes ``x += y`` for ``x = x + y``, and randomness for a constant."""
    with torch.no_grad():
        expected, actual = model(x), next(value for node, value in traced.items() if node.op == "output")
    if not isinstance(expected, Tensor) or not isinstance(actual, Tensor):
        return  # refused later, with a better reason
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    if expected.shape != actual.shape or not torch.allclose(expected, actual, rtol=0.0, atol=1e-3 * scale, equal_nan=True):
        raise UnsupportedError(
            "computes something else when it is traced",
            where=type(model).__name__,
            remedy="write x = x + y where another name stands for x too, and keep randomness out of inference (F.dropout(x, training=self.training))",
        )


def _shape(node: fx.Node, value: Tensor, other: Any) -> tuple[int, ...]:
    """The shape behind the batch of a tensor, for its values on batches of 2 and 3."""
    if value.dim() < 2 or value.shape[0] != 2 or other.shape != (3, *value.shape[1:]):
        raise UnsupportedError(
            f"gives shape {tuple(value.shape)} for a batch of 2 and {tuple(other.shape)} for a batch of 3",
            where=_place(node),
            remedy="keep the batch as the first axis of every tensor, with at least one axis behind it",
        )
    if value.dim() > MAX_AXES + 1 or value.numel() == 0:
        raise UnsupportedError(
            f"gives shape {tuple(value.shape)} for a batch of 2",
            where=_place(node),
            remedy="use (batch, features), (batch, channels, length) or (batch, channels, height, width), and leave no axis empty",
        )
    return tuple(value.shape[1:])


def _caller(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


def _place(node: fx.Node) -> str:
    """Where an error says that a node is: its module, or the operation below the module that calls it."""
    if node.op == "call_module":
        return str(node.target)
    caller = _caller(node)
    return f"{caller}.{node.name}" if caller else node.name


def _rows(example: Tensor, count: int) -> Tensor:
    index = torch.arange(count, device=example.device) % example.shape[0]
    return example[index]


class _Recorder(fx.Interpreter):
    """Runs the graph and keeps what every node gave. The fixed-point network changes nothing in place: a model that can tell is refused."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[fx.Node, Any] = {}
        self.place = {node: index for index, node in enumerate(module.graph.nodes)}

    def record(self, x: Tensor) -> dict[fx.Node, Any]:
        with torch.no_grad():
            try:
                self.run(x)
            except UnsupportedError as error:  # without what Interpreter adds to it
                raise UnsupportedError(error.what, where=error.where, remedy=error.remedy) from None
            except Exception as error:  # whatever the user's model raises on this input
                message = str(error).split("\n")[0]
                raise DataError(
                    f"the model does not run on an example of shape {tuple(x.shape)}: {message}", where="example_input", remedy="give one real batch"
                ) from error
        return self.values

    def run_node(self, n: fx.Node) -> Any:
        versions = {node: value._version for node, value in self.values.items() if isinstance(value, Tensor)}
        value = super().run_node(n)
        for node, version in versions.items():  # a view shares its base's version
            if self.values[node]._version != version and any(self.place[user] > self.place[n] for user in node.users):
                raise UnsupportedError(
                    f"changes the result of {node.name!r} in place, which is read again later",
                    where=_place(n),
                    remedy="use the form that is not in place (inplace=False, x = x + y), and its result",
                )
        if n.op != "output" and not isinstance(value, Tensor) and any(isinstance(leaf, Tensor) for leaf in tree_leaves(value)):
            raise UnsupportedError(f"gives a {type(value).__name__} of tensors", where=_place(n), remedy="use operations that give one tensor each")
        self.values[n] = value
        return value
