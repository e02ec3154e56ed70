"""Where the float model comes from: a Python factory with a checkpoint, a float ONNX file, or a file of torch.export."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qfx import formats
from qfx.capture.checkpoint import load_checkpoint
from qfx.errors import DataError, ModelFileError, UnsupportedError


def load_model(
    source: str,
    checkpoint: Path | None,
    example: Tensor,
    *,
    where: str = "calibration data",
    key: str | None = None,
    tell: Callable[[str], None] = lambda told: None,
) -> nn.Module:
    """The float model in evaluation mode, with the checkpoint's weights, found to run on ``example`` (a batch of real inputs).

    ``source``: ``package.module:factory`` (a callable without arguments, or an ``nn.Module``), or the path of a ``.onnx`` or ``.pt2`` file.
    ``where``: what errors call the example. ``key``: which weights of the checkpoint, as for ``load_checkpoint``; ``tell`` is told which were taken.
    Raises ModelFileError, UnsupportedError or DataError, saying what is wrong with the source, the checkpoint or the example."""
    suffix = Path(source).suffix
    if suffix in (".onnx", ".pt2"):
        if checkpoint is not None:
            raise ModelFileError("brings its own weights", where=source, remedy="leave --checkpoint out")
        model = _from_file(Path(source), suffix, example)
    else:
        _refuse_other_files(source)
        model = from_factory(source)
        if checkpoint is not None:
            tell(f"{checkpoint}: {load_checkpoint(model, checkpoint, key=key)}")
        elif key is not None:
            raise ModelFileError("names weights of a checkpoint", where="--checkpoint-key", remedy="leave it out, or give --checkpoint too")
    model.eval()
    check_runs(model, example, where=where)
    return model


def load_model_and_data(
    source: str,
    checkpoint: Path | None,
    data: Tensor,
    count: int,
    *,
    where: str = "calibration data",
    key: str | None = None,
    tell: Callable[[str], None] = lambda told: None,
) -> tuple[nn.Module, Tensor]:
    """``load_model`` on the first ``count`` of ``data``, and the data as the model takes them: as int64 if it takes no others, which are then numbers
    of a table's rows."""
    try:
        return load_model(source, checkpoint, data[:count], where=where, key=key, tell=tell), data
    except (DataError, UnsupportedError) as error:
        if not torch.equal(data, data.round()):
            raise
        try:
            return load_model(source, checkpoint, data[:count].long(), where=where, key=key), data.long()
        except (DataError, UnsupportedError, ModelFileError):
            raise error from error.__cause__


def _from_file(path: Path, suffix: str, example: Tensor) -> nn.Module:
    if suffix == ".onnx":
        from qfx.capture.from_onnx import from_onnx

        return from_onnx(path, example)
    from qfx.capture.from_pt2 import from_pt2

    return from_pt2(path, example)


def _refuse_other_files(source: str) -> None:
    """Name the kind of a file that is given in place of a factory."""
    path = Path(source)
    kind = formats.kind_of_file(path)
    if kind is formats.EXPORTED:
        raise ModelFileError(f"is {kind.name}", where=source, remedy="let its name end in .pt2")
    formats.refuse(kind, source)
    if path.is_file() and path.suffix != ".py":
        raise ModelFileError("is not a model that qfx reads", where=source, remedy="give a .onnx or .pt2 file, or package.module:factory")


def from_factory(source: str) -> nn.Module:
    """The module that ``package.module:factory`` names or makes. Raises ModelFileError, saying which step failed."""
    module_name, colon, attribute = source.partition(":")
    if not colon or not attribute or "/" in module_name or module_name.endswith(".py"):
        name = Path(module_name).stem or "package.module"
        raise ModelFileError("is not a model source", where=source, remedy=f"write {name}:factory, or give a .onnx or .pt2 file")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise _failed(source, "cannot be imported", error) from error
        raise ModelFileError(
            f"there is no module {error.name!r}", where=source, remedy="start the command in the folder that holds it, or set PYTHONPATH"
        ) from error
    except Exception as error:  # whatever the user's module raises
        raise _failed(source, "cannot be imported", error) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            names = [name for name in vars(found) if not name.startswith("_")]
            raise ModelFileError(f"there is no {part!r} in it", where=source, remedy=f"it has: {', '.join(names[:12])}")
        found = getattr(found, part)
    if isinstance(found, nn.Module):
        return found
    if not callable(found):
        raise ModelFileError(f"is a {type(found).__name__}", where=source, remedy="name a callable that returns the nn.Module, or the module itself")
    return _called(source, found)


def _called(source: str, factory: Callable[[], Any]) -> nn.Module:
    try:
        model = factory()
    except Exception as error:  # whatever the user's factory raises
        raise _failed(source, "the factory fails", error) from error
    if not isinstance(model, nn.Module):
        raise ModelFileError(f"the factory returns a {type(model).__name__}", where=source, remedy="let it return the nn.Module")
    return model


def _failed(source: str, what: str, error: Exception) -> ModelFileError:
    last = traceback.extract_tb(error.__traceback__)[-1]
    at = f" ({Path(last.filename).name}, line {last.lineno})"
    remedy = (
        "give a callable that works without arguments" if what.startswith("the factory") else "repair the module; `python -c 'import ...'` shows why"
    )
    return ModelFileError(f"{what}: {type(error).__name__}: {error}{at}", where=source, remedy=remedy)


def use_current_folder() -> None:
    """Let modules in the current folder be imported, as ``python -m`` does."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)


def check_runs(model: nn.Module, example: Tensor, *, where: str = "calibration data") -> None:
    """Raise DataError, with a guess at the layout, if the model does not take ``example`` or gives NaN or infinity for it."""
    error = _trial(model, example)
    if error is None:
        return
    shape = tuple(example.shape[1:])
    remedy = "save what the model takes, batch first"
    if example.dim() == 4 and _trial(model, example.permute(0, 3, 1, 2)) is None:
        remedy = "the channels come last; the model takes them first: x.transpose(0, 3, 1, 2)"
    elif example.dim() == 3 and _trial(model, example.permute(0, 2, 1)) is None:
        remedy = "the channels come last; the model takes them first: x.transpose(0, 2, 1)"
    elif example.dim() in (2, 3) and _trial(model, example.unsqueeze(1)) is None:
        remedy = "an axis for the one channel is missing: x[:, None]"
    elif _trial(model, example.unsqueeze(0)) is None:
        remedy = "the batch axis is missing: x[None] for a single sample"
    elif _trial(model, example.flatten(1)) is None:
        remedy = "the model takes flat samples: x.reshape(len(x), -1)"
    raise DataError(f"the model does not run on samples of shape {shape}: {error}", where=where, remedy=remedy)


def _trial(model: nn.Module, example: Tensor) -> str | None:
    """Why the model does not run, or None."""
    try:
        with torch.no_grad():
            result = model(example)
    except Exception as error:  # whatever the user's model raises
        return str(error).split("\n")[0] or type(error).__name__
    if isinstance(result, Tensor) and not bool(torch.isfinite(result).all()):
        return "it gives NaN or infinity"
    return None
