"""The division: stratified, seeded, by content, and no image on both sides."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecv.data.dataset import Images
from edgecv.data.split import hold_out, listed
from edgecv_runtime.errors import BadInput, DatasetError

CONTENT = st.integers(0, 10**6).map(lambda number: f"{number:07d}")
# Class by class, different contents; each may occur in several copies.
CLASSES = st.lists(st.lists(CONTENT, min_size=2, max_size=30, unique=True), min_size=2, max_size=5).filter(
    lambda classes: len({stamp for stamps in classes for stamp in stamps}) == sum(map(len, classes))
)
SHARE = st.floats(0.05, 0.95)


def pictures(classes, copies=1, order=None):
    pairs = [(stamp, label) for label, stamps in enumerate(classes) for stamp in stamps for _ in range(copies)]
    if order is not None:
        pairs = [pairs[index] for index in np.random.default_rng(order).permutation(len(pairs))]
    stamps = tuple(stamp for stamp, _ in pairs)
    labels = np.array([label for _, label in pairs], np.int64)
    return Images(tuple(f"file {number}" for number in range(len(pairs))), stamps, lambda index: index, labels)


def names(classes):
    return [f"class {number}" for number in range(len(classes))]


@given(CLASSES, SHARE, st.integers(0, 9), st.integers(1, 3))
def test_each_class_is_divided_in_the_wanted_share(classes, share, seed, copies):
    train, val = hold_out(pictures(classes, copies), names(classes), share, seed)
    assert Counter([*train.stamps, *val.stamps]) == Counter(pictures(classes, copies).stamps)
    assert not set(train.stamps) & set(val.stamps)
    for label, stamps in enumerate(classes):
        held = len({stamp for stamp, of in zip(val.stamps, val.labels, strict=True) if of == label})
        assert held == min(max(1, round(len(stamps) * share)), len(stamps) - 1)


@given(CLASSES, SHARE, st.integers(0, 9), st.integers(0, 99))
def test_order_and_names_do_not_matter(classes, share, seed, order):
    one, other = pictures(classes), pictures(classes, order=order)
    assert set(hold_out(one, names(classes), share, seed)[1].stamps) == set(
        hold_out(other, names(classes), share, seed)[1].stamps
    )


@given(CLASSES, SHARE, CONTENT)
def test_one_image_more_moves_at_most_one_other(classes, share, new):
    if any(new in stamps for stamps in classes):
        return
    before = set(hold_out(pictures(classes), names(classes), share, 0)[1].stamps)
    more = [[*classes[0], new], *classes[1:]]
    after = set(hold_out(pictures(more), names(classes), share, 0)[1].stamps)
    assert len((before ^ after) - {new}) <= 1


def test_another_seed_divides_otherwise():
    classes = [[f"{label}{number}" for number in range(40)] for label in range(3)]
    divisions = {hold_out(pictures(classes), names(classes), 0.2, seed)[1].fingerprint() for seed in range(10)}
    assert len(divisions) == 10


@given(st.lists(st.integers(0, 4), min_size=1, max_size=200), st.integers(0, 210), st.integers(0, 5))
@settings(max_examples=200)
def test_a_choice_is_balanced_and_seeded(labels, count, seed):
    stamps = tuple(str(number) for number in range(len(labels)))
    images = Images(stamps, stamps, lambda index: index, np.array(labels, np.int64))
    chosen = images.take(count, seed)
    assert len(chosen) == min(count, len(labels))
    assert len(set(chosen.names)) == len(chosen)
    assert chosen.names == images.take(count, seed).names
    available, taken = Counter(labels), Counter(chosen.labels.tolist())
    fullest = max(taken.values(), default=0)
    for label, there in available.items():
        assert taken[label] >= min(there, fullest - 1)


def test_a_choice_reads_the_images_it_names(digits):
    images, target = digits
    stamps = tuple(str(number) for number in range(100))
    some = Images(stamps, stamps, images.__getitem__, target[:100].astype(np.int64)).take(30).take(11, seed=3)
    for index, image in enumerate(some):
        assert image is images[int(some.name(index))]
        assert some.labels[index] == target[int(some.name(index))]
    assert some[-1] is images[int(some.name(10))]
    with pytest.raises(IndexError):
        some[11]


def test_labels_are_part_of_what_identifies_images():
    one, other = pictures([["a"], ["b"]]), pictures([["a", "b"], []])
    assert one.stamps == other.stamps
    assert one.fingerprint() != other.fingerprint()


def test_numbers_that_do_not_match_are_refused():
    with pytest.raises(BadInput, match="2 names, 1 stamps and 2 truths"):
        Images(("a", "b"), ("a",), lambda index: index)


def test_unlabelled_images_cannot_be_stratified():
    with pytest.raises(DatasetError, match="without labels"):
        hold_out(Images(("a",), ("a",), lambda index: index), ["x"], 0.2, 0)


def test_a_long_list_is_cut():
    assert listed(["a", "b"]) == "a, b"
    assert listed(list("abcdefghijklm")) == "a, b, c, d, e, f, g, h, i, j ... and 3 more"
