"""Checkpoints: tensors by name, in the many wrappings that training scripts give them, and never with code from the file."""

from __future__ import annotations

import difflib
import os
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from qfx.errors import ModelFileError
from qfx.nn.quantizer import Quantizer

_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "weights")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
_LISTED = 12
"""An error lists so many keys of each kind."""


def load_checkpoint(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Give ``model`` the tensors of the checkpoint at ``path`` (as ``read_state`` finds them), in place.

    A prefix that all names share (``module.``, ``_orig_mod.``, ``model.``, ``net.``) is dropped if the model's names do without it. The counters
    ``num_batches_tracked`` may be missing. Raises ModelFileError that lists every name that is missing, unexpected or of another shape, with the
    nearest of the others; the model is then as before. ``model`` may be a quantized one: it takes what its ``load_state_dict`` takes.
    """
    own = model.state_dict()
    state = _without_prefix(read_state(path), own)
    optional = _optional(model, state)
    missing = [name for name in own if name not in state and name not in optional]
    unexpected = [name for name in state if name not in own]
    reshaped = [name for name in own if name in state and own[name].shape != state[name].shape]
    if missing or unexpected or reshaped:
        lines = [*_listed("missing", missing, own, {name: state[name] for name in unexpected})]
        lines += _listed("not in the model", unexpected, state, {name: own[name] for name in missing})
        lines += [f"  {name} has shape {_shape(state[name])}, the model's {_shape(own[name])}" for name in reshaped[:_LISTED]]
        raise ModelFileError(
            f"does not fit the model: {len(missing)} names missing, {len(unexpected)} not in the model, {len(reshaped)} of another shape\n"
            + "\n".join(lines),
            where=str(path),
            remedy="give the checkpoint of this model, or rename its keys",
        )
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ModelFileError(f"{name} holds NaN or infinity", where=str(path), remedy="give a checkpoint from before the training diverged")
    model.load_state_dict(state, strict=False)


def _optional(model: nn.Module, state: Mapping[str, Tensor]) -> set[str]:
    """The names that a checkpoint may leave out: counters, what older versions did not keep of quantizers, and for a float checkpoint all of them."""
    layers = [(path, layer) for path, layer in model.named_modules() if isinstance(layer, Quantizer)]
    learned = {f"{path}.{name}" for path, layer in layers for name, _ in layer.named_parameters(recurse=False)}
    kept = {f"{path}.{name}" for path, layer in layers for name, _ in layer.named_buffers(recurse=False)}
    counters = {name for name, _ in model.named_buffers() if name.endswith("num_batches_tracked")}
    return counters | kept | (set() if learned & state.keys() else learned)


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors in a checkpoint by name, on the CPU: safetensors, or a ``state_dict`` that torch.save wrote, plain or under one of the keys
    ``state_dict``, ``model_state_dict``, ``model``, ``module``, ``net``, ``weights``.

    Raises ModelFileError, naming the file, if it cannot be read, holds no tensors, or would have to run code to be read.
    """
    source = Path(path)
    try:
        with source.open("rb") as stream:
            head = stream.read(9)
    except OSError as error:
        raise ModelFileError(f"cannot be read: {error.strerror or error}", where=str(source), remedy="check the path") from error
    if len(head) == 9 and head[8:] == b"{":  # eight bytes of length, then a JSON header
        try:
            return load_file(source, device="cpu")
        except SafetensorError as error:
            raise ModelFileError(f"is damaged: {error}", where=str(source), remedy="save it again with safetensors.torch.save_file") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old pickle protocols: whether the file can be read is seen at once
            loaded = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelFileError(
            "holds more than tensors, and reading that would run code from the file, or is no checkpoint at all",
            where=str(source),
            remedy="save the tensors alone: torch.save(model.state_dict(), path), or safetensors.torch.save_file(model.state_dict(), path)",
        ) from error
    except Exception as error:  # torch.load raises a dozen kinds on damaged files
        raise ModelFileError(
            f"is no checkpoint that torch.save wrote ({type(error).__name__})", where=str(source), remedy="save model.state_dict() with torch.save"
        ) from error
    return _tensors(loaded, source)


def _tensors(loaded: object, source: Path) -> dict[str, Tensor]:
    if isinstance(loaded, Mapping):
        found = {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}
        for wrapper in _WRAPPERS:
            if not found and isinstance(loaded.get(wrapper), Mapping):
                return _tensors(loaded[wrapper], source)
        if found:
            return found
    kind = f"the keys {', '.join(map(str, list(loaded)[:8])) or 'of nothing'}" if isinstance(loaded, Mapping) else f"a {type(loaded).__name__}"
    raise ModelFileError(f"holds {kind}, but no tensors by name", where=str(source), remedy="save model.state_dict() with torch.save")


def _without_prefix(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with the prefixes dropped that only the checkpoint has."""
    while True:
        for prefix in _PREFIXES:
            if all(name.startswith(prefix) for name in state) and not all(name.startswith(prefix) for name in own):
                state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
                break
        else:
            return state


def _listed(kind: str, names: list[str], tensors: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> list[str]:
    lines = []
    for name in names[:_LISTED]:
        near = difflib.get_close_matches(name, list(others), n=1)
        hint = f"; the nearest is {near[0]} {_shape(others[near[0]])}" if near else ""
        lines.append(f"  {kind}: {name} {_shape(tensors[name])}{hint}")
    return [*lines, f"  and {len(names) - _LISTED} more"] if len(names) > _LISTED else lines


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
