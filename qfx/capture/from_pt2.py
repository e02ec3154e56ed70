"""Files of ``torch.export`` as torch modules. Reads the archive's JSON and raw tensors itself: nothing is unpickled, no code of the file runs."""

from __future__ import annotations

import json
import re
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from qfx import formats
from qfx.capture.apart.decompositions import OF_TORCH
from qfx.capture.assemble import Assembly, Blockers, Value
from qfx.capture.aten_operators import INTEGERS, LAYERS, ON_CONSTANTS, RECURRENT, WRITTEN, Call
from qfx.capture.batch.freeing import for_any_batch
from qfx.capture.batch.joining import rows
from qfx.capture.batch.masks import CHOOSES
from qfx.capture.names import bare_name, known, spelled
from qfx.capture.refusals.remedies import plain_remedy
from qfx.errors import DataError, ModelFileError, UnsupportedError
from qfx.nn.layers.sequences.apart import CELLS

_DTYPES = {1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.half, 7: torch.float32, 8: torch.float64}
_DTYPES |= {12: torch.bool, 13: torch.bfloat16}
"""By the numbers of torch's export schema (torch/_export/serde/schema.py, ScalarType)."""

_LISTED = "docs/layers.md lists what qfx takes"


def from_pt2(path: Path, example: Tensor) -> fx.GraphModule:
    """The program at ``path`` (from ``torch.export.save``) as a module of torch layers, in evaluation mode.

    Layers keep the paths of the exported module; a fixed batch in the file does not bind the result. Raises ModelFileError for a file that is no such
    archive or holds pickled objects, UnsupportedError for operators without a layer, which lists all of them with place and remedy, DataError for an
    example of the wrong shape.
    """
    kind = formats.kind_of_file(path)
    if kind is not formats.EXPORTED:
        formats.refuse(kind, str(path))
    try:
        with zipfile.ZipFile(path) as archive:
            first = _Reader(archive, path, example)
            return for_any_batch(first, lambda count: _Reader(archive, path, rows(example, count), literal=True), first.batch, str(path))
    except OSError as error:
        raise ModelFileError(f"cannot be read: {error.strerror or error}", where=str(path), remedy="check the path") from error
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        message = str(error).split("\n")[0]
        raise ModelFileError(
            f"cannot be understood: {type(error).__name__}: {message}",
            where=str(path),
            remedy="save it again with torch.export.save of a recent PyTorch (2.8 or newer)",
        ) from error


