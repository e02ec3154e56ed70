"""What public values look like where they are printed: short, without addresses, and, where they are data, as they could be written."""

from __future__ import annotations

import importlib
import inspect
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.html_pages import Page
from torch import nn

import qfx
from qfx.exchange.conversion import Conversion, Row
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.hardware.board import board
from qfx.hardware.design.schedule import Request
from qfx.hardware.folding.search import resolve
from qfx.hardware.project.project import prepare
from qfx.hardware.sequential.plan import plan as engine
from qfx.hardware.unrolled.plan import plan as unroll
from qfx.ir.values import Const
from qfx.ptq import sensitivity
from qfx.ptq.allocation.front import Found, Point
from qfx.recipe import Override, Recipe, Spec
from qfx.report import report
from qfx.trainers.course import Course
from qfx.trainers.events import Freeze
from qfx.trainers.lightning import QfxCallback
from qfx.trainers.tensorboard import TensorBoard
from qfx.training.adaptive import AdaptivePrecision
from qfx.training.gradients import FixedGradients, FixedWeights, LossScale
from qfx.watch.log import Log
from website import api

TYPES = [
    FixedType(width, int_bits, signed, q, o, n)
    for (width, int_bits), signed, q, (o, n) in itertools.product(
        ((8, 4), (3, -2), (5, 9)), (True, False), QMode, ((OMode.WRAP, 0), (OMode.WRAP, 2), (OMode.SAT, 0), (OMode.SAT_SYM, 0))
    )
]
DATA = [
    *TYPES,
    Spec(),
    Spec(4, "AP_TRN", OMode.WRAP, 2, granularity="channel", learn=False, frac_bits=3),
    Recipe(),
    Recipe.uniform(4, batch_norm="fold"),
    Recipe(operand=Spec(3), overrides=(Override("fc", {"width": 16, "o": "AP_SAT_SYM"}),)),
]


@pytest.mark.parametrize("value", DATA, ids=lambda value: type(value).__name__)
def test_data_is_written_so_that_it_can_be_read(value: object) -> None:
    names = {"FixedType": FixedType, "Spec": Spec, "Recipe": Recipe, "Override": Override, "OMode": OMode, "QMode": QMode}
    assert eval(_named(repr(value)), names) == value
    assert "0x" not in repr(value)


def _named(text: str) -> str:
    """Modes of an Override are shown as members of their enumeration."""
    for kind in (OMode, QMode):
        for mode in kind:
            text = text.replace(f"<{kind.__name__}.{mode.name}: {mode.value!r}>", f"{kind.__name__}.{mode.name}")
    return text


def test_recipes_say_what_differs() -> None:
    assert repr(Recipe.uniform(4)) == "Recipe(weight=Spec(width=4), activation=Spec(width=4))"
    assert repr(FixedType(8, 4)) == "FixedType.parse('ap_fixed<8,4>')"
    assert repr(Const(np.arange(2, 5), 1)) == "Const(raw=array([2, 3, 4]), frac_bits=1)"
    assert repr(Const(np.ones((4, 1, 3, 3), np.int64), 2)) == "Const(4x1x3x3 numbers, frac_bits=2)"


def test_values_are_short_and_tell_what_they_are(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)).eval(), torch.rand(32, 16)
    recipe = Recipe(weight=Spec(4, granularity="channel", learn_width=True), activation=Spec(5))
    qmodel = qfx.quantize(model, x, recipe)
    archive = qfx.Archive(tmp_path / "front")
    archive.add(qmodel, cost=1.0, score=2.0)
    graph = qfx.to_graph(qmodel.eval())
    plan = resolve(prepare(graph), board("ultra96v2"), Request(fit=True), clock_ns=5.0)
    told = {
        "Cost(": qfx.cost(qmodel),
        "Settling(0 of 5": qfx.Settling(qmodel),
        "Distillation(Sequential, classes": qfx.Distillation(model),
        "Levels(2 weights of 7 levels)": qfx.Levels(qmodel, 3),
        "Budget(ebops=1000)": qfx.Budget(ebops=1000),
        "Archive(": archive,
        "Graph('model'": graph,
        "Report(32 samples, 3 casts": report(graph, x.numpy()),
        "Lookup(tanh)": qfx.lookup(torch.tanh),
        "Plan(Avnet Ultra96-V2, 5 ns, ": plan,
        "Estimate(Avnet Ultra96-V2, ": plan.estimate,
        "Design(": plan.design,
    }
    for start, value in told.items():
        shown = repr(value)
        assert shown.startswith(start), shown
        assert "\n" not in shown
        assert len(shown) < 160
    tables = (qmodel, qfx.check(model, x), qfx.summary(qmodel), qfx.autoquant(model, x, lambda net: 1.0, max_drop=0.1), sensitivity(qmodel, x))
    for table in tables:
        assert repr(table) == str(table)
        assert repr(table).count("\n") > 1
        assert " object at " not in repr(table)


