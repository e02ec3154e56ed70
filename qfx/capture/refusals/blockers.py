"""All that stands between a float model and its fixed-point form, at once."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves

from qfx.capture.any_names import RESERVED
from qfx.capture.inputs import Inputs
from qfx.capture.refusals.remedies import OTHERS, named, plain_remedy
from qfx.capture.tail import captured
from qfx.capture.traced import KIND, OPENED, Traced, base_layer, is_layer
from qfx.errors import QfxError, UnsupportedError, together
from qfx.nn.lookup import find, has_rule, operator_name
from qfx.recipe import Recipe


def require_supported(model: nn.Module, example: Any, recipe: Recipe | None = None) -> None:
    """Raise UnsupportedError, listing every blocker, if ``quantize`` would refuse the model for its operations; DataError for an example that it does
    not take. ``model`` in evaluation mode."""
    recipe = Recipe() if recipe is None else recipe
    changed = tuple(changed_modules(model))
    require_traceable(model, changed)
    try:
        traced = captured(model, example, recipe)
    except QfxError:
        if changed:
            raise together(changed, where=type(model).__name__) from None
        raise
    found = blockers(traced, recipe, changed)
    if found:
        raise refusal(model, example, traced, found)


def refusal(model: nn.Module, example: Any, traced: Traced, found: tuple[UnsupportedError, ...], where: str = "") -> UnsupportedError:
    """One error for all that was found in the model, called ``where`` (default: its class). Where tracing stopped on the way, the layers behind
    that place are looked at too."""
    where = where or type(model).__name__
    if traced.stopped is None:
        return together(found, where=where)
    reached = {node.meta.get(OPENED) or str(node.target) for node in traced.module.graph.nodes}
    called = [(path, base_layer(layer).__name__) for path, layer in _called(model, example) if path not in reached]
    behind = [UnsupportedError(_said(kind), where=path, remedy=plain_remedy(kind)) for path, kind in called]
    return together([*found, *behind], where=where)


def require_traceable(model: nn.Module, changed: tuple[UnsupportedError, ...]) -> None:
    """Raise one error for ``changed`` where nothing else can be found out: the model itself is changed, or cannot be held by a traced module."""
    if any(error.where == type(model).__name__ or error.where in RESERVED for error in changed):
        raise together(changed, where=type(model).__name__)


def changed_modules(model: nn.Module) -> Iterator[UnsupportedError]:
    """Modules that have a name which a traced module cannot hold."""
    for name, _ in model.named_children():
        if name in RESERVED:
            remedy = f"call it {name}_, say, and so in checkpoints: {{re.sub(r'^{name}\\.', '{name}_.', key): value for key, value in state.items()}}"
            yield UnsupportedError(f"has a name that torch.fx takes for itself: {name}", where=name, remedy=remedy)


Placed = tuple[fx.Node | None, UnsupportedError]


def blockers(traced: Traced, recipe: Recipe, changed: tuple[UnsupportedError, ...] = ()) -> tuple[UnsupportedError, ...]:
    """Everything in the trace that has no fixed-point form, in the order of the model. ``changed``: of ``changed_modules``."""
    return tuple(error for _, error in blockers_by_node(traced, recipe, changed))


def blockers_by_node(
    traced: Traced, recipe: Recipe, changed: tuple[UnsupportedError, ...] = ()
) -> tuple[tuple[fx.Node | None, UnsupportedError], ...]:
    """``blockers``, each with its node, or the first of several that it stands for; None for what belongs to no single one."""
    found: list[tuple[fx.Node | None, UnsupportedError]] = [(None, error) for error in changed]
    skipped = {error.where for error in changed}
    decision = _decision(traced) if traced.stopped is not None else set()
    for node in traced.module.graph.nodes:
        if node in decision:
            continue
        if _of_several(node, traced):
            continue
        if node.op in _CALLS and not has_rule(node, traced) and (node in traced.refused or node in traced.several) and _named(node, traced):
            found.append((node, _no_form(node, traced)))
        elif node in traced.refused:
            found.append((node, traced.refused[node]))
        elif node.op == "output" and traced.stopped is None:
            found.extend((node, error) for error in output_problems(node, traced))
        elif node.op in _CALLS and (node in traced.shapes or node in traced.several) and str(node.target) not in skipped:
            found.extend((node, error) for error in _operation(node, traced, recipe))
    errors = list(_layers_as_one(found))
    if traced.stopped is not None:
        errors.append((None, traced.stopped))
    elif traced.differs is not None and not errors:  # else it tells once more of what is random, say
        errors.append((None, traced.differs))
    return tuple(errors)


_CALLS = ("call_module", "call_function", "call_method")


def _of_several(node: fx.Node, traced: Traced) -> bool:
    """Whether the node is one of the several tensors that another gives: that is named."""
    return node.target is operator.getitem and any(source in traced.several or _of_several(source, traced) for source in node.all_input_nodes)


def _layers_as_one(found: list[tuple[fx.Node | None, UnsupportedError]]) -> Iterator[tuple[fx.Node | None, UnsupportedError]]:
    """A layer of torch that was opened, and of which several operations are refused or which is known to have no form, is named once."""
    opened: dict[str, list[UnsupportedError]] = {}
    for node, error in found:
        if node is not None and node.meta.get(OPENED):
            opened.setdefault(node.meta[OPENED], []).append(error)
    for node, error in found:
        layer = None if node is None else node.meta.get(OPENED)
        if node is None or not layer:
            yield node, error
            continue
        inner = opened.pop(layer, [])
        kind = str(node.meta[KIND])
        if not inner:
            continue
        if named(kind):
            yield node, UnsupportedError(_said(kind), where=layer, remedy=plain_remedy(kind))
        elif len(inner) > 1:
            told = "; ".join(dict.fromkeys(each.what for each in inner))
            remedies = dict.fromkeys(each.remedy for each in inner if each.remedy != OTHERS)
            yield node, UnsupportedError(f"{_said(kind)}: {told}", where=layer, remedy="; ".join(remedies) or OTHERS)
        else:
            yield node, error


def _said(name: str) -> str:
    return f"{name} has no fixed-point form in qfx"


def _named(node: fx.Node, traced: Traced) -> bool:
    return named(operator_name(node, traced))


def _no_form(node: fx.Node, traced: Traced) -> UnsupportedError:
    name = operator_name(node, traced)
    return UnsupportedError(_said(name), where=traced.place(node), remedy=plain_remedy(name))


_COMPARISONS = ("gt", "lt", "ge", "le", "eq", "ne")


def _decision(traced: Traced) -> set[fx.Node]:
    """What was computed for the decision at which tracing stopped: that is one blocker, not several."""
    nodes = list(traced.module.graph.nodes)
    found: set[fx.Node] = set()
    for node in reversed(nodes):
        odd = node in traced.tainted or operator_name(node, traced) in _COMPARISONS or node not in traced.shapes
        if node.op != "placeholder" and odd and set(node.users) <= found:
            found.add(node)
    return found


def _operation(node: fx.Node, traced: Traced, recipe: Recipe) -> Iterator[UnsupportedError]:
    path = traced.place(node)
    if any(_unreadable(source, traced) for source in node.all_input_nodes):
        yield from _by_name(node, traced)  # what it reads has no shape that a rule could look at
        return
    try:
        rule, call = find(node, path, traced, recipe)
        rule(call)
    except UnsupportedError as error:
        yield error if error.where else UnsupportedError(error.what, where=path, remedy=error.remedy)


def _unreadable(node: fx.Node, traced: Traced) -> bool:
    """Whether what the node gives says nothing: it is refused, or several tensors."""
    if node in traced.refused or node in traced.tainted or node in traced.several:
        return True
    known = node in traced.shapes or node in traced.constants or node in traced.fixed
    return not known and any(_unreadable(source, traced) for source in node.all_input_nodes)


def _by_name(node: fx.Node, traced: Traced) -> Iterator[UnsupportedError]:
    """An operation on something that is refused already: only what has no form whatever it reads, and a remedy of its own."""
    if not has_rule(node, traced) and _named(node, traced):
        yield _no_form(node, traced)


def output_problems(node: fx.Node, traced: Traced) -> Iterator[UnsupportedError]:
    """Why the output node of a trace gives something else than one tensor that is computed from the input."""
    (source,) = node.args
    leaves = tree_leaves(source)
    if leaves and all(isinstance(leaf, fx.Node) and (leaf in traced.shapes or leaf in traced.refused) for leaf in leaves):
        return
    odd = [leaf for leaf in leaves if not (isinstance(leaf, fx.Node) and leaf in traced.shapes)]
    told = "nothing" if not leaves else ", ".join(str(leaf) if isinstance(leaf, fx.Node) else repr(leaf) for leaf in odd)
    remedy = "return a tensor that is computed from the input, or a tuple, list or dict of such tensors"
    yield UnsupportedError(f"the model returns something else than tensors computed from its input: {told}", where="output", remedy=remedy)


def _called(model: nn.Module, example: Any) -> list[tuple[str, nn.Module]]:
    """The layers without a fixed-point form that run on the example, by path, in the order of their calls."""
    found: dict[str, nn.Module] = {}
    unknown = {path: layer for path, layer in model.named_modules() if path and is_layer(layer) and named(base_layer(layer).__name__)}
    inner = {path for path in unknown if any(path.startswith(f"{outer}.") for outer in unknown)}
    handles = [
        layer.register_forward_pre_hook(lambda *_, path=path, layer=layer: found.setdefault(path, layer) and None)
        for path, layer in unknown.items()
        if path not in inner
    ]
    try:
        with torch.no_grad():
            rows = Inputs.of(model, example).rows(2)
            model(*rows.args, **rows.kwargs)
    except Exception:  # whatever the user's model raises: then less is known
        pass
    finally:
        for handle in handles:
            handle.remove()
    return list(found.items())
