"""What a Course does, in a plain loop: every event at its moment, budgets, resumed runs, and what is refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from trainers.nets import X, Y, learned, quantized, same

import qfx
from qfx import Budget, ModelFileError, QfxError, RecipeError
from qfx.trainers.course import Course
from qfx.trainers.events import Anneal, Event, Freeze, Limit, Meet, Switch

STEPS = 12


class Loop:
    """A plain loop, which can stop and go on."""

    def __init__(self, qmodel: nn.Module, course: Course) -> None:
        self.qmodel, self.course = qmodel, course
        self.optimizer = torch.optim.Adam(qfx.parameter_groups(qmodel, lr=2e-2, binary_point_lr=0.3))

    def run(self, begin: int = 0, end: int = STEPS, steps: int = STEPS, watch: Callable[[int], None] = lambda step: None) -> None:
        self.course.begin(self.qmodel, steps=steps, step=begin, epoch=begin / 4)
        self.qmodel.train()
        for step in range(begin, end):
            part = slice(12 * (step % 4), 12 * (step % 4) + 12)
            self.optimizer.zero_grad()
            F.cross_entropy(self.qmodel(X[part]), Y[part]).backward()  # type: ignore[no-untyped-call]
            self.course.before_step()
            self.optimizer.step()
            self.course.after_step(step + 1, (step + 1) / 4)
            watch(step + 1)

    def state(self) -> dict[str, Any]:
        stream = io.BytesIO()
        torch.save({"model": self.qmodel.state_dict(), "optimizer": self.optimizer.state_dict(), "course": self.course.state_dict()}, stream)
        stream.seek(0)
        found: dict[str, Any] = torch.load(stream, weights_only=True)
        return found

    def load(self, state: dict[str, Any]) -> None:
        self.qmodel.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.course.load_state_dict(state["course"])


def frozen(qmodel: nn.Module) -> set[str]:
    return {name for name, quantizer in qfx.quantizers(qmodel) if quantizer.frozen}


def off(qmodel: nn.Module) -> set[str]:
    return {name for name, quantizer in qfx.quantizers(qmodel) if quantizer.off}


def points(qmodel: nn.Module) -> Tensor:
    return torch.cat([quantizer.frac_bits.detach().flatten() for _, quantizer in qfx.quantizers(qmodel)])


def test_events_happen_at_their_moment() -> None:
    qmodel = quantized()
    seen: list[tuple[int, bool]] = []
    course = Course(
        Switch("0.weight", on=False, step=0),
        Freeze("0.weight", step=5),
        Freeze("3.weight", share=0.5),
        Freeze("input", epoch=1.75),
        Switch("*", share=0.5),
    )
    Loop(qmodel, course).run(watch=lambda step: seen.append((len(frozen(qmodel)), bool(off(qmodel)))))
    assert seen == [(0, True)] * 4 + [(1, True), (2, False)] + [(3, False)] * 6
    assert frozen(qmodel) == {"input", "0.weight", "3.weight"}


def test_annealing_shrinks_what_binary_points_move_by_and_nothing_else() -> None:
    def moves(*events: Event) -> list[float]:
        qmodel = quantized()
        trace = [points(qmodel)]
        Loop(qmodel, Course(*events)).run(watch=lambda step: trace.append(points(qmodel)))
        return [float((after - before).abs().max()) for before, after in pairwise(trace)]

    free, annealed = moves(), moves(Anneal(step=2, to_step=6))
    assert annealed[:3] == free[:3]  # at the beginning of the cosine a step counts whole
    assert all(free)
    assert annealed[6:] == [0.0] * 6
    assert 0 < annealed[5] < 0.2 * annealed[2]
    assert [Anneal(share=0.0, to_share=1.0, last=0.5).factor(step, 8) for step in (0, 4, 8, 9)] == [1.0, 0.75, 0.5, 0.5]


def test_a_budget_trains_as_the_loss_of_a_plain_loop_does() -> None:
    def plain() -> nn.Module:
        qmodel, budget = quantized(learned()), Budget(ebops=5000)
        optimizer = torch.optim.SGD(qfx.parameter_groups(qmodel, lr=2e-2, binary_point_lr=0.3))
        qmodel.train()
        for step in range(STEPS):
            part = slice(12 * (step % 4), 12 * (step % 4) + 12)
            optimizer.zero_grad()
            (F.cross_entropy(qmodel(X[part]), Y[part]) + budget.loss(qmodel)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return qmodel

    qmodel = quantized(learned())
    loop = Loop(qmodel, Course(budget=Budget(ebops=5000)))
    loop.optimizer = torch.optim.SGD(qfx.parameter_groups(qmodel, lr=2e-2, binary_point_lr=0.3))
    loop.run()
    theirs, free = plain(), quantized(learned())
    torch.testing.assert_close(dict(qmodel.named_parameters()), dict(theirs.named_parameters()), rtol=1e-4, atol=1e-5)
    other = Loop(free, Course())
    other.optimizer = torch.optim.SGD(qfx.parameter_groups(free, lr=2e-2, binary_point_lr=0.3))
    other.run()
    assert not torch.allclose(points(free), points(qmodel), atol=1e-3)


def test_a_resumed_run_ends_in_the_same_bits(tmp_path: Path) -> None:
    def loop(extra: tuple[Event, ...] = ()) -> Loop:
        events = (
            Switch("3.weight", on=False, step=0),
            Switch("3.weight", step=2),
            Limit({"ebops": 4500}, step=3),
            Freeze("0.weight", step=4, statistics=False),
            Anneal(step=4, to_step=9),
            Meet(step=10),
            Freeze(step=10),
            *extra,
        )
        return Loop(quantized(learned()), Course(*events, budget=Budget(ebops=6000), settling=2, log_every=None))

    whole = loop()
    whole.run()
    for stop in (3, 11):
        first = loop()
        first.run(end=stop)
        state = first.state()
        second = loop()
        second.load(state)
        second.run(begin=stop)
        assert same(second.qmodel.state_dict(), whole.qmodel.state_dict()), stop
        assert frozen(second.qmodel) == frozen(whole.qmodel)
        careless = loop()  # planted: without what the course kept the budget's controller starts anew
        careless.load({**state, "course": {}})
        careless.run(begin=stop)
        assert stop == 11 or not same(careless.qmodel.state_dict(), whole.qmodel.state_dict())
    later = loop((Freeze(share=1.0),))
    later.load(state)
    later.run(begin=11)  # what is still to come may be another
    other = Loop(quantized(learned()), Course(Freeze(step=1), budget=Budget(ebops=6000)))
    other.load(state)
    with pytest.raises(ModelFileError, match=r"Limit\(limits=.*no event here(.|\n)*started with"):
        other.run(begin=11)


def test_accelerate_keeps_a_course(tmp_path: Path) -> None:
    from accelerate import Accelerator

    def prepared() -> tuple[Loop, Accelerator]:
        loop = Loop(quantized(learned()), Course(Freeze("0.weight", step=2), budget=Budget(ebops=5000), settling=2))
        accelerator = Accelerator(cpu=True)
        accelerator.prepare(loop.qmodel, loop.optimizer)
        accelerator.register_for_checkpointing(loop.course)
        return loop, accelerator

    first, accelerator = prepared()
    first.run(end=4)
    accelerator.save_state(str(tmp_path / "state"))
    second, another = prepared()
    another.load_state(str(tmp_path / "state"))
    for loop in (first, second):
        loop.course.load_state_dict(loop.course.state_dict())
        loop.run(begin=4, end=8)
    assert frozen(second.qmodel) == {"0.weight"}
    assert same(first.qmodel.state_dict(), second.qmodel.state_dict())


def test_the_end_exports_what_the_emulator_computes(tmp_path: Path) -> None:
    qmodel = quantized()
    loop = Loop(qmodel, Course(Freeze(share=0.5), export=tmp_path / "deep" / "model.onnx"))
    loop.run()
    loop.course.end()
    graph = qfx.load_graph(tmp_path / "deep" / "model.onnx")
    for mode in (True, False):
        assert np.array_equal(qfx.run(graph, X.numpy()), qmodel.train(mode)(X).detach().numpy())
    assert not np.array_equal(qfx.run(graph, X.numpy()), quantized()(X).detach().numpy())


def test_what_is_there_is_not_replaced_and_it_is_said_before_training(tmp_path: Path) -> None:
    place = tmp_path / "model.onnx"
    place.write_text("mine")
    with pytest.raises(ModelFileError, match=r"exists(.|\n)*force=True"):
        Course(export=place).begin(quantized())
    assert place.read_text() == "mine"
    forced = Loop(quantized(), Course(export=place, force=True))
    forced.run(end=1)
    forced.course.end()
    qfx.load_graph(place)
    late = Loop(quantized(), Course(export=tmp_path / "late.onnx"))
    late.run(end=1)
    (tmp_path / "late.onnx").write_text("came meanwhile")
    with pytest.raises(ModelFileError, match="exists"):
        late.course.end()
    assert (tmp_path / "late.onnx").read_text() == "came meanwhile"
    with_off = Loop(quantized(), Course(Switch("0.*", on=False, step=0), export=tmp_path / "off.onnx"))
    with_off.run(end=1)
    with pytest.raises(QfxError, match="are off"):
        with_off.course.end()
    assert not (tmp_path / "off.onnx").exists()


def test_a_training_that_stops_early_still_meets_its_budget(tmp_path: Path) -> None:
    budget = Budget(ebops=4500)
    loop = Loop(quantized(learned()), Course(Meet(share=1.0), budget=budget, export=tmp_path / "m.onnx"))
    loop.run(end=3)
    assert not budget.measure(loop.qmodel).met
    loop.course.end()
    assert budget.measure(loop.qmodel).met


def test_an_archive_keeps_evaluations(tmp_path: Path) -> None:
    archive = qfx.Archive(tmp_path / "front")
    course = Course(archive=archive, score="-loss")
    loop = Loop(quantized(learned()), course)
    loop.run(end=2)
    course.evaluated({"loss": 0.5})
    course.evaluated({"loss": 0.7})
    assert [kept.score for kept in archive.front] == [-0.5]
    with pytest.raises(QfxError, match=r"no metric 'loss'(.|\n)*accuracy"):
        course.evaluated({"accuracy": 1.0})


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = quantized(), quantized()


def test_bad_settings_are_refused() -> None:
    for moment, told in (({}, "no moment"), ({"step": 1, "share": 0.5}, "step and share"), ({"share": 1.5}, "1.5"), ({"step": -1}, "-1")):
        with pytest.raises(QfxError, match=told):
            Freeze(**moment)  # type: ignore[arg-type]
    for wrong in ({"epoch": 1, "to_step": 2}, {"step": 3, "to_step": 2}, {"share": 0.5}, {"step": 1, "to_step": 2, "last": 2.0}):
        with pytest.raises(QfxError):
            Anneal(**wrong)  # type: ignore[arg-type]
    with pytest.raises(QfxError, match="needs a budget"):
        Course(Meet(share=1))
    with pytest.raises(QfxError, match="no event"):
        Course("freeze")  # type: ignore[arg-type]
    with pytest.raises(QfxError, match="log_every is 0"):
        Course(log_every=0)
    with pytest.raises(QfxError, match="go together"):
        Course(score="loss")
    with pytest.raises(QfxError, match="number of steps is not known"):
        Course(Freeze(share=0.5)).begin(quantized())
    for event in (Freeze("nowhere.*", step=9), Switch("nowhere", step=9), Anneal("nowhere", step=1, to_step=2)):
        with pytest.raises(RecipeError, match="matches nothing"):
            Course(event).begin(quantized())
    with pytest.raises(QfxError, match=r"2 quantized models(.|\n)*part='a', of a, b"):
        Course().begin(Two())
    two = Two()
    course = Course(Freeze(step=0), part="b")
    course.begin(two)
    assert (frozen(two.a), bool(frozen(two.b))) == (set(), True)
    with pytest.raises(QfxError, match="no such module"):
        Course(part="c").begin(two)
    with pytest.raises(QfxError, match="not a quantized model"):
        Course().begin(nn.Linear(2, 2))
    with pytest.raises(QfxError, match="has not begun"):
        Course().after_step(1)
