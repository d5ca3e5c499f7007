"""The cache of engines: an engine is valid for one file, one TensorRT and one GPU, and never part of a bundle.

Each entry is the engine as TensorRT wrote it (`trtexec` loads it too) and a JSON file beside it with all that it
depends on and its checksum: TensorRT runs what it deserializes as code, so damaged bytes never get there.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import msgspec

from edgecv_runtime import files, onnxfile, records
from edgecv_runtime.backends.tensorrt.api import Library
from edgecv_runtime.backends.tensorrt.build import Plan, keeps_types
from edgecv_runtime.backends.tensorrt.cuda import Gpu
from edgecv_runtime.errors import Unavailable
from edgecv_runtime.records import Record

log = logging.getLogger("edgecv.tensorrt")

# Raised when `build` changes what it tells the builder, so that engines of earlier releases are not taken.
RECIPE = 1


class Key(Record, frozen=True):
    """All that an engine depends on. The precision is in the file; TensorFloat-32 is always off.

    files: SHA-256 of the ONNX file and its external data. library: "tensorrt 10.3.0". batches: smallest, usual,
    largest. device: "gpu", or "dla:0" with the GPU for what the DLA cannot run. typing: "strong" or "weak".
    """

    files: tuple[str, ...]
    library: str
    gpu: str
    compute_capability: tuple[int, int]
    multiprocessors: int
    batches: tuple[int, int, int]
    device: str
    typing: str
    recipe: int = RECIPE

    @property
    def name(self) -> str:
        """A short name that no other key has: 32 hexadecimal digits."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:32]


class Entry(Record, frozen=True):
    """What stands beside an engine: its key, and its checksum."""

    key: Key
    sha256: str


def key(model: Path, trt: Library, gpu: Gpu, plan: Plan) -> Key:
    """The key of the engine that `build_engine` would build."""
    external = [model.parent / location for location in onnxfile.read(model).external]
    return Key(
        files=tuple(files.sha256(file) for file in (model, *external)),
        library=f"{trt.__name__} {trt.__version__}",
        gpu=gpu.name,
        compute_capability=gpu.compute_capability,
        multiprocessors=gpu.multiprocessors,
        batches=(1, 1, plan.max_batch),
        device="gpu" if plan.dla is None else f"dla:{plan.dla}",
        typing="strong" if keeps_types(trt, plan) else "weak",
    )


def home() -> Path:
    """Where engines are kept; raises Unavailable with the cure: without it every start would build for minutes."""
    try:
        return files.cache_folder("tensorrt")
    except OSError as exc:
        raise Unavailable(
            f"tensorrt has no folder to keep engines in: {exc}; set EDGECV_CACHE to one that can be written"
        ) from exc


def read_kernels(path: Path) -> bytes:
    """The kernels that TensorRT-RTX kept, or nothing: those that cannot be read are compiled again."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as exc:
        log.warning("%s: cannot be read, compiling again: %s", path, exc)
        return b""


def timing_file(key: Key, folder: Path) -> Path:
    """Where the measured times of kernels are kept: for one TensorRT and one GPU, whatever the network."""
    shared = [key.library, key.gpu, key.compute_capability, key.multiprocessors, key.device]
    return folder / f"{hashlib.sha256(msgspec.json.encode(shared)).hexdigest()[:32]}.timing"


def load(key: Key, folder: Path) -> bytes | None:
    """The engine of a key, whole, or None; one that is damaged or of another key is said and left for a new build."""
    path = folder / f"{key.name}.engine"
    try:
        entry = msgspec.json.decode(path.with_suffix(".json").read_bytes(), type=Entry)
        engine = path.read_bytes()
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as exc:
        log.warning("%s: cannot be read, building again: %s", path, exc)
        return None
    if entry.key != key or hashlib.sha256(engine).hexdigest() != entry.sha256:
        log.warning("%s: is not the engine that was written there, building again", path)
        return None
    return engine


def store(key: Key, engine: bytes, folder: Path) -> None:
    """Keep an engine; a cache that cannot be written costs the next start a build, no more."""
    path = folder / f"{key.name}.engine"
    entry = Entry(key, hashlib.sha256(engine).hexdigest())
    try:
        files.write(path, engine)
        files.write(path.with_suffix(".json"), records.encode(entry))
    except OSError as exc:
        log.warning("%s: cannot be written, so the next start builds again: %s", path, exc)
