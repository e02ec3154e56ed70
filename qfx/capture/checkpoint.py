"""Checkpoints: which of the tensors in them are a model's weights, in the many wrappings that training scripts give them."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from qfx.capture.checkpoint_file import contents, kind_of
from qfx.errors import ModelFileError
from qfx.nn.quantizer import Quantizer

_WRAPPERS = ("", "state_dict", "model_state_dict", "model", "module", "net", "weights", "pytorch_model")
"""Keys that mean the weights in training, the likeliest last of a path."""

_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
_AVERAGE = re.compile(r"(^|[._])(ema|swa|avg|averaged|shadow)([._]|$)", re.IGNORECASE)
_LISTED = 12
"""An error lists so many keys of each kind."""

_OPTION, _PLAIN = "--checkpoint-key, in Python key=", "plain"
"""How a group is named, and what the file's own is called."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What a model was given: ``count`` tensors of the group called ``key`` ("": the file's own), what was ``left`` beside them, the other groups
    that would fit (``others``), and ``filled``: where buffers came from that an average does not keep."""

    key: str
    count: int
    left: tuple[str, ...]
    others: tuple[str, ...]
    filled: str = ""

    def __str__(self) -> str:
        told = f"took {self.count} tensors" + f" of {self.key!r}" * bool(self.key)
        told += f", buffers of {self.filled!r}" * bool(self.filled)
        if self.left:
            told += f"; left: {', '.join(self.left[:_LISTED])}{', ...' * (len(self.left) > _LISTED)}"
        if self.others:
            told += f"; also there: {', '.join(repr(name or _PLAIN) for name in self.others)} ({_OPTION})"
        return told


def load_checkpoint(model: nn.Module, path: str | os.PathLike[str], *, key: str | None = None) -> Taken:
    """Give ``model`` its tensors in the checkpoint at ``path``, in place, and tell which were taken.

    Of the groups of tensors in it (under ``state_dict``, ``model``, ``ema`` and other keys; of a folder its files) it is the one that has the model's
    names: as they are, or below a prefix that they share (``net.`` of a LightningModule, ``module.`` of DataParallel and AveragedModel), or without
    the ``_orig_mod.`` of torch.compile. What lies beside that prefix is left. The counters ``num_batches_tracked`` may be missing. Where an average
    of the weights (EMA, SWA) is beside the weights themselves, these are taken. ``key``: which group, by its name or a part of it. An average that
    keeps no buffers takes those of the weights.

    Raises ModelFileError that lists every name that is missing, unexpected or of another shape, with the nearest of the others, and for several
    groups that fit, none of them the usual one; the model is then as before. ``model`` may be a quantized one: it takes what its ``load_state_dict``
    takes.
    """
    source = Path(path)
    found = contents(source)
    own = model.state_dict()
    candidates = [candidate for name, group in found.groups.items() for candidate in _candidates(model, own, name, group)]
    if not candidates:
        raise _without(source)
    fitting = [candidate for candidate in candidates if candidate.fits]
    fitting += _filled(model, [candidate for candidate in candidates if not candidate.fits], fitting)
    chosen = _chosen(fitting, candidates, key, source)
    if not chosen.fits:
        raise _misfit(chosen, own, source)
    for name, tensor in chosen.state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ModelFileError(f"{name} holds NaN or infinity", where=str(source), remedy="give a checkpoint from before the training diverged")
    model.load_state_dict(chosen.state, strict=False)
    others = tuple(candidate.key for candidate in fitting if candidate is not chosen and not candidate.equals(chosen))
    tops = {part for name in (chosen.group, chosen.filled, *others) if (part := name.split(".")[0])}
    inside = {*tops, *found.groups.get("", {})} if not chosen.group else tops
    beside = [name for name in found.keys if name not in inside and not name.startswith(tuple(f"{top}{sign}" for top in tops for sign in ".-"))]
    return Taken(chosen.key, len(chosen.state), (*chosen.outside, *beside), others, chosen.filled)


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors in a checkpoint by name, on the CPU: safetensors, or a ``state_dict`` that torch.save wrote, plain or under one of the keys
    ``state_dict``, ``model_state_dict``, ``model``, ``module``, ``net``, ``weights``.

    Raises ModelFileError, naming the file, if it cannot be read, holds no tensors, or would have to run code to be read.
    """
    source = Path(path)
    groups = contents(source).groups
    if not groups:
        raise _without(source)
    return dict(min(groups.items(), key=lambda item: (_rank(item[0]), item[0] == "" and len(groups) > 1))[1])


