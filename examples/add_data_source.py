"""A data set in a form of your own: here a CSV file with one "path,class" a line.

    python examples/add_data_source.py

A loader gives a `Dataset`: images that are read when they are asked for, with names, content stamps and labels. Inside
edgecv the same is a file in `edgecv/data/` and a row in the table `SOURCES`, and recipes know it by `data.source`.
"""

import csv
import tempfile
from pathlib import Path

import cv2
import numpy as np

from edgecv import models
from edgecv.data import Dataset, Images
from edgecv.train import TrainConfig, fit
from edgecv_runtime import Normalization, Preprocess, files, images


# --- the data source
def load(table: Path) -> Dataset:
    """Every fifth line is held out for validation."""
    with table.open(newline="") as file:
        lines = [(table.parent / name, kind) for name, kind in csv.reader(file)]
    classes = tuple(sorted({kind for _, kind in lines}))

    def part(chosen: list[tuple[Path, str]]) -> Images:
        paths = [path for path, _ in chosen]
        return Images(
            names=tuple(path.name for path in paths),
            stamps=tuple(files.sha256(path) for path in paths),
            read=lambda index: images.read(paths[index]),
            truths=np.array([classes.index(kind) for _, kind in chosen], np.int64),
        )

    held_out = lines[::5]
    return Dataset(classes, part([line for line in lines if line not in held_out]), part(held_out))


# --- that is all


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random = np.random.default_rng(0)
        rows = []
        for index in range(40):  # bright and dark squares stand for your photographs
            kind = ("dark", "bright")[index % 2]
            pixels = random.integers(0, 90, (40, 40, 3), np.uint8) + np.uint8(160 * (index % 2))
            cv2.imwrite(str(folder / f"{index}.png"), pixels)
            rows.append((f"{index}.png", kind))
        with (folder / "labels.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)

        dataset = load(folder / "labels.csv")
        network = models.create("lenet5", classes=len(dataset.classes), in_channels=3, seed=0)
        trained = fit(
            network,
            dataset,
            Preprocess(size=(32, 32), mode="stretch"),
            Normalization(),
            TrainConfig(epochs=3, batch=8, warmup_epochs=0.5),
            folder / "run",
            progress=False,
        )
        print(f"{len(dataset.train)} images of {', '.join(dataset.classes)}: {trained.score:.0%} of the held-out right")


if __name__ == "__main__":
    main()
