"""Run a graph node by node, in float and on the grids of an int8 file side by side, in one walk.

It tells what each layer loses when everything before it is quantized, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv_export.dialects import Grid
from edgecv_export.interface import INPUT
from edgecv_export.wiring import Layer, Wiring
from edgecv_runtime import telemetry
from edgecv_runtime.preprocess import Image

Values = NDArray[Any]


@dataclass(frozen=True)
class Pair:
    """A layer as the walk meets it: its outputs in float and on the grids."""

    layer: Layer
    wanted: Values
    got: Values


class Lockstep:
    """One walk over a graph. nodes: those that compute in int8; grids: of activations and weights, by tensor name.

    The float side is `original`, or `wiring` itself.
    """

    def __init__(
        self, wiring: Wiring, nodes: list[Any], grids: Mapping[str, Grid], original: Wiring | None = None
    ) -> None:
        self._wiring = wiring
        self._original = original or wiring
        self._quantized = {node.name for node in nodes}
        self._grids = grids
        self._sessions: dict[str, Any] = {}

    def walk(
        self, images: Image, visit: Callable[[Pair], None] = lambda _: None
    ) -> tuple[dict[str, Values], dict[str, Values]]:
        """Run images (N, H, W, C) through both -> float and quantized outputs of the network, by name.

        visit: sees each quantized layer in turn.
        """
        exact: dict[str, Values] = {INPUT: np.ascontiguousarray(images)}
        moved = dict(exact)
        nodes = self._original.model.graph.node
        left = Counter(name for node in nodes for name in set(node.input))
        for node in nodes:
            wanted = self._run(self._feeds(self._original, node, exact), node)
            got = wanted if self._untouched(node, exact, moved) else self._moved(node, moved)
            layer = self._wiring.layer(node)
            if layer is not None and node.name in self._quantized:
                visit(Pair(layer, wanted[0], got[0]))
            for name, value, near in zip(node.output, wanted, got, strict=True):
                exact[name] = value
                moved[name] = self._grids[name].fake(near) if name in self._grids else near
            for name in set(node.input):
                left[name] -= 1
                if not left[name] and name not in self._wiring.outputs:
                    exact.pop(name, None)
                    moved.pop(name, None)
        outputs = self._wiring.outputs
        return {name: exact[name] for name in outputs}, {name: moved[name] for name in outputs}

    def _untouched(self, node: Any, exact: dict[str, Values], moved: dict[str, Values]) -> bool:
        """Whether nothing before a node was quantized, nor the node itself."""
        same = all(exact.get(name) is moved.get(name) for name in node.input)
        return same and node.name not in self._quantized

    def _moved(self, node: Any, values: dict[str, Values]) -> list[Values]:
        """A node on the quantized side; the weights of a layer that computes in int8 lie on their grid."""
        own = self._wiring.nodes[node.name]
        feeds = self._feeds(self._wiring, own, values)
        if node.name in self._quantized:
            feeds = [
                self._grids[name].fake(value) if name in self._wiring.constants and name in self._grids else value
                for name, value in zip((name for name in own.input if name), feeds, strict=True)
            ]
        return self._run(feeds, node)

    def _feeds(self, wiring: Wiring, node: Any, values: dict[str, Values]) -> list[Values]:
        found = []
        for name in node.input:
            constant = wiring.constant(name)
            if name:
                found.append(values[name] if constant is None else constant)
        return found

    def _run(self, feeds: list[Values], node: Any) -> list[Values]:
        session = self._sessions.get(node.name)
        if session is None:
            session = self._sessions[node.name] = self._session(node, feeds)
        outputs: list[Values] = session.run(None, {f"in{index}": value for index, value in enumerate(feeds)})
        return outputs

    def _session(self, node: Any, feeds: list[Values]) -> Any:
        """A model of one node, whose constants are inputs too."""
        import onnx

        model = self._original.model
        inputs = [
            onnx.helper.make_tensor_value_info(
                f"in{index}", onnx.helper.np_dtype_to_tensor_dtype(value.dtype), _shape(value)
            )
            for index, value in enumerate(feeds)
        ]
        places = iter(inputs)
        alone = type(node).FromString(node.SerializeToString())
        alone.input[:] = [next(places).name if name else "" for name in node.input]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
        graph = onnx.helper.make_graph([alone], "node", inputs, outputs)
        single = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
        onnxruntime = telemetry.onnxruntime()
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")  # hundreds of sessions wait at once
        return onnxruntime.InferenceSession(single.SerializeToString(), settings, providers=["CPUExecutionProvider"])


def _shape(value: Values) -> list[int | None]:
    """Of an input, where any size may change; not the length of a list of sizes, which onnx takes for 0 when open."""
    return [len(value)] if value.ndim == 1 and value.dtype.kind == "i" else [None] * value.ndim