@dataclass(frozen=True, eq=False)
class _Candidate:
    """Tensors of a group that could be the model's, by its names, and what is wrong with them."""

    group: str
    prefix: str
    state: dict[str, Tensor]
    outside: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]
    filled: str = ""

    @property
    def key(self) -> str:
        return ".".join(filter(None, (self.group, self.prefix.rstrip("."))))

    @property
    def fits(self) -> bool:
        return not (self.missing or self.unexpected or self.reshaped)

    @property
    def wrong(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.reshaped)

    def equals(self, other: _Candidate) -> bool:
        return self.state.keys() == other.state.keys() and all(torch.equal(value, other.state[name]) for name, value in self.state.items())


def _candidates(model: nn.Module, own: Mapping[str, Tensor], group: str, tensors: Mapping[str, Tensor]) -> Iterator[_Candidate]:
    """The group below each prefix with which the model's names are there; if there is none, below those that wrappers give."""
    found: list[_Candidate] = []
    for dropped in ((), ("_orig_mod",), ("_orig_mod", "module")):
        names = {".".join(part for part in name.split(".") if part not in dropped): name for name in tensors}
        if len(names) < len(tensors) or any(part in dropped for name in own for part in name.split(".")):
            continue
        known = {name: tensors[theirs] for name, theirs in names.items()}
        prefixes = _prefixes(model, own, known)
        found += [_candidate(model, own, group, prefix, known) for prefix in prefixes]
        if any(candidate.fits for candidate in found):
            break
    fitting = [candidate for candidate in found if candidate.fits]
    plain = [candidate for candidate in fitting if not candidate.prefix]
    yield from plain or fitting or sorted(found, key=lambda candidate: candidate.wrong)[:1]


