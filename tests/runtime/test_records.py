import pytest

from edgecv_runtime import Preprocess, records
from edgecv_runtime.errors import BadInput
from edgecv_runtime.evidence import Evidence
from edgecv_runtime.manifest import Manifest


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"size": [4, 4], "mod": "crop"}, "unknown key 'mod'; did you mean 'mode'?"),
        ({"size": [4, 4], "mode": "cropp"}, "mode: Invalid enum value 'cropp'; expected crop, stretch, letterbox"),
        ({"size": "big"}, "size: Expected 'array', got 'str'"),
        ({"mode": "crop"}, "missing required field 'size'"),
        ({"size": [0, 4]}, "size must be at least 1x1"),
        ({"size": [4, 4], "mode": "stretch", "resize": 8}, "resize belongs to mode 'crop'"),
    ],
)
def test_bad_values_are_named_in_one_line(data, said):
    with pytest.raises(BadInput) as caught:
        records.convert(data, Preprocess, "recipe.yaml")
    assert said in str(caught.value)
    assert str(caught.value).startswith("recipe.yaml: ")
    assert "\n" not in str(caught.value)


def test_unknown_key_deep_inside_is_named_with_its_path():
    data = b'{"entries": [{"variant": "a", "agreement": {"shar": 1}}]}'
    with pytest.raises(BadInput, match=r"unknown key 'entries\[.*\]\.agreement\.shar'; did you mean 'share'"):
        records.decode(data, Evidence, "evidence.json")


def test_a_value_deep_inside_is_told_with_what_is_expected():
    variant = b'"name": "a", "file": "a.onnx", "precision": "int8", "islands": "fp13"'
    with pytest.raises(BadInput, match=r"variants\[0\]\.islands: Invalid enum value 'fp13'; expected float32, fp16"):
        records.decode(b'{"variants": [{%s}]}' % variant, Manifest, "bundle.json")


def test_not_json_is_said():
    with pytest.raises(BadInput, match=r"bundle.json: not valid JSON"):
        records.decode(b"<html>", Manifest, "bundle.json")


def test_equal_records_give_equal_bytes_and_come_back():
    record = Preprocess((8, 9), "letterbox", fill=3)
    assert records.encode(record) == records.encode(Preprocess((8, 9), "letterbox", fill=3))
    assert records.decode(records.encode(record), Preprocess, "x") == record
