"""CIFAR-10 (Krizhevsky 2009): the official archive, its batch files unpacked, or its images as folders."""

from __future__ import annotations

import hashlib
import io
import logging
import pickle
import tarfile
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgecv.data import folder
from edgecv.data.config import DataConfig
from edgecv.data.dataset import Dataset, Images, from_arrays
from edgecv_runtime import files
from edgecv_runtime.errors import DatasetError, Unavailable

log = logging.getLogger("edgecv.data")

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"  # MD5 c58f30108f718f92721af3b95e74349a
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_BATCHES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "val": ["test_batch"]}
_TIMEOUT_S = 30.0


def load(config: DataConfig) -> Dataset:
    """Load CIFAR-10: 50,000 images to train on, the 10,000 test images to validate on, 32x32.

    path: None downloads the official archive; else that archive, its unpacked batch files, or a folder or .zip with
    train/CLASS and test/CLASS images. Raises DatasetError when it is something else, Unavailable when the download
    fails.
    """
    if config.path is None:
        return _from_archive(_downloaded())
    path = Path(config.path).expanduser()
    if path.is_file() and path.name.endswith((".tar.gz", ".tgz")):
        return _from_archive(path)
    for place in (path, path / "cifar-10-batches-py"):
        if (place / "test_batch").is_file():
            return _from_batches(
                {name: _file_bytes(place / name) for names in _BATCHES.values() for name in names}, place
            )
    dataset = folder.load(msgspec.structs.replace(config, source="folder"))
    if dataset.classes != CLASSES:
        raise DatasetError(f"{path}: not CIFAR-10: its classes are {', '.join(dataset.classes)}; use source 'folder'")
    return dataset


def _downloaded() -> Path:
    """Fetch the official archive into the cache folder, whole and with the right checksum or not at all."""
    try:
        path = files.cache_folder("cifar10") / URL.rsplit("/", 1)[-1]
    except OSError as exc:
        raise Unavailable(f"no cache folder ({exc}); set EDGECV_CACHE, or download {URL} and give data.path") from exc
    if path.exists():
        return path
    log.info("downloading %s to %s (170 MB)", URL, path)
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(URL, timeout=_TIMEOUT_S) as answer, files.replacing(path) as file:
            while block := answer.read(1 << 20):
                digest.update(block)
                file.write(block)
            if digest.hexdigest() != SHA256:
                raise DatasetError(
                    f"{URL}: incomplete or altered: SHA-256 {digest.hexdigest()}, expected {SHA256}; try again"
                )
    except (OSError, HTTPException) as exc:
        reason = getattr(exc, "reason", None) or exc
        raise Unavailable(
            f"{URL}: cannot be downloaded ({reason}); put the file at {path} by hand, or give data.path"
        ) from exc
    return path


def _from_archive(path: Path) -> Dataset:
    found = files.sha256(path)
    if found != SHA256:
        raise DatasetError(
            f"{path}: not the official archive: SHA-256 {found}, expected {SHA256}; "
            "delete it to download it again, or unpack it and give the folder"
        )
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                unpacked = archive.extractfile(member) if member.isfile() else None
                if unpacked is not None:
                    contents[member.name.rsplit("/", 1)[-1]] = unpacked.read()
    except (tarfile.TarError, OSError, EOFError) as exc:
        raise DatasetError(f"{path}: cannot be unpacked: {exc}") from exc
    return _from_batches(contents, path)


def _from_batches(contents: dict[str, bytes], path: Path) -> Dataset:
    missing = [name for names in _BATCHES.values() for name in names if name not in contents]
    if missing:
        raise DatasetError(f"{path}: {', '.join(missing)} missing; unpack the whole archive")
    train, val = (_images([(name, contents[name]) for name in names], path) for names in _BATCHES.values())
    return Dataset(CLASSES, train, val)


def _images(batches: list[tuple[str, bytes]], path: Path) -> Images:
    pixels, labels, names = [], [], []
    for name, data in batches:
        batch = _unpickle(data, f"{path}: {name}")
        planes, numbers = batch.get(b"data"), batch.get(b"labels")
        if not isinstance(planes, np.ndarray) or planes.dtype != np.uint8 or planes.shape[1:] != (3072,):
            raise DatasetError(f"{path}: {name}: wants data (N, 3072) uint8; unpack the official archive again")
        if not isinstance(numbers, list) or len(numbers) != len(planes) or not set(numbers) <= set(range(10)):
            raise DatasetError(f"{path}: {name}: wants one label of 0..9 an image; unpack the official archive again")
        pixels.append(planes.reshape(-1, 3, 32, 32)[:, ::-1].transpose(0, 2, 3, 1))  # RGB planes -> (N, 32, 32, 3) BGR
        labels += numbers
        names += [f"{name}/{index:05d}" for index in range(len(planes))]
    return from_arrays(names, np.concatenate(pixels), np.array(labels, np.int64))


def _unpickle(data: bytes, where: str) -> dict[bytes, Any]:
    try:
        batch = _OnlyArrays(io.BytesIO(data), encoding="bytes").load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError) as exc:
        raise DatasetError(f"{where}: not a CIFAR-10 batch: {exc}") from exc
    if not isinstance(batch, dict):
        raise DatasetError(f"{where}: not a CIFAR-10 batch: holds a {type(batch).__name__}")
    return batch


class _OnlyArrays(pickle.Unpickler):
    """Unpickles numpy arrays and Python's basic types; every other name is refused, so nothing can be called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _reconstruct
        raise pickle.UnpicklingError(f"it wants to call {module}.{name}")


def _reconstruct(kind: type, shape: tuple[int, ...], code: bytes | str) -> Any:
    """What numpy's pickles call to make an empty array, which is then filled."""
    if kind is not np.ndarray:
        raise pickle.UnpicklingError(f"it wants to make a {kind}")
    return np.ndarray(shape, np.dtype(code.decode() if isinstance(code, bytes) else code))


def _file_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise DatasetError(f"{path}: cannot be read: {exc.strerror}; unpack the whole archive") from exc
