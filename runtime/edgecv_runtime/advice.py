"""What to do with a picture that is no frame: grey, with alpha, planes first, a batch, floats, of Pillow or PyTorch.

Each piece of advice is an expression of `x` that gives what a model takes; tests evaluate them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FRAME = "a frame is a (H, W, 3) uint8 BGR array"
_GREY, _ALPHA = "cv2.cvtColor({}, cv2.COLOR_GRAY2BGR)", "cv2.cvtColor({}, cv2.COLOR_BGRA2BGR)"
_IF_RGB = ", and [..., ::-1] behind it where it is RGB"
# Type of scalar -> how to come to 0..255.
_WHOLE = {"uint16": "({} // 257).astype(np.uint8)", "bool": "{}.astype(np.uint8) * 255"}


def on(image: Any) -> str:
    """Say what `image` is instead of a frame, and the way to one."""
    if not isinstance(image, np.ndarray):
        return f"{FRAME}, got {type(image).__name__}; {_on_object(image)}"
    got = f"{FRAME}, got {image.shape} {image.dtype}"
    if image.size == 0:
        return f"{got}: a frame has at least one pixel"
    if image.dtype != np.uint8:
        scaled, why = _to_bytes(image)
        if not scaled:
            return f"{got}; {why}"
        return f"{got}{why}: {_as_frame(scaled, image.shape)}"
    return f"{got}: {_as_frame('x', image.shape)}"


def _on_object(image: Any) -> str:
    if image is None:
        return "cv2.imread gives None for a file that it cannot read: images.read says why"
    if isinstance(image, bytes | bytearray | memoryview):
        return "read the bytes of a file with images.decode(x)"
    if isinstance(image, str) or hasattr(image, "__fspath__"):
        return "read files with images.read(x)"
    package = type(image).__module__.partition(".")[0]
    if package == "PIL":
        return 'of Pillow: np.asarray(x.convert("RGB"))[..., ::-1]'
    if package == "torch":
        array = image.detach().cpu().numpy()
        return f"x.detach().cpu().numpy() is {on(array).partition(', got ')[2] or 'one'}"
    if hasattr(image, "__array__"):
        return f"np.asarray(x) is {on(np.asarray(image)).partition(', got ')[2] or 'one'}"
    return "read files with images.read"


def _to_bytes(image: NDArray[Any]) -> tuple[str, str]:
    """An expression that brings the values to 0..255, "" where none can; and what they are."""
    name = image.dtype.name
    if name in _WHOLE:
        return _WHOLE[name].format("x"), ""
    if image.dtype.kind not in "fiu":
        return "", "numbers are wanted"
    low, high = float(image.min()), float(image.max())
    if not (low >= 0 and high <= 255):
        return "", (
            f"values {low:.3g} to {high:.3g}; give the picture as it was before it was normalized, 0 to 255: "
            "do not normalize, the graph does"
        )
    what = "; do not normalize, the graph does"
    if image.dtype.kind == "f" and high <= 1:
        return "(x * 255).round().astype(np.uint8)", what
    return ("x.round().astype(np.uint8)", what) if image.dtype.kind == "f" else ("x.astype(np.uint8)", "")


def _as_frame(x: str, shape: tuple[int, ...]) -> str:
    """How to make a frame of bytes of that shape."""
    y = x if x == "x" or x.endswith(")") else f"({x})"
    if len(shape) == 2:
        return f"grey: {_GREY.format(x)}"
    if len(shape) == 4 and 3 in (shape[3], shape[1]):
        many = y if shape[3] == 3 else f"{y}.transpose(0, 2, 3, 1)"
        rgb = "" if shape[3] == 3 else ", with [:, ::-1] before it where it is RGB"
        return f"a batch: give a list, list({many}){rgb}"
    if len(shape) == 3 and shape[2] == 3:
        return x
    if len(shape) == 3 and shape[2] == 1:
        return f"grey: {_GREY.format(x)}"
    if len(shape) == 3 and shape[2] == 4:
        return f"four channels: {_ALPHA.format(x)}, of RGBA cv2.COLOR_RGBA2BGR"
    if len(shape) == 3 and shape[0] == 3:
        return f"planes first: {y}.transpose(1, 2, 0){_IF_RGB}"
    if len(shape) == 3 and shape[0] == 1:
        return f"grey, planes first: {_GREY.format(f'{y}[0]')}"
    if len(shape) == 3 and shape[0] == 4:
        return f"four channels, planes first: {_ALPHA.format(f'{y}.transpose(1, 2, 0)')}, of RGBA cv2.COLOR_RGBA2BGR"
    if len(shape) == 3 and shape[2] == 2:
        return f"grey with alpha: {_GREY.format(f'{y}[:, :, 0]')}"
    return "it is neither a frame nor a batch of them"
