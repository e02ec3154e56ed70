"""What an interrupted run leaves, so that ``--resume`` can go on: a folder with one JSON file and one of safetensors, no code in either."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from qfx.capture.trace import trace
from qfx.errors import DataError, QfxError, RecipeError
from qfx.ptq.allocation.front import Designs, Found, as_data, found_from, point_from
from qfx.ptq.allocation.table import Table, table_from
from qfx.ptq.report.step import Step

_VERSION = 3
_FILE = "state.json"
_MODEL, _PASS, _INPUTS = "model/", "pass/", "inputs"


@dataclass(frozen=True, eq=False)
class Saved:
    """Where a run stands: the steps done, the tensors of the quantized model (none if there is none yet), and of the pass that was ``under_way`` how
    many parts (layers, blocks, epochs) are ``done`` and the tensors that it ``kept`` for itself. ``table``: the sensitivities that were measured;
    ``designs``: what a search that was under way had made; ``found``: the word lengths that it has chosen; ``inputs``: the calibration inputs that
    were made up."""

    steps: tuple[Step, ...]
    tensors: Mapping[str, Tensor]
    under_way: str = ""
    done: int = 0
    kept: Mapping[str, Tensor] = field(default_factory=dict)
    table: Table | None = None
    designs: Designs = field(default_factory=dict)
    found: Found | None = None
    inputs: Tensor | None = None


class State:
    """The folder beside the output. ``fingerprint``: hashes of all that decides the result, by name; a state of another run is refused. ``inputs``:
    if there are any, every ``save`` keeps them."""

    folder: Path
    fingerprint: dict[str, str]
    inputs: Tensor | None

    def __init__(self, folder: Path, fingerprint: Mapping[str, str], inputs: Tensor | None = None) -> None:
        self.folder, self.fingerprint, self.inputs = folder, dict(fingerprint), inputs

    @property
    def exists(self) -> bool:
        """Whether something was saved (an interrupt while that was done for the first time leaves nothing to go on with)."""
        return (self.folder / _FILE).is_file()

    def load(self) -> Saved | None:
        """What was saved last; None if nothing was. Raises DataError for a damaged state, and for one of a run with other inputs."""
        if not self.exists:
            return None
        try:
            data: Any = json.loads((self.folder / _FILE).read_text(encoding="utf-8"))
            if data["version"] != _VERSION:
                raise ValueError(f"version {data['version']}")
            known = dict(data["fingerprint"])
            steps = tuple(Step(**step) for step in data["steps"])
            stored = load_file(self.folder / str(data["tensors"]), device="cpu")
            tensors, kept = ({key.removeprefix(part): stored[key] for key in stored if key.startswith(part)} for part in (_MODEL, _PASS))
            table = None if data["table"] is None else table_from(data["table"])
            found = None if data["found"] is None else found_from(data["found"])
            designs = {tuple(widths): None if point is None else point_from(point) for widths, point in data["designs"]}
            saved = Saved(steps, tensors, str(data["under_way"]), int(data["done"]), kept, table, designs, found, stored.get(_INPUTS))
        except (OSError, ValueError, LookupError, TypeError, SafetensorError, RecipeError) as error:
            raise self._damaged(error) from error
        changed = [name for name in {**known, **self.fingerprint} if known.get(name) != self.fingerprint.get(name)]
        if changed:
            raise DataError(
                f"belongs to a run with another {', another '.join(changed)}",
                where=str(self.folder),
                remedy="resume with what the run was started with, or start anew: --force in place of --resume",
            )
        return saved

    def save(self, saved: Saved) -> None:
        """Replace what was saved before, in one step."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            old = {path.name for path in self.folder.glob("tensors-*.safetensors")}
            number = next(count for count in range(len(old) + 1) if f"tensors-{count}.safetensors" not in old)
            name = f"tensors-{number}.safetensors"
            parts = ((_MODEL, saved.tensors), (_PASS, saved.kept))
            named = {part + key: tensor for part, tensors in parts for key, tensor in tensors.items()}
            if self.inputs is not None:
                named[_INPUTS] = self.inputs
            save_file({key: tensor.detach().cpu().contiguous().clone() for key, tensor in named.items()}, self.folder / name)
            content = {
                "version": _VERSION,
                "fingerprint": self.fingerprint,
                "steps": [dataclasses.asdict(step) for step in saved.steps],
                "tensors": name,
                "under_way": saved.under_way,
                "done": saved.done,
                "table": None if saved.table is None else dataclasses.asdict(saved.table),
                "designs": [(widths, None if point is None else dataclasses.asdict(point)) for widths, point in saved.designs.items()],
                "found": None if saved.found is None else as_data(saved.found),
            }
            temporary = self.folder / f"{_FILE}.tmp"
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            os.replace(temporary, self.folder / _FILE)
            for path in old:
                (self.folder / path).unlink(missing_ok=True)
        except OSError as error:
            raise QfxError(f"cannot be written: {error.strerror or error}", where=str(self.folder), remedy="make room, or write elsewhere") from error

    def remove(self) -> None:
        """Forget everything; only what ``save`` writes goes."""
        if not self.folder.is_dir():
            return
        for path in (*self.folder.glob("tensors-*.safetensors"), self.folder / _FILE, self.folder / f"{_FILE}.tmp"):
            path.unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _damaged(self, error: Exception) -> DataError:
        message = str(error).split("\n")[0]
        return DataError(f"is damaged: {message}", where=str(self.folder), remedy="start anew: --force in place of --resume")


def hash_of_model(model: nn.Module, example: Tensor) -> str:
    """Of a model's layers, of what it does with ``example``, step by step, and of its tensors. Raises what tracing raises."""
    digest = hashlib.sha256(f"{model}\n{trace(model, example).module.code}".encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(hash_of_array(tensor.detach().cpu().numpy()).encode())
    return digest.hexdigest()


def hash_of_array(array: npt.NDArray[Any]) -> str:
    """Of an array's dtype, shape and numbers."""
    digest = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