def _prefixes(model: nn.Module, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    needed = [name for name in own if name not in _optional(model, {})]
    if not needed:
        return [""]
    sign = max(needed, key=len)
    prefixes = [name.removesuffix(sign) for name in tensors if name == sign or name.endswith(f".{sign}")]
    shared = ""
    while any(all(name.startswith(shared + part) for name in tensors) for part in _PREFIXES):
        shared += next(part for part in _PREFIXES if all(name.startswith(shared + part) for name in tensors))
    return list(dict.fromkeys((*prefixes, *([] if prefixes else [shared]))))


def _candidate(model: nn.Module, own: Mapping[str, Tensor], group: str, prefix: str, tensors: Mapping[str, Tensor]) -> _Candidate:
    state = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    outside = tuple(name for name in tensors if not name.startswith(prefix))
    optional = _optional(model, state)
    return _Candidate(
        group,
        prefix,
        state,
        outside,
        missing=tuple(name for name in own if name not in state and name not in optional),
        unexpected=tuple(name for name in state if name not in own),
        reshaped=tuple(name for name in own if name in state and own[name].shape != state[name].shape),
    )


def _filled(model: nn.Module, others: Sequence[_Candidate], fitting: Sequence[_Candidate]) -> list[_Candidate]:
    """Averages that lack buffers alone, with those of the one group that fits."""
    buffers = {name for name, _ in model.named_buffers()}
    plain = [candidate for candidate in fitting if not _AVERAGE.search(candidate.key)]
    if len(plain) != 1:
        return []
    made = []
    for one in others:
        if _AVERAGE.search(one.key) and not (one.unexpected or one.reshaped) and buffers.issuperset(one.missing):
            state = {**{name: tensor for name, tensor in plain[0].state.items() if name in buffers}, **one.state}
            made.append(_Candidate(one.group, one.prefix, state, one.outside, (), (), (), plain[0].key or _PLAIN))
    return made


def _chosen(fitting: Sequence[_Candidate], candidates: Sequence[_Candidate], key: str | None, source: Path) -> _Candidate:
    if key is not None:
        asked = [c for c in (*fitting, *(c for c in candidates if c not in fitting)) if (c.key or _PLAIN) == key]
        asked = asked or [c for c in fitting if key in (c.key or _PLAIN)] or [c for c in candidates if key in (c.key or _PLAIN)]
        if len({candidate.key for candidate in asked}) != 1:
            known = ", ".join(dict.fromkeys(candidate.key or _PLAIN for candidate in fitting or candidates))
            what = f"holds {'several' if asked else 'nothing'} called {key!r}"
            raise ModelFileError(what, where=str(source), remedy=f"name one of {known} ({_OPTION})")
        return asked[0]
    if not fitting:
        return min(candidates, key=lambda candidate: (_rank(candidate.group), candidate.wrong))
    best = [candidate for candidate in fitting if _order(candidate) == min(map(_order, fitting))]
    if all(candidate.equals(best[0]) for candidate in best[1:]):
        return best[0]
    names = ", ".join(candidate.key or _PLAIN for candidate in best)
    raise ModelFileError(f"holds {len(best)} groups of weights that fit the model", where=str(source), remedy=f"name one of {names} ({_OPTION})")


def _order(candidate: _Candidate) -> tuple[int, bool]:
    return _rank(candidate.key if _AVERAGE.search(candidate.key) else candidate.group), candidate.prefix not in ("", *_PREFIXES)


def _rank(group: str) -> int:
    """0 for where weights usually are, 1 for other keys, 2 for averages."""
    if _AVERAGE.search(group):
        return 2
    return 0 if all(part in _WRAPPERS for part in group.split(".")) else 1


def _without(source: Path) -> ModelFileError:
    return ModelFileError(f"holds {kind_of(source)}, but no tensors by name", where=str(source), remedy="save model.state_dict() with torch.save")


def _misfit(candidate: _Candidate, own: Mapping[str, Tensor], source: Path) -> ModelFileError:
    state = candidate.state
    missing, unexpected, reshaped = list(candidate.missing), list(candidate.unexpected), list(candidate.reshaped)
    lines = [*_listed("missing", missing, own, {name: state[name] for name in unexpected})]
    lines += _listed("not in the model", unexpected, state, {name: own[name] for name in missing})
    lines += [f"  {name} has shape {_shape(state[name])}, the model's {_shape(own[name])}" for name in reshaped[:_LISTED]]
    return ModelFileError(
        f"does not fit the model: {len(missing)} names missing, {len(unexpected)} not in the model, {len(reshaped)} of another shape\n"
        + "\n".join(lines),
        where=": ".join(filter(None, (str(source), candidate.key))),
        remedy="give the checkpoint of this model, or rename its keys",
    )


def _optional(model: nn.Module, state: Mapping[str, Tensor]) -> set[str]:
    """The names that a checkpoint may leave out: counters, what older versions did not keep of quantizers, and for a float checkpoint all of them."""
    layers = [(path, layer) for path, layer in model.named_modules() if isinstance(layer, Quantizer)]
    learned = {f"{path}.{name}" for path, layer in layers for name, _ in layer.named_parameters(recurse=False)}
    kept = {f"{path}.{name}" for path, layer in layers for name, _ in layer.named_buffers(recurse=False)}
    counters = {name for name, _ in model.named_buffers() if name.endswith("num_batches_tracked")}
    return counters | kept | (set() if learned & state.keys() else learned)


def _listed(kind: str, names: list[str], tensors: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> list[str]:
    lines = []
    for name in names[:_LISTED]:
        near = difflib.get_close_matches(name, list(others), n=1)
        hint = f"; the nearest is {near[0]} {_shape(others[near[0]])}" if near else ""
        lines.append(f"  {kind}: {name} {_shape(tensors[name])}{hint}")
    return [*lines, f"  and {len(names) - _LISTED} more"] if len(names) > _LISTED else lines


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
