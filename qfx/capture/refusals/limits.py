"""What to do about an operation that qfx takes, with arguments that it does not take. Shapes leave the batch out."""

from __future__ import annotations

from collections.abc import Sequence


def whole_windows(axes: Sequence[tuple[int, ...]], of_maxima: bool) -> str:
    """``ceil_mode`` where the last window sticks out. ``axes``: (size, output size, kernel, stride, padding, dilation) of each."""
    more = [(out - 1) * stride + dilation * (kernel - 1) + 1 - size - 2 * padding for size, out, kernel, stride, padding, dilation in axes]
    flat = tuple(side for extra in reversed(more) for side in (0, max(extra, 0)))
    text = f"train with ceil_mode=False, alone or behind F.pad(x, {flat})"
    return f"{text}; of values that are never negative, as behind a ReLU, the padded maximum is the same" if of_maxima else text
