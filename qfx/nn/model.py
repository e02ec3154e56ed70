"""``QuantizedModel``: what ``qfx.quantize`` returns, how it loads checkpoints, and how it is found inside what wraps it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from qfx.errors import ModelFileError, QfxError
from qfx.nn.any_names import AnyNameModule
from qfx.nn.functional import QInput
from qfx.nn.quantizer import Quantizer
from qfx.recipe import Recipe


class QuantizedModel(AnyNameModule):
    """A network in fixed point: an ``fx.GraphModule`` whose checkpoints carry the types of its casts.

    ``state_dict`` has, for each quantizer, its binary points, where they started (``frac_start``) and its type (``cast_type``: word length, sign and
    modes, as integers). ``load_state_dict`` takes a float model's checkpoint, which has none of them (the present ones stay), and those of a
    quantized model of the same types. Raises ModelFileError, before anything is changed, for one of other types.
    """

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Before any layer is loaded, and also where this model is a part of another.
        casts = [(f"{prefix}{path}.", layer) for path, layer in self.named_modules() if isinstance(layer, Quantizer) and layer.is_initialized]
        for place, cast in casts:
            _check_type(state_dict.get(f"{place}cast_type"), cast)
        if not any(f"{place}frac_bits" in state_dict for place, _ in casts):  # a float model's
            for place, cast in casts:
                state_dict.update({f"{place}{name}": tensor for name, tensor in cast.state_dict().items()})
        for place, cast in casts:
            if f"{place}frac_bits" in state_dict:  # what checkpoints of earlier days lack
                state_dict.setdefault(f"{place}frac_start", torch.round(state_dict[f"{place}frac_bits"].detach()))
                state_dict.setdefault(f"{place}cast_type", cast.cast_type)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _check_type(code: Tensor | None, cast: Quantizer) -> None:
    """Refuse a checkpoint's type that is not the quantizer's. A learned word length is a parameter, not a part of the type."""
    if code is None:
        return
    theirs, mine = code.tolist(), cast.cast_type.tolist()
    if cast.spec.learn_width and theirs[:1] != mine[:1]:
        theirs = mine[:1] + theirs[1:]
    if theirs != mine:
        raise ModelFileError(
            f"the checkpoint was trained as {cast.describe_type(code)}, the model has {cast.describe_type(cast.cast_type)}",
            where=cast.name,
            remedy="quantize the model with the recipe of the checkpoint, or load a float checkpoint and calibrate",
        )


def graph_module(qmodel: nn.Module) -> QuantizedModel:
    """``qmodel`` itself, if it came from ``quantize``, or the quantized model that it wraps (an ``AveragedModel``, ``DataParallel``, a compiled one).

    Raises QfxError for anything else; for a module that holds a quantized model among others it says where.
    """
    inner = unwrapped(qmodel)
    if isinstance(inner, QuantizedModel):
        return inner
    held = [name for name, module in qmodel.named_modules() if isinstance(module, QuantizedModel)] if isinstance(qmodel, nn.Module) else []
    remedy = f"give its quantized part, .{held[0]}" if held else "make one with qfx.quantize(model, example_input)"
    raise QfxError("is not a quantized model", where=type(qmodel).__name__, remedy=remedy)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside wrappers that compute the same with it: DataParallel, DistributedDataParallel, AveragedModel, torch.compile."""
    while True:
        inner = _inner(model)
        if inner is None:
            return model
        model = inner


def _inner(model: nn.Module) -> nn.Module | None:
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel | torch.optim.swa_utils.AveragedModel):
        module = model.module
        return module if isinstance(module, nn.Module) else None
    # torch.compile's wrapper; its class is slow to import
    return model._modules.get("_orig_mod") if isinstance(model, nn.Module) else None


def quantizers(qmodel: nn.Module) -> Iterator[tuple[str, Quantizer]]:
    """(name, quantizer) of every quantizer in use, in the order of the network; the names are those that recipes match."""
    module, seen = graph_module(qmodel), set[int]()
    for node in module.graph.nodes:
        if node.op != "call_module":
            continue
        for layer in module.get_submodule(str(node.target)).modules():
            if isinstance(layer, Quantizer) and layer.is_initialized and id(layer) not in seen:
                seen.add(id(layer))
                yield layer.name, layer


def recipe_of(qmodel: nn.Module) -> Recipe:
    """The recipe that ``qmodel`` was made with. QfxError if it did not come from ``quantize``."""
    return next(layer.recipe for layer in graph_module(qmodel).modules() if isinstance(layer, QInput))
