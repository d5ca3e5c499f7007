"""What a comparison concludes: how far an interval reaches, which output counts, and whose fault an error is."""

import math

import msgspec
import numpy as np
import pytest

from edgecv_runtime import Bundle, geometry, tasks, verify
from edgecv_runtime.budget import paired, weigh
from edgecv_runtime.errors import BadInput, InvalidOutput
from edgecv_runtime.evidence import Agreement, Interval
from edgecv_runtime.head import ClassificationHead, DetectionHead, SegmentationHead
from edgecv_runtime.manifest import Budget, TensorSpec
from edgecv_runtime.offers import is_float32s
from edgecv_runtime.verify.compare import Comparison, Outputs, task_of
from edgecv_runtime.verify.score import interval, lost

MAP = (TensorSpec("mask", "uint8", ("N", 64, 64)),)
DETECTED = (TensorSpec("boxes", "float32", ("N", 2, 4)), TensorSpec("scores", "float32", ("N", 2, 1)))


def mean(tallies):
    return float(np.mean(tallies))


# How far an interval reaches


@pytest.mark.parametrize("count", [1, 2, 8, 50])
def test_frames_that_do_not_change_leave_the_doubt_of_bonett_and_price(count):
    drop, low, high = lost(mean, [0.5] * count, [0.5] * count)
    assert (drop, low, high) == pytest.approx((0, *paired(0, 0, count)), abs=1e-9)


def test_one_frame_shows_no_loss_and_a_few_perfect_ones_no_agreement():
    drop, low, high = lost(mean, [0.9], [0.39])
    assert low < 0 < drop < high <= 1
    share = interval(mean, [1.0] * 8)
    assert share.low < 0.9 < share.value == share.high == 1  # as Wilson's of 8 hits of 8
    agreement = Agreement("x", "mIoU", share, 0.0, 0.0, 0.0)
    assert weigh(Budget(), agreement, None).note
    assert weigh(Budget(), msgspec.structs.replace(agreement, share=interval(mean, [0.3] * 8)), None).broken


def test_of_many_frames_the_interval_is_that_of_their_mean():
    values = np.random.default_rng(1).uniform(size=2000)
    found = interval(mean, list(values))
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=2e-3)


# Which output counts


def manifest(finished, head, outputs):
    with Bundle(finished) as opened:
        return msgspec.structs.replace(opened.manifest, head=head, outputs=outputs)


def detected(boxes, scores):
    return {"boxes": np.array([boxes], np.float32), "scores": np.array([scores], np.float32)[..., None]}


def test_faint_scores_do_not_hide_boxes_that_are_off(finished):
    head = DetectionHead(("a",))
    wanted = detected([[10, 10, 316, 200], [0, 0, 5, 5]], [0.9, 0.1])
    task = tasks.create(head, DETECTED)
    for off, is_same in ((3.0, False), (0.2, True)):
        found = Comparison(task, "x", views=geometry.whole((320, 320)))
        found.add(0, wanted, {"boxes": wanted["boxes"] + np.float32(off), "scores": wanted["scores"] - 0.009})
        whole = msgspec.structs.replace(found.agreement, share=Interval(1.0, 1.0, 1.0, 1))
        assert is_float32s(whole, manifest(finished, head, DETECTED)) is is_same


@pytest.mark.parametrize(("pixels", "is_same"), [(1, True), (40, False)])
def test_a_stray_pixel_of_a_class_that_is_nowhere_else_is_rounding(finished, pixels, is_same):
    head = SegmentationHead(("a", "b", "c"))
    wanted = np.zeros((8, 64, 64), np.uint8)
    wanted[:, 32:] = 1
    got = wanted.copy()
    got.reshape(-1)[:pixels] = 2
    found = Comparison(tasks.create(head, MAP), "x", views=geometry.whole((64, 64)))
    found.add(0, {"mask": wanted}, {"mask": got})
    assert found.agreement.share.value < 0.67
    assert is_float32s(found.agreement, manifest(finished, head, MAP)) is is_same


def test_the_reference_shows_what_float32_shows(finished):
    with Bundle(finished) as opened:
        plain = opened.manifest.variant("float32")
    made = manifest(finished, DetectionHead(("a",), confidence=0.25), DETECTED)
    made = msgspec.structs.replace(made, variants=(msgspec.structs.replace(plain, thresholds=(0.6,)),))
    wanted = detected([[10, 10, 30, 20], [40, 40, 55, 55]], [0.9, 0.4])
    assert [len(each) for each in task_of(made).decode(wanted, [geometry.whole((320, 320))])] == [1]


# Whose fault an error is


def test_errors_of_the_reference_and_of_labels_are_not_evidence(finished):
    with Bundle(finished) as opened:
        golden = opened.golden()
        classes = len(opened.manifest.labels)
        for label in (-1, classes, 99):
            with pytest.raises(BadInput, match=f"a label is {label}, and there are {classes} classes"):
                verify.verify(opened, labels=np.full(len(golden.images), label))

        def broken(_):
            raise InvalidOutput("the reference is broken")

        with pytest.raises(InvalidOutput, match="the reference is broken"):
            verify.verify(opened, golden.images, broken)


def test_as_many_labels_and_views_as_frames():
    head = ClassificationHead(("a", "b"))
    task = tasks.create(head, (TensorSpec("logits", "float32", ("N", 2)),))
    logits = np.eye(2, dtype=np.float32)
    reference = Outputs(np.zeros((2, 4, 4, 3), np.uint8), {"logits": logits})
    for given in ({"truths": [0]}, {"views": [geometry.whole((4, 4))] * 3}):
        with pytest.raises(BadInput, match=r"2 frames, \d .*: there must be one for each frame"):
            verify.compare(task, reference, {"logits": logits}, name="x", **given)
