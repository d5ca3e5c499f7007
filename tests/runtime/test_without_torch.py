"""The device has no torch: the runtime loads, predicts, verifies and streams with torch blocked, as do its verbs."""

import subprocess
import sys
import time

import edgecv_runtime as rt
from edgecv_runtime import hashes, install

BLOCK = """
import sys

BLOCKED = {"torch", "onnx", "lightning_fabric", "kornia", "onnxslim", "jinja2", "matplotlib"}

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked: this is a device")

sys.meta_path.insert(0, Block())
"""


def run(script, *arguments):
    done = subprocess.run([sys.executable, "-c", BLOCK + script, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_prediction_runs_with_torch_blocked(exported):
    script = """
import numpy as np
import edgecv_runtime as rt
from edgecv_runtime.verify import verify
frame = np.zeros((480, 640, 3), np.uint8)
for backend in ("onnxruntime", "openvino"):
    with rt.load(sys.argv[1], backend=backend) as model:
        print(model(frame).label)
        assert all(each.entry.agreement.share.value == 1 for each in verify(model.bundle))
assert "torch" not in sys.modules
"""
    assert len(run(script, exported).split()) == 4  # "digit N", twice


def test_the_command_line_predicts_with_torch_blocked(exported, tmp_path, photos):
    import cv2

    cv2.imwrite(str(tmp_path / "photo.png"), photos[0])
    script = """
from edgecv.cli import main
sys.argv = ["edgecv", "predict", *sys.argv[1:]]
main()
"""
    assert "photo.png: " in run(script, exported, tmp_path)


def test_the_runtime_imports_nothing_heavy():
    script = """
import edgecv_runtime
heavy = {"cv2", "av", "onnxruntime", "openvino", "typer", "rich", "psutil"} & set(sys.modules)
assert not heavy, heavy
"""
    run(script)


def test_a_start_imports_nothing_that_it_does_not_use(exported):
    """What each of these costs is a share of every start but the first, which writes down the digests of the files.

    numpy, OpenCV and ONNX Runtime may import what they like.
    """
    time.sleep(hashes.FRESH_NS / 1e9)  # digests of what was just written are not kept
    rt.load(exported, backend="onnxruntime").close()
    script = """
import cv2, msgspec, numpy, onnxruntime
theirs = set(sys.modules)
import edgecv_runtime as rt
with rt.load(sys.argv[1], backend="onnxruntime") as model:
    model(numpy.zeros((480, 640, 3), numpy.uint8)).label
slow = "concurrent ctypes dataclasses difflib importlib.metadata json logging shutil subprocess tempfile zipfile"
own = "golden onnxgraph workers verify bench stream backends.openvino backends.tensorrt backends.echo"
unused = {*slow.split(), *(f"edgecv_runtime.{name}" for name in own.split())} & (set(sys.modules) - theirs)
assert not unused, unused
"""
    run(script, exported)


def test_without_opencv_a_frame_says_what_to_install(exported):
    script = """
BLOCKED.add("cv2")
import numpy as np
import edgecv_runtime as rt
model = rt.load(sys.argv[1], backend="onnxruntime")
try:
    model(np.zeros((480, 640, 3), np.uint8))
except rt.errors.Unavailable as exc:
    print(exc)
"""
    assert f"OpenCV (cv2 is blocked: this is a device): {install.command('cpu')}" in run(script, exported)
