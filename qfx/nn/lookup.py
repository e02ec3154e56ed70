"""Finding the rule for an operation of a float graph, or the words to refuse it with."""

from __future__ import annotations

from typing import Any

from torch import fx

from qfx.capture.refusals.remedies import plain_remedy
from qfx.capture.traced import KIND, Traced, base_layer
from qfx.nn.call import Call, Rule, name_of, nodes_of
from qfx.nn.layers import max_pool
from qfx.nn.rules import FAMILY_OF, FUNCTIONS, METHODS, MODULES
from qfx.recipe import Recipe


def only_moves(node: fx.Node, traced: Traced) -> bool:
    """Whether the node passes its input's values on as they are (zeros may join them)."""
    names, rule = _entry(node, traced)
    if rule is None:
        return False
    family = FAMILY_OF[rule]
    if family.moving is None:
        return family.moves_only
    module = node.op == "call_module"
    return family.moving(vars(traced.module.get_submodule(str(node.target))) if module else _bind(names, node, traced))


def picks(node: fx.Node, traced: Traced) -> bool:
    """Whether all that the node gives are numbers that it reads: it moves them, or takes the greatest of a window (zeros may join them)."""
    _, rule = _entry(node, traced)
    return only_moves(node, traced) or (rule is not None and FAMILY_OF[rule] is max_pool.FAMILY)


def multiplies(node: fx.Node, traced: Traced) -> bool:
    """Whether the node gives sums of products of the one value that it reads by weights: a convolution, a linear layer, a product with a constant."""
    names, rule = _entry(node, traced)
    if rule is None or not FAMILY_OF[rule].multiplies:
        return False
    found = nodes_of(tuple(_bind(names, node, traced).values()))
    values = [source for source in found if source in traced.shapes]
    return len(values) == 1 and (node.op == "call_module" or len(found) > 1)


def _entry(node: fx.Node, traced: Traced) -> tuple[str, Rule | None]:
    if node.op == "call_module":
        return "input", MODULES.get(base_layer(traced.module.get_submodule(str(node.target))))
    table: dict[Any, tuple[str, Rule]] = FUNCTIONS if node.op == "call_function" else METHODS
    return table.get(node.target, ("", None))


def has_rule(node: fx.Node, traced: Traced) -> bool:
    return _entry(node, traced)[1] is not None


def operator_name(node: fx.Node, traced: Traced) -> str:
    """What the user calls the operation: the class of a layer, the name of a function or a method."""
    if node.op == "call_module":
        return base_layer(traced.module.get_submodule(str(node.target))).__name__
    own = str(getattr(node.target, "__name__", node.target))
    return str(node.meta.get(KIND) or own) if "label" in node.kwargs else own  # a part of a layer that has a name of its own


def find(node: fx.Node, path: str, traced: Traced, recipe: Recipe) -> tuple[Rule, Call]:
    """The rule for a node and its call. Raises UnsupportedError, naming the operator, its place and what to use instead."""
    module = traced.module.get_submodule(str(node.target)) if node.op == "call_module" else None
    names, rule = _entry(node, traced)
    what = operator_name(node, traced)
    call = Call(node, path, traced, recipe.of_kind(what), module, what, _bind(names, node, traced))
    if rule is None:
        raise call.refuse(f"{what} has no fixed-point form in qfx", plain_remedy(what))
    unknown = next((source for source in call.inputs if source not in traced.fixed and source not in traced.shapes), None)
    if unknown is not None:
        raise call.refuse(f"{what} reads {unknown.name!r}, which follows the batch size", "let nothing but shapes depend on the batch size")
    fixed = next((source for source in call.inputs if source in traced.fixed), None)
    if fixed is not None and (not FAMILY_OF[rule].takes_constants or isinstance(call.arguments.get("input"), list | tuple)):
        remedy_ = "constants belong into the weights of a layer, into arithmetic, or beside a value (torch.cat)"
        raise call.refuse(f"{what} reads {name_of(fixed)!r}, which is not computed from the input", remedy_)
    return rule, call


def _bind(names: str, node: fx.Node, traced: Traced) -> dict[str, Any]:
    """Positional and keyword arguments by name. Arguments behind the last name are not needed: the shapes say what they do."""
    bound: dict[str, Any] = {}
    for position, name in enumerate(names.split()):
        if name.startswith("*"):
            bound[name[1:]] = node.args[position:] or (node.kwargs.get(name[1:]),)
        elif position < len(node.args):
            bound[name] = node.args[position]
        elif name in node.kwargs:
            bound[name] = node.kwargs[name]
    if "dim" in names and "axis" in node.kwargs:
        bound["dim"] = node.kwargs["axis"]
    return {name: traced.resolve(value) for name, value in bound.items()}
