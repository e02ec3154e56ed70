"""Down a ladder of word lengths: each rung starts from what the one above it learned."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from qfx.capture.traced import is_layer
from qfx.errors import ModelFileError
from qfx.nn.convert import quantize
from qfx.nn.layers import Weighted
from qfx.nn.layers.elementwise.held import HeldConstant
from qfx.nn.layers.selecting.embedding import QEmbedding
from qfx.nn.model import QuantizedModel, graph_module, unwrapped
from qfx.nn.quantizer import Quantizer
from qfx.recipe import Recipe


def float_state(qmodel: nn.Module) -> dict[str, Tensor]:
    """A float checkpoint of what ``qmodel`` has learned, by the float model's names: weights before they are cast, BatchNorm's parameters and
    statistics; no binary points. The tensors are copies. What the float model computes of other parameters is not in it, those parameters are.

    Raises QfxError if ``qmodel`` did not come from ``qfx.quantize``.
    """
    module = graph_module(qmodel)
    state = dict(module.state_dict())
    for path, layer in module.named_modules():
        prefix = f"{path}." if path else ""
        if isinstance(layer, Quantizer):
            for name in layer.state_dict(prefix=prefix):
                state.pop(name, None)
        elif isinstance(layer, HeldConstant | Weighted | QEmbedding):
            for ours, theirs in layer.float_names().items():
                value = state.pop(prefix + ours, None)
                if theirs and value is not None:
                    state[theirs] = value
    return {name: value.detach().clone() for name, value in state.items()}


def ladder(model: nn.Module, example_input: Any, recipes: Iterable[Recipe]) -> Iterator[QuantizedModel]:
    """The float ``model`` quantized by one recipe after the other, each starting from what the one before has learned by then.

    >>> for qmodel in ladder(model, x, [Recipe.uniform(bits) for bits in (8, 4, 3)]):  # doctest: +SKIP
    ...     train(qmodel)

    Weights and BatchNorm's statistics go from rung to rung (``float_state``), binary points start anew from ``example_input``. ``model`` is left as
    it is. Raises what ``qfx.quantize`` raises, and ModelFileError for a rung whose parameters the float model does not have (it was materialized).
    """
    source = copy.deepcopy(unwrapped(model))
    for recipe in recipes:
        qmodel = quantize(source, example_input, recipe)
        yield qmodel
        _take(source, float_state(qmodel))


def _take(model: nn.Module, learned: dict[str, Tensor]) -> None:
    if is_layer(model):
        learned = {name.removeprefix("layer."): value for name, value in learned.items()}
    state = model.state_dict()
    strange = [name for name in learned if name not in state]
    if strange:
        what = f"the float model has no parameter {', '.join(strange[:6])}"
        raise ModelFileError(what, where="ladder", remedy="train each rung without making its computed weights parameters")
    model.load_state_dict({**state, **learned})
