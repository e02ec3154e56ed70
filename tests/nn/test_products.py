"""Sums of products: exact and alike in every thread, whatever algorithm torch would take; and the trial that finds what is not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from nn_models import check_exact
from torch import Tensor, nn

import qfx
from qfx import Recipe
from qfx.nn import backends

X = torch.randn(16, 4, 12, 12, generator=torch.Generator().manual_seed(0))


@contextmanager
def onednn(enabled: bool) -> Iterator[None]:
    """Without oneDNN, NNPACK's Winograd convolution is what torch takes."""
    torch.backends.mkldnn.enabled = enabled
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = True


def test_a_winograd_convolution_is_not_taken_where_torch_would() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=2))
    q = qfx.quantize(model, X, Recipe.uniform(12)).eval()
    with onednn(False):
        check_exact(q, samples=16)


def test_three_threads_get_the_numbers_of_one_and_leave_the_switches_alone() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ConvTranspose2d(8, 4, 3, stride=2))
    q = qfx.quantize(net, X, Recipe.uniform(10)).eval()
    with torch.no_grad():
        expected = q(X)
    before = torch._C._get_nnpack_enabled(), torch.backends.cudnn.enabled, torch.backends.mkldnn.enabled
    results: list[Tensor] = []

    def work() -> None:
        with torch.no_grad():
            results.extend(q(X) for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 60
    assert all(torch.equal(result, expected) for result in results)
    assert before == (torch._C._get_nnpack_enabled(), torch.backends.cudnn.enabled, torch.backends.mkldnn.enabled)


def test_the_trial_needs_all_bits_and_no_more() -> None:
    for wide, narrow in ((20, 1), (10, 10), (1, 20)):
        vectors, matrix = backends._integers((256, 512), wide, 43), backends._integers((256, 512), narrow)
        most = F.linear(vectors.abs().double(), matrix.abs().double()).max()
        images, weight = backends._integers((16, 32, 12, 12), wide, 32), backends._integers((32, 32, 3, 3), narrow)
        for bound in (most, F.conv2d(images.abs().double(), weight.abs().double(), padding=1).max()):
            assert 2**22 < float(bound) <= 2**24
