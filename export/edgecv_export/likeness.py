"""Whether calibration images look like those that the network was exported with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime.bundle import GOLDEN, Bundle
from edgecv_runtime.preprocess import Image

# Distance from which on a warning is given, and the spread (of 0..255) below which differences mean nothing.
FAR, SMALL = 2.0, 4.0


def warnings(opened: Bundle, images: Image) -> list[str]:
    """A warning when images (N, H, W, C) differ from the golden ones in brightness, colour, contrast or smoothness."""
    if GOLDEN not in opened.manifest.files:
        return []
    what, distance = farthest(images, opened.golden().images)
    if distance <= FAR:
        return []
    return [
        f"the calibration images do not resemble the bundle's own: {what} differs by {distance:.1f} standard "
        f"deviations (more than {FAR:g}); calibrate with what the camera will see"
    ]


def farthest(images: Image, known: Image) -> tuple[str, float]:
    """The property in which two sets of images (N, H, W, C) differ most, and by how much.

    Measure: Cohen's d, the difference of the sets' means over the pooled standard deviation between images, of each
    channel's mean and of its standard deviation within the image, and of the image's smoothness, which is near 0 in
    noise, also when it was scaled up. At 2, two bell curves overlap by less than a third.
    """
    own, other = _properties(images), _properties(known)
    spread = np.sqrt((own.var(axis=0) + other.var(axis=0)) / 2 + SMALL**2)
    distances = np.abs(own.mean(axis=0) - other.mean(axis=0)) / spread
    worst = int(distances.argmax())
    names = [f"the {what} of channel {index}" for what in ("mean", "contrast") for index in range(images.shape[3])]
    return [*names, "the smoothness"][worst], float(distances[worst])


def _properties(images: Image) -> NDArray[np.float64]:
    """Mean and standard deviation of each channel of each image, and its smoothness: (N, 2 C + 1)."""
    pixels = images.reshape(len(images), -1, images.shape[3])
    means = pixels.mean(axis=1, dtype=np.float64)
    return np.concatenate([means, pixels.std(axis=1, dtype=np.float64), 255 * _smoothness(images)], axis=1)


def _smoothness(images: Image) -> NDArray[np.float64]:
    """Correlation of pixels a sixteenth of the width apart, (N, 1); 1 in an image of one value."""
    apart = max(1, images.shape[2] // 16)
    grey = images.mean(axis=3, dtype=np.float64)
    left, right = (part - part.mean(axis=(1, 2), keepdims=True) for part in (grey[:, :, :-apart], grey[:, :, apart:]))
    spread = np.sqrt((left**2).mean(axis=(1, 2)) * (right**2).mean(axis=(1, 2)))
    common = (left * right).mean(axis=(1, 2))
    return np.divide(common, spread, out=np.ones_like(common), where=spread > 0)[:, None]
