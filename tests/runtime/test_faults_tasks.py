"""Faults of segmenters and detectors: each is made by wrong code, as people write it, and must be named.

The wrong code is OpenCV, numpy and PyTorch; it shares nothing with the simulations.
"""

import cv2
import numpy as np
import pytest

import edgecv_runtime as rt
from edgecv_runtime import Bundle, Preprocess, verify
from edgecv_runtime.errors import BadInput
from tests.runtime import faults_lab as lab
from tests.runtime.test_faults import CASES, RIGHT, findings

TASKS = ("segmentation", "detection")
SIZE = (32, 48)
BOXED = Preprocess(size=SIZE, mode="letterbox", interpolation="linear")
CROPPED = Preprocess(size=(32, 32), mode="crop", resize=40, interpolation="linear")


@pytest.fixture(scope="module")
def made(digits, tmp_path_factory):
    """By task and preprocessing: the network and its bundle."""
    found = {}
    for task in TASKS:
        for preprocess in (BOXED, CROPPED):
            network = lab.network(task, preprocess, 5)
            frames = np.stack([cv2.resize(each, preprocess.size[::-1]) for each in digits[0][:8]])
            path = lab.bundle(task, network, tmp_path_factory.mktemp("lab") / "bundle", preprocess, frames)
            found[task, preprocess.mode] = network, path
    return found


# Wrong pixels, told by the network's outputs, and by results that were brought back to the picture


@pytest.mark.parametrize(
    ("task", "name", "code"),
    [("detection", *case.values) for case in CASES] + [("segmentation", *case.values) for case in CASES[:3]],
)
def test_wrong_pixels_are_named_by_outputs_alone(task, name, code, made):
    network, path = made[task, "crop"]
    with Bundle(path) as opened:
        found = verify.diagnose(opened, lambda picture: lab.run(network, code(picture)))
    assert found is not None
    assert name == found.name or f"; or {name}: " in found.detail  # masks alone do not always tell 0 from 1 of 255


def seen_size(path, name, code):
    """(height, width) of the frame as this code sees it."""
    flags = cv2.IMREAD_COLOR | (cv2.IMREAD_IGNORE_ORIENTATION if name.startswith("EXIF") else 0)
    height, width = cv2.imread(str(path), flags).shape[:2]
    turns = name.startswith("turned") and code is CASES[-2].values[1]
    return (width, height) if turns else (height, width)


def back_from_the_crop(task, outputs, size):
    """Outputs of a centre crop of 32 of 40 pixels in the frame's own."""
    side = round(min(size) * 32 / 40)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    if task == "segmentation":
        whole = np.full(size, 255, np.uint8)
        whole[top : top + side, left : left + side] = lab.enlarged(outputs["mask"], (side, side))
        return whole
    rows = lab.suppressed(**outputs)
    rows[:, :4] = rows[:, :4] * side / 32 + np.array([left, top] * 2)
    return rows


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("name", "code"), CASES)
def test_wrong_pixels_are_named_by_results_in_the_picture(name, code, task, made):
    network, path = made[task, "crop"]

    def pipeline(picture):
        return back_from_the_crop(task, lab.run(network, code(picture)), seen_size(picture, name, code))

    with Bundle(path) as opened:
        found = verify.diagnose(opened, pipeline)
    assert found is not None
    assert name == found.name or f"; or {name}: " in found.detail  # masks alone do not always tell 0 from 1 of 255


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("mean", "std"),
    [((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.0,) * 3, (0.25,) * 3), ((0.5,) * 3, (1.0,) * 3)],
)
def test_a_wrong_mean_or_scale_is_named(mean, std, task, made):
    network, path = made[task, "crop"]
    with Bundle(path) as opened:
        given = np.array(mean, np.float32), np.array(std, np.float32)
        found = verify.diagnose(opened, lambda picture: lab.run(network, RIGHT(picture), *given))
    assert found is not None
    assert found.name == "wrong mean or scale"


# Wrong results of right outputs


def mask_in_picture(path, mask, scale, border, beside=(0.0, 0.0)):
    height, width = cv2.imread(str(path)).shape[:2]
    columns, rows = round(width * scale[0]), round(height * scale[1])
    return lab.enlarged(mask[border[1] :, border[0] :][:rows, :columns], (height, width), beside)


