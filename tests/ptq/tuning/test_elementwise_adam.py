"""Adam with a step size for each element, against torch's with one for all."""

from __future__ import annotations

import torch
from torch import Tensor

from qfx.ptq.tuning.optimizer import ElementwiseAdam, cosine


def gradients(steps: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(6, generator=generator, dtype=torch.float64) for _ in range(steps)]


def test_each_element_moves_as_torch_moves_one_with_that_step_size() -> None:
    sizes = torch.tensor([1e-3, 0.01, 0.05, 0.2, 1.0, 3.0], dtype=torch.float64)
    value = torch.ones(6, dtype=torch.float64)
    single = [torch.ones(1, dtype=torch.float64) for _ in sizes]
    adam, expected = (
        ElementwiseAdam([value], [sizes]),
        [torch.optim.Adam([one], lr=float(size), eps=1e-12) for one, size in zip(single, sizes, strict=True)],
    )
    for number, gradient in enumerate(gradients(20)):
        value.grad = gradient
        adam.step(cosine(number / 20))
        for index, (one, optimizer) in enumerate(zip(single, expected, strict=True)):
            optimizer.param_groups[0]["lr"] = float(sizes[index]) * cosine(number / 20)
            one.grad = gradient[index : index + 1]
            optimizer.step()
    torch.testing.assert_close(value, torch.cat(single), rtol=1e-12, atol=1e-12)


def test_resumed_goes_on_as_if_nothing_had_happened() -> None:
    sizes = [torch.tensor(0.1), torch.full((6,), 0.2)]

    def moved(value: list[Tensor], adam: ElementwiseAdam, grads: list[Tensor]) -> None:
        for gradient in grads:
            value[0].grad, value[1].grad = gradient.float(), None  # the second has none yet
            if float(gradient[0]) > 0:
                value[1].grad = gradient.float()
            adam.step(0.5)

    grads = gradients(12)
    whole = [torch.zeros(6), torch.zeros(6)]
    moved(whole, ElementwiseAdam(whole, sizes), grads)
    parts = [torch.zeros(6), torch.zeros(6)]
    first = ElementwiseAdam(parts, sizes)
    moved(parts, first, grads[:5])
    kept = {key: value.clone() for key, value in first.tensors().items()}
    before = {key: value.clone() for key, value in kept.items()}
    moved(parts, ElementwiseAdam.resumed(parts, kept), grads[5:])
    assert all(torch.equal(one, other) for one, other in zip(whole, parts, strict=True))
    assert all(torch.equal(value, before[key]) for key, value in kept.items())  # what was kept is left alone
