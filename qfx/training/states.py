"""What of a quantized model is trained and what is cast, by patterns: ``freeze`` and ``switch``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from qfx.errors import RecipeError
from qfx.nn.layers import Norm
from qfx.nn.layers.tables.lookup import Tabled
from qfx.nn.model import quantized_parts
from qfx.nn.quantizer import Quantizer
from qfx.recipe import Override


def freeze(qmodel: nn.Module, pattern: str = "*", *, binary_points: bool = True, statistics: bool = True, on: bool = True) -> None:
    """Let binary points, and the running statistics of BatchNorms, stay where they are; in place. ``on=False`` lets them be trained again.

    ``pattern``: whose, as in ``qfx.Override``: ``"blocks.*"``, ``"*.weight"``, ``"type:ReLU"``; of a BatchNorm its layer's name counts.
    ``binary_points`` are all that is learned in a quantizer, learned word lengths too; they get no gradient, and no optimizer moves them, whether it
    was made before or after. ``statistics``: those BatchNorms compute as in evaluation from now on, whatever ``train()`` says of the model; their
    weights are trained. The forward's numbers do not change. Checkpoints do not tell what is frozen: say it again after loading one.

    ``qmodel``: from ``qfx.quantize``, or a module that holds such ones. Raises RecipeError for a pattern that matches nothing.
    """
    matched = _matched(_quantizers(qmodel), pattern) if binary_points else []
    norms = [norm for norm in _norms(qmodel) if _names_norm(pattern, norm)] if statistics else []
    if not matched and not norms and pattern != "*":
        raise _nothing(pattern)
    for quantizer in matched:
        if on:
            learned = {name: parameter for name, parameter in quantizer.named_parameters(recurse=False) if parameter.requires_grad}
            quantizer.frozen = tuple(sorted({*quantizer.frozen, *learned}))
            for parameter in learned.values():
                parameter.requires_grad_(False)
                parameter.grad = None  # an optimizer would take a step by the last one
        else:
            for name in quantizer.frozen:
                quantizer.get_parameter(name).requires_grad_(True)
            quantizer.frozen = ()
    for norm in norms:
        if norm.frozen != on:
            norm.frozen = on
            norm.train(qmodel.training)


def switch(qmodel: nn.Module, pattern: str = "*", *, on: bool) -> None:
    """Switch quantizers off, so that they let numbers pass as they are, or on again; in place. For gradual quantization: layer by layer, or
    activations first.

    ``pattern``: which, as in ``qfx.Override``: ``"blocks.0.*"``, ``"*.weight"``, ``"type:Conv2d"``. In training and in evaluation alike, until it is
    switched on. With any of them off the model computes in float there, and tables are their functions; ``export_onnx`` and whatever builds on a
    graph refuses it, naming them. Binary points stay as they are. Checkpoints do not tell what is off.

    ``qmodel``: from ``qfx.quantize``, or a module that holds such ones. Raises RecipeError for a pattern that matches nothing.
    """
    matched = _matched(_quantizers(qmodel), pattern)
    if not matched:
        raise _nothing(pattern)
    for quantizer in matched:
        quantizer.off = not on
    for part in quantized_parts(qmodel):
        in_float = any(layer.off for layer in part.modules() if isinstance(layer, Quantizer))
        for layer in part.modules():
            if isinstance(layer, Tabled):
                layer.in_float = in_float


def matched(qmodel: nn.Module, pattern: str) -> Sequence[Quantizer]:
    """The quantizers that ``freeze`` and ``switch`` mean by ``pattern``."""
    return _matched(_quantizers(qmodel), pattern)


def check_pattern(qmodel: nn.Module, pattern: str, *, norms: bool = False) -> None:
    """Raise RecipeError for a pattern that matches nothing, as ``freeze`` and ``switch`` would; ``norms``: it may mean BatchNorms alone."""
    if pattern != "*" and not matched(qmodel, pattern) and not (norms and any(_names_norm(pattern, norm) for norm in _norms(qmodel))):
        raise _nothing(pattern)


def _quantizers(qmodel: nn.Module) -> Iterator[Quantizer]:
    for part in quantized_parts(qmodel):
        for layer in part.modules():
            if isinstance(layer, Quantizer) and layer.is_initialized:
                yield layer


def _norms(qmodel: nn.Module) -> Iterator[Norm]:
    for part in quantized_parts(qmodel):
        for layer in part.modules():
            if isinstance(layer, Norm):
                yield layer


def _matched(quantizers: Iterator[Quantizer], pattern: str) -> Sequence[Quantizer]:
    wanted = Override(pattern, {})
    return [quantizer for quantizer in quantizers if wanted.matches(quantizer.name, quantizer.also, quantizer.kind)]


def _names_norm(pattern: str, norm: Norm) -> bool:
    return Override(pattern, {}).matches(f"{norm.name}.statistics", kind=norm.kind)


def _nothing(pattern: str) -> RecipeError:
    return RecipeError(f"the pattern {pattern!r} matches nothing", where="pattern", remedy="qfx.quantizers(qmodel) lists the names")
