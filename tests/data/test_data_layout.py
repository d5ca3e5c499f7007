"""What the folders of a set mean: a division in any spelling is none of classes, and what could be both is refused."""

import shutil
from pathlib import Path

import pytest

from edgecv.data import DataConfig, load
from edgecv.data.layout import ALL, TEST, TRAIN, VAL, read_layout, role_of
from edgecv.data.tree import File, Tree
from edgecv_runtime.errors import BadInput, DatasetError


def tree(*folders, empty=()):
    """A tree with one image in each of some folders."""
    files = tuple(File(f"{folder}/0.png", "", bytes, bytes) for folder in folders)
    parents = {str(parent) for folder in (*folders, *empty) for parent in (Path(folder), *Path(folder).parents)} - {"."}
    return Tree(Path("photos"), files, tuple(sorted(parents)))


def parts(*folders, **given):
    layout = read_layout(tree(*folders), "photos", given)
    return {part: dict(classes) for part, classes in layout.parts.items()}


SPELLINGS = [
    ("train", "val"),
    ("Train", "Val"),
    ("TRAIN", "VALID"),
    ("training", "validation"),
    ("training_set", "validation_set"),
    ("train-images", "val-images"),
    ("train2017", "val2017"),
    ("TrainImages", "ValImages"),
    ("trn", "dev"),
    ("tr", "eval"),
    ("trainset", "valset"),
    ("01_train", "02_validation"),
    ("flowers_train", "flowers_valid"),
    ("train (1)", "val (1)"),
    ("Training Data", "Evaluation Data"),
]


@pytest.mark.parametrize(("train", "val"), SPELLINGS)
def test_a_division_is_known_in_any_spelling(train, val):
    assert parts(f"{train}/cat", f"{train}/dog", f"{val}/cat", f"{val}/dog") == {
        TRAIN: {"cat": f"{train}/cat", "dog": f"{train}/dog"},
        VAL: {"cat": f"{val}/cat", "dog": f"{val}/dog"},
    }


@pytest.mark.parametrize(
    "test", ["test", "Testing", "TEST", "test_set", "hold-out", "Holdout", "held_out", "testimages"]
)
def test_a_test_is_a_part_of_its_own(test):
    found = parts(*(f"{half}/{name}" for half in ("Train", "Val", test) for name in ("cat", "dog")))
    assert list(found) == [TRAIN, VAL, TEST]
    assert found[TEST]["dog"] == f"{test}/dog"


@pytest.mark.parametrize(
    "name", ["cat", "trainer", "testarossa", "valve", "contest", "tram", "developer", "train station", "traintest"]
)
def test_a_name_that_only_begins_like_a_part_is_none(name):
    assert role_of(name, [name, "dog"]) is None


@pytest.mark.parametrize(
    "folders",
    [
        ("cat", "dog"),
        ("cat/2019", "cat/2020", "dog/may"),
        ("cat/images", "dog/images"),  # one folder each cannot be the classes of a half
        ("test", "car", "bus"),  # a class named "test"
        ("train", "test", "bus", "car"),  # vehicles and a rig
        ("train", "bus", "car"),
        ("animals/cat", "animals/dog", "vehicles/car"),
        ("cat", "cat/good", "cat/bad", "dog", "dog/good", "dog/bad"),  # images beside the folders: a class each
    ],
)
def test_classes_stay_classes(folders):
    assert parts(*folders) == {ALL: {name: name for name in sorted({folder.split("/")[0] for folder in folders})}}


@pytest.mark.parametrize(
    "folders",
    [
        ("A/cat", "A/dog", "B/cat", "B/dog"),
        ("fold1/cat", "fold1/dog", "fold2/cat", "fold2/dog", "fold3/cat", "fold3/dog"),
        ("apple/good", "apple/bad", "pear/good", "pear/bad"),  # classes, most likely; nothing proves it
        ("train/good", "train/bad", "test/good", "test/bad", "bus/good", "bus/bad"),
        ("train1/cat", "train1/dog", "train2/cat", "train2/dog"),
        ("train/a/cat", "train/a/dog", "train/b/cat", "train/b/dog", "val/a/cat", "val/b/dog"),
        ("fold1/train/cat", "fold1/train/dog", "fold1/val/cat", "fold2/train/cat", "fold2/train/dog", "fold2/val/dog"),
        ("images/train", "images/extra", "masks/train", "masks/extra"),
        ("A/cat", "A/dog", "B/cat", "B/dog", "C"),  # something else beside them
        ("A/cat", "A/dog", "B/cat", "B/dog", "docs", "docs/old"),
    ],
)
def test_what_could_be_both_is_refused_with_what_to_say(folders):
    with pytest.raises(DatasetError, match=r"photos: .*data\.train=\S+ data\.val=\S+ or data\.train=\. when") as caught:
        parts(*folders)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("image", [False, True])
