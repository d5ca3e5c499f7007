"""Values at the edges of forms, heads and views that Python code makes by itself."""

import numpy as np
import pytest

from edgecv_runtime import Preprocess, geometry, tasks
from edgecv_runtime.errors import BadInput, InvalidOutput
from edgecv_runtime.forms.base import translate
from edgecv_runtime.forms.boxes import BoxColumns, Detected, Grid
from edgecv_runtime.forms.single import ClassMap
from edgecv_runtime.head import ClassificationHead, DetectionHead, SegmentationHead
from edgecv_runtime.manifest import TensorSpec

HEAD = SegmentationHead(("a", "b"))


@pytest.mark.parametrize(("value", "kind"), [(256, np.int64), (-2, np.int32), (300, np.uint16)])
def test_a_class_beyond_a_byte_is_not_another_class(value, kind):
    maps = np.zeros((1, 4, 4), np.int64)
    maps[0, 0, 0] = value
    with pytest.raises(InvalidOutput, match=rf"a class map holds {value}"):
        translate(ClassMap(), HEAD, {"map": maps.astype(kind)}, (4, 4))


def test_minus_one_is_what_does_not_count():
    maps = np.full((1, 4, 4), -1, np.int64)
    assert (translate(ClassMap(), HEAD, {"map": maps}, (4, 4))["mask"] == HEAD.ignore).all()


@pytest.mark.parametrize("label", [-1, 3, 99, 0.5])
def test_a_label_is_the_position_of_a_class(label):
    task = tasks.create(ClassificationHead(("a", "b", "c")), (TensorSpec("logits", "float32", ("N", 3)),))
    assert [task.truth(each).label for each in (0, np.int64(2))] == ["a", "c"]
    with pytest.raises(BadInput, match=rf"a label is {label}, and there are 3 classes"):
        task.truth(label)


@pytest.mark.parametrize(
    "make",
    [
        lambda: DetectionHead(()),
        lambda: DetectionHead(("a",), confidence=1.5),
        lambda: DetectionHead(("a",), most=0),
        lambda: Grid(()),
        lambda: BoxColumns(("x1", "y1", "cx", "y2"), "pixels"),
        lambda: Detected(boxes=BoxColumns(("x1", "y1", "x2", "y2"), "pixels")),
        lambda: Preprocess(size=224),
        lambda: Preprocess(size=[224]),
    ],
)
def test_what_cannot_be_is_bad_input_from_python_too(make):
    with pytest.raises(BadInput):
        make()


def test_a_size_may_be_a_list():
    listed = Preprocess(size=[8, 6])
    assert listed == Preprocess(size=(8, 6))
    assert listed.view((20, 30)).size == (8, 6)


def test_masks_lie_row_by_row_in_memory():
    mask = np.arange(48, dtype=np.uint8).reshape(6, 8)
    view = geometry.stretched((13, 17), (6, 8))
    placed, projected = view.place_mask(mask, 255), view.project_mask(view.place_mask(mask, 255), 255)
    assert placed.flags.c_contiguous
    assert projected.flags.c_contiguous
    assert np.array_equal(projected, mask)


def test_the_places_of_a_grid_are_made_once():
    grid = Grid((8, 16), 0.5)
    assert all(one is other for one, other in zip(grid.places((32, 64)), grid.places((32, 64)), strict=True))
    x, y, step = (each.ravel().tolist() for each in Grid((16,), 0.5).places((32, 48)))
    assert (x, y, step) == ([8, 24, 40] * 2, [8] * 3 + [24] * 3, [16] * 6)
