"""The catalogue of deployment faults: each one is really made, by wrong code or a wrong file, and must be named.

The wrong pipelines are written with OpenCV and numpy as people write them; they share nothing with the simulations.
"""

import re
from functools import partial
from types import SimpleNamespace

import cv2
import msgspec
import numpy as np
import onnx
import PIL.Image
import pytest
import torch
from onnx import numpy_helper

import edgecv_runtime as rt
from edgecv_export.export import export
from edgecv_runtime import Bundle, Preprocess, machine, tasks, verify
from edgecv_runtime import bundle as bundles
from edgecv_runtime.backends import UNKNOWN, Executed
from edgecv_runtime.backends.openvino import OpenVinoBackend, core
from edgecv_runtime.errors import BadInput, BundleError, ParityError
from edgecv_runtime.golden import Golden
from edgecv_runtime.offers import is_faithful, offered
from edgecv_runtime.target import targets
from edgecv_runtime.verify import Outputs, blame, compare
from edgecv_runtime.verify.run import explain
from tests.conftest import LABELS, NORMALIZATION

MEAN, STD = (np.array(each, np.float32) for each in (NORMALIZATION.mean, NORMALIZATION.std))


@pytest.fixture(scope="module")
def cropped(network, digits, tmp_path_factory):
    """The tiny network behind a centre crop: what most deployments get wrong."""
    path = tmp_path_factory.mktemp("cropped") / "bundle"
    preprocess = Preprocess(size=(32, 32), mode="crop", resize=40, interpolation="linear")
    given = {"name": "cropped", "labels": LABELS, "normalization": NORMALIZATION}
    export(network, path, preprocess=preprocess, images=digits[0][:8], **given)
    return path


