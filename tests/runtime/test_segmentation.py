"""Masks: in the frame's own geometry, scored as scikit-learn scores pixels, shown and written as they are."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import rel_entr, softmax
from sklearn.metrics import accuracy_score, jaccard_score

from edgecv_runtime.errors import BadInput, InvalidOutput, ShapeError
from edgecv_runtime.geometry import whole
from edgecv_runtime.head import SegmentationHead
from edgecv_runtime.manifest import TensorSpec
from edgecv_runtime.preprocess import Preprocess
from edgecv_runtime.tasks.segmentation import Segmentation, SegmentationTask, colours

LABELS = ("ground", "road", "car")
MAP = (TensorSpec("mask", "uint8", ("N", 40, 60)),)
LOGITS = (TensorSpec("logits", "float32", ("N", 3, 40, 60)),)


def task(outputs=MAP, labels=LABELS, **settings):
    return SegmentationTask(SegmentationHead(labels, **settings), outputs)


def masks(seed, count, classes=3, size=(40, 60), ignored=0.1):
    """Class maps of blocks, some pixels of which nobody knows."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, classes, (count, 5, 6), np.uint8)
    found = coarse.repeat(size[0] // 5, 1).repeat(size[1] // 6, 2)
    found[rng.random(found.shape) < ignored] = 255
    return found


# Geometry


@pytest.mark.parametrize(
    ("mode", "source", "size"),
    [
        ("letterbox", (40, 60), (160, 160)),  # bars above and below
        ("letterbox", (90, 30), (90, 120)),  # bars left and right
        ("letterbox", (80, 120), (40, 100)),  # half as large: its corners lie on even pixels
        ("stretch", (40, 60), (120, 60)),
        ("stretch", (80, 120), (40, 60)),
        ("crop", (40, 60), (80, 80)),
        ("crop", (60, 40), (120, 60)),
    ],
)
def test_a_square_comes_back_exact_to_a_pixel(mode, source, size):
    """Oracle: OpenCV's own resize of a drawn square, read as the network's answer, against where it was drawn."""
    preprocess = Preprocess(size, mode, interpolation="area")
    view = preprocess.view(source)
    top, left = (view.seen.top + 9) // 2 * 2, (view.seen.left + 11) // 2 * 2
    frame = np.zeros((*source, 3), np.uint8)
    frame[top : top + 14, left : left + 12] = 255
    answer = (preprocess(frame)[None, :, :, 0] > 127).astype(np.uint8)
    (result,) = task((TensorSpec("mask", "uint8", ("N", *size)),)).decode({"mask": answer}, [view])
    seen = np.zeros(source, bool)
    seen[view.seen.slices] = True
    assert np.array_equal(result.mask == 1, frame[..., 0] == 255)
    assert np.array_equal(result.mask == 255, ~seen)
    assert (mode == "crop") == (not seen.all())


def test_frames_of_a_batch_have_their_own_geometry():
    preprocess = Preprocess((40, 60), "letterbox")
    sizes = [(40, 60), (100, 60), (31, 97)]
    results = task().decode({"mask": masks(0, 3, ignored=0)}, [preprocess.view(size) for size in sizes])
    assert [result.mask.shape for result in results] == sizes


def test_logits_are_the_class_map_of_their_largest():
    logits = np.random.default_rng(0).normal(size=(2, 3, 40, 60)).astype(np.float32)
    views = [whole((40, 60))] * 2
    found = task(LOGITS).decode({"logits": logits}, views)
    wanted = task().decode({"mask": logits.argmax(1).astype(np.int64)}, views)
    kept = task((TensorSpec("mask", "int64", ("N", 1, 40, 60)),)).decode({"mask": logits.argmax(1)[:, None]}, views)
    for one, other, third in zip(found, wanted, kept, strict=True):
        assert one.mask.dtype == np.uint8
        assert np.array_equal(one.mask, other.mask)
        assert np.array_equal(one.mask, third.mask)


# Scores


@given(st.integers(0, 999), st.integers(1, 4), st.integers(2, 6))
@settings(max_examples=40, deadline=None)
def test_scores_are_those_of_scikit_learn(seed, count, classes):
    judge = task(labels=tuple("abcdef"))  # some classes never occur
    truths, found = masks(seed, count, classes), masks(seed + 1000, count, classes, ignored=0)
    tallies = [judge.tally(judge.truth(one), judge.truth(other)) for one, other in zip(found, truths, strict=True)]
    assert all(tally.nbytes < 200 for tally in tallies)
    known = truths != 255
    right, told = truths[known], found[known]
    assert judge.score(tallies) == pytest.approx(jaccard_score(right, told, average="macro"))
    assert judge.pixel_accuracy(tallies) == pytest.approx(accuracy_score(right, told))
    occur = np.union1d(right, told)
    each = judge.overlaps(tallies)
    assert each[occur] == pytest.approx(jaccard_score(right, told, average=None, labels=occur))
    assert np.isnan(np.delete(each, occur)).all()


def test_what_was_not_seen_is_missed_and_what_nobody_knows_does_not_count():
    judge = task()
    truth = np.array([[0, 0, 1, 1], [255, 255, 1, 1]], np.uint8)
    result = np.array([[0, 0, 255, 255], [2, 2, 1, 1]], np.uint8)
    tally = judge.tally(judge.truth(result), judge.truth(truth))
    assert judge.overlaps([tally])[:2].tolist() == [1.0, 0.5]
    assert judge.score([tally]) == 0.75
    assert judge.pixel_accuracy([tally]) == pytest.approx(4 / 6)
    silent = judge.tally(judge.truth(result), judge.truth(np.full((2, 4), 255)))
    assert np.isnan([judge.score([]), judge.score([silent])]).all()


def test_divergence_is_0_for_equal_outputs_and_else_scipys():
    rng = np.random.default_rng(0)
    one, other = (rng.normal(size=(2, 3, 8, 6)).astype(np.float32) * 4 for _ in range(2))
    other[0] = one[0]
    wanted = rel_entr(softmax(one, 1), softmax(other, 1)).sum(1).mean((1, 2))
    found = task(LOGITS).divergence({"logits": one}, {"logits": other})
    assert found == pytest.approx(wanted, abs=1e-5)
    assert found[0] == 0
    maps = one.argmax(1), other.argmax(1)
    changed = task().divergence({"mask": maps[0]}, {"mask": maps[1]})
    assert changed == pytest.approx((maps[0] != maps[1]).mean((1, 2)), abs=1e-6)


def test_squares_are_those_of_logits_and_of_classes_one_hot():
    one, other = np.random.default_rng(0).normal(size=(2, 2, 3, 4, 5)).astype(np.float32)
    wanted = np.square(one - other).sum(), np.square(one).sum()
    assert task(LOGITS).squares({"logits": one}, {"logits": other}) == pytest.approx(wanted, rel=1e-5)
    maps = one.argmax(1).astype(np.uint8), other.argmax(1).astype(np.uint8)
    hot = [np.eye(3)[each] for each in maps]
    wanted = np.square(hot[0] - hot[1]).sum(), np.square(hot[0]).sum()
    assert task().squares({"mask": maps[0]}, {"mask": maps[1]}) == wanted


# What is shown


def test_shares_are_of_what_was_seen():
    mask = np.array([[0, 0, 0, 1], [1, 255, 255, 255]], np.uint8)
    result = Segmentation(mask, LABELS)
    assert result.shares == {"ground": 0.6, "road": 0.4}
    assert str(result) == "ground 60%, road 40%"
    assert result.as_dict() == {
        "height": 2,
        "width": 4,
        "classes": [
            {"label": "ground", "index": 0, "share": 0.6, "pixels": 3},
            {"label": "road", "index": 1, "share": 0.4, "pixels": 2},
        ],
    }
    assert str(Segmentation(np.full((2, 2), 255, np.uint8), LABELS)) == "nothing"
    assert str(Segmentation(np.arange(5, dtype=np.uint8)[None], tuple("abcde"))) == "a 20%, b 20%, c 20% and 2 more"
    assert "&lt;b&gt;" in Segmentation(mask, ("<b>", "c"))._repr_html_()


def test_the_mask_is_written_as_a_png_of_class_positions(tmp_path):
    from PIL import Image

    mask = masks(0, 1)[0]
    (tmp_path / "mask.png").write_bytes(Segmentation(mask, LABELS).png())
    with Image.open(tmp_path / "mask.png") as picture:
        assert picture.mode == "L"
        assert np.array_equal(np.asarray(picture), mask)


def test_classes_are_drawn_in_their_colours_over_the_frame():
    mask = np.zeros((240, 320), np.uint8)
    mask[120:, :160], mask[120:, 160:] = 2, 255
    frame = np.full((240, 320, 3), 100, np.uint8)
    before = frame.copy()
    shown = Segmentation(mask, LABELS, background=0).draw(frame)
    assert np.array_equal(frame, before)
    assert (shown[60:118, 200:] == 100).all()  # the background
    assert (shown[122:, 162:] == 100).all()  # what was not seen
    green = shown[122:, :158]
    assert np.array_equal(green.max((0, 1)), green.min((0, 1)))
    assert green[0, 0].argmax() == 1
    assert (shown[:40, :60] != 100).any()  # the legend
    without = Segmentation(np.zeros((240, 320), np.uint8), LABELS, background=0).draw(frame)
    assert np.array_equal(without, frame)
    tiny = Segmentation(np.ones((3, 2), np.uint8), ("x", "é"))
    assert tiny.draw(np.zeros((3, 2, 3), np.uint8)).shape == (3, 2, 3)


def test_colours_are_those_of_pascal_voc():
    """Source: the table of its development kit, "aeroplane" (128, 0, 0), "bicycle" (0, 128, 0), ... in RGB."""
    rgb = colours(21)[:, ::-1].tolist()
    assert rgb[:5] == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]
    assert rgb[20] == [0, 64, 128]
    assert len({tuple(colour) for colour in colours(256).tolist()}) == 256


