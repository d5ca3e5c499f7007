"""Look inside a graph: every intermediate tensor, and the first node at which two computations of it differ."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from numpy.typing import NDArray

from edgecv_runtime import onnxgraph, telemetry
from edgecv_runtime.backends import Tensors
from edgecv_runtime.errors import BackendUnavailable
from edgecv_runtime.onnxgraph import Node
from edgecv_runtime.target import Target
from edgecv_runtime.verify.score import relative_error

# A node's error is its own when it goes beyond this. Float32 rounding stays below a hundredth of it; a quantized tensor
# may move by a step or two of 255, and may be some tenths off when it is compared with float.
FLOAT_ERROR, STEP_ERROR, QUANTIZED_ERROR = 1e-3, 0.1, 0.3

Inside = dict[str, NDArray[Any]]


def tensors(model: bytes, feeds: Tensors) -> Inside:
    """Every float tensor of a graph and its outputs by name, from the reference executor.

    That is ONNX Runtime with its optimizations off.

    Raises BackendUnavailable when ONNX Runtime is not installed.
    """
    try:
        onnxruntime = telemetry.onnxruntime()
    except ImportError as exc:
        raise BackendUnavailable("the reference executor is not installed", extra="onnxruntime") from exc
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        onnxgraph.exposing(model, _inner(model)), settings, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, dict(feeds)), strict=True))
    outputs = onnxgraph.read(model).outputs
    return {name: values for name, values in found.items() if values.dtype.kind == "f" or name in outputs}


def compiled_tensors(target: Target, model: bytes, feeds: Tensors) -> Inside:
    """The same from a backend that compiles the graph with all of its tensors as outputs.

    Of a graph whose batch is fixed, `feeds` are as many frames as it takes: not every tensor has a row for each.
    """
    plain = msgspec.structs.replace(target, rows=0)
    return {
        name: values
        for name, values in compiled(plain, onnxgraph.exposing(model, _inner(model)), feeds).items()
        if values.dtype.kind == "f"
    }


def compiled(target: Target, model: bytes, feeds: Tensors) -> Inside:
    """Outputs of a model that is compiled as the target's own is, from a file that its backend has never seen."""
    with tempfile.TemporaryDirectory(prefix="edgecv-") as folder:
        file = Path(folder) / f"{Path(folder).name}.onnx"
        file.write_bytes(model)
        backend = msgspec.structs.replace(target, file=file, sha256="").compile()
        try:
            return backend.run(feeds)
        finally:
            backend.close()


def first_difference(model: bytes, wanted: Mapping[str, NDArray[Any]], got: Inside, allowed: float) -> Node | None:
    """The first node, in the order of the graph, whose output is off by more than `allowed` (relative_error)."""
    for node in onnxgraph.read(model).nodes:
        for name in node.outputs:
            if name in wanted and name in got and relative_error(wanted[name], got[name]) > allowed:
                return node
    return None


def against_float(model: bytes, float_tensors: Inside, quantized: Inside) -> Node | None:
    """The first node of a quantized graph that is far from the float graph's, or the one that loses most.

    Tensors are matched by name; a dequantized activation is matched with the tensor that was quantized.
    """
    worst, node_of_worst = 0.0, None
    same: dict[str, str] = {}
    for node in onnxgraph.read(model).nodes:
        for name in node.outputs:
            same[name] = name
            if node.operator in ("QuantizeLinear", "DequantizeLinear") and node.inputs[0] in same:
                same[name] = same[node.inputs[0]]
            if same[name] not in float_tensors or name not in quantized:
                continue
            error = relative_error(float_tensors[same[name]], quantized[name])
            if error > QUANTIZED_ERROR:
                return node
            if error > worst:
                worst, node_of_worst = error, node
    return node_of_worst


def _inner(model: bytes) -> list[str]:
    """The tensors that nodes make, but for those that are outputs already."""
    graph = onnxgraph.read(model)
    return [name for node in graph.nodes for name in node.outputs if name and name not in graph.outputs]