def pipeline(
    path,
    *,
    flags=cv2.IMREAD_COLOR,
    shorter=40,
    interpolation=cv2.INTER_LINEAR,
    crop="centre",
    rgb=True,
    on_image=lambda image: image,
):
    """A hand-written preprocessing: decode, scale the shorter side, crop, RGB -> (32, 32, 3) uint8.

    The crop is cut before it is resized, as the training's is; OpenCV alone does the pixels.
    """
    image = on_image(cv2.imread(str(path), flags))
    height, width = image.shape[:2]
    side = round(min(height, width) * 32 / shorter)
    top, left = ((height - side) // 2, (width - side) // 2) if crop == "centre" else (0, 0)
    if crop != "none":
        image = image[top : top + side, left : left + side]
    image = cv2.resize(image, (32, 32), interpolation=interpolation)
    return image[:, :, ::-1] if rgb else image


def yuv_swapped(image):
    """NV12 taken for NV21, by the formulas of BT.601 in numpy."""
    blue, green, red = (image[:, :, index].astype(float) for index in range(3))
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    u, v = 0.713 * (red - luma), 0.564 * (blue - luma)  # exchanged
    planes = luma + v * 0, luma + 1.403 * v, luma - 0.344 * u - 0.714 * v, luma + 1.773 * u
    return np.clip(np.stack([planes[3], planes[2], planes[1]], 2).round(), 0, 255).astype(np.uint8)


def letterboxed(path):
    image = cv2.imread(str(path))
    scale = 32 / max(image.shape[:2])
    rows, columns = (round(side * scale) for side in image.shape[:2])
    canvas = np.full((32, 32, 3), 114, np.uint8)
    top, left = (32 - rows) // 2, (32 - columns) // 2
    canvas[top : top + rows, left : left + columns] = cv2.resize(image, (columns, rows))
    return canvas[:, :, ::-1]


def whole(path, resize, cut=round, even=False):
    """The whole picture to 40 pixels on the shorter side, then the centre: torchvision's order, and many programs'."""
    image = cv2.imread(str(path))
    scale = 40 / min(image.shape[:2])
    height, width = (40 if side == min(image.shape[:2]) else cut(side * scale) for side in image.shape[:2])
    image = resize(image, (width, height))
    top, left = (round(rest / 2) if even else rest // 2 for rest in (height - 32, width - 32))
    return image[top : top + 32, left : left + 32, ::-1]


def pillow(method):
    return lambda image, size: np.array(PIL.Image.fromarray(image).resize(size, method))


def cast(values):
    return values.astype(np.int32).astype(np.uint8)


RIGHT = pipeline
# Fault as it is named -> wrong code that gives the network's input (H, W, C), as pixels of any dtype.
WRONG_PIXELS = {
    "BGR for RGB": [partial(pipeline, rgb=False)],
    "EXIF orientation ignored": [partial(pipeline, flags=cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)],
    "another interpolation": [
        partial(pipeline, interpolation=cv2.INTER_NEAREST),
        partial(pipeline, interpolation=cv2.INTER_AREA),
        partial(pipeline, interpolation=cv2.INTER_CUBIC),
        partial(whole, resize=pillow(PIL.Image.Resampling.BILINEAR), cut=int, even=True),  # torchvision's
        partial(whole, resize=pillow(PIL.Image.Resampling.BICUBIC)),
        partial(whole, resize=pillow(PIL.Image.Resampling.LANCZOS)),
        partial(whole, resize=partial(cv2.resize, interpolation=cv2.INTER_AREA), cut=int),
    ],
    "cropped after the resize": [partial(whole, resize=cv2.resize), partial(whole, resize=cv2.resize, cut=int)],
    "another way to resize": [partial(pipeline, crop="none"), letterboxed],
    "another size before the crop": [partial(pipeline, shorter=32), partial(pipeline, shorter=37)],
    "crop from the corner": [partial(pipeline, crop="corner")],
    "NCHW for NHWC": [lambda path: pipeline(path).transpose(2, 0, 1).reshape(32, 32, 3)],
    "float where uint8": [lambda path: pipeline(path) / np.float32(255), lambda path: cast(pipeline(path) / 255)],
    "normalized twice": [
        lambda path: (pipeline(path) / np.float32(255) - MEAN) / STD,
        lambda path: cast((pipeline(path) / 255 - MEAN) / STD),
    ],
    "int8 where uint8": [lambda path: pipeline(path).astype(np.int8).astype(np.float32)],
    "grey for colour": [
        lambda path: np.repeat(pipeline(path, on_image=lambda x: x) @ [[0.299], [0.587], [0.114]], 3, 2)
    ],
    "limited-range video levels": [
        partial(pipeline, on_image=lambda image: (16 + image * (219 / 255)).round().astype(np.uint8)),
        partial(pipeline, on_image=lambda image: np.clip((image - 16.0) * 255 / 219, 0, 255).astype(np.uint8)),
    ],
    "another tone curve": [
        partial(pipeline, on_image=lambda image: (255 * (image / 255) ** 2.2).astype(np.uint8)),
        partial(pipeline, on_image=lambda image: (255 * (image / 255) ** (1 / 1.8)).astype(np.uint8)),
    ],
    "U and V exchanged": [partial(pipeline, on_image=yuv_swapped)],
    "turned or mirrored image": [
        partial(pipeline, on_image=lambda image: cv2.flip(image, 1)),
        partial(pipeline, on_image=lambda image: cv2.rotate(image, cv2.ROTATE_180)),
        partial(pipeline, on_image=lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE)),
    ],
    "empty input": [lambda path: np.zeros((32, 32, 3), np.uint8)],
}
CASES = [
    pytest.param(name, code, id=f"{name}-{index}")
    for name, codes in WRONG_PIXELS.items()
    for index, code in enumerate(codes)
]


@pytest.fixture(scope="module")
def answer(network):
    """Scores as a deployment's own engine gives them: pixels (H, W, C) of any dtype -> logits, in PyTorch."""

    def run(pixels, mean=MEAN, std=STD):
        x = (np.asarray(pixels, np.float32) / np.float32(255) - mean) / std
        with torch.inference_mode():
            return network(torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1)))[None]).numpy()[0]

    return run


def test_right_code_is_no_fault(cropped, answer):
    with Bundle(cropped) as opened:
        assert verify.diagnose(opened, RIGHT) is None
        assert verify.diagnose(opened, lambda path: answer(RIGHT(path))) is None
        assert verify.diagnose(opened, lambda path: shares(answer(RIGHT(path)))) is None
        assert verify.diagnose(opened, lambda path: answer(RIGHT(path))[None]) is None  # a batch of one


def shares(logits):
    return torch.softmax(torch.from_numpy(logits), -1).numpy()


@pytest.mark.parametrize(("name", "code"), CASES)
def test_wrong_code_is_named_by_the_input_it_makes(name, code, cropped):
    with Bundle(cropped) as opened:
        found = verify.diagnose(opened, code)
    assert found is not None
    assert found.name == name
    assert found.cure


