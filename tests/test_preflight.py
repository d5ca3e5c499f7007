"""What is known before the first epoch is said before it, and nothing is made or lost."""

from __future__ import annotations

import shutil
from collections import namedtuple

import cv2
import numpy as np
import pytest
import torch

from edgecv import recipe
from edgecv.build import build
from edgecv.models import create
from edgecv.train.optimizer import steps_per_epoch
from edgecv_runtime.errors import EdgecvError


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A picture of one colour a file: 5 training and 1 validation image of each of two classes."""
    folder = tmp_path_factory.mktemp("photos")
    for number, name in enumerate(f"{part}/{label}" for part in ("train", "val") for label in "ab"):
        (folder / name).mkdir(parents=True)
        for index in range(5 if name.startswith("train") else 1):
            picture = np.full((40, 40, 3), 40 * number + 5 * index, np.uint8)
            assert cv2.imwrite(str(folder / name / f"{index}.png"), picture)
    return folder


@pytest.fixture
def recipe_file(photos, tmp_path):
    path = tmp_path / "photos.yaml"
    path.write_text(
        f"name: photos\ndata: {{source: folder, path: '{photos}'}}\nmodel: {{name: mobilenet_v3_small}}\n"
        "preprocess: {size: [32, 32], mode: stretch}\ntrain: {epochs: 1, batch: 4}\n"
    )
    return path


@pytest.fixture
def no_epoch(monkeypatch):
    """No epoch may begin."""

    def begun(*_):
        raise AssertionError("an epoch began")

    monkeypatch.setattr("edgecv.train.loop.Loop._train_epoch", begun)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("train.batch=1", "train.batch=1 makes steps of one image, and mobilenet_v3_small has batch norms"),
        ("model.weights=imagnet", "imagnet"),
        ("model.name=alexnet", "alexnet cannot take images of 32x32"),
        (
            "quantize.images=16",
            "quantize wants at least 16 training images, there are 10: add some, or say quantize=null",
        ),
    ],
)
def test_a_recipe_that_cannot_be_trained_is_refused_before_an_epoch(change, said, recipe_file, tmp_path, no_epoch):
    with pytest.raises(EdgecvError, match=said):
        build(recipe.read(recipe_file, [change]), tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "train").exists()


def test_a_disk_without_room_is_refused_before_an_epoch(recipe_file, tmp_path, monkeypatch, no_epoch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 10**7, 10**7))
    with pytest.raises(EdgecvError, match=r"needs about 0\.\d\d GB there .* of weights\), 0\.01 GB are free") as caught:
        build(recipe.read(recipe_file), tmp_path / "run", progress=False)
    assert caught.value.exit_code == 3


def test_too_few_images_for_parity_are_refused_before_an_epoch(recipe_file, photos, tmp_path, no_epoch):
    few = tmp_path / "few"
    shutil.copytree(photos, few)
    for name in "ab":
        for index in range(2, 5):
            (few / "train" / name / f"{index}.png").unlink()
    with pytest.raises(EdgecvError, match="export checks parity on 8 images, there are 6"):
        build(recipe.read(recipe_file, [f"data.path={few}"]), tmp_path / "run", progress=False)


def test_a_missing_package_of_the_last_step_is_said_before_an_epoch(recipe_file, tmp_path, monkeypatch, no_epoch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jinja2" else find(name))
    with pytest.raises(EdgecvError, match="the step 'report' needs jinja2"):
        build(recipe.read(recipe_file, ["quantize=null"]), tmp_path / "run", progress=False)


def test_two_validation_images_are_enough_and_what_is_cut_is_said(recipe_file, tmp_path):
    said: list[str] = []
    overrides = ["train.batch=64", "model.name=lenet5", "quantize.images=16"]
    done = build(recipe.read(recipe_file, overrides), tmp_path / "run", until="export", say=said.append, progress=False)
    assert done.ran == ("train", "export")
    assert "train: train.batch=64 is more than there are training images: each step takes all 10" in said
    assert "train: the warm-up is cut from 2 to 0.5 epochs, half of all" in said


@pytest.mark.parametrize(("images", "batch"), [(n, b) for n in (1, 2, 3, 5, 64, 65, 130, 244) for b in (1, 2, 3, 64)])
def test_every_image_is_in_one_step_and_none_stands_alone(images, batch):
    sizes = [len(each) for each in np.array_split(np.arange(images), steps_per_epoch(images, batch))]
    assert sum(sizes) == images
    assert max(sizes) <= max(batch, 3 if batch == 2 else 0)
    assert min(sizes) > 1 or batch == 1 or images == 1


def test_an_epoch_sees_every_image(tmp_path, monkeypatch):
    """5 images in steps of 2: the loop is asked for 5 different ones."""
    from edgecv.data import Dataset
    from edgecv.data.dataset import from_arrays
    from edgecv.train import TrainConfig, fit
    from edgecv.train.loop import Loop
    from edgecv_runtime.preprocess import Normalization, Preprocess

    pixels = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3), np.uint8)
    images = from_arrays(list("abcde"), pixels, np.array([0, 1, 0, 1, 0]))
    seen: list[int] = []
    step = Loop._train_step
    monkeypatch.setattr(Loop, "_train_step", lambda self, chosen: (seen.extend(chosen), step(self, chosen))[1])
    with torch.random.fork_rng():
        model = create("lenet5", classes=2, in_channels=1, seed=0)
    size = Preprocess(size=(32, 32), mode="stretch", color="GRAY")
    fit(model, Dataset(("a", "b"), images, images), size, Normalization((0.5,), (0.5,)), TrainConfig(1, 2), tmp_path)
    assert sorted(seen) == [0, 1, 2, 3, 4]


def test_a_recipe_of_another_size_than_its_weights_is_warned_of():
    from edgecv import models
    from edgecv.run import preflight
    from edgecv_runtime.preprocess import Preprocess

    (source,) = models.spec("efficientnet_lite0").weights
    (note,) = preflight.published(source.model, source, Preprocess((128, 128)))
    assert "the weights 'imagenet' were trained at 224x224, this recipe's preprocess.size is 128x128" in note
    assert not list(preflight.published(source.model, source, source.preprocess))
    assert not list(preflight.published(source.model, None, Preprocess((128, 128))))
    assert not list(preflight.published("a model on its body", source, Preprocess((128, 128))))
