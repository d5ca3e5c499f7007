"""One reading of labelled folders for every verb: calibrated on one part, judged on another."""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from edgecv.data import DataConfig, load
from edgecv.data.judging import SOURCES, divided, everything
from edgecv_runtime.errors import DatasetError

BUNDLE = Path("no/such/run/bundle")
LABELS = ("ant", "cat", "dog", "eel")


def test_a_divided_folder_calibrates_on_train_and_is_judged_on_val(photos):
    root = photos({f"{half}/{name}": count for half, count in (("Train", 6), ("Valid", 3)) for name in ("cat", "dog")})
    found = divided(root, LABELS, 50.0, BUNDLE)
    assert {name.split("/")[0] for name in found.calibration.names} == {"Train"}
    assert {name.split("/")[0] for name in found.judged.names} == {"Valid"}
    assert list(found.judged.labels) == [1, 1, 1, 2, 2, 2]
    assert found.told[-1] == "calibrates on the 12 images of 'Train', judged on the 6 images of 'Valid'"
    scored, told = everything(root, LABELS, 50.0, BUNDLE)
    assert scored.names == found.judged.names
    assert told[-1] == "judged on the 6 images of 'Valid'"


def test_an_undivided_folder_is_divided_as_a_recipe_divides_it(photos):
    root = photos({"cat": 20, "dog": 15})
    built = load(DataConfig(source="folder", path=str(root)))
    found = divided(root, LABELS, 50.0, BUNDLE)
    assert set(found.calibration.names) == set(built.train.names)
    assert set(found.judged.names) == set(built.val.names)
    assert [LABELS[label] for label in found.judged.labels] == [name.split("/")[0] for name in found.judged.names]
    scored, told = everything(root, LABELS, 50.0, BUNDLE)
    assert len(scored) == 35
    assert told == (
        "judged on all 35 images: no recipe.yaml beside the bundle says what it was trained on, so none are held out",
    )


def drawn(root, names, kinds):
    """Pictures with a box of each class that is asked for, as Pascal VOC."""
    root.mkdir(exist_ok=True)
    for name in names:
        cv2.imwrite(str(root / f"{name}.png"), np.random.default_rng(int(name)).integers(0, 256, (24, 32, 3), np.uint8))
        objects = "".join(
            f"<object><name>{kind}</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>12</xmax><ymax>12</ymax></bndbox></object>"
            for kind in kinds
        )
        (root / f"{name}.xml").write_text(f"<annotation><filename>{name}.png</filename>{objects}</annotation>")
    return root


