"""The network's input: how frames become its tensor, and whether a file, a manifest and a tensor fit together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime import onnxfile
from edgecv_runtime.errors import BadInput, BundleError, ModelFileError, ShapeError
from edgecv_runtime.geometry import View
from edgecv_runtime.manifest import Manifest, TensorSpec
from edgecv_runtime.preprocess import Image, Normalization, Preprocess
from edgecv_runtime.records import Record

# Types of input tensors that are served: pixels as they are, and floats that are normalized on the host.
_FLOATS = ("float32", "float16", "float64")
_PIXELS = "uint8"
# Where rows, columns and channels stand behind the batch. Of a shape that fits both, the first: PyTorch's for floats,
# that of cameras and of our own graphs for pixels.
_LAYOUTS = {**dict.fromkeys(_FLOATS, ("NCHW", "NHWC")), _PIXELS: ("NHWC", "NCHW")}


class Input(Record, frozen=True):
    """From frames to the network's input tensor: pixels as they are for a uint8 one, else normalized floats.

    layout: "NHWC" or "NCHW". rows: of a graph whose batch is fixed, how many frames it takes at once; 0: any number.
    """

    spec: TensorSpec
    preprocess: Preprocess
    normalization: Normalization | None
    layout: str = "NHWC"
    rows: int = 0

    def views(self, frames: Sequence[Image]) -> list[View]:
        """How the network sees frames of any size."""
        return [self.preprocess.view(frame.shape[:2]) for frame in frames]

    def batch(self, frames: Sequence[Image]) -> NDArray[Any]:
        """Frames of any size -> the input tensor."""
        return self.tensor(self.preprocess.batch(frames))

    def tensor(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Preprocessed frames (N, H, W, C) uint8 -> the input tensor."""
        if self.normalization is not None:
            pixels = self.normalization.of(pixels).astype(self.spec.dtype, copy=False)
        if self.layout == "NHWC":
            return pixels
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))  # (N, H, W, C) -> (N, C, H, W)


def fitting(
    inputs: tuple[TensorSpec, ...], preprocess: Preprocess, normalization: Normalization | None, where: str
) -> Input:
    """Match the preprocessing with the network's input, or say what does not fit.

    The tensor takes any number of frames, also where the graph fixes it (see `backends.fixed`).
    """
    spec = _one_image(inputs, where)
    height, width = preprocess.size
    channels = preprocess.channels
    if normalization is not None and len(normalization.mean) != channels:
        raise BadInput(f"{where}: normalization has {len(normalization.mean)} channels, not {channels}")
    if spec.dtype in _FLOATS and normalization is None:
        raise BadInput(
            f"{where}: its input is {spec.dtype}: give normalization=Normalization(mean=..., std=...), which makes "
            "(x / 255 - mean) / std of pixels; mean 0 and std 1 give 0..1"
        )
    if spec.dtype == _PIXELS and normalization is not None:
        raise BadInput(f"{where}: its input is uint8, so the graph normalizes: leave normalization out")
    shapes = {"NHWC": (height, width, channels), "NCHW": (channels, height, width)}
    for layout in _LAYOUTS[spec.dtype]:
        if spec.shape == onnxfile.ANY_SHAPE or _fits(spec.shape[1:], shapes[layout]):
            batch = spec.shape[0]
            rows = batch if isinstance(batch, int) else 0
            shape = ("N" if rows or batch == onnxfile.ANY_SHAPE[0] else batch, *shapes[layout])
            return Input(TensorSpec(spec.name, spec.dtype, shape), preprocess, normalization, layout, rows)
    given = " or ".join(f"(N, {', '.join(map(str, shapes[layout]))}) {layout}" for layout in _LAYOUTS[spec.dtype])
    raise ShapeError(
        f"{where}: its input '{spec.name}' is {readable(spec)}, but preprocessing gives {given}; "
        "set its size=(height, width) and its color"
    )


def _one_image(inputs: tuple[TensorSpec, ...], where: str) -> TensorSpec:
    """The one image input of a network; raises ModelFileError that says what to do about others."""
    found = ", ".join(f"'{spec.name}' {readable(spec)}" for spec in inputs)
    if len(inputs) > 1:
        raise ModelFileError(
            f"{where}: a vision model has one input, the image; this one has {len(inputs)}: {found}; make constants of "
            "the others when you export it, or run it with its runtime"
        )
    if not inputs or (inputs[0].shape != onnxfile.ANY_SHAPE and len(inputs[0].shape) != 4):
        raise ModelFileError(
            f"{where}: a vision model has one image input of rank 4, (N, C, H, W) or (N, H, W, C); this one has: "
            f"{found or 'none'}"
        )
    if inputs[0].dtype not in _LAYOUTS:
        raise ModelFileError(
            f"{where}: its input is {found}; {', '.join(_LAYOUTS)} are served: export it with one of them"
        )
    return inputs[0]


def one_output(outputs: tuple[TensorSpec, ...], where: str) -> TensorSpec:
    """The one output of a classifier; raises ModelFileError that says what to do about others."""
    found = ", ".join(f"'{spec.name}' {readable(spec)}" for spec in outputs)
    if len(outputs) != 1:
        raise ModelFileError(
            f"{where}: a classifier has one output, this one has {len(outputs)}: {found}; say which is that of the "
            "scores, output: NAME in its description, or keep it alone: onnx.utils.extract_model(path, new_path, "
            "[input], [output])"
        )
    if outputs[0].dtype not in _FLOATS:
        raise ModelFileError(
            f"{where}: its output is {found}: a class number or the like, where scores are wanted; export the network "
            "without its ArgMax"
        )
    return outputs[0]


def _fits(shape: tuple[int | str, ...], wanted: tuple[int, ...]) -> bool:
    return all(have == want for have, want in zip(shape, wanted, strict=True) if isinstance(have, int))


def mismatch(header: onnxfile.OnnxHeader, manifest: Manifest) -> str:
    """How a graph's own input and outputs differ from the manifest's, or ""."""
    for kind, found, claimed in (
        ("input", header.inputs, (manifest.input,)),
        ("output", header.outputs, manifest.outputs),
    ):
        if len(found) != len(claimed) or not all(map(_is_same, found, claimed)):
            has, says = (", ".join(f"'{each.name}' {readable(each)}" for each in specs) for specs in (found, claimed))
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
        raise ShapeError(f"'{spec.name}' wants {readable(spec)}, got {got}; model.preprocess.batch makes it")
    if any(isinstance(want, int) and want != have for want, have in zip(spec.shape, shape, strict=True)):
        raise ShapeError(f"'{spec.name}' wants {readable(spec)}, got {shape}; model.preprocess.batch makes it")
    if shape[0] == 0:
        raise ShapeError(f"'{spec.name}' wants at least one frame, got a batch of 0")


def readable(spec: TensorSpec) -> str:
    """Its shape and type, "(N, 3, 224, 224) float32" say."""
    if spec.shape == onnxfile.ANY_SHAPE:
        return f"{spec.dtype} of a shape that the file leaves out"
    sizes = ", ".join("N" if isinstance(size, str) else str(size) for size in spec.shape)
    return f"({sizes}) {spec.dtype}"
