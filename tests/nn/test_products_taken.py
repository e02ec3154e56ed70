"""Methods that change how products are computed: which layers they take, and that nothing else stays as it was unasked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from executors import same_in_torch_and_the_file
from torch import Tensor, nn

import qfx
from qfx import Recipe, Spec
from qfx.errors import QfxError, UnsupportedError
from qfx.training.dynamic import DynamicLayer, with_dynamic
from qfx.training.lmul import quantize_lmul
from qfx.training.products import products


class Mixed(nn.Module):
    """Products of every kind: layers that are taken, others, and two of the forward's own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.depthwise = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.same, self.line = nn.Conv2d(4, 4, 3, padding="same", padding_mode="circular"), nn.Conv1d(4, 4, 3, groups=2)
        self.attention, self.own = nn.MultiheadAttention(4, 2, batch_first=True), torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
        self.cell, self.last = nn.GRU(4, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.same(self.depthwise(self.conv(x).relu())).flatten(2)
        x = self.line(x).transpose(1, 2)
        x = self.cell(self.own(self.attention(x, x, x, need_weights=False)[0]))[0]
        return self.last((x @ x.transpose(1, 2) @ x).mean(1))  # type: ignore[no-any-return]


TAKEN: dict[Any, tuple[str, ...]] = {with_dynamic: ("depthwise", "same", "line"), quantize_lmul: ()}
OTHERS = {"depthwise": "conv2d", "same": "conv2d", "line": "conv1d", "attention": "multi_head_attention_forward", "own": "linear", "cell": "gru"}


@pytest.mark.parametrize("method", [with_dynamic, quantize_lmul])
def test_products_that_a_method_does_not_take_are_refused_by_name(method: Any) -> None:
    torch.manual_seed(0)
    net, x = Mixed(), torch.rand(4, 2, 4, 4)
    seen = products(net, x)
    assert {name: functions for name, functions in seen.items() if name} == {
        "conv": {"conv2d"}, "last": {"linear"}, **{name: {function} for name, function in OTHERS.items()}
    }  # fmt: skip
    assert seen[""] == {"matmul"}
    others = [name for name in OTHERS if name not in TAKEN[method]]
    with pytest.raises(UnsupportedError) as caught:
        method(net, x)
    assert {blocker.where for blocker in caught.value.blockers} == {*others, "the model itself"}
    assert all(name in str(caught.value) for name in others)
    every = [*others, ""]
    for missing in every:
        with pytest.raises(UnsupportedError, match=rf"^{missing or 'the model itself'}: .* computes .*{re.escape(method.__name__)} does not take"):
            method(net, x, keep=[name for name in every if name != missing])
    with pytest.raises(QfxError, match="keep has 'nothing', which matches no product"):
        method(net, x, keep=["nothing"])
    with pytest.raises(QfxError, match="keep is the text"):
        method(net, x, keep="own")
    with pytest.raises(UnsupportedError, match="keeps all of its products"):
        method(net, x, keep=["*"])
    with pytest.raises(UnsupportedError, match=r"^the model itself: ConvTranspose2d computes conv_transpose2d"):
        method(nn.ConvTranspose2d(4, 4, 3), torch.rand(1, 4, 5, 5))
    plain = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(UnsupportedError, match="is quantized already"):
        method(qfx.quantize(plain, torch.rand(4, 3)), torch.rand(4, 3))
    with pytest.raises(UnsupportedError, match="is the layer itself"):
        method(nn.Conv2d(4, 4, 3), torch.rand(1, 4, 5, 5))


def test_what_is_kept_stays_as_it_was() -> None:
    torch.manual_seed(0)
    net, x = Mixed().eval(), torch.rand(4, 2, 4, 4)
    changed = with_dynamic(net, x, bits=4, keep=[*OTHERS, "", "conv"])
    assert [name for name, module in changed.named_modules() if isinstance(module, DynamicLayer)] == ["last"]  # of those that it takes
    arrives: list[Tensor] = []
    for model in (net, changed):
        model.last.register_forward_pre_hook(lambda _, args: arrives.append(args[0]))  # type: ignore[union-attr, operator]
        model(x)
    assert torch.equal(*arrives)


def test_a_layer_of_two_names_is_changed_at_both() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 2)), torch.rand(16, 5)
    net.insert(2, net[0])
    changed: Any = with_dynamic(net, x, bits=4)
    assert changed[0] is changed[2]
    assert isinstance(changed[2], DynamicLayer)
    q = quantize_lmul(net, x)
    assert [type(node.op).__name__ for node in qfx.to_graph(q.eval()).nodes].count("Concat") == 3  # x and s(x) in front of each


def test_exact_products_beside_l_mul(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(16, 3)), torch.rand(8, 2, 6, 6)
    q = quantize_lmul(net, x, Recipe(activation=Spec(6), input=Spec(6)), keep=["2"]).eval()
    operators = [type(node.op).__name__ for node in qfx.to_graph(q).nodes]
    assert operators.count("Concat") == 2
    assert operators.count("Conv") == 2
    same_in_torch_and_the_file(q, x, tmp_path)
