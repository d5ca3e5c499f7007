"""A small ONNX network, written node by node as exporters write it, with `onnx` alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

OPSET, IR = 17, 8
BATCH = "batch"
_POOL = np.random.default_rng(0).standard_normal(1 << 18).astype(np.float32)


class Net:
    """A network that is written node by node; `shape` is that of the tensor `at`, the last one made."""

    def __init__(self, shape: tuple[int, ...], dtype: str = "float32") -> None:
        self.input = self.shape = shape
        self.dtype = dtype
        self.at = "input"
        self._nodes: list[Any] = []
        self._weights: list[Any] = []

    def add(
        self, op: str, *others: str, shape: tuple[int, ...] | None = None, at: str | None = None, **attributes: Any
    ) -> str:
        """One node on the tensor at hand and others; its result is at hand then."""
        from onnx import helper

        name = f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, [at or self.at, *others], [name], name=name, **attributes))
        self.at = name
        self.shape = shape or self.shape
        return name

    def weight(self, *shape: int, scale: float | None = None) -> str:
        """A tensor of random numbers that keep the size of what they multiply."""
        size = math.prod(shape)
        start = 7919 * len(self._weights) % len(_POOL)
        values = np.resize(np.roll(_POOL, start), size).reshape(shape)
        fan = shape[0] if len(shape) == 2 else size // shape[0]
        return self.constant(values * np.float32(scale if scale is not None else fan**-0.5))

    def constant(self, values: NDArray[Any] | np.generic) -> str:
        """A stored tensor."""
        from onnx import numpy_helper

        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(values, name))
        return name

    def conv(self, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: str = "") -> None:
        """A convolution with bias, padded to keep the size at stride 1."""
        _, inputs, height, width = self.shape
        padding = kernel // 2
        places = [(size + 2 * padding - kernel) // stride + 1 for size in (height, width)]
        weight = self.weight(outputs, inputs // groups, kernel, kernel)
        bias = self.weight(outputs, scale=0.1)
        self.add(
            "Conv", weight, bias, shape=(1, outputs, *places), kernel_shape=[kernel] * 2, strides=[stride] * 2,
            pads=[padding] * 4, group=groups,
        )  # fmt: skip
        self.act(act)

    def linear(self, outputs: int, act: str = "") -> None:
        """A linear layer on the last axis, as exporters write it."""
        weight = self.weight(self.shape[-1], outputs)
        bias = self.weight(outputs, scale=0.1)
        if len(self.shape) == 2:
            self.add("Gemm", weight, bias, shape=(*self.shape[:-1], outputs))
        else:
            product = self.add("MatMul", weight, shape=(*self.shape[:-1], outputs))
            self.add("Add", product, at=bias)
        self.act(act)

    def act(self, name: str) -> None:
        """An activation, as exporters write it at this opset."""
        x = self.at
        if name == "relu6":
            self.add("Clip", self.constant(np.float32(0)), self.constant(np.float32(6)))
        elif name == "hardswish":
            self.add("HardSwish")
        elif name == "hardsigmoid":
            self.add("HardSigmoid", alpha=1 / 6, beta=0.5)
        elif name == "silu":
            self.add("Mul", self.add("Sigmoid"), at=x)
        elif name == "gelu":
            self.add("Div", self.constant(np.float32(math.sqrt(2))))
            self.add("Erf")
            self.add("Add", self.constant(np.float32(1)))
            self.add("Mul", self.at, at=x)
            self.add("Mul", self.constant(np.float32(0.5)))
        elif name:
            self.add({"relu": "Relu", "sigmoid": "Sigmoid"}[name])

    def norm(self) -> None:
        """Layer normalization over the last axis."""
        size = self.shape[-1]
        self.add("LayerNormalization", self.weight(size), self.weight(size, scale=0.1), axis=-1, epsilon=1e-6)

    def transpose(self, *order: int) -> None:
        self.add("Transpose", shape=tuple(self.shape[axis] for axis in order), perm=list(order))

    def reshape(self, *shape: int) -> None:
        """A reshape that leaves the first size to the batch."""
        self.add("Reshape", self.constant(np.array((-1, *shape[1:]), np.int64)), shape=shape)

    def shrink(self) -> None:
        """Global average pooling, so that little leaves the network."""
        self.add("GlobalAveragePool", shape=(*self.shape[:2], 1, 1))

    def gate(self, squeezed: int, act: str = "relu", last: str = "hardsigmoid") -> None:
        """Squeeze and excitation."""
        x, shape = self.at, self.shape
        self.shrink()
        self.conv(squeezed, act=act)
        self.conv(shape[1], act=last)
        self.add("Mul", x, shape=shape)

    def attention(self, heads: int, *, biased: bool = False) -> None:
        """Self-attention on (groups, tokens, channels), as exporters write a plain one; biased: by position."""
        count, tokens, width = self.shape
        size = width // heads
        self.linear(3 * width)
        self.reshape(count, tokens, 3, heads, size)
        self.transpose(2, 0, 3, 1, 4)
        stacked = self.at
        q, k, v = (
            self.add(
                "Gather",
                self.constant(np.array(part, np.int64)),
                at=stacked,
                shape=(count, heads, tokens, size),
                axis=0,
            )
            for part in range(3)
        )
        q = self.add("Mul", self.constant(np.float32(size**-0.5)), at=q)
        k = self.add("Transpose", at=k, perm=[0, 1, 3, 2])
        self.add("MatMul", k, at=q, shape=(count, heads, tokens, tokens))
        if biased:
            self.add("Add", self.weight(1, heads, tokens, tokens, scale=0.1))
        self.add("Softmax", axis=-1)
        self.add("MatMul", v, shape=(count, heads, tokens, size))
        self.transpose(0, 2, 1, 3)
        self.reshape(count, tokens, width)
        self.linear(width)

    def pool(self, kernel: int, stride: int) -> None:
        """Maximum over windows."""
        padding = 1 if kernel == 3 else 0
        places = [(size + 2 * padding - kernel) // stride + 1 for size in self.shape[2:]]
        self.add(
            "MaxPool", shape=(*self.shape[:2], *places), kernel_shape=[kernel] * 2, strides=[stride] * 2,
            pads=[padding] * 4,
        )  # fmt: skip

    def concat(self, first: tuple[int, ...]) -> None:
        """Put the tensor at hand and the input side by side; first: shape of the input."""
        self.add("Concat", "input", shape=(1, self.shape[1] + first[1], *first[2:]), axis=1)

    def roll(self, axis: int, shift: int) -> None:
        """A cyclic shift, as exporters write it."""
        x, shape = self.at, self.shape
        size = shape[axis]
        cut = shift % size
        index = [self.constant(np.array([value], np.int64)) for value in (cut, 2**31 - 1, axis, 0)]
        parts = list(shape)
        parts[axis] = size - cut
        end = self.add("Slice", *index[:3], at=x, shape=tuple(parts))
        parts[axis] = cut
        self.add("Slice", index[3], index[0], index[2], at=x, shape=tuple(parts))
        start = self.at
        self.add("Concat", start, at=end, shape=shape, axis=axis)

    def frames(self) -> None:
        """Pixels (1, H, W, C) uint8 to normalized numbers (1, C, H, W)."""
        from onnx import TensorProto

        self.add("Cast", to=TensorProto.FLOAT)
        self.transpose(0, 3, 1, 2)
        channels = self.shape[1]
        self.add("Mul", self.weight(1, channels, 1, 1, scale=0.01))
        self.add("Add", self.weight(1, channels, 1, 1, scale=1.0))

    def model(self) -> bytes:
        """The ONNX file."""
        from onnx import TensorProto, helper

        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            self._nodes,
            "micro",
            [
                value(
                    "input", TensorProto.UINT8 if self.dtype == "uint8" else TensorProto.FLOAT, [BATCH, *self.input[1:]]
                )
            ],
            [value(self.at, TensorProto.FLOAT, [None] * len(self.shape))],
            self._weights,
        )
        opset = helper.make_opsetid("", OPSET)
        content: bytes = helper.make_model(graph, opset_imports=[opset], ir_version=IR).SerializeToString()
        return content
