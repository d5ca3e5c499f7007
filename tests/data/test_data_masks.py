"""Images with masks: told apart and paired as published sets lie, read exactly, and refused by name."""

from __future__ import annotations

import json
import re
import zipfile

import cv2
import numpy as np
import pytest
from PIL import Image as Picture
from pycocotools import mask as coco

from edgecv.data import DataConfig, classtable, load, rasters
from edgecv.data.sources import labelled
from edgecv_runtime import records
from edgecv_runtime.errors import BadInput, DatasetError, ImageError

SIZE = (24, 32)
NAMES = ("ground", "road", "car")
COLOURS = np.array([[0, 0, 0], [128, 64, 128], [0, 0, 142]], np.uint8)  # RGB


@pytest.fixture
def photo(digits):
    images, _ = digits
    used = iter(images)

    def write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), cv2.resize(next(used), SIZE[::-1]))

    return write


def drawn(seed, classes=3, ignored=True):
    """A mask of blocks in which every class occurs; its first corner does not count."""
    mask = np.random.default_rng(seed).integers(0, classes, (6, 8), np.uint8)
    mask[1, :classes] = np.arange(classes)
    mask = mask.repeat(4, 0).repeat(4, 1)
    mask[:2, :2] = 255 if ignored else 0
    return mask


