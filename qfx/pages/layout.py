"""Places for the nodes of a graph: in layers from top to bottom, so that most lines are straight and few cross. Deterministic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

_SWEEPS = 6
_GAP = 26.0


@dataclass(frozen=True, slots=True)
class Box:
    """The middle of a node, and its size."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Placed:
    """Boxes by node, for each edge (source, target) the points that its line passes (from below the source to above the target), and the size of
    all."""

    boxes: Mapping[str, Box]
    lines: Mapping[tuple[str, str], tuple[tuple[float, float], ...]]
    width: float
    height: float


def place(sizes: Mapping[str, tuple[float, float]], edges: Sequence[tuple[str, str]], gap: float) -> Placed:
    """``sizes``: (width, height) of every node, in topological order; ``edges`` go from earlier to later nodes. ``gap``: between layers."""
    edges = tuple(dict.fromkeys(edges))
    ranks = _ranks(sizes, edges)
    wide = {name: width for name, (width, _) in sizes.items()}
    chains: dict[tuple[str, str], list[str]] = {}
    short: list[tuple[str, str]] = []
    for number, (source, target) in enumerate(edges):
        chain = [source]
        for rank in range(ranks[source] + 1, ranks[target]):
            via = f"{number}:{rank}\n"  # no name of a node
            ranks[via], wide[via] = rank, 6.0
            chain.append(via)
        chain.append(target)
        chains[source, target] = chain
        short += list(pairwise(chain))
    layers: list[list[str]] = [[] for _ in range(max(ranks.values(), default=0) + 1)]
    for name, rank in ranks.items():
        layers[rank].append(name)
    above: dict[str, list[str]] = {name: [] for name in ranks}
    below: dict[str, list[str]] = {name: [] for name in ranks}
    for source, target in short:
        above[target].append(source)
        below[source].append(target)
    _order(layers, above, below)
    xs = _columns(layers, above, below, wide)
    tall = [max((sizes[name][1] for name in layer if name in sizes), default=0.0) for layer in layers]
    ys, top = [], 0.0
    for height in tall:
        ys.append(top + height / 2)
        top += height + gap
    boxes = {name: Box(xs[name], ys[ranks[name]], *sizes[name]) for name in sizes}
    lines = {}
    for (source, target), chain in chains.items():
        points = [(xs[source], boxes[source].y + sizes[source][1] / 2)]
        for via in chain[1:-1]:
            half = tall[ranks[via]] / 2
            points += [(xs[via], ys[ranks[via]] - half), (xs[via], ys[ranks[via]] + half)]
        points.append((xs[target], boxes[target].y - sizes[target][1] / 2))
        lines[source, target] = tuple(points)
    right = max((xs[name] + wide[name] / 2 for name in xs), default=0.0)
    return Placed(boxes, lines, right, max(top - gap, 0.0))


def _ranks(sizes: Mapping[str, tuple[float, float]], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """As early as possible, and then what has readers as late as they let it, so that constants and inputs stand beside what reads them."""
    ranks = dict.fromkeys(sizes, 0)
    sources: dict[str, list[str]] = {name: [] for name in sizes}
    targets: dict[str, list[str]] = {name: [] for name in sizes}
    for source, target in edges:
        sources[target].append(source)
        targets[source].append(target)
    for name in sizes:
        ranks[name] = max((ranks[source] + 1 for source in sources[name]), default=0)
    for name in reversed(list(sizes)):
        if targets[name] and not sources[name] and ranks[name] == 0 and len(sizes) > 1:
            ranks[name] = min(ranks[target] for target in targets[name]) - 1
    return ranks


def _order(layers: list[list[str]], above: Mapping[str, list[str]], below: Mapping[str, list[str]]) -> None:
    """Barycentres, down and up."""
    for sweep in range(_SWEEPS):
        near = above if sweep % 2 == 0 else below
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            place_of = {name: i for other in layers for i, name in enumerate(other)}
            keys = {name: _mean([place_of[n] for n in near[name]], place_of[name]) for name in layer}
            layer.sort(key=lambda name: keys[name])


def _columns(
    layers: Sequence[Sequence[str]], above: Mapping[str, list[str]], below: Mapping[str, list[str]], wide: Mapping[str, float]
) -> dict[str, float]:
    """The middles: each where its neighbours are, as far as those beside it leave room."""
    xs: dict[str, float] = {}
    for layer in layers:
        at = 0.0
        for name in layer:
            xs[name] = at + wide[name] / 2
            at += wide[name] + _GAP
    for sweep in range(2 * _SWEEPS):
        near = above if sweep % 2 == 0 else below
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            _settle(layer, {name: _mean([xs[n] for n in near[name]], xs[name]) for name in layer}, wide, xs)
    left = min((xs[name] - wide[name] / 2 for name in xs), default=0.0)
    return {name: x - left for name, x in xs.items()}


def _settle(layer: Sequence[str], wanted: Mapping[str, float], wide: Mapping[str, float], xs: dict[str, float]) -> None:
    """As near to where they want to be as their order and widths allow: neighbours that would overlap stand together around the mean of their wishes
    (the least sum of squares)."""
    blocks: list[tuple[float, list[str], float]] = []  # the middle of the first, names, the sum of what each wants for the first
    for name in layer:
        block, total = [name], wanted[name]
        start = wanted[name]
        while blocks:
            before, names, sum_before = blocks[-1]
            offset = _offset(names, name=block[0], wide=wide)
            if before + offset <= start:
                break
            blocks.pop()
            total = sum_before + total - offset * len(block)
            block = [*names, *block]
            start = total / len(block)
        blocks.append((start, block, total))
    for start, names, _ in blocks:
        at = start
        for i, name in enumerate(names):
            if i:
                at += (wide[names[i - 1]] + wide[name]) / 2 + _GAP
            xs[name] = at


def _offset(names: Sequence[str], *, name: str, wide: Mapping[str, float]) -> float:
    """From the middle of the first of ``names`` to that of ``name``, which follows them."""
    row = [*names, name]
    return sum((wide[a] + wide[b]) / 2 + _GAP for a, b in pairwise(row))


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise
