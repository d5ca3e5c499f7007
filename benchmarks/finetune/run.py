"""What fine-tuning on a few hundred photos costs and gives, beside a plain PyTorch loop.

    python benchmarks/finetune/run.py cifar10.zip [--rounds 2] [--epochs 3]

The photos: a choice of CIFAR-10 (a zip of folders of JPEG files, train/CLASS and test/CLASS), seed 0: of each class 40
to train on, 20 to validate on and 100 to test with. EfficientNet-Lite0 starts from its ImageNet weights.
1. The same training by `edgecv.train.fit` and by the loop that people write (`plain` below), in turn, each in a process
   of its own: processor time, memory, accuracy; at the weights' own 224 pixels and at 128.
2. `photos.yaml` (from scratch) and `photos-finetune.yaml` on the same photos: accuracy on the test photos.
Writes benchmarks/finetune/results.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import tempfile
import time
import zipfile
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

import edgecv_runtime as rt
from benchmarks import plots, study
from edgecv import models, recipe
from edgecv.build import build
from edgecv.data import Dataset, Images, load
from edgecv.data.config import DataConfig
from edgecv.recipe_train import Augment
from edgecv.train import TrainConfig, fit
from edgecv_runtime.preprocess import Preprocess
from edgecv_runtime.verify.score import wilson

MODEL, BATCH, LR, KEPT = "efficientnet_lite0", 32, 5e-4, 0.5
SIZES, HOWS = (224, 128), ("edgecv", "plain", "plain, channels_last")
PHOTOS = {"train": ("train", slice(0, 40)), "val": ("train", slice(40, 60)), "test": ("test", slice(0, 100))}
ROOT = Path(__file__).parents[2]
HOW = (
    "400 training photos, 200 to validate on and 1,000 to test with, of CIFAR-10's ten classes (32x32, enlarged); "
    "EfficientNet-Lite0 from its ImageNet weights, batches of 32, random crops and mirror images, one validation an "
    "epoch. "
    "CPU time is of the whole process; where several rounds were made it is their median (10th to 90th percentile)."
)
RECIPES = "The recipes as they are, with `data.path` alone:"


def unpack(archive: Path, folder: Path) -> None:
    """Write the choice of photos: folder/train, /val and /test with a folder a class."""
    with zipfile.ZipFile(archive) as packed:
        names: dict[tuple[str, str], list[str]] = defaultdict(list)
        for name in sorted(packed.namelist()):
            if name.lower().endswith((".jpg", ".jpeg", ".png")):
                part, label = name.split("/")[-3:-1]
                names[part, label].append(name)
        for part, (side, which) in PHOTOS.items():
            for (found, label), of_class in names.items():
                if found == side:
                    for name in random.Random(0).sample(of_class, len(of_class))[which]:
                        place = folder / part / label / Path(name).name
                        place.parent.mkdir(parents=True, exist_ok=True)
                        place.write_bytes(packed.read(name))


class Photos(TorchDataset[tuple[torch.Tensor, int]]):
    """What a plain script does with each photo, with OpenCV as we use it."""

    def __init__(self, images: Images, size: int, varied: bool) -> None:
        self.images, self.size, self.varied = images, size, varied

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        picture = cv2.cvtColor(self.images[index], cv2.COLOR_BGR2RGB)
        picture = self._random_crop(picture) if self.varied else self._centre(picture)
        assert self.images.labels is not None
        pixels = (picture.astype(np.float32) - 127) / 128
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy()), int(self.images.labels[index])

    def _random_crop(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = picture.shape[:2]
        area, shape = random.uniform(KEPT, 1) * height * width, np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
        across, down = min(width, round((area * shape) ** 0.5)), min(height, round((area / shape) ** 0.5))
        top, left = random.randint(0, height - down), random.randint(0, width - across)
        cut = picture[top : top + down, left : left + across][:, :: random.choice((1, -1))]
        return np.asarray(cv2.resize(np.ascontiguousarray(cut), (self.size, self.size)), np.uint8)

    def _centre(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        side = round(self.size * 8 / 7)
        start = (side - self.size) // 2
        return cv2.resize(picture, (side, side))[start : start + self.size, start : start + self.size].astype(np.uint8)


def plain(train: Images, val: Images, size: int, epochs: int, layout: torch.memory_format) -> float:
    """The loop that people write; top-1 on the validation images at its end."""
    torch.manual_seed(0)
    random.seed(0)
    network = models.create(MODEL, classes=10, weights="imagenet", seed=0).to(memory_format=layout)  # type: ignore[call-overload]
    batches = DataLoader(Photos(train, size, True), batch_size=BATCH, shuffle=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=0.05)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=epochs * len(batches))
    right = 0
    for _ in range(epochs):
        network.train()
        for pixels, labels in batches:
            optimizer.zero_grad()
            logits = network(pixels.contiguous(memory_format=layout))
            F.cross_entropy(logits, labels, label_smoothing=0.1).backward()
            optimizer.step()
            rate.step()
        network.eval()
        with torch.no_grad():
            found = [
                (network(pixels.contiguous(memory_format=layout)).argmax(1) == labels).sum().item()
                for pixels, labels in DataLoader(Photos(val, size, False), batch_size=64)
            ]
        right = int(sum(found))
    return right / len(val)


def by_edgecv(train: Images, val: Images, classes: tuple[str, ...], size: int, epochs: int) -> float:
    """The same by the product; top-1 of the last epoch."""
    weights = next(row for row in models.spec(MODEL).weights if row.name == "imagenet")
    config = TrainConfig(
        epochs=epochs, batch=BATCH, lr=LR, warmup_epochs=0.3 * epochs, augment=Augment(scale=(KEPT, 1.0), flip=True)
    )
    with tempfile.TemporaryDirectory() as folder:
        done = fit(
            models.create(MODEL, classes=10, weights="imagenet", seed=0),
            Dataset(classes, train, val),
            Preprocess((size, size), resize=round(size * 8 / 7)),
            weights.normalization,
            config,
            folder,
            progress=False,
        )
    return done.last_score


def measured(how: str, photos: Path, size: int, epochs: int) -> dict[str, float]:
    """One training in this process: seconds of the processor in the program and in the kernel, memory, accuracy."""
    dataset = load(DataConfig(source="folder", path=str(photos)))
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    if how == "edgecv":
        top1 = by_edgecv(dataset.train, dataset.val, dataset.classes, size, epochs)
    else:
        layout = torch.channels_last if "channels_last" in how else torch.contiguous_format
        top1 = plain(dataset.train, dataset.val, size, epochs, layout)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "user": after.ru_utime - before.ru_utime,
        "system": after.ru_stime - before.ru_stime,
        "wall": time.monotonic() - started,
        "rss_mb": after.ru_maxrss / 1e3,
        "top1": top1,
    }


def compared(photos: Path, rounds: int, epochs: int) -> list[str]:
    """A line for each way and size."""
    lines = [
        "| px | loop | CPU s | of them in the kernel | wall s | edgecv's CPU / this one's | peak MB | last top-1 |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for size in SIZES:
        found: dict[str, list[dict[str, float]]] = {how: [] for how in HOWS}
        for number in range(rounds):
            for how in HOWS if number % 2 == 0 else reversed(HOWS):
                arguments = ["--one", how, "--size", str(size), "--epochs", str(epochs), str(photos)]
                answer = study.in_process(Path(__file__), arguments)
                found[how].append(json.loads(answer.splitlines()[-1]))
        own = [each["user"] + each["system"] for each in found["edgecv"]]
        for how, runs in found.items():
            cpu = [each["user"] + each["system"] for each in runs]
            lines.append(
                f"| {size} | {how} | {study.shown(cpu, 0)} | {study.shown([each['system'] for each in runs], 0)} "
                f"| {study.shown([each['wall'] for each in runs], 0)} | {study.shown_ratio(own, cpu)} "
                f"| {max(each['rss_mb'] for each in runs):.0f} | {runs[0]['top1']:.1%} |"
            )
    return lines


def by_recipe(photos: Path) -> list[str]:
    """A line for each recipe: how often its float32 bundle is right on the test photos, which chose nothing."""
    lines = [
        "| recipe | model | px | epochs run | minutes | top-1 on the test photos |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for name in ("photos", "photos-finetune"):
        with tempfile.TemporaryDirectory() as folder:
            asked = recipe.read(str(ROOT / "recipes" / f"{name}.yaml"), [f"data.path={photos}"])
            started = time.monotonic()
            built = build(asked, folder, until="export", say=print)
            minutes = (time.monotonic() - started) / 60
            epochs = len((built.folder / "train" / "curves.csv").read_text().splitlines()) - 1
            test = load(asked.data).test
            assert test is not None
            assert test.labels is not None
            with rt.load(built.bundle, backend="onnxruntime", precision="float32") as model:
                size = model.preprocess.size[0]
                right = sum(model(test[index]).index == label for index, label in enumerate(test.labels))
            share = wilson(int(right), len(test))
            lines.append(
                f"| `{name}.yaml` | {asked.model.name} | {size} | {epochs} | {minutes:.1f} "
                f"| {share.value:.1%} ({share.low:.1%}–{share.high:.1%}) |"
            )
    return lines


def main() -> None:
    """Run the study, or one training for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--one", choices=HOWS)
    parser.add_argument("--size", type=int, default=224)
    given = parser.parse_args()
    if given.one:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        print(json.dumps(measured(given.one, given.photos, given.size, given.epochs)))
        return
    with tempfile.TemporaryDirectory(prefix="edgecv-photos-") as folder:
        photos = Path(folder)
        unpack(given.photos, photos)
        lines = [*compared(photos, given.rounds, given.epochs), "", RECIPES, "", *by_recipe(photos)]
    STUDY.record([HOW, "", *lines])


STUDY = study.Study(
    Path(__file__),
    "Fine-tuning on a few hundred photos",
    picture=plots.Rows(
        "seconds of CPU time of the training, median of rounds (10–90 %)",
        {"CPU s": ""},
        label=lambda row: row["loop"],
        group=lambda row: f"{row['px']} pixels",
    ),
)


if __name__ == "__main__":
    main()
