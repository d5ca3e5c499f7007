"""The logits behind a class map: a device is given classes, and classes hide how near the others were.

A copy of the very file shows the tensor that its classes are chosen from, under the name of the output. Copies are
compared and never deployed: what a device runs keeps its one small output. NaN shows there, too, of which an argmax
makes a class like any other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime import geometry, onnxgraph, tasks
from edgecv_runtime.bundle import Bundle
from edgecv_runtime.errors import InvalidOutput
from edgecv_runtime.evidence import Behind
from edgecv_runtime.manifest import Manifest
from edgecv_runtime.preprocess import Image
from edgecv_runtime.target import Target, targets
from edgecv_runtime.verify.compare import Arrays, Comparison, broken_frames, of_reference
from edgecv_runtime.verify.trace import compiled

FRAMES, BYTES = 16, 64 << 20  # whose logits are compared, at most: they are many times as large as classes

Logits = Callable[[Image], Arrays]  # what a reference chooses from, by the names of the outputs


def revealed(content: bytes) -> tuple[bytes, dict[str, str]]:
    """A file with what its classes are chosen from as outputs, too, and their names there by that of each output;
    itself and {} where it chooses nothing.
    """
    names = onnxgraph.chosen_from(content)
    return (onnxgraph.exposing(content, names.values()) if names else content), names


def logits(target: Target, manifest: Manifest, frames: Image) -> dict[str, NDArray[Any]]:
    """What a target chooses from on (N, H, W, C) frames, by the names of the outputs; {} where it chooses nothing."""
    content, names = revealed(target.file.read_bytes())
    if not names:
        return {}
    found = compiled(target, content, {manifest.input.name: frames})
    return {name: np.asarray(found[source], np.float32) for name, source in names.items()}


def float_logits(bundle: Bundle) -> Logits:
    """What the float32 variant on the first backend here chooses from; see `float_reference`."""
    target = next(each for each in targets(bundle) if each.variant == "float32")
    return lambda frames: logits(target, bundle.manifest, frames)


def compared(target: Target, bundle: Bundle, frames: Image, reference: Logits) -> Behind | None:
    """How far a target's logits are from the reference's on the first frames; None where classes are not all it gives.

    Raises InvalidOutput where they are NaN or infinite.
    """
    if {output.name for output in bundle.manifest.outputs} != set(onnxgraph.chosen_from(target.file.read_bytes())):
        return None
    with of_reference():
        size = sum(each.nbytes for each in reference(np.ascontiguousarray(frames[:1])).values())
        frames = np.ascontiguousarray(frames[: max(1, min(FRAMES, BYTES // size))])
        wanted = reference(frames)
        _check_finite(wanted, "the reference")
    got = logits(target, bundle.manifest, frames)
    _check_finite(got, target.key)
    task = tasks.create(bundle.manifest.head, bundle.manifest.outputs)
    found = Comparison(task, "", views=geometry.whole(frames.shape[1:3]))
    found.add(0, wanted, got)
    return Behind(found.agreement.divergence, found.agreement.max_abs, found.agreement.largest, len(frames))


def _check_finite(found: Arrays, whose: str) -> None:
    broken = broken_frames(found)
    if len(broken):
        count = len(next(iter(found.values())))
        error = InvalidOutput(f"{whose}: logits behind {len(broken)} of {count} outputs hold NaN or infinite values")
        error.frames = tuple(int(index) for index in broken)
        raise error
