"""The rounding methods by name.

One file a method: ``adaround.py``, ``comq.py``, ``gptq.py`` (layer by layer), ``adaround_blocks.py`` (block by block).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Literal

from torch import Tensor, fx, nn

from qfx.errors import RecipeError
from qfx.progress import Progress
from qfx.ptq.rounding.adaround import solve_adaround
from qfx.ptq.rounding.comq import solve_comq
from qfx.ptq.rounding.gptq import solve_gptq
from qfx.ptq.rounding.layers import MEMORY_BYTES, LayerResult, round_layers
from qfx.ptq.rounding.problem import Solver

Method = Literal["adaround", "comq", "gptq"]


def solver_of(method: Method, seed: int) -> Solver:
    """The solver of a method with its defaults. Raises RecipeError for an unknown one."""
    solvers: dict[Method, Solver] = {"adaround": partial(solve_adaround, seed=seed), "comq": solve_comq, "gptq": solve_gptq}
    if method not in solvers:
        raise RecipeError(f"the method is {method!r}", remedy=f"use one of {', '.join(solvers)}")
    return solvers[method]


def round_weights(
    qmodel: nn.Module,
    data: Tensor | Iterable[Tensor],
    method: Method = "adaround",
    *,
    solver: Solver | None = None,
    reference: fx.GraphModule | None = None,
    layers: Iterable[str] | None = None,
    correct_bias: bool = True,
    seed: int = 0,
    memory_bytes: int = MEMORY_BYTES,
    progress: Progress | None = None,
    twin: fx.GraphModule | None = None,
) -> tuple[LayerResult, ...]:
    """Choose the integers of every weight so that each layer's result stays near the float model's; in place.

    ``qmodel``: from ``qfx.quantize``, BatchNorm folded beforehand (``fold_batch_norm``) or kept. ``data``: calibration inputs, a tensor or batches.
    ``method``: "adaround", "comq" or "gptq" with their defaults, or a ``solver`` in place of it (see ``problem.py``). ``reference``: the float model
    to compare with (default: ``float_reference(qmodel)``, of the weights as they are; give the one taken before other passes; ``twin`` is its earlier
    name). ``layers``: the paths to work on (default: all). With ``correct_bias`` each layer's bias takes the mean error, and its binary points start
    anew. The weights' binary points stay: afterwards every weight lies on its grid. A weight that the model computes of others (a pruning mask,
    ``weight_norm``, a slice) becomes a parameter of its layer first, and ``state_dict`` has it as such (``materialize``). Inputs come from the
    quantized layers, targets from the float ones (asymmetric reconstruction). Deterministic for a ``seed``. If it is interrupted, the layers reached
    so far are done and the others untouched.

    Raises UnsupportedError for a layer whose BatchNorm is folded on the fly or that is called twice, QfxError for an unknown path or a reference of
    another model, DataError for bad data.
    """
    chosen = solver_of(method, seed)
    return round_layers(
        qmodel,
        data,
        chosen if solver is None else solver,
        name=method,
        reference=reference,
        layers=layers,
        correct_bias=correct_bias,
        seed=seed,
        memory_bytes=memory_bytes,
        progress=progress,
        twin=twin,
    )
