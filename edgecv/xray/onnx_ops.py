"""ONNX's operators in the terms of the common graph: what each is, costs, and depends on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgecv.xray import moves
from edgecv.xray.convolution import conv_facts, pool_facts
from edgecv.xray.extent import Shape
from edgecv.xray.onnx_nodes import File, Node
from edgecv.xray.relations import Pair

Facts = dict[str, Any]

_ACTIVATIONS = {
    "Relu", "LeakyRelu", "PRelu", "Sigmoid", "HardSigmoid", "Tanh", "Gelu", "Silu", "HardSwish", "Clip", "Elu", "Selu",
    "Celu", "Softplus", "Softsign", "Mish", "Erf", "ThresholdedRelu", "FastGelu", "QuickGelu", "BiasGelu", "Swish",
}  # fmt: skip
_MULTIPLY = {
    "Mul",
    "Div",
    "Pow",
    "Sqrt",
    "Exp",
    "Log",
    "Neg",
    "Abs",
    "Reciprocal",
    "Sin",
    "Cos",
    "Floor",
    "Ceil",
    "Round",
}
_ADD = {"Add", "Sub", "Sum", "Max", "Min", "Mean", "Where", "Equal", "Greater", "Less", "GreaterOrEqual",
        "LessOrEqual", "And", "Or", "Not", "Xor", "Mod"}  # fmt: skip
_REDUCE = {"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare",
           "ReduceLogSumExp", "ReduceLogSum", "ArgMax", "ArgMin"}  # fmt: skip
NOTHING_DONE = {"Identity", "Dropout"}


@dataclass(frozen=True)
class Call:
    """One node with the shapes around it."""

    node: Node
    file: File

    def shape(self, index: int = 0) -> Shape:
        """Shape of an input, a constant's too."""
        name = self.node.inputs[index]
        constant = self.file.constants.get(name)
        return constant.shape if constant is not None else self.file.shapes[name]

    @property
    def output(self) -> Shape:
        return self.file.shapes[self.node.outputs[0]]

    def has(self, index: int) -> bool:
        """Whether an input is given."""
        return len(self.node.inputs) > index and bool(self.node.inputs[index])

    def is_constant(self, index: int) -> bool:
        return self.node.inputs[index] in self.file.constants

    def numbers(self, attribute: str, index: int | None = None) -> list[int] | None:
        """Whole numbers from an attribute or, in later opsets, from an input; None when neither is there or known."""
        if attribute in self.node.attributes:
            value = self.node.attributes[attribute]
            return [int(each) for each in (value if isinstance(value, list | tuple) else [value])]
        values = self.file.values(self.node.inputs[index]) if index is not None and self.has(index) else None
        return None if values is None else [int(each) for each in np.asarray(values).reshape(-1)]

    def axis(self, default: int = 0) -> int:
        return int(self.node.attributes.get("axis", default)) % max(1, len(self.shape()))


def describe(node: Node, file: File) -> Facts:
    """The fields of a layer that an operator decides: kind, macs, kernel, stride, ..., move."""
    return _TABLE.get(node.op, _OTHER)(Call(node, file))