def rest(path, scale):
    """The whole of the border, as if it lay left and above."""
    height, width = cv2.imread(str(path)).shape[:2]
    return SIZE[1] - round(width * scale[0]), SIZE[0] - round(height * scale[1])


def over_all(path, mask, scale, border):
    height, width = cv2.imread(str(path)).shape[:2]
    return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def by_opencv(kind):
    def resize(path, mask, scale, border):
        height, width = cv2.imread(str(path)).shape[:2]
        columns, rows = round(width * scale[0]), round(height * scale[1])
        part = np.ascontiguousarray(mask[border[1] :, border[0] :][:rows, :columns])
        return cv2.resize(part, (width, height), interpolation=kind)

    return resize


def then(change):
    return lambda *given: change(mask_in_picture(*given))


TEXT = np.argsort(sorted(range(12), key=str)).astype(np.uint8)
WRONG_MASKS = {
    "shifted labels": [
        then(lambda mask: mask + 1),
        then(lambda mask: mask - 1),
        then(lambda mask: mask.astype(int) - 1),
        then(lambda mask: (mask + 1) % 12),
        then(lambda mask: mask + 2),
    ],
    "labels in another order": [
        then(lambda mask: TEXT[mask]),
        then(lambda mask: np.array([3, 1, 0, 2, 4, 9, 6, 7, 8, 5, 11, 10])[mask]),
    ],
    "resize undone wrongly": [
        over_all,
        lambda path, mask, scale, border: mask_in_picture(path, mask, scale, (0, 0)),
        lambda path, mask, scale, border: mask_in_picture(path, mask, scale, rest(path, scale)),
    ],
    "half-pixel mask shift": [
        lambda *given: mask_in_picture(*given, beside=(0.5, 0.5)),
        lambda *given: mask_in_picture(*given, beside=(-0.5, -0.5)),
        by_opencv(cv2.INTER_NEAREST),
    ],
    "whole-pixel mask shift": [
        lambda *given: mask_in_picture(*given, beside=(1.0, 0.0)),
        then(lambda mask: np.roll(mask, (1, 1), (0, 1))),
    ],
    "mask resized as a picture": [by_opencv(cv2.INTER_LINEAR), by_opencv(cv2.INTER_CUBIC)],
    "rows and columns exchanged": [then(np.transpose)],
    "turned or mirrored mask": [then(np.fliplr), then(np.flipud)],
}


def named(table):
    return [
        pytest.param(name, code, id=f"{name}-{index}")
        for name, codes in table.items()
        for index, code in enumerate(codes)
    ]


def segmenting(network, code):
    def pipeline(path):
        pixels, scale, border = lab.letterboxed(path, SIZE)
        return code(path, lab.run(network, pixels)["mask"], scale, border)

    return pipeline


@pytest.mark.parametrize(("name", "code"), named(WRONG_MASKS))
def test_wrong_masks_are_named(name, code, made):
    network, path = made["segmentation", "letterbox"]
    with Bundle(path) as opened:
        found = verify.diagnose(opened, segmenting(network, code))
    assert found is not None
    assert found.name == name


def detecting(network, on_boxes=lambda boxes: boxes, on_scores=lambda scores: scores, undo=None, at_end=None, **given):
    """Hand-written: letterbox, network, suppression, back to the picture."""

    def pipeline(path):
        pixels, scale, border = lab.letterboxed(path, SIZE)
        found = lab.run(network, pixels)
        rows = lab.suppressed(on_boxes(found["boxes"]), on_scores(found["scores"]), **given)
        if undo is None:
            rows[:, :4] = (rows[:, :4] - np.array([*border] * 2)) / np.array([*scale] * 2)
        else:
            rows[:, :4] = undo(rows[:, :4], np.array([*border] * 2), np.array([*scale] * 2))
        height, width = cv2.imread(str(path)).shape[:2]
        return rows if at_end is None else at_end(rows, width, height)

    return pipeline


def on_boxes_of(rows, change):
    return np.concatenate([change(rows[:, :4]), rows[:, 4:]], axis=1)


def classes(change):
    return {"at_end": lambda rows, *_: np.column_stack([rows[:, :5], change(rows[:, 5].astype(int))])}


def sides(boxes):
    return boxes[:, 2:] - boxes[:, :2]


