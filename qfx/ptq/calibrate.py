"""Calibration: every binary point placed from any number of batches, layer by layer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from qfx.errors import DataError
from qfx.nn.fixed_layer import FixedLayer
from qfx.nn.layers import Norm, QInput
from qfx.nn.layers.tables.lookup import opened
from qfx.nn.model import graph_module
from qfx.nn.qtensor import QTensor
from qfx.nn.quantizer import Quantizer
from qfx.ptq.activations import ActivationCache, batches, evaluating
from qfx.recipe import Recipe


def calibrate(qmodel: nn.Module, data: Tensor | Iterable[Tensor] | None = None, *, example_input: Tensor | None = None) -> None:
    """Start every binary point anew from all of ``data``, as the recipe's observers say; in place.

    ``data`` (or ``example_input``, its earlier name): real inputs, one tensor or batches of any length. Each Cast sees what the layers before it give
    once they are placed, one batch at a time; between two Casts the values are kept in memory up to a bound and beyond it in a temporary folder.
    Every module stays in training or evaluation mode as it was. ``qfx.calibrate`` and ``qfx.ptq.calibrate`` are this function.

    After an error the model is as it was.

    Of a model in several processes (``qfx.synchronize``) each gives its part of the data, of any number of batches; the binary points are those of
    all data. What is wrong with the data of one process is raised in all of them.

    Raises QfxError if ``qmodel`` did not come from ``qfx.quantize``, DataError for bad data, and for negative data if the example that it was
    quantized with had none: its input then has no sign, and what follows was chosen for that (see ``with_input_sign``).
    """
    module = graph_module(qmodel)
    data = example_input if data is None else data
    if data is None:
        raise DataError("got no data", where="calibration", remedy="give real inputs: qfx.calibrate(qmodel, x)")
    again = data if isinstance(data, Tensor) or not isinstance(data, Iterator) else list(data)
    with torch.inference_mode(False), torch.no_grad(), evaluating(module), _all_or_nothing(module), opened(module):
        _check_together(module, again)
        for layer in module.modules():  # before all others: its casts are what the cache starts from
            if isinstance(layer, QInput):
                layer.initialize_from(_Batches(again))
        with ActivationCache((module,), batches(again)) as cache:
            for node in cache.nodes[0]:
                if node.op != "call_module":
                    continue
                layer = module.get_submodule(str(node.target))
                if not isinstance(layer, FixedLayer) or isinstance(layer, QInput) or not hasattr(layer, "initialize"):
                    continue
                cache.advance_to(node)
                values = _Values(cache, node)
                layer.restart(values, values.of_one_batch)


def with_input_sign(recipe: Recipe, data: Tensor | Iterable[Tensor]) -> Recipe:
    """``recipe`` with a signed input if it leaves that open and any of ``data`` is negative: for a model that is quantized with a part of them."""
    signed = recipe.spec("input", "input").signed
    if signed is not None or not any(bool((part < 0).any()) for part in batches(data)):
        return recipe
    return replace(recipe, input=replace(recipe.input, signed=True))


def _check_together(module: nn.Module, data: Tensor | Iterable[Tensor]) -> None:
    """Of several processes: look at the data of each before the first waits for the others."""
    inputs = [layer for layer in module.modules() if isinstance(layer, QInput)]
    ranks = inputs[0].cast.ranks
    if ranks is None:
        return
    error: DataError | None = None
    try:
        for batch in batches(data):
            for layer in inputs:
                layer.checked(batch)
    except DataError as found:
        error = found
    ranks.agree(error)


@contextlib.contextmanager
def _all_or_nothing(module: nn.Module) -> Iterator[None]:
    """After an error every binary point and every statistic is again what it was."""
    moved = [layer for layer in module.modules() if isinstance(layer, Quantizer | Norm)]
    tensors = [(t, t.detach().clone()) for layer in moved for t in (*layer.parameters(recurse=False), *layer.buffers(recurse=False))]
    casts = [(cast, cast.frac_start, cast.cast_type, cast.signed, cast.frac_grad_scale) for cast in moved if isinstance(cast, Quantizer)]
    try:
        yield
    except BaseException:
        for tensor, before in tensors:
            tensor.copy_(before)
        for cast, start, kept, signed, scale in casts:
            cast.frac_start, cast.cast_type, cast.signed, cast.frac_grad_scale = start, kept, signed, scale
        raise


@dataclass(frozen=True, eq=False)
class _Batches:
    """Calibration data, checked, as often as wanted."""

    data: Tensor | Iterable[Tensor]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(batches(self.data))


@dataclass(frozen=True, eq=False)
class _Values:
    """What a node, the next to run, reads first, batch by batch, as often as wanted."""

    cache: ActivationCache
    node: fx.Node

    def __iter__(self) -> Iterator[QTensor]:
        for index in range(self.cache.batches):
            yield self.cache.inputs(self.node, index)[0]

    def of_one_batch(self) -> tuple[QTensor, ...]:
        """All that the node reads of the first batch."""
        env = self.cache.alive(0, 0)
        return tuple(env[source.name] for source in self.node.args if isinstance(source, fx.Node))
