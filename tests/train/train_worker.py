"""A training run in a process of its own, to be ended by signals; imported by a fork server that has torch loaded."""

import os
import resource
import signal
import sys

import torch
from train_lab import some_digits, train

from edgecv.train import TrainConfig
from edgecv_runtime.errors import EdgecvError


def work(folder, settings, checkpoint_s=3600.0, file_limit=None, terminal=None):
    """Train and exit as the command line does: with the error's code, and its one line in the file "error".

    file_limit: bytes that a file may have, as on a full disk; terminal: where stderr goes.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    if terminal is not None:
        os.dup2(os.open(terminal, os.O_RDWR | os.O_NOCTTY), 2)
        os.dup2(os.open(folder / "stdout", os.O_WRONLY | os.O_CREAT), 1)
    try:
        train(folder, TrainConfig(**settings), dataset=some_digits(), checkpoint_s=checkpoint_s)
    except EdgecvError as exc:
        (folder / "error").write_text(str(exc))
        sys.exit(exc.exit_code)
