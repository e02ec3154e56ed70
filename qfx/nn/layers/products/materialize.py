"""``materialize``: computed weights and constants of a quantized model as plain parameters, for passes that write them."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from torch import Tensor, fx, nn

from qfx.nn.fixed_layer import FixedLayer
from qfx.nn.layers.batch_norm import Norm
from qfx.nn.layers.elementwise.held import HeldConstant
from qfx.nn.layers.products.computed import Computed, Leaf
from qfx.nn.layers.products.computing import Computing
from qfx.nn.layers.weighted import Weighted


def materialize(module: fx.GraphModule) -> tuple[str, ...]:
    """Make every weight and bias that a quantized model computes of other tensors a parameter of its own, of its present value, so that passes may
    write it; in place. So are constants and tables that are computed of what such a pass writes.

    The model computes the same. ``state_dict`` has the new parameters, whose names are returned, in place of those that they were computed of, and a
    checkpoint of the float model does not load any longer. What is a parameter as it stands stays.
    """
    written = {id(tensor) for layer in module.modules() if isinstance(layer, Weighted | Norm) for tensor in _written(layer)}
    return tuple(name for path, layer in list(module.named_modules()) for name in _made(module, path, layer, written))


def _written(layer: nn.Module) -> Iterator[Tensor]:
    """The tensors that passes write."""
    yield from layer.parameters(recurse=False)
    for how in layer.computed().values() if isinstance(layer, Weighted) else ():
        yield from how.tensors_read() if how.itself else ()


def _made(root: nn.Module, path: str, layer: nn.Module, written: Collection[int]) -> list[str]:
    done: list[Computed] = []
    names = []
    if isinstance(layer, Computing):
        for role, how in layer.computed().items():
            if not how.itself and (isinstance(layer, Weighted) or any(id(tensor) in written for tensor in how.tensors_read())):
                layer.materialize(role)
                names.append(f"{path}.{role}")
                done.append(how)
    elif isinstance(layer, HeldConstant) and layer.computed is not None and any(id(tensor) in written for tensor in layer.computed.tensors_read()):
        done.append(layer.computed)
        names.append(f"{path}.{layer.materialize()}")
    if done:
        read = {id(tensor) for part in root.modules() if isinstance(part, Computed) for tensor in part.tensors_read()}
        for leaf in (leaf for how in done for leaf in how.leaves):
            if id(getattr(leaf.holder, leaf.own, None)) not in read:
                _forget(root, leaf)
    return names


def _forget(root: nn.Module, leaf: Leaf) -> None:
    """Take out a tensor that nothing reads any longer, under all of its names; what a layer holds for itself stays."""
    for name in leaf.names:
        path, _, own = name.rpartition(".")
        holder = root.get_submodule(path)
        layers_own = own in ("weight", "bias") if isinstance(holder, Computing) else isinstance(holder, FixedLayer | HeldConstant)
        if not layers_own and (own in holder._parameters or own in holder._buffers):
            delattr(holder, own)


def materialize_for(module: fx.GraphModule, names: Collection[str]) -> None:
    """``materialize``, if one of what it would make has a name among ``names``: the tensors of a checkpoint of a model that was materialized."""
    for path, layer in module.named_modules():
        own = (role for role, how in layer.computed().items() if not how.itself) if isinstance(layer, Computing) else ()
        if any(f"{path}.{role}" in names for role in own):
            materialize(module)
            return
        if isinstance(layer, HeldConstant) and layer.computed is not None and f"{path}.{layer.own}" in names:
            materialize(module)
            return
