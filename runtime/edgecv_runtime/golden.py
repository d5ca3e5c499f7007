"""Golden inputs: what a bundle must answer, sealed when it was exported, so that any device can test itself.

`golden.npz` holds real network inputs with PyTorch's outputs, image files with the pixels that preprocessing made of
them, the names of the classes, and a digest of every constant in the model files.
"""

from __future__ import annotations

import dataclasses
import io
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgecv_runtime import onnxgraph, schema1
from edgecv_runtime.errors import BundleError
from edgecv_runtime.manifest import Manifest
from edgecv_runtime.preprocess import Image

MAX_BYTES = 1 << 30
OUTPUTS, PICTURE_OUTPUTS = "outputs/", "picture_outputs/"  # before the names of the outputs
# What numpy, zipfile and msgspec raise for bytes that are no such archive, arrays or JSON.
BROKEN: tuple[type[Exception], ...] = (ValueError, LookupError, TypeError, AttributeError, EOFError, OSError)
BROKEN += (MemoryError, RuntimeError, SyntaxError)
BROKEN += (zipfile.BadZipFile, zlib.error, tokenize.TokenError, msgspec.MsgspecError)


@dataclass(frozen=True)
class Picture:
    """An image file, and what came of it at export: the network's input (H, W, C) uint8, PyTorch's outputs by name."""

    name: str
    data: bytes
    pixels: Image
    outputs: Mapping[str, NDArray[np.float32]]

    @property
    def logits(self) -> NDArray[np.float32]:
        """The first output."""
        return next(iter(self.outputs.values()))


@dataclass(frozen=True)
class Golden:
    """Real inputs with PyTorch's outputs: images (N, H, W, C) uint8; by name, float32 (N, classes) say.

    labels: the classes in the order of the outputs. pictures: image files, for checking a preprocessing.
    constants: CRC-32 of each constant's values by model file. All three are empty in bundles of older versions.
    """

    images: Image
    outputs: Mapping[str, NDArray[np.float32]]
    labels: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    constants: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def logits(self) -> NDArray[np.float32]:
        """The first output."""
        return next(iter(self.outputs.values()))

    def sealing(self, file: str, model: bytes) -> Golden:
        """The same with the digests of a model file that was just made."""
        return dataclasses.replace(self, constants={**self.constants, file: onnxgraph.read(model).constants})

    def to_bytes(self) -> bytes:
        """The content of `golden.npz`; equal values give equal bytes."""
        arrays: dict[str, NDArray[Any]] = {"images": self.images}
        arrays |= {f"{OUTPUTS}{name}": values for name, values in self.outputs.items()}
        arrays["labels"] = np.array(self.labels, np.str_)
        arrays["constants"] = np.frombuffer(msgspec.json.encode(self.constants), np.uint8)
        if self.pictures:
            arrays["names"] = np.array([picture.name for picture in self.pictures], np.str_)
            arrays["pixels"] = np.stack([picture.pixels for picture in self.pictures])
            for name in self.outputs:
                stacked = np.stack([picture.outputs[name] for picture in self.pictures])
                arrays[f"{PICTURE_OUTPUTS}{name}"] = stacked
            for number, picture in enumerate(self.pictures):
                arrays[f"picture{number}"] = np.frombuffer(picture.data, np.uint8)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        return buffer.getvalue()


def read(path: Path, manifest: Manifest, where: str, is_old: bool = False) -> Golden:
    """Read and check golden inputs; raises BundleError in one line when they are none, or not of this network.

    is_old: whether they are of a bundle of schema 1.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
                raise ValueError("it unpacks to too much")
        with np.load(path, allow_pickle=False) as arrays:
            found = _golden(schema1.golden(arrays, manifest.outputs[0].name) if is_old else arrays, manifest)
        problem = _problem(found, manifest)
    except BROKEN as exc:
        raise BundleError(
            f"{where}: holds no images and outputs: {' '.join(str(exc).split())}; export it again"
        ) from exc
    if problem:
        raise BundleError(f"{where}: {problem}; export it again")
    return found


def _golden(arrays: Any, manifest: Manifest) -> Golden:
    outputs = [spec.name for spec in manifest.outputs]
    pictures: tuple[Picture, ...] = ()
    if "names" in arrays:
        names, pixels = arrays["names"], arrays["pixels"]
        said = {name: arrays[f"{PICTURE_OUTPUTS}{name}"] for name in outputs}
        pictures = tuple(
            Picture(
                str(name),
                arrays[f"picture{number}"].tobytes(),
                pixels[number],
                {output: values[number] for output, values in said.items()},
            )
            for number, name in enumerate(names)
        )
    constants = (
        msgspec.json.decode(arrays["constants"].tobytes(), type=dict[str, dict[str, int]])
        if ("constants" in arrays)
        else {}
    )
    labels = tuple(map(str, arrays["labels"])) if "labels" in arrays else ()
    wanted = {name: arrays[f"{OUTPUTS}{name}"] for name in outputs}
    return Golden(arrays["images"], wanted, labels, pictures, constants)


def _problem(golden: Golden, manifest: Manifest) -> str:
    """Why these inputs cannot be run through this network, or ""."""
    shape = manifest.input.shape[1:]
    inputs = [golden.images, *(picture.pixels[np.newaxis] for picture in golden.pictures)]
    outputs = [golden.logits, *(picture.logits[np.newaxis] for picture in golden.pictures)]
    for images, logits in zip(inputs, outputs, strict=True):
        fits = images.ndim == len(shape) + 1 and all(
            size == wanted for size, wanted in zip(images.shape[1:], shape, strict=True) if isinstance(wanted, int)
        )
        if str(images.dtype) != manifest.input.dtype or not fits:
            return f"its inputs are {images.dtype} {images.shape}, the network's are {manifest.input}"
        if logits.dtype != np.float32 or logits.ndim != 2 or len(logits) != len(images) or not len(images):
            return f"its outputs are {logits.dtype} {logits.shape} for {len(images)} inputs"
        if logits.shape[1] != golden.logits.shape[1] or not np.isfinite(logits).all():
            return "its outputs are not finite, or not of one size"
    if any(Path(picture.name).name != picture.name or not picture.name for picture in golden.pictures):
        return "the names of its pictures are no plain file names"
    columns = golden.logits.shape[1]
    if golden.labels and len(golden.labels) != columns and (len(golden.labels), columns) != (2, 1):
        return f"it names {len(golden.labels)} classes, its outputs have {columns}"
    return ""