@pytest.mark.parametrize("kind", ["logits", "shares"])
@pytest.mark.parametrize(("name", "code"), CASES)
def test_wrong_code_is_named_by_the_scores_alone(name, code, kind, cropped, answer):
    def scores(path):
        logits = answer(code(path))
        return logits if kind == "logits" else shares(logits)

    with Bundle(cropped) as opened:
        found = verify.diagnose(opened, scores)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize(
    ("mean", "std", "said"),
    [
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "ImageNet's mean and std"),
        ((0.0,) * 3, (1.0,) * 3, "0 and 1 (0 to 1) mean and std"),
        ((0.5,) * 3, (0.5,) * 3, "0.5 and 0.5 (-1 to 1) mean and std"),
        ((0.5,) * 3, (1.0,) * 3, "the pixels are not divided by std"),
        ((0.0,) * 3, (0.25,) * 3, "mean is not taken off"),
        ((0.5 / 255,) * 3, (0.25 / 255,) * 3, "the pixels are not divided by 255"),
    ],
)
def test_a_wrong_mean_or_scale_is_named_by_the_scores(mean, std, said, cropped, answer):
    with Bundle(cropped) as opened:
        found = verify.diagnose(
            opened, lambda path: answer(RIGHT(path), np.array(mean, np.float32), np.array(std, np.float32))
        )
    assert (found.name, found.detail) == ("wrong mean or scale", said)


def test_mean_and_std_of_bgr_are_named_by_the_scores(network, digits, tmp_path):
    """The right figures in the order of OpenCV's channels, on RGB."""
    normalization = rt.Normalization((0.3, 0.5, 0.6), (0.2, 0.25, 0.3))
    preprocess = Preprocess(size=(32, 32), mode="stretch", interpolation="area")
    given = {"name": "stretched", "labels": LABELS, "preprocess": preprocess, "normalization": normalization}
    export(network, tmp_path / "bundle", images=digits[0][:8], **given)

    def wrong(path):
        pixels = preprocess(rt.images.read(path)) / np.float32(255)
        x = (pixels - np.float32(normalization.mean[::-1])) / np.float32(normalization.std[::-1])
        with torch.inference_mode():
            return network(torch.from_numpy(x.transpose(2, 0, 1).copy())[None]).numpy()[0]

    with Bundle(tmp_path / "bundle") as opened:
        found = verify.diagnose(opened, wrong)
        whole_picture = verify.diagnose(
            opened, lambda path: pillow(PIL.Image.Resampling.BILINEAR)(rt.images.read(path), (32, 32))[:, :, ::-1]
        )
    assert (found.name, found.detail) == ("wrong mean or scale", "the mean and std of red and blue are exchanged")
    assert whole_picture.name == "another interpolation"
    assert whole_picture.detail == "Pillow's bilinear where 'area' is right"


def test_another_fault_is_named_also_where_red_and_blue_are_exchanged(cropped, answer):
    wrong = partial(pipeline, on_image=lambda image: cv2.flip(image, 1), rgb=False)
    with Bundle(cropped) as opened:
        found = [verify.diagnose(opened, wrong), verify.diagnose(opened, lambda path: answer(wrong(path)))]
    assert {each.name for each in found} == {"turned or mirrored image"}
    assert {each.detail for each in found} == {"it is mirrored; and red and blue are exchanged"}


def test_a_wrong_mean_and_scale_are_told_from_the_input(cropped):
    mean, std = (0.1, 0.2, 0.3), (0.9, 0.8, 0.7)
    with Bundle(cropped) as opened:
        planes = verify.diagnose(
            opened, lambda path: ((RIGHT(path) / 255 - mean) / std).transpose(2, 0, 1).astype(np.float32)
        )
        both = verify.diagnose(opened, lambda path: (RIGHT(path)[:, :, ::-1] / 255 - mean) / std)
    assert planes.name == "wrong mean or scale"
    assert "the values are (pixel / 255 - (0.1, 0.2, 0.3)) / (0.9, 0.8, 0.7)" in planes.detail
    assert "planes first" in planes.detail
    assert both.name == "BGR for RGB"
    assert "(pixel / 255 - (0.1, 0.2, 0.3)) / (0.9, 0.8, 0.7)" in both.detail


def test_right_values_in_another_layout_or_dtype_are_named(cropped):
    with Bundle(cropped) as opened:
        assert verify.diagnose(opened, lambda path: RIGHT(path).transpose(2, 0, 1)).name == "NCHW for NHWC"
        assert verify.diagnose(opened, lambda path: RIGHT(path).astype(np.float32)).name == "float where uint8"


