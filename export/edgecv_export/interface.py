"""What our exported graphs look like from outside; no PyTorch in here, so that int8 can be made where there is none."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

from edgecv_runtime.errors import BadInput, ComputationError

# The one input, (N, height, width, C) uint8, and the name of its first axis.
INPUT, BATCH = "image", "batch"


def check_frames(frames: Sized, count: int, what: str) -> None:
    """Refuse fewer frames than needed."""
    if len(frames) < count:
        raise BadInput(f"{what} wants at least {count} real images, got {len(frames)}")


def check(model: Any) -> None:
    """ONNX's full checker with shape inference, and our own promise on the input; raises ComputationError."""
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
        raise ComputationError(f"the exported graph is not valid ONNX: {str(exc).strip().splitlines()[0]}") from exc
    readers = [node.op_type for node in model.graph.node if INPUT in node.input]
    if readers != ["Cast"]:
        raise ComputationError(f"the uint8 input '{INPUT}' must be read by one Cast and nothing else, not by {readers}")
