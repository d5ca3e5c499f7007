"""Images per second of `edgecv bulk`, beside a plain loop; its memory over 100,000 images; two Ray nodes, one killed.

    python benchmarks/bulk/run.py rates BUNDLE [--images 2000] [--size 640 480] [--rounds 3]
    python benchmarks/bulk/run.py memory BUNDLE [--images 100000] [--size 64 48]
    python benchmarks/bulk/run.py ray BUNDLE [--images 2000] [--rounds 2]         # where Ray is: make test-ray

Pictures are JPEGs of noise over a gradient, made here; beyond 200 they are hard links to those. Rates are of whole
runs, from the call to the finished table, and, without what starting costs, of the parts after each way's first; rounds
are interleaved and medians recorded. Memory is the resident set (a shared page counts in each process) of the command
and of all its processes together, looked at four times a second. What the other parts recorded stays.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

import edgecv_runtime as rt
from benchmarks import pages, plots, study
from edgecv_runtime import bulk

MADE = 200
PARTS = ("rates", "memory", "ray")
ASKED = {"backend": "onnxruntime", "precision": "float32"}


def pictures(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """A folder of JPEGs, width x height."""
    rng = np.random.default_rng(0)
    width, height = size
    ramp = np.linspace(0, 200, width, dtype=np.float32)[None, :, None]
    for number in range(count):
        place = folder / f"{number // 1000:03}" / f"{number:06}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        if number < MADE:
            noise = cv2.resize(rng.integers(0, 56, (height // 8, width // 8, 3), np.uint8), size)
            cv2.imwrite(str(place), np.clip(noise + ramp, 0, 255).astype(np.uint8))
        else:
            os.link(folder / "000" / f"{number % MADE:06}.jpg", place)
    return folder


def loop(bundle: Path, shelf: Path, threads: int) -> tuple[float, float]:
    """A loop over `model(frame)` in one process -> seconds in all, and without loading."""
    began_s = time.perf_counter()
    with rt.load(bundle, **ASKED, threads=threads) as model:
        loaded_s = time.perf_counter()
        for path in rt.images.find(shelf):
            model(rt.images.read(path))
    return time.perf_counter() - began_s, time.perf_counter() - loaded_s


def threads_of_one(bundle: Path, shelf: Path) -> tuple[float, float]:
    """One process that decodes and computes in threads: a `Predictor` for throughput, a thread pool in front of it."""
    from concurrent.futures import ThreadPoolExecutor

    began_s = time.perf_counter()
    cores = len(os.sched_getaffinity(0))
    paths = rt.images.find(shelf)
    with rt.Predictor(bundle, **ASKED, threads=1) as predictor, ThreadPoolExecutor(cores) as pool:
        _ = predictor.model
        loaded_s = time.perf_counter()
        for _ in pool.map(predictor, [paths[at : at + 64] for at in range(0, len(paths), 64)]):
            pass
    return time.perf_counter() - began_s, time.perf_counter() - loaded_s


def job(bundle: Path, shelf: Path, **how: object) -> tuple[float, float, Path]:
    """A bulk job -> seconds in all, seconds as if all parts had come as those after the first, its table."""
    out = Path(tempfile.mkdtemp(dir=shelf.parent)) / "out.jsonl"
    marks: list[tuple[int, float]] = []
    began_s = time.perf_counter()
    done = bulk.run(
        rt.Predictor(bundle, **ASKED, threads=1),
        shelf,
        out,
        chunk=64,
        progress=lambda each: marks.append((each.here, time.perf_counter())),
        **how,  # type: ignore[arg-type]
    )
    all_s = time.perf_counter() - began_s
    (first, first_s), (last, last_s) = marks[0], marks[-1]
    return all_s, (last_s - first_s) * done.images / (last - first), out


def table(ways: dict[str, Callable[[], tuple[float, ...]]], images: int, rounds: int) -> list[str]:
    """Interleaved rounds of all ways, medians, and each one's ratio to the first of the same round."""
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways)[:: 1 if number % 2 == 0 else -1]:
            found[name].append(ways[name]())
    lines = ["| way | seconds | images/s, without starting | to the first |", "| --- | ---: | ---: | ---: |"]
    first = next(iter(found.values()))
    for name, times in found.items():
        seconds, steady = (statistics.median(each[at] for each in times) for at in (0, 1))
        ratio = statistics.median(one[1] / each[1] for one, each in zip(first, times, strict=True))
        lines.append(f"| {name} | {seconds:.1f} | {images / steady:.0f} | {ratio:.2f} |")
    return lines


def rates(bundle: Path, shelf: Path, images: int, rounds: int) -> list[str]:
    ways: dict[str, Callable[[], tuple[float, ...]]] = {
        "plain loop": lambda: loop(bundle, shelf, 0),
        "plain loop, 1 thread": lambda: loop(bundle, shelf, 1),
        "1 process, threads": lambda: threads_of_one(bundle, shelf),
        "edgecv bulk --workers 1": lambda: job(bundle, shelf, workers=1)[:2],
        "edgecv bulk --workers 2": lambda: job(bundle, shelf, workers=2)[:2],
    }
    return table(ways, images, rounds)


