"""``Course``: what qfx does to a model while somebody else trains it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qfx.errors import ModelFileError, ProjectError, QfxError
from qfx.export.export import export_onnx
from qfx.files import check_target
from qfx.hardware.board import Board
from qfx.nn.cost.cost import cost
from qfx.nn.model import QuantizedModel, quantized_parts, unwrapped
from qfx.nn.quantizer import Quantizer
from qfx.trainers import logs
from qfx.trainers.events import Anneal, Event, Freeze, Limit, Meet, Switch
from qfx.trainers.logs import Sink
from qfx.trainers.report import write_report
from qfx.training.budget.archive import Archive
from qfx.training.budget.budget import Budget
from qfx.training.settling import Settling
from qfx.training.states import check_pattern, freeze, matched, switch
from qfx.watch.log import Log

_FORCE = "choose another name, or pass force=True"


class Course:
    """The course of one training: ``events`` at their moments, a budget, what is logged, the export at the end.

    >>> import torch, qfx
    >>> from qfx.trainers.course import Course
    >>> from qfx.trainers.events import Freeze
    >>> qmodel = qfx.quantize(torch.nn.Linear(4, 2), torch.randn(8, 4))
    >>> optimizer = torch.optim.Adam(qfx.parameter_groups(qmodel, lr=1e-3))
    >>> course = Course(Freeze(share=0.5))
    >>> course.begin(qmodel, steps=10)
    >>> for step in range(10):
    ...     optimizer.zero_grad()
    ...     qmodel(torch.randn(8, 4)).square().mean().backward()
    ...     course.before_step()
    ...     optimizer.step()
    ...     course.after_step(step + 1)
    >>> course.end()

    ``budget``: its gradient joins that of the task before each step of the optimizer (``budget.loss`` is not added to the loss then); while
    quantizers are off it rests. ``settling``: after so many turns binary points come to rest (``qfx.Settling``). ``part``: which quantized model is
    meant, by its path, where a module holds several.

    ``log_every``: after so many steps formats and costs go to the loggers, and at the end; ``histograms_every`` distributions. ``board``, ``fps``:
    costs are those on that board too. ``losses_on``: inputs on which the interpreter counts what saturates and what is rounded, whenever is logged.

    ``export``: the ONNX file that is written at the end; a file that is there is replaced only by ``force``, and refused before training begins.
    ``log``: a folder for a log that ``qfx watch`` follows, beside the loggers; metrics that are told (``told``, evaluations) stand there too.
    ``report``: a page of HTML that is written at the end, as ``qfx report`` would: the curves of the log, which it needs, the graph, and what
    ``losses_on`` shows of ranges and errors. A file that is there is treated as with ``export``. ``judged_on``: inputs
    and class numbers, ``(x, y)``; which class the model takes for which goes to the log at the end, and from there to the report. ``judged`` takes
    scores of the loop's own evaluations for that.
    ``archive`` keeps a checkpoint of each evaluation, by bit operations and the metric called ``score`` (greater is better; ``"-loss"``: smaller is).

    No number of the forward depends on it but as the events say. ``state_dict`` goes into a checkpoint, ``load_state_dict`` before ``begin``: what
    was frozen or switched is again, and the training ends in the same bits. Raises QfxError for settings that do not go together.
    """

    events: tuple[Event, ...]
    budget: Budget | None
    turns: int | None
    part: str
    log_every: int | None
    histograms_every: int | None
    board: str | Board | None
    fps: float | None
    losses_on: Any
    judged_on: tuple[Any, Any] | None
    export: str | os.PathLike[str] | None
    force: bool
    archive: Archive | None
    score: str | None
    watched: Log | None
    step: int

    def __init__(
        self,
        *events: Event,
        budget: Budget | None = None,
        settling: int | None = None,
        part: str = "",
        log_every: int | None = 50,
        histograms_every: int | None = None,
        board: str | Board | None = None,
        fps: float | None = None,
        losses_on: Any = None,
        export: str | os.PathLike[str] | None = None,
        force: bool = False,
        archive: Archive | None = None,
        score: str | None = None,
        log: str | os.PathLike[str] | None = None,
        report: str | os.PathLike[str] | None = None,
        judged_on: tuple[Any, Any] | None = None,
    ) -> None:
        for event in events:
            if not isinstance(event, Freeze | Switch | Anneal | Limit | Meet):
                raise QfxError(f"{event!r} is no event", where="events", remedy="give Freeze, Switch, Anneal, Limit or Meet of qfx.trainers.events")
            if isinstance(event, Limit | Meet) and budget is None:
                raise QfxError("needs a budget", where=str(event), remedy="give one: budget=qfx.Budget(...)")
        for name, every in (("log_every", log_every), ("histograms_every", histograms_every), ("settling", settling)):
            if every is not None and (not isinstance(every, int) or every < 1):
                raise QfxError(f"{name} is {every!r}", where="Course", remedy="give a number from 1 on, or None")
        if (archive is None) != (score is None):
            raise QfxError("an archive and a score go together", where="Course", remedy='give both: archive=qfx.Archive("front"), score="accuracy"')
        if report is not None and log is None:
            raise QfxError("a report needs a log", where="Course", remedy='give both: log="runs/a", report="runs/a.html"')
        if judged_on is not None and (log is None or not isinstance(judged_on, tuple) or len(judged_on) != 2):
            raise QfxError("judged_on is a pair, and needs a log", where="Course", remedy='give both: judged_on=(x, y), log="runs/a"')
        self.events, self.budget, self.turns, self.part = events, budget, settling, part
        self.log_every, self.histograms_every = log_every, histograms_every
        self.board, self.fps, self.losses_on, self.judged_on = board, fps, losses_on, judged_on
        self.export, self.force, self.archive, self.score = export, force, archive, score
        self.report = report
        self.watched = None if log is None else Log(log)
        self.sinks: list[Sink] = []
        self.writes = True
        """Whether this process is the one that writes: a callback clears it in the others."""
        self.step = 0
        self.steps: int | None = None
        self._model: QuantizedModel | None = None
        self._settling: Settling | None = None
        self._pending: list[Event] = list(events)
        self._done: list[str] = []
        self._resumed: Mapping[str, Any] | None = None
        self._before: list[tuple[Tensor, Tensor, float]] = []

    def __repr__(self) -> str:
        named = {"budget": self.budget, "settling": self.turns, "export": self.export, "archive": self.archive, "log": self.watched}
        told = [*map(repr, self.events), *(f"{name}={value!r}" for name, value in named.items() if value is not None)]
        stands = [] if self._model is None else [f"at step {self.step}{'' if self.steps is None else f' of {self.steps}'}"]
        return f"Course({', '.join([*told, *stands])})"

    def check(self) -> None:
        """Raise ModelFileError if the export or the report at the end would be refused. ``begin`` does."""
        for path in (self.export, self.report):
            if path is not None:
                check_target(path, force=self.force, error=ModelFileError, remedy=_FORCE)

    @property
    def model(self) -> QuantizedModel:
        """The quantized model in training. Raises QfxError before ``begin``."""
        if self._model is None:
            raise _not_begun()
        return self._model

    def begin(self, model: nn.Module, *, steps: int | None = None, step: int = 0, epoch: float = 0.0) -> None:
        """Before the first step of a training of ``steps`` steps, or of a resumed one behind ``step`` steps and ``epoch`` epochs: find the quantized
        model in ``model``, and let happen what is due. Raises QfxError for a model with none or several (see ``part``), ModelFileError for a file in
        the way of the export and for a state of another course, ProjectError for a board on which no design can be made."""
        self.check()
        self._model = _part(model, self.part)
        if self.watched is not None and self.writes and self.watched not in self.sinks:
            self.sinks.append(self.watched)
        self.step, self.steps = step, steps
        for event in self.events:
            event.due(step, epoch, steps)  # refuses shares of a training of unknown length
            if isinstance(event, Freeze | Switch | Anneal):
                check_pattern(self._model, event.pattern, norms=isinstance(event, Freeze) and event.statistics)
        if self.board is not None:
            logs.costs(self._model, self.board, fps=self.fps)  # refuses a board without a design
        self._settling = None if self.turns is None else Settling(self._model, self.turns)
        self._pending, self._done = list(self.events), []
        if self._resumed is not None:
            self._take(self._resumed)
            self._resumed = None
        self.at(step, epoch)

    def at(self, step: int, epoch: float = 0.0) -> None:
        """Let happen what is due behind so many steps and epochs, in the order in which the events were given."""
        self._happen_all([event for event in self._pending if event.due(step, epoch, self.steps)])

    def learned(self) -> list[nn.Parameter]:
        """Binary points and learned word lengths: the parameters that a budget moves, frozen ones too."""
        return [parameter for quantizer in self._quantizers() for parameter in quantizer.parameters(recurse=False)]

    def before_step(self) -> None:
        """Before a step of the optimizer that has the binary points, when the gradients of the task are there: add the budget's."""
        model = self.model
        if self.budget is not None and not logs.is_off(model):
            loss = self.budget.loss(model)
            moved = [parameter for parameter in self.learned() if parameter.requires_grad]
            if loss.requires_grad:
                for parameter, gradient in zip(moved, torch.autograd.grad(loss, moved, allow_unused=True), strict=True):
                    if gradient is not None:
                        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        self._before = []
        for event in self.events:
            if isinstance(event, Anneal) and (factor := event.factor(self.step, self.steps)) < 1:
                for quantizer in matched(model, event.pattern):
                    self._before += [(p, p.detach().clone(), factor) for p in quantizer.parameters(recurse=False)]

    def after_step(self, step: int, epoch: float = 0.0) -> None:
        """Behind a step of the optimizer, the ``step``-th (counted from 1), ``epoch`` epochs from the beginning."""
        if self._model is None:
            raise _not_begun()
        with torch.no_grad():
            for parameter, before, factor in self._before:
                parameter.copy_(before if factor == 0 else before + factor * (parameter - before))
        self._before = []
        self.step = step
        if self._settling is not None:
            self._settling.step()
        self.at(step, epoch)
        self.log()

    def log(self, *, last: bool = False) -> None:
        """Give the loggers what is due behind this step; at the end (``last``) all that was not yet."""
        due = [every is not None and (self.step % every == 0) != last for every in (self.log_every, self.histograms_every)]
        if self.sinks and any(due):
            logs.write(self.sinks, self.step, self.scalars() if due[0] else {}, logs.distributions(self.model) if due[1] else {})

    def scalars(self) -> dict[str, float]:
        """What is logged, by tag."""
        values = {**self.summary(), **logs.formats(self.model)}
        return values if self.losses_on is None else {**values, **logs.losses(self.model, self.losses_on)}

    def summary(self) -> dict[str, float]:
        """The few numbers of it that are no tensor's: costs, and where the budget stands."""
        try:
            values = logs.costs(self.model, self.board, fps=self.fps)
        except ProjectError:  # words have grown beyond the board: no reason to end a training
            values = logs.costs(self.model)
        status = None if self.budget is None else self.budget.status
        if status is not None:
            values |= {"qfx/budget/share": status.share, "qfx/budget/weight": status.weight}
        if self._settling is not None:
            values["qfx/resting"] = float(self._settling.resting)
        return values

    def told(self, metrics: Mapping[str, Any]) -> None:
        """Numbers of the loop itself, losses and accuracies: they go to the log that is watched."""
        if self.watched is not None and self.writes:
            numbers = {name: float(value.detach() if isinstance(value, Tensor) else value) for name, value in metrics.items() if _is_number(value)}
            self.watched.scalars(numbers, self.step)

    def evaluated(self, metrics: Mapping[str, Any]) -> None:
        """An evaluation gave these metrics: keep a checkpoint in the archive. Raises QfxError if the score is not among them."""
        self.told(metrics)
        if self.archive is None or self.score is None or logs.is_off(self.model):
            return
        name = self.score.removeprefix("-")
        if name not in metrics:
            raise QfxError(f"there is no metric {name!r}", where="score", remedy=f"use one of {', '.join(map(str, metrics)) or 'what is logged'}")
        score = float(metrics[name]) * (-1 if self.score.startswith("-") else 1)
        with torch.no_grad():
            operations = float(cost(self.model).bit_operations)
        self.archive.add(self.model, cost=operations, score=score, extra={"step": self.step})

    def judged(self, scores: Any, labels: Any) -> None:
        """An evaluation gave these scores (N, classes, *positions) for samples of these class numbers (N, *positions): which class was taken for
        which goes to the log, and pages show the last of it. Raises DataError for labels that do not fit."""
        if self.watched is not None and self.writes:
            self.watched.answers(logs.answers(scores, labels), self.step)

    def end(self, *, writes: bool = True) -> None:
        """Behind the last step, also of a training that stopped early: let happen what was to be at the end (``share=1``), log, and export
        (``writes``: whether this process is the one that writes files). Raises what ``export_onnx`` raises."""
        self._happen_all([event for event in self._pending if event.share == 1])
        self.log(last=True)
        if writes:
            self.check()
        if self.export is not None and writes:
            export_onnx(self.model, self.export, force=self.force)
            if self.watched is not None:
                self.watched.wrote(self.export)
        if self.judged_on is not None and writes and not logs.is_off(self.model):
            x, y = self.judged_on
            self.judged(logs.scores(self.model, x), y)
        if self.report is not None and self.watched is not None and writes:
            write_report(self.model, self.report, self.watched.path.parent, self.losses_on, model=self.export, force=self.force)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training goes on from, as plain data and tensors."""
        if self._model is None:
            return dict(self._resumed or {})
        budget = None if self.budget is None else self.budget.state_dict()
        return {"done": list(self._done), "budget": budget, "settling": None if self._settling is None else self._settling.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken; it counts from ``begin`` on."""
        self._resumed = dict(state)

    def _take(self, state: Mapping[str, Any]) -> None:
        if not state:
            return
        left = Counter(state["done"])
        again: list[Event] = []
        self._pending = []
        for event in self.events:
            happened = left[repr(event)] > 0
            left[repr(event)] -= happened
            (again if happened else self._pending).append(event)
        strange = sorted(left.elements())
        if strange:
            remedy = "resume with the events that the training was started with; what is still to come may be changed"
            raise ModelFileError(f"the checkpoint had {', '.join(strange)} behind it, which is no event here", where="Course", remedy=remedy)
        for event in again:
            if isinstance(event, Freeze | Switch):
                self._happen(event)
        self._done = [repr(event) for event in again]
        if self.budget is not None and state["budget"] is not None:
            for event in again:
                if isinstance(event, Limit):
                    self._happen(event)
            self.budget.load_state_dict(state["budget"])
        if self._settling is not None and state["settling"] is not None:
            self._settling.load_state_dict(state["settling"])

    def _happen_all(self, due: list[Event]) -> None:
        for event in due:
            self._pending.remove(event)
            self._happen(event)
            self._done.append(repr(event))

    def _happen(self, event: Event) -> None:
        match event:
            case Freeze():
                freeze(self.model, event.pattern, binary_points=event.binary_points, statistics=event.statistics, on=event.on)
            case Switch():
                switch(self.model, event.pattern, on=event.on)
            case Limit():
                assert self.budget is not None
                self.budget.limit(**event.limits)
            case Meet():
                assert self.budget is not None
                self.budget.meet(self.model)

    def _quantizers(self) -> Iterator[Quantizer]:
        return (layer for layer in self.model.modules() if isinstance(layer, Quantizer) and layer.is_initialized)


def _is_number(value: Any) -> bool:
    return value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, int | float) and not isinstance(value, bool)


def _not_begun() -> QfxError:
    return QfxError("has not begun", where="Course", remedy="call begin(model) first")


def _part(model: nn.Module, path: str) -> QuantizedModel:
    """The quantized model that is meant."""
    inner = unwrapped(model)
    if path:
        named = dict(inner.named_modules())
        if path not in named:
            raise QfxError("there is no such module", where=path, remedy="give the path of the quantized part")
        inner = unwrapped(named[path])
    found = quantized_parts(inner)
    if len(found) > 1:
        names = [name for name, module in inner.named_modules() if isinstance(module, QuantizedModel)]
        raise QfxError(
            f"holds {len(found)} quantized models", where=type(model).__name__, remedy=f"name one: part={names[0]!r}, of {', '.join(names)}"
        )
    return found[0]
