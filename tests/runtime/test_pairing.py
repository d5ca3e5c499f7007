"""Agreement of detectors: of the boxes that both show, those that have a partner in the other's."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from edgecv_runtime.geometry import whole
from edgecv_runtime.head import DetectionHead
from edgecv_runtime.manifest import TensorSpec
from edgecv_runtime.tasks.detection import DetectionTask
from edgecv_runtime.verify.compare import Comparison

LABELS = ("cat", "dog")
SPECS = (TensorSpec("boxes", "float32", ("N", "A", 4)), TensorSpec("scores", "float32", ("N", "A", 2)))
SHOWN = 0.25
BOX = [20.0, 20.0, 120.0, 120.0]


def compared(wanted, got, thresholds=()):
    """The agreement of frames that are lists of (box, score, class)."""
    task = DetectionTask(DetectionHead(LABELS, confidence=SHOWN), SPECS)
    found = Comparison(task, "float32", views=whole((320, 320)), thresholds=thresholds)
    found.add(0, *(outputs(frames) for frames in (wanted, got)))
    return found.agreement


def outputs(frames, places=40):
    boxes = np.zeros((len(frames), places, 4), np.float32)
    scores = np.zeros((len(frames), places, 2), np.float32)
    for index, frame in enumerate(frames):
        for place, (box, score, kind) in enumerate(frame):
            boxes[index, place], scores[index, place, kind] = box, score
    return {"boxes": boxes, "scores": scores}


def drawn(seed, count=12):
    """Boxes of random sizes in a grid, so that none touches another; some lie beneath the threshold."""
    random = np.random.default_rng(seed)
    corners = [(80.0 * (index % 4), 80.0 * (index // 4)) for index in range(count)]
    return [
        (
            [x, y, x + random.uniform(20, 75), y + random.uniform(20, 75)],
            random.uniform(0.1, 1),
            int(random.integers(2)),
        )
        for x, y in corners
    ]


def test_equal_detections_agree_exactly():
    """Whatever is shown, however crowded: a model agrees with itself by exactly 1."""
    random = np.random.default_rng(0)
    corner = random.uniform(0, 250, (3, 40, 2))
    heap = outputs([[]] * 3)
    heap["boxes"][:] = np.concatenate([corner, corner + random.uniform(5, 70, (3, 40, 2))], 2)
    heap["scores"][:] = random.random((3, 40, 2))
    task = DetectionTask(DetectionHead(LABELS, overlap=0.99), SPECS)  # boxes of a class lie on each other
    found = Comparison(task, "float32", views=whole((320, 320)))
    found.add(0, heap, heap)
    assert found.agreement.share.value == 1.0
    assert found.agreement.share.high == 1.0
    assert found.agreement.metric == "matched boxes"


@pytest.mark.parametrize(
    ("got", "share"),
    [
        ([(BOX, 0.9, 0)], 1),
        ([([22, 20, 122, 120], 0.9, 0)], 1),  # 98 of 102 pixels: 0.96
        ([([26, 20, 126, 120], 0.9, 0)], 0),  # 94 of 106: 0.887, drifted
        ([(BOX, 0.9, 1)], 0),  # another class
        ([(BOX, 0.3, 0)], 1),  # less sure, and still shown
        ([(BOX, 0.2, 0)], 0),  # no longer shown
        ([], 0),  # missed
        ([(BOX, 0.9, 0), ([200, 200, 260, 260], 0.5, 0)], 2 / 3),  # one too many
        ([(BOX, 0.9, 0), ([200, 200, 260, 260], 0.1, 0)], 1),  # that nobody sees
    ],
)
def test_missed_extra_and_drifted_boxes_count(got, share):
    """Oracle: counted by hand, twice the pairs over the boxes of both, and the same whichever is the reference."""
    wanted = [(BOX, 0.8, 0)]
    assert compared([wanted], [got]).share.value == pytest.approx(share)
    assert compared([got], [wanted]).share.value == pytest.approx(share)


def test_frames_without_boxes_agree_and_do_not_dilute():
    assert compared([[], []], [[], []]).share.value == 1
    assert compared([[(BOX, 0.8, 0)], []], [[], []]).share.value == 0


@pytest.mark.parametrize("seed", range(5))
def test_as_many_pairs_as_the_best_assignment_has(seed):
    """Oracle: scipy's assignment over overlaps computed one by one."""
    random = np.random.default_rng([seed, 1])
    wanted = drawn(seed)
    got = [
        (list(np.array(box) + random.uniform(-3, 3, 4)), min(1, score + random.uniform(-0.1, 0.1)), kind)
        for box, score, kind in wanted[: 12 - seed]
    ]
    frames = [[each for each in frame if each[1] >= SHOWN] for frame in (wanted, got)]
    same = np.array(
        [[kind == other and _overlap(box, one) >= 0.9 for one, _, other in frames[1]] for box, _, kind in frames[0]]
    )
    pairs = same[linear_sum_assignment(-same.astype(float))].sum()
    assert 0 < pairs < len(frames[0])
    assert compared([wanted], [got]).share.value == pytest.approx(2 * pairs / sum(map(len, frames)))


def test_each_model_shows_from_its_own_confidence_on():
    """int8 shifts scores, and its fitted thresholds with them: what is shown is what is compared."""
    wanted, got = [(BOX, 0.8, 0)], [(BOX, 0.2, 0)]
    assert compared([wanted], [got]).share.value == 0
    assert compared([wanted], [got], thresholds=(0.15, 0.15)).share.value == 1


def _overlap(one, other):
    one, other = (np.clip(each, 0, 320) for each in (one, other))  # cut off at the frame's edge
    sides = [max(0.0, min(one[i + 2], other[i + 2]) - max(one[i], other[i])) for i in (0, 1)]
    common = sides[0] * sides[1]
    area = sum((each[2] - each[0]) * (each[3] - each[1]) for each in (one, other))
    return common / (area - common)
