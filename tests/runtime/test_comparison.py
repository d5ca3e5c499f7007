"""What a comparison concludes: how far an interval reaches, which output counts, and whose fault an error is."""

import math
import sys

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
from edgecv_runtime.target import targets
from edgecv_runtime.tasks.pairing import Pairs
from edgecv_runtime.tasks.segmentation import SegmentationTask
from edgecv_runtime.verify import blame
from edgecv_runtime.verify.compare import Comparison, Known, Outputs, task_of
from edgecv_runtime.verify.score import Figure, interval, lost

MAP = (TensorSpec("mask", "uint8", ("N", 64, 64)),)
DETECTED = (TensorSpec("boxes", "float32", ("N", 2, 4)), TensorSpec("scores", "float32", ("N", 2, 1)))


class Mean:
    """A metric that is no share of hits."""

    def score(self, tallies):
        return float(np.mean(tallies))

    def resampled(self, tallies, times):
        return times @ np.array(tallies) / times.sum(axis=1)


def mean(tallies):
    return Figure(Mean(), tallies)


# How far an interval reaches


@pytest.mark.parametrize("count", [1, 2, 8, 50])
def test_frames_that_do_not_change_leave_the_doubt_of_bonett_and_price(count):
    drop, low, high = lost(mean([0.5] * count), mean([0.5] * count))
    assert (drop, low, high) == pytest.approx((0, *paired(0, 0, count)), abs=1e-9)


def test_one_frame_shows_no_loss_and_a_few_perfect_ones_no_agreement():
    drop, low, high = lost(mean([0.9]), mean([0.39]))
    assert low < 0 < drop < high <= 1
    share = interval(mean([1.0] * 8))
    assert share.low < 0.9 < share.value == share.high == 1  # as Wilson's of 8 hits of 8
    agreement = Agreement("x", "mIoU", share, 0.0, 0.0, 0.0)
    assert weigh(Budget(), agreement, None).note
    assert weigh(Budget(), msgspec.structs.replace(agreement, share=interval(mean([0.3] * 8))), None).broken


def test_of_many_frames_the_interval_is_that_of_their_mean():
    values = np.random.default_rng(1).uniform(size=2000)
    found = interval(mean(list(values)))
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=2e-3)


SCORED = {
    "classification": (
        ClassificationHead(("a", "b")),
        (TensorSpec("l", "float32", ("N", 2)),),
        [True, False, True] * 3,
    ),
    "segmentation": (SegmentationHead(("a", "b")), MAP, [np.array([[i, 1], [3, 2], [i, i + 2]]) for i in range(1, 10)]),
    "pairs": (DetectionHead(("a",)), DETECTED, [Pairs(i % 3, 4 + i % 2) for i in range(9)]),
}


@pytest.mark.parametrize("name", SCORED)
def test_resampled_frames_are_scored_as_the_same_frames_given_again_and_again(name):
    head, outputs, tallies = SCORED[name]
    task = tasks.create(head, outputs)
    metric = task.agreement() if name == "pairs" else task
    drawn = np.random.default_rng(0).integers(0, len(tallies), (20, len(tallies)))
    times = np.stack([np.bincount(each, minlength=len(tallies)) for each in drawn])
    again = [metric.score([tallies[index] for index in each]) for each in drawn]
    assert metric.resampled(tallies, times).tolist() == pytest.approx(again, abs=1e-12)
    assert len(set(again)) > 2


def test_what_shares_a_reference_tallies_it_once_and_finds_what_each_finds_alone(monkeypatch):
    task = tasks.create(SegmentationHead(("a", "b")), MAP)
    random = np.random.default_rng(0)
    truths, *masks = random.integers(0, 2, (4, 12, 64, 64)).astype(np.uint8)
    frames = np.zeros((12, 64, 64, 3), np.uint8)

    def compared(known):
        given = {"name": "x", "truths": truths, "known": known}
        return [verify.compare(task, Outputs(frames, {"mask": masks[0]}), {"mask": each}, **given)[0] for each in masks]

    alone = compared(None)
    tallied = []
    tally = SegmentationTask.tally
    monkeypatch.setattr(SegmentationTask, "tally", lambda *given: tallied.append(given[1:]) or tally(*given))
    together = compared(Known())
    assert len(tallied) == 12 * (3 + 3 + 1)  # with the reference, with the truth, and the reference with the truth
    for one, other in zip(alone, together, strict=True):
        assert one.score == other.score
        assert one.agreement == other.agreement
        np.testing.assert_array_equal(one.reference_tallies, other.reference_tallies)


def test_frames_of_which_nothing_is_known_are_no_figure_and_change_none():
    task = tasks.create(SegmentationHead(("a", "b")), MAP)
    masks = np.random.default_rng(0).integers(0, 2, (8, 64, 64)).astype(np.uint8)
    frames, silent = np.zeros((8, 64, 64, 3), np.uint8), np.full((64, 64), 255, np.uint8)
    outputs = {"mask": masks}

    def scored(truths):
        return verify.compare(task, Outputs(frames, outputs), outputs, name="x", truths=truths)[0].score

    assert scored([silent] * 8) is None
    some = scored([masks[0], *[silent] * 7])
    assert (some.value, some.reference, some.drop) == (1, 1, 0)
    assert math.isfinite(some.low + some.high + some.drop_low + some.drop_high)
    nothing = [task.tally(task.truth(masks[0]), task.truth(silent))]
    assert math.isnan(task.score(nothing))
    assert task.figures(nothing) == task.by_class(nothing) == {}


