"""The pictures of a report: frames with what was said of them, the confusion matrix, and frames of a clip."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv.run.drawn import Shown
from edgecv.run.folder import Run
from edgecv.run.verified import Frames, Logits
from edgecv_runtime.bench import table
from edgecv_runtime.errors import SourceUnavailable
from edgecv_runtime.preprocess import Image
from edgecv_runtime.tasks.classification import Classification, ClassificationTask, classifying

SHOWN, CLIP_FRAMES, MAX_CONFUSION = 12, 4, 20
_SMALL = 96  # pixels: below this, lossless and shown without smoothing


@dataclass(frozen=True)
class Saying:
    """What one source says of a frame: a label, its score in 0..1 (None for a true label), and whether it is wrong."""

    source: str
    label: str
    score: float | None = None
    wrong: bool = False


@dataclass(frozen=True)
class Picture:
    """A frame as data URI, with the file's name and what was said of it; small ones are shown pixel by pixel."""

    uri: str
    small: bool
    sayings: list[Saying]
    name: str = ""


@dataclass(frozen=True)
class Gallery:
    """A choice of frames, and those on which int8 and float32 disagree.

    int8, float32: keys of the outputs compared, or "". disagreeing: how many of `compared` frames.
    """

    sample: list[Picture]
    disagreements: list[Picture]
    int8: str
    float32: str
    disagreeing: int
    compared: int


@dataclass(frozen=True)
class Beside:
    """Frames with results drawn on them, each a row of panes, and figures of each source, for tasks of places.

    figures: by name, those of each source in the order of `sources`; by_class: the metric of each class.
    """

    metric: str
    count: int
    looked_at: int
    worst: list[list[Picture]]
    best: list[list[Picture]]
    sources: list[str]
    figures: list[tuple[str, list[float | None]]]
    by_class: list[tuple[str, list[float | None]]]


@dataclass(frozen=True)
class Confusion:
    """Counts by true label (rows) and found label (columns), of one target; of: what is counted.

    count: frames that were looked at, of `frames`.
    """

    target: str
    labels: tuple[str, ...]
    counts: list[list[int]]
    of: str
    count: int
    frames: int


def gallery(run: Run) -> Gallery | None:
    """Frames with their true label, PyTorch's and int8's; None where there are no images."""
    frames = run.frames
    if frames is None or not len(frames.images):
        return None
    chosen = _int8(run)
    quantized = frames.outputs[chosen] if chosen else None
    base, base_name = _float32(frames, chosen)
    sources = [("PyTorch", answers(run, frames.reference))]
    against = [(base_name.partition(" ")[0], answers(run, base))]
    differ = np.array([], int)
    if quantized is not None:
        found = answers(run, quantized)
        same = map(task_of(run).tally, found, against[0][1])
        differ = np.flatnonzero([not each for each in same])
        sources.append(("int8", found))
        against.append(("int8", found))
    seen = _spaced(differ[differ < len(frames.images)])
    return Gallery(
        sample=[picture(run, frames, index, sources) for index in _spread(frames)],
        disagreements=[picture(run, frames, index, against) for index in seen],
        int8=_target(chosen),
        float32=base_name,
        disagreeing=len(differ),
        compared=len(frames.reference) if quantized is not None else 0,
    )


def beside(run: Run) -> Beside | None:
    """What was drawn when the run was verified; None of a task whose results are a label."""
    shown = run.drawn
    if shown is None:
        return None
    told = shown.told
    figures: list[tuple[str, list[float | None]]] = [(shown.metric, [each.value for each in told])]
    return Beside(
        metric=shown.metric,
        count=shown.count,
        looked_at=shown.looked_at,
        worst=[_panes(each) for each in shown.worst],
        best=[_panes(each) for each in shown.best],
        sources=[each.source for each in told],
        figures=[*figures, *_by_name([each.figures for each in told])],
        by_class=_by_name([each.by_class for each in told]),
    )


def _panes(shown: Shown) -> list[Picture]:
    name = shown.name
    found = []
    for pane in shown.panes:
        uri = f"data:image/jpeg;base64,{base64.b64encode(pane.jpeg).decode()}"
        found.append(Picture(uri, False, [Saying(pane.source, pane.said, pane.score)], name))
        name = ""
    return found


def _by_name(told: list[dict[str, float]]) -> list[tuple[str, list[float | None]]]:
    """Rows of a table: each name that anybody told, with what each told."""
    names = dict.fromkeys(name for each in told for name in each)
    return [(name, [each.get(name) for each in told]) for name in names]


def confusion(run: Run) -> Confusion | None:
    """Of the target that was drawn, else of the fastest offered one or PyTorch.

    None without labels or with more than 20 classes.
    """
    drawn = run.drawn
    if drawn is not None:
        told = drawn.confused
        if told is None or len(told.names) > MAX_CONFUSION + 1:
            return None
        counts = [list(row) for row in told.counts]
        return Confusion(told.source, told.names, counts, told.of, drawn.looked_at, drawn.count)
    frames, labels = run.frames, run.manifest.labels
    if frames is None or frames.labels is None or len(labels) > MAX_CONFUSION:
        return None
    target, results = speaking(run)
    task = task_of(run)
    each = [task.confusion(result, task.truth(label)) for result, label in zip(results, frames.labels, strict=True)]
    whole = sum(each[1:], each[0])
    return Confusion(target, labels, whole.counts.tolist(), whole.of, len(each), len(each))


