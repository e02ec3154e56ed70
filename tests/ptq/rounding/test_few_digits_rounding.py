"""Rounding to numbers of few digits: every method keeps to them, and gains by choosing among them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ptq_nets import assert_exports_exactly, assert_on_grid, digits, distance, quantized_small
from ptq_user import BASE, qfx_command, refusal, user_folder

import qfx
from qfx import Override, Recipe, Spec
from qfx.errors import RecipeError
from qfx.fixed.digits import DigitForm, digit_count, few_digits, k_hot
from qfx.fixed.kernel import CastMode
from qfx.fixed.type import OMode
from qfx.nn.casts.digits import numbers
from qfx.ptq import adaround_blocks
from qfx.ptq.allocation.sensitivity import sensitivity
from qfx.ptq.rounding.adaround import adaround
from qfx.ptq.rounding.comq import comq
from qfx.ptq.rounding.gptq import gptq
from qfx.ptq.rounding.grid import around

PASSES: dict[str, Callable[..., Any]] = {
    "adaround": lambda q, x: adaround(q, x, iterations=120, rate=0.08),
    "adaround_blocks": lambda q, x: adaround_blocks(q, x, iterations=60),
    "comq": comq,
    "gptq": gptq,
}


def most_digits_of_weights(q: Any, form: DigitForm) -> int:
    raws = [const.raw for node in qfx.to_graph(q).nodes for role, const in node.op.constants().items() if role == "weight"]
    if form == "ones":
        return max(len(k_hot(value)) for raw in raws for value in raw.ravel().tolist())
    return max(int(digit_count(raw).max()) for raw in raws)


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize(("count", "form"), [(1, "signed"), (2, "ones")])
def test_passes_keep_to_few_digits(name: str, count: int, form: DigitForm) -> None:
    q = quantized_small(6, 8, overrides=(Override("*.weight", {"digits": count, "digit_form": form}),))
    before = distance(q)
    PASSES[name](q, digits()[0][:256])
    assert distance(q) < before
    assert most_digits_of_weights(q, form) == count
    assert_on_grid(q)
    assert_exports_exactly(q)


def test_the_two_numbers_around() -> None:
    allowed = numbers(4, CastMode(o=OMode.SAT), 1, "signed")
    listed = few_digits(4, True, 1).tolist()
    ratio = torch.arange(-100, 100, dtype=torch.float64) / 8
    low, up, rest = around(ratio, -8, 7, allowed)
    for value, below, above, share in zip(ratio.tolist(), low.tolist(), up.tolist(), rest.tolist(), strict=True):
        if value < listed[0] or value >= listed[-1]:
            assert below == above == (listed[0] if value < 0 else listed[-1])
        else:
            assert below == max(number for number in listed if number <= value)
            assert above == min(number for number in listed if number > value)
            assert below + share * (above - below) == pytest.approx(value)
    whole = around(ratio, -8, 7, None)
    all_digits = around(ratio, -8, 7, numbers(4, CastMode(o=OMode.SAT), 2, "signed"))
    assert torch.equal(all_digits.low, whole.low)
    assert torch.equal(all_digits.up, whole.up)


def test_word_lengths_too_short_for_the_digits_are_refused_by_name() -> None:
    q = quantized_small(8, 8, overrides=(Override("conv1.weight", {"digits": 2}),))
    assert len(sensitivity(q, digits()[0][:32], widths=(4, 8), measure="fisher").rows) > 0
    with pytest.raises(RecipeError, match=r"conv1\.weight: digits is 2, but no 2-bit number has more than 1 signed digits"):
        sensitivity(q, digits()[0][:32], widths=(2, 8), measure="fisher")


def test_the_command_takes_digits_from_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(user_folder(tmp_path))
    few = Spec(8, digits=2, granularity="channel")
    Recipe(weight=few, scale=Spec(16, digits=2)).save("few.toml")
    assert "digits = 2" in Path("few.toml").read_text(encoding="utf-8")
    result = qfx_command(*BASE, "--recipe", "few.toml", "--eval", "test.npz", "-o", "few.onnx")
    assert result.exit_code == 0, result.output
    assert re.search(r"gptq +\d", result.stdout)
    weights = [const.raw for node in qfx.load_graph("few.onnx").nodes for role, const in node.op.constants().items() if role == "weight"]
    assert len(weights) == 2
    assert all(digit_count(raw).max() == 2 for raw in weights)
    Path("wrong.toml").write_text("[weight]\nwidth = 4\ndigits = 3\n", encoding="utf-8")
    assert "digits is 3, but no 4-bit number has more than 2 signed digits" in refusal(*BASE, "--recipe", "wrong.toml", "-o", "wrong.onnx")
    Path("wrong.toml").write_text("[activation]\ndigits = 2\n", encoding="utf-8")
    assert "activation: digits is 2" in refusal(*BASE, "--recipe", "wrong.toml", "-o", "wrong.onnx")
