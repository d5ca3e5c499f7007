"""Networks of a user's own Python file, exported with a description; the oracle is PyTorch itself."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

import edgecv_runtime as rt
from edgecv_export import export, module
from edgecv_runtime import description
from edgecv_runtime.errors import BadInput
from tests.export import foreign_heads as heads
from tests.runtime.foreign import NORMALIZATION

FILE = """
import torch
from beside import LABELS

class Network(torch.nn.Module):
    def __init__(self, outputs):
        super().__init__()
        torch.manual_seed(0)
        self.body = torch.nn.Conv2d(3, outputs, 3, 2, 1)

class Classifier(Network):
    def forward(self, x):
        return self.body(x).mean((2, 3))

class Segmenter(Network):
    def forward(self, x):
        return {"aux": x, "out": torch.nn.functional.interpolate(self.body(x), scale_factor=2.0, mode="bilinear")}

class Detector(Network):
    def forward(self, x):
        rows = torch.nn.functional.avg_pool2d(self.body(x), 4).flatten(2).transpose(1, 2)
        return rows[..., :4].sigmoid(), rows[..., 4:]

def classifier():
    return Classifier(len(LABELS))

def segmenter():
    return Segmenter(len(LABELS))

detector = Detector(4 + len(LABELS))

def broken():
    raise RuntimeError("no weights here")
"""
INPUT = """
labels: [cat, dog, owl]
preprocess: {size: [16, 32], mode: stretch}
normalization: {mean: [0.4, 0.5, 0.6], std: [0.2, 0.25, 0.3]}
"""
SAID = {
    "classifier": "",
    "segmenter": "task: segmentation\noutput: out\n",
    "detector": "task: detection\nboxes: {output: output0, columns: [cx, cy, w, h], unit: normalized}\n"
    "scores: {output: output1, of: logits}\n",
}


@pytest.fixture
def own(tmp_path):
    (tmp_path / "mine.py").write_text(FILE)
    (tmp_path / "beside.py").write_text("LABELS = 'cat', 'dog', 'owl'\n")
    for name, text in SAID.items():
        (tmp_path / f"{name}.yaml").write_text(INPUT + text)
    (tmp_path / "photos").mkdir()
    for number, frame in enumerate(heads.frames()):
        cv2.imwrite(str(tmp_path / "photos" / f"{number}.png"), frame)
    return tmp_path


def answers(network, seen):
    """PyTorch's of one BGR frame."""
    rgb = (seen[:, :, ::-1] / 255 - np.array(NORMALIZATION.mean)) / np.array(NORMALIZATION.std)
    with torch.inference_mode():
        return network.eval()(torch.from_numpy(rgb.transpose(2, 0, 1)[None].astype(np.float32)))


@pytest.mark.parametrize("name", SAID)
def test_a_network_of_any_task_is_exported_as_its_description_says(name, own):
    said = description.read(own / f"{name}.yaml")
    network = module.load(f"{own / 'mine.py'}:{name}")
    seen = heads.frames()
    export.described(network, own / "out", said, images=said.preprocess.batch(seen), name=name)
    with rt.load(own / "out", backend="onnxruntime", precision="float32", self_test=True) as model:
        got = model.run({"image": said.preprocess.batch(seen)})
        for index, frame in enumerate(seen):
            wanted = answers(network, frame)
            if name == "classifier":
                assert got["logits"][index] == pytest.approx(wanted[0].numpy(), abs=1e-4)
            elif name == "segmenter":
                assert (got["mask"][index] == wanted["out"][0].argmax(0).numpy()).mean() > 0.99
            else:
                boxes, scores = (each[0].numpy() for each in wanted)
                corners = [heads.corners(*(row * [32, 16, 32, 16])) for row in boxes]
                assert got["boxes"][index] == pytest.approx(np.array(corners), abs=1e-3)
                assert got["scores"][index] == pytest.approx(1 / (1 + np.exp(-scores)), abs=1e-4)


def edgecv(*arguments):
    command = [sys.executable, "-m", "edgecv.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command_line_exports_a_network_of_a_file(own):
    given = ["--describe", own / "segmenter.yaml", "--data", own / "photos", "--out", own / "out"]
    done = edgecv("export", f"{own / 'mine.py'}:segmenter", *given, "--json")
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["parity"]) == {"onnxruntime", "openvino"}
    with rt.Bundle(own / "out") as opened:
        assert opened.manifest.task == "segmentation"
    done = edgecv("export", f"{own / 'mine.py'}:segmenter")
    assert done.returncode == 2
    assert "give --describe FILE, and --data IMAGES" in done.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.py:classifier", "none.py: no such file"),
        ("mine.py:clasifier", "there is no 'clasifier' in it; did you mean 'classifier'"),
        ("mine.py:broken", "broken raises RuntimeError: no weights here"),
        ("mine.py:LABELS", "'LABELS' gives tuple, where a torch.nn.Module is wanted"),
    ],
)
def test_what_makes_no_network_is_refused(name, message, own):
    with pytest.raises(BadInput, match=message):
        module.load(str(own / name))
