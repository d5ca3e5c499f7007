"""Average precision in numpy against its two referees, pycocotools and faster-coco-eval; thresholds by brute force."""

from __future__ import annotations

import contextlib
import io

import faster_coco_eval
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from edgecv_runtime.head import DetectionHead
from edgecv_runtime.manifest import TensorSpec
from edgecv_runtime.tasks.average_precision import fitted_thresholds, matches, summary
from edgecv_runtime.tasks.detection import DetectionTask
from edgecv_runtime.tasks.detections import Boxes, Detections, nothing
from edgecv_runtime.tasks.nms import overlaps

LABELS = ("a", "b", "c", "d")
BEYOND = 1e11  # an area outside all ranges: how COCO's own code is made to ignore a box that is no crowd


def frame(random, wanted, found, *, ties=False, crowds=False, classes=3):
    """Boxes known and found in a picture of 400 pixels; found ones are known ones moved, and others."""
    corner, sides = random.uniform(0, 300, (wanted, 2)), np.exp(random.uniform(1.5, 5, (wanted, 2)))
    known = np.concatenate([corner, corner + sides], axis=1).astype(np.float32)
    if ties:
        known = np.round(known / 16) * 16 + np.float32([0, 0, 16, 16])
    kinds = random.integers(0, classes, wanted)
    flags = [random.random(wanted) < 0.2 if crowds else np.zeros(wanted, bool) for _ in range(2)]
    area = (known[:, 2] - known[:, 0]).astype(np.float64) * (known[:, 3] - known[:, 1]) * random.uniform(0.4, 1, wanted)
    truth = Boxes(known, kinds, crowd=flags[0], ignored=flags[1], area=area)
    source = random.integers(0, wanted, found) if wanted else np.zeros(0, int)
    boxes = known[source] + random.normal(0, 6, (len(source), 4)).astype(np.float32)
    if ties:
        boxes = np.round(boxes / 8) * 8
    boxes = np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], axis=1)
    labels = np.where(random.random(len(source)) < 0.8, kinds[source], random.integers(0, classes, len(source)))
    scores = random.random(len(source))
    scores = (np.round(scores, 1) if ties else scores).astype(np.float32)
    order = np.argsort(-scores, kind="stable")
    return Detections(boxes[order], scores[order], labels[order], LABELS), truth


SETS = {
    "plain": [{"wanted": 8, "found": 30}] * 6,
    "ties": [{"wanted": 10, "found": 40, "ties": True}] * 6,
    "crowds and ignored": [{"wanted": 12, "found": 40, "crowds": True}] * 6,
    "all at once": [{"wanted": 12, "found": 60, "ties": True, "crowds": True}] * 8,
    "empty images": [
        {"wanted": 0, "found": 0},
        {"wanted": 5, "found": 0},
        {"wanted": 4, "found": 9},
        {"wanted": 0, "found": 0},
    ],
    "more than count": [{"wanted": 20, "found": 420, "classes": 2}] * 2,
    "nothing found": [{"wanted": 5, "found": 0}] * 3,
}


def made(name, seed):
    random = np.random.default_rng([seed, sorted(SETS).index(name)])
    return [frame(random, **each) for each in SETS[name]]


