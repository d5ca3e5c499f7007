"""ONNX operators of opset 17 on PyTorch tensors, as far as networks here use them; all of them have gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from edgecv_runtime.errors import BadInput

Inputs = list[Any]  # tensors, or None where an optional input is left out
Attributes = Mapping[str, Any]
Operator = Callable[[Inputs, Attributes], Tensor]


def _conv(inputs: Inputs, given: Attributes) -> Tensor:
    x, weights, *bias = inputs
    top, left, bottom, right = given.get("pads", (0, 0, 0, 0))
    even = (top, left) == (bottom, right)
    return F.conv2d(
        x if even else F.pad(x, (left, right, top, bottom)),
        weights,
        bias[0] if bias else None,
        stride=tuple(given.get("strides", (1, 1))),
        padding=(top, left) if even else 0,
        dilation=tuple(given.get("dilations", (1, 1))),
        groups=given.get("group", 1),
    )


def _conv_transpose(inputs: Inputs, given: Attributes) -> Tensor:
    x, weights, *bias = inputs
    top, left, bottom, right = given.get("pads", (0, 0, 0, 0))
    if (top, left) != (bottom, right) or "output_shape" in given:
        raise BadInput("a transposed convolution with uneven padding or a shape of its own cannot be trained through")
    return F.conv_transpose2d(
        x,
        weights,
        bias[0] if bias else None,
        stride=tuple(given.get("strides", (1, 1))),
        padding=(top, left),
        output_padding=tuple(given.get("output_padding", (0, 0))),
        groups=given.get("group", 1),
        dilation=tuple(given.get("dilations", (1, 1))),
    )


def _resize(inputs: Inputs, given: Attributes) -> Tensor:
    x, _, scales, sizes = (*inputs, None, None)[:4]
    if sizes is not None:
        size = [int(each) for each in sizes[2:]]
    else:
        size = [int(side * scale) for side, scale in zip(x.shape[2:], scales[2:].tolist(), strict=True)]
    mode, how = (
        given.get("mode", b"nearest").decode(),
        given.get("coordinate_transformation_mode", b"half_pixel").decode(),
    )
    rounded = given.get("nearest_mode", b"round_prefer_floor").decode()
    if (mode, how, rounded) == ("nearest", "asymmetric", "floor"):
        return F.interpolate(x, size, mode="nearest")
    if mode == "linear" and how in ("half_pixel", "pytorch_half_pixel") and min(size) > 1:
        return F.interpolate(x, size, mode="bilinear", align_corners=False)
    raise BadInput(f"a Resize by '{mode}' with '{how}' cannot be trained through")


def _expand(inputs: Inputs, _: Attributes) -> Tensor:
    x, shape = inputs[0], inputs[1].tolist()
    return x * torch.ones(shape, dtype=x.dtype, device=x.device)  # lengths of 1 on either side are stretched


def _gemm(inputs: Inputs, given: Attributes) -> Tensor:
    left = inputs[0].T if given.get("transA", 0) else inputs[0]
    right = inputs[1].T if given.get("transB", 0) else inputs[1]
    product: Tensor = given.get("alpha", 1.0) * (left @ right)
    return product + given.get("beta", 1.0) * inputs[2] if len(inputs) == 3 else product


def _clip(inputs: Inputs, _: Attributes) -> Tensor:
    low, high = (*inputs[1:], None, None)[:2]
    return torch.clamp(inputs[0], low, high)


def _hard_sigmoid(inputs: Inputs, given: Attributes) -> Tensor:
    return (inputs[0] * given.get("alpha", 0.2) + given.get("beta", 0.5)).clamp(0, 1)


def _hard_swish(inputs: Inputs, _: Attributes) -> Tensor:
    return inputs[0] * (inputs[0] / 6 + 0.5).clamp(0, 1)


def _layer_norm(inputs: Inputs, given: Attributes) -> Tensor:
    x, scale, *bias = inputs
    return F.layer_norm(
        x, x.shape[given.get("axis", -1) :], scale, bias[0] if bias else None, given.get("epsilon", 1e-5)
    )


def _batch_norm(inputs: Inputs, given: Attributes) -> Tensor:
    x, scale, bias, mean, variance = inputs
    return F.batch_norm(x, mean, variance, scale, bias, eps=given.get("epsilon", 1e-5))


def _reduce_mean(inputs: Inputs, given: Attributes) -> Tensor:
    mean: Tensor = inputs[0].mean(tuple(given["axes"]), keepdim=bool(given.get("keepdims", 1)))
    return mean


def _padding(given: Attributes) -> tuple[int, int]:
    """Of a pooling, which PyTorch pads by the same on opposite sides."""
    top, left, bottom, right = given.get("pads", (0, 0, 0, 0))
    if (top, left) != (bottom, right):
        raise BadInput(f"a pooling padded by {top}, {left}, {bottom}, {right} cannot be trained through")
    return top, left


def _max_pool(inputs: Inputs, given: Attributes) -> Tensor:
    pooled: Tensor = F.max_pool2d(
        inputs[0],
        tuple(given["kernel_shape"]),
        tuple(given.get("strides", (1, 1))),
        _padding(given),
        tuple(given.get("dilations", (1, 1))),
        ceil_mode=bool(given.get("ceil_mode", 0)),
    )
    return pooled


def _average_pool(inputs: Inputs, given: Attributes) -> Tensor:
    return F.avg_pool2d(
        inputs[0],
        tuple(given["kernel_shape"]),
        tuple(given.get("strides", (1, 1))),
        _padding(given),
        ceil_mode=bool(given.get("ceil_mode", 0)),
        count_include_pad=bool(given.get("count_include_pad", 0)),
    )


def _reshape(inputs: Inputs, _: Attributes) -> Tensor:
    x, shape = inputs[0], inputs[1].tolist()
    reshaped: Tensor = x.reshape([x.shape[axis] if length == 0 else length for axis, length in enumerate(shape)])
    return reshaped


def _flatten(inputs: Inputs, given: Attributes) -> Tensor:
    x, axis = inputs[0], given.get("axis", 1)
    flat: Tensor = x.reshape(x.shape[:axis].numel(), -1)
    return flat


def _squeeze(inputs: Inputs, _: Attributes) -> Tensor:
    squeezed: Tensor = inputs[0].squeeze(tuple(inputs[1].tolist()) if len(inputs) > 1 else ())
    return squeezed


def _unsqueeze(inputs: Inputs, _: Attributes) -> Tensor:
    x, axes = inputs[0], inputs[1].tolist()
    for axis in sorted(each % (x.ndim + len(axes)) for each in axes):
        x = x.unsqueeze(axis)
    return x


def _gather(inputs: Inputs, given: Attributes) -> Tensor:
    x, indices = inputs
    axis = given.get("axis", 0) % x.ndim
    picked = x.index_select(axis, (indices.flatten() % x.shape[axis]))
    gathered: Tensor = picked.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    return gathered


def _slice(inputs: Inputs, _: Attributes) -> Tensor:
    x, starts, ends = inputs[0], inputs[1].tolist(), inputs[2].tolist()
    axes = inputs[3].tolist() if len(inputs) > 3 else list(range(len(starts)))
    steps = inputs[4].tolist() if len(inputs) > 4 else [1] * len(starts)
    places = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        places[axis] = slice(start, end, step)
    cut: Tensor = x[tuple(places)]
    return cut


def _pad(inputs: Inputs, given: Attributes) -> Tensor:
    x, pads = inputs[0], inputs[1].tolist()
    value = float(inputs[2]) if len(inputs) > 2 and inputs[2] is not None else 0.0
    pairs = [side for axis in reversed(range(x.ndim)) for side in (pads[axis], pads[axis + x.ndim])]
    return F.pad(x, pairs, given.get("mode", b"constant").decode(), value)


OPERATORS: dict[str, Operator] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": lambda inputs, _: inputs[0] @ inputs[1],
    "Add": lambda inputs, _: inputs[0] + inputs[1],
    "Sub": lambda inputs, _: inputs[0] - inputs[1],
    "Mul": lambda inputs, _: inputs[0] * inputs[1],
    "Div": lambda inputs, _: inputs[0] / inputs[1],
    "Pow": lambda inputs, _: inputs[0] ** inputs[1],
    "Sqrt": lambda inputs, _: inputs[0].sqrt(),
    "Relu": lambda inputs, _: F.relu(inputs[0]),
    "Clip": _clip,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Sigmoid": lambda inputs, _: inputs[0].sigmoid(),
    "Tanh": lambda inputs, _: inputs[0].tanh(),
    "Erf": lambda inputs, _: inputs[0].erf(),
    "Softmax": lambda inputs, given: inputs[0].softmax(given.get("axis", -1)),
    "LayerNormalization": _layer_norm,
    "BatchNormalization": _batch_norm,
    "ReduceMean": _reduce_mean,
    "GlobalAveragePool": lambda inputs, _: inputs[0].mean((2, 3), keepdim=True),
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "Resize": _resize,
    "Shape": lambda inputs, _: torch.tensor(inputs[0].shape),
    "Expand": _expand,
    "Reshape": _reshape,
    "Transpose": lambda inputs, given: inputs[0].permute(given["perm"]),
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": lambda inputs, given: torch.cat(inputs, given["axis"]),
    "Pad": _pad,
    "Identity": lambda inputs, _: inputs[0],
}