def on_ray(bundle: Path, shelf: Path, images: int, rounds: int) -> list[str]:
    import ray
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

    def nodes(count: int, is_killed: bool = False) -> tuple[float, float, Path]:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        others = [cluster.add_node(num_cpus=1) for _ in range(count - 1)]
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")

        def kill() -> None:
            time.sleep(kill_s)
            cluster.remove_node(others.pop(), allow_graceful=False)
            print(f"a node was killed {kill_s:.0f} s after the start", file=sys.stderr)

        if is_killed:
            threading.Thread(target=kill, daemon=True).start()
        try:
            return job(bundle, shelf, ray=cluster.address)
        finally:
            ray.shutdown()
            cluster.shutdown()

    one = job(bundle, shelf, workers=2)
    kill_s = 2.0
    ways: dict[str, Callable[[], tuple[float, ...]]] = {
        "plain loop, 1 thread": lambda: loop(bundle, shelf, 1),
        "edgecv bulk --workers 2": lambda: job(bundle, shelf, workers=2)[:2],
        "Ray, 1 node of 1 CPU": lambda: nodes(1)[:2],
        "Ray, 2 nodes of 1 CPU": lambda: nodes(2)[:2],
    }
    lines = table(ways, images, rounds)
    all_s, _, _ = nodes(2)
    kill_s = all_s / 2
    killed_s, _, out = nodes(2, is_killed=True)
    same = "the same bytes" if out.read_bytes() == one[2].read_bytes() else "OTHER BYTES"
    killed = f"one killed after {kill_s:.1f} s: {killed_s:.1f} s ({all_s:.1f} s with both to the end), {same}."
    return [*lines, "", f"Two nodes, {killed}"]


def resident_mb(process: int) -> float:
    try:
        status = Path(f"/proc/{process}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) / 1024
    except (OSError, StopIteration):
        return 0.0


def children(process: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def memory(bundle: Path, shelf: Path, images: int) -> list[str]:
    out = shelf.parent / "out.parquet"
    command = [sys.executable, "-m", "edgecv.cli", "bulk", str(bundle), str(shelf), "--out", str(out)]
    seen: list[tuple[float, float, float, int]] = []
    began_s = time.monotonic()
    process = subprocess.Popen([*command, "--backend", "onnxruntime"], stderr=subprocess.DEVNULL)
    parts = out.with_name(out.name + ".parts")
    while process.poll() is None:
        ours = resident_mb(process.pid)
        theirs = sum(map(resident_mb, children(process.pid)))
        done = len(list(parts.glob("*.rows"))) * bulk.CHUNK if parts.exists() else 0
        seen.append((time.monotonic() - began_s, ours, ours + theirs, done))
        time.sleep(0.25)
    lines = ["| images done | seconds | MB, the command | MB, all processes |", "| ---: | ---: | ---: | ---: |"]
    marks = [images * share // 100 for share in (2, 10, 25, 50, 75, 90)]
    for mark in marks:
        seconds, ours, everything, done = next((each for each in seen if each[3] >= mark), seen[-1])
        lines.append(f"| {done} | {seconds:.0f} | {ours:.0f} | {everything:.0f} |")
    lines.append(
        f"| all; the table, too: the largest | {seen[-1][0]:.0f} | {max(x[1] for x in seen):.0f} | "
        f"{max(x[2] for x in seen):.0f} |"
    )
    told = f"{images:,} images, {images / seen[-1][0]:.0f} images/s in all; the table has"
    return [*lines, "", f"{told} {out.stat().st_size / 1e6:.1f} MB."]


def page(parts: dict[str, list[pages.Block]]) -> list[str]:
    """The parts, each as it was measured last."""
    kept = [pages.write(parts[each]) for each in PARTS if each in parts]
    return [line for lines in kept for line in (*lines, "")][:-1]


def drawn(parts: dict[str, list[pages.Block]]) -> dict[str, str]:
    """A picture of the rates; none before they were measured."""
    named = [(name, parts[each]) for each, name in (("rates", "one machine"), ("ray", "with Ray")) if each in parts]
    rate = "images/s, without starting"
    picture = plots.Rows(rate, {rate: ""}, group=plots.heading, bars=True)
    blocks = [block for name, found in named for block in (f"### {name}", *found)]
    return {"results.svg": picture.draw(blocks, "bulk-results")} if named else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=PARTS)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--images", type=int)
    parser.add_argument("--size", type=int, nargs=2, metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    images = options.images or (100_000 if options.what == "memory" else 2000)
    size = tuple(options.size or ((64, 48) if options.what == "memory" else (640, 480)))
    place = Path(tempfile.mkdtemp(prefix="edgecv-bulk-"))
    try:
        shelf = pictures(place / "photos", images, size)
        day = study.Where.here().day
        how = f"`run.py {options.what} {options.bundle}`, {day}: {images:,} JPEGs of {size[0]}x{size[1]}"
        if options.what == "memory":
            lines = memory(options.bundle, shelf, images)
        else:
            measure = rates if options.what == "rates" else on_ray
            lines = measure(options.bundle, shelf, images, options.rounds)
            how += f", medians of {options.rounds} rounds"
        STUDY.record({**(STUDY.figures() or {}), options.what: pages.read([f"{how}:", "", *lines])})
    finally:
        shutil.rmtree(place)


STUDY = study.Study(
    Path(__file__),
    "Bulk jobs: images per second, memory, and a Ray node that is killed",
    page,
    kind=dict[str, list[pages.Block]],
    plots=drawn,
)


if __name__ == "__main__":
    main()
