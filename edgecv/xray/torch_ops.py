"""PyTorch's operations in the terms of the common graph: what each is, costs, and depends on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from edgecv.xray import moves, relations
from edgecv.xray.convolution import conv_facts, pool_facts
from edgecv.xray.extent import Shape

# Operations whose result is their input, in inference.
NOTHING_DONE = {
    "alias", "detach", "dropout", "dropout_", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "contiguous",
    "to", "_to_copy", "lift_fresh", "lift", "clone", "view_as", "reshape_as", "type_as", "float", "identity",
}  # fmt: skip

_ACTIVATIONS = {
    "relu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "sigmoid", "silu", "gelu", "tanh", "elu", "leaky_relu",
    "softplus", "mish", "prelu", "selu", "celu", "clamp", "clamp_min", "clamp_max", "clip", "log_sigmoid", "erf",
    "hardshrink", "softshrink", "threshold", "softsign", "rrelu",
}  # fmt: skip
_MULTIPLY = {"mul", "multiply", "div", "divide", "true_divide", "pow", "sqrt", "rsqrt", "exp", "log", "neg", "abs",
             "square", "reciprocal", "sin", "cos"}  # fmt: skip
_ADD = {
    "add",
    "sub",
    "rsub",
    "subtract",
    "maximum",
    "minimum",
    "where",
    "masked_fill",
    "eq",
    "ne",
    "gt",
    "lt",
    "ge",
    "le",
}
_RESHAPE = {"reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze", "_unsafe_view", "_reshape_alias"}
_REDUCE = {"mean", "sum", "amax", "amin", "max", "min", "prod", "var", "std", "argmax", "argmin", "norm",
           "linalg_vector_norm", "logsumexp", "any", "all"}  # fmt: skip
_INTERPOLATIONS = {
    "nearest1d", "nearest2d", "nearest3d", "nearest_exact1d", "nearest_exact2d", "linear1d", "bilinear2d", "bicubic2d",
    "trilinear3d", "bilinear2d_aa", "bicubic2d_aa",
}  # fmt: skip


# Operations whose result has their input's shape and type: there is no need to run them to know.
SHAPE_KEPT = {
    "batch_norm",
    "layer_norm",
    "relu",
    "hardtanh",
    "hardswish",
    "hardsigmoid",
    "sigmoid",
    "silu",
    "gelu",
    "tanh",
}


@dataclass(frozen=True)
class Call:
    """One call of an operation: its arguments, its results, and which tensors the network's input reaches."""

    op: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: tuple[torch.Tensor, ...]
    active: Callable[[Any], bool]

    def get(self, index: int, name: str, default: Any = None) -> Any:
        """An argument by its place or name."""
        return self.args[index] if len(self.args) > index else self.kwargs.get(name, default)

    @property
    def shape(self) -> Shape:
        return tuple(self.args[0].shape)

    @property
    def output(self) -> Shape:
        return tuple(self.results[0].shape)

    def axis(self, value: int) -> int:
        return value % len(self.shape)


def describe(
    op: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    results: tuple[torch.Tensor, ...],
    active: Callable[[Any], bool],
) -> dict[str, Any]:
    """The fields of a layer that an operation decides: kind, macs, kernel, stride, ..., move."""
    call = Call(op, args, kwargs, results, active)
    plain = op.rstrip("_") if op.rstrip("_") in _TABLE else op
    return _TABLE.get(plain, _OTHER)(call)


def _numbers(value: Any, count: int) -> Shape:
    """One number for each axis, from one number or a list."""
    if isinstance(value, int):
        return (value,) * count
    values = tuple(int(each) for each in value)
    return values * count if len(values) == 1 else values


