"""ONNX files from elsewhere become bundles; the oracle is ONNX Runtime, used directly on the file itself."""

import re

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto

import edgecv_runtime as rt
from edgecv_export.adopt import adopt
from edgecv_export.placement import PLACEMENTS, quantized_nodes
from edgecv_export.wiring import Wiring
from edgecv_runtime import description, verify
from edgecv_runtime.errors import BadInput, EdgecvError, InvalidOutput
from edgecv_runtime.head import ClassificationHead
from edgecv_runtime.manifest import TensorSpec
from edgecv_runtime.target import targets
from tests.export import foreign_heads as heads
from tests.runtime.foreign import LABELS, NORMALIZATION, PREPROCESS, YAML, constant, frames, node, save, softmax, truth

FRAMES = frames(9)
IMAGES = PREPROCESS.batch(FRAMES)


def described(scores=None, normalization=NORMALIZATION):
    return rt.Description(ClassificationHead(tuple(LABELS), scores), PREPROCESS, normalization)


def renamed(path, names):
    model = onnx.load(path)
    for each in (*model.graph.input, *model.graph.output):
        each.name = names.get(each.name, each.name)
    for part in model.graph.node:
        part.input[:] = [names.get(name, name) for name in part.input]
        part.output[:] = [names.get(name, name) for name in part.output]
    onnx.save(model, path)


