"""Networks that call a recurrent cell step by step, as people write them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from nn_models import Calls
from torch import Tensor, nn

STEPS, FEATURES, HIDDEN = 5, 4, 6
KINDS: dict[str, Callable[..., nn.Module]] = {
    "lstm": nn.LSTMCell,
    "gru": nn.GRUCell,
    "tanh": nn.RNNCell,
    "relu": lambda *sizes, **options: nn.RNNCell(*sizes, nonlinearity="relu", **options),
}
Forward = Callable[[Any, Tensor], Any]


def data(count: int = 16) -> Tensor:
    return torch.randn(count, STEPS, FEATURES, generator=torch.Generator().manual_seed(0))


def hidden(state: Any) -> Tensor:
    found: Tensor = state[0] if isinstance(state, tuple) else state
    return found


def pair(m: Any, h: Tensor, c: Tensor) -> Any:
    return (h, c) if isinstance(m.cell, nn.LSTMCell) else h


def over(m: Any, steps: Iterable[Tensor], state: Any = None, name: str = "cell") -> list[Tensor]:
    """h after every step."""
    found = []
    for x in steps:
        state = getattr(m, name)(x, state)
        found.append(hidden(state))
    return found


def along(m: Any, x: Tensor) -> list[Tensor]:
    return over(m, (x[:, t] for t in range(x.size(1))))


def back(x: Tensor) -> list[Tensor]:
    return [x[:, t] for t in reversed(range(x.shape[1]))]


def chunks(m: Any, x: Tensor) -> Tensor:
    return torch.stack(over(m, [part.squeeze(1) for part in x.chunk(STEPS, 1)]), 1)


def axis_two(m: Any, x: Tensor) -> Tensor:
    y = x.transpose(1, 2)
    return torch.stack(over(m, [y[:, :, t] for t in range(STEPS)]), 1)


def two_layers(m: Any, x: Tensor) -> Tensor:
    first = second = None
    found = []
    for t in range(x.size(1)):
        first = m.cell(x[:, t], first)
        second = m.upper(hidden(first), second)
        found.append(hidden(second))
    return torch.stack(found, 1)


def heads(m: Any, x: Tensor) -> Tensor:
    state, found = None, []
    for t in range(x.size(1)):
        state = m.cell(torch.relu(m.enter(x[:, t])), state)
        found.append(m.fc(hidden(state)))
    return torch.stack(found, 1)


def beside(m: Any, x: Tensor) -> Tensor:
    """Every step reads what all of them read too."""
    y, context = x[:, :, :2], torch.relu(m.enter(x[:, 0]))[:, 2:]
    return over(m, [torch.cat([y[:, t], context], 1) for t in range(3)])[-1]


def pictures(m: Any, x: Tensor) -> Tensor:
    """Columns of a picture, as behind a convolution."""
    y = x.reshape(x.shape[0], STEPS, 2, 2).permute(0, 2, 3, 1)
    return over(m, [y[:, :, :, t].flatten(1) for t in range(STEPS)])[-1]


def cells(m: Any, x: Tensor) -> Tensor:
    """h of the last step, and of an LSTM c."""
    state = None
    for t in range(x.size(1)):
        state = m.cell(x[:, t], state)
    return torch.cat(state, 1) if isinstance(state, tuple) else state  # type: ignore[return-value]


FORMS: dict[str, Forward] = {
    "the last": lambda m, x: m.fc(along(m, x)[-1]),
    "the last alone": lambda m, x: along(m, x)[-1],
    "the last cell": cells,
    "stacked": lambda m, x: m.fc(torch.stack(along(m, x), 1)),
    "stacked in front": lambda m, x: m.fc(torch.stack(along(m, x))).transpose(0, 1),
    "stacked behind": lambda m, x: torch.stack(along(m, x), -1),
    "joined": lambda m, x: m.fc(torch.cat([h.unsqueeze(1) for h in along(m, x)], 1)),
    "joined by an index": lambda m, x: m.fc(torch.cat([h[:, None] for h in along(m, x)], dim=1)),
    "some": lambda m, x: m.fc(torch.cat(along(m, x)[1::2], 1)[:, HIDDEN:]),
    "their sum": lambda m, x: m.fc(sum(along(m, x))),
    "unbound": lambda m, x: m.fc(torch.stack(over(m, x.unbind(1)), 1).mean(1)),
    "steps first": lambda m, x: m.fc(torch.stack(over(m, x.transpose(0, 1))).transpose(0, 1)),
    "steps first by number": lambda m, x: m.fc(over(m, [x.permute(1, 0, 2)[t] for t in range(STEPS)])[-1]),
    "chunks": chunks,
    "selected": lambda m, x: m.fc(over(m, [x.select(1, t) for t in range(STEPS)])[-1]),
    "dots": lambda m, x: m.fc(over(m, [x[..., t, :] for t in range(STEPS)])[-1]),
    "along axis two": axis_two,
    "backwards": lambda m, x: m.fc(over(m, back(x))[-1]),
    "backwards and turned": lambda m, x: m.fc(torch.stack(over(m, back(x))[::-1], 1)),
    "a part": lambda m, x: torch.stack(over(m, [x[:, t] for t in range(1, STEPS - 1)]), 1),
    "every other": lambda m, x: torch.stack(over(m, [x[:, t] for t in range(0, STEPS, 2)]), 1),
    "in any order": lambda m, x: torch.stack(over(m, [x[:, t] for t in (0, 3, 1)]), 1),
    "from zeros": lambda m, x: m.fc(over(m, x.unbind(1), pair(m, x.new_zeros(x.shape[0], HIDDEN), torch.zeros(x.size(0), HIDDEN)))[-1]),
    "from computed": lambda m, x: m.fc(over(m, x.unbind(1), pair(m, m.encoder(x[:, 0]), m.encoder(x[:, 1])))[-1]),
    "from parameters": lambda m, x: m.fc(over(m, x.unbind(1), pair(m, m.h.expand(x.shape[0], -1), m.c.repeat(x.shape[0], 1)))[-1]),
    "from ones": lambda m, x: m.fc(over(m, x.unbind(1), pair(m, torch.ones(len(x), HIDDEN), torch.full((x.shape[0], HIDDEN), 0.5)))[-1]),
    "heads": heads,
    "behind a layer": lambda m, x: torch.stack(over(m, torch.relu(m.enter(x)).unbind(1)), 1).amax(1),
    "beside the same": beside,
    "rows of pictures": pictures,
    "inputs alike in nothing": lambda m, x: over(m, [x[:, 0] + x[:, 1], x[:, 2] * x[:, 1], x[:, 3]])[-1],
}
"""A loop of one cell each."""

TWO: dict[str, Forward] = {
    "two layers": two_layers,
    "both ways": lambda m, x: m.fc(torch.stack(along(m, x), 1) + torch.stack(over(m, back(x))[::-1], 1)),
    "one behind the other": lambda m, x: over(m, x.unbind(1), over_last(m, x), "cell")[-1],
}
"""Two loops."""


def over_last(m: Any, x: Tensor) -> Any:
    """The states that another cell gives."""
    state = None
    for t in range(3):
        state = m.other(x[:, t], state)
    return state


def decoder(m: Any, x: Tensor) -> Tensor:
    """What is given is read in the next step."""
    state, found = m.cell(x[:, 0], None), []
    for _ in range(3):
        y = m.enter(m.narrow(hidden(state)))
        found.append(y)
        state = m.cell(y, state)
    return torch.stack(found, 1)


def entangled(m: Any, x: Tensor) -> Tensor:
    """Two cells, each of which reads what the other gave."""
    first, second = m.cell(x[:, 0]), m.other(x[:, 0])
    for _ in range(1, 3):
        first, second = m.cell(m.narrow(hidden(second)), first), m.other(m.narrow(hidden(first)), second)
    return hidden(first) + hidden(second)


def goes_on(m: Any, x: Tensor) -> Tensor:
    """A cell that first reads what comes, and then what it gives."""
    state, found = None, []
    for t in range(x.size(1)):
        state = m.cell(x[:, t], state)
    for _ in range(2):
        found.append(m.narrow(hidden(state)))
        state = m.cell(found[-1], state)
    return torch.stack(found, 1)


def masked(m: Any, x: Tensor) -> Tensor:
    """A state that is not what the cell gave."""
    state = m.cell(x[:, 0])
    for t in range(1, 3):
        state = m.cell(x[:, t], tuple(torch.relu(s) for s in state) if isinstance(state, tuple) else torch.relu(state))
    return hidden(state)


NONE: dict[str, Forward] = {
    "a decoder": decoder,
    "entangled": entangled,
    "masked": masked,
    "one step": lambda m, x: hidden(m.cell(x[:, 0])),
    "one step from parameters": lambda m, x: hidden(m.cell(x[:, 0], pair(m, m.h.expand(x.shape[0], -1), m.c.repeat(x.shape[0], 1)))),
    "one step from ones": lambda m, x: hidden(m.cell(x[:, 0], pair(m, torch.ones(x.shape[0], HIDDEN), torch.full((x.shape[0], HIDDEN), 0.5)))),
}
"""No loop."""


class Network(Calls):
    def __init__(self, kind: str, forward: Forward, names: Sequence[str] = ()) -> None:
        torch.manual_seed(1)
        cell = KINDS[kind]
        super().__init__(
            forward,
            cell=cell(FEATURES, HIDDEN),
            upper=cell(HIDDEN, HIDDEN),
            other=cell(FEATURES, HIDDEN),
            fc=nn.Linear(HIDDEN, 3),
            encoder=nn.Linear(FEATURES, HIDDEN),
            enter=nn.Linear(FEATURES, FEATURES),
            narrow=nn.Linear(HIDDEN, FEATURES),
        )
        self.h, self.c = nn.Parameter(0.5 * torch.randn(1, HIDDEN)), nn.Parameter(0.5 * torch.randn(1, HIDDEN))
        self.eval()
