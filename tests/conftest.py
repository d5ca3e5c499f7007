"""What many tests share: real images, a small network that is exported once, and a cache folder of their own."""

from __future__ import annotations

import atexit
import importlib
import logging
import os
import shutil
import signal
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

os.environ["EDGECV_CACHE"] = tempfile.mkdtemp(prefix="edgecv-test-cache-")  # of what lives longer than a test

from edgecv_export.export import export
from edgecv_export.quantize import QuantizeConfig, quantize
from edgecv_runtime import Bundle, Normalization, Preprocess
from edgecv_runtime import bundle as bundles
from edgecv_runtime.bench.latency import bench
from edgecv_runtime.verify import verify

redactor = importlib.import_module("edgecv_runtime.stream.redact")  # the package has a function of that name
CACHE = os.environ["EDGECV_CACHE"]
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
# Ignored in a shell's background job and under nohup, and so in every child of the tests.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, usual)
LOGGER = logging.getLogger("edgecv")
HANDLERS, LEVEL = list(LOGGER.handlers), LOGGER.level
LABELS = tuple(f"digit {number}" for number in range(10))
PREPROCESS = Preprocess(size=(32, 32), mode="stretch", interpolation="linear")
NORMALIZATION = Normalization(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


class TinyNetwork(nn.Module):
    """Convolution, depthwise convolution with ReLU6, hard-swish with squeeze-and-excitation, linear: 10 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.depthwise = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.BatchNorm2d(16), nn.ReLU6())
        self.point = nn.Sequential(nn.Conv2d(16, 32, 1), nn.Hardswish())
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(32, 32, 1), nn.Hardsigmoid())
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.point(self.depthwise(self.stem(x)))
        x = x * self.gate(x)
        return self.head(x.mean((2, 3)))  # (N, 32, H, W) -> (N, 32) -> (N, 10)


@pytest.fixture(autouse=True)
def logging_as_it_was():
    """A command that runs in this process, also for a whole module, turns edgecv's notices on: no test sees that."""
    LOGGER.handlers = list(HANDLERS)
    LOGGER.setLevel(LEVEL)


@pytest.fixture(autouse=True)
def a_memory_of_its_own(monkeypatch):
    """What one test measured or kept secret, and the package remembered, decides nothing in the next."""
    monkeypatch.setattr(redactor, "_known", set(redactor._known))
    monkeypatch.setenv("EDGECV_CACHE", tempfile.mkdtemp(prefix="test-", dir=CACHE))


@pytest.fixture(scope="session")
def photos():
    """Two real photographs, (H, W, 3) uint8 BGR, that scikit-learn ships."""
    from importlib.resources import files

    from edgecv_runtime import images

    return [
        images.decode((files("sklearn.datasets.images") / name).read_bytes()) for name in ("china.jpg", "flower.jpg")
    ]


@pytest.fixture(scope="session")
def digits():
    """Real digits: frames (1797, 32, 32, 3) uint8 as the network sees them, labels (1797,)."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    grey = (raw.images * 255 / 16).astype(np.uint8)
    frames = PREPROCESS.batch([np.repeat(image[:, :, None], 3, 2) for image in grey])
    return frames, raw.target.astype(np.int64)


@pytest.fixture(scope="session")
def network(digits):
    """A TinyNetwork that has learned the digits for some steps, so that its batch norms and ranges are real.

    One thread, because the order of sums is that of the threads: its weights are the same on every machine.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    frames, labels = digits
    torch.manual_seed(0)
    model = TinyNetwork()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    mean = torch.tensor(NORMALIZATION.mean).reshape(3, 1, 1)
    std = torch.tensor(NORMALIZATION.std).reshape(3, 1, 1)
    for step in range(120):
        pick = torch.randint(0, 1400, (64,), generator=torch.Generator().manual_seed(step)).numpy()
        x = (torch.from_numpy(frames[pick]).permute(0, 3, 1, 2) / 255 - mean) / std
        loss = nn.functional.cross_entropy(model(x), torch.from_numpy(labels[pick]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.set_num_threads(threads)
    return model.eval()


@pytest.fixture(scope="session")
def exported(network, digits, tmp_path_factory):
    """A bundle with its float32 variant only; tests copy it before they change it."""
    path = tmp_path_factory.mktemp("exported") / "bundle"
    export(
        network,
        path,
        name="tiny",
        preprocess=PREPROCESS,
        normalization=NORMALIZATION,
        labels=LABELS,
        images=digits[0][:8],
    )
    return path


@pytest.fixture(scope="session")
def finished(exported, network, digits, tmp_path_factory):
    """A whole bundle: float32 and int8, verified on held-out digits, benched shortly."""
    from edgecv_export.graph import Deployed, reference

    path = tmp_path_factory.mktemp("finished") / "bundle"
    shutil.copytree(exported, path)
    frames, labels = digits
    # without islands, which are chosen by what was measured: the same file every time
    quantize(path, frames[:150], QuantizeConfig(images=100, check_images=50, placements=("layers",), islands=False))
    held, truth = frames[1400:1600], labels[1400:1600]
    with Bundle(path) as opened:
        expected = reference(Deployed(network, NORMALIZATION), held)
        done = verify(opened, held, expected, reference_name="PyTorch float32", labels=truth)
        evidence = opened.evidence().merged([each.entry for each in done])
        evidence = evidence.merged(bench(opened, seconds=0.05, rounds=2))
        bundles.update(opened, evidence=evidence)
    return path


@pytest.fixture
def bundle_copy(exported, tmp_path) -> Path:
    """A float32 bundle that a test may damage."""
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


@pytest.fixture
def finished_copy(finished, tmp_path) -> Path:
    """A whole bundle that a test may damage."""
    return Path(shutil.copytree(finished, tmp_path / "finished"))
