"""Detection on the device: decoding, suppression, results. Oracles: brute force, and the View tested elsewhere."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from edgecv_runtime.errors import BadInput, InvalidOutput, ShapeError
from edgecv_runtime.geometry import letterboxed, stretched, whole
from edgecv_runtime.head import DetectionHead
from edgecv_runtime.manifest import TensorSpec
from edgecv_runtime.preprocess import Preprocess
from edgecv_runtime.tasks.detection import FAINTEST, Boxes, DetectionTask
from edgecv_runtime.tasks.nms import overlaps, suppressed

LABELS = ("cat", "dog", "bird")
PLACES = 50
OUTPUTS = (
    TensorSpec("boxes", "float32", ("N", PLACES, 4)),
    TensorSpec("scores", "float32", ("N", PLACES, len(LABELS))),
)


def task(thresholds=(), **head):
    return DetectionTask(DetectionHead(LABELS, **head), OUTPUTS, thresholds=thresholds)


def outputs(places=PLACES, seed=0, side=64, classes=3, frames=1):
    random = np.random.default_rng(seed)
    corners = random.uniform(0, side, (frames, places, 2, 2))
    boxes = np.concatenate([corners.min(2), corners.max(2)], axis=2).astype(np.float32)
    return {"boxes": boxes, "scores": random.uniform(0, 1, (frames, places, classes)).astype(np.float32)}


def by_hand(boxes, scores, threshold, overlap):
    """Candidates one by one, each against all that stay, in plain Python."""

    def iou(one, other):
        width = min(one[2], other[2]) - max(one[0], other[0])
        height = min(one[3], other[3]) - max(one[1], other[1])
        common = max(0, width) * max(0, height)
        both = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
        return common / (both - common)

    candidates = [
        (float(scores[place, kind]), kind, [float(value) for value in boxes[place]])
        for place in range(len(boxes))
        for kind in range(scores.shape[1])
        if scores[place, kind] >= threshold
    ]
    stay = []
    for score, kind, box in sorted(candidates, key=lambda each: -each[0]):
        if all(other[1] != kind or iou(box, other[2]) <= overlap for other in stay):
            stay.append((score, kind, box))
    return stay


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("overlap", [0.3, 0.65])
def test_decoding_is_what_one_does_by_hand(seed, overlap):
    given = outputs(seed=seed)
    (found,) = task((0.4,) * 3, overlap=overlap).decode(given, [whole((64, 64))])
    right = by_hand(given["boxes"][0], given["scores"][0], 0.4, overlap)
    assert found.class_id.tolist() == [kind for _, kind, _ in right]
    assert found.confidence == pytest.approx([score for score, _, _ in right])
    assert found.xyxy == pytest.approx(np.array([box for _, _, box in right]), abs=1e-4)
    assert (found.xyxy.dtype, found.confidence.dtype, found.class_id.dtype) == (np.float32, np.float32, np.int64)


def test_more_boxes_than_a_block_are_suppressed_alike():
    given = outputs(places=900, seed=5, classes=1, side=300)
    boxes, scores = given["boxes"][0], given["scores"][0]
    order = np.argsort(-scores[:, 0], kind="stable")
    stays = suppressed(boxes[order], np.zeros(900, np.int64), 0.5, 900)
    right = by_hand(boxes, scores, 0, 0.5)
    assert scores[order[stays], 0].tolist() == pytest.approx([score for score, _, _ in right])
    assert suppressed(boxes[order], np.zeros(900, np.int64), 0.5, 7).tolist() == stays[:7].tolist()


@pytest.mark.parametrize("mode", ["letterbox", "stretch", "crop"])
def test_boxes_lie_in_the_frame(mode):
    """Oracle: the preprocessing itself; a bright rectangle in the frame, its box read off the network's input."""
    frame = np.zeros((240, 320, 3), np.uint8)
    frame[90:150, 120:200] = 255
    preprocess = Preprocess((64, 64), mode, interpolation="area")
    lit = np.argwhere(preprocess(frame)[:, :, 0] > 127)
    box = [*lit.min(0)[::-1], *(lit.max(0)[::-1] + 1)]
    given = {"boxes": np.array([[box]], np.float32), "scores": np.array([[[0.9, 0, 0]]], np.float32)}
    (found,) = task().decode(given, [preprocess.view(frame.shape[:2])])
    assert found.xyxy[0] == pytest.approx([120, 90, 200, 150], abs=5)  # a pixel of the input is 3.75 to 5 of the frame