WRONG_SCORES = {
    "shifted labels": [
        lambda scores: np.roll(scores, 1, axis=1),
        lambda scores: np.roll(scores, -1, axis=1),
        lambda scores: np.concatenate([np.full((len(scores), 1), -9.0, np.float32), scores], axis=1),
    ],
    "labels in another order": [lambda scores: scores[:, [3, 1, 0, 2, 4, 9, 6, 7, 8, 5]]],
    "answers out of step": [lambda scores: np.roll(scores, 1, axis=0), lambda scores: scores[[0] * len(scores)]],
    "softmax twice": [lambda scores: shares(shares(scores))],
    "NaN or infinite outputs": [lambda scores: np.where(scores == scores.max(), np.nan, scores)],
    "lower precision": [lambda scores: scores * (1 + 0.02 * np.random.default_rng(0).standard_normal(scores.shape))],
    "unknown preprocessing": [lambda scores: np.random.default_rng(1).standard_normal(scores.shape)],
}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        pytest.param(name, change, id=f"{name}-{index}")
        for name, changes in WRONG_SCORES.items()
        for index, change in enumerate(changes)
    ],
)
def test_wrong_scores_are_named(name, change, cropped, tmp_path, answer):
    with Bundle(cropped) as opened:
        paths = verify.write_pictures(opened, tmp_path)
        found = verify.against(opened, list(change(np.stack([answer(RIGHT(path)) for path in paths]))))
    assert found.name == name


# Bundles whose files were altered, with their checksums made anew


def alter(path, change=None, **fields):
    """Change the float32 or int8 file, or the manifest, and write the bundle again: every SHA-256 is right."""
    with Bundle(path) as opened:
        labels = fields.pop("labels", opened.manifest.labels)
        head = msgspec.structs.replace(opened.manifest.head, labels=labels)
        manifest = msgspec.structs.replace(opened.manifest, head=head, **fields)
        content = {}
        if change is not None:
            file, edit = change
            model = onnx.load(opened.file(file))
            edit(model)
            content[file] = model.SerializeToString()
        if labels != opened.manifest.labels:
            model = onnx.load(opened.file("model.onnx"))
            next(each for each in model.metadata_props if each.key == "edgecv.labels").value = "\n".join(labels)
            content["model.onnx"] = model.SerializeToString()
        bundles.update(opened, manifest=manifest, content=content)


def edit_constants(match, change):
    def edit(model):
        names = [name for node in model.graph.node for name in match(node)]
        for tensor in model.graph.initializer:
            if tensor.name in names:
                values = change(numpy_helper.to_array(tensor))
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    return edit


def findings(path):
    """Names of what `verify` finds, by variant and backend; "" stands for the bundle itself."""
    with Bundle(path) as opened:
        found = {("", finding.name): finding for finding in verify.check(opened)}
        for each in verify.verify(opened):
            if each.entry.finding is not None:
                found[each.entry.variant, each.entry.backend] = each.entry.finding
    return found


@pytest.mark.parametrize(
    ("fields", "name", "said"),
    [
        ({"color": "BGR"}, "BGR for RGB", "color is 'BGR' and was 'RGB' at export"),
        ({"interpolation": "area"}, "another interpolation", "interpolation is 'area' and was 'linear'"),
        ({"mode": "stretch", "resize": None}, "another way to resize", "mode is 'stretch' and was 'crop'"),
        ({"resize": 32}, "another size before the crop", "resize is 32 and was 40"),
        ({"size": (24, 24), "resize": 40}, "another input size", r"size is \(24, 24\) and was \(32, 32\)"),
        (
            {"color": "BGR", "interpolation": "nearest"},
            "altered preprocessing record",
            "color is 'BGR' and was 'RGB' at export, interpolation is 'nearest' and was 'linear'",
        ),
    ],
)
def test_an_altered_record_is_named(fields, name, said, cropped, tmp_path):
    path = copy(cropped, tmp_path)
    with Bundle(path) as opened:
        record = msgspec.structs.replace(opened.manifest.preprocess, **fields)
    alter(path, preprocess=record)
    with Bundle(path) as opened:
        (found,) = verify.check(opened)
    assert found.name == name
    assert re.search(said, found.detail)


def copy(source, folder):
    import shutil

    return shutil.copytree(source, folder / "copy")


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        ((*LABELS[1:], LABELS[0]), "shifted labels"),
        (("background", *LABELS[:-1]), "shifted labels"),
        (tuple(LABELS[index] for index in (3, 1, 0, 2, 4, 9, 6, 7, 8, 5)), "labels in another order"),
        (tuple(f"thing {index}" for index in range(10)), "altered labels"),
    ],
)
def test_altered_labels_are_named(labels, name, bundle_copy):
    alter(bundle_copy, labels=labels)
    with Bundle(bundle_copy) as opened:
        (found,) = verify.check(opened)
    assert found.name == name
    with pytest.raises(ParityError, match=name):
        rt.load(bundle_copy, backend="onnxruntime", self_test=True)


