"""Places of nodes: nothing overlaps, lines go down, and the same graph gives the same drawing."""

from __future__ import annotations

import numpy as np
import pytest

from qfx.pages.layout import place


def random_edges(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    edges = []
    for target in range(1, count):
        for source in rng.choice(target, size=min(target, int(rng.integers(1, 4))), replace=False).tolist():
            edges.append((f"n{source}", f"n{target}"))
    return edges


@pytest.mark.parametrize("seed", range(20))
def test_nothing_overlaps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 40))
    sizes = {f"n{i}": (float(rng.integers(40, 200)), float(rng.integers(20, 40))) for i in range(count)}
    edges = random_edges(rng, count)
    found = place(sizes, edges, 30.0)
    assert found == place(sizes, edges, 30.0)
    boxes = list(found.boxes.values())
    for i, a in enumerate(boxes):
        assert a.x - a.width / 2 >= -1e-6
        assert a.x + a.width / 2 <= found.width + 1e-6
        for b in boxes[:i]:
            apart = abs(a.x - b.x) >= (a.width + b.width) / 2 or abs(a.y - b.y) >= (a.height + b.height) / 2
            assert apart, (seed, a, b)
    for (source, target), points in found.lines.items():
        heights = [y for _, y in points]
        assert heights == sorted(heights), (seed, source, target)


def test_a_chain_is_straight() -> None:
    sizes = {"a": (100.0, 20.0), "b": (40.0, 20.0), "c": (70.0, 20.0)}
    found = place(sizes, [("a", "b"), ("b", "c")], 30.0)
    assert len({round(box.x, 6) for box in found.boxes.values()}) == 1


def test_what_is_read_late_stands_late() -> None:
    found = place(dict.fromkeys(("x", "a", "b", "late", "sum"), (50.0, 20.0)), [("x", "a"), ("a", "b"), ("b", "sum"), ("late", "sum")], 30.0)
    assert found.boxes["late"].y == found.boxes["b"].y
