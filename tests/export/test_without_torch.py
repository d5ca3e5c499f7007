"""Where there is no PyTorch, on a device say: recipes and data are read, and int8 is made."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

import edgecv_runtime as rt

SCRIPT = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "lightning_fabric", "kornia"):
            raise ImportError(f"{name} was wanted")

sys.meta_path.insert(0, Blocked())
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


def test_recipes_data_and_int8_want_no_torch(bundle_copy, digits, tmp_path, pytestconfig):
    np.save(tmp_path / "frames.npy", digits[0][:40])
    recipe = pytestconfig.rootpath / "recipes" / "digits.yaml"
    command = [sys.executable, "-c", SCRIPT, str(bundle_copy), str(tmp_path / "frames.npy"), str(recipe)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    with rt.Bundle(bundle_copy) as opened:
        assert {each.name for each in opened.manifest.variants} == {"float32", "fp16", "int8-u8s8"}
