"""What tuning makes small: how far the quantized model is from the float one, at its result and, if wanted, between its blocks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from qfx.nn.quantizer import Quantizer
from qfx.ptq.activations import Env, run_node


def distillation(result: Tensor, target: Tensor) -> Tensor:
    """How far a result is from the float model's: the Kullback-Leibler divergence of the softmax over axis 1 (Hinton et al., 2015), which is what
    matters to a classifier, plus the relative squared error, which is what matters to everything else."""
    target = target.to(result.dtype)
    divergence = F.kl_div(F.log_softmax(result, 1), F.log_softmax(target, 1), log_target=True, reduction="none").sum(1).mean()
    return divergence + relative_error(result, target)


def relative_error(result: Tensor, target: Tensor) -> Tensor:
    """The squared error as a share of the target's variance."""
    return (result - target).square().mean() / (target - target.mean()).square().mean().clamp(min=1e-12)


@dataclass(frozen=True, eq=False)
class Loss:
    """``distillation``, plus ``features`` times the mean relative squared error of the values of the nodes called ``marks``."""

    module: fx.GraphModule
    reference: fx.GraphModule
    features: float
    marks: tuple[str, ...]

    @classmethod
    def between(cls, module: fx.GraphModule, reference: fx.GraphModule, features: float) -> Loss:
        """That of a quantized model and its float reference; with 0 ``features`` only the results count."""
        return cls(module, reference, features, single_values(module) if features else ())

    def __call__(self, x: Tensor, target: Tensor) -> Tensor:
        """On one batch, with the reference's result on it."""
        result, reached = _run(self.module, x, self.marks)
        loss = distillation(result, target)
        if self.marks:
            with torch.no_grad():
                _, wanted = _run(self.reference, x, self.marks)
            for ours, theirs in zip(reached, wanted, strict=True):
                loss = loss + self.features * relative_error(ours, theirs) / len(self.marks)
        return loss


def single_values(module: fx.GraphModule) -> tuple[str, ...]:
    """The names of the casts of activations, behind the input's, whose value is the only one alive: what lies between two blocks."""
    nodes = [node for node in module.graph.nodes if node.op != "output"]
    order = {node: index for index, node in enumerate(nodes)}
    marks = []
    alive: set[fx.Node] = set()
    for index, node in enumerate(nodes):
        alive = {other for other in (*alive, node) if any(order.get(user, len(nodes)) > index for user in other.users)}
        if alive == {node} and node.op == "call_module" and isinstance(module.get_submodule(str(node.target)), Quantizer):
            marks.append(node.name)
    return tuple(marks)


def _run(module: fx.GraphModule, x: Tensor, marks: tuple[str, ...]) -> tuple[Tensor, list[Tensor]]:
    """The model's result, and the values of the nodes called ``marks``."""
    if not marks:
        return module(x), []
    nodes = list(module.graph.nodes)
    env: Env = {next(node.name for node in nodes if node.op == "placeholder"): x}
    for node in nodes:
        run_node(module, node, env)
    result = env[next(str(node.args[0]) for node in nodes if node.op == "output")]
    return result, [env[mark].tensor() for mark in marks]
