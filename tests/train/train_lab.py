"""What the training tests share: a tiny network, real digits, and a short way to train."""

import os

import torch
from torch import nn

from edgecv.data import DataConfig, Dataset, load
from edgecv.train import fit
from edgecv_runtime.preprocess import Normalization, Preprocess

PREPROCESS = Preprocess(size=(8, 8), mode="stretch", color="GRAY")
NORMALIZATION = Normalization(mean=(0.3,), std=(0.35,))


class TinyNet(nn.Module):
    """Convolutions with batch norm, dropout and a residual: what resuming has to get right, in 1,500 parameters."""

    def __init__(self, channels=1, classes=10, width=12):
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width, momentum=0.01)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(width, momentum=0.01)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(width * 16, classes)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.norm2(self.conv(x)))
        x = nn.functional.adaptive_avg_pool2d(x, 4)  # (N, C, H, W) -> (N, C, 4, 4)
        return self.head(self.drop(x.flatten(1)))


def tiny(**settings):
    """A TinyNet that is always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return TinyNet(**settings)


def some_digits(count=None):
    """scikit-learn's digits, or a balanced choice of them."""
    found = load(DataConfig(source="digits"))
    if count is None:
        return found
    return Dataset(found.classes, found.train.take(count), found.val.take(count // 2))


def train(folder, config, model=None, dataset=None, **options):
    """fit() with this file's model, data and preprocessing."""
    return fit(
        model if model is not None else tiny(),
        dataset if dataset is not None else some_digits(320),
        PREPROCESS,
        NORMALIZATION,
        config,
        folder,
        **options,
    )


def losses(folder):
    """curves.csv without the columns that tell how fast the machine was."""
    rows = [line.split(",") for line in (folder / "curves.csv").read_text().splitlines()]
    assert rows[0][-2:] == ["images_per_s", "seconds"]
    return [row[:-2] for row in rows]


def pid_of_the_dead():
    """The number of a process that has ended."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return child
