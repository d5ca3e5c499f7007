"""Polygons and run lengths against pycocotools, pixel by pixel."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from edgecv.data.polygons import area, from_polygon, from_runs, unpacked

SIDE = st.integers(1, 60)


@given(SIDE, SIDE, st.integers(3, 9), st.integers(0, 10_000), st.sampled_from(["any", "whole", "halves"]))
@settings(max_examples=200, deadline=None)
def test_polygons_are_pycocotools(height, width, corners, seed, grid):
    points = np.random.default_rng(seed).uniform(-10, 70, 2 * corners)  # beyond the picture, too
    points = {"any": points, "whole": points.round(), "halves": (2 * points).round() / 2}[grid].tolist()
    wanted = coco.decode(coco.frPyObjects([points], height, width)[0])
    assert np.array_equal(from_polygon(points, (height, width)), wanted)


@given(SIDE, SIDE, st.floats(0, 1), st.integers(0, 10_000))
@settings(max_examples=100, deadline=None)
def test_run_lengths_are_pycocotools(height, width, share, seed):
    mask = (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)
    packed = coco.encode(np.asfortranarray(mask))
    assert np.array_equal(from_runs(unpacked(packed["counts"]), (height, width)), mask)
    assert np.array_equal(area({"size": [height, width], "counts": packed["counts"].decode()}, (height, width)), mask)


def test_long_runs_are_unpacked():
    mask = np.zeros((3000, 2000), np.uint8)
    mask[:, 1000:1003] = 1
    packed = coco.encode(np.asfortranarray(mask))
    assert unpacked(packed["counts"]).tolist() == [3_000_000, 9000, 6_000_000 - 3_009_000]


def test_several_polygons_are_one_area():
    boxes = [[1, 1, 5, 1, 5, 5, 1, 5], [3, 3, 9, 3, 9, 9, 3, 9]]
    wanted = coco.decode(coco.merge(coco.frPyObjects(boxes, 12, 11)))
    assert np.array_equal(area(boxes, (12, 11)), wanted)
