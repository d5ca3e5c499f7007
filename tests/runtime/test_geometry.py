"""View: where a frame lies in the network's input, and the way back."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecv_runtime import geometry
from edgecv_runtime.preprocess import Preprocess

MODES = ("crop", "stretch", "letterbox")
INTERPOLATIONS = ("area", "linear", "pyramid")
SIDES = st.integers(1, 90)


@pytest.mark.parametrize(("mode", "interpolation"), [*product(MODES, INTERPOLATIONS)])
@pytest.mark.parametrize("shape", [(480, 640), (300, 200), (128, 96), (97, 401)])
def test_a_square_in_the_pixels_is_where_the_view_says(mode, interpolation, shape):
    """Oracle: a white square through the real preprocessing; half of white is where its edge lies."""
    preprocess = Preprocess((96, 128), mode, interpolation=interpolation)
    view = preprocess.view(shape)
    top, left = view.seen.top + view.seen.rows // 4, view.seen.left + view.seen.columns // 4
    bottom, right = top + view.seen.rows // 3, left + view.seen.columns // 3
    frame = np.zeros((*shape, 3), np.uint8)
    frame[top:bottom, left:right] = 255
    light = preprocess(frame)[view.place.slices][:, :, 0] / 255
    x1, y1, x2, y2 = view.to_network(np.array([left, top, right, bottom]))
    rows, columns = light.max(1).sum(), light.max(0).sum()  # of a soft edge, the sum of its parts
    assert rows == pytest.approx(y2 - y1, abs=0.6)
    assert columns == pytest.approx(x2 - x1, abs=0.6)
    hit = np.argwhere(light > 0.5)
    assert hit.min(0) == pytest.approx([y1 - view.place.top, x1 - view.place.left], abs=1)


@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), st.sampled_from(MODES), st.sampled_from(INTERPOLATIONS))
@settings(max_examples=200, deadline=None)
def test_boxes_go_to_the_network_and_back(source, size, mode, interpolation):
    view = Preprocess(size, mode, interpolation=interpolation).view(source)
    boxes = np.random.default_rng(0).uniform(0, 90, (7, 4)).astype(np.float32)
    assert view.to_source(view.to_network(boxes)) == pytest.approx(boxes, abs=0.05)
    corners = [view.seen.left, view.seen.top, view.seen.left + view.seen.columns, view.seen.top + view.seen.rows]
    wanted = [view.place.left, view.place.top, view.place.left + view.place.columns, view.place.top + view.place.rows]
    assert view.to_network(np.array(corners)) == pytest.approx(wanted, abs=1e-4)


@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), st.sampled_from(MODES))
@settings(max_examples=200, deadline=None)
def test_masks_go_where_the_centres_of_their_pixels_lie(source, size, mode):
    """Oracle: pixel by pixel, by the boxes' own map."""
    view = Preprocess(size, mode).view(source)
    mask = np.random.default_rng(1).integers(0, 200, size, np.uint8)
    placed = view.place_mask(mask, 255)
    assert placed.shape == source
    for row, column in {(0, 0), (source[0] // 2, source[1] // 3), (source[0] - 1, source[1] - 1)}:
        inside = view.seen.top <= row < view.seen.top + view.seen.rows
        inside &= view.seen.left <= column < view.seen.left + view.seen.columns
        x, y = view.to_network(np.array([column + 0.5, row + 0.5])) + 1e-4
        if not inside:
            assert placed[row, column] == 255
        elif min(x % 1, y % 1) > 1e-3:
            assert placed[row, column] == mask[int(y), int(x)]
    truth = np.random.default_rng(2).integers(0, 200, source, np.uint8)
    projected = view.project_mask(truth, 255)
    assert projected.shape == size
    assert (projected == 255).sum() == size[0] * size[1] - view.place.rows * view.place.columns


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(200, 320), (333, 180), (64, 64)])
def test_a_square_comes_back_to_a_pixel_of_the_input(mode, shape):
    """A mask of a shifted square, to the network and back, is the square but for one pixel of the input's grid."""
    view = Preprocess((80, 112), mode).view(shape)
    top, left = view.seen.top + view.seen.rows // 5, view.seen.left + view.seen.columns // 3
    bottom, right = top + view.seen.rows // 2, left + view.seen.columns // 4
    truth = np.zeros(shape, np.uint8)
    truth[top:bottom, left:right] = 1
    back = view.place_mask(view.project_mask(truth, 255), 255)
    hit = np.argwhere(back == 1)
    found = [*hit.min(0), *(hit.max(0) + 1)]
    grid = 1 / np.array(view.scales)
    assert found == pytest.approx([top, left, bottom, right], abs=max(1, *grid))


def test_what_is_the_input_already_stays():
    view = geometry.whole((7, 9))
    mask = np.arange(63, dtype=np.uint8).reshape(7, 9)
    assert (view.place_mask(mask, 255) == mask).all()
    assert (view.project_mask(mask, 255) == mask).all()
    assert view.scales == (1, 1)