def save(path, mask, how="grey"):
    """Write a mask as one of the ways that tools write them, by Pillow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if how == "grey":
        Picture.fromarray(mask).save(path)
    elif how == "palette":
        picture = Picture.fromarray(mask, "P")
        picture.putpalette(np.vstack([COLOURS, np.full((253, 3), 224)]).astype(np.uint8).tobytes())
        picture.save(path)
    elif how == "colours":
        table = np.vstack([COLOURS, np.full((253, 3), 224)]).astype(np.uint8)
        Picture.fromarray(table[mask]).save(path)
    elif how == "grey in three channels":
        Picture.fromarray(mask[..., None].repeat(3, 2)).save(path)
    elif how == "16 bits":
        Picture.fromarray(mask.astype(np.uint16)).save(path)


@pytest.fixture
def scenes(photo, tmp_path):
    """Make images and masks where two functions of a number say, and a file of classes."""

    def make(image, mask, count=6, how="grey", classes="ground\nroad\ncar\n", size=SIZE, **options):
        for number in range(count):
            photo(tmp_path / image(number))
            save(tmp_path / mask(number), drawn(number, **options), how)
        if classes:
            (tmp_path / "classes.txt").write_text(classes)
        return tmp_path

    return make


def plain(scenes, **options):
    return scenes(lambda n: f"images/{n}.jpg", lambda n: f"masks/{n}.png", **options)


def masks(path, **settings):
    return load(DataConfig(source="masks", path=str(path), **settings))


def every(dataset):
    """All masks by the name of their image."""
    parts = [dataset.train, dataset.val] + ([dataset.test] if dataset.test is not None else [])
    return {name: part.truths[index] for part in parts for index, name in enumerate(part.names)}


def number(name):
    return int(re.search(r"(\d)(_leftImg8bit|_sat)?\.", name)[1])


def expect(dataset, options=()):
    found = every(dataset)
    for name, mask in found.items():
        assert mask.dtype == np.uint8
        assert np.array_equal(mask, drawn(number(name), **dict(options))), name
    return found


# Where masks lie

LAYOUTS = {
    "two folders": ("images/{}.jpg", "masks/{}.png", {}),
    "Pascal VOC": ("JPEGImages/{}.jpg", "SegmentationClass/{}.png", {}),
    "side by side": ("{}.jpg", "{}_mask.png", {}),
    "words in names": ("train_images/{}_sat.jpg", "train_masks/{}_mask.png", {}),
    "CamVid": (
        "701_StillsRaw_full/0001TP_{}.png",
        "LabeledApproved_full/0001TP_{}_L.png",
        {"images": "701_StillsRaw_full/*.png", "masks": "LabeledApproved_full/*_L.png"},
    ),
    "by any folders": ("raw/a/{}.jpg", "drawn/a/{}.png", {"images": "raw/**/*.jpg", "masks": "drawn/**/*.png"}),
}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_masks_are_found_where_published_sets_have_them(kind, scenes):
    image, mask, settings = LAYOUTS[kind]
    dataset = masks(scenes(image.format, mask.format), **settings)
    assert (dataset.task, dataset.classes) == ("segmentation", NAMES)
    assert (len(dataset.train), len(dataset.val)) == (5, 1)
    assert len(expect(dataset)) == 6
    assert dataset.notes == ()


DIVIDED = {
    "images first": ("images/{part}/{n}.jpg", "masks/{part}/{n}.png", {}),
    "part first": ("{part}/images/{n}.jpg", "{part}/masks/{n}.png", {}),
    "SegNet's CamVid": ("{part}/{n}.png", "{part}annot/{n}.png", {}),
    "Cityscapes": (
        "leftImg8bit/{part}/aachen/aachen_{n}_leftImg8bit.png",
        "gtFine/{part}/aachen/aachen_{n}_gtFine_labelIds.png",
        {"images": "leftImg8bit/*/*/*_leftImg8bit.png", "masks": "gtFine/*/*/*_gtFine_labelIds.png"},
    ),
    "named parts": (
        "{part}_a/images/{n}.jpg",
        "{part}_a/masks/{n}.png",
        {"train": "train_a", "val": "val_a", "test": "test_a"},
    ),
}


@pytest.mark.parametrize("kind", DIVIDED)
def test_a_division_is_kept(kind, scenes):
    image, mask, settings = DIVIDED[kind]
    part = ("train", "train", "train", "val", "val", "test")
    path = scenes(lambda n: image.format(part=part[n], n=n), lambda n: mask.format(part=part[n], n=n))
    dataset = masks(path, **settings)
    assert [len(each) for each in (dataset.train, dataset.val, dataset.test)] == [3, 2, 1]
    expect(dataset)
    assert all("train" in name for name in dataset.train.names)


def test_lists_of_pascal_voc_divide_and_choose(scenes, photo):
    root = "VOCdevkit/VOC2012"
    path = scenes((root + "/JPEGImages/{}.jpg").format, (root + "/SegmentationClass/{}.png").format)
    for index in range(6):
        save(path / root / f"SegmentationObject/{index}.png", drawn(index))
    photo(path / root / "JPEGImages/8.jpg")  # with boxes, say, and no mask
    photo(path / root / "JPEGImages/9.jpg")
    lists = {"train": "012", "val": "34", "trainval": "01234", "test": "9"}
    for folder, given in (("Segmentation", lists), ("Main", {"train": "348", "val": "01"})):
        (path / root / "ImageSets" / folder).mkdir(parents=True)
        for name, numbers in given.items():
            (path / root / "ImageSets" / folder / f"{name}.txt").write_text("\n".join(numbers) + "\n")
    dataset = masks(path)
    assert [[number(name) for name in each.names] for each in (dataset.train, dataset.val)] == [[0, 1, 2], [3, 4]]
    assert dataset.test is None
    expect(dataset)
    assert any(
        note.startswith("2 images that no list of ImageSets/Segmentation names were left out") for note in dataset.notes
    )
    place = path / root / "ImageSets/Segmentation"
    (place / "val.txt").write_text("3\n9\n")
    (place / "test.txt").unlink()
    with pytest.raises(DatasetError, match="1 images without a mask: VOCdevkit/VOC2012/JPEGImages/9.jpg"):
        masks(path)
    (place / "val.txt").write_text("3\n7\n")
    with pytest.raises(DatasetError, match="7: no such image, but VOCdevkit/.*/val.txt lists it"):
        masks(path)
    assert [number(name) for name in masks(path, skip_bad=1).val.names] == [3]
    (place / "val.txt").write_text("2\n3\n")
    with pytest.raises(DatasetError, match="val.txt lists 2, and so does the list of train"):
        masks(path)
    for name in ("train", "val"):
        (place / f"{name}.txt").unlink()
    whole = masks(path)
    assert {number(name) for name in every(whole)} == {0, 1, 2, 3, 4}
    assert len(whole.val) == 1


def test_a_zip_is_read_as_a_folder(scenes, tmp_path):
    path = plain(scenes)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for file in sorted(path.rglob("*")):
            if file.is_file() and file.suffix != ".zip":
                archive.write(file, file.relative_to(path))
    packed, folder = masks(tmp_path / "set.zip"), masks(path)
    assert packed.train.stamps == folder.train.stamps
    expect(packed)


# What masks hold


@pytest.mark.parametrize("how", ["grey", "palette", "grey in three channels", "16 bits"])
def test_values_are_read_as_they_are_written(how, scenes):
    expect(masks(plain(scenes, how=how)))


CLASS_FILES = {
    "classes.txt": "ground\nroad\ncar\n",
    "classes.json": json.dumps(list(NAMES)),
    "classes.yaml": "names:\n  0: ground\n  1: road\n  2: car\n",
    "ids.yaml": "ground: 0\nroad: 1\ncar: 2\n",
    "ids.txt": "# value: name\n0: ground\n1: road\n2: car\n",
}
COLOUR_FILES = {
    "class_dict.csv": "name,r,g,b\nground,0,0,0\nroad,128,64,128\ncar,0,0,142\nvoid,224,224,224\n",
    "label_colors.txt": "0 0 0\tground\n128 64 128\troad\n0 0 142\tcar\n224 224 224\tvoid\n",
    "labelmap.txt": "# label:color_rgb:parts\nground:0,0,0::\nroad:128,64,128::\ncar:0,0,142::\nvoid:224,224,224::\n",
    "colours.json": '{"ground": [0, 0, 0], "road": "#804080", "car": [0, 0, 142], "void": "e0e0e0"}',
}


@pytest.mark.parametrize("file", CLASS_FILES)
def test_classes_are_named_by_a_file(file, scenes, tmp_path):
    path = plain(scenes, classes=None)
    (path / file).write_text(CLASS_FILES[file])
    settings = {} if file.startswith("classes") else {"classes": file}
    dataset = masks(path, **settings)
    assert dataset.classes == NAMES
    expect(dataset)


@pytest.mark.parametrize("file", COLOUR_FILES)
@pytest.mark.parametrize("how", ["colours", "palette"])
def test_colours_are_named_by_a_table(file, how, scenes, tmp_path_factory):
    path = plain(scenes, classes=None, how=how)
    table = tmp_path_factory.mktemp("table") / file  # anywhere
    table.write_text(COLOUR_FILES[file])
    dataset = masks(path, classes=str(table), ignore=("void",))
    assert dataset.classes == NAMES
    expect(dataset)


def test_values_that_do_not_count_are_left_out_and_positions_close_up(scenes):
    """As Cityscapes has it: many values, some of which are classes."""
    path = plain(scenes, classes=None)
    (path / "classes.yaml").write_text("{0: null, 1: road, 2: car}")
    dataset = masks(path)
    assert dataset.classes == ("road", "car")
    for name, mask in every(dataset).items():
        truth = drawn(number(name))
        assert np.array_equal(mask, np.where((truth == 0) | (truth == 255), 255, truth - 1))
    (path / "classes.yaml").write_text("[ground, road, car]")
    assert masks(path, ignore=(255, 1)).classes == masks(path, ignore=(255, "road")).classes == ("ground", "car")


def test_a_part_whose_masks_tell_nothing_is_refused(scenes):
    path = plain(scenes)
    for file in (path / "masks").iterdir():
        save(file, np.full(drawn(0).shape, 255, np.uint8) if number(file.name) % 2 else drawn(number(file.name)))
    for part, rest in (("train", 0), ("val", 1)):
        for kind in ("images", "masks"):
            (path / part / kind).mkdir(parents=True)
            for file in (path / kind).iterdir():
                if number(file.name) % 2 == rest:
                    file.rename(path / part / kind / file.name)
    with pytest.raises(DatasetError, match="not one pixel of the . masks of the part val counts"):
        masks(path)


@pytest.mark.parametrize("text", ['{"ground": 0, "road": 1, "ground": 2}', '{"names": {"0": "road", "0": "car"}}'])
def test_a_key_of_json_that_stands_there_twice_is_refused(text, scenes):
    path = plain(scenes, classes=None)
    (path / "classes.json").write_text(text)
    with pytest.raises(DatasetError, match="classes.json: cannot be read: the key '(ground|0)' stands there twice"):
        masks(path)


def test_without_a_file_classes_are_called_as_the_masks_hold_them(scenes):
    dataset = masks(plain(scenes, classes=None))
    assert dataset.classes == ("0", "1", "2")
    assert dataset.notes == ("no file names the classes, so they are called as the masks hold them: 0, 1, 2",)
    expect(dataset)


def test_without_a_file_colours_are_classes_too(scenes):
    dataset = masks(plain(scenes, classes=None, how="colours"))
    assert dataset.classes == ("#000000", "#00008e", "#804080", "#e0e0e0")


@pytest.mark.parametrize("named", [False, True])
def test_what_does_not_count_of_colours_goes_by_name(named, scenes):
    path = plain(scenes, classes=None, how="colours")
    if named:
        (path / "classes.json").write_text(COLOUR_FILES["colours.json"])
    expected = NAMES if named else ("#000000", "#00008e", "#804080")
    assert masks(path, ignore=("void" if named else "#e0e0e0",)).classes == expected
    with pytest.raises(DatasetError, match="data.ignore=255 is a value, and what the masks hold is read as colours"):
        masks(path, ignore=(255,))


def test_a_name_for_255_is_told(scenes):
    path = plain(scenes, classes=None)
    (path / "classes.yaml").write_text("{0: ground, 1: road, 2: car, 255: sky}")
    dataset = masks(path)
    assert dataset.classes == NAMES
    assert [note for note in dataset.notes if note.startswith("classes.yaml names 255 'sky', which does not count")]
    whole = masks(path, ignore=())
    assert whole.classes == (*NAMES, "sky")
    assert whole.notes == ()
    assert all((mask[:2, :2] == 3).all() for mask in every(whole).values())


@pytest.mark.parametrize("classes", [None, "membrane\ncell\n", "0: membrane\n255: cell\n", "255: cell\n0: membrane\n"])
def test_masks_of_0_and_255_have_two_classes(classes, scenes):
    path = plain(scenes, classes=classes, ignored=False)
    for file in (path / "masks").iterdir():
        save(file, (drawn(int(file.stem), ignored=False) > 0).astype(np.uint8) * 255)
    dataset = masks(path)
    assert dataset.classes == (("membrane", "cell") if classes else ("0", "255"))
    assert len(dataset.notes) == (0 if classes and "255" in classes else 1)
    for name, mask in every(dataset).items():
        assert np.array_equal(mask, drawn(number(name), ignored=False) > 0)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_are_values_not_brightness(bits, tmp_path):
    """OpenCV gives 255 for the 1 of a mask of one bit. Written by hand: Pillow saves grey of 1 and 8 bits only."""
    import struct
    import zlib

    values = np.random.default_rng(bits).integers(0, 1 << bits, (5, 16), np.uint8)
    packed = np.packbits(np.unpackbits(values[..., None], axis=2)[..., -bits:].reshape(5, -1), axis=1)
    raw = b"".join(b"\0" + row.tobytes() for row in packed)
    for kind in (0, 3):
        chunks = [(b"IHDR", struct.pack(">IIBBBBB", 16, 5, bits, kind, 0, 0, 0))]
        chunks += [(b"PLTE", b"\x07" * 3 * (1 << bits))] if kind == 3 else []
        chunks += [(b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
        data = b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
            for name, body in chunks
        )
        assert np.array_equal(rasters.read(data, "mask.png").pixels, values)


def test_what_is_trained_on_follows_the_masks_but_the_division_does_not(scenes):
    path = plain(scenes)
    before = masks(path)
    name = before.train.names[0]
    save(path / name.replace("images", "masks").replace("jpg", "png"), drawn(99))
    after = masks(path)
    assert after.train.names == before.train.names
    assert after.train.fingerprint() != before.train.fingerprint()
    (path / "classes.txt").write_text("ground\nroad\nvan\n")
    assert masks(path).train.fingerprint() != after.train.fingerprint()


# COCO's JSON


def instances(path, names, json_name="annotations.json", change=lambda found: found):
    """Polygons and both kinds of run lengths, and the class maps that pycocotools gives."""
    rng = np.random.default_rng(0)
    found = {"images": [], "annotations": [], "categories": [{"id": 7, "name": "road"}, {"id": 3, "name": "car"}]}
    truths = {}
    for index, name in enumerate(names):
        found["images"].append({"id": index, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
        areas = []
        for which in range(5):
            corners = (rng.uniform(0, 1, (5, 2)) * SIZE[::-1]).round(2).ravel().tolist()
            packed = coco.frPyObjects([corners], *SIZE)[0]
            inside = coco.decode(packed).astype(bool)
            counts = np.diff(np.flatnonzero(np.diff(np.r_[2, inside.T.ravel(), 2])))
            runs = [0, *counts.tolist()] if inside[0, 0] else counts.tolist()
            text = {"size": list(SIZE), "counts": packed["counts"].decode()}
            segmentation = [[corners], {"size": list(SIZE), "counts": runs}, text][which % 3]
            category, crowd = (7, 3)[which % 2], int(which == 1)
            found["annotations"].append(
                {"image_id": index, "category_id": category, "segmentation": segmentation, "iscrowd": crowd}
            )
            areas.append((not crowd, -inside.sum(), {3: 1, 7: 2}[category], inside))
        truth = np.zeros(SIZE, np.uint8)
        for _, _, position, inside in sorted(areas, key=lambda area: area[:3]):
            truth[inside] = position
        truths[name] = truth
    place = path / json_name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(change(found)))
    return truths


def test_polygons_and_run_lengths_are_the_class_maps_of_pycocotools(photo, tmp_path):
    names = [f"{number}.jpg" for number in range(6)]
    for name in names:
        photo(tmp_path / "pictures" / name)
    truths = instances(tmp_path, names)
    dataset = masks(tmp_path)
    assert dataset.classes == ("background", "car", "road")
    for name, mask in every(dataset).items():
        assert np.array_equal(mask, truths[name.removeprefix("pictures/")])


def test_what_tools_write_into_coco_is_taken_for_areas_too(photo, tmp_path):
    """Float sizes, text ids, false for a crowd, a caption, null for an area, and a background of another case."""
    names = [f"{number}.jpg" for number in range(6)]
    for name in names:
        photo(tmp_path / name)

    def change(found):
        for image in found["images"]:
            image |= {"id": f"a{image['id']}", "width": float(image["width"])}
        for each in found["annotations"]:
            each |= {"image_id": f"a{each['image_id']}", "iscrowd": bool(each["iscrowd"])}
        found["annotations"] += [{"image_id": "a0", "caption": "x"}, {"image_id": "a1", "segmentation": None}]
        found["categories"] = [*found["categories"], {"id": 9, "name": "Background"}]
        return found

    truths = instances(tmp_path, names, change=change)
    dataset = masks(tmp_path)
    assert dataset.classes == ("Background", "car", "road")
    assert "2 annotations without an area (boxes alone) were left out" in dataset.notes
    assert all(np.array_equal(mask, truths[name]) for name, mask in every(dataset).items())


def test_the_files_of_coco_s_own_layout_are_parts(photo, tmp_path):
    truths = {}
    for part, count in (("train2017", 3), ("val2017", 2)):
        names = [f"{number:03d}.jpg" for number in range(count)]  # the same names in both
        for name in names:
            photo(tmp_path / part / name)
        truths[part] = instances(tmp_path, names, f"annotations/instances_{part}.json")
    dataset = masks(tmp_path, masks="annotations/*.json")
    assert (len(dataset.train), len(dataset.val)) == (3, 2)
    for name, mask in every(dataset).items():
        part, _, own = name.partition("/")
        assert np.array_equal(mask, truths[part][own])


def without(key, index):
    def change(found):
        found[key].pop(index)
        return found

    return change


def first(key, **values):
    def change(found):
        found[key][0] |= values
        return found

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("images", 2), "annotation is of image 2, which it does not name"),
        (without("categories", 0), "annotation is of category 7, which it does not name"),
        (first("images", file_name="gone.jpg"), r"1 images that annotations.json names are not there: gone.jpg"),
        (first("images", height=None), r"annotations.json gives 1 images no size, which areas want: 0.jpg"),
        (first("images", height=99), r"0.jpg is 32x24, the JSON says 32x99"),
        (first("annotations", segmentation=[[1, 2]]), "0.jpg: a polygon wants three corners"),
        (first("annotations", segmentation=[[1, 2, float("nan"), 4, 5, 6]]), "JSON"),
        (first("annotations", segmentation={"size": list(SIZE), "counts": [3, 4]}), "not 24x32 pixels together"),
        (first("annotations", segmentation={"size": list(SIZE), "counts": "\x01"}), "run lengths are damaged"),
        (first("annotations", segmentation={"size": [1, 1], "counts": [1]}), r"run lengths are of \[1, 1\]"),
        (first("categories", name="car"), "two categories have one name: car"),
        (lambda found: {**found, "images": 3}, "annotations.json: not COCO's JSON of instances"),
    ],
)
def test_a_json_that_does_not_fit_is_refused(change, said, photo, tmp_path):
    names = [f"{number}.jpg" for number in range(4)]
    for name in names:
        photo(tmp_path / name)
    instances(tmp_path, names, change=change)
    with pytest.raises(DatasetError, match=said) as refused:
        masks(tmp_path)
    assert "\n" not in str(refused.value)


# What is refused, in one line


def lose(path):
    (path / "masks/3.png").unlink()


def shrink(path):
    save(path / "masks/3.png", drawn(3)[:12])


def stain(path):
    mask = drawn(3)
    mask[0, :3] = 77
    save(path / "masks/3.png", mask)


def paint(path):
    save(path / "masks/3.png", drawn(3), "colours")


def blur(path):
    (path / "masks/3.png").unlink()
    cv2.imwrite(str(path / "masks/3.jpg"), drawn(3))


def cut(path):
    file = path / "masks/3.png"
    file.write_bytes(file.read_bytes()[:40])


def double(path):
    save(path / "masks/3.bmp", drawn(3))


def blank(path):
    for file in (path / "masks").iterdir():
        save(file, np.full(SIZE, 255, np.uint8))


def only(path):
    for file in (path / "masks").iterdir():
        save(file, np.full(SIZE, 1, np.uint8))


def rewrite(text):
    return lambda path: (path / "classes.txt").write_text(text)


REFUSED = {
    "a missing mask": (lose, {}, r"1 images without a mask: images/3.jpg"),
    "a mask of another size": (shrink, {}, r"masks/3.png is 32x12, its image 32x24"),
    "an unknown value": (
        stain,
        {},
        r"1 masks hold values of no class: masks/3.png: 77 \(3 pixels\); there are 3 classes",
    ),
    "a colour among values": (paint, {}, "names values, and 1 masks hold colours"),
    "a mask as JPEG": (blur, {}, r"masks/3.jpg: JPEG, which may change the values"),
    "a damaged mask": (cut, {}, "masks/3.png: the file is truncated"),
    "two masks": (double, {}, "cannot be told apart are masks/3.bmp and masks/3.png"),
    "nothing counts": (blank, {}, "masks without classes: the training masks hold none"),
    "one class": (only, {}, "masks without classes: the training masks hold only 'road'"),
    "a class twice": (rewrite("ground\nroad\nroad"), {}, "the name road stands there twice"),
    "no class": (rewrite("# nothing"), {}, "names 0 classes that count"),
    "a class too few": (rewrite("ground\nroad"), {}, r"hold values of no class: masks/0.png: 2 \("),
    "no such file": (rewrite("a"), {"classes": "gone.txt"}, "data.classes=gone.txt: cannot be read"),
    "an unknown name": (rewrite("ground\nroad\ncar"), {"ignore": ("raod",)}, "no class 'raod' .*did you mean 'road'"),
    "a pattern that finds nothing": (
        lambda path: None,
        {"images": "images/*.jpeg", "masks": "masks/*.png"},
        r"data.images=images/\*.jpeg finds nothing; the first of its",
    ),
    "patterns that do not match": (
        lambda path: None,
        {"images": "*/*.jpg", "masks": "masks/*.png"},
        "has 2 wildcards and data.masks=masks/\\*.png has 1",
    ),
    "no pairs": (
        lambda path: None,
        {"images": "images/*.jpg", "masks": "masks/[45]*.png"},
        "wildcards",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_wrong_with_masks_is_named(kind, scenes):
    spoil, settings, said = REFUSED[kind]
    path = plain(scenes)
    spoil(path)
    with pytest.raises(DatasetError, match=said) as refused:
        masks(path, **settings)
    assert "\n" not in str(refused.value)


def test_images_without_any_mask_are_told_what_to_do(photo, tmp_path):
    for index in range(3):
        photo(tmp_path / f"{index}.jpg")
    with pytest.raises(DatasetError, match=r"no image has a mask: 3 images, 0 masks; .*data.masks='masks/\*.png'"):
        masks(tmp_path)


def test_an_undivided_rest_is_named(scenes):
    place = (
        ("train/images/{}.jpg", "train/masks/{}.png"),
        ("val/images/{}.jpg", "val/masks/{}.png"),
        ("images/{}.jpg", "masks/{}.png"),
    )
    path = scenes(lambda n: place[n // 2][0].format(n), lambda n: place[n // 2][1].format(n))
    with pytest.raises(DatasetError, match="2 images lie in no folder of train, val: images/4.jpg, images/5.jpg"):
        masks(path)


def test_what_is_left_out_is_counted(scenes, photo):
    path = scenes(
        lambda n: f"{'train' if n < 4 else 'val'}/images/{n}.jpg",
        lambda n: f"{'train' if n < 4 else 'val'}/masks/{n}.png",
    )
    photo(path / "test/images/9.jpg")
    save(path / "train/masks/8.png", drawn(8))
    (path / "classes.txt").write_text("ground\nroad\ncar\nbus\n")
    (path / "readme.md").write_text("x")
    assert masks(path).notes == (
        "1 images of parts that have no masks were left out: test/images/9.jpg",
        "1 masks without an image were left out: train/masks/8.png",
        "1 files that are no images were left out: 1 .md",
        "1 classes occur in no training mask: bus",
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"source": "masks"}, "wants a path"),
        ({"source": "masks", "path": "x", "images": "*.jpg"}, "data.images and data.masks want each other"),
        ({"source": "masks", "path": "x", "masks": "*.png"}, "data.images and data.masks want each other"),
        ({"source": "masks", "path": "x", "images": "*.jpg", "masks": "*.json"}, "leave data.images out"),
        ({"source": "folder", "path": "x", "masks": "*.png"}, "data.masks is for source 'masks'"),
    ],
)
def test_settings_that_do_not_fit(settings, said):
    with pytest.raises(BadInput, match=said):
        records.convert(settings, DataConfig, "recipe.yaml: data")


def test_more_than_was_allowed_is_not_decoded():
    ok, data = cv2.imencode(".png", np.zeros((100, 100), np.uint8))
    assert ok
    with pytest.raises(ImageError, match=r"m.png: 100x100 is more than 0.005 megapixels"):
        rasters.read(data.tobytes(), "m.png", 5000)


def test_a_finished_bundle_reads_masks_by_its_own_labels(scenes):
    """A set may list its classes in another order than the network was trained with, and lack some of them."""
    config = DataConfig(source="masks", path=str(plain(scenes)))
    parts = labelled(config, ("car", "sky", "ground", "road"))
    table = np.full(256, 255)
    table[:3] = 2, 3, 0
    for images in parts.images.values():
        for index, name in enumerate(images.names):
            assert np.array_equal(images.truths[index], table[drawn(number(name))])
    with pytest.raises(DatasetError, match="classes that are no labels: car; the bundle's labels are ground, road"):
        labelled(config, ("ground", "road"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{road: 0, no: 1}", "False is read as bool, not text; put each name in double quotes"),
        ("{0: road, 0: wall}", "the key '0' stands there twice"),
    ],
)
def test_classes_in_yaml_that_are_no_text_are_refused(text, message):
    with pytest.raises(DatasetError, match=message):
        classtable.parse(text, "classes.yaml")
    assert classtable.parse('{road: 0, "no": 1}', "classes.yaml") == ([("road", 0), ("no", 1)], False)
