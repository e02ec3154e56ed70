"""From a float module to its graph: symbolic tracing, and what every node gives on real data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

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
        stack = node.meta.get("nn_module_stack") or {}
        return str(list(stack.values())[-1][0]) if stack else ""


class _Tracer(fx.Tracer):
    """Also takes user subclasses of torch's layers as one piece, as long as they keep the forward."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return super().is_leaf_module(m, module_qualified_name) or base_layer(m) is not type(m)


def base_layer(module: nn.Module) -> type[nn.Module]:
    """The class whose forward the module runs: torch's, for a subclass that does not change it."""
    definer = next(base for base in type(module).__mro__ if "forward" in vars(base))
    if not definer.__module__.startswith("torch.nn.") or definer is nn.Module:
        return type(module)
    return next(base for base in type(module).__mro__ if base.__module__.startswith("torch.nn."))


def trace(model: nn.Module, example: Tensor) -> Traced:
    """Trace ``model`` (in evaluation mode) and run it on ``example`` to learn shapes.

    Raises UnsupportedError for control flow that depends on data, for several inputs, and for a batch axis that gets mixed with others; DataError for an
    example that the model does not take.
    """
    try:
        graph = _Tracer().trace(model)
    except (fx.proxy.TraceError, TypeError) as error:
        raise UnsupportedError(
            f"cannot be traced: {error}",
            where=type(model).__name__,
            remedy="keep data-dependent control flow out of forward; branches on module attributes are fine",
        ) from error
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    used = [node for node in inputs if node.users]
    if len(used) != 1 or inputs[0] is not used[0]:
        raise UnsupportedError(f"has {len(used)} inputs", where=type(model).__name__, remedy="give a module with exactly one tensor input")
    module = fx.GraphModule(model, graph)
    # Two batch sizes tell the batch axis from the others.
    small, large = (_Recorder(module).record(_rows(example, count)) for count in (2, 3))
    shapes: dict[fx.Node, tuple[int, ...]] = {}
    constants: dict[fx.Node, Any] = {}
    for node, value in small.items():
        other = large[node]
        if not isinstance(value, Tensor):
            constants[node] = value
        elif node.op != "get_attr":
            if value.dim() < 2 or value.shape[0] != 2 or other.shape != (3, *value.shape[1:]):
                raise UnsupportedError(
                    f"gives shape {tuple(value.shape)} for a batch of 2 and {tuple(other.shape)} for a batch of 3",
                    where=node.name,
                    remedy="keep the batch as the first axis of every tensor, with at least one axis behind it",
                )
            shapes[node] = tuple(value.shape[1:])
    return Traced(module, shapes, constants)


def _rows(example: Tensor, count: int) -> Tensor:
    index = torch.arange(count, device=example.device) % example.shape[0]
    return example[index]


class _Recorder(fx.Interpreter):
    """Runs the graph and keeps what every node gave."""

    def record(self, x: Tensor) -> dict[fx.Node, Any]:
        self.values: dict[fx.Node, Any] = {}
        with torch.no_grad():
            try:
                self.run(x)
            except UnsupportedError:
                raise
            except Exception as error:  # whatever the user's model raises on this input
                message = str(error).split("\n")[0]
                raise DataError(
                    f"the model does not run on an example of shape {tuple(x.shape)}: {message}", where="example_input", remedy="give one real batch"
                ) from error
        return self.values

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.values[n] = value.shape if isinstance(value, torch.Size) else value
        return value
