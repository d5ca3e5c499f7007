"""TensorRT takes every variant of every family: parsing and building are real (TensorRT-RTX), with or without a GPU.

An engine cannot be deserialized without a GPU. So tests ask the network that it is built from for names, types and
profile, and read the text that TensorRT-RTX writes into it; where there is a GPU they run it too, against ONNX Runtime.
"""

import dataclasses
import re
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from onnxruntime.transformers.float16 import convert_float_to_float16
from tensorrt_lab import TARGETS, PlanText, convolution, half, symmetric, why_not

from edgecv import models
from edgecv.models import alexnet, swin, vgg, vit
from edgecv_export import graph
from edgecv_export.graph import Deployed
from edgecv_runtime.backends import Options
from edgecv_runtime.backends.tensorrt import TensorRtBackend, api
from edgecv_runtime.backends.tensorrt.build import Plan
from edgecv_runtime.backends.tensorrt.builder import build_engine
from edgecv_runtime.backends.tensorrt.network import Parsed, Tensor, read_network
from edgecv_runtime.errors import BackendUnavailable, BadInput, ModelFileError
from edgecv_runtime.preprocess import Normalization

PRECISIONS = {"float32": "float32", "fp16": "fp16", "int8-s8s8": "int8", "int8-s8s8-fp16": "int8"}
CHANGES = {
    "float32": lambda same: same,
    "fp16": half,
    "int8-s8s8": symmetric,
    "int8-s8s8-fp16": lambda model: half(symmetric(model)),
}
# What the file leaves in float.
BETWEEN = {"float32": "float32", "fp16": "fp16", "int8-s8s8": "float32", "int8-s8s8-fp16": "fp16"}
# Largest difference from ONNX Runtime, relative to the largest logit, on a GPU.
TOLERANCES = {"float32": 1e-3, "fp16": 0.05, "int8-s8s8": 0.1, "int8-s8s8-fp16": 0.15}
# The same layers, fewer of them or narrower: their weights fill hundreds of megabytes, or their depth seconds.
THIN = {
    "alexnet": lambda: alexnet.AlexNet(alexnet.VARIANTS["alexnet"]._replace(hidden=64), 10, 3),
    "vgg": lambda: vgg.VGG(vgg.VARIANTS["vgg11"]._replace(hidden=64), 10, 3),
    "vit": lambda: vit.VisionTransformer(vit.VARIANTS["vit_tiny"]._replace(depth=2), 10, 3),
    "swin": lambda: swin.SwinTransformer(swin.VARIANTS["swin_t"]._replace(depths=(2, 1, 1, 1)), 10, 3),
}


def families():
    """Family -> the smallest network, of those that take pictures: the dialects are made for uint8 frames."""
    smallest = {}
    for name in models.names():
        spec = models.spec(name)
        if spec.task == "sequence":
            continue
        if spec.family not in smallest or spec.parameters < models.spec(smallest[spec.family]).parameters:
            smallest[spec.family] = name
    return smallest


