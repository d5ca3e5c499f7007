"""What our exported graphs look like from outside; no PyTorch in here, so that int8 can be made where there is none."""

from __future__ import annotations

from collections.abc import Sized

from edgecv_runtime.errors import BadInput

# The one input, (N, height, width, C) uint8, and the name of its first axis.
INPUT, BATCH = "image", "batch"
OUTPUT = "logits"  # the one output of a classifier


def check_frames(frames: Sized, count: int, what: str) -> None:
    """Refuse fewer frames than needed."""
    if len(frames) < count:
        raise BadInput(f"{what} wants at least {count} real images, got {len(frames)}")