def _windows(call: Call, kernel: Shape) -> tuple[Shape, list[Pair], Shape]:
    """Stride, padding and dilation of a convolution or pooling; `auto_pad` is worked out."""
    axes = len(kernel)
    stride = tuple(call.numbers("strides") or [1] * axes)
    dilation = tuple(call.numbers("dilations") or [1] * axes)
    mode = call.node.attributes.get("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        pairs = []
        for axis in range(axes):
            size, span = call.shape()[2 + axis], dilation[axis] * (kernel[axis] - 1) + 1
            total = max(0, (-(-size // stride[axis]) - 1) * stride[axis] + span - size)
            small = total // 2
            pairs.append((small, total - small) if mode == "SAME_UPPER" else (total - small, small))
        return stride, pairs, dilation
    pads = call.numbers("pads") or [0] * (2 * axes)
    return stride, list(zip(pads[:axes], pads[axes:], strict=True)), dilation


def _conv(call: Call) -> Facts:
    weight = call.shape(1)
    stride, padding, dilation = _windows(call, weight[2:])
    return conv_facts(
        call.shape(), call.output, weight, stride, padding, dilation,
        groups=int(call.node.attributes.get("group", 1)), bias=call.has(2), transposed=call.node.op == "ConvTranspose",
    )  # fmt: skip


def _quantized_conv(call: Call) -> Facts:
    weight = call.shape(3)
    stride, padding, dilation = _windows(call, weight[2:])
    groups = int(call.node.attributes.get("group", 1))
    return conv_facts(call.shape(), call.output, weight, stride, padding, dilation, groups=groups, bias=call.has(8))


def _pool(call: Call) -> Facts:
    kernel = tuple(call.numbers("kernel_shape") or ())
    return pool_facts(len(call.shape()), kernel, *_windows(call, kernel))


def _global_pool(call: Call) -> Facts:
    return {"kind": "global pool", "move": moves.Mix(tuple(range(2, len(call.shape()))))}


def _gemm(call: Call) -> Facts:
    inner = call.shape()[0 if call.node.attributes.get("transA") else 1]
    outputs = call.output[-1]
    return {
        "kind": "linear" if call.is_constant(1) else "matmul", "macs": math.prod(call.output) * inner,
        "channels": (inner, outputs), "bias": call.has(2), "move": _product(call, 0, 1),
    }  # fmt: skip


def _matmul(call: Call) -> Facts:
    second = {"QLinearMatMul": 3}.get(call.node.op, 1)
    inner = call.shape()[-1]
    facts: Facts = {"kind": "matmul", "macs": math.prod(call.output) * inner, "move": _product(call, 0, second)}
    if call.is_constant(second) and len(call.shape(second)) == 2:
        facts |= {"kind": "linear", "channels": (inner, call.output[-1]), "bias": call.has(2) and second == 1}
    return facts


def _product(call: Call, first: int, second: int) -> moves.Move:
    if call.is_constant(second):
        return moves.MultiplyConstant(-1)
    return moves.MultiplyConstant(-2) if call.is_constant(first) else moves.Multiply()


def _batch_norm(call: Call) -> Facts:
    return {"kind": "norm", "channels": (call.shape(1)[0],) * 2}


def _layer_norm(call: Call) -> Facts:
    axis = call.axis(-1)
    return {
        "kind": "norm",
        "channels": (call.shape()[-1],) * 2,
        "move": moves.Mix(tuple(range(axis, len(call.shape())))),
    }


def _instance_norm(call: Call) -> Facts:
    return {"kind": "norm", "channels": (call.shape()[1],) * 2, "move": moves.Mix(tuple(range(1, len(call.shape()))))}


def _across(default: int) -> Callable[[Call], Facts]:
    """A norm over one axis: LRN's window of channels (Krizhevsky et al. 2012, section 3.3), LpNormalization's own."""
    return lambda call: {"kind": "norm", "move": moves.Mix((call.axis(default),))}


def _standardization(call: Call) -> Facts:
    axes = call.numbers("axes") or [0, 2, 3]
    return {"kind": "norm", "move": moves.Mix(tuple(axis % len(call.shape()) for axis in axes))}


def _softmax(call: Call) -> Facts:
    return {"kind": "softmax", "move": moves.Mix((call.axis(-1),))}


def _reduce(call: Call) -> Facts:
    rank = len(call.shape())
    axes = call.numbers("axis") if call.node.op.startswith("Arg") else call.numbers("axes", 1)
    chosen = tuple(sorted(axis % rank for axis in axes)) if axes else tuple(range(rank))
    kind = "global pool" if call.node.op == "ReduceMean" and rank > 2 and chosen == tuple(range(2, rank)) else "reduce"
    return {"kind": kind, "move": moves.Mix(chosen, keep=len(call.output) == rank)}


def _transpose(call: Call) -> Facts:
    order = call.numbers("perm") or list(range(len(call.shape())))[::-1]
    return {"kind": "transpose", "move": moves.Permute(tuple(order))}


def _slice(call: Call) -> Facts:
    starts, ends = call.numbers("starts", 1), call.numbers("ends", 2)
    axes = call.numbers("axes", 3) or list(range(len(starts or [])))
    steps = call.numbers("steps", 4) or [1] * len(axes)
    if starts is None or ends is None:
        return {"kind": "slice", "move": moves.Unknown()}
    picks = []
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = call.shape()[axis]
        picks.append(moves.Pick(axis % len(call.shape()), tuple(range(size)[slice(start, end, step)]), step))
    return {"kind": "slice", "move": picks[0] if len(picks) == 1 else moves.Chain(tuple(picks))}


def _split(call: Call) -> Facts:
    axis = call.axis()
    return {"kind": "slice", "move": moves.Pick(axis, tuple(range(call.output[axis])))}


def _gather(call: Call) -> Facts:
    axis = call.axis()
    indices = call.file.values(call.node.inputs[1])
    if call.is_constant(0):
        return {"kind": "embedding", "move": moves.Unknown()}
    if indices is not None and indices.ndim == 0:
        return {"kind": "slice", "move": moves.Take(axis, int(indices))}
    if indices is not None and indices.ndim == 1:
        size = call.shape()[axis]
        return {"kind": "slice", "move": moves.Pick(axis, tuple(int(each) % size for each in indices))}
    return {"kind": "slice", "move": moves.Unknown()}


def _concat(call: Call) -> Facts:
    axis = int(call.node.attributes.get("axis", 0)) % len(call.output)
    names = range(len(call.node.inputs))
    constant = tuple(call.is_constant(index) for index in names)
    return {"kind": "concat", "move": moves.Concat(axis, constant, tuple(call.shape(index)[axis] for index in names))}


def _pad(call: Call) -> Facts:
    pads = call.numbers("pads", 1)
    axes = call.numbers("axes", 3)
    if pads is None:
        return {"kind": "pad", "move": moves.Unknown()}
    before = [0] * len(call.shape())
    for axis, value in zip(axes or range(len(before)), pads, strict=False):
        before[axis] = value
    return {"kind": "pad", "move": moves.Pad(tuple(before))}


def _roll(call: Call) -> Facts:
    axis, shift = call.node.attributes["axis"], call.node.attributes["shift"]
    return {"kind": "slice", "move": moves.Roll((axis,), (shift,))}


def _resize(call: Call) -> Facts:
    attributes = call.node.attributes
    taps = {"nearest": 1, "linear": 2, "cubic": 4}.get(attributes.get("mode", "nearest"), 4)
    places = attributes.get(
        "coordinate_transformation_mode", "asymmetric" if call.node.op == "Upsample" else "half_pixel"
    )
    axes = tuple(range(2, len(call.shape())))
    move = moves.Resample(axes, taps, half_pixel="half_pixel" in places, corners=places == "align_corners")
    return {"kind": "resize", "move": move}


def _depth_to_space(call: Call) -> Facts:
    block = int(call.node.attributes["blocksize"])
    if call.node.op == "DepthToSpace":
        return {"kind": "reshape", "move": moves.Repeat((2, 3), block)}
    return {"kind": "reshape", "move": moves.Slide((2, 3), (block,) * 2, (block,) * 2, (0, 0), (1, 1))}


def _kind(kind: str, move: type[moves.Move] = moves.Move) -> Callable[[Call], Facts]:
    return lambda _: {"kind": kind, "move": move()}


_OTHER = _kind("other", moves.Unknown)

_TABLE: dict[str, Callable[[Call], Facts]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "FusedConv", "ConvInteger"), _conv),
    "QLinearConv": _quantized_conv,
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool"), _pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"), _global_pool),
    **dict.fromkeys(("Gemm", "FusedGemm"), _gemm),
    **dict.fromkeys(("MatMul", "FusedMatMul", "MatMulInteger", "QLinearMatMul"), _matmul),
    "BatchNormalization": _batch_norm,
    **dict.fromkeys(("LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization"), _layer_norm),
    **dict.fromkeys(("InstanceNormalization", "GroupNormalization"), _instance_norm),
    "LRN": _across(1),
    "LpNormalization": _across(-1),
    "MeanVarianceNormalization": _standardization,
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _softmax),
    **dict.fromkeys(_REDUCE, _reduce),
    "Transpose": _transpose,
    "Slice": _slice,
    "Split": _split,
    "Gather": _gather,
    "Concat": _concat,
    "Pad": _pad,
    "Roll": _roll,
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), _depth_to_space),
    **dict.fromkeys(_ACTIVATIONS, _kind("activation")),
    **dict.fromkeys(_MULTIPLY, _kind("multiply")),
    **dict.fromkeys(_ADD, _kind("add")),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _kind("reshape", moves.Reshape)),
    "Expand": _kind("reshape"),
    **dict.fromkeys(("Cast", "CastLike"), _kind("cast")),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"), _kind("quantize")),
}  # fmt: skip
