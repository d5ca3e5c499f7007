"""`verify.npz`: the frames that `edgecv build` verified with, and what every target said of them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgecv.data import Images
from edgecv_runtime.errors import BadInput
from edgecv_runtime.manifest import Manifest
from edgecv_runtime.preprocess import Image
from edgecv_runtime.tasks.classification import ClassificationTask
from edgecv_runtime.verify import Verified

FILE = "verify.npz"
Logits = NDArray[np.float32]
PICTURES = 300  # that the report may choose from
ERRORS = 24  # of them at least: errors that the network was most sure of
Division = Literal["test", "validation", ""]


@dataclass(frozen=True)
class Frames:
    """Preprocessed frames with what was said of them.

    images: (N, H, W, C) uint8, the first N of M frames. reference: PyTorch's logits (M, classes). labels: (M,) or None.
    outputs: logits (M, classes) by (variant, backend, precision hint). names: of the files that the frames came from.
    division: what they are of the data set: "test" images chose nothing; "validation" images chose the epoch, too.
    """

    images: Image
    reference: Logits
    labels: NDArray[np.int64] | None
    outputs: dict[tuple[str, str, str], Logits]
    names: tuple[str, ...] = ()
    division: Division = ""


def pack(
    task: ClassificationTask,
    done: Sequence[Verified],
    frames: Image,
    kept: Mapping[str, Logits],
    images: Images,
    division: Division,
) -> bytes:
    """The file's content: the frames of some images with PyTorch's outputs, labels, names, and each target's outputs.

    frames: (M, H, W, C), of which PICTURES are kept as pictures, among them the errors that PyTorch is most sure of.
    kept: PyTorch's outputs by name.
    """
    reference = next(iter(kept.values()))
    count = min(len(next(iter(each.values()))) for each in (kept, *(each.outputs for each in done if each.outputs)))
    reference, images = reference[:count], images.pick(range(count))  # of which all outputs were kept
    order = _pictured_first(task, reference, images.labels)
    arrays: dict[str, NDArray[Any]] = {
        "images": frames[order[:PICTURES]],
        "reference": reference[order],
        "names": np.array(images.names, str)[order],
        "division": np.array(division),
    }
    if images.labels is not None:
        arrays["labels"] = images.labels[order]
    for each in done:
        if each.outputs is not None:
            entry = each.entry
            outputs = next(iter(each.outputs.values()))
            arrays[f"outputs/{entry.variant}/{entry.backend}/{entry.hint}/{entry.sha256}"] = outputs[order]
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _pictured_first(task: ClassificationTask, logits: Logits, labels: NDArray[np.int64] | None) -> NDArray[np.intp]:
    """An order of frames: the first of them, then the surest errors among the others, then the rest."""
    everything = np.arange(len(logits))
    if labels is None or len(logits) <= PICTURES:
        return everything
    head = everything[: PICTURES - ERRORS]
    results = task.of_rows(logits)
    wrong = np.flatnonzero(np.array([each.index for each in results]) != labels)
    wrong = wrong[wrong >= len(head)]
    surest = wrong[np.argsort(-np.array([each.score for each in results])[wrong])][:ERRORS]
    return np.concatenate([head, surest, np.setdiff1d(everything[len(head) :], surest)])


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
                names=tuple(map(str, arrays["names"])) if "names" in arrays else (),
                division=str(arrays["division"]) if "division" in arrays else "",  # type: ignore[arg-type]  # checked below
            )
    except (KeyError, ValueError, EOFError, OSError, zipfile.BadZipFile) as exc:
        raise BadInput(f"{path}: not what 'edgecv build' writes: {exc}; run it again") from exc
    _check(frames, manifest, path)
    return frames


def _check(frames: Frames, manifest: Manifest, path: Path) -> None:
    """Refuse arrays that do not belong together, before they become a wrong picture."""
    classes, columns = len(manifest.labels), manifest.outputs[0].shape[1]
    count = len(frames.reference)
    if not count:
        raise BadInput(f"{path}: it holds no frames; run 'edgecv build' again")
    for name, logits in (("reference", frames.reference), *frames.outputs.items()):
        if logits.shape != (count, columns):
            raise BadInput(f"{path}: {name} is {logits.shape}, not ({count}, {columns}); run 'edgecv build' again")
    if frames.images.ndim != 4 or frames.images.dtype != np.uint8 or len(frames.images) > count:
        raise BadInput(f"{path}: images are {frames.images.shape} {frames.images.dtype}, expected (N, H, W, C) uint8")
    if frames.division not in get_args(Division) or len(frames.names) not in (0, count):
        raise BadInput(f"{path}: names or division are not of these frames; run 'edgecv build' again")
    labels = frames.labels
    if labels is not None and (labels.shape != (count,) or labels.min() < 0 or labels.max() >= classes):
        raise BadInput(f"{path}: labels are not {count} class indices below {classes}; run 'edgecv build' again")