def test_labels_that_are_not_the_graphs_own_are_altered_labels(bundle_copy):
    model = onnx.load(bundle_copy / "model.onnx")
    onnx.helper.set_model_props(model, {"edgecv.labels": "\n".join(LABELS)})
    with Bundle(bundle_copy) as opened:
        content = opened.content() | {"model.onnx": model.SerializeToString()}
        head = msgspec.structs.replace(opened.manifest.head, labels=tuple(f"thing {index}" for index in range(10)))
        manifest = msgspec.structs.replace(opened.manifest, head=head)
        bundles.write(bundle_copy, manifest, content)
    with Bundle(bundle_copy) as opened:
        found = {each.entry.finding.name for each in verify.verify(opened, only=lambda each: each.variant == "float32")}
    assert found == {"altered labels"}


def weights_of(operator, place=1):
    return lambda node: [node.input[place]] if node.op_type == operator and len(node.input) > place else []


def stem(node):
    return [node.input[1]] if node.op_type == "Conv" and "stem" in node.name else []


def twisted(values):
    values = values.copy()
    values[0] *= -3
    return values


FLOAT_FILES = {
    "damaged weights": (stem, twisted),
    "weights of another training": (
        lambda node: list(node.input[1:2]) if node.op_type in ("Conv", "Gemm") else [],
        lambda values: values + np.float32(0.1) * np.random.default_rng(0).standard_normal(values.shape, np.float32),
    ),
    "wrong mean or scale in the graph": (weights_of("Add"), lambda values: values + np.float32(0.4)),
}


@pytest.mark.parametrize("name", FLOAT_FILES)
def test_an_altered_float_file_is_named_on_every_backend(name, bundle_copy):
    match, change = FLOAT_FILES[name]
    if name.startswith("wrong"):
        match = lambda node: [each for each in node.input if each == "offset"]  # noqa: E731
    alter(bundle_copy, ("model.onnx", edit_constants(match, change)))
    found = findings(bundle_copy)
    assert {each.name for each in found.values()} == {name}
    assert set(found) == {("float32", "onnxruntime"), ("float32", "openvino")}
    wanted = {"damaged weights": "stem", "weights of another training": "stem"}.get(name, "Add")
    assert all(wanted in each.node for each in found.values())
    with pytest.raises(ParityError, match=f"failed its self-test: {name}"):
        rt.load(bundle_copy, backend="openvino", precision="float32", self_test=True)


def test_a_file_that_was_sealed_by_nobody_is_still_caught(bundle_copy):
    """The digests are gone, as in a bundle of an older version: the outputs alone give it away."""
    alter(bundle_copy, ("model.onnx", edit_constants(*FLOAT_FILES["damaged weights"])))
    with Bundle(bundle_copy) as opened:
        golden = opened.golden()
        old = Golden(golden.images, golden.outputs)
        bundles.update(opened, content={"golden.npz": old.to_bytes()})
    assert {each.name for each in findings(bundle_copy).values()} == {"another network"}
    with Bundle(bundle_copy) as opened, pytest.raises(BundleError, match="no golden pictures"):
        verify.diagnose(opened, RIGHT)


@pytest.mark.parametrize(("variant", "file"), [("float32", "model.onnx"), ("int8-u8s8", "model.int8-u8s8.onnx")])
def test_another_networks_file_is_named(variant, file, finished_copy):
    """Right input, output and labels, other weights under other names: not bad quantization, another network."""

    def exchange(model):
        for tensor in model.graph.initializer:
            values = numpy_helper.to_array(tensor)
            if values.ndim == 4:
                values = np.random.default_rng(0).permutation(values.ravel()).reshape(values.shape)
            tensor.CopyFrom(numpy_helper.from_array(values, f"other.{tensor.name}"))
        names = {each.name for each in model.graph.initializer}
        for node in model.graph.node:
            node.input[:] = [f"other.{each}" if f"other.{each}" in names else each for each in node.input]

    alter(finished_copy, (file, exchange))
    found = findings(finished_copy)
    assert set(found) == {(variant, "onnxruntime"), (variant, "openvino")}
    assert {each.name for each in found.values()} == {"another network"}
    assert all(re.match(r"it lacks \d+ of the \d+ constants", each.detail) for each in found.values())


def sizes(model, batch):
    for each in (model.graph.input[0], model.graph.output[0]):
        each.type.tensor_type.shape.dim[0].dim_value = batch


def float_input(model):
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT


