"""The one description of a network that every analysis works on, whichever reader made it.

Layers stand in the order in which they run, at batch 1. What depends on weights alone is folded away, as a compiler
does: the layer that uses the result carries the parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from edgecv.xray.extent import Shape
from edgecv.xray.moves import Move
from edgecv.xray.relations import Pair

# What a layer does, in the field's words; the readers use no other.
KINDS = (
    "conv",
    "depthwise conv",
    "pointwise conv",
    "transposed conv",
    "linear",
    "matmul",
    "attention",
    "pool",
    "global pool",
    "norm",
    "activation",
    "softmax",
    "add",
    "multiply",
    "concat",
    "resize",
    "pad",
    "reshape",
    "transpose",
    "slice",
    "reduce",
    "embedding",
    "cast",
    "quantize",
    "other",
)
CONVOLUTIONS = KINDS[:4]
WEIGHTED = KINDS[:5]  # with weights that they multiply by
MOVEMENTS = ("reshape", "transpose", "slice", "pad", "cast")  # that compute nothing


@dataclass(frozen=True)
class Tensor:
    """An activation: its shape at batch 1 and its stored type."""

    name: str
    shape: Shape
    dtype: str
    item_bytes: int

    @property
    def bytes(self) -> int:
        """Bytes of the whole tensor."""
        return math.prod(self.shape) * self.item_bytes


@dataclass(frozen=True)
class Layer:
    """One operation on activations.

    name: module path or node name. kind: one of KINDS. op: the reader's own name of it. inputs, outputs: names of
    activations; constants are not among them. kernel, stride, padding (before, after), dilation: one number per
    spatial axis, in places. channels: (in, out) of layers with weights. bias: whether such a layer adds one.
    parameters: learned numbers that no layer before it uses. weight_bytes: bytes of all stored numbers that it reads
    first, running statistics included. move: how its output depends on places of its inputs.
    """

    name: str
    kind: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    macs: int = 0
    parameters: int = 0
    weight_bytes: int = 0
    kernel: Shape = ()
    stride: Shape = ()
    padding: tuple[Pair, ...] = ()
    dilation: Shape = ()
    groups: int = 1
    channels: tuple[int, int] = (0, 0)
    bias: bool = False
    move: Move = field(default_factory=Move, repr=False)


@dataclass(frozen=True)
class Graph:
    """A network as read.

    name: of the model or file. source: "torch" or "onnx". inputs: their names. outputs: names of the tensors that the
    network gives. tensors: every activation by name. idle_parameters: of layers that inference never runs.
    """

    name: str
    source: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tensors: dict[str, Tensor]
    layers: tuple[Layer, ...]
    idle_parameters: int = 0

    def input_of(self, layer: Layer) -> Tensor:
        """A layer's first activation."""
        return self.tensors[layer.inputs[0]]

    def output_of(self, layer: Layer) -> Tensor:
        """What a layer gives; the first, of several."""
        return self.tensors[layer.outputs[0]]
