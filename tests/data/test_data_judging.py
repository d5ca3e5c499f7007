"""One reading of labelled folders for every verb: calibrated on one part, judged on another."""

import os

import numpy as np
import pytest

from edgecv.data import DataConfig, load
from edgecv.data.judging import divided, everything
from edgecv_runtime.errors import DatasetError

LABELS = ("ant", "cat", "dog", "eel")


def test_a_divided_folder_calibrates_on_train_and_is_judged_on_val(photos):
    root = photos({f"{half}/{name}": count for half, count in (("Train", 6), ("Valid", 3)) for name in ("cat", "dog")})
    found = divided(root, LABELS, 50.0)
    assert {name.split("/")[0] for name in found.calibration.names} == {"Train"}
    assert {name.split("/")[0] for name in found.judged.names} == {"Valid"}
    assert list(found.judged.labels) == [1, 1, 1, 2, 2, 2]
    assert found.told[-1] == "calibrates on the 12 images of 'Train', judged on the 6 images of 'Valid'"
    scored, told = everything(root, LABELS, 50.0)
    assert scored.names == found.judged.names
    assert told[-1] == "judged on the 6 images of 'Valid'"


def test_an_undivided_folder_is_divided_as_a_recipe_divides_it(photos):
    root = photos({"cat": 20, "dog": 15})
    built = load(DataConfig(source="folder", path=str(root)))
    found = divided(root, LABELS, 50.0)
    assert set(found.calibration.names) == set(built.train.names)
    assert set(found.judged.names) == set(built.val.names)
    assert [LABELS[label] for label in found.judged.labels] == [name.split("/")[0] for name in found.judged.names]
    scored, told = everything(root, LABELS, 50.0)
    assert (len(scored), told) == (35, ())


def test_one_image_a_class_is_divided_too(photos):
    found = divided(photos({"ant": 1, "cat": 1, "dog": 1, "eel": 2}), LABELS, 50.0)
    assert len(found.calibration) + len(found.judged) == 5
    assert not set(found.calibration.names) & set(found.judged.names)
    for part in (found.calibration, found.judged):
        assert [LABELS[label] for label in part.labels] == [name.split("/")[0] for name in part.names]


def test_folders_without_labels_have_none_and_half_of_them_is_refused(photos):
    plain = photos({"2019": 2, "2020": 2}, root="plain")
    assert divided(plain, LABELS, 50.0) is None
    with pytest.raises(DatasetError, match="no class folders; expected one folder a class, named as the labels: ant"):
        everything(plain, LABELS, 50.0)
    mixed = photos({"train/cat": 2, "train/dogs": 2, "val/cat": 1, "val/dogs": 1}, root="mixed")
    with pytest.raises(DatasetError, match="folders that are no labels: dogs; expected one folder a class"):
        divided(mixed, LABELS, 50.0)


def test_what_both_parts_hold_is_said(photos):
    root = photos({f"{half}/{name}": 3 for half in ("train", "val") for name in ("cat", "dog")})
    (root / "val/cat/again.png").write_bytes((root / "train/cat/000.png").read_bytes())
    told = divided(root, LABELS, 50.0).told
    assert "val/cat/again.png = train/cat/000.png" in told[0]


def test_a_name_of_any_bytes_and_length_is_read(photos):
    root = photos({"cat": 3, "dog": 3})
    (root / "cat/000.png").rename(root / "cat" / os.fsdecode(b"caf\xe9" + b"x" * 247 + b".png"))
    scored, _ = everything(root, LABELS, 50.0)
    assert len(scored) == 6
    assert all(np.asarray(image).shape == (32, 32, 3) for image in scored)
