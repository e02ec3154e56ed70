"""``synchronize``: a quantized model in several processes becomes one model that sees the data of all of them."""

from __future__ import annotations

import os
from typing import Any

import torch.distributed as dist
from torch import nn

from qfx.distributed.ranks import Ranks, other_processes, refuse_shards
from qfx.errors import QfxError
from qfx.nn.layers import Norm
from qfx.nn.model import quantized_parts
from qfx.nn.quantizer import Quantizer

_LISTED = 4


def synchronize(qmodel: nn.Module, group: Any = None) -> None:
    """Let the processes of ``group`` (default: all) train ``qmodel`` as one process would on their batches together; in place, called by all of them.

    Every process then has the parameters, binary points and statistics of the first one; and from here on, until the model is copied or pickled,
    they agree in what follows from data: running statistics of BatchNorms are moved by the batches of all ranks, and the gradient of such a
    BatchNorm is that of the whole batch; ranges that follow activations hold those of all ranks; ``calibrate`` and ``fix_ranges`` take each process'
    part of the data. So these, and a forward in training, are collective: every process runs them, in the same order. Gradients of parameters are
    not averaged here: that is what ``DistributedDataParallel`` does, around the model, before or after this call.

    Nothing happens in a run of one process. ``qmodel``: from ``qfx.quantize``, or a module that holds such ones.

    Raises QfxError where the processes have different models (on all of them alike) or where there should be others but no process group is
    initialized; UnsupportedError for parameters that are sharded already.
    """
    parts = quantized_parts(qmodel)
    if not other_processes():
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not (dist.is_available() and dist.is_initialized()):
            what = "several processes were started, but there is no process group"
            raise QfxError(what, where="synchronize", remedy='call torch.distributed.init_process_group("gloo") first')
        return
    refuse_shards(qmodel, "synchronize", "synchronize before sharding: qfx.fully_shard does both")
    ranks = Ranks(group)
    if ranks.size == 1:
        return
    _compare(ranks.objects([line for part in parts for line in _described(part)]))
    for part in parts:
        for tensor in (*part.parameters(), *part.buffers()):
            ranks.take_first(tensor)
        for layer in part.modules():
            if isinstance(layer, Norm) or (isinstance(layer, Quantizer) and layer.channel_axis):
                layer.ranks = ranks


def fully_shard(qmodel: nn.Module, **options: Any) -> nn.Module:
    """``torch.distributed.fsdp.fully_shard`` of a quantized model, with ``synchronize`` first: each process keeps a part of every weight.

    Binary points and learned word lengths, which are few and mostly scalars, stay whole on every process; their gradients are averaged like the
    others. ``options`` are torch's; what they ignore is ignored besides. Shard before the optimizer is made. A sharded model trains and evaluates;
    it is calibrated before and exported after: take ``get_model_state_dict`` with ``full_state_dict=True`` into a model that is not sharded.

    Returns ``qmodel``. Raises as ``synchronize``, and QfxError where no process group is initialized.
    """
    from torch.distributed import fsdp  # slow to import

    if not (dist.is_available() and dist.is_initialized()):
        raise QfxError("there is no process group", where="fully_shard", remedy='call torch.distributed.init_process_group("gloo") first')
    synchronize(qmodel)
    points = {p for layer in qmodel.modules() if isinstance(layer, Quantizer) for p in layer.parameters(recurse=False)}
    ranks = Ranks()
    for point in qmodel.parameters():  # in an order that all ranks have
        if point in points and point.requires_grad:
            hooked: Any = point
            hooked.register_post_accumulate_grad_hook(ranks.average_gradient)
    ignored = points | set(options.pop("ignored_params", None) or ())
    fsdp.fully_shard(qmodel, ignored_params=ignored, **options)
    return qmodel


def _described(part: nn.Module) -> list[str]:
    """What has to be the same everywhere, besides the numbers that are taken from the first process."""
    lines = [f"{name} {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in (*part.named_parameters(), *part.named_buffers())]
    for name, layer in part.named_modules():
        if isinstance(layer, Quantizer):
            lines.append(f"{name}: {layer.spec}, signed {layer.signed}, gradient times {layer.frac_grad_scale}")
    return lines


def _compare(lines: list[list[str]]) -> None:
    first, *others = lines
    for rank, other in enumerate(others, start=1):
        if other != first:
            theirs = [line for line in other if line not in set(first)]
            mine = [line for line in first if line not in set(other)]
            shown = "; ".join(f"{a} against {b}" for a, b in zip(theirs[:_LISTED], mine[:_LISTED], strict=False))
            raise QfxError(
                f"rank {rank} has another model than rank 0: {shown or 'other layers'}",
                where="synchronize",
                remedy="quantize the same float model by the same recipe and the same example in every process; real data come with qfx.calibrate",
            )
