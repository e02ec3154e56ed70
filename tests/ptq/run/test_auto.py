"""autoquant: stops as soon as it may, goes on as long as it must, and tells what it did."""

from __future__ import annotations

import math

import pytest
import torch
from ptq_nets import assert_exports_exactly, digits, recipe, trained_small
from torch import nn

import qfx
from qfx import DataError, Override, Recipe, RecipeError, Spec
from qfx.ptq.run.auto import _wider


def judge(model: nn.Module) -> float:
    """The share of the last 797 digits that are recognized."""
    assert not model.training
    x, y = digits()
    return float((model(x[1000:]).argmax(1) == y[1000:]).double().mean())


def test_it_stops_at_the_first_that_is_good_enough() -> None:
    x, _ = digits()
    before = {name: value.clone() for name, value in trained_small().state_dict().items()}
    found = qfx.autoquant(trained_small(), x[:128], judge, max_drop=0.02)
    assert found.twin is found.reference  # its earlier name
    assert found.met
    assert [attempt.name for attempt in found.attempts] == ["calibration"]
    assert found.float_score == judge(trained_small())
    assert found.score == found.attempts[-1].score == judge(found.qmodel) >= found.float_score - 0.02
    assert_exports_exactly(found.qmodel)
    assert all(torch.equal(value, trained_small().state_dict()[name]) for name, value in before.items())


def test_harder_goals_take_costlier_passes() -> None:
    """At 2/6 bits rounding to nearest is not enough, and a pass that rounds better is."""
    x, _ = digits()
    small = recipe(2, 6)
    found = qfx.autoquant(trained_small(), x[:256], judge, max_drop=0.06, recipe=small)
    scores = {attempt.name: attempt.score for attempt in found.attempts}
    assert found.met, str(found)
    assert "equalization" in scores
    assert {"GPTQ", "COMQ", "AdaRound"} & set(scores)
    goal = found.float_score - 0.06
    assert all(score is not None and score < goal for score in list(scores.values())[:-1])
    assert_exports_exactly(found.qmodel)


def test_what_cannot_be_met_gives_the_best_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A score that no model reaches: all is tried, in order, longer words last."""
    x, _ = digits()
    calls: list[str] = []

    def jealous(model: nn.Module) -> float:
        calls.append(type(model).__name__)
        return 2.0 if len(calls) == 1 else judge(model)

    monkeypatch.setitem(qfx.ptq.run.auto.QUANTIZED_PASSES, "adaround", lambda work: "left out here: it takes long")
    found = qfx.autoquant(trained_small(), x[:64], jealous, max_drop=0.0, recipe=recipe(4, 5), widest=6)
    names = [attempt.name for attempt in found.attempts]
    assert names[:2] == ["calibration", "folding"]
    assert names[-3:] == ["tuning", "words of 5/6 bits", "words of 6/6 bits"]
    assert not found.met
    assert found.score == max(attempt.score for attempt in found.attempts if attempt.score is not None)
    assert "not met" in str(found)
    assert all(name in str(found) for name in names)
    assert len(calls) == 1 + len(names)


def test_an_attempt_that_fails_is_noted() -> None:
    """This recipe names a bias that only folding makes."""
    x, _ = digits()
    named = Recipe(overrides=(Override("stem.bias", {"width": 12}),))
    found = qfx.autoquant(trained_small(), x[:64], judge, max_drop=0.02, recipe=named)
    assert found.attempts[0].score is None
    assert "stem.bias" in found.attempts[0].note
    assert found.attempts[1].name == "folding"
    assert found.met


def test_errors_that_concern_all_attempts_are_raised() -> None:
    x, _ = digits()
    hopeless = Recipe(overrides=(Override("nowhere.weight", {"width": 12}),))
    with pytest.raises(RecipeError, match=r"nowhere\.weight"):
        qfx.autoquant(trained_small(), x[:32], judge, max_drop=0.02, recipe=hopeless)
    with pytest.raises(DataError, match="evaluate"):
        qfx.autoquant(trained_small(), x[:32], lambda model: math.nan, max_drop=0.02)
    with pytest.raises(DataError, match="evaluate"):
        qfx.autoquant(trained_small(), x[:32], lambda model: None, max_drop=0.02)  # type: ignore[arg-type, return-value]
    with pytest.raises(DataError, match="no calibration data"):
        qfx.autoquant(trained_small(), [], judge, max_drop=0.02)
    with pytest.raises(DataError, match="several shapes"):
        qfx.autoquant(trained_small(), [x[:8], x[:8, :, 1:]], judge, max_drop=0.02)
    for changes in ({"max_drop": -1.0}, {"max_drop": math.nan}, {"max_drop": 0.1, "widest": 0}):
        with pytest.raises(RecipeError):
            qfx.autoquant(trained_small(), x[:32], judge, **changes)  # type: ignore[arg-type]


def test_an_error_of_the_user_s_function_passes() -> None:
    x, _ = digits()

    def broken(model: nn.Module) -> float:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        qfx.autoquant(trained_small(), x[:32], broken, max_drop=0.02)


def test_longer_words_in_overrides_too() -> None:
    x, _ = digits()
    base = Recipe(
        weight=Spec(4), activation=Spec(6), input=Spec(8), overrides=(Override("head.weight", {"width": 3}), Override("*.bias", {"width": 12}))
    )
    qmodel = qfx.quantize(trained_small(), x[:8], Recipe())
    wider = _wider(base, qmodel, 6)
    assert wider is not None
    assert (wider.weight.width, wider.activation.width, wider.input.width) == (5, 6, 8)
    assert [override.changes["width"] for override in wider.overrides] == [4, 12]
    assert _wider(Recipe(), qmodel, 8) is None