def _conv(call: Call) -> dict[str, Any]:
    weight, bias = call.args[1], call.get(2, "bias")
    axes = weight.dim() - 2
    padding, dilation = call.get(4, "padding", 0), _numbers(call.get(5, "dilation", 1), axes)
    if isinstance(padding, str):
        spans = [dilation[axis] * (weight.shape[2 + axis] - 1) for axis in range(axes)]
        pairs = [(span // 2, span - span // 2) if padding == "same" else (0, 0) for span in spans]
    else:
        pairs = [(each, each) for each in _numbers(padding, axes)]
    return conv_facts(
        call.shape, call.output, tuple(weight.shape), _numbers(call.get(3, "stride", 1), axes), pairs, dilation,
        groups=call.get(6, "groups", 1), bias=bias is not None,
    )  # fmt: skip


def _conv_transpose(call: Call) -> dict[str, Any]:
    weight = call.args[1]
    axes = weight.dim() - 2
    pairs = [(each, each) for each in _numbers(call.get(4, "padding", 0), axes)]
    return conv_facts(
        call.shape, call.output, tuple(weight.shape), _numbers(call.get(3, "stride", 1), axes), pairs,
        _numbers(call.get(7, "dilation", 1), axes), groups=call.get(6, "groups", 1),
        bias=call.get(2, "bias") is not None, transposed=True,
    )  # fmt: skip


def _pool(call: Call) -> dict[str, Any]:
    axes = int(call.op.rstrip("_")[call.op.index("pool") + 4])
    kernel = _numbers(call.get(1, "kernel_size"), axes)
    stride = _numbers(call.get(2, "stride") or kernel, axes)
    pairs = [(each, each) for each in _numbers(call.get(3, "padding", 0), axes)]
    dilation = _numbers(call.get(4, "dilation", 1), axes) if call.op.startswith("max") else (1,) * axes
    return pool_facts(len(call.shape), kernel, stride, pairs, dilation)


def _adaptive_pool(call: Call) -> dict[str, Any]:
    axes = int(call.op[call.op.index("pool") + 4])
    places = tuple(range(len(call.shape) - axes, len(call.shape)))
    kind = "global pool" if all(call.output[axis] == 1 for axis in places) else "pool"
    return {"kind": kind, "move": moves.Cells(places)}


def _linear(call: Call) -> dict[str, Any]:
    outputs, inputs = call.args[1].shape
    places = math.prod(call.output) // outputs
    return {
        "kind": "linear", "macs": relations.linear_macs(inputs, outputs, places), "channels": (inputs, outputs),
        "bias": call.get(2, "bias") is not None, "move": moves.MultiplyConstant(-1),
    }  # fmt: skip


def _matmul(call: Call) -> dict[str, Any]:
    first, second = (call.args[1], call.args[2]) if call.op in ("addmm", "baddbmm") else call.args[:2]
    inner, output = first.shape[-1], call.output
    macs = math.prod(output) * inner
    if call.active(first) and call.active(second):
        return {"kind": "matmul", "macs": macs, "move": moves.Multiply()}
    move = moves.MultiplyConstant(-1 if call.active(first) else -2)
    is_linear = call.active(first) and second.dim() == 2
    channels = (inner, second.shape[-1]) if is_linear else (0, 0)
    return {"kind": "linear" if is_linear else "matmul", "macs": macs, "channels": channels, "move": move}


def _attention(call: Call) -> dict[str, Any]:
    query, key, value = call.args[:3]
    batch, tokens = math.prod(query.shape[:-2]), query.shape[-2]
    scores = relations.matmul_macs(tokens, query.shape[-1], key.shape[-2], batch)
    mixed = relations.matmul_macs(tokens, key.shape[-2], value.shape[-1], batch)
    return {"kind": "attention", "macs": scores + mixed, "move": moves.Attend()}


def _batch_norm(call: Call) -> dict[str, Any]:
    return {"kind": "norm", "channels": (call.shape[1],) * 2}


def _layer_norm(call: Call) -> dict[str, Any]:
    axes = tuple(range(len(call.shape) - len(call.args[1]), len(call.shape)))
    return {"kind": "norm", "channels": (call.shape[-1],) * 2, "move": moves.Mix(axes)}


def _group_norm(call: Call) -> dict[str, Any]:
    return {"kind": "norm", "channels": (call.shape[1],) * 2, "move": moves.Mix(tuple(range(1, len(call.shape))))}


def _softmax(call: Call) -> dict[str, Any]:
    return {"kind": "softmax", "move": moves.Mix((call.get(1, "dim"),))}


def _reduce(call: Call) -> dict[str, Any]:
    axes = call.get(1, "dim")
    axes = tuple(range(len(call.shape))) if axes is None or axes == [] else axes
    axes = tuple(call.axis(axis) for axis in ((axes,) if isinstance(axes, int) else axes))
    spatial = len(call.shape) > 3 - (len(call.shape) == 3) and axes == tuple(range(2, len(call.shape)))
    kind = "global pool" if call.op == "mean" and spatial else "reduce"
    return {"kind": kind, "move": moves.Mix(axes, keep=len(call.output) == len(call.shape))}


def _transpose(call: Call) -> dict[str, Any]:
    order = list(range(len(call.shape)))
    if call.op == "permute":
        order = [call.axis(axis) for axis in call.args[1]]
    elif len(order) > 1:
        first, second = (call.axis(each) for each in (call.args[1:3] if len(call.args) > 2 else (-2, -1)))
        order[first], order[second] = order[second], order[first]
    return {"kind": "transpose", "move": moves.Permute(tuple(order))}


def _select(call: Call) -> dict[str, Any]:
    return {"kind": "slice", "move": moves.Take(call.axis(call.args[1]), int(call.args[2]))}


def _slice(call: Call) -> dict[str, Any]:
    axis = call.axis(call.get(1, "dim", 0))
    step = call.get(4, "step", 1)
    places = range(call.shape[axis])[slice(call.get(2, "start"), call.get(3, "end"), step)]
    return {"kind": "slice", "move": moves.Pick(axis, tuple(places), step)}


def _narrow(call: Call) -> dict[str, Any]:
    axis, start, length = call.axis(call.args[1]), int(call.args[2]), int(call.args[3])
    return {"kind": "slice", "move": moves.Pick(axis, tuple(range(start, start + length)))}


def _split(call: Call) -> dict[str, Any]:
    """Pieces along an axis: each has the field of its first, which is exact for channels."""
    axis = call.axis(call.get(2, "dim", 0))
    return {"kind": "slice", "move": moves.Pick(axis, tuple(range(call.output[axis])))}


def _unbind(call: Call) -> dict[str, Any]:
    return {"kind": "slice", "move": moves.Take(call.axis(call.get(1, "dim", 0)), 0)}


def _concat(call: Call) -> dict[str, Any]:
    parts = call.args[0]
    axis = call.get(1, "dim", 0) % parts[0].dim()
    constant = tuple(not call.active(part) for part in parts)
    return {"kind": "concat", "move": moves.Concat(axis, constant, tuple(part.shape[axis] for part in parts))}


def _pad(call: Call) -> dict[str, Any]:
    before = [0] * len(call.shape)
    for number, value in enumerate(call.args[1][::2]):  # last axis first
        before[-1 - number] = int(value)
    return {"kind": "pad", "move": moves.Pad(tuple(before))}


def _roll(call: Call) -> dict[str, Any]:
    axes = _numbers(call.get(2, "dims", ()), 1)
    move = moves.Roll(axes, _numbers(call.args[1], len(axes))) if axes else moves.Unknown()
    return {"kind": "slice", "move": move}


def _resize(call: Call) -> dict[str, Any]:
    name = call.op.removeprefix("_")
    axes = tuple(range(2, len(call.shape)))
    taps = 1 if "nearest" in name else 4 if "bicubic" in name else 2
    corners = taps > 1 and bool(call.get(2, "align_corners", False))
    move = moves.Resample(axes, taps, half_pixel=taps > 1 or "exact" in name, corners=corners)
    return {"kind": "resize", "move": moves.Unknown() if name.endswith("_aa") else move}


def _pixel_shuffle(call: Call) -> dict[str, Any]:
    axes = (len(call.shape) - 2, len(call.shape) - 1)
    return {"kind": "reshape", "move": moves.Repeat(axes, int(call.args[1]))}


def _kind(kind: str, move: type[moves.Move] = moves.Move) -> Callable[[Call], dict[str, Any]]:
    return lambda _: {"kind": kind, "move": move()}


_OTHER = _kind("other", moves.Unknown)

_TABLE: dict[str, Callable[[Call], dict[str, Any]]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _conv),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _conv_transpose),
    **{f"{kind}_pool{axes}d": _pool for kind in ("max", "avg") for axes in (1, 2, 3)},
    **{f"max_pool{axes}d_with_indices": _pool for axes in (1, 2, 3)},
    **{f"adaptive_{kind}_pool{axes}d": _adaptive_pool for kind in ("max", "avg") for axes in (1, 2, 3)},
    "linear": _linear,
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "addmm", "baddbmm"), _matmul),
    "scaled_dot_product_attention": _attention,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "rms_norm": _layer_norm,
    **dict.fromkeys(("group_norm", "instance_norm"), _group_norm),
    **dict.fromkeys(("softmax", "_softmax", "log_softmax"), _softmax),
    **dict.fromkeys(_REDUCE, _reduce),
    **dict.fromkeys(("permute", "transpose", "t", "mT", "numpy_T", "swapaxes"), _transpose),
    "select": _select,
    "slice": _slice,
    "narrow": _narrow,
    **dict.fromkeys(("split", "chunk", "split_with_sizes", "tensor_split"), _split),
    "unbind": _unbind,
    **dict.fromkeys(("index", "index_select", "gather"), _kind("slice", moves.Unknown)),
    **dict.fromkeys(("cat", "concat", "concatenate"), _concat),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    "roll": _roll,
    **{f"{prefix}upsample_{mode}": _resize for prefix in ("", "_") for mode in _INTERPOLATIONS},
    "pixel_shuffle": _pixel_shuffle,
    "embedding": _kind("embedding", moves.Unknown),
    **dict.fromkeys(_ACTIVATIONS, _kind("activation")),
    **dict.fromkeys(_MULTIPLY, _kind("multiply")),
    **dict.fromkeys(_ADD, _kind("add")),
    **dict.fromkeys(("expand", "expand_as"), _kind("reshape")),
    **dict.fromkeys(_RESHAPE, _kind("reshape", moves.Reshape)),
    **dict.fromkeys(("to", "_to_copy", "float"), _kind("cast")),
}  # fmt: skip
