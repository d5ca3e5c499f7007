"""Whether calibration needs more memory for more images: resident memory after 100 and after 5,000.

    python benchmarks/quantization_calibration_memory/run.py [--count 5000]

The images are read one after the other, as `edgecv quantize` reads them. Writes
benchmarks/quantization_calibration_memory/results.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
from sklearn.datasets import load_digits

from benchmarks import plots, quantized, study
from edgecv import models
from edgecv_export.calibrate import Sample, calibrate
from edgecv_export.graph import Deployed, to_onnx
from edgecv_runtime.preprocess import Image

NAME, SIZE = "mobilenet_v3_small", 96
MARKS = (100, 500, 1000, 2500, 5000)


class Digits:
    """Real digits of any number, each enlarged when it is asked for."""

    def __init__(self, count: int) -> None:
        self._images = (load_digits().images * 255 / 16).astype(np.uint8)
        self._count = count
        self._preprocess = quantized.Preprocess(size=(SIZE, SIZE), mode="stretch", interpolation="linear")

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int, /) -> Image:
        grey = np.roll(self._images[index % len(self._images)], index // len(self._images), axis=1)
        return self._preprocess(np.repeat(grey[:, :, None], 3, axis=2))


def main() -> None:
    """Calibrate and look at the process's resident memory on the way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=MARKS[-1])
    given = parser.parse_args()
    network = models.create(NAME, classes=10, weights=None, in_channels=3, seed=0)
    graph = to_onnx(Deployed(network, quantized.NORMALIZATION), (SIZE, SIZE), 3, {})
    resident: dict[int, float] = {}

    def watched() -> Iterator[Image]:
        seen = 0
        for batch in Sample(Digits(given.count), np.arange(given.count)).batches():
            yield batch
            seen += len(batch)
            if seen in MARKS:
                resident[seen] = psutil.Process().memory_info().rss / 1e6
                print(f"{seen} images: {resident[seen]:.1f} MB", flush=True)

    calibrate(graph, watched())
    first = resident[MARKS[0]]
    rows = [f"| {count:,} | {mb:.1f} | {mb / first:.3f} |" for count, mb in resident.items()]
    STUDY.record(
        [
            f"{NAME} at {SIZE}x{SIZE}, all float tensors observed, images read one batch at a time.",
            "",
            "| images | resident MB | of that at 100 |",
            "| ---: | ---: | ---: |",
            *rows,
        ],
    )


STUDY = study.Study(
    Path(__file__),
    "Memory of calibration",
    picture=plots.Rows(
        "MB of resident memory", {"resident MB": ""}, label=lambda row: f"{row.first} images", bars=True
    ),
)


if __name__ == "__main__":
    main()
