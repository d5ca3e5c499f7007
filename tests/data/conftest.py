import cv2
import numpy as np
import pytest
from sklearn.datasets import load_digits


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Tests share no cache with each other or with the user."""
    monkeypatch.setenv("EDGECV_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def digits():
    """scikit-learn's digits as 32x32 BGR images and their classes: real, and all different."""
    raw = load_digits()
    grey = np.rint(raw.images * (255 / 16)).astype(np.uint8)
    images = [cv2.cvtColor(cv2.resize(image, (32, 32)), cv2.COLOR_GRAY2BGR) for image in grey]
    return images, raw.target


@pytest.fixture
def photos(digits, tmp_path):
    """Make a folder of images, one folder a class: photos({"cat": 3, "dog": 4}) -> its path."""
    images, _ = digits
    used = iter(range(len(images)))

    def make(classes, root="photos", suffix=".png"):
        for name, count in classes.items():
            folder = tmp_path / root / name
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                cv2.imwrite(str(folder / f"{number:03d}{suffix}"), images[next(used)])
        return tmp_path / root

    return make
