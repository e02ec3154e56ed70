"""Other ways to write an operation that qfx does not take, in operations that it takes, as Python text. Shapes leave the batch out; axes count it."""

from __future__ import annotations

import math
from collections.abc import Sequence

Shape = tuple[int, ...]


def reduction(kind: str, shape: Shape, axes: Sequence[int], result: Shape) -> str:
    """``x.mean(axes)``, or "sum" or "max", where ``result`` is left; the batch is not among the axes. ValueError for some of more than three axes."""
    gone, rank = set(axes), len(shape) + 1
    if rank > 4 and gone != set(range(1, rank)):
        raise ValueError(f"no one text for some of {rank} axes")
    source: str
    left: Shape
    if gone == set(range(1, rank)):
        source, left = ("x" if rank == 2 else "x.flatten(1)") + ".unsqueeze(1)", (math.prod(shape),)
    elif rank == 3:
        source, left = ("x", shape[1:]) if gone == {2} else ("x.transpose(1, 2)", shape[:1])
    elif len(gone) == 2:
        kept = next(axis for axis in range(1, rank) if axis not in gone)
        source, left = ("x" if kept == 1 else f"x.transpose(1, {kept})"), tuple(n for n in _swapped(shape, kept)[1:])
    else:
        return _reduction_of_one(kind, shape, next(iter(gone)), result)
    axes_text = "2" if len(left) == 1 else "(2, 3)"
    window = f"({left[0]}, 1)" if len(left) == 1 else f"{left}"
    image = f"{source}.unsqueeze(3)" if len(left) == 1 else source
    text = {
        "mean": f"{source}.mean({axes_text})",
        "max": f"F.adaptive_max_pool{len(left)}d({source}, 1).flatten(1)",
        "sum": f"F.avg_pool2d({image}, {window}, divisor_override=1).flatten(1)",
    }[kind]
    kept_size = 1 if gone == set(range(1, rank)) else math.prod(shape) // math.prod(left)
    return text if result == (kept_size,) else f"{text}.reshape(-1, {_listed(result)})"


def _reduction_of_one(kind: str, shape: Shape, axis: int, result: Shape) -> str:
    """Over one axis of three: a window that is as long as the axis."""
    source, window, gone = {
        1: ("x.permute(0, 2, 3, 1)", f"(1, {shape[0]})", 3),
        2: ("x", f"({shape[1]}, 1)", 2),
        3: ("x", f"(1, {shape[2]})", 3),
    }[axis]
    pooled = {"mean": f"F.avg_pool2d({source}, {window})", "max": f"F.max_pool2d({source}, {window})"}
    text = pooled.get(kind, f"F.avg_pool2d({source}, {window}, divisor_override=1)")
    if len(result) == 3:
        return f"{text}.permute(0, 3, 1, 2)" if axis == 1 else text
    return f"{text}.squeeze({gone})"


def _swapped(shape: Shape, axis: int) -> Shape:
    sizes = list(shape)
    sizes[0], sizes[axis - 1] = sizes[axis - 1], sizes[0]
    return tuple(sizes)


def parts(name: str, axis: int, sizes: Sequence[int], *, dropped: bool = False) -> str:
    """Consecutive parts of ``name`` along an axis; with ``dropped``, without the axis (each part is one long)."""
    start, texts = 0, []
    for size in sizes:
        texts.append(f"{name}[{':, ' * axis}{start if dropped else f'{start}:{start + size}'}]")
        start += size
    return ", ".join(texts) if len(texts) <= 4 else ", ".join([texts[0], texts[1], "...", texts[-1]])


def permuted(perm: Sequence[int]) -> str:
    return f"x.permute({_listed(perm)})"


def along(axis: int, join: str) -> str:
    """``join``, a text with ``{x}`` that works along axis 1, along another one."""
    if axis == 1:
        return join.format(x="x")
    return f"{join.format(x=f'x.transpose(1, {axis})')}.transpose(1, {axis})"


def gathered(axis: int, indices: Sequence[int]) -> str:
    """The entries ``indices`` of an axis, in that order: slices, joined."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1]:
            runs[-1][1] += 1
        else:
            runs.append([index, index + 1])
    if len(runs) > 6 and all(stop == start + 1 for start, stop in runs):
        return along(axis, f"torch.cat([{{x}}[:, i : i + 1] for i in {_range(indices)}], 1)")
    return along(axis, f"torch.cat([{', '.join(f'{{x}}[:, {start}:{stop}]' for start, stop in runs)}], 1)")


def _range(indices: Sequence[int]) -> str:
    step = indices[1] - indices[0]
    found = range(indices[0], indices[-1] + (1 if step > 0 else -1), step) if step else range(0)
    return repr(found) if list(found) == list(indices) else repr(tuple(indices))


def repeated(shape: Shape, counts: Sequence[int]) -> str:
    """``x`` as often as ``counts`` say along each axis behind the batch."""
    text = "x"
    for axis, count in enumerate(counts, start=1):
        if count != 1:
            moved = text if axis == 1 else f"{text}.transpose(1, {axis})"
            text = f"torch.cat([{moved}] * {count}, 1)" + ("" if axis == 1 else f".transpose(1, {axis})")
    return text


def expanded(name: str, shape: Shape, wanted: Shape) -> str | None:
    """The value ``name`` of ``shape``, its axes of size 1 repeated until it has the shape ``wanted``; None where the shapes do not broadcast so."""
    if len(shape) > len(wanted) or any(size not in (1, want) for size, want in zip(shape[::-1], wanted[::-1], strict=False)):
        return None
    if len(shape) < len(wanted) or (len(wanted) > 4 and shape[1:] != wanted[1:]):  # F.interpolate goes up to three axes
        return None  # torch lines up the last axes, so that the batch would meet another axis
    text = name
    if shape[1:] != wanted[1:]:
        text = f"F.interpolate({text}, size={wanted[1:] if len(wanted) > 2 else wanted[1]})"
    return text if shape[0] == wanted[0] else f"torch.cat([{text}] * {wanted[0]}, 1)"


def cropped(pads: Sequence[tuple[int, int]], shape: Shape) -> str:
    """Zeros on the sides of each axis behind the batch where the number is positive, slices where it is negative."""
    text = "x"
    if any(side < 0 for pair in pads for side in pair):
        ends = [(max(-before, 0), size - max(-after, 0)) for (before, after), size in zip(pads, shape, strict=True)]
        slices = [":" if (start, stop) == (0, size) else f"{start}:{stop}" for (start, stop), size in zip(ends, shape, strict=True)]
        text = f"x[:, {', '.join(slices)}]"
    flat = [max(side, 0) for pair in reversed(pads) for side in pair]
    return f"F.pad({text}, {tuple(flat)})" if any(flat) else text


def per_channel(shape: Shape) -> str:
    """A layer that multiplies each channel of a value by a number and adds another."""
    channels, rank = shape[0], len(shape)
    layer = f"nn.Conv{rank - 1 if 1 < rank < 4 else 1}d({channels}, {channels}, 1, groups={channels})"
    if rank > 3:
        return f"{layer} on x.flatten(2), then .unflatten(2, {shape[1:]}),"
    return layer if rank > 1 else f"{layer} on x.unsqueeze(2), then .flatten(1),"


def per_element(shape: Shape) -> str:
    """A layer that multiplies each number of a value by a constant and adds another."""
    count = math.prod(shape)
    return f"nn.Conv1d({count}, {count}, 1, groups={count}) on x.reshape(-1, {count}, 1), then .reshape(-1, {_listed(shape)}),"


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
