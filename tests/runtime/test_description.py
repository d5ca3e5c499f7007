"""A plain ONNX file is described by a file beside it, as by arguments."""

import json

import pytest

import edgecv_runtime as rt
from edgecv_runtime.description import read
from edgecv_runtime.errors import BadInput
from edgecv_runtime.head import ClassificationHead
from tests.runtime.foreign import LABELS, NORMALIZATION, PREPROCESS, frames, load, node, save

FRAME = frames()[0]
YAML = """
labels: LABELS
preprocess: {size: [8, 8], mode: stretch}
normalization: {mean: [0.4, 0.5, 0.6], std: [0.2, 0.25, 0.3]}
scores: sigmoid-logits
thresholds: [0.3]
"""


def described(folder, text, name="m.yaml"):
    (folder / name).write_text(text)
    return folder / name


def test_a_description_says_what_arguments_say(tmp_path):
    path = save(tmp_path / "m.onnx")
    (tmp_path / "labels.txt").write_text("cat\ndog\n\nowl\n")
    whole = {
        "labels": LABELS,
        "preprocess": {"size": [8, 8], "mode": "stretch"},
        "normalization": {"mean": NORMALIZATION.mean, "std": NORMALIZATION.std},
        "scores": "sigmoid-logits",
        "thresholds": [0.3],
    }
    given = [
        described(tmp_path, YAML.replace("LABELS", str(LABELS))),
        str(described(tmp_path, YAML.replace("LABELS", "labels.txt"), "n.yml")),
        described(tmp_path, json.dumps(whole), "m.json"),
        rt.Description(ClassificationHead(tuple(LABELS), "sigmoid-logits", (0.3,)), PREPROCESS, NORMALIZATION),
    ]
    with load(path, scores="sigmoid-logits", thresholds=[0.3]) as model:
        wanted = model(FRAME)
    for description in given:
        with rt.load(path, backend="onnxruntime", description=description) as model:
            found = model(FRAME)
        assert found.as_dict() == wanted.as_dict()
        assert (found.scores == wanted.scores).all()
        assert found.thresholds == (0.3, 0.3, 0.3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (YAML.replace("LABELS", "[yes, no]"), "labels: True is read as bool, not text; put each label in"),
        ("labels: 5", r"labels: a list such as \[cat, dog\].*or the name of a text file.*got int"),
        ("labels: {0: cat, 1: dog}", r"labels: a list such as \[cat, dog\].*without their numbers.*got dict"),
        (YAML.replace("LABELS", "[a]").replace("scores", "score"), "unknown key 'score'; did you mean 'scores'"),
        (
            YAML.replace("LABELS", "[a]").replace("sigmoid-logits", "sigmoids"),
            "Invalid enum value 'sigmoids'.*expected logits, probabilities",
        ),
        (YAML.replace("LABELS", "none.txt"), "labels: .*none.txt cannot be read: No such file"),
        ("labels: [a", "not valid YAML"),
        ("hello", "a description is a mapping such as labels"),
        ("labels: [a, b, c]", "missing required field 'preprocess'"),
    ],
)
def test_a_description_that_says_something_else_is_refused(text, said, tmp_path):
    path = save(tmp_path / "m.onnx")
    with pytest.raises(BadInput, match=said) as caught:
        rt.load(path, description=described(tmp_path, text))
    assert "m.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_notepad_writes_in_front_is_no_part_of_a_label(tmp_path):
    """Editors on Windows begin a UTF-8 file with the bytes EF BB BF; Python's codec utf-8-sig writes them, too."""
    whole = {"labels": ["cat"], "preprocess": {"size": [8, 8], "mode": "stretch"}}
    (tmp_path / "labels.txt").write_text("cat\ndog\n", encoding="utf-8-sig")
    text = YAML.replace("LABELS", "labels.txt")
    for name, content in {"m.yaml": text, "m.json": json.dumps(whole | {"labels": "labels.txt"})}.items():
        (tmp_path / name).write_text(content, encoding="utf-8-sig")
        assert read(tmp_path / name).head.labels == ("cat", "dog")
    (tmp_path / "m.json").write_text(json.dumps(whole | {"labels": [0, 1]}))
    with pytest.raises(BadInput, match="labels: 0 is read as int, not text; put each label in double quotes"):
        read(tmp_path / "m.json")


def test_what_is_said_twice_or_of_a_bundle_is_refused(exported, tmp_path):
    path = save(tmp_path / "m.onnx")
    description = rt.Description(ClassificationHead(tuple(LABELS)), PREPROCESS, NORMALIZATION)
    with pytest.raises(BadInput, match="the description says it: leave out labels"):
        rt.load(path, labels=LABELS, description=description)
    with pytest.raises(BadInput, match="a bundle describes itself"):
        rt.load(exported, description=description)
    with pytest.raises(BadInput, match="leave out scores"):
        rt.load(exported, scores="logits")
    with pytest.raises(BadInput, match=r"give preprocess=, labels=, or a description.*--describe FILE"):
        rt.load(path)


def test_what_a_model_refuses_names_it(tmp_path):
    path = save(tmp_path / "m.onnx", [node("Abs", "l", "y")])
    with load(path) as model, pytest.raises(BadInput, match="model 'm': what the outputs mean is not known"):
        model(FRAME)
