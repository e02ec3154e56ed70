"""What ``qfx ptq`` is asked for: its options, which of them go together, and all of them that decide the result."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

import qfx
from qfx.errors import DataError
from qfx.files import check_target
from qfx.ptq.allocation.table import Measure
from qfx.ptq.measure import Labelled
from qfx.ptq.run.goal import Goal
from qfx.ptq.run.settings import Settings
from qfx.ptq.run.state import hash_of_array, hash_of_model
from qfx.recipe import Recipe, Spec


@dataclass(frozen=True)
class Request:
    """The options of the command."""

    model: str
    checkpoint: Path | None
    calibration: Path | None
    data_free: str | None
    input_range: tuple[float, float] | None
    recipe: Path | None
    evaluation: Path | None
    passes: str | None
    budget: str | None
    measure: Measure | None
    max_drop: float | None
    widest: int | None
    output: Path
    report: Path | None
    resume: bool
    as_json: bool
    force: bool
    seed: int
    batch: int
    samples: int | None
    checkpoint_key: str | None = None
    log: Path | None = None


def check_options(request: Request) -> None:
    """Raise DataError for options that do not go together."""
    if (request.calibration is None) == (request.data_free is None):
        raise DataError("give one of --data and --data-free", where="options", remedy="real inputs serve better; --data-free 3x32x32 does without")
    if request.input_range is not None and request.data_free is None:
        raise DataError("limits inputs that are made up", where="--input-range", remedy="leave it out, or use --data-free instead of --data")
    if request.measure is not None and request.budget is None:
        raise DataError("weighs words for a budget", where="--measure", remedy="leave it out, or give --budget too")
    if request.max_drop is None:
        if request.widest is not None:
            raise DataError("is for a goal", where="--widest", remedy="give --max-drop too")
        return
    if request.evaluation is None:
        raise DataError("needs labelled data", where="--max-drop", remedy="give --eval test.npz, with inputs x and class numbers y")
    for name, value in (("--passes", request.passes), ("--budget", request.budget)):
        if value is not None:
            raise DataError(f"chooses passes and words itself: not with {name}", where="--max-drop", remedy=f"leave {name} out")
    if not 0 <= request.max_drop <= 100:
        raise DataError(f"is {request.max_drop}", where="--max-drop", remedy="give how many points of accuracy may be lost, such as 0.5")


def check_targets(request: Request, report: Path) -> None:
    """Raise DataError for files that cannot be written."""
    if report.resolve() == request.output.resolve():
        raise DataError("is the output, too", where=str(report), remedy="give the report a name of its own")
    for path in (request.output, report):
        check_target(path, force=request.force)
    if request.output.suffix != ".onnx":
        raise DataError("is not the name of a .onnx file", where=str(request.output), remedy="write -o model.onnx")


def state_folder(output: Path) -> Path:
    """Where an interrupted run leaves what is done."""
    return output.with_name(f"{output.name}.state")


def fingerprint(
    request: Request, model: nn.Module, data: Tensor, evaluation: Labelled | None, settings: Settings, goal: Goal | None
) -> dict[str, str]:
    """All that decides the result, by the name that an error calls it."""
    made = f"{request.data_free} {request.input_range} {request.samples}"
    found = {
        "version of qfx": qfx.__version__,
        "model": hash_of_model(model, data[:1]),
        "calibration data": hash_of_array(data.numpy()) if request.data_free is None else made,
        "recipe": hashlib.sha256(settings.recipe.to_toml().encode()).hexdigest(),
        "list of passes": "default" if settings.passes is None else ",".join(settings.passes),
        "seed": str(settings.seed),
        "batch size": str(settings.batch),
        "budget": str(settings.budget),
        "measure": settings.measure,
        "goal": str(goal),
        "output": request.output.name,
    }
    if evaluation is not None:
        found["evaluation data"] = hash_of_array(evaluation.x.numpy()) + hash_of_array(evaluation.y.numpy())
    return found


def default_recipe() -> Recipe:
    """8 bits for weights (per channel), activations and input."""
    return Recipe(weight=Spec(8, granularity="channel"), bias=Spec(16, granularity="channel"))
