"""A predictor goes to other processes, opens there once, and gives a row for every picture, broken ones too."""

from __future__ import annotations

import copy
import inspect
import json
import multiprocessing
import os
import pickle
import re
import signal
import sys
import zipfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import cv2
import faults_lab
import numpy as np
import pytest

import edgecv_runtime as rt
from edgecv_runtime import answers, errors, stores
from edgecv_runtime.serve.models import Pictures

BUNDLE = Path(__file__).parents[1] / "assets" / "digits.edgecv"
ASKED = {"backend": "onnxruntime", "threads": 1}


def pictures(count, size=(48, 40)):
    return [np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8) for seed in range(count)]


def png(frame):
    return bytes(cv2.imencode(".png", frame)[1])


def here(predictor):
    """Which process, and which model in it."""
    return os.getpid(), id(predictor.model)


@pytest.fixture(scope="module")
def predictor():
    with rt.Predictor(BUNDLE, **ASKED) as made:
        yield made


def test_it_takes_what_load_takes():
    mine, loads = (inspect.signature(each).parameters for each in (rt.Predictor, rt.load))
    assert [(name, mine[name].default) for name in loads] == [(name, each.default) for name, each in loads.items()]


def test_rows_are_what_the_model_gives_and_a_broken_picture_costs_the_others_nothing(predictor, tmp_path):
    frames = pictures(7)
    (tmp_path / "é 1.png").write_bytes(png(frames[2]))
    batch = [
        frames[0],
        png(frames[1]),
        tmp_path / "é 1.png",
        str(tmp_path / "nowhere.png"),
        png(frames[3])[:-30],
        frames[4][:, :, 0],  # grey
        memoryview(png(frames[5])),
        3,
        frames[6],
    ]
    found = predictor(batch)
    assert tuple(found) == predictor.names == ("result", "label", "score", "scores", "error")
    broken = {3: "no such|cannot be read", 4: "truncated", 5: r"\(H, W, 3\)|expected", 7: "got int"}
    good = dict(zip((0, 1, 2, 6, 8), (0, 1, 2, 5, 6), strict=True))
    with rt.load(BUNDLE, **ASKED) as model:
        for row, number in good.items():
            wanted = model(frames[number])
            assert found["label"][row] == wanted.label
            assert found["score"][row] == np.float32(wanted.score)
            assert np.array_equal(found["scores"][row], wanted.scores)
            assert json.loads(found["result"][row]) == wanted.as_dict()
            assert found["error"][row] is None
    for row, text in broken.items():
        assert found["label"][row] is found["result"][row] is None
        assert np.isnan(found["score"][row])
        assert np.isnan(found["scores"][row]).all()
        assert re.search(text, found["error"][row])
    assert {name: each.dtype for name, each in found.items() if each.dtype != object} == {
        "score": np.float32,
        "scores": np.float32,
    }


def test_of_broken_pictures_alone_and_of_none_the_columns_are_the_same(predictor):
    for batch in ([b"no picture"] * 2, [], np.zeros((0, 32, 32, 3), np.uint8)):
        found = predictor(batch)
        assert {name: (each.dtype, each.shape[1:]) for name, each in found.items()} == {
            "result": (object, ()),
            "label": (object, ()),
            "score": (np.float32, ()),
            "scores": (np.float32, (10,)),
            "error": (object, ()),
        }
        assert all(len(each) == len(batch) for each in found.values())


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_masks_and_boxes_of_a_picture_lie_in_its_row(task, tmp_path):
    preprocess = rt.Preprocess((64, 96), "letterbox")
    frames = pictures(3, (80, 96))
    made = faults_lab.network(task, preprocess, 0)
    path = faults_lab.bundle(task, made, tmp_path / "bundle", preprocess, preprocess.batch(frames * 3))
    with rt.Predictor(path, **ASKED) as predictor, rt.load(path, **ASKED) as model:
        found = predictor([frames[0], b"", frames[1], frames[2]])
        served = {spec.name for spec in Pictures().outputs(model)}
        assert served - {"picture"} == set(found) - {"error"}
        for row, frame in ((0, frames[0]), (2, frames[1]), (3, frames[2])):
            wanted = model(frame)
            if task == "segmentation":
                assert np.array_equal(cv2.imdecode(np.frombuffer(found["mask"][row], np.uint8), -1), wanted.mask)
            else:
                assert np.array_equal(found["box"][row], wanted.xyxy)
                assert np.array_equal(found["score"][row], wanted.confidence)
                assert found["label"][row] == [wanted.labels[kind] for kind in wanted.class_id]
        assert found["mask" if task == "segmentation" else "box"][1] is None


def test_a_task_of_another_package_has_its_result():
    assert answers.of_task("counting").names == ("result",)


def test_columns_can_be_chosen_and_a_wrong_name_is_told_before_anything_runs():
    with rt.Predictor(BUNDLE, **ASKED, columns=("score", "label")) as predictor:
        assert tuple(predictor(pictures(1))) == ("score", "label", "error")
    with pytest.raises(errors.BadInput, match="classification has no column 'lable'; did you mean 'label'"):
        rt.Predictor(BUNDLE, **ASKED, columns=("lable",))(pictures(1))
    with pytest.raises(errors.BadInput, match="'label' stands there twice"):
        rt.Predictor(BUNDLE, columns=("label", "score", "label"))


