"""All that stands between a float model and its fixed-point form, at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves

from qfx.capture.any_names import RESERVED
from qfx.capture.inputs import Inputs
from qfx.capture.refusals import exported, remedies
from qfx.capture.refusals.remedy_texts import OF_SHAPES, TEXTS
from qfx.capture.trace import capture
from qfx.capture.traced import Traced, base_layer, is_layer
from qfx.errors import QfxError, UnsupportedError, together
from qfx.nn.lookup import find, has_rule, once_alone, operator_name
from qfx.nn.rules import MODULES
from qfx.recipe import Recipe


def require_supported(model: nn.Module, example: Any, recipe: Recipe | None = None) -> None:
    """Raise UnsupportedError, listing every blocker, if ``quantize`` would refuse the model for its operations; DataError for an example that it does
    not take. ``model`` in evaluation mode."""
    changed = tuple(changed_modules(model))
    require_traceable(model, changed)
    try:
        traced = capture(model, example)
    except QfxError:
        if changed:
            raise together(changed, where=type(model).__name__) from None
        raise
    found = blockers(traced, Recipe() if recipe is None else recipe, changed)
    if found:
        raise refusal(model, example, traced, found)


def refusal(model: nn.Module, example: Any, traced: Traced, found: tuple[UnsupportedError, ...], where: str = "") -> UnsupportedError:
    """One error for all that was found in the model, called ``where`` (default: its class). Where tracing stopped on the way, the layers behind
    that place are looked at too."""
    where = where or type(model).__name__
    if traced.stopped is None:
        return together(found, where=where, more=exported.REMEDY if _all_exported(traced, found) else "")
    reached = {str(node.target) for node in traced.module.graph.nodes if node.op == "call_module"}
    behind = [UnsupportedError(_no_form(layer), where=path, remedy=_remedy(layer)) for path, layer in _called(model, example) if path not in reached]
    return together([*found, *behind], where=where)


def _all_exported(traced: Traced, found: tuple[UnsupportedError, ...]) -> bool:
    """Whether an exported program with all of these is taken as it is."""
    places = {traced.place(node): node for node in traced.module.graph.nodes}
    return all(error.where in places and exported.takes(places[error.where], traced) for error in found)


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


def blockers(traced: Traced, recipe: Recipe, changed: tuple[UnsupportedError, ...] = ()) -> tuple[UnsupportedError, ...]:
    """Everything in the trace that has no fixed-point form, in the order of the model. ``changed``: of ``changed_modules``."""
    found = list(changed)
    skipped = {error.where for error in changed}
    norms: set[str] = set()
    decision = _decision(traced) if traced.stopped is not None else set()
    for node in traced.module.graph.nodes:
        if node in decision:
            continue
        if node in traced.refused:
            found.append(traced.refused[node])
        elif node.op == "output" and traced.stopped is None:
            found.extend(output_problems(node, traced))
        elif node in traced.shapes and node.op in ("call_module", "call_function", "call_method") and str(node.target) not in skipped:
            found.extend(_operation(node, traced, recipe, norms))
    found.extend(error for error in (traced.stopped, traced.differs) if error is not None)
    return tuple(found)


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


def _operation(node: fx.Node, traced: Traced, recipe: Recipe, norms: set[str]) -> Iterator[UnsupportedError]:
    path = traced.place(node)
    if any(_unreadable(source, traced) for source in node.all_input_nodes):
        yield from _by_name(node, path, traced)  # what it reads has no shape that a rule could look at
        return
    try:
        rule, call = find(node, path, traced, recipe)
        if once_alone(rule):
            if str(node.target) in norms:
                yield norm_called_twice(path)
                return
            norms.add(str(node.target))
        rule(call)
    except UnsupportedError as error:
        yield error if error.where else UnsupportedError(error.what, where=path, remedy=error.remedy)


def _unreadable(node: fx.Node, traced: Traced) -> bool:
    """Whether what the node gives says nothing: it is refused, or several tensors of one that is."""
    if node in traced.refused or node in traced.tainted:
        return True
    known = node in traced.shapes or node in traced.constants or node in traced.fixed
    return not known and any(_unreadable(source, traced) for source in node.all_input_nodes)


def _by_name(node: fx.Node, path: str, traced: Traced) -> Iterator[UnsupportedError]:
    """An operation on something that is refused already: only what has no form whatever it reads, and a remedy of its own."""
    name = operator_name(node, traced)
    if not has_rule(node, traced) and remedies.key(name) in TEXTS and remedies.key(name) not in OF_SHAPES:
        yield UnsupportedError(f"{name} has no fixed-point form in qfx", where=path, remedy=TEXTS[remedies.key(name)])


def norm_called_twice(path: str) -> UnsupportedError:
    return UnsupportedError("a BatchNorm that is called twice", where=path, remedy="give each call its own: one would move the other's statistics")


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


def _no_form(layer: nn.Module) -> str:
    return f"{base_layer(layer).__name__} has no fixed-point form in qfx"


def _remedy(layer: nn.Module) -> str:
    return remedies.remedy(remedies.Seen(base_layer(layer).__name__, module=layer))


def _called(model: nn.Module, example: Any) -> list[tuple[str, nn.Module]]:
    """The layers without a fixed-point form that run on the example, by path, in the order of their calls."""
    found: dict[str, nn.Module] = {}
    unknown = {path: layer for path, layer in model.named_modules() if path and is_layer(layer) and base_layer(layer) not in MODULES}
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