# What is refused, in one line

SPECS = {
    "two outputs": (MAP + LOGITS, "wants one output, the model has 2"),
    "a classifier's": ((TensorSpec("y", "float32", ("N", 3)),), r"'y' is \('N', 3\) float32"),
    "floats without classes": ((TensorSpec("y", "float32", ("N", 40, 60)),), "class map .* of integers or logits"),
    "other labels": ((TensorSpec("y", "float32", ("N", 21, 40, 60)),), "has 21 classes, but 3 labels were given"),
}


@pytest.mark.parametrize("kind", SPECS)
def test_a_head_that_does_not_fit_the_outputs(kind):
    outputs, said = SPECS[kind]
    with pytest.raises(BadInput, match=said) as refused:
        task(outputs)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"labels": ()}, "1 to 255 labels"),
        ({"ignore": 2}, "a value that no class has, 3 to 255, got 2"),
        ({"ignore": 256}, "3 to 255, got 256"),
        ({"background": 3}, "0 to 2, got 3"),
    ],
)
def test_a_head_that_cannot_be(settings, said):
    with pytest.raises(BadInput, match=said):
        SegmentationHead(**{"labels": LABELS} | settings)


def broken(value):
    logits = np.zeros((2, 3, 40, 60), np.float32)
    logits[1, 2, 3, 4] = value
    return logits


