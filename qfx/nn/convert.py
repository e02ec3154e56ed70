"""``quantize()``: an ordinary float module becomes the same network in trainable fixed point."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from qfx.capture.inputs import Inputs
from qfx.capture.refusals.blockers import blockers, changed_modules, refusal, require_supported, require_traceable
from qfx.capture.tail import captured
from qfx.capture.traced import base_layer, is_layer
from qfx.errors import DataError, RecipeError, UnsupportedError
from qfx.nn.builder import Builder
from qfx.nn.layers import QInput
from qfx.nn.layers.products.own import computed_roles, detached_copy, make_plain
from qfx.nn.model import QuantizedModel, quantizers, unwrapped
from qfx.nn.rules import MODULES
from qfx.recipe import Recipe


def quantize(model: nn.Module, example_input: Any, recipe: Recipe | None = None) -> QuantizedModel:
    """The same network in fixed point: trainable, and initialised from ``example_input``.

    ``model`` is left as it is; DataParallel, DistributedDataParallel, AveragedModel and torch.compile around it are looked through. The result is a
    ``torch.fx.GraphModule`` whose parameters keep their names (a float checkpoint of ``model`` loads into it), plus one ``frac_bits`` per quantizer:
    the binary points, which any optimizer learns. ``example_input``: a batch of real inputs, batch first; of a model with several, a tuple of them
    in the order of its arguments, or a dict by their names. Binary points start where the squared error on it is least. ``recipe``: word lengths,
    modes, granularity; default Recipe().

    Casts stand behind every chain of {convolution, linear} -> BatchNorm -> addition -> activation, behind pooling averages and products, at
    the input and at the output; inside a chain the numbers are exact, however wide. A ``model`` that is a single torch layer is named
    "layer".

    Raises UnsupportedError for modules and operators without a fixed-point form, or control flow that depends on data: it lists all of them
    (``error.blockers``); DataError for NaN,
    infinity or a wrong shape; RecipeError for a pattern that matches nothing.
    """
    model, inputs, recipe = asked(model, example_input, recipe)
    with torch.inference_mode(False), torch.no_grad():
        result = _built(copied(model), inputs, recipe, type(model).__name__)
    used = list(quantizers(result))
    recipe.check_patterns({name: quantizer.also for name, quantizer in used}, {name: quantizer.kind for name, quantizer in used})
    if any(parameter.dtype is torch.float64 for parameter in model.parameters()):
        result.double()
    result.train(model.training)
    names = {name for name, _ in result.named_modules()}
    for name, module in model.named_modules():  # a BatchNorm that was frozen stays frozen
        if name in names:
            result.get_submodule(name).training = module.training
    return result


def asked(model: nn.Module, example_input: Any, recipe: Recipe | None) -> tuple[nn.Module, Inputs, Recipe]:
    """The model itself, its example and the recipe of ``quantize(model, example_input, recipe)``. Raises what that raises before it records a run."""
    recipe = Recipe() if recipe is None else recipe
    if not isinstance(recipe, Recipe):
        raise RecipeError(f"is a {type(recipe).__name__}", where="recipe", remedy="give a Recipe; Recipe.load(path) reads one")
    model = unwrapped(model)
    check_model(model)
    return model, Inputs.of(model, example_input), recipe


def check_model(model: nn.Module) -> None:
    """Refuse what tracing would not see, and numbers that have no fixed-point form."""
    if not isinstance(model, nn.Module):
        raise UnsupportedError(f"{type(model).__name__} is not a torch.nn.Module", where="model", remedy="give the float model itself")
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise UnsupportedError("is a TorchScript module", where=name or "model", remedy="give the Python module that it was made of")
    if any(isinstance(module, QInput) for module in model.modules()):
        raise UnsupportedError(
            "is quantized already", where=type(model).__name__, remedy="give the float model; qfx.calibrate starts binary points anew"
        )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise DataError("is not initialized yet", where=name, remedy="run the model once on an example: model(example_input)")
        held = tensor if isinstance(tensor, nn.Parameter) else torch.where(tensor == -torch.inf, 0, tensor)  # a mask: refused where it is none
        if not bool(torch.isfinite(held).all()):
            raise DataError("NaN or infinity", where=name, remedy="repair the checkpoint")


def copied(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode; of a single layer, one that gives it a name."""
    changed = tuple(changed_modules(model))
    try:
        source = detached_copy(model).eval()
    except RuntimeError as error:  # torch's refusal of tensors with a history
        message = str(error).split(". ")[0]
        remedy = "let the model keep no results of earlier calls, only parameters and buffers"
        raise UnsupportedError(f"cannot be copied: {message}", where=type(model).__name__, remedy=remedy) from error
    require_traceable(model, changed)
    for module in source.modules():
        if is_layer(module) and base_layer(module) in MODULES and not computed_roles(module):
            make_plain(module)  # what a BatchNorm, say, computes of others is not seen by its rule
        if isinstance(module, nn.RNNBase):
            module._init_flat_weights()  # torch's list of a recurrent network's weights, of the copy: what is computed of others is so in every run
    return nn.Sequential(OrderedDict(layer=source)) if is_layer(model) else source


def _built(source: nn.Module, example: Inputs, recipe: Recipe, name: str) -> QuantizedModel:
    """The fixed-point network. A model that cannot become one is refused with all that stands in the way."""
    if any(True for _ in changed_modules(source)):
        require_supported(source, example, recipe)
    traced = captured(source, example, recipe)
    found: tuple[UnsupportedError, ...] = ()
    if traced.stopped is None and traced.differs is None and not traced.refused:
        try:
            return Builder(traced, recipe).build(example)
        except UnsupportedError as error:
            found = (error,)
    all_found = blockers(traced, recipe)
    raise refusal(source, example, traced, all_found or found, name)