def half_output(model):
    model.graph.node[-1].output[0] = "wide"
    model.graph.node.append(onnx.helper.make_node("Cast", ["wide"], ["logits"], to=onnx.TensorProto.FLOAT16))
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            partial(sizes, batch=1),
            r"input is 'image' \(1, 32, 32, 3\) uint8, the manifest says 'image' \(N, 32, 32, 3\)",
        ),
        (partial(sizes, batch=8), r"input is 'image' \(8, 32, 32, 3\) uint8"),  # as many as the golden inputs
        (float_input, r"input is 'image' \(N, 32, 32, 3\) float32, .*\) uint8"),  # OpenVINO casts
        (half_output, r"output is 'logits' \(N, 10\) float16, .*\) float32"),
    ],
)
def test_another_input_or_output_is_named_and_not_loaded(change, said, bundle_copy):
    alter(bundle_copy, ("model.onnx", change))
    found = findings(bundle_copy)
    assert set(found) == {("float32", "onnxruntime"), ("float32", "openvino")}
    assert {each.name for each in found.values()} == {"another input or output"}
    assert all(re.search(said, each.detail) for each in found.values())
    for backend in ("onnxruntime", "openvino"):
        with pytest.raises(BundleError, match=f"model.onnx: the graph's {said}"):
            rt.load(bundle_copy, backend=backend)


@pytest.mark.parametrize("operator", ["DequantizeLinear", "QuantizeLinear"])
def test_a_corrupted_scale_is_named(operator, finished_copy):
    """One bit of the exponent: a scale is four times what it was."""
    picked = []

    def one(node):
        if node.op_type == operator and not picked:
            picked.append(node.input[1])
            return [node.input[1]]
        return []

    alter(finished_copy, ("model.int8-u8s8.onnx", edit_constants(one, lambda values: values * np.float32(4))))
    found = findings(finished_copy)
    assert {each.name for each in found.values()} == {"corrupted quantization scale"}
    assert {variant for variant, _ in found} == {"int8-u8s8"}
    assert all("QuantizeLinear" in each.node or "DequantizeLinear" in each.node for each in found.values())


def test_nan_names_the_node_that_overflows(bundle_copy):
    def overflow(model):
        """x -> x * 1e30 * 1e30, behind the depthwise convolution."""
        at = next(index for index, node in enumerate(model.graph.node) if "depthwise" in node.name)
        made = model.graph.node[at].output[0]
        for node in list(model.graph.node)[at + 1 :]:
            for place, name in enumerate(node.input):
                if name == made:
                    node.input[place] = "huge"
        model.graph.initializer.append(numpy_helper.from_array(np.float32(1e30), "factor"))
        for number, (source, target) in enumerate([(made, "big"), ("big", "huge")]):
            node = onnx.helper.make_node("Mul", [source, "factor"], [target], name=f"blow{number}")
            model.graph.node.insert(at + 1 + number, node)
        model.graph.node.insert(at + 3, onnx.helper.make_node("Sub", ["huge", "huge"], ["nan"], name="nan"))
        for node in list(model.graph.node)[at + 4 :]:
            for place, name in enumerate(node.input):
                if name == "huge":
                    node.input[place] = "nan"

    alter(bundle_copy, ("model.onnx", overflow))
    found = findings(bundle_copy)["float32", "onnxruntime"]
    assert found.name == "NaN or infinite outputs"
    assert "blow1" in found.node


# Backends that run something else


def test_bf16_where_float32_was_claimed_is_named(bundle_copy, monkeypatch):
    """OpenVINO's own choice on a machine that has bf16, when nobody tells it not to."""
    if "bf16" not in OpenVinoBackend.precisions():
        monkeypatch.setattr(OpenVinoBackend, "executed", lambda self: rt.backends.Executed("bf16", {"bf16": 3}))
    monkeypatch.setitem(rt.backends.openvino._HINTS, "float32", "bf16")
    found = findings(bundle_copy)
    assert found["float32", "openvino"].name == "another precision than claimed"
    assert "bf16 ran where float32 was claimed" in found["float32", "openvino"].detail
    assert set(found) == {("float32", "openvino")}
    with pytest.raises(ParityError, match="another precision than claimed"):
        rt.load(bundle_copy, backend="openvino", precision="float32", self_test=True)


