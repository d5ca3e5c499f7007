"""Read any ONNX file: shapes by ONNX's own inference at batch 1, operators in the terms of the common graph.

Weights in external files are never read. What depends on weights or shapes alone is folded away. Q/DQ pairs disappear
into the stored types of the tensors, and what exporters write as several nodes is read as one (onnx_fuse).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgecv.xray.extent import Shape
from edgecv.xray.graph import Graph, Layer, Tensor
from edgecv.xray.onnx_fuse import fuse
from edgecv.xray.onnx_nodes import Constant, File, Node, item_bytes, load
from edgecv.xray.onnx_ops import NOTHING_DONE, describe
from edgecv_runtime.errors import ShapeError

# Inputs that are settings, not weights, though they may be floating-point: operator -> the first of them.
_SETTINGS = {
    "Resize": 1,
    "Upsample": 1,
    "Clip": 1,
    "Pad": 1,
    "Expand": 1,
    "Reshape": 1,
    "Dropout": 1,
    "QuantizeLinear": 1,
}
_STATISTICS = {"BatchNormalization": (3, 4), "QLinearConv": (1, 2, 4, 5, 6, 7), "QLinearMatMul": (1, 2, 4, 5, 6, 7)}
# Operators of a normalization that stands in the graph before the network proper.
_PREPARING = {"Cast", "Transpose", "Mul", "Add", "Sub", "Div", "Reshape", "Unsqueeze", "Squeeze", "QuantizeLinear"}


def read(
    path: str | Path, *, input_shapes: Mapping[str, Sequence[int]] | None = None, size: Shape | None = None
) -> Graph:
    """Read an ONNX file as a graph.

    input_shapes: whole shapes of inputs, by name, and size: (height, width) or (length,), bind what the file leaves
    open; an open batch is 1. Raises ModelFileError when it is no ONNX file, BadInput when a shape stays open.
    """
    file = load(path, input_shapes=input_shapes, size=size)
    fuse(file)
    return _Reader(file, str(path)).graph(Path(path).name)


def layer_name(name: str) -> str:
    """The module path in a node's name, as far as PyTorch's exporter wrote one; other names stay.

    >>> layer_name("/network/features/features.1/block/block.0/Conv")
    'features.1.block.0.Conv'
    """
    if not name.startswith("/"):
        return name
    parts = [part for part in name.split("/") if part]
    parts = parts[1:] if parts[0] == "network" and len(parts) > 1 else parts
    return ".".join(
        part for part, inner in zip(parts, [*parts[1:], ""], strict=True) if not inner.startswith(f"{part}.")
    )


class _Reader:
    def __init__(self, file: File, where: str) -> None:
        self.file, self.where = file, where
        self.tensors: dict[str, Tensor] = {}
        self.layers: list[Layer] = []
        self._same: dict[str, str] = {}  # what an operator without effect gives -> what it was given
        self._seen: set[str] = set()
        self._raw = set(file.inputs)  # tensors that are still the prepared input
        self._taken: dict[str, int] = {}

    def graph(self, name: str) -> Graph:
        for each in self.file.inputs:
            self._tensor(each, "the caller")
        for node in self.file.nodes:
            self._add(node)
        outputs = tuple(self._same.get(each, each) for each in self.file.outputs)
        given = tuple(each for each in outputs if each in self.tensors)
        return Graph(name, "onnx", tuple(self.file.inputs), given, self.tensors, tuple(self.layers))

    def _add(self, node: Node) -> None:
        node.inputs = [self._same.get(name, name) for name in node.inputs]
        active = tuple(name for name in node.inputs if name in self.tensors)
        if node.op in NOTHING_DONE:
            self._same[node.outputs[0]] = node.inputs[0]
            return
        outputs = tuple(name for name in node.outputs if name)
        for name in outputs:
            self._tensor(name, node.op)
        if not active:  # RandomNormal and the like
            return
        prepares = node.op in _PREPARING and set(active) <= self._raw
        if prepares:
            self._raw.update(outputs)
        parameters, weight_bytes = self._weights(node, learned=not prepares)
        facts = describe(node, self.file)
        name = self._free(layer_name(node.name))
        self.layers.append(
            Layer(
                name=name,
                op=node.op,
                inputs=active,
                outputs=outputs,
                parameters=parameters,
                weight_bytes=weight_bytes,
                **facts,
            )
        )

    def _tensor(self, name: str, maker: str) -> None:
        shape = self.file.shapes.get(name)
        if shape is None and name in self.file.others:
            raise ShapeError(
                f"{self.where}: '{name}', which {maker} gives, is {self.file.others[name]}: only tensors have rows here"
            )
        if shape is None:
            raise ShapeError(
                f"{self.where}: the shape of '{name}', which {maker} gives, stays open: ONNX's inference cannot "
                "tell it for this input; give another with --size or --input-shape, or save the file with its shapes"
            )
        if min(shape, default=1) < 1:
            raise ShapeError(f"{self.where}: nothing is left at '{name}', which {maker} gives: the input is too small")
        dtype = self.file.dtypes.get(name, "float32")
        self.tensors[name] = Tensor(name, shape, dtype, math.ceil(item_bytes(dtype)))

    def _weights(self, node: Node, *, learned: bool) -> tuple[int, int]:
        """Parameters and bytes of the stored tensors that no node before has read."""
        parameters, size = 0, 0.0
        for index, name in enumerate(node.inputs):
            constant = self.file.constants.get(name)
            if constant is None:
                continue
            fresh = constant.stored - self._seen
            self._seen |= fresh
            stored = [self.file.constants[each] for each in fresh]
            size += sum(math.prod(each.shape) * each.item_bytes for each in stored)
            is_setting = index >= _SETTINGS.get(node.op, len(node.inputs)) or index in _STATISTICS.get(node.op, ())
            if learned and not is_setting and fresh:
                parameters += self._learned(node, name, constant, stored)
        return parameters, round(size)

    def _learned(self, node: Node, name: str, constant: Constant, stored: Sequence[Constant]) -> int:
        """Numbers of the largest stored tensor behind a constant: beside quantized weights lie their scales.

        Shapes, axes and indices are none: whole numbers of 64 bits, or of 32 that are not dequantized as a bias is.
        """
        largest = max(stored, key=lambda each: math.prod(each.shape))
        plain = name in constant.stored and not node.op.startswith("QLinear")
        if largest.dtype in ("int64", "uint64", "bool", "string") or (largest.dtype in ("int32", "uint32") and plain):
            return 0
        count = math.prod(largest.shape)
        return count if count > 1 or constant.dtype != "float32" else 0

    def _free(self, name: str) -> str:
        self._taken[name] = count = self._taken.get(name, 0) + 1
        return name if count == 1 else f"{name}#{count}"
