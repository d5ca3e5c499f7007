"""A 1080p BGR frame to a label: preprocessing alone, and the whole call, against the usual ways.

    python benchmarks/frame_to_label/run.py

Writes benchmarks/frame_to_label/results.md. What each interpolation costs in accuracy: benchmarks/interpolation/run.py.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image as Pillow

import edgecv_runtime
from benchmarks import plots, study
from edgecv_runtime.preprocess import Image, Preprocess

MODEL, SIDE, CROP = "mobilenet_v3_small", 224, 945  # 945 = 1080 * 224 / 256
GENERATIONS, ROUNDS, SECONDS = 4, 4, 0.3
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
TOP, LEFT = (1080 - CROP) // 2, (1920 - CROP) // 2


def by_pillow(resample: int, gap: float | None = None) -> Callable[[Image], Any]:
    box = (LEFT, TOP, LEFT + CROP, TOP + CROP)

    def make(frame: Image) -> Any:
        picture = Pillow.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        return np.asarray(picture.resize((SIDE, SIDE), resample, box=box, reducing_gap=gap))

    return make


def by_hand_area(frame: Image) -> Any:
    crop = frame[TOP : TOP + CROP, LEFT : LEFT + CROP]
    return cv2.cvtColor(cv2.resize(crop, (SIDE, SIDE), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)


def by_hand_pyramid(frame: Image) -> Any:
    crop = frame[TOP : TOP + 944, LEFT : LEFT + 944]
    half = cv2.resize(crop, (472, 472), interpolation=cv2.INTER_AREA)
    quarter = cv2.resize(half, (236, 236), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(cv2.resize(quarter, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR), cv2.COLOR_BGR2RGB)


def by_hand_four(frame: Image) -> Any:
    crop = frame[TOP : TOP + 944, LEFT : LEFT + 944]
    quarter = cv2.resize(crop, (236, 236), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(cv2.resize(quarter, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR), cv2.COLOR_BGR2RGB)


def usual(frame: Image) -> Any:
    """Resize all of it, crop, colours, float32, normalize, transpose into a copy."""
    small = cv2.resize(frame, (455, 256), interpolation=cv2.INTER_AREA)
    crop = cv2.cvtColor(small[16:240, 115:339], cv2.COLOR_BGR2RGB)
    scaled = (crop.astype(np.float32) / 255 - MEAN) / STD
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])


PREPROCESSING: dict[str, Callable[[Image], Any]] = {
    "edgecv, pyramid": Preprocess((SIDE, SIDE), interpolation="pyramid"),
    "edgecv, area": Preprocess((SIDE, SIDE), interpolation="area"),
    "OpenCV by hand: crop, halve twice, linear": by_hand_pyramid,
    "OpenCV by hand: crop, area of 4, linear": by_hand_four,
    "OpenCV by hand: crop, area": by_hand_area,
    "the usual float pipeline's": usual,
    "Pillow: crop, box": by_pillow(Pillow.Resampling.BOX),
    "Pillow: crop, bilinear": by_pillow(Pillow.Resampling.BILINEAR),
    "Pillow: crop, reduced by whole steps, bilinear": by_pillow(Pillow.Resampling.BILINEAR, 1.0),
}
PYRAMID = "edgecv, pyramid"


def whole_calls(folder: Path, frame: Image, name: str) -> Callable[[], Any]:
    """One contender of the whole call, alone in its process."""
    import onnxruntime

    labels = [f"class {index}" for index in range(1000)]
    if name.startswith("edgecv"):
        _, backend, interpolation = name.split(", ")
        model = edgecv_runtime.load(folder / interpolation, backend=backend)
        return lambda: model(frame).label
    file = folder / ("float.onnx" if name == "usual" else "pyramid/model.onnx")
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    if name == "usual":
        return lambda: labels[int(session.run(None, {"x": usual(frame)})[0][0].argmax())]
    return lambda: labels[int(session.run(None, {"image": by_hand_pyramid(frame)[None]})[0][0].argmax())]


CALLS = {
    "usual": "the usual float pipeline, onnxruntime session",
    "hand": "OpenCV by hand (pyramid), uint8 graph, onnxruntime session",
    "edgecv, onnxruntime, pyramid": "edgecv, onnxruntime, pyramid",
    "edgecv, onnxruntime, area": "edgecv, onnxruntime, area",
    "edgecv, openvino, pyramid": "edgecv, OpenVINO, pyramid",
}


def serve(folder: str, name: str) -> None:
    """A contender's process: a line on stdin is answered with the median of one round."""
    call = whole_calls(Path(folder), study.frame_1080p(), name)
    study.answer_rounds(call)


def float_file(path: Path) -> None:
    """The same network as others export it: float32 NCHW, normalized outside."""
    import torch

    from edgecv import models

    torch.onnx.export(
        models.create(MODEL, seed=0).eval(),
        (torch.zeros(1, 3, SIDE, SIDE),),
        path,
        dynamo=False,
        opset_version=17,
        input_names=["x"],
        output_names=["y"],
        dynamic_axes={"x": {0: "n"}, "y": {0: "n"}},
    )


def main() -> None:
    """Measure and write the tables."""
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:])
        return
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    frame = study.frame_1080p()
    calls = {name: (lambda make=make: make(frame)) for name, make in PREPROCESSING.items()}
    alone = study.rounds_ms(calls, 7, 0.2)
    with tempfile.TemporaryDirectory(prefix="edgecv-study-") as made, ExitStack() as stack:
        folder = Path(made)
        for interpolation in ("pyramid", "area"):
            preprocess = Preprocess((SIDE, SIDE), interpolation=interpolation)  # type: ignore[arg-type]
            (folder / interpolation).symlink_to(stack.enter_context(study.exported(MODEL, preprocess)))
        float_file(folder / "float.onnx")
        found = study.processes_ms(
            Path(__file__), {name: [str(folder), name] for name in CALLS}, GENERATIONS, ROUNDS, SECONDS
        )
    lines = ["### Preprocessing: (1080, 1920, 3) BGR to (224, 224, 3) RGB", ""]
    lines += ["| how | ms, median of rounds (10–90 %) | edgecv's pyramid takes, of its time |", "| --- | ---: | ---: |"]
    lines += [f"| {name} | {study.shown(ms)} | {study.shown_ratio(alone[PYRAMID], ms)} |" for name, ms in alone.items()]
    lines += ["", f"### Frame to label: `{MODEL}`, fresh weights", ""]
    lines += ["| how | ms, median of rounds (10–90 %) | times as fast as the usual |", "| --- | ---: | ---: |"]
    lines += [
        f"| {label} | {study.shown(found[name])} | {study.shown_ratio(found['usual'], found[name])} |"
        for name, label in CALLS.items()
    ]
    how = (
        f"One real frame. The whole call: each contender in a process of its own, {GENERATIONS} generations, "
        f"{ROUNDS} interleaved rounds of {SECONDS} s in each. The usual pipeline resizes in OpenCV's threads while "
        "onnxruntime's still spin after the last call, which makes both slower than they are alone."
    )
    STUDY.record([how, "", *lines])


STUDY = study.Study(
    Path(__file__),
    "A 1080p frame to a label",
    picture=plots.Rows(
        "milliseconds, median of rounds (10–90 %)",
        {"ms, median of rounds (10–90 %)": ""},
        group=plots.heading,
        log=True,
    ),
)


if __name__ == "__main__":
    main()
