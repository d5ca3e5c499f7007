"""What is said of a picture that is no frame is tried: the expression in the message gives the frame that was meant."""

import re

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from edgecv_runtime import images
from edgecv_runtime.errors import ShapeError
from edgecv_runtime.preprocess import Preprocess, check_frame

FRAME = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
GREY = FRAME[:, :, 0]
AS_GREY = np.stack([GREY] * 3, axis=2)
BGRA = np.dstack([FRAME, np.full((5, 7), 255, np.uint8)])
RGB = FRAME[:, :, ::-1]

# What is given -> what is meant by it, and the kind that the message names.
CASES = {
    "grey": (GREY, AS_GREY, "grey: "),
    "grey, one channel": (GREY[:, :, None], AS_GREY, "grey: "),
    "grey, one plane": (GREY[None], AS_GREY, "grey, planes first: "),
    "grey with alpha": (np.dstack([GREY, GREY]), AS_GREY, "grey with alpha: "),
    "alpha": (BGRA, FRAME, "four channels: "),
    "planes first": (FRAME.transpose(2, 0, 1), FRAME, "planes first: "),
    "alpha, planes first": (BGRA.transpose(2, 0, 1), FRAME, "four channels, planes first: "),
    "batch": (np.stack([FRAME, FRAME]), [FRAME, FRAME], "a batch: give a list, "),
    "batch, planes first": (FRAME.transpose(2, 0, 1)[None], [FRAME], "a batch: give a list, "),
    "floats to 1": (FRAME / 255, FRAME, "the graph does: "),
    "floats to 255": (FRAME.astype(np.float32), FRAME, "the graph does: "),
    "16 bits": (FRAME.astype(np.uint16) * 257, FRAME, "uint16: "),
    "numbers": (FRAME.astype(np.int64), FRAME, "int64: "),
    "a mask": (GREY > 99, np.stack([(GREY > 99) * 255] * 3, axis=2), "grey: "),
    "floats, planes first": ((FRAME / 255).transpose(2, 0, 1), FRAME, "planes first: "),
    "tensor": (torch.from_numpy((FRAME / 255).transpose(2, 0, 1).copy()), FRAME, "planes first: "),
    "Pillow": (Image.fromarray(RGB), FRAME, "of Pillow: "),
    "Pillow, palette": (Image.fromarray(GREY).convert("P"), AS_GREY, "of Pillow: "),
}


@pytest.mark.parametrize("kind", CASES)
def test_the_advice_gives_the_frame_that_was_meant(kind):
    given, meant, named = CASES[kind]
    with pytest.raises(ShapeError, match=re.escape("a frame is a (H, W, 3) uint8 BGR array, got ")) as caught:
        check_frame(given)
    message = str(caught.value)
    assert "\n" not in message
    told = message[message.rindex(named) + len(named) :]
    expression = re.split(r", (?:of RGBA|and \[|with \[)", told)[0]
    x = given.detach().cpu().numpy() if isinstance(given, torch.Tensor) else given
    made = eval(expression, {"x": x, "cv2": cv2, "np": np})
    for frame, wanted in zip(made, meant, strict=True) if isinstance(meant, list) else [(made, meant)]:
        check_frame(frame)
        assert (frame == wanted).all()


def test_rgba_is_told_apart():
    with pytest.raises(ShapeError, match=r"of RGBA cv2\.COLOR_RGBA2BGR"):
        check_frame(np.dstack([RGB, GREY]))
    assert (cv2.cvtColor(np.dstack([RGB, GREY]), cv2.COLOR_RGBA2BGR) == FRAME).all()


def test_what_is_no_picture_is_named(tmp_path):
    path = tmp_path / "x.png"
    cv2.imwrite(str(path), FRAME)
    for given, said in (
        (str(path), "images.read(x)"),
        (path, "images.read(x)"),
        (path.read_bytes(), "images.decode(x)"),
    ):
        with pytest.raises(ShapeError, match=re.escape(said)):
            check_frame(given)
        assert (eval(said, {"x": given, "images": images}) == FRAME).all()
    for given, said in (
        (None, "cv2.imread gives None"),
        ([[1]], "got list"),
        (np.zeros((0, 4, 3), np.uint8), "at least one pixel"),
        (FRAME / 128 - 1, "before it was normalized"),
        (np.full((2, 2, 3), np.nan), "before it was normalized"),
        (np.zeros((2, 3, 4, 5, 3), np.uint8), "neither a frame nor a batch"),
        (np.array("cat"), "numbers are wanted"),
    ):
        with pytest.raises(ShapeError, match=said):
            Preprocess((4, 4))(given)
