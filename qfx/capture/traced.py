"""A captured float model: its graph, and what is known of every node. ``qfx.capture.trace`` makes them."""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from qfx.errors import UnsupportedError

SITE, CALLER, WHOLE, OPENED, KIND, INTERNAL, SPARE, KEPT, MADE, TAKEN_APART, ONCE = (
    *("qfx_site", "qfx_caller", "qfx_whole", "qfx_opened", "qfx_kind", "qfx_internal", "qfx_spare", "qfx_kept", "qfx_made", "qfx_taken_apart"),
    "qfx_once",
)
"""What is noted at a node: which call in the user's forward it is; the module in whose forward it is; that it is all that this module, one of
torch's layers, does; the outermost layer of torch that was opened for it, and its class; that it is a step of an operation that qfx takes apart;
that it is of use only where it is read; under which names checkpoints have the tensor, none if they do not; of a layer, the nodes of its weight and
bias by their names, where the model computes them of others; that it is the result of an operation that was taken apart: its name, and the node
of its input; that all such calls with the same weights are calls of one layer."""


@dataclass(frozen=True)
class Traced:
    """A float model's graph, with the shape (batch left out) of every node that gives a tensor computed from the input, and the value of every one
    that gives no tensor.

    ``fixed``: the tensors that do not depend on the input, parameters and what is computed of them. ``refused``: the nodes that have no place in a
    fixed-point network, whatever comes of the others. ``tainted``: those whose shape has none. ``stopped``: why tracing ended before the end of the
    model; the graph then gives None. ``differs``: that the model computes something else than the graph. ``several``: the operations that give
    several tensors, computed from the input. ``dtypes``: of every tensor. ``left_out``: operations that stood at the end, and where.
    """

    module: fx.GraphModule
    shapes: dict[fx.Node, tuple[int, ...]]
    constants: dict[fx.Node, Any]
    fixed: Mapping[fx.Node, Tensor] = field(default_factory=dict)
    refused: Mapping[fx.Node, UnsupportedError] = field(default_factory=dict)
    tainted: Set[fx.Node] = frozenset()
    stopped: UnsupportedError | None = None
    differs: UnsupportedError | None = None
    several: Set[fx.Node] = frozenset()
    dtypes: Mapping[fx.Node, torch.dtype] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    def tensor_users(self, node: fx.Node) -> list[fx.Node]:
        """The nodes that compute with the tensor, not only ask for its size; the output node included."""
        return [user for user in node.users if user in self.shapes or user.op == "output"]

    def resolve(self, argument: Any) -> Any:
        """An argument with nodes of known value replaced by it; nodes that give tensors stay."""
        return fx.map_arg(argument, lambda node: self.constants.get(node, node))

    def internal(self, node: fx.Node) -> bool:
        """Whether the node is a step of an operation that qfx takes apart, not its result."""
        return bool(node.meta.get(INTERNAL))

    def path(self, node: fx.Node) -> str:
        """The dotted path of the module in whose forward the node was called."""
        return caller(node)

    def site(self, node: fx.Node) -> tuple[str, str, int] | None:
        """Which call in the user's forward the node is: a module that runs several times makes several nodes of one such call. None for layers."""
        return node.meta.get(SITE)

    def place(self, node: fx.Node) -> str:
        """Where an error says that a node is: its module, or the operation below the module that calls it."""
        return place_of(node)


_HARMLESS = ("extra_repr", "reset_parameters")
"""Methods that a user's subclass may override without changing what the layer computes."""


def base_layer(module: nn.Module) -> type[nn.Module]:
    """The class that says what the module computes: torch's, for a subclass that overrides none of its methods."""
    mine = [base for base in type(module).__mro__ if not base.__module__.startswith("torch.nn.") and base is not object]
    base = next(base for base in type(module).__mro__ if base.__module__.startswith("torch.nn.") and not _parametrized(base))
    names = {name for own in mine for name in vars(own) if not name.startswith("__") or name in ("__call__", "__getattr__")}
    changed = {name for name in names if name not in _HARMLESS and callable(getattr(base, name, None))}
    if base is nn.Module or changed:
        return type(module)
    return base


def _parametrized(base: type[nn.Module]) -> bool:
    """Whether the class is that which torch makes for a layer with a parametrization, or holds the parametrizations of one."""
    return base.__module__ == "torch.nn.utils.parametrize"


def is_layer(module: nn.Module) -> bool:
    """Whether the module is one piece in a trace: a layer of torch, a subclass that computes the same, or one whose class says so (``one_piece``)."""
    base = base_layer(module)
    if getattr(base, "one_piece", False) is True:
        return True
    return base.__module__.startswith("torch.nn.") and not isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict)


def called(node: fx.Node) -> str:
    """What the user calls the operation."""
    if node.op == "call_module":
        module = node.graph.owning_module.get_submodule(str(node.target)) if node.graph.owning_module is not None else None
        return str(node.target) if module is None else base_layer(module).__name__
    return str(getattr(node.target, "__name__", node.target)).strip("_")


def caller(node: fx.Node) -> str:
    return str(node.meta.get(CALLER, ""))


def place_of(node: fx.Node) -> str:
    """Where an error says that a node is: its module, or the operation below the module that calls it."""
    if node.op == "call_module":
        return str(node.target)
    if node.meta.get(WHOLE):
        return caller(node)
    parent, name = caller(node), str(node.kwargs.get("label") or node.name)
    own = str(getattr(node.target, "__name__", node.target))
    if hasattr(builtins, own) and name == f"{own}_1":  # fx avoids the names of builtins, as in max_1
        name = own
    return f"{parent}.{name}" if parent else name