CENTRE = lambda boxes: np.concatenate([boxes[:, :2] + sides(boxes) / 2, sides(boxes)], 1)  # noqa: E731
WRONG_BOXES = {
    "another form of boxes": [
        {"at_end": lambda rows, *_: on_boxes_of(rows, lambda x: np.concatenate([x[:, :2], sides(x)], 1))},
        {"at_end": lambda rows, *_: on_boxes_of(rows, CENTRE)},
        {"on_boxes": lambda x: np.concatenate([x[:, :2], x[:, :2] + x[:, 2:]], 1)},
        {"on_boxes": lambda x: np.concatenate([x[:, :2] - x[:, 2:] / 2, x[:, :2] + x[:, 2:] / 2], 1)},
    ],
    "boxes in another unit": [
        {"at_end": lambda rows, w, h: on_boxes_of(rows, lambda x: x / np.array([w, h, w, h]))},
        {"undo": lambda boxes, border, scale: boxes},
        {"undo": lambda boxes, border, scale: boxes / np.array([48, 32, 48, 32])},
        {"at_end": lambda rows, w, h: on_boxes_of(rows, lambda x: x * np.array([w, h, w, h]))},
    ],
    "resize undone wrongly": [
        {"undo": lambda boxes, border, scale: boxes / scale},
        {"undo": lambda boxes, border, scale: boxes / scale - border},
        {"at_end": None, "undo": "stretched"},
    ],
    "x and y exchanged": [
        {"at_end": lambda rows, *_: on_boxes_of(rows, lambda x: x[:, [1, 0, 3, 2]])},
        {"on_boxes": lambda x: x[:, [1, 0, 3, 2]]},
    ],
    "strides or anchors of another size": [
        {"on_boxes": lambda x: x * 2},
        {"on_boxes": lambda x: x / 2},
        {"on_boxes": lambda x: np.concatenate([x[:, :2] - sides(x) / 2, x[:, 2:] + sides(x) / 2], 1)},
    ],
    "shifted labels": [
        classes(lambda kinds: kinds + 1),
        classes(lambda kinds: kinds - 1),
        classes(lambda k: (k + 1) % 12),
    ],
    "labels in another order": [
        classes(lambda kinds: TEXT[kinds]),
        classes(lambda kinds: np.array([3, 1, 0, 2, 4, 9, 6, 7, 8, 5, 11, 10])[kinds]),
    ],
    "no suppression": [{"overlap": 2.0}],
    "sigmoid twice": [{"on_scores": lambda scores: 1 / (1 + np.exp(-scores)), "confidence": 0.6}],
}


@pytest.mark.parametrize(("name", "given"), named(WRONG_BOXES))
def test_wrong_boxes_are_named(name, given, made):
    network, path = made["detection", "letterbox"]
    given = dict(given)
    pipeline = detecting(network, **given) if given.get("undo") != "stretched" else stretched(network)
    with Bundle(path) as opened:
        found = verify.diagnose(opened, pipeline)
    assert found is not None
    assert found.name == name


def stretched(network):
    """Boxes of a letterbox are brought back as if the picture had been stretched."""

    def end(rows, width, height):
        return on_boxes_of(rows, lambda x: x * np.array([width / 48, height / 32] * 2))

    return detecting(network, undo=lambda boxes, border, scale: boxes, at_end=end)


@pytest.mark.parametrize("task", TASKS)
def test_files_of_answers_are_read(task, made, tmp_path):
    """By the pictures' names, for masks and boxes of different shapes, and by those of the network's outputs."""
    network, path = made[task, "crop"]
    with Bundle(path) as opened:
        paths = verify.write_pictures(opened, tmp_path)
        right, wrong = ([lab.run(network, RIGHT(each, rgb=rgb)) for each in paths] for rgb in (True, False))
        for outputs, name in ((right, None), (wrong, "BGR for RGB")):
            np.savez(tmp_path / "raw.npz", **{key: np.stack([each[key] for each in outputs]) for key in outputs[0]})
            results = {
                each.name: back_from_the_crop(task, found, cv2.imread(str(each)).shape[:2])
                for each, found in zip(paths, outputs, strict=True)
            }
            np.savez(tmp_path / "results.npz", **results)
            for file in ("raw.npz", "results.npz"):
                found = verify.against_file(opened, tmp_path / file)
                assert (found and found.name) == name


