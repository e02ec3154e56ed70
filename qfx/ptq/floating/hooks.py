"""Running a float model over data while watching what some of its modules read and give."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qfx.errors import DataError
from qfx.ptq.activations import batches, evaluating

See = Callable[[str, Tensor, Tensor], None]
"""Called with (path, first input, result) of each call of a module."""


def run_watched(model: nn.Module, sites: Mapping[str, nn.Module], data: Tensor | Iterable[Tensor], see: See) -> None:
    """Run ``model`` in evaluation mode on all of ``data`` and show ``see`` every call of the modules ``sites``.

    Raises DataError for bad data, and for data that the model does not take.
    """

    def hook(path: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        return lambda module, inputs, result: see(path, inputs[0], result)

    with contextlib.ExitStack() as stack, evaluating(model), torch.no_grad():
        for path, module in sites.items():
            stack.callback(module.register_forward_hook(hook(path)).remove)
        for part in batches(data):
            try:
                model(part)
            except Exception as error:  # whatever the user's model raises on this input
                message = str(error).split("\n")[0]
                raise DataError(
                    f"the model does not run on data of shape {tuple(part.shape)}: {message}", where="data", remedy="see qfx.ptq.check_data"
                ) from error
