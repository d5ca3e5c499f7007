"""One loop in a process of its own: runs, and prints what was seen and used as JSON; `run.py` starts it.

It imports what the loop itself needs, because its memory is measured: the proportional set size, in which a page that n
processes map counts as an n-th.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

BITS, BLOCK = 10, 32  # the number of a frame, in black and white squares along its upper edge
WARM_S = 4.0
MOST_S = 90.0  # until all cameras are open
TUNED = {"backend": "onnxruntime", "precision": "float32", "goal": "throughput"}


def number_in(image: Any) -> int:
    """The number that a frame shows."""
    row = image[BLOCK // 2, BLOCK // 2 : BLOCK * BITS : BLOCK, 0]
    return sum(1 << bit for bit, value in enumerate(row) if value > 127)


class Classifier:
    """The usual way by hand, the same for all: resize, normalize, ONNX Runtime on one core; notes what it has seen."""

    def __init__(self, model: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.model = model
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0]
        self._first = self._input.shape[1] == 3  # channels
        self.seen: list[tuple[int, int]] = []  # number of the frame, when its result was there

    def __call__(self, image: Any) -> Result:
        small = cv2.cvtColor(cv2.resize(image, (224, 224), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)
        if self._input.type == "tensor(uint8)":
            batch = small[None]
        else:
            scaled = (small.astype(np.float32) / 255 - 0.45) / 0.225
            batch = np.ascontiguousarray(scaled.transpose(2, 0, 1)[None] if self._first else scaled[None])
        result = Result(int(self._session.run(None, {self._input.name: batch})[0].argmax()))
        self.seen.append((number_in(image), time.monotonic_ns()))
        return result


class Result:
    """What a stream's result must have."""

    def __init__(self, label: int) -> None:
        self.label = label

    def draw(self, image: Any) -> Any:
        return image

    def as_dict(self) -> dict[str, int]:
        return {"label": self.label}


def by_edgecv(classify: Classifier, urls: list[str], stop: threading.Event, isolate: bool = True) -> None:
    from edgecv_runtime import stream

    stream.run(classify, urls, stop=stop, isolate=isolate)


def by_bundle(classify: Classifier, urls: list[str], stop: threading.Event, **asked: Any) -> None:
    import edgecv_runtime
    from edgecv_runtime import stream

    def note(frame: stream.Frame, _: Any) -> None:
        classify.seen.append((number_in(frame.image), time.monotonic_ns()))

    with edgecv_runtime.load(Path(classify.model).parent, **asked) as model:
        stream.run(model, urls, [stream.CallbackSink(note)], stop=stop)


def by_opencv(classify: Classifier, urls: list[str], stop: threading.Event) -> None:
    captures = [cv2.VideoCapture(url, cv2.CAP_FFMPEG) for url in urls]
    while not stop.is_set():
        for capture in captures:
            given, image = capture.read()
            if given:
                classify(image)


def by_supervision(classify: Classifier, urls: list[str], stop: threading.Event) -> None:
    import supervision

    streams = [supervision.get_video_frames_generator(url) for url in urls]
    while not stop.is_set():
        for frames in streams:
            classify(next(frames))


def by_vidgear(classify: Classifier, urls: list[str], stop: threading.Event) -> None:
    from vidgear.gears import CamGear

    streams = [CamGear(source=url, logging=False).start() for url in urls]
    while not stop.is_set():
        for frames in streams:
            image = frames.read()
            if image is not None:
                classify(image)


Loops = dict[str, Callable[[Classifier, list[str], threading.Event], None]]
CONTENDERS: Loops = {
    "edgecv": by_edgecv,
    "edgecv, one process": lambda *arguments: by_edgecv(*arguments, isolate=False),
    "edgecv, tuned": partial(by_bundle, **TUNED),
    "OpenCV loop": by_opencv,
    "supervision": by_supervision,
    "vidgear": by_vidgear,
}
BOUNDED: Loops = {
    "edgecv, as it is loaded": by_bundle,
    "edgecv, int8": partial(by_bundle, precision="int8"),
}


def measured(name: str, model: str, url: str, cameras: int, seconds: float) -> None:
    """Run a loop, and print what was seen and used in the last `seconds` as JSON."""
    import psutil

    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "rtsp_transport;tcp"
    classify, stop = Classifier(model), threading.Event()
    used: dict[str, Any] = {}

    def tree() -> list[Any]:
        this = psutil.Process()
        return [this, *this.children(recursive=True)]

    def watch() -> None:
        until_s = time.monotonic() + MOST_S  # loops that open one camera after the other take 3 s for each
        while len(classify.seen) < 3 * cameras and time.monotonic() < until_s:
            time.sleep(0.05)
        time.sleep(WARM_S)
        before = sum(sum(process.cpu_times()[:2]) for process in tree())
        used["from_ns"] = time.monotonic_ns()
        time.sleep(seconds)
        used["until_ns"] = time.monotonic_ns()
        used["cpu_s"] = sum(sum(process.cpu_times()[:2]) for process in tree()) - before
        used["mb"] = sum(process.memory_full_info().pss for process in tree()) / 1e6
        within = [(number, at) for number, at in classify.seen if used["from_ns"] <= at < used["until_ns"]]
        print(json.dumps(used | {"seen": within}), flush=True)
        stop.set()
        threading.Timer(3, lambda: os._exit(0)).start()  # threads of others may not end

    threading.Thread(target=watch, daemon=True).start()
    (CONTENDERS | BOUNDED)[name](classify, [url] * cameras, stop)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for asked in ("--name", "--model", "--url", "--peers"):
        parser.add_argument(asked, required=True)
    parser.add_argument("--cameras", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    sys.path.append(options.peers)
    measured(options.name, options.model, options.url, options.cameras, options.seconds)