def test_images_beside_folders_make_them_classes_and_other_files_do_not(image):
    folders = ("A/cat", "A/dog", "B/cat", "B/dog")
    beside = tuple(File(f"{top}/{'0.jpg' if image else 'labels.csv'}", "", bytes, bytes) for top in "AB")
    found = tree(*folders)
    found = Tree(found.root, (*found.files, *beside), found.folders)
    if image:
        assert read_layout(found, "photos").parts == {ALL: {"A": "A", "B": "B"}}
    else:
        with pytest.raises(DatasetError, match=r"A, B hold the same folders \(cat, dog\)"):
            read_layout(found, "photos")


@pytest.mark.parametrize("beside", ["submission", "unlabeled", "bus"])
def test_training_classes_beside_a_flat_folder_are_no_class(beside):
    folders = ("train/cat", "train/dog", beside)
    with pytest.raises(DatasetError, match=r"say which is which: data\.train=train, or data\.train=\. when"):
        parts(*folders)
    layout = read_layout(tree(*folders), "photos", {TRAIN: "train"})
    assert (layout.parts, layout.others) == ({TRAIN: {"cat": "train/cat", "dog": "train/dog"}}, (beside,))
    known = read_layout(tree(*folders), "photos", labels=("train", beside))  # the labels of a bundle prove them
    assert known.parts == {ALL: {name: name for name in sorted(("train", beside))}}


@pytest.mark.parametrize("beside", [("test",), ("docs", "labels"), ()])
def test_a_division_beside_other_folders_is_no_class(beside):
    """As archives are uploaded: the set in a folder of its own, something else beside it."""
    inside = [f"Plants(Augmented)/{half}/{name}" for half in ("train", "valid") for name in ("cat", "dog")]
    if beside:
        with pytest.raises(DatasetError, match=r"holds a division .*is it photos/Plants\(Augmented\) that you mean"):
            parts(*inside, *beside)
    else:  # alone it is one folder, which cannot be all classes: `load` names it
        with pytest.raises(DatasetError, match=r"photos/Plants\(Augmented\) that you mean"):
            parts(*inside)


def test_two_folders_for_one_part_are_named():
    with pytest.raises(DatasetError, match="val and validation are named as the same part"):
        parts("train/cat", "train/dog", "val/cat", "val/dog", "validation/cat", "validation/dog")


def test_what_is_refused_can_be_said():
    folders = ("A/cat", "A/dog", "B/cat", "B/dog", "C/cat", "C/dog")
    said = parts(*folders, train="B", val="A/", test="C")
    assert said == {
        TRAIN: {"cat": "B/cat", "dog": "B/dog"},
        VAL: {"cat": "A/cat", "dog": "A/dog"},
        TEST: {"cat": "C/cat", "dog": "C/dog"},
    }
    assert parts(*folders, train=".") == {TRAIN: {"A": "A", "B": "B", "C": "C"}}
    assert parts(*folders, train=".", test="C") == {TRAIN: {"A": "A", "B": "B"}, TEST: {"cat": "C/cat", "dog": "C/dog"}}
    with pytest.raises(DatasetError, match=r"data.val=a: no such folder in it.*A"):
        parts(*folders, train="B", val="a")
    with pytest.raises(DatasetError, match=r"data.train=B, data.val=B: parts want folders of their own"):
        parts(*folders, train="B", val="B")


def test_halves_may_lie_one_folder_deeper():
    """As an archive of each half leaves them: seg_train/seg_train/CLASS."""
    found = parts(*(f"seg_{half}/seg_{half}/{name}" for half in ("train", "test") for name in ("sea", "wood")))
    assert found == {
        part: {name: f"seg_{part}/seg_{part}/{name}" for name in ("sea", "wood")} for part in (TRAIN, TEST)
    }
    assert found == parts(
        *(f"seg_{half}/seg_{half}/{name}" for half in ("train", "test") for name in ("sea", "wood")),
        "seg_pred/seg_pred",  # photos to label, beside them
    )
    given = {TRAIN: "seg_train", TEST: "seg_test"}
    folders = [f"seg_{half}/seg_{half}/{name}" for half in ("train", "test") for name in ("sea", "wood")]
    assert parts(*folders, **given) == found


def test_what_to_say_begins_with_the_folder_for_training():
    folders = [f"{half}/{name}" for half in ("extra", "test", "train", "val") for name in ("cat", "dog")]
    with pytest.raises(DatasetError, match=r"say which is which: data\.train=train data\.val=val, or"):
        parts(*folders)


def test_a_division_may_lie_below_the_classes():
    found = parts(*(f"{name}/{half}" for name in ("cat", "dog") for half in ("Train", "Test")))
    assert found == {TRAIN: {"cat": "cat/Train", "dog": "dog/Train"}, TEST: {"cat": "cat/Test", "dog": "dog/Test"}}