def test_boxes_end_at_the_frame_and_those_beyond_are_nothing():
    view = letterboxed((100, 200), (64, 64))  # rows 16 to 48 of the input
    given = {
        "boxes": np.array([[[-10, 10, 30, 60], [5, 0, 20, 15], [30, 20, 30, 40]]], np.float32),
        "scores": np.array([[[0.9, 0, 0], [0.8, 0, 0], [0.7, 0, 0]]], np.float32),
    }
    (found,) = task().decode(given, [view])
    assert found.xyxy.tolist() == [[0, 0, 93.75, 100]]
    assert found.dropped == 0


def test_too_many_boxes_are_bounded_and_counted():
    given = outputs(places=4000, seed=1, side=2000)
    given["scores"][:] = np.where(given["scores"] > 0.9, given["scores"], 0)
    many = int((given["scores"] > 0).sum())
    (found,) = task(candidates=500, most=20).decode(given, [whole((2000, 2000))])
    assert len(found) == 20
    assert many - 500 < found.dropped <= many - 20
    assert found.confidence.min() >= np.sort(given["scores"].ravel())[-500]
    assert str(found).endswith(f", {found.dropped} more left out")


def test_each_class_has_its_own_threshold_and_ranking_shows_all():
    given = outputs(seed=2)
    (found,) = task((0.9, 0.5, 1)).decode(given, [whole((64, 64))])
    assert found.confidence[found.class_id == 0].min() >= 0.9
    assert 0.5 <= found.confidence[found.class_id == 1].min() < 0.6
    assert not (found.class_id == 2).any()
    (ranked,) = task((0.9, 0.5, 1)).ranking().decode(given, [whole((64, 64))])
    assert len(ranked) > 2 * len(found)
    assert ranked.confidence.min() < 0.2
    assert FAINTEST < 0.2
    shown = ranked.confidence >= np.array([0.9, 0.5, 1])[ranked.class_id]
    assert ranked.pick(shown).xyxy.tolist() == found.xyxy.tolist()


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        (lambda each: each["scores"].__setitem__((1, 3, 0), np.nan), InvalidOutput, "1 of 2 outputs hold NaN"),
        (lambda each: each["boxes"].__setitem__((1, 3, 0), np.inf), InvalidOutput, "3 of .* boxes hold NaN"),
        (lambda each: each.update(scores=each["scores"] * 9 - 4), BadInput, "lie in 0..1.*lacks a sigmoid"),
        (lambda each: each.update(scores=each["scores"][:, :-1]), BadInput, "gave boxes .* and scores"),
        (lambda each: each.update(scores=each["scores"][..., :2]), BadInput, "scores 2 classes, but there are 3"),
        (lambda each: each.update(boxes=each["boxes"][:1]), BadInput, "2 frames gave boxes"),
    ],
)
def test_outputs_that_cannot_be_are_one_clear_line(change, error, told):
    given = outputs(frames=2)
    given["scores"][1, 3] = 0.99
    change(given)
    with pytest.raises(error, match=told):
        task().decode(given, [whole((64, 64))] * 2)


@pytest.mark.parametrize(
    ("specs", "told"),
    [
        (OUTPUTS[:1], "wants the outputs 'boxes' and 'scores', the model has boxes"),
        ((), "the model has none"),
        ((TensorSpec("boxes", "float32", ("N", 50, 5)), OUTPUTS[1]), "'boxes' of shape .N, A, 4., it is"),
        ((OUTPUTS[0], TensorSpec("scores", "float32", ("N", 50, 80))), "'scores' of shape .N, A, 3., one a label"),
        ((OUTPUTS[0], TensorSpec("scores", "float32", ("N", 51, 3))), "50 boxes and 51 scores"),
    ],
)
def test_a_head_that_does_not_fit_the_outputs_is_refused(specs, told):
    with pytest.raises(BadInput, match=told):
        DetectionTask(DetectionHead(LABELS), specs)


@pytest.mark.parametrize("bad", [{"labels": ()}, {"overlap": 1.0}, {"confidence": 0.0}, {"most": 2000}])
def test_a_head_checks_itself(bad):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"task": "detection", "labels": LABELS, **bad}, DetectionHead)
    with pytest.raises(BadInput, match="2 thresholds for 3 labels"):
        task((0.1, 0.2))


