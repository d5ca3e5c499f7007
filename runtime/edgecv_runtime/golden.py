"""Golden inputs: what a bundle must answer, sealed when it was exported, so that any device can test itself.

`golden.npz` holds real network inputs with the reference's outputs (PyTorch's, or those of the very file that was
adopted), image files with the pixels that preprocessing made of them, the names of the classes, and a digest of every
constant in the model files.
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

from edgecv_runtime import onnxgraph, schema1, tasks
from edgecv_runtime.errors import BadInput, BundleError
from edgecv_runtime.manifest import Manifest, TensorSpec
from edgecv_runtime.preprocess import Image

MAX_BYTES = 1 << 30
OUTPUTS, PICTURE_OUTPUTS = "outputs/", "picture_outputs/"  # before the names of the outputs
# What numpy, zipfile and msgspec raise for bytes that are no such archive, arrays or JSON.
BROKEN: tuple[type[Exception], ...] = (ValueError, LookupError, TypeError, AttributeError, EOFError, OSError)
BROKEN += (MemoryError, RuntimeError, SyntaxError)
BROKEN += (zipfile.BadZipFile, zlib.error, tokenize.TokenError, msgspec.MsgspecError)


@dataclass(frozen=True)
class Picture:
    """An image file, and what came of it at export: the network's input (H, W, C) uint8, the reference's outputs."""

    name: str
    data: bytes
    pixels: Image
    outputs: Mapping[str, NDArray[Any]]

    @property
    def logits(self) -> NDArray[Any]:
        """The first output."""
        return next(iter(self.outputs.values()))


@dataclass(frozen=True)
class Golden:
    """Real inputs with the reference's outputs: images (N, H, W, C) uint8; by name, float32 (N, classes), say.

    labels: the classes in the order of the outputs. pictures: image files, for checking a preprocessing.
    constants: CRC-32 of each constant's values by model file. All three are empty in bundles of older versions.
    """

    images: Image
    outputs: Mapping[str, NDArray[Any]]
    labels: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    constants: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def logits(self) -> NDArray[Any]:
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
    sealed = [golden.outputs]
    sealed += [{name: each[np.newaxis] for name, each in picture.outputs.items()} for picture in golden.pictures]
    for images, outputs in zip(inputs, sealed, strict=True):
        fits = images.ndim == len(shape) + 1 and all(
            size == wanted for size, wanted in zip(images.shape[1:], shape, strict=True) if isinstance(wanted, int)
        )
        if str(images.dtype) != manifest.input.dtype or not fits:
            return f"its inputs are {images.dtype} {images.shape}, the network's are {manifest.input}"
        for spec in manifest.outputs:
            values, first = outputs[spec.name], golden.outputs[spec.name]
            if not _is_output(values, spec) or len(values) != len(images) or not len(images):
                return f"its outputs are {values.dtype} {values.shape} for {len(images)} inputs"
            if values.shape[1:] != first.shape[1:] or not np.isfinite(values).all():
                return "its outputs are not finite, or not of one size"
    if any(Path(picture.name).name != picture.name or not picture.name for picture in golden.pictures):
        return "the names of its pictures are no plain file names"
    if golden.labels:
        try:
            tasks.create(msgspec.structs.replace(manifest.head, labels=golden.labels), manifest.outputs)  # type: ignore[type-var]
        except BadInput as exc:
            return f"the classes that it names are of another network: {exc}"
    return ""


def _is_output(values: NDArray[Any], spec: TensorSpec) -> bool:
    """Whether values can be an output: of its type (floats are kept as float32) and rank."""
    dtype = "float32" if spec.dtype.startswith("float") else spec.dtype
    return str(values.dtype) == dtype and values.ndim == len(spec.shape)
