"""``QfxCallback`` for ``pytorch_lightning``. Importing it raises QfxError where the package is not installed."""

from __future__ import annotations

from typing import Any

from qfx.trainers.lightning_hooks import Hooks
from qfx.trainers.peers import peer

_Callback: Any = peer("pytorch_lightning", "pytorch-lightning").Callback


class QfxCallback(Hooks, _Callback):  # type: ignore[misc]
    __doc__ = Hooks.__doc__