def as_coco(frames):
    """The same as COCO's dictionaries."""
    annotations, results = [], []
    for image, (found, truth) in enumerate(frames, 1):
        for index in range(len(truth)):
            left, top, right, bottom = truth.xyxy[index].astype(float).tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(truth.class_id[index]) + 1,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": BEYOND if truth.ignored[index] else float(truth.area[index]),
                    "iscrowd": int(truth.crowd[index]),
                }
            )
        for index in range(len(found)):
            left, top, right, bottom = found.xyxy[index].astype(float).tolist()
            results.append(
                {
                    "image_id": image,
                    "category_id": int(found.class_id[index]) + 1,
                    "bbox": [left, top, right - left, bottom - top],
                    "score": float(found.confidence[index]),
                }
            )
    images = [{"id": image, "width": 400, "height": 400} for image in range(1, len(frames) + 1)]
    categories = [{"id": kind + 1, "name": name} for kind, name in enumerate(LABELS)]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def referee(frames, coco, evaluation):
    """The twelve figures of COCO; AP, AP50, AP75, small, medium, large, AR100 of them."""
    truth, results = as_coco(frames)
    with contextlib.redirect_stdout(io.StringIO()):
        known = coco()
        known.dataset = truth
        known.createIndex()
        judge = evaluation(known, known.loadRes(results) if results else coco(), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return [float(judge.stats[each]) for each in (0, 1, 2, 3, 4, 5, 8)]


def own(frames):
    found = summary([matches(each.xyxy, each.confidence, each.class_id, truth) for each, truth in frames], LABELS)
    figures = (found.ap, found.ap50, found.ap75, found.small, found.medium, found.large, found.ar100)
    return [-1 if value is None else value for value in figures]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", SETS)
def test_the_figures_are_those_of_pycocotools(name, seed):
    frames = made(name, seed)
    right = referee(frames, COCO, COCOeval)
    assert own(frames) == pytest.approx(right, abs=1e-6)
    assert name == "nothing found" or max(right) > 0.02


@pytest.mark.parametrize("name", [name for name in SETS if name != "nothing found"])  # it cannot load no results
def test_the_figures_are_those_of_faster_coco_eval(name):
    frames = made(name, 7)
    assert own(frames) == pytest.approx(
        referee(frames, faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster), abs=1e-6
    )


def task(labels=LABELS):
    outputs = (TensorSpec("boxes", "float32", ("N", 9, 4)), TensorSpec("scores", "float32", ("N", 9, len(labels))))
    return DetectionTask(DetectionHead(labels), outputs)


def test_a_model_agrees_with_itself_and_the_task_scores_as_the_function():
    frames = made("plain", 3)
    same = task()
    assert same.score([same.tally(found, found) for found, _ in frames]) == pytest.approx(1)
    tallies = [same.tally(found, same.truth(truth)) for found, truth in frames]
    assert same.score(tallies) == own(frames)[0]
    assert str(same.summary(tallies)).startswith(f"AP {own(frames)[0]:.3f}  AP50 ")
    assert set(same.summary(tallies).by_class) == {"a", "b", "c"}  # nothing of d is there


def test_where_nothing_is_there_nothing_is_right():
    same, empty = task(), nothing(LABELS)
    (found, _), *_ = made("plain", 1)
    assert same.score([same.tally(empty, empty)] * 2) == 1
    assert same.score([same.tally(found, empty)]) == 0
    assert same.score([same.tally(empty, found)]) == 0
    assert same.score([]) == 1
    faint = found.pick(found.confidence < 0.25)  # what ranking gives and nobody is shown
    assert len(faint) > 2
    assert same.score([same.tally(faint, empty)]) == 1
    assert same.ranking().score([same.tally(faint, empty)]) == 0
    # a box on what is not asked for is neither right nor wrong
    for kind in ("crowd", "ignored"):
        hard = Boxes(found.xyxy, found.class_id, **{kind: np.ones(len(found), bool)})
        assert same.score([same.tally(found, same.truth(hard))]) == 1
    # one frame of forty is one of forty, and no cliff
    assert same.score([same.tally(empty, empty)] * 39 + [same.tally(found, empty)]) == pytest.approx(39 / 40)


@pytest.mark.parametrize("name", ["plain", "ties", "all at once", "empty images"])
def test_the_score_alone_is_the_summarys(name):
    frames = made(name, 5)
    same = task()
    tallies = [same.tally(found, same.truth(truth)) for found, truth in frames]
    assert same.score(tallies) == same.summary(tallies).ap == own(frames)[0]


def f1(frames, kind, threshold):
    """F1 of a class at IoU 0.5 with the boxes from a score on: matched one by one, in plain Python."""
    right = wrong = wanted = 0
    for found, truth in frames:
        mine = truth.xyxy[truth.class_id == kind]
        free = set(range(len(mine)))
        wanted += len(mine)
        for index in np.flatnonzero((found.class_id == kind) & (found.confidence >= threshold)):
            values = overlaps(found.xyxy[index : index + 1].astype(float), mine.astype(float))[0]
            best = max((each for each in free if values[each] >= 0.5), key=lambda each: values[each], default=None)
            right, wrong = (right + 1, wrong) if best is not None else (right, wrong + 1)
            free.discard(best)
    return 2 * right / max(1, right + wrong + wanted)


@pytest.mark.parametrize("name", ["plain", "ties"])
def test_fitted_thresholds_are_the_best_of_all(name):
    frames = made(name, 11)
    tallies = [matches(found.xyxy, found.confidence, found.class_id, truth) for found, truth in frames]
    fitted = fitted_thresholds(tallies, LABELS, otherwise=0.4)
    assert fitted[3] == 0.4
    every = np.unique(np.concatenate([found.confidence for found, _ in frames]))
    for kind in range(3):
        best = max(f1(frames, kind, score) for score in every)
        assert f1(frames, kind, fitted[kind]) == pytest.approx(best)
        assert best > f1(frames, kind, 0) + 0.01  # it matters here
        assert fitted[kind] not in every  # between two scores: a little noise changes nothing


@pytest.mark.parametrize("name", [name for name in SETS if name != "ties" and name != "all at once"])
def test_resampled_frames_are_scored_as_the_same_frames_given_again_and_again(name):
    """Boxes of one confidence, whose order is open, are left out."""
    frames = made(name, 2)
    scored = task()
    tallies = [scored.tally(found, scored.truth(truth)) for found, truth in frames]
    drawn = np.random.default_rng(0).integers(0, len(frames), (20, len(frames)))
    times = np.stack([np.bincount(each, minlength=len(frames)) for each in drawn])
    again = [own([frames[index] for index in each])[0] for each in drawn]
    empty = [not any(len(frames[index][1]) for index in each) for each in drawn]
    again = [1.0 if no_box else value for value, no_box in zip(again, empty, strict=True)]  # and none is found there
    assert scored.resampled(tallies, times).tolist() == pytest.approx(again, abs=1e-9)
    assert name == "nothing found" or len(set(again)) > 2