ANSWERS = {
    "NaN": (LOGITS, broken(np.nan), InvalidOutput, "1 of 2 outputs hold NaN"),
    "infinite": (LOGITS, broken(np.inf), InvalidOutput, "1 of 2 outputs hold NaN"),
    "too many classes": (LOGITS, np.zeros((2, 4, 40, 60), np.float32), BadInput, "has 4 classes"),
    "another count": (MAP, np.zeros((3, 40, 60), np.uint8), BadInput, "for 2 frames"),
    "a row": (LOGITS, np.zeros((2, 3), np.float32), BadInput, "neither class maps nor logits"),
    "another size": (MAP, np.zeros((2, 10, 15), np.uint8), BadInput, "masks of 10x15 for an input of 40x60"),
    "a class without label": (MAP, np.full((2, 40, 60), 3, np.uint8), InvalidOutput, "holds 3, .* 3 labels"),
    "a negative class": (MAP, np.full((2, 40, 60), -1, np.int64), InvalidOutput, "holds -1"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ANSWERS)
def test_an_answer_that_is_none(kind):
    outputs, answer, error, said = ANSWERS[kind]
    with pytest.raises(error, match=said) as refused:
        task(outputs).decode({outputs[0].name: answer}, [whole((40, 60))] * 2)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.zeros((4, 4), np.float32), r"got \(4, 4\) float32"),
        (np.zeros((4, 4, 3), np.uint8), r"\(H, W\) of integers, got \(4, 4, 3\)"),
        (np.full((4, 4), 254, np.uint8), "the true mask holds 254"),
    ],
)
def test_a_truth_that_is_none(given, said):
    with pytest.raises(BadInput, match=said):
        task().truth(given)


def test_masks_of_different_frames_are_not_compared_nor_drawn():
    small, large = (Segmentation(np.zeros(size, np.uint8), LABELS) for size in ((4, 4), (8, 4)))
    with pytest.raises(BadInput, match="the mask is 4x4, the truth 8x4"):
        task().tally(small, large)
    with pytest.raises(ShapeError, match="the mask is 4x4, the frame 8x4"):
        small.draw(np.zeros((8, 4, 3), np.uint8))


@pytest.mark.parametrize(("mode", "ignore"), [*product(("crop", "letterbox"), (255, 200))])
def test_the_value_of_what_does_not_count_is_the_heads(mode, ignore):
    view = Preprocess((40, 60), mode).view((90, 60))
    (result,) = task(ignore=ignore).decode({"mask": np.ones((1, 40, 60), np.uint8)}, [view])
    assert set(np.unique(result.mask)) == ({1, ignore} if mode == "crop" else {1})
