"""A trained network that plain quantization ruins: what the search gives back is kept from getting lost again."""

import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnxruntime.quantization import CalibrationDataReader, quantize_static

from edgecv import models
from edgecv_export.export import export
from edgecv_export.graph import Deployed, reference
from edgecv_export.quantize import QuantizeConfig, quantize
from edgecv_runtime import Bundle, Normalization, Preprocess, images, verify
from edgecv_runtime.manifest import Budget

ASSETS = Path(__file__).parent.parent / "assets"
PREPROCESS = Preprocess(size=(64, 64), mode="stretch", interpolation="linear")
NORMALIZATION = Normalization(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
TOP1 = 0.72  # of the float32 network on the 200 test images


@pytest.fixture(scope="module")
def photos():
    """Images to calibrate with; test images with their labels and the names of these."""
    with zipfile.ZipFile(ASSETS / "cifar10-264.zip") as archive:
        read = {name: images.decode(archive.read(name)) for name in archive.namelist()}
    names = [name for name in read if name.startswith("test/")]
    classes = sorted({name.split("/")[1] for name in names})
    labels = np.array([classes.index(name.split("/")[1]) for name in names], np.int64)
    calibration = PREPROCESS.batch([image for name, image in read.items() if name.startswith("train/")])
    return calibration, PREPROCESS.batch([read[name] for name in names]), labels, tuple(classes)


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    """Its float32 bundle, and PyTorch's logits on the test images."""
    calibration, frames, _, classes = photos
    weights = ASSETS / "mobilenet_v3_small-cifar10-64.safetensors"
    network = models.create("mobilenet_v3_small", classes=10, weights=str(weights), in_channels=3).eval()
    path = tmp_path_factory.mktemp("trained") / "bundle"
    given = {"preprocess": PREPROCESS, "normalization": NORMALIZATION, "labels": classes}
    export(network, path, name="trained", images=calibration[:8], **given)
    return path, reference(Deployed(network, NORMALIZATION), frames)


def test_plain_quantization_fails_and_the_search_restores_it(trained, photos, tmp_path):
    path, expected = trained
    calibration, frames, labels, _ = photos
    assert np.mean(expected.argmax(1) == labels) == pytest.approx(TOP1, abs=0.011)

    plain = plainly_quantized(path, calibration, frames, tmp_path / "plain.onnx")
    assert np.mean(plain.argmax(1) == expected.argmax(1)) < 0.5  # onnxruntime's own defaults

    config = QuantizeConfig(
        images=64, placements=("merged",), ranges=("min-max", "mean-min-max"), passes=("bias",), islands=False
    )
    budget = Budget(max_drop_points=3.0)
    done = quantize(path, calibration, config, check=frames[::2], labels=labels[::2], budget=budget)
    assert done.found.kept
    assert [each.ranges for each in done.candidates] == ["min-max", "mean-min-max"]
    assert done.candidates[0].agreement.share.value < 0.5  # its own plain quantization is no better

    others, truth = frames[1::2], labels[1::2]  # which chose nothing
    with Bundle(path) as opened:
        found = verify.verify(opened, others, expected[1::2], labels=truth, only=lambda each: "int8" in each.variant)
    assert {each.entry.backend for each in found} >= {"onnxruntime", "openvino"}
    for each in found:
        assert each.entry.agreement.share.value >= 0.92
        assert each.entry.score.drop <= 3


def plainly_quantized(path, calibration, frames, target):
    """Logits of `quantize_static` with its defaults, on the backend that wrote it."""

    class Reader(CalibrationDataReader):
        left = iter(calibration)

        def get_next(self):
            frame = next(self.left, None)
            return None if frame is None else {"image": frame[None]}

    with Bundle(path) as opened:
        quantize_static(opened.variant_file("float32"), target, Reader())
    session = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"image": frames[at : at + 50]})[0] for at in range(0, len(frames), 50)])
