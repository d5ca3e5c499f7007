"""Plain ONNX files on the command line, and what decoders say there."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

from tests.runtime.foreign import frames, node, save, sigmoid, truth

DESCRIPTION = """
labels: [cat, dog, owl]
preprocess: {size: [8, 8], mode: stretch}
normalization: {mean: [0.4, 0.5, 0.6], std: [0.2, 0.25, 0.3]}
scores: sigmoid-logits
thresholds: [THRESHOLD]
"""


def edgecv(*arguments):
    command = [sys.executable, "-m", "edgecv.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def model(tmp_path):
    cv2.imwrite(str(tmp_path / "x.png"), frames()[0])
    (tmp_path / "all.yaml").write_text(DESCRIPTION.replace("THRESHOLD", "0.0"))
    (tmp_path / "none.yaml").write_text(DESCRIPTION.replace("THRESHOLD", "1.0"))
    return save(tmp_path / "m.onnx", [node("Identity", "l", "y")])


def test_predict_and_stream_take_an_onnx_file_with_its_description(model, tmp_path):
    wanted = sigmoid(truth(model, frames()[0]))
    done = edgecv("predict", model, tmp_path / "x.png", "--describe", tmp_path / "all.yaml", "--json")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["results"]
    assert {each["label"]: each["score"] for each in result["top"]} == pytest.approx(
        dict(zip(["cat", "dog", "owl"], wanted, strict=True)), abs=1e-5
    )
    assert len(result["present"]) == 3
    done = edgecv("predict", model, tmp_path / "x.png", "--describe", tmp_path / "none.yaml")
    assert "none of 3 labels (the nearest: " in done.stdout
    done = edgecv("stream", model, tmp_path / "x.png", "--describe", tmp_path / "all.yaml", "--sink", "-")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[0])["result"]["label"] == ["cat", "dog", "owl"][int(wanted.argmax())]


def test_without_a_description_the_line_says_how_to_give_one(model, tmp_path):
    done = edgecv("predict", model, tmp_path / "x.png")
    assert done.returncode == 2
    assert "--describe FILE" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_what_decoders_say_comes_with_the_name_of_the_file(model, tmp_path):
    """libpng, libjpeg and OpenCV write to stderr themselves, before our line and without a name."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    png = bytearray(cv2.imencode(".png", noise)[1].tobytes())
    png[60] ^= 255
    jpeg = bytearray(cv2.imencode(".jpg", noise)[1].tobytes())
    jpeg[len(jpeg) // 2 : len(jpeg) // 2 + 2] = b"\xff\xd3"
    tiff = cv2.imencode(".tif", noise)[1].tobytes()
    folder = tmp_path / "broken"
    folder.mkdir()
    for name, content in (("a.png", png), ("b.jpg", jpeg), ("c.tif", tiff[: len(tiff) // 2])):
        (folder / name).write_bytes(content)
    done = edgecv("predict", model, folder, "--describe", tmp_path / "all.yaml", "--skip-bad")
    assert done.returncode == 4
    lines = done.stderr.splitlines()
    assert all(line.startswith("edgecv: ") and str(folder) in line for line in lines), done.stderr
    assert sorted(name for name in ("a.png", "b.jpg", "c.tif") if any(name in line for line in lines)) == [
        "a.png",
        "b.jpg",
        "c.tif",
    ]
    assert any("Corrupt JPEG data" in line for line in lines)


def test_what_cannot_be_adopted_is_refused_in_one_line_before_any_work(model, tmp_path):
    (tmp_path / "photos").mkdir()
    for number, frame in enumerate(frames(7)):
        cv2.imwrite(str(tmp_path / "photos" / f"{number}.png"), frame)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    given = ["--describe", tmp_path / "all.yaml", "--data", tmp_path / "photos", "--out"]
    for place, said in (
        ("out", "photos: a proof wants at least 8 real images, got 7"),
        ("other", "other things in it"),
    ):
        done = edgecv("adopt", model, *given, tmp_path / place)
        assert done.returncode == 2
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    assert [each.name for each in (tmp_path / "other").iterdir()] == ["thesis.txt"]