def speaking(run: Run) -> tuple[str, list[Classification]]:
    """Whose answers stand for the run, and they: the fastest offered target's, or PyTorch's; the run has frames."""
    assert run.frames is not None
    best = table.fastest(run.rows)
    key = (best.variant, best.backend or "", best.hint or "") if best else ("", "", "")
    outputs = run.frames.outputs
    name, logits = (_target(key), outputs[key]) if key in outputs else ("PyTorch", run.frames.reference)
    return name, answers(run, logits)


def task_of(run: Run) -> ClassificationTask:
    """What knows what the run's outputs mean; raises BadInput of another task."""
    return classifying(run.manifest.head, run.manifest.outputs)


def answers(run: Run, logits: Logits) -> list[Classification]:
    """What outputs say of each frame."""
    return task_of(run).of_rows(logits)


def batches(run: Run) -> list[str]:
    """Mosaics of the first training batches, as data URIs."""
    found = sorted((run.path / "train").glob("batch-*.png"))
    return [f"data:image/png;base64,{base64.b64encode(each.read_bytes()).decode()}" for each in found]


def clip_frames(path: Path) -> list[str]:
    """A few frames of a video, evenly spaced, as data URIs; raises SourceUnavailable when it cannot be read."""
    try:
        import av
    except ImportError as exc:
        raise SourceUnavailable(f"{path}: reading clips needs PyAV", extra="cpu") from exc
    try:
        with av.open(str(path)) as container:
            seconds = (container.duration or 0) / av.time_base
            moments = [seconds * (place + 0.5) / CLIP_FRAMES for place in range(CLIP_FRAMES)]
            found = [_frame_at(container, moment) for moment in moments]
    except (OSError, ValueError) as exc:  # PyAV's FFmpeg errors are both
        raise SourceUnavailable(f"{path}: cannot be read as a video: {exc}") from exc
    return [_uri(_narrowed(frame)) for frame in found if frame is not None]


def _frame_at(container: Any, second: float) -> Image | None:
    """The first frame that is not before the given second: (H, W, 3) uint8 BGR."""
    import av

    container.seek(int(second * av.time_base))
    frame = None
    for frame in container.decode(video=0):
        if frame.time is None or frame.time >= second:
            break
    return None if frame is None else np.asarray(frame.to_ndarray(format="bgr24"), np.uint8)


def _narrowed(image: Image, width: int = 640) -> Image:
    import cv2

    if image.shape[1] <= width:
        return image
    height = round(image.shape[0] * width / image.shape[1])
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _int8(run: Run) -> tuple[str, str, str] | None:
    """The int8 outputs to show: of the fastest that is offered, else of the fastest, else any."""
    frames = run.frames
    precisions = {variant.name: variant.precision for variant in run.manifest.variants}
    keys = [key for key in (frames.outputs if frames else {}) if precisions.get(key[0]) == "int8"]
    known = {(row.variant, row.backend, row.hint): row for row in run.rows}

    def rank(key: tuple[str, str, str]) -> tuple[bool, float]:
        row = known.get(key)
        return (not (row and row.offered), row.latency.p50_ms if row and row.latency else float("inf"))

    return min(keys, key=rank, default=None)


def _float32(frames: Frames, int8: tuple[str, str, str] | None) -> tuple[Logits, str]:
    """Float32's outputs on the same backend, or PyTorch's."""
    key = ("float32", int8[1], "float32") if int8 else ("", "", "")
    return (frames.outputs[key], _target(key)) if key in frames.outputs else (frames.reference, "PyTorch")


def _target(key: tuple[str, str, str] | None) -> str:
    return f"{key[0]} on {key[1]}" if key and key[0] else ""


def _spread(frames: Frames) -> list[int]:
    """Indices of frames to show: of each class in turn when there are labels, else evenly spaced."""
    if frames.labels is None:
        return _spaced(np.arange(len(frames.images)))
    labels = frames.labels[: len(frames.images)]
    places = [np.flatnonzero(labels == name) for name in np.unique(labels)]
    turns = [int(place[turn]) for turn in range(SHOWN) for place in places if turn < len(place)]
    return sorted(turns[:SHOWN], key=lambda index: int(labels[index]))


def _spaced(indices: NDArray[np.intp]) -> list[int]:
    """As many as are shown, evenly spaced: neighbouring frames of a video look alike."""
    places = np.linspace(0, len(indices) - 1, min(SHOWN, len(indices))).round().astype(int)
    return [int(index) for index in indices[places]]


def picture(run: Run, frames: Frames, index: int, sources: Sequence[tuple[str, Sequence[Classification]]]) -> Picture:
    """One frame and what each source says of it."""
    task, sayings = task_of(run), []
    wanted = sources[0][1][index]
    if frames.labels is not None:
        wanted = task.truth(frames.labels[index])
        sayings.append(Saying("true", wanted.label))
    for source, results in sources:
        result = results[index]
        sayings.append(Saying(source, result.label, result.score, not task.tally(result, wanted)))
    image = _bgr(frames.images[index], run.manifest.preprocess.color)
    return Picture(_uri(image), max(image.shape[:2]) < _SMALL, sayings, frames.names[index] if frames.names else "")


def _bgr(image: Image, color: str) -> Image:
    """A preprocessed frame in the order that OpenCV encodes: (H, W, 3) BGR, or (H, W, 1)."""
    return image[:, :, ::-1] if color == "RGB" else image


def _uri(image: Image) -> str:
    import cv2

    kind, options = ("png", []) if max(image.shape[:2]) < _SMALL else ("jpeg", [cv2.IMWRITE_JPEG_QUALITY, 85])
    _, data = cv2.imencode(f".{kind}", np.ascontiguousarray(image), options)
    return f"data:image/{kind};base64,{base64.b64encode(np.asarray(data).tobytes()).decode()}"