def test_a_stale_engine_is_named(bundle_copy, tmp_path, monkeypatch):
    """A cache of compiled models that is keyed by the file's name: yesterday's engine runs for today's file."""
    old = tmp_path / "old.onnx"
    model = onnx.load(bundle_copy / "model.onnx")
    edit_constants(*FLOAT_FILES["weights of another training"])(model)
    old.write_bytes(model.SerializeToString())
    compiled = core().compile_model(str(old), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    engines = {"model.onnx": compiled.export_model()}
    real = OpenVinoBackend._graph

    def cached(self, single):
        graph = real(self, single)
        if self._model.name in engines:
            graph.compiled = core().import_model(engines[self._model.name], "CPU")
        return graph

    monkeypatch.setattr(OpenVinoBackend, "_graph", cached)
    found = findings(bundle_copy)
    assert {key: each.name for key, each in found.items()} == {("float32", "openvino"): "stale engine"}


def test_a_backend_that_computes_an_operator_otherwise_is_named_with_the_node(bundle_copy, tmp_path, monkeypatch):
    """A driver bug: one convolution's padding is taken for another's, whatever file it is compiled from."""
    real = OpenVinoBackend.__init__

    def buggy(self, path, options):
        model = onnx.load(path)
        node = next(node for node in model.graph.node if "point" in node.name and node.op_type == "Conv")
        constant = next(each for each in model.graph.initializer if each.name == node.input[1])
        constant.CopyFrom(numpy_helper.from_array(twisted(numpy_helper.to_array(constant)), constant.name))
        wrong = tmp_path / f"compiled-{path.name}"
        wrong.write_bytes(model.SerializeToString())
        real(self, wrong, msgspec.structs.replace(options, digest=""))  # the cache knows the right file

    monkeypatch.setattr(OpenVinoBackend, "__init__", buggy)
    found = findings(bundle_copy)["float32", "openvino"]
    assert found.name == "the backend computes it otherwise"
    assert "point" in found.node


def test_quantization_that_loses_too_much_names_where(finished_copy):
    """A variant that was quantized badly and sealed so: nothing was corrupted, it is just far from float."""

    def coarse(model):
        scales = [node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"][2:]
        for tensor in model.graph.initializer:
            if tensor.name in scales:
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(240), tensor.name))

    alter(finished_copy, ("model.int8-u8s8.onnx", coarse))
    with Bundle(finished_copy) as opened:
        golden = opened.golden().sealing("model.int8-u8s8.onnx", opened.variant_file("int8-u8s8").read_bytes())
        bundles.update(opened, content={"golden.npz": golden.to_bytes()})
    found = findings(finished_copy)
    assert {each.name for each in found.values()} == {"quantization loses too much"}
    assert all(each.node for each in found.values())


@pytest.mark.parametrize(
    ("off", "own", "named"),
    [
        (0.15, 0.02, blame.faults.BACKEND),
        (0.40, 0.15, blame.faults.BACKEND),
        (0.12, 0.25, blame.faults.UNDECIDED),  # a step of rounding on a grid this coarse is as large
        (0.05, 0.25, blame.faults.QUANTIZATION),
        (0.50, 0.40, blame.faults.QUANTIZATION),
    ],
)
def test_a_coarse_file_is_not_blamed_on_the_backend(off, own, named):
    """By how far the backend is off from the reference executor, and that from float32."""
    case = SimpleNamespace(errors=(off, own), precision="int8", target=SimpleNamespace(backend="openvino"))
    rows = [row for row in blame.TABLE if row.fault in (blame.faults.BACKEND, named, blame.faults.QUANTIZATION)]
    assert next(row.fault for row in rows if row.shows(case)) == named


# No false alarm


def test_evidence_holds_the_finding_and_bench_does_not_wipe_it(finished_copy):
    alter(finished_copy, ("model.onnx", edit_constants(*FLOAT_FILES["damaged weights"])))
    with Bundle(finished_copy) as opened:
        evidence = opened.evidence().merged([each.entry for each in verify.verify(opened)])
        timed = [msgspec.structs.replace(each, agreement=None, finding=None) for each in evidence.entries]
        bundles.update(opened, evidence=evidence.merged(timed))
    with Bundle(finished_copy) as opened:
        assert {each.finding.name for each in opened.evidence().entries if each.variant == "float32"} == {
            "damaged weights"
        }
        offers = offered(opened.manifest, opened.evidence(), machine.this())
        assert "damaged weights" in offers.withheld("float32")["onnxruntime"]


def test_arrays_that_are_none_are_refused(cropped, tmp_path):
    junk, other, few = tmp_path / "junk.npy", tmp_path / "other.npz", tmp_path / "few.npy"
    junk.write_bytes(b"hello")
    np.savez(other, scores=np.zeros((3, 10)))
    np.save(few, np.zeros((2, 10)))
    with Bundle(cropped) as opened:
        with pytest.raises(BadInput, match=r"junk\.npy: no \.npy or \.npz"):
            verify.against_file(opened, junk)
        with pytest.raises(BadInput, match="no array 'scores' is asked for"):
            verify.against_file(opened, other)
        with pytest.raises(BadInput, match="2 arrays were given, the bundle has 3 pictures: landscape.png"):
            verify.against_file(opened, few)
        with pytest.raises(BadInput, match="the network has 10 classes, the pipeline gives 7 scores"):
            verify.against(opened, [np.zeros(7)] * 3)
        with pytest.raises(BadInput, match=r"input is \(32, 32, 3\), the pipeline gives \(16, 16, 3\)"):
            verify.against(opened, [np.zeros((16, 16, 3))] * 3)
        with pytest.raises(BadInput, match="the pictures gave arrays of"):
            verify.against(opened, [np.array(["a"])] * 3)


