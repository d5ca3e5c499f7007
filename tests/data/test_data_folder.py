"""A user's folder of photos: what is wrong with it is named, and what is right is read as it lies there."""

import logging
import os
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgecv.data import DataConfig, checked, load
from edgecv.data.checked import UnreadableFiles
from edgecv_runtime import images, records
from edgecv_runtime.errors import BadInput, DatasetError


def folder(path, **settings):
    return load(DataConfig(source="folder", path=str(path), **settings))


def spoil(path, kind):
    """Make an image file unreadable in one of the ways that files become so."""
    whole = path.read_bytes()
    path.unlink()
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "text":
        path.write_bytes(b"<html>404</html>")
    elif kind == "link to nothing":
        path.symlink_to(path.parent / "gone.png")
    elif kind == "link to itself":
        path.symlink_to(path)


# What is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "folders"}, "source"),
        ({"source": "folder", "path": "x", "vall": 0.1}, "did you mean 'val'"),
        ({"source": "folder", "path": "x", "val": 1.0}, "val must lie between 0 and 1"),
        ({"source": "folder", "path": "x", "val": 0.0}, "val must lie between 0 and 1"),
        ({"source": "folder", "path": "x", "skip_bad": -1}, "skip_bad must be at least 0"),
        ({"source": "clips", "path": "x", "every_s": 0.0}, "every_s must be positive"),
        ({"source": "folder"}, "wants a path"),
        ({"source": "digits", "path": "x"}, "has no path"),
    ],
)
def test_a_bad_setting_is_named(settings, message):
    with pytest.raises(BadInput, match=message):
        records.convert(settings, DataConfig, "recipe.yaml: data")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"photos: no such folder"):
        folder(tmp_path / "photos")
    (tmp_path / "list.txt").write_text("x")
    with pytest.raises(DatasetError, match=r"list.txt: not a folder"):
        folder(tmp_path / "list.txt")


@pytest.mark.parametrize("classes", [{}, {"cat": 3}])
def test_fewer_than_two_classes_are_refused(photos, tmp_path, classes):
    (tmp_path / "photos").mkdir()
    with pytest.raises(DatasetError, match=r"at least 2 classes, found (none|only 'cat')"):
        folder(photos(classes))


def test_every_empty_class_is_named(photos):
    root = photos({"cat": 3, "dog": 3, "eel": 0, "fox": 0})
    (root / "fox" / "notes.txt").write_text("no picture")
    with pytest.raises(DatasetError, match=r"2 classes without a readable image: eel, fox"):
        folder(root)


def test_a_class_whose_images_are_all_unreadable_is_empty(photos):
    root = photos({"cat": 3, "dog": 2})
    for path in (root / "dog").iterdir():
        spoil(path, "text")
    with pytest.raises(DatasetError, match=r"1 classes without a readable image: dog"):
        folder(root, skip_bad=2)


def test_a_class_that_cannot_be_divided_is_named(photos):
    root = photos({"cat": 3, "dog": 1, "eel": 2})
    shutil.copy(root / "eel" / "000.png", root / "eel" / "001.png")  # two files, one image
    with pytest.raises(DatasetError, match=r"at least 2 different images.*'dog' has 1, 'eel' has 1"):
        folder(root)


@pytest.mark.parametrize("kind", ["empty", "truncated", "text", "link to nothing", "link to itself"])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_unreadable_files_are_refused_unless_allowed(photos, kind, suffix):
    root = photos({"cat": 5, "dog": 5}, suffix=suffix)
    bad = [root / "cat" / f"001{suffix}", root / "dog" / f"003{suffix}"]
    for path in bad:
        spoil(path, kind)
    with pytest.raises(UnreadableFiles, match=r"2 unreadable files \(skip_bad is 1") as caught:
        folder(root, skip_bad=1)
    names = [f"cat/001{suffix}", f"dog/003{suffix}"]
    assert [line.split(":")[0] for line in caught.value.unreadable] == names
    assert all(name in str(caught.value) for name in names)

    found = folder(root, skip_bad=2)
    assert len(found.train) + len(found.val) == 8
    assert len(found.notes) == 1
    assert found.notes[0].startswith("2 unreadable files were left out: ")
    assert all(name in found.notes[0] for name in names)


def test_a_long_list_of_unreadable_files_is_cut_and_kept_whole_elsewhere(photos):
    root = photos({"cat": 20, "dog": 20})
    for path in (root / "cat").iterdir():
        spoil(path, "text")
    with pytest.raises(UnreadableFiles, match=r"\.\.\. and 10 more") as caught:
        folder(root)
    assert len(caught.value.unreadable) == 20
    assert "\n" not in str(caught.value)
    listing = str(caught.value).rsplit("(all in ", 1)[1].removesuffix(")")
    assert Path(listing).read_text().splitlines() == list(caught.value.unreadable)