@pytest.fixture(scope="module", params=families())
def variants(request, tmp_path_factory):
    """Every variant of the smallest network of a family, at the smallest picture that it takes."""
    torch.manual_seed(0)
    thin = THIN.get(request.param)
    network = thin() if thin else models.create(families()[request.param], classes=10)
    side = max(32, network.smallest)
    task = models.spec(families()[request.param]).task
    places = (side, side) if task == "segmentation" else ()
    outputs = {"logits": (10, *places)}
    if task == "detection":
        count = sum((side // stride) ** 2 for stride in (8, 16, 32))
        outputs = {"boxes": (count, 4), "scores": (count, 10)}
    model = graph.to_onnx(Deployed(network.eval(), Normalization(), tuple(outputs)), (side, side), 3, {})
    folder = tmp_path_factory.mktemp(request.param)
    for name, change in CHANGES.items():
        onnx.save(change(model), folder / f"{name}.onnx")
    return folder, (side, side, 3), outputs


@pytest.mark.parametrize("variant", PRECISIONS)
def test_every_variant_of_every_family_builds(variants, variant):
    folder, frame, outputs = variants
    file = folder / f"{variant}.onnx"
    operators = Counter(node.op_type for node in onnx.load(file).graph.node)
    expected = Counter({PRECISIONS[variant]: operators["Conv"] + operators["Gemm"] + operators["MatMul"]})
    if operators["ConvTranspose"]:  # U-Net's; the int8 files leave it in float
        expected[BETWEEN[variant]] += operators["ConvTranspose"]
    network = read_network(file, max_batch=4)
    assert network.inputs == (Tensor("image", "UINT8", (-1, *frame), ((1, *frame), (1, *frame), (4, *frame))),)
    assert network.outputs == tuple(Tensor(name, "FLOAT", (-1, *shape)) for name, shape in outputs.items())
    assert network.layers == expected
    text = PlanText(build_engine(file, Plan(max_batch=4), compute_capabilities=TARGETS))
    assert text.targets == ["sm86", "sm89"]
    assert text.tensors["image"] == ("uint8", list(frame))
    for name, shape in outputs.items():
        assert text.tensors[name] == ("float", list(shape))
    assert not text.tf32  # float32 is float32
    runs_like_onnx_runtime(file, frame, TOLERANCES[variant])


def runs_like_onnx_runtime(file, frame, tolerance):
    """On a GPU the same answer as ONNX Runtime's, batch by batch; elsewhere the reason why it cannot run."""
    missing = why_not()
    if missing:
        with pytest.raises(BackendUnavailable, match=re.escape(missing)):
            TensorRtBackend(file, Options())
        return
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    backend = TensorRtBackend(file, Options())
    for count in (1, 1, 3, 17):  # the second of a shape is a CUDA graph, 17 is more than an engine takes at once
        images = np.random.default_rng(count).integers(0, 256, (count, *frame)).astype(np.uint8)
        found = backend.run({"image": images})
        for output, expected in zip(session.get_outputs(), session.run(None, {"image": images}), strict=True):
            assert np.abs(found[output.name] - expected).max() <= tolerance * np.abs(expected).max()
    backend.close()


def test_tensorrt_rtx_is_installed_where_tests_run():
    assert api.library().__name__ == "tensorrt_rtx"


@pytest.mark.parametrize("batch", [2, 4, 16])
def test_the_engine_holds_memory_for_the_largest_batch(exported, batch):
    largest = 32 * 16 * 16 * 4  # bytes of the pointwise convolution's output
    text = PlanText(build_engine(exported / "model.onnx", Plan(max_batch=batch), compute_capabilities=[(8, 6)]))
    assert text.targets == ["sm86"]
    assert batch * largest in text.regions


@pytest.mark.parametrize("variant", PRECISIONS)
def test_the_engine_computes_in_the_precision_of_the_file(exported, tmp_path, variant):
    operands = {{"float32": "float", "fp16": "half", "int8": "int8"}[PRECISIONS[variant]]}
    onnx.save(CHANGES[variant](onnx.load(exported / "model.onnx")), tmp_path / "model.onnx")
    text = PlanText(build_engine(tmp_path / "model.onnx", compute_capabilities=TARGETS))
    assert set(text.operands) == operands


@pytest.mark.parametrize("operand", [0, 1], ids=["activations", "weights"])
def test_int8_weights_or_activations_alone_are_no_int8_layer(exported, tmp_path, operand):
    """Put the float tensor back in place of one operand of every layer."""
    original = onnx.load(exported / "model.onnx")
    model = symmetric(original)
    floats = {node.name: node.input[operand] for node in original.graph.node if node.op_type in ("Conv", "Gemm")}
    for node in model.graph.node:
        if node.name in floats:
            node.input[operand] = floats.pop(node.name)
    assert not floats
    onnx.save(model, tmp_path / "half-way.onnx")
    assert read_network(tmp_path / "half-way.onnx").layers == {"float32": 5}


# Before strong typing (8.6, and 10 for a DLA) types are permissions. TensorRT-RTX has none, so only what is decided
# from the network that it really parsed is tested here.


@pytest.mark.parametrize(
    ("variant", "permissions"),
    [("float32", []), ("fp16", ["FP16"]), ("int8-s8s8", ["INT8"]), ("int8-s8s8-fp16", ["FP16", "INT8"])],
)
def test_a_weakly_typed_network_is_permitted_what_the_file_has(exported, tmp_path, variant, permissions):
    onnx.save(CHANGES[variant](onnx.load(exported / "model.onnx")), tmp_path / "model.onnx")
    assert Parsed(tmp_path / "model.onnx", api.library(), strong=False).permissions() == permissions
    assert Parsed(tmp_path / "model.onnx", api.library(), strong=True).permissions() == []


class Pinned:
    """A parsed layer with the setters that TensorRT-RTX has not."""

    def __init__(self, layer):
        self.layer, self.precision, self.types = layer, None, {}

    def __getattr__(self, name):
        return getattr(self.layer, name)

    def set_output_type(self, index, kind):
        self.types[index] = kind


def test_what_the_file_leaves_in_float32_is_held_to_it(exported, tmp_path):
    mixed = convert_float_to_float16(
        onnx.load(exported / "model.onnx"), keep_io_types=True, op_block_list=["Gemm", "MatMul"]
    )
    onnx.save(mixed, tmp_path / "mixed.onnx")
    parsed = Parsed(tmp_path / "mixed.onnx", api.library(), strong=False)
    assert parsed.permissions() == ["FP16"]
    parsed.layers = [Pinned(layer) for layer in parsed.layers]
    parsed.pin_float32("float32")
    pinned = [each for each in parsed.layers if each.precision == "float32"]
    assert "MATRIX_MULTIPLY" in {each.type.name for each in pinned}
    assert all(each.types == {0: "float32"} for each in pinned)
    assert all(each.get_output(0).dtype.name == "FLOAT" for each in pinned)
    convolutions = [each for each in parsed.layers if each.type.name == "CONVOLUTION"]
    assert len(convolutions) == 4
    assert all(each.precision is None for each in convolutions)


def test_asymmetric_int8_is_refused_in_one_line_with_the_node(finished):
    with pytest.raises(ModelFileError) as caught:
        build_engine(finished / "model.int8-u8s8.onnx", compute_capabilities=TARGETS)
    said = str(caught.value)
    assert re.search(r"model.int8-u8s8.onnx: tensorrt cannot parse node '[^']+' \((Q|Deq)uantizeLinear\): \w", said)
    assert said.endswith("it takes symmetric int8 with unquantized bias (int8-s8s8)")
    assert "\n" not in said
    assert "/_src/" not in said


def test_scales_that_tensorrt_8_misreads_are_refused(exported, tmp_path, monkeypatch):
    """Its parser takes the bytes of float16 scales for float32 ones. Strong typing is what that release lacks."""
    for name in ("int8-s8s8", "int8-s8s8-fp16"):
        onnx.save(CHANGES[name](onnx.load(exported / "model.onnx")), tmp_path / f"{name}.onnx")
    real = api.abilities(api.library())
    monkeypatch.setattr(api, "abilities", lambda _: dataclasses.replace(real, strong_typing=False))
    assert Parsed(tmp_path / "int8-s8s8.onnx", api.library(), strong=False).permissions() == ["INT8"]
    with pytest.raises(ModelFileError, match=r"int8-s8s8-fp16.onnx: .* takes no Q/DQ of opset 19 .* int8-s8s8, or "):
        Parsed(tmp_path / "int8-s8s8-fp16.onnx", api.library(), strong=False)


def test_what_cannot_be_built_is_said_in_one_line(exported):
    with pytest.raises(BadInput, match=r"cannot build for compute capability 8\.7; it can for .*8\.6, 8\.9") as caught:
        build_engine(exported / "model.onnx", compute_capabilities=[(8, 6), (8, 7)])
    assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match="max_batch must be at least 1, got 0"):
        Plan(max_batch=0)
    with pytest.raises(BadInput, match="DLA takes no dynamic batch: max_batch must be 1, got 16"):
        Plan(dla=0)


def test_building_for_this_machine_needs_its_gpu(exported):
    missing = why_not()
    if missing:
        with pytest.raises(ModelFileError, match=r"tensorrt cannot build an engine: \w") as caught:
            build_engine(exported / "model.onnx")
        assert "\n" not in str(caught.value)
    else:
        assert build_engine(exported / "model.onnx")


def test_a_dla_that_is_not_there_is_said(exported):
    """TensorRT-RTX has the API of the DLA, and finds none on any machine."""
    with pytest.raises(BadInput, match=r"device 'dla:0': tensorrt_rtx .* finds 0 DLA cores here; .* take device 'gpu'"):
        build_engine(exported / "model.onnx", Plan(max_batch=1, dla=0), compute_capabilities=TARGETS)


def test_a_size_that_is_dynamic_beyond_the_batch_is_refused(tmp_path):
    path = convolution(tmp_path / "open.onnx", size=("N", "H", "W", 3), kind=TensorProto.FLOAT)
    with pytest.raises(ModelFileError, match="'image' .* is dynamic beyond its batch; export it with fixed"):
        build_engine(path, compute_capabilities=TARGETS)


def test_a_broken_file_is_refused_before_tensorrt_sees_it(exported, tmp_path):
    broken = tmp_path / "half.onnx"
    broken.write_bytes((exported / "model.onnx").read_bytes()[:5000])
    with pytest.raises(ModelFileError, match="not a whole ONNX file"):
        build_engine(broken, compute_capabilities=TARGETS)
