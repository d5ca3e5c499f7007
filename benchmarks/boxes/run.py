"""What boxes cost on the host: decoding, suppression, the way back into the frame, and the score against the truth.

    python benchmarks/boxes/run.py

Candidates lie as a detector gives them, about 15 around each object, with 20 classes. OpenCV's suppression of the same
boxes, which knows no classes, is the yardstick. Writes benchmarks/boxes/results.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks import plots, study
from edgecv_runtime.geometry import letterboxed
from edgecv_runtime.head import DetectionHead
from edgecv_runtime.manifest import TensorSpec
from edgecv_runtime.tasks.detection import DetectionTask
from edgecv_runtime.tasks.nms import suppressed

PLACES, CLASSES, SIDE, PER_OBJECT = 2100, 20, 320, 15  # strides 8, 16 and 32 of 320 x 320 pixels
ROUNDS, SECONDS = 9, 0.2


def outputs(candidates: int) -> dict[str, NDArray[np.float32]]:
    """Boxes and scores of one frame; so many scores are above 0.3, the others below 0.01."""
    random = np.random.default_rng(0)
    objects = candidates // PER_OBJECT
    corner, sides = random.uniform(0, 260, (objects, 2)), random.uniform(20, 60, (objects, 2))
    around = np.repeat(np.concatenate([corner, corner + sides], axis=1), PER_OBJECT, axis=0)
    boxes = random.uniform(0, SIDE, (PLACES, 4))
    places = random.permutation(PLACES)[:candidates]
    boxes[places] = around + random.normal(0, 3, around.shape)
    scores = random.uniform(0, 0.01, (PLACES, CLASSES))
    scores[places, np.repeat(random.integers(0, CLASSES, objects), PER_OBJECT)] = random.uniform(0.3, 1, candidates)
    return {"boxes": boxes[None].astype(np.float32), "scores": scores[None].astype(np.float32)}


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    specs = (
        TensorSpec("boxes", "float32", ("N", PLACES, 4)),
        TensorSpec("scores", "float32", ("N", PLACES, CLASSES)),
    )
    labels = tuple(f"class {index}" for index in range(CLASSES))
    task = DetectionTask(DetectionHead(labels), specs)
    view = letterboxed((1080, 1920), (SIDE, SIDE))
    calls, left = {}, {}
    for candidates in (45, 300, 990):
        given = outputs(candidates)
        place, kind = np.nonzero(given["scores"][0] >= 0.25)
        confidence = given["scores"][0, place, kind]
        order = np.argsort(-confidence, kind="stable")
        boxes, kinds = given["boxes"][0, place[order]], kind[order]
        rectangles = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        found = task.decode(given, [view])[0]
        left[candidates] = len(found)
        calls |= {
            f"decode and suppress {candidates} candidates": lambda given=given: task.decode(given, [view]),
            f"of it, suppress {candidates}": lambda boxes=boxes, kinds=kinds: suppressed(boxes, kinds, 0.65, 10_000),
            f"OpenCV's suppression of {candidates}, classes left out": (
                lambda rectangles=rectangles, scores=confidence[order]: cv2.dnn.NMSBoxes(rectangles, scores, 0.25, 0.65)
            ),
            f"match {len(found)} boxes with as many, for AP": lambda found=found: task.tally(found, found),
        }
    STUDY.record({"left": left, "ms": study.rounds_ms(calls, ROUNDS, SECONDS)})


def page(figures: dict[str, Any]) -> list[str]:
    """The table; left: of how many candidates how many stay, ms: of each step, by round."""
    left, times = figures["left"], figures["ms"]
    lines = ["| step, one frame | ms, median of rounds (10–90 %) |", "| --- | ---: |"]
    lines += [f"| {name} | {study.shown(values)} |" for name, values in times.items()]
    how = (
        f"{PLACES} places, {CLASSES} classes, a frame of 1920 x 1080 in letterbox, {PER_OBJECT} candidates an object. "
        f"{'; '.join(f'{stay} of {given} candidates stay' for given, stay in left.items())}. "
        f"{ROUNDS} interleaved rounds of {SECONDS} s."
    )
    return [how, "", *lines]


STUDY = study.Study(
    Path(__file__),
    "What boxes cost on the host",
    page,
    picture=plots.Rows(
        "milliseconds a frame, median of rounds (10–90 %)", {"ms, median of rounds (10–90 %)": ""}, log=True
    ),
)


if __name__ == "__main__":
    main()
