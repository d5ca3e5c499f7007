"""A whole run: what it learns, what it writes, what it shows, and what it refuses before or while it trains."""

import json
import logging
import os
import pty
import threading
import xml.etree.ElementTree as ET
from dataclasses import astuple

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from train_lab import NORMALIZATION, PREPROCESS, losses, some_digits, tiny, train

from edgecv.data import DataConfig, Dataset, load
from edgecv.models import Supervised
from edgecv.train import Augment, TrainConfig, evaluate, fit
from edgecv.train.loop import _channels_last
from edgecv_runtime.errors import BadInput, ComputationError, DatasetError, Unavailable
from edgecv_runtime.preprocess import Normalization, Preprocess

SHORT = TrainConfig(epochs=2, batch=64, warmup_epochs=0)


class Tripled(nn.Module):
    """A TinyNet whose output is also that of two auxiliary heads of weight 0.3."""

    def __init__(self):
        super().__init__()
        self.network = tiny()

    def forward(self, x):
        logits = self.network(x)
        return Supervised(logits, (logits, logits), 0.3) if self.training else logits


def test_auxiliary_losses_are_added_with_their_weight(tmp_path):
    settings = {"optimizer": "sgd", "weight_decay": 0.0, "epochs": 2, "batch": 64, "warmup_epochs": 0}
    plain = train(tmp_path / "plain", TrainConfig(lr=0.016, **settings))
    tripled = train(tmp_path / "tripled", TrainConfig(lr=0.01, **settings), model=Tripled())  # a gradient of 1.6 times
    for one, other in zip(plain.history, tripled.history, strict=True):
        assert other.train_loss == pytest.approx(one.train_loss, rel=1e-3)  # the main head's alone
        assert other.val_loss == pytest.approx(one.val_loss, rel=1e-3)


# What is refused


def test_images_without_labels_are_refused(tmp_path):
    digits = some_digits(100)
    unlabelled = Dataset((), digits.train, type(digits.val)(digits.val.names, digits.val.stamps, digits.val.read))
    with pytest.raises(DatasetError, match="validation images have no labels"):
        train(tmp_path, SHORT, dataset=unlabelled)
    with pytest.raises(DatasetError, match="there are no training images"):
        train(tmp_path, SHORT, dataset=Dataset(digits.classes, digits.train.pick([]), digits.val))


def test_a_model_with_other_outputs_is_refused_before_training(tmp_path):
    with pytest.raises(BadInput, match=r"the model gives \(7,\) outputs an image, the data has 10 classes"):
        train(tmp_path, SHORT, model=tiny(classes=7))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_loss_that_is_not_finite_names_step_and_cure(tmp_path, optimizer):
    with pytest.raises(ComputationError, match=r"loss is (nan|inf) .*epoch \d.*lower train.lr \(it is 1e\+30\)"):
        train(tmp_path, TrainConfig(epochs=3, lr=1e30, optimizer=optimizer, warmup_epochs=0))


def test_a_full_gpu_names_the_cure(tmp_path, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(nn.functional, "cross_entropy", full)
    with pytest.raises(ComputationError, match=r"memory is full; lower train.batch \(it is 64\)"):
        train(tmp_path, SHORT)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(Unavailable, match=r"file/run: cannot be written: Not a directory"):
        train(tmp_path / "file" / "run", SHORT)


# What is learned and written


def test_digits_are_learned(unbroken):
    _, config, result = unbroken
    assert result.epochs == config.epochs == len(result.history)
    assert result.score > 0.95
    assert result.score == max(row.val_score for row in result.history)
    assert result.history[result.best_epoch - 1].val_score == result.score
    assert result.last_score == result.history[-1].val_score
    assert result.history[-1].train_loss < result.history[0].train_loss


def test_the_weights_file_is_what_was_validated(unbroken, val_arrays):
    result = unbroken[2]
    images, labels = val_arrays
    model = tiny()
    model.load_state_dict(load_file(result.weights))
    logits = evaluate(model, images, NORMALIZATION)
    assert (logits.argmax(1) == labels).mean() == pytest.approx(result.score, abs=1e-12)
    loss = nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)).item()
    assert loss == pytest.approx(result.history[result.best_epoch - 1].val_loss, rel=1e-5)
    with safe_open(str(result.weights), "pt") as file:
        assert json.loads(file.metadata()["edgecv"]) == {
            "epoch": result.best_epoch,
            "score": result.score,
            "metric": "top-1",
        }


def test_the_model_leaves_with_those_weights(tmp_path):
    model = tiny()
    result = train(tmp_path, SHORT, model=model)
    assert not model.training
    for name, tensor in load_file(result.weights).items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_curves_are_a_table_and_a_picture(unbroken):
    folder, _, result = unbroken
    rows = [line.split(",") for line in result.curves_csv.read_text().splitlines()]
    assert rows[0] == ["epoch", "lr", "train_loss", "train_top1", "val_loss", "val_top1", "images_per_s", "seconds"]
    assert [float(cell) for cell in rows[-1]] == list(astuple(result.history[-1]))
    picture = result.curves_svg.read_text()
    assert ET.fromstring(picture).tag == "{http://www.w3.org/2000/svg}svg"
    assert f"best {100 * result.score:.2f} %" in picture
    assert sorted(path.name for path in folder.iterdir()) == [
        "batch-1.png",
        "batch-2.png",
        "checkpoint.edgecv",
        "curves.csv",
        "curves.svg",
        "decoded",
        "weights.safetensors",
    ]


