"""One cell of a sweep, measured: a pure function of the cell and of what the sweep is about. Any scheduler may call it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from qfx.capture.refusals.blockers import require_supported
from qfx.capture.source import load_model_and_data
from qfx.export.export import export_onnx
from qfx.nn.cost.cost import cost
from qfx.ptq.allocation.front import Budget
from qfx.ptq.measure import Labelled
from qfx.ptq.run.inputs import calibration_data, labelled_data
from qfx.ptq.run.passes import checked_passes
from qfx.ptq.run.pipeline import run
from qfx.ptq.run.request import default_recipe
from qfx.ptq.run.settings import Settings
from qfx.searches.cells import NONE, Cell, CostName


@dataclass(frozen=True, slots=True)
class Subject:
    """What a sweep is about, as the command's options say it."""

    model: str
    checkpoint: str
    calibration: str
    evaluation: str
    passes: str
    cost: CostName
    seed: int
    batch: int
    samples: int


@dataclass(frozen=True, slots=True)
class Measured:
    """The share of right answers, and the cost of which there should be little."""

    accuracy: float
    cost: float
    float_accuracy: float


@dataclass(frozen=True, eq=False)
class Loaded:
    """A subject in memory."""

    subject: Subject
    model: nn.Module
    data: Tensor
    evaluation: Labelled

    @classmethod
    def of(cls, subject: Subject) -> Loaded:
        """Read model and data. Raises as ``qfx ptq`` does."""
        data = calibration_data(Path(subject.calibration), subject.samples or None)
        checkpoint = Path(subject.checkpoint) if subject.checkpoint else None
        model, data = load_model_and_data(subject.model, checkpoint, data, 64, key=None, tell=lambda told: None)
        require_supported(model, data[:64])
        return cls(subject, model, data, labelled_data(Path(subject.evaluation), model, data.dtype))

    def measure(self, cell: Cell, folder: Path) -> Measured:
        """Quantize by the cell and write ``<folder>/<cell's name>.onnx``. Raises QfxError for a cell that cannot be had."""
        subject = self.subject
        passes = checked_passes(tuple(name.strip() for name in subject.passes.split(",") if name.strip())) if subject.passes else None
        budget = None if cell.budget == NONE else Budget.parse(cell.budget)
        settings = Settings(cell.recipe_of(default_recipe()), passes, subject.seed, subject.batch, budget)
        outcome = run(self.model, self.data, settings, evaluation=self.evaluation)
        assert outcome.accuracy is not None  # there is evaluation data
        assert outcome.float_accuracy is not None
        export_onnx(outcome.qmodel, folder / f"{cell.name}.onnx", force=True)
        return Measured(outcome.accuracy, _cost(outcome.qmodel, subject.cost), outcome.float_accuracy)


def _cost(qmodel: nn.Module, name: CostName) -> float:
    found = cost(qmodel)
    return float(found.bit_operations if name == "bit-operations" else found.weight_bits)
