"""Values at the edges of forms, heads and views that Python code makes by itself."""

import numpy as np
import pytest
import yaml

from edgecv import recipe_text
from edgecv_runtime import Normalization, Preprocess, geometry, tasks, yamltext
from edgecv_runtime.errors import BadInput, InvalidOutput
from edgecv_runtime.forms.base import translate
from edgecv_runtime.forms.box_scores import ScoreColumns
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
        lambda: Grid((8,), offset=float("nan")),
        lambda: Normalization(mean=(float("nan"),) * 3),
        lambda: Normalization(std=(float("nan"),) * 3),
        lambda: Normalization(std=(float("inf"),) * 3),
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


CORNERS = ("x1", "y1", "x2", "y2")


def shares(*shape):
    return np.random.default_rng(0).random(shape, np.float32)


@pytest.mark.parametrize(
    ("scores", "outputs", "message"),
    [
        ({"background": 4}, {}, "background: 4, but 3 labels and the background are 4 columns: it is one of 0 to 3"),
        ({"background": -2}, {}, "background: -2, but"),
        ({"class_id": -1}, {}, "class_id are columns, from 0 on"),
        ({"class_id": "s"}, {"s": shares(1, 5)}, "class_id: 's' holds the scores"),
        ({"class_id": "b"}, {"s": shares(1, 5)}, r"class_id: output 'b' is \(N, 5, 4\) float32: wanted is a number"),
        ({"class_id": "n"}, {"s": shares(1, 5), "n": np.zeros((1, 1))}, "hold 5 boxes, 5 scores, 1 classes"),
        ({"count": "n"}, {"n": np.array([[3, 4]])}, "count: output 'n' is .* the number of boxes of a frame is wanted"),
        ({}, {"s": shares(1, 4, 3)}, "hold 5 boxes, 4 scores"),
        ({"output": "b", "first": 3, "class_id": 0}, {}, "column 3 is said to be the box and the classes' scores"),
        ({"first": 1, "objectness": 2}, {"s": shares(1, 5, 4)}, "column 2 is .* the classes' scores and objectness"),
        ({"first": 1, "class_id": 1}, {"s": shares(1, 5, 4)}, "column 1 is .* the classes' scores and class_id"),
        ({"labels": 1, "of": "softmax"}, {"s": shares(1, 5, 1)}, "a softmax over one class is always 1"),
    ],
)
def test_a_description_that_can_mean_two_things_is_refused(scores, outputs, message):
    """Each of these gave boxes of another class, a score of 1 for all, or NumPy's own error."""
    labels = scores.pop("labels", 3)
    outputs = {"b": shares(1, 5, 4), "s": shares(1, 5, 4 if "background" in scores else 3), **outputs}
    with pytest.raises(BadInput, match=message):
        form = Detected(
            boxes=BoxColumns(CORNERS, "pixels", output="b"),
            scores=ScoreColumns(**{"of": "probabilities", "output": "s", **scores}),
        )
        translate(form, DetectionHead(tuple("abc"[:labels])), outputs, (64, 64))


def test_a_detector_of_one_class_may_give_a_number_a_box():
    scores = shares(2, 5)
    form = Detected(
        boxes=BoxColumns(CORNERS, "pixels", output="b"), scores=ScoreColumns(of="probabilities", output="s")
    )
    made = translate(form, DetectionHead(("face",)), {"b": shares(2, 5, 4), "s": scores}, (64, 64))
    assert np.array_equal(made["scores"], scores[:, :, None])


@pytest.mark.parametrize("number", [".nan", ".inf", "-.inf"])
@pytest.mark.parametrize("read", [yamltext.load, recipe_text.parse])
def test_numbers_in_yaml_are_finite(number, read):
    assert read("a: [1.5, -2.0]") == {"a": [1.5, -2.0]}
    with pytest.raises(yaml.YAMLError, match="is no finite number"):
        read(f"a: [1.5, {number}]")
