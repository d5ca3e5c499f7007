"""Where there is no PyTorch, on a device say: recipes and data are read, and int8 is made."""

from __future__ import annotations

import json
import subprocess
import sys

import cv2
import numpy as np

import edgecv_runtime as rt
from tests.runtime import foreign

BLOCK = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "lightning_fabric", "kornia"):
            raise ImportError(f"{name} was wanted")

sys.meta_path.insert(0, Blocked())
"""
SCRIPT = """
import numpy as np
from edgecv import recipe
from edgecv.data import DataConfig, load
from edgecv_export.quantize import QuantizeConfig, convert, quantize

read = recipe.read(sys.argv[3])
assert read.train is not None
assert len(load(DataConfig(source="digits")).train)
frames = np.load(sys.argv[2])
config = QuantizeConfig(images=24, check_images=16, placements=("layers",), ranges=("min-max",), islands=False)
quantize(sys.argv[1], frames, config)
convert(sys.argv[1])
assert "torch" not in sys.modules
"""


# A file from elsewhere, the whole way by the command line.
VERBS = """
import contextlib, io, json
from edgecv.cli import main

def edgecv(*arguments):
    sys.argv = ["edgecv", *arguments]
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            main()
    except SystemExit as exc:
        assert not exc.code, (arguments, exc.code)
    return said.getvalue()

model, described, photos, out = sys.argv[1:]
print(edgecv("adopt", model, "--describe", described, "--data", photos, "--out", out))
edgecv("quantize", out, "--data", photos, "--images", "16", "--check-images", "16", "--budget-s", "2")
edgecv("verify", out)
edgecv("bench", out, "--seconds", "0.05", "--rounds", "1")
edgecv("tune", out, "--backend", "onnxruntime", "--precision", "float32", "--threads", "1")
edgecv("stream", out, photos + "/00.png", "--sink", out + ".jsonl")
print(edgecv("predict", out, photos + "/00.png"))
assert "torch" not in sys.modules
"""


def run(script, *arguments):
    command = [sys.executable, "-c", BLOCK + script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_a_file_from_elsewhere_goes_the_whole_way_without_torch(tmp_path, photos):
    for number in range(40):
        y, x = divmod(number, 8)
        photo = photos[number % len(photos)][::6, ::6]
        (tmp_path / "photos").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "photos" / f"{number:02}.png"), photo[y:, x:])
    model = foreign.save(tmp_path / "mine.onnx")
    (tmp_path / "mine.yaml").write_text(foreign.YAML)
    said = run(VERBS, model, tmp_path / "mine.yaml", tmp_path / "photos", tmp_path / "out")
    assert said.splitlines()[0] == str(tmp_path / "out")
    with rt.Bundle(tmp_path / "out") as opened:
        assert {each.name for each in opened.manifest.variants} >= {"float32", "int8-u8s8"}
        evidence = opened.evidence().entries
        assert {each.variant for each in evidence if each.latency and each.agreement} >= {"float32", "int8-u8s8"}
        assert opened.manifest.provenance["adopted"] == "mine.onnx"
    with rt.load(tmp_path / "out", precision="float32") as model:
        wanted = model(rt.images.read(tmp_path / "photos" / "00.png", 10**6))
    assert wanted.label in said
    assert json.loads((tmp_path / "out.jsonl").read_text())["result"]["label"] == wanted.label


def test_recipes_data_and_int8_want_no_torch(bundle_copy, digits, tmp_path, pytestconfig):
    np.save(tmp_path / "frames.npy", digits[0][:40])
    recipe = pytestconfig.rootpath / "recipes" / "digits.yaml"
    run(SCRIPT, bundle_copy, tmp_path / "frames.npy", recipe)
    with rt.Bundle(bundle_copy) as opened:
        assert {each.name for each in opened.manifest.variants} == {"float32", "fp16", "int8-u8s8"}
