"""Who makes and who reads each tensor of an ONNX graph, its constants as arrays, and the layers that have weights."""

from __future__ import annotations

import copy
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime.errors import ComputationError

LAYERS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class Layer:
    """A convolution or matrix product with constant weights.

    weights: name of the constant. axis: its dimension of output channels. bias: the node that adds it and the place
    among that node's inputs, or None. channels: the dimension of channels in the layer's output.
    """

    node: Any
    weights: str
    axis: int
    bias: tuple[Any, int] | None
    channels: int

    @property
    def name(self) -> str:
        """Name of the node."""
        return str(self.node.name)


class Wiring:
    """A copy of a model: each node has a name of its own, each layer weights of its own, constants are initializers."""

    def __init__(self, model: Any) -> None:
        self.model = copy.deepcopy(model)
        self._name_nodes()
        self._constants_to_initializers()
        self.refresh()
        self._own_weights()

    def refresh(self) -> None:
        """Look at the graph again after nodes were added, removed or rewired."""
        graph = self.model.graph
        self.nodes = {node.name: node for node in graph.node}
        self.makers = {output: node for node in graph.node for output in node.output}
        self.readers: dict[str, list[Any]] = defaultdict(list)
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                self.readers[name].append(node)
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.outputs = {output.name for output in graph.output}
        found = (self._layer(node) for node in graph.node if node.op_type in LAYERS)
        self._layers = {layer.name: layer for layer in found if layer is not None}

    @cached_property
    def floats(self) -> set[str]:
        """The tensors of the graph that hold floats, as far as shape inference knows them."""
        import onnx

        graph = onnx.shape_inference.infer_shapes(self.model).graph
        kinds = {info.name: info.type.tensor_type.elem_type for info in (*graph.value_info, *graph.output)}
        return {name for name, kind in kinds.items() if kind == onnx.TensorProto.FLOAT}

    def constant(self, name: str) -> NDArray[Any] | None:
        """The values of a constant, or None when the tensor is none."""
        import onnx

        return onnx.numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def set_constant(self, node: Any, place: int, values: NDArray[Any]) -> None:
        """Give one input of one node other values; a constant that other nodes read too is left to them."""
        import onnx

        name = node.input[place]
        shared = name not in self.constants or len(self.readers[name]) > 1 or list(node.input).count(name) > 1
        if not shared:
            self.constants[name].CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))
            return
        own = f"{node.name}:{place}"
        self.model.graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(values), own))
        node.input[place] = own
        self.refresh()

    def only_reader(self, name: str) -> Any | None:
        """The one node that reads a tensor; None when there are several or the tensor leaves the graph."""
        readers = self.readers[name]
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def bypass(self, node: Any) -> None:
        """Remove a node: who reads its output reads its first input instead."""
        source, output = node.input[0], node.output[0]
        if output in self.outputs:
            self.makers[source].output[0] = output
            source, output = output, source
        for reader in self.readers[output]:
            reader.input[:] = [source if name == output else name for name in reader.input]
        self.model.graph.node.remove(node)
        self.refresh()

    def layers(self) -> list[Layer]:
        """The layers with constant weights, in the graph's order."""
        return list(self._layers.values())

    def layer(self, node: Any) -> Layer | None:
        """The layer that a node is, or None."""
        return self._layers.get(node.name)

    def weights(self, layer: Layer) -> NDArray[np.float32]:
        """A layer's weights with the output channels first; a view, (outputs, ...)."""
        values = self.constant(layer.weights)
        assert values is not None
        return np.moveaxis(values, layer.axis, 0)

    def set_weights(self, layer: Layer, values: NDArray[np.float32]) -> None:
        """Give a layer other weights, (outputs, ...)."""
        self.set_constant(layer.node, 1, np.moveaxis(values, 0, layer.axis).astype(np.float32))

    def bias(self, layer: Layer) -> NDArray[np.float32]:
        """A layer's bias (outputs,); zeros where it has none."""
        values = self.constant(layer.bias[0].input[layer.bias[1]]) if layer.bias else None
        return np.zeros(len(self.weights(layer)), np.float32) if values is None else values

    def set_bias(self, layer: Layer, values: NDArray[np.float32]) -> None:
        """Give a layer another bias (outputs,); a convolution or Gemm without one gets one."""
        node, place = layer.bias or (layer.node, 2)
        if layer.bias is None:
            if node.op_type == "MatMul":
                raise ComputationError(f"node '{node.name}' has no bias that could take a correction")
            node.input[:] = [*node.input[:2], ""]
        self.set_constant(node, place, values)

    def _layer(self, node: Any) -> Layer | None:
        """A Gemm with factors or a transposed input is none, nor is a layer whose bias is no constant per channel."""
        values = self.constant(node.input[1])
        if values is None or values.ndim < 2 or node.input[0] in self.constants:
            return None
        if node.op_type == "MatMul":
            return Layer(node, node.input[1], values.ndim - 1, self._added(node, values.shape[-1]), -1)
        plain = [attribute(node, name, usual) == usual for name, usual in (("alpha", 1), ("beta", 1), ("transA", 0))]
        axis = 1 if node.op_type == "Gemm" and not attribute(node, "transB", 0) else 0
        biased = len(node.input) > 2 and node.input[2] != ""
        if not all(plain) or (biased and not self._is_bias(node.input[2], values.shape[axis])):
            return None
        return Layer(node, node.input[1], axis, (node, 2) if biased else None, 1)

    def _is_bias(self, name: str, channels: int) -> bool:
        values = self.constant(name)
        return values is not None and values.shape == (channels,)

    def _added(self, node: Any, channels: int) -> tuple[Any, int] | None:
        """The bias that is added to a matrix product."""
        add = self.only_reader(node.output[0])
        if add is None or add.op_type != "Add":
            return None
        place = 1 - list(add.input).index(node.output[0])
        return (add, place) if self._is_bias(add.input[place], channels) else None

    def _own_weights(self) -> None:
        """Passes change the weights of one layer at a time, also where the exporter made one constant of equal ones."""
        for layer in self.layers():
            if len(self.readers[layer.weights]) > 1:
                self.set_weights(layer, self.weights(layer))

    def _name_nodes(self) -> None:
        seen: set[str] = set()
        for index, node in enumerate(self.model.graph.node):
            if not node.name or node.name in seen:
                node.name = f"{node.op_type}_{index}"
            seen.add(node.name)

    def _constants_to_initializers(self) -> None:
        graph = self.model.graph
        for node in [each for each in graph.node if each.op_type == "Constant"]:
            value = attribute(node, "value", None)
            if value is None:
                raise ComputationError(
                    f"node '{node.name}' holds a constant that is no tensor; export it with opset 17"
                )
            graph.initializer.append(value)
            graph.initializer[-1].name = node.output[0]
            graph.node.remove(node)


def attribute(node: Any, name: str, default: Any) -> Any:
    """The value of a node's attribute."""
    import onnx

    found = next((each for each in node.attribute if each.name == name), None)
    return default if found is None else onnx.helper.get_attribute_value(found)
