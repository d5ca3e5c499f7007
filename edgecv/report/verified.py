"""`verify.npz`: the frames that `edgecv build` verified with, and what every target said of them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime.errors import BadInput
from edgecv_runtime.manifest import Manifest
from edgecv_runtime.preprocess import Image
from edgecv_runtime.verify import Verified

Logits = NDArray[np.float32]
PICTURES = 300  # that the report may choose from


@dataclass(frozen=True)
class Frames:
    """Preprocessed frames with what was said of them.

    images: (N, H, W, C) uint8, the first N of M frames. reference: PyTorch's logits (M, classes). labels: (M,) or None.
    outputs: logits (M, classes) by (variant, backend, precision hint).
    """

    images: Image
    reference: Logits
    labels: NDArray[np.int64] | None
    outputs: dict[tuple[str, str, str], Logits]


def pack(done: Sequence[Verified], frames: Image, reference: Logits, labels: NDArray[np.int64] | None) -> bytes:
    """The file's content: frames (M, H, W, C) of which the first are kept, PyTorch's outputs, labels, each target's."""
    arrays: dict[str, NDArray[Any]] = {"images": frames[:PICTURES], "reference": reference}
    if labels is not None:
        arrays["labels"] = labels
    for each in done:
        if each.outputs is not None:
            entry = each.entry
            arrays[f"outputs/{entry.variant}/{entry.backend}/{entry.hint}/{entry.sha256}"] = each.outputs
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def read_frames(path: Path, manifest: Manifest) -> Frames | None:
    """What `verify.npz` holds of files that are still in the bundle, or None when there is no `verify.npz`.

    Raises BadInput when it is broken or does not fit.
    """
    if not path.is_file():
        return None
    here = {(each.name, manifest.files[each.file].sha256) for each in manifest.variants}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            frames = Frames(
                images=arrays["images"],
                reference=arrays["reference"],
                labels=arrays.get("labels"),
                outputs={
                    (variant, backend, hint): arrays[name]
                    for name in arrays
                    if name.startswith("outputs/")
                    for _, variant, backend, hint, *digest in [name.split("/")]
                    if (variant, *digest) in here
                },
            )
    except (KeyError, ValueError, EOFError, OSError, zipfile.BadZipFile) as exc:
        raise BadInput(f"{path}: not what 'edgecv build' writes: {exc}; run it again") from exc
    _check(frames, len(manifest.labels), path)
    return frames


def _check(frames: Frames, classes: int, path: Path) -> None:
    """Refuse arrays that do not belong together, before they become a wrong picture."""
    count = len(frames.reference)
    if not count:
        raise BadInput(f"{path}: it holds no frames; run 'edgecv build' again")
    for name, logits in (("reference", frames.reference), *frames.outputs.items()):
        if logits.shape != (count, classes):
            raise BadInput(f"{path}: {name} is {logits.shape}, not ({count}, {classes}); run 'edgecv build' again")
    if frames.images.ndim != 4 or frames.images.dtype != np.uint8 or len(frames.images) > count:
        raise BadInput(f"{path}: images are {frames.images.shape} {frames.images.dtype}, expected (N, H, W, C) uint8")
    labels = frames.labels
    if labels is not None and (labels.shape != (count,) or labels.min() < 0 or labels.max() >= classes):
        raise BadInput(f"{path}: labels are not {count} class indices below {classes}; run 'edgecv build' again")
