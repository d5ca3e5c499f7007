"""The Q/DQ writer: a float32 graph and the grids of its tensors become an int8 file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv_export import fp16
from edgecv_export.dialects import Dialect, Grid
from edgecv_export.wiring import Wiring
from edgecv_runtime import onnxfile
from edgecv_runtime.errors import ComputationError

# Operators whose float weights ONNX Runtime's optimizer WeightBiasQuantization makes int8, one step for all channels,
# when they stand between a DequantizeLinear and a QuantizeLinear: what was left in float would not run in float.
_REQUANTIZED = ("Conv", "ConvTranspose", "Gemm")


def write(wiring: Wiring, nodes: list[Any], grids: Mapping[str, Grid], dialect: Dialect) -> bytes:
    """Write Q/DQ pairs on activations and int8 constants with DQ for weights.

    nodes: those that compute in int8; grids: of the activations where Q/DQ stands and of the constants that those nodes
    read, by tensor name. Every reader of such an activation reads it dequantized. Raises ComputationError when the
    result is not valid ONNX, or does not go into half precision where the dialect wants that.
    """
    import onnx

    return _Writer(wiring, grids, dialect).written([node.name for node in nodes], onnx)


class _Writer:
    def __init__(self, wiring: Wiring, grids: Mapping[str, Grid], dialect: Dialect) -> None:
        self._wiring = Wiring(wiring.model)
        self._grids = grids
        self._dialect = dialect
        self._added: list[Any] = []

    def written(self, names: list[str], onnx: Any) -> bytes:
        graph = self._wiring.model.graph
        for name in names:
            node = self._wiring.nodes[name]
            if self._dialect.quantized_bias:
                self._quantize_bias(node)
            for place, source in enumerate(node.input):
                if source in self._wiring.constants and source in self._grids:
                    node.input[place] = self._constant(source)
        pairs = {name: self._pair(name) for name in self._wiring.makers if name in self._grids}
        inside = set(names)
        for node in graph.node:
            apart = node.op_type in _REQUANTIZED and node.name not in inside and node.input[0] in pairs
            node.input[:] = [pairs.get(name, name) for name in node.input]
            if apart and self._dialect.islands == "float32":
                node.input[0] = self._node("Sum", [node.input[0]], f"{node.name}:apart")
        graph.node.extend(self._added)
        _sort(graph)
        self._drop_unread()
        try:
            onnx.checker.check_model(self._wiring.model, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
            raise ComputationError(f"the quantized graph is not valid: {str(exc).strip().splitlines()[0]}") from exc
        if self._dialect.islands == "fp16":
            self._wiring.model.metadata_props.add(key=onnxfile.ISLANDS, value="fp16")
            return fp16.converted(self._wiring.model)
        content: bytes = self._wiring.model.SerializeToString()
        return content

    def _pair(self, name: str) -> str:
        """Q and DQ behind an activation; gives the name of the dequantized tensor."""
        grid = self._grids[name]
        parameters = self._parameters(name, grid.scale, grid.zero_point)
        self._node("QuantizeLinear", [name, *parameters], f"{name}:quantized")
        return self._node("DequantizeLinear", [f"{name}:quantized", *parameters], f"{name}:dequantized")

    def _constant(self, name: str) -> str:
        """An integer constant with DQ, made once."""
        dequantized = f"{name}:dequantized"
        if any(dequantized in node.output for node in self._added):
            return dequantized
        grid = self._grids[name]
        values = self._wiring.constant(name)
        assert values is not None
        return self._dequantized(name, grid.quantize(values), grid.scale, grid.axis)

    def _quantize_bias(self, node: Any) -> None:
        """The bias of a convolution or Gemm as int32, in steps of its input's times its weights'."""
        if node.op_type not in ("Conv", "Gemm") or len(node.input) < 3:
            return
        source, weights = self._grids.get(node.input[0]), self._grids.get(node.input[1])
        values = self._wiring.constant(node.input[2])
        if values is None or source is None or weights is None:
            return
        scale = (source.scale * weights.scale).astype(np.float32)
        integers = np.clip(np.round(values / scale.astype(np.float64)), -(2**31), 2**31 - 1).astype(np.int32)
        node.input[2] = self._dequantized(f"{node.name}:bias", integers, scale, 0 if scale.ndim else None)

    def _dequantized(self, name: str, integers: NDArray[Any], scale: NDArray[np.float32], axis: int | None) -> str:
        parameters = self._parameters(name, scale, np.zeros(scale.shape, integers.dtype))
        self._initializer(f"{name}:quantized", integers)
        return self._node("DequantizeLinear", [f"{name}:quantized", *parameters], f"{name}:dequantized", axis)

    def _parameters(self, name: str, scale: NDArray[np.float32], zero_point: NDArray[Any]) -> list[str]:
        self._initializer(f"{name}:scale", scale)
        self._initializer(f"{name}:zero_point", zero_point)
        return [f"{name}:scale", f"{name}:zero_point"]

    def _initializer(self, name: str, values: NDArray[Any]) -> None:
        import onnx

        self._wiring.model.graph.initializer.append(
            onnx.numpy_helper.from_array(np.ascontiguousarray(values).reshape(np.shape(values)), name)
        )

    def _node(self, kind: str, inputs: list[str], output: str, axis: int | None = None) -> str:
        import onnx

        attributes = {} if axis is None else {"axis": axis}
        self._added.append(onnx.helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def _drop_unread(self) -> None:
        graph = self._wiring.model.graph
        read = {name for node in graph.node for name in node.input}
        for tensor in [each for each in graph.initializer if each.name not in read]:
            graph.initializer.remove(tensor)


def _sort(graph: Any) -> None:
    """Put the nodes in an order in which every tensor is made before it is read."""
    made = {each.name for each in graph.initializer} | {each.name for each in graph.input} | {""}
    waiting = list(graph.node)
    ordered: list[Any] = []
    while waiting:
        ready = [node for node in waiting if made.issuperset(node.input)]
        if not ready:
            raise ComputationError("the quantized graph has a cycle")
        ordered += ready
        made.update(name for node in ready for name in node.output)
        names = {id(node) for node in ready}
        waiting = [node for node in waiting if id(node) not in names]
    copies = [type(node).FromString(node.SerializeToString()) for node in ordered]
    del graph.node[:]
    graph.node.extend(copies)
