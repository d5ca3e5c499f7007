"""COCO JSON, YOLO and Pascal VOC, made here in small; what real sets hold in faults. Oracle of COCO: pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
import re
import zipfile
from itertools import product

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from edgecv.data import DataConfig, digit_boxes, load
from edgecv.data.sources import labelled
from edgecv_runtime.errors import DatasetError

HEIGHT, WIDTH = 60, 80
CLASSES = ("cell", "gap")
# Of each picture: class, left, top, right, bottom.
DRAWN = {
    "a1": [(0, 5, 6, 30, 40), (1, 40, 10, 80, 60)],
    "a2": [(1, 0, 0, 20, 20)],
    "a3": [],
    "b1": [(0, 10, 10, 30, 30), (0, 12, 40, 70, 55)],
    "b2": [(1, 33, 5, 44, 50)],
}
PARTS = {"train": ("a1", "a2", "a3"), "val": ("b1", "b2")}


def picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    cv2.imwrite(str(path), cv2.resize(random.integers(0, 256, (6, 8, 3), np.uint8), (WIDTH, HEIGHT)))


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def coco_file(root, names, drawn, part, **more):
    images = [
        {"id": 7 * index, "file_name": f"{name}.jpg", "width": WIDTH, "height": HEIGHT}
        for index, name in enumerate(names)
    ]
    annotations = [
        {
            "id": 100 * index + number,
            "image_id": 7 * index,
            "category_id": 3 * kind + 2,
            "bbox": [left, top, right - left, bottom - top],
            "area": 0.5 * (right - left) * (bottom - top),
            "iscrowd": number % 2,
        }
        for index, name in enumerate(names)
        for number, (kind, left, top, right, bottom) in enumerate(drawn[name])
    ]
    categories = [{"id": 3 * kind + 2, "name": name} for kind, name in enumerate(CLASSES)][::-1]
    content = {"images": images, "annotations": annotations, "categories": categories, **more}
    write(root / "annotations" / f"instances_{part}2017.json", json.dumps(content))


def coco(root, drawn=DRAWN):
    for part, names in PARTS.items():
        for index, name in enumerate(names):
            picture(root / f"{part}2017" / f"{name}.jpg", [index, len(part)])
        coco_file(root, names, drawn, part)


def yolo(root, drawn=DRAWN, settings="path: /content/data\ntrain: ../train/images\nval: ../val/images\nnc: 2\n"):
    write(root / "data.yaml", settings + f"names: {list(CLASSES)}\n")
    for part, names in PARTS.items():
        for index, name in enumerate(names):
            picture(root / part / "images" / f"{name}.jpg", [index, len(part)])
            if drawn[name]:
                lines = [
                    f"{kind} {(left + right) / 2 / WIDTH} {(top + bottom) / 2 / HEIGHT} {(right - left) / WIDTH} "
                    f"{(bottom - top) / HEIGHT}"
                    for kind, left, top, right, bottom in drawn[name]
                ]
                write(root / part / "labels" / f"{name}.txt", "\n".join(lines) + "\n")


def xml(name, boxes, size=(HEIGHT, WIDTH)):
    objects = "".join(
        f"<object><name>{CLASSES[kind]}</name><difficult>{kind}</difficult><bndbox><xmin>{left}</xmin><ymin>{top}</ymin>"
        f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
        for kind, left, top, right, bottom in boxes
    )
    sides = f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>"
    return f"<annotation><filename>{name}.jpg</filename>{sides}{objects}</annotation>"


def voc(root, drawn=DRAWN):
    for part, names in PARTS.items():
        for index, name in enumerate(names):
            picture(root / "JPEGImages" / f"{name}.jpg", [index, len(part)])
            picture(root / "SegmentationClass" / f"{name}.png", [index, 99])  # of the same stem
            write(root / "Annotations" / f"{name}.xml", xml(name, drawn[name]))
        write(root / "ImageSets/Main" / f"{part}.txt", "\n".join(names) + "\n")
    write(root / "ImageSets/Main/trainval.txt", "\n".join(DRAWN) + "\n")
    write(root / "ImageSets/Main/cell_train.txt", "a1 1\na2 -1\n")


FORMS = {"coco": coco, "yolo": yolo, "voc": voc}


def boxes(root, **settings):
    return load(DataConfig(source="boxes", path=str(root), **settings))


def read(images):
    """Stem -> boxes as they were drawn."""
    return {
        name.rpartition("/")[2].rpartition(".")[0]: [
            (int(kind), *np.round(box, 3).tolist()) for box, kind in zip(truth.xyxy, truth.class_id, strict=True)
        ]
        for name, truth in zip(images.names, images.truths, strict=True)
    }


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_found_out_and_read(form, packed, tmp_path):
    root = tmp_path / "set"
    FORMS[form](root)
    if packed:
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            for path in sorted(root.rglob("*")):
                archive.write(path, path.relative_to(tmp_path))
        root = tmp_path / "set.zip"
    found = boxes(root)
    assert (found.task, found.classes) == ("detection", CLASSES)
    assert read(found.train) == {name: DRAWN[name] for name in PARTS["train"]}
    assert read(found.val) == {name: DRAWN[name] for name in PARTS["val"]}
    assert found.train[0].shape == (HEIGHT, WIDTH, 3)
    assert any("1 images are without boxes" in note and "a3" in note for note in found.notes)
    assert found.train.truths[0].xyxy.dtype == np.float32


def test_coco_is_read_as_pycocotools_reads_it(tmp_path):
    coco(tmp_path)
    found = boxes(tmp_path)
    with contextlib.redirect_stdout(io.StringIO()):
        right = COCO(str(tmp_path / "annotations/instances_train2017.json"))
    order = sorted(right.getCatIds())
    assert found.classes == tuple(each["name"] for each in right.loadCats(order))
    for image in right.loadImgs(right.getImgIds()):
        position = [name.rpartition("/")[2] for name in found.train.names].index(image["file_name"])
        truth, wanted = found.train.truths[position], right.loadAnns(right.getAnnIds(image["id"]))
        assert truth.class_id.tolist() == [order.index(each["category_id"]) for each in wanted]
        for index, each in enumerate(wanted):
            left, top, width, height = each["bbox"]
            assert truth.xyxy[index].tolist() == [left, top, left + width, top + height]
            assert truth.area[index] == each["area"]
        crowd = [bool(each["iscrowd"]) for each in wanted]
        assert (truth.crowd.tolist() if truth.crowd is not None else [False] * len(wanted)) == crowd


def test_difficult_boxes_are_not_asked_for(tmp_path):
    voc(tmp_path)
    found = boxes(tmp_path)
    truth = found.train.truths[[name.endswith("a1.jpg") for name in found.train.names].index(True)]
    assert truth.ignored.tolist() == [False, True]


FAULTS = {
    "no area": ((0, 20, 20, 20, 30), "1 boxes of no area were left out: .*a2", 1),
    "not a number": ((0, "nan", 20, 30, 30), "1 boxes of no area were left out: .*a2", 1),
    "outside": ((0, 90, 20, 120, 30), "1 boxes outside the picture were left out: .*a2", 1),
    "over the border": ((0, -10, 20, 30, 30), "1 boxes reach beyond the picture and were cut: .*a2", 2),
    "half a pixel over": ((0, -0.5, 20, 30, 30), None, 2),
    "twice": ((1, 0, 0, 20, 20), "1 boxes are there twice, and count once: .*a2", 1),
}


@pytest.mark.parametrize(
    ("form", "fault"), [each for each in product(FORMS, FAULTS) if each != ("coco", "not a number")]
)
def test_boxes_that_cannot_be_are_counted(form, fault, tmp_path):
    box, note, left = FAULTS[fault]
    box = tuple(float(value) for value in box)
    FORMS[form](tmp_path, {**DRAWN, "a2": [*DRAWN["a2"], (int(box[0]), *box[1:])]})
    found = boxes(tmp_path)
    assert len(read(found.train)["a2"]) == left
    matching = [each for each in found.notes if note and "boxes" in note and re.match(note, each)]
    assert len(matching) == (1 if note else 0), found.notes
    assert all((truth.xyxy >= 0).all() and (truth.xyxy <= [WIDTH, HEIGHT] * 2).all() for truth in found.train.truths)


def test_a_set_of_nothing_but_boxes_that_cannot_be_is_told_so(tmp_path):
    coco(tmp_path, {name: [(0, 20.0, 20.0, 10.0, 30.0)] for name in DRAWN})
    with pytest.raises(DatasetError, match=r"not one box .*\(COCO JSON\); \d boxes of no area were left out: .*a1"):
        boxes(tmp_path)


@pytest.mark.parametrize("form", FORMS)
def test_a_set_without_boxes_is_refused(form, tmp_path):
    FORMS[form](tmp_path, dict.fromkeys(DRAWN, ()))
    with pytest.raises(DatasetError, match="not one box|names no classes"):
        boxes(tmp_path)


REFUSED = {
    "two forms": (
        lambda root: (coco(root), write(root / "a1.xml", xml("a1", DRAWN["a1"]))),
        "holds COCO JSON and Pascal VOC XML; leave out the others by data.exclude",
    ),
    "no form": (lambda root: picture(root / "a.jpg", 0), "holds no boxes; expected COCO JSON"),
    "unknown category": (
        lambda root: (coco(root), coco_file(root, ["a1"], DRAWN, "train", categories=[{"id": 2, "name": "cell"}])),
        "lists other categories",
    ),
    "category not listed": (
        lambda root: [
            picture(root / "a1.jpg", 1),
            coco_file(root, ["a1"], DRAWN, "train", categories=[{"id": 2, "name": "cell"}]),
        ],
        "boxes of categories that it does not list: 5",
    ),
    "no number in JSON": (
        lambda root: coco(root, {**DRAWN, "a2": [(0, float("nan"), 20, 30, 30)]}),
        "instances_train2017.json: not valid JSON",
    ),
    "one name in two folders": (
        lambda root: (
            coco(root),
            [picture(root / part / "b2.jpg", 5) for part in ("p", "q")],
            (root / "val2017/b2.jpg").unlink(),
        ),
        "instances_val2017.json names 'b2.jpg', which could be p/b2.jpg, q/b2.jpg; give",
    ),
    "damaged JSON": (lambda root: write(root / "x.json", '{"images": ['), "x.json: not valid JSON"),
    "JSON of another kind": (
        lambda root: write(root / "x.json", '{"images": [{"id": 1}], "annotations": [], "categories": []}'),
        "x.json: images.*file_name",
    ),
    "class beyond": (
        lambda root: (yolo(root), write(root / "train/labels/a1.txt", "2 0.5 0.5 0.1 0.1")),
        r"a1.txt:1: class 2, but 2 classes are named",
    ),
    "pixels": (
        lambda root: (yolo(root), write(root / "train/labels/a1.txt", "\n1 40 30 10 10")),
        r"a1.txt:2: 40 is no share",
    ),
    "words": (lambda root: (yolo(root), write(root / "train/labels/a1.txt", "cell 1 1 1 1")), "wants numbers"),
    "too few": (lambda root: (yolo(root), write(root / "train/labels/a1.txt", "1 0.5 0.5")), "got 3 numbers"),
    "nc": (lambda root: yolo(root, settings="nc: 3\n"), "nc is 3, but 2 classes are named"),
    "no such folder": (lambda root: yolo(root, settings="train: images\n"), "names 'images' for train"),
    "a number for a folder": (lambda root: yolo(root, settings="train: 5\n"), "names '5' for train"),
    "names that are no list": (
        lambda root: (yolo(root), write(root / "data.yaml", "names: 5")),
        "'names' wants a list",
    ),
    "a class twice under one number": (
        lambda root: (yolo(root), write(root / "data.yaml", "names: {0: cell, 1: gap, 0: edge}")),
        "data.yaml: not valid YAML: the key '0' stands there twice",
    ),
    "a class that is a list": (
        lambda root: (yolo(root), write(root / "data.yaml", "names: [[cell], gap]")),
        "'names' wants a list",
    ),
    "a date that is none": (lambda root: write(root / "data.yaml", "names: 2020-13-45"), "data.yaml: not valid YAML"),
    "three numbers a box": (
        lambda root: write(
            root / "x.json",
            '{"images": [{"id": 1, "file_name": "a"}], "categories": [{"id": 1, "name": "cell"}], '
            '"annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3]}]}',
        ),
        r"x.json: a bbox is left, top, width and height, got \[1.0, 2.0, 3.0\]",
    ),
    "no name": (
        lambda root: (voc(root), write(root / "Annotations/a1.xml", xml("a1", DRAWN["a1"]).replace(">cell<", "><"))),
        "1 files with an object that has no name: Annotations/a1.xml",
    ),
    "no edges": (
        lambda root: [voc(root), write(root / "Annotations/a1.xml", xml("a1", [(0, "", 1, 2, 3)]))],
        "a1.xml: a 'cell' without xmin",
    ),
    "missing image": (lambda root: (coco(root), (root / "val2017/b1.jpg").unlink()), "b1.jpg: no such image, but"),
    "damaged XML": (
        lambda root: (voc(root), write(root / "Annotations/a1.xml", "<annotation>")),
        "a1.xml: not valid XML",
    ),
    "which is to train on": (
        lambda root: [
            [picture(root / part / f"{name}.jpg", [len(name), part == "p"]) for name in names]
            and [write(root / part / f"{name}.xml", xml(name, DRAWN[name])) for name in names]
            for part, names in (("p", PARTS["train"]), ("q", PARTS["val"]))
        ],
        "p, q divide it, and which one is to train on is not clear; say data.train=p",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_shows_that_a_set_is_misread_is_refused_in_one_line(case, tmp_path):
    make, told = REFUSED[case]
    make(tmp_path)
    with pytest.raises(DatasetError, match=told) as caught:
        boxes(tmp_path)
    assert "\n" not in str(caught.value)


def test_what_is_missing_may_be_left_out_and_is_counted(tmp_path):
    coco(tmp_path)
    (tmp_path / "val2017/b1.jpg").unlink()
    found = boxes(tmp_path, skip_bad=1)
    assert list(read(found.val)) == ["b2"]
    assert any(note.startswith("1 unreadable files were left out: b1.jpg") for note in found.notes)


def test_parts_can_be_named_and_a_whole_set_is_divided(tmp_path):
    coco(tmp_path)
    turned = boxes(tmp_path, train="annotations/instances_val2017.json", val="annotations/instances_train2017.json")
    assert set(read(turned.train)) == set(PARTS["val"])
    with pytest.raises(DatasetError, match="data.train=val.json: nothing of this name; known: ann"):
        boxes(tmp_path, train="val.json", val="annotations/instances_val2017.json")
    (tmp_path / "annotations/instances_val2017.json").unlink()
    divided = boxes(tmp_path, val=0.4)
    assert (len(divided.train), len(divided.val)) == (2, 1)
    assert not set(divided.train.stamps) & set(divided.val.stamps)


def test_folders_that_are_no_parts_are_one_set_when_asked(tmp_path):
    for part, names in (("monday", PARTS["train"]), ("tuesday", PARTS["val"])):
        for index, name in enumerate(names):
            picture(tmp_path / part / f"{name}.jpg", [index, len(part)])
            write(tmp_path / part / f"{name}.xml", xml(name, DRAWN[name]))
    with pytest.raises(DatasetError, match="or data.train=. for all of them"):
        boxes(tmp_path)
    with pytest.raises(DatasetError, match="1 images to use as val, and not one box in them .*; data.seed=1 divides"):
        boxes(tmp_path, train=".")
    found = boxes(tmp_path, train=".", seed=1)
    assert read(found.train) | read(found.val) == DRAWN
    assert len(found.val) == 1


def test_what_tools_write_beside_coco_is_taken(tmp_path):
    """Floats for sizes, true for a crowd, annotations without a box."""
    coco(tmp_path)
    for part in PARTS:
        path = tmp_path / f"annotations/instances_{part}2017.json"
        content = json.loads(path.read_text())
        content["images"][0] |= {"width": float(WIDTH), "height": float(HEIGHT)}
        content["annotations"][0]["iscrowd"] = True
        content["annotations"] += [{"image_id": 0, "category_id": 2, "bbox": []}, {"image_id": 0, "caption": "a cell"}]
        path.write_text(json.dumps(content))
    found = boxes(tmp_path)
    assert read(found.train) == {name: DRAWN[name] for name in PARTS["train"]}
    assert found.train.truths[0].crowd.tolist() == [True, True]


def test_the_same_picture_in_two_parts_or_twice_in_one_is_told(tmp_path):
    yolo(tmp_path)
    (tmp_path / "val/images/b1.jpg").write_bytes((tmp_path / "train/images/a1.jpg").read_bytes())
    (tmp_path / "train/images/a9.jpg").write_bytes((tmp_path / "train/images/a2.jpg").read_bytes())
    notes = boxes(tmp_path).notes
    assert any("1 of the validation images are also in train" in note for note in notes)
    assert any("2 images are in a part more than once" in note for note in notes)
    assert any("2 images have no label file and count as empty" in note for note in notes)


def test_pictures_of_one_name_in_two_parts_are_told_apart_by_their_folders(tmp_path):
    coco(tmp_path)
    for part, name in (("train", "a1"), ("val", "b1")):
        (tmp_path / f"{part}2017/{name}.jpg").rename(tmp_path / f"{part}2017/1.jpg")
        path = tmp_path / f"annotations/instances_{part}2017.json"
        path.write_text(path.read_text().replace(f"{name}.jpg", "1.jpg"))
    found = boxes(tmp_path)
    assert read(found.train)["1"] == DRAWN["a1"]
    assert read(found.val)["1"] == DRAWN["b1"]


def test_polygons_lists_and_numbered_names_of_yolo(tmp_path):
    yolo(tmp_path, settings="train: train.txt\nval: [val/images]\n")
    write(tmp_path / "train.txt", "./train/images/a1.jpg\n/home/else/train/images/a2.jpg\n")
    write(tmp_path / "train/labels/a1.txt", "1 0.25 0.5 0.5 0.25 0.75 0.5 0.5 0.9")
    write(tmp_path / "data.yaml", "train: train.txt\nval: [val/images]\nnames: {0: cell, 1: gap}\n")
    found = boxes(tmp_path)
    assert read(found.train) == {"a1": [(1, 20, 15, 60, 54)], "a2": DRAWN["a2"]}


def test_annotations_without_a_box_are_counted(tmp_path):
    """Their pictures would be learned as empty without a word."""
    coco(tmp_path)
    path = tmp_path / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    del content["annotations"][0]["bbox"]
    path.write_text(json.dumps(content))
    assert "1 annotations without a box were left out" in boxes(tmp_path).notes


def test_a_text_file_from_windows_may_begin_with_a_mark(tmp_path):
    yolo(tmp_path)
    path = tmp_path / "train/labels/a1.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read(boxes(tmp_path).train)["a1"] == DRAWN["a1"]


def test_classes_of_yolo_are_called_as_it_is_written(tmp_path):
    """YAML 1.1 reads `no` as a truth value, 010 as eight, and 1.10 as 1.1."""
    yolo(tmp_path)
    for names in ("[no, 1.10]", "{0: no, 1: 1.10}"):
        write(tmp_path / "data.yaml", f"train: train/images\nval: val/images\nnames: {names}\n")
        assert boxes(tmp_path).classes == ("no", "1.10")


@pytest.mark.parametrize("size", [(WIDTH, HEIGHT), (2 * HEIGHT, 2 * WIDTH)])
def test_boxes_of_a_picture_of_another_size_are_not_learned(size, tmp_path):
    voc(tmp_path)
    write(tmp_path / "Annotations/a2.xml", xml("a2", DRAWN["a2"], size=size))
    write(tmp_path / "Annotations/b1.xml", xml("b1", DRAWN["b1"], size=(HEIGHT + 1, WIDTH)))  # rounding
    with pytest.raises(DatasetError, match=f"a2.jpg: is 80x60, and its boxes are of a picture of {size[1]}x{size[0]}"):
        boxes(tmp_path)
    found = boxes(tmp_path, skip_bad=1)
    assert (set(read(found.train)), set(read(found.val))) == ({"a1", "a3"}, {"b1", "b2"})


POINTS = "0 0.5 0.5 0.25 0.5 0.1 0.1 2 0.9 0.2 2\n"


def test_key_points_of_yolo_are_no_polygon(tmp_path):
    yolo(tmp_path, dict.fromkeys(DRAWN, ()))
    for part, names in PARTS.items():
        for name in names:
            write(tmp_path / part / "labels" / f"{name}.txt", POINTS)
    settings = f"train: train/images\nval: val/images\nnames: {list(CLASSES)}\n"
    write(tmp_path / "data.yaml", settings + "kpt_shape: [2, 3]\n")
    assert read(boxes(tmp_path).train) == {name: [(0, 30, 15, 50, 45)] for name in PARTS["train"]}
    write(tmp_path / "data.yaml", settings + "kpt_shape: [3, 2]\n")
    assert read(boxes(tmp_path).val)["b1"] == [(0, 30, 15, 50, 45)]
    write(tmp_path / "data.yaml", settings + "kpt_shape: [2, 2]\n")
    with pytest.raises(DatasetError, match=r"a1.txt:1: wants .* key points of 4 numbers, .* got 11 numbers"):
        boxes(tmp_path)
    write(tmp_path / "data.yaml", settings + "kpt_shape: 2\n")
    with pytest.raises(DatasetError, match="data.yaml: kpt_shape wants"):
        boxes(tmp_path)


def test_a_division_without_a_box_on_one_side_is_refused(tmp_path):
    names = [f"{index}" for index in range(10)]
    for index, name in enumerate(names):
        picture(tmp_path / f"{name}.jpg", index)
    drawn = dict.fromkeys(names, ()) | {"4": DRAWN["a1"]}
    coco_file(tmp_path, names, drawn, "all")
    with pytest.raises(DatasetError, match="not one box in them that is to be found"):
        boxes(tmp_path)
    coco(tmp_path / "parts", {**DRAWN, "b1": (), "b2": ()})
    coco_file(tmp_path / "parts", PARTS["val"], {"b1": DRAWN["b1"], "b2": ()}, "val")
    path = tmp_path / "parts/annotations/instances_val2017.json"
    path.write_text(path.read_text().replace('"iscrowd": 0', '"iscrowd": 1'))
    with pytest.raises(DatasetError, match="2 images to use as val, and not one box in them that is to be found"):
        boxes(tmp_path / "parts")


def test_of_vocs_lists_those_of_detection_divide(tmp_path):
    voc(tmp_path)
    write(tmp_path / "ImageSets/Action/train.txt", "b1\n")
    write(tmp_path / "ImageSets/Layout/val.txt", "a1\n")
    found = boxes(tmp_path)
    assert (set(read(found.train)), set(read(found.val))) == (set(PARTS["train"]), set(PARTS["val"]))


def test_the_part_is_found_below_a_folder_with_a_dot(tmp_path):
    for part, names in PARTS.items():
        for index, name in enumerate(names):
            picture(tmp_path / "My.v1i.voc" / part / f"{name}.jpg", [index, len(part)])
            write(tmp_path / "My.v1i.voc" / part / f"{name}.xml", xml(name, DRAWN[name]))
    found = boxes(tmp_path)
    assert (set(read(found.train)), set(read(found.val))) == (set(PARTS["train"]), set(PARTS["val"]))


@pytest.mark.parametrize("form", FORMS)
def test_another_tools_damaged_files_are_not_ours(form, tmp_path):
    FORMS[form](tmp_path)
    write(tmp_path / "settings.json", '{"editor": "x", // a remark\n}')
    write(tmp_path / "ci.yaml", "on: [push\n")
    assert set(read(boxes(tmp_path).train)) == set(PARTS["train"])


def test_a_part_that_the_yaml_names_in_vain(tmp_path):
    yolo(tmp_path, settings="train: ../train/images\nval: ../val/images\ntest: ../test/images\n")
    found = boxes(tmp_path)
    assert (set(read(found.train)), set(read(found.val)), found.test) == (set(PARTS["train"]), set(PARTS["val"]), None)
    assert "data.yaml names '../test/images' for test, but there is no such folder or list" in found.notes
    yolo(tmp_path, settings="train: ../gone/images\nval: ../val/images\n")
    with pytest.raises(DatasetError, match="names '../gone/images' for train"):
        boxes(tmp_path)
    named = boxes(tmp_path, train="train/images", val="val/images")
    assert (set(read(named.train)), set(read(named.val))) == (set(PARTS["train"]), set(PARTS["val"]))


@pytest.mark.parametrize("form", FORMS)
def test_what_belongs_to_nothing_is_counted(form, tmp_path):
    FORMS[form](tmp_path)
    picture(tmp_path / "A/c1.jpg", 77)
    write(tmp_path / "train/labels/c2.txt", "0 0.5 0.5 0.1 0.1\n")
    notes = boxes(tmp_path).notes
    assert any(re.search(r"\d images without a part or an annotation \(.*\) were left out: A/c1", n) for n in notes)
    assert ("1 label files have no image: train/labels/c2.txt" in notes) == (form == "yolo")


def test_the_stamp_of_an_image_covers_its_boxes(tmp_path):
    voc(tmp_path)
    before = boxes(tmp_path)
    write(tmp_path / "Annotations/a1.xml", xml("a1", [(0, 5, 6, 30, 41), (1, 40, 10, 80, 60)]))
    after = boxes(tmp_path)
    assert before.train.fingerprint() != after.train.fingerprint()
    assert before.val.fingerprint() == after.val.fingerprint()


def test_digits_in_pictures_are_where_their_boxes_say():
    """Oracle: the photograph without digits; pixels change inside the boxes, and at their edges."""
    found = load(DataConfig(source="digit-boxes"))
    again = load(DataConfig(source="digit-boxes", seed=1))
    assert (len(found.train), len(found.val), found.task) == (320, 80, "detection")
    assert found.train.fingerprint() == load(DataConfig(source="digit-boxes")).train.fingerprint()
    assert found.train.fingerprint() != again.train.fingerprint()
    kinds = np.concatenate([truth.class_id for truth in found.train.truths])
    assert np.bincount(kinds, minlength=10).min() > 100
    photographs = digit_boxes._photographs()
    for index in range(8):
        bare = digit_boxes._render([], photographs, np.random.default_rng([0, 0, index, 1]), False)
        image, truth = found.train[index], found.train.truths[index]
        assert image.shape == (240, 320, 3)
        assert (image == found.train[index]).all()
        change = np.abs(image.astype(int) - bare).max(axis=2)
        inside = np.zeros((240, 320), bool)
        for left, top, right, bottom in truth.xyxy.astype(int):
            window = change[top:bottom, left:right]
            assert window.max() > 40
            inside[max(0, top - 6) : bottom + 6, max(0, left - 6) : right + 6] = True
        assert change[~inside].max(initial=0) < 128  # only the faint rim of the ink lies outside
        assert (truth.xyxy >= 0).all()
        assert (truth.xyxy[:, 2:] <= [320, 240]).all()


@pytest.mark.parametrize("form", FORMS)
def test_a_finished_bundle_reads_boxes_by_its_own_labels(form, tmp_path):
    """A set may list its classes in another order than the network was trained with, and lack some of them."""
    FORMS[form](tmp_path)
    config = DataConfig(source="boxes", path=str(tmp_path))
    parts = labelled(config, ("gap", "dust", "cell"))
    for part, names in PARTS.items():
        moved = {name: [((2, 0)[kind], *box) for kind, *box in DRAWN[name]] for name in names}
        assert read(parts.images[part]) == moved
    with pytest.raises(DatasetError, match="classes that are no labels: gap; the bundle's labels are cell"):
        labelled(config, ("cell",))
