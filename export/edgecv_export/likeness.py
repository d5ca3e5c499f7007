"""Whether calibration images look like those that the network was exported with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime.bundle import GOLDEN, Bundle
from edgecv_runtime.preprocess import Image

# Distance from which on a warning is given, and the spread (of 0..255) below which differences mean nothing.
FAR, SMALL = 2.0, 4.0


def warnings(opened: Bundle, images: Image) -> list[str]:
    """A warning when images (N, H, W, C) differ from the bundle's golden inputs in brightness, colour or contrast."""
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
    channel's mean and of its standard deviation within the image. At 2, two bell curves overlap by less than a third.
    """
    own, other = _properties(images), _properties(known)
    spread = np.sqrt((own.var(axis=0) + other.var(axis=0)) / 2 + SMALL**2)
    distances = np.abs(own.mean(axis=0) - other.mean(axis=0)) / spread
    worst = int(distances.argmax())
    channels = images.shape[3]
    return f"the {'mean' if worst < channels else 'contrast'} of channel {worst % channels}", float(distances[worst])


def _properties(images: Image) -> NDArray[np.float64]:
    """Mean and standard deviation of each channel of each image, (N, 2 C)."""
    pixels = images.reshape(len(images), -1, images.shape[3])
    means = pixels.mean(axis=1, dtype=np.float64)
    return np.concatenate([means, pixels.std(axis=1, dtype=np.float64)], axis=1)