class _Reader:
    """Walks through an exported graph. ``values``: by name, a Value for what depends on the input, else a tensor, an integer or a list of Values."""

    archive: zipfile.ZipFile
    path: Path
    folder: str
    batch: int | None
    assembly: Assembly
    blockers: Blockers

    def __init__(self, archive: zipfile.ZipFile, path: Path, example: Tensor, *, literal: bool = False) -> None:
        self.archive, self.path = archive, path
        names = archive.namelist()
        found = [name for name in names if name.endswith("models/model.json")]
        if not found:
            raise ModelFileError("holds no models/model.json", where=str(path), remedy="save it with torch.export.save of PyTorch 2.8 or newer")
        self.folder = found[0].removesuffix("models/model.json")
        program: Any = json.loads(archive.read(found[0]))
        self.graph: Any = program["graph_module"]["graph"]
        self.signature: Any = program["graph_module"]["signature"]
        (user,) = self._inputs("user_input", "one input")
        name = user["arg"]["as_tensor"]["name"]
        self.batch = self._check_shape(self.graph["tensor_values"][name], example)
        self.assembly = Assembly(example if literal else example[: self.batch or 2], literal=literal)
        self.values: dict[str, Any] = {name: self.assembly.input}
        self.names: dict[str, str] = {}
        self.literals: set[str] = set()  # constants that no checkpoint has
        self.blockers = Blockers()
        tensors = self._tensors("weights") | self._tensors("constants")
        for kind, key in (("parameter", "parameter_name"), ("buffer", "buffer_name"), ("tensor_constant", "tensor_constant_name")):
            for spec in self._inputs(kind):
                self.values[spec["arg"]["name"]] = tensors[spec[key]]
                if kind == "tensor_constant" or not spec.get("persistent", True):
                    self.literals.add(spec[key])
                self.names[spec["arg"]["name"]] = re.sub(r"\.parametrizations\.(\w+)\.(original\d*|\d+\.\w+)$", r".\1", spec[key])
        self.of_batch: dict[int, int] = {}  # by the id of a constant: its axis that is as long as the batch
        self.held: dict[int, Value] = {}  # by the id of a constant: itself in the module
        self.uses: dict[str, int] = {}
        for node in self.graph["nodes"]:
            for used in _tensor_names([argument["arg"] for argument in node["inputs"]]):
                self.uses[used] = self.uses.get(used, 0) + 1

    def read(self) -> fx.GraphModule:
        for node in self.graph["nodes"]:
            with self.blockers.at(partial(self._stand_in, node)):
                self._node(node)
        self.blockers.check(self.assembly, str(self.path))
        outputs = [spec["user_output"]["arg"] for spec in self.signature["output_specs"] if "user_output" in spec]
        if len(outputs) != 1 or "as_tensor" not in outputs[0]:
            raise UnsupportedError(f"returns {len(outputs)} values", where=str(self.path), remedy="return exactly one tensor")
        result = self.values[outputs[0]["as_tensor"]["name"]]
        if not isinstance(result, Value):
            raise UnsupportedError("its output does not depend on the input", where=str(self.path), remedy="give a model that computes something")
        return self.assembly.finish(result, self.path.stem)

    def _inputs(self, kind: str, wanted: str = "") -> list[Any]:
        found = [spec[kind] for spec in self.signature["input_specs"] if kind in spec]
        if wanted and len(found) != 1:
            raise UnsupportedError(f"has {len(found)} inputs", where=str(self.path), remedy=f"export a model with exactly {wanted}")
        return found

    def _tensors(self, kind: str) -> dict[str, Tensor]:
        config: Any = json.loads(self.archive.read(f"{self.folder}data/{kind}/model_{kind}_config.json"))["config"]
        return {name: self._tensor(name, kind, entry) for name, entry in config.items()}

    def _tensor(self, name: str, kind: str, entry: Any) -> Tensor:
        if entry["use_pickle"] or entry.get("tensor_meta") is None:
            raise ModelFileError(
                f"holds {name!r} as a pickled object, and reading that would run code from the file",
                where=str(self.path),
                remedy="export the model with plain tensors for its weights",
            )
        meta = entry["tensor_meta"]
        dtype = _DTYPES[meta["dtype"]]
        content = self.archive.read(f"{self.folder}data/{kind}/{entry['path_name']}")
        flat = torch.frombuffer(bytearray(content), dtype=dtype) if content else torch.empty(0, dtype=dtype)
        sizes, strides = ([int(size["as_int"]) for size in meta[part]] for part in ("sizes", "strides"))
        return flat.as_strided(sizes, strides, int(meta["storage_offset"]["as_int"])).clone()

    def _check_shape(self, meta: Any, example: Tensor) -> int | None:
        """The batch that the file insists on, or None."""
        sizes = [size.get("as_int") for size in meta["sizes"]]
        shape = tuple(example.shape)
        if len(sizes) != len(shape) or any(size not in (None, have) for size, have in zip(sizes[1:], shape[1:], strict=True)):
            wanted = " x ".join("?" if size is None else str(size) for size in sizes[1:])
            raise DataError(
                f"samples have shape {' x '.join(map(str, shape[1:]))}, the model takes {wanted}",
                where="calibration data",
                remedy="save the samples in the model's layout, channels first",
            )
        if sizes[0] is not None and len(example) < sizes[0]:
            raise DataError(f"holds {len(example)} samples; the model takes batches of {sizes[0]}", where="calibration data", remedy="give more")
        return None if sizes[0] is None else int(sizes[0])

    def _node(self, node: Any) -> None:
        target = str(node["target"])
        arguments = {argument["name"] or str(place): self._argument(argument["arg"]) for place, argument in enumerate(node["inputs"])}
        outputs = [name for output in node["outputs"] for name in _names(output)]
        if target in INTEGERS:
            self.values[outputs[0]] = INTEGERS[target](*arguments.values())
            return
        operator = target.removeprefix("torch.ops.aten.")
        base = operator.partition(".")[0]
        if not outputs and base.startswith(("_assert", "sym_constrain")):
            return
        read = list(_tensor_names([argument["arg"] for argument in node["inputs"]]))
        path = self._path(node, base)
        function = _function(operator) if target != operator else None
        if not any(isinstance(self.values[name], Value | list) for name in read):
            if function is None or base not in ON_CONSTANTS:
                raise UnsupportedError(f"{target} of constants alone", where=path, remedy="compute constants ahead, and export with model.eval()")
            args, kwargs = _in_order(function, arguments)
            found = function(*args, **kwargs)
            for name, value in zip(outputs, found if isinstance(found, list | tuple) else [found], strict=True):
                self.values[name] = value
                self.names[name] = self.names.get(read[0], "") if read else ""
                self._note(name, value)
            return
        weights = next((self.names[name] for name in read if self.names.get(name)), "")
        call = Call(self.assembly, weights.rpartition(".")[0] or path, base, arguments, lambda: self.uses.get(read[0], 0) == 1, self._is_stored)
        handler = LAYERS.get(base)
        written, known_by = WRITTEN.get(str(node["metadata"].get("torch_fn", "")).rpartition(".")[2], ("", None))
        whole = known_by(call) if known_by is not None and written == base else None
        if whole is not None:
            result: Any = whole
        elif handler is not None and (base in RECURRENT or sum(isinstance(value, Value) for value in arguments.values()) == 1):
            result = handler(call)
        elif function is None or not _is_taken(function):
            remedy = f"{plain_remedy(base, 'replace it by a supported layer')} ({_LISTED})"
            raise UnsupportedError(f"the operator {target} has no fixed-point form in qfx", where=path, remedy=remedy)
        else:
            result = self._called(path, function, arguments)
        for name, value in zip(outputs, result if isinstance(result, list) else [result], strict=False):
            self.values[name] = value
        if base.endswith("_"):  # in place: who reads the source from here on reads the result
            self.values[read[0]] = result

    def _called(self, path: str, function: Any, arguments: dict[str, Any]) -> Any:
        """The operator, carried out as it is; one that gives several tensors gives a list."""

        def held(argument: Any) -> Any:
            if isinstance(argument, Tensor):
                if id(argument) not in self.held:
                    self.held[id(argument)] = self._constant(path, argument)
                return self.held[id(argument)]
            return [held(part) for part in argument] if isinstance(argument, list) else argument

        args, kwargs = _in_order(function, {name: held(argument) for name, argument in arguments.items()})
        return self.assembly.call(path, function, *args, **kwargs)

    def _is_stored(self, value: Tensor) -> bool:
        """Whether a constant is of what checkpoints have."""
        return any(self.values[name] is value for name, path in self.names.items() if path and path not in self.literals)

    def _note(self, name: str, value: Any) -> None:
        """Which axis of a constant, if one, is as long as the batch: the file says it of every tensor."""
        sizes = self.graph["tensor_values"].get(name, {}).get("sizes", ())
        along = [axis for axis, size in enumerate(sizes) if "as_int" not in size]
        if isinstance(value, Tensor) and len(along) == 1 and torch.equal(value, value.narrow(along[0], 0, 1).expand_as(value)):
            self.of_batch[id(value)] = along[0]

    def _constant(self, path: str, value: Tensor) -> Value:
        """A constant in the module; what is made for every sample is made there, for as many as there are."""
        axis = self.of_batch.get(id(value))
        if axis is None:
            return self.assembly.constant(path, value)
        sizes: list[Any] = list(value.shape)
        sizes[axis] = self.assembly.batch()
        if bool((value == value.reshape(-1)[0]).all()):
            found: Value = self.assembly.call(path, torch.full, sizes, value.reshape(-1)[0].item())
            return found
        return self.assembly.call(path, torch.Tensor.expand, self.assembly.constant(path, value.narrow(axis, 0, 1)), sizes)  # type: ignore[no-any-return]

    def _stand_in(self, node: Any) -> bool:
        """Give what a refused operation would have given, as far as the file knows its shape, so that the operations behind it are looked at."""
        for name in [name for output in node["outputs"] for name in _names(output)]:
            sizes = self.graph["tensor_values"][name]["sizes"] if name in self.graph["tensor_values"] else None
            if sizes is None:
                return False
            batch = len(self.assembly.input.data)
            self.values[name] = self.assembly.stand_in(tuple(int(size.get("as_int", batch)) for size in sizes))
        return True

    def _path(self, node: Any, base: str) -> str:
        """The path of the torch layer in whose forward the operation stands; below the path of a user's module the operator's name."""
        entry = str(node["metadata"].get("nn_module_stack", "")).split(";")[-1].split(",")
        path, kind = (entry[1], entry[2]) if len(entry) == 3 else ("", "")
        return path if path and kind.startswith("torch.nn.modules") else ".".join(part for part in (path, base.strip("_")) if part)

    def _argument(self, argument: Any) -> Any:
        ((kind, value),) = ((key, entry) for key, entry in argument.items())
        if kind == "as_none":
            return None
        if kind == "as_tensor":
            return self.values[value["name"]]
        if kind == "as_tensors":
            return [self.values[entry["name"]] for entry in value]
        if kind == "as_scalar_type":
            return _DTYPES[value]
        if kind in ("as_device", "as_layout", "as_memory_format"):
            return None
        if kind == "as_optional_tensors":
            return [self._argument(entry) for entry in value]
        if kind == "as_float":
            return float(value)  # "-Infinity" too
        if kind == "as_sym_int":
            return self._integer(value)
        if kind == "as_sym_ints":
            return [self._integer(entry) for entry in value]
        return value

    def _integer(self, value: Any) -> int:
        return int(value["as_int"]) if "as_int" in value else int(self.values[value["as_name"]])


