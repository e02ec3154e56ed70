"""The passes of ``qfx ptq`` by name: what each does to the float model or to the quantized one, and which of them suit a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from qfx.errors import RecipeError
from qfx.nn.model import quantizers
from qfx.ptq.activations import Progress, layer_calls
from qfx.ptq.bias import correct_bias
from qfx.ptq.calibrate import calibrate
from qfx.ptq.floating.equalize import absorb_bias, equalize, equalize_exactly, replace_relu6
from qfx.ptq.floating.fold import fold_batch_norm
from qfx.ptq.rounding.adaround_blocks import ITERATIONS as BLOCK_ITERATIONS
from qfx.ptq.rounding.adaround_blocks import adaround_blocks
from qfx.ptq.rounding.blocks import find_blocks
from qfx.ptq.rounding.methods import Method, round_weights, solver_of
from qfx.ptq.tuning.tune import tune

NEAREST_IS_GOOD_BITS, TUNED_BITS = 7, 4
"""Weights of fewer than the first are rounded by a pass, not to nearest; for activations of at most the second the whole model is tuned."""


@dataclass(frozen=True, eq=False)
class Work:
    """What a pass on the quantized model gets.

    ``keep``: to be called when a part of the pass (a layer, a block, an epoch) is done, with how many are, and with tensors, beside the model's own,
    that going on takes. ``done`` and ``kept``: of a pass that was interrupted, what it told ``keep`` last.
    """

    qmodel: fx.GraphModule
    reference: fx.GraphModule
    data: Tensor
    batch: int
    seed: int
    progress: Progress
    keep: Callable[[int, Mapping[str, Tensor]], None] = lambda done, tensors: None
    done: int = 0
    kept: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def parts(self) -> list[Tensor]:
        return list(torch.split(self.data, self.batch))


FloatPass = Callable[[nn.Module, Tensor, Tensor], nn.Module]
"""From (model, example, calibration data) to a new model."""

QuantizedPass = Callable[[Work], str]
"""Works in place, and says in a few words what it did."""


def _relu6(model: nn.Module, example: Tensor, data: Tensor) -> nn.Module:
    return replace_relu6(model, example, data=data)


FLOAT_PASSES: Mapping[str, FloatPass] = {
    "fold": lambda model, example, data: fold_batch_norm(model, example),
    "relu6": _relu6,
    "equalize": lambda model, example, data: equalize(model, example),
    "equalize-exactly": lambda model, example, data: equalize_exactly(model, example),
    "absorb": lambda model, example, data: absorb_bias(model, example),
}
"""Passes on the float model."""


def _calibrate(work: Work) -> str:
    work.progress("calibrate", 0, 1)
    calibrate(work.qmodel, work.parts)
    work.progress("calibrate", 1, 1)
    return f"binary points from {len(work.data)} samples"


def _round(method: Method) -> QuantizedPass:
    def run_pass(work: Work) -> str:
        # A pass that goes on behind layer n draws what it would have drawn there: layer i of a run uses the seed plus i, the solver the seed.
        done, paths = work.done, [call.path for call in layer_calls(work.qmodel)]
        solver = solver_of(method, work.seed)

        def tell(stage: str, number: int, total: int) -> None:
            work.keep(number + done, {})
            work.progress(method, number + done, total + done)

        if done < len(paths):
            round_weights(
                work.qmodel,
                work.parts,
                method,
                solver=solver,
                reference=work.reference,
                layers=paths[done:],
                seed=work.seed + done,
                progress=tell,
            )
        return f"chose the integers of {len(paths)} layers"

    return run_pass


def _bias(work: Work) -> str:
    results = correct_bias(work.qmodel, work.parts, reference=work.reference, progress=work.progress)
    return f"corrected {sum(result.corrected for result in results)} of {len(results)} layers"


def _blocks(work: Work) -> str:
    def tell(stage: str, number: int, total: int) -> None:
        if number % BLOCK_ITERATIONS == 0:
            work.keep(number // BLOCK_ITERATIONS, {})
        work.progress("adaround-blocks", number, total)

    adaround_blocks(work.qmodel, work.data, iterations=BLOCK_ITERATIONS, reference=work.reference, first=work.done, seed=work.seed, progress=tell)
    return f"chose the integers of {len(find_blocks(work.qmodel))} blocks"


def _tune(work: Work) -> str:
    result = tune(
        work.qmodel,
        work.parts,
        reference=work.reference,
        batch=min(work.batch, max(len(work.data) // 8, 1)),
        seed=work.seed,
        keep=work.keep,
        resume=work.kept or None,
        progress=work.progress,
    )
    return f"loss on held-out samples {result.before:.4g} -> {result.after:.4g}, kept epoch {result.best}"


QUANTIZED_PASSES: Mapping[str, QuantizedPass] = {
    "calibrate": _calibrate,
    "adaround": _round("adaround"),
    "adaround-blocks": _blocks,
    "comq": _round("comq"),
    "gptq": _round("gptq"),
    "tune": _tune,
    "bias": _bias,
}
"""Passes on the quantized model."""


def checked_passes(names: tuple[str, ...]) -> tuple[str, ...]:
    """``names`` if they are passes in an order that works. Raises RecipeError."""
    known = (*FLOAT_PASSES, *QUANTIZED_PASSES)
    for name in names:
        if name not in known:
            raise RecipeError(f"there is no pass {name!r}", where="--passes", remedy=f"the passes are: {', '.join(known)}")
    kinds = [name in QUANTIZED_PASSES for name in names]
    if kinds != sorted(kinds):
        late = names[next(index for index in range(1, len(names)) if kinds[index] < kinds[index - 1])]
        raise RecipeError(f"{late!r} works on the float model", where="--passes", remedy=f"name it before {names[kinds.index(True)]!r}")
    return names


def default_passes(qmodel: nn.Module) -> tuple[str, ...]:
    """The passes that suit the word lengths of ``qmodel``, which is quantized without any.

    Folding and calibration always; equalization where all weights of a layer share a binary point; rounding by GPTQ, which
    corrects biases too, for weights of at most 6 bits or of few digits, else bias correction; tuning for activations of at most 4.
    """
    weights = {name: quantizer for name, quantizer in quantizers(qmodel) if name.endswith(".weight")}
    activations = [quantizer.word_length for name, quantizer in quantizers(qmodel) if name.rpartition(".")[2].startswith("output")]
    passes = ["fold"]
    if any(quantizer.spec.granularity == "tensor" for quantizer in weights.values()):
        passes.append("equalize")
    passes.append("calibrate")
    short = min((quantizer.word_length for quantizer in weights.values()), default=32) < NEAREST_IS_GOOD_BITS
    passes.append("gptq" if short or any(quantizer.allowed() for quantizer in weights.values()) else "bias")
    if min(activations, default=32) <= TUNED_BITS:
        passes.append("tune")
    return tuple(passes)
