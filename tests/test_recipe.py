import re
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
    overrides = ["data.path=photos"] if path.name.startswith("photos") else []
    assert recipe.read(path, overrides).name


def test_overrides_set_values_and_make_sections(good):
    read = recipe.read(good, ["train.epochs=7", "bench.rounds=2", "quantize=null", "budget.max_drop_points=1.5"])
    assert (read.train.epochs, read.bench.rounds, read.quantize) == (7, 2, None)
    assert read.budget.max_drop_points == 1.5


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.epohcs=5", "unknown key 'train.epohcs'; did you mean 'train.epochs'?"),
        ("tarin.epochs=5", "unknown key 'tarin'; did you mean 'train'?"),
        ("epochs=5", "unknown key 'epochs'; did you mean 'train.epochs'?"),
        ("seed=5", "unknown key 'seed'; did you mean 'data.seed' or 'train.seed'?"),
        ("max_drop=5", "unknown key 'max_drop'; did you mean 'budget.max_drop_points'?"),
        ("zzz=5", "unknown key 'zzz'; known: name, data, model,"),
        ("train.lr=1:30", "train.lr: Expected 'float', got 'str'"),
        ("train.epochs=many", "train.epochs: Expected 'int', got 'str'"),
        ("train.epochs=0", "epochs must be at least 1, got 0"),
        ("train.epochs.deep=1", "'epochs' is a value, not a section"),
        ("train.epochs", "an override is key=value"),
        ("name=../evil", "name becomes a folder's name"),
        ("train=null", "a model without weights must be trained"),
        ("quantize.images=1", "at least 16"),
        ("quantize.train.epohcs=2", "unknown key 'quantize.train.epohcs'; did you mean 'quantize.train.epochs'?"),
        ("quantize={train: {}, dialects: [fp16]}", "dialects are fp16: nothing to train; add int8-u8s8 or int8-s8s8"),
        ("data.source=clouds", "data.source: Invalid enum value 'clouds'"),
        ("bench={a: [}", "not valid YAML"),
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


@pytest.mark.parametrize("text", ["1e-3", "1E-3", ".001", "1.e-3", "+1e-3", "0.00_1", "2", "1_0", "1.5e+1"])
def test_numbers_are_read_as_python_reads_them(text, good):
    assert recipe.read(good, [f"train.lr={text}"]).train.lr == float(text)
    good.write_text(GOOD.replace("epochs: 3", f"lr: {text}"))
    assert recipe.read(good).train.lr == float(text)


@pytest.mark.parametrize(("text", "number"), [("010", 10), ("0x1F", 31), ("0o17", 15), ("1_000", 1000), ("-0", 0)])
def test_integers_are_read_as_yaml_1_2_reads_them(text, number, good):
    assert recipe.read(good, [f"train.seed={text}"]).train.seed == number


@pytest.mark.parametrize(
    "text",
    ["2024", "007", "1e3", "2024-01-01", "1:30", "true", ".5", "my photos #2", "#1", "a: b", "[x]", "*.d", "'70s"],
)
def test_what_is_a_text_stays_one(text, good):
    assert recipe.read(good, ["data.source=folder", f"data.path={text}"]).data.path == text
    assert recipe.read(good, [f"model.weights={text}"]).model.weights == text


def test_texts_in_quotes_and_null_are_yaml(good):
    assert recipe.read(good, ["data.source=folder", "data.path='null'"]).data.path == "null"
    assert recipe.read(good, ["data.source=folder", 'data.path="a\\tb"']).data.path == "a\tb"
    assert recipe.read(good, ["model.weights=null"]).model.weights is None
    for text, val in (("val #2", "val #2"), ("0.3", 0.3), ("'2017'", "2017"), ("true", "true")):
        asked = ["data.source=folder", "data.path=x", "data.train=a", f"data.val={text}"]
        assert recipe.read(good, asked).data.val == val


@pytest.mark.parametrize(
    ("text", "patterns"),
    [
        ("*_mask.png", ("*_mask.png",)),
        ("drafts #2", ("drafts #2",)),
        ("[ab]*.png", ("[ab]*.png",)),
        ("'*.tif'", ("*.tif",)),
        ('["*_mask.png", drafts]', ("*_mask.png", "drafts")),
        ("[]", ()),
    ],
)
def test_a_plain_word_is_a_list_of_one(text, patterns, good):
    assert recipe.read(good, [f"data.exclude={text}"]).data.exclude == patterns


def test_a_short_run_needs_no_other_warm_up(good):
    """One epoch of 10 steps: the rate rises over 5 of them and falls over the others."""
    from edgecv.train.optimizer import learning_rate

    config = recipe.read(good, ["train.epochs=1"]).train
    rates = [learning_rate(config, step, 10) for step in range(10)]
    assert max(rates) == config.lr == rates[5] == rates[4]
    assert rates == sorted(rates[:5]) + sorted(rates[5:], reverse=True)
    assert rates[-1] < 0.1 * config.lr


def test_the_page_of_all_keys_is_in_step_with_the_records():
    from edgecv import recipe_table

    page = recipe_table.page()
    assert (ROOT / "docs" / "recipe-keys.md").read_text() == page, "python -m edgecv.recipe_table > docs/recipe-keys.md"
    assert all(f"| `{key}` |" in page for key, _ in recipe.KEYS)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("m.onnx", "this is an ONNX file: 'edgecv predict', 'stream' and 'inspect' take it"),
        ("m.safetensors", "this is weights: name them in a recipe, model.weights=PATH"),
        ("m.pth", "this is weights"),
        ("m.edgecv", "this is a bundle: 'edgecv verify', 'bench', 'quantize' and 'predict' take it"),
        ("photos", "this is a folder: photos are named in a recipe, data.path=FOLDER"),
    ],
)
def test_what_is_no_recipe_is_named_with_the_verb_that_is_meant(name, said, tmp_path):
    path = tmp_path / name
    if "." in name:
        path.write_bytes(b"\x08\x08\x12\x07pytorch\x1a\xff")
    else:
        path.mkdir()
    with pytest.raises(BadInput, match=re.escape(said)) as caught:
        recipe.read(path)
    assert "\n" not in str(caught.value)


def test_a_training_that_uses_no_later_key_is_known_as_it_was():
    """Keys that were added since change nothing of what identifies a training, until one of them is used."""
    from edgecv.recipe_train import Augment, TrainConfig, as_before

    plain = as_before(TrainConfig(lr=0.01))
    assert not {"dice", "class_weights"} & set(plain)
    assert not {"color", "mosaic"} & set(plain["augment"])
    assert plain["lr"] == 0.01
    assert as_before(TrainConfig(dice=0.5, augment=Augment(color=0.1)))["dice"] == 0.5
    assert as_before(None) is None


def test_a_key_that_stands_twice_is_refused(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("name: a\ntrain: {epochs: 1}\nmodel: {name: lenet5}\ntrain: {epochs: 2}\n")
    with pytest.raises(BadInput, match="'train' stands there twice"):
        recipe.read(path)