def test_a_result_tells_itself():
    given = outputs(seed=3, side=200)
    (found,) = task((0.9,) * 3).decode(given, [whole((200, 200))])
    plain = found.as_dict()
    assert len(plain["boxes"]) == len(found) > 3
    assert msgspec.json.decode(msgspec.json.encode(plain)) == plain
    assert plain["boxes"][0]["label"] == LABELS[found.class_id[0]]
    assert plain["boxes"][0]["box"] == pytest.approx(found.xyxy[0].tolist(), abs=0.01)
    counts = {name: int((found.class_id == kind).sum()) for kind, name in enumerate(LABELS)}
    assert all(f"{count} {name}" in str(found) for name, count in counts.items() if count)
    assert found._repr_html_().count("<tr>") == min(len(found), 20) + 1
    frame = np.full((200, 200, 3), 40, np.uint8)
    drawn = found.draw(frame)
    assert (frame == 40).all()
    assert drawn.shape == frame.shape
    left, top, *_ = (round(float(value)) for value in found.xyxy[0])
    assert (drawn[min(top, 199), min(left, 199)] != 40).any()
    (empty,) = task((1.0,) * 3).decode(given, [whole((200, 200))])
    assert str(empty) == "nothing found"
    assert empty.as_dict()["boxes"] == []
    assert (empty.draw(frame) == frame).all()


def test_boxes_fit_themselves():
    with pytest.raises(ShapeError, match="boxes want xyxy"):
        Boxes(np.zeros((2, 4), np.float32), np.zeros(3, np.int64))
    one = Boxes(np.ones((1, 4), np.float32), np.zeros(1, np.int64))
    assert one == Boxes(np.ones((1, 4), np.float32), np.zeros(1, np.int64))
    assert one != Boxes(np.ones((1, 4), np.float32), np.zeros(1, np.int64), crowd=np.ones(1, bool))


def test_divergence_is_zero_for_equals_and_grows_with_either_output():
    given = outputs(frames=3, seed=4)
    same = task()
    assert same.divergence(given, given).tolist() == [0, 0, 0]
    moved = {"boxes": given["boxes"].copy(), "scores": given["scores"].copy()}
    moved["boxes"][1] += 3
    moved["scores"][2] = np.clip(moved["scores"][2] + 0.1, 0, 1)
    first, second, third = same.divergence(given, moved)
    assert first == 0
    assert second > 0.01
    assert third > 0.01
    far = {"boxes": given["boxes"] + 9, "scores": given["scores"]}
    assert same.divergence(given, far)[1] > second
    clipped = (np.clip(each["scores"], 0.001, 0.999) for each in (given, moved))
    one, other = (np.log(each) - np.log(1 - each) for each in clipped)
    assert same.squares(given, moved) == pytest.approx((np.square(one - other).sum(), np.square(one).sum()), rel=1e-4)


def test_scores_that_nothing_ranks_are_alike():
    """Of a thousand places all but some are empty: that 0.0005 became 0 is nothing, and would be half of all logits."""
    given = outputs(frames=1, seed=4)
    given["scores"][:] = 0.0005
    assert task().squares(given, {**given, "scores": np.zeros_like(given["scores"])})[0] == 0


def test_overlaps_of_known_boxes():
    one = np.array([[0, 0, 10, 10], [5, 5, 5, 9]], np.float32)
    other = np.array([[0, 0, 10, 5], [20, 20, 30, 30], [5, 5, 5, 9]], np.float32)
    assert overlaps(one, other).tolist() == [[0.5, 0, 0], [0, 0, 0]]
    assert stretched((10, 20), (20, 20)).to_source(other[:1]).tolist() == [[0, 0, 10, 2.5]]


def test_a_crowd_agrees_with_itself():
    """More boxes of a class than average precision counts: as a truth, a model's own are as many as of a result."""
    corner = np.stack(np.meshgrid(np.arange(20) * 10.0, np.arange(10) * 10.0), -1).reshape(1, -1, 2)
    boxes = np.concatenate([corner, corner + 8], 2).astype(np.float32)
    scores = np.zeros((1, 200, 3), np.float32)
    scores[0, :, 1] = np.linspace(0.3, 0.9, 200)
    crowd = task()
    given, view = {"boxes": boxes, "scores": scores}, [whole((100, 200))]
    (shown,), (ranked,) = crowd.decode(given, view), crowd.ranking().decode(given, view)
    assert len(shown.xyxy) == 200
    assert crowd.score([crowd.tally(ranked, shown)]) == 1