UINT8 = {"dtype": TensorProto.UINT8}
LOGITS, PROBABILITIES = "logits", "probabilities"
CASES = {
    "plain": ({}, LOGITS),
    "channels last": ({"layout": "NHWC"}, LOGITS),
    "pixels": (UINT8, LOGITS),
    "pixels, channels last": ({**UINT8, "layout": "NHWC"}, LOGITS),
    "batch of 1": ({"batch": 1, "output": (1, 3)}, LOGITS),
    "batch of 4": ({"batch": 4, "output": (4, 3)}, LOGITS),
    "half precision": ({"dtype": TensorProto.FLOAT16}, LOGITS),
    "old opset": ({"opset": 11}, LOGITS),
    "no shapes": ({"shape": False, "output": None}, LOGITS),
    "softmax": ({"tail": [node("Softmax", "l", "y", axis=1)]}, PROBABILITIES),
    "a batch of -1": ({"batch": -1, "output": (-1, 3)}, LOGITS),
    "free by name only": (
        {"tail": [node("Reshape", ["l", "s"], "y")], "constants": [constant("s", [1, 3], np.int64)]},
        LOGITS,
    ),
    "reshaped to a batch of 1": (
        {
            "batch": 1,
            "output": (1, 3, 1, 1),
            "tail": [node("Reshape", ["l", "s"], "y")],
            "constants": [constant("s", [1, 3, 1, 1], np.int64)],
        },
        LOGITS,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_classifier_from_elsewhere_answers_as_before(case, tmp_path):
    given, scores = CASES[case]
    path = save(tmp_path / "m.onnx", **given)
    kind = {TensorProto.UINT8: np.uint8, TensorProto.FLOAT16: np.float16}.get(given.get("dtype"), np.float32)
    batch = max(1, given["batch"]) if isinstance(given.get("batch"), int) else 1
    wanted = [truth(path, frame, kind, given.get("layout", "NCHW"), batch) for frame in FRAMES]
    names = {"x": "image", "y": "logits", "l": "boxes"}
    renamed(path, names)
    done = adopt(
        path, described(normalization=None if kind == np.uint8 else NORMALIZATION), tmp_path / "out", images=IMAGES
    )
    assert done.rows == 0
    assert set(done.parity) == {"onnxruntime", "openvino"}
    for backend in done.parity:
        with rt.load(tmp_path / "out", backend=backend, precision="float32", self_test=True) as model:
            assert model.bundle.manifest.head == ClassificationHead(tuple(LABELS), scores)
            assert model.input.shape == ("batch", 8, 8, 3)
            for result, row in zip(model(FRAMES), wanted, strict=True):
                shares = softmax(row) if scores == LOGITS else row
                assert result.scores == pytest.approx(shares, abs=2e-3 if kind == np.float16 else 1e-5)


INPUT = """
labels: [cat, dog, owl]
preprocess: {size: [16, 32], mode: stretch}
normalization: {mean: [0.4, 0.5, 0.6], std: [0.2, 0.25, 0.3]}
"""
DETECTION = INPUT + "task: detection\nconfidence: 0.3\noverlap: 0.9\n"


def read(folder, text):
    (folder / "m.yaml").write_text(text)
    return description.read(folder / "m.yaml")


@pytest.mark.parametrize(("name", "batch"), [*((name, "n") for name in heads.HEADS), ("yolov8", 1), ("yolox", 2)])
def test_detectors_outputs_become_boxes_and_scores(name, batch, tmp_path):
    outputs, told, decode = heads.HEADS[name]
    path = heads.save(tmp_path / "m.onnx", outputs, batch)
    said = read(tmp_path, DETECTION + told)
    seen = heads.frames()
    wanted = [decode(heads.outputs_of(path, frame)) for frame in seen]
    done = adopt(path, said, tmp_path / "out", images=said.preprocess.batch(seen))
    assert done.rows == 0
    assert set(done.parity) == {"onnxruntime", "openvino"}
    for backend in done.parity:
        with (
            rt.load(tmp_path / "out", backend=backend, precision="float32") as model,
            rt.load(path, backend=backend, description=said) as plain,
        ):
            assert [each.name for each in model.outputs] == ["boxes", "scores"]
            got = model.run({"image": said.preprocess.batch(seen)})
            for index, (boxes, scores) in enumerate(wanted):
                assert got["boxes"][index] == pytest.approx(np.array(boxes), abs=2e-3)
                assert got["scores"][index] == pytest.approx(np.array(scores), abs=1e-4)
            for one, other, (_, scores) in zip(model(seen), plain(seen), wanted, strict=True):
                assert one.xyxy == pytest.approx(other.xyxy, abs=1e-2)
                assert one.class_id.tolist() == other.class_id.tolist()
                assert one.confidence.max() == pytest.approx(np.max(scores), abs=1e-4)


def test_boxes_of_a_class_without_a_label_are_refused(tmp_path):
    """Their one column of classes does not tell how many there are; left out in silence, every one of them is lost."""
    outputs, told, _ = heads.HEADS["yolov10"]
    rows = outputs["output0"].copy()
    rows[:, 4], rows[:, 5] = 0.8, np.arange(len(rows)) % 2
    rows[3, 5] = 2.49  # with some pictures it is rounded to 2, with others to 3
    path = heads.save(tmp_path / "m.onnx", {"output0": rows})
    seen = heads.frames(40)
    beyond = np.array([heads.outputs_of(path, frame)["output0"][3, 5] > 2.5 for frame in seen])
    assert 8 < beyond.sum() < 32
    known = [frame for frame, is_beyond in zip(seen, beyond, strict=True) if not is_beyond]
    strange = [frame for frame, is_beyond in zip(seen, beyond, strict=True) if is_beyond]
    said = read(tmp_path, DETECTION + told)
    with pytest.raises(InvalidOutput, match="a class that is none of the 3 labels, 0 to 2"):
        adopt(path, said, tmp_path / "none", images=said.preprocess.batch(strange))
    assert not (tmp_path / "none").exists()
    adopt(path, said, tmp_path / "out", images=said.preprocess.batch(known[:8]))
    for backend in ("onnxruntime", "openvino"):
        with rt.load(tmp_path / "out", backend=backend, precision="float32") as model:
            assert all(each.class_id.max() == 2 for each in model(known))
            with pytest.raises(InvalidOutput, match="NaN"):
                model(strange[0])
        with rt.load(path, backend=backend, description=said) as plain:
            assert all(each.class_id.max() == 2 for each in plain(known))
            with pytest.raises(InvalidOutput, match="a class that is none of the 3 labels, 0 to 2"):
                plain(strange[0])


def test_what_reads_foreign_outputs_stays_in_float(tmp_path):
    """In int8 a box's class, its corners and its score would lie on one grid, and a refusal would be a number."""
    outputs, told, _ = heads.HEADS["yolov10"]
    rows = outputs["output0"].copy()
    rows[:, 4], rows[:, 5] = 0.8, np.arange(len(rows)) % 2
    path = heads.save(tmp_path / "m.onnx", {"output0": rows})
    said = read(tmp_path, DETECTION + told)
    adopt(path, said, tmp_path / "out", images=said.preprocess.batch(heads.frames()))
    model = onnx.load(tmp_path / "out" / "model.onnx")
    reading = [node for node in model.graph.node if node.name.startswith("edgecv.output.")]
    assert {"Mul", "Add"} <= {node.op_type for node in reading}
    names = {node.name for node in quantized_nodes(Wiring(model), PLACEMENTS["all"])}
    assert names
    assert not names & {node.name for node in reading}


def test_boxes_of_a_number_before_the_first_label_are_refused(tmp_path):
    """Counted from 0 where 1 was said: all boxes of the first class would be lost, the others one label off."""
    outputs, told, _ = heads.HEADS["yolov10"]
    rows = outputs["output0"].copy()
    rows[:, 4], rows[:, 5] = 0.8, np.arange(len(rows)) % 3
    path = heads.save(tmp_path / "m.onnx", {"output0": rows})
    said = read(tmp_path, DETECTION + told.replace("class_id: 5", "class_id: 5, first_id: 1"))
    with pytest.raises(InvalidOutput, match="none of the 3 labels, 1 to 3"):
        adopt(path, said, tmp_path / "out", images=said.preprocess.batch(heads.frames()))
    rows[:, 5] = np.where(np.arange(len(rows)) < 4, -1, rows[:, 5] + 1)  # rows that pad
    path = heads.save(tmp_path / "n.onnx", {"output0": rows})
    adopt(path, said, tmp_path / "padded", images=said.preprocess.batch(heads.frames()))


MAPS = heads.RANDOM.normal(size=(3, 16, 32))
SMALL = np.kron(heads.RANDOM.normal(size=(3, 2, 4)), np.ones((2, 2)))


def enlarged(small):
    """Linear between the centres of pixels, as OpenCV has it."""
    return np.stack([cv2.resize(each, (32, 16), interpolation=cv2.INTER_LINEAR) for each in small])


SEGMENTERS = {
    "logits": (MAPS, "", lambda raw: raw.argmax(0)),
    "channels last": (MAPS.transpose(1, 2, 0), "layout: channels last", lambda raw: raw.argmax(2)),
    "smaller": (SMALL, "enlarge: true", lambda raw: enlarged(raw).argmax(0)),
    "a map": (MAPS.argmax(0).astype(np.int64), "", lambda raw: raw),
    "a map with an axis": (MAPS.argmax(0).astype(np.int64)[None], "", lambda raw: raw[0]),
    "a smaller map": (SMALL.argmax(0).astype(np.int64), "enlarge: true", lambda raw: np.kron(raw, np.ones((4, 4)))),
    "one class": (MAPS[:1], "labels: [road, rest]\nof: logits", lambda raw: raw[0] > 0),
}


@pytest.mark.parametrize("name", SEGMENTERS)
def test_segmenters_outputs_become_a_class_map(name, tmp_path):
    output, told, decode = SEGMENTERS[name]
    path = heads.save(tmp_path / "m.onnx", {"mask": output})
    labels = "" if "labels" in told else "labels: [cat, dog, owl]\n"
    said = read(tmp_path, INPUT.replace("labels: [cat, dog, owl]\n", labels) + "task: segmentation\n" + told)
    seen = heads.frames()
    wanted = [decode(heads.outputs_of(path, frame)["mask"]) for frame in seen]
    done = adopt(path, said, tmp_path / "out", images=said.preprocess.batch(seen))
    for backend in done.parity:
        with (
            rt.load(tmp_path / "out", backend=backend, precision="float32") as model,
            rt.load(path, backend=backend, description=said) as plain,
        ):
            assert str(model.outputs[0]) == str(TensorSpec("mask", "uint8", ("batch", 16, 32)))
            assert [each.entry.finding for each in verify.verify(model.bundle)] == [None] * len(targets(model.bundle))
            for one, other, mask in zip(model(seen), plain(seen), wanted, strict=True):
                assert (one.mask == mask).mean() > 0.99  # where two classes are as good as equal, rounding decides
                assert (one.mask == other.mask).mean() > 0.99


@pytest.mark.parametrize(
    ("value", "kind", "told"),
    [
        (256, TensorProto.INT64, ""),
        (300, TensorProto.INT32, ""),
        (2**33, TensorProto.INT64, ""),
        (-2, TensorProto.INT64, ""),
        (511, TensorProto.UINT16, ""),
        (256, TensorProto.INT64, "enlarge: true"),
    ],
)
def test_a_class_that_no_byte_holds_is_refused_by_the_graph(value, kind, told, tmp_path):
    """Frames that it was adopted with have none; a white pixel, later, must not be another class modulo 256."""
    tail = [
        node("MaxPool", "x", "small", kernel_shape=[2, 2], strides=[2, 2]) if told else node("Identity", "x", "small"),
        node("ReduceMin", "small", "least", axes=[1], keepdims=0),
        node("Sub", ["least", "one"], "above"),
        node("Relu", "above", "white"),  # 1/3, else 0
        node("Mul", ["white", "times"], "number"),
        node("Round", "number", "whole"),
        node("Cast", "whole", "y", to=kind),
    ]
    given = {"constants": [constant("one", 1), constant("times", 3 * value)], "output_type": kind}
    side = 4 if told else 8
    path = save(tmp_path / "m.onnx", tail, output=("n", side, side), **given)
    said = read(tmp_path, f"{YAML}task: segmentation\n{told}")
    seen = [np.minimum(frame, 120) for frame in FRAMES]
    done = adopt(path, said, tmp_path / "out", images=said.preprocess.batch(seen))
    white = seen[0].copy()
    white[:] = 255
    for backend in done.parity:
        with rt.load(tmp_path / "out", backend=backend, precision="float32") as model:
            assert (model(seen[0]).mask == 0).all()
            with pytest.raises(InvalidOutput, match="the class map holds 254, and there are 3 labels"):
                model(white)


def test_255_labels_leave_no_byte_for_a_class_that_is_none(tmp_path):
    path = heads.save(tmp_path / "m.onnx", {"mask": np.zeros((16, 32), np.int64)})
    labels = ", ".join(f"label{index}" for index in range(255))
    said = read(tmp_path, INPUT.replace("cat, dog, owl", labels) + "task: segmentation\n")
    with pytest.raises(BadInput, match="255 labels leave no byte for a class that there is no label of"):
        adopt(path, said, tmp_path / "out", images=said.preprocess.batch(heads.frames()))


def fixed(path, rows, shape=True):
    """Each frame gets a number of its own from a table of `rows` rows: the batch cannot be freed."""
    table = constant("t", np.arange(3 * rows).reshape(rows, 3))
    return save(
        path,
        [node("Add", ["l", "t"], "y")],
        constants=[table],
        batch=rows if shape else "n",
        output=(rows, 3) if shape else ("n", 3),
    )


def test_a_batch_that_cannot_be_freed_stays_fixed_and_is_said(tmp_path):
    path = fixed(tmp_path / "m.onnx", 2)
    done = adopt(path, described(), tmp_path / "out", images=IMAGES)
    assert done.rows == 2
    assert re.match("its batch, fixed to 2, cannot be freed: .*; it takes 2 at a time", done.notes[0])
    with rt.load(path, backend="onnxruntime", description=described()) as plain:
        wanted = plain(FRAMES)
    for backend in done.parity:
        with rt.load(tmp_path / "out", backend=backend, precision="float32", self_test=True) as model:
            for one, other in zip(model(FRAMES), wanted, strict=True):
                assert one.scores == pytest.approx(other.scores, abs=1e-5)


def test_a_graph_that_mixes_the_frames_of_a_batch_takes_one_at_a_time(tmp_path):
    """Its first axis is free, but what it computes of a frame depends on those beside it."""
    tail = [
        node("ReduceMean", "l", "m", axes=[0], keepdims=1),
        node("Mul", ["m", "h"], "n"),
        node("Add", ["l", "n"], "y"),
    ]
    path = save(tmp_path / "m.onnx", tail, constants=[constant("h", [3.0])])
    done = adopt(path, described(), tmp_path / "out", images=IMAGES)
    assert done.rows == 1
    assert re.match("its batch, free by name only, cannot be freed: .*; it takes 1 at a time", done.notes[0])
    with rt.load(tmp_path / "out", backend="onnxruntime", precision="float32") as model:
        for frame, one in zip(FRAMES, model(FRAMES), strict=True):
            assert one.scores == pytest.approx(softmax(truth(path, frame)), abs=1e-5)


REFUSED = {
    "labels: [cat, dog]": ("yolov5", "", "scores: 2 labels from column 5 on, but there is room for 3"),
    "layout: channels last": (
        "yolov8",
        "",
        "labels from column 4.*'output0'.*did you mean layout: channels first",
    ),
    "output: ouput0": ("yolov5", "", "boxes: output: the model has no output 'ouput0'; did you mean 'output0'"),
    "strides: [8, 12]": ("yolox", "", "strides: 12 does not divide the input, 16x32"),
    "strides: [8]": ("yolox", "", "make 8 cells, but the model gives 10 boxes"),
    "strides: [0]": ("yolox", "", "strides are pixels a cell"),
    "columns: [cx, cy, w, y2]": ("yolov5", "", "columns: along y two are wanted"),
    "anchors: [1, 2]": ("yolov5", "", "unknown key 'boxes.anchors'"),
    "unit: normalized": ("yolov5", "", "unit: normalized was said, but boxes reach to .* pixels"),
    "unit: pixels": ("ssd", "", "unit: pixels was said, but boxes reach to 0.979 pixels"),
    "of: probabilities": ("detr", "", "the network gave .*: it lacks a sigmoid"),
    "columns: [x1, y1, x2, y2]": ("yolov8", "", "ends before it begins"),
    "": ("yolov5", "boxes scores", "where boxes and scores stand is not said"),
}


@pytest.mark.parametrize("change", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line_and_nothing_is_written(change, tmp_path):
    name, without, message = REFUSED[change]
    outputs, told, _ = heads.HEADS[name]
    path = heads.save(tmp_path / "m.onnx", outputs)
    text = DETECTION + ("" if without else told)
    key, _, _ = change.partition(": ")
    if key in ("output", "anchors"):
        text = text.replace("boxes: {", f"boxes: {{{change}, ")
    elif key:
        text = re.sub(rf"\b{key}: (\[[^]]*\]|[^,}}\n]*)", change, text)
    with pytest.raises(EdgecvError, match=message) as caught:
        said = read(tmp_path, text)
        adopt(path, said, tmp_path / "out", images=said.preprocess.batch(heads.frames()))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert isinstance(caught.value, BadInput)


def test_other_files_are_refused(tmp_path):
    said = read(tmp_path, DETECTION + heads.HEADS["yolov5"][1])
    images = said.preprocess.batch(heads.frames())
    path = heads.save(tmp_path / "m.onnx", {"boxes": heads.CORNERS, "classes": heads.RAW[:, 0]})
    with pytest.raises(BadInput, match="the model has 2 outputs: 'boxes'.*'classes'.*say which one: boxes: output"):
        adopt(path, said, tmp_path / "out", images=images)
    with pytest.raises(BadInput, match="adopting wants at least 8 real images, got 7"):
        adopt(path, said, tmp_path / "out", images=images[:7])
    tail = [node("QuantizeLinear", ["l", "s"], "q"), node("DequantizeLinear", ["q", "s"], "y")]
    path = save(tmp_path / "q.onnx", tail, constants=[constant("s", 0.1)])
    with pytest.raises(BadInput, match=r"q.onnx: is quantized already \(DequantizeLinear, QuantizeLinear\)"):
        adopt(path, described(), tmp_path / "out", images=IMAGES)
    path = save(tmp_path / "n.onnx", [node("Abs", "l", "y")])
    with pytest.raises(BadInput, match="what the outputs mean is not known"):
        adopt(path, described(), tmp_path / "out", images=IMAGES)
    assert not (tmp_path / "out").exists()