def test_a_batch_of_columns_keeps_the_others_and_names_what_collides(predictor, tmp_path):
    frames = pictures(2)
    data = np.array([png(each) for each in frames], object)
    wanted = predictor(frames)["label"].tolist()
    found = predictor({"bytes": data, "path": np.array(["a.png", "b.png"])})
    assert found["label"].tolist() == wanted
    assert list(found) == ["path", *predictor.names]
    assert found["path"].tolist() == ["a.png", "b.png"]
    names = []
    for number, each in enumerate(data):
        (tmp_path / f"{number}.png").write_bytes(each)
        names.append(str(tmp_path / f"{number}.png"))
    found = predictor({"item": np.array(names)})
    assert found["label"].tolist() == wanted
    assert found["item"].tolist() == names
    with pytest.raises(errors.BadInput, match="same names as the results: label; rename"):
        predictor({"bytes": data, "label": np.array([1, 2])})
    with pytest.raises(errors.BadInput, match="no column 'bytes' in the batch, which has: image; .* column="):
        predictor({"image": np.stack(frames)})
    turned = rt.Predictor(BUNDLE, **ASKED, column="image", rgb=True)
    found = turned({"image": np.stack(frames)[..., ::-1]})
    assert found["scores"].tolist() == predictor(frames)["scores"].tolist()
    assert "image" not in found


@pytest.mark.parametrize(
    "batch", ["a.png", b"data", Path("a.png"), np.array([b"data"]), np.zeros((4, 4, 3), np.uint8), 3]
)
def test_what_is_no_batch_is_told(predictor, batch):
    with pytest.raises(errors.BadInput, match="a batch is a list of pictures"):
        predictor(batch)


def test_a_bundle_that_is_not_there_is_an_error_of_the_call(tmp_path):
    predictor = rt.Predictor(tmp_path / "nowhere")
    with pytest.raises(errors.BundleError, match="nowhere"):
        predictor(pictures(1))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_of_a_pool_open_it_once_each(predictor, method, monkeypatch):
    frames = pictures(8)
    wanted = predictor(frames)["scores"]  # open here, too
    mine = here(predictor)
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        rows = pool.map_async(predictor, [[each] for each in frames], chunksize=1).get(60)
        assert np.array_equal(np.concatenate([each["scores"] for each in rows]), wanted)
        places = set(pool.map_async(here, [predictor] * 12, chunksize=1).get(60))
    assert len(places) == len({process for process, _ in places}) <= 2
    assert mine[0] not in {process for process, _ in places}
    assert here(predictor) == mine
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        rows = list(pool.map(predictor, [frames[:4], frames[4:]], timeout=60))
    assert np.array_equal(np.concatenate([each["scores"] for each in rows]), wanted)


def test_after_fork_it_works_in_the_child_whatever_threads_of_the_parent_hold(predictor):
    frames = pictures(2)
    wanted = predictor(frames)["label"].tolist()
    with predictor._lock:
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            os._exit(0 if predictor(frames)["label"].tolist() == wanted else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_threads_share_one_model():
    predictor = rt.Predictor(BUNDLE, **ASKED)
    frames = pictures(6)
    with predictor, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda frame: predictor([frame])["label"][0], frames))
        assert found == predictor(frames)["label"].tolist()
    with pytest.raises(errors.Closed, match="is closed"):
        predictor(frames)


def test_a_copy_is_one_of_its_own_and_the_path_holds_in_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(BUNDLE.parent)
    predictor = rt.Predictor(BUNDLE.name, **ASKED)
    sent = pickle.dumps(predictor)
    assert len(sent) < 2000
    monkeypatch.chdir(tmp_path)
    frames = pictures(2)
    with predictor, copy.deepcopy(predictor) as other, pickle.loads(sent) as third:
        assert third is other is not predictor
        assert third.model is not predictor.model
        assert third(frames)["label"].tolist() == predictor(frames)["label"].tolist()
    assert pickle.loads(sent)(frames)["error"].tolist() == [None, None]  # opened again


def test_urls_are_read_where_fsspec_is_and_else_told_what_is_missing(predictor, tmp_path, monkeypatch):
    frame = pictures(1)[0]
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as made:
        made.writestr("a.png", png(frame))
    inside, missing = (f"zip://{name}::file://{tmp_path}/photos.zip" for name in ("a.png", "b.png"))
    found = predictor([inside, missing, "nothing://a.png"])
    assert found["label"][0] == predictor([frame])["label"][0]
    assert found["error"][1].startswith(f"{missing}: cannot be read: ")
    assert found["error"][2].startswith("nothing://a.png: cannot be opened: ")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(errors.Unavailable, match=r"read by fsspec: .*\[bulk\]"):
        stores.image(inside)
    with pytest.raises(errors.Unavailable, match="read by fsspec"):
        predictor([frame, inside])
