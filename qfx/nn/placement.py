"""Where Casts stand, which spec each takes, and which BatchNorm goes into the layer before it: the decisions of ``quantize``, as pure functions of
the trace, the recipe and the bounds of what is read. ``qfx.nn.builder`` carries them out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from torch import fx, nn

from qfx.capture.traced import Traced, base_layer
from qfx.fixed.arith import Bounds
from qfx.nn.call import Part
from qfx.nn.fixed_layer import FixedLayer
from qfx.nn.layers import QMaxPool
from qfx.nn.lookup import multiplies, only_moves, picks
from qfx.recipe import Recipe

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

MAX_EXACT_BITS = 48
"""A result that would need more bits than this is cast before it grows further, well below float64's 53."""


def may_read_uncast(layer: FixedLayer, bounds: Bounds, recipe: Recipe, *, alone: bool) -> bool:
    """Whether the layer may read a result before the Cast that is due. ``alone``: nothing else reads it."""
    return alone and layer.traits.reads_uncast and bounds.magnitude_bits <= MAX_EXACT_BITS - layer.bits_added(recipe)


def lie_far_apart(layer: FixedLayer, bounds: Sequence[Bounds]) -> bool:
    """Whether operands that are short enough each need too many bits on the one grid that the layer brings them onto."""
    return layer.traits.aligns and (bounds[0] | bounds[1]).magnitude_bits >= MAX_EXACT_BITS


def is_due(layer: FixedLayer, due: Iterable[bool]) -> bool:
    """Whether a Cast is due behind the layer; ``due``: before it, of each value that it reads."""
    return not layer.traits.casts and (not layer.traits.keeps_grid or any(due))


def keeps_numbers(layer: FixedLayer) -> bool:
    """Whether all that the layer gives are numbers that it reads, as ``lookup.picks`` says of calls."""
    return layer.traits.moves_only or isinstance(layer, QMaxPool)


def readers(parts: Sequence[Part]) -> Counter[int | Part]:
    """How many parts read each input and each part."""
    return Counter(source for part in parts for source in set(part.sources))


def role(node: fx.Node, traced: Traced, recipe: Recipe) -> str:
    """Which spec a Cast of the node's value takes: "output" if the value only moves from here to the model's output, "operand" if the recipe has one
    and nothing is done with the value but that weights multiply it, else "internal" within an operation, or "activation"."""
    if _leaves(node, traced):
        return "output"
    if recipe.operand is not None and _is_multiplied(node, traced):
        return "operand"
    return "internal" if traced.internal(node) else "activation"


def _leaves(node: fx.Node, traced: Traced) -> bool:
    users = traced.tensor_users(node)
    return all(user.op == "output" or (only_moves(user, traced) and _leaves(user, traced)) for user in users)


def _is_multiplied(node: fx.Node, traced: Traced) -> bool:
    users = traced.tensor_users(node)
    return bool(users) and all(
        user.op != "output" and (multiplies(user, traced) or (picks(user, traced) and _is_multiplied(user, traced))) for user in users
    )


def role_of_part(part: Part, parts: Sequence[Part], of_result: str) -> str:
    """``role`` for one of the parts of an operation whose result has the role ``of_result``."""
    found = (reader for reader in parts if part in reader.sources)
    leaves = all(reader.layer.traits.moves_only and role_of_part(reader, parts, of_result) == of_result for reader in found)
    return of_result if leaves else "activation"


def norm_to_fold(node: fx.Node, traced: Traced, recipe: Recipe) -> fx.Node | None:
    """The BatchNorm that goes into the layer of ``node``, if there is one: the recipe folds, and wherever one of the two is called so is the other,
    with nothing between."""
    if recipe.batch_norm != "fold":
        return None
    users = traced.tensor_users(node)
    if len(users) != 1 or users[0].op != "call_module":
        return None
    module = traced.module.get_submodule(str(users[0].target))
    is_norm = base_layer(module) in _NORMS and getattr(module, "running_mean", None) is not None
    return users[0] if is_norm and _always_together(node, users[0], traced) else None


def _always_together(node: fx.Node, norm: fx.Node, traced: Traced) -> bool:
    """Whether every call of the layer is read by one of the norm alone, and none of the norm reads anything else."""
    nodes = list(traced.module.graph.nodes)
    layers = [other for other in nodes if other.op == node.op and other.target == node.target]
    norms = [other for other in nodes if other.op == "call_module" and other.target == norm.target]
    if len(layers) != len(norms) or (len(layers) > 1 and node.op != "call_module"):
        return False
    return all(traced.tensor_users(layer) == [user] for layer, user in zip(layers, norms, strict=True))
