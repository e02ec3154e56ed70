"""Masks of what is padded: constant ones, and such as are computed of the tokens, or an input; in all executors."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from executors import same_in_cpp, same_in_torch_and_the_file
from torch import Tensor, nn

import qfx
from qfx.capture.from_onnx import from_onnx
from qfx.capture.from_pt2 import from_pt2
from qfx.errors import DataError, UnsupportedError
from qfx.testing import assert_bit_exact

T, E, WORDS = 5, 8, 7
LONG = qfx.Recipe(activation=qfx.Spec(16))
"""Files write attention as its parts, whose results are activations: sums with what hides need more than 8 bits."""
Form = Callable[["Reads", Tensor], Tensor]


class Reads(nn.Module):
    """Tokens, of which 0 is padding, the attention that sees the others, and what is read of it."""

    def __init__(self, form: Form, heads: int = 2) -> None:
        super().__init__()
        self.form, self.words, self.head = form, nn.Embedding(WORDS, E, padding_idx=0), nn.Linear(E, 3)
        self.attention = nn.MultiheadAttention(E, heads, batch_first=True)
        self.steps_first = nn.MultiheadAttention(E, heads)
        layer = nn.TransformerEncoderLayer(E, heads, 12, batch_first=True)
        self.layer, self.encoder = layer, nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.aligned = nn.TransformerEncoder(layer, 1)
        self.decoder = nn.TransformerDecoderLayer(E, heads, 12, batch_first=True)
        self.register_buffer("padded", torch.tensor([False, False, True, False, True]))
        self.register_buffer("later", torch.full((T, T), -math.inf).triu(1))

    def forward(self, tokens: Tensor) -> Tensor:
        result: Tensor = self.head(self.form(self, tokens))
        return result

    def every(self, tokens: Tensor) -> Tensor:
        """The constant mask, for every sample."""
        return self.padded.expand(len(tokens), -1)


def attended(m: Reads, x: Tensor, **masks: Any) -> Tensor:
    h = m.words(x)
    result: Tensor = m.attention(h, h, h, **masks)[0]
    return result


def scores(m: Reads, x: Tensor) -> tuple[Tensor, Tensor]:
    h = m.words(x)
    return h @ h.transpose(1, 2), h


def by_hand(mask: Callable[[Tensor, Tensor], Tensor]) -> Form:
    def form(m: Reads, x: Tensor) -> Tensor:
        found, h = scores(m, x)
        return mask(found, x).softmax(-1) @ h

    return form


def steps_first(m: Reads, x: Tensor) -> Tensor:
    h = m.words(x).transpose(0, 1)
    result: Tensor = m.steps_first(h, h, h, key_padding_mask=x == 0)[0].transpose(0, 1)
    return result


CONSTANT: dict[str, Form] = {
    "constant": lambda m, x: attended(m, x, key_padding_mask=m.every(x)),
    "constant numbers": lambda m, x: attended(m, x, key_padding_mask=m.every(x).float() * -1e9),
    "constant, with a causal one": lambda m, x: attended(m, x, key_padding_mask=m.every(x), attn_mask=m.later < 0),
    "constant, for each head": lambda m, x: attended(m, x, attn_mask=m.later.expand(2 * len(x), -1, -1)),
    "constant, in an encoder layer": lambda m, x: m.layer(m.words(x), src_key_padding_mask=m.every(x)),
}
COMPUTED: dict[str, Form] = {
    "tokens": lambda m, x: attended(m, x, key_padding_mask=x == 0),
    "tokens, not": lambda m, x: attended(m, x, key_padding_mask=~(x != 0)),
    "tokens, with a causal one": lambda m, x: attended(m, x, key_padding_mask=x == 0, attn_mask=m.later < 0),
    "tokens, steps first": steps_first,
    "an encoder layer": lambda m, x: m.layer(m.words(x), src_key_padding_mask=x == 0),
    "an encoder": lambda m, x: m.encoder(m.words(x), src_key_padding_mask=x == 0),
    "an encoder with both": lambda m, x: m.encoder(m.words(x), mask=m.later, src_key_padding_mask=(x == 0).float() * -1e9),
    "a decoder layer": lambda m, x: m.decoder(m.words(x), m.words(x), memory_key_padding_mask=x == 0),
    "what is seen": lambda m, x: F.scaled_dot_product_attention(m.words(x), m.words(x), m.words(x), attn_mask=(x != 0)[:, None]),
    "filled": by_hand(lambda found, x: found.masked_fill((x == 0)[:, None], -math.inf)),
    "filled by a large number": by_hand(lambda found, x: found.masked_fill(x.unsqueeze(1) < 1, -1e9)),
    "chosen": by_hand(lambda found, x: torch.where((x == 0)[:, None], torch.tensor(-1e9), found)),
    "chosen the other way": by_hand(lambda found, x: torch.where((x != 0)[:, None], found, -math.inf)),
    "made of zeros and ones": by_hand(lambda found, x: found + (1.0 - (x != 0).float())[:, None] * -10000.0),
    "made of bits": by_hand(lambda found, x: found + (x == 0).float()[:, None] * torch.finfo(torch.float32).min),
}
IN_CPP = ("constant, with a causal one", "tokens, with a causal one", "an encoder layer", "filled", "made of zeros and ones")


def tokens(count: int = 8) -> Tensor:
    """Some padded, at other places in each."""
    found = torch.randint(1, WORDS, (count, T), generator=torch.Generator().manual_seed(1))
    found[torch.rand(count, T, generator=torch.Generator().manual_seed(2)) < 0.3] = 0
    found[:, 0] = 3
    return found


def made(name: str) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    model = Reads({**CONSTANT, **COMPUTED}[name]).eval()
    return model, qfx.quantize(model, tokens()).eval()


def near(found: Tensor, expected: Tensor) -> bool:
    return float((found - expected).abs().max()) < 0.1 * float(expected.abs().max())


@pytest.mark.filterwarnings("ignore:Support for mismatched")
@pytest.mark.parametrize("name", [*CONSTANT, *COMPUTED])
def test_padding_in_torch_and_the_file(name: str, tmp_path: Path) -> None:
    model, q = made(name)
    x = tokens()
    same_in_torch_and_the_file(q, x, tmp_path)
    with torch.no_grad():
        assert near(q(x), model(x)), name


def test_padding_in_cpp(tmp_path: Path) -> None:
    models = [(made(name)[1], tokens(3)) for name in IN_CPP]
    same_in_cpp(models, tmp_path / "plain", fast=False)
    same_in_cpp(models, tmp_path / "fast", fast=True)


@pytest.mark.parametrize("name", ["tokens", "an encoder layer", "filled", "chosen", "made of bits"])
def test_what_is_padded_is_not_seen(name: str) -> None:
    """Whatever the row of the table says that padding stands for."""
    _, q = made(name)
    x = tokens()
    with torch.no_grad():
        before = q(x)
        table = q.get_parameter("words.weight")
        table[0] = table[1:].abs().max() * torch.ones(E)
        assert torch.equal(q(x)[x != 0], before[x != 0])


@pytest.mark.parametrize("name", ["tokens", "filled"])
def test_gradients_reach_what_is_seen(name: str) -> None:
    _, q = made(name)
    q.train()(tokens()).square().sum().backward()
    assert float(q.get_parameter("words.weight").grad[1:].abs().sum()) > 0


class Given(nn.Module):
    """The mask is an input."""

    def __init__(self, seen: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.seen, self.attention = seen, nn.MultiheadAttention(E, 2, batch_first=True)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        result: Tensor = self.attention(x, x, x, key_padding_mask=self.seen(mask))[0]
        return result


@pytest.mark.parametrize("kind", ["numbers", "bits"])
def test_a_mask_that_is_an_input(kind: str) -> None:
    torch.manual_seed(0)
    model = Given((lambda mask: mask > 0.5) if kind == "numbers" else lambda mask: mask).eval()
    x, padded = torch.randn(8, T, E), tokens() == 0
    mask = padded.float() if kind == "numbers" else padded
    q = qfx.quantize(model, (x, mask)).eval()
    with torch.no_grad():
        y = q(x, mask)
        assert near(y, model(x, mask))
    found = qfx.run(qfx.to_graph(q), {"x": x.numpy(), "mask": mask.float().numpy()})
    assert_bit_exact(y.numpy(), found, names=("torch", "interpreter"))


def test_an_encoder_takes_no_way_of_its_own_for_what_is_aligned() -> None:
    """torch's own decides by data whether it computes what is padded at all; elsewhere it gives the same."""
    torch.manual_seed(0)
    model = Reads(lambda m, x: m.aligned(m.words(x), src_key_padding_mask=x == 0)).eval()
    x = tokens()
    x[:, -2:] = 0
    q = qfx.quantize(model, x).eval()
    seen = x != 0
    with torch.no_grad():
        assert near(q(x)[seen], model(x)[seen])