def test_every_class_that_users_have_says_what_it_is() -> None:
    """None is left with the address that Python shows for want of a better one."""

    def mute(named: Iterable[tuple[str, Any]]) -> list[str]:
        return [name for name, value in named if inspect.isclass(value) and value.__repr__ is object.__repr__]

    class Planted:
        pass

    assert mute([("Planted", Planted), ("Spec", Spec)]) == ["Planted"]
    assert mute((name, getattr(qfx, name)) for name in qfx.__all__) == []
    for name in api.MODULES:
        assert mute(api.public(importlib.import_module(name))) == [], name


def test_helpers_of_training_say_how_they_stand(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)), torch.rand(32, 16)
    weight = Spec(6, granularity="tensor", learn_width=True, learn=False, learn_range=False)
    qmodel = qfx.quantize(model, x, Recipe(weight=weight, activation=Spec(5)))
    scale = LossScale(patience=2)
    scale.backward(qmodel(x).square().mean())
    scale.ready(qmodel.parameters())
    course = Course(Freeze(share=0.5), export="m.onnx")
    callback = QfxCallback(Freeze(share=0.5), log=tmp_path / "run")
    assert repr(scale) == "LossScale(1024, patience=2)"
    assert repr(FixedGradients(qmodel, 4, seed=None)) == "FixedGradients(4 bits to nearest, behind 2 casts)"
    assert repr(FixedWeights(model.parameters(), 12)) == "FixedWeights(12 bits, stochastically from seed 0, 4 parameters)"
    assert repr(AdaptivePrecision(qmodel)) == "AdaptivePrecision(2 weights of 6, 6 bits, strategy='min')"
    assert repr(Log(tmp_path / "run")) == f"Log('{tmp_path}/run')"
    assert repr(TensorBoard(Kept())) == "TensorBoard(Kept)"
    assert repr(course) == f"Course({Freeze(share=0.5)!r}, export='m.onnx')"
    course.begin(qmodel, steps=10)
    assert repr(course).endswith("export='m.onnx', at step 0 of 10)")
    assert repr(callback) == f"QfxCallback({Freeze(share=0.5)!r}, log=Log('{tmp_path}/run'))"


class Kept:
    """A writer that keeps what it is given."""

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        pass


def test_notebooks_show_tables(tmp_path: Path) -> None:
    """Of every value that users are given: whole HTML, without a picture or a style from elsewhere, that says what it is about."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)).eval(), torch.rand(32, 16)
    recipe = Recipe(weight=Spec(4, granularity="channel", learn_width=True), activation=Spec(5), overrides=(Override("2.*", {"width": 6}),))
    qmodel = qfx.quantize(model, x, recipe)
    budget, archive = qfx.Budget(ebops=4000), qfx.Archive(tmp_path / "front")
    fresh = budget._repr_html_()
    budget.loss(qmodel.train())
    archive.add(qmodel, cost=1.0, score=2.0)
    graph = qfx.to_graph(qmodel.eval())
    found = qfx.autoquant(model, x, lambda _: 1.0, max_drop=0.1)
    hardware, small = prepare(graph), board("ultra96v2")
    shown = {
        "taken": budget,
        "checkpoint-00001.pt": archive,
        "2.*": recipe,
        "Spec(width=4": recipe.weight,
        "ap_fixed&lt;8,4&gt;": FixedType(8, 4),
        "7 casts": qmodel,
        "Linear": graph,
        "missing bits": report(graph, x.numpy()),
        "bit operations": qfx.cost(qmodel),
        "products": qfx.summary(qmodel),
        "fixed point": qfx.check(model, x),
        "calibration": found,
        "quantizer": sensitivity(qmodel, x),
        "LUT": resolve(hardware, small, Request(fit=True), clock_ns=5.0),
        "70,560": unroll(hardware, small, clock_ns=5.0),
        "BRAM": engine(hardware, small, clock_ns=5.0),
        "relative error": Conversion((Row("fc.weight", "ap_fixed<4,1>", 1.0, 0.0),), ()),
        "chosen": Found(recipe, ("a",), Point((4,), 0.5, 12), (Point((4,), 0.5, 12),)),
    }
    for word, value in shown.items():
        html = value._repr_html_()
        assert word in html, (word, html)
        assert Page(html).open == []
        assert (Page(html).outside, Page(html).mute) == ([], [])
    assert "no step was made yet" in fresh
    assert "%" in shown["taken"]._repr_html_()
