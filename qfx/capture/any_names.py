"""Graph modules whose layers may have any name that torch takes: Python's keywords, spaces, digits first, quotes, letters of other alphabets."""

from __future__ import annotations

import keyword
import unicodedata
from collections.abc import Callable
from typing import Any

from torch import fx
from torch.fx import graph_module as torch_graph_module
from torch.fx.graph import CodeGen, PythonCode

_KEPT = (
    *("meta", "shape_env", "_graph", "_code", "_tracer_cls", "_tracer_extras", "_lineno_map", "_prologue_start", "_in_spec", "_out_spec"),
    *("_replace_hooks", "_create_node_hooks", "_erase_node_hooks", "_deepcopy_hooks", "_wrapped_call"),
)

RESERVED = frozenset((*dir(fx.GraphModule), *_KEPT))
"""Names that a layer of a whole model cannot have, for ``torch.fx.GraphModule`` uses them itself."""


def is_plain(name: str) -> bool:
    """Whether ``module.name`` is Python for the attribute of that name."""
    return name.isidentifier() and not keyword.iskeyword(name) and unicodedata.normalize("NFKC", name) == name


class _AnyNames(CodeGen):
    """Generates code in which attributes that cannot be written behind a dot are got by ``getattr``."""

    def _gen_python_code(self, nodes: Any, root_module: str, namespace: Any, **options: Any) -> PythonCode:
        odd = [node for node in nodes if node.op in ("call_module", "get_attr") and not all(map(is_plain, str(node.target).split(".")))]
        targets = {node: str(node.target) for node in odd}
        tokens = {target: f"qfx_name_{place}_" for place, target in enumerate(dict.fromkeys(targets.values()))}
        try:
            for node, target in targets.items():
                node.target = tokens[target]
            code = super()._gen_python_code(nodes, root_module, namespace, **options)
        finally:
            for node, target in targets.items():
                node.target = target
        for target, token in tokens.items():
            code.src = code.src.replace(f"{root_module}.{token}", _access(root_module, target))
        return code


def _access(root: str, target: str) -> str:
    text = root
    for name in target.split("."):
        text = f"{text}.{name}" if is_plain(name) else f"getattr({text}, {name!r})"
    return text


class AnyNameModule(fx.GraphModule):
    """A ``torch.fx.GraphModule`` that takes any name of a layer; it may be copied and pickled like others."""

    def recompile(self) -> PythonCode:
        if type(self._graph._codegen) is CodeGen:
            self._graph.set_codegen(_AnyNames())
        arguments = {str(node.target) for node in self._graph.nodes if node.op == "placeholder"}
        for node in self._graph.nodes:
            if node.name == "self":  # a variable of the code that would hide the module
                node._rename("self_")
            while node.name in arguments and (node.op, node.target) != ("placeholder", node.name):  # ``input_1`` is what torch calls ``input``
                node._rename(f"{node.name}_here")
        return super().recompile()

    def __reduce__(self) -> tuple[Any, ...]:
        (_, arguments) = super().__reduce__()
        return (_restored, (*arguments, type(self).__mro__[1]))  # torch makes a class for every instance, below the one that is meant


def _restored(body: dict[str, Any], import_block: str, kind: type[AnyNameModule]) -> fx.GraphModule:
    """``torch.fx.graph_module.reduce_graph_module``, for this class and those below it."""
    forward: Callable[..., Any] = torch_graph_module._forward_from_src(import_block + body["_code"], {})
    found: fx.GraphModule = torch_graph_module._deserialize_graph_module(forward, body, graph_module_cls=kind)  # type: ignore[assignment]
    return found