def test_nothing_global_is_changed(tmp_path):
    import matplotlib

    settings = dict(matplotlib.rcParams)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    before = np.random.get_state()[1].copy()
    train(tmp_path, SHORT)
    assert torch.equal(torch.rand(3), expected)
    assert np.array_equal(np.random.get_state()[1], before)
    assert dict(matplotlib.rcParams) == settings


def test_the_same_seed_gives_the_same_run_and_another_another(tmp_path):
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        train(tmp_path / name, TrainConfig(epochs=2, warmup_epochs=0, seed=seed, augment=Augment(randaugment=1)))
    assert losses(tmp_path / "one") == losses(tmp_path / "two") != losses(tmp_path / "three")


def test_statistics_are_estimated_where_running_averages_lag(tmp_path):
    """TinyNet's batch norm moves by a hundredth a step: after 12 steps it still believes in mean 0 and variance 1."""
    lagging = train(tmp_path / "lagging", TrainConfig(epochs=3, lr=0.01, ema=0, bn_images=0), dataset=some_digits())
    estimated = train(tmp_path / "estimated", TrainConfig(epochs=3, lr=0.01, ema=0), dataset=some_digits())
    assert [row.train_loss for row in lagging.history] == [row.train_loss for row in estimated.history]
    assert estimated.history[0].val_loss < 0.9 * lagging.history[0].val_loss


def test_patience_ends_a_run_that_no_longer_gets_better(tmp_path):
    class Still(nn.Module):
        """Its logits do not depend on what it learns."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, x):
            return torch.eye(10)[0].expand(len(x), -1) + 0 * self.weight

    result = train(tmp_path, TrainConfig(epochs=50, patience=3), model=Still())
    assert (result.epochs, result.best_epoch) == (4, 1)


def test_fewer_images_than_a_batch_are_one_batch(tmp_path):
    result = train(tmp_path, TrainConfig(epochs=2, batch=512, warmup_epochs=0), dataset=some_digits(40))
    assert result.epochs == 2


@pytest.mark.parametrize(
    ("augment", "mixup"), [(Augment(scale=(0.5, 1.0), flip=True), 0.0), (Augment(pad=1, rotate=5, randaugment=2), 0.4)]
)
def test_colour_images_augmented_and_mixed(tmp_path, augment, mixup):
    preprocess, normalization = Preprocess(size=(16, 12), mode="stretch"), Normalization()
    config = TrainConfig(epochs=1, warmup_epochs=0, augment=augment, mixup=mixup)
    result = fit(tiny(channels=3), some_digits(128), preprocess, normalization, config, tmp_path)
    assert np.isfinite(result.history[0].train_loss)


def test_mixed_precision_trains_and_validates_in_float32(tmp_path, val_arrays):
    dtypes = set()
    model = tiny()
    model.head.register_forward_hook(lambda module, inputs, output: dtypes.add((module.training, output.dtype)))
    result = train(tmp_path, TrainConfig(epochs=1, warmup_epochs=0, precision="bf16"), model=model)
    assert (True, torch.bfloat16) in dtypes
    assert (False, torch.bfloat16) not in dtypes
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in load_file(result.weights).values())


@pytest.mark.parametrize(
    ("choice", "model", "expected"),
    [("auto", tiny(), True), ("auto", nn.Linear(2, 2), False), (True, nn.Linear(2, 2), True), (False, tiny(), False)],
)
def test_channels_last_is_for_networks_with_batch_norm(choice, model, expected):
    assert _channels_last(model, TrainConfig(channels_last=choice)) == expected


def test_labels_follow_the_images_of_a_folder(tmp_path, unbroken):
    """End to end from files: a network that knows digits must know them in a folder, whatever order they lie in."""
    import cv2

    digits = some_digits(100).val
    for index in range(len(digits)):
        place = tmp_path / "photos" / f"class {digits.labels[index]}"
        place.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(place / f"{999 - index}.png"), digits[index])
    found = load(DataConfig(source="folder", path=str(tmp_path / "photos"), val=0.5))
    model = tiny()
    model.load_state_dict(load_file(unbroken[2].weights))
    logits = evaluate(model, PREPROCESS.batch(list(found.val)), NORMALIZATION)
    assert (logits.argmax(1) == found.val.labels).mean() > 0.85


# What is shown


def test_without_a_terminal_there_is_one_line_an_epoch(tmp_path, caplog, capsys):
    with caplog.at_level(logging.INFO, "edgecv.train"):
        train(tmp_path, SHORT)
    lines = [record.getMessage() for record in caplog.records if record.name == "edgecv.train"]
    assert len(lines) == 2
    assert lines[1].startswith("epoch 2/2: loss ")
    assert lines[1].endswith(" images/s")
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_there_is_a_bar_on_stderr(processes, tmp_path):
    screen, terminal = pty.openpty()
    shown = []

    def watch():
        while True:
            try:
                shown.append(os.read(screen, 4096))
            except OSError:  # the other end is closed
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    process = processes(tmp_path, {"epochs": 3}, terminal=os.ttyname(terminal))
    process.start()
    process.join()
    os.close(terminal)
    watcher.join()
    os.close(screen)
    text = b"".join(shown).decode()
    assert process.exitcode == 0, text
    assert (tmp_path / "stdout").read_bytes() == b""
    for part in ("epoch 3/3", "loss ", "train ", "val ", "images/s", "left"):
        assert part in text


def test_it_trains_outside_the_main_thread(tmp_path):
    results = []
    worker = threading.Thread(target=lambda: results.append(train(tmp_path, SHORT)))
    worker.start()
    worker.join()
    assert results[0].epochs == 2
