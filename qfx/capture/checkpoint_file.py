"""The files that checkpoints come in, as tensors by name: safetensors, what torch.save writes, folders of them, and never with code from a file."""

from __future__ import annotations

import argparse
import json
import pathlib
import pickle
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from qfx.errors import ModelFileError

_PLAIN_CLASSES: list[Any] = [argparse.Namespace, pathlib.PosixPath]
"""Classes that hold options, which many scripts keep beside the weights: making one runs no code of the file."""

_DEEPEST = 4
_SHARDED = (".safetensors.index.json", ".bin.index.json")
_ALONE = "torch.save(model.state_dict(), path), or safetensors.torch.save_file(model.state_dict(), path)"
_PARTS = (
    ("*.distcp", "parts of a distributed run", "join them: python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER weights.pt"),
    ("pytorch_model_fsdp_*", "parts of a distributed run", "join them: accelerate merge-weights FOLDER/pytorch_model_fsdp_0 OUTPUT"),
    ("*/*optim_states.pt", "parts of a DeepSpeed run", "join them with the folder's own zero_to_fp32.py"),
    ("*-of-*.safetensors", "parts without their index", "bring the file model.safetensors.index.json too"),
)


@dataclass(frozen=True, eq=False)
class Contents:
    """What a checkpoint holds: ``groups`` of tensors, each by the dotted path of keys that leads to it ("": the file itself; of a folder the first is
    the name of a file), and the ``keys`` that lie on top."""

    groups: Mapping[str, Mapping[str, Tensor]]
    keys: tuple[str, ...]


def contents(path: Path) -> Contents:
    """All groups of tensors in a file or a folder, on the CPU; what optimizers keep is not among them.

    A folder is one that accelerate's ``save_state`` or transformers' ``save_pretrained`` wrote; the index of a sharded one may be named, too. Raises
    ModelFileError, naming the file, if it cannot be read or would have to run code to be read.
    """
    if path.is_dir():
        return _folder(path)
    if path.name.endswith(_SHARDED):
        return Contents({"": _sharded(path)}, ())
    loaded = _file(path)
    return Contents(dict(_groups(loaded)), tuple(map(str, loaded)) if isinstance(loaded, Mapping) else ())


def kind_of(path: Path) -> str:
    """What the file holds, for an error that it holds no weights."""
    if path.is_dir() or path.name.endswith(_SHARDED):
        return "no weights"
    loaded = _file(path)
    return f"the keys {', '.join(map(str, list(loaded)[:8])) or 'of nothing'}" if isinstance(loaded, Mapping) else f"a {type(loaded).__name__}"


def _folder(path: Path) -> Contents:
    indices = sorted(file for ending in _SHARDED for file in path.glob(f"*{ending}"))
    files = sorted(file for file in path.glob("*.safetensors") if "-of-" not in file.name) + sorted(path.glob("pytorch_model*.bin"))
    files = [file for file in files if "-of-" not in file.name]
    groups: dict[str, Mapping[str, Tensor]] = {}
    for index in indices:
        groups[next(index.name.removesuffix(ending) for ending in _SHARDED if index.name.endswith(ending))] = _sharded(index)
    for file in files:
        for name, group in _groups(_file(file)):
            groups.setdefault(".".join(filter(None, (file.stem, name))), group)
    if not groups:
        for pattern, what, remedy in _PARTS:
            if any(path.glob(pattern)):
                raise ModelFileError(f"holds {what}", where=str(path), remedy=remedy)
        what = "is a folder without model.safetensors, pytorch_model.bin or an index of either"
        raise ModelFileError(what, where=str(path), remedy="name the file with the weights")
    return Contents(groups, tuple(sorted(file.name for file in path.iterdir())))


def _sharded(index: Path) -> dict[str, Tensor]:
    """The tensors of all files that an index names. Their names may not lead out of its folder."""
    try:
        places: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        wanted = {str(name): str(place) for name, place in places.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ModelFileError(f"is no index of a sharded checkpoint: {error}", where=str(index), remedy="name the folder that was written") from error
    found: dict[str, Tensor] = {}
    for place in sorted(set(wanted.values())):
        if Path(place).name != place:
            raise ModelFileError(f"names {place!r}, which lies elsewhere", where=str(index), remedy="keep all parts in the folder of the index")
        held = dict(_groups(_file(index.parent / place))).get("", {})
        missing = [name for name, where in wanted.items() if where == place and name not in held]
        if missing:
            raise ModelFileError(f"lacks {missing[0]}", where=str(index.parent / place), remedy=f"write it again, with {index.name}")
        found |= {name: tensor for name, tensor in held.items() if wanted.get(name) == place}
    return found


def _file(source: Path) -> Any:
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
        with warnings.catch_warnings(), torch.serialization.safe_globals(_PLAIN_CLASSES):  # type: ignore[no-untyped-call, unused-ignore]
            warnings.simplefilter("ignore")  # of old pickle protocols: whether the file can be read is seen at once
            return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        told = _unsafe(source)
        raise ModelFileError(
            f"holds more than tensors{told}, and reading that would run code from the file, or is no checkpoint at all",
            where=str(source),
            remedy=f"save the tensors alone, where the file is trusted: {_ALONE}",
        ) from error
    except Exception as error:  # torch.load raises a dozen kinds on damaged files
        raise ModelFileError(
            f"is no checkpoint that torch.save wrote ({type(error).__name__})", where=str(source), remedy="save model.state_dict() with torch.save"
        ) from error


def _unsafe(source: Path) -> str:
    """The classes that stand in the way, as far as torch tells them without making any."""
    try:
        found = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(source))
    except Exception:  # files of before torch 1.6, and what is no checkpoint
        return ""
    return f" ({', '.join(found[:4])}{', ...' * (len(found) > 4)})" if found else ""


def _groups(loaded: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    if not isinstance(loaded, Mapping) or depth > _DEEPEST or "param_groups" in loaded:  # the last: an optimizer's
        return
    tensors = {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}
    if tensors:
        yield path, tensors
    for name, value in loaded.items():
        if isinstance(name, str):
            yield from _groups(value, f"{path}.{name}" if path else name, depth + 1)
