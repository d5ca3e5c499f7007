"""The network's input: how frames become its tensor, and whether a file, a manifest and a tensor fit together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime import onnxfile
from edgecv_runtime.errors import BadInput, BundleError, ModelFileError, ShapeError
from edgecv_runtime.manifest import Manifest, TensorSpec
from edgecv_runtime.preprocess import Image, Normalization, Preprocess
from edgecv_runtime.records import Record


class Input(Record, frozen=True):
    """From frames to the network's input tensor: uint8 NHWC for our own graphs, float32 NCHW for others'."""

    spec: TensorSpec
    preprocess: Preprocess
    normalization: Normalization | None

    def batch(self, frames: Sequence[Image]) -> NDArray[Any]:
        """Frames of any size -> the input tensor."""
        pixels = self.preprocess.batch(frames)
        if self.normalization is None:
            return pixels
        mean = np.asarray(self.normalization.mean, np.float32)
        std = np.asarray(self.normalization.std, np.float32)
        scaled = (pixels.astype(np.float32) / np.float32(255) - mean) / std
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))  # (N, H, W, C) -> (N, C, H, W)


def fitting(
    inputs: tuple[TensorSpec, ...], preprocess: Preprocess, normalization: Normalization | None, where: str
) -> Input:
    """Match the preprocessing with the network's input, or say what does not fit."""
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        found = ", ".join(f"{spec.name} {spec.shape}" for spec in inputs)
        raise ModelFileError(f"{where}: a vision model has one image input of rank 4, this one has: {found}")
    spec = inputs[0]
    height, width = preprocess.size
    if normalization is not None and len(normalization.mean) != preprocess.channels:
        raise BadInput(f"{where}: normalization has {len(normalization.mean)} channels, not {preprocess.channels}")
    layouts: dict[str, tuple[int, ...]] = {
        "uint8": (height, width, preprocess.channels),
        "float32": (preprocess.channels, height, width),
    }
    if spec.dtype not in layouts:
        raise ModelFileError(
            f"{where}: input '{spec.name}' is {spec.dtype}; uint8 (NHWC) and float32 (NCHW) are served"
        )
    if spec.dtype == "float32" and normalization is None:
        raise BadInput(f"{where}: its input is float32: give normalization=Normalization(mean=..., std=...)")
    if spec.dtype == "uint8" and normalization is not None:
        raise BadInput(f"{where}: its input is uint8, so the graph normalizes: leave normalization out")
    wanted = layouts[spec.dtype]
    for have, want in zip(spec.shape[1:], wanted, strict=True):
        if isinstance(have, int) and have != want:
            raise ShapeError(f"{where}: input is {spec.dtype} {spec.shape}, but preprocessing gives (N, {wanted})")
    return Input(TensorSpec(spec.name, spec.dtype, (spec.shape[0], *wanted)), preprocess, normalization)


def mismatch(header: onnxfile.OnnxHeader, manifest: Manifest) -> str:
    """How a graph's own input and outputs differ from the manifest's, or ""."""
    for kind, found, claimed in (
        ("input", header.inputs, (manifest.input,)),
        ("output", header.outputs, manifest.outputs),
    ):
        if len(found) != len(claimed) or not all(map(_is_same, found, claimed)):
            has, says = (", ".join(f"'{each.name}' {_readable(each)}" for each in specs) for specs in (found, claimed))
            return f"the graph's {kind} is {has or 'missing'}, the manifest says {says}"
    return ""


def other_labels(header: onnxfile.OnnxHeader, manifest: Manifest) -> str:
    """That a graph's own labels are not the manifest's, or ""."""
    labels = header.metadata.get("edgecv.labels")
    if labels is not None and labels != "\n".join(manifest.labels):
        return "the graph's own labels are not the manifest's"
    return ""


def check_matches(header: onnxfile.OnnxHeader, manifest: Manifest, where: str) -> None:
    """The graph's own input, outputs and labels must be the manifest's; raises BundleError that says what differs."""
    told = mismatch(header, manifest) or other_labels(header, manifest)
    if told:
        raise BundleError(f"{where}: {told}; export it again")


def _is_same(found: TensorSpec, claimed: TensorSpec) -> bool:
    """A size that the graph leaves open may be fixed in the manifest, but not the other way round."""
    sizes = zip(found.shape, claimed.shape, strict=False)
    return (
        (found.name, found.dtype, len(found.shape)) == (claimed.name, claimed.dtype, len(claimed.shape))
        and all(have == want for have, want in sizes if isinstance(have, int))
    )  # fmt: skip


def check_feeds(feeds: Any, spec: TensorSpec) -> None:
    """Backends disagree on what they cast silently, so names, dtype and shape are checked here for all of them."""
    if not isinstance(feeds, Mapping):
        raise ShapeError(f"run wants named tensors, {{'{spec.name}': ...}}, got {type(feeds).__name__}")
    if len(feeds) != 1 or spec.name not in feeds:
        raise ShapeError(f"run wants the input '{spec.name}' and no other, got: {', '.join(feeds)}")
    tensor = feeds[spec.name]
    shape = getattr(tensor, "shape", None)
    if shape is None or str(tensor.dtype) != spec.dtype or len(shape) != len(spec.shape):
        got = f"{shape} {tensor.dtype}" if shape is not None else type(tensor).__name__
        raise ShapeError(f"'{spec.name}' wants {_readable(spec)}, got {got}; model.preprocess.batch makes it")
    if any(isinstance(want, int) and want != have for want, have in zip(spec.shape, shape, strict=True)):
        raise ShapeError(f"'{spec.name}' wants {_readable(spec)}, got {shape}; model.preprocess.batch makes it")
    if shape[0] == 0:
        raise ShapeError(f"'{spec.name}' wants at least one frame, got a batch of 0")


def _readable(spec: TensorSpec) -> str:
    sizes = ", ".join("N" if isinstance(size, str) else str(size) for size in spec.shape)
    return f"({sizes}) {spec.dtype}"
