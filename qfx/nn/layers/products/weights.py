"""``Weights``: the tensors of a layer with weights where no torch module holds them, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from qfx.capture.traced import KEPT, Traced
from qfx.nn.call import Call, name_of
from qfx.nn.layers.products.computed import Computed, computed_of, joined


@dataclass(frozen=True)
class Form:
    """How a layer casts a tensor that the model keeps otherwise: axes permuted by ``perm``, then reshaped to ``shape``."""

    perm: tuple[int, ...]
    shape: tuple[int, ...]

    def there(self, tensor: Tensor) -> Tensor:
        return tensor.permute(self.perm).reshape(self.shape)

    def back(self, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The inverse of ``there``, for a tensor that the model keeps in ``shape``."""
        inverse = tuple(self.perm.index(axis) for axis in range(len(self.perm)))
        return tensor.reshape([shape[axis] for axis in self.perm]).permute(inverse)


@dataclass(frozen=True, eq=False)
class Weights:
    """A weight and maybe a bias. A parameter is trained; any other tensor stays as it is. ``form``: how the weight is cast, if not as it is kept,
    with its outputs on axis 0. ``origins``: what the float model calls them, by "weight" and "bias"; its checkpoints have them under these names.
    ``computed``: how they are computed, both by the same names, where one of them is computed of others."""

    weight: Tensor
    bias: Tensor | None = None
    form: Form | None = None
    origins: Mapping[str, str] = field(default_factory=dict)
    computed: Mapping[str, Computed] = field(default_factory=dict)


def weights_of(call: Call, weight: Any, bias: Any = None, form: Form | None = None) -> Weights:
    """Arguments of a call as the tensors of a layer. Refuses what is computed from the input, and numbers that are not finite."""
    origins: dict[str, str] = {}
    found = _tensor(call, weight, "weight", origins)
    shift = None if bias is None else _tensor(call, bias, "bias", origins)
    return Weights(found, shift, form, origins, computed_together(call.traced, {"weight": weight, "bias": bias}))


def computed_together(traced: Traced, arguments: Mapping[str, Any]) -> dict[str, Computed]:
    """How the tensors of a layer are computed, if one of them at least is computed of others: then all of them stand where the user has them."""
    nodes = {role: argument for role, argument in arguments.items() if isinstance(argument, fx.Node) and argument in traced.fixed}
    if not any(node.op != "get_attr" for node in nodes.values()):
        return {}
    found = {role: _in_float(computed) for role, node in nodes.items() if (computed := computed_of(traced, node)) is not None}
    return found if any(not computed.itself for computed in found.values()) else {}


def _in_float(computed: Computed) -> Computed:
    return computed if computed().dtype in (torch.float32, torch.float64) else joined("float", [computed])


def is_constant(call: Call, argument: Any) -> bool:
    """Whether an argument is a tensor that does not depend on the input."""
    return isinstance(argument, Tensor) or (isinstance(argument, fx.Node) and argument in call.traced.fixed)


def shape_of(call: Call, argument: Any) -> tuple[int, ...]:
    """The shape of a constant argument."""
    return tuple((call.traced.fixed[argument] if isinstance(argument, fx.Node) else argument).shape)


def _tensor(call: Call, argument: Any, role: str, origins: dict[str, str]) -> Tensor:
    found = call.traced.fixed.get(argument) if isinstance(argument, fx.Node) else argument
    if isinstance(argument, fx.Node) and argument in call.traced.shapes:
        raise call.refuse(f"the {role} of {call.name} is computed from the input", "multiply two values with torch.matmul, which has a form")
    if not isinstance(found, Tensor):
        raise call.refuse(f"the {role} of {call.name} is {argument!r}", "give a parameter or a buffer of the model")
    if isinstance(argument, fx.Node) and argument.op == "get_attr" and argument.meta.get(KEPT):
        own = _own(call.traced.module, str(argument.target))
        if own is not None:
            found, origins[role] = own, str(argument.target)
    if found.is_complex() or not bool(torch.isfinite(found.detach().double()).all()):
        name = name_of(argument) if isinstance(argument, fx.Node) else role
        raise call.refuse(f"{name!r} holds NaN, infinity or complex numbers", "repair the model")
    if isinstance(found, nn.Parameter):
        return found
    found = found.detach()
    return found if found.dtype in (torch.float32, torch.float64) else found.float()


def _own(module: nn.Module, name: str) -> Tensor | None:
    """The parameter or buffer of a dotted name."""
    path, _, leaf = name.rpartition(".")
    try:
        holder = module.get_submodule(path)
    except AttributeError:
        return None
    return holder._parameters[leaf] if leaf in holder._parameters else holder._buffers.get(leaf)
