"""The fp16 dialect: half precision baked into the graph; the input stays uint8, the outputs stay float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgecv_export.wiring import Wiring, attribute
from edgecv_runtime.errors import ComputationError

LARGEST = 65504.0


def converted(path: Path) -> bytes:
    """A float32 file in half precision.

    Constants are rounded to half precision, but for the scales of a Resize, and the first cast gives it; one cast
    before each output gives float32 back.
    Raises ComputationError when a weight is too large for half precision, or an operator does not take it.
    """
    import onnx

    wiring = Wiring(onnx.load(path))
    graph = wiring.model.graph
    scales = {name for node in graph.node if node.op_type == "Resize" for name in node.input[2:3]}
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and tensor.name not in scales:
            tensor.CopyFrom(_half(onnx.numpy_helper.to_array(tensor), tensor.name))
    for node in graph.node:
        if node.op_type == "Cast" and attribute(node, "to", 0) == onnx.TensorProto.FLOAT:
            del node.attribute[:]
            node.attribute.append(onnx.helper.make_attribute("to", onnx.TensorProto.FLOAT16))
    for output in graph.output:
        inner = f"{output.name}:half"
        maker = wiring.makers[output.name]
        maker.output[:] = [inner if name == output.name else name for name in maker.output]
        for reader in wiring.readers[output.name]:
            reader.input[:] = [inner if name == output.name else name for name in reader.input]
        graph.node.append(onnx.helper.make_node("Cast", [inner], [output.name], name=inner, to=onnx.TensorProto.FLOAT))
    del graph.value_info[:]
    try:
        onnx.checker.check_model(wiring.model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
        reason = " ".join(str(exc).split())
        raise ComputationError(f"the model cannot be converted to half precision: {reason}") from exc
    content: bytes = wiring.model.SerializeToString()
    return content


def _half(values: np.ndarray, name: str) -> Any:
    import onnx

    if np.abs(values).max(initial=0) > LARGEST:
        raise ComputationError(
            f"constant '{name}' reaches {np.abs(values).max():.3g}, half precision ends at {LARGEST:g}"
        )
    return onnx.numpy_helper.from_array(np.ascontiguousarray(values.astype(np.float16)).reshape(values.shape), name)
