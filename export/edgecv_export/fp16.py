"""Half precision baked into a graph, float or with Q/DQ; the input stays uint8, the outputs stay float32."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgecv_export.dialects import LARGEST_HALF
from edgecv_export.wiring import Wiring, attribute
from edgecv_runtime.errors import ComputationError

# The first opset whose QuantizeLinear and DequantizeLinear take float16, and the IR version that came with it.
QDQ_OPSET, QDQ_IR = 19, 9


def converted(model: Any) -> bytes:
    """A float32 onnx.ModelProto in half precision; one with Q/DQ keeps its int8, and what is between is in half.

    Constants are rounded to half precision, but for the scales of a Resize, and the first cast gives it; one cast
    before each output gives float32 back. Scales of Q/DQ are constants too: see `dialects.half_up`.
    Raises ComputationError when a weight is too large for half precision, or an operator does not take it.
    """
    import onnx

    wiring = Wiring(_with_half_qdq(model))
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


def _with_half_qdq(model: Any) -> Any:
    """The model; one with Q/DQ in an opset where that takes half precision."""
    import onnx

    opset = next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    if opset >= QDQ_OPSET or all(node.op_type != "QuantizeLinear" for node in model.graph.node):
        return model
    try:
        raised = onnx.version_converter.convert_version(model, QDQ_OPSET)
    except (RuntimeError, onnx.version_converter.ConvertError) as exc:
        reason = " ".join(str(exc).split())
        raise ComputationError(f"the model cannot be brought to opset {QDQ_OPSET}: {reason}") from exc
    raised.ir_version = max(raised.ir_version, QDQ_IR)
    return raised


def _half(values: np.ndarray, name: str) -> Any:
    import onnx

    if np.abs(values).max(initial=0) > LARGEST_HALF:
        raise ComputationError(
            f"constant '{name}' reaches {np.abs(values).max():.3g}, half precision ends at {LARGEST_HALF:g}"
        )
    return onnx.numpy_helper.from_array(np.ascontiguousarray(values.astype(np.float16)).reshape(values.shape), name)
