"""Models whose weights and constants are computed of parameters, and how they are trained."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from qfx import Recipe, Spec

P = nn.Parameter
FINE = Recipe(**{role: Spec(20) for role in ("input", "weight", "bias", "scale", "shift", "constant", "internal", "activation", "output")})


class Standardized(nn.Conv2d):
    """Weight standardization, as in networks with group normalization."""

    def forward(self, input: Tensor) -> Tensor:
        mean, var = self.weight.mean((1, 2, 3), keepdim=True), self.weight.var((1, 2, 3), keepdim=True)
        return F.conv2d(input, (self.weight - mean) / torch.sqrt(var + 1e-5), self.bias, self.stride, self.padding)


class Signs(nn.Module):
    """Binary weights with the gradient that their author gave them: (sign(w) - w).detach() + w."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.log = P(torch.randn(4, 6)), P(torch.zeros(4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, ((torch.sign(self.weight) - self.weight).detach() + self.weight) * self.log.exp())


class Tied(nn.Module):
    """Encoder and decoder with one weight, a centred one, a position embedding that is cut, and a scale computed in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(6, 4)
        self.pos, self.gamma = P(torch.randn(1, 9)), P(torch.randn(4) / 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.encoder(x) * self.gamma.exp() + self.pos[:, :4]
        return F.linear(torch.relu(y), self.encoder.weight.t())


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attn(x, x, x, need_weights=False)[0]


class Filled(nn.Module):
    """A matrix that is put together in the forward, of a parameter, constants and pieces, and written to in place."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = P(torch.randn(3)), P(torch.randn(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        matrix = torch.stack([self.a, torch.ones(3), torch.arange(3.0).to(x.device)]).clone().mul_(2.0)
        first, second = self.b.chunk(2)
        return F.linear(F.linear(x, matrix), torch.cat([first, second, first + second])[:, :3])


class Bias(nn.Module):
    """Attention's numbers with a bias from a table of parameters, one from a small network of positions, and a scale that is clamped."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.scale = P(torch.randn(9, 2)), P(torch.zeros(2, 1, 1))
        self.network = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2, bias=False))
        self.register_buffer("index", torch.randint(0, 9, (16,)))
        self.register_buffer("positions", torch.randn(9, 2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        first = self.table[self.index].view(4, 4, -1).permute(2, 0, 1).contiguous().unsqueeze(0)
        second = 4 * torch.sigmoid(self.network(self.positions)[self.index].view(4, 4, -1).permute(2, 0, 1))
        return x * self.scale.clamp(max=4.6).exp() + first + second.unsqueeze(0)


class Token(nn.Module):
    """A class token that is scaled, joined to the values."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.layer = P(torch.randn(1, 1, 6)), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([(self.token * 2).expand(x.shape[0], -1, -1), self.layer(x)], 1)


class Table(nn.Module):
    """An embedding whose table is scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.scale, self.layer = P(torch.randn(8, 4)), P(torch.rand(4)), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(F.embedding(x, self.table * self.scale.exp()))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 3, batch_first=True)
        prune.random_unstructured(self.lstm, "weight_hh_l0", 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]


class Combined(nn.Module):
    """Operations of a value and several constants."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.slope = P(torch.randn(4)), P(torch.rand(4) + 1), P(torch.rand(4))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.addcdiv(torch.addcmul(x, self.a, self.b, value=0.5), self.a, self.b)
        return F.prelu(x, self.slope * 2)


class Double(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * 2 + 0.25


def chain(conv: nn.Module) -> nn.Module:
    return nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1))


def pruned(layer: nn.Module) -> nn.Module:
    prune.random_unstructured(layer, "weight", 0.5)
    return layer


def parametrized(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", Double())
    return layer


def old(name: str, layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(nn.utils, name)(layer)  # type: ignore[no-any-return]


IMAGE = (3, 6, 6)
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "pruned": (lambda: chain(pruned(nn.Conv2d(3, 4, 3))), IMAGE),
    "weight_norm": (lambda: chain(old("weight_norm", nn.Conv2d(3, 4, 3))), IMAGE),
    "weight_norm, parametrized": (lambda: chain(parametrizations.weight_norm(nn.Conv2d(3, 4, 3))), IMAGE),
    "spectral_norm": (lambda: chain(old("spectral_norm", nn.Conv2d(3, 4, 3))), IMAGE),
    "spectral_norm, parametrized": (lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(6, 4)), nn.ReLU()), (6,)),
    "a parametrization": (lambda: chain(parametrized(nn.Conv2d(3, 4, 3))), IMAGE),
    "transposed": (lambda: nn.Sequential(pruned(nn.ConvTranspose2d(3, 4, 2, 2)), nn.ReLU()), IMAGE),
    "standardized": (lambda: chain(Standardized(3, 4, 3)), IMAGE),
    "signs": (Signs, (6,)),
    "tied": (Tied, (6,)),
    "attention": (Attention, (5, 8)),
    "filled": (Filled, (3,)),
    "bias of positions": (Bias, (2, 4, 4)),
    "combined": (Combined, (4,)),
    "token": (Token, (4, 6)),
}


def made(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    make, shape = MODELS[name]
    model, x = make(), torch.randn(16, *shape)
    with torch.no_grad():
        model.train()(x)  # which gives a BatchNorm statistics
    return model.eval(), x


def steps(q: nn.Module, x: Tensor, count: int = 3) -> None:
    q.train()
    optimizer = torch.optim.SGD(q.parameters(), lr=1e-2, momentum=0.9)
    for _ in range(count):
        optimizer.zero_grad()
        q(x).square().mean().backward()
        optimizer.step()


def own_names(q: nn.Module) -> set[str]:
    """The tensors of a model but for those of its casts."""
    return {name for name in q.state_dict() if name.rpartition(".")[2] not in ("frac_bits", "frac_start", "cast_type")}
