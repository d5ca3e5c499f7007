"""What is taken for what, counted by hand."""

import numpy as np
import pytest

from edgecv_runtime import tasks
from edgecv_runtime.head import ClassificationHead, DetectionHead, SegmentationHead
from edgecv_runtime.manifest import TensorSpec
from edgecv_runtime.tasks.confusion import of_boxes
from edgecv_runtime.tasks.detections import Boxes, Detections

LABELS = ("cat", "dog")


def detections(*rows):
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64), LABELS)


def boxes(*rows, **more):
    table = np.array(rows, np.float32).reshape(-1, 5)
    return Boxes(table[:, :4], table[:, 4].astype(np.int64), **more)


def test_boxes_are_right_mistaken_missed_or_nothing():
    truth = boxes((0, 0, 10, 10, 0), (20, 0, 30, 10, 1), (40, 0, 50, 10, 1))
    found = detections(
        (0, 0, 10, 10, 0.9, 0),  # right
        (0, 1, 10, 10, 0.8, 0),  # a second one: nothing
        (20, 0, 30, 9, 0.7, 0),  # a dog taken for a cat
        (40, 8, 50, 18, 0.6, 1),  # overlaps too little: the dog is missed, and this is nothing
    )
    told = of_boxes(found, truth, LABELS)
    assert told.names == ("cat", "dog", "nothing")
    assert told.counts.tolist() == [[1, 0, 0], [1, 0, 1], [1, 1, 0]]
    assert (told.wrong, str(told)) == (4, "1 missed, 2 extra, 1 of another class")
    assert (told + told).counts.sum() == 2 * told.counts.sum()


def test_what_is_not_asked_for_is_neither_missed_nor_extra():
    truth = boxes((0, 0, 10, 10, 0), (20, 0, 30, 10, 1), ignored=np.array([True, False]), crowd=np.array([False, True]))
    told = of_boxes(detections((0, 0, 10, 10, 0.9, 0), (20, 0, 30, 10, 0.9, 1)), truth, LABELS)
    assert told.counts.sum() == 0
    nothing = of_boxes(detections(), boxes(), LABELS)
    assert (nothing.counts.sum(), str(nothing)) == (0, "0 missed, 0 extra")


def test_two_objects_in_one_place_keep_their_own_class():
    truth = boxes((0, 0, 10, 10, 0), (0, 0, 10, 10, 1))
    told = of_boxes(detections((0, 0, 10, 10, 0.9, 1), (0, 0, 10, 10, 0.8, 0)), truth, LABELS)
    assert told.counts.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("head", "spec", "found", "true", "counts", "said"),
    [
        (
            SegmentationHead(LABELS),
            TensorSpec("mask", "uint8", ("N", 2, 3)),
            [[0, 0, 1], [1, 255, 1]],
            [[0, 1, 1], [1, 1, 255]],
            [[1, 0], [1, 2]],
            "25.0% of pixels wrong",
        ),
        (
            ClassificationHead(LABELS),
            TensorSpec("logits", "float32", ("N", 2)),
            1,
            0,
            [[0, 1], [0, 0]],
            "100.0% of frames wrong",
        ),
    ],
)
def test_tasks_count_pixels_and_frames(head, spec, found, true, counts, said):
    task = tasks.create(head, (spec,))
    given = [np.array(each) if isinstance(each, list) else each for each in (found, true)]
    told = task.confusion(*(task.truth(each) for each in given))
    assert told.counts.tolist() == counts
    assert str(told) == said


def test_a_detector_counts_what_it_shows():
    specs = TensorSpec("boxes", "float32", ("N", 1, 4)), TensorSpec("scores", "float32", ("N", 1, 2))
    task = tasks.create(DetectionHead(LABELS), specs)
    truth = task.truth(boxes((0, 0, 10, 10, 0)))
    assert task.confusion(detections(), truth).counts.tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
