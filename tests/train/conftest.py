import multiprocessing
import os
from pathlib import Path

import pytest
import torch
import train_worker
from train_lab import PREPROCESS, some_digits, train

from edgecv.train import TrainConfig


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tiny models are faster on one thread, and tests of one machine do not fight for its cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory):
    """A run that nothing disturbed: its folder, config, model and result."""
    folder = tmp_path_factory.mktemp("unbroken")
    config = TrainConfig(epochs=12, batch=64, lr=0.02, ema=0.95)
    return folder, config, train(folder, config, dataset=some_digits())


@pytest.fixture(scope="session")
def val_arrays():
    """All validation digits, preprocessed, and their labels."""
    val = some_digits().val
    return PREPROCESS.batch(list(val)), val.labels


@pytest.fixture(scope="session")
def processes():
    """Makes processes that have torch loaded already and run `train_worker.work`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train_worker"])
    here, before = str(Path(__file__).parent), os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = here if before is None else f"{here}{os.pathsep}{before}"
    yield lambda *arguments, **options: context.Process(target=train_worker.work, args=arguments, kwargs=options)
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before
