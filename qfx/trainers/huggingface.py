"""``QfxCallback`` for the ``Trainer`` of Hugging Face's transformers. Importing it raises QfxError where the package is not installed."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import Any

import torch

from qfx.distributed.synchronize import synchronize
from qfx.errors import QfxError
from qfx.trainers.course import Course
from qfx.trainers.events import Event
from qfx.trainers.peers import peer
from qfx.trainers.tensorboard import TensorBoard

_Callback: Any = peer("transformers", "transformers[torch]").TrainerCallback
_KEY = "qfx"


class QfxCallback(_Callback):  # type: ignore[misc]
    """A callback that drives a ``Course``: the arguments are those of ``qfx.trainers.course.Course``.

        Trainer(model, args, callbacks=[QfxCallback(Freeze(share=0.5), budget=budget, export="model.onnx")], ...)

    The trainer's model is the quantized one or holds it; where it holds several, ``part="backbone"`` names the one. Steps and epochs are the
    trainer's. ``writer``: where scalars and histograms go, a folder or a ``SummaryWriter``; without one they go to the folder ``qfx`` beside the
    trainer's own runs, if it reports to TensorBoard. Costs are also among the trainer's logs (``qfx/cost/...``, in ``state.log_history``). The score
    of an archive is a metric of ``evaluate`` (``"eval_accuracy"``). The state is in ``trainer_state.json`` of the trainer's checkpoints:
    ``resume_from_checkpoint`` goes on to the same bits. A budget with ``fp16=True`` is refused: gradients are scaled there.
    """

    course: Course

    def __init__(self, *events: Event, writer: Any = None, **settings: Any) -> None:
        super().__init__()
        self.course = Course(*events, **settings)
        self.writer = writer
        self._own: Any = None

    def __repr__(self) -> str:
        return f"QfxCallback{repr(self.course).removeprefix('Course')}"

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.course.check()

    def on_train_begin(self, args: Any, state: Any, control: Any, *, model: Any, **kwargs: Any) -> None:
        if self.course.budget is not None and args.fp16:
            raise QfxError(
                "gradients are scaled with fp16, and a budget's would count too little", where="QfxCallback", remedy="use bf16, or neither"
            )
        kept = state.stateful_callbacks.get(_KEY)
        if kept is not None and state.global_step:
            self.course.load_state_dict(_decoded(kept["attributes"]["state"]))
        self.course.writes = state.is_world_process_zero
        self.course.sinks = self._sinks(args) if state.is_world_process_zero else []
        if args.world_size > 1:
            synchronize(model)
        self.course.begin(model, steps=state.max_steps, step=state.global_step, epoch=float(state.epoch or 0.0))

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.course.at(state.global_step, float(state.epoch or 0.0))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.course.before_step()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.course.after_step(state.global_step, float(state.epoch or 0.0))
        self._keep(args, state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.course.at(state.global_step, float(state.epoch or 0.0))
        self._keep(args, state, control)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs is not None and "loss" in logs and state.is_world_process_zero:
            self.course.told(logs)
            summary = self.course.summary()
            logs.update(summary)
            if state.log_history:
                state.log_history[-1].update(summary)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        if control.should_training_stop or state.global_step:
            if state.is_world_process_zero:
                self.course.evaluated(metrics or {})
            self._keep(args, state, control, always=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.course.end(writes=state.is_world_process_zero)
        if self._own is not None:
            self._own.close()
            self._own = None

    def _keep(self, args: Any, state: Any, control: Any, *, always: bool = False) -> None:
        """Put the state where the trainer's next checkpoint takes it from."""
        if always or control.should_save:
            state.stateful_callbacks[_KEY] = {"args": {}, "attributes": {"state": _encoded(self.course.state_dict())}}

    def _sinks(self, args: Any) -> list[Any]:
        if self.writer is not None and not isinstance(self.writer, str | os.PathLike):
            return [TensorBoard(self.writer)]
        folder = self.writer
        if folder is None and "tensorboard" in args.report_to:
            folder = Path(os.environ.get("TENSORBOARD_LOGGING_DIR") or Path(args.output_dir) / "runs") / "qfx"
        if folder is None:
            return []
        sink = TensorBoard(folder)
        self._own = sink.writer
        return [sink]


def _encoded(state: dict[str, Any]) -> str:
    """As text for JSON: torch's format, tensors and plain data alone."""
    stream = io.BytesIO()
    torch.save(state, stream)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def _decoded(text: str) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(io.BytesIO(base64.b64decode(text)), map_location="cpu", weights_only=True)
    return found