def masked(root, names, values):
    """Pictures and masks in which each of some values occurs."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        picture = np.random.default_rng(int(name)).integers(0, 256, (24, 32, 3), np.uint8)
        cv2.imwrite(str(root / f"images/{name}.png"), picture)
        cv2.imwrite(str(root / f"masks/{name}.png"), np.resize(np.array(values, np.uint8), (24, 32)))
    return root


TEN = [str(number) for number in range(10)]


@pytest.mark.parametrize(("task", "make"), [("detection", drawn), ("segmentation", masked)])
def test_boxes_and_masks_that_are_not_divided_are_judged_whole(task, make, tmp_path, run):
    labels = ("cat", "dog") if task == "detection" else ("0", "1")
    kinds = labels if task == "detection" else (0, 1)
    root = make(tmp_path / "set", TEN, kinds)
    scored, told = everything(root, labels, 50.0, BUNDLE, task)
    assert len(scored) == 10
    assert told[-1].startswith("judged on all 10 images: no recipe.yaml beside the bundle")
    assert not any("best epoch" in line for line in told)
    found = divided(root, labels, 50.0, BUNDLE, task)
    built = load(DataConfig(source=SOURCES[task], path=str(root)))
    assert (set(found.calibration.names), set(found.judged.names)) == (set(built.train.names), set(built.val.names))
    bundle = run(source=SOURCES[task], path=str(root), seed=3)
    built = load(DataConfig(source=SOURCES[task], path=str(root), seed=3))
    scored, told = everything(root, labels, 50.0, bundle, task)
    assert set(scored.names) == set(built.val.names)
    assert told[-1] == "judged on 2 of 10 images, those that data.val=0.2 data.seed=3 holds out"


def test_a_folder_that_lacks_classes_is_judged_by_their_names(tmp_path):
    scored, _ = everything(drawn(tmp_path / "boxes", TEN, ["dog"]), ("cat", "dog"), 50.0, BUNDLE, "detection")
    assert [truth.class_id.tolist() for truth in scored.truths] == [[1]] * 10
    scored, _ = everything(masked(tmp_path / "masks", TEN, [2, 3]), ("0", "2", "3"), 50.0, BUNDLE, "segmentation")
    assert [sorted(set(mask.ravel().tolist())) for mask in scored.truths] == [[1, 2]] * 10
    for task, root, unknown in (("detection", "boxes", "dog"), ("segmentation", "masks", "2, 3")):
        with pytest.raises(DatasetError, match=f"classes that are no labels: {unknown}; the bundle's labels are ant"):
            everything(tmp_path / root, ("ant", "bee"), 50.0, BUNDLE, task)


def test_one_image_a_class_is_divided_too(photos):
    found = divided(photos({"ant": 1, "cat": 1, "dog": 1, "eel": 2}), LABELS, 50.0, BUNDLE)
    assert len(found.calibration) + len(found.judged) == 5
    assert not set(found.calibration.names) & set(found.judged.names)
    for part in (found.calibration, found.judged):
        assert [LABELS[label] for label in part.labels] == [name.split("/")[0] for name in part.names]


def test_folders_without_labels_have_none_and_half_of_them_is_refused(photos):
    plain = photos({"2019": 2, "2020": 2}, root="plain")
    assert divided(plain, LABELS, 50.0, BUNDLE) is None
    with pytest.raises(DatasetError, match="no class folders; expected one folder a class, named as the labels: ant"):
        everything(plain, LABELS, 50.0, BUNDLE)
    for task, what in (("detection", "no boxes"), ("segmentation", "no image has a mask")):
        assert divided(plain, LABELS, 50.0, BUNDLE, task) is None
        with pytest.raises(DatasetError, match=what):
            everything(plain, LABELS, 50.0, BUNDLE, task)
    mixed = photos({"train/cat": 2, "train/dogs": 2, "val/cat": 1, "val/dogs": 1}, root="mixed")
    with pytest.raises(DatasetError, match="folders that are no labels: dogs; expected one folder a class"):
        divided(mixed, LABELS, 50.0, BUNDLE)


def test_what_both_parts_hold_is_said(photos):
    root = photos({f"{half}/{name}": 3 for half in ("train", "val") for name in ("cat", "dog")})
    (root / "val/cat/again.png").write_bytes((root / "train/cat/000.png").read_bytes())
    told = divided(root, LABELS, 50.0, BUNDLE).told
    assert "val/cat/again.png = train/cat/000.png" in told[0]


def test_a_name_of_any_bytes_and_length_is_read(photos):
    root = photos({"cat": 3, "dog": 3})
    (root / "cat/000.png").rename(root / "cat" / os.fsdecode(b"caf\xe9" + b"x" * 247 + b".png"))
    scored, _ = everything(root, LABELS, 50.0, BUNDLE)
    assert len(scored) == 6
    assert all(np.asarray(image).shape == (32, 32, 3) for image in scored)


@pytest.fixture
def run(tmp_path):
    """Make a run folder whose recipe has this `data` section: run(path="photos", seed=7) -> where its bundle is."""

    def make(**settings):
        folder = tmp_path / "runs" / "pets"
        folder.mkdir(parents=True)
        (folder / "recipe.yaml").write_text(yaml.safe_dump({"name": "pets", "data": {"source": "folder", **settings}}))
        return folder / "bundle"

    return make


@pytest.mark.parametrize("relative", [True, False])
def test_the_folder_of_the_recipe_is_divided_as_build_divided_it(photos, run, relative):
    root = photos({"cat": 20, "dog": 15, "drafts": 2})
    settings = {"val": 0.4, "seed": 7, "exclude": ("drafts",)}
    bundle = run(path=root.name if relative else str(root), **{**settings, "exclude": ["drafts"]})
    built = load(DataConfig(source="folder", path=str(root), **settings))
    found = divided(root, LABELS, 50.0, bundle)
    assert (set(found.calibration.names), set(found.judged.names)) == (set(built.train.names), set(built.val.names))
    scored, told = everything(root, LABELS, 50.0, bundle)
    assert set(scored.names) == set(built.val.names)
    assert told[0] == f"read and divided as {bundle.parent}/recipe.yaml says, of which the bundle was built"
    assert told[-1] == "judged on 14 of 35 images, those that data.val=0.4 data.seed=7 holds out"


def test_parts_are_those_that_the_recipe_names(photos, run):
    root = photos({f"{half}/{name}": count for half, count in (("A", 5), ("B", 2)) for name in ("cat", "dog")})
    with pytest.raises(
        DatasetError, match="of a finished bundle, give the folder of one of them alone, B say"
    ) as caught:
        everything(root, LABELS, 50.0, BUNDLE)
    assert "\n" not in str(caught.value)
    bundle = run(path=str(root), train="A", test="B")
    built = load(DataConfig(source="folder", path=str(root), train="A", test="B"))
    found = divided(root, LABELS, 50.0, bundle)
    assert (set(found.calibration.names), set(found.judged.names)) == (set(built.train.names), set(built.val.names))
    scored, told = everything(root, LABELS, 50.0, bundle)
    assert set(scored.names) == set(built.test.names)
    assert told[-1] == "judged on the 4 images of 'B'"


def test_other_photos_than_the_recipes_are_scored_whole(photos, run):
    bundle = run(path="photos", seed=7)
    new = photos({"cat": 4, "dog": 3}, root="new")
    scored, told = everything(new, LABELS, 50.0, bundle)
    assert (len(scored), len(told)) == (7, 1)
    assert told[0].startswith(f"judged on all 7 images: {bundle.parent}/recipe.yaml names photos, not this folder")
    (bundle.parent / "recipe.yaml").write_text("- salt")
    scored, told = everything(new, LABELS, 50.0, bundle)
    assert (len(scored), len(told)) == (7, 2)
    assert "recipe.yaml says nothing of data that can be read: " in told[0]


def test_a_bundle_is_scored_on_the_test_part_and_quantized_without_it(photos):
    root = photos({f"{half}/{name}": 3 for half in ("train", "val", "test") for name in ("cat", "dog")})
    scored, told = everything(root, LABELS, 50.0, BUNDLE)
    assert ({name.split("/")[0] for name in scored.names}, told) == ({"test"}, ("judged on the 6 images of 'test'",))
    assert {name.split("/")[0] for name in divided(root, LABELS, 50.0, BUNDLE).judged.names} == {"val"}
    shutil.rmtree(root / "val")
    assert {name.split("/")[0] for name in divided(root, LABELS, 50.0, BUNDLE).judged.names} == {"test"}
