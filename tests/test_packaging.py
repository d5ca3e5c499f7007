"""What an installation brings: the device gets numpy and msgspec, and each extra is there."""

import re
from importlib import metadata

import edgecv
import edgecv_runtime


def test_without_extras_only_numpy_and_msgspec_are_required():
    plain = [line for line in metadata.requires("edgecv") if "extra ==" not in line]
    assert sorted(re.match(r"[\w-]+", line)[0] for line in plain) == ["msgspec", "numpy"]


def test_the_extras_that_the_guide_names_exist():
    extras = set(metadata.metadata("edgecv").get_all("Provides-Extra"))
    assert extras >= {"onnxruntime", "openvino", "tensorrt", "cpu", "gui", "adopt"}
    assert extras >= {"train", "export", "pretrained", "dev", "page", "mqtt"}


def test_adopting_needs_no_torch():
    wanted = [line for line in metadata.requires("edgecv") if re.search(r"extra == .adopt.$", line)]
    names = {re.match(r"[\w.-]+", line)[0] for line in wanted}
    assert {"onnx", "onnxslim", "typer", "onnxruntime"} <= names
    assert "torch" not in names


def test_the_three_packages_are_one_version():
    assert edgecv.__version__ == edgecv_runtime.__version__ == metadata.version("edgecv")