def _function(name: str) -> Any:
    """The operator of ATen with this name and overload; None if this torch has none."""
    base, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, base, None), overload or "default", None)


def _is_taken(function: Any) -> bool:
    """Whether ``quantize`` knows the operator, or takes it apart. Nothing else of a file is carried out."""
    target, _ = spelled(function, (torch.zeros(2, 2), torch.zeros(2, 2)))
    return known(target) or bare_name(target) in (*OF_TORCH, *CELLS, CHOOSES) or bare_name(function) in OF_TORCH


def _in_order(function: Any, arguments: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Arguments by name as the operator's schema wants them."""
    by_place = [argument.name for argument in function._schema.arguments if not argument.kwarg_only]
    given = [name for name in by_place if name in arguments]
    last = by_place.index(given[-1]) + 1 if given else 0
    defaults = {argument.name: argument.default_value for argument in function._schema.arguments}
    args = [arguments.get(name, defaults[name]) for name in by_place[:last]]
    return args, {name: value for name, value in arguments.items() if name not in by_place and name != "pin_memory"}


def _names(output: Any) -> list[str]:
    ((kind, value),) = output.items()
    if kind == "as_tensor":
        return [str(value["name"])]
    if kind == "as_tensors":
        return [str(entry["name"]) for entry in value]
    return [str(value["as_name"])] if kind == "as_sym_int" and "as_name" in value else []


def _tensor_names(arguments: list[Any]) -> list[str]:
    found = []
    for argument in arguments:
        found += [argument["as_tensor"]["name"]] if "as_tensor" in argument else []
        found += [entry["name"] for entry in argument.get("as_tensors", [])]
        found += _tensor_names(argument.get("as_optional_tensors", []))
    return found
