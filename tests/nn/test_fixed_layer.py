"""Every fixed-point layer answers what the rest of qfx asks; one that does not is refused when its class is made. Old import paths stay."""

from __future__ import annotations

import pickle
from abc import abstractmethod

import pytest
import torch
from torch import nn

import qfx
from qfx import operators as ops
from qfx.homes import joined
from qfx.nn import functional, layers, norm, rules
from qfx.nn.call import Call, Family, Part, parts_of
from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import FixedLayer, Steps, Traits
from qfx.nn.layers import QAdd, QConv, QReLU, Weighted
from qfx.nn.qtensor import QTensor


def test_a_layer_without_a_member_is_refused_by_name() -> None:
    with pytest.raises(
        TypeError, match=r"^Nothing does not define traits, operators, distribution, scales_channels, forward, as every fixed-point layer must$"
    ):

        class Nothing(FixedLayer):
            pass

    with pytest.raises(TypeError, match=r"^NoSpread does not define distribution, as"):

        class NoSpread(FixedLayer):
            traits = Traits(moves_only=False, keeps_grid=False, reads_uncast=True)

            def forward(self, x: QTensor) -> QTensor:
                return x

            def operators(self) -> Steps:
                return [("", ops.Relu())]

            def scales_channels(self, channels: int) -> bool:
                return True

    with pytest.raises(TypeError, match=r"^Dense does not define _operator, lowered, input_rows, as"):

        class Dense(Weighted):
            pass


def test_a_base_may_leave_members_to_its_subclasses_and_ask_for_more() -> None:
    class Base(QReLU, abstract=True):
        @abstractmethod
        def more(self) -> None: ...

    with pytest.raises(TypeError, match="Without does not define more"):

        class Without(Base):
            pass

    class With(Base):
        def more(self) -> None: ...

    assert With().operators() == [("", ops.Relu())]

    class Inherits(QConv):
        """A subclass of a whole layer has all members."""

    assert Inherits.traits is QConv.traits


def test_every_family_has_its_own_layers_and_says_what_they_are() -> None:
    assert all(issubclass(layer, FixedLayer) for family in rules.FAMILIES for layer in family.layers)
    public = {getattr(layers, name) for name in layers.__all__}
    made = {layer for family in rules.FAMILIES for layer in family.layers}
    whole = {layer for layer in public if isinstance(layer, type) and issubclass(layer, FixedLayer)} - {Weighted, layers.Norm}
    assert whole - made == {layers.QInput, layers.QFoldedBatchNorm}  # no torch operation becomes these


def test_a_torch_operation_has_one_home() -> None:
    def rule(call: Call) -> list[FixedLayer]:
        return [QReLU()]

    one, other = Family(modules={nn.GELU: rule}), Family(modules={nn.GELU: rule})
    with pytest.raises(ValueError, match="two homes claim"):
        joined(pair for family in (one, other) for pair in family.modules.items())


def test_old_paths_lead_to_the_same_classes() -> None:
    for module in (functional, norm):
        for name in set(module.__all__) - {"signed_spec"}:
            assert getattr(module, name) is getattr(layers, name)
    for name in ("QConv", "QConvTranspose", "QLinear", "Weighted"):
        assert getattr(layers, name).__name__ == name


def test_a_model_pickled_by_its_old_paths_loads() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 2)).eval()
    x = torch.randn(4, 2, 6, 6)
    q = qfx.quantize(model, x)
    new = pickle.dumps(q, protocol=0)
    old = new.replace(b"cqfx.nn.layers.batch_norm\n", b"cqfx.nn.norm\n")
    for name in (b"relu", b"avg_pool", b"reshape", b"input"):
        old = old.replace(b"cqfx.nn.layers.%b\n" % name, b"cqfx.nn.functional\n")
    for name in (b"conv", b"linear"):
        old = old.replace(b"cqfx.nn.layers.%b\n" % name, b"cqfx.nn.layers\n")
    assert old.count(b"qfx.nn.layers.") == 0
    assert old.count(b"qfx.nn.functional\n") >= 4
    with torch.no_grad():
        assert torch.equal(pickle.loads(old)(x), q(x))


def test_lists_are_chains_and_parts_read_what_they_say() -> None:
    first, second = QReLU(), QReLU()
    (a, b) = parts_of([first, second], 2)
    assert (a.layer, a.sources, a.suffix) == (first, (0, 1), "")
    assert (b.layer, b.sources, b.suffix) == (second, (a,), "_1")
    inner = Part(QReLU(), (0,), "_inner")
    assert parts_of([inner, Part(QAdd(), (inner, 0))], 1)[0] is inner
    for wrong in ([Part(QAdd(), (0, 1))], [Part(QAdd(), (0, inner))]):
        with pytest.raises(ValueError, match="part 0, a QAdd, reads what is neither an input nor an earlier part"):
            parts_of(wrong, 1)


def test_a_layer_that_is_not_one_has_no_operator() -> None:
    q = qfx.quantize(nn.Sequential(nn.ReLU()), torch.randn(2, 3))
    q.add_module("0", nn.ReLU())
    with pytest.raises(qfx.UnsupportedError, match="ReLU has no operator"):
        qfx.to_graph(q)


def test_a_quantizer_passes_a_distribution_on() -> None:
    q = qfx.quantize(nn.Sequential(nn.ReLU()), torch.randn(2, 3))
    spread = Clipped.normal(torch.zeros(3), torch.ones(3))
    casts = [layer for layer in q.modules() if isinstance(layer, qfx.nn.quantizer.Quantizer)]
    assert all(cast.distribution([spread]) is spread and not cast.scales_channels(3) for cast in casts)