def test_a_part_without_classes_is_left_out_and_said():
    layout = read_layout(tree("train/cat", "train/dog", "val/cat", "val/dog", "test"), "photos")
    assert list(layout.parts) == [TRAIN, VAL]
    assert layout.notes == ("test: no class folders, left out: without labels nothing can be scored",)
    with pytest.raises(DatasetError, match=r"'train' holds no class folders; wanted are photos/train/CLASS/IMAGE"):
        parts("train", "test")


# Read with their images


def folder(path, **settings):
    return load(DataConfig(source="folder", path=str(path), **settings))


def test_training_validation_and_test_are_read_apart(photos):
    root = photos(
        {
            f"{half}/{name}": count
            for half, count in (("TRAIN", 4), ("Valid", 2), ("Testing", 3))
            for name in ("cat", "dog")
        }
    )
    found = folder(root)
    assert found.classes == ("cat", "dog")
    assert found.notes == ()
    for side, half, count in ((found.train, "TRAIN", 4), (found.val, "Valid", 2), (found.test, "Testing", 3)):
        assert sorted(side.names) == sorted(str(path.relative_to(root)) for path in (root / half).rglob("*.png"))
        assert list(side.labels) == [0] * count + [1] * count
    assert found.summary() == "8 training, 4 validation and 6 test images, 2 classes: cat, dog"


def test_a_test_alone_validates_and_says_so_or_is_kept_apart(photos):
    root = photos({f"{half}/{name}": 5 for half in ("Training", "Testing") for name in ("cat", "dog")})
    found = folder(root)
    assert (len(found.train), len(found.val), found.test) == (10, 10, None)
    assert "no validation folder: 'Testing' is validated on" in found.notes[-1]
    apart = folder(root, train="Training", test="Testing")
    assert (len(apart.train), len(apart.val), len(apart.test), apart.notes) == (8, 2, 10, ())
    assert {name.split("/")[0] for name in apart.val.names} == {"Training"}


def test_copies_of_test_images_are_counted(photos):
    root = photos({f"{half}/{name}": 3 for half in ("train", "val", "test") for name in ("cat", "dog")})
    shutil.copy(root / "train/cat/001.png", root / "test/cat/again.png")
    shutil.copy(root / "val/dog/001.png", root / "test/dog/again.png")
    assert folder(root).notes == tuple(
        f"1 of the test images are also in {part}, so that its accuracy is too high: "
        f"test/{name}/again.png = {part}/{name}/001.png"
        for part, name in (("train", "cat"), ("val", "dog"))
    )


def test_systems_folders_and_patterns_are_left_out_and_counted(photos):
    systems = [
        "@eaDir",
        ".thumbnails",
        "$RECYCLE.BIN",
        "System Volume Information",
        "lost+found",
        "__MACOSX",
        "#recycle",
    ]
    systems += [".ipynb_checkpoints", ".AppleDouble"]
    root = photos({"cat": 4, "dog": 4, **dict.fromkeys(systems, 1), "cat/@eaDir": 1, "drafts": 2, "cat/old": 1})
    (root / "cat" / "Thumbs.db").write_bytes(b"x")
    (root / "dog" / "000_mask.png").write_bytes(b"x")
    found = folder(root, exclude=("*_mask.png", "drafts", "cat/old/*"))
    assert found.classes == ("cat", "dog")
    assert len(found.train) + len(found.val) == 8
    assert found.notes[0].startswith(f"{len(systems) + 2} hidden or system files and folders were left out: ")
    assert found.notes[1] == "4 files were left out as data.exclude says: *_mask.png, drafts, cat/old/*"
    with pytest.raises(DatasetError, match=r"nothing in it fits the pattern \*.tiff of data.exclude"):
        folder(root, exclude=("drafts", "*.tiff"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"val": "B"}, "want one for train"),
        ({"test": "B"}, "want one for train"),
        ({"val": 2017, "train": "A"}, "in quotes"),
        ({"encoding": "cp99999"}, "not one that Python knows"),
        ({"max_megapixels": 0.0}, "max_megapixels must be above 0"),
    ],
)
def test_settings_that_cannot_be_are_named(settings, message):
    from edgecv_runtime import records

    with pytest.raises(BadInput, match=message):
        records.convert({"source": "folder", "path": "x", **settings}, DataConfig, "recipe.yaml: data")
    with pytest.raises(BadInput, match="sources 'folder', .*source is 'clips'"):
        records.convert({"source": "clips", "path": "x", "train": "A"}, DataConfig, "recipe.yaml: data")


def test_many_classes_are_named_by_the_first_and_the_last(photos):
    names = [f"class{number:02d}" for number in range(12)]
    told = folder(photos(dict.fromkeys(names, 2))).summary()
    assert told == "12 training and 12 validation images, 12 classes: " + ", ".join(names[:7]) + " ... class10, class11"


def test_the_folder_that_was_meant_is_named(photos):
    root = photos({"pets/cat": 3, "pets/dog": 3})
    with pytest.raises(DatasetError, match=f"found only 'pets'; is it {root}/pets that you mean?"):
        folder(root)
