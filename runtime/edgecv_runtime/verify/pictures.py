"""Test cards: image files on which every fault of a preprocessing shows, whatever the network was trained on.

Real images can be blind: grey ones to the order of the colours, square ones to crop and stretch. A card has what
tells faults apart: colours that differ, no symmetry, fine rings that each interpolation samples in its own way, and one
of the files carries an EXIF orientation. Nobody's photograph travels with the bundle.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime.preprocess import Image, Preprocess, import_cv2

# File name -> width of the card over its height; sizes do not divide evenly into the network's.
CARDS = {"landscape.png": 1.37, "portrait.png": 0.79, "turned.jpg": 1.21}
LOSSLESS = ".png"
STEP = 8  # levels between neighbouring tones: few tones make small files
_ORIENTATION = 6  # EXIF: the camera was turned, show it rotated by 90 degrees clockwise


def draw(preprocess: Preprocess) -> dict[str, bytes]:
    """Image files for checking a preprocessing, some 100 kB together: name -> content."""
    cv2 = import_cv2()
    short = min(600, max(96, round(1.6 * preprocess.shorter_side)))
    files = {}
    for number, (name, aspect) in enumerate(CARDS.items()):
        size = (short, round(short * aspect)) if aspect > 1 else (round(short / aspect), short)
        card = _card(size, number)
        if name.endswith(LOSSLESS):
            files[name] = bytes(cv2.imencode(LOSSLESS, card, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1])
        else:
            turned = np.ascontiguousarray(np.rot90(card))  # counter-clockwise: the tag turns it back
            files[name] = _with_orientation(bytes(cv2.imencode(".jpg", turned, [cv2.IMWRITE_JPEG_QUALITY, 95])[1]))
    return files


def _card(size: tuple[int, int], number: int) -> Image:
    """A BGR card: colour gradients, a zone plate, and patches of which none has a twin."""
    height, width = size
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    y, x = y / height, x / width
    turn = 2 * np.pi * number / len(CARDS)
    waves = [np.sin(2 * np.pi * (0.9 * x * np.cos(k + turn) + 0.7 * y * np.sin(k + turn)) + 1.7 * k) for k in (0, 2, 4)]
    card: NDArray[np.float64] = np.stack(waves, 2) * np.array([52, 40, 66]) + np.array([88, 118, 146])  # B, G, R
    # Zone plate: rings whose frequency grows with the distance from (0.38, 0.58), up to that of the pixels.
    radius = ((x - 0.38) * width) ** 2 + ((y - 0.58) * height) ** 2
    rings = 46 * np.sin(np.pi * radius / (0.62 * max(size)))
    card += (rings * (radius < (0.36 * min(size)) ** 2))[:, :, None]
    card[(x > 0.72) & (y < 0.24)] = (235, 208, 24)
    card[(x > 0.42) & (x < 0.6) & (y < 0.28)] = 255  # white is where a cast of 0..1 to bytes leaves something
    card[(x < 0.17) & (y > 0.8)] = (12, 30, 92)
    card[(np.abs(x - 0.8) < 0.09) & (np.abs(y - 0.74) < 0.13)] = (40, 190, 250)
    return np.clip(np.round(card / STEP) * STEP, 0, 255).astype(np.uint8)


def _with_orientation(jpeg: bytes) -> bytes:
    """Insert an EXIF segment (Exif 2.3, 4.5.2) that holds nothing but the orientation, behind the start marker."""
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, _ORIENTATION, 0)
    body = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + entry + struct.pack(">I", 0)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def decode_unturned(data: bytes) -> Image:
    """Decode as a program does that does not know of EXIF: (H, W, 3) uint8 BGR as stored."""
    cv2 = import_cv2()
    stored: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return stored  # type: ignore[no-any-return]
