"""Two products with matrices whose results are added: computed together, so that the sums of one, exact and wide, wait in the engine and not in
memory.

A shortcut with a projection ends so: the last convolution of the main path has no cast of its own, nor has the projection. One step computes both,
job by job: first the sums of one, which stay, then those of the other, and the epilogue adds what stayed.
"""

from __future__ import annotations

from dataclasses import replace

from qfx.hardware.sequential.values import Epilogue, Kind, Layers, Overflow, Step


def joined(layers: Layers) -> Layers:
    """The network with every step whose results another one alone adds to its own computed together with that."""
    steps: dict[str, Step] = {step.target.name: step for step in layers.steps}
    writes = [step.target.name for step in layers.steps]
    reads = [value.name for step in layers.steps for value in step.reads] + [value.name for value in layers.outputs]
    gone, made = set(), []
    for step in layers.steps:
        beside = step.beside
        first = None if beside is None else steps.get(beside.name)
        if beside is None or first is None or first.target != beside or reads.count(beside.name) > 1 or writes.count(beside.name) > 1:
            made.append(step)
            continue
        alike = first.kind is Kind.MATRIX and step.kind is Kind.MATRIX and first.beside is None and first.first is None
        if not alike or first.name in gone or not _exact(first.epilogue):
            made.append(step)
            continue
        gone.add(first.target.name)
        made.append(replace(step, first=first, beside=None, nodes=(*first.nodes, *step.nodes), macs=first.macs + step.macs))
    return replace(layers, steps=tuple(step for step in made if step.target.name not in gone))


def apart(step: Step) -> tuple[Step, ...]:
    """The steps that were joined."""
    if step.first is None:
        return (step,)
    first = step.first
    return first, replace(step, first=None, beside=first.target, nodes=step.nodes[len(first.nodes) :], macs=step.macs - first.macs)


def _exact(made: Epilogue) -> bool:
    """Whether results are the sums times a factor, and a summand, with nothing rounded, bounded or moved."""
    open_low, open_high = -(1 << made.value_bits - 1), (1 << made.value_bits - 1) - 1
    plain = not made.leaky and not any(made.down) and not any(made.up) and made.overflow is Overflow.CLAMP
    return plain and all(low == open_low for low in made.least) and all(high == open_high for high in made.greatest)
