"""`verify.json`: what the report shows of a task whose results lie in places of their frames: pictures, figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgecv.data import Images
from edgecv.run.verified import Division
from edgecv_runtime import records, tasks
from edgecv_runtime.errors import BadInput
from edgecv_runtime.geometry import View
from edgecv_runtime.manifest import Manifest
from edgecv_runtime.preprocess import Image, Preprocess
from edgecv_runtime.records import Record
from edgecv_runtime.tasks import Result, Task
from edgecv_runtime.tasks.confusion import Confusion
from edgecv_runtime.verify import Outputs, Verified

FILE = "verify.json"
WORST, BEST, WIDTH = 4, 4, 640  # frames shown of each kind, and their width in pixels
PYTORCH = "PyTorch"


class Pane(Record, frozen=True):
    """A frame with a result drawn on it, as a JPEG; source: whose result; score: of this frame, 0..1."""

    source: str
    said: str
    jpeg: bytes
    score: float | None = None


class Shown(Record, frozen=True):
    """One frame: its name, and the panes beside each other."""

    name: str
    panes: tuple[Pane, ...]


class Told(Record, frozen=True):
    """What a source's results came to: the metric, other figures, and the metric by class; all 0..1."""

    source: str
    value: float
    figures: dict[str, float]
    by_class: dict[str, float]


class Confused(Record, frozen=True):
    """What a source takes for what: counts by row (true) and column (found), of `names`; of: what is counted."""

    source: str
    of: str
    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


class Drawn(Record, frozen=True):
    """The file.

    count: frames behind the figures; looked_at: of them, the first ones whose outputs were kept: the worst and the best
    that are shown are of those, and so is `confused`. files: the hash of each variant that was drawn.
    """

    metric: str
    count: int
    looked_at: int
    division: Division
    told: tuple[Told, ...]
    worst: tuple[Shown, ...]
    best: tuple[Shown, ...]
    files: dict[str, str]
    confused: Confused | None = None


def draw(
    manifest: Manifest,
    done: Sequence[Verified],
    images: Images,
    views: Sequence[View],
    expected: Outputs,
    division: Division,
) -> Drawn:
    """Draw the frames that were kept on which an int8 file does worst and best, beside PyTorch and the truth.

    images: in full size, with their truths; views: how the network saw each; expected: PyTorch's outputs. Results are
    shown as `load` shows them, from each variant's own thresholds on.
    """
    task = tasks.create(manifest.head, manifest.outputs)
    ran = [each for each in done if each.comparison is not None and each.outputs]
    told = [_told(task, _key(each), each.comparison.tallies) for each in ran if each.comparison]
    first = ran[0].comparison if ran else None
    if first is not None and first.reference_tallies:
        told.insert(0, _told(task, PYTORCH, first.reference_tallies))
    chosen = next((each for each in ran if each.entry.executed == "int8"), ran[0] if ran else None)
    kept = 0
    worst: list[Shown] = []
    best: list[Shown] = []
    confused = None
    if chosen is not None and chosen.comparison is not None and chosen.outputs:
        scores = [task.score([tally]) for tally in chosen.comparison.tallies]
        kept = min(len(each) for each in chosen.outputs.values())
        errors = _errors(manifest, chosen, images, views, kept)
        wrong = [0 if errors is None else -errors[index].wrong for index in range(kept)]
        order = [index for index in np.lexsort((wrong, scores[:kept])) if not math.isnan(scores[index])]
        confused = None if errors is None else _confused(_key(chosen), errors)
        lowest = order[:WORST]
        highest = order[len(lowest) :][::-1][:BEST]
        for frames, shown in ((lowest, worst), (highest, best)):
            shown += [
                _shown(manifest, chosen, int(index), images, views[int(index)], expected, scores, errors)
                for index in frames
            ]
    files = {each.entry.variant: each.entry.sha256 for each in ran}
    return Drawn(task.metric, len(images), kept, division, tuple(told), tuple(worst), tuple(best), files, confused)


def read(path: Path, manifest: Manifest) -> Drawn | None:
    """What was drawn of files that are still in the bundle; None without the file, or where it is of others.

    Raises BadInput when it is broken, or of another version.
    """
    if not path.is_file():
        return None
    try:
        found = records.decode(path.read_bytes(), Drawn, str(path))
    except BadInput as exc:
        raise BadInput(f"{exc}; this is not what 'edgecv build' writes: run it again") from exc
    here = {each.name: manifest.files[each.file].sha256 for each in manifest.variants}
    return found if all(here.get(name) == digest for name, digest in found.files.items()) else None


def seen(images: Images, preprocess: Preprocess) -> list[View]:
    """How the network sees each image, by its size; each is read once."""
    return [preprocess.view(image.shape[:2]) for image in images]


def _key(each: Verified) -> str:
    hint = f" ({each.entry.hint})" if each.entry.hint != "float32" else ""
    return f"{each.entry.variant} on {each.entry.backend}{hint}"


def _told(task: Task[Any], source: str, tallies: Sequence[Any]) -> Told:
    return Told(source, task.score(tallies), task.figures(tallies), task.by_class(tallies))


def _shown(
    manifest: Manifest,
    chosen: Verified,
    index: int,
    images: Images,
    view: View,
    expected: Outputs,
    scores: Sequence[float],
    errors: Sequence[Confusion] | None,
) -> Shown:
    assert chosen.outputs is not None
    frame = images[index]
    task = tasks.create(manifest.head, manifest.outputs)
    own = task.at(manifest.thresholds(chosen.entry.variant))
    task = task.at(manifest.thresholds("float32"))
    (known,) = task.decode(expected.of([index]), [view])
    (found,) = own.decode({name: each[index : index + 1] for name, each in chosen.outputs.items()}, [view])
    panes = [] if images.truths is None else [_pane("true", task.truth(images.truths[index]), frame)]
    panes.append(_pane(PYTORCH, known, frame))
    told = "" if errors is None else str(errors[index])
    panes.append(_pane(_key(chosen), found, frame, scores[index], told))
    return Shown(images.name(index), tuple(panes))


def _errors(
    manifest: Manifest, chosen: Verified, images: Images, views: Sequence[View], count: int
) -> list[Confusion] | None:
    """What is shown of each of the first frames beside its truth; None without truths."""
    if images.truths is None or chosen.outputs is None:
        return None
    task = tasks.create(manifest.head, manifest.outputs)
    task = task.at(manifest.thresholds(chosen.entry.variant))
    found = []
    for index in range(count):
        outputs = {name: each[index : index + 1] for name, each in chosen.outputs.items()}
        (result,) = task.decode(outputs, [views[index]])
        found.append(task.confusion(result, task.truth(images.truths[index])))
    return found


def _confused(source: str, errors: Sequence[Confusion]) -> Confused | None:
    if not errors:
        return None
    whole = sum(errors[1:], errors[0])
    return Confused(source, whole.of, whole.names, tuple(tuple(map(int, row)) for row in whole.counts))


def _pane(source: str, result: Result, frame: Image, score: float | None = None, told: str = "") -> Pane:
    import cv2

    picture = result.draw(frame)
    size = WIDTH, round(picture.shape[0] * WIDTH / picture.shape[1])
    if picture.shape[1] > WIDTH:
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    elif picture.shape[1] < WIDTH // 4:  # pixel by pixel
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_NEAREST), np.uint8)
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 85])
    said = f"{result}; {told}" if told else str(result)
    return Pane(source, said, np.asarray(data).tobytes(), score)
