"""Which layers of a float model a method takes that changes how products are computed, and that no other product stays as it was unasked.

The model is run once: each call of torch that sums products (linear layers, convolutions, matrix products, attention, recurrent layers) belongs to
the module whose forward makes it. So a product is seen wherever it is written, in a layer, a subclass or a forward. Products number by number (gates,
masks, scales) are not counted.
"""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from qfx.capture.inputs import Inputs
from qfx.capture.traced import base_layer
from qfx.errors import QfxError, UnsupportedError, together
from qfx.nn.convert import check_model

# fmt: off
_SUMS = frozenset(
    (
        "linear", "bilinear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "conv_tbc",
        "matmul", "mm", "bmm", "mv", "dot", "vdot", "inner", "outer", "addmm", "addmv", "addbmm", "baddbmm", "addr", "einsum", "tensordot",
        "chain_matmul", "multi_dot", "kron", "scaled_dot_product_attention", "multi_head_attention_forward", "_native_multi_head_attention",
        "_transformer_encoder_layer_fwd", "lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell",
        "__matmul__", "__rmatmul__", "__imatmul__",
    )
)
# fmt: on
"""What torch calls its functions that sum products of two tensors."""


class _Watch(TorchFunctionMode):
    """Notes the calls that sum products, by the module that is at work."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.found: dict[str, set[str]] = {}
        self._at_work: list[str] = [""]
        for name, module in model.named_modules():
            module.register_forward_pre_hook(lambda *_, name=name: self._at_work.append(name), prepend=True)
            module.register_forward_hook(lambda *_: self._leave())

    def _leave(self) -> None:
        self._at_work.pop()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in _SUMS:
            self.found.setdefault(self._at_work[-1], set()).add(name)
        return func(*args, **(kwargs or {}))


def products(model: nn.Module, example_input: Any) -> dict[str, set[str]]:
    """The functions that sum products, by the dotted name of the module ("" is the model) whose forward calls them.

    >>> products(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), torch.rand(4, 3))
    {'0': {'linear'}}
    """
    watched = copy.deepcopy(model).eval()
    watch, inputs = _Watch(watched), Inputs.of(model, example_input)
    with torch.no_grad(), watch:
        watched(*inputs.args, **inputs.kwargs)
    return watch.found


def is_plain(layer: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Whether the layer computes what one of ``kinds`` does, with parameters of its own and nothing around its forward."""
    held = layer._parameters
    hooks = layer._forward_pre_hooks or layer._forward_hooks
    return base_layer(layer) in kinds and held.get("weight") is not None and "bias" in held and not hooks and "forward" not in vars(layer)


def layers_to_change(
    model: nn.Module, example_input: Any, takes: Callable[[nn.Module], bool], keep: Sequence[str], *, method: str, takes_text: str
) -> list[tuple[str, nn.Module]]:
    """The layers that ``takes`` and that no pattern of ``keep`` (of their dotted names, as the shell's) leaves as they are, in order; a layer
    of several names once for each.

    ``takes_text``: which layers the method takes. Raises UnsupportedError for products elsewhere that ``keep`` does not name, all of them by name,
    for a model that is such a layer itself, for one without any, and for what ``qfx.quantize`` does not take either (quantized already, TorchScript);
    QfxError for a pattern that matches no product.
    """
    if isinstance(keep, str):
        raise QfxError(f"keep is the text {keep!r}", where=method, remedy=f"give a list of patterns: keep=[{keep!r}]")
    check_model(model)
    found = products(model, example_input)
    layers = [(name, module) for name, module in model.named_modules(remove_duplicate=False) if takes(module)]
    named = {name for name, _ in layers} | set(found)
    for pattern in keep:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in named):
            raise QfxError(f"keep has {pattern!r}, which matches no product", where=method, remedy=f"use names of: {', '.join(sorted(named))}")

    def stays(name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in keep)

    taken = [(name, module) for name, module in layers if not stays(name)]
    blockers = []
    for name, functions in found.items():
        module = model.get_submodule(name)
        if not takes(module) and not stays(name):
            told = f"{type(module).__name__} computes {', '.join(sorted(functions))}, which {method} does not take"
            blockers.append(UnsupportedError(told, where=name or "the model itself", remedy=f"{takes_text}; keep=[{name!r}] leaves it as it is"))
    if blockers:
        raise together(blockers, where=type(model).__name__)
    if not taken:
        told = "has no linear layer or convolution" if not named else "keeps all of its products"
        raise UnsupportedError(told, where=type(model).__name__, remedy=f"there is nothing that {method} could change")
    if not taken[0][0]:
        raise UnsupportedError("is the layer itself", where=type(model).__name__, remedy="put it in an nn.Sequential")
    return taken


def replace(model: nn.Module, taken: Sequence[tuple[str, nn.Module]], make: Callable[[Any], nn.Module]) -> dict[str, nn.Module]:
    """Put ``make(layer)`` in the place of each layer, once for a layer of several names; by the first names."""
    made: dict[int, nn.Module] = {}
    firsts: dict[str, nn.Module] = {}
    for name, layer in taken:
        if id(layer) not in made:
            made[id(layer)] = firsts[name] = make(layer)
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, made[id(layer)])
    return firsts
