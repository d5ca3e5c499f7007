"""scikit-learn's digits, and that data needs no torch."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from edgecv.data import DataConfig, load

RAW = load_digits()


def test_all_digits_are_there_and_divided():
    found = load(DataConfig(source="digits"))
    assert found.classes == tuple("0123456789")
    assert len(found.train) + len(found.val) == 1797
    shares = np.bincount(found.val.labels) / np.bincount(RAW.target)
    assert np.all(np.abs(shares - 0.2) < 0.004)
    assert not set(found.train.stamps) & set(found.val.stamps)


def test_images_are_the_raw_ones_as_grey_bgr():
    found = load(DataConfig(source="digits", seed=3))
    for side in (found.train, found.val):
        for index in range(0, len(side), 7):
            number = int(side.name(index).split("/")[1])
            image = side[index]
            assert image.shape == (8, 8, 3)
            assert image.dtype == np.uint8
            assert np.array_equal(image[..., 0], image[..., 2])
            assert np.abs(image[..., 1] / 255 * 16 - RAW.images[number]).max() < 0.04
            assert side.labels[index] == RAW.target[number]


def test_images_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        load(DataConfig(source="digits")).train[0][0] = 0


def test_the_same_settings_give_the_same_images_in_another_process():
    code = "from edgecv.data import *; print(load(DataConfig(source='digits')).val.fingerprint())"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == load(DataConfig(source="digits")).val.fingerprint()


def test_data_needs_no_torch(tmp_path):
    code = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ImportError("torch is blocked")
sys.meta_path.insert(0, NoTorch())
from edgecv.data import DataConfig, cached, load
from edgecv_runtime.preprocess import Preprocess
import edgecv.data.folder, edgecv.data.cifar10, edgecv.data.clips
digits = load(DataConfig(source="digits"))
print(cached(digits.val, Preprocess(size=(16, 16)), sys.argv[1]).shape[1:])
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(16, 16, 3)"
