"""Decode and preprocess images once; afterwards they are a memory-mapped array."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv.data.checked import UnreadableFiles, decoder_version
from edgecv.data.dataset import Images
from edgecv.data.progress import threaded
from edgecv.data.split import listed
from edgecv_runtime import files, records
from edgecv_runtime.errors import BadInput, ImageError, Unavailable
from edgecv_runtime.preprocess import Preprocess

log = logging.getLogger("edgecv.data")


def cached(images: Images, preprocess: Preprocess, folder: str | Path) -> NDArray[np.uint8]:
    """Preprocess all images -> (N, height, width, C) uint8, read-only and memory-mapped from a .npy file in `folder`.

    The file's name follows from the images' content, the preprocessing and OpenCV's version; it is written once, and
    atomically.
    Raises UnreadableFiles naming every image that cannot be decoded, Unavailable when the disk is full.
    """
    shape = (len(images), *preprocess.size, preprocess.channels)
    return _kept(_place("images", images, preprocess, Path(folder)), shape, lambda index: preprocess(images[index]))


def cached_masks(images: Images, preprocess: Preprocess, folder: str | Path, border: int) -> NDArray[np.uint8]:
    """The masks of all images in the geometry of their preprocessed pictures -> (N, height, width) uint8.

    Each pixel has the class that lies below its centre, and `border` where no image lies. Kept, and raising, as
    `cached` does.
    """
    truths = images.truths
    assert truths is not None

    def project(index: int) -> NDArray[np.uint8]:
        mask = truths[index]
        height, width = mask.shape
        return preprocess.view((height, width)).project_mask(mask, border)

    return _kept(_place("masks", images, preprocess, Path(folder)), (len(images), *preprocess.size), project)


def cached_sizes(images: Images, preprocess: Preprocess, folder: str | Path) -> NDArray[np.int64]:
    """Height and width of each image -> (N, 2) int64; kept, and raising, as `cached` does."""

    def size(index: int) -> NDArray[np.int64]:
        return np.array(images[index].shape[:2], np.int64)

    return _kept(_place("boxes", images, preprocess, Path(folder)), (len(images), 2), size, np.int64)


def _kept(
    path: Path, shape: tuple[int, ...], make: Callable[[int], NDArray[Any]], dtype: type[np.generic] = np.uint8
) -> NDArray[Any]:
    """An array that is made once, item by item, and then memory-mapped."""
    if not shape[0]:
        raise BadInput("no images: a cache wants at least one")
    found = _open(path, shape, np.dtype(dtype))
    if found is not None:
        return found
    files.sweep(path.parent, path.name.partition("-")[0] + "-*")
    try:
        _write(path, shape, make, np.dtype(dtype))
    except OSError as exc:
        need_mb = int(np.prod(shape)) * np.dtype(dtype).itemsize / 1e6
        raise Unavailable(f"{path}: cannot be written: {exc.strerror} ({need_mb:.0f} MB are needed)") from exc
    return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]


def bytes_to_write(images: Images, preprocess: Preprocess, folder: str | Path) -> int:
    """Bytes that `cached` and, of images with masks, `cached_masks` will write; 0 when all is there."""
    truths = images.truths
    has_masks = truths is not None and images.labels is None and len(images) and isinstance(truths[0], np.ndarray)
    depths = {"images": preprocess.channels, **({"masks": 1} if has_masks else {})}
    missing = [depth for kind, depth in depths.items() if not _place(kind, images, preprocess, Path(folder)).exists()]
    return len(images) * preprocess.size[0] * preprocess.size[1] * sum(missing)


def _place(kind: str, images: Images, preprocess: Preprocess, folder: Path) -> Path:
    key = f"{images.fingerprint()} {decoder_version()} ".encode() + records.encode(preprocess)
    return folder / f"{kind}-{hashlib.sha256(key).hexdigest()[:16]}.npy"


def _open(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any] | None:
    if not path.exists():
        return None
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as exc:
        log.warning("%s is damaged and is made again: %s", path, exc)
        return None
    if array.shape != shape or array.dtype != dtype:
        log.warning("%s is damaged and is made again: it holds %s %s", path, array.shape, array.dtype)
        return None
    return array


def _write(path: Path, shape: tuple[int, ...], make: Callable[[int], NDArray[Any]], dtype: np.dtype[Any]) -> None:
    """Write one item after the other: unlike a write through the memory map, a full disk is an error, no crash."""

    def prepare(index: int) -> NDArray[Any] | str:
        try:
            return make(index)
        except ImageError as exc:
            return str(exc)

    bad: list[str] = []
    header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    with files.replacing(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for result in threaded(prepare, range(shape[0]), "decoding images"):
            if isinstance(result, str):
                bad.append(result)
            else:
                file.write(np.ascontiguousarray(result).data)
        if bad:
            raise UnreadableFiles(f"{len(bad)} images cannot be decoded: {listed(bad)}", bad)
