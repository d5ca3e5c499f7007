"""scikit-learn's handwritten digits: 1,797 real 8x8 images (UCI, Alpaydin and Kaynak 1998)."""

from __future__ import annotations

import numpy as np

from edgecv.data.config import DataConfig
from edgecv.data.dataset import Dataset, from_arrays
from edgecv.data.split import hold_out
from edgecv_runtime.errors import Unavailable


def load(config: DataConfig) -> Dataset:
    """Load the digits as 8-bit grey in BGR, 16 grey levels scaled to 0..255, with a stratified share held out."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as exc:
        raise Unavailable("the digits come with scikit-learn", extra="pretrained") from exc

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # (N, 8, 8)
    classes = tuple(str(name) for name in digits.target_names)
    names = [f"digits/{index:04d}" for index in range(len(grey))]
    images = from_arrays(names, np.repeat(grey[..., np.newaxis], 3, axis=-1), digits.target.astype(np.int64))
    train, val = hold_out(images, classes, config.share, config.seed)
    return Dataset(classes, train, val)
