import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecv_runtime import Preprocess
from edgecv_runtime.errors import BadInput, ShapeError

MODES = ("crop", "stretch", "letterbox")


@given(
    height=st.integers(1, 80),
    width=st.integers(1, 80),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    mode=st.sampled_from(MODES),
    interpolation=st.sampled_from(["area", "pyramid", "linear", "cubic", "nearest"]),
    color=st.sampled_from(["RGB", "BGR", "GRAY"]),
)
@settings(max_examples=200, deadline=None)
def test_any_image_gives_the_promised_tensor(height, width, size, mode, interpolation, color):
    image = np.random.default_rng(height * 100 + width).integers(0, 256, (height, width, 3), np.uint8)
    made = Preprocess(size, mode, interpolation=interpolation, color=color)(image)
    assert made.shape == (*size, 1 if color == "GRAY" else 3)
    assert made.dtype == np.uint8


def test_crop_first_equals_resize_first_on_a_photo(photos):
    """Oracle: the textbook order, resize everything and then crop, by OpenCV, at a scale without fractions."""
    photo = photos[0][:384, :512]
    made = Preprocess((128, 128), "crop", resize=192, color="BGR")(photo)
    whole = cv2.resize(photo, (256, 192), interpolation=cv2.INTER_AREA)
    assert (made == whole[32:160, 64:192]).all()


def test_crop_keeps_within_a_pixel_of_resize_first_at_any_scale(photos):
    photo = cv2.GaussianBlur(photos[0], (0, 0), 3)  # without fine detail, half a pixel's shift changes little
    made = Preprocess((224, 224), "crop", resize=256, color="BGR")(photo)
    scale = 256 / min(photo.shape[:2])
    whole = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    top, left = (whole.shape[0] - 224) // 2, (whole.shape[1] - 224) // 2
    difference = np.abs(made.astype(int) - whole[top : top + 224, left : left + 224])
    assert difference.mean() < 2


@pytest.mark.parametrize(("rows", "columns"), [(96, 96), (128, 64), (64, 256), (97, 101), (135, 70)])
def test_a_pyramid_is_the_mean_of_whole_pixels_and_then_linear(photos, rows, columns):
    """Oracle: means by numpy, level by level with rounding half up, and then OpenCV's linear filter."""
    photo = photos[0][:rows, :columns]
    made = Preprocess((32, 32), "stretch", interpolation="pyramid", color="BGR")(photo)
    down, across = (int(np.log2(have / 32)) for have in (rows, columns))
    top, left = rows % 2**down // 2, columns % 2**across // 2
    level = photo[top : top + rows // 2**down * 2**down, left : left + columns // 2**across * 2**across].astype(int)
    for step in range(max(down, across)):
        tall, wide = 1 + (step < down), 1 + (step < across)
        blocks = level.reshape(len(level) // tall, tall, level.shape[1] // wide, wide, 3)
        level = np.floor(blocks.mean((1, 3)) + 0.5).astype(int)
    wanted = cv2.resize(level.astype(np.uint8), (32, 32), interpolation=cv2.INTER_LINEAR)
    assert np.abs(made.astype(int) - wanted).max() <= 2  # OpenCV rounds the mean of two to even, at each level
    assert np.abs(made.astype(int) - wanted).mean() < 0.5


def test_a_pyramid_averages_where_linear_aliases():
    """A fine chequerboard is grey from afar; a filter that only looks at four pixels sees black or white."""
    board = np.zeros((256, 256, 3), np.uint8)
    board[::2, ::2] = board[1::2, 1::2] = 255
    grey = Preprocess((30, 30), "stretch", interpolation="pyramid")(board)
    assert np.abs(grey.astype(int) - 128).max() <= 1


def test_a_pyramid_that_enlarges_is_linear(photos):
    small = photos[0][:20, :20]
    made, linear = (Preprocess((32, 32), "stretch", interpolation=kind)(small) for kind in ("pyramid", "linear"))
    assert (made == linear).all()


def test_crop_takes_the_centre():
    image = np.zeros((100, 300, 3), np.uint8)
    image[:, 100:200] = 255
    assert Preprocess((50, 50), "crop", resize=50)(image).min() == 255


def test_letterbox_keeps_the_aspect_ratio_and_fills():
    made = Preprocess((40, 40), "letterbox", fill=7)(np.full((10, 20, 3), 200, np.uint8))
    assert (made[:10] == 7).all()
    assert (made[30:] == 7).all()
    assert (made[10:30] == 200).all()


def test_stretch_fills_the_whole_input():
    assert (Preprocess((40, 40), "stretch")(np.full((10, 20, 3), 200, np.uint8)) == 200).all()


def test_color_order_is_rgb_unless_said_otherwise():
    blue = np.zeros((4, 4, 3), np.uint8)
    blue[..., 0] = 255  # BGR
    assert Preprocess((4, 4), "stretch")(blue)[0, 0].tolist() == [0, 0, 255]
    assert Preprocess((4, 4), "stretch", color="BGR")(blue)[0, 0].tolist() == [255, 0, 0]
    assert Preprocess((4, 4), "stretch", color="GRAY")(blue)[0, 0].tolist() == [29]  # ITU-R BT.601


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (np.zeros((4, 4, 3), np.float32), "float32; do not normalize"),
        (np.zeros((4, 4), np.uint8), r"got \(4, 4\)"),
        (np.zeros((4, 4, 4), np.uint8), r"got \(4, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), "at least one pixel"),
        ("photo.jpg", "got str; read files with images.read"),
        (None, "got NoneType"),
    ],
)
def test_a_frame_of_another_kind_is_refused(frame, said):
    with pytest.raises(ShapeError, match=said):
        Preprocess((4, 4))(frame)


def test_an_empty_batch_is_refused():
    with pytest.raises(BadInput, match="no images"):
        Preprocess((4, 4)).batch([])


def test_a_view_and_its_copy_give_the_same(photos):
    view = photos[1][::-1, ::2]
    for mode in MODES:
        made = Preprocess((64, 48), mode)
        assert (made(view) == made(view.copy())).all()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"color": "bgr"}, "no color 'bgr'"),
        ({"mode": "centre"}, "no mode 'centre'"),
        ({"interpolation": "bilinear"}, "no interpolation 'bilinear'"),
        ({"size": (4.5, 4)}, "size is"),
    ],
)
def test_a_typo_is_an_error(given, said):
    with pytest.raises(BadInput, match=said):
        Preprocess(**{"size": (4, 4), **given})


@pytest.mark.parametrize("size", [(128, 256), (256, 128), (128, 128)])
def test_a_crop_of_any_shape_keeps_circles_round(size):
    frame = np.zeros((480, 640, 3), np.uint8)
    cv2.circle(frame, (320, 240), 80, (255, 255, 255), -1)
    made = Preprocess(size, "crop", interpolation="linear")(frame)[..., 0] > 127
    rows, columns = made.any(1).sum(), made.any(0).sum()
    assert abs(int(rows) - int(columns)) <= 2