@pytest.mark.parametrize(
    ("first", "second"),
    [("Cat", "cat"), ("caf\u00e9", "cafe\u0301"), ("Stra\u00dfe", "STRASSE"), ("\ufb01sh", "fish")],
)
def test_class_names_that_look_alike_are_both_named(photos, first, second):
    root = photos({first: 2, second: 2, "dog": 2})
    with pytest.raises(DatasetError, match="differ only by case or Unicode form") as caught:
        folder(root)
    assert repr(first) in str(caught.value)
    assert repr(second) in str(caught.value)
    assert "dog" not in str(caught.value)


def test_links_that_lead_out_are_named(photos, tmp_path):
    root, elsewhere = photos({"cat": 3, "dog": 3}), photos({"owl": 2}, root="elsewhere")
    (root / "cat" / "far.png").symlink_to(elsewhere / "owl" / "000.png")
    (root / "owl").symlink_to(elsewhere / "owl")
    (root / "dog" / "up").symlink_to("../..")
    with pytest.raises(DatasetError, match=r"3 links lead out of the folder: cat/far.png, dog/up, owl"):
        folder(root)


def test_a_folder_that_is_a_link_itself_is_fine(photos, tmp_path):
    root = photos({"cat": 3, "dog": 3})
    (tmp_path / "link").symlink_to(root)
    assert folder(tmp_path / "link").train.fingerprint() == folder(root).train.fingerprint()


def test_loops_of_links_end_and_are_noted(photos):
    root = photos({"cat": 3, "dog": 3})
    (root / "cat" / "again").symlink_to(root / "cat")
    (root / "dog" / "all").symlink_to(root)
    found = folder(root)
    assert len(found.train) + len(found.val) == 6
    assert found.notes == ("2 links to folders were not followed: cat/again, dog/all",)


def test_given_train_and_val_must_have_the_same_classes(photos):
    root = photos({"train/cat": 2, "train/dog": 2, "train/eel": 2, "val/cat": 1, "val/dogs": 1, "val/eel": 1})
    with pytest.raises(DatasetError, match=r"val: wants the same classes as train: missing dog; not in train dogs"):
        folder(root)


def test_an_empty_class_in_val_is_named(photos):
    with pytest.raises(DatasetError, match=r"1 classes without a readable image: val/dog"):
        folder(photos({"train/cat": 2, "train/dog": 2, "val/cat": 1, "val/dog": 0}))


def test_a_damaged_zip_is_refused_and_a_damaged_file_in_it_is_named(photos, tmp_path):
    root = photos({"cat": 3, "dog": 3})
    packed = shutil.make_archive(str(tmp_path / "photos"), "zip", root)
    whole = bytearray((tmp_path / "photos.zip").read_bytes())
    with zipfile.ZipFile(packed) as archive:
        start = archive.getinfo("dog/001.png").header_offset + 60
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match=r"cut.zip: not a complete zip file"):
        folder(tmp_path / "cut.zip")
    whole[start] ^= 0xFF
    (tmp_path / "altered.zip").write_bytes(whole)
    with pytest.raises(UnreadableFiles, match=r"1 unreadable files .*: dog/001.png: cannot be unpacked"):
        folder(tmp_path / "altered.zip")


# What is warned of, with its count


def test_the_same_image_in_train_and_val_is_counted(photos):
    root = photos({"train/cat": 4, "train/dog": 4, "val/cat": 2, "val/dog": 2})
    shutil.copy(root / "train" / "cat" / "003.png", root / "val" / "cat" / "copy.png")
    shutil.copy(root / "train" / "dog" / "001.png", root / "val" / "dog" / "other name.png")
    found = folder(root)
    assert len(found.notes) == 1
    assert found.notes[0].startswith("2 of the validation images are also in train")
    assert "val/cat/copy.png = train/cat/003.png" in found.notes[0]


def test_copies_stay_on_one_side_of_a_division(photos):
    root = photos({"cat": 10, "dog": 10})
    for path in sorted((root / "cat").iterdir()):
        shutil.copy(path, path.with_name(f"copy of {path.name}"))
    for seed in range(5):
        found = folder(root, seed=seed, val=0.5)
        assert not set(found.train.stamps) & set(found.val.stamps)
        assert found.notes == ()


def test_an_image_under_two_classes_is_counted(photos):
    root = photos({"cat": 5, "dog": 5})
    shutil.copy(root / "cat" / "000.png", root / "dog" / "cat after all.png")
    notes = folder(root).notes
    assert notes == ("2 files have a copy under another class: cat/000.png, dog/cat after all.png",)