@pytest.mark.parametrize(
    ("mask", "message"), [((tokens() == 0).int(), "mask of integers"), (torch.zeros(8, T).fill_(-math.inf), "mask: NaN or infinity")]
)
def test_other_masks_are_refused(mask: Tensor, message: str) -> None:
    with pytest.raises((UnsupportedError, DataError), match=message):
        qfx.quantize(Given(lambda given: given).eval(), (torch.randn(8, T, E), mask))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["tokens", "tokens, steps first", "an encoder layer", "filled", "chosen the other way", "made of zeros and ones"])
def test_masks_of_tokens_in_exported_programs(name: str, tmp_path: Path) -> None:
    model, _ = made(name)
    x, batch = tokens(), torch.export.Dim("batch", min=2, max=64)
    torch.export.save(torch.export.export(model, (x,), dynamic_shapes={"tokens": {0: batch}}, strict=False), tmp_path / "model.pt2")
    q = qfx.quantize(from_pt2(tmp_path / "model.pt2", x), x, LONG).eval()
    with torch.no_grad():
        assert near(q(x), model(x))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["tokens", "an encoder layer", "filled", "chosen", "made of bits"])
def test_masks_of_tokens_in_onnx(name: str, tmp_path: Path) -> None:
    model, _ = made(name)
    x, batch = tokens(), torch.export.Dim("batch", min=2, max=64)
    options = {"dynamic_shapes": {"tokens": {0: batch}}, "verbose": False, "input_names": ["x"], "external_data": False}
    torch.onnx.export(model, (x,), tmp_path / "model.onnx", dynamo=True, **options)
    q = qfx.quantize(from_onnx(tmp_path / "model.onnx", x), x, LONG).eval()
    with torch.no_grad():
        assert near(q(x), model(x))


def test_other_attention_is_refused_by_name() -> None:
    model = Given(lambda mask: mask > 0.5)
    model.attention = nn.MultiheadAttention(E, 2, batch_first=True, add_zero_attn=True)
    with pytest.raises(UnsupportedError, match=r"^attention: .*add_zero_attn"):
        qfx.quantize(model.eval(), (torch.randn(4, T, E), torch.zeros(4, T)))
