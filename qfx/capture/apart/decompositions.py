"""Operations that qfx takes apart, in torch's own words: what stands here runs in place of torch's function while a model is recorded, so that rules
see its parts. Written so that the batch stays the first axis and the order of operations, with the Casts that rules put behind them, is fixed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qfx.capture.apart import ranked
from qfx.capture.apart.native import OF_ATEN
from qfx.capture.refusals.apart import NotTakenApartError


def _refused(what: str, remedy: str) -> NotTakenApartError:
    return NotTakenApartError(what, remedy=remedy)


def _chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    size = -(-input.shape[dim] // chunks)
    return _split(input, size, dim)


def _split(tensor: Tensor, split_size_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    total, sizes = tensor.shape[dim], split_size_or_sections
    if isinstance(sizes, int):
        sizes = [min(sizes, total - start) for start in range(0, total, sizes)]
    starts = [sum(sizes[:place]) for place in range(len(sizes))]
    return tuple(tensor[_at(dim % tensor.dim(), slice(start, start + size))] for start, size in zip(starts, sizes, strict=True))


def _tensor_split(input: Tensor, indices_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    total, places = input.shape[dim], indices_or_sections
    if isinstance(places, int):
        short, longer = divmod(total, places)
        return _split(input, [short + (place < longer) for place in range(places)], dim)
    ends = [*places, total]
    return _split(input, [end - start for start, end in zip([0, *places], ends, strict=True)], dim)


def _unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    return tuple(input[_at(dim % input.dim(), place)] for place in range(input.shape[dim]))


def _slice(input: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Tensor:
    if slice(start, end, step).indices(input.shape[dim]) == (0, input.shape[dim], 1):
        return input
    return input[_at(dim % input.dim(), slice(start, end, step))]


def _index(input: Tensor, indices: Sequence[Tensor | None]) -> Tensor:
    """ATen's form of an index by lists."""
    return input[tuple(slice(None) if index is None else index for index in indices)]


def _narrow(input: Tensor, dim: int, start: int, length: int) -> Tensor:
    return _slice(input, dim, start, start + length)


def _at(dim: int, part: Any) -> tuple[Any, ...]:
    return (*(slice(None),) * dim, part)


def _stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    return torch.cat([tensor.unsqueeze(dim) for tensor in tensors], dim)


def _extreme(name: str) -> Callable[..., Any]:
    """The largest or the least of an axis, with its place, or of two values."""

    def extreme(input: Tensor, dim: Any = None, keepdim: bool = False, other: Tensor | None = None) -> Any:
        other = dim if isinstance(dim, Tensor) else other
        if other is not None:
            return getattr(torch, f"{name}imum")(input, other)
        if dim is None:
            return getattr(torch, f"a{name}")(input)
        values = getattr(torch, f"a{name}")(input, dim, keepdim)
        kind: Any = getattr(torch.return_types, name)
        return kind((values, getattr(torch, f"arg{name}")(input, dim, keepdim)))

    return extreme