KINDS = {
    "stretch": Preprocess(size=(32, 32), mode="stretch", interpolation="linear"),
    "crop": Preprocess(size=(24, 24), interpolation="area"),
    "wide": Preprocess(size=(24, 40), mode="crop", interpolation="cubic"),
    "letterbox": Preprocess(size=(32, 48), mode="letterbox", interpolation="area", color="BGR"),
    "grey": Preprocess(size=(32, 32), mode="crop", color="GRAY"),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_clean_bundles_raise_no_alarm(kind, seed, digits, tmp_path):
    """15 networks of other weights, every kind of preprocessing, at least four loads each: 60 and no alarm."""
    preprocess = KINDS[kind]
    torch.manual_seed(seed)
    channels = preprocess.channels
    network = torch.nn.Sequential(
        torch.nn.Conv2d(channels, 8, 3, 2, 1),
        torch.nn.BatchNorm2d(8),
        torch.nn.Hardswish() if seed % 2 else torch.nn.GELU(),
        torch.nn.Conv2d(8, 16, 3, 2, 1, groups=1 + seed % 3 % 2),
        torch.nn.ReLU6() if seed % 3 else torch.nn.SiLU(),
        torch.nn.AdaptiveAvgPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(64, 5),
    )
    frames = np.stack([cv2.resize(each, preprocess.size[::-1]) for each in digits[0][seed * 20 : seed * 20 + 8]])
    frames = frames[..., :channels] if channels == 1 else frames
    normalization = rt.Normalization((0.4,) * channels, (0.2 + 0.05 * seed,) * channels)
    given = {"name": kind, "labels": list("abcde"), "preprocess": preprocess, "normalization": normalization}
    path = tmp_path / "bundle.edgecv"
    export(network, path, images=frames, **given)
    assert findings(path) == {}
    rt.load(path, backend="onnxruntime", self_test=True).close()
    with rt.load(path, backend="openvino", precision="float32", self_test=True) as model, Bundle(path) as opened:

        def own(picture):
            return model(rt.images.read(picture)).scores

        assert verify.diagnose(opened, own) is None
        assert verify.diagnose(opened, lambda picture: preprocess(rt.images.read(picture))) is None


def test_rounding_of_large_logits_raises_no_alarm(network, digits, tmp_path):
    """Float32 has 24 bits: of logits around 10,000, sums in another order differ by more than 0.01."""

    class Loud(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.quiet = network

        def forward(self, x):
            return 1e6 * self.quiet(x)

    given = {"name": "loud", "labels": LABELS, "preprocess": KINDS["stretch"], "normalization": NORMALIZATION}
    export(Loud(), tmp_path / "bundle", images=digits[0][:8], **given)
    assert findings(tmp_path / "bundle") == {}
    with Bundle(tmp_path / "bundle") as opened:
        entries = [each.entry for each in verify.verify(opened)]
        assert max(each.agreement.max_abs for each in entries if each.hint == "float32") > 0.01
        assert all(is_faithful(each, opened.manifest) for each in entries)
    alter(tmp_path / "bundle", ("model.onnx", edit_constants(stem, lambda values: values * np.float32(1.01))))
    assert {each.name for each in findings(tmp_path / "bundle").values()} == {"damaged weights"}


def test_a_whole_bundle_with_int8_raises_no_alarm(finished):
    assert findings(finished) == {}
    for backend in ("onnxruntime", "openvino"):
        for precision in ("float32", "int8-u8s8"):
            rt.load(finished, backend=backend, precision=precision, self_test=True).close()


def test_a_precision_that_the_runtime_does_not_tell_is_no_fault(finished):
    """As ONNX Runtime's own OpenVINO provider does: it compiles the whole graph, and nothing can be counted."""
    with Bundle(finished) as opened:
        golden = opened.golden()
        target = next(each for each in targets(opened) if (each.variant, each.hint) == ("float32", "float32"))
        expected = Outputs(golden.images, golden.outputs)
        task = tasks.create(opened.manifest.head, opened.manifest.outputs)
        found, _ = compare(task, expected, golden.outputs, name="golden")
        told = [explain(opened, target, Executed(precision, {}), expected, found) for precision in (UNKNOWN, "bf16")]
    assert told[0] is None
    assert "bf16 ran where float32 was claimed" in str(told[1])


def test_a_plain_file_has_nothing_to_test_itself_with(exported):
    with pytest.raises(BadInput, match="carries no golden inputs: leave out self_test"):
        rt.load(exported / "model.onnx", self_test=True)
