from pathlib import Path

import pytest

from edgecv import recipe
from edgecv_runtime.errors import BadInput

ROOT = Path(__file__).parent.parent
GOOD = """
name: x
data: {source: digits}
model: {name: mobilenet_v3_small}
train: {epochs: 3}
"""


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    return path


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.name)
def test_the_recipes_that_ship_can_be_read(path):
    overrides = ["data.path=photos"] if path.name == "photos.yaml" else []
    assert recipe.read(path, overrides).name


def test_overrides_set_values_and_make_sections(good):
    read = recipe.read(good, ["train.epochs=7", "bench.rounds=2", "quantize=null", "budget.max_drop_points=1.5"])
    assert (read.train.epochs, read.bench.rounds, read.quantize) == (7, 2, None)
    assert read.budget.max_drop_points == 1.5


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.epohcs=5", "unknown key 'train.epohcs'; did you mean 'epochs'"),
        ("tarin.epochs=5", "unknown key 'tarin'; did you mean 'train'"),
        ("train.epochs=many", "train.epochs: Expected 'int', got 'str'"),
        ("train.epochs=0", "epochs must be at least 1, got 0"),
        ("train.epochs.deep=1", "'epochs' is a value, not a section"),
        ("train.epochs", "an override is key=value"),
        ("name=../evil", "name becomes a folder's name"),
        ("train=null", "a model without weights must be trained"),
        ("quantize.images=1", "at least 16"),
        ("quantize.train.epohcs=2", "unknown key 'quantize.train.epohcs'; did you mean 'epochs'"),
        ("quantize={train: {}, dialects: [fp16]}", "dialects are fp16: nothing to train; add int8-u8s8 or int8-s8s8"),
        ("data.source=clouds", "data.source: Invalid enum value 'clouds'"),
        ("model.name={a: [}", "not valid YAML"),
    ],
)
def test_a_wrong_override_is_one_line(good, override, said):
    with pytest.raises(BadInput) as caught:
        recipe.read(good, [override])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [("- a\n- b", "a recipe is a mapping"), ("a: [1", "not valid YAML"), ("", "a recipe is a mapping")],
)
def test_a_file_that_is_no_recipe_is_said(tmp_path, text, said):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(BadInput, match=said):
        recipe.read(path)


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"none\.yaml: cannot be read: No such file"):
        recipe.read(tmp_path / "none.yaml")