# Which output counts


def manifest(finished, head, outputs):
    with Bundle(finished) as opened:
        return msgspec.structs.replace(opened.manifest, head=head, outputs=outputs)


def detected(boxes, scores):
    return {"boxes": np.array([boxes], np.float32), "scores": np.array([scores], np.float32)[..., None]}


def test_faint_scores_do_not_hide_boxes_that_are_off():
    head = DetectionHead(("a",))
    wanted = detected([[10, 10, 316, 200], [0, 0, 5, 5]], [0.9, 0.1])
    task = tasks.create(head, DETECTED)
    for off, is_same in ((3.0, False), (0.2, True)):
        found = Comparison(task, "x", views=geometry.whole((320, 320)))
        found.add(0, wanted, {"boxes": wanted["boxes"] + np.float32(off), "scores": wanted["scores"] - 0.0009})
        whole = msgspec.structs.replace(found.agreement, share=Interval(1.0, 1.0, 1.0, 1))
        assert is_float32s(whole, head, DETECTED) is is_same


def test_a_detector_agrees_with_itself_where_the_thresholds_of_its_classes_differ():
    """The boxes of a class with a low threshold are shown, though those of another would leave no place for them."""
    head = DetectionHead(("sure", "faint"), candidates=4, most=4)
    outputs = (TensorSpec("boxes", "float32", ("N", 5, 4)), TensorSpec("scores", "float32", ("N", 5, 2)))
    corners = np.arange(5, dtype=np.float32)[:, None] * 60 + np.array([0, 0, 50, 50], np.float32)
    scores = np.float32([[0.95, 0], [0.6, 0], [0.6, 0], [0.6, 0], [0, 0.1]])
    given = {"boxes": corners[None], "scores": scores[None]}
    found = Comparison(tasks.create(head, outputs).at((0.9, 0.05)), "x", views=geometry.whole((320, 320)))
    found.add(0, given, given)
    assert found.agreement.share.value == pytest.approx(1)


@pytest.mark.parametrize(("pixels", "is_same"), [(1, True), (40, False)])
def test_a_stray_pixel_of_a_class_that_is_nowhere_else_is_rounding(pixels, is_same):
    head = SegmentationHead(("a", "b", "c"))
    wanted = np.zeros((8, 64, 64), np.uint8)
    wanted[:, 32:] = 1
    got = wanted.copy()
    got.reshape(-1)[:pixels] = 2
    found = Comparison(tasks.create(head, MAP), "x", views=geometry.whole((64, 64)))
    found.add(0, {"mask": wanted}, {"mask": got})
    assert found.agreement.share.value < 0.67
    assert is_float32s(found.agreement, head, MAP) is is_same


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


def test_the_frames_that_are_not_finite_are_the_ones_looked_into():
    task = tasks.create(ClassificationHead(("a", "b")), (TensorSpec("logits", "float32", ("N", 2)),))
    logits = np.tile(np.eye(2, dtype=np.float32), (10, 1))
    broken = logits.copy()
    broken[[5, 11]] = np.nan
    reference = Outputs(np.zeros((20, 4, 4, 3), np.uint8), {"logits": logits})
    with pytest.raises(InvalidOutput, match="2 of 20 outputs hold NaN") as caught:
        verify.compare(task, reference, {"logits": broken}, name="x")
    assert caught.value.frames == (5, 11)


def test_nan_in_one_frame_is_found_there(finished, monkeypatch):
    """The other frames of the same backend are finite: only those that are not tell where it begins."""
    looked = []
    monkeypatch.setattr(blame, "name", lambda case: looked.append(case.picked))
    with Bundle(finished) as opened:
        golden = opened.golden()
        target = targets(opened)[0]
        backend = target.open()
        run = backend.run
        count = iter(range(100))

        def breaking(feeds):
            found = {name: np.array(each) for name, each in run(feeds).items()}
            if next(count) == 0:
                next(iter(found.values()))[[3, 6]] = np.nan
            return found

        monkeypatch.setattr(backend, "run", breaking)
        verify.self_test(opened, target, backend)
        backend.close()
    assert len(golden.images) > 6
    assert looked == [[3, 6]]


def test_a_figure_is_computed_once_and_again_when_frames_come(monkeypatch):
    task = tasks.create(ClassificationHead(("a", "b")), (TensorSpec("logits", "float32", ("N", 2)),))
    calls = []
    monkeypatch.setattr(
        sys.modules[Comparison.__module__], "interval", lambda *given: calls.append(1) or interval(*given)
    )
    logits = {"logits": np.eye(2, dtype=np.float32)}
    found = Comparison(task, "x", truths=[0, 1, 1, 1])
    found.add(0, logits, logits)
    assert [found.agreement.share.count, found.agreement.share.count, len(calls)] == [2, 2, 1]
    assert found.score == found.score
    assert (found.score.value, len(calls)) == (1, 2)
    found.add(2, logits, logits)
    assert (found.agreement.share.count, found.score.value) == (4, 0.75)


def test_one_array_is_no_reference_of_two_outputs(finished_copy):
    with Bundle(finished_copy) as opened:
        two = msgspec.structs.replace(opened.manifest, head=DetectionHead(("a",)), outputs=DETECTED)
        opened.manifest = two
        with pytest.raises(BadInput, match="the network gives boxes, scores, and one array as reference"):
            verify.verify(opened, np.zeros((1, 4, 4, 3), np.uint8), np.zeros((1, 2, 4), np.float32))
