"""Without any data: binary points from BatchNorm statistics, or calibration inputs distilled from them.

Measured on ResNet-20, 8-bit weights per channel and 8-bit activations, first 2,000 test images of CIFAR-10: float 91.05 %; calibrated with 256 real
images 91.15; statistics alone 91.20 (under a second); distilled inputs 91.35 and 91.30 with two seeds (20 seconds). At 6 bits, where ranges matter
more, the first 1,000 images gave 91.8 with real images, 90.9 with statistics, 91.3 with distilled inputs, which know what normal distributions leave
out (heavy tails behind additions, dependence between channels). So they are the default.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, fx, nn

from qfx.errors import DataError, QfxError, RecipeError
from qfx.fixed.type import OMode
from qfx.nn.convert import quantize
from qfx.nn.layers import Norm, QInput
from qfx.nn.model import graph_module
from qfx.nn.quantizer import Quantizer
from qfx.ptq.activations import Env, evaluating, run_node
from qfx.ptq.bias import correct_bias
from qfx.ptq.calibrate import calibrate
from qfx.ptq.data_free.bias_from_statistics import correct_bias_from_statistics
from qfx.ptq.data_free.moments import Clipped, distributions
from qfx.ptq.floating.fold import Folded, Statistics, fold_batch_norm, folded_statistics
from qfx.recipe import Recipe

SAMPLES = 2048
"""How many quantiles of a channel an observer is shown: they reach out to 3.5 standard deviations."""

SAMPLES_DISTILLED = 32
"""How many inputs are distilled where nothing else is asked for."""

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def quantize_without_data(
    model: nn.Module,
    example_input: Tensor,
    recipe: Recipe | None = None,
    *,
    method: Literal["distill", "statistics"] = "distill",
    input_range: tuple[float, float] | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> fx.GraphModule:
    """``qfx.quantize`` for words of about 8 bits with no data at all; the result is in evaluation mode.

    BatchNorm is folded where it can be; its statistics place the binary points, either through inputs that are ``distill``-ed from them (slower,
    and better), or directly (``calibrate_from_statistics``, seconds); then biases are corrected, on the same inputs or by
    ``correct_bias_from_statistics``. ``example_input``: numbers of the right shape, such as ``torch.zeros(1, 3, 32, 32)``. ``input_range``: the least
    and the greatest input; None supposes inputs normalized to mean 0 and standard deviation 1.

    Raises QfxError for a model without BatchNorm statistics, RecipeError for another ``method``.
    """
    if method not in ("distill", "statistics"):
        raise RecipeError(f"the method is {method!r}", remedy="use distill or statistics")
    _refuse_untrained(model)
    _refuse_rows(example_input, model)
    folded = fold_batch_norm(model, example_input)
    statistics = folded_statistics(folded)
    recipe = Recipe() if recipe is None else recipe
    if recipe.spec("input", "input").signed is None:  # the example says nothing of it
        signed = input_range is None or input_range[0] < 0 or recipe.spec("input", "input").o is OMode.WRAP_SM
        recipe = replace(recipe, input=replace(recipe.input, signed=signed))
    qmodel = quantize(folded, example_input, recipe).eval()
    if method == "statistics":
        calibrate_from_statistics(qmodel, statistics, input_range=(-3.0, 3.0) if input_range is None else input_range)
        correct_bias_from_statistics(qmodel, statistics, input_mean=0.0 if input_range is None else sum(input_range) / 2)
    else:
        inputs = distill(folded, example_input, input_range=input_range, seed=seed, progress=progress)
        calibrate(qmodel, inputs)
        correct_bias(qmodel, inputs)
    return qmodel


def _refuse_rows(example_input: Tensor, model: nn.Module) -> None:
    """Numbers of a table's rows follow no distribution that could be guessed. (Images of integers are numbers.)"""
    if any(isinstance(module, nn.Embedding | nn.EmbeddingBag) for module in model.modules()) and not example_input.is_floating_point():
        raise QfxError(
            "has an input of row numbers", where=type(model).__name__, remedy="calibrate with data: no statistics tell which rows are read"
        )


def _refuse_untrained(model: nn.Module) -> None:
    for path, norm in model.named_modules():
        if isinstance(norm, _NORMS) and norm.running_mean is not None and norm.running_var is not None:
            never = norm.num_batches_tracked is None or int(norm.num_batches_tracked) == 0  # old checkpoints have no counter
            if never and bool((norm.running_mean == 0).all() and (norm.running_var == 1).all()):
                raise QfxError("its statistics have never seen data", where=path, remedy="load the trained checkpoint, or calibrate with data")


