"""Weights that a layer of torch computes of others before each call: weight and spectral normalization, pruning, parametrizations."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from qfx.capture.traced import base_layer

_ROLES = ("weight", "bias")
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def computed_roles(module: nn.Module) -> dict[str, Tensor]:
    """The weight and the bias of a layer of torch, those that it has, if one of them at least is computed of others and nothing but that is added to
    the layer; else none. They are computed here, so that a recording sees how."""
    hooks = list(module._forward_pre_hooks.values())
    parametrized = set(module.parametrizations) if parametrize.is_parametrized(module) else set()  # type: ignore[arg-type]
    if base_layer(module) not in _LAYERS or not (hooks or parametrized) or parametrized - set(_ROLES):
        return {}
    if module._forward_hooks or module._forward_pre_hooks_with_kwargs or "forward" in vars(module) or not all(map(_of_torch, hooks)):
        return {}
    for hook in hooks:
        hook(module, ())
    found = {role: getattr(module, role) for role in _ROLES}
    return {role: tensor for role, tensor in found.items() if tensor is not None}


def make_plain(module: nn.Module) -> None:
    """Give a layer that computes parameters of others these as they are now, by ``torch.nn.utils``'s own ways."""
    if parametrize.is_parametrized(module):
        _own_class(module)
        for name in list(module.parametrizations):  # type: ignore[arg-type]
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
            value = getattr(module, name)
            if not isinstance(value, nn.Parameter):  # torch leaves a buffer where gradients are off
                delattr(module, name)
                module.register_parameter(name, nn.Parameter(value.detach().clone()))
    for key, hook in list(module._forward_pre_hooks.items()):
        if isinstance(hook, prune.BasePruningMethod):
            hook.remove(module)
            del module._forward_pre_hooks[key]
        elif type(hook).__name__ == "WeightNorm":
            torch.nn.utils.remove_weight_norm(module, hook.name)  # type: ignore[attr-defined]
        elif type(hook).__name__ == "SpectralNorm":
            torch.nn.utils.remove_spectral_norm(module, hook.name)  # type: ignore[attr-defined]


def _own_class(module: nn.Module) -> None:
    """Give a parametrized module a class of its own: it shares one with the module that it is a copy of, and torch removes the weight from that."""
    shared = type(module)
    members = {name: member for name, member in vars(shared).items() if name not in ("__dict__", "__weakref__")}
    module.__class__ = type(shared.__name__, shared.__bases__, members)


def plain_copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode in which the weights of layers are parameters, not computed of others, so that they can be written."""
    result = detached_copy(model).eval()
    for module in list(result.modules()):
        if computed_roles(module):
            make_plain(module)
    return result


def detached_copy(model: nn.Module) -> nn.Module:
    """A copy, of the results of earlier computations that the model keeps too (a pruned weight, say), which are computed anew."""
    kept = [value for module in model.modules() for value in vars(module).values()]
    kept += [part for value in kept if isinstance(value, list) for part in value]  # as those of a recurrent network's weights
    held = [tensor for tensor in kept if isinstance(tensor, Tensor) and not tensor.is_leaf]
    return copy.deepcopy(model, {id(tensor): tensor.detach() for tensor in held})


def _of_torch(hook: object) -> bool:
    """Whether the hook does nothing but to compute a tensor of the module."""
    return isinstance(hook, prune.BasePruningMethod) or (
        type(hook).__module__ in ("torch.nn.utils.weight_norm", "torch.nn.utils.spectral_norm")
        and type(hook).__name__ in ("WeightNorm", "SpectralNorm")
    )


def kept_names(model: nn.Module) -> dict[int, tuple[str, ...]]:
    """The names under which checkpoints of the model have a tensor, by its id."""
    found: dict[int, tuple[str, ...]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        kept = {name: tensor for name, tensor in module._buffers.items() if name not in module._non_persistent_buffers_set}
        for name, tensor in (*module._parameters.items(), *kept.items()):
            if tensor is not None:
                found[id(tensor)] = (*found.get(id(tensor), ()), f"{path}.{name}" if path else name)
    return found
