"""How much each quantizer matters: what the model loses if it alone works at a word length, by several measures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

from torch import Tensor, fx, nn

from qfx.errors import RecipeError
from qfx.nn.convert import quantize
from qfx.nn.layers import QInput
from qfx.progress import Progress
from qfx.ptq.activations import batches, evaluating
from qfx.ptq.allocation.by_gradient import GRADIENT_MEASURES, measure_gradients
from qfx.ptq.allocation.by_output import measure_outputs
from qfx.ptq.allocation.sites import sites_of
from qfx.ptq.allocation.table import Measure, Role, Row, Table
from qfx.ptq.calibrate import with_input_sign
from qfx.ptq.float_reference import float_reference
from qfx.ptq.floating.fold import fold_batch_norm
from qfx.recipe import Recipe

WIDTHS = (2, 3, 4, 5, 6, 8)
EXAMPLE = 64
"""Samples that place the binary points of a float model that is quantized here; they are placed anew for every word length."""


def sensitivity(
    model: nn.Module,
    data: Tensor | Iterable[Tensor],
    *,
    widths: Iterable[int] = WIDTHS,
    measure: Measure = "sqnr",
    recipe: Recipe | None = None,
    roles: Iterable[Role] = ("weight", "activation"),
    probes: int = 8,
    seed: int = 0,
    progress: Progress | None = None,
) -> Table:
    """For each quantizer of a role in ``roles``: what the float model loses if that one alone casts, at each word length of ``widths``.

    ``model``: from ``qfx.quantize``, or a float model, which is folded and quantized by ``recipe`` first; it stays as it is. ``data``: calibration
    inputs, a tensor or batches; some hundred samples do. Every cast keeps its modes and granularity, its binary points are placed anew for each word
    length. "activation" means the casts between the layers, not the model's input and result. ``measure``:

    - "sqnr": noise over signal at the output, ``sum (y - y_w)**2 / sum y**2``; one run of the rest of the network per row and word length.
    - "correlation": 1 - the mean canonical correlation of the output in float and with the cast (blind to what a linear layer could repair).
    - "fisher", "hessian", "taylor": from the curvature of the distillation loss (the divergence of the softmax, plus the relative squared error) by
      what is cast, from gradients alone, the same effort for any number of word lengths. "fisher" is half the sum of its diagonal, element by element
      the mean squared gradient, times the squared rounding errors; "hessian" half its mean diagonal times the sum of the squared rounding errors;
      "taylor" half the squared first-order change of the output (which takes into account that errors can add up or cancel).

    All are additive over quantizers as far as the errors are small and independent. ``probes``: random directions per batch for the last three.
    Deterministic for a ``seed``.

    Sources: Dong et al., "HAWQ-V2: Hessian Aware trace-Weighted Quantization of Neural Networks", 2020 ("hessian", with Hutchinson's estimate of the
    trace); Nanda et al., "CPTQuant", 2024, sections on CMPQ and TDMPQ, after whose ideas, canonical correlation and Taylor expansion, "correlation"
    and "taylor" are built: there they rank layers of language models, here they are losses per word length.

    Raises RecipeError for an unknown measure, role or word length, DataError for bad data, and what ``qfx.quantize`` raises.
    """
    lengths, wanted = tuple(sorted(set(widths))), tuple(roles)
    _check(lengths, measure, wanted)
    parts = batches(data)
    qmodel = model if _is_quantized(model) else _quantized(model, parts[0], recipe)
    assert isinstance(qmodel, fx.GraphModule)
    sites = [site for site in sites_of(qmodel) if site.role in wanted]
    reference = float_reference(qmodel)

    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress("sensitivity", done, total)

    with evaluating(reference):
        if measure in GRADIENT_MEASURES:
            found = measure_gradients(reference, parts, sites, lengths, measure, tell, probes=probes, seed=seed)
        else:
            found = measure_outputs(reference, parts, sites, lengths, measure, tell)
    rows = (Row(site.name, site.role, found[site.name].numbers, site.quantizer.word_length, found[site.name].losses) for site in sites)
    return Table(measure, lengths, tuple(rows))


def _check(widths: tuple[int, ...], measure: Measure, roles: tuple[Role, ...]) -> None:
    """Raise RecipeError for what cannot be measured."""
    if not widths or widths[0] < 1 or widths[-1] > 32:
        raise RecipeError(f"the widths are {list(widths)}", where="sensitivity", remedy="give word lengths from 1 to 32")
    if measure not in get_args(Measure):
        raise RecipeError(f"the measure is {measure!r}", where="sensitivity", remedy=f"use one of {', '.join(get_args(Measure))}")
    for role in roles:
        if role not in get_args(Role):
            raise RecipeError(f"the role is {role!r}", where="sensitivity", remedy=f"use some of {', '.join(get_args(Role))}")


def _is_quantized(model: nn.Module) -> bool:
    return any(isinstance(layer, QInput) for layer in model.modules())


def _quantized(model: nn.Module, example: Tensor, recipe: Recipe | None) -> fx.GraphModule:
    recipe = with_input_sign(Recipe() if recipe is None else recipe, example)
    return quantize(fold_batch_norm(model, example[:EXAMPLE]), example[:EXAMPLE], recipe).eval()
