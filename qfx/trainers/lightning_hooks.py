"""The hooks of Lightning, the same for ``lightning`` and ``pytorch_lightning``; their callbacks are these over each package's ``Callback``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from qfx.distributed.synchronize import synchronize
from qfx.trainers.course import Course
from qfx.trainers.events import Event


class Hooks:
    """A Lightning callback that drives a ``Course``: the arguments are those of ``qfx.trainers.course.Course``.

        trainer = Trainer(callbacks=[QfxCallback(Freeze(share=0.5), budget=budget, export="model.onnx")])

    The LightningModule holds the quantized model (``self.net = qfx.quantize(...)``); where it holds several, ``part="net"`` names the one. Steps are
    those of ``trainer.global_step``, shares are of ``trainer.estimated_stepping_batches``; an epoch is behind it when its last batch is, before
    validation and checkpoint. Scalars go to all loggers of the trainer, histograms to those of TensorBoard. The score of an archive is a metric of
    ``trainer.callback_metrics``. The state is in Lightning's checkpoints: ``trainer.fit(..., ckpt_path=...)`` goes on to the same bits.
    """

    course: Course

    def __init__(self, *events: Event, **settings: Any) -> None:
        super().__init__()
        self.course = Course(*events, **settings)

    def __repr__(self) -> str:
        return f"QfxCallback{repr(self.course).removeprefix('Course')}"

    @property
    def state_key(self) -> str:
        return f"QfxCallback({self.course.part})"

    def state_dict(self) -> dict[str, Any]:
        return self.course.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.course.load_state_dict(state_dict)

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            self.course.check()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        steps = trainer.estimated_stepping_batches
        self.course.writes = trainer.is_global_zero
        self.course.sinks = [_Loggers(trainer)] if trainer.is_global_zero else []
        known = None if steps == float("inf") else int(steps)
        if trainer.world_size > 1:
            synchronize(pl_module)
        self.course.begin(pl_module, steps=known, step=trainer.global_step, epoch=float(trainer.current_epoch))

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.course.at(trainer.global_step, float(trainer.current_epoch))

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        if any(id(parameter) in held for parameter in self.course.learned()):  # of several optimizers the one that moves binary points
            self.course.before_step()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        batches = trainer.num_training_batches
        epoch = trainer.current_epoch + (0.0 if batches == float("inf") else (batch_idx + 1) / batches)
        if trainer.global_step > self.course.step:
            self.course.after_step(trainer.global_step, epoch)
            if self.course.log_every is not None and trainer.global_step % self.course.log_every == 0:
                self.course.told(trainer.callback_metrics)
        else:
            self.course.at(trainer.global_step, epoch)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking and trainer.is_global_zero and trainer.state.fn == "fit":
            self.course.evaluated(trainer.callback_metrics)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.course.end(writes=trainer.is_global_zero)


class _Loggers:
    """The loggers of a trainer, as one of a Course."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for logger in self.trainer.loggers:
            logger.log_metrics(dict(values), step=step)

    def histograms(self, values: Mapping[str, Tensor], step: int) -> None:
        for logger in self.trainer.loggers:
            add = getattr(logger.experiment, "add_histogram", None)
            if callable(add):
                for tag, value in values.items():
                    add(tag, value, step)
