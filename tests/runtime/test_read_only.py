"""A device whose root is read-only and that has no /tmp runs what it has, and says what it lacks for the rest."""

import subprocess
import sys
import tempfile

import cv2
import pytest

import edgecv_runtime as rt
from edgecv_runtime import bundle as bundles
from tests.sandbox import READ_ONLY

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's filter of calls is Linux's")

COMMAND = """
import sys
from edgecv.cli import main
sys.argv[0] = "edgecv"
main()
"""


def edgecv(*arguments):
    command = [sys.executable, "-B", "-c", READ_ONLY + COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_nothing_can_be_made_there(tmp_path):
    script = READ_ONLY + "import tempfile; tempfile.gettempdir()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "No usable temporary directory" in done.stderr


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_predict_prints_its_result(exported, tmp_path, photos, backend):
    cv2.imwrite(str(tmp_path / "photo.png"), photos[0])
    done = edgecv("predict", exported, tmp_path / "photo.png", "--backend", backend)
    assert done.returncode == 0, done.stderr
    assert "photo.png: " in done.stdout
    assert "digit" in done.stdout


def test_what_runs_is_told_without_a_temporary_file(exported, monkeypatch):
    def none(*_, **__):
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr(tempfile, "mkdtemp", none)
    with rt.load(exported, backend="onnxruntime") as model:
        assert model.info.precision == "float32"
        assert model.info.layers["float32"] > 0


def test_an_archive_says_that_it_needs_a_folder(exported, tmp_path, photos):
    cv2.imwrite(str(tmp_path / "photo.png"), photos[0])
    with rt.Bundle(exported) as opened:
        content = {name: opened.file(name) for name in opened.manifest.files}
        bundles.write(tmp_path / "zipped.edgecv", opened.manifest, content)
    done = edgecv("predict", tmp_path / "zipped.edgecv", tmp_path / "photo.png")
    assert done.returncode == 3
    assert "zipped.edgecv: there is no folder to unpack it to (No usable temporary" in done.stderr
    assert done.stderr.count("\n") == 1
