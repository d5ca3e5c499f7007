"""Copies that are not equal byte for byte: a thumbnail, a photo that was saved again or made smaller.

A photo in training whose smaller copy is validated on is known by heart, and the accuracy is too high. Copies are
looked for in two steps, cheap and then exact, because a hash alone takes a hundred strangers for copies where images
are small (`benchmarks/copies/run.py` measures both kinds of error).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgecv.data.dataset import Images
from edgecv.data.progress import threaded
from edgecv_runtime.preprocess import Image, import_cv2

SIDE = 16  # pixels; the hash of a picture is its grey levels at this size
_SAMPLES = 16  # pixels along a side that are looked at for each of the hash
_ALIKE = 0.97  # least correlation of two hashes that are compared further
_COMPARED = 64  # pixels at which two pictures are compared, or fewer where one has fewer
_LEAST = 24  # pixels: smaller pictures have too little in them to know one again
_DETAIL = 0.97  # least correlation of two pictures' details; copies reach 0.98, the next second of a video 0.96
_DETAIL_LEVELS = 6.0  # least standard deviation of what counts as detail; gradients and plain walls have 3
_COLOR_LEVELS = 24.0  # most by which a place may differ in colour: a red light is no copy of a green one
_ROWS = 256  # pictures that are looked up at once
_NOTHING = np.empty((0, SIDE * SIDE), np.uint8)


def perceptual_hash(image: Image) -> bytes:
    """What a picture (H, W, 3) looks like: SIDE x SIDE grey levels of 8 bits.

    From every n-th pixel of a large picture: the mean over all of 12 megapixels would take as long as decoding them.
    """
    step = max(1, min(image.shape[:2]) // (SIDE * _SAMPLES))
    return _small(np.ascontiguousarray(image[::step, ::step]), SIDE, grey=True).astype(np.uint8).tobytes()


def near_copies(judged: Images, seen: Images, hashes: Mapping[str, bytes]) -> list[tuple[str, str]]:
    """The judged images that are copies of a seen one without being equal to it: (name, name of the seen one).

    hashes: name -> perceptual hash. Each judged image is compared with the one it is most like; both are decoded then.
    """
    if not len(judged) or not len(seen):
        return []
    known = set(seen.stamps)
    new = [index for index in range(len(judged)) if judged.stamps[index] not in known]
    pairs = _most_alike(_normed(judged, new, hashes), _normed(seen, range(len(seen)), hashes))
    candidates = [(new[row], column) for row, column in pairs]

    def compare(pair: tuple[int, int]) -> bool:
        return is_copy(judged[pair[0]], seen[pair[1]])

    found = threaded(compare, candidates, "comparing images")
    return [(judged.name(one), seen.name(other)) for (one, other), same in zip(candidates, found, strict=True) if same]


def is_copy(one: Image, other: Image) -> bool:
    """Whether two pictures (H, W, 3) are one, resized or encoded again; False where they hold too little to tell."""
    side = min(_COMPARED, *one.shape[:2], *other.shape[:2])
    if side < _LEAST:
        return False
    details = [_detail(_small(image, side, grey=True)) for image in (one, other)]
    if min(float(each.std()) for each in details) < _DETAIL_LEVELS:
        return False
    if np.corrcoef(details[0].ravel(), details[1].ravel())[0, 1] < _DETAIL:
        return False
    difference = _small(one, SIDE) - _small(other, SIDE)
    difference -= np.median(difference, axis=(0, 1))  # a copy may be a little brighter everywhere
    return bool(np.abs(difference).max() <= _COLOR_LEVELS)


def _normed(images: Images, chosen: list[int] | range, hashes: Mapping[str, bytes]) -> NDArray[np.float32]:
    """Hashes as rows of unit length around their mean (N, SIDE * SIDE), so that a product is a correlation."""
    rows = np.stack([np.frombuffer(hashes[images.name(index)], np.uint8) for index in chosen]) if chosen else _NOTHING
    centred = rows.astype(np.float32) - rows.mean(axis=1, keepdims=True, dtype=np.float32)
    return np.asarray(centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6), np.float32)


def _most_alike(rows: NDArray[np.float32], others: NDArray[np.float32]) -> list[tuple[int, int]]:
    """For each row the other that correlates most, where that is enough."""
    found = []
    for start in range(0, len(rows), _ROWS):
        correlation = rows[start : start + _ROWS] @ others.T
        best = correlation.argmax(axis=1)
        for offset, column in enumerate(best):
            if correlation[offset, column] >= _ALIKE:
                found.append((start + offset, int(column)))
    return found


def _small(image: Image, side: int, *, grey: bool = False) -> NDArray[np.float32]:
    """A picture at (side, side), each pixel the mean of its area."""
    cv2 = import_cv2()
    small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY) if grey else small, np.float32)


def _detail(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """What is left of a picture without its slow changes, which many pictures share."""
    cv2 = import_cv2()
    return np.asarray(grey - cv2.GaussianBlur(grey, (0, 0), grey.shape[0] / 16), np.float32)