def _full_like(input: Tensor, fill_value: float, *, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
    """A constant: it does not depend on the value, whose shape alone is asked."""
    return torch.full(tuple(input.shape), fill_value, dtype=dtype or input.dtype, device=input.device)


def _new_full(input: Tensor, size: Sequence[int], fill_value: float, *, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
    return torch.full(tuple(size), fill_value, dtype=dtype or input.dtype, device=input.device)


def _like(value: float) -> Callable[..., Tensor]:
    def like(input: Tensor, **options: Any) -> Tensor:
        return _full_like(input, value, **options)

    return like


def _new(value: float) -> Callable[..., Tensor]:
    def new(input: Tensor, *size: Any, **options: Any) -> Tensor:
        sizes = size[0] if size and not isinstance(size[0], int) else size or options.pop("size")
        return _new_full(input, sizes, value, **options)

    return new


def _topk(input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    return torch.return_types.topk((ranked.topk(input, k, dim, largest), ranked.argtopk(input, k, dim, largest)))


def _sort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    count = input.shape[dim]
    return torch.return_types.sort((ranked.topk(input, count, dim, descending), ranked.argtopk(input, count, dim, descending)))


def _argsort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Tensor:
    return ranked.argtopk(input, input.shape[dim], dim, descending)


def _kthvalue(input: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    """The k-th least, of numbers that come in order."""
    values, places = (_slice(function(input, k, dim, False), dim, k - 1, k) for function in (ranked.topk, ranked.argtopk))
    return torch.return_types.kthvalue((values, places) if keepdim else (values.squeeze(dim), places.squeeze(dim)))


def _median(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The lower of the two in the middle, as torch has it."""
    if dim is None:
        raise _refused("takes the median over all axes, the batch included", "name an axis other than the batch: dim=...")
    return _kthvalue(input, (input.shape[dim] + 1) // 2, dim, keepdim)


def _glu(input: Tensor, dim: int = -1) -> Tensor:
    """``F.glu`` and its module: the first half times the sigmoid of the second."""
    first, second = _chunk(input, 2, dim)
    return first * torch.sigmoid(second)


def _softmax(input: Tensor, dim: int, dtype: torch.dtype | None = None, *_: Any) -> Tensor:
    """exp(x - max) over the sum of these: nothing overflows, and the sum is exact."""
    powers = torch.exp(input - torch.amax(input, dim, True))
    return powers * torch.reciprocal(powers.sum(dim, keepdim=True))


def _log_softmax(input: Tensor, dim: int, dtype: torch.dtype | None = None, *_: Any) -> Tensor:
    shifted = input - torch.amax(input, dim, True)
    return shifted - torch.log(torch.exp(shifted).sum(dim, keepdim=True))


def _logsumexp(input: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    largest = torch.amax(input, dim, True)
    found = torch.log(torch.exp(input - largest).sum(dim, keepdim=True)) + largest
    return found if keepdim else found.squeeze(dim)


def _normalized(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    """(x - mean) / sqrt(var + eps) over ``dims``: difference, square, mean and inverse root, each cast once."""
    centred = x - x.mean(dims, keepdim=True)
    return centred * torch.rsqrt((centred * centred).mean(dims, keepdim=True) + eps)


def _scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _layer_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5, *_: Any, **__: Any
) -> Tensor:
    dims = tuple(range(input.dim() - len(normalized_shape), input.dim()))
    return _scaled(_normalized(input, dims, eps), weight, bias)


def _rms_norm(input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    dims = tuple(range(input.dim() - len(normalized_shape), input.dim()))
    eps = torch.finfo(torch.float32).eps if eps is None else eps
    return _scaled(input * torch.rsqrt((input * input).mean(dims, keepdim=True) + eps), weight, None)


def _group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5, *_: Any, **__: Any
) -> Tensor:
    grouped = input.reshape(input.shape[0], num_groups, -1)
    return _scaled(_normalized(grouped, (2,), eps).reshape(input.shape), _along_channels(weight, input), _along_channels(bias, input))


def _instance_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    *_: Any,
    **__: Any,
) -> Tensor:
    if not use_input_stats:
        return _batch_norm(input, weight, bias, running_mean, running_var, False, momentum, eps)
    normal = _normalized(input, tuple(range(2, input.dim())), eps)
    return _scaled(normal, _along_channels(weight, input), _along_channels(bias, input))


def _batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    *_: Any,
    **__: Any,
) -> Tensor:
    """With statistics that stand: one factor and one addend a channel."""
    if training or running_mean is None or running_var is None:
        normal = _normalized(input, (0, *range(2, input.dim())), eps)  # mixes samples: refused where it is read
        return _scaled(normal, _along_channels(weight, input), _along_channels(bias, input))
    factor = torch.rsqrt(running_var + eps) if weight is None else weight * torch.rsqrt(running_var + eps)
    addend = -running_mean * factor if bias is None else bias - running_mean * factor
    return _scaled(input, _along_channels(factor, input), _along_channels(addend, input))


def _along_channels(constant: Tensor | None, x: Tensor) -> Tensor | None:
    return None if constant is None else constant.reshape(-1, *(1,) * (x.dim() - 2))


def _norm(input: Tensor, p: Any = 2, dim: Any = None, keepdim: bool = False, *_: Any, **__: Any) -> Tensor:
    """The Euclidean length or the sum of magnitudes."""
    p = 2 if p == "fro" else p
    if dim is None or p not in (1, 2):
        raise _refused(f"takes a norm with p={p} over {'all axes' if dim is None else dim}", "use p=1 or p=2, and name the axes: dim=...")
    return input.abs().sum(dim, keepdim) if p == 1 else torch.sqrt((input * input).sum(dim, keepdim))


def _linalg_vector_norm(x: Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, **_: Any) -> Tensor:
    return _norm(x, ord, dim, keepdim)


def _div(input: Tensor | float, other: Tensor | float, *, rounding_mode: str | None = None) -> Any:
    if rounding_mode is not None:
        raise _refused("divides and rounds to integers", "leave rounding_mode off: the cast behind it rounds")
    return input * (torch.reciprocal(other) if isinstance(other, Tensor) else 1.0 / other)


def _var(input: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: int | None = None) -> Tensor:
    dims = tuple(range(1, input.dim())) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    centred = input - input.mean(dims, keepdim=True)
    count = math.prod(input.shape[axis] for axis in dims)
    rest = count - (int(unbiased) if correction is None else correction)
    return (centred * centred).sum(dims, keepdim=keepdim) * (1.0 / rest)


def _std(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return torch.sqrt(_var(input, *args, **kwargs))


def _addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    return input + (tensor1 * tensor2 if value == 1 else tensor1 * tensor2 * value)


def _addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    return input + (tensor1 / tensor2 if value == 1 else tensor1 / tensor2 * value)


def _lerp(input: Tensor, end: Tensor, weight: Any) -> Tensor:
    result: Tensor = input + (end - input) * weight
    return result


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(q k^T * scale + mask) v."""
    if enable_gqa or dropout_p:
        raise _refused("attends with grouped queries or with dropout", "leave enable_gqa off, and pass dropout_p=0.0 at inference")
    scores = torch.matmul(query * (query.shape[-1] ** -0.5 if scale is None else scale), key.transpose(-2, -1))
    return torch.matmul(_softmax(_masked(scores, attn_mask, is_causal), -1), value)


FAR_BELOW = -64.0
"""What is added to a score that is not to be seen: its power is nothing in any word of 32 bits beside one that is seen."""


def _masked(scores: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is None:
        return scores
    return scores + (torch.where(mask, 0.0, FAR_BELOW) if mask.dtype == torch.bool else mask.clamp(min=FAR_BELOW))


def _added(mask: Tensor) -> Tensor:
    """What is added to scores for a mask of ``nn.MultiheadAttention``, in which True hides."""
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise _refused("has a MultiheadAttention with a mask of integers", "give it what hides as bits: mask != 0")
    return torch.where(mask, FAR_BELOW, 0.0) if mask.dtype == torch.bool else mask.clamp(min=FAR_BELOW)


def _prod(input: Tensor, dim: int | None = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Tensor:
    """One factor after the other, each product cast."""
    if dim is None or input.shape[dim] > _FACTORS:
        many = "all axes, the batch included" if dim is None else f"{input.shape[dim]} numbers"
        raise _refused(f"takes the product of {many}", f"name an axis of at most {_FACTORS} numbers: dim=...")
    first, *others = (_slice(input, dim, place, place + 1) for place in range(input.shape[dim]))
    for other in others:
        first = first * other
    return first if keepdim else first.squeeze(dim)


_FACTORS = 8
"""The most factors of a product that is taken apart."""


def _multihead(
    module: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """``nn.MultiheadAttention``, batch first within; what is hidden, also by what the input is compared with, gets a score far below."""
    if query.dim() != 3 or module.bias_k is not None or module.add_zero_attn:
        raise _refused(
            "has a MultiheadAttention with add_bias_kv or add_zero_attn, or of values without a batch",
            "make it without these, and give it values of three axes",
        )
    if not module.batch_first:
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    size, heads = module.embed_dim, module.num_heads
    if module.in_proj_weight is None:
        weights = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    else:
        weights = tuple(module.in_proj_weight[place * size : (place + 1) * size] for place in range(3))
    biases = (None,) * 3 if module.in_proj_bias is None else tuple(module.in_proj_bias[place * size : (place + 1) * size] for place in range(3))
    parts = [F.linear(x, weight, bias) for x, weight, bias in zip((query, key, value), weights, biases, strict=True)]
    q, k, v = (part.view(part.shape[0], part.shape[1], heads, size // heads).transpose(1, 2) for part in parts)
    scores = torch.matmul(q * (size // heads) ** -0.5, k.transpose(-2, -1))
    if attn_mask is None and is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    masks = [] if attn_mask is None else [_added(attn_mask if attn_mask.dim() == 2 else attn_mask.view(-1, heads, *attn_mask.shape[1:]))]
    if key_padding_mask is not None:
        masks.append(_added(key_padding_mask)[:, None, None, :])
    if masks:
        scores = scores + (masks[0] if len(masks) == 1 else (masks[0] + masks[1]).clamp(min=FAR_BELOW))
    seen = _softmax(scores, -1)
    mixed = torch.matmul(seen, v).transpose(1, 2).reshape(query.shape[0], query.shape[1], size)
    result = F.linear(mixed, module.out_proj.weight, module.out_proj.bias)
    result = result if module.batch_first else result.transpose(0, 1)
    if not need_weights:
        return result, None
    return result, seen.mean(1) if average_attn_weights else seen


def _pad(input: Tensor, pad: Sequence[int], value: float = 0.0) -> Tensor:
    return F.pad(input, list(pad), value=value)


def _maxima(input: Tensor, kernel_size: Any, *geometry: Any) -> tuple[Tensor, None]:
    return (F.max_pool2d if input.dim() == 4 else F.max_pool3d)(input, kernel_size, *geometry), None


def _unpool(*_: Any, **__: Any) -> Tensor:
    raise _refused("undoes a pooling by the places of its maxima", "train with nn.Upsample(scale_factor=2) or nn.ConvTranspose2d")


def _upsample(mode: str) -> Callable[..., Tensor]:
    """ATen's names for what people write as ``F.interpolate``."""

    linear = mode.endswith("linear")

    def upsample(input: Tensor, output_size: Any = None, *rest: Any, **options: Any) -> Tensor:
        corners = (rest[0] if rest else options.get("align_corners")) if linear else None
        given = rest[1:] if linear else rest
        named = [options[name] for name in ("scale_factors", "scales", "scales_d", "scales_h", "scales_w") if name in options]
        factors = [*(given or named)]
        if len(factors) == 1 and isinstance(factors[0], list | tuple):
            factors = list(factors[0])
        size = None if output_size is None else list(output_size)
        if factors and None not in factors:  # it is by these that torch finds the places
            by_factors = [math.floor(float(n) * factor) for n, factor in zip(input.shape[2:], factors, strict=True)]
            if size is None or size == by_factors:
                return F.interpolate(input, scale_factor=tuple(map(float, factors)), mode=mode, align_corners=corners)
        return F.interpolate(input, size=size, mode=mode, align_corners=corners)

    return upsample


OF_TORCH: Mapping[str, Callable[..., Any]] = MappingProxyType({
    "chunk": _chunk,
    "split": _split,
    "split_with_sizes": _split,
    "unsafe_chunk": _chunk,
    "unsafe_split": _split,
    "tensor_split": _tensor_split,
    "unbind": _unbind,
    "slice": _slice,
    "index": _index,
    "narrow": _narrow,
    "stack": _stack,
    "max": _extreme("max"),
    "min": _extreme("min"),
    "zeros_like": _like(0.0),
    "ones_like": _like(1.0),
    "full_like": _full_like,
    "new_zeros": _new(0.0),
    "new_ones": _new(1.0),
    "new_full": _new_full,
    "prod": _prod,
    "topk": _topk,
    "sort": _sort,
    "argsort": _argsort,
    "kthvalue": _kthvalue,
    "median": _median,
    "glu": _glu,
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    "logsumexp": _logsumexp,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "batch_norm": _batch_norm,
    "norm": _norm,
    "linalg_vector_norm": _linalg_vector_norm,
    "div": _div,
    "truediv": _div,
    "var": _var,
    "std": _std,
    "addcmul": _addcmul,
    "addcdiv": _addcdiv,
    "lerp": _lerp,
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d"), _upsample("nearest")),
    **dict.fromkeys(("_upsample_nearest_exact1d", "_upsample_nearest_exact2d"), _upsample("nearest-exact")),
    **dict.fromkeys(("max_pool2d_with_indices", "max_pool3d_with_indices"), _maxima),
    "_adaptive_avg_pool2d": F.adaptive_avg_pool2d,
    "constant_pad_nd": _pad,
    "upsample_linear1d": _upsample("linear"),
    "upsample_bilinear2d": _upsample("bilinear"),
    **OF_ATEN,
})  # fmt: skip
"""By the name of a function that torch computes in one piece, or of a method; arguments as ATen's. A rule for the whole goes before."""

OF_FUNCTIONS: Mapping[Callable[..., Any], Callable[..., Any]] = MappingProxyType({
    **dict.fromkeys((F.max_unpool1d, F.max_unpool2d, F.max_unpool3d), _unpool),
    torch._nested_tensor_from_mask_left_aligned: lambda *_: False,  # whole sequences, whatever is padded: no decision by data
})  # fmt: skip
"""By the function itself: what would not get so far as the functions that it calls."""

OF_MODULES: Mapping[type[nn.Module], Callable[..., Any]] = MappingProxyType({nn.MultiheadAttention: _multihead})
"""By the class of a layer whose own forward does not keep the batch first."""