def calibrate_from_statistics(
    qmodel: nn.Module, statistics: Mapping[str, Statistics], *, input_range: tuple[float, float] = (-3.0, 3.0), samples: int = SAMPLES
) -> None:
    """Start every binary point anew from BatchNorm statistics, as the recipe's observers say; in place.

    An observer is shown evenly spread quantiles of what each channel gives: normal, with the mean and standard deviation that BatchNorm knows, then
    limited, added, joined as the network does (``moments``). ``statistics``: of the results of layers, by path (``folded_statistics`` of
    the float model that was quantized; those of BatchNorms that are kept are known anyway). ``input_range``: the model's input has no statistics;
    the default suits inputs normalized to mean 0 and standard deviation 1. ``qfx.quantize`` wants an example: any numbers of the right shape do, but
    where the input can be negative not only positive ones (zeros do).

    Raises QfxError if there are no statistics at all, DataError for an input range that is empty.
    """
    module = graph_module(qmodel)
    low, high = input_range
    if not low < high:
        raise DataError(f"goes from {low} to {high}", where="input_range", remedy="give the least and the greatest input, such as (0.0, 1.0)")
    if not statistics and not any(isinstance(layer, Norm) for layer in module.modules()):
        raise QfxError(
            "has no BatchNorm statistics", where="calibrate_from_statistics", remedy="give folded_statistics(model), or calibrate with data"
        )
    centre = torch.tensor([(low + high) / 2], dtype=torch.float64)
    inputs = Clipped.normal(centre, torch.full_like(centre, (high - low) / 6)).limited(low, high)
    found = distributions(module, statistics, inputs)
    env: Env = {}
    with evaluating(module), torch.no_grad():
        for node in module.graph.nodes:
            layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
            if node.op == "placeholder":
                first = next(layer for layer in module.modules() if isinstance(layer, QInput))
                env[node.name] = torch.zeros(1, *first.shape)  # what constants are fitted to is bounds, not numbers
            elif isinstance(layer, QInput):
                layer.initialize(torch.linspace(low, high, samples).reshape(-1, *(1,) * len(layer.shape)).expand(-1, *layer.shape))
            elif isinstance(layer, Quantizer):
                layer.initialize(_shown(found[node.name], layer, tuple(env[node.args[0].name].shape), samples))
            elif hasattr(layer, "initialize"):
                layer.initialize(*(env[source.name] for source in node.args if isinstance(source, fx.Node)))  # type: ignore[operator, union-attr]
            run_node(module, node, env)


def _shown(values: Clipped, cast: Quantizer, shape: tuple[int, ...], samples: int) -> Tensor:
    """Samples for a quantizer of a tensor of ``shape`` (batch first): one pixel per channel, unless every element has a binary point."""
    per_element = cast.spec.granularity == "element"
    flat = values.samples(128 if per_element else samples).float()
    pixels = flat.reshape(*flat.shape, *(1,) * (len(shape) - 2)).expand(-1, shape[1], *(-1,) * (len(shape) - 2))
    return pixels.expand(-1, *shape[1:]) if per_element else pixels


def distill(
    model: nn.Module,
    example_input: Tensor,
    *,
    count: int = SAMPLES_DISTILLED,
    steps: int = 60,
    rate: float = 0.1,
    input_range: tuple[float, float] | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Tensor:
    """``count`` inputs on which the float model's BatchNorms see the statistics that they were trained with: calibration data out of nothing.

    Random normal numbers, moved by ``steps`` of gradient descent (Adam, ``rate``) on the squared differences of means and standard deviations, each
    over the standard deviation that is known. ``model``: as trained, or from ``fold_batch_norm``; it is left as it is. ``example_input``: for
    its shape only. ``input_range``: limits for the inputs. Deterministic for a ``seed``. ResNet-20 takes 15 to 20 seconds on one core.

    All inputs are worked on at once. Source: Cai et al., "ZeroQ: A Novel Zero Shot Quantization Framework", 2020, section 3.1. Raises QfxError for a
    model without BatchNorm, DataError for fewer than two inputs.
    """
    if count < 2:
        raise DataError(f"{count} inputs have no deviation", where="distillation", remedy="ask for at least 2; 32 mostly do")
    _refuse_untrained(model)
    _refuse_rows(example_input, model)
    model = copy.deepcopy(model).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    losses: list[Tensor] = []

    def compare(x: Tensor, mean: Tensor, std: Tensor) -> None:
        rows = x.transpose(0, 1).flatten(1)
        unit = std + 1e-3 * float(std.max()) + 1e-12
        losses.append((((rows.mean(1) - mean) / unit).square() + ((rows.std(1) - std) / unit).square()).mean())

    def see(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(module, Folded):
            compare(inputs[0], module.mean, module.std)
        elif isinstance(module, _NORMS) and module.running_mean is not None and module.running_var is not None:
            compare(inputs[0], module.running_mean, (module.running_var + module.eps).sqrt())

    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, *example_input.shape[1:], generator=generator)
    x = (x if input_range is None else x.clamp(*input_range)).requires_grad_(True)
    optimizer = torch.optim.Adam([x], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    with contextlib.ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, Folded | nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                stack.callback(module.register_forward_pre_hook(see).remove)
        for step in range(steps):
            losses.clear()
            model(x)
            if not losses:
                raise QfxError(
                    "has no BatchNorm statistics", where=type(model).__name__, remedy="give real inputs: without BatchNorm there is no trace of them"
                )
            total = torch.stack(losses).sum() + x.mean().square() + (x.std() - 1).square() * (input_range is None)
            optimizer.zero_grad(set_to_none=True)
            total.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            if input_range is not None:
                with torch.no_grad():
                    x.clamp_(*input_range)
            if progress is not None:
                progress("distillation", step + 1, steps)
    return x.detach()
