"""How much memory verifying takes, by the number of frames that are compared.

    python benchmarks/verify_memory/run.py [--counts 100 500 2000] [--only NETWORK]

Each count in a process of its own: MobileNetV3-Small (classification, 1,000 outputs a frame) and U-Net small
(segmentation, a class map a frame) at 224 pixels, seeded weights, every backend here beside PyTorch. Frames lie in a
memory-mapped file. Anonymous memory at its peak is what counts: pages of files are the system's to drop.
Writes benchmarks/verify_memory/results.md; of one network (--only) the rows are printed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import plots, study
from edgecv import models
from edgecv.tasks import deployment
from edgecv_export import graph
from edgecv_export.export import export
from edgecv_runtime import verify
from edgecv_runtime.bundle import Bundle
from edgecv_runtime.preprocess import Preprocess

SIZE = 224
NETWORKS = {"mobilenet_v3_small": 1000, "unet_small": 3}
HOW = (
    "Peak of anonymous memory (RssAnon) while every target of a float32 bundle is compared with PyTorch, above what "
    "the process held before; each figure from a process of its own."
)


def anonymous_mb() -> float:
    """What this process holds that no file backs, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1e3


def one(name: str, count: int) -> dict[str, float]:
    """The peak of one comparison in this process."""
    labels = tuple(f"class {index}" for index in range(NETWORKS[name]))
    made = deployment(models.spec(name).task, models.create(name, classes=len(labels), seed=0), labels)
    drawn = np.random.default_rng(0)
    preprocess = Preprocess((SIZE, SIZE), "stretch")
    normalization = models.spec(name).normalization
    with tempfile.TemporaryDirectory() as place:
        file = np.lib.format.open_memmap(f"{place}/frames.npy", "w+", np.uint8, (count, SIZE, SIZE, 3))
        for index in range(count):  # smooth blobs: noise alone would be the same frame for a network
            coarse = drawn.integers(0, 256, (7, 7, 3), np.uint8)
            file[index] = np.kron(coarse, np.ones((32, 32, 1), np.uint8))
        file.flush()
        frames: Any = np.load(f"{place}/frames.npy", mmap_mode="r")
        given: dict[str, Any] = {"preprocess": preprocess, "normalization": normalization, "head": made.head}
        export(made.network, f"{place}/bundle", name=name, images=frames[:8], outputs=made.outputs, **given)
        deployed = graph.Deployed(made.network, normalization, made.outputs)
        peak, stop = [anonymous_mb()], threading.Event()
        before = peak[0]

        def watch() -> None:
            while not stop.wait(0.02):
                peak[0] = max(peak[0], anonymous_mb())

        watcher = threading.Thread(target=watch)
        watcher.start()
        started = time.monotonic()
        with Bundle(f"{place}/bundle") as opened:
            done = verify.verify(opened, frames, lambda batch: graph.references(deployed, batch))
        stop.set()
        watcher.join()
        assert all(each.comparison is not None for each in done)
    return {"before": before, "peak": peak[0], "seconds": time.monotonic() - started}


def main() -> None:
    """Run the study, or one count for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 500, 2000])
    parser.add_argument("--one", choices=NETWORKS)
    parser.add_argument("--only", choices=NETWORKS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(given.one, given.counts[0])))
        return
    figures: dict[str, dict[str, Any]] = {}
    for name in [given.only] if given.only else NETWORKS:
        for count in given.counts:
            answer = study.in_process(Path(__file__), ["--one", name, "--counts", str(count)])
            figures.setdefault(name, {})[str(count)] = json.loads(answer.splitlines()[-1])
    if given.only is None:
        STUDY.record(figures)
    else:
        print("\n".join(page(figures)))


def page(figures: dict[str, dict[str, Any]]) -> list[str]:
    """The table; figures: MB before and at the peak, by network and count."""
    lines = [
        "| network | frames | peak MB | above before, MB | of the first row's peak |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, counts in figures.items():
        first = next(iter(counts.values()))["peak"]
        for count, found in counts.items():
            peak, above = found["peak"], found["peak"] - found["before"]
            lines.append(f"| {name} | {int(count):,} | {peak:.0f} | {above:.0f} | {peak / first:.3f} |")
    return [HOW, "", *lines]


STUDY = study.Study(
    Path(__file__),
    "Memory of verifying, by the number of frames",
    page,
    picture=plots.Rows(
        "MB at the peak",
        {"peak MB": ""},
        label=lambda row: f"{row['network']}, {row['frames']} frames",
        group=lambda row: ("all cores", "one thread")[row.table],
        bars=True,
    ),
)


if __name__ == "__main__":
    main()
