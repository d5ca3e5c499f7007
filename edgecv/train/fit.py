"""Train a network, so that it can be stopped at any moment and gone on with as if nothing had happened."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from edgecv import tasks
from edgecv.data import Dataset, Images, cached
from edgecv.recipe_train import TrainConfig, earlier
from edgecv.tasks import Training
from edgecv.tasks.augment import training_view
from edgecv.train import checkpoint, curves, memory
from edgecv.train.curves import Epoch
from edgecv.train.display import Display
from edgecv.train.evaluate import batches
from edgecv.train.loop import CHECKPOINT, Arrays, Loop
from edgecv.train.signals import stop_signals
from edgecv_runtime import files
from edgecv_runtime.errors import BadInput, ComputationError, DatasetError, Unavailable
from edgecv_runtime.preprocess import Normalization, Preprocess

log = logging.getLogger("edgecv.train")


@dataclass(frozen=True)
class TrainResult:
    """What a run gave.

    score: what the kept weights reach on the validation images, 0..1; metric: of what, "top-1" or as the task says.
    best_epoch: the epoch they are of, chosen by that very score, so that fresh images may score a little lower.
    last_score: of the last epoch, chosen by nothing. epochs: how many were run; seconds: spent on them, over all
    sessions. weights: the kept weights as .safetensors.
    """

    score: float
    metric: str
    best_epoch: int
    last_score: float
    epochs: int
    seconds: float
    weights: Path
    curves_csv: Path
    curves_svg: Path
    history: tuple[Epoch, ...]


def fit(
    model: nn.Module,
    dataset: Dataset,
    preprocess: Preprocess,
    normalization: Normalization,
    config: TrainConfig,
    folder: str | Path,
    *,
    decoded: str | Path | None = None,
    resume: bool = True,
    progress: bool = True,
    checkpoint_s: float = 60.0,
) -> TrainResult:
    """Train a network on a data set; the model ends up with the weights of the best epoch, in evaluation mode.

    model: takes (N, C, H, W) normalized float32, gives what the data set's task learns from, for classification (N,
    classes) logits; seed its making for repeatable runs. In training mode it may give `edgecv.models.Supervised`: the
    auxiliary losses are added with their weight, and the curves show the loss of the main head.
    folder: where the checkpoint, weights.safetensors, curves.csv, curves.svg and batch-1.png, batch-2.png (the first
    batches as the network saw them) are put. decoded: where the decoded
    images are kept, for other trainings, too; by default in the folder.
    resume: go on from the folder's checkpoint, which gives the same losses as an unbroken run (bit for bit on the same
    machine's CPU; on a GPU as far as its kernels repeat themselves); False starts over and replaces it.
    progress: a bar on stderr when that is a terminal. checkpoint_s: seconds between checkpoints within the run.
    Raises BadInput when model and data do not fit together, CheckpointError when the checkpoint is damaged or of
    another run, ComputationError when the loss is not finite, Unavailable when the disk is full, Interrupted after
    SIGTERM or SIGINT, once the state is saved.
    """
    folder = Path(folder)
    check_labels(dataset)
    with checkpoint.storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    files.sweep(folder)
    run = _identity(model, dataset, preprocess, normalization, config)
    saved = folder / CHECKPOINT
    state = checkpoint.load(saved, run, earlier(config)) if resume and saved.exists() else None

    decoded = folder / "decoded" if decoded is None else Path(decoded)
    task = tasks.training(dataset, config, preprocess.size)
    train, val, view = dataset.train, dataset.val, training_view(preprocess, config.augment)
    statistics = statistics_images(train, config)
    arrays = Arrays(
        train=cached(train, view, decoded),
        train_targets=task.prepare(train, view, decoded),
        val=cached(val, preprocess, decoded),
        val_targets=task.prepare(val, preprocess, decoded),
        statistics=cached(statistics, preprocess, decoded) if len(statistics) else None,
    )
    _check_outputs(model, task, arrays, normalization)

    device = next(model.parameters()).device
    with torch.random.fork_rng(), memory.kept(), stop_signals() as stop:
        loop = Loop(model, task, arrays, normalization, preprocess.color, config, folder, run, stop, checkpoint_s)
        if state is not None:
            loop.restore(state)
            log.info("going on from %s: epoch %d, step %d", saved, loop.epoch + 1, loop.step)
        steps = config.epochs * loop.steps
        with Display(config.epochs, steps, loop.epoch * loop.steps + loop.step, bar=progress) as display:
            try:
                loop.run(display)
            except torch.OutOfMemoryError as exc:
                raise ComputationError(f"the GPU's memory is full; lower train.batch (it is {config.batch})") from exc
    model.to(device)
    return _finish(model, task, loop, folder)


def _finish(model: nn.Module, task: Training, loop: Loop, folder: Path) -> TrainResult:
    """Leave the best weights in the model and in the folder, and the curves beside them."""
    history, weights, names = loop.history, folder / "weights.safetensors", curves.Names(task.progress, task.metric)
    best = history[loop.best_epoch - 1]
    model.load_state_dict(loop.best)
    model.eval()
    _save_weights(weights, loop.best, {"epoch": best.epoch, "score": best.val_score, "metric": task.metric})
    curves.write_csv(folder / "curves.csv", history, names)
    curves.write_svg(folder / "curves.svg", history, names)
    return TrainResult(
        score=best.val_score,
        metric=task.metric,
        best_epoch=best.epoch,
        last_score=history[-1].val_score,
        epochs=len(history),
        seconds=sum(row.seconds for row in history),
        weights=weights,
        curves_csv=folder / "curves.csv",
        curves_svg=folder / "curves.svg",
        history=tuple(history),
    )


def _save_weights(path: Path, tensors: Mapping[str, Tensor], origin: Mapping[str, float | str]) -> None:
    """Write tensors as .safetensors; the same ones give the same bytes, as long as the metadata is a single entry."""
    try:
        from safetensors.torch import save
    except ImportError as exc:
        raise Unavailable("writing weights needs safetensors", extra="train") from exc
    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    with checkpoint.storing(path):
        files.write(path, save(plain, metadata={"edgecv": json.dumps(origin)}))


def _identity(
    model: nn.Module, dataset: Dataset, preprocess: Preprocess, normalization: Normalization, config: TrainConfig
) -> dict[str, str]:
    """What makes two runs the same: every setting, the data, and the model's layers (not its first weights)."""
    layers = [str(model), *(f"{name} {tuple(tensor.shape)}" for name, tensor in model.state_dict().items())]
    return {
        **{name: repr(value) for name, value in msgspec.structs.asdict(config).items()},
        "preprocess": repr(preprocess),
        "normalization": repr(normalization),
        "classes": repr(dataset.classes),
        "training images": dataset.train.fingerprint()[:12],
        "validation images": dataset.val.fingerprint()[:12],
        "model": f"{type(model).__name__} {hashlib.sha256(chr(10).join(layers).encode()).hexdigest()[:12]}",
    }


def statistics_images(train: Images, config: TrainConfig) -> Images:
    """The training images from which batch-norm statistics are estimated; none when `bn_images` is 0.

    In random order, because the first of them may do: in the order of a folder they would be of one class.
    """
    return train.pick(np.random.default_rng(config.seed).permutation(len(train))[: config.bn_images])


def check_labels(dataset: Dataset) -> None:
    """Raise DatasetError for images that cannot be trained on."""
    for name, images in (("training", dataset.train), ("validation", dataset.val)):
        if images.truths is None:
            raise DatasetError(f"the {name} images have no labels; clips can be calibrated with, not trained on")
        if not len(images):
            raise DatasetError(f"there are no {name} images")


def _check_outputs(model: nn.Module, task: Training, arrays: Arrays, normalization: Normalization) -> None:
    """Run one image through the model before anything is trained."""
    try:
        _, outputs = next(batches(model, arrays.val[:1], normalization))
    except RuntimeError as exc:
        height, width = arrays.val.shape[1:3]
        reason = " ".join(str(exc).split())[:200]
        raise BadInput(f"the model cannot take images of {height}x{width}: {reason}; set preprocess.size") from exc
    task.check(outputs)
