"""What the studies of quantization share: networks trained on CIFAR-10, images, peers' files and their scores."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv import data, models
from edgecv_export.graph import Deployed, to_onnx
from edgecv_runtime import backends, verify
from edgecv_runtime.backends import Options
from edgecv_runtime.evidence import Score
from edgecv_runtime.preprocess import Image, Normalization, Preprocess

NORMALIZATION = Normalization(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
CALIBRATION, CHECK = 300, 2000
Labels = NDArray[np.int64]
# ImageNet's classes that each class of CIFAR-10 is, by number; it has no deer, but antelopes.
IMAGENET_CLASSES = {
    "airplane": [404, 895, 908],
    "automobile": [436, 468, 511, 609, 627, 656, 661, 751, 817],
    "bird": [*range(7, 25), *range(80, 101), *range(127, 147)],
    "cat": [*range(281, 286)],
    "deer": [351, 352, 353],
    "dog": [*range(151, 269)],
    "frog": [30, 31, 32],
    "horse": [339],
    "ship": [403, 472, 484, 510, 554, 576, 625, 628, 724, 780, 814, 871, 914],
    "truck": [555, 569, 675, 717, 734, 864, 867],
}


@dataclass(frozen=True)
class Subject:
    """A trained network: its name in the zoo, the side of its input in pixels, and its weights.

    weights: a file trained on CIFAR-10 by `quantization_training`, or "imagenet" for the published ones. These name a
    picture of CIFAR-10 by the class that holds the likeliest of ImageNet's classes.
    """

    name: str
    size: int
    weights: str

    @staticmethod
    def parse(text: str) -> Subject:
        """Read NAME:SIZE:WEIGHTS."""
        name, size, weights = text.split(":", 2)
        return Subject(name, int(size), weights)

    @property
    def published(self) -> bool:
        """Whether the weights know ImageNet's classes and not CIFAR-10's."""
        return self.weights == "imagenet"

    @property
    def preprocess(self) -> Preprocess:
        """How the networks of the study were trained."""
        return Preprocess(size=(self.size, self.size), mode="stretch", interpolation="linear")

    @property
    def normalization(self) -> Normalization:
        """What the weights were trained with."""
        return models.spec(self.name).normalization if self.published else NORMALIZATION

    @property
    def labels(self) -> list[str]:
        """A name for each logit."""
        return models.labels("imagenet") if self.published else list(IMAGENET_CLASSES)

    def network(self) -> models.Network:
        """The trained network."""
        return models.create(self.name, classes=len(self.labels), weights=self.weights, in_channels=3)

    def graph(self) -> Any:
        """The float32 ONNX graph."""
        return to_onnx(Deployed(self.network(), self.normalization), (self.size, self.size), 3, {})

    def classes(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits of CIFAR-10's ten classes, (N, 10)."""
        if not self.published:
            return logits
        return np.stack([logits[:, numbers].max(axis=1) for numbers in IMAGENET_CLASSES.values()], axis=1)


@dataclass(frozen=True)
class Cifar:
    """Preprocessed CIFAR-10: images to calibrate with, labelled training images to choose on, the test set."""

    calibration: Image
    check: Image
    check_labels: Labels
    test: Image
    test_labels: Labels


def cifar10(path: Path, preprocess: Preprocess, test: int) -> Cifar:
    """Calibration and check images from the training set, `test` images of the test set (10,000: all)."""
    found = data.load(data.DataConfig(source="cifar10", path=str(path)))
    picked = found.train.take(CALIBRATION + CHECK, seed=1)
    order = np.random.default_rng(1).permutation(len(picked))
    train, held = picked.pick(order[:CALIBRATION]), picked.pick(order[CALIBRATION:])
    tested = found.val.take(test)
    assert held.labels is not None
    assert tested.labels is not None
    return Cifar(
        preprocess.batch(list(train)),
        preprocess.batch(list(held)),
        held.labels,
        preprocess.batch(list(tested)),
        tested.labels,
    )


def outputs(content: bytes, frames: Image, backend: str = "openvino") -> NDArray[np.float32]:
    """Logits of a file for all frames."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        file.write_bytes(content)
        opened = backends.get(backend)(file, Options())
        parts = [next(iter(opened.run({"image": frames[at : at + 50]}).values())) for at in range(0, len(frames), 50)]
        opened.close()
    return np.concatenate(parts)


def score(reference: NDArray[np.float32], got: NDArray[np.float32], labels: Labels) -> Score:
    """Top-1 with the drop from the float32 file and its paired bootstrap interval."""
    return verify.score(reference, got, labels)


def onnxruntime_default(path: Path, calibration: Image) -> bytes:
    """`onnxruntime.quantization.quantize_static` with its defaults."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Frames(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left: Iterator[dict[str, Image]] = ({"image": frame[None]} for frame in calibration)

        def get_next(self) -> dict[str, Image] | None:
            return next(self._left, None)

    target = path.with_name("onnxruntime-default.onnx")
    quantize_static(path, target, Frames())
    return target.read_bytes()


def nncf_default(path: Path, calibration: Image, site: Path) -> bytes:
    """`nncf.quantize` with its defaults, in a process of its own that finds nncf in the folder `site`."""
    target, frames = path.with_name("nncf-default.onnx"), path.with_name("frames.npy")
    np.save(frames, calibration)
    code = (
        "import sys, numpy, onnx, nncf; frames = numpy.load(sys.argv[2]);"
        "data = nncf.Dataset([{'image': frame[None]} for frame in frames]);"
        "onnx.save(nncf.quantize(onnx.load(sys.argv[1]), data, subset_size=len(frames)), sys.argv[3])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(site)])}
    subprocess.run(
        [sys.executable, "-c", code, str(path), str(frames), str(target)],
        check=True,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    return target.read_bytes()


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options that the studies share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, required=True, help="the archive, or a folder or .zip of images")
    parser.add_argument("--test", type=int, default=10_000, help="how many test images score")
    parser.add_argument("subjects", nargs="+", type=Subject.parse, metavar="NAME:SIZE:WEIGHTS")
    return parser