def test_files_that_are_no_images_of_a_class_are_counted(photos):
    root = photos({"train/cat": 2, "train/dog": 2, "test/cat": 1, "test/dog": 1, "spare/cat": 1})
    (root / "train" / "cat" / "a.heic").write_bytes(b"x")
    (root / "train" / "loose.png").write_bytes(b"x")
    (root / "readme.txt").write_text("x")
    (root / "train" / "dog" / ".hidden.png").write_bytes(b"x")
    notes = folder(root).notes
    assert notes[0] == "1 hidden or system files and folders were left out: train/dog/.hidden.png"
    assert notes[1].startswith("3 files that are no images of a class were left out: ")
    assert all(kind in notes[1] for kind in ("1 .heic", "1 .txt", "1 .png"))
    assert notes[2] == "1 folders beside train and test were left out: spare"
    assert notes[3].startswith("no validation folder: 'test' is validated on")
    assert len(notes) == 4


# What is read


def test_images_labels_and_classes_are_those_of_the_files(photos):
    root = photos({"dog": 6, "cat": 5, "Ant": 4})
    found = folder(root, val=0.25)
    assert found.classes == ("Ant", "cat", "dog")
    assert found.notes == ()
    names = [*found.train.names, *found.val.names]
    assert sorted(names) == sorted(str(path.relative_to(root)) for path in root.rglob("*.png"))
    for side in (found.train, found.val):
        for index, image in enumerate(side):
            assert found.classes[side.labels[index]] == side.name(index).split("/")[0]
            assert np.array_equal(image, cv2.imread(str(root / side.name(index))))


def test_images_may_lie_deeper_and_in_two_given_folders(photos):
    root = photos({"train/cat/2019/may": 2, "train/dog": 3, "valid/cat": 1, "valid/dog/x": 2})
    found = folder(root)
    assert (len(found.train), len(found.val)) == (5, 3)
    assert found.train.name(0) == "train/cat/2019/may/000.png"
    assert list(found.val.labels) == [0, 1, 1]


def test_a_zip_of_a_folder_is_the_folder(photos, tmp_path):
    root = photos({"cat": 5, "dog": 5})
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "photos")
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("__MACOSX/photos/cat/._000.png", b"x")
    one, other = folder(packed), folder(root)
    assert one.train.fingerprint() == other.train.fingerprint()
    assert one.train.names == other.train.names
    assert np.array_equal(one.val[0], other.val[0])


def test_what_identifies_a_set_is_its_content(photos, tmp_path):
    root = photos({"cat": 5, "dog": 5})
    before = folder(root).train.fingerprint()
    shutil.copytree(root, tmp_path / "moved")
    assert folder(tmp_path / "moved").train.fingerprint() == before
    os.utime(root / "cat" / "000.png", (0, 0))
    assert folder(root).train.fingerprint() == before
    name = next(name for name in folder(root).train.names if name.startswith("cat"))
    cv2.imwrite(str(root / name), 255 - cv2.imread(str(root / name)))
    assert folder(root).train.fingerprint() != before


def test_a_name_that_is_no_utf8_is_read(photos):
    root = photos({"cat": 3, "dog": 3})
    (root / "cat" / "000.png").rename(root / "cat" / os.fsdecode(b"caf\xe9.png"))
    found = folder(root)
    name = next(name for name in (*found.train.names, *found.val.names) if "caf" in name)
    assert name == "cat/caf\\xe9.png"


def test_files_are_checked_once_and_again_when_they_change(photos, monkeypatch):
    decoded = []
    decode = images.decode
    monkeypatch.setattr(
        checked.images, "decode", lambda data, where, most: decoded.append(where) or decode(data, where, most)
    )
    root = photos({"cat": 4, "dog": 4})
    folder(root)
    assert len(decoded) == 8
    decoded.clear()
    folder(root)
    assert decoded == []
    spoil(root / "dog" / "002.png", "truncated")
    with pytest.raises(UnreadableFiles):
        folder(root)
    assert decoded == ["dog/002.png"]


@pytest.mark.parametrize("trouble", ["no cache folder", "damaged memory"])
def test_a_cache_that_cannot_be_used_costs_time_only(photos, monkeypatch, tmp_path, caplog, trouble):
    root = photos({"cat": 4, "dog": 4})
    if trouble == "no cache folder":
        monkeypatch.setenv("EDGECV_CACHE", "/dev/null/cache")
    else:
        folder(root)
        place = next((checked.files.cache_folder("checked")).glob("*.json"))
        place.write_text('{"decoder": 3')
    with caplog.at_level(logging.WARNING, "edgecv.data"):
        assert len(folder(root).train) == 6
    assert "checked again" in caplog.text