@pytest.mark.parametrize("task", TASKS)
def test_answers_out_of_step_are_named(task, made, tmp_path):
    network, path = made[task, "letterbox"]
    with Bundle(path) as opened:
        paths = verify.write_pictures(opened, tmp_path)
        outputs = [lab.run(network, lab.letterboxed(each, SIZE)[0]) for each in paths]
        found = verify.against(opened, [outputs[2], outputs[0], outputs[1]])
    assert found.name == "answers out of step"


# No false alarm, and nothing that is not compared


def test_right_code_is_no_fault(made):
    network, path = made["segmentation", "letterbox"]
    with Bundle(path) as opened:
        assert verify.diagnose(opened, segmenting(network, mask_in_picture)) is None
        assert verify.diagnose(opened, segmenting(network, lambda *given: mask_in_picture(*given)[None])) is None
    network, path = made["detection", "letterbox"]
    with Bundle(path) as opened:
        assert verify.diagnose(opened, detecting(network)) is None
        for confidence in (0.02, 0.6):  # a deployment shows what it likes
            assert verify.diagnose(opened, detecting(network, confidence=confidence)) is None


def test_what_cannot_be_compared_is_said(made):
    _, path = made["segmentation", "letterbox"]
    with Bundle(path) as opened:
        with pytest.raises(BadInput, match=r"a mask is \(\d+, \d+\) of the picture, or \(32, 48\) of the network"):
            verify.diagnose(opened, lambda _: np.zeros((7, 9), np.uint8))
        with pytest.raises(BadInput, match="class positions, got"):
            verify.diagnose(opened, lambda _: np.full((32, 48), 0.5))
    _, path = made["detection", "letterbox"]
    with Bundle(path) as opened:
        with pytest.raises(BadInput, match=r"boxes are rows \(n, 6\) of x1, y1, x2, y2, score, class, got \(3, 5\)"):
            verify.diagnose(opened, lambda _: np.zeros((3, 5)))
        with pytest.raises(BadInput, match=r"a score in 0\.\.1, got 50"):
            verify.diagnose(opened, lambda _: np.full((1, 6), 50.0))
        with pytest.raises(BadInput, match=r"output 'scores' is \(96, 12\) a picture, the pipeline gives none"):
            verify.diagnose(opened, lambda _: {"boxes": np.zeros((96, 4))})
        assert verify.diagnose(opened, lambda _: np.zeros((0, 6))).name == "unknown preprocessing"


KINDS = {
    "stretch": Preprocess(size=(32, 32), mode="stretch", interpolation="linear"),
    "crop": Preprocess(size=(24, 24), interpolation="area"),
    "wide": Preprocess(size=(24, 40), mode="crop", interpolation="cubic"),
    "letterbox": Preprocess(size=(32, 48), mode="letterbox", interpolation="area", color="BGR"),
    "grey": Preprocess(size=(32, 32), mode="crop", color="GRAY"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", TASKS)
def test_clean_bundles_raise_no_alarm(task, kind, digits, tmp_path):
    """For each task 10 networks of other weights, and at least five loads and looks at each: 50 and no alarm."""
    preprocess = KINDS[kind]
    for seed in range(2):
        frames = np.stack([cv2.resize(each, preprocess.size[::-1]) for each in digits[0][seed * 20 : seed * 20 + 8]])
        network = lab.network(task, preprocess, seed)
        path = lab.bundle(task, network, tmp_path / f"{seed}.edgecv", preprocess, frames[..., : preprocess.channels])
        assert findings(path) == {}
        rt.load(path, backend="onnxruntime", self_test=True).close()
        with rt.load(path, backend="openvino", precision="float32", self_test=True) as model, Bundle(path) as opened:

            def results(picture, model=model):
                found = model(rt.images.read(picture))
                if task == "segmentation":
                    return found.mask
                return np.column_stack([found.xyxy, found.confidence, found.class_id])

            def outputs(picture, model=model):
                pixels = preprocess(rt.images.read(picture))
                return {name: each[0] for name, each in model.run({"image": pixels[None]}).items()}

            assert verify.check(opened) == []
            assert verify.diagnose(opened, results) is None
            assert verify.diagnose(opened, outputs) is None
