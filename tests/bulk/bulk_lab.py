"""What the tests of bulk jobs share: pictures, the small bundle, and rows as a plain loop makes them."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

import edgecv_runtime as rt

BUNDLE = Path(__file__).parents[1] / "assets" / "digits.edgecv"
ASKED = {"backend": "onnxruntime", "precision": "float32", "threads": 1}


def png(seed, size=(24, 32)):
    return bytes(cv2.imencode(".png", np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8))[1])


def photos(folder, count=30, broken=(5,)):
    """Files in a folder and one inside it, with something that is no picture; those that are broken end too early."""
    (folder / "b").mkdir(parents=True)
    for number in range(count):
        data = png(number)
        name = f"{'b/' if number % 3 == 0 else ''}{'ab'[number % 2]}{number:03}.png"
        (folder / name).write_bytes(data[:-30] if number in broken else data)
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_bytes(png(0))
    return folder


def by_hand(names):
    """(path, label, score, whether there is an error) of each, as a loop over `model(frame)` gives them."""
    rows = []
    with rt.load(BUNDLE, **ASKED) as model:
        for name in names:
            try:
                result = model(rt.images.read(name))
                rows.append((str(name), result.label, result.score, False))
            except rt.errors.ImageError:
                rows.append((str(name), None, None, True))
    return rows


def predictor(**more):
    return rt.Predictor(BUNDLE, **ASKED, **more)


def children(process):
    """The processes that one has started."""
    text = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(each) for each in text.split()]


def is_alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def environment(modules=None):
    """That of a process of its own; modules: a folder whose modules it finds first."""
    path = os.pathsep.join(filter(None, (modules and str(modules), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
