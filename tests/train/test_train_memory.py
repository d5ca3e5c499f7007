"""Freed tensors stay with the process while it trains, and only then."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from edgecv.data.dataset import from_arrays
from edgecv.train import TrainConfig, memory
from edgecv.train.averaging import estimate_statistics
from edgecv.train.fit import statistics_images
from edgecv_runtime.preprocess import Normalization

pytestmark = pytest.mark.skipif(memory._glibc() is None, reason="only glibc gives large blocks back at once")

FAULTS = """
import resource, sys, torch
from contextlib import nullcontext
from edgecv.train import memory
with memory.kept() if sys.argv[1] == "kept" else nullcontext():
    before = None
    for number in range(32):
        tensors = [torch.ones(12 << 20) for _ in range(2)]  # 48 MB each
        del tensors
        if number == 11:  # the first ones find holes between what else is held
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_a_step_takes_its_memory_from_the_step_before():
    page = resource.getpagesize()
    assert faults("plain") > 0.9 * 40 * (48 << 20) / page  # every page of every tensor
    assert faults("kept") < 0.1 * 20 * (48 << 20) / page


def test_what_is_free_goes_back_at_the_end():
    def resident_mb() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6

    before = resident_mb()
    with memory.kept():
        tensors = [torch.ones(12 << 20) for _ in range(6)]
        del tensors
        assert resident_mb() > before + 200
    assert resident_mb() < before + 60


class Counted(torch.nn.Sequential):
    """Counts the images it sees."""

    def __init__(self) -> None:
        super().__init__(torch.nn.Conv2d(3, 4, 3, 2, 1), torch.nn.BatchNorm2d(4), torch.nn.AdaptiveAvgPool2d(1))
        self.images = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.images += len(x)
        return super().forward(x)


@pytest.mark.parametrize(("size", "enough"), [(112, 16), (8, 208), (2, 512)])
def test_statistics_take_as_many_images_as_give_each_norm_enough_values(size: int, enough: int):
    """3136 values a channel: 56x56 of one image, 4x4 of 196; with 1x1 all images there are."""
    images = torch.randint(0, 256, (512, size, size, 3), dtype=torch.uint8).numpy()
    network = Counted()
    estimate_statistics(network, images, Normalization(), batch=16)
    assert network.images == enough
    seen = torch.from_numpy(images[:enough]).permute(0, 3, 1, 2).float() / 255
    normal = Normalization()
    seen = (seen - torch.tensor(normal.mean).view(3, 1, 1)) / torch.tensor(normal.std).view(3, 1, 1)
    with torch.no_grad():
        wanted = network[0](seen).mean((0, 2, 3))
    torch.testing.assert_close(network[1].running_mean, wanted, rtol=1e-4, atol=1e-4)


def test_statistics_come_from_all_classes_though_the_first_images_may_do():
    """The images of a folder come class by class; those that are looked at first must not be of one class."""
    labels = np.repeat([0, 1], 150)
    images = from_arrays([str(index) for index in range(300)], np.zeros((300, 2, 2, 3), np.uint8), labels)
    chosen = statistics_images(images, TrainConfig(bn_images=256))
    assert len(set(chosen.names)) == 256
    assert chosen.labels is not None
    assert 20 <= chosen.labels[:64].sum() <= 44  # 32 are expected, four times their standard deviation is 15
